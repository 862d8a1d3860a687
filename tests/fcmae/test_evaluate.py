"""python -m fcmae.evaluate: what it is given to evaluate, what it says, and what it refuses."""

import json
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from scipy.stats import binomtest
from sklearn.datasets import load_digits

from fcmae import load_model
from fcmae.analysis import labeled
from fcmae.analysis.accuracy import Accuracy, top_accuracy
from fcmae.analysis.features import Embedder, embedder, fresh_weights, pixels
from fcmae.analysis.subjects import parse_names
from fcmae.data.crop_batches import crop_batches
from fcmae.data.labeled import labeled_digits, labeled_folder, labeled_timm, stratified_split
from fcmae.data.normalizer import Normalizer
from fcmae.errors import UserError
from fcmae.evaluate import main
from fcmae.models import FCMAE, ModelConfig
from fcmae.runs import checkpoint as ckpt
from fcmae.runs.layout import HEADER

CPU = torch.device("cpu")


def save_run(folder: Path, **config: Any) -> Path:
    """A run folder with one checkpoint of random weights, none of them 0 or 1."""
    described = ModelConfig(**{"img_size": 32, "stem_stride": 1, "decoder_dim": 16} | config)
    torch.manual_seed(0)
    model = FCMAE(described)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ckpt.save_checkpoint(
        folder, model, asdict(described), torch.optim.SGD(model.parameters()), ckpt.TrainState(1, 1, 1)
    )
    return folder


def network_of(name: str) -> Embedder:
    return embedder(parse_names([name])[0], CPU)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("runs") / "run")


def fill(folder: Path, color: tuple[int, int, int], count: int) -> None:
    """Images of about one color."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for n in range(count):
        noise = random.integers(-20, 20, (20, 24, 3))
        Image.fromarray((np.array(color) + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{n}.png")


COLORS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}


@pytest.fixture(scope="module")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes that anything tells apart, ten images each, one of them nested and one damaged."""
    folder = tmp_path_factory.mktemp("colors")
    for name, color in COLORS.items():
        fill(folder / name, color, 10)
    (folder / "red" / "deeper").mkdir()
    (folder / "red" / "0.png").rename(folder / "red" / "deeper" / "0.png")
    (folder / "blue" / "broken.png").write_bytes(b"no image")
    return folder


@pytest.mark.parametrize(("correct", "total"), [(0, 10), (3, 10), (10, 10), (812, 1000), (1, 1)])
def test_intervals_are_wilsons(correct: int, total: int) -> None:
    """Against scipy; (3, 10) is in the literature too: 0.108 to 0.603."""
    theirs = binomtest(correct, total).proportion_ci(0.95, method="wilson")
    assert Accuracy(correct, total).interval == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    if (correct, total) == (3, 10):
        assert Accuracy(3, 10).interval == pytest.approx((0.108, 0.603), abs=5e-4)


def test_top_accuracy_counts_ranks() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [3.0, -torch.inf, 1.0]])
    labels = torch.tensor([1, 1, 1])
    assert [top_accuracy(scores, labels, top).correct for top in (1, 2, 3, 9)] == [0, 2, 2, 2]


@pytest.mark.parametrize(
    "config",
    [{}, {"in_chans": 2, "use_layer_scale": True, "use_grn": False}, {"stem_stride": 2}, {"name": "convnext_tiny"}],
)
def test_a_checkpoints_features_are_the_encoders(tmp_path: Path, config: dict[str, Any]) -> None:
    """The dense network, pooled = the mean over all patches of the sparse encoder that sees everything."""
    run = save_run(tmp_path / "run", **config)
    chans = config.get("in_chans", 3)
    images = torch.randn(2, chans, 32, 32)
    network = network_of(str(run))
    model = load_model(run)
    grid = 32 // model.patch_size
    with torch.no_grad():
        ours = network.embed(images)
        expected = model.encoder(images, torch.ones(2, grid, grid, dtype=torch.bool)).mean((2, 3))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert (network.in_chans, network.image_hw) == (chans, (32, 32))
    assert network.fresh is not None
    with torch.no_grad():
        assert not torch.allclose(network.fresh().embed(images), ours, atol=0.1 * float(ours.std()))


