"""Fine-tuning on labeled images, as a command (``fcmae finetune WEIGHTS``) and as a function.

    from fcmae.finetune import finetune

    result = finetune("runs/mine", data="labeled/", output="runs/classifier")

The same command serves one process and many (``accelerate launch`` or ``torchrun``), on CPUs and GPUs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fcmae.cli.command import end, exit_status
from fcmae.cli.finetune_parser import FIRST, PROG, config_from, parse_config
from fcmae.cli.keywords import keyword_function
from fcmae.finetuning.config import FinetuneConfig


@dataclass(frozen=True)
class FinetuneResult:
    """How a run ended."""

    folder: Path
    """The run folder; ``folder / "export" / "timm"`` is for timm, ``"transformers"`` for transformers."""
    steps: int
    """Optimizer steps done, those before a resume included."""
    best: float | None
    """The best validation score: the share that is correct or, of several labels, the mean average precision."""
    best_step: int | None
    """The step after which it was measured; its weights are in ``folder / "checkpoints" / "best"``."""
    is_complete: bool
    """False if a signal (Ctrl-C, SIGTERM) stopped the run early; its state is saved, and the same call goes on."""


@keyword_function(FinetuneConfig, config_from, first=FIRST)
def finetune(config: FinetuneConfig) -> FinetuneResult:
    """Fine-tune pretrained weights on labeled images.

    Every setting is a keyword: ``epochs=100`` is ``train.epochs``, ``data="labeled/"`` is ``data.path``, and a group
    may be a dict or its dataclass: ``augment={"mixup": 0.8}``. ``config`` is a recipe's name or a YAML file, which the
    other settings override; without one, the number of images chooses the recipe. A whole
    :class:`fcmae.finetuning.config.FinetuneConfig` is accepted too, and then nothing else.

    Raises:
        UserError: an unknown or wrong setting, weights or labels that cannot be read, a run folder that is taken.
        NonFiniteError: the loss became NaN or infinite; the last good checkpoint is kept.
        Exception: anything else that ended the training, with a note that says what to do and where the traceback is.
    """
    # here, so that wrong arguments are refused and --help is shown without seconds of imports
    from fcmae.finetuning.labels import labeled_set
    from fcmae.finetuning.ranking import best_score
    from fcmae.finetuning.setup import set_up
    from fcmae.training.whole import train

    try:
        run, fitted = train(config, set_up)
    finally:
        labeled_set.cache_clear()  # the parser listed the images, too; the next run lists them anew
    best, step = best_score(run.folder)
    return FinetuneResult(run.folder, fitted.steps, best, step, fitted.is_complete)


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the command line; returns the exit status: 0, also after an interruption that was saved; 1 after an error."""
    return exit_status(prog, lambda: finetune(parse_config(argv, prog)))


if __name__ == "__main__":
    end(main())
