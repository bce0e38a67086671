"""The files of a run, and when each is written.

All files are written atomically, except ``run.log``, ``.lock`` and those of additional loggers.

* At the start: ``run.log`` and ``.lock``, then ``config.yaml`` (resolved), ``overrides.yaml`` and ``status.json``. The
  status is updated when a stage begins and at the end: running, done, failed or pruned.
* After each epoch: a row of ``metrics.csv``.
* In ``checkpoints/``: ``last.ckpt`` every ``trainer.checkpoint_every_n_steps``, after each epoch and on SIGTERM;
  ``best-epoch=E-MONITOR=SCORE.ckpt`` when the monitored metric improves.
* When a run of Weights & Biases or MLflow starts: ``wandb_id.txt`` or ``mlflow_id.txt``, its id.
* During scoring: ``probes/`` with the trained networks, and tables (CSV) of the settings tried and the scores by class.
* After scoring: ``metrics.json``, ``scores.npz`` (scores per puzzle), ``examples.npz`` if puzzles are clustered,
  ``robustness.csv`` with ``evaluation=robustness``, ``figures/`` (in a job of a sweep only those that the page of the
  sweep shows, unless ``report.figures`` is set) and ``report.html``.

Modes add their own: ``embeddings.npz`` or ``.parquet`` and ``images.csv`` (embed), ``placement.json`` and ``images/``
(reassemble; without a run also ``neighbours.csv`` and ``report.html``), ``bench.json`` (bench). A sweep folder contains
one such folder per job, ``sweep.json`` from the start, ``leaderboard.csv`` and ``.md`` while it runs, and
``report.html`` at the end.

An export (``mode=export``) is a run to be read only: ``config.yaml`` and ``metrics.json`` of the run,
``model.safetensors`` in place of checkpoints, ``MODEL_CARD.md``, perhaps ``model.onnx``, and ``status.json``.
"""

from __future__ import annotations

import json
import platform
import shutil
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy.typing as npt
from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from fragrecon import __version__, files
from fragrecon.config.plain import read_yaml
from fragrecon.config.saved import config_hash
from fragrecon.config.schema import Config
from fragrecon.errors import ConfigError, FolderTakenError, FragreconError, RunError, typed
from fragrecon.runs.commits import commits
from fragrecon.runs.contents import read_epochs, read_status

if TYPE_CHECKING:
    from fragrecon.evaluation.statistics import Scores

Stage = Literal["training", "evaluation"]

CONFIG, OVERRIDES, STATUS = "config.yaml", "overrides.yaml", "status.json"
ROBUSTNESS, LOCK, WANDB_ID, MLFLOW_ID = "robustness.csv", ".lock", "wandb_id.txt", "mlflow_id.txt"
METRICS_FILE, EPOCHS, SCORES = "metrics.json", "metrics.csv", "scores.npz"
CHECKPOINTS, FIGURES = "checkpoints", "figures"
WEIGHTS, CARD, ONNX = "model.safetensors", "MODEL_CARD.md", "model.onnx"
EXAMPLES, PAGE, PROBE_FILES, LAST = "examples.npz", "report.html", "probes", "last.ckpt"
_PACKAGES = ("torch", "lightning", "torchmetrics", "scikit-learn", "kmedoids", "numpy", "hydra-core", "omegaconf")


