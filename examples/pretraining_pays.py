"""Is pretraining worth it? Which of 18 photos is a tile from: weights of `make pretrain` against random ones.

    python examples/pretraining_pays.py --seed 1

Both networks are fine-tuned on the same 99 labeled tiles and tested on 297 others, about a minute each. The photos were
seen in pretraining, without labels. Without a finished demo run in runs/ it pretrains first, two to four minutes.
"""

import argparse
import json
import sys
from pathlib import Path

import yaml

from fcmae.errors import UserError
from fcmae.finetune import FinetuneResult, finetune
from fcmae.pretrain import pretrain

RUNS = Path("runs")


def demo_run() -> Path:
    """The newest finished run of the demo recipe, or a new one."""
    for config in sorted(RUNS.glob("*/config.yaml"), key=lambda file: file.stat().st_mtime, reverse=True):
        settings = yaml.safe_load(config.read_text())
        is_demo = "mask_ratio" in settings["train"] and settings["data"]["path"] is None
        like_demo = (settings["model"]["name"], settings["model"]["stem_stride"]) == ("convnextv2_atto", 1)
        if is_demo and like_demo and (config.parent / "checkpoints" / "last").exists():
            return config.parent
    return pretrain(output=RUNS / "demo").folder


def row(name: str, result: FinetuneResult) -> str:
    """The best score with the 95% interval that the number of tiles leaves open."""
    scores = json.loads((result.folder / "validation" / "scores.json").read_text())["scores"]
    low, high = scores["val_top1_low"], scores["val_top1_high"]
    return f"{name:<22}{scores['val_top1']:>7.1%}   ({low:.1%} to {high:.1%})   {result.folder}"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the split, the classifier and the order")
    args = parser.parse_args()
    weights = demo_run()
    rows = []
    for name, start in (("pretrained", str(weights)), ("random weights", "scratch")):
        result = finetune(start, config="finetune_demo", seed=args.seed)
        if not result.is_complete:
            sys.exit(1)  # Ctrl-C; the run has said how to go on
        rows.append(row(name, result))
    print(f"\nright of 297 tiles     best   (95% interval)\n{rows[0]}\n{rows[1]}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
