"""Run folders as training would leave them, made without training."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from fcmae.config import PretrainConfig

LINES = 300
STEPS_PER_LINE = 10


def made_run(
    folder: Path, *, lines: Iterable[Any] | None = None, pictures: int = 3, data_path: str = "/images"
) -> Path:
    """A run of 3,000 steps and 30 epochs; ``lines`` are dicts, or text that is written as it is."""
    folder.mkdir(parents=True)
    default = PretrainConfig()
    config = replace(
        default,
        data=replace(default.data, path=data_path),
        train=replace(default.train, epochs=30, warmup_epochs=2),
        output=str(folder),
    )
    text = "# fcmae 0.1.0, torch 2.11.0, 1 process(es)\n" + yaml.safe_dump(config.as_dict(), sort_keys=False)
    (folder / "config.yaml").write_text(text)
    written = [line if isinstance(line, str) else json.dumps(line) for line in lines or training_lines()]
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in written))
    for i in range(pictures):
        (folder / "reconstructions").mkdir(exist_ok=True)
        picture = Image.new("RGB", (1600, 700), (30 * (i % 8), 90, 160))
        picture.save(folder / "reconstructions" / f"step-{(i + 1) * 1000:08d}.png")
    return folder


def training_lines() -> Iterator[dict[str, Any]]:
    """A falling loss with a gap, and every tenth line the features' distances and the kNN accuracy."""
    for i in range(1, LINES + 1):
        step, done = i * STEPS_PER_LINE, i / LINES
        place = {"step": step, "epoch": round(30 * done, 4)}
        loss = None if 100 <= i < 110 else 0.5 + 0.5 / i
        yield place | {"loss": loss, "lr": 1.5e-4 * (1 - done), "images_per_second": 100.0 + i % 7}
        if i % 10 == 0:
            stages = {f"cosine_distance_stage_{stage}": 0.5 - 0.1 * stage * done for stage in range(4)}
            yield place | stages | {"knn_top1": 0.1 + 0.5 * done}


def collapse_file(distances: dict[str, list[float | None]]) -> dict[str, Any]:
    """What ``python -m fcmae.collapse`` writes, of the keys that the report reads."""
    return {
        "settings": {"tap": "act"},
        "models": {
            name: {"blocks": [{"depth": i / (len(rows) - 1), "distance": row} for i, row in enumerate(rows)]}
            for name, rows in distances.items()
        },
    }
