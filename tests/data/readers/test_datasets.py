"""Data sets of the user: classes, arrays, and files of arrays."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from fragrecon.config.build import build
from fragrecon.data.readers.arrays import ArrayFiles
from fragrecon.data.readers.datasets import DatasetReader, GivenData, Labelled, fingerprint, give, read_item
from fragrecon.data.readers.folder import hashed_split
from fragrecon.data.store import Block, Reader, open_or_build
from fragrecon.errors import ConfigError, DataError
from fragrecon.run import compose
from tests import layouts
from tests.layouts import read

Pixels = npt.NDArray[np.uint8]


def pictures(count: int = 12, channels: int = 3, seed: int = 0) -> Pixels:
    """Images (count, 16, 24, channels)."""
    images: Pixels = layouts.pictures(count, (channels, 16, 24), seed).transpose(0, 2, 3, 1)
    return images


class Shapes(Dataset[Any]):
    """As in torchvision: pairs of picture and label, and names of classes."""

    classes = ("circle", "square")

    def __init__(self, root: str | None = None, train: bool = True, kind: str = "pil") -> None:
        self.images, self.kind, self.root = pictures(12 if train else 5, seed=int(train)), kind, root

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        image = self.images[index]
        forms: dict[str, Any] = {
            "pil": (Image.fromarray(image), index % 2),
            "array": (image, np.int64(index % 2)),
            "tensor": (torch.from_numpy(image).movedim(-1, 0) / 255, torch.tensor(index % 2)),
            "bytes": [torch.from_numpy(image).movedim(-1, 0), index % 2],
            "mapping": {"image": Image.fromarray(image), "label": index % 2},
            "short": {"img": image},
            "image": image,
        }
        return forms[self.kind]


class Restless(Shapes):
    """Its transform is random."""

    def __getitem__(self, index: int) -> Any:
        return np.random.default_rng().integers(0, 255, (16, 24, 3), np.uint8)


def expected(train: bool, labelled: bool = True) -> Block:
    count = 12 if train else 5
    labels = np.arange(count) % 2 if labelled else np.full(count, -1)
    return Block(pictures(count, seed=int(train)).transpose(0, 3, 1, 2), labels)


@pytest.mark.parametrize("kind", ["pil", "array", "tensor", "bytes", "mapping", "short", "image"])
def test_items_of_every_form_are_read(kind: str) -> None:
    reader = DatasetReader(Shapes(kind=kind), Shapes(train=False, kind=kind), (16, 24))
    for split in ("train", "test"):
        layouts.assert_holds(reader, split, expected(split == "train", kind not in ("short", "image")))
        assert reader.source(split).images == (12 if split == "train" else 5)
        assert reader.source(split).classes == ("circle", "square")


def test_images_are_scaled_like_files(tmp_path: Path) -> None:
    whole = pictures(seed=1)
    found = read(DatasetReader(Shapes(), Shapes(), (8, 12), channels=3), "train").images
    means = whole.reshape(12, 8, 2, 12, 2, 3).mean((2, 4)).transpose(0, 3, 1, 2)
    assert abs(found - means).max() <= 1
    assert read(DatasetReader(Shapes(), Shapes(), (16, 24), channels=1), "train").images.shape == (12, 1, 16, 24)


def test_without_test_images_a_part_is_held_out() -> None:
    data = Labelled(pictures(60), np.arange(60))
    reader = DatasetReader(data, image_size=(16, 24))
    parts = {split: read(reader, split).labels.tolist() for split in ("train", "test")}
    assert sorted(parts["train"] + parts["test"]) == list(range(60))
    assert parts["test"] == [index for index in range(60) if hashed_split(str(index)) == "test"]
    assert 1 <= len(parts["test"]) <= 15


def test_a_config_names_the_class_and_its_arguments(tmp_path: Path) -> None:
    node = f"{{_target_: {__name__}.Shapes, train: false}}"
    config = compose(
        [
            "data=dataset",
            f"data.reader.dataset._target_={__name__}.Shapes",
            f"+data.reader.test={node}",
            "data.root=somewhere",
            "data.image_size=[16,24]",
        ]
    )
    facts = {name: getattr(config.data, name) for name in ("root", "image_size", "channels", "download")}
    reader = build(config.data.reader, "data.reader", Reader, **facts)
    layouts.assert_holds(reader, "test", expected(train=False))
    assert reader._datasets["train"].root == str(Path("somewhere").absolute())
    with pytest.raises(ConfigError, match=r"^data\.reader\.dataset\._target_='numpy\.memmap'"):
        build({**config.data.reader, "dataset": {"_target_": "numpy.memmap"}}, "data.reader", Reader, **facts)
    with pytest.raises(ConfigError, match=r"^data\.reader\.dataset\._target_=.*Labels"):
        build({**config.data.reader, "dataset": {"_target_": f"{__name__}.Labels"}}, "data.reader", Reader, **facts)


def test_the_fingerprint_changes_with_the_images() -> None:
    images = pictures()
    other = images.copy()
    other[-1, -1, -1, -1] ^= 1
    data: list[Any] = [images, images[:-1], other, images[..., :1], Labelled(images, range(12))]
    data += [Labelled(images, range(1, 13)), Shapes(), Shapes(train=False), Shapes(kind="image")]
    found = [fingerprint(one) for one in data]
    assert len(set(found)) == len(found)
    assert found == [fingerprint(one) for one in data]
    with pytest.raises(DataError, match="random"):
        fingerprint(Restless())


@pytest.mark.parametrize(
    "item",
    [
        None,
        "text",
        np.zeros((4, 4), np.float64),
        np.zeros((2, 4, 5), np.uint8),
        torch.zeros(4, 4),
        {"pixels": 1},
        (np.zeros((4, 4), np.uint8), "cat"),
        (np.zeros((4, 4), np.uint8), 1.5),
        (np.zeros((4, 4), np.uint8), [1, 2]),
    ],
)
def test_what_is_no_image_is_refused(item: Any) -> None:
    with pytest.raises(DataError, match=r"^item 0 of list"):
        read_item([item], 0)


def test_data_given_from_python_is_found_by_another_process_in_the_cache(tmp_path: Path) -> None:
    reader = give(pictures(30), pictures(6, seed=1))
    assert reader.shape == (3, 16, 24)
    stores = {split: open_or_build(reader, "given", split, tmp_path) for split in ("train", "test")}
    assert (stores["test"].images == pictures(6, seed=1).transpose(0, 3, 1, 2)).all()
    code = (
        "import sys; from pathlib import Path; from fragrecon.data.readers.datasets import GivenData\n"
        "from fragrecon.data.store import open_or_build\n"
        f"reader = GivenData({reader.key!r}, (16, 24))\n"
        f"print(len(open_or_build(reader, 'given', 'train', Path({str(tmp_path)!r}))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "30"
    with pytest.raises(DataError, match="given from Python"):
        open_or_build(GivenData("unknown"), "given", "train", tmp_path)
    assert give(pictures(30)).key != reader.key


# Files of arrays ------------------------------------------------------------------------------------------------------


def write(root: Path, arrays: Mapping[str, Any], compressed: bool = True) -> Path:
    """Write arrays as a folder, or as a file if the name has a suffix."""
    if root.suffix:
        (np.savez_compressed if compressed else np.savez)(root, **arrays)
        return root
    root.mkdir()
    for name, array in arrays.items():
        np.save(root / f"{name}.npy", array)
    return root


@pytest.mark.parametrize("name", ["data.npz", "data"])
@pytest.mark.parametrize("names", [("train_images", "train_labels", "test_images", "test_labels"),
                                   ("x_train", "y_train", "x_test", "y_test")])  # fmt: skip
def test_arrays_are_read_from_files(tmp_path: Path, name: str, names: tuple[str, ...]) -> None:
    values = (pictures(12, seed=1), np.arange(12)[:, None] % 2, pictures(5), np.arange(5, dtype=np.uint8) % 2)
    reader = ArrayFiles(write(tmp_path / name, dict(zip(names, values, strict=True))), (16, 24))
    layouts.assert_holds(reader, "train", expected(train=True))
    layouts.assert_holds(reader, "test", expected(train=False))
    assert (reader.source("train").images, reader.source("test").images) == (12, 5)


def test_gray_arrays_in_several_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fragrecon.data.readers.arrays.block_length", lambda shape: 7)
    images = pictures(60, 1)
    for number, given in enumerate((images, images[..., 0])):
        reader = ArrayFiles(write(tmp_path / f"{number}.npz", {"images": given}), (16, 24), 1)
        parts = {split: read(reader, split) for split in ("train", "test")}
        chosen = [index for index in range(60) if hashed_split(str(index)) == "test"]
        assert (parts["test"].images == images[chosen].transpose(0, 3, 1, 2)).all()
        assert reader.source("train").images == len(parts["train"].images) == 60 - len(chosen)
        assert set(parts["train"].labels) == {-1}


def header(shape: tuple[int, ...], kind: str = "|u1") -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": kind, "fortran_order": False, "shape": shape})
    return content.getvalue()


@pytest.mark.parametrize(
    "arrays",
    [
        {"other": np.zeros(3)},
        {"train_images": np.zeros((3, 4, 4), np.float32)},
        {"train_images": np.zeros((3, 4), np.uint8)},
        {"train_images": np.zeros((3, 4, 4, 5), np.uint8)},
        {"train_images": np.zeros((3, 4, 4), object)},
        {"train_images": np.zeros((3, 4, 4), np.uint8), "train_labels": np.zeros(2, int)},
        {"train_images": np.zeros((3, 4, 4), np.uint8), "train_labels": np.zeros(3)},
        {"train_images": np.asfortranarray(np.zeros((3, 4, 4), np.uint8))},
    ],
)
def test_arrays_that_are_no_images_are_refused(tmp_path: Path, arrays: dict[str, Any]) -> None:
    for name in ("data.npz", "data"):
        root = write(tmp_path / name, arrays)
        with pytest.raises(DataError, match=str(root)):
            list(ArrayFiles(root).blocks("train"))


def test_a_file_that_is_shorter_than_its_header_says_allocates_nothing(tmp_path: Path) -> None:
    (tmp_path / "train_images.npy").write_bytes(header((1 << 40, 64, 64, 3)) + bytes(100))
    with pytest.raises(DataError, match=r"train_images\.npy"):
        ArrayFiles(tmp_path).source("train")
    (tmp_path / "train_images.npy").write_bytes(b"not an array")
    with pytest.raises(DataError, match=r"train_images\.npy"):
        ArrayFiles(tmp_path).source("train")
    (tmp_path / "data.npz").write_bytes(b"not an archive")
    with pytest.raises(DataError, match=r"data\.npz"):
        ArrayFiles(tmp_path / "data.npz").source("train")


# Hugging Face ---------------------------------------------------------------------------------------------------------


def opened(root: Path) -> Any:
    config = compose(["data=huggingface", f"data.root={root}", "data.image_size=[16,24]"])
    facts = {name: getattr(config.data, name) for name in ("root", "image_size", "channels")}
    return build(config.data.reader, "data.reader", Reader, **facts)


def test_a_saved_data_set_of_hugging_face_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["even", "odd"])})
    parts = {"train": expected(train=True), "validation": expected(train=False)}
    saved = {
        name: datasets.Dataset.from_dict(
            {
                "image": [Image.fromarray(image) for image in part.images.transpose(0, 2, 3, 1)],
                "label": part.labels.tolist(),
            },
            features=features,
        )
        for name, part in parts.items()
    }
    datasets.DatasetDict(saved).save_to_disk(tmp_path / "both")
    reader = opened(tmp_path / "both")
    layouts.assert_holds(reader, "train", parts["train"])
    layouts.assert_holds(reader, "test", parts["validation"])
    assert reader.source("train").classes == ("even", "odd")
    layouts.assert_holds(give(saved["train"], saved["validation"]), "test", parts["validation"])
    saved["train"].save_to_disk(tmp_path / "one")
    for root in (tmp_path / "one", tmp_path):
        with pytest.raises(DataError, match=str(root)):
            opened(root)


def test_without_the_extra_a_saved_data_set_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r'pip install "fragrecon\[huggingface\]"'):
        opened(tmp_path)
