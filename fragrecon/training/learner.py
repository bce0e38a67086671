"""The LightningModule: a model, its objective, and its scores during training."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import MeanMetric

from fragrecon.config.build import build
from fragrecon.config.schema import Config, class_name
from fragrecon.data.batches import Start
from fragrecon.data.module import FragmentData, accumulation_of
from fragrecon.data.puzzles import FragmentBatch
from fragrecon.errors import ConfigError, nearest
from fragrecon.evaluation.clustering.protocol import METRICS
from fragrecon.evaluation.setup import protocol_of
from fragrecon.models.base import FragmentModel, count_parameters
from fragrecon.objectives.base import Losses, Objective
from fragrecon.runs.modules import Facts, build_model, load_weights
from fragrecon.seeds import seed_of, torch_generator
from fragrecon.training.compute import prepare
from fragrecon.training.schedules import make_scheduler, time_passed

log = logging.getLogger(__name__)

SELECTION = "val_mean_clustering_score"


def logged_name(stage: str, name: str) -> str:
    """Return the name of a metric in the loggers, such as ``val/kmeans_ari``; the selection metric has its own name."""
    return SELECTION if (stage, name) == ("val", "mean_clustering_score") else f"{stage}/{name}"


def logged_names(objective: Objective, *, clustering: bool) -> list[str]:
    """Return the names of all logged metrics of training and validation: loss terms and, with clustering, scores."""
    names = [*objective.parts, *(METRICS if clustering else ())]
    return [logged_name(stage, name) for stage in ("train", "val") for name in names]


def check_monitor(config: Config, objective: Objective) -> None:
    """Raise `ConfigError` unless ``selection.monitor`` is the name of a logged metric."""
    names, monitor = logged_names(objective, clustering=config.evaluation.clustering), config.selection.monitor
    if monitor not in names:
        raise ConfigError(f"selection.monitor='{monitor}' is not logged{nearest(monitor, names)}")


class Mean(MeanMetric):
    """A weighted mean that keeps NaN, so that a diverged loss is seen.

    MeanMetric looks for NaN in every update, for which it waits for the device; with ``nan_strategy="disable"``, which
    does not, it ignores the weights (torchmetrics 1.9).
    """

    def update(self, value: Tensor, weight: int) -> None:  # type: ignore[override]
        self.mean_value += (value.to(self.dtype) * weight).sum()
        self.weight += weight * value.numel()


class Learner(pl.LightningModule):
    """Trains a model with an objective.

    All random numbers of a step depend on the run's seed, the step and the rank.

    Args:
        config: config of the run.
        data: data to train on.
        model: model to train.
        objective: objective that computes the loss.
        facts: facts that the model was built from; saved in its checkpoints.

    Attributes:
        protocol: scores the embeddings of validation and of some training batches; None if no puzzles are clustered.
        scored_batches: number of training batches that are scored per epoch.
    """

    def __init__(
        self, config: Config, data: FragmentData, model: FragmentModel, objective: Objective, facts: Facts
    ) -> None:
        super().__init__()
        self.config, self.data, self.model, self.objective, self.facts = config, data, model, objective, facts
        self.protocol = protocol_of(config) if config.evaluation.clustering else None
        self.scored_batches = -(-config.evaluation.train_puzzles // config.data.puzzles_per_batch)
        self.plateau: ReduceLROnPlateau | None = None
        self.plateau_state: dict[str, Any] | None = None
        names = logged_names(objective, clustering=config.evaluation.clustering)
        self.means = nn.ModuleDict({name: Mean() for name in names})
        for mean in self.means.values():
            cast(MeanMetric, mean).persistent(True)  # so that a resumed epoch ends with the same means

    def configure_optimizers(self) -> Any:
        parameters = [p for p in self.parameters() if p.requires_grad]
        optimizer = build(self.config.optimizer, "optimizer", torch.optim.Optimizer, parameters)
        scheduler = make_scheduler(self.config, self.data, optimizer, lambda: time_passed(self.trainer))
        if scheduler is None:
            return optimizer
        if isinstance(scheduler, ReduceLROnPlateau):
            # It is stepped in `on_validation_epoch_end`: Lightning skips such a schedule in a resumed epoch.
            self.plateau = scheduler
            if self.plateau_state is not None:
                scheduler.load_state_dict(self.plateau_state)
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["facts"] = vars(self.facts)
        checkpoint["epochs"] = {**asdict(self.data.start), **self._epoch_shape()}
        if self.plateau is not None:
            checkpoint["plateau"] = self.plateau.state_dict()
        sums = {name: value for name, value in checkpoint["state_dict"].items() if name.startswith("means.")}
        if self.trainer.world_size > 1:
            by_rank = cast(Tensor, self.all_gather(torch.stack(list(sums.values()))))  # (ranks, sums)
            checkpoint["means"] = dict(zip(sums, by_rank.cpu().unbind(1), strict=True))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.plateau_state = checkpoint.get("plateau")
        self._begin_whole_epochs(checkpoint)
        # Means that the checkpoint lacks start at zero; the others continue from the sums of each rank.
        weights, rank, ranks = checkpoint["state_dict"], self.global_rank, self.trainer.world_size
        for name, zero in self.means.state_dict(prefix="means.").items():
            if name not in weights:
                weights[name] = zero
                continue
            by_rank = checkpoint.get("means", {}).get(name, weights[name].unsqueeze(0))
            if len(by_rank) == ranks:
                weights[name] = by_rank[rank]
            else:
                weights[name] = zero if rank else by_rank.sum()

    def _epoch_shape(self) -> dict[str, Any]:
        """Batches per epoch, and batches per optimizer step or their schedule."""
        batches = self.data.epoch_length(self.trainer.limit_train_batches)
        return {"per_epoch": batches, "every": accumulation_of(self.trainer)}

    def _begin_whole_epochs(self, checkpoint: dict[str, Any]) -> None:
        """Start a new epoch if the checkpoint has a different number of batches or optimizer steps per epoch.

        An interrupted epoch is repeated. An epoch that was ended in its middle, such as by a time limit, counts as a
        whole one and the next one is started, because Lightning would not validate the rest of it.
        """
        before, shape = dict(checkpoint["epochs"]), self._epoch_shape()
        self.data.start = Start(before.pop("step"), before.pop("epoch"))
        step, loop = int(checkpoint["global_step"]), checkpoint["loops"]["fit_loop"]
        epoch, within = self.data.start.place(step, **before)
        epochs, batches = loop["epoch_progress"]["current"], loop["epoch_loop.batch_progress"]
        # With `max_steps`, Lightning does not count epochs, and continues within this one.
        ended = within > 0 and epochs["processed"] == epochs["ready"] and self.trainer.max_steps == -1
        if before == shape and not ended:
            return
        self.data.start = Start(step, epoch + ended)
        done = 0 if within and not ended else shape["per_epoch"]
        batches["current"] = dict.fromkeys(batches["current"], done)
        batches["is_last_batch"] |= ended
        weights = checkpoint["state_dict"]
        for name in [name for name in weights if name.startswith("means.train/")]:
            del weights[name]

    def training_step(self, batch: FragmentBatch, batch_idx: int) -> Tensor:
        # Dropout draws from torch's global generator, which is seeded here so that earlier draws have no effect.
        torch.manual_seed(seed_of(self.config.seed, "dropout", batch.step, self.global_rank))
        losses = self._losses("train", batch)
        self._log("train", {name: value.detach() for name, value in losses.items()}, len(batch))
        return losses["loss"]

    def on_train_epoch_start(self) -> None:
        self._reset_means("train/")

    def on_validation_epoch_start(self) -> None:
        self._reset_means("val")

    def on_train_batch_end(self, outputs: Any, batch: FragmentBatch, batch_idx: int) -> None:
        if batch_idx < self.scored_batches:
            self.model.eval()
            self._log("train", self._scores(batch), len(batch))
            self.model.train()

    def validation_step(self, batch: FragmentBatch, batch_idx: int) -> None:
        # The last batch of a rank may be empty: it adds nothing, but every rank has to log it.
        empty = {name: torch.empty(0, device=self.device) for name in self.objective.parts}
        losses = self._losses("val", batch) if len(batch) else empty
        self._log("val", {**losses, **self._scores(batch)}, len(batch))

    def on_validation_epoch_end(self) -> None:
        if self.plateau is not None:
            self.plateau.step(float(cast(MeanMetric, self.means[self.config.selection.monitor]).compute()))

    def training_means(self) -> dict[str, float]:
        """Return the means over this epoch's training batches so far, of all ranks."""
        means = {name: cast(MeanMetric, mean) for name, mean in self.means.items() if name.startswith("train/")}
        return {name: float(mean.compute()) for name, mean in means.items() if mean.update_called or float(mean.weight)}

    def _losses(self, stage: str, batch: FragmentBatch) -> Losses:
        generator = torch_generator(
            self.config.seed, f"objective/{stage}", batch.step, self.global_rank, device=self.device
        )
        return cast(Losses, self.objective(self.model, batch, generator))

    @torch.no_grad()
    def _scores(self, batch: FragmentBatch) -> dict[str, Tensor]:
        """Return scores (B,) by metric, computed in float32 for any precision of training."""
        if self.protocol is None:
            return {}
        if not len(batch):
            return {name: torch.empty(0, device=self.device) for name in METRICS}
        with torch.autocast(self.device.type, enabled=False):
            embeddings = self.model.encode(batch.fragments)
        return {
            name: score.to(self.device, torch.float32) for name, score in self.protocol.score(embeddings, batch).items()
        }

    def _log(self, stage: str, values: dict[str, Tensor], puzzles: int) -> None:
        """Add scalars, or scores (B,) of puzzles, to the means of this epoch over all ranks."""
        for name, value in values.items():
            logged = logged_name(stage, name)
            mean = cast(MeanMetric, self.means[logged])
            if value.numel():
                mean.update(value, puzzles if value.ndim == 0 else 1)
            shown = logged in ("train/loss", "val/loss", self.config.selection.monitor)
            self.log(logged, mean, on_step=False, on_epoch=True, prog_bar=shown, batch_size=max(1, puzzles))

    def _reset_means(self, prefix: str) -> None:
        for name, mean in self.means.items():
            if name.startswith(prefix):
                cast(MeanMetric, mean).reset()


def make_learner(config: Config, data: FragmentData, initial: Path | None) -> Learner:
    """Build a model and its objective, ready to be trained.

    Args:
        config: config of the run.
        data: data to train on.
        initial: checkpoint to initialise the weights from, if any.

    Raises:
        ConfigError: model and objective are incompatible with each other or with the data.
        RunError: the weights in ``initial`` do not fit the model.
    """
    facts = Facts(config.data.fragment_shape, data.grid, data.store("train").manifest.num_classes)
    model, objective = build_model(config, facts)
    if initial:
        load_weights(model, initial)
        log.info("starting from the weights in %s", initial)
    prepare(model, config.compute)
    batches = data.epoch_length(config.trainer.limit_train_batches)
    if not batches:
        raise ConfigError(
            f"trainer.limit_train_batches={config.trainer.limit_train_batches} leaves none of the "
            f"{data.batches_per_epoch} batches of an epoch; use a larger share, or a number of batches"
        )
    log.info(
        "%s: %s parameters, %s training and %s validation images, %d batches per epoch",
        class_name(config),
        f"{count_parameters(model):,}",
        f"{len(data.training_images()):,}",
        f"{len(data.validation_images()):,}",
        batches,
    )
    return Learner(config, data, model, objective, facts)
