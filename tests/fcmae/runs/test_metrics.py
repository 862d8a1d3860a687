"""metrics.jsonl: lines are whole, and follow the checkpoint."""

import json
from pathlib import Path

from fcmae.runs.metrics import MetricsLog


def test_metrics_are_json_also_when_a_value_is_not_finite(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, start_step=0) as log:
        log.write({"step": 1, "loss": 0.5})
        log.write({"step": 2, "loss": float("nan")})
        assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2  # a reader sees lines at once
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": None}]


def test_lines_after_the_checkpoint_are_set_aside(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, start_step=0) as log:
        for step in (1, 2, 3):
            log.write({"step": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # cut off by a death
    with MetricsLog(tmp_path, start_step=2) as log:
        log.write({"step": 3})
    read = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in read] == [1, 2, 3]
    assert (tmp_path / "metrics.superseded.jsonl").read_text() == '{"step": 3}\n{"step": 4, "lo\n'
