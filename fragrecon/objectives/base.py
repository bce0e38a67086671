"""The contract of an objective: what a model is trained for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fragrecon.data.puzzles import FragmentBatch
from fragrecon.models.base import FragmentModel

Losses = dict[str, Tensor]


class Objective(nn.Module):
    """A training objective; it may own heads, which are then trained with the model.

    Attributes:
        parts: names of the scalars it returns, ``loss`` first.
    """

    parts: tuple[str, ...] = ("loss",)

    def check(self, model: FragmentModel) -> None:
        """Refuse a model that cannot be trained for this; raises `ConfigError`."""

    def forward(self, model: FragmentModel, batch: FragmentBatch, generator: torch.Generator) -> Losses:
        """Scalar losses by name, ``loss`` being the total.

        Args:
            model: what is trained.
            batch: with fragments as float in [0, 1].
            generator: the only source of random numbers; keyed on the run's seed and the batch's step.
        """
        raise NotImplementedError
