"""How a benchmark that looks for faults ends."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn


def end_with(wrong: Sequence[str], folder: Path) -> NoReturn:
    """Print the faults and exit with 1; or, if there are none, delete the folder of the runs and exit with 0."""
    for line in wrong:
        print("FAULT", line)
    if not wrong:
        shutil.rmtree(folder)
    sys.exit(bool(wrong))
