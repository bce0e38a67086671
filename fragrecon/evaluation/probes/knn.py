"""The nearest-neighbours probe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from fragrecon.evaluation.probes.base import Advance, FittedProbe, Predictions, Probe, Samples, best, means


@dataclass(frozen=True)
class NearestNeighboursProbe(Probe):
    """Votes of the nearest training images by Euclidean distance.

    Attributes:
        neighbours: numbers of neighbours to try, each clipped to the number of training images.
    """

    neighbours: tuple[int, ...]
    tried: ClassVar[str] = "neighbours"

    def fit(self, train: Samples, validation: Samples, classes: int, advance: Advance) -> FittedProbe:
        """See `Probe.fit`."""
        counts = sorted({min(count, len(train)) for count in self.neighbours})
        near = Neighbours(train, counts[-1], classes).nearest(validation.embeddings)
        trials = [
            {
                "neighbours": count,
                **means("validation", _vote(near[:, :count], classes).scores(validation.labels)),
            }
            for count in counts
        ]
        advance(1)
        return FittedProbe(Neighbours(train, counts[best(trials)], classes), trials, best(trials))


@dataclass(frozen=True)
class Neighbours:
    """Classifies by the ``count`` nearest training images, with one added vote per class (Laplace smoothing)."""

    train: Samples
    count: int
    classes: int

    def predict(self, embeddings: Tensor) -> Predictions:
        """Classify embeddings (M, D)."""
        return _vote(self.nearest(embeddings), self.classes)

    def nearest(self, embeddings: Tensor) -> Tensor:
        """Return the classes (M, count) of the nearest training images, nearest first."""
        from sklearn.neighbors import NearestNeighbors  # slow to import

        with threadpool_limits(torch.get_num_threads()):
            search = NearestNeighbors(algorithm="brute").fit(self.train.embeddings.numpy())
            found = search.kneighbors(embeddings.numpy(), self.count, return_distance=False)
        return self.train.labels[torch.from_numpy(found)]


def _vote(near: Tensor, classes: int) -> Predictions:
    """Predict from the classes (M, k) of neighbours; ties go to the first class, as in scikit-learn."""
    votes = torch.zeros(len(near), classes, dtype=torch.float64)
    votes.scatter_add_(1, near, torch.ones_like(near, dtype=votes.dtype))
    return Predictions(votes.argmax(1), ((votes + 1) / (near.shape[1] + classes)).log())
