"""``python -m fcmae.collapse`` from end to end on small networks, and what wrong input gets."""

import csv
import json
import logging
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import fcmae
from fcmae.analysis.collapse import analyze_collapse
from fcmae.analysis.collapse_networks import with_taps
from fcmae.analysis.collapse_table import collapse_table
from fcmae.analysis.feature_maps import NoGridError
from fcmae.analysis.forward import Forward
from fcmae.analysis.names import parse_names
from fcmae.analysis.subjects import LoadOptions, load_subject
from fcmae.collapse import collapse, main
from fcmae.data.crop_batches import crop_batches
from fcmae.data.folder import image_files
from fcmae.data.normalizer import Normalizer
from fcmae.errors import UserError
from fcmae.runs.checkpoint import TrainState, save_checkpoint
from fcmae.runs.layout import HEADER

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
        f"{HEADER}\ndata: {{mean: [0.4, 0.5, 0.6], std: [0.2, 0.2, 0.3]}}\ntrain: {{mask_ratio: 0.5}}\n"
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
    read = numbers["models"]["convnext_atto"]["pixels"]
    assert (read["in_chans"], read["bands"], read["mean"]) == (3, None, [0.485, 0.456, 0.406])
    assert [b["distance"] for b in numbers["models"]["resnet18"]["blocks"]] == [
        float(row["distance"]) for row in rows["resnet18"]
    ]


def test_the_numbers_are_those_of_the_function(
    command: Command, tmp_path: Path, run_folder: Path, image_folder: Path
) -> None:
    """A run with its own normalization, dense and masked; four of the ten images, evenly spaced."""
    paths = image_files(image_folder)
    (batch,) = crop_batches([paths[place] for place in (0, 2, 5, 7)], (32, 32))
    images = Normalizer((0.4, 0.5, 0.6), (0.2, 0.2, 0.3))(batch.images)
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


def test_a_model_that_fails_says_so_before_the_others_are_analyzed(command: Command, tmp_path: Path) -> None:
    status, out, log = command("resnet18", "convnext_atto", "--img_size", "5", "--images", "1")
    assert (status, out, log.count("\n")) == (1, "", 0)
    assert "convnext_atto cannot take an image of 5×5 pixels" in log
    assert not (tmp_path / "out").exists()


def test_models_before_one_that_fails_later_are_kept(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails_at_the_second(model: torch.nn.Module, images: object, *args: object, **options: object) -> object:
        if isinstance(model, timm.models.ConvNeXt) and not isinstance(images, torch.Tensor):
            raise RuntimeError("out of memory")
        return analyze_collapse(model, images, *args, **options)

    monkeypatch.setattr("fcmae.analysis.collapse_networks.analyze_collapse", fails_at_the_second)
    status, _, log = command("resnet18", "convnext_atto", "--images", "2")
    assert status == 1
    assert "convnext_atto cannot take 16 images of 32×32 pixels: out of memory" in log
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "collapse.csv", "collapse.json", "feature_maps-resnet18.png",
    }  # fmt: skip
    assert list(read_rows(tmp_path / "out" / "collapse.csv")) == ["resnet18"]


def test_layers_are_drawn_of_the_models_that_have_them(command: Command, tmp_path: Path) -> None:
    args = ("resnet18", "convnext_atto", "--images", "1", "--layers", "stages.0.blocks.1")
    status, out, log = command(*args)
    assert status == 0, log
    assert "resnet18: no picture of its channels: it has none of the blocks of --layers stages.0.blocks.1" in log
    assert {path.name for path in (tmp_path / "out").glob("feature_maps-*")} == {"feature_maps-convnext_atto.png"}
    assert "± –" in out  # one image has no standard error
    assert "0.0000" not in out


def test_what_cannot_be_drawn_leaves_the_rows(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*args: object, **options: object) -> object:
        raise NoGridError("23 tokens are no grid")

    monkeypatch.setattr("fcmae.analysis.collapse_networks.feature_maps", cannot)
    status, _, log = command("resnet18", "--images", "1")
    assert status == 0, log
    assert "resnet18: no picture of its channels: 23 tokens are no grid" in log
    assert len(read_rows(tmp_path / "out" / "collapse.csv")["resnet18"]) == 8
    assert not list((tmp_path / "out").glob("feature_maps-*"))


