"""Base classes of probes: samples, predictions, and the selection of a setting on validation images.

All probes except nearest neighbours standardise embeddings with the statistics of the training images, to mean 0 and
standard deviation 1 in each dimension, so that one learning rate, one regularisation strength and one kernel width
suit all dimensions. For the MLP, a single factor for all dimensions can be set instead. Nearest neighbours use the
embeddings unscaled, because their distances are probed.

Shapes: M images, D dimensions of an embedding, K classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

import numpy.typing as npt
import torch
from torch import Tensor

Trial = dict[str, float]
"""A setting that was tried, such as ``neighbours`` or ``epoch``, with ``validation_accuracy`` and, for classifiers that
give probabilities, ``validation_cross_entropy`` in nats; for networks also ``train_...``.
"""

Array = npt.NDArray[Any]

Advance = Callable[[int], None]
"""Function called with the number of steps done, for a progress bar."""


@dataclass(frozen=True)
class Samples:
    """Embeddings (M, D) float32 of images, and their classes (M,)."""

    embeddings: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> Samples:
        """Return the first ``count`` samples."""
        return Samples(self.embeddings[:count], self.labels[:count])


@dataclass(frozen=True)
class Predictions:
    """Predicted classes (M,), and log-probabilities (M, K) if the classifier estimates them."""

    classes: Tensor
    log_probabilities: Tensor | None = None

    def scores(self, labels: Tensor) -> dict[str, Tensor]:
        """Return ``accuracy`` (M,), 0 or 1, and ``cross_entropy`` (M,) in nats, for true classes (M,)."""
        found = {"accuracy": (self.classes == labels).double()}
        if self.log_probabilities is not None:
            found["cross_entropy"] = -self.log_probabilities.double().gather(1, labels.unsqueeze(1)).squeeze(1)
        return found


class TrainedClassifier(Protocol):
    """A trained classifier."""

    def predict(self, embeddings: Tensor) -> Predictions:
        """Classify embeddings (M, D)."""


@dataclass(frozen=True)
class FittedProbe:
    """A trained classifier and all settings that were tried.

    Attributes:
        classifier: classifier with the best setting on validation images.
        trials: all settings, in the order they were tried.
        chosen: index of the best setting.
    """

    classifier: TrainedClassifier
    trials: list[Trial]
    chosen: int


@dataclass(frozen=True)
class Probe(ABC):
    """A kind of classifier and its training settings.

    Attributes:
        name: name in metrics and file names.
        tried: word for the trials, in file names.
        saved: whether the trained classifier is a network and is saved with the run.
    """

    name: str
    tried: ClassVar[str]
    saved: ClassVar[bool] = False

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that the classifier depends on, except the embeddings and the device; JSON-serialisable."""
        return {name: value for name, value in asdict(self).items() if name != "device"}

    @property
    def steps(self) -> int:
        """Number of steps of `fit`, for a progress bar."""
        return 1

    def check(self, labels: Tensor, classes: int) -> None:  # noqa: B027  # most classifiers accept any classes
        """Check the classes (M,) of the training images.

        Raises:
            ConfigError: the classifier cannot be trained with these classes.
        """

    @abstractmethod
    def fit(self, train: Samples, validation: Samples, classes: int, advance: Advance) -> FittedProbe:
        """Train the classifier, and select a setting by accuracy on validation images.

        Args:
            train: training images.
            validation: validation images.
            classes: number of classes K.
            advance: called with the number of steps done, for a progress bar.

        Returns:
            The trained classifier.
        """


@dataclass(frozen=True)
class Scaling:
    """Scales embeddings to mean 0 and standard deviation 1; both are (D,)."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, embeddings: Tensor, scaling: str = "each") -> Scaling:
        """Fit the scaling to embeddings.

        Args:
            embeddings: embeddings (M, D).
            scaling: ``each`` scales every dimension separately, without amplifying those of almost no variance;
                ``all`` scales all dimensions by one factor.

        Returns:
            The scaling.
        """
        deviation, mean = torch.std_mean(embeddings, 0, correction=0)
        if scaling == "all":
            deviation = deviation.square().mean().sqrt().expand_as(deviation).clone()
        return cls(mean, deviation.clamp(min=1e-6 * float(deviation.max()) or 1.0))

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Scale embeddings (M, D)."""
        return (embeddings - self.mean).div_(self.deviation)


def best(trials: Sequence[Trial]) -> int:
    """Return the index of the trial with the highest validation accuracy; ties are broken by the lowest cross-entropy,
    then by order.
    """
    return min(
        range(len(trials)),
        key=lambda i: (-trials[i]["validation_accuracy"], trials[i].get("validation_cross_entropy", 0.0)),
    )


def means(part: str, scores: Mapping[str, Tensor]) -> Trial:
    """Return mean scores with ``part`` as prefix of their names."""
    return {f"{part}_{name}": float(values.mean()) for name, values in scores.items()}


@dataclass(frozen=True)
class StrengthProbe(Probe):
    """A classifier of scikit-learn on scaled embeddings, trained once per inverse regularisation strength.

    Attributes:
        strengths: inverse regularisation strengths to try.
    """

    strengths: tuple[float, ...]
    tried: ClassVar[str] = "strengths"

    @property
    def steps(self) -> int:
        """Number of steps of `fit`."""
        return len(self.strengths)

    @abstractmethod
    def fit_once(
        self, strength: float, scaling: Scaling, inputs: Array, labels: Array, classes: int
    ) -> TrainedClassifier:
        """Train the classifier with one strength on scaled embeddings (M, D) and their classes (M,)."""

    def fit(self, train: Samples, validation: Samples, classes: int, advance: Advance) -> FittedProbe:
        """See `Probe.fit`."""
        scaling = Scaling.of(train.embeddings)
        inputs, labels = scaling(train.embeddings).numpy(), train.labels.numpy()
        classifiers: list[TrainedClassifier] = []
        trials = []
        for strength in self.strengths:
            classifiers.append(self.fit_once(strength, scaling, inputs, labels, classes))
            scores = classifiers[-1].predict(validation.embeddings).scores(validation.labels)
            trials.append({"strength": strength, **means("validation", scores)})
            advance(1)
        return FittedProbe(classifiers[best(trials)], trials, best(trials))
