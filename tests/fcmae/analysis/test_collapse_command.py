"""``python -m fcmae.collapse`` from end to end on small networks, and what wrong input gets."""

import csv
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import fcmae
from fcmae.analysis.collapse_analysis import analyze_collapse
from fcmae.checkpoint import TrainState, save_checkpoint
from fcmae.collapse import main
from fcmae.crop_batches import crop_batches, normalise
from fcmae.data import image_files

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Command:
    """Runs it on ten small images; exit status, stdout, and the log."""

    def run(*args: str, output: str = "out") -> tuple[int, str, str]:
        caplog.clear()
        common = ["--data.path", str(image_folder), "--output", str(tmp_path / output), "--img_size", "32"]
        with caplog.at_level(logging.INFO, logger="fcmae"):
            status = main([*common, "--device", "cpu", *args])
        return status, capsys.readouterr().out, "\n".join(record.getMessage() for record in caplog.records)

    return run


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of fcmae.pretrain, as far as its checkpoint."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    config = fcmae.ModelConfig("convnextv2_atto", img_size=32, stem_stride=2, decoder_dim=8)
    model = fcmae.FCMAE(config)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    save_checkpoint(folder, model, vars(config), optimizer, TrainState(1, 1, 1))
    (folder / "config.yaml").write_text(
        "data: {mean: [0.4, 0.5, 0.6], std: [0.2, 0.2, 0.3]}\ntrain: {mask_ratio: 0.5}\n"
    )
    return folder


def read_rows(file: Path) -> dict[str, list[dict[str, str]]]:
    rows: dict[str, list[dict[str, str]]] = {}
    with file.open(newline="") as opened:
        for row in csv.DictReader(opened):
            rows.setdefault(row["model"], []).append(row)
    return rows


def test_several_models_in_one_figure(command: Command, tmp_path: Path, run_folder: Path) -> None:
    status, out, log = command(
        f"V2, dense={run_folder}", "convnext_atto", "resnet18", "--images", "4", "--effective_rank"
    )
    assert status == 0, log
    written = {path.name for path in (tmp_path / "out").iterdir()}
    maps = {"feature_maps-V2_dense.png", "feature_maps-convnext_atto.png", "feature_maps-resnet18.png"}
    assert written == {"collapse.csv", "collapse.json", "figure4.png"} | maps
    for name in maps | {"figure4.png"}:
        with Image.open(tmp_path / "out" / name) as picture:
            assert min(picture.size) > 400
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 10
    rows = read_rows(tmp_path / "out" / "collapse.csv")
    assert {label: len(of_model) for label, of_model in rows.items()} == {
        "V2, dense": 12, "convnext_atto": 12, "resnet18": 8,
    }  # fmt: skip
    for label, of_model in rows.items():
        assert f"{label}: 4 images of 32×32, everything visible" in out
        assert {row["images"] for row in of_model} == {"4"}
        assert {row["tap"] for row in of_model} == {"block" if label == "resnet18" else "act"}
        for row in of_model:
            assert 0 <= float(row["distance"]) <= 0.5
            assert float(row["effective_rank"]) >= 0
            assert f"{float(row['distance']):.3f} ± {float(row['distance_se']):.4f}" in out
    numbers = json.loads((tmp_path / "out" / "collapse.json").read_text())
    assert numbers["models"]["convnext_atto"]["source"] == "convnext_atto"
    assert [b["distance"] for b in numbers["models"]["resnet18"]["blocks"]] == [
        float(row["distance"]) for row in rows["resnet18"]
    ]


