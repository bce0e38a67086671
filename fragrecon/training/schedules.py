"""Learning-rate schedules that torch does not have in one piece."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from fragrecon.errors import ConfigError


def warmup_cosine(optimizer: Optimizer, total_steps: int, warmup: float = 0.05, floor: float = 0.0) -> LambdaLR:
    """Rise linearly to the full rate, then fall to ``floor`` of it along half a cosine (Loshchilov and Hutter, ICLR
    2017, eq. 5).

    Args:
        optimizer: whose rate to set.
        total_steps: optimizer steps of the whole training.
        warmup: share of the steps to rise over.
        floor: share of the full rate at the end.
    """
    if not (0 <= warmup < 1 and 0 <= floor <= 1):
        raise ConfigError(f"scheduler.warmup={warmup} should be in [0, 1) and scheduler.floor={floor} in [0, 1]")
    rise = round(total_steps * warmup)

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        progress = min(1.0, (step - rise) / max(1, total_steps - rise))
        return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2

    return LambdaLR(optimizer, factor)
