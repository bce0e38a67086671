"""Loggers: Weights & Biases, TensorBoard, MLflow, with pictures and embeddings; what callbacks log, for metrics.csv."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import yaml
from filelock import FileLock
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from fragrecon import files
from fragrecon.config.schema import model_name
from fragrecon.config.types import Whole
from fragrecon.errors import ConfigError
from fragrecon.report.figures.monitoring import LabelledEmbeddings
from fragrecon.runs.write import MLFLOW_ID, WANDB_ID

log = logging.getLogger(__name__)

PICTURES = "pictures/"
"""Prefix of the names of pictures; dashboards group by it."""

PATIENCE = 6
"""Seconds to wait for the server of Weights & Biases before the run continues offline."""

LAST_UPLOAD = 120
"""Maximum seconds for the upload at the end of a run; ``wandb sync`` uploads the rest."""


class Csv(Logger):
    """Keeps what callbacks log for ``metrics.csv``, which has a row per epoch whatever the loggers are.

    `fragrecon.training.callbacks.EpochRows` writes it. Of a value that is logged several times in an epoch, such as the
    learning rate of each step, the row has the last.

    Args:
        folder: folder of the run.

    Attributes:
        latest: last value of each name.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.latest: dict[str, float] = {}

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.folder)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.latest.update(metrics)

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """Do nothing: ``config.yaml`` has the settings."""


class Wandb(WandbLogger):
    """Weights & Biases, which continues offline if its server does not answer or no user is logged in.

    All jobs of a sweep write to the folder of the sweep, so that ``wandb leet`` shows them together. The id of a run is
    random and saved in its folder, so that a run that is moved and resumed stays one run.

    Args:
        folder: folder of the run.
        config: config of the run.
        sweep: folder and name of the sweep that the run belongs to, if any.
        project: name of the project.
        offline: whether to log offline, without an account; ``wandb sync`` can upload the run later.
        name: name of the run; by default the name of its folder.
        group: group of the run; by default the name of the sweep.
        tags: tags of the run.
        pictures_every_n_epochs: how often pictures are shown; 0 shows none.
    """

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        sweep: tuple[Path, str] | None = None,
        project: str = "fragrecon",
        offline: bool = False,
        name: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        pictures_every_n_epochs: Whole = 1,
    ) -> None:
        import wandb as client

        # The client's error reports delay the end of the process by 20 seconds if the server does not answer.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        place, sweep_name = sweep or (folder, None)
        super().__init__(
            id=run_id(folder),
            resume="allow",
            name=name or folder.name,
            save_dir=place,
            project=project,
            group=group or sweep_name,
            job_type=model_name(config["model"]),
            tags=list(tags),
            config=config,
            mode="offline" if offline else None,  # Lightning's own switch would apply to all later jobs of the process
            settings=client.Settings(init_timeout=PATIENCE, finish_timeout=LAST_UPLOAD, quiet=True),
        )
        self._wandb_init.pop("anonymous", None)  # Lightning sets it, and the client warns about it
        self.pictures_every_n_epochs = pictures_every_n_epochs

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run, started at its first use."""
        if self._experiment is None:
            self._start()
        return super().experiment

    def _start(self) -> None:
        import wandb as client

        before = set(self._folders())
        try:
            super().experiment  # noqa: B018 - Lightning starts the run here
        except (client.Error, ValueError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            if self._wandb_init.get("mode") == "offline":
                raise ConfigError(f"logger=wandb: {reason}") from error
            client.teardown()  # the service still holds the run that failed to start
            for left in set(self._folders()) - before:
                shutil.rmtree(left)
            self._wandb_init["mode"] = "offline"
            self._start()
            log.warning(
                "Weights & Biases: %s. The run continues offline; upload it later with: wandb sync %s",
                reason,
                Path(self.experiment.dir).parent,
            )

    def _folders(self) -> list[Path]:
        """Folders of this run: one per start and per resume."""
        return list(Path(self.save_dir or ".").glob(f"wandb/*run-*-{self._id}"))

    @rank_zero_only
    def show(self, name: str, picture: Tensor, step: int) -> None:
        self.log_image(PICTURES + name, [picture.movedim(0, -1).numpy()], step)

    @rank_zero_only
    def show_embeddings(self, embedded: LabelledEmbeddings, step: int) -> None:
        import wandb as client

        columns = ["fragment", *embedded.facts, *(f"d{number}" for number in range(embedded.embeddings.shape[1]))]
        thumbnails = [client.Image(thumbnail.movedim(0, -1).numpy()) for thumbnail in embedded.thumbnails]
        rows = zip(thumbnails, *embedded.facts.values(), embedded.embeddings.tolist(), strict=True)
        with _staging(Path(self.save_dir or ".") / "wandb" / "staging"):
            self.log_table("embeddings", columns, [[*row, *numbers] for *row, numbers in rows], step=step)


def run_id(folder: Path) -> str:
    """Return the id of a run at Weights & Biases: the one kept in its folder, or else a new one, which is kept.

    In a run that the agent of a W&B sweep started, the new id is the one that the agent gives it.
    """
    path = folder / WANDB_ID
    if path.is_file():
        return path.read_text().strip()
    given = os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None
    identifier = given or secrets.token_hex(6)
    if getattr(rank_zero_only, "rank", 0) == 0:
        files.write_text(path, identifier + "\n")
    return identifier


@contextmanager
def _staging(folder: Path) -> Iterator[None]:
    """Set W&B's staging folder, unless the user has set one; its default is in the home directory."""
    given = "WANDB_DATA_DIR" in os.environ
    os.environ.setdefault("WANDB_DATA_DIR", str(folder.absolute()))
    try:
        yield
    finally:
        if not given:
            del os.environ["WANDB_DATA_DIR"]


