"""Labeled sets: where labels come from, how they are split, and the one line that each mistake gets."""

import logging
import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fcmae.data.images import UnreadableImageError, open_image
from fcmae.data.pixel_reading import PixelReading
from fcmae.errors import UserError
from fcmae.finetuning.config import FinetuneConfig, FinetuneDataConfig
from fcmae.finetuning.labeled_images import LabeledSet
from fcmae.finetuning.labels import labeled_set
from fcmae.finetuning.splitting import share_of_each, split_of_several
from fcmae.finetuning.tiles import photo_tiles
from tests.fcmae.labeled_images import COLORS, fill, fill_classes


def of(path: Path | str, seed: int = 0, **options: object) -> LabeledSet:
    return labeled_set(FinetuneDataConfig(path=str(path), **options), seed)  # type: ignore[arg-type]


def test_a_folder_of_classes_is_split_by_class_and_seed(colors: Path) -> None:
    found = of(colors)
    assert found.classes == ("blue", "green", "red")
    assert [np.bincount(part.labels).tolist() for part in (found.train, found.val)] == [[9, 8, 8], [2, 2, 2]]
    assert not set(found.train.names) & set(found.val.names)
    assert set(of(colors, 1).val.names) != set(found.val.names)
    for images in (found.train, found.val):
        for index, (name, label) in enumerate(zip(images.names, images.labels, strict=True)):
            assert name.startswith(found.classes[label])
            if "broken" not in name:
                assert images.open(index, PixelReading()).path == colors / name


def test_train_and_val_as_they_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for part, count in (("train", 4), ("val", 2)):
        fill_classes(tmp_path / part, COLORS, count)
    found = of(tmp_path)
    assert [np.bincount(part.labels).tolist() for part in (found.train, found.val)] == [[4] * 3, [2] * 3]
    fill(tmp_path / "train" / "violet", (90, 0, 90), 1)
    with caplog.at_level(logging.WARNING):
        of(tmp_path, 1)
    assert "no images to validate on of 1 class: violet" in caplog.text
    fill(tmp_path / "val" / "Red", (90, 0, 0), 1)
    with pytest.raises(UserError, match=r"val has classes that .*train lacks: Red; .* has blue, green, red, violet"):
        of(tmp_path, 2)


def test_a_table_with_numbers_splits_and_several_labels(tmp_path: Path) -> None:
    fill(tmp_path / "images", (200, 40, 40), 13)
    file = tmp_path / "t.csv"
    file.write_text(
        "path,label,split\n" + "".join(f"images/{n}.png,{n},{('train', 'val')[n > 9]}\n" for n in range(10))
    )
    file.write_text(file.read_text() + "images/10.png,9,val\nimages/11.png,10,test\nimages/12.png,10,train\n")
    found = of(file)
    assert found.classes == tuple(map(str, range(11)))  # 10 after 9
    assert (len(found.train), len(found.val)) == (11, 1)  # test is left alone where there is val
    file.write_text("path,labels\n" + "".join(f"images/{n}.png,{'a;b' if n % 2 else ''}\n" for n in range(10)))
    several = of(file, 1)
    assert several.is_multi_label
    assert several.classes == ("a", "b")
    assert several.train.labels.dtype == bool
    assert (len(several.train), len(several.val)) == (8, 2)
    assert all(several.train.labels[n].all() == int(Path(several.train.names[n]).stem) % 2 for n in range(8))


def test_tiles_of_photos_need_no_files() -> None:
    """They are the photos' pixels, do not overlap, and keep their places when fewer are trained on."""
    found = of("photo-tiles")
    assert len(found.classes) == 18
    assert len(found.train) + len(found.val) == 396
    assert {str(name).partition("/")[2].rpartition("-")[0] for name in found.val.names} == set(found.classes)
    coffee = np.asarray(Image.open(str(files("skimage.data") / "coffee.png")))
    first = next(n for n, label in enumerate(photo_tiles()[1]) if found.classes[label] == "coffee")
    place = found.train if f"photo-tiles/coffee-{first}" in found.train.names else found.val
    tile = place.open(list(place.names).index(f"photo-tiles/coffee-{first}"), PixelReading(3)).decode()
    assert np.array_equal(tile, coffee[:96, :96].transpose(2, 0, 1))
    few = of("photo-tiles", train_share=0.01)
    assert np.bincount(few.train.labels).tolist() == [1] * 18
    assert few.val.names == found.val.names
    config = FinetuneConfig("scratch", data=FinetuneDataConfig(path="photo-tiles", cache_dir="cache"))
    found_data = config.with_absolute_paths().data
    assert (found_data.path, found_data.cache_dir) == ("photo-tiles", str(Path.cwd() / "cache"))


