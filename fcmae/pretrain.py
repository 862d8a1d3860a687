"""FCMAE pretraining, as a command (``fcmae pretrain``) and as a function.

    from fcmae.pretrain import pretrain

    result = pretrain(data="images/", model="convnextv2_tiny", output="runs/mine", epochs=100)

The same command serves one process and many (``accelerate launch`` or ``torchrun``), on CPUs and GPUs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fcmae.cli.command import end, exit_status
from fcmae.cli.keywords import keyword_function
from fcmae.cli.pretrain_parser import CONFIG_PARAMETER, PROG, config_from, parse_config
from fcmae.config import PretrainConfig
from fcmae.runs.layout import METRICS


@dataclass(frozen=True)
class PretrainResult:
    """How a run ended."""

    folder: Path
    """The run folder; ``fcmae.create_dense(folder)`` has the weights."""
    steps: int
    """Optimizer steps done, those before a resume included."""
    loss: float | None
    """The last logged loss, a mean over ``log.every`` steps; None: the folder has none."""
    is_complete: bool
    """False if a signal (Ctrl-C, SIGTERM) stopped the run early; its state is saved, and the same call goes on."""


@keyword_function(PretrainConfig, config_from, first=[CONFIG_PARAMETER])
def pretrain(config: PretrainConfig) -> PretrainResult:
    """Pretrain a ConvNeXt on unlabeled images.

    Every setting is a keyword: ``epochs=100`` is ``train.epochs``, ``data="images/"`` is ``data.path``,
    ``model="convnextv2_tiny"`` is ``model.name``, and a group may be a dict or its dataclass: ``log={"every": 5}``.
    ``config`` is a recipe's name or a YAML file, which the other settings override; or a whole
    :class:`fcmae.config.PretrainConfig`, and then nothing else. Without ``config`` and ``data`` the demo recipe runs;
    without ``config`` and with fewer than 100,000 images the recipe ``auto``, which chooses what is not given.

    Raises:
        UserError: an unknown or wrong setting, a missing folder, no readable image, a run folder that is taken.
        NonFiniteError: the loss became NaN or infinite; the last good checkpoint is kept.
        Exception: anything else that ended the training (memory, a process that was killed), with a note that says
            what to do and where the traceback is. No data loading process is left.
    """
    from fcmae.data.sources.source import check_there

    check_there(config.data.path)

    # here, so that wrong arguments are refused and --help is shown without seconds of imports
    from fcmae.training.setup import set_up
    from fcmae.training.whole import train

    run, fitted = train(config, set_up)
    loss = _logged_loss(run.folder) if fitted.loss is None else fitted.loss
    return PretrainResult(run.folder, fitted.steps, loss, fitted.is_complete)


def _logged_loss(folder: Path) -> float | None:
    """The last of metrics.jsonl, for a run that had nothing left to log."""
    from fcmae.runs.reader import read_metrics

    series, _ = read_metrics(folder / METRICS)
    last = float(series["loss"].value[-1]) if "loss" in series else math.nan
    return None if math.isnan(last) else last


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the command line; returns the exit status: 0, also after an interruption that was saved; 1 after an error."""
    return exit_status(prog, lambda: pretrain(parse_config(argv, prog)))


if __name__ == "__main__":
    end(main())
