"""Crops of real photographs, in the aspects that are asked for, and a model that takes any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor

from fragrecon.models.base import FragmentModel, Shape

ASPECTS = (0.5, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.5, 1.5, 3.0)
"""Width by height: of 11 images, five are square and one is by itself."""


def crops(
    dest: Path, train: int = 44, test: int = 22, aspects: Sequence[float] = ASPECTS, height: int = 48
) -> dict[str, int]:
    """``train/china/NNN.png`` and so on in ``dest``; the width of each when brought to a height of 32 in steps of 16.

    The images of each class, china and flower, go through ``aspects`` in turn.
    """
    random, widths = np.random.default_rng(0), {}
    for name in ("china", "flower"):
        photograph = Image.fromarray(load_sample_image(f"{name}.jpg"))
        for split, count in (("train", train), ("test", test)):
            for number in range(count // 2):
                width = round(height * aspects[number % len(aspects)])
                left = int(random.integers(photograph.width - width + 1))
                top = int(random.integers(photograph.height - height + 1))
                path = dest / split / name / f"{number:03}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                photograph.crop((left, top, left + width, top + height)).save(path)
                widths[str(path.relative_to(dest))] = 16 * round(2 * aspects[number % len(aspects)])
    return widths


class Bands(FragmentModel):
    """Embeds the mean of each of four bands of rows, whatever the width, and decodes them as such bands."""

    any_size = True

    def __init__(self, fragment_shape: Shape) -> None:
        super().__init__(fragment_shape, 4 * fragment_shape[0])

    def embed(self, fragments: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(fragments, (4, 1)).flatten(1)

    def decode(self, latents: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        bands = latents.reshape(*latents.shape[:-1], self.fragment_shape[0], 4, 1)
        height, width = size or self.fragment_shape[1:]
        images: Tensor = bands.repeat_interleave(height // 4, -2).expand(*bands.shape[:-2], height, width)
        return images


def bands(images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Tensor:
    """What `Bands` should embed images (M, C, H, W) as, H a multiple of 4."""
    parts = np.split(images.astype(np.float64) / 255, 4, axis=2)
    return torch.from_numpy(np.stack([part.mean((2, 3)) for part in parts], 2)).flatten(1).float()
