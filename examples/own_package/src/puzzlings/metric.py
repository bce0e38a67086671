"""A metric of embeddings."""

from __future__ import annotations

import torch
from torch import Tensor

from fragrecon.data.puzzles import FragmentBatch


class Neighbourhood:
    """How many of the nearest neighbours of a fragment are of its image.

    Args:
        neighbours: number of neighbours.
    """

    def __init__(self, neighbours: int = 5) -> None:
        self.neighbours = neighbours

    def score(self, embeddings: Tensor, batch: FragmentBatch) -> dict[str, Tensor]:
        """Score the embeddings (B, F, D) of puzzles; returns scores (B,) by name."""
        distances = torch.cdist(embeddings, embeddings)
        distances.diagonal(dim1=1, dim2=2).fill_(torch.inf)
        nearest = distances.topk(self.neighbours, largest=False).indices  # (B, F, neighbours)
        images = batch.source_ids
        found = images.unsqueeze(1).expand(-1, images.shape[1], -1).gather(2, nearest)
        return {"share": (found == images.unsqueeze(2)).double().mean((1, 2))}
