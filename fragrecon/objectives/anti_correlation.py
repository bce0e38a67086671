"""Embeddings of images of different classes, made uncorrelated."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fragrecon.data.puzzles import FragmentBatch
from fragrecon.errors import ConfigError
from fragrecon.models.base import FragmentModel
from fragrecon.objectives.base import Losses, Objective
from fragrecon.objectives.cross_entropy import check_classes


class AntiCorrelation(Objective):
    """The mean squared correlation between the embeddings of two fragments whose images are of different classes.

    Over all such pairs of the batch, whatever puzzles they are of; ``correlation``, reported beside it, is the mean
    absolute one.

    Args:
        num_classes: of the data set.
    """

    parts = ("loss", "correlation")

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        check_classes(num_classes, "anti_correlation")

    def check(self, model: FragmentModel) -> None:
        if model.latent_dim < 3:
            raise ConfigError(
                f"objective=anti_correlation needs model.latent_dim of at least 3, not {model.latent_dim}: two numbers "
                "are correlated with any two others"
            )

    def forward(self, model: FragmentModel, batch: FragmentBatch, generator: torch.Generator) -> Losses:
        embeddings = model.encode(batch.fragments).flatten(0, 1).float()
        with torch.autocast(embeddings.device.type, enabled=False):
            correlations = correlation(embeddings)
        labels = batch.labels.flatten()
        apart = (labels.unsqueeze(0) != labels.unsqueeze(1)).float()
        return {
            "loss": masked_mean(correlations.square(), apart),
            "correlation": masked_mean(correlations.detach().abs(), apart),
        }


def correlation(embeddings: Tensor, eps: float = 1e-6) -> Tensor:
    """Pearson's correlations (M, M) of each two embeddings (M, D), over their D numbers.

    One that varies less than ``eps`` about its mean has next to no direction, and correlates with nothing.
    """
    directions = F.normalize(embeddings - embeddings.mean(1, keepdim=True), dim=1, eps=eps)
    return directions @ directions.mT


def masked_mean(values: Tensor, chosen: Tensor) -> Tensor:
    """The mean of values where ``chosen`` is 1 and not 0, which is 0 if that is nowhere: a scalar."""
    return (values * chosen).sum() / chosen.sum().clamp(min=1)
