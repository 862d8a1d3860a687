"""The Dockerfile, as far as it can be judged without building an image."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINES = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()


def arguments(instruction: str) -> list[str]:
    return [line.removeprefix(f"{instruction} ") for line in LINES if line.startswith(f"{instruction} ")]


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_base_is_pinned_and_nothing_runs_as_root() -> None:
    (base,) = arguments("FROM")
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base)
    assert LINES.index(f"USER {arguments('USER')[-1]}") > max(LINES.index(f"RUN {line}") for line in arguments("RUN"))
    assert arguments("USER")[-1] not in ("0", "root")
    assert json.loads(arguments("ENTRYPOINT")[0]) == ["fcmae"]


def test_it_reads_every_format_and_store() -> None:
    """All optional parts but those for developers, and those that are empty."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (installed,) = re.findall(r'"\.\[([\w,]+)\]"', "\n".join(arguments("RUN")))
    assert sorted(installed.split(",")) == sorted(
        name for name, packages in extras.items() if packages and name != "dev"
    )


def test_it_copies_the_package_and_nothing_else() -> None:
    """All that pip needs, each of it let through by .dockerignore, which keeps data and history out."""
    copied = {source for line in arguments("COPY") for source in line.split()[:-1]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {folder.split("/")[0] for folder in project["tool"]["setuptools"]["package-dir"].values()}
    files = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    assert copied == folders | files
    assert all((ROOT / source).exists() for source in copied)
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied
