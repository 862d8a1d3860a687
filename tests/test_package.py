"""The package as people install it: what the wheel holds, where it runs, what importing it costs."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import fcmae

ROOT = Path(__file__).parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS: dict[str, str] = SETUPTOOLS["package-dir"]


def run(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess:
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, *args], cwd=cwd, env=clean | env, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: a build/ left in the checkout would bring back modules that are gone."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for top in ("fcmae", "sparse", "models", "configs"):
        shutil.copytree(ROOT / top, source / top, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    built = run("-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source), cwd=folder)
    assert built.returncode == 0, built.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def installed(wheel: Path) -> Path:
    """The wheel unpacked where nothing of the checkout is."""
    target = wheel.parent / "site"
    args = ("-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel))
    done = run(*args, cwd=wheel.parent)
    assert done.returncode == 0, done.stderr
    return target


def test_packages_in_pyproject_are_the_folders() -> None:
    assert SETUPTOOLS["packages"] == list(FOLDERS)
    tops = ("fcmae", "sparse", "models", "configs")
    with_init = {p.parent.relative_to(ROOT).as_posix() for top in tops for p in (ROOT / top).rglob("__init__.py")}
    assert set(FOLDERS.values()) == with_init
    for name, folder in FOLDERS.items():
        assert name == folder.replace("/", ".") or name == f"fcmae.{folder.replace('/', '.')}"


def test_the_wheel_holds_every_module_and_every_recipe(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for package, folder in FOLDERS.items():
        for file in [*(ROOT / folder).glob("*.py"), *(ROOT / folder).glob("*.yaml"), *(ROOT / folder).glob("py.typed")]:
            assert f"{package.replace('.', '/')}/{file.name}" in names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"fcmae", f"fcmae-{fcmae.__version__}.dist-info"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.parametrize("place", ["outside", "checkout", "checkout, -P", "models folder"])
def test_help_works_from_the_wheel_anywhere(installed: Path, tmp_path: Path, place: str) -> None:
    """Outside the checkout, inside it, and in a folder that has a models/ and a sparse/ of its own."""
    cwd = ROOT if place.startswith("checkout") else tmp_path
    flags = ["-P"] if place.endswith("-P") else []  # -P: not the folder one is in, so the wheel inside the checkout too
    if place == "models folder":
        for name in ("models", "sparse", "configs"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the wrong one')")
    done = run(*flags, "-m", "fcmae.pretrain", "--help", cwd=cwd, PYTHONPATH=str(installed))
    assert done.returncode == 0, done.stderr
    assert "--train.mask_ratio" in done.stdout
    assert "Shipped recipes: auto, demo, pretrain." in " ".join(done.stdout.split())
    code = "from importlib.util import find_spec; print(find_spec('fcmae.sparse').origin)"  # without torch
    where = run(*flags, "-c", code, cwd=cwd, PYTHONPATH=str(installed))
    if place != "checkout":
        assert where.stdout.startswith(str(installed))


def test_a_checkout_runs_with_nothing_installed(tmp_path: Path) -> None:
    """The editable install is hidden and the checkout put on the path: the dependencies stay, fcmae goes."""
    code = (
        "import sys;"
        "sys.meta_path = [f for f in sys.meta_path if 'editable' not in getattr(f, '__name__', '').lower()];"
        "import fcmae.sparse, fcmae.models, fcmae.configs; print(fcmae.sparse.__file__)"
    )
    done = run("-c", code, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.stdout.strip() == str(ROOT / "sparse" / "__init__.py"), done.stderr


def test_nothing_else_of_a_checkout_imports_as_a_part_of_fcmae(tmp_path: Path) -> None:
    """Else there would be two of every module, and an error of the one would not be caught as the other's."""
    names = ["fcmae.fcmae", "fcmae.tests", "fcmae.benchmarks"]
    code = f"""
import importlib, fcmae.sparse
for name in {names}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        print(error)
"""
    done = run("-c", code, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.stdout.splitlines() == [f"No module named '{name}'" for name in names], done.stderr


def test_the_library_part_needs_torch_timm_and_einops_alone(tmp_path: Path) -> None:
    """No accelerate, jsonargparse, scikit-image, scikit-learn, tensorboard, tifffile or tqdm of our asking."""
    code = """
import sys
for name in ('accelerate', 'jsonargparse', 'skimage', 'sklearn', 'tensorboard', 'tifffile'):
    sys.modules[name] = None  # importing it now raises ModuleNotFoundError
import fcmae
assert not [m for m in sys.modules if m.startswith('fcmae.')], 'import fcmae must be light'
import torch
model = fcmae.create_model('convnextv2_atto', img_size=64)
model(torch.randn(2, 3, 64, 64)).loss.backward()
print(len(fcmae.convert_to_dense(model.state_dict())), 'tensors')
"""
    done = run("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("tensors\n")


def test_public_names_are_there_and_others_are_not() -> None:
    for name in fcmae.__all__:
        assert name in dir(fcmae)
        assert getattr(fcmae, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = fcmae.nonsense  # type: ignore[attr-defined]


# FCMAE.from_pretrained, the only import that goes up
UPWARD = ("models/fcmae.py", "fcmae.weights.load")


def test_the_one_import_that_goes_up_is_inside_its_function() -> None:
    tree = ast.parse((ROOT / UPWARD[0]).read_text())
    upward = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module == UPWARD[1]]
    method = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "from_pretrained")
    assert len(upward) == 1
    assert upward[0] in method.body


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        ("sparse", {"fcmae.sparse"}),
        ("models", {"fcmae.sparse", "fcmae.models"}),
    ],
)
def test_imports_go_down_only(folder: str, allowed: set[str]) -> None:
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                if (file.relative_to(ROOT).as_posix(), name) == UPWARD:
                    continue
                assert not name.startswith("fcmae") or ".".join(name.split(".")[:2]) in allowed, f"{file}: {name}"
                assert name.split(".")[0] not in FOLDERS.values() or name.startswith("fcmae"), f"{file}: {name}"


@pytest.mark.parametrize("room", ["config", "data", "runs", "weights", "analysis"])
def test_rooms_below_do_not_import_the_commands(room: str) -> None:
    """Nor their parsers, the training loop and the report."""
    above = ("fcmae.cli", "fcmae.training", "fcmae.report_page")
    for file in (ROOT / "fcmae" / room).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.startswith(above)], f"{file}: {names}"
