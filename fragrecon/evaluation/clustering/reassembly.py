"""How well puzzles are put together again: by a model, and by pixels alone.

Shapes: B puzzles of F fragments, N images of a grid of cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fragrecon.clustering.balanced import assign, balanced_kmeans
from fragrecon.clustering.spectral import spectral_embedding
from fragrecon.data.puzzles import FragmentBatch, neighbours
from fragrecon.evaluation.clustering.protocol import ClusteringProtocol
from fragrecon.models.base import Solution
from fragrecon.reassembly.clues import Clues, all_clues, gradient_clues
from fragrecon.reassembly.rebuild import Placement, group, rebuild
from fragrecon.seeds import keys_of


def score_solution(
    solution: Solution, batch: FragmentBatch, grid: tuple[int, int], protocol: ClusteringProtocol
) -> dict[str, Tensor]:
    """Scores (B,) of `score_clues` for what a model makes of the puzzles; groups come from its embeddings."""
    keys = keys_of(protocol.seed, "clustering", batch.step, len(batch))
    cells = grid[0] * grid[1]
    images = group(solution.embeddings, batch.images_per_puzzle, cells, keys, protocol.restarts, protocol.memory)
    return score_clues(all_clues(solution, batch.fragments, grid), images, batch, grid, protocol.memory)


def score_gradients(batch: FragmentBatch, grid: tuple[int, int], protocol: ClusteringProtocol) -> dict[str, Tensor]:
    """Scores (B,) of `score_clues` for Gallagher's compatibility of seams alone.

    Groups come from balanced spectral clustering of each pair's best side.
    """
    keys = keys_of(protocol.seed, "clustering", batch.step, len(batch))
    clues = gradient_clues(batch.fragments, grid[0] * grid[1])
    best = torch.stack([clues.across, clues.across.mT, clues.down, clues.down.mT]).amax(0).double()
    points = spectral_embedding(best.exp(), batch.images_per_puzzle, protocol.memory)
    images = balanced_kmeans(points, batch.images_per_puzzle, keys, protocol.restarts, protocol.memory)
    return score_clues(clues, images, batch, grid, protocol.memory)


def score_clues(
    clues: Clues, images: Tensor, batch: FragmentBatch, grid: tuple[int, int], memory: int
) -> dict[str, Tensor]:
    """Scores (B,) of putting the puzzles together by clues.

    ``placing_...`` is told the true images, ``reassembly_...`` starts from the ``images`` (B, F) that were found. Each
    is scored by ``direct``, the share of fragments at the right cell of the right image; ``neighbours``, the share of
    pairs that abut which abut again; and ``perfect``, the share of images without a fault.
    """
    clues = clues.cpu()
    scores: dict[str, Tensor] = {}
    for name, grouped in (("placing", batch.source_ids.cpu()), ("reassembly", images.cpu())):
        rebuilt = rebuild(clues, grouped, grid, regroup=name == "reassembly", memory=memory)
        scores |= {f"{name}_{metric}": score for metric, score in agreement(rebuilt, batch, grid).items()}
    return scores


def agreement(placement: Placement, batch: FragmentBatch, grid: tuple[int, int]) -> dict[str, Tensor]:
    """``direct``, ``neighbours`` and ``perfect`` (B,) of placements in as many images as there are."""
    sources, positions = batch.source_ids.cpu(), batch.positions.cpu()
    fragments = sources.shape[1]
    counts = _right(placement, batch)
    matched = counts.gather(2, assign(counts).unsqueeze(2)).squeeze(2)
    true = neighbours(sources, positions, grid)
    same = neighbours(placement.images, placement.cells, grid) == true
    inner = true < fragments
    return {
        "direct": matched.sum(1) / fragments,
        "neighbours": (same & inner).sum((1, 2)).double() / inner.sum((1, 2)).clamp(min=1),
        "perfect": (matched == grid[0] * grid[1]).double().mean(1),
    }


def matches(placement: Placement, batch: FragmentBatch) -> Tensor:
    """Which true image each rebuilt one is taken for, (B, N): one to one, for the most fragments at the right cell."""
    return assign(_right(placement, batch))


def _right(placement: Placement, batch: FragmentBatch) -> Tensor:
    """How many fragments (B, N, N) of a rebuilt image are at their cell of a true one."""
    sources, n = batch.source_ids.cpu(), batch.images_per_puzzle
    counts = torch.zeros(len(sources), n * n, dtype=torch.float64)
    right_cell = (placement.cells == batch.positions.cpu()).double()
    counts.scatter_add_(1, placement.images * n + sources, right_cell)
    return counts.view(-1, n, n)
