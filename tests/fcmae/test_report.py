"""What a run shows: pictures and lines of metrics."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fcmae.analysis.reconstructions import CAPTION, GAP, reconstruction_picture, save_picture
from fcmae.runs.metrics import MetricsLog


@pytest.mark.parametrize("channels", [1, 2, 3, 7])
def test_a_picture_has_the_three_rows(tmp_path: Path, channels: int) -> None:
    """Each row shows its own images, enlarged by a whole factor; masked pixels are gray in the middle row."""
    original, pasted = torch.full((2, channels, 64, 80), 0.2), torch.full((2, channels, 64, 80), 0.8)
    where = torch.zeros(2, 1, 64, 80, dtype=torch.bool)
    where[:, :, :32] = True
    picture = reconstruction_picture(original, pasted, where, 0.6)
    factor = 3  # 64 pixels → at least 160
    assert picture.size == (2 * (80 * factor + GAP) + GAP, 3 * (CAPTION + 64 * factor + 2 * GAP))
    pixels = np.asarray(picture)
    row = CAPTION + 64 * factor + 2 * GAP
    for r, (upper, lower) in enumerate([(51, 51), (51, 127), (204, 204)]):
        top = r * row + CAPTION + GAP
        assert abs(int(pixels[top + 5, GAP + 5, 0]) - upper) <= 1
        assert abs(int(pixels[top + 64 * factor - 5, GAP + 5, 0]) - lower) <= 1
        assert (pixels[r * row : r * row + CAPTION] < 100).any()  # a caption
    save_picture(picture, tmp_path / "new" / "a.png")
    assert (tmp_path / "new" / "a.png").stat().st_size > 0


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