class RunFolder:
    """Base of `Record` and `Run`: the files that both read.

    Args:
        folder: run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def overrides(self) -> list[str]:
        """Overrides of the command line that started the run, and of those that resumed it."""
        path = self.folder / OVERRIDES
        if not path.is_file():
            return []
        try:
            found = read_yaml(path)
        except ConfigError as error:
            raise RunError(str(error)) from None
        if not isinstance(found, list) or not all(isinstance(override, str) for override in found):
            raise RunError(f"{path} is damaged: it should be a list of overrides")
        return found

    @property
    def epochs(self) -> list[dict[str, float]]:
        """Rows of ``metrics.csv``; empty if no epoch has ended."""
        path = self.folder / EPOCHS
        return read_epochs(path) if path.is_file() else []

    @property
    def last_checkpoint(self) -> Path | None:
        """The checkpoint to resume from, if there is one."""
        path = self.folder / CHECKPOINTS / LAST
        return path if path.is_file() else None


class Record(RunFolder):
    """Writes a run's files into its folder.

    Args:
        folder: run folder.
        writes: False in all processes but the first; nothing is written then.
        after: a time, as of `now`, that times in the status are not before, should the clock be set back.

    Attributes:
        status: contents of ``status.json``; empty if there is none yet.

    Raises:
        RunError: the folder holds a link that leads out of it, or its status is damaged.
    """

    def __init__(self, folder: Path, writes: bool = True, after: str = "") -> None:
        super().__init__(folder)
        files.check_links(folder)
        self.writes, self.after = writes, after
        self.status = self._read_status()

    def _read_status(self) -> dict[str, Any]:
        path = self.folder / STATUS
        return read_status(path) if path.is_file() else {}

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Lock the folder within the block.

        The lock is released when the process exits, even if it is killed.

        Raises:
            FolderTakenError: another process has locked the folder.
        """
        if not self.writes:
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.folder / LOCK, timeout=0):
                self.status = self._read_status()
                yield
        except Timeout:
            raise FolderTakenError(f"another process is running in {self.folder}; wait until it ends") from None

    def check_unused(self) -> None:
        """Raise `FolderTakenError` if the folder already holds a run."""
        if self.writes and self.status:
            raise FolderTakenError(
                f"{self.folder} already holds a run, whose status is {self.status['status']}; resume it with "
                f"{typed('resume', self.folder)}, or use another folder (for a sweep, another sweep.name)"
            )

    def must_run(self, config: Config) -> bool:
        """Return whether a job of a sweep has to run.

        If the folder holds an unfinished run of a different config, its files are deleted first.

        Args:
            config: job config.

        Returns:
            False if the job is pruned, or is finished and, if its config asks for scores, has them.

        Raises:
            RunError: the folder holds a finished run of another config.
        """
        same = self.status.get("config_hash") == config_hash(config)
        if self.status.get("status") == "done":
            if not same:
                raise RunError(
                    f"{self.folder} holds a finished run of another configuration, because the files in conf/ or the "
                    "code have changed; use another sweep.name, or delete the folder"
                )
            scored = config.mode in ("train", "evaluate") and config.evaluation.puzzles
            return bool(scored) and not (self.folder / METRICS_FILE).is_file()
        if same and self.status.get("status") == "pruned":
            return False
        if not same:
            for name in (METRICS_FILE, EPOCHS, SCORES, EXAMPLES, ROBUSTNESS, WANDB_ID, MLFLOW_ID):
                (self.folder / name).unlink(missing_ok=True)
            for name in (CHECKPOINTS, FIGURES, PROBE_FILES):
                shutil.rmtree(self.folder / name, ignore_errors=True)
        return True

    def start(self, config: Config, overrides: Sequence[str]) -> None:
        """Write config, overrides and the status ``running``; a resumed run keeps its first start time."""
        if self.writes:
            for left in (*self.folder.glob(".*.part"), *(self.folder / CHECKPOINTS).glob(".*.part")):
                left.unlink()  # an incomplete file of a run that was killed
            files.write_text(self.folder / CONFIG, OmegaConf.to_yaml(OmegaConf.create(config.to_dict())))
            self._write_overrides(overrides)
        started, key = self.status.get("started") or self._now(), config_hash(config)
        # Keep the stage only if the config is unchanged; otherwise (e.g. more epochs) training runs again.
        stage = self.status.get("stage") if self.status.get("config_hash") == key else None
        times = {"started": started, "finished": None}
        self.status.pop("pruned", None)
        self._note(status="running", stage=stage, error=None, config_hash=key, commits=commits(config), **times)

    def refuse(self, overrides: Sequence[str], error: Exception) -> None:
        """Record a refused config as a failed run; a run that is running or done is left unchanged."""
        if self.status.get("status") in (None, "failed"):
            if self.writes:
                self._write_overrides(overrides)
            self.fail(error)

    def _write_overrides(self, overrides: Sequence[str]) -> None:
        files.write_text(self.folder / OVERRIDES, OmegaConf.to_yaml(OmegaConf.create(list(overrides))))

    def enter(self, stage: Stage, **facts: str) -> None:
        """Write the stage to the status, and facts about it, such as the machine."""
        self._note(stage=stage, **facts)

    def prune(self, reason: str) -> None:
        """Write why the job was pruned; it then ends with the status ``pruned``."""
        self._note(pruned=reason)

    def finish(self) -> None:
        """Write the status ``done``, or ``pruned``."""
        self._note(status="pruned" if "pruned" in self.status else "done", finished=self._now())

    def fail(self, error: BaseException) -> None:
        """Write the status ``failed`` with the message of an expected error, or the traceback of any other."""
        expected = isinstance(error, FragreconError)
        text = str(error) if expected else "".join(traceback.format_exception(error))
        try:
            self._note(status="failed", error=text, finished=self._now())
        except OSError:  # a full disk has no room for another file
            with suppress(OSError), (self.folder / STATUS).open("r+b") as file:
                file.write(json.dumps(self.status).encode())
                file.truncate()

    def _now(self) -> str:
        return max(now(), self.after, self.status.get("started") or "")

    def _note(self, **values: Any) -> None:
        self.status.update(values)
        if self.writes:
            files.write_json(self.folder / STATUS, self.status)

    def add_epoch(self, row: Mapping[str, Any]) -> None:
        """Add a row to ``metrics.csv``; it replaces rows of this or later epochs that were written before resuming."""
        if self.writes:
            path = self.folder / EPOCHS
            earlier = (
                [old for old in files.read_csv(path) if float(old["epoch"]) < row["epoch"]] if path.is_file() else []
            )
            files.write_csv(self.folder / EPOCHS, [*earlier, row])

    def write_metrics(
        self,
        scores: Mapping[str, Mapping[str, Scores]],
        *,
        protocol: Mapping[str, Any],
        data: Mapping[str, Any],
        model: Mapping[str, Any],
        seconds: Mapping[str, float],
        dataset_wide: Mapping[str, Mapping[str, float]] | None = None,
    ) -> dict[str, Any]:
        """Write ``metrics.json``, and the scores per puzzle to ``scores.npz``.

        Args:
            scores: scores (puzzles,) by method and metric, all with the puzzles in the same order.
            protocol: settings of the evaluation.
            data: facts about the test data.
            model: facts about the model.
            seconds: duration of each part of the job.
            dataset_wide: scores with a single value for all puzzles, by method and metric.

        Returns:
            The contents of ``metrics.json``.
        """
        from fragrecon.evaluation.statistics import paired_summaries, summary

        baselines = [method for method in scores if method != "model"]
        metrics = {
            "protocol": dict(protocol),
            "scores": {
                method: {metric: summary(values) for metric, values in rows.items()} for method, rows in scores.items()
            },
            "model_minus": {method: paired_summaries(scores["model"], scores[method]) for method in baselines},
            **({"dataset_wide": {method: dict(rows) for method, rows in dataset_wide.items()}} if dataset_wide else {}),
            "model": dict(model),
            "data": dict(data),
            "versions": versions(),
        }
        if self.writes:
            arrays = {
                f"{method}/{metric}": values for method, rows in scores.items() for metric, values in rows.items()
            }
            (self.folder / PAGE).unlink(missing_ok=True)  # of earlier scores
            files.write_arrays(self.folder / SCORES, arrays)
        self.write_seconds(metrics, seconds)
        return metrics

    def write_seconds(self, metrics: dict[str, Any], seconds: Mapping[str, float]) -> None:
        """Write ``metrics.json`` with the duration of each part of the job so far, which is added to ``metrics``."""
        metrics["seconds"] = {name: round(value, 3) for name, value in seconds.items()}
        if self.writes:
            files.write_json(self.folder / METRICS_FILE, metrics)

    def write_examples(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write ``examples.npz``: the first P test puzzles with the model's predictions.

        Args:
            arrays: ``images`` (P, N, C, H, W) uint8; ``grid`` (2,), rows and columns of fragments in an image;
                ``source_ids`` (P, F) and ``positions`` (P, F) of the fragments in shuffled order; ``groups`` (P, F)
                found by KMeans; for models that solve puzzles also ``rebuilt_images`` (P, F) and ``rebuilt_cells``
                (P, F), where the model places each fragment.
        """
        if self.writes:
            files.write_arrays(self.folder / EXAMPLES, arrays, compressed=True)

    def write_robustness(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write ``robustness.csv``: one row per condition, method and metric."""
        if self.writes:
            files.write_csv(self.folder / ROBUSTNESS, rows)


def reason(status: Mapping[str, Any]) -> str:
    """Return in one line why a job failed: the last line of a traceback, or the first line of a message."""
    lines = str(status.get("error") or "").strip().splitlines() or ["no reason was given"]
    return lines[-1] if lines[0].startswith("Traceback") else lines[0]


def versions() -> dict[str, str]:
    """Return the versions of this package, Python and the packages that results depend on."""
    return {"fragrecon": __version__, "python": platform.python_version()} | {
        name: metadata.version(name) for name in _PACKAGES
    }


def now() -> str:
    """Return the current time in UTC as ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
