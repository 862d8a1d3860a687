"""The network that is fine-tuned: its weights, its classifier, its frozen stages."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers import DropPath

from fcmae.data.normalizer import Normalizer
from fcmae.errors import UserError
from fcmae.finetuning.classes import write_classes
from fcmae.finetuning.config import FinetuneConfig, FinetuneModelConfig, FinetuneTrainConfig
from fcmae.finetuning.network import backend_for, build, described, freeze, random_weights, starting_weights
from fcmae.models.block import Block
from fcmae.models.classifier import Classifier
from fcmae.models.layers import PLAIN as PLAIN_BACKEND
from fcmae.sparse.backends import registry
from fcmae.weights.stated import stated_beside
from tests.fcmae.small_runs import save_run

PLAIN = Normalizer((0.5,) * 3, (0.25,) * 3)
SMALL = FinetuneModelConfig(name="convnextv2_atto", img_size=32)


def network(classes: int = 3, model: FinetuneModelConfig = SMALL, **config: Any) -> Any:
    weights = starting_weights(FinetuneConfig(model=model, **{"weights": "scratch"} | config))
    names = [f"class {n}" for n in range(classes)]
    return build(weights, described(weights, model), model, names, PLAIN, seed=0)


def test_a_new_classifier_starts_small_and_drop_path_grows() -> None:
    plain, scaled = (network(5, FinetuneModelConfig(img_size=32, head_init_scale=s)) for s in (1.0, 0.001))
    assert torch.allclose(scaled.head.fc.weight, 0.001 * plain.head.fc.weight)
    assert torch.equal(scaled.stages[2].blocks[3].conv_dw.weight, plain.stages[2].blocks[3].conv_dw.weight)
    rates = [one.drop_prob for one in network().modules() if isinstance(one, DropPath)]
    assert rates[-1] == pytest.approx(0.1)
    assert rates == sorted(rates)


def test_a_run_s_encoder_is_where_training_starts(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", in_chans=2)
    weights = starting_weights(FinetuneConfig(weights=str(run)))
    found = described(weights, FinetuneModelConfig())
    assert (found.name, found.image_hw, found.in_chans, found.stem_stride) == ("convnextv2_atto", (32, 32), 2, 1)
    built: Any = build(weights, found, FinetuneModelConfig(), ["a", "b"], Normalizer((0.5,) * 2, (0.2,) * 2), 0)
    assert torch.equal(built.stages[1].blocks[0].mlp.grn.weight, weights.encoder["stages.1.blocks.0.mlp.grn.weight"])
    assert built.head.fc.weight.shape == (2, 320)


@pytest.mark.parametrize("backend", ["dense", "numba"])
def test_dropped_grn_passes_its_input_on_and_a_line_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, backend: str
) -> None:
    """GRN whose weight and bias are zero does that; those of the run are not."""
    weights = starting_weights(FinetuneConfig(weights=str(save_run(tmp_path / "run"))))
    kept, dropped = (FinetuneModelConfig(use_grn=use_grn) for use_grn in (None, False))
    caplog.clear()
    with caplog.at_level(logging.INFO):
        without: Any = build(weights, described(weights, dropped), dropped, ["a", "b"], PLAIN, 0, backend).eval()
    assert [one.getMessage() for one in caplog.records if "GRN" in one.getMessage()] == [
        f"{weights.origin}: its GRN is dropped"
    ]
    assert not any("grn" in name for name, _ in without.named_parameters())
    whole: Any = build(weights, described(weights, kept), kept, ["a", "b"], PLAIN, 0, backend).eval()
    images = torch.randn(2, 3, 32, 32)
    assert not torch.allclose(without(images), whole(images), rtol=0.1)
    for name, parameter in whole.named_parameters():
        if ".grn." in name:
            torch.nn.init.zeros_(parameter)
    assert torch.allclose(without(images), whole(images), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("backend", ["dense", "numba"])
@pytest.mark.parametrize("with_layer_scale", [False, True])
def test_new_grn_changes_nothing_at_first_and_a_line_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, backend: str, with_layer_scale: bool
) -> None:
    run = save_run(tmp_path / "run", use_grn=False, use_layer_scale=with_layer_scale)
    weights = starting_weights(FinetuneConfig(weights=str(run)))
    new, as_it_is = (FinetuneModelConfig(use_grn=use_grn) for use_grn in (True, None))
    caplog.clear()
    with caplog.at_level(logging.INFO):
        added: Any = build(weights, described(weights, new), new, ["a", "b"], PLAIN, 0, backend)
    assert [one.getMessage() for one in caplog.records if "GRN" in one.getMessage()] == [
        f"{weights.origin}: its GRN is new"
    ]
    grn = {name: parameter for name, parameter in added.named_parameters() if ".grn." in name}
    assert len(grn) == 2 * 12  # weight and bias of every block
    assert not any(parameter.any() for parameter in grn.values())
    same: Any = build(weights, described(weights, as_it_is), as_it_is, ["a", "b"], PLAIN, 0, backend)
    images = torch.randn(2, 3, 32, 32)
    assert torch.allclose(added.eval()(images), same.eval()(images), rtol=1e-4, atol=1e-6)
    added(images).logsumexp(1).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in grn.values())  # and it is trained


@pytest.mark.parametrize("stages", [0, 2, 4])
def test_frozen_stages_have_neither_gradients_nor_drop_path(stages: int) -> None:
    model = network()
    dropping = [name for name, one in model.named_modules() if isinstance(one, DropPath) and one.drop_prob]
    assert len(dropping) == 11  # all blocks but the first
    freeze(model, stages)
    fixed = ("stem.", *(f"stages.{n}." for n in range(stages))) if stages else ()
    free = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert free == [name for name, _ in model.named_parameters() if not name.startswith(fixed)]
    still = [name for name, one in model.named_modules() if isinstance(one, DropPath) and one.drop_prob]
    assert still == [name for name in dropping if not name.startswith(fixed)]
    if stages == 4:
        assert sorted(free) == ["head.fc.bias", "head.fc.weight", "head.norm.bias", "head.norm.weight"]


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_an_isotropic_network_has_one_stage_to_freeze(stages: int) -> None:
    model = network(model=FinetuneModelConfig(name="convnext_isotropic_small", img_size=32))
    if stages in (2, 3):
        with pytest.raises(UserError, match=f"--train.freeze {stages}: an isotropic network has one stage; give 0, 1"):
            freeze(model, stages)
        return
    freeze(model, stages)
    free = {name.partition(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert free == {"head"}


def with_head(folder: Path, classes: list[str] | None, outputs: int) -> Path:
    """A state dict with a classifier, beside the names of its classes."""
    from safetensors.torch import save_file

    model = network(outputs)
    torch.nn.init.constant_(model.head.fc.weight, 7.0)
    folder.mkdir()
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    if classes is not None:
        write_classes(folder, classes, False)
    return folder


@pytest.mark.parametrize(
    ("classes", "outputs", "says"),
    [
        (None, 3, "its classifier of 3 classes without names is kept"),
        (["class 0", "class 1", "class 2"], 3, ""),
        (None, 5, "its classifier is of 5 classes, and the labeled images have 3 classes"),
        (["class 0", "cat", "dog"], 3, "its classifier is of other classes"),
    ],
)
def test_a_classifier_is_kept_for_the_same_classes_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, classes: list[str] | None, outputs: int, says: str
) -> None:
    folder = with_head(tmp_path / "weights", classes, outputs)
    assert stated_beside(folder / "model.safetensors").classes == (None if classes is None else tuple(classes))
    with caplog.at_level(logging.INFO):
        built = network(3, weights=str(folder))
    assert (built.head.fc.weight == 7).all() == (not says or says.endswith("kept"))
    assert ("its classifier" in caplog.text) == bool(says)
    assert says in caplog.text


def test_class_names_are_of_the_weights_own_run_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name of timm, or a file that merely lies somewhere below a run, has none of the run's."""
    monkeypatch.chdir(tmp_path)
    write_classes(tmp_path, ["cat", "dog"], False)
    inside = [*("checkpoints/last", "export/timm"), *("mine", "mine/last")]
    for folder in inside:
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "model.safetensors").touch()
    found = {folder: stated_beside(tmp_path / folder / "model.safetensors").classes for folder in inside}
    own = ("cat", "dog")
    assert found == {"checkpoints/last": own, "export/timm": own, "mine": None, "mine/last": None}
    assert [stated_beside(folder).classes for folder in (tmp_path, ".", "checkpoints")] == [own] * 3
    assert stated_beside("convnextv2_atto.fcmae_ft_in1k").classes is None


