"""Scores of puzzles reassembled by a model, or by the gradients across seams alone.

Shapes: B puzzles of F fragments, N images of a grid of cells.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fragrecon.clustering.balanced import assign, balanced_kmeans
from fragrecon.clustering.spectral import spectral_embedding
from fragrecon.data.adjacency import neighbours
from fragrecon.data.puzzles import FragmentBatch
from fragrecon.evaluation.clustering.protocol import ClusteringProtocol
from fragrecon.models.base import FragmentModel, Solution, Solver
from fragrecon.reassembly.clues import Clues, gradient_clues
from fragrecon.reassembly.rebuild import Placement, rebuild
from fragrecon.reassembly.solve import clues_and_groups


def score_solution(
    solution: Solution, batch: FragmentBatch, grid: tuple[int, int], protocol: ClusteringProtocol
) -> dict[str, Tensor]:
    """Score puzzles reassembled by a model and grouped by its embeddings.

    Args:
        solution: the model's predictions for the puzzles.
        batch: puzzles with float fragments.
        grid: rows and columns of fragments in an image.
        protocol: clustering protocol.

    Returns:
        Scores (B,) of `score_clues`.
    """
    keys, memory = protocol.keys(batch), protocol.memory
    clues, groups, rotations = clues_and_groups(
        solution, batch.fragments, grid, batch.images_per_puzzle, keys, protocol.restarts, memory
    )
    return score_clues(clues, groups, batch, grid, memory, rotations)


def solved(model: FragmentModel, fragments: Tensor) -> tuple[Solution | None, Tensor]:
    """Apply a model to puzzles (B, F, C, h, w): its predictions, if it is a `Solver`, and the embeddings (B, F, D)."""
    solution = model.solve(fragments) if isinstance(model, Solver) else None
    return solution, model.encode(fragments) if solution is None else solution.embeddings


def score_rotations(solution: Solution, batch: FragmentBatch) -> dict[str, Tensor]:
    """Return ``rotation_accuracy`` (B,), the share of fragments whose rotation is predicted correctly, if it is."""
    if solution.rotations is None:
        return {}
    return {"rotation_accuracy": (solution.quarter_turns() == batch.rotations).double().mean(1)}


def score_gradients(batch: FragmentBatch, grid: tuple[int, int], protocol: ClusteringProtocol) -> dict[str, Tensor]:
    """Score puzzles reassembled by Gallagher's seam compatibility alone (CVPR 2012).

    Fragments are grouped by balanced spectral clustering; the similarity of a pair is that of its best side.

    Args:
        batch: puzzles with float fragments.
        grid: rows and columns of fragments in an image.
        protocol: clustering protocol.

    Returns:
        Scores (B,) of `score_clues`.
    """
    keys = protocol.keys(batch)
    clues = gradient_clues(batch.fragments, grid[0] * grid[1])
    best = torch.stack([clues.across, clues.across.mT, clues.down, clues.down.mT]).amax(0).double()
    points = spectral_embedding(best.exp(), batch.images_per_puzzle, protocol.memory)
    images = balanced_kmeans(points, batch.images_per_puzzle, keys, protocol.restarts, protocol.memory)
    return score_clues(clues, images, batch, grid, protocol.memory)


def score_clues(
    clues: Clues,
    images: Tensor,
    batch: FragmentBatch,
    grid: tuple[int, int],
    memory: int,
    rotations: Tensor | None = None,
) -> dict[str, Tensor]:
    """Reassemble puzzles from placement scores and score the result.

    Args:
        clues: placement scores of the puzzles.
        images: predicted image (B, F) of each fragment.
        batch: puzzles.
        grid: rows and columns of fragments in an image.
        memory: bytes that the placement may use at once.
        rotations: predicted rotations (B, F), which the scores assume to be undone; by default none.

    Returns:
        Scores (B,): ``placing_...`` given the true images, ``reassembly_...`` given the predicted images. ``direct`` is
        the share of fragments at the correct cell of the correct image, and upright; ``neighbours`` the share of
        adjacent pairs that are adjacent again, whatever their rotation; ``perfect`` the share of images without an
        error.
    """
    clues = clues.cpu()
    settings: dict[str, Any] = {"rotations": rotations, "memory": memory}
    placing = agreement(rebuild(clues, batch.source_ids.cpu(), grid, regroup=False, **settings), batch, grid)
    reassembly = agreement(rebuild(clues, images.cpu(), grid, regroup=True, **settings), batch, grid)
    return {
        "placing_direct": placing["direct"],
        "placing_neighbours": placing["neighbours"],
        "placing_perfect": placing["perfect"],
        "reassembly_direct": reassembly["direct"],
        "reassembly_neighbours": reassembly["neighbours"],
        "reassembly_perfect": reassembly["perfect"],
    }


def agreement(placement: Placement, batch: FragmentBatch, grid: tuple[int, int]) -> dict[str, Tensor]:
    """Return ``direct``, ``neighbours`` and ``perfect`` (B,) of placements; see `score_clues`."""
    sources, positions = batch.source_ids.cpu(), batch.positions.cpu()
    fragments = sources.shape[1]
    counts = _right(placement, batch)
    source_of = assign(counts)
    matched = counts.gather(2, source_of.unsqueeze(2)).squeeze(2)
    present = torch.zeros(counts.shape[:2]).scatter_add_(1, sources, torch.ones(sources.shape)).gather(1, source_of)
    true = neighbours(sources, positions, grid, counts.shape[1])
    same = neighbours(placement.images, placement.cells, grid, counts.shape[1]) == true
    inner = true < fragments
    return {
        "direct": matched.sum(1) / fragments,
        "neighbours": (same & inner).sum((1, 2)).double() / inner.sum((1, 2)).clamp(min=1),
        "perfect": ((matched == present) & (present > 0)).sum(1).double() / (present > 0).sum(1),
    }


def matches(placement: Placement, batch: FragmentBatch) -> Tensor:
    """Match rebuilt images to true images (B, k) one to one, maximising the fragments at the correct cell.

    Ties are broken by the fragments of the image, wherever they are.

    Args:
        placement: rebuilt images.
        batch: the true ones.

    Returns:
        The true image of each rebuilt one; k is the greater of both numbers, and others are matched to the surplus.
    """
    everywhere = Placement(placement.images, batch.positions.cpu(), batch.rotations.cpu())
    return assign(_right(placement, batch) * (batch.source_ids.shape[1] + 1) + _right(everywhere, batch))


def _right(placement: Placement, batch: FragmentBatch) -> Tensor:
    """Count the upright fragments (B, k, k) at the correct cell by rebuilt image and true image; see `matches`."""
    sources, n = batch.source_ids.cpu(), max(batch.images_per_puzzle, int(placement.images.max()) + 1)
    counts = torch.zeros(len(sources), n * n, dtype=torch.float64)
    right = (placement.cells == batch.positions.cpu()) & (placement.rotations == batch.rotations.cpu())
    counts.scatter_add_(1, placement.images * n + sources, right.double())
    return counts.view(-1, n, n)
