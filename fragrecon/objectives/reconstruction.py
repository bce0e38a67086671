"""Reconstruction of fragments from their embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fragrecon.data.puzzles import FragmentBatch
from fragrecon.errors import ConfigError
from fragrecon.models.base import Decoder, FragmentModel
from fragrecon.objectives.base import Losses, Objective


class Reconstruction(Objective):
    """Mean squared error between fragments and what is decoded from their embeddings, per value in [0, 1]."""

    def check(self, model: FragmentModel) -> None:
        if not isinstance(model, Decoder):
            raise ConfigError(f"objective=reconstruction needs a model that decodes; {type(model).__name__} does not")

    def forward(self, model: FragmentModel, batch: FragmentBatch, generator: torch.Generator) -> Losses:
        assert isinstance(model, Decoder)
        decoded = model.decode(model.encode(batch.fragments))
        return {"loss": F.mse_loss(decoded.float(), batch.fragments)}
