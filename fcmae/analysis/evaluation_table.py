"""An evaluation as text."""

from fcmae.analysis.evaluation import Evaluation
from fcmae.analysis.evaluation_file import table_of


def evaluation_table(evaluation: Evaluation) -> str:
    """One row per network: percent correct, with 95% intervals."""
    table = table_of(evaluation.as_dict())
    lines = [["", *table.columns], *([name, *cells] for name, cells in table.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = (
        "  ".join([name.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(cells, widths[1:], strict=True))]).rstrip()
        for name, *cells in lines
    )
    return f"{table.about}\n\n" + "".join(f"{row}\n" for row in rows)
