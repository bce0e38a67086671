"""Where figures go besides the record. A function a logger, each taking the run's folder, and how all of them end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fragrecon import files
from fragrecon.errors import ConfigError

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger


def none() -> None:
    """No logger: ``metrics.csv`` is written by the record in any case."""


def wandb(
    folder: Path,
    config: dict[str, Any],
    project: str = "fragrecon",
    offline: bool = False,
    name: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
) -> WandbLogger:
    """Weights & Biases; with ``offline`` no account is needed and ``wandb sync`` can send the run later."""
    from lightning.pytorch.loggers import WandbLogger

    # The name of a run's folder is its own, so a run that is taken up again goes on in the same place.
    return WandbLogger(
        id=files.digest(str(folder.absolute()))[:12],
        resume="allow",
        name=name or folder.name,
        save_dir=folder,
        project=project,
        offline=offline,
        group=group,
        tags=list(tags),
        config=config,
    )


def tensorboard(folder: Path) -> TensorBoardLogger:
    """TensorBoard event files under ``tensorboard/`` in the run's folder."""
    from lightning.pytorch.loggers import TensorBoardLogger

    try:
        return TensorBoardLogger(folder, name="tensorboard", version="")
    except ModuleNotFoundError:
        raise ConfigError('logger=tensorboard needs the extra: pip install "fragrecon[tensorboard]"') from None


@contextmanager
def ending(loggers: Sequence[Logger]) -> Iterator[None]:
    """Close loggers at the end of the block, as failed if it fails.

    A Weights & Biases run that is left open would take in what the next job of a sweep logs.
    """
    succeeded = False
    try:
        yield
        succeeded = True
    finally:
        for logger in loggers:
            logger.finalize("success" if succeeded else "failed")
            if type(logger).__name__ == "WandbLogger":
                import wandb as client

                client.finish(exit_code=0 if succeeded else 1)
