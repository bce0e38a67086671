"""Images as rows of patches."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from fragrecon.data.puzzles import cut, join
from fragrecon.errors import ConfigError
from fragrecon.models.base import Attentive, PatchGrid, Shape


class Patches:
    """How images of one size divide into square patches.

    Args:
        shape: (C, h, w) of an image.
        side: of a patch, in pixels.

    Attributes:
        count: P, patches of an image.
        values: numbers of a patch.
    """

    def __init__(self, shape: Shape, side: int) -> None:
        channels, height, width = shape
        if side < 1 or height % side or width % side:
            fitting = [str(n) for n in range(1, min(height, width) + 1) if height % n == 0 and width % n == 0]
            raise ConfigError(
                f"model.patch={side} does not divide {height}x{width} pixels; it may be {', '.join(fitting)}"
            )
        self.side, self.grid = side, (height // side, width // side)
        self.count, self.values = self.grid[0] * self.grid[1], channels * side**2
        self.channels = channels

    def of(self, images: Tensor) -> Tensor:
        """The patches (M, P, values) of images (M, C, h, w), row by row."""
        return cut(images, (self.side, self.side)).flatten(2)

    def join(self, patches: Tensor) -> Tensor:
        """Images (M, C, h, w) of patches (M, P, values)."""
        return join(patches.view(*patches.shape[:2], self.channels, self.side, self.side), self.grid)


class _Seeing(Attentive, Protocol):
    @property
    def patches(self) -> PatchGrid: ...


def attention_views(model: _Seeing, fragments: Tensor) -> dict[str, Tensor]:
    """For `fragrecon.models.base.Viewer`: where the middle patch of the first image attends, a picture for each head.

    Nothing of the image is masked.
    """
    image, (rows, columns) = fragments[0, :1], model.patches.grid
    middle = torch.tensor([rows // 2 * columns + columns // 2], device=image.device)
    mask = torch.zeros(1, model.patches.count, dtype=torch.bool, device=image.device)
    weights = model.attention(image, mask, middle)[0].float()  # (H, P)
    return {"attention": (weights / weights.amax(1, keepdim=True)).view(-1, 1, rows, columns)}
