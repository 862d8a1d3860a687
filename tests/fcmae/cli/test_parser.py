"""The parser of every command: made from its settings dataclass, with help, lists, switches and one-line errors."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcmae.cli.fields import leaves, metavar
from fcmae.cli.parser import make_parser, parse
from fcmae.collapse import CollapseConfig
from fcmae.config import PretrainConfig
from fcmae.convert import ConvertConfig
from fcmae.errors import UserError
from fcmae.evaluate import EvaluateConfig
from fcmae.reconstruct import ReconstructConfig
from fcmae.report import ReportConfig

KINDS = [PretrainConfig, EvaluateConfig, CollapseConfig, ReconstructConfig, ConvertConfig, ReportConfig]


@dataclass(frozen=True)
class Inner:
    """A group."""

    path: str | None = None
    """Where."""


@dataclass(frozen=True)
class Settings:
    """All kinds of settings."""

    names: tuple[str, ...]
    """What."""
    last: str
    """The last one."""
    data: Inner = field(default_factory=Inner, metadata={"bare": "path"})
    sizes: int | tuple[int, int] = 3
    """One or two."""
    shares: tuple[float, ...] | None = None
    """Some or none."""
    words: tuple[str, ...] = ("a", "b")
    """Words."""
    pair: tuple[float, float] = (0.0, 1.0)
    """Two."""
    on: bool = False
    """A switch."""
    maybe: bool | None = None
    """A switch with a default of its own."""
    kind: Literal["x", "y"] = "x"
    """A choice."""


def of(line: str) -> Settings:
    """With one positional list of one item, and the last."""
    return parse(ListFirst, ["item", *line.split()])


@dataclass(frozen=True)
class ListFirst(Settings):
    """As above, without the second positional."""

    last: str = ""


@pytest.mark.parametrize("kind", KINDS)
def test_help_explains_every_setting_with_its_default(kind: type) -> None:
    usage, _, text = " ".join(make_parser(kind, "fcmae command").format_help().split()).partition("options: -h")
    assert usage.startswith("usage: fcmae command ")
    for leaf in leaves(kind).values():
        name = metavar(leaf) if leaf.is_positional else f"--{leaf.name}"
        assert f" {name} " in text
        help_text, _, rest = text.partition(f" {name} ")[2].partition("(type: ")
        if leaf.is_positional:
            assert "(required, type: " in text.partition(f" {name} ")[2]
        else:
            shown = "null" if leaf.default is None else str(leaf.default)
            assert rest.partition("default: ")[2].startswith(f"{shown})"), leaf.name
        assert len(help_text) > 20, f"{leaf.name} is not explained: {help_text}"


@pytest.mark.parametrize("kind", KINDS)
def test_without_options_it_is_the_dataclass_default(kind: type) -> None:
    needed = [leaf.name for leaf in leaves(kind).values() if leaf.is_positional]
    values = [(name,) if leaves(kind)[name].item else name for name in needed]
    assert parse(kind, needed) == kind(*values)


@pytest.mark.parametrize("text", ["0.25,0.5", "[0.25,0.5]", "[0.25, 0.5]", "0.25 0.5", "(0.25,0.5)", "0.25, 0.5"])
def test_lists_are_written_in_several_ways(text: str) -> None:
    arguments = text.split(" ") if text == "0.25 0.5" else [text]
    assert parse(ListFirst, ["item", "--shares", *arguments]).shares == (0.25, 0.5)
    assert parse(ListFirst, ["item", "--pair", *arguments, "--on"]).pair == (0.25, 0.5)
    assert parse(ListFirst, ["item", "--words", *arguments]).words == ("0.25", "0.5")
    assert parse(ListFirst, ["--pair", *arguments, "item"]).names == ("item",)  # what is no number ends the list


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=4))
def test_every_number_survives(numbers: list[float]) -> None:
    text = ",".join(map(repr, numbers))
    assert parse(ListFirst, ["item", f"--shares=[{text}]"]).shares == tuple(numbers)
    assert parse(
        ListFirst, ["item", "--shares", *map(repr, numbers)] if numbers else ["item", "--shares=[]"]
    ).shares == (tuple(numbers))


@settings(deadline=None)
@given(st.lists(st.text("abc=/., _é", min_size=1), min_size=1, max_size=4))
def test_positional_arguments_stay_as_they_are(names: list[str]) -> None:
    """Commas, equal signs and blanks are parts of names."""
    assert parse(ListFirst, names).names == tuple(names)
    assert parse(ListFirst, ["--on", *names, "--kind", "y"]).names == tuple(names)


def test_one_number_or_two() -> None:
    assert of("--sizes 5").sizes == 5
    assert of("--sizes 5,6").sizes == of("--sizes 5 6").sizes == of("--sizes=[5,6]").sizes == (5, 6)
    assert of("--shares null").shares is None
    assert of("--shares 0.5").shares == (0.5,)
    assert of("--shares -0.5 -1").shares == (-0.5, -1)


def test_switches_stand_alone_or_with_a_word() -> None:
    assert of("--on").on is of("--on true").on is of("--on=true").on is True
    assert of("").on is of("--on false").on is of("--on=false").on is False
    assert parse(ListFirst, ["--on", "item"]).names == ("item",)
    assert of("--maybe").maybe is True
    assert of("--maybe null").maybe is None


def test_groups() -> None:
    assert of("--data.path x").data == of("--data x").data == of("--data=x").data == Inner("x")
    assert parse(ListFirst, ["item", "--data", '{"path": "x"}']).data == Inner("x")


def test_everything_after_two_dashes_is_positional() -> None:
    assert parse(ListFirst, ["--on", "--", "item", "other"]).names == ("item", "other")


@pytest.mark.parametrize(
    ("kind", "line", "message"),
    [
        (ListFirst, "", "NAMES is missing; see --help"),
        (EvaluateConfig, "--k 5", "[LABEL=]CKPT is missing; see --help"),
        (ConvertConfig, "a", "DST is missing; see --help"),
        (ConvertConfig, "a b c", "unexpected argument c; options begin with --"),
        (ListFirst, "item --onn", "--onn is not an option; the nearest is --on"),
        (ListFirst, "item -on", "-on is not an option; the nearest is --on"),
        (ListFirst, "item --names a", "--names is not an option"),
        (ListFirst, "item --kind", "--kind needs a value"),
        (ListFirst, "item --kind --on", "--kind needs a value"),
        (ListFirst, "item --kind z", "--kind: Expected one of ['x', 'y']. Got value: z"),
        (ListFirst, "item --on=maybe", "--on: Expected true or false. Got value: maybe"),
        (ListFirst, "item --shares x", "--shares: Expected numbers (1,2,…) or null. Got value: ['x']"),
        (ListFirst, "item --pair 1", "--pair takes 2 values, such as --pair 0,1; got 1"),
        (ListFirst, "item --sizes 1,2,3", "Expected a whole number or two whole numbers (1,2). Got value: [1, 2, 3]"),
        (EvaluateConfig, "a --data.dataset cifar", "--data.dataset cifar needs --data.path, the folder that holds it"),
        (EvaluateConfig, "a --data.num_workers -1", "--data.num_workers must be at least 0, got -1"),
        (CollapseConfig, "a --tap relu", "Expected one of ['expansion', 'act', 'grn', 'block']. Got value: relu"),
        (ReconstructConfig, "a --img_size 0", "--img_size must be a number of pixels, or height,width, got 0"),
        (ReconstructConfig, "a --img_size 1,2,3", "Expected a whole number or two whole numbers (1,2) or null"),
    ],
)  # fmt: skip
def test_wrong_arguments_get_one_line(kind: type, line: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse(kind, line.split())
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_spellings_of_before() -> None:
    """What the commands were told until now, they understand."""
    collapse = parse(
        CollapseConfig, ["a=runs/a", "vit_base_patch16_224", "--tap", "act", "--layers", "0.1", "0.5", "--sparse"]
    )
    assert (collapse.models, collapse.tap) == (("a=runs/a", "vit_base_patch16_224"), "act")
    assert (collapse.layers, collapse.sparse) == (("0.1", "0.5"), True)
    evaluate = parse(EvaluateConfig, ["runs/mine", "--data.path", "labeled/", "--overwrite", "--output", "o"])
    assert (evaluate.ckpt, evaluate.data.path, evaluate.overwrite) == (("runs/mine",), "labeled/", True)
    reconstruct = parse(
        ReconstructConfig, ["--mask_ratios", "0.4,0.6", "--img_size", "224,160", "RUN", "--output", "D"]
    )
    assert (reconstruct.ckpt, reconstruct.output) == ("RUN", "D")
    assert (reconstruct.mask_ratios, reconstruct.image_hw) == ((0.4, 0.6), (224, 160))
    assert parse(ReconstructConfig, ["RUN", "--img_size", "224"]).image_hw == (224, 224)
    convert = parse(ConvertConfig, ["--overwrite", "SRC", "DST", "--format", "timm"])
    assert (convert.src, convert.dst, convert.format, convert.overwrite) == ("SRC", "DST", "timm", True)
    assert parse(ReportConfig, ["RUN", "--output", "F"]) == ReportConfig("RUN", "F")


@dataclass(frozen=True)
class Sources:
    """A setting that is one text or several."""

    path: tuple[str, ...] | str | None = None
    """Where."""
    seed: int = 0
    """Another."""


@dataclass(frozen=True)
class NamedSources:
    """As above, with a positional setting."""

    name: str
    """What."""
    path: tuple[str, ...] | str | None = None
    """Where."""


@pytest.mark.parametrize("line", ["a,b", "[a,b]", "a b", "(a,b)"])
def test_one_path_or_several(line: str) -> None:
    assert parse(Sources, ["--path", *line.split(), "--seed", "1"]) == Sources(("a", "b"), 1)


@pytest.mark.parametrize("path", ["a", "2020", "1e3", "a: b", "d/*[0-9]*.png", "x/caf\udce9"])
def test_a_path_is_text(path: str) -> None:
    assert parse(Sources, ["--path", path]).path == path
    assert parse(Sources, ["--path", path, "other"]).path == (path, "other")
    assert parse(NamedSources, ["--path", path, "word"]) == NamedSources("word", path)


def test_a_path_that_is_there_is_no_list(tmp_path: Path) -> None:
    for name in ("a, b", "[a,b]"):
        (tmp_path / name).mkdir()
        assert parse(Sources, ["--path", f"{tmp_path}/{name}"]).path == f"{tmp_path}/{name}"


@dataclass(frozen=True)
class WithWord:
    """A command whose first argument may be left out."""

    weights: str | None = field(default=None, metadata={"word": "WEIGHTS"})
    """Weights."""
    epochs: int = 1
    """Epochs."""


def test_an_optional_setting_may_be_a_word(tmp_path: Path) -> None:
    assert parse(WithWord, ["runs/mine", "--epochs", "2"]) == WithWord("runs/mine", 2)
    assert parse(WithWord, ["--epochs", "2", "runs/mine"]) == WithWord("runs/mine", 2)
    assert parse(WithWord, []) == WithWord()
    (tmp_path / "a=b").mkdir()
    assert parse(WithWord, [str(tmp_path / "a=b")]).weights == str(tmp_path / "a=b")
    with pytest.raises(UserError, match="unexpected argument epochs=3"):
        parse(WithWord, ["epochs=3"])
    with pytest.raises(UserError, match="unexpected argument other"):
        parse(WithWord, ["runs/mine", "other"])
