"""The support vector machine probe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from fragrecon.errors import ConfigError
from fragrecon.evaluation.probes.base import (
    Advance,
    FittedProbe,
    Predictions,
    Probe,
    Samples,
    Scaling,
    fit_strengths,
)

if TYPE_CHECKING:
    from sklearn.svm import SVC


@dataclass(frozen=True)
class SupportVectorProbe(Probe):
    """A support vector machine with a Gaussian kernel.

    Attributes:
        strengths: inverse regularisation strengths to try.
        images: maximum number of training images; the first ones are used.
    """

    strengths: tuple[float, ...]
    images: int
    tried: ClassVar[str] = "strengths"

    @property
    def steps(self) -> int:
        """Number of steps of `fit`."""
        return len(self.strengths)

    def check(self, labels: Tensor, classes: int) -> None:
        """Check that the images used have at least two classes.

        Raises:
            ConfigError: they have one class.
        """
        if len(torch.unique(labels[: self.images])) < 2:
            raise ConfigError(f"evaluation.probe.svm_images={self.images} are all of one class; set it higher")

    def fit(self, train: Samples, validation: Samples, classes: int, advance: Advance) -> FittedProbe:
        """See `Probe.fit`."""
        from sklearn.svm import SVC  # slow to import

        some = train.first(self.images)
        scaling = Scaling.of(some.embeddings)
        inputs, labels = scaling(some.embeddings).numpy(), some.labels.numpy()

        def fit(strength: float) -> SupportVectorMachine:
            with threadpool_limits(torch.get_num_threads()):
                return SupportVectorMachine(scaling, SVC(C=strength, cache_size=1000).fit(inputs, labels))

        return fit_strengths(fit, validation, self.strengths, advance)


@dataclass(frozen=True)
class SupportVectorMachine:
    """A trained support vector machine on scaled embeddings; it does not estimate probabilities."""

    scaling: Scaling
    machine: SVC

    def predict(self, embeddings: Tensor) -> Predictions:
        """Classify embeddings (M, D)."""
        with threadpool_limits(torch.get_num_threads()):
            return Predictions(torch.from_numpy(self.machine.predict(self.scaling(embeddings).numpy())))
