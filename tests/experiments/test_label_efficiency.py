"""The label efficiency study: its sets, its bookkeeping and its table; not its results."""

import dataclasses
import gzip
import json
from importlib.machinery import ModuleSpec
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments.label_efficiency import __main__ as command
from experiments.label_efficiency import overview, plan, run, sets, table
from experiments.label_efficiency.run import Experiment, Result
from fcmae.cli.finetune_parser import config_from
from fcmae.cli.pretrain_parser import config_from as pretrain_config
from fcmae.config.left_open import OpenConfig
from fcmae.errors import UserError
from fcmae.finetune import FinetuneResult
from fcmae.runs.layout import flat
from fcmae.training import loop
from fcmae.training.batch import peak_learning_rate


def idx(array: np.ndarray) -> bytes:
    """An array of bytes in the IDX format, compressed."""
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes())


def test_fashion_mnist_becomes_folders_of_classes(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    for split, labels in (("train", [0, 9, 0, 3, 3]), ("t10k", [1, 1, 1, 1, 8])):
        (tmp_path / f"{split}-images-idx3-ubyte.gz").write_bytes(idx(images))
        (tmp_path / f"{split}-labels-idx1-ubyte.gz").write_bytes(idx(np.array(labels, np.uint8)))
    folder = sets.fashion_mnist(tmp_path / "set", tmp_path)
    assert {file.name for file in (folder / "train" / "t-shirt").iterdir()} == {"00000.png", "00002.png"}
    assert [file.name for file in (folder / "test" / "bag").iterdir()] == ["00004.png"]
    with Image.open(folder / "train" / "ankle-boot" / "00001.png") as image:
        assert np.array_equal(np.asarray(image), images[1])
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    assert sets.fashion_mnist(folder, tmp_path) == folder  # as it is
    with pytest.raises(UserError, match="t10k-labels-idx1-ubyte\\.gz is missing: apt-get install"):
        sets.fashion_mnist(tmp_path / "other", tmp_path)
    assert not (tmp_path / "other").exists()


def test_elpv_is_split_by_class_and_kind_of_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 cells: of each of the four groups, a quarter is for testing."""
    (tmp_path / "data" / "images").mkdir(parents=True)
    lines = []
    for number in range(40):
        name, probability = f"images/cell{number:04}.png", (0.0, 1 / 3, 2 / 3, 1.0)[number % 4]
        lines.append(f"{name}  {probability}  {'poly' if number < 16 else 'mono'}")
        Image.new("L", (4, 4), number).save(tmp_path / "data" / name)
    (tmp_path / "data" / "labels.csv").write_text("\n".join(lines))
    monkeypatch.setattr(sets, "find_spec", lambda _: ModuleSpec("elpv_dataset", None, origin=str(tmp_path / "x.py")))
    folder = sets.elpv(tmp_path / "set")
    for split, of_poly, of_mono in (("train", 6, 9), ("test", 2, 3)):
        for name, kinds in (("intact", (0, 1)), ("defective", (2, 3))):
            numbers = [int(file.stem[4:]) for file in (folder / split / name).iterdir()]
            assert {number % 4 for number in numbers} <= set(kinds)
            assert (sum(n < 16 for n in numbers), sum(n >= 16 for n in numbers)) == (of_poly, of_mono)
    with Image.open(folder / "train" / "intact" / sorted((folder / "train" / "intact").iterdir())[0].name) as image:
        assert image.size == (4, 4)
    monkeypatch.setattr(sets, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="pip install elpv-dataset"):
        sets.elpv(tmp_path / "other")


def test_the_budget_is_images_seen_within_bounds_of_the_epochs() -> None:
    found = dataclasses.replace(plan.PLANS["elpv"], images_seen=20_000, epochs_within=(20, 60))
    assert [found.epochs(images) for images in (20, 500, 1968, 10**9)] == [60, 40, 20, 20]


def test_a_plan_pretrains_for_a_multiple_of_the_epochs() -> None:
    whole = plan.PLANS["elpv"]
    third = whole.lasting(1 / 3)
    assert third.pretrain["train"] == whole.pretrain["train"] | {"epochs": 40}
    assert dataclasses.replace(third, pretrain=whole.pretrain) == whole.lasting(1) == whole
    assert whole.lasting(0.001).pretrain["train"]["epochs"] == 1


@pytest.mark.parametrize("images", [100, 50_000])
def test_fine_tuning_is_the_same_but_for_rate_and_epochs_at_any_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: int
) -> None:
    """No recipe by the number of images; the peak is the rate; from scratch the pixels are measured, too."""
    given: dict[str, Any] = {}

    def record(weights: str, **settings: Any) -> FinetuneResult:
        given.update(settings, weights=weights)
        return FinetuneResult(tmp_path, 0, None, None, is_complete=False)

    monkeypatch.setattr(run, "finetune", record)
    (tmp_path / "data" / "train").mkdir(parents=True)
    experiment = Experiment(dataclasses.replace(plan.PLANS["fashion_mnist"], make=lambda folder: folder), tmp_path)
    experiment.labeled = images
    with pytest.raises(SystemExit, match="stopped"):
        experiment.result("scratch", 1.0, 0, 3e-3, "test")
    config = config_from((), given)
    assert peak_learning_rate(config.train, config.train.batch_size or 0) == pytest.approx(3e-3)
    assert (config.train.effective_batch, config.train.ema, config.augment.rand_augment) == (None, 0.0, None)
    assert (config.data.mean, config.data.std, config.train.layer_decay) == ("auto", "auto", 1.0)


CHANGED = {
    "rate-low": {"train.base_lr": 2e-3}, "rate-high": {"train.base_lr": 2e-2},
    "crops-small": {"data.crop_scale": (0.08, 1.0)}, "crops-large": {"data.crop_scale": (0.6, 1.0)},
    "decoder-narrow": {"model.decoder_dim": 128}, "decoder-wide": {"model.decoder_dim": 512},
    "mask-more": {"train.mask_ratio": 0.75}, "stem-2": {"model.stem_stride": 2},
    "short": {"train.epochs": 40}, "long": {"train.epochs": 360},
}  # fmt: skip


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What pretraining, which does nothing, is called with."""
    calls: list[dict[str, Any]] = []

    def record(**settings: Any) -> SimpleNamespace:
        calls.append(settings)
        return SimpleNamespace(is_complete=True)

    monkeypatch.setattr(run, "pretrain", record)
    return calls


def test_a_variation_is_one_change_of_pretraining(tmp_path: Path, given: list[dict[str, Any]]) -> None:
    (tmp_path / "data" / "train").mkdir(parents=True)
    experiment = Experiment(dataclasses.replace(plan.PLANS["elpv"], make=lambda folder: folder), tmp_path)
    for name in ("v2", *plan.VARIATIONS):
        assert experiment.weights(name) == str(tmp_path / f"pretrained-{name}")
    usual, *varied = (flat(dataclasses.asdict(pretrain_config((), one))) for one in given)
    assert plan.VARIATIONS.keys() == CHANGED.keys()
    for name, found in zip(plan.VARIATIONS, varied, strict=True):
        changed = {key: value for key, value in found.items() if value != usual[key] and key != "output"}
        assert changed == CHANGED[name], name


def test_a_variation_of_fine_tuning_is_one_change_of_it(
    tmp_path: Path, given: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    def record(weights: str, **settings: Any) -> FinetuneResult:
        calls.append({"weights": weights, **settings})
        return FinetuneResult(tmp_path, 0, None, None, is_complete=False)

    monkeypatch.setattr(run, "finetune", record)
    (tmp_path / "data" / "train").mkdir(parents=True)
    experiment = Experiment(dataclasses.replace(plan.PLANS["elpv"], make=lambda folder: folder), tmp_path)
    experiment.labeled = 1969
    for name in ("v2", *plan.FINETUNING):
        with pytest.raises(SystemExit, match="stopped"):
            experiment.result(name, 0.1, 0, 3e-3, "test")
    assert {one["output"] for one in given} == {str(tmp_path / "pretrained-v2")}
    usual, *varied = (flat(one) for one in calls)
    assert all(usual.keys() <= one.keys() for one in varied)
    changed = [{key: value for key, value in one.items() if usual.get(key) != value} for one in varied]
    assert [Path(one.pop("output")).name.split("-0.1-")[0] for one in changed] == [
        f"finetuned-test-{n}" for n in plan.FINETUNING
    ]
    assert usual["data.crop_scale"] == (0.5, 1.0)
    assert changed == [
        {"data.crop_scale": (0.2, 1.0)}, {"data.crop_scale": (0.8, 1.0)},
        {"train.freeze": 2}, {"train.freeze": "head"},
    ]  # fmt: skip


def test_plans_leave_nothing_to_the_recipe_for_small_sets(tmp_path: Path, given: list[dict[str, Any]]) -> None:
    """They are what it comes from. Runs of before there was a recipe go on with what they have."""
    for name, chosen in plan.PLANS.items():
        (tmp_path / name / "data" / "train").mkdir(parents=True)
        experiment = Experiment(dataclasses.replace(chosen, make=lambda folder: folder), tmp_path / name)
        experiment.weights("v2")
        config = pretrain_config((), given[-1])
        assert isinstance(config, OpenConfig)
        assert not config.left_open
        assert (config.train.base_lr, config.train.warmup_epochs) == (None, None)
        assert config.model.stem_stride == (1 if name == "fashion_mnist" else None)


def test_table_2f_shares_the_weights_and_changes_grn_in_fine_tuning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrained: list[dict[str, Any]] = []
    finetuned: dict[str, Any] = {}

    def record(**settings: Any) -> SimpleNamespace:
        pretrained.append(settings)
        return SimpleNamespace(is_complete=True)

    def record_tuning(weights: str, **settings: Any) -> FinetuneResult:
        finetuned[Path(weights).name, settings["model"].get("use_grn")] = settings["model"]
        return FinetuneResult(tmp_path, 0, None, None, is_complete=False)

    monkeypatch.setattr(run, "pretrain", record)
    monkeypatch.setattr(run, "finetune", record_tuning)
    (tmp_path / "data" / "train").mkdir(parents=True)
    experiment = Experiment(dataclasses.replace(plan.PLANS["elpv"], make=lambda folder: folder), tmp_path)
    experiment.labeled = 100
    for network in ("v2", "grn-dropped", "v1", "grn-new"):
        with pytest.raises(SystemExit, match="stopped"):
            experiment.result(network, 0.1, 0, 3e-3, "test")
    assert finetuned == {
        ("pretrained-v2", None): {"img_size": 128},
        ("pretrained-v2", False): {"img_size": 128, "use_grn": False},
        ("pretrained-v1", None): {"img_size": 128},
        ("pretrained-v1", True): {"img_size": 128, "use_grn": True},
    }
    grn = [(one["model"].get("use_grn"), one["model"].get("use_layer_scale")) for one in pretrained]
    assert grn == [(None, None)] * 2 + [(False, True)] * 2


class Counted(Experiment):
    """Fine-tunes in no time: accuracy is highest at a learning rate of 1e-3."""

    calls = 0

    def _finetune(
        self, output: Path, network: str, share: float, seed: int, rate: float, tunes: bool
    ) -> tuple[float, int]:
        self.calls += 1
        return (0.9 if rate == 1e-3 else 0.5) + 0.01 * seed, 7


def test_what_was_computed_is_not_computed_again(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"model": {}, "pretrain": {}, "data": {}, "batch_size": 1, "images_seen": 1}
    tiny = plan.Plan(lambda folder: folder, epochs_within=(1, 1), **settings)
    first = Counted(tiny, tmp_path)
    assert first.best_rate("v2", 0.1) == 1e-3
    assert first.result("v2", 0.1, 2, 1e-3, "test") == Result("v2", 0.1, 2, 1e-3, "test", 0.92, 7)
    assert first.calls == len(plan.RATES) + 1
    again = Counted(tiny, tmp_path)
    assert again.best_rate("v2", 0.1) == 1e-3
    assert again.result("v2", 0.1, 2, 1e-3, "test").top1 == 0.92
    assert again.calls == 0
    assert len(run.read(tmp_path)) == len((tmp_path / run.RESULTS).read_text().splitlines()) == first.calls
    assert json.loads((tmp_path / run.RESULTS).read_text().splitlines()[-1])["phase"] == "test"


def test_a_stopped_fine_tuning_goes_on_and_a_finished_one_is_only_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the second of two epochs; then between the end and the line of results."""
    for split, name in product(("train", "test"), "ab"):
        (tmp_path / "data" / split / name).mkdir(parents=True)
        for n in range(4):
            Image.new("L", (32, 32), 40 * n + ord(name)).save(tmp_path / "data" / split / name / f"{n}.png")
    small = plan.Plan(
        lambda folder: folder, {"name": "convnextv2_atto", "in_chans": 1, "img_size": 32}, {}, {}, batch_size=4,
        images_seen=1, epochs_within=(2, 2),
    )  # fmt: skip
    experiment = Experiment(small, tmp_path)
    wanted = "scratch", 1.0, 0, 1e-3, "test"
    steps: list[int] = []
    train_step = loop._train_step

    def step(*args: Any) -> Any:
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt  # at once, without saving
        return train_step(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_train_step", step)
        with pytest.raises(KeyboardInterrupt):
            experiment.result(*wanted)
    steps.clear()
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_train_step", step)
        patch.setattr(run, "shutil", SimpleNamespace(rmtree=lambda *args, **more: None))
        first = experiment.result(*wanted)
        assert len(steps) == 2  # of 4
        (tmp_path / run.RESULTS).unlink()
        assert experiment.result(*wanted) == first
        assert len(steps) == 2
    (tmp_path / run.RESULTS).unlink()
    assert experiment.result(*wanted) == first
    assert not list(tmp_path.glob("finetuned-*"))


def test_results_of_another_plan_are_not_mixed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"model": {}, "pretrain": {}, "data": {}, "batch_size": 1, "images_seen": 1}
    tiny = plan.Plan(lambda folder: folder, epochs_within=(1, 1), **settings)
    for shares in ((0.1,), (0.1, 1.0)):  # more of the same
        Counted(dataclasses.replace(tiny, shares=shares), tmp_path).result("v2", 0.1, 0, 1e-3, "test")
    with pytest.raises(SystemExit, match=r"plan\.json says that another plan was followed there"):
        Counted(dataclasses.replace(tiny, batch_size=2), tmp_path)
    monkeypatch.setitem(plan.DECAY, True, 0.7)
    with pytest.raises(SystemExit, match=r"plan\.json says that another plan was followed there"):
        Counted(tiny, tmp_path)


def test_the_table_has_students_interval(tmp_path: Path) -> None:
    """Of 0.8, 0.9 and 1.0: 0.9 ± 4.303 · 0.1 / √3, by a table of Student's t with 2 degrees of freedom."""
    results = [Result("v2", 0.1, seed, 1e-3, "test", 0.8 + 0.1 * seed, 10) for seed in range(3)]
    results += [Result("v2", 0.1, 0, 3e-3, "tune", 0.0, 10), Result("scratch", 1.0, 0, 3e-3, "test", 0.5, 10)]
    found = table.cells(results)
    assert found["v2", 0.1].mean == pytest.approx(0.9)
    assert found["v2", 0.1].half == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-6)
    assert table.markdown(results).splitlines() == [
        "| | 10% | 100% |",
        "|---|---|---|",
        "| V2, pretrained | 90.0 ± 24.8 (3 seeds, lr 0.001) | – |",
        "| V2, from scratch | – | 50.0 (1 seed, lr 0.003) |",
    ]
    overview.draw({"one": results, "other": results[:3]}, tmp_path / "overview.png")
    with Image.open(tmp_path / "overview.png") as image:
        assert image.size == (1200, 570)
    table.figure(results, "made up", tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        assert image.width > 600


def test_results_of_two_learning_rates_are_not_mixed() -> None:
    """The mean is that of the rate that was tested last."""
    results = [Result("v1", 0.1, seed, 3e-3, "test", 0.2, 10) for seed in range(3)]
    results += [Result("v1", 0.1, seed, 1e-3, "test", 0.6, 10) for seed in range(2)]
    assert table.cells(results)["v1", 0.1] == (0.6, 0.0, 2, 1e-3)
    assert table.tested(results) == results[3:]


def test_the_rate_can_be_tuned_at_one_share_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[float, str]] = []

    class Recorded(Counted):
        def result(self, network: str, share: float, seed: int, rate: float, phase: Any) -> Result:
            asked.append((share, phase))
            return super().result(network, share, seed, rate, phase)

    small = dataclasses.replace(plan.PLANS["elpv"], make=lambda folder: folder)
    monkeypatch.setattr(command, "Experiment", Recorded)
    monkeypatch.setitem(plan.PLANS, "elpv", small)
    arguments = "x elpv --networks v2 --shares 0.05 0.25 --seeds 0 --tune-at 0.1 --folder"
    monkeypatch.setattr("sys.argv", [*arguments.split(), str(tmp_path)])
    command.main()
    tuned = [share for share, phase in asked if phase == "tune"]
    assert tuned == [0.1] * 2 * len(plan.RATES)  # the second time as it is written down
    assert {share for share, phase in asked if phase == "test"} == {0.05, 0.25}
    assert "| V2, pretrained | 90.0 (1 seed, lr 0.001) | 90.0 (1 seed, lr 0.001) |" in capsys.readouterr().out


def test_every_network_that_can_be_asked_for_has_a_row() -> None:
    """The accuracy is in the network's own row, in the order of the plan."""
    results = [Result(name, 0.1, 0, 3e-3, "test", place / 100, 655) for place, name in enumerate(plan.KNOWN)]
    rows = table.markdown(results[::-1]).splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == [one.title for one in plan.KNOWN.values()]
    assert all(f"{place:.1f}" in row for place, row in enumerate(rows))
