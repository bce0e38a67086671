"""Parts that several models share."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn

from fragrecon.errors import ConfigError


def perceptron(widths: Sequence[int], dropout: float) -> nn.Sequential:
    """Linear layers of these widths, with ReLU and dropout between them but not after the last."""
    if min(widths) < 1:
        raise ConfigError(f"model.hidden: the widths {list(widths)} should be positive")
    if not 0 <= dropout < 1:
        raise ConfigError(f"model.dropout={dropout} should be at least 0 and below 1")
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        layers += [nn.ReLU(), nn.Dropout(dropout)] if i else []
        layers.append(nn.Linear(inputs, outputs))
    return nn.Sequential(*layers)
