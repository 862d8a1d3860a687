"""``fcmae COMMAND …``: dispatches to a command, whose module is imported only when it runs."""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import fcmae
from fcmae.cli.fields import nearest

COMMANDS = {
    "pretrain": "pretrain a ConvNeXt on unlabeled images with FCMAE",
    "finetune": "fine-tune weights on labeled images, and export the classifier",
    "predict": "label images with a fine-tuned run",
    "evaluate": "score pretrained features on labeled images: kNN and linear probe",
    "collapse": "measure feature collapse, block by block",
    "reconstruct": "draw reconstructions of masked images",
    "convert": "convert weights between fcmae, timm, transformers and the official code",
    "export": "write a network as an ONNX file, checked",
    "report": "write a run's report as one HTML file",
    "stats": "measure a set of images, and print the flags that suit it",
    "pack": "write images into shards that load fast",
}
USAGE = "usage: fcmae COMMAND …    (fcmae COMMAND --help lists a command's options)"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status: 0, 1 after an error, 130 after Ctrl-C."""
    name, *rest = (list(sys.argv[1:]) if argv is None else list(argv)) or ["--help"]
    if name == "help" and rest:
        name, rest = rest[0], ["--help"]
    if name in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        lines = "".join(f"  {command:{width}}  {about}\n" for command, about in COMMANDS.items())
        sys.stdout.write(f"{USAGE}\n\ncommands:\n{lines}\noptions:\n  --help\n  --version\n")
        return 0
    if "--version" in (name, *rest):
        sys.stdout.write(f"fcmae {fcmae.__version__}\n")
        return 0
    if name not in COMMANDS:
        hint = nearest(name, list(COMMANDS)) or f"; the commands are {', '.join(COMMANDS)}"
        sys.stderr.write(f"fcmae: error: {name} is not a command{hint}\n")
        return 1
    try:
        return int(import_module(f"fcmae.{name}").main(rest, prog=f"fcmae {name}"))
    except KeyboardInterrupt:  # during the import of the module
        return 130


def run() -> NoReturn:
    """The console script: as :func:`main`, and after an error the process ends within seconds."""
    from fcmae.cli.command import end  # here, so that --help and --version stay light

    end(main())
