"""Is pretraining worth it? Which of 18 photos is a tile from: weights of `make pretrain` against random ones.

    python examples/pretraining_pays.py --seed 1

Both networks are fine-tuned on the same 99 labeled tiles and tested on 297 others, about a minute each. The photos were
seen in pretraining, without labels. Without a finished demo run in runs/ it pretrains first, two to four minutes.
"""

import argparse
import json
import logging
import sys
from pathlib import Path

from fcmae.errors import UserError
from fcmae.finetune import FinetuneResult, finetune
from fcmae.pretrain import pretrain
from fcmae.runs.find import last_checkpoint, read_state
from fcmae.runs.layout import flat

RUNS = Path("runs")
DEMO = {"data.path": None, "model.name": "convnextv2_atto", "model.stem_stride": 1, "model.in_chans": 3}
"""Settings of the demo that the comparison needs."""


def demo_run() -> Path:
    """The newest finished run of the demo recipe, or a new one."""
    for config in sorted(RUNS.glob("*/config.yaml"), key=lambda file: file.stat().st_mtime, reverse=True):
        if is_finished_demo(config.parent):
            return config.parent
    made = pretrain(output=RUNS / "demo")
    if not made.is_complete:
        sys.exit(1)  # Ctrl-C; the run has said how to go on
    return made.folder


def is_finished_demo(run: Path) -> bool:
    """Whether its last checkpoint is that of the last step."""
    try:
        checkpoint = last_checkpoint(run)
        state = None if checkpoint is None else read_state(checkpoint)
    except UserError:  # damaged, or of another program: no run to take
        return False
    settings = {} if state is None else flat(state.settings)
    if state is None or "train.mask_ratio" not in settings:  # fine-tuning has none
        return False
    epochs = state.step * state.effective_batch / state.samples_per_epoch
    return all(settings.get(name) == value for name, value in DEMO.items()) and epochs >= settings["train.epochs"]


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
    logging.basicConfig(format="%(message)s")
    logging.getLogger("fcmae").setLevel(logging.INFO)  # what the runs say of themselves
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
