"""``fcmae stats``: what it counts, what it finds, the flags that it prints, and the page."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from fcmae.cli.pretrain_parser import parse_config
from fcmae.errors import UserError
from fcmae.stats import main, pretrain_arguments, stats
from fcmae.survey.page import _counted
from fcmae.survey.result import StatsResult
from tests.fcmae.data.reading.makers import dicom
from tests.fcmae.survey.test_duplicates import picture, worse

R = np.random.default_rng(0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures, a copy of the same bytes, one made smaller, one of one color, one damaged."""
    folder = tmp_path_factory.mktemp("stats") / "photos"
    folder.mkdir()
    for n in range(6):
        Image.fromarray(picture(n, 200 + 10 * n)).save(folder / f"{n}.jpg")
    (folder / "again.jpg").write_bytes((folder / "0.jpg").read_bytes())
    Image.fromarray(worse(picture(1, 210), (105, 105), 80)).save(folder / "small.png")
    Image.new("RGB", (100, 100), (1, 2, 3)).save(folder / "plain.png")
    (folder / "<b>.jpg").write_bytes((folder / "0.jpg").read_bytes()[:3000])
    return folder


@pytest.fixture(scope="module")
def found(photos: Path) -> StatsResult:
    out = photos.parent
    return stats(str(photos), output=str(out / "page.html"), json=str(out / "all.json"), num_workers=0)


def test_counts(found: StatsResult) -> None:
    assert found.images == 9
    assert found.endings == {".jpg": 8, ".png": 2}
    assert found.kinds == {"3 × uint8 RGB": 9}
    assert found.short_side == (100, 210, 250)
    assert found.in_chans == 3
    assert found.sampled == 9


def test_damage_and_duplicates_are_named(found: StatsResult, photos: Path) -> None:
    (message,) = found.damaged
    assert message.startswith(f"{photos}/<b>.jpg: ")
    assert found.equal == (("0.jpg", "again.jpg"),)
    assert set(map(frozenset, found.alike)) == {frozenset(("0.jpg", "again.jpg")), frozenset(("1.jpg", "small.png"))}
    assert found.one_color == ("plain.png",)


def test_values_are_those_of_the_pixels(found: StatsResult, photos: Path) -> None:
    """Images of at most 256 pixels are sampled at 4,096 places each."""
    files = [file for file in photos.iterdir() if file.name != "<b>.jpg"]
    pixels = [np.asarray(Image.open(file)).reshape(-1, 3) / 255 for file in files]
    mean = np.mean([one.mean(0) for one in pixels], axis=0)
    np.testing.assert_allclose(found.mean, mean, atol=0.01)
    assert found.value_range is None
    assert found.channels[0].nodata_share == 0


def test_the_flags_are_ones_that_pretrain_takes(found: StatsResult) -> None:
    config = parse_config(["--data.path", "x", *found.flags])
    assert (config.model.in_chans, config.model.img_size, config.model.stride) == (3, 128, 4)
    assert config.data.mean == found.mean
    assert config.data.std == found.std


def test_all_figures_are_in_the_json_file(found: StatsResult, photos: Path) -> None:
    values = json.loads((photos.parent / "all.json").read_text())
    assert values["images"] == 9
    assert values["damaged"] == list(found.damaged)
    assert values["flags"] == list(found.flags)


def test_the_page_is_whole_and_nothing_breaks_out_of_it(found: StatsResult, photos: Path) -> None:
    page = (photos.parent / "page.html").read_text()
    assert "<b>" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert page.count('<img src="data:image/jpeg;base64,') == 9
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    charts = json.loads(re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)[0])
    assert set(charts) == {"sizes", "values"}
    assert [len(series["x"]) for series in charts["values"]["series"]] == [64] * 3
    assert sum(charts["sizes"]["series"][0]["y"]) == pytest.approx(100, rel=1e-3)


def test_deep_images_with_undeclared_nodata(tmp_path: Path) -> None:
    for n in range(4):
        array = (1000 + 50 * n + 100 * R.normal(size=(2, 90, 120))).astype(np.float32)
        array[:, :9] = -9999
        tifffile.imwrite(tmp_path / f"{n}.tif", array, photometric="minisblack", planarconfig="separate")
    found = stats(str(tmp_path), num_workers=0)
    assert found.kinds == {"2 × float32": 4}
    assert [one.nodata_share for one in found.channels] == pytest.approx([0.1, 0.1], abs=0.02)
    assert all(one.minimum > 400 and one.maximum < 1700 for one in found.channels)
    data = parse_config(["--data.path", "x", *found.flags]).data
    assert data.nodata == -9999
    assert data.value_range == found.value_range
    declared = stats(str(tmp_path), num_workers=0, nodata=-9999)
    assert declared.flags == found.flags
    assert not declared.notes


