from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fragrecon.data.readers.folder import ImageFolder, hashed_split
from fragrecon.data.store import Split, open_or_build
from fragrecon.errors import ConfigError, DataError
from tests import layouts

SHAPE = (1, 4, 4)


def tree(root: Path, values: Mapping[str, int]) -> None:
    """Write flat gray images of these values to these paths."""
    for name, value in values.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(layouts.encoded(np.full(SHAPE, value, np.uint8)))


def reader(root: Path) -> ImageFolder:
    return ImageFolder(root, (4, 4), channels=1)


def found(root: Path, split: Split) -> list[tuple[int, int]]:
    """(value, label) of the images in order."""
    part = layouts.read(reader(root), split)
    assert len(part.labels) == reader(root).source(split).images
    return list(zip(part.images[:, 0, 0, 0].tolist(), part.labels.tolist(), strict=True))


def test_both_splits(tmp_path: Path) -> None:
    written = layouts.folder(tmp_path)
    for split, expected in written.items():
        layouts.assert_holds(ImageFolder(tmp_path), split, expected)
        source = ImageFolder(tmp_path).source(split)
        assert source.images == len(expected.labels)
        assert source.classes == ("class_0", "class_1", "class_2")


def test_classes_are_first_level_folders_at_any_depth(tmp_path: Path) -> None:
    tree(
        tmp_path,
        {
            "train/b/2.png": 1,
            "train/b/10.PNG": 2,
            "train/b/deep/er/1.png": 3,
            "train/a/x.png": 4,
            "train/.hidden/1.png": 9,
            "train/b/.hidden.png": 9,
            "train/c/1.png": 7,
            "val/c/1.png": 5,
            "val/b/1.png": 6,
        },
    )
    (tmp_path / "train/b/notes.txt").write_text("no image")
    (tmp_path / "train/empty").mkdir()
    (tmp_path / "readme.png").write_bytes(b"beside the splits, not in them")
    assert found(tmp_path, "train") == [(4, 0), (2, 1), (1, 1), (3, 1), (7, 2)]
    assert found(tmp_path, "test") == [(6, 1), (5, 2)]
    for split in ("train", "test"):
        assert reader(tmp_path).source("train" if split == "train" else "test").classes == ("a", "b", "c")


@pytest.mark.parametrize(
    ("names", "held_out"),
    [
        (("val",), "val"),
        (("test",), "test"),
        (("val", "test"), "test"),
        (("valid",), "valid"),
        (("validation", "val"), "val"),
    ],
)
def test_the_held_out_split(tmp_path: Path, names: tuple[str, ...], held_out: str) -> None:
    tree(tmp_path, {"train/a/1.png": 1} | {f"{name}/a/1.png": 2 + (name == held_out) for name in names})
    assert found(tmp_path, "train") == [(1, 0)]
    assert found(tmp_path, "test") == [(3, 0)]


def test_a_split_without_classes_is_unlabelled(tmp_path: Path) -> None:
    tree(tmp_path, {"train/a/1.png": 1, "train/b/1.png": 2, "test/1.png": 3, "test/2.png": 4})
    assert found(tmp_path, "train") == [(1, 0), (2, 1)]
    assert found(tmp_path, "test") == [(3, -1), (4, -1)]


def test_a_missing_split(tmp_path: Path) -> None:
    tree(tmp_path / "one", {"train/a/1.png": 1})
    assert found(tmp_path / "one", "train") == [(1, 0)]
    with pytest.raises(
        DataError, match=r"one has no folder test or testing or val or valid or validation for its test images; add"
    ):
        reader(tmp_path / "one").source("test")
    tree(tmp_path / "two", {"test/a/1.png": 1})
    assert found(tmp_path / "two", "test") == [(1, 0)]
    with pytest.raises(DataError, match="two has no folder train for its train images"):
        reader(tmp_path / "two").source("train")


def test_train_can_be_a_class(tmp_path: Path) -> None:
    tree(tmp_path, {f"{name}/{number}.png": 1 for name in ("train", "plane") for number in range(20)})
    assert reader(tmp_path).source("train").classes == ("plane", "train")


