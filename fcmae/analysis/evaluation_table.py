"""An evaluation as text."""

from fcmae.analysis.accuracy import Accuracy
from fcmae.analysis.evaluation import Evaluation, NetworkScores


def evaluation_table(evaluation: Evaluation) -> str:
    """One row per network: percent correct, with 95% intervals."""
    first = evaluation.results[0]
    titles = ["kNN top-1", "kNN top-5", "linear top-1", "linear top-5"]
    shown = [place for place, accuracy in enumerate(_accuracies(first)) if accuracy is not None]
    lines = [["", *(titles[place] for place in shown)]]
    for row in evaluation.results:
        cells = [_accuracies(row)[place] for place in shown]
        lines.append([row.name, *(_cell(accuracy) for accuracy in cells if accuracy is not None)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    head = (
        f"{evaluation.data}: {first.train_images} training images, {first.test_images} test images, "
        f"{first.classes} classes; percent correct [95% interval]\n\n"
    )
    return head + "".join(
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
        + "\n"
        for line in lines
    )


def _accuracies(row: NetworkScores) -> tuple[Accuracy | None, ...]:
    return row.knn.top1, row.knn.top5, row.linear.top1, row.linear.top5


def _cell(accuracy: Accuracy) -> str:
    low, high = accuracy.interval
    return f"{100 * accuracy.share:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
