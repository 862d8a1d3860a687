"""The same images as a folder, a zip and tars: the same losses bit for bit."""

from pathlib import Path

import pytest

from fcmae.pretrain import pretrain
from tests.fcmae.data.sources.packed import folder_of_images, make_tar, make_zip, members_of
from tests.fcmae.finished_runs import losses, stop_after
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
