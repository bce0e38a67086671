"""Classification of each fragment by the class of its source image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import PositiveInt

from fragrecon.data.puzzles import FragmentBatch
from fragrecon.errors import ConfigError
from fragrecon.models.base import Classifier, FragmentModel
from fragrecon.models.blocks import mlp
from fragrecon.objectives.base import Losses, Objective


class CrossEntropy(Objective):
    """Cross-entropy on the class of the source image, in nats per fragment, and the ``accuracy``.

    Args:
        num_classes: number of classes of the data set.
        latent_dim: number of embedding dimensions, D.
        hidden: hidden widths of a classification head that is trained with the model, ``[]`` for a linear head; None
            for the model's own head.

    Raises:
        ConfigError: the data set has no classes.
    """

    parts = ("loss", "accuracy")

    def __init__(self, num_classes: int, latent_dim: int, hidden: Sequence[PositiveInt] | None = None) -> None:
        super().__init__()
        check_classes(num_classes, "cross_entropy")
        self.head = None if hidden is None else mlp([latent_dim, *hidden, num_classes], dropout=0.0)

    def check(self, model: FragmentModel) -> None:
        """Check that there is a classification head."""
        if self.head is None and not isinstance(model, Classifier):
            raise ConfigError(
                f"objective=cross_entropy needs a model that classifies; {type(model).__name__} does not, but "
                "objective.hidden=[] gives it a linear head, and objective.hidden=[128] one with a hidden layer"
            )

    def forward(self, model: FragmentModel, batch: FragmentBatch, generator: torch.Generator) -> Losses:
        """Compute the loss of a batch; see `Objective`."""
        latents = model.encode(batch.fragments)
        if self.head is None:
            assert isinstance(model, Classifier)
            logits = model.classify(latents)
        else:
            logits = self.head(latents)
        logits, labels = logits.flatten(0, 1).float(), batch.labels.flatten()
        accuracy = (logits.argmax(1) == labels).float().mean()
        return {"loss": F.cross_entropy(logits, labels), "accuracy": accuracy.detach()}


def check_classes(num_classes: int, objective: str) -> None:
    """Check that a data set has classes.

    Args:
        num_classes: number of classes.
        objective: name of the objective that needs classes, for the message.

    Raises:
        ConfigError: the data set has no classes.
    """
    if num_classes < 1:
        raise ConfigError(
            f"objective={objective} needs classes, but the data set has none "
            "(the classes of a folder of images are its subfolders)"
        )
