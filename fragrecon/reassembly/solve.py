"""Solve a puzzle with a model: count its images, group the fragments, and place those of each group.

Shapes: B puzzles of F fragments (C, h, w).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fragrecon.clustering.balanced import balanced_kmeans
from fragrecon.models.base import Solution, Solver
from fragrecon.reassembly.clues import Clues, all_clues
from fragrecon.reassembly.rebuild import Placement, count_images, members_of, rebuild
from fragrecon.seams import SIDES, relative_rotations, synchronised, votes
from fragrecon.seeds import keys_of


def clues_and_groups(
    solution: Solution, fragments: Tensor, grid: tuple[int, int], k: int, keys: Tensor, restarts: int, memory: int
) -> tuple[Clues, Tensor, Tensor]:
    """Compute the inputs of `rebuild`: placement scores, and the image and rotation of each fragment.

    Args:
        solution: the model's predictions for the puzzles.
        fragments: fragments (B, F, C, h, w) in 0..1.
        grid: rows and columns of fragments in an image.
        k: number of images.
        keys: random keys of the puzzles, (B,).
        restarts: number of restarts of KMeans.
        memory: working memory in bytes.

    Returns:
        Placement scores, groups (B, F) in 0..k-1, and rotations (B, F), all on the CPU.
    """
    groups = balanced_kmeans(solution.embeddings, k, keys, restarts, memory, size=grid[0] * grid[1])
    solution = agreeing(solution, groups)
    return all_clues(solution, fragments, grid).cpu(), groups.cpu(), solution.quarter_turns().cpu()


def agreeing(solution: Solution, groups: Tensor) -> Solution:
    """Replace predicted rotations, if any, so that those of an image agree with the sides that meet in it.

    Args:
        solution: the model's predictions for the puzzles.
        groups: image of each fragment, (B, F).

    Returns:
        The predictions, in which all fragments of an image vote on the rotation of each.
    """
    if solution.rotations is None:
        return solution
    (puzzles, count), turns = groups.shape, len(SIDES)
    members = members_of(groups, int(groups.max()) + 1, int(torch.nn.functional.one_hot(groups).sum(1).max()))
    images, n = members.shape[1:]
    held, safe = members < count, members.clamp(max=count - 1)
    ways = solution.sides.float().softmax(-1)[..., :-1].view(puzzles, count, turns, turns, count)
    each = torch.arange(puzzles, device=groups.device).view(-1, 1, 1)
    # Only fragments of the same image meet: (B, k, n, n, side, other side).
    ways = ways[each.unsqueeze(-1), safe.unsqueeze(-1), :, :, safe.unsqueeze(-2)]
    both = held.unsqueeze(-1) & held.unsqueeze(-2)
    ways = (ways * both[..., None, None]).flatten(0, 1).permute(0, 3, 1, 4, 2).reshape(-1, 1, turns * n, turns * n)
    weights = synchronised(relative_rotations(ways, n)) * both.view(-1, 1, n, n)
    own = solution.rotations.log_softmax(-1)
    agreed = votes(weights, own[each, safe].flatten(0, 1)).view(puzzles, images, n, turns)
    rotations = own.new_empty(own.shape)
    rotations[each.expand_as(members)[held], members[held]] = agreed[held]
    return replace(solution, rotations=rotations)


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
    clues, groups, rotations = clues_and_groups(solution, fragments, grid, k, keys, restarts, memory)
    return rebuild(clues, groups, grid, rotations=rotations, regroup=True, memory=memory), k
