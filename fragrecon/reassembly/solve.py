"""Solve a puzzle with a model: count its images, group the fragments, and place those of each group.

Shapes: B puzzles of F fragments (C, h, w).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fragrecon.clustering.balanced import balanced_kmeans
from fragrecon.models.base import Solution, Solver
from fragrecon.reassembly.clues import Clues, all_clues
from fragrecon.reassembly.rebuild import Placement, count_images, rebuild
from fragrecon.seeds import keys_of


def clues_and_groups(
    solution: Solution, fragments: Tensor, grid: tuple[int, int], k: int, keys: Tensor, restarts: int, memory: int
) -> tuple[Clues, Tensor]:
    """Compute the inputs of `rebuild`: placement scores, and the image of each fragment.

    Args:
        solution: the model's predictions for the puzzles.
        fragments: fragments (B, F, C, h, w) in 0..1.
        grid: rows and columns of fragments in an image.
        k: number of images.
        keys: random keys of the puzzles, (B,).
        restarts: number of restarts of KMeans.
        memory: working memory in bytes.

    Returns:
        Placement scores, and groups (B, F) in 0..k-1, both on the CPU.
    """
    groups = balanced_kmeans(solution.embeddings, k, keys, restarts, memory, size=grid[0] * grid[1])
    return all_clues(solution, fragments, grid).cpu(), groups.cpu()


@torch.inference_mode()
def solve(
    model: Solver, fragments: Tensor, grid: tuple[int, int], *, seed: int, restarts: int, memory: int
) -> tuple[Placement, int]:
    """Solve one puzzle with an unknown number of images.

    Args:
        model: model in eval mode, on the device of the fragments.
        fragments: fragments (1, F, C, h, w) in 0..1.
        grid: rows and columns of fragments in an image.
        seed: seed of the clustering.
        restarts: number of restarts of KMeans.
        memory: working memory in bytes.

    Returns:
        The image, cell and rotation of each fragment, and the number of images.
    """
    solution = model.solve(fragments)
    k = count_images(solution.embeddings, grid[0] * grid[1], memory)
    keys = keys_of(seed, "reassemble", 0, 1)
    clues, groups = clues_and_groups(solution, fragments, grid, k, keys, restarts, memory)
    rotations = solution.quarter_turns().cpu()
    return rebuild(clues, groups, grid, rotations=rotations, regroup=True, memory=memory), k