def test_without_split_folders_a_hash_of_the_path_decides(tmp_path: Path) -> None:
    names = [f"{name}/{number:03}.png" for name in ("cat", "dog") for number in range(60)]
    tree(tmp_path, {name: at for at, name in enumerate(names)})
    parts: dict[Split, list[tuple[int, int]]] = {"train": found(tmp_path, "train"), "test": found(tmp_path, "test")}
    assert sorted(parts["train"] + parts["test"]) == [(at, at // 60) for at in range(120)]
    for split, part in parts.items():
        assert part == [(at, at // 60) for at, name in enumerate(names) if hashed_split(name) == split]
        assert reader(tmp_path).source(split).classes == ("cat", "dog")
    # One image less moves none of the others.
    (tmp_path / "cat/000.png").unlink()
    assert found(tmp_path, "test") == [image for image in parts["test"] if image[0] != 0]


def test_a_heap_of_images_is_unlabelled(tmp_path: Path) -> None:
    tree(tmp_path, {f"{number}.png": number for number in range(40)})
    (tmp_path / "notes").mkdir()
    images = found(tmp_path, "train") + found(tmp_path, "test")
    assert sorted(images) == [(number, -1) for number in range(40)]
    assert reader(tmp_path).source("train").classes is None
    store = open_or_build(reader(tmp_path), "heap", "train", tmp_path / ".cache")
    assert store.manifest.num_classes == 0


def test_the_hash_is_fixed() -> None:
    # The first 8 bytes of their SHA-256 modulo 10, by sha256sum and perl, are 8 0 3 2 9 9 5 6 5 3 2 6.
    assert [number for number in range(12) if hashed_split(f"a/{number}.png") == "test"] == [1]


@given(st.integers(0, 2**32))
def test_a_tenth_is_held_out(start: int) -> None:
    held_out = sum(hashed_split(f"class/{number}.jpg") == "test" for number in range(start, start + 2000))
    assert 200 - 70 < held_out < 200 + 70  # over five standard deviations


def test_too_few_images_for_a_hashed_split(tmp_path: Path) -> None:
    name = next(f"{number}.png" for number in range(100) if hashed_split(f"{number}.png") == "train")
    tree(tmp_path, {name: 1})
    assert found(tmp_path, "train") == [(1, -1)]
    with pytest.raises(DataError, match=r"none of the images in .* test split.* 10%"):
        reader(tmp_path).source("test")


@pytest.mark.fault("split folders under other names")
@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train", "Test"),
        ("training", "testing"),
        ("train_set", "test_set"),
        ("TRAIN_IMAGES", "Validation-Images"),
        ("trainset", "valset"),
        ("archive/train", "archive/val"),
        ("archive/Data Set/Training", "archive/Data Set/valid"),
    ],
)
def test_other_names_of_splits(tmp_path: Path, train: str, test: str) -> None:
    tree(tmp_path, {f"{train}/a/1.png": 1, f"{train}/b/1.png": 2, f"{test}/b/1.png": 3, "__MACOSX/a/1.png": 4})
    assert found(tmp_path, "train") == [(1, 0), (2, 1)]
    assert found(tmp_path, "test") == [(3, 1)]


@pytest.mark.fault("folders that look like splits but are not known")
@pytest.mark.parametrize(
    "names",
    [
        ("seg_train", "seg_test"),
        ("train", "test1"),
        ("train2017", "val2017"),
        ("trainA", "trainB", "testA", "testB"),
        ("train", "my_holdout"),
        ("train_photos",),
        ("train", "Training", "test"),
        ("amazon/train", "amazon/test", "webcam/train", "webcam/test"),
        ("images/train", "images/val", "labels/train"),
    ],
)
def test_unknown_names_of_splits_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    tree(tmp_path, {f"{name}/a/{number}.png": 1 for name in names for number in range(20)})
    for split in ("train", "test"):
        with pytest.raises(DataError, match=names[0].split("/")[-1]):
            reader(tmp_path).source("train" if split == "train" else "test")


def test_names_of_classes_are_not_taken_for_splits(tmp_path: Path) -> None:
    names = ["bullet_train", "contest", "images", "sets", "train"]
    tree(tmp_path, {f"{name}/{number}.png": 1 for name in names for number in range(20)})
    assert reader(tmp_path).source("train").classes == tuple(names)


def tiny_imagenet(root: Path) -> None:
    """The layout of its zip; the value of a validation image is 100 and its class."""
    tree(root, {f"train/n{label}/images/n{label}_{number}.JPEG": label for label in (2, 1) for number in range(3)})
    tree(root, {f"val/images/val_{number}.JPEG": 100 + 1 + number % 2 for number in range(5)})
    tree(root, {f"test/images/test_{number}.JPEG": 200 for number in range(4)})
    lines = [f"val_{number}.JPEG\tn{1 + number % 2}\t0\t32\t44\t62\n" for number in (3, 0, 1, 2, 4)]
    (root / "val/val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("n2\nn1\n")


@pytest.mark.fault("Tiny ImageNet as downloaded")
def test_tiny_imagenet_as_downloaded(tmp_path: Path) -> None:
    tiny_imagenet(tmp_path / "tiny-imagenet-200")
    assert found(tmp_path, "train") == [(1, 0)] * 3 + [(2, 1)] * 3
    assert found(tmp_path, "test") == [(101, 0)] * 3 + [(102, 1)] * 2
    assert reader(tmp_path).source("test").classes == ("n1", "n2")
    before = reader(tmp_path).source("test").identity
    listed = tmp_path / "tiny-imagenet-200/val/val_annotations.txt"
    listed.write_text(listed.read_text().replace("val_0.JPEG\tn1", "val_0.JPEG\tn2"))
    assert found(tmp_path, "test") == [(101, 0)] * 2 + [(101, 1)] + [(102, 1)] * 2
    assert reader(tmp_path).source("test").identity != before


@pytest.mark.fault("ImageNet's val with a list of labels")
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("val.txt", "v_1.JPEG 0\nv_2.JPEG 1\nv_3.JPEG 0\n"),  # Caffe
        ("val/val.txt", "val/v_1.JPEG n1\nval/v_2.JPEG n2\nval/v_3.JPEG n1\n"),
        (
            "LOC_val_solution.csv",
            "ImageId,PredictionString\nv_2,n2 85 1 499 272 \nv_1,n1 1 2 3 4 n1 5 6 7 8\nv_3,n1 1 2 3 4\n",
        ),
        ("devkit/synset_labels.txt", "n1\nn2\nn1\n"),  # a line for each image
    ],
)
def test_a_list_of_labels(tmp_path: Path, name: str, text: str) -> None:
    tree(tmp_path, {"train/n1/a.JPEG": 1, "train/n2/a.JPEG": 2, "test/t_1.JPEG": 9})
    tree(tmp_path, {f"val/v_{number}.JPEG": 10 * number for number in (1, 2, 3)})
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    labels = None if "val" in name else name
    part = layouts.read(ImageFolder(tmp_path, (4, 4), channels=1, labels=labels), "test")
    assert list(zip(part.images[:, 0, 0, 0].tolist(), part.labels.tolist(), strict=True)) == [(10, 0), (30, 0), (20, 1)]


@pytest.mark.fault("a list of labels that does not fit")
@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("v_1.JPEG n1\n", "v_2"),  # lacks an image
        ("v_1.JPEG n1\nv_2.JPEG n7\n", "n7"),  # a class that no training image has
        ("v_1.JPEG 1\nv_2.JPEG 2\n", "n1"),  # counted from 1
        ("490\n361\n", "361"),  # of the devkit, in an order of its own
        ("v_1.JPEG\nv_2.JPEG\n", "v_1"),
        ("other.JPEG n1\n", "labels.txt"),
        ("", "labels.txt"),
        (None, "labels.txt"),
    ],
)
def test_a_list_that_does_not_fit(tmp_path: Path, text: str | None, named: str) -> None:
    tree(tmp_path, {"train/n1/a.JPEG": 1, "train/n2/a.JPEG": 2, "val/v_1.JPEG": 3, "val/v_2.JPEG": 4})
    if text is not None:
        (tmp_path / "labels.txt").write_text(text)
    with pytest.raises(DataError, match=named):
        ImageFolder(tmp_path, (4, 4), channels=1, labels="labels.txt").source("test")


