"""A transformer over all fragments of a puzzle, whose attention sees how well they abut."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fragrecon.errors import ConfigError
from fragrecon.models.base import FragmentModel, Shape
from fragrecon.seams import FEATURES, seam_features


class Mosaic(FragmentModel):
    """Embeds each fragment in the light of all others of its puzzle, whatever their order and number.

    A fragment starts as an embedding of its pixels and of small windows of them. Pre-norm transformer blocks follow,
    without positions, since a puzzle is a set; attention between two fragments is biased, for each block and head,
    by a learned function of their `seam_features`. The output has length 1.

    Args:
        fragment_shape: (C, h, w).
        grid: rows and columns of fragments in an image.
        latent_dim: D.
        width: of the transformer.
        depth: blocks.
        heads: of attention.
        window: side of the windows, in pixels; they overlap by half.
        seams: whether attention sees seams.
        context: whether fragments see each other at all.
    """

    def __init__(
        self,
        fragment_shape: Shape,
        grid: tuple[int, int],
        latent_dim: int = 128,
        width: int = 256,
        depth: int = 8,
        heads: int = 8,
        window: int = 8,
        seams: bool = True,
        context: bool = True,
    ) -> None:
        super().__init__(fragment_shape, latent_dim)
        channels, height, columns = fragment_shape
        if width % heads:
            raise ConfigError(f"model.width={width} cannot be shared equally by model.heads={heads}")
        if not 2 <= window <= min(height, columns):
            raise ConfigError(f"model.window={window} should be from 2 to the fragment's side, {min(height, columns)}")
        self.window, self.seams, self.context, self.depth, self.heads = window, seams, context, depth, heads
        pixels = channels * height * columns
        self.pixels = nn.Sequential(nn.Linear(pixels, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        places = len(range(0, height - window + 1, window // 2)) * len(range(0, columns - window + 1, window // 2))
        self.windows = nn.Linear(channels * window**2, 64)
        self.gather = nn.Sequential(nn.GELU(), nn.Linear(64 * places, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.seam_bias = nn.Sequential(nn.Linear(FEATURES, 32), nn.GELU(), nn.Linear(32, depth * heads))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, latent_dim)
        self.cells = nn.Linear(width, grid[0] * grid[1])

    def encode(self, fragments: Tensor) -> Tensor:
        return self.project(self.features(fragments))

    def project(self, features: Tensor) -> Tensor:
        """Features (B, F, width) to embeddings (B, F, D) of length 1."""
        return F.normalize(self.head(features).float(), dim=-1)

    def cell_logits(self, features: Tensor) -> Tensor:
        """Features (B, F, width) to logits (B, F, cells) of a fragment's place in its image."""
        logits: Tensor = self.cells(features)
        return logits

    def features(self, fragments: Tensor) -> Tensor:
        """What the transformer makes of fragments (B, F, C, h, w) in [0, 1]: (B, F, width)."""
        centred = fragments * 4 - 2
        hidden = self.pixels(centred.flatten(2)) + self.gather(self._windows(centred))
        biases: list[Tensor | None] = [None] * self.depth
        if self.seams and self.context:
            with torch.no_grad():
                seams = seam_features(fragments.float())
            found = self.seam_bias(seams.to(hidden.dtype))  # (B, F, F, depth * heads)
            biases = list(found.unflatten(-1, (self.depth, self.heads)).permute(3, 0, 4, 1, 2).unbind(0))
        for block, bias in zip(self.blocks, biases, strict=True):
            hidden = block(hidden, bias, self.context)
        features: Tensor = self.norm(hidden)
        return features

    def _windows(self, fragments: Tensor) -> Tensor:
        step = self.window // 2
        tiles = fragments.unfold(-2, self.window, step).unfold(-2, self.window, step)  # (B, F, C, rows, columns, ...)
        windows: Tensor = self.windows(tiles.movedim(2, 4).flatten(4).flatten(2, 3))
        return windows.flatten(2)


class Block(nn.Module):
    """Attention and a perceptron, each on normalised inputs and added to what it read."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, hidden: Tensor, bias: Tensor | None, context: bool) -> Tensor:
        """Hidden (B, F, width) with a bias (B, heads, F, F) on attention; without context only the perceptron acts."""
        if context:
            qkv = self.qkv(self.norm1(hidden)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            query, key, value = qkv.unbind(0)
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
            hidden = hidden + self.out(mixed.transpose(1, 2).flatten(2))
        result: Tensor = hidden + self.mlp(self.norm2(hidden))
        return result
