"""The README's Python runs, and what the docs say of files, recipes and sizes is so."""

import ast
import inspect
import re
from pathlib import Path

import pytest
import torch

import fcmae
from fcmae import pretrain
from fcmae.cli.fields import leaves
from fcmae.cli.finetune_parser import RECIPES
from fcmae.cli.parser import parse
from fcmae.cli.pretrain_parser import parse_config, recipe_names
from fcmae.config import PretrainConfig
from fcmae.evaluate import EvaluateConfig
from fcmae.finetuning.config import FinetuneConfig
from fcmae.models.sizes import SIZES
from fcmae.pack import PackConfig
from fcmae.runs import checkpoint as ckpt

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]


def python_block(containing: str) -> str:
    """The README's one block of Python that holds these words."""
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if containing in b)
    return block


def test_every_block_of_python_is_tested() -> None:
    assert README.count("```python\n") == 3


def test_using_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a run folder where the README has one."""
    model = fcmae.create_model("convnextv2_tiny")
    optimizer = torch.optim.AdamW(model.parameters())
    config = {"name": "convnextv2_tiny"}
    state = ckpt.TrainState(step=1, effective_batch=1, samples_per_epoch=1)
    ckpt.save_checkpoint(tmp_path / "runs" / "mine", model, config, optimizer, state)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(python_block("create_dense"), names)  # the README is ours
    kernel = model.encoder.stem[0].weight
    assert torch.equal(names["model"].stem[0].weight, kernel)
    assert names["model"].head.fc.out_features == 10
    assert torch.equal(names["backbone"].stem_0.weight, kernel)
    assert torch.equal(names["state"]["stem.0.weight"], kernel)


def test_using_the_model() -> None:
    names: dict = {}
    exec(python_block("create_model"), names)  # the README is ours
    out = names["out"]
    assert (out.loss.shape, out.pred.shape, out.visible.shape) == ((), (2, 49, 3072), (2, 7, 7))
    assert names["features"].shape == (2, 320, 7, 7)
    assert names["model"].encoder.stem[0].weight.grad is not None


def test_the_call_that_pretrains_takes_these_arguments() -> None:
    """It is not run: it takes hours."""
    tree = ast.parse(python_block("from fcmae.pretrain import pretrain"))
    (call,) = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    given = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    inspect.signature(pretrain.pretrain).bind(**given)


def test_every_option_and_recipe_that_is_named_exists() -> None:
    """Of pretrain, else of pack, else of finetune (whose page comes first), but for those that only evaluate has."""
    of_evaluate = {f"--{name}" for name in leaves(EvaluateConfig)}
    recipes = [*recipe_names(), *RECIPES.names()]
    for file in DOCS:
        text = file.read_text()
        for recipe in re.findall(r"--config (\w+)(?= )", text):
            assert recipe in recipes, f"{file.name}: {recipe}"
        for option, value in re.findall(
            r"--((?:model|data|train|log|monitor)\.\w+) (\[[^\]]*\]|[\w./-]+(?:,[\w.-]+)*)", text
        ):
            if f"--{option}" in of_evaluate:
                continue
            is_of_finetune = file.name == "finetuning.md" and option in leaves(FinetuneConfig)
            if option in leaves(PretrainConfig) and not is_of_finetune:
                parse_config(["--data.path", "x", f"--{option}", value])
            elif option in leaves(PackConfig):
                parse(PackConfig, ["images/", "shards/", f"--{option}", value], "fcmae pack")
            else:
                RECIPES.parse(["--config", "few_labels", f"--{option}", value], "fcmae finetune")


def test_nothing_is_left_to_fill_in() -> None:
    for file in DOCS:
        left = set(re.findall(r"\b[A-Z]+_[A-Z_]+\b|TBD|TABLE", file.read_text()))
        assert not left - {
            "HF_TOKEN",
            "TRITON_INTERPRET",
            "NUMBA_CACHE_DIR",
            "GLIBC_TUNABLES",
            "OMP_WAIT_POLICY",
            "COMPLETE_BACKENDS",
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE",
        }, file.name


def test_links_lead_somewhere() -> None:
    for file in DOCS:
        for target in re.findall(r"\]\(([^)#:]+)\)", file.read_text()):
            assert (file.parent / target).is_file(), f"{file.name}: {target}"


def test_the_table_of_sizes_is_true() -> None:
    page = (ROOT / "docs" / "pretraining.md").read_text()
    rows = re.findall(r"\| `(convnextv2_\w+)` \| ([\d, ]+) \| ([\d, ]+) \| ([\d.]+) M \|", page)
    assert {name for name, *_ in rows} == {name for name in SIZES if name.startswith("convnextv2")}
    for name, depths, dims, millions in rows:
        assert tuple(map(int, depths.split(", "))) == SIZES[name].depths
        assert tuple(map(int, dims.split(", "))) == SIZES[name].dims
        with torch.device("meta"):
            encoder = fcmae.create_model(name).encoder
        assert float(millions) == round(sum(p.numel() for p in encoder.parameters()) / 1e6, 1)
