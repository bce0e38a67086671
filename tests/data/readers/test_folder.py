from __future__ import annotations

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
            "val/c/1.png": 5,
            "val/b/1.png": 6,
        },
    )
    (tmp_path / "train/b/notes.txt").write_text("no image")
    (tmp_path / "train/empty").mkdir()
    (tmp_path / "readme.png").write_bytes(b"beside the splits, not in them")
    assert found(tmp_path, "train") == [(4, 0), (2, 1), (1, 1), (3, 1)]
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
        DataError, match=r"one has no folder test or val or valid or validation for its test images; add"
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
    tree(tmp_path, {"val/A/1.png": 1})  # shifts the labels of both
    assert reader(tmp_path).source("train").classes == ("A", "a", "b")
    assert (identities()[0] == after[0], identities()[1] == after[1]) == (False, False)


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
