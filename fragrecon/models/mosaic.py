"""A transformer over all fragments of a puzzle, with attention biased by how well they fit together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from fragrecon.errors import ConfigError
from fragrecon.models.base import FragmentModel, PairScores, Shape, Solution
from fragrecon.seams import (
    FEATURES,
    SIDES,
    best_partners,
    for_all_ways,
    log_mean_squared,
    of_one_fragment,
    relative_rotations,
    seam_features,
    strips,
    swapped,
    synchronised,
    votes,
)

SIDE_WIDTH = 32
"""Dimension of the embeddings of sides, which are compared by their dot product."""


class Mosaic(FragmentModel):
    """Embeds each fragment in the context of all other fragments of its puzzle, for any order and number of fragments.

    The initial token of a fragment is an embedding of its pixels and of small windows of them. Pre-norm transformer
    blocks follow, without positional embeddings, because a puzzle is a set. `Fit` measures how well any two sides fit
    together, from `seam_features` and from the distances computed by `Edges`; a learned function of it, per block and
    head, is added to the attention logits. If fragments may be rotated, `Turns` predicts their rotations, halfway and
    at the end. Output heads then predict the fragment's unit-norm embedding, its cell, and its neighbours.

    Args:
        fragment_shape: (C, h, w).
        grid: rows and columns of fragments in an image.
        latent_dim: number of embedding dimensions, D.
        width: width of the transformer.
        depth: number of blocks.
        heads: number of attention heads.
        window: side of the windows, in pixels; they overlap by half.
        seams: whether `seam_features` enter attention, neighbours and, if predicted, rotations.
        edges: whether the distances of `Edges` enter them.
        context: whether fragments attend to each other.
        rotations: whether fragments may be rotated by multiples of 90 degrees: any two sides can meet, and the rotation
            of each fragment is predicted.

    Raises:
        ConfigError: the number of heads does not divide the width, a window is larger than the fragment, or fragments
            that may be rotated are not square.
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
        rotations: bool = False,
    ) -> None:
        super().__init__(fragment_shape, latent_dim)
        channels, height, columns = fragment_shape
        if width % heads:
            raise ConfigError(f"model.heads={heads} should divide model.width={width}")
        if not 2 <= window <= min(height, columns):
            raise ConfigError(f"model.window={window} should be from 2 to the fragment's side, {min(height, columns)}")
        if rotations and height != columns:
            raise ConfigError(f"model.rotations=true needs square fragments, not {height}x{columns} pixels")
        self.grid, self.window, self.seams, self.context, self.rotations = grid, window, seams, context, rotations
        self.depth, self.heads = depth, heads
        pixels = channels * height * columns
        self.pixels = nn.Sequential(nn.Linear(pixels, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        places = len(range(0, height - window + 1, window // 2)) * len(range(0, columns - window + 1, window // 2))
        self.windows = nn.Linear(channels * window**2, 64)
        self.gather = nn.Sequential(nn.GELU(), nn.Linear(64 * places, width))
        self.edges = Edges(channels, min(height, columns)) if edges else None
        known = FEATURES * seams + Edges.GROUPS * edges
        self.fit = Fit(known, 16 if rotations else 4, depth * heads) if known else None
        self.blocks = nn.ModuleList(MosaicBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, latent_dim)
        self.cells = nn.Linear(width, grid[0] * grid[1])
        self.halfway, self.turns = (Turns(width) if rotations else None for _ in range(2))
        self.neighbours = nn.Linear(width, 2 * len(SIDES) * SIDE_WIDTH)
        self.none = nn.Linear(width, len(SIDES))

    def encode(self, fragments: Tensor) -> Tensor:
        """Embed the fragments (B, F, C, h, w) of puzzles as unit-norm vectors (B, F, D)."""
        return self.solve(fragments).embeddings

    def solve(self, fragments: Tensor) -> Solution:
        """Predict embeddings, cells, rotations and neighbours of the fragments of puzzles.

        Args:
            fragments: (B, F, C, h, w) in [0, 1].

        Returns:
            The predictions.
        """
        centred = fragments * 4 - 2
        hidden = self.pixels(centred.flatten(2)) + self.gather(self._windows(centred))
        count = fragments.shape[1]
        fits: Tensor | None = None
        biases: Sequence[Tensor | None] = [None] * self.depth
        ties = hidden.new_zeros(hidden.shape[0], len(SIDES), count, count)
        if self.fit is not None:
            fits = self.fit(self._seams(fragments, centred), count)
            if self.context:
                biases = self.fit.biases(fits, count).chunk(self.depth, 1)
                ties = self.fit.ties(fits, count) if self.rotations else ties
        relative = synchronised(ties) if self.rotations else ties
        rotations: Tensor | None = None
        for number, (block, bias) in enumerate(zip(self.blocks, biases, strict=True)):
            if self.halfway is not None and number == self.depth // 2:
                hidden = hidden + self.halfway.inform(self.halfway(hidden, relative))
            hidden = block(hidden, bias, self.context)
        tokens = self.norm(hidden)
        if self.turns is not None:
            rotations = self.turns(hidden, relative)
            tokens = tokens + self.turns.inform(rotations)
        embeddings = F.normalize(self.head(tokens).float(), dim=-1)
        return Solution(embeddings, self.cells(tokens).float(), self._sides(tokens, fits), rotations)

    def _windows(self, fragments: Tensor) -> Tensor:
        """Embed all windows of fragments (B, F, C, h, w), as one vector per fragment, (B, F, 64 * windows)."""
        step = self.window // 2
        tiles = fragments.unfold(-2, self.window, step).unfold(-2, self.window, step)  # (B, F, C, rows, columns, ...)
        windows: Tensor = self.windows(tiles.movedim(2, 4).flatten(4).flatten(2, 3))
        return windows.flatten(2)

    def _seams(self, fragments: Tensor, centred: Tensor) -> Tensor:
        """Compute the tables (B, K, W, R, R) of all seams, before fragments attend to each other."""
        known = []
        if self.seams:
            with torch.no_grad():
                known.append(seam_features(fragments.float(), self.rotations))
        if self.edges is not None:
            known.append(self.edges(centred, self.rotations))
        return torch.cat(known, 1)

    def _sides(self, tokens: Tensor, fits: Tensor | None) -> Tensor:
        """Predict the logits `Solution.sides`; the two sides of a seam share a logit."""
        count = tokens.shape[1]
        one, other = self.neighbours(tokens).unflatten(-1, (2, len(SIDES), SIDE_WIDTH)).permute(2, 3, 0, 1, 4)
        logits = for_all_ways(lambda left, right: left @ right.mT, list(one), list(other), self.rotations)
        logits = (logits + swapped(logits)).float() / math.sqrt(4 * SIDE_WIDTH)
        if self.fit is not None and fits is not None:
            logits = logits + self.fit.side_logits(fits)
        logits = logits.masked_fill(of_one_fragment(logits, count), -torch.inf)
        sides = logits.reshape(tokens.shape[0], len(SIDES), count, logits.shape[-1]).transpose(1, 2)
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
    """Number of tables of distances."""

    def __init__(self, channels: int, side: int, hidden: int = 96, size: int = 4) -> None:
        super().__init__()
        self.rows, self.reach, self.size = min(8, side), 3, size
        inputs = channels * self.rows * (2 * self.reach + 1)
        self.layers = nn.Sequential(
            nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, self.GROUPS * size, bias=False)
        )

    def forward(self, fragments: Tensor, rotations: bool) -> Tensor:
        """Compare the predictions for all pairs of fragments.

        Args:
            fragments: (B, F, C, h, w).
            rotations: whether any two sides can meet.

        Returns:
            Logarithms of mean squared differences, as tables of ways (B, groups, W, R, R).
        """
        sides = [self._predict(strip) for strip in strips(fragments, self.rows)]
        one = [side.flatten(3) for side in sides]
        other = [side.flip(3).flatten(3) for side in sides]
        return for_all_ways(partial(log_mean_squared, least=1e-3), one, other, rotations)

    def _predict(self, strip: Tensor) -> Tensor:
        """Predict features (B, groups, F, length, size) from a strip (B, F, length, C, rows)."""
        flat = strip.flatten(-2).mT.flatten(0, 1)  # (B * F, C * rows, length)
        padded = F.pad(flat, (self.reach, self.reach), mode="replicate")
        along = padded.unfold(-1, 2 * self.reach + 1, 1).movedim(2, 1).flatten(2)  # (B * F, length, inputs)
        predicted: Tensor = self.layers(along)
        return predicted.view(*strip.shape[:3], self.GROUPS, self.size).movedim(3, 1).float()


class Turns(nn.Module):
    """Predicts the rotation of each fragment from the tokens of all fragments of its image.

    A token is evidence for the rotation of its own fragment and, by the rotation between the two, for those of the
    other fragments of the image. All evidence for a fragment is summed.

    Args:
        width: width of the tokens.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.own, self.shared = (nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4)) for _ in range(2))
        self.told = nn.Linear(4, width)

    def forward(self, hidden: Tensor, relative: Tensor) -> Tensor:
        """Compute logits of the rotations (B, F, 4) from tokens (B, F, width) and `synchronised` (B, 4, F, F)."""
        with torch.autocast(hidden.device.type, enabled=False):
            logits: Tensor = self.own(hidden.float()) + votes(relative, self.shared(hidden.float()))
        return logits

    def inform(self, logits: Tensor) -> Tensor:
        """Embed the probabilities of logits (B, F, 4), to be added to the tokens (B, F, width)."""
        told: Tensor = self.told(logits.softmax(-1))
        return told


class Channels(nn.Linear):
    """A linear layer over the second axis, (B, inputs, N) to (B, outputs, N)."""

    def forward(self, values: Tensor) -> Tensor:
        """Apply the layer."""
        # Broadcast by `@`, the weight would be multiplied by a transposed copy of the values.
        weight = self.weight.expand(values.shape[0], -1, -1)
        return (
            torch.bmm(weight, values) if self.bias is None else torch.baddbmm(self.bias.unsqueeze(-1), weight, values)
        )


class Fit(nn.Module):
    """Mixes what is known of seams into scores, and compares each score with those of all other partners.

    Args:
        known: number of tables of ways, K.
        ways: number of ways in which two fragments can meet.
        biases: number of attention biases per pair of fragments.
        hidden: width of the hidden layer of the MLP that computes the biases.
    """

    SCORES = 2

    def __init__(self, known: int, ways: int, biases: int, hidden: int = 64) -> None:
        super().__init__()
        self.mix = Channels(known, self.SCORES, bias=False)  # scores have no mean
        self.ways = ways
        self.layers = nn.Sequential(
            Channels(2 * self.SCORES * ways, hidden), nn.GELU(), Channels(hidden, biases, bias=False)
        )
        self.sides = Channels(2 * self.SCORES, 1)
        with torch.no_grad():  # what is known of seams is low where they fit: scores are high there from the start
            self.mix.weight.uniform_(-2 / known, -1 / known)
            self.sides.weight.abs_()

    def forward(self, seams: Tensor, fragments: int) -> Tensor:
        """Return scores, and scores relative to other partners (`best_partners`), as tables (B, 2 * scores, W, R, R).

        Args:
            seams: tables of ways (B, K, W, R, R).
            fragments: number of fragments, F.
        """
        mixed = self.mix(seams.flatten(2))
        scores = mixed.float()
        scores = (scores - scores.mean(2, keepdim=True)).unflatten(2, seams.shape[2:])
        return torch.cat([scores.to(mixed.dtype), best_partners(scores, fragments).to(mixed.dtype)], 1)

    def biases(self, fits: Tensor, fragments: int) -> Tensor:
        """Compute the attention biases (B, biases, F, F) from the result of `forward`."""
        if self.ways == 16:
            fits = fits.reshape(*fits.shape[:2], 4, fragments, 4, fragments).transpose(3, 4)
        pairs = fits.reshape(fits.shape[0], fits.shape[1] * self.ways, fragments**2)
        biases: Tensor = self.layers(pairs)
        return biases.view(*biases.shape[:2], fragments, fragments)

    def ties(self, fits: Tensor, fragments: int) -> Tensor:
        """Compute how surely two fragments meet with a relative rotation, from the result of `forward`.

        Returns:
            (B, 4, F, F) in [0, 4]: entry r of a pair is the sum over its sides of the probabilities that the first
            fragment is rotated by r quarter turns more than the second.
        """
        sure = best_partners(self.side_logits(fits), fragments).exp()
        sure = sure.masked_fill(of_one_fragment(sure, fragments), 0.0)
        return relative_rotations(sure, fragments)

    def side_logits(self, fits: Tensor) -> Tensor:
        """Compute logits that two sides meet, (B, W, R, R), from the result of `forward`."""
        logits: Tensor = self.sides(fits.flatten(2))
        return logits.view(fits.shape[0], *fits.shape[2:]).float()


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
