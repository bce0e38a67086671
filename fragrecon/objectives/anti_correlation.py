"""Decorrelation of the embeddings of images of different classes."""

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
    """Mean squared correlation between the embeddings of fragments from images of different classes.

    The mean is over all such pairs of the batch, also across puzzles. ``correlation`` is the mean absolute correlation.

    Args:
        num_classes: number of classes of the data set.

    Raises:
        ConfigError: the data set has no classes.
    """

    parts = ("loss", "correlation")

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        check_classes(num_classes, "anti_correlation")

    def check(self, model: FragmentModel) -> None:
        """Check that embeddings have at least three dimensions."""
        if model.latent_dim < 3:
            raise ConfigError(
                f"objective=anti_correlation needs model.latent_dim of at least 3, not {model.latent_dim}: any two "
                "embeddings of fewer dimensions are correlated"
            )

    def forward(self, model: FragmentModel, batch: FragmentBatch, generator: torch.Generator) -> Losses:
        """Compute the loss of a batch; see `Objective`."""
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
    """Pearson's correlation of each pair of embeddings, over their dimensions.

    Args:
        embeddings: (M, D).
        eps: minimum norm of a centred embedding; below it, correlations approach zero, because its direction is noise.

    Returns:
        Correlations (M, M) in [-1, 1].

    Example:
        >>> correlation(torch.tensor([[1.0, 2, 3], [6, 4, 2]]))[0, 1].round(decimals=3)
        tensor(-1.)
    """
    directions = F.normalize(embeddings - embeddings.mean(1, keepdim=True), dim=1, eps=eps)
    return directions @ directions.mT


def masked_mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the chosen values.

    Args:
        values: tensor of any shape.
        chosen: tensor of the same shape, 1 for the chosen values and 0 for the others.

    Returns:
        A scalar; 0 if none is chosen.

    Example:
        >>> masked_mean(torch.tensor([1.0, 2, 6]), torch.tensor([0, 1, 1]))
        tensor(4.)
    """
    return (values * chosen).sum() / chosen.sum().clamp(min=1)
