"""Supervised contrastive learning on the images that fragments of a puzzle come from, which cutting gives for free."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fragrecon.data.puzzles import FragmentBatch, neighbours
from fragrecon.errors import ConfigError
from fragrecon.models.base import FragmentModel, Solver
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
    with torch.autocast(embeddings.device.type, enabled=False):  # bfloat16 would blur what is nearly alike
        logits = embeddings @ embeddings.mT / temperature
    itself = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
    log_picked = F.log_softmax(logits.masked_fill(itself, -torch.inf), -1).masked_fill(itself, 0)
    together = (source_ids.unsqueeze(-1) == source_ids.unsqueeze(-2)) & ~itself
    return -((log_picked * together).sum(-1) / together.sum(-1).clamp(min=1)).mean()


class Contrastive(Objective):
    """Fragments of an image near each other, those of different images apart; of a model that puts a puzzle together,
    also where in its image each fragment belongs and which others abut it.

    Args:
        grid: rows and columns of fragments in an image.
        temperature: of the contrast.
        cells: weight of the cross-entropy on a fragment's cell.
        sides: weight of the cross-entropy on which fragment, if any, abuts each side.
    """

    parts = ("loss", "contrast", "cells", "cell_accuracy", "sides", "side_accuracy")

    def __init__(self, grid: tuple[int, int], temperature: float = 0.1, cells: float = 1.0, sides: float = 1.0) -> None:
        super().__init__()
        if temperature <= 0 or min(cells, sides) < 0:
            raise ConfigError("objective.temperature should be above 0, objective.cells and .sides not negative")
        self.grid, self.temperature, self.cells, self.sides = grid, temperature, cells, sides

    def forward(self, model: FragmentModel, batch: FragmentBatch, generator: torch.Generator) -> Losses:
        if isinstance(model, Solver):
            solution = model.solve(batch.fragments)
            embeddings = solution.embeddings
            found = {
                "cells": (solution.cells.flatten(0, 1), batch.positions.flatten()),
                "sides": (
                    solution.sides.flatten(0, 2),
                    neighbours(batch.source_ids, batch.positions, self.grid).flatten(),
                ),
            }
            heads = {name: F.cross_entropy(logits, target) for name, (logits, target) in found.items()}
            right = {name: (logits.argmax(1) == target).float().mean() for name, (logits, target) in found.items()}
        else:
            embeddings = F.normalize(model.encode(batch.fragments).float(), dim=-1)
            heads = right = dict.fromkeys(("cells", "sides"), embeddings.new_zeros(()))
        contrast = supervised_contrastive(embeddings, batch.source_ids, self.temperature)
        return {
            "loss": contrast + self.cells * heads["cells"] + self.sides * heads["sides"],
            "contrast": contrast.detach(),
            "cells": heads["cells"].detach(),
            "cell_accuracy": right["cells"],
            "sides": heads["sides"].detach(),
            "side_accuracy": right["sides"],
        }