def test_wrong_weights_get_a_line(tmp_path: Path) -> None:
    for config, message in (
        (FinetuneConfig(), "WEIGHTS is missing: give a run, a file or folder of weights"),
        (FinetuneConfig(weights="nowhere"), "WEIGHTS nowhere does not exist, and is not a ConvNeXt of timm"),
        (
            FinetuneConfig(weights=str(save_run(tmp_path)), model=FinetuneModelConfig(name="convnext_tiny")),
            r"--model\.name is convnext_tiny, but .* has convnextv2_atto",
        ),
    ):
        with pytest.raises(UserError, match=message):
            starting_weights(config)
    with pytest.raises(UserError, match=r"--model\.img_size must be a multiple of the patch size 32"):
        network(model=FinetuneModelConfig(img_size=40))


def chosen(backend: str = "auto", precision: str = "fp32", compile: bool = False, **weights: Any) -> str:
    start = replace(random_weights(SMALL, 0), **weights)
    return backend_for(
        replace(SMALL, backend=backend), start, FinetuneTrainConfig(compile=compile), torch.device("cpu"), precision
    )


def test_auto_takes_numba_where_its_kernels_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen() == "numba"
    assert chosen("dense") == chosen(precision="bf16") == chosen(compile=True) == "dense"
    assert chosen("numba", precision="bf16") == "numba"  # as asked for
    on_gpu = backend_for(SMALL, random_weights(SMALL, 0), FinetuneTrainConfig(), torch.device("cuda"), "fp32")
    assert on_gpu == "dense"
    monkeypatch.setattr(registry, "_load", lambda name: PLAIN_BACKEND)  # Numba is not installed
    assert chosen() == "dense"


