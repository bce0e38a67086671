"""Exponential moving average of the weights in training."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from fragrecon.training.learner import Learner

TRAINED = "trained_weights"
"""Key of a checkpoint for the weights that the optimizer updates, if ``state_dict`` has their average."""


class WeightAverage(Callback):
    """Keeps an exponential moving average of the weights, for validation, pictures and all checkpoints.

    After each optimizer step, ``average = decay * average + (1 - decay) * weights``, also for floating-point buffers
    such as running means; other buffers are copied. In step n, counted from 0, the decay is at most
    ``(1 + n) / (10 + n)``, so that the initial weights are soon forgotten (as in TensorFlow's
    ``ExponentialMovingAverage``).

    The model has the averaged weights from the start of a validation or the end of an epoch until the next training
    batch, and after training. ``ModelCheckpoint`` saves within that time. In ``last.ckpt``, ``state_dict`` has the
    averaged weights too, and ``trained_weights`` the trained ones. If a run is resumed without this callback, training
    continues from the averaged weights.

    Lightning's ``WeightAveraging`` does not suit these checkpoints: it restores the trained weights before
    ``ModelCheckpoint`` saves, and a checkpoint with ``save_weights_only`` never calls a callback.

    Must come before other callbacks that use the weights.

    Args:
        decay: the largest decay, in (0, 1).
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {}  # those of the model, not copies
        self.other: dict[str, Tensor] = {}  # the averaged weights or, while the model has these, the trained ones
        self.averaged = False
        self.updated_at = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Learner)
        self.weights = nn.ModuleDict({"model": pl_module.model, "objective": pl_module.objective}).state_dict()
        self.other = {
            name: self.other.get(name, weight).to(weight.device, copy=True) for name, weight in self.weights.items()
        }
        self.updated_at = trainer.global_step

    def on_train_batch_start(self, *_: Any) -> None:
        self._exchange(averaged=False)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.updated_at:
            return  # gradients accumulate
        step, self.updated_at = trainer.global_step - 1, trainer.global_step
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, weight in self.weights.items():
            if weight.is_floating_point():
                self.other[name].lerp_(weight, 1 - decay)
            else:
                self.other[name].copy_(weight)

    def on_validation_start(self, *_: Any) -> None:
        self._exchange(averaged=True)

    def on_train_epoch_end(self, *_: Any) -> None:
        self._exchange(averaged=True)

    def on_train_end(self, *_: Any) -> None:
        self._exchange(averaged=True)

    def _exchange(self, *, averaged: bool) -> None:
        """Give the model the averaged or the trained weights."""
        if self.weights and averaged != self.averaged:  # there are none in the sanity check
            current = {name: weight.clone() for name, weight in self.weights.items()}
            for name, weight in self.weights.items():
                weight.copy_(self.other[name])
            self.other, self.averaged = current, averaged

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        average, checkpoint[TRAINED] = (self.weights, self.other) if self.averaged else (self.other, self.weights)
        checkpoint["state_dict"].update(average)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trained := checkpoint.get(TRAINED):
            self.other = {name: checkpoint["state_dict"][name] for name in trained}
            pl_module.load_state_dict(trained, strict=False)  # means of the epoch are loaded already
