"""The objective interface: an objective computes the loss of a model on a batch."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, FiniteFloat
from torch import Tensor, nn

from fragrecon.data.puzzles import FragmentBatch
from fragrecon.models.base import FragmentModel

Losses = dict[str, Tensor]
Weight = Annotated[FiniteFloat, Field(ge=0)]
"""Weight of a term of a loss."""


class Objective(nn.Module):
    """Base class of all objectives. An objective may have its own layers, which are trained with the model.

    Attributes:
        parts: names of the returned scalars, ``loss`` first.
    """

    parts: tuple[str, ...] = ("loss",)

    def check(self, model: FragmentModel) -> None:
        """Check that a model can be trained for this objective.

        Args:
            model: the model.

        Raises:
            ConfigError: the model cannot be trained for it, for example because it lacks a method.
        """

    def forward(self, model: FragmentModel, batch: FragmentBatch, generator: torch.Generator) -> Losses:
        """Compute the losses of a batch.

        Args:
            model: the model to train.
            batch: puzzles, with fragments as float in [0, 1].
            generator: the only source of random numbers, seeded by the run's seed and the batch's step.

        Returns:
            Scalars by name: ``loss`` is the total; all others are logged only and have no gradient.
        """
        raise NotImplementedError