def test_a_dataset_of_timm(tmp_path: Path) -> None:
    for part in ("train", "val"):
        fill_classes(tmp_path / part, COLORS, 3)
    found = of(tmp_path, dataset="torch/image_folder", train_split="train", val_split="val")
    assert found.classes == ("blue", "green", "red")
    assert len(found.train) == 9
    pixels = found.train.open(0, PixelReading(3)).decode().float().mean((1, 2))
    assert pixels.argmax() == 2  # blue
    with pytest.raises(UserError, match=r"--data\.dataset torch/nothing, split train"):
        of(tmp_path, dataset="torch/nothing")


def test_a_smaller_share_is_part_of_a_larger() -> None:
    labels = np.repeat([0, 1, 2], [100, 10, 1])
    shares = [set(share_of_each(labels, share, 3).tolist()) for share in (0.01, 0.1, 0.5)]
    assert shares[0] < shares[1] < shares[2]
    assert np.bincount(labels[sorted(shares[1])]).tolist() == [10, 1, 1]


def test_a_share_where_images_have_several_has_each_class() -> None:
    labels = np.zeros((200, 3), np.float32)
    labels[::2, 0] = labels[7, 1] = labels[[20, 90], 2] = 1
    shares = [set(share_of_each(labels, share, 3).tolist()) for share in (0.01, 0.1, 0.5)]
    assert shares[0] < shares[1] < shares[2]
    assert [20 <= len(shares[1]) <= 23, 100 <= len(shares[2]) <= 103] == [True, True]
    assert all(labels[sorted(share)].any(0).all() for share in shares)


def test_a_split_where_images_have_several_holds_out_a_share_of_each_class() -> None:
    """Where a draw of the images leaves rare classes out."""
    random = np.random.default_rng(0)
    counts = np.array([1, 2, 3, 8, 40, 150])
    labels = np.stack([random.permutation(300) < count for count in counts], 1).astype(np.float32)
    train, val = split_of_several(labels, 0.2, 0)
    assert np.array_equal(np.sort(np.concatenate([train, val])), np.arange(300))
    assert len(val) == 60
    held_out = labels[val].sum(0)
    assert held_out[:3].tolist() == [0, 1, 1]  # a class of one image is trained on
    assert np.abs(held_out[3:] - 0.2 * counts[3:]).max() < 1
    again, other = split_of_several(labels, 0.2, 0), split_of_several(labels, 0.2, 1)
    assert np.array_equal(again[1], val)
    assert not np.array_equal(other[1], val)
    unlabeled = [len(part) for part in split_of_several(np.zeros((10, 2), np.float32), 0.2, 0)]
    assert unlabeled == [8, 2]
    assert [len(part) for part in split_of_several(np.ones((2, 1), np.float32), 0.2, 0)] == [1, 1]


def test_a_split_where_images_have_several_leaves_images_on_both_sides() -> None:
    """Also where every image has a class of its own, as of who took it; and each class is trained on if it can be."""
    unique = np.eye(10, dtype=np.float32)
    shared = np.concatenate([unique, np.ones((10, 1), np.float32)], 1)
    for labels, held_out in ((unique, 2), (shared, 2), (np.eye(2), 1), (np.concatenate([shared, shared]), 10)):
        train, val = split_of_several(labels, 0.2, 0)
        assert (len(train), len(val)) == (len(labels) - held_out, held_out)
    assert labels[train].any(0).all()  # of each class the one or the other
    random = np.random.default_rng(0)
    for seed in range(100):
        labels = random.random((12, 6)) < 0.2
        train, _ = split_of_several(labels, 0.2, seed)
        often = labels.sum(0) > 1
        assert (labels[train].any(0) >= often).all()


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        ((("a",), ()), ((),), "no image to validate on has a label"),
        ((("a", "b"),) * 2, (("a",), ()), "every image to train on has all labels, a, b; there is nothing to learn"),
    ],
)
def test_labels_of_one_side_that_say_nothing(
    tmp_path: Path, train: tuple[tuple[str, ...], ...], val: tuple[tuple[str, ...], ...], message: str
) -> None:
    rows = [*((labels, "train") for labels in train), *((labels, "val") for labels in val), (("a", "b"), "other")]
    fill(tmp_path / "images", (200, 40, 40), len(rows))
    lines = [f"images/{n}.png,{';'.join(labels)},{split}\n" for n, (labels, split) in enumerate(rows)]
    (tmp_path / "t.csv").write_text("path,labels,split\n" + "".join(lines))
    with pytest.raises(UserError, match=rf"t\.csv: {message}"):
        of(tmp_path / "t.csv", 1)


