"""An objective: the loss of a model on a batch of puzzles."""

from __future__ import annotations

import torch

from fragrecon.data.puzzles import FragmentBatch
from fragrecon.models.base import FragmentModel
from fragrecon.objectives.base import Losses, Objective, Weight


class Variance(Objective):
    """Mean squared distance of fragments of one image, and a hinge on the variance of every dimension.

    Args:
        weight: weight of the variance.
    """

    parts = ("loss", "together", "spread")

    def __init__(self, weight: Weight = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, model: FragmentModel, batch: FragmentBatch, generator: torch.Generator) -> Losses:
        """Compute the losses of a batch."""
        embeddings = model.encode(batch.fragments)  # (B, F, D)
        same = batch.source_ids.unsqueeze(1) == batch.source_ids.unsqueeze(2)  # (B, F, F)
        differences = embeddings.unsqueeze(1) - embeddings.unsqueeze(2)
        together = differences.square().mean(-1)[same].mean()
        spread = (1 - embeddings.flatten(0, 1).std(0)).relu().mean()
        return {"loss": together + self.weight * spread, "together": together.detach(), "spread": spread.detach()}