@pytest.mark.fault("test images of classes that no training image has")
@pytest.mark.parametrize("name", ["test/images/1.png", "test/c/1.png", "test/A/1.png"])
def test_classes_of_test_images_only_are_refused(tmp_path: Path, name: str) -> None:
    tree(tmp_path, {"train/a/1.png": 1, "train/b/1.png": 2, "test/a/1.png": 1, name: 3})
    with pytest.raises(DataError, match=rf"{Path(name).parts[1]}.*data\.reader\.labels"):
        reader(tmp_path).source("test")


@pytest.mark.parametrize("split", ["train", "test"])
def test_folders_without_images(tmp_path: Path, split: Split) -> None:
    with pytest.raises(DataError, match=r"holds no image \(\.jpg, \.jpeg, .*\), nor do its folders; set data\.root"):
        reader(tmp_path).source(split)
    (tmp_path / "train/a").mkdir(parents=True)
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match="train holds no image"):
        reader(tmp_path).source(split)
    with pytest.raises(DataError, match="nowhere does not exist"):
        reader(tmp_path / "nowhere").source(split)
    with pytest.raises(ConfigError, match=r"set data\.root=FOLDER"):
        ImageFolder()


def test_images_beside_class_folders(tmp_path: Path) -> None:
    tree(tmp_path, {"a/1.png": 1, "b/1.png": 1, "stray.png": 1})
    with pytest.raises(DataError, match=r"holds images next to its class folders, such as stray\.png; move them"):
        reader(tmp_path).source("train")