def test_the_numbers_are_those_of_the_function(
    command: Command, tmp_path: Path, run_folder: Path, image_folder: Path
) -> None:
    """A run with its own normalisation, dense and masked; four of the ten images, evenly spaced."""
    paths = image_files(image_folder)
    (batch,) = crop_batches([paths[place] for place in (0, 2, 5, 7)], (32, 32))
    images = normalise(batch.images, (0.4, 0.5, 0.6), (0.2, 0.2, 0.3))
    networks = {"dense": fcmae.create_dense(run_folder), "sparse": fcmae.load_model(run_folder)}
    for name, model in networks.items():
        options = ["--sparse"] if name == "sparse" else []
        status, out, log = command(str(run_folder), "--images", "4", "--batch_size", "3", *options, output=name)
        assert status == 0, log
        expected = analyze_collapse(model, images)
        (rows,) = read_rows(tmp_path / name / "collapse.csv").values()
        for row, wanted in zip(rows, expected, strict=True):
            assert row["layer"] == wanted.layer
            assert float(row["distance"]) == pytest.approx(wanted.distance, abs=1e-6)
        assert f"mine: 4 images of 32×32, {'50% of the patches' if options else 'everything'} visible" in out


def test_a_weights_file_and_one_image(command: Command, tmp_path: Path) -> None:
    """One image has no standard error: null in JSON."""
    model = timm.create_model("convnextv2_atto", num_classes=0)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    status, _, log = command(str(tmp_path / "weights.safetensors"), "--images", "1", "--tap", "block", "--layers", "0")
    assert status == 0, log
    (found,) = json.loads((tmp_path / "out" / "collapse.json").read_text())["models"].items()
    assert found[0] == "weights"
    assert found[1]["blocks"][0]["distance_se"] is None


def test_nothing_is_overwritten_unless_asked(command: Command, tmp_path: Path) -> None:
    args = ("resnet18", "--images", "1")
    assert command(*args)[0] == 0
    before = (tmp_path / "out" / "collapse.csv").read_bytes()
    status, _, log = command(*args, "--tap", "block", "--seed", "1")
    assert (status, log.count("\n")) == (1, 0)
    assert "out holds collapse.csv already; give another, or --overwrite" in log
    assert (tmp_path / "out" / "collapse.csv").read_bytes() == before
    assert command(*args, "--seed", "1", "--overwrite")[0] == 0
    assert (tmp_path / "out" / "collapse.csv").read_bytes() != before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["convnextv2_atom"], "convnextv2_atom is neither a run.*similar names of timm's: convnextv2_atto"),
        (["no/such/run"], "no/such/run is neither a run, a checkpoint or a weights file, nor"),
        (["=resnet18"], "'=resnet18' must be LABEL=PATH or LABEL=NAME"),
        (["resnet18", "resnet18"], "two models would be called resnet18; name them yourself: LABEL=resnet18"),
        (["a/b=resnet18", "a_b=resnet18"], "two models would be called a_b"),
        (["resnet18", "--images", "0"], "--images must be at least 1, got 0"),
        (["resnet18", "--data.num_workers", "-1"], "--data.num_workers must be at least 0, got -1"),
        (["resnet18", "--seed", "-1"], "--seed must be at least 0"),
        (["resnet18", "--picture", "10"], "--picture 10: there are 10 images, 0 to 9"),
        (["resnet18", "--layers", "stages.0"], "stages.0 is neither a block nor a depth.*layer1.0 … layer4.1"),
        (["resnet18", "--device", "abacus"], "--device abacus cannot be used here"),
        (["resnet18", "--data.path", "no/such/folder"], "--data.path no/such/folder does not exist"),
        (["convnext_atto", "--img_size", "5"], "convnext_atto cannot take 16 images of 5×5 pixels.*--img_size"),
        (["regnetx_002"], "regnetx_002: RegNet has no blocks that are known"),
        (["resnet18", "--output", ""], "--output is empty"),
    ],
)
def test_wrong_input_gets_one_line(command: Command, tmp_path: Path, args: list[str], message: str) -> None:
    status, out, log = command(*args)
    assert (status, out, log.count("\n")) == (1, "", 0), log
    assert log.startswith("fcmae.collapse: error: ")
    assert re.search(message, log), log
    assert not (tmp_path / "out").exists()


def test_wrong_sizes_for_a_sparse_network_get_one_line(command: Command, run_folder: Path) -> None:
    status, _, log = command(f"x={run_folder}", "--sparse", "--img_size", "36")
    assert status == 1
    assert "x cannot take 16 images of 36×36 pixels: images [10, 3, 36, 36] do not fit" in log
