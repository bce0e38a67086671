"""Where figures go besides the record. One function a logger; each takes the run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fragrecon.errors import ConfigError

if TYPE_CHECKING:
    from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger


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

    return WandbLogger(
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
