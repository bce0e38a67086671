"""Classification of each fragment by the class of its source image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from fragrecon.data.puzzles import FragmentBatch
from fragrecon.errors import ConfigError
from fragrecon.models.base import Classifier, FragmentModel
from fragrecon.models.blocks import perceptron
from fragrecon.objectives.base import Losses, Objective


class CrossEntropy(Objective):
    """Cross-entropy on the class of the source image, in nats a fragment; ``accuracy`` is reported beside it.

    Args:
        num_classes: of the data set.
        latent_dim: D, of the model.
        hidden: widths of a head on the embeddings that is the objective's own and trained with the model, ``[]`` for a
            linear one; None for the head of the model.
    """

    parts = ("loss", "accuracy")

    def __init__(self, num_classes: int, latent_dim: int, hidden: Sequence[int] | None = None) -> None:
        super().__init__()
        check_classes(num_classes, "cross_entropy")
        self.head = None
        if hidden is not None:
            if isinstance(hidden, int) or not all(isinstance(width, int) and width > 0 for width in hidden):
                raise ConfigError(
                    f"objective.hidden={hidden} should be a list of positive widths, [] for a linear head, or null for "
                    "the model's own"
                )
            self.head = perceptron([latent_dim, *hidden, num_classes], dropout=0.0)

    def check(self, model: FragmentModel) -> None:
        if self.head is None and not isinstance(model, Classifier):
            raise ConfigError(
                f"objective=cross_entropy needs a model that classifies; {type(model).__name__} does not, but "
                "objective.hidden=[] gives it a linear head, and objective.hidden=[128] one with a hidden layer"
            )

    def forward(self, model: FragmentModel, batch: FragmentBatch, generator: torch.Generator) -> Losses:
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
    """Refuse to learn from classes where there are none; raises `ConfigError`."""
    if num_classes < 1:
        raise ConfigError(
            f"objective={objective} learns from classes, of which the data set has none "
            "(a folder of images has those of its subfolders)"
        )