def test_each_mistake_gets_its_line(tmp_path: Path) -> None:
    fill(tmp_path / "one" / "cat", (0, 0, 0), 3)
    fill(tmp_path / "flat", (0, 0, 0), 2)
    fill(tmp_path / "few" / "cat", (0, 0, 0), 2)
    fill(tmp_path / "few" / "dog", (0, 0, 0), 1)
    table = tmp_path / "t.csv"
    table.write_text("path,label\n1.png,cat\n2.png,dog\n")
    (tmp_path / "notes.txt").write_text("a")
    for path, message in {
        tmp_path / "one": "holds one class, cat; it needs a subfolder for each class",
        tmp_path / "flat": "has no subfolders with images; it needs one per class",
        tmp_path / "few": "to be split, a class needs at least 2 images; too few in dog",
        tmp_path / "nowhere": "does not exist; give a folder with a subfolder for each class",
        tmp_path / "notes.txt": "is neither a folder nor a table",
        "https://me:secret@host/t.csv": "--data.path https://host/t.csv is a list by URL, not read here; download",
        table: "none of the 2 images in the table is there; the first: .*1.png",
    }.items():
        with pytest.raises(UserError, match=message):
            of(path)
    with pytest.raises(UserError, match=r"--data\.path is missing"):
        labeled_set(FinetuneDataConfig(), 0)


def test_a_class_whose_images_cannot_be_read_is_named(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / name, (0, 0, 0), 4)
    for n in range(4):
        (tmp_path / "dog" / f"{n}.png").write_bytes(b"no image")
    message = "none of the 3 images of the class dog to train on can be read; the first: .*dog"
    with pytest.raises(UserError, match=message):
        of(tmp_path).check_readable(PixelReading(), (16, 16))


def test_rows_that_are_left_out_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path / "images", (200, 40, 40), 8)
    splits = ("train", "train", "val", "val", "", "Hold", "train", "")
    rows = "".join(f"images/{n}.png,{'ab'[n % 2]},{split}\n" for n, split in enumerate(splits))
    (tmp_path / "t.csv").write_text("path,label,split\n" + rows)
    with caplog.at_level(logging.WARNING):
        found = of(tmp_path / "t.csv")
    assert (len(found.train), len(found.val)) == (3, 2)
    said = "t.csv: 3 of 8 rows are neither trained nor validated on; their split is empty, hold"
    assert said in caplog.text
    caplog.clear()
    (tmp_path / "t.csv").write_text("path,label,split\n" + rows.replace("Hold", "val").replace(",\n", ",train\n"))
    with caplog.at_level(logging.WARNING):
        assert len(of(tmp_path / "t.csv", 1).train) == 5
    assert "neither trained" not in caplog.text


@pytest.mark.parametrize(("labels", "all_of"), [("a;a", "a"), ("b;a", "a, b")])
def test_labels_that_every_image_has_teach_nothing(colors: Path, tmp_path: Path, labels: str, all_of: str) -> None:
    """It was trained, to a mean average precision of 100%."""
    images = sorted(colors.rglob("[0-9]*.png"))[:10]
    (tmp_path / "t.csv").write_text("path,label\n" + "".join(f"{image},{labels}\n" for image in images))
    with pytest.raises(UserError, match=rf"t\.csv: every image has all labels, {all_of}; there is nothing to learn"):
        of(tmp_path / "t.csv", 1)