def test_a_backend_that_cannot_serve_gets_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.delenv("TRITON_INTERPRET", raising=False)
        with pytest.raises(UserError, match=r"^--model\.backend triton needs .*; take auto or dense$"):
            chosen("triton")
    stem = {f"stem.{n}.weight": torch.zeros(1) for n in (0, 1, 3, 4)}
    with pytest.raises(UserError, match=r"--model\.backend numba: MMEarth's stem looks beyond a patch"):
        chosen("numba", encoder=stem)
    assert chosen(encoder=stem) == "dense"


@pytest.mark.parametrize("stages", [2, 4])
def test_the_kernels_network_is_the_dense_one(stages: int) -> None:
    """The same start, the same frozen stages, without drop path there."""
    weights = random_weights(SMALL, 0)
    pair = [
        build(weights, described(weights, SMALL), SMALL, ["a", "b"], PLAIN, seed=0, backend=backend).eval()
        for backend in ("dense", "numba")
    ]
    assert [type(one) is Classifier for one in pair] == [False, True]
    for one in pair:
        freeze(one, stages)
    wanted, got = ({n: p.requires_grad for n, p in one.named_parameters()} for one in pair)
    assert got == wanted
    images = torch.randn(2, 3, 32, 32)
    assert torch.allclose(pair[0](images), pair[1](images), rtol=1e-4, atol=1e-7)
    rates = [one.drop_prob for one in pair[1].modules() if isinstance(one, Block)]
    frozen = (0, 0, 4, 0, 12)[stages]
    assert rates[:frozen] == [0.0] * frozen
    assert all(rates[max(1, frozen) :])
