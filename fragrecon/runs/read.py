"""Open an existing run for reading. Needs no Hydra, and torch only for the model."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fragrecon import files
from fragrecon.config import saved
from fragrecon.config.plugins import trust
from fragrecon.config.schema import Config, model_name
from fragrecon.errors import ConfigError, DataError, RunError, nearest, typed
from fragrecon.runs.contents import read_examples, read_metrics, read_scores, read_status
from fragrecon.runs.folders import check_folder
from fragrecon.runs.weights import installed_folder
from fragrecon.runs.write import (
    CHECKPOINTS,
    CONFIG,
    EXAMPLES,
    LAST,
    METRICS_FILE,
    PROBE_FILES,
    SCORES,
    STATUS,
    WEIGHTS,
    RunFolder,
)

if TYPE_CHECKING:
    from torch import Tensor

    from fragrecon.evaluation.statistics import Summary
    from fragrecon.models.base import FragmentModel

Scores = npt.NDArray[np.float64]
Embeddings = npt.NDArray[np.float32]
Pixels = npt.NDArray[Any]


class Run(RunFolder):
    """An existing run, opened by `load_run`. Its files are read on first access.

    Args:
        folder: run folder.
        config: config that the run was started or last resumed with.
        status: contents of ``status.json``.
        selected: which checkpoint has the weights of the model, as in `load_run`.
    """

    def __init__(self, folder: Path, config: Config, status: Mapping[str, Any], selected: str = "best") -> None:
        super().__init__(folder)
        self.config, self.status, self.selected = config, status, selected
        self._model_scores: dict[str, Scores] = {}

    def __repr__(self) -> str:
        return f"<run {self.folder}: {self.model_name} on {self.config.data.name}, {self.status['status']}>"

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Contents of ``metrics.json``; raises `RunError` if the run has not been scored."""
        path = self.folder / METRICS_FILE
        if not path.is_file():
            raise RunError(
                f"{self.folder} holds no metrics.json: its status is {self.status['status']}; "
                f"{typed('resume', self.folder)} completes it"
            )
        return read_metrics(path)

    @cached_property
    def epochs(self) -> list[dict[str, float]]:
        """Rows of ``metrics.csv``; empty if no epoch has ended."""
        return super().epochs

    @property
    def is_scored(self) -> bool:
        """Whether the run has been scored on the test split."""
        return (self.folder / METRICS_FILE).is_file()

    @property
    def model_name(self) -> str:
        """The model's name on the command line, such as ``conv``."""
        return model_name(self.config.model)

    @cached_property
    def scores(self) -> dict[str, Scores]:
        """Scores (puzzles,) by ``METHOD/METRIC``."""
        return read_scores(self._existing(SCORES))

    def model_scores(self, metrics: Iterable[str]) -> dict[str, Scores]:
        """Return the model's scores (puzzles,) by metric, of the metrics that it has, without reading the others."""
        wanted = {f"model/{metric}": metric for metric in metrics}
        if missing := wanted.keys() - self._model_scores.keys():
            self._model_scores |= self.__dict__.get("scores") or read_scores(self._existing(SCORES), missing)
        return {metric: self._model_scores[name] for name, metric in wanted.items() if name in self._model_scores}

    @cached_property
    def examples(self) -> dict[str, npt.NDArray[Any]]:
        """The first test puzzles with the model's predictions; see `fragrecon.runs.write.Record.write_examples`."""
        return read_examples(self._existing(EXAMPLES))

    def _existing(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise RunError(f"{self.folder} holds no {name}: its status is {self.status['status']}")
        return path

    @property
    def is_export(self) -> bool:
        """Whether ``mode=export`` wrote the folder. It may be part of an installed package, so nothing writes to it."""
        return (self.folder / WEIGHTS).is_file()

    @property
    def checkpoint(self) -> Path:
        """The file with the weights of the model: the checkpoint that was selected when the run was opened.

        ``best`` is the one with the best validation score, or the last one if there was no validation. If a run was
        killed while replacing it, two exist and the one of the later epoch is used. An export has one file of weights.

        Raises:
            RunError: there is no such checkpoint.
        """
        if self.is_export and self.selected == "best":
            return self.folder / WEIGHTS
        if self.selected != "best":
            return self._checkpoint(LAST if self.selected == "last" else self.selected)
        found = sorted((self.folder / CHECKPOINTS).glob("best-*.ckpt"), key=_age)
        best = found[-1] if found else self.last_checkpoint
        if best is None:
            trained = bool(self.epochs) or self.status["status"] == "done"
            raise RunError(
                f"{self.folder} holds no checkpoint: "
                + ("its files were deleted" if trained else "the run ended before its first epoch")
                + f"; {typed('resume', self.folder)} trains it" * (not trained)
            )
        return best

    def _checkpoint(self, name: str) -> Path:
        """Return a file in ``checkpoints/`` by its name or path."""
        folder, path = self.folder / CHECKPOINTS, Path(name)
        known = sorted(path.name for path in folder.glob("*.ckpt"))
        if (path.parent not in (Path(), folder) and path.absolute().parent != folder) or path.name not in known:
            raise RunError(f"checkpoint={name} is not in {folder}{nearest(path.name, known)}")
        return folder / path.name

    def load_model(self, checkpoint: Path | None = None) -> FragmentModel:
        """Load the run's model.

        Args:
            checkpoint: checkpoint file; by default the one that was selected when the run was opened.

        Returns:
            The model in eval mode, on the CPU.

        Raises:
            RunError: there is no checkpoint, or it does not fit this model.
        """
        from fragrecon.runs.modules import restore

        return restore(self.config, checkpoint or self.checkpoint)

    @cached_property
    def model(self) -> FragmentModel:
        """The model in eval mode, on the CPU, with the weights of the selected checkpoint."""
        return self.load_model()

    def embed(self, pixels: Pixels | Tensor, *, device: str = "cpu", batch_size: int = 1024) -> Embeddings:
        """Embed images, fragments or puzzles of the run's sizes, distinguished by their shape.

        Most models embed each fragment independently. A model that sees the whole puzzle, such as mosaic, treats all
        fragments of one call as one puzzle, unless puzzles are given, so each embedding depends on the others.

        Args:
            pixels: images (M, C, H, W), fragments (M, C, h, w) or puzzles (B, F, C, h, w), as NumPy array or tensor;
                uint8, or floats in [0, 1].
            device: device to compute on.
            batch_size: fragments per batch; puzzles are not split if the model sees whole puzzles.

        Returns:
            Embeddings: (M, cells, D) for images, with the cells of the grid row by row; (M, D) for fragments, and for
            images if a fragment is a whole image; (B, F, D) for puzzles.

        Raises:
            ConfigError: ``batch_size`` is not positive.
            DataError: the pixels have the wrong shape, type or range.
        """
        from fragrecon.evaluation.embedding import embed

        model = self._model_on(device)
        return embed(model, pixels, self.config.data.image_shape, device=device, batch_size=batch_size)

    def classify(
        self, images: Pixels | Tensor, probe: str = "mlp", *, device: str = "cpu", batch_size: int = 1024
    ) -> Embeddings:
        """Classify images with a classifier that the run trained on embeddings.

        Args:
            images: (M, C, H, W) of the run's size, as NumPy array or tensor; uint8, or floats in [0, 1].
            probe: name of the classifier: mlp, linear or logistic.
            device: device to compute on.
            batch_size: fragments per batch.

        Returns:
            Probabilities (M, num_classes), in the order of the data set's labels.

        Raises:
            RunError: the run has no such classifier.
            DataError: the images have the wrong shape, type or range.
        """
        from fragrecon.evaluation.embedding import embed_images
        from fragrecon.evaluation.probes.network import load_probe

        path = self.folder / PROBE_FILES / f"{probe}.pt"
        if not path.is_file():
            known = sorted(path.stem for path in path.parent.glob("*.pt"))
            raise RunError(
                f"{self.folder} holds no classifier '{probe}'"
                + (f"; it has {', '.join(known)}" if known else "; a run with evaluation=probe trains some")
            )
        config = self.config.data
        embeddings = embed_images(
            self._model_on(device), images, config.image_shape, device=device, batch_size=batch_size
        )
        network = load_probe(path)
        if len(network.scaling.mean) != embeddings.shape[-1]:
            raise RunError(f"{path} is not a classifier of embeddings of {embeddings.shape[-1]} dimensions")
        found: Embeddings = network.log_probabilities(embeddings).exp().numpy()
        return found

    def evaluate(
        self,
        data: str | Path | Sequence[str | Path] | Pixels | Tensor | None = None,
        puzzles: int | None = None,
        *,
        device: str = "cpu",
    ) -> dict[str, Summary]:
        """Score the model by clustering, by reconstruction, or both, as set in the run's config.

        Without arguments, on the device that the run was scored on, the result equals ``metrics.json``.

        Args:
            data: a folder of images, image files, or images (M, C, H, W) uint8 of the run's size, to draw puzzles
                from; the run's test split by default.
            puzzles: number of puzzles; by default as in the run.
            device: device to compute on.

        Returns:
            Mean, standard deviation, 95% interval and number of scores, by metric.

        Raises:
            ConfigError: there is nothing to score.
            DataError: the images do not exist, or are too few for a puzzle.
        """
        import torch

        from fragrecon.evaluation import setup as opening
        from fragrecon.evaluation.clustering.protocol import Score, evaluate
        from fragrecon.evaluation.clustering.scoring import methods_of
        from fragrecon.evaluation.pixels.reconstruction import Masking, reconstruction_of
        from fragrecon.evaluation.statistics import summary

        config, evaluation = saved.for_reading(self.config), self.config.evaluation
        count = evaluation.puzzles if puzzles is None else puzzles
        if count < 1:
            raise ConfigError(f"puzzles={count} leaves nothing to score; use at least 1")
        opened = nullcontext(opening.open_data(config)) if data is None else opening.user_data(config, _own(data))
        with opened as source:
            try:
                source.check_test(count)
            except DataError as error:
                hint = f" (set in the config of {self.folder}; to score other images: run.evaluate(FOLDER))"
                raise DataError(f"{error}{hint if data is None else ''}") from None
            source.warn_if_lossy()
            model = self._model_on(device)
            methods: dict[str, Score | None] = {}
            if evaluation.clustering:
                methods["grouped"] = methods_of(model, opening.protocol_of(config), source.grid)["model"]
            if evaluation.reconstruction:
                masking = Masking(evaluation.reconstruction.ratio, evaluation.seed)
                methods["reconstructed"] = reconstruction_of(model, masking)
            known = {name: score for name, score in methods.items() if score is not None}
            if not known:
                raise ConfigError(
                    f"the config of {self.folder} sets neither evaluation.clustering nor evaluation.reconstruction; "
                    f"mode=evaluate {typed('run', self.folder)} scores the rest"
                )
            how: dict[str, Any] = {"batch_size": evaluation.batch_size, "device": torch.device(device)}
            found = evaluate(source.test_set(count), known, **how)
        return {metric: summary(values) for scores in found.values() for metric, values in scores.items()}

    def _model_on(self, device: str) -> FragmentModel:
        return self.model if device == "cpu" else copy.deepcopy(self.model).to(device)


def run_of(config: Config) -> Run:
    """Open the run that a mode reads.

    Args:
        config: job config.

    Returns:
        The run.

    Raises:
        ConfigError: ``run`` is not set.
        RunError: the folder is not a run folder, or is incomplete.
    """
    if not config.run:
        raise ConfigError(f"mode={config.mode} reads a run; set run=FOLDER")
    return load_run(config.run, checkpoint=config.checkpoint or "best")


def load_run(folder: str | Path, plugins: Sequence[str] = (), *, checkpoint: str = "best") -> Run:
    """Open a run folder, which may have been moved, or trained weights.

    Args:
        folder: run folder, or the folder of an export; ``~`` is the home folder. If there is no such folder, the name
            of installed weights; see `fragrecon.runs.weights`.
        plugins: packages whose classes the run may use, such as the package of its model: they are imported, so give
            only those that you trust. Not needed for packages with an entry point; see `fragrecon.config.plugins`.
        checkpoint: which weights the model has: ``best`` by the validation score, ``last``, or the name of a file in
            the run's ``checkpoints/``.

    Returns:
        The run. Its config and status are read now, all other files on first access.

    Raises:
        RunError: the folder is not a run folder, holds a link that leads out of it, or its status is damaged; no
            installed weights have this name.
        ConfigError: its config is damaged or does not belong to a run.
    """
    trust(plugins)
    path = Path(folder).expanduser().absolute()
    folder = path if path.is_dir() else installed_folder(str(folder)) or path
    check_folder(folder)
    files.check_links(folder)
    return open_run(folder, checkpoint)


def open_run(folder: Path, checkpoint: str = "best") -> Run:
    """Open a run folder whose links have been checked; otherwise, use `load_run`.

    Args:
        folder: run folder.
        checkpoint: as for `load_run`.

    Returns:
        The run.

    Raises:
        RunError: its status is missing or damaged.
        ConfigError: its config is damaged or does not belong to a run.
    """
    try:
        config = saved.load(folder / CONFIG)
    except ConfigError as error:
        raise ConfigError(
            f"{folder} cannot be opened as a run: its {CONFIG} is damaged or not of a run ({error})"
        ) from None
    return Run(folder, config, read_status(folder / STATUS), checkpoint)


def _age(best: Path) -> tuple[int, int]:
    """Sort key of best checkpoints: the epoch in the name, because a clock may be set back, and the time within it."""
    epoch = re.match(r"best-epoch=(\d+)-", best.name)
    return int(epoch[1]) if epoch else -1, best.stat().st_mtime_ns


def _own(data: Any) -> Pixels | list[Path]:
    """Convert user-supplied images to an argument of `fragrecon.evaluation.setup.user_data`."""
    from fragrecon.data.photographs import image_files

    if isinstance(data, (str, Path)):
        return image_files(str(data))
    if isinstance(data, Sequence) and data and all(isinstance(item, (str, Path)) for item in data):
        return image_files([str(item) for item in data])
    if hasattr(data, "__array__"):
        return np.asarray(data)
    raise ConfigError(f"data should be a folder, image files, or an array of images, not {type(data).__name__}")