@pytest.mark.parametrize(
    "kwargs", [{}, {"use_grn": False, "ls_init_value": 1e-6}, {"num_classes": 3}, {"in_chans": 7, "conv_mlp": True}]
)
def test_fresh_weights_are_those_that_training_begins_with(kwargs: dict[str, Any]) -> None:
    """As timm draws them: every parameter anew, of timm's mean and deviation; the given network stays."""
    network = timm.create_model("convnextv2_atto", **({"num_classes": 0} | kwargs))
    for parameter in network.parameters():
        torch.nn.init.constant_(parameter, 5.0)
    fresh = fresh_weights(network, seed=0)
    as_timm = timm.create_model("convnextv2_atto", **({"num_classes": 0} | kwargs))
    for (name, ours), theirs in zip(fresh.named_parameters(), as_timm.parameters(), strict=True):
        torch.testing.assert_close(ours.mean(), theirs.mean(), atol=2e-3, rtol=0, msg=name)
        torch.testing.assert_close(ours.std(), theirs.std(), atol=2e-3, rtol=0, msg=name)
    assert all((parameter == 5).all() for parameter in network.parameters())
    again, other = fresh_weights(network, seed=0), fresh_weights(network, seed=1)
    assert torch.equal(fresh.stem[0].weight, again.stem[0].weight)
    assert not torch.equal(fresh.stem[0].weight, other.stem[0].weight)


def test_only_convnexts_have_known_fresh_weights() -> None:
    with pytest.raises(UserError, match=r"not known with which weights cls_token, pos_embed"):
        fresh_weights(timm.create_model("vit_tiny_patch16_224", num_classes=0), seed=0)


def test_a_run_brings_its_normalization(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", in_chans=1)
    (run / "config.yaml").write_text(f"{HEADER}\ndata: {{mean: [0.25], std: [2.0]}}\n")
    network = network_of(str(run))
    assert network.normalize == Normalizer((0.25,), (2.0,))
    assert network.fresh is not None
    assert network.fresh().normalize == network.normalize


def test_timm_names_are_networks_too() -> None:
    """ConvNeXts pool the last map without the head's norm; others as timm pools them."""
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.manual_seed(0)
        ours = network_of("convnext_atto")
        torch.manual_seed(0)
        theirs = timm.create_model("convnext_atto", num_classes=0).eval()
        torch.testing.assert_close(ours.embed(images), theirs.forward_features(images).mean((2, 3)))
        assert ours.fresh is None
        assert "random" in ours.name
        tokens = network_of("vit_tiny_patch16_224")
        assert tokens.embed(torch.randn(2, 3, 224, 224)).shape == (2, 192)
        assert (tokens.image_hw, tokens.takes_no_other, ours.takes_no_other) == ((224, 224), True, False)
        smaller = embedder(parse_names(["vit_tiny_patch16_224"])[0], CPU, img_size=64)
        assert smaller.embed(images).shape == (2, 192)


def test_raw_pixels_are_averaged() -> None:
    images = torch.rand(2, 3, 32, 32)
    expected = images.view(2, 3, 16, 2, 16, 2).mean((3, 5)).flatten(1)
    torch.testing.assert_close(pixels(3).embed(images), expected)


def test_a_split_holds_a_share_of_every_class() -> None:
    labels = np.array([0] * 50 + [1] * 10 + [2] * 2 + [3])
    first, second = stratified_split(labels, 0.2, seed=0)
    assert sorted([*first, *second]) == list(range(63))
    assert np.bincount(labels[second], minlength=4).tolist() == [10, 2, 1, 0]
    again, other = stratified_split(labels, 0.2, seed=0), stratified_split(labels, 0.2, seed=1)
    assert np.array_equal(second, again[1])
    assert not np.array_equal(second, other[1])


def read(batches: labeled.Batches, batch_size: int = 7) -> tuple[torch.Tensor, list[int]]:
    parts = list(batches((16, 16), 3, batch_size))
    return torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]).tolist()


