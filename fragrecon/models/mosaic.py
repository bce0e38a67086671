"""A transformer over all fragments of a puzzle, with attention biased by how well they fit together."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from fragrecon.errors import ConfigError
from fragrecon.models.base import FragmentModel, PairScores, Shape, Solution
from fragrecon.seams import FEATURES, SIDES, seam_features, strips

SIDE_WIDTH = 32
"""Dimension of the vectors that match sides."""


class Mosaic(FragmentModel):
    """Embeds each fragment in the context of all other fragments of its puzzle, for any order and number of fragments.

    The initial token of a fragment is an embedding of its pixels and of small windows of them. Pre-norm transformer
    blocks follow, without positional embeddings, because a puzzle is a set. A learned function, per block and head,
    adds a bias to the attention logits. Its inputs are `seam_features` and the distances computed by `Edges`. Heads
    then predict the fragment's unit-norm embedding, its cell, and its neighbours.

    Args:
        fragment_shape: (C, h, w).
        grid: rows and columns of fragments in an image.
        latent_dim: number of embedding dimensions, D.
        width: width of the transformer.
        depth: number of blocks.
        heads: number of attention heads.
        window: side of the windows, in pixels; they overlap by half.
        seams: whether attention is biased by `seam_features`.
        edges: whether attention is biased by `Edges`.
        context: whether fragments attend to each other.

    Raises:
        ConfigError: the number of heads does not divide the width, or a window is larger than the fragment.
    """

    def __init__(
        self,
        fragment_shape: Shape,
        grid: tuple[int, int],
        latent_dim: PositiveInt = 128,
        width: PositiveInt = 256,
        depth: PositiveInt = 8,
        heads: PositiveInt = 8,
        window: PositiveInt = 8,
        seams: bool = True,
        edges: bool = True,
        context: bool = True,
    ) -> None:
        super().__init__(fragment_shape, latent_dim)
        channels, height, columns = fragment_shape
        if width % heads:
            raise ConfigError(f"model.heads={heads} should divide model.width={width}")
        if not 2 <= window <= min(height, columns):
            raise ConfigError(f"model.window={window} should be from 2 to the fragment's side, {min(height, columns)}")
        self.grid, self.window, self.seams, self.context = grid, window, seams, context
        self.depth, self.heads = depth, heads
        pixels = channels * height * columns
        self.pixels = nn.Sequential(nn.Linear(pixels, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        places = len(range(0, height - window + 1, window // 2)) * len(range(0, columns - window + 1, window // 2))
        self.windows = nn.Linear(channels * window**2, 64)
        self.gather = nn.Sequential(nn.GELU(), nn.Linear(64 * places, width))
        self.edges = Edges(channels, min(height, columns)) if edges else None
        self.blocks = nn.ModuleList(MosaicBlock(width, heads) for _ in range(depth))
        known = FEATURES * seams + Edges.FEATURES * edges
        self.seam_bias = nn.Sequential(nn.Linear(known, 32), nn.GELU(), nn.Linear(32, depth * heads)) if known else None
        self.seam_sides = nn.Linear(known, 2, bias=False) if known else None
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, latent_dim)
        self.cells = nn.Linear(width, grid[0] * grid[1])
        self.neighbours = nn.Linear(width, len(SIDES) * SIDE_WIDTH)
        self.none = nn.Linear(width, len(SIDES))

    def encode(self, fragments: Tensor) -> Tensor:
        """Embed the fragments (B, F, C, h, w) of puzzles as unit-norm vectors (B, F, D)."""
        return self.solve(fragments).embeddings

    def solve(self, fragments: Tensor) -> Solution:
        """Predict embeddings, cells and neighbours of the fragments of puzzles.

        Args:
            fragments: (B, F, C, h, w) in [0, 1].

        Returns:
            The predictions.
        """
        centred = fragments * 4 - 2
        hidden = self.pixels(centred.flatten(2)) + self.gather(self._windows(centred))
        seams = self._seams(fragments, centred)
        biases: list[Tensor | None] = [None] * self.depth
        if self.seam_bias is not None and seams is not None and self.context:
            bias = self.seam_bias(seams)  # (B, F, F, depth * heads)
            biases = list(bias.unflatten(-1, (self.depth, self.heads)).permute(3, 0, 4, 1, 2).unbind(0))
        for block, block_bias in zip(self.blocks, biases, strict=True):
            hidden = block(hidden, block_bias, self.context)
        tokens = self.norm(hidden)
        embeddings = F.normalize(self.head(tokens).float(), dim=-1)
        return Solution(embeddings, self.cells(tokens).float(), self._sides(tokens, seams).float())

    def _windows(self, fragments: Tensor) -> Tensor:
        """Embed all windows of fragments (B, F, C, h, w), as one vector per fragment, (B, F, 64 * windows)."""
        step = self.window // 2
        tiles = fragments.unfold(-2, self.window, step).unfold(-2, self.window, step)  # (B, F, C, rows, columns, ...)
        windows: Tensor = self.windows(tiles.movedim(2, 4).flatten(4).flatten(2, 3))
        return windows.flatten(2)

    def _seams(self, fragments: Tensor, centred: Tensor) -> Tensor | None:
        """Compute the features (B, F, F, features) of all seams, before fragments attend to each other."""
        known = []
        if self.seams:
            with torch.no_grad():
                known.append(seam_features(fragments.float()))
        if self.edges is not None:
            known.append(self.edges(centred))
        return torch.cat(known, -1) if known else None

    def _sides(self, tokens: Tensor, seams: Tensor | None) -> Tensor:
        """Predict the logits `Solution.sides`; 'a right of b' and 'b left of a' share a logit."""
        right, left, below, above = self.neighbours(tokens).unflatten(-1, (len(SIDES), SIDE_WIDTH)).unbind(2)
        logits = torch.stack([right @ left.mT, below @ above.mT], 1) / math.sqrt(SIDE_WIDTH)
        if self.seam_sides is not None and seams is not None:
            logits = logits + self.seam_sides(seams).movedim(-1, 1)
        itself = torch.eye(tokens.shape[1], dtype=torch.bool, device=tokens.device)
        logits = logits.float().masked_fill(itself, -torch.inf)
        sides = torch.stack([logits[:, 0], logits[:, 0].mT, logits[:, 1], logits[:, 1].mT], 2)  # (B, F, 4, F)
        return torch.cat([sides, self.none(tokens).float().unsqueeze(-1)], -1)

    def pair_scores(self, fragments: Tensor) -> PairScores:
        """Score all pairs of the fragments (B, F, C, h, w) of each puzzle; see `Solution.pair_scores`."""
        return self.solve(fragments).pair_scores()


class Edges(nn.Module):
    """Predicts features of each side that should be equal for the two fragments on either side of a true seam.

    The features are predicted from the pixels next to the side. A small MLP is applied at every pixel along the side.
    All four sides share its weights; strips are oriented so that the seam is on the same side.

    Args:
        channels: channels of a fragment.
        side: shorter side of a fragment, in pixels.
        hidden: width of the MLP's hidden layer.
        size: number of features of each group at each pixel along the side.
    """

    GROUPS = 4
    FEATURES = GROUPS * len(SIDES)
    """Number of distances per ordered pair: one per group and side."""

    def __init__(self, channels: int, side: int, hidden: int = 64, size: int = 4) -> None:
        super().__init__()
        self.rows, self.reach, self.size = min(6, side), 2, size
        inputs = channels * self.rows * (2 * self.reach + 1)
        self.layers = nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, self.GROUPS * size))

    def forward(self, fragments: Tensor) -> Tensor:
        """Compare the predictions for all pairs of fragments.

        Args:
            fragments: (B, F, C, h, w).

        Returns:
            Logarithms of mean squared differences, minus their mean over the puzzle, (B, F, F, features).
        """
        found = []
        for one, other in (self._predict(strip).unbind(2) for strip in strips(fragments, self.rows)):
            distance = _mean_squared(one, other)
            found += [distance, distance.mT]
        logs = torch.log(torch.cat(found, 1) + 1e-3)
        return (logs - logs.mean((2, 3), keepdim=True)).movedim(1, -1)

    def _predict(self, strip: Tensor) -> Tensor:
        """Predict features (B, F, 2, groups, length * size) from strips (B, F, 2, length, C, rows)."""
        flat = strip.flatten(-2).movedim(3, -1).flatten(0, 2)  # (B * F * 2, C * rows, length)
        padded = F.pad(flat, (self.reach, self.reach), mode="replicate")
        along = padded.unfold(-1, 2 * self.reach + 1, 1).movedim(2, 1).flatten(2)  # (B * F * 2, length, inputs)
        predicted: Tensor = self.layers(along)
        return predicted.view(*strip.shape[:4], self.GROUPS, self.size).movedim(4, 3).flatten(4).float()


def _mean_squared(one: Tensor, other: Tensor) -> Tensor:
    """Mean squared differences (B, groups, F, F) of (B, F, groups, values); bfloat16 would round small ones to zero."""
    with torch.autocast(one.device.type, enabled=False):
        one, other = one.movedim(2, 1), other.movedim(2, 1)
        squares = one.square().sum(-1).unsqueeze(-1) + other.square().sum(-1).unsqueeze(-2)
        means: Tensor = (squares - 2 * one @ other.mT).clamp(min=0) / one.shape[-1]
        return means


class MosaicBlock(nn.Module):
    """A pre-norm transformer block: attention and an MLP, each with a residual connection.

    Args:
        width: width of the tokens.
        heads: number of attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, hidden: Tensor, bias: Tensor | None, context: bool) -> Tensor:
        """Update the tokens of a puzzle.

        Args:
            hidden: tokens (B, F, width).
            bias: added to the attention logits, (B, heads, F, F).
            context: whether tokens attend to each other; otherwise only the MLP is applied.

        Returns:
            Tokens (B, F, width).
        """
        if context:
            qkv = self.qkv(self.norm1(hidden)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            query, key, value = qkv.unbind(0)
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
            hidden = hidden + self.out(mixed.transpose(1, 2).flatten(2))
        result: Tensor = hidden + self.mlp(self.norm2(hidden))
        return result
