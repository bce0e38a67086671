"""Supervised contrastive learning; the label of a fragment is its source image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat
from torch import Tensor

from fragrecon.data.adjacency import meeting_sides, neighbours
from fragrecon.data.puzzles import FragmentBatch
from fragrecon.models.base import FragmentModel, Solver
from fragrecon.objectives.base import Losses, Objective, Weight


def supervised_contrastive(embeddings: Tensor, source_ids: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss within puzzles, averaged over fragments.

    The loss of a fragment is the mean negative log-probability of the other fragments of its image, under a softmax of
    cosine similarities over all other fragments of the puzzle.

    Source: Khosla et al., NeurIPS 2020, eq. 2.

    Args:
        embeddings: unit-norm embeddings, (B, F, D).
        source_ids: image of each fragment, (B, F).
        temperature: temperature of the softmax.

    Returns:
        A scalar, in nats.

    Example:
        >>> embeddings = torch.eye(2)[[0, 0, 1, 1]].unsqueeze(0)
        >>> supervised_contrastive(embeddings, torch.tensor([[0, 0, 1, 1]]), 0.1).round(decimals=3)
        tensor(0.)
        >>> supervised_contrastive(embeddings, torch.tensor([[0, 1, 0, 1]]), 0.1).round(decimals=3)
        tensor(10.)
    """
    with torch.autocast(embeddings.device.type, enabled=False):  # bfloat16 would blur small differences
        logits = embeddings @ embeddings.mT / temperature
    itself = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
    log_probability = F.log_softmax(logits.masked_fill(itself, -torch.inf), -1).masked_fill(itself, 0)
    together = (source_ids.unsqueeze(-1) == source_ids.unsqueeze(-2)) & ~itself
    return -((log_probability * together).sum(-1) / together.sum(-1).clamp(min=1)).mean()


class Contrastive(Objective):
    """Supervised contrastive loss on the source images and, for a `Solver`, cross-entropy on cells and neighbours.

    If the model predicts rotations, the cross-entropy on the rotation of a fragment has the weight of that on its cell.

    Args:
        grid: rows and columns of fragments in an image.
        temperature: temperature of the contrastive loss.
        cells: weight of the cross-entropy on a fragment's cell.
        sides: weight of the cross-entropy on the neighbour, or its absence, on each side.
    """

    parts = ("loss", "contrast", "cells", "cell_accuracy", "sides", "side_accuracy", "rotations", "rotation_accuracy")

    def __init__(
        self, grid: tuple[int, int], temperature: PositiveFloat = 0.1, cells: Weight = 1.0, sides: Weight = 1.0
    ) -> None:
        super().__init__()
        self.grid, self.temperature, self.cells, self.sides = grid, temperature, cells, sides

    def forward(self, model: FragmentModel, batch: FragmentBatch, generator: torch.Generator) -> Losses:
        """Compute the losses of a batch; see `Objective`."""
        if isinstance(model, Solver):
            solution = model.solve(batch.fragments)
            embeddings = solution.embeddings
            beside = neighbours(batch.source_ids, batch.positions, self.grid, batch.images_per_puzzle)
            found = {
                "cells": (solution.cells.flatten(0, 1), batch.positions.flatten()),
                "sides": (solution.sides.flatten(0, 2), beside.flatten()),
            }
            if solution.rotations is not None:
                met = meeting_sides(beside, batch.rotations)
                found["sides"] = (solution.sides.flatten(0, 2), met.flatten())
                found["rotations"] = (solution.rotations.flatten(0, 1), batch.rotations.flatten())
            heads = {name: F.cross_entropy(logits, target) for name, (logits, target) in found.items()}
            right = {name: (logits.argmax(1) == target).float().mean() for name, (logits, target) in found.items()}
        else:
            embeddings = F.normalize(model.encode(batch.fragments).float(), dim=-1)
            heads, right = {}, {}
        contrast = supervised_contrastive(embeddings, batch.source_ids, self.temperature)
        zero = embeddings.new_zeros(())
        cells, sides, rotations = (heads.get(name, zero) for name in ("cells", "sides", "rotations"))
        return {
            "loss": contrast + self.cells * (cells + rotations) + self.sides * sides,
            "contrast": contrast.detach(),
            "cells": cells.detach(),
            "cell_accuracy": right.get("cells", zero),
            "sides": sides.detach(),
            "side_accuracy": right.get("sides", zero),
            "rotations": rotations.detach(),
            "rotation_accuracy": right.get("rotations", zero),
        }
