"""The same images as a folder, a zip, tars, Parquet and by URL: the same losses bit for bit."""

from pathlib import Path
from typing import Any

import pytest

from fcmae.data.stores import fetching
from fcmae.pretrain import main, pretrain
from fcmae.training import loop
from tests.fcmae.data.sources.packed import folder_of_images, make_tar, make_zip, members_of
from tests.fcmae.data.sources.test_remote import table_of
from tests.fcmae.data.stores.server import serving
from tests.fcmae.finished_runs import Args, losses, stop_after
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
