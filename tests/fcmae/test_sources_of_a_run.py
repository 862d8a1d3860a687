"""The same images as a folder, a zip, tars, Parquet and by URL: the same losses bit for bit."""

import itertools
import os
from pathlib import Path
from typing import Any

import pytest

from fcmae.data.samples import PretrainDataset
from fcmae.data.stores import fetching
from fcmae.errors import StoreError
from fcmae.pretrain import main, pretrain
from fcmae.training import loop
from tests.fcmae.data.sources.packed import folder_of_images, make_tar, make_zip, members_of
from tests.fcmae.data.sources.test_remote import table_of
from tests.fcmae.data.stores.server import serving
from tests.fcmae.finished_runs import SHORT, Args, losses, stop_after
from tests.fcmae.forked import train_together
from tests.fcmae.test_pretrain_function import TINY_KEYWORDS


def test_the_same_losses_from_a_folder_and_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zip, and tars for the rest of the run, read by a loading process."""
    folder = folder_of_images(tmp_path / "set")
    for n in range(2):
        make_tar(tmp_path / f"s-{n}.tar", folder, members_of(folder)[n::2])
    keywords = TINY_KEYWORDS | {"epochs": 2}
    pretrain(data=folder, output=tmp_path / "runs/folder", **keywords)
    expected = losses(tmp_path / "runs/folder")
    assert len(expected) == 3
    run = tmp_path / "runs/archives"
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        pretrain(data=make_zip(tmp_path / "a.zip", folder), output=run, **keywords)
    pretrain(data=f"{tmp_path}/s-{{0..1}}.tar", output=run, **keywords | {"num_workers": 1})
    assert losses(run) == expected


def test_the_same_losses_by_http(tmp_path: Path) -> None:
    """Tars, a zip and Parquet behind a web server, through the cache and without one."""
    folder, www = folder_of_images(tmp_path / "set"), tmp_path / "www"
    www.mkdir()
    for n in range(2):
        make_tar(www / f"s-{n}.tar", folder, members_of(folder)[n::2])
    make_zip(www / "a.zip", folder)
    table_of(folder, www / "t.parquet")
    keywords = TINY_KEYWORDS | {"epochs": 2}
    pretrain(data=folder, output=tmp_path / "folder", **keywords)
    expected = losses(tmp_path / "folder")
    assert len(expected) == 3
    with serving(www) as server:
        for source, size in (("s-{0..1}.tar", "10MB"), ("a.zip", "0"), ("t.parquet", "10MB"), ("t.parquet", "0")):
            run = tmp_path / f"{source[0]}-{size}"
            access = {"data.cache_dir": str(tmp_path / f"cache-{source[0]}"), "data.cache_size": size}
            pretrain(data=f"{server.url}/{source}", output=run, **keywords, **access)
            assert losses(run) == expected, source


def test_a_store_that_goes_away(
    tiny_args: Args,
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In the middle of a run: one line, a checkpoint of the last step, and the losses of a folder after the resume."""
    caplog.set_level("INFO")
    monkeypatch.setattr(fetching, "WAITS", ())
    assert main(tiny_args("folder")) == 0
    expected = losses(tmp_path / "folder")
    remote = ("--data.timeout", "5", "--data.cache_size", "0", "--data.num_workers", "1")
    with serving(image_folder) as server:
        args = [*tiny_args("run"), *remote, "--data.path", server.url]
        train_step = loop._train_step

        def gone_after_a_step(*given: Any) -> Any:
            done = train_step(*given)
            server.failing = {"": "break"}
            return done

        with monkeypatch.context() as patch:
            patch.setattr(loop, "_train_step", gone_after_a_step)
            assert main(args) == 1
        message = caplog.messages[-1]
        assert message.startswith(f"fcmae.pretrain: error: {server.url}/")
        assert "cannot be fetched: the connection broke off; neither can" in message
        assert "\n" not in message
        done = losses(tmp_path / "run")
        assert 0 < len(done) < len(expected)
        assert any(line.startswith(f"saved at step {len(done)}; to resume: ") for line in caplog.messages)
        server.failing = {}
        assert main(args) == 0
    assert losses(tmp_path / "run") == expected
    of_table = ("--data.path", str(table_of(image_folder, tmp_path / "t.parquet")))
    assert main([*tiny_args("table"), *of_table, "--data.cache_dir", str(tmp_path / "cache")]) == 0
    assert losses(tmp_path / "table") == expected


def cut_off_one_process() -> None:
    """In the second of two processes, nothing can be fetched from its third step on, while the first fetches all."""
    fetching.WAITS = ()
    if os.environ["RANK"] != "1":
        return
    train_step, steps = loop._train_step, itertools.count(1)

    def broken(*_: Any) -> Any:
        raise TimeoutError

    def step(*given: Any) -> Any:
        if next(steps) == 3:
            fetching._in_time = broken
        return train_step(*given)

    loop._train_step = step


@pytest.mark.usefixtures("small_network")
@pytest.mark.parametrize("options", [["--train.accumulation_steps", "2"], ["--train.parallel", "fsdp"]])
def test_a_store_that_goes_away_from_one_of_two_processes(
    tiny_args: Args, image_folder: Path, tmp_path: Path, options: list[str]
) -> None:
    """Both stop before the same step and save it; one line says why, and the run goes on to the same losses."""
    options = [*options, "--train.batch_size", "1", "--data.num_workers", "0", "--train.epochs", "2"]
    with serving(image_folder) as server:
        args = [*tiny_args("run", *options), "--data.cache_size", "0", "--data.path", server.url]
        log = tmp_path / "log"
        text = train_together("fcmae.pretrain", args, log, prepare=cut_off_one_process, status=1)
        (line,) = [line for line in text.splitlines() if "error" in line]
        assert f"fcmae.pretrain: error: {server.url}/" in line
        assert "cannot be fetched: no answer within 30 s (--data.timeout); neither can" in line
        assert text.count("saved at step 2; to resume: torchrun --nproc-per-node 2 ") == 1
        assert "Traceback" not in text
        assert [step for step, _ in losses(tmp_path / "run")] == [1, 2]
        train_together("fcmae.pretrain", args, log)
    found = losses(tmp_path / "run")
    assert [step for step, _ in found] == list(range(1, len(found) + 1))
    if "fsdp" not in options:
        train_together("fcmae.pretrain", tiny_args("folder", *options), tmp_path / "folder.log")
        assert found == losses(tmp_path / "folder")


@pytest.mark.usefixtures("small_network")
def test_pictures_wait_for_a_store(
    tiny_args: Args, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If only the images of a picture cannot be fetched, training goes on."""

    def gone(*_: object) -> None:
        raise StoreError("gone")

    monkeypatch.setattr(PretrainDataset, "fixed_samples", gone)
    assert main(tiny_args("run", *SHORT, "--log.pictures_every", "1")) == 0
    assert "not drawn at step 3: gone" in caplog.messages
    assert len(losses(tmp_path / "run")) == 3
