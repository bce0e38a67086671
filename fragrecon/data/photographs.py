"""User-supplied photographs as a puzzle.

Shapes: N photographs, F fragments (C, h, w) in all.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fragrecon.data.corruption import corrupt, lose
from fragrecon.data.puzzles import FragmentBatch, make_batch
from fragrecon.data.readers.images import MAX_PIXELS, Shape, decode, size_of
from fragrecon.data.readers.listing import image_paths
from fragrecon.errors import ConfigError, DataError
from fragrecon.seeds import keys_of, torch_generator

log = logging.getLogger(__name__)

LARGEST = 512
"""Maximum side, in pixels, of a photograph for display."""

MOST = 4096
"""Maximum number of fragments in a puzzle; memory grows with its square."""


@dataclass(frozen=True)
class Photographs:
    """Photographs cut into one puzzle, at two sizes.

    Attributes:
        shown: uint8 fragments for display, larger than those of ``seen`` by an integer factor.
        seen: the same fragments in [0, 1], at the model's input size.
    """

    shown: FragmentBatch
    seen: FragmentBatch


def image_files(given: Any) -> list[Path]:
    """Return the image files given by ``input``: those of a folder and its subfolders, or a list of files.

    Args:
        given: value of ``input``.

    Returns:
        Paths of the files.

    Raises:
        ConfigError: ``input`` is not set or of the wrong type.
        DataError: the folder or file does not exist, or the folder contains no image.
    """
    if given and isinstance(given, str) and Path(given).expanduser().is_dir():
        return image_paths(Path(given).expanduser())
    names = [given] if given and isinstance(given, str) else given
    if not isinstance(names, Sequence) or not names or not all(isinstance(name, str) for name in names):
        raise ConfigError("this mode needs images: input=FOLDER, or 'input=[FILE,FILE,...]'")
    paths = [Path(name).expanduser() for name in names]
    for path in paths:
        if not path.is_file():
            raise DataError(f"input: {path} is not there")
    return paths


def check_count(fragments: int) -> None:
    """Check the number of fragments.

    Args:
        fragments: number of fragments.

    Raises:
        ConfigError: there are too many for one puzzle.
    """
    if fragments > MOST:
        raise ConfigError(f"{fragments} fragments are more than the {MOST} that one puzzle may hold; give fewer files")


def read_whole(paths: Sequence[Path], max_pixels: int = MAX_PIXELS) -> list[Tensor]:
    """Read photographs at full size.

    Args:
        paths: paths of the files.
        max_pixels: maximum number of pixels of a file.

    Returns:
        Images (C, H, W) uint8; C is 1 if all are grey, else 3.

    Raises:
        DataError: a file is not an image, or is too large.
    """
    images = [torch.from_numpy(decode(path, (3, *size_of(path, max_pixels)), max_pixels=max_pixels)) for path in paths]
    grey = all(bool((image == image[:1]).all()) for image in images)
    return [image[:1] for image in images] if grey else images


def cut_photographs(
    paths: Sequence[Path],
    image_shape: Shape,
    fragment_size: tuple[int, int],
    seed: int,
    rotate: bool = False,
    missing: float = 0.0,
    max_pixels: int = MAX_PIXELS,
) -> Photographs:
    """Scale and crop photographs to one size and cut them into a puzzle of fragments in random order.

    Args:
        paths: paths of the files.
        image_shape: (C, H, W) of a photograph for the model.
        fragment_size: (h, w) of a fragment for the model.
        seed: seed of the random order, of rotations and of what is missing.
        rotate: whether each fragment is rotated by 0, 90, 180 or 270 degrees at random.
        missing: share of the fragments that are missing, in [0, 1).
        max_pixels: maximum number of pixels of a file.

    Returns:
        The puzzle.

    Raises:
        ConfigError: fragments that are not square cannot be rotated.
        DataError: a file is not an image.
    """
    (channels, height, width), (h, w) = image_shape, fragment_size
    sizes = [size_of(path, max_pixels) for path in paths]
    smallest = min(min(size[0] / height, size[1] / width) for size in sizes)
    scale = max(1, min(math.floor(smallest), LARGEST // max(height, width)))
    if smallest < 1:
        log.warning(
            "some images are smaller than %dx%d pixels and are enlarged; their seams are too smooth", height, width
        )
    shape = channels, height * scale, width * scale
    pixels = [decode(path, shape, max_pixels=max_pixels) for path in paths]
    images = torch.stack([torch.from_numpy(image) for image in pixels]).unsqueeze(0)
    count = len(paths) * (height // h) * (width // w)
    order = torch.randperm(count, generator=torch_generator(seed, "reassemble")).unsqueeze(0)
    unknown, ids = torch.full((1, len(paths)), -1), torch.arange(len(paths)).unsqueeze(0)
    shown = make_batch(images, unknown, ids, order, (h * scale, w * scale))
    shown = lose(shown, missing)
    if rotate:
        shown = corrupt("rotation", shown, keys_of(seed, "reassemble/rotation", 0, 1), 0.75)
    smaller = F.avg_pool2d(shown.fragments[0].float() / 255, scale).unsqueeze(0)
    return Photographs(shown, replace(shown, fragments=smaller))