def test_a_folder_of_classes(colors: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Classes in order of their names, images in both parts, the unreadable one named and left out."""
    data = labeled_folder(colors)
    train, test = read(data.train), read(data.test)
    assert len(train[1]) + len(test[1]) == 30
    assert "broken.png" in caplog.text
    for images, labels in (train, test):
        assert images.shape[1:] == (3, 16, 16)
        brightest = images.mean((2, 3)).argmax(1)  # blue, green, red are classes 0, 1, 2
        assert labels == [2 - int(channel) for channel in brightest]
    assert set(test[1]) == {0, 1, 2}


def test_train_and_val_of_a_folder(tmp_path: Path) -> None:
    for part, count in (("train", 4), ("val", 2)):
        for name, color in COLORS.items():
            fill(tmp_path / part / name, color, count)
    data = labeled_folder(tmp_path)
    assert [len(read(part)[1]) for part in (data.train, data.test)] == [12, 6]
    fill(tmp_path / "val" / "violet", (90, 0, 90), 1)
    with pytest.raises(UserError, match=r"has classes that .*train lacks: violet"):
        labeled_folder(tmp_path)


def test_a_limit_takes_so_many_of_each_part(colors: Path) -> None:
    data = labeled_folder(colors, limit=4)
    assert [len(read(part)[1]) for part in (data.train, data.test)] == [4, 4]
    whole = labeled_folder(colors)
    several = labeled_folder(colors, num_workers=2)
    assert torch.equal(read(whole.train)[0], read(several.train)[0])
    digits = labeled_digits(limit=30)
    assert [len(read(part)[1]) for part in (digits.train, digits.test)] == [30, 30]


def test_digits_are_scikit_learns() -> None:
    """All 1797, each in one part, values in 0 … 1, enlarged, of as many channels as asked."""
    data = labeled_digits()
    parts = [list(part((8, 8), 1, 64)) for part in (data.train, data.test)]
    images = torch.cat([batch.images for part in parts for batch in part])
    assert images.shape == (1797, 1, 8, 8)
    expected = {tuple(np.round(image * 15.9375).astype(int).flatten()) for image in load_digits().images}
    assert {tuple((image * 255).round().int().flatten().tolist()) for image in images} == expected
    batch = next(data.train((40, 64), 3, 5))
    assert batch.images.shape == (5, 3, 40, 64)
    assert torch.equal(batch.images[:, 0], batch.images[:, 2])


def test_timm_datasets(colors: Path, tmp_path: Path) -> None:
    """By a folder of torchvision's, and timm's words for what is wrong."""
    for part in ("train", "validation"):
        for name, color in COLORS.items():
            fill(tmp_path / part / name, color, 3)
    data = labeled_timm("torch/image_folder", tmp_path)
    images, labels = read(data.test)
    assert labels == [2 - int(channel) for channel in images.mean((2, 3)).argmax(1)]
    assert len(labels) == 9
    few = read(labeled_timm("torch/image_folder", tmp_path, limit=4).test)
    assert (len(few[1]), few[1]) == (4, [2 - int(channel) for channel in few[0].mean((2, 3)).argmax(1)])
    with pytest.raises(UserError, match=r"--data.dataset torch/cifar10, split train, in .*not found"):
        labeled_timm("torch/cifar10", tmp_path)
    with pytest.raises(UserError, match=r"--data.dataset torch/none, .*: Unknown torchvision dataset none"):
        labeled_timm("torch/none", tmp_path)


def test_from_end_to_end(run: Path, colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Colors are told apart by anything; the table and the file say the same, and a second run says it again."""
    out = tmp_path / "out"
    file = run / "checkpoints" / "step-00000001" / "model.safetensors"
    arguments = [f"trained={run}", f"again={file}", "--data.path", str(colors), "--data.num_workers", "0"]
    assert main([*arguments, "--output", str(out), "--k", "5"]) == 0
    result = json.loads((out / "evaluation.json").read_text())
    printed = capsys.readouterr().out
    names = [row["name"] for row in result["results"]]
    assert names == ["trained", "convnextv2_atto, random weights", "again", "raw pixels, 16×16"]
    for row in result["results"]:
        assert row["name"] in printed
        assert (row["train_images"] + row["test_images"], row["classes"]) == (30, 3)
        knn = row["knn"]["top1"]
        assert (knn["correct"], knn["accuracy"]) == (knn["total"], 1.0)
        assert "top5" not in row["knn"]  # of three classes it says nothing
        assert row["linear"]["top1"]["accuracy"] == 1
        assert row["linear"]["converged"]
        assert row["linear"]["c_at_edge"] == (row["linear"]["c"] in (1e-5, 1e2))
        low = Accuracy(knn["correct"], knn["total"]).interval[0]
        assert f"100.0 [{100 * low:.1f}, 100.0]" in printed
    assert result["results"][0]["knn"] == result["results"][2]["knn"]

    assert main([*arguments, "--output", str(out)]) == 1
    assert main([*arguments, "--output", str(out), "--overwrite", "--k", "5"]) == 0
    assert json.loads((out / "evaluation.json").read_text()) == result


def test_random_labels_are_at_chance(run: Path, tmp_path: Path) -> None:
    """Classes that differ in nothing: a quarter right, within 4 standard deviations, which nothing leaked would be."""
    for name in "abcd":
        (tmp_path / "data" / name).mkdir(parents=True)
    random = np.random.default_rng(0)
    for n in range(200):
        image = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        image.save(tmp_path / "data" / "abcd"[n % 4] / f"{n}.png")
    arguments = ["--data.path", str(tmp_path / "data"), "--data.num_workers", "0", "--test_share", "0.5"]
    arguments += ["--output", str(tmp_path)]
    assert main([str(run), *arguments]) == 0
    for row in json.loads((tmp_path / "evaluation.json").read_text())["results"]:
        for probe in ("knn", "linear"):
            assert row[probe]["top1"]["total"] == 100
            assert abs(row[probe]["top1"]["accuracy"] - 0.25) < 4 * (0.25 * 0.75 / 100) ** 0.5


def test_networks_of_one_shape_share_a_pass(
    run: Path, colors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image is read once for all of them, and their rows are those that they have alone."""
    other = save_run(tmp_path / "other", stem_stride=2)
    passes = []

    def counted(*arguments: Any) -> Any:
        passes.append(arguments[1:3])
        return crop_batches(*arguments)

    monkeypatch.setattr(labeled, "crop_batches", counted)

    def rows(*networks: str) -> list[Any]:
        passes.clear()
        options = ["--data.path", str(colors), "--data.num_workers", "0", "--output", str(tmp_path), "--overwrite"]
        assert main([*networks, *options]) == 0
        return list(json.loads((tmp_path / "evaluation.json").read_text())["results"])

    together = rows(f"a={run}", f"b={other}")
    assert passes == [((32, 32), 3)] * 2  # to learn from, and to test
    assert together[:2] == rows(f"a={run}")[:2]
    assert together[2:] == rows(f"b={other}")


def test_a_network_of_one_size_is_given_that_size(tmp_path: Path) -> None:
    """Out of the box, and built for another where one is asked for; digits are kept small for the rest."""
    sizes = []
    for arguments in (["vit_tiny_patch16_224", "convnextv2_atto"], ["vit_tiny_patch16_224", "--img_size", "32"]):
        assert main([*arguments, "--images", "20", "--output", str(tmp_path), "--overwrite"]) == 0
        sizes.append([row["image_hw"][0] for row in json.loads((tmp_path / "evaluation.json").read_text())["results"]])
    assert sizes == [[224, 64, 224], [32, 32]]


@pytest.mark.parametrize("allowed", [True, False])
def test_pickles_are_read_where_that_is_allowed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, allowed: bool
) -> None:
    network = timm.create_model("convnextv2_atto", num_classes=0)
    torch.save({"model": network.state_dict(), "lr": Fraction(1, 2)}, tmp_path / "weights.pth")
    options = ["--images", "20", "--img_size", "32", *["--allow_pickle"] * allowed]
    assert main([str(tmp_path / "weights.pth"), *options]) == (0 if allowed else 1)
    assert ("--allow_pickle" in caplog.text) is not allowed


def test_without_data_it_is_digits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convnextv2_atto", "--img_size", "32", "--images", "200"]) == 0
    printed = capsys.readouterr().out
    assert "digits: 200 images to learn from, 200 to test, 10 classes" in printed
    assert "kNN top-5" in printed
    assert printed.count("convnextv2_atto, random weights") == 1  # it is its own baseline


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is neither a run, a checkpoint or a weights file, nor the name of a timm network"),
        (["RUN", "--data.path", "nowhere"], "--data.path nowhere does not exist"),
        (["RUN", "--data.path", "ONE"], "holds one class, only"),
        (["RUN", "--data.path", "FEW"], "a class needs at least 2 images; too few in b"),
        (["RUN", "--data.path", "FLAT"], "has no subfolders with images; it takes one for each class"),
        (["RUN", "--data.dataset", "torch/cifar10"], "--data.dataset torch/cifar10 needs --data.path"),
        (["RUN", "--k", "0"], "--k must be at least 1, got 0"),
        (["RUN", "--images", "1"], "--images must be at least 2, got 1"),
        (["RUN", "--data.num_workers", "-1"], "--data.num_workers must be at least 0, got -1"),
        (["RUN", "--test_share", "1"], "--test_share must be between 0 and 1, got 1.0"),
        (["RUN", "--temperature", "nan"], "--temperature must be above 0, got nan"),
        (["RUN", "--device", "abacus"], "--device abacus cannot be used here"),
        (["RUN", "--output", "FILE"], "is a file; give a folder"),
        (["convnextv2_atto", "--img_size", "8"], "cannot take 64 images of 8×8 pixels"),
        (["EMPTY"], "has no checkpoint in it"),
    ],
)
def test_wrong_input_gets_one_line(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, arguments: list[str], message: str
) -> None:
    fill(tmp_path / "ONE" / "only", (1, 2, 3), 3)
    fill(tmp_path / "FEW" / "a", (1, 2, 3), 3)
    fill(tmp_path / "FEW" / "b", (1, 2, 3), 1)
    fill(tmp_path / "FLAT", (1, 2, 3), 2)
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FILE").write_text("")
    places = {"RUN": str(run)} | {name: str(tmp_path / name) for name in ("ONE", "FEW", "FLAT", "FILE", "EMPTY")}
    assert main([places.get(argument, argument) for argument in arguments]) == 1
    error = caplog.records[-1].getMessage()
    assert message in error
    assert "\n" not in error


def test_features_that_are_not_numbers_are_refused() -> None:
    network = pixels(3)
    damaged = Embedder("damaged", lambda images: network.embed(images) / 0, 3, network.normalize)
    with pytest.raises(UserError, match="damaged gives features that are not finite"):
        damaged.features(labeled_digits(limit=5).train, (8, 8), 5, CPU)
