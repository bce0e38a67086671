"""Pruning: a job of a sweep that does worse than most finished jobs is stopped early."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from fragrecon.config.schema import SelectionConfig
from fragrecon.config.types import Whole
from fragrecon.errors import RunError
from fragrecon.runs.contents import read_status
from fragrecon.runs.sweeps import sweep_of
from fragrecon.runs.write import STATUS, RunFolder


class MedianPruning(Callback):
    """Stops a job of a sweep whose best validation score so far is below the median of the finished jobs at its epoch.

    This is the median stopping rule (Golovin et al., Google Vizier, KDD 2017), as in Optuna's ``MedianPruner``. The
    scores of other jobs are read from the folder of the sweep, so that any sweeper and launcher can prune. Pruned jobs
    are not compared with. Outside of a sweep, nothing is pruned.

    Args:
        folder: folder of the run.
        selection: metric that is compared, and its direction.
        startup: number of finished jobs before any job is pruned.
        warmup: number of epochs before a job may be pruned.

    Attributes:
        reason: why the job was pruned; None if it was not.
    """

    def __init__(self, folder: Path, selection: SelectionConfig, startup: Whole = 5, warmup: Whole = 0) -> None:
        self.folder, self.selection, self.startup, self.warmup = folder, selection, startup, warmup
        self.reason: str | None = None
        self._known: dict[Path, dict[int, float]] = {}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch, monitor = trainer.current_epoch, self.selection.monitor
        is_last = trainer.max_epochs is not None and epoch + 1 >= trainer.max_epochs
        score = trainer.callback_metrics.get(monitor)
        if is_last or score is None:
            return
        reason = self._reason(epoch, float(score)) if trainer.is_global_zero else None
        self.reason = trainer.strategy.broadcast(reason)
        if self.reason:
            trainer.should_stop = True

    def _reason(self, epoch: int, score: float) -> str | None:
        sweep, monitor = sweep_of(self.folder), self.selection.monitor
        if sweep is None or epoch < self.warmup:
            return None
        others = list(self._finished(sweep))
        values = [scores[epoch] for scores in others if epoch in scores]
        if len(others) < self.startup or not values:
            return None
        earlier = RunFolder(self.folder).epochs
        scores = [score, *(row[monitor] for row in earlier if monitor in row and row["epoch"] < epoch)]
        best, middle = {"max": max, "min": min}[self.selection.mode](scores), statistics.median(values)
        if best >= middle if self.selection.mode == "max" else best <= middle:
            return None
        return f"{monitor} {best:.4f} until epoch {epoch}; the median of {len(values)} finished jobs is {middle:.4f}"

    def _finished(self, sweep: Path) -> Iterator[dict[int, float]]:
        """Yield the scores by epoch of each finished job, whose files are read once."""
        for path in sorted(sweep.glob(f"*/{STATUS}")):
            try:
                if path not in self._known and read_status(path)["status"] == "done":
                    rows = [row for row in RunFolder(path.parent).epochs if self.selection.monitor in row]
                    self._known[path] = {int(row["epoch"]): row[self.selection.monitor] for row in rows}
            except (RunError, OSError, ValueError, KeyError):
                continue  # the leaderboard reports damaged files
            if path in self._known:
                yield self._known[path]
