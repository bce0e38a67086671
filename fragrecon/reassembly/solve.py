"""A puzzle put together by a model that is told nothing of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fragrecon.models.base import Solver
from fragrecon.reassembly.clues import all_clues
from fragrecon.reassembly.rebuild import Placement, count_images, group, rebuild
from fragrecon.seeds import keys_of

if TYPE_CHECKING:
    from fragrecon.evaluation.clustering.protocol import ClusteringProtocol


@torch.inference_mode()
def solve(
    model: Solver, fragments: Tensor, grid: tuple[int, int], protocol: ClusteringProtocol
) -> tuple[Placement, int]:
    """Where each fragment of one puzzle goes, and how many images there are.

    Args:
        model: in eval mode, on the device of the fragments.
        fragments: (1, F, C, h, w) in 0..1.
        grid: rows and columns of an image.
        protocol: for its seed, restarts and memory.
    """
    solution, cells = model.solve(fragments), grid[0] * grid[1]
    k = count_images(solution.embeddings, cells, protocol.memory)
    keys = keys_of(protocol.seed, "reassemble", 0, 1)
    images = group(solution.embeddings, k, cells, keys, protocol.restarts, protocol.memory).cpu()
    clues = all_clues(solution, fragments, grid).cpu()
    return rebuild(clues, images, grid, regroup=True, memory=protocol.memory), k
