"""What the page says first of a run, and which of its settings it lists."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fcmae.report_page.facts import changed_settings, headline_facts, steps_planned, training_seconds
from fcmae.runs.checkpoint import FOLDER, TrainState
from fcmae.runs.reader import read_run
from fcmae.runs.starts import Start, record_start
from tests.fcmae.report_page.made_runs import made_run, training_lines


def test_facts(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run")
    (run / "tensorboard").mkdir()
    for seconds in (1_700_000_000, 1_800_000_000):
        (run / "tensorboard" / f"events.out.tfevents.{seconds}.host.1.0").touch()
    facts = {fact.name: f"{fact.value}; {fact.note}" for fact in headline_facts(read_run(run))}
    assert facts["Model"] == "convnextv2_atto; 224 × 224 pixels, 60% masked"
    assert facts["Steps"] == "3,000 of ≈\N{NO-BREAK SPACE}3,000; 100% of 30 epochs"
    assert facts["Final loss"] == "0.5017; lowest 0.5017, step 3,000"
    assert facts["Throughput"] == "103 images/s; median"
    assert facts["Version"] == "fcmae 0.1.0; torch 2.11.0, 1 process(es)"
    assert facts["Started"].startswith(f"{datetime.fromtimestamp(1_700_000_000, UTC):%Y-%m-%d %H:%M} UTC")

    step = run / FOLDER / "step-00001500"
    step.mkdir(parents=True)
    (step / "state.json").write_text(json.dumps({"step": 1500, "effective_batch": 64, "samples_per_epoch": 6399}))
    (step.parent / "last").write_text(step.name)
    found = read_run(run)
    assert steps_planned(found) == (3000, True)  # 30 × 6399 / 64 = 2999.5
    expected = sum(10 * 64 / line["images_per_second"] for line in training_lines() if "loss" in line)
    assert training_seconds(found) == pytest.approx(expected)
    facts = {fact.name: f"{fact.value}; {fact.note}" for fact in headline_facts(found)}
    assert facts["Images"] == "6,399; images"
    assert facts["Throughput"] == "103 images/s; median, 64 per step"

    waited = [line | {"data_wait": 0.125} for line in training_lines() if "loss" in line]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in waited))
    facts = {fact.name: f"{fact.value}; {fact.note}" for fact in headline_facts(read_run(run))}
    assert facts["Throughput"] == "103 images/s; median, 64 per step, 12% of the time waiting for data"


def test_values_of_settings_are_written_as_in_yaml(tmp_path: Path) -> None:
    run = replace(read_run(made_run(tmp_path / "run")), config={"train.epochs": 6, "train.warmup_epochs": 0.6})
    found = changed_settings(
        replace(run, config=run.config | {"data.cache": True, "data.mean": [0.1 + 0.2, None], "train.min_lr": 1e-7})
    )
    assert {one.name: (one.value, one.default) for one in found} == {
        "train.epochs": ("6", "800"),
        "train.warmup_epochs": ("0.6", "0.3"),  # 5% of 6 is 0.30000000000000004
        "data.cache": ("true", "false"),
        "data.mean": ("[0.3, unset]", "unset"),
        "train.min_lr": ("1e-07", "0"),
    }


def test_settings_that_a_run_filled_in_are_not_listed(tmp_path: Path) -> None:
    """Unset warm-up, learning rate and batch sizes, which config.yaml holds as numbers."""
    stream = TrainState(step=0, effective_batch=64, samples_per_epoch=6399)
    run = replace(read_run(made_run(tmp_path / "run")), stream=stream)

    def changed(**train: float | None) -> list[str]:
        config = {f"train.{name}": value for name, value in train.items()}
        return [setting.name for setting in changed_settings(replace(run, config=config))]

    filled_in: dict[str, float | None] = {"epochs": 800, "warmup_epochs": 40.0, "batch_size": 64, "base_lr": 6e-3}
    assert changed(**filled_in, accumulation_steps=1) == []
    assert changed(**filled_in | {"warmup_epochs": 2}) == ["train.warmup_epochs"]
    chosen = changed(**filled_in, effective_batch=4096, accumulation_steps=None)
    assert chosen == ["train.batch_size", "train.effective_batch"]


def test_hardware_precision_and_the_peak_learning_rate(tmp_path: Path) -> None:
    """Of the last start, and what it ran on before; a line that was cut off is left out."""
    run = made_run(tmp_path / "run")
    assert not {"Hardware", "Peak learning rate"} & {fact.name for fact in headline_facts(read_run(run))}
    for hardware in ("A", "A", "2 × B"):
        record_start(run, Start(0, hardware, "bf16", 1.5e-3, 256, 1))
    with (run / "starts.jsonl").open("a") as file:
        file.write('{"step": 5, "hard')
    facts = {fact.name: f"{fact.value}; {fact.note}" for fact in headline_facts(read_run(run))}
    assert facts["Hardware"] == "2 × B; bf16; before that: A"
    assert facts["Peak learning rate"].startswith("0.0015; ")


def test_the_peak_learning_rate_of_older_runs_is_computed(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run")
    step = run / FOLDER / "step-00001500"
    step.mkdir(parents=True)
    (step / "state.json").write_text(json.dumps({"step": 1500, "effective_batch": 64, "samples_per_epoch": 6399}))
    (step.parent / "last").write_text(step.name)
    found = read_run(run)
    found = replace(found, config=found.config | {"train.base_lr": 1.5e-4})
    facts = {fact.name: f"{fact.value}; {fact.note}" for fact in headline_facts(found)}
    assert facts["Peak learning rate"] == "3.75e-05; base_lr 0.00015"
