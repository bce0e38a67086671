"""Open a run that is there already. Reads only; needs neither Hydra nor (before a model is asked for) torch."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from omegaconf import OmegaConf

from fragrecon import files, schema
from fragrecon.errors import RunError
from fragrecon.record import EPOCHS, EXAMPLES, OVERRIDES, SCORES
from fragrecon.schema import model_name

if TYPE_CHECKING:
    from fragrecon.models.base import FragmentModel

Scores = npt.NDArray[np.float64]


class Run:
    """A run's folder.

    Attributes:
        folder: where it lies.
        config: as it ran.
        status: as last noted.
    """

    def __init__(self, folder: Path) -> None:
        for name in ("config.yaml", "status.json"):
            if not (folder / name).is_file():
                what = "is no folder" if not folder.is_dir() else f"holds no {name}"
                raise RunError(
                    f"{folder} {what}; a run's folder is one under outputs/ or multirun/ "
                    "with config.yaml and status.json"
                )
        self.folder = folder
        self.config = schema.load(folder / "config.yaml")
        try:
            self.status: dict[str, Any] = json.loads((folder / "status.json").read_text())
        except ValueError as error:
            raise RunError(f"{folder}/status.json is not what a run writes: {error}") from None

    @cached_property
    def metrics(self) -> dict[str, Any]:
        path = self.folder / "metrics.json"
        if not path.is_file():
            raise RunError(
                f"{self.folder} holds no metrics.json: its status is {self.status['status']}; "
                f"resume={self.folder} ends it"
            )
        metrics: dict[str, Any] = json.loads(path.read_text())
        return metrics

    @cached_property
    def overrides(self) -> list[str]:
        """What the command line said when the run started, and whenever it was taken up again."""
        path = self.folder / OVERRIDES
        return [str(override) for override in OmegaConf.load(path)] if path.is_file() else []

    @property
    def model_name(self) -> str:
        """What the model is called on the command line: the module that it is built from."""
        return model_name(self.config.model)

    @cached_property
    def epochs(self) -> list[dict[str, float]]:
        """Rows of ``metrics.csv``; none where nothing was trained."""
        path = self.folder / EPOCHS
        rows = files.read_csv(path) if path.is_file() else []
        return [{name: float(value) for name, value in row.items()} for row in rows]

    @cached_property
    def scores(self) -> dict[str, Scores]:
        """Scores (puzzles,) by ``METHOD/METRIC``, puzzle by puzzle."""
        return self._arrays(SCORES)

    @cached_property
    def examples(self) -> dict[str, npt.NDArray[Any]]:
        """The first test puzzles and what the model made of them; see `fragrecon.record.Record.write_examples`."""
        return self._arrays(EXAMPLES)

    def _arrays(self, name: str) -> dict[str, npt.NDArray[Any]]:
        path = self.folder / name
        if not path.is_file():
            raise RunError(f"{self.folder} holds no {name}: its status is {self.status['status']}")
        try:
            return files.read_arrays(path)
        except (OSError, EOFError, ValueError, BadZipFile) as error:
            raise RunError(f"{path} is not what a run writes: {error}") from None

    @property
    def last_checkpoint(self) -> Path | None:
        path = self.folder / "checkpoints" / "last.ckpt"
        return path if path.is_file() else None

    @property
    def best_checkpoint(self) -> Path:
        """The selected checkpoint, or the last where nothing was selected.

        Where a kill fell between the writing of a better one and the removal of its predecessor, the newer counts.
        """
        found = sorted((self.folder / "checkpoints").glob("best-*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
        best = found[-1] if found else self.last_checkpoint
        if best is None:
            raise RunError(
                f"{self.folder} holds no checkpoint: the run ended before its first epoch did; "
                f"resume={self.folder} ends it"
            )
        return best

    def load_model(self, checkpoint: Path | None = None) -> FragmentModel:
        """The run's model in eval mode on the CPU, with the weights of its best checkpoint or of the given one."""
        from fragrecon.modelling import restore

        return restore(self.config, checkpoint or self.best_checkpoint)


def load_run(folder: str | Path) -> Run:
    """Open a run's folder; raises `RunError` if it is not one."""
    return Run(Path(folder))