def test_a_corrupt_image_is_named(tmp_path: Path) -> None:
    tree(tmp_path, {"train/a/1.png": 1, "train/a/2.png": 1, "val/a/1.png": 1})
    (tmp_path / "train/a/2.png").write_bytes(b"not an image")
    (tmp_path / "val/a/2.jpg").symlink_to("nothing")
    with pytest.raises(DataError, match=r"train/a/2\.png is not a readable image \(no image format is recognised\)"):
        found(tmp_path, "train")
    with pytest.raises(DataError, match=r"val/a/2\.jpg is not a readable image \(No such file"):
        found(tmp_path, "test")


@pytest.mark.fault("a link in a data folder that leads back to its root")
def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    """Reading it would wait for ever."""
    tree(tmp_path, {"train/a/1.png": 1, "val/a/2.png": 2})
    os.mkfifo(tmp_path / "val" / "a" / "3.png")
    (tmp_path / "val" / "a" / "4.png").symlink_to(tmp_path / "val" / "a" / "3.png")
    assert found(tmp_path, "test") == [(2, 0)]


def test_links_within_the_root_are_not_followed(tmp_path: Path) -> None:
    root = tmp_path / "data"
    tree(root, {"train/a/1.png": 1, "train/b/1.png": 2, "test/a/1.png": 3, "test/.store/1.png": 4})
    for name, target in {"root": root, "above": tmp_path, "test": root / "test", "b": root / "train/b"}.items():
        (root / "train/a" / name).symlink_to(target)
    (root / "test/b").symlink_to(".store")  # hidden, so it is not listed otherwise
    assert found(root, "train") == [(1, 0), (2, 1)]
    assert found(root, "test") == [(3, 0), (4, 1)]


def test_links(tmp_path: Path) -> None:
    tree(tmp_path, {"elsewhere/1.png": 1, "data/val/a/1.png": 2})
    (tmp_path / "data/train").mkdir()
    (tmp_path / "data/train/a").symlink_to("../../elsewhere")
    (tmp_path / "elsewhere/back").symlink_to("..")
    assert found(tmp_path / "data", "test") == [(2, 0)]
    (tmp_path / "elsewhere/back").unlink()
    (tmp_path / "elsewhere/self").symlink_to(".")
    assert found(tmp_path / "data", "train") == [(1, 0)]


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, {"a/1.png": 1})
    scandir = os.scandir

    def refusing(path: Path) -> object:
        if path.name == "a":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match=r"the folder .*/a cannot be read \(Permission denied\)"):
        reader(tmp_path).source("train")


def test_the_source_changes_with_its_folders(tmp_path: Path) -> None:
    tree(tmp_path, {"train/a/1.png": 1, "train/b/1.png": 1, "val/a/1.png": 1})

    def identities() -> list[dict[str, object]]:
        return [reader(tmp_path).source("train").identity, reader(tmp_path).source("test").identity]

    before = identities()
    assert identities() == before
    tree(tmp_path, {"train/a/2.png": 1})
    after = identities()
    assert (after[0] == before[0], after[1] == before[1]) == (False, True)
    tree(tmp_path, {"train/A/1.png": 1})  # shifts the labels of both
    assert reader(tmp_path).source("train").classes == ("A", "a", "b")
    assert (identities()[0] == after[0], identities()[1] == after[1]) == (False, False)


