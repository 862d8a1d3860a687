"""``python -m fcmae.report`` without a browser: what the page says, and what bad input gets."""

import json
import re
import tomllib
from dataclasses import replace
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcmae.analysis.accuracy import Accuracy
from fcmae.analysis.collapse_file import DepthCurve
from fcmae.analysis.evaluation import Evaluation, LinearScores, NetworkScores, Protocol, Scores
from fcmae.analysis.evaluation_table import evaluation_table
from fcmae.errors import UserError
from fcmae.report import main, report
from fcmae.report_page.charts import depth_chart, knn_chart
from fcmae.report_page.pictures import MAX_PICTURES, MAX_SIDE
from fcmae.report_page.rendering import breakable
from fcmae.report_page.write import write_report
from fcmae.runs.reader import KNN, Series, read_run
from tests.fcmae.report_page.made_runs import collapse_file, made_run, training_lines

EVIL = "/data/</script><script>alert(1)</script>&\"'<!--<img src=x onerror=alert(2)>\u2028"


class Page(HTMLParser):
    """Tags with their attributes, the text outside scripts, and what each script holds."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts[-1] += data
        elif self.cdata_elem is None:
            self.text += data

    def charts(self) -> dict:
        return json.loads(self.scripts[0])

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def page_of(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


def test_the_curves_are_those_of_the_run(tmp_path: Path) -> None:
    charts = page_of(made_run(tmp_path / "run")).charts()
    assert set(charts) == {"loss", "lr", "throughput", "stages", "knn"}
    lines = list(training_lines())
    losses = [line for line in lines if "loss" in line]
    drawn, mean = charts["loss"]["series"]
    assert drawn["x"] == [line["step"] for line in losses]
    assert drawn["epoch"] == pytest.approx([line["epoch"] for line in losses])
    for line, value in zip(losses, drawn["y"], strict=True):
        assert value is None if line["loss"] is None else value == pytest.approx(line["loss"], rel=1e-5)
    assert mean["y"].count(None) == 10
    monitored = [line for line in lines if "knn_top1" in line]
    assert charts["knn"]["series"][0]["y"] == pytest.approx([100 * line["knn_top1"] for line in monitored], rel=1e-5)
    assert [series["name"] for series in charts["stages"]["series"]] == [f"stage {i}" for i in range(4)]
    for i, series in enumerate(charts["stages"]["series"]):
        assert series["y"] == pytest.approx([line[f"cosine_distance_stage_{i}"] for line in monitored], rel=1e-5)


def test_a_long_run_is_thinned_and_stays_small(tmp_path: Path) -> None:
    def lines():
        for i in range(50_000):
            yield {"step": i, "loss": 7.0 if i == 31_234 else 1 / (1 + i), "lr": 1e-4, "images_per_second": 3.0}

    file = write_report(made_run(tmp_path / "run", lines=lines(), pictures=0))
    loss = Page(file.read_text()).charts()["loss"]["series"]
    assert all(len(series["x"]) <= 2000 for series in loss)
    assert max(loss[0]["y"]) == 7.0
    assert file.stat().st_size < 400_000


def test_what_the_user_named_cannot_break_out(tmp_path: Path) -> None:
    """Paths and settings come out as text: as many tags as in the page of a harmless run, and JSON that parses."""
    harmless = page_of(made_run(tmp_path / "harmless"))
    run = made_run(tmp_path / 'a"<b>&amp;<script>alert(3)<', data_path=EVIL)
    page = page_of(run)
    assert [tag for tag, _ in page.tags if tag != "wbr"] == [tag for tag, _ in harmless.tags if tag != "wbr"]
    assert page.text.count(EVIL) >= 1  # the table; the YAML has it quoted
    (run / "collapse.json").write_text(json.dumps(collapse_file({EVIL: [0.5, 0.25]})))
    page = page_of(run)
    assert page.charts()["depth"]["series"][0]["name"] == EVIL
    assert len(page.all("script")) == 2


def test_nothing_is_loaded_from_outside(tmp_path: Path) -> None:
    page = page_of(made_run(tmp_path / "run"))
    assert not [tag for tag, _ in page.tags if tag in ("iframe", "object", "embed", "base", "form", "video", "audio")]
    for _, attributes in page.tags:
        for name in {"src", "href", "srcset", "action", "data", "poster"} & attributes.keys():
            assert re.match(r"data:|#", attributes[name] or ""), attributes
    html = (tmp_path / "run" / "report.html").read_text()
    addresses = set(re.findall(r"(?:https?:|wss?:)?//[\w.]+\.\w+[^\s\"')]*", re.sub(r"base64,[\w+/=]+", "", html)))
    assert addresses <= {"http://www.w3.org/2000/svg"}  # a namespace, which nobody fetches
    assert "@import" not in html
    assert "url(" not in html.replace("url(#$", "")
    policy = next(tag["content"] for tag in page.all("meta") if tag.get("http-equiv") == "Content-Security-Policy")
    assert (policy or "").startswith("default-src 'none'")


def test_settings_that_are_not_the_default_come_first_and_the_whole_file_after(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run")
    page = page_of(run)
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</th><td>(.*?)</td><td>(.*?)</td>", write_report(run).read_text())
    assert [[cell.replace("<wbr>", "") for cell in row] for row in rows] == [
        ["data.path", "/images", "unset"],
        ["train.epochs", "30", "800"],
        ["train.warmup_epochs", "2", "1.5"],
    ]
    assert (run / "config.yaml").read_text() in page.text


def test_pictures_are_chosen_evenly_and_shrunk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = made_run(tmp_path / "run", pictures=25)
    (run / "reconstructions" / "step-00025000.png").write_bytes(b"\x89PNG cut off")
    caplog.set_level("INFO")
    page = page_of(run)
    places = [tag["data-place"] for tag in page.all("figure") if "data-place" in tag]
    assert len(places) == MAX_PICTURES - 1  # the last is damaged
    assert places[0] == "step 1,000"
    assert {(tag["width"], tag["height"]) for tag in page.all("img")} == {(str(MAX_SIDE), "560")}
    assert all((tag["src"] or "").startswith("data:image/jpeg;base64,") and tag["alt"] for tag in page.all("img"))
    assert "12 of 25 reconstructions" in caplog.text
    assert "step-00025000.png cannot be read" in caplog.text


def test_broken_lines_are_counted_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = [{"step": 1, "epoch": 0.5, "loss": 0.9}, {"step": 2, "loss": None}, '{"step": 3, "loss": NaN}']
    bad = ['{"step": 4, "lo', "[1, 2]", '{"loss": 1}', '{"step": null, "loss": 1}', '{"step": true}', "[" * 100_000]
    odd = ['{"step": 5, "loss": "high", "lr": 1e999, "images_per_second": {"a": 1}}', ""]
    page = page_of(made_run(tmp_path / "run", lines=[*good, *bad, *odd]))
    assert page.charts()["loss"]["series"][0]["y"] == [0.9, None, None]
    assert page.charts()["lr"]["series"][0]["y"] == [None]
    assert f"{len(bad)} lines of metrics.jsonl are broken" in page.text
    assert f"{len(bad)} broken lines" in caplog.text


@pytest.mark.parametrize("place", ["collapse.json", "collapse/collapse.json"])
def test_collapse_by_depth(tmp_path: Path, place: str) -> None:
    run = made_run(tmp_path / "run")
    (run / place).parent.mkdir(exist_ok=True)
    (run / place).write_text(json.dumps(collapse_file({"V2": [0.5, None, 0.25], "V1": [0.5, 0.125]})))
    v2, v1 = page_of(run).charts()["depth"]["series"]
    assert (v2["name"], v2["x"], v2["y"]) == ("V2", [0, 0.5, 1], [0.5, None, 0.25])
    assert (v1["name"], v1["x"], v1["y"]) == ("V1", [0, 1], [0.5, 0.125])


@pytest.mark.parametrize(
    "text", ['{"images": 3}', "{", "[]", "[" * 100_000, '{"models": []}', '{"models": {"a": {"blocks": [{}]}}}']
)
def test_a_collapse_file_that_says_nothing_is_left_out(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = made_run(tmp_path / "run")
    (run / "collapse.json").write_text(text)
    assert "depth" not in page_of(run).charts()
    assert "collapse.json" in caplog.text


def test_sections_without_data_say_how_to_get_it(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", pictures=0)
    (run / "metrics.jsonl").unlink()
    text = page_of(run).text
    for hint in (
        "--monitor.every 10 --monitor.data DIR",
        "--monitor.every 10 measures",
        "fcmae collapse RUN --output RUN/collapse",
        "fcmae evaluate RUN --data.path DIR --output RUN/evaluation",
        "--log.pictures_every",
        "--log.every",
    ):
        assert hint in text


@pytest.mark.parametrize(
    "config", [None, "", "nonsense", "a: [", "- 1", "model: {name: [1]}\ntrain: 3\nlog: {every: x}"]
)
def test_a_run_without_a_usable_configuration_still_has_its_curves(tmp_path: Path, config: str | None) -> None:
    run = made_run(tmp_path / "run")
    (run / "config.yaml").unlink() if config is None else (run / "config.yaml").write_text(config)
    page = page_of(run)
    assert "loss" in page.charts()
    assert "config.yaml" in page.text


def test_errors_are_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    run = made_run(tmp_path / "run")
    (tmp_path / "page.html").write_text("<!DOCTYPE html><title>mine</title>")
    for args, said in [
        (["empty"], "empty is not a run folder: it has neither config.yaml nor metrics.jsonl"),
        (["nowhere"], "nowhere does not exist"),
        (["file"], "file is a file"),
        ([str(run), "--output", str(tmp_path / "page.html")], "page.html exists and is not an fcmae report"),
        ([str(run), "--output", str(tmp_path / "empty")], "empty is a folder"),
    ]:
        caplog.clear()
        assert main([str(tmp_path / args[0]), *args[1:]]) == 1
        [record] = caplog.records
        assert record.getMessage().startswith("fcmae.report: error: ")
        assert said in record.getMessage()
        assert "\n" not in record.getMessage()
    assert (tmp_path / "page.html").read_text() == "<!DOCTYPE html><title>mine</title>"
    assert not list((tmp_path / "empty").iterdir())


def test_it_says_where_and_how_large_and_replaces_its_own(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = made_run(tmp_path / "run")
    before = sorted(path.name for path in run.iterdir())
    assert main([str(run)]) == 0
    file = run / "report.html"
    assert capsys.readouterr().out == f"{file} ({file.stat().st_size / 1e3:.0f} kB)\n"
    assert sorted(path.name for path in run.iterdir()) == sorted([*before, "report.html"])
    file.write_text(file.read_text() + "old")
    assert main([str(run)]) == 0
    assert file.read_text().endswith("</html>\n")
    assert main([str(run), "--output", str(tmp_path / "new" / "here.html")]) == 0
    assert (tmp_path / "new" / "here.html").is_file()


def test_a_picture_of_another_mode_is_shown(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", pictures=0)
    (run / "reconstructions").mkdir()
    Image.new("LA", (20, 10)).save(run / "reconstructions" / "step-00000007.png")
    [tag] = page_of(run).all("img")
    assert (tag["width"], tag["height"]) == ("20", "10")


def test_the_wheel_takes_the_page_along() -> None:
    root = Path(__file__).parents[3]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assets = [
        file.name for file in (root / "fcmae" / "report_page").iterdir() if file.is_file() and file.suffix != ".py"
    ]
    assert {"report.html", "report.css", "report.js", "chart.js"} <= set(assets)
    assert all(any(fnmatch(name, pattern) for pattern in patterns["fcmae.report_page"]) for name in assets)


def test_many_lines_all_look_different() -> None:
    """Eight networks, of six colors and six dashes: no two share both."""
    chart = depth_chart([DepthCurve(f"network {n}", [0, 1], [0.5, 0.4]) for n in range(8)])
    assert chart is not None
    looks = [(series["color"], series["dash"]) for series in chart.data["series"]]
    assert len(set(looks)) == 8
    assert max(max(look) for look in looks) < 6


@pytest.mark.parametrize(
    ("text", "breaks"),
    [("runs/a_b", "runs/|a_|b"), ("model.name", "model.|name"), ("0.00015", "0.00015"), ("torch 2.1.0", "torch 2.1.0")],
)
def test_names_may_break_and_numbers_may_not(text: str, breaks: str) -> None:
    assert breakable(text).replace("<wbr>", "|") == breaks


def test_shares_are_told_in_per_cent(tmp_path: Path) -> None:
    step = np.array([1.0, 2.0])
    run = replace(read_run(made_run(tmp_path / "run")), series={KNN: Series(step, step, np.array([0.25, 0.57]))})
    chart = knn_chart(run)
    assert chart is not None
    assert chart.data["y"]["unit"] == "%"
    assert "25% at step 1, 57% at step 2" in chart.summary


def test_from_python(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = made_run(tmp_path / "run")
    found = report(run, output=tmp_path / "page.html")
    assert capsys.readouterr().out == ""
    assert (found.file, found.size) == (tmp_path / "page.html", (tmp_path / "page.html").stat().st_size)
    assert report(run).file == run / "report.html"
    with pytest.raises(UserError, match=r"nowhere does not exist"):
        report(tmp_path / "nowhere")


@pytest.mark.parametrize("place", ["evaluation.json", "evaluation/evaluation.json"])
def test_the_table_of_an_evaluation(tmp_path: Path, place: str) -> None:
    """The same cells as the command prints, escaped."""

    def row(name: str, right: int) -> NetworkScores:
        top1, top5 = Accuracy(right, 50), Accuracy(49, 50)
        return NetworkScores(
            name, (64, 64), 200, 50, 10, 320, Scores(top1, top5), LinearScores(top1, top5, 1.0, False, True)
        )

    evaluation = Evaluation("labeled/", Protocol(), None, (row(EVIL, 40), row("raw pixels", 20)))
    run = made_run(tmp_path / "run")
    (run / place).parent.mkdir(exist_ok=True)
    (run / place).write_text(json.dumps(evaluation.as_dict()))
    page = page_of(run)
    text = " ".join(page.text.split())
    assert "labeled/: 200 training images, 50 test images, 10 classes; percent correct [95% interval]" in text
    for line in evaluation_table(evaluation).splitlines()[3:]:
        for cell in re.findall(r"[\d.]+ \[[\d., ]+\]", line):
            assert cell in text
    assert "kNN top-5" in text
    assert EVIL in page.text


def test_an_evaluation_that_is_damaged_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = made_run(tmp_path / "run")
    for content in ("no json", "[]", '{"results": []}', '{"results": [{"knn": 3}]}'):
        (run / "evaluation.json").write_text(content)
        page_of(run)
        assert "evaluation.json was not written by fcmae evaluate and is skipped" in caplog.text
        caplog.clear()
