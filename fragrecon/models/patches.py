"""Images as sequences of patches."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from fragrecon.data.puzzles import cut, join
from fragrecon.errors import ConfigError
from fragrecon.models.base import Attentive, PatchGrid, Shape


class Patches:
    """The grid of square patches of images of one size; see `fragrecon.models.base.PatchGrid`.

    Args:
        shape: image shape (C, h, w).
        side: side of a patch, in pixels.

    Attributes:
        count: number of patches per image, P.
        grid: rows and columns of patches.
        values: number of values per patch, C * side * side.

    Raises:
        ConfigError: the side of a patch does not divide the image.
    """

    def __init__(self, shape: Shape, side: int) -> None:
        channels, height, width = shape
        if side < 1 or height % side or width % side:
            fitting = [str(n) for n in range(1, min(height, width) + 1) if height % n == 0 and width % n == 0]
            raise ConfigError(f"model.patch={side} does not divide {height}x{width} pixels; use {', '.join(fitting)}")
        self.side, self.grid = side, (height // side, width // side)
        self.count, self.values = self.grid[0] * self.grid[1], channels * side**2
        self.channels = channels

    def cut(self, images: Tensor) -> Tensor:
        """Cut images (M, C, h, w) into patches (M, P, values), row by row."""
        return cut(images, (self.side, self.side)).flatten(2)

    def join(self, patches: Tensor) -> Tensor:
        """Join patches (M, P, values) to images (M, C, h, w)."""
        return join(patches.view(*patches.shape[:2], self.channels, self.side, self.side), self.grid)


class _PatchAttention(Attentive, Protocol):
    @property
    def patches(self) -> PatchGrid: ...


def attention_views(model: _PatchAttention, fragments: Tensor) -> dict[str, Tensor]:
    """Draw the attention weights of the middle patch of the first image, with no patch masked.

    Args:
        model: a model whose patches attend to each other.
        fragments: (B, F, C, h, w) in [0, 1].

    Returns:
        One picture per head, (H, 1, rows, columns) in [0, 1]; see `fragrecon.models.base.Viewer`.
    """
    image, (rows, columns) = fragments[0, :1], model.patches.grid
    middle = torch.tensor([rows // 2 * columns + columns // 2], device=image.device)
    mask = torch.zeros(1, model.patches.count, dtype=torch.bool, device=image.device)
    weights = model.attention(image, mask, middle)[0].float()  # (H, P)
    return {"attention": (weights / weights.amax(1, keepdim=True)).view(-1, 1, rows, columns)}
