"""``python -m fcmae.convert SRC DST --format …``: weights for the library that is to use them."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from fcmae.cli.command import exit_status
from fcmae.weights.convert import FORMATS, Conversion, convert
from fcmae.weights.write import write

USE = {
    "timm": 'timm.create_model("local-dir:{dst}", pretrained=True)',
    "transformers": 'transformers.AutoModel.from_pretrained("{dst}")',
    "official": 'safetensors.torch.load_file("{dst}/model.safetensors")',
}


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m fcmae.convert",
        description="Bring the weights of a ConvNeXt V1 or V2 from any format into that of timm, transformers or the "
        "official code. The format of SRC is recognized: fcmae, timm, transformers, mmpretrain, MMEarth, official "
        "(published, fine-tuned, or training checkpoints of MinkowskiEngine's layout).",
        allow_abbrev=False,
    )
    parser.add_argument(
        "src", metavar="SRC", help="run folder, checkpoint folder, or .safetensors, .pt, .pth or .bin file"
    )
    parser.add_argument(
        "dst",
        metavar="DST",
        type=Path,
        help="folder to write, with the configuration that the library needs; or a .safetensors, .pt or .pth file for "
        "the weights alone",
    )
    parser.add_argument("--format", choices=FORMATS, default="timm", help="of DST (default: %(default)s)")
    parser.add_argument("--verbose", action="store_true", help="print what went where")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are in DST already")
    parser.add_argument(
        "--allow_pickle",
        action="store_true",
        help="unpickle whatever SRC holds, which runs code that it brings; only for files that you trust",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = build_parser().parse_args(argv)
    return exit_status("fcmae.convert", lambda: _convert(args))


def _convert(args: argparse.Namespace) -> None:
    conversion = convert(args.src, args.format, allow_pickle=args.allow_pickle)
    files, state = write(conversion, args.src, args.dst, args.format, args.overwrite)
    if args.verbose:
        sys.stdout.write(_table(conversion, state))
    weights = conversion.weights
    sys.stdout.write(
        f"{weights.config.name}: {len(state)} tensors from {weights.format} to {args.format}: "
        f"{', '.join(str(file) for file in files)}\n"
    )
    if args.dst.is_dir():
        sys.stdout.write(f"to use it: {USE[args.format].format(dst=args.dst)}\n")


def _table(conversion: Conversion, state: dict[str, Tensor]) -> str:
    """Source's name → target's name and shape, aligned; then what has no place."""
    started = "(starts as 1 and 0)"  # the norm that an encoder alone has not
    lines = [
        (conversion.source_names.get(name, started), name, str(list(tensor.shape))) for name, tensor in state.items()
    ]
    lines += [(name, "no place in the target", "") for name in conversion.left]
    widths = [max(len(line[column]) for line in lines) for column in (0, 1)]
    rows = (f"{source:{widths[0]}}  →  {target:{widths[1]}}  {shape}" for source, target, shape in lines)
    return "".join(row.rstrip() + "\n" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
