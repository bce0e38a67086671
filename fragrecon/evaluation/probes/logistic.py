"""The logistic regression probe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from fragrecon.errors import ConfigError
from fragrecon.evaluation.probes.base import Array, Scaling, StrengthProbe
from fragrecon.evaluation.probes.network import Network, layers_of

MOST_STEPS = 1000
"""Maximum number of optimisation steps."""


@dataclass(frozen=True)
class LogisticProbe(StrengthProbe):
    """Multinomial logistic regression; the trained classifier is a one-layer network."""

    saved: ClassVar[bool] = True

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

    def fit_once(self, strength: float, scaling: Scaling, inputs: Array, labels: Array, classes: int) -> Network:
        """See `StrengthProbe.fit_once`."""
        from sklearn.linear_model import LogisticRegression  # slow to import

        with threadpool_limits(torch.get_num_threads()):
            found = LogisticRegression(C=strength, max_iter=MOST_STEPS).fit(inputs, labels)
        weights = {"0.weight": torch.from_numpy(found.coef_), "0.bias": torch.from_numpy(found.intercept_)}
        if classes == 2:  # scikit-learn has only the logit of the second class; that of the first is 0
            weights = {name: torch.cat([torch.zeros_like(value), value]) for name, value in weights.items()}
        return Network(scaling, layers_of([inputs.shape[1], classes], weights))