@pytest.mark.fault("images replaced in place")
@pytest.mark.parametrize("keep", ["size", "time"])
def test_images_replaced_in_place_are_converted_again(
    tmp_path: Path, keep: str, caplog: pytest.LogCaptureFixture
) -> None:
    root, cache = tmp_path / "data", tmp_path / "cache"
    tree(root, {f"train/a/{number}.png": 1 for number in range(40)})
    old = open_or_build(reader(root), "folder", "train", cache)
    assert set(old.images.flatten().tolist()) == {1}
    before = (root / "train/a/7.png").stat()
    tree(root, {"train/a/7.png": 2})
    if keep == "time":
        Image.new("L", (40, 40), 2).save(root / "train/a/7.png")
        os.utime(root / "train/a/7.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    after = (root / "train/a/7.png").stat()
    assert (after.st_mtime_ns == before.st_mtime_ns, after.st_size == before.st_size) == (
        keep == "time",
        keep == "size",
    )
    with caplog.at_level(logging.INFO, "fragrecon"):
        new = open_or_build(reader(root), "folder", "train", cache)
    assert sorted(set(new.images.flatten().tolist())) == [1, 2]
    assert str(new.folder) in caplog.text
    assert str(old.folder) not in caplog.text


@pytest.mark.fault("image files with rare suffixes")
def test_suffixes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kinds = ("jfif", "jpe", "avif", "ppm", "pgm", "jp2", "tga", "TIFF", "bmp", "dib", "apng", "webp", "mpo")
    for number, kind in enumerate(kinds):
        path = tmp_path / "train/a" / f"{number:02}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB" if kind != "pgm" else "L", (8, 8), (16 * number,) * 3 if kind != "pgm" else 16 * number).save(
            path
        )
    for name in ("a.heic", "b.HEIC", "notes.txt"):
        (tmp_path / "train/a" / name).write_bytes(b"x")
    with caplog.at_level(logging.INFO, "fragrecon"):
        part = layouts.read(reader(tmp_path), "train")
    assert abs(part.images[:, 0, 0, 0].astype(int) - 16 * np.arange(len(kinds))).max() <= 2
    (record,) = [record for record in caplog.records if "heic" in record.getMessage()]
    assert record.levelno == logging.WARNING
    assert "2 .heic" in record.getMessage()
    assert "1 .txt" in record.getMessage()


def test_images_of_any_size_and_format(tmp_path: Path) -> None:
    image = layouts.pictures(1, (3, 48, 80))[0]
    for kind, name in (("PNG", "a.png"), ("JPEG", "b.JPeG"), ("BMP", "c.bmp"), ("WEBP", "d.webp"), ("TIFF", "e.tif")):
        (tmp_path / "train/x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "train/x" / name).write_bytes(layouts.encoded(image, kind))
    for size in ((16, 16), (24, 40), (40, 24)):
        part = layouts.read(ImageFolder(tmp_path, size), "train")
        assert part.images.shape == (5, 3, *size)
        assert abs(part.images.astype(float) - part.images[0]).mean() < 6


@pytest.mark.real
def test_real_files(real_data: Path) -> None:
    root = layouts.real(real_data, "tiny-imagenet")
    listing = ImageFolder(root)
    source = ImageFolder(root).source("train")
    assert source.images == 30_000
    assert source.classes is not None
    assert len(source.classes) == 200
    part = layouts.read(listing, "test")
    assert part.images.shape == (4000, 3, 64, 64)
    # Independent of the reader: a plain sorted listing, and every hundredth image as Pillow has it.
    paths = sorted(root.glob("val/*/*.JPEG"))
    classes = sorted(folder.name for folder in (root / "train").iterdir())
    assert part.labels.tolist() == [classes.index(path.parent.name) for path in paths]
    for at in range(0, 4000, 100):
        expected = np.asarray(Image.open(paths[at]).convert("RGB")).transpose(2, 0, 1)
        np.testing.assert_array_equal(part.images[at], expected)