def test_the_picture_has_the_mask_of_its_image(
    command: Command, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks of the analysis, batch by batch, and the one that the picture was drawn with."""
    masks: list[torch.Tensor] = []
    of_forward = Forward._masks

    def remembered(self: Forward, *args: object) -> torch.Tensor:
        masks.append(of_forward(self, *args))
        return masks[-1]

    monkeypatch.setattr(Forward, "_masks", remembered)
    args = ("--sparse", "--img_size", "64", "--images", "5", "--batch_size", "2", "--picture", "3")
    status, _, log = command(str(run_folder), *args)
    assert status == 0, log
    _, *analyzed, drawn = masks  # the first is of the blank image
    analyzed = torch.cat(analyzed)
    assert len(analyzed) == 5
    assert torch.equal(drawn[0], analyzed[3])
    assert not torch.equal(drawn[0], analyzed[0])


@pytest.mark.parametrize(("side", "share"), [(64, 6 / 16), (32, 2 / 4)])
def test_visible_share_is_that_of_whole_patches(run_folder: Path, tmp_path: Path, side: int, share: float) -> None:
    """A mask ratio of 0.6 shows 6 of 16 patches, and 2 of 4."""
    shutil.copytree(run_folder, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("0.5}\n", "0.6}\n"))
    subject = load_subject(parse_names([str(tmp_path / "run")])[0], LoadOptions(sparse=True, img_size=side))
    assert subject.model.mask_ratio == 0.6
    assert subject.visible_share == share


def test_a_line_of_several_taps_names_them_all() -> None:
    model = timm.create_model("convnextv2_atto", depths=(1, 1, 1, 1), dims=(4, 4, 4, 4))
    rows = analyze_collapse(model, torch.zeros(1, 3, 32, 32))
    mixed = [replace(rows[0], tap="block"), *rows[1:]]
    assert with_taps("mine", mixed, "act") == "mine (tap: block, act)"
    assert with_taps("mine", rows, "act") == "mine"


def test_nothing_is_overwritten_unless_asked(command: Command, tmp_path: Path) -> None:
    args = ("resnet18", "--images", "1")
    assert command(*args)[0] == 0
    before = (tmp_path / "out" / "collapse.csv").read_bytes()
    status, _, log = command(*args, "--tap", "block", "--seed", "1")
    assert (status, log.count("\n")) == (1, 0)
    names = "collapse.csv, collapse.json, figure4.png, feature_maps-resnet18.png"
    assert f"out holds {names} already; give another, or --overwrite" in log
    assert (tmp_path / "out" / "collapse.csv").read_bytes() == before
    assert command(*args, "--seed", "1", "--overwrite")[0] == 0
    assert (tmp_path / "out" / "collapse.csv").read_bytes() != before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["convnextv2_atom"], "convnextv2_atom is neither a run.*similar timm names: convnextv2_atto"),
        (["no/such/run"], "no/such/run is neither a run, a checkpoint or a weights file, nor"),
        (["=resnet18"], "'=resnet18' must be LABEL=PATH or LABEL=NAME"),
        (["resnet18", "resnet18"], "two models would be named resnet18; give one another label: LABEL=resnet18"),
        (["a/b=resnet18", "a_b=resnet18"], "two models would be named a_b"),
        (["resnet18", "--images", "0"], "--images must be at least 1, got 0"),
        (["resnet18", "--data.num_workers", "-1"], "--data.num_workers must be at least 0, got -1"),
        (["resnet18", "--seed", "-1"], "--seed must be at least 0"),
        (["resnet18", "--picture", "10"], "--picture 10: there are 10 images, 0 to 9"),
        (["resnet18", "--layers", "stages.0"], "stages.0 is neither a block nor a depth.*layer1.0 … layer4.1"),
        (["resnet18", "--device", "abacus"], "--device abacus cannot be used here"),
        (["resnet18", "--data.path", "no/such/folder"], "--data.path no/such/folder does not exist"),
        (["convnext_atto", "--img_size", "5"], "convnext_atto cannot take an image of 5×5 pixels.*--img_size"),
        (["regnetx_002"], "regnetx_002: RegNet has no known blocks"),
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
    assert "x cannot take an image of 36×36 pixels: images [1, 3, 36, 36] do not fit" in log


def test_from_python(
    run_folder: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: Command
) -> None:
    """The result holds what the command prints and writes; the function prints nothing."""
    found = collapse(
        [f"mine={run_folder}", "resnet18"], data=image_folder, images=2, img_size=32, output=tmp_path / "a"
    )
    assert capsys.readouterr().out == ""
    assert (found.folder, list(found.networks)) == (tmp_path / "a", ["mine", "resnet18"])
    status, out, _ = command(f"mine={run_folder}", "resnet18", "--images", "2", output="b")
    assert status == 0
    assert out == "".join(collapse_table(network) + "\n" for network in found.networks.values())
    for name in ("collapse.csv", "collapse.json"):
        assert (tmp_path / "a" / name).read_text() == (tmp_path / "b" / name).read_text()
    numbers = json.loads((tmp_path / "a" / "collapse.json").read_text())["models"]
    for label, network in found.networks.items():
        assert [row.distance for row in network.blocks] == [row["distance"] for row in numbers[label]["blocks"]]
        assert (network.label, network.image_hw, network.visible_share) == (label, (32, 32), 1.0)
    with pytest.raises(UserError, match=r"--picture 10: there are 10 images, 0 to 9"):
        collapse("resnet18", data=image_folder, picture=10, output=tmp_path / "c")
    assert not (tmp_path / "c").exists()
