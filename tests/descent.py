from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def descend(parameters: Iterable[Tensor], loss: Callable[[], Tensor], steps: int, rate: float = 1e-2) -> list[float]:
    """Take steps of Adam; returns the loss before each."""
    optimizer, losses = torch.optim.Adam(parameters, rate), []
    for _ in range(steps):
        value = loss()
        losses.append(value.item())
        optimizer.zero_grad()
        torch.autograd.backward(value)
        optimizer.step()
    return losses
