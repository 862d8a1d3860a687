"""What each start of a run ran on: RUN/starts.jsonl, a JSON object per start."""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

STARTS = "starts.jsonl"


@dataclass(frozen=True)
class Start:
    """A start or resume."""

    step: int
    """Steps done before."""
    hardware: str
    precision: str
    """fp32 or bf16."""
    peak_lr: float
    """The learning rate after the warm-up."""
    effective_batch: int
    processes: int


def record_start(run: Path, start: Start) -> None:
    """Append a line to RUN/starts.jsonl, with the time in UTC."""
    line = {"time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"} | asdict(start)
    with (run / STARTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def read_starts(run: Path) -> list[dict[str, Any]]:
    """The starts, oldest first; lines that are damaged are left out, and runs of older versions have none."""
    file, found = run / STARTS, []
    if file.is_file():
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                start = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(start, dict):
                found.append(start)
    return found
