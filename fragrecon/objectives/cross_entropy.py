"""Classification of each fragment by the class of its source image."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fragrecon.data.puzzles import FragmentBatch
from fragrecon.errors import ConfigError
from fragrecon.models.base import Classifier, FragmentModel
from fragrecon.objectives.base import Losses, Objective


class CrossEntropy(Objective):
    """Cross-entropy on the class of the source image, in nats a fragment; ``accuracy`` is reported beside it."""

    parts = ("loss", "accuracy")

    def check(self, model: FragmentModel) -> None:
        if not isinstance(model, Classifier):
            raise ConfigError(f"objective=cross_entropy needs a model that classifies; {type(model).__name__} does not")

    def forward(self, model: FragmentModel, batch: FragmentBatch, generator: torch.Generator) -> Losses:
        assert isinstance(model, Classifier)
        logits = model.classify(model.encode(batch.fragments)).flatten(0, 1).float()
        labels = batch.labels.flatten()
        accuracy = (logits.argmax(1) == labels).float().mean()
        return {"loss": F.cross_entropy(logits, labels), "accuracy": accuracy.detach()}
