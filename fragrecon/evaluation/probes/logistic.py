"""The logistic regression probe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from fragrecon.errors import ConfigError
from fragrecon.evaluation.probes.base import Advance, FittedProbe, Probe, Samples, Scaling, fit_strengths
from fragrecon.evaluation.probes.network import Network, layers_of

MOST_STEPS = 1000
"""Maximum number of optimisation steps."""


@dataclass(frozen=True)
class LogisticProbe(Probe):
    """Multinomial logistic regression; the trained classifier is a one-layer network.

    Attributes:
        strengths: inverse regularisation strengths to try.
    """

    strengths: tuple[float, ...]
    tried: ClassVar[str] = "strengths"
    saved: ClassVar[bool] = True

    @property
    def steps(self) -> int:
        """Number of steps of `fit`."""
        return len(self.strengths)

    def check(self, labels: Tensor, classes: int) -> None:
        """Check that the training images contain every class; a missing class would always get probability 0.

        Raises:
            ConfigError: a class is missing.
        """
        shown = len(torch.unique(labels))
        if shown < classes:
            raise ConfigError(
                f"evaluation.probe.classifiers: logistic needs training images of all {classes} classes, and the "
                f"{len(labels)} training images show {shown}; leave it out, or set evaluation.probe.images higher"
            )

    def fit(self, train: Samples, validation: Samples, classes: int, advance: Advance) -> FittedProbe:
        """See `Probe.fit`."""
        from sklearn.linear_model import LogisticRegression  # slow to import

        scaling = Scaling.of(train.embeddings)
        inputs, labels = scaling(train.embeddings).numpy(), train.labels.numpy()

        def fit(strength: float) -> Network:
            with threadpool_limits(torch.get_num_threads()):
                found = LogisticRegression(C=strength, max_iter=MOST_STEPS).fit(inputs, labels)
            weights = {"0.weight": torch.from_numpy(found.coef_), "0.bias": torch.from_numpy(found.intercept_)}
            if classes == 2:  # scikit-learn has only the logit of the second class; that of the first is 0
                weights = {name: torch.cat([torch.zeros_like(value), value]) for name, value in weights.items()}
            return Network(scaling, layers_of([inputs.shape[1], classes], weights))

        return fit_strengths(fit, validation, self.strengths, advance)
