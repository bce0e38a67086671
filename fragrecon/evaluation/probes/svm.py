"""The support vector machine probe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from fragrecon.errors import ConfigError
from fragrecon.evaluation.probes.base import Advance, Array, FittedProbe, Predictions, Samples, Scaling, StrengthProbe

if TYPE_CHECKING:
    from sklearn.svm import SVC


@dataclass(frozen=True)
class SupportVectorProbe(StrengthProbe):
    """A support vector machine with a Gaussian kernel.

    Attributes:
        images: maximum number of training images; the first ones are used.
    """

    images: int

    def check(self, labels: Tensor, classes: int) -> None:
        """Check that the images used have at least two classes.

        Raises:
            ConfigError: they have one class.
        """
        if len(torch.unique(labels[: self.images])) < 2:
            raise ConfigError(f"evaluation.probe.svm_images={self.images} are all of one class; set it higher")

    def fit(self, train: Samples, validation: Samples, classes: int, advance: Advance) -> FittedProbe:
        """See `Probe.fit`."""
        return super().fit(train.first(self.images), validation, classes, advance)

    def fit_once(
        self, strength: float, scaling: Scaling, inputs: Array, labels: Array, classes: int
    ) -> SupportVectorMachine:
        """See `StrengthProbe.fit_once`."""
        from sklearn.svm import SVC  # slow to import

        with threadpool_limits(torch.get_num_threads()):
            return SupportVectorMachine(scaling, SVC(C=strength, cache_size=1000).fit(inputs, labels))


@dataclass(frozen=True)
class SupportVectorMachine:
    """A trained support vector machine on scaled embeddings; it does not estimate probabilities."""

    scaling: Scaling
    machine: SVC

    def predict(self, embeddings: Tensor) -> Predictions:
        """Classify embeddings (M, D)."""
        with threadpool_limits(torch.get_num_threads()):
            return Predictions(torch.from_numpy(self.machine.predict(self.scaling(embeddings).numpy())))