def test_processes_and_the_seed_decide_nothing_and_the_sample(photos: Path, found: StatsResult) -> None:
    assert stats(str(photos), num_workers=2) == found
    assert stats(str(photos), num_workers=0, seed=1).mean != found.mean


def test_what_would_be_overwritten_and_what_is_missing(photos: Path, found: StatsResult, tmp_path: Path) -> None:
    (tmp_path / "mine.html").write_text("x")
    for arguments, reason in (
        ({"output": tmp_path / "mine.html"}, "exists and is not an fcmae report"),
        ({"json": photos.parent / "all.json"}, r"--json .*all\.json exists; give another, or --overwrite"),
        ({"json": tmp_path}, "is a folder"),
    ):
        with pytest.raises(UserError, match=reason):
            stats(str(photos), **arguments)
    with pytest.raises(UserError, match=r"SOURCE .*nowhere does not exist"):
        stats(str(tmp_path / "nowhere"))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(UserError, match=r"^the only image of .*images cannot be read: .*a\.jpg"):
        stats(str(tmp_path / "images"), num_workers=0)


def test_what_says_how_files_are_read_is_in_the_flags(tmp_path: Path) -> None:
    (tmp_path / "a,b").mkdir()
    for n in range(2):
        values = (100 * n + np.arange(1600, dtype=np.int16)).reshape(40, 40)
        file = dicom(values, RescaleSlope=1, RescaleIntercept=-400, WindowCenter=40, WindowWidth=400)
        (tmp_path / "a,b" / f"{n}.dcm").write_bytes(file)
    source = str(tmp_path / "a,b")
    shown = stats(source, num_workers=0)
    assert (shown.kinds, shown.value_range) == ({"1 × uint8": 2}, None)
    found = stats(
        source, num_workers=0, dicom_window=False, max_pixels=1600, data={"cache_size": "1GB", "timeout": 5.0}
    )
    assert [(one.minimum, one.maximum) for one in found.channels] == [(-400, 1299)]
    config = parse_config(pretrain_arguments([source], found.flags, found.images))
    assert config.data.path == source
    assert (config.data.max_pixels, config.data.cache_size, config.data.timeout) == (1600, "1GB", 5.0)
    assert config.data.value_range == found.value_range
    assert found.endings == {".dcm": 2}


def test_results_are_valid_json_and_where_they_go_is_checked_first(photos: Path, tmp_path: Path) -> None:
    for n in range(2):
        array = np.full((2, 40, 40), np.nan, np.float32)
        array[1] = R.normal(size=(40, 40))
        tifffile.imwrite(tmp_path / f"{n}.nii.tif", array, photometric="minisblack", planarconfig="separate")
    file = tmp_path / "new" / "all.json"
    stats(str(tmp_path), json=str(file), num_workers=0)
    assert json.loads(file.read_text(), parse_constant=pytest.fail)["channels"][0]["mean"] is None
    (tmp_path / "text").write_text("x")
    with pytest.raises(UserError, match=r"--json .* cannot be written: .*text is not a folder"):
        stats(str(photos), json=str(tmp_path / "text" / "all.json"))
    with pytest.raises(UserError, match="--output and --json are the same file"):
        stats(str(photos), json=str(tmp_path / "x"), output=str(tmp_path / "x"))


def test_the_command_ends_with_a_line_to_paste(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(photos), "--num_workers", "0"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("images       9 (")
    assert printed[0].endswith("1 damaged")
    assert " --model.in_chans 3 --data.mean " in printed[-1]
    assert f"--config auto --data.path {photos}" in printed[-1]


@pytest.mark.parametrize(("images", "recipe"), [(99_999, "auto"), (100_000, "pretrain")])
def test_the_line_names_the_recipe_for_so_many_images(images: int, recipe: str) -> None:
    arguments = pretrain_arguments(["a", "b"], ["--model.in_chans", "1"], images)
    assert arguments == ["--config", recipe, "--data.path", "a,b", "--model.in_chans", "1"]


@pytest.mark.parametrize(("kinds", "said"), [(2, ""), (3, " and 1 more kind"), (5, " and 3 more kinds")])
def test_what_is_left_out_of_a_count_is_counted(kinds: int, said: str) -> None:
    assert _counted(dict.fromkeys("abcde"[:kinds], 7), most=2) == f"7 of a, 7 of b{said}"
