"""The splits of a folder of images: names of their folders, and lists of the classes of test images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fragrecon.data.readers.images import SUFFIXES
from fragrecon.errors import DataError

HELD_OUT = ("test", "testing", "val", "valid", "validation")
"""Names of the folder of the test split, in order of preference."""

LISTS = ("val_annotations.txt", "val.txt", "LOC_val_solution.csv")
"""Names of lists of classes, as Tiny ImageNet, Caffe and Kaggle call them."""

_TRAIN = ("train", "training")
_ALIKE = (*HELD_OUT, "eval", "evaluation", "dev", "holdout", "heldout")


def find_splits(names: Sequence[str], where: Path) -> tuple[str | None, list[str]] | None:
    """Find the folders of the splits among the folders in a folder.

    ``train`` and one of `HELD_OUT` are known in any case, also followed by ``set``, ``data``, ``images`` or ``split``.
    A folder "train" among folders that name no split is a class, of trains.

    Args:
        names: names of the folders.
        where: the folder that contains them, for messages.

    Returns:
        The folder of the training split, None if there is none, and those of the test split in order of preference;
        None if the folders are not splits.

    Raises:
        DataError: the names look like those of splits but are not known, or two name the training split.
    """
    words = {name: _word(name) for name in names}
    train = [name for name in names if words[name] in _TRAIN]
    held_out = sorted((name for name in names if words[name] in HELD_OUT), key=lambda name: HELD_OUT.index(words[name]))
    if (train and held_out) or (names and len(train) + len(held_out) == len(names)):
        if len(train) > 1:
            raise DataError(f"{where} has several folders of training images, {' and '.join(train)}; keep one of them")
        return next(iter(train), None), held_out
    if looks_split(names):
        raise DataError(
            f"{where} has the folders {', '.join(sorted(names)[:8])}, which look like splits; rename the "
            "splits train and test or, if these are classes, rename them"
        )
    return None


def looks_split(names: Sequence[str]) -> bool:
    """Whether names of folders are like those of splits: one of each, or all of them."""
    train = [name for name in names if _tokens(name) & {*_TRAIN}]
    held_out = [name for name in names if _tokens(name) & {*_ALIKE}]
    return bool(train and held_out) or (bool(names) and len({*train, *held_out}) == len(names))


def read_list(path: Path, images: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """Read a list of the classes of images.

    A line is the name of an image, with or without suffix, and its class, separated by a tab, a comma or blanks; or
    the class alone, a line for each image in the order of their names. The class is the name of a training class or,
    after the name of an image, its index from 0 among the sorted names. Other columns are ignored.

    Args:
        path: the list.
        images: names of the images.
        classes: names of the training classes, sorted.

    Returns:
        The class of each image; none if the list is of other images.

    Raises:
        DataError: the list cannot be read, lacks some of the images, or names another class.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"the list of labels {path} cannot be read ({error})") from None
    pairs = [_fields(line) for line in lines if line.strip()]
    if all(not label for _, label in pairs):
        if len(pairs) != len(images):
            return {}
        labels = {image: name for image, (name, _) in zip(sorted(images), pairs, strict=True)}
    else:
        listed = {_stem(name): label for name, label in pairs}
        missing = [image for image in images if _stem(image) not in listed]
        if len(missing) == len(images):
            return {}
        if missing:
            raise DataError(f"{path} lacks {len(missing)} of {len(images)} images, such as {missing[0]}")
        labels = {image: listed[_stem(image)] for image in images}
    known, indices = set(classes), {str(index): name for index, name in enumerate(classes)}
    if all(label for _, label in pairs) and "0" in (found := set(labels.values())) and found <= indices.keys():
        labels = {image: indices[label] for image, label in labels.items()}
    labels = {image: label if label in known else label.partition(" ")[0] for image, label in labels.items()}
    if wrong := sorted({label for label in labels.values() if label not in known}):
        raise DataError(
            f"{path} names {len(wrong)} classes that no training image has, such as {wrong[0]}; "
            f"expected names like {classes[0]}"
        )
    return labels


def _fields(line: str) -> tuple[str, str]:
    """Split a line into the name of an image and its class, "" if the line has one column."""
    for separator in ("\t", ","):
        if separator in line:
            name, label, *_ = line.split(separator)
            return name.strip(), label.strip()
    parts = line.rsplit(None, 1)
    return parts[0], "".join(parts[1:])


def _stem(name: str) -> str:
    """Return the name of an image without folder and suffix of an image file."""
    path = Path(name)
    return path.stem if path.suffix.lower() in SUFFIXES else path.name


def _tokens(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}


def _word(name: str) -> str:
    return re.sub(r"[ _-]?(set|data|images|split)$", "", name.lower())
