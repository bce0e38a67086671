"""Learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, cast

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Timer
from pydantic import Field
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from fragrecon.config.build import build
from fragrecon.config.schema import Config
from fragrecon.config.types import Fraction
from fragrecon.data.batches import steps_per_epoch
from fragrecon.data.module import FragmentData
from fragrecon.errors import ConfigError


def time_passed(trainer: pl.Trainer) -> float:
    """Return the share of the trainer's time limit that has passed, the same in all processes; 0 without a limit."""
    callbacks = cast(Any, trainer).callbacks  # missing from its annotations
    timer = next((callback for callback in callbacks if isinstance(callback, Timer)), None)
    if timer is None:
        return 0.0
    elapsed, remaining = timer.time_elapsed(), timer.time_remaining()
    assert remaining is not None
    return trainer.strategy.broadcast(elapsed / (elapsed + remaining))


def make_scheduler(config: Config, data: FragmentData, optimizer: Optimizer, passed: Callable[[], float]) -> Any:
    """Build the learning-rate schedule of the whole training run; None if the config has none.

    Args:
        config: config of the run.
        data: data of the run; its ``start`` is set if the run is resumed.
        optimizer: optimizer whose learning rate is scheduled.
        passed: returns the share of the time limit that has passed.

    Raises:
        ConfigError: a setting is invalid, or the schedule depends on steps only, but a time limit is set.
    """
    if config.scheduler["_target_"] is None:
        return None
    trainer = config.trainer
    # Lightning takes an optimizer step after the last batch of an epoch, even if fewer gradients are accumulated.
    batches, accumulation = data.epoch_length(trainer.limit_train_batches), trainer.accumulate_grad_batches
    epochs = range(data.start.epoch, config.max_epochs)
    steps = data.start.step + sum(steps_per_epoch(batches, accumulation, epoch) for epoch in epochs)
    if trainer.max_steps >= 0:
        steps = min(steps, trainer.max_steps) if steps > 0 else trainer.max_steps
    mode = config.selection.mode
    schedule = build(config.scheduler, "scheduler", LRScheduler, optimizer, total_steps=steps, passed=passed, mode=mode)
    if trainer.max_time and hasattr(schedule, "total_steps"):  # OneCycleLR
        raise ConfigError(
            f"scheduler._target_={config.scheduler['_target_']} depends on the number of steps, and trainer.max_time="
            f"{trainer.max_time} may end training earlier; use scheduler=cosine, plateau or none"
        )
    return schedule


class WarmupCosine(LambdaLR):
    """Linear warm-up to the full rate, then half a cosine down to a floor (Loshchilov and Hutter, ICLR 2017, eq. 5).

    It is stepped after each optimizer step. Progress is the share of the steps made or, if larger, the share of the
    time passed, so that the rate reaches the floor at the end of training, whichever limit ends it.

    Args:
        optimizer: optimizer whose learning rate is scheduled.
        total_steps: optimizer steps of the whole training run.
        warmup: fraction of training for the warm-up, in [0, 1).
        floor: fraction of the full rate at the end, in [0, 1].
        passed: returns the share of the time limit that has passed; called after each step.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05,
        floor: Fraction = 0.0,
        passed: Callable[[], float] = lambda: 0.0,
    ) -> None:
        rise = round(total_steps * warmup)

        def factor(step: int) -> float:
            done = max(step, passed() * total_steps)  # in steps
            if done < rise:
                return min(1.0, (done + 1) / rise)
            progress = min(1.0, (done - rise) / max(1, total_steps - rise))
            return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2

        super().__init__(optimizer, factor)