class TensorBoard(TensorBoardLogger):
    """TensorBoard event files, under ``tensorboard/`` in the folder of the run.

    Args:
        folder: folder of the run.
        config: config of the run, shown as text.
        pictures_every_n_epochs: how often pictures are shown; 0 shows none.
    """

    def __init__(self, folder: Path, config: dict[str, Any], pictures_every_n_epochs: Whole = 1) -> None:
        try:
            super().__init__(folder, name="tensorboard", version="", default_hp_metric=False)
        except ModuleNotFoundError:
            raise ConfigError('logger=tensorboard needs the extra: pip install "fragrecon[tensorboard]"') from None
        self.config, self.pictures_every_n_epochs = config, pictures_every_n_epochs

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer, created at its first use; it writes the config first."""
        is_new = self._experiment is None
        writer = super().experiment
        if is_new:
            text = yaml.safe_dump(self.config, sort_keys=False)
            writer.add_text("config", "".join(f"    {line}\n" for line in text.splitlines()))
        return writer

    @rank_zero_only
    def show(self, name: str, picture: Tensor, step: int) -> None:
        self.experiment.add_image(PICTURES + name, picture, step)

    @rank_zero_only
    def show_embeddings(self, embedded: LabelledEmbeddings, step: int) -> None:
        self.experiment.add_embedding(
            embedded.embeddings,
            metadata=list(zip(*embedded.facts.values(), strict=True)),
            label_img=embedded.thumbnails / 255,
            global_step=step,
            tag="embeddings",
            metadata_header=list(embedded.facts),
        )


class Mlflow(MLFlowLogger):
    """MLflow, by default in files, which need no server.

    All jobs of a sweep write to the store in the folder of the sweep. The id of a run in MLflow is saved in its folder;
    a resumed run continues it, unless the store does not have it. Parameters are those that the run started with.

    Args:
        folder: folder of the run.
        config: config of the run.
        sweep: folder and name of the sweep that the run belongs to, if any.
        tracking_uri: address of the store; by default that in the environment variable ``MLFLOW_TRACKING_URI``, or else
            the folder ``mlruns`` of the sweep or the run.
        experiment_name: name of the experiment; by default that of the sweep, or ``fragrecon``.
        name: name of the run; by default the name of its folder.
        tags: tags of the run.
        pictures_every_n_epochs: how often pictures are shown; 0 shows none.

    Raises:
        ConfigError: MLflow is not installed, or refuses a setting.
    """

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        sweep: tuple[Path, str] | None = None,
        tracking_uri: str | None = None,
        experiment_name: str | None = None,
        name: str | None = None,
        tags: Mapping[str, str] | None = None,
        pictures_every_n_epochs: Whole = 1,
    ) -> None:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow prefers databases
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        place, sweep_name = sweep or (folder, "fragrecon")
        self.folder, self.config, self.pictures_every_n_epochs = folder, config, pictures_every_n_epochs
        self._own_store = (place / "mlruns").absolute().as_uri()
        self._lock = FileLock(place / ".mlflow.lock")
        kept = folder / MLFLOW_ID
        with self._asking():
            super().__init__(
                experiment_name or sweep_name,
                name or folder.name,
                tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or self._own_store,
                {"model": model_name(config["model"]), **(tags or {})},
                run_id=kept.read_text().strip() if kept.is_file() else None,
            )

    @property
    def save_dir(self) -> str:
        return str(self.folder)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The client; the run starts at its first use."""
        if not self._initialized:
            with self._asking():
                self._start()
        return self._mlflow_client

    def _start(self) -> None:
        from mlflow.exceptions import MlflowException

        client, name = self._mlflow_client, self._experiment_name
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            experiment = client.get_experiment(client.create_experiment(name))
        elif self._tracking_uri == self._own_store and not experiment.artifact_location.startswith(self._own_store):
            raise ConfigError(
                f"logger=mlflow: {self._own_store} has been moved, and its files name their old place, "
                f"{experiment.artifact_location}; set logger.mlflow.tracking_uri, or another logger"
            )
        kept = None
        with suppress(MlflowException):  # the store does not have it
            kept = client.get_run(self._run_id) if self._run_id else None
        # Lightning's own start would set the store of all later runs of the process.
        run = kept or client.create_run(experiment.experiment_id, tags=self.tags, run_name=self._run_name)
        self._experiment_id, self._run_id, self._initialized = run.info.experiment_id, run.info.run_id, True
        if kept:
            client.update_run(self._run_id, "RUNNING")
        else:
            files.write_text(self.folder / MLFLOW_ID, f"{self._run_id}\n")
            self.log_hyperparams(self.config)
        client.log_dict(self._run_id, self.config, "config.yaml")

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Hold the lock of the store, and raise what MLflow raises as `ConfigError`."""
        try:
            from mlflow.exceptions import MlflowException
        except ModuleNotFoundError:
            raise ConfigError('logger=mlflow needs the extra: pip install "fragrecon[mlflow]"') from None
        try:
            with self._lock:
                yield
        except MlflowException as error:
            raise ConfigError(f"logger=mlflow: {' '.join(str(error).split())}") from error

    @rank_zero_only
    def show(self, name: str, picture: Tensor, step: int) -> None:
        self.experiment.log_image(self._run_id, picture.movedim(0, -1).numpy(), key=PICTURES + name, step=step)

    def show_embeddings(self, embedded: LabelledEmbeddings, step: int) -> None:
        """Do nothing: MLflow has no projector."""


@contextmanager
def ending(loggers: Sequence[Logger]) -> Iterator[None]:
    """Start loggers, and close them at the end of the block; if the block fails, they are closed as failed."""
    succeeded = False
    try:
        for logger in loggers:
            getattr(logger, "experiment", None)  # starts the logger, so that a failure from here on is logged
        yield
        succeeded = True
    finally:
        for logger in loggers:
            logger.finalize("success" if succeeded else "failed")
            if isinstance(logger, Wandb) and logger._experiment is not None:
                logger._experiment.finish(exit_code=0 if succeeded else 1)  # the next job of a sweep starts its own


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Raise SystemExit on SIGTERM within the block, so that loggers are closed. In training, Lightning handles it."""

    def stop(number: int, _: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