def test_one_class_of_a_timm_dataset_is_of_its_flag(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        fill(tmp_path / split / "cat", (0, 0, 0), 2)
    with pytest.raises(
        UserError, match=r"^--data\.dataset folder holds one class, cat; at least two classes are needed"
    ):
        of(tmp_path, dataset="folder")
    fill(tmp_path / "train" / "dog", (0, 0, 0), 2)
    fill(tmp_path / "validation" / "dog", (0, 0, 0), 2)
    with pytest.raises(UserError, match=r"^--data\.dataset folder: none of the 2 images of the class cat"):
        of(tmp_path, 1, dataset="folder").check_readable(PixelReading(4, bands=(1, 2, 3, 9)), (16, 16))


def test_splits_of_a_timm_dataset_number_the_same_classes(tmp_path: Path) -> None:
    """timm numbers the folders of each split by themselves."""
    for split, names in (("train", ("cat", "dog", "owl")), ("validation", ("dog", "owl"))):
        for name in names:
            fill(tmp_path / split / name, (0, 0, 0), 2)
    with pytest.raises(UserError, match=r"other classes in split validation than in train: cat in one of them only"):
        of(tmp_path, dataset="folder")
    fill(tmp_path / "validation" / "cat", (0, 0, 0), 2)
    found = of(tmp_path, dataset="folder")
    assert (found.classes, found.val.labels.tolist()) == (("cat", "dog", "owl"), [0, 0, 1, 1, 2, 2])


def test_a_damaged_image_of_a_timm_dataset_is_no_other_image(tmp_path: Path) -> None:
    """timm gives the next one in its place, and the label would stay that of the damaged one."""
    for split in ("train", "validation"):
        fill(tmp_path / split / "cat", (250, 0, 0), 2)
        fill(tmp_path / split / "dog", (0, 0, 250), 2)
    broken = sorted((tmp_path / "train" / "cat").iterdir())[1]
    broken.write_bytes(broken.read_bytes()[:40])
    train = of(tmp_path, dataset="folder").train
    with pytest.raises(UnreadableImageError, match=r"^image 1: "):
        train.open(1, PixelReading(3))
    blue = open_image(tmp_path / "train" / "dog" / "0.png", PixelReading(3)).decode()
    assert torch.equal(train.open(2, PixelReading(3)).decode(), blue)
    assert train.labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("dataset", ["folder", "torch/image_folder"])
def test_splits_of_a_timm_dataset_have_no_image_in_common(tmp_path: Path, dataset: str) -> None:
    """Without folders for the splits, timm gives all images for each: they were trained on and validated on."""
    for name in ("cat", "dog"):
        fill(tmp_path / "flat" / name, (0, 0, 0), 2)
        fill(tmp_path / "half" / "train" / name, (0, 0, 0), 2)
    for folder in ("flat", "half"):
        message = (
            rf"^--data\.dataset {dataset}: 4 of the 4 images of split validation in .*{folder} are also in split train"
        )
        with pytest.raises(UserError, match=message):
            of(tmp_path / folder, dataset=dataset)
    with pytest.raises(UserError, match=r"4 of the 4 images of split train in .* are also in split train"):
        of(tmp_path / "half", dataset=dataset, val_split="train")


def test_an_archive_of_timm_is_one_split(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / "set" / name, (0, 0, 0), 2)
    archive = shutil.make_archive(str(tmp_path / "set"), "tar", tmp_path / "set")
    with pytest.raises(UserError, match=r"4 of the 4 images of split validation in .*set\.tar are also in split train"):
        of(archive, dataset="folder")


def test_a_set_is_listed_once_whatever_the_recipe(colors: Path) -> None:
    """The lines of the log about it came twice: the parser lists it, and then the run with the recipe's crops."""
    plain = FinetuneDataConfig(path=str(colors), val_share=0.3, timeout=5)
    with_recipe = FinetuneDataConfig(path=str(colors), val_share=0.3, timeout=5, crop_scale=(0.5, 1), num_workers=0)
    assert labeled_set(plain.of_labels, 0) is labeled_set(with_recipe.of_labels, 0)
    assert plain.of_labels != FinetuneDataConfig(path=str(colors), val_share=0.4, timeout=5).of_labels
    assert plain.of_labels.access == plain.access
