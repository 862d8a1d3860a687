"""Labeled images: folders of classes, digits, datasets of timm, and how they are split."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from fcmae.data.labeled import Batches, check_apart, labeled_digits, labeled_folder, labeled_timm, stratified_split
from fcmae.errors import UserError
from tests.fcmae.labeled_images import COLORS, fill, fill_classes


def test_a_split_holds_a_share_of_every_class() -> None:
    labels = np.array([0] * 50 + [1] * 10 + [2] * 2 + [3])
    first, second = stratified_split(labels, 0.2, seed=0)
    assert sorted([*first, *second]) == list(range(63))
    assert np.bincount(labels[second], minlength=4).tolist() == [10, 2, 1, 0]
    again, other = stratified_split(labels, 0.2, seed=0), stratified_split(labels, 0.2, seed=1)
    assert np.array_equal(second, again[1])
    assert not np.array_equal(second, other[1])


def read(batches: Batches, batch_size: int = 7) -> tuple[torch.Tensor, list[int]]:
    parts = list(batches((16, 16), 3, batch_size))
    return torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]).tolist()


def test_a_folder_of_classes(colors: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Classes in order of their names, images in both parts, the unreadable one named and left out."""
    data = labeled_folder(colors)
    train, test = read(data.train), read(data.test)
    assert len(train[1]) + len(test[1]) == 30
    assert "broken.png" in caplog.text
    for images, labels in (train, test):
        assert images.shape[1:] == (3, 16, 16)
        brightest = images.mean((2, 3)).argmax(1)  # blue, green, red are classes 0, 1, 2
        assert labels == [2 - int(channel) for channel in brightest]
    assert set(test[1]) == {0, 1, 2}


def test_train_and_val_of_a_folder(tmp_path: Path) -> None:
    for part, count in (("train", 4), ("val", 2)):
        fill_classes(tmp_path / part, COLORS, count)
    data = labeled_folder(tmp_path)
    assert [len(read(part)[1]) for part in (data.train, data.test)] == [12, 6]
    fill(tmp_path / "val" / "violet", (90, 0, 90), 1)
    with pytest.raises(UserError, match=r"has classes that .*train lacks: violet"):
        labeled_folder(tmp_path)


def test_a_limit_takes_so_many_of_each_part(colors: Path) -> None:
    data = labeled_folder(colors, limit=4)
    assert [len(read(part)[1]) for part in (data.train, data.test)] == [4, 4]
    whole = labeled_folder(colors)
    several = labeled_folder(colors, num_workers=2)
    assert torch.equal(read(whole.train)[0], read(several.train)[0])
    digits = labeled_digits(limit=30)
    assert [len(read(part)[1]) for part in (digits.train, digits.test)] == [30, 30]


def test_digits_are_scikit_learns() -> None:
    """All 1797, each in one part, values in 0 … 1, enlarged, of as many channels as asked."""
    data = labeled_digits()
    parts = [list(part((8, 8), 1, 64)) for part in (data.train, data.test)]
    images = torch.cat([batch.images for part in parts for batch in part])
    assert images.shape == (1797, 1, 8, 8)
    expected = {tuple(np.round(image * 15.9375).astype(int).flatten()) for image in load_digits().images}
    assert {tuple((image * 255).round().int().flatten().tolist()) for image in images} == expected
    batch = next(data.train((40, 64), 3, 5))
    assert batch.images.shape == (5, 3, 40, 64)
    assert torch.equal(batch.images[:, 0], batch.images[:, 2])


def test_timm_datasets(colors: Path, tmp_path: Path) -> None:
    """By a folder of torchvision's, and timm's words for what is wrong."""
    for part in ("train", "validation"):
        fill_classes(tmp_path / part, COLORS, 3)
    data = labeled_timm("torch/image_folder", tmp_path)
    images, labels = read(data.test)
    assert labels == [2 - int(channel) for channel in images.mean((2, 3)).argmax(1)]
    assert len(labels) == 9
    few = read(labeled_timm("torch/image_folder", tmp_path, limit=4).test)
    assert (len(few[1]), few[1]) == (4, [2 - int(channel) for channel in few[0].mean((2, 3)).argmax(1)])
    with pytest.raises(UserError, match=r"--data.dataset torch/cifar10, split train, in .*not found"):
        labeled_timm("torch/cifar10", tmp_path)
    with pytest.raises(UserError, match=r"--data.dataset torch/none, .*: Unknown torchvision dataset none"):
        labeled_timm("torch/none", tmp_path)
    for kind in ("torch/image_folder", "folder"):  # timm would give the folder's images for both splits
        with pytest.raises(UserError, match=r"9 of the 9 images of split validation in .* are also in split train"):
            labeled_timm(kind, tmp_path / "train")


def test_splits_in_memory_are_no_training_images_twice() -> None:
    """``training`` is the same as ``train`` to timm."""
    of_train, of_test = SimpleNamespace(train=True), SimpleNamespace(train=False)
    check_apart("torch/cifar10", "here", ("train", "validation"), (of_train, of_test))
    with pytest.raises(
        UserError, match="the images of split training in here are also in split train; it needs a fold"
    ):
        check_apart("torch/cifar10", "here", ("train", "training"), (of_train, of_train))


def test_a_limit_draws_of_each_class(tmp_path: Path) -> None:
    """A class of few images is not lost among many; with fewer images than classes, both parts have the same ones."""
    for name, count in (("red", 40), ("green", 6), ("blue", 6)):
        fill(tmp_path / name, COLORS[name], count)
    for seed in range(3):
        data = labeled_folder(tmp_path, test_share=0.5, seed=seed, limit=6)
        assert [np.bincount(read(part)[1]).tolist() for part in (data.train, data.test)] == [[2, 2, 2]] * 2
        data = labeled_folder(tmp_path, test_share=0.5, seed=seed, limit=2)
        assert sorted(set(read(data.train)[1])) == sorted(set(read(data.test)[1]))
    digits = labeled_digits(limit=20)
    assert [np.bincount(read(part)[1]).tolist() for part in (digits.train, digits.test)] == [[2] * 10] * 2


def test_a_timm_dataset_that_tells_its_labels_is_drawn_from_by_class(tmp_path: Path) -> None:
    for part in ("train", "validation"):
        for name, count in (("red", 12), ("green", 2)):
            fill(tmp_path / part / name, COLORS[name], count)
    for kind in ("torch/image_folder", "folder"):
        data = labeled_timm(kind, tmp_path, limit=4)
        assert np.bincount(read(data.test)[1]).tolist() == [2, 2]


def test_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.png\n")
    with pytest.raises(UserError, match=r"list\.txt is not a folder; give a folder with one subfolder of images"):
        labeled_folder(tmp_path / "list.txt")


def test_damaged_images_of_a_timm_dataset_are_skipped_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """timm gives the next image in place of one."""
    for part in ("train", "validation"):
        for name in ("red", "green"):
            fill(tmp_path / part / name, COLORS[name], 3)
    broken = sorted((tmp_path / "train" / "green").iterdir())[1]
    broken.write_bytes(broken.read_bytes()[:40])
    _, labels = read(labeled_timm("folder", tmp_path).train)
    assert labels == [0, 0, 1, 1, 1]
    (said,) = caplog.messages
    assert said.startswith("skipped, cannot be read: image 1 of folder: ")
