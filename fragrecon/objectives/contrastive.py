"""Supervised contrastive learning on the images that fragments of a puzzle come from, which cutting gives for free."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fragrecon.data.puzzles import FragmentBatch
from fragrecon.errors import ConfigError
from fragrecon.models.base import CellPredictor, FragmentModel
from fragrecon.objectives.base import Losses, Objective


def supervised_contrastive(embeddings: Tensor, source_ids: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss within puzzles, in nats a fragment: a scalar.

    Khosla et al., NeurIPS 2020, eq. 2: for each fragment, the mean over the others of its image of the log-probability
    to be picked out of all others of the puzzle, by a softmax of cosine similarities.

    Args:
        embeddings: (B, F, D), of length 1.
        source_ids: (B, F).
        temperature: of the softmax.
    """
    logits = embeddings @ embeddings.mT / temperature
    itself = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
    log_picked = F.log_softmax(logits.masked_fill(itself, -torch.inf), -1).masked_fill(itself, 0)
    together = (source_ids.unsqueeze(-1) == source_ids.unsqueeze(-2)) & ~itself
    return -((log_picked * together).sum(-1) / together.sum(-1).clamp(min=1)).mean()


class Contrastive(Objective):
    """Fragments of an image near each other, those of different images apart; and where in its image each belongs.

    Args:
        temperature: of the contrast.
        cells: weight of the cross-entropy on a fragment's cell, for a model that predicts it.
    """

    parts = ("loss", "contrast", "cells", "cell_accuracy")

    def __init__(self, temperature: float = 0.1, cells: float = 1.0) -> None:
        super().__init__()
        if temperature <= 0 or cells < 0:
            raise ConfigError("objective.temperature should be above 0 and objective.cells not negative")
        self.temperature, self.cells = temperature, cells

    def forward(self, model: FragmentModel, batch: FragmentBatch, generator: torch.Generator) -> Losses:
        if isinstance(model, CellPredictor):
            features = model.features(batch.fragments)
            embeddings = model.project(features)
            logits = model.cell_logits(features).flatten(0, 1).float()
            positions = batch.positions.flatten()
            cells = F.cross_entropy(logits, positions)
            accuracy = (logits.argmax(1) == positions).float().mean()
        else:
            embeddings = F.normalize(model.encode(batch.fragments).float(), dim=-1)
            cells = accuracy = embeddings.new_zeros(())
        contrast = supervised_contrastive(embeddings, batch.source_ids, self.temperature)
        return {
            "loss": contrast + self.cells * cells,
            "contrast": contrast.detach(),
            "cells": cells.detach(),
            "cell_accuracy": accuracy.detach(),
        }
