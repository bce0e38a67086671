"""Binary classification of pairs of fragments: whether they are from one image, and whether they are adjacent."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fragrecon.data.adjacency import adjacent, same_source
from fragrecon.data.puzzles import FragmentBatch
from fragrecon.errors import ConfigError
from fragrecon.models.base import FragmentModel, PairPredictor
from fragrecon.objectives.base import Losses, Objective, Weight


def pair_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy over all ordered pairs of different fragments.

    Args:
        logits: (B, F, F).
        target: (B, F, F) bool.

    Returns:
        A scalar, in nats.

    Example:
        >>> pair_loss(torch.zeros(1, 3, 3), torch.eye(3, dtype=torch.bool).unsqueeze(0))  # log 2
        tensor(0.6931)
    """
    others = ~torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device).expand_as(logits)
    return F.binary_cross_entropy_with_logits(logits[others], target[others].to(logits.dtype))


class Pairs(Objective):
    """Binary cross-entropy on all pairs of a puzzle's fragments: from one image or not, and adjacent or not.

    Args:
        grid: rows and columns of fragments in an image.
        same: weight of the loss on being from one image.
        adjacent: weight of the loss on being adjacent.

    Raises:
        ConfigError: both weights are 0.
    """

    parts = ("loss", "same", "adjacent")

    def __init__(self, grid: tuple[int, int], same: Weight = 1.0, adjacent: Weight = 1.0) -> None:
        super().__init__()
        if not same + adjacent:
            raise ConfigError("objective.same and objective.adjacent are both 0; at least one should be positive")
        self.grid, self.same, self.adjacent = grid, same, adjacent

    def check(self, model: FragmentModel) -> None:
        """Check that a model classifies pairs."""
        if not isinstance(model, PairPredictor):
            raise ConfigError(
                f"objective=pairs needs a model of pairs, such as model=siamese, not {type(model).__name__}"
            )

    def forward(self, model: FragmentModel, batch: FragmentBatch, generator: torch.Generator) -> Losses:
        """Compute the losses of a batch; see `Objective`."""
        assert isinstance(model, PairPredictor)
        logits = model.pair_logits(batch.fragments)
        same = pair_loss(logits.same, same_source(batch.source_ids))
        touching = pair_loss(logits.adjacent, adjacent(batch.source_ids, batch.positions, self.grid))
        return {
            "loss": self.same * same + self.adjacent * touching,
            "same": same.detach(),
            "adjacent": touching.detach(),
        }
