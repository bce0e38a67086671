"""Learning-rate schedules."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import Field
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from fragrecon.config.build import build
from fragrecon.config.schema import Config
from fragrecon.config.types import Fraction
from fragrecon.data.module import FragmentData


def make_scheduler(config: Config, data: FragmentData, optimizer: Optimizer) -> Any:
    """Build the learning-rate schedule of the whole training run; None if the config has none.

    Args:
        config: config of the run.
        data: data of the run; its ``start`` is set if the run is resumed.
        optimizer: optimizer whose learning rate is scheduled.
    """
    if config.scheduler["_target_"] is None:
        return None
    trainer = config.trainer
    # Lightning takes an optimizer step after the last batch of an epoch, even if fewer gradients are accumulated.
    batches, epochs = data.epoch_length(trainer.limit_train_batches), config.max_epochs - data.start.epoch
    steps = data.start.step + -(-batches // trainer.accumulate_grad_batches) * epochs
    if trainer.max_steps >= 0:
        steps = min(steps, trainer.max_steps) if steps > 0 else trainer.max_steps
    return build(config.scheduler, "scheduler", optimizer, total_steps=steps, mode=config.selection.mode)


def warmup_cosine(
    optimizer: Optimizer,
    total_steps: int,
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05,
    floor: Fraction = 0.0,
) -> LambdaLR:
    """Linear warm-up to the full rate, then half a cosine down to a floor (Loshchilov and Hutter, ICLR 2017, eq. 5).

    Args:
        optimizer: optimizer whose learning rate is scheduled.
        total_steps: optimizer steps of the whole training run.
        warmup: fraction of the steps for the warm-up, in [0, 1).
        floor: fraction of the full rate at the end, in [0, 1].

    Returns:
        The schedule, stepped after each optimizer step.
    """
    rise = round(total_steps * warmup)

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        progress = min(1.0, (step - rise) / max(1, total_steps - rise))
        return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2

    return LambdaLR(optimizer, factor)
