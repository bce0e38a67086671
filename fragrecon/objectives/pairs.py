"""Binary cross-entropy on pairs of a puzzle's fragments: are they of one image, and do they abut?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fragrecon.data.puzzles import FragmentBatch, adjacent, same_source
from fragrecon.errors import ConfigError
from fragrecon.models.base import FragmentModel, PairPredictor
from fragrecon.objectives.base import Losses, Objective


def pair_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy over all ordered pairs of different fragments: a scalar, in nats.

    Args:
        logits: (B, F, F).
        target: (B, F, F), bool.
    """
    others = ~torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device).expand_as(logits)
    return F.binary_cross_entropy_with_logits(logits[others], target[others].to(logits.dtype))


class Pairs(Objective):
    """That two fragments are of the same image, and that they abut, told from each pair of the puzzle.

    Args:
        grid: rows and columns of fragments in an image.
        same: weight of the loss on being of the same image.
        adjacent: weight of the loss on abutting.
    """

    parts = ("loss", "same", "adjacent")

    def __init__(self, grid: tuple[int, int], same: float = 1.0, adjacent: float = 1.0) -> None:
        super().__init__()
        if min(same, adjacent) < 0 or not same + adjacent:
            raise ConfigError("objective.same and objective.adjacent should not be negative, nor both 0")
        self.grid, self.same, self.adjacent = grid, same, adjacent

    def check(self, model: FragmentModel) -> None:
        if not isinstance(model, PairPredictor):
            raise ConfigError(
                f"objective=pairs needs a model of pairs, such as model=siamese, not {type(model).__name__}"
            )

    def forward(self, model: FragmentModel, batch: FragmentBatch, generator: torch.Generator) -> Losses:
        assert isinstance(model, PairPredictor)
        logits = model.pair_logits(batch.fragments)
        same = pair_loss(logits.same, same_source(batch.source_ids))
        touching = pair_loss(logits.adjacent, adjacent(batch.source_ids, batch.positions, self.grid))
        return {
            "loss": self.same * same + self.adjacent * touching,
            "same": same.detach(),
            "adjacent": touching.detach(),
        }
