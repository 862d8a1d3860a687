"""What a run says when it is finished, and when a finished run is started again."""

from fcmae.called import command_line
from fcmae.config import DIGITS, PretrainConfig, TrainConfig
from fcmae.runs.layout import CONFIG
from fcmae.training.batch import peak_learning_rate
from fcmae.training.run import Run
from fcmae.wording import counted

POOR = 1.0  # the loss of predicting each patch's mean, with norm_pix_loss


def closing_lines(run: Run[PretrainConfig], loss: float | None) -> list[str]:
    """The last lines of a run that reached its last step: how it ended, and what to do next.

    Args:
        run: the run.
        loss: the last one logged; None: nothing was left to train.
    """
    folder, train = run.folder, run.config.train
    if loss is None:
        more = longer_epochs(train.epochs, run.start.step, run.total_steps)
        longer = command_line("pretrain", "--config", folder / CONFIG, "--train.epochs", more)
        lines = [
            f"{folder} is finished: {counted(run.total_steps, 'step')} ({counted(train.epochs, 'epoch')}) done"
            f"{done_before(run.start.step, run.total_steps)}, nothing is left to train. To train "
            "longer, give more epochs; the learning rate then follows the longer schedule:",
            f"  {longer}",
        ]
    else:
        lines = [f"done: {counted(run.total_steps, 'step')}, loss {loss:.4f}. Pictures and weights are in {folder}"]
        if run.config.model.norm_pix_loss and not loss < POOR:
            lines.append(poor_loss(train, run.batch.effective, loss))
    labeled = [] if run.config.monitor.data in (None, DIGITS) else ["--data.path", run.config.monitor.data]
    return [
        *lines,
        "next (finetune and evaluate on your own labeled images with --data.path; report takes the table):",
        f"  {command_line('finetune', folder, '--data.path', 'LABELED', '--output', f'{folder}-finetuned')}",
        f"  {command_line('evaluate', folder, *labeled, '--output', folder / 'evaluation')}",
        f"  {command_line('report', folder)}",
        f"  {command_line('convert', folder, folder / 'timm', '--format', 'timm')}",
    ]


def done_before(step: int, total_steps: int) -> str:
    """What to add where a run that is started again was trained for longer than it is now to be."""
    return f" (it was trained for {step:,})" if step > total_steps else ""


def longer_epochs(epochs: int, step: int, total_steps: int) -> int:
    """Twice the epochs that a finished run was trained for."""
    return 2 * max(epochs, round(epochs * step / total_steps))


def poor_loss(train: TrainConfig, effective_batch: int, loss: float) -> str:
    """A loss of 1 or more at the end, with the learning rate that was used."""
    peak = peak_learning_rate(train, effective_batch)
    if peak > train.usual_peak:
        advice = f"the peak learning rate was {peak:.2g}, which may be too high; try a lower --train.base_lr"
    else:
        advice = f"the peak learning rate was {peak:.2g}; try a higher --train.base_lr, or more epochs"
    return f"a loss of {loss:.3f} is no better than predicting each patch's mean (1.0), so little was learned: {advice}"
