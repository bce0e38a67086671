"""Training as a Python call, for notebooks and scripts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from fragrecon import jobs
from fragrecon.run import compose
from fragrecon.runs.write import Record


class FragmentAutoencoderTrainer:
    """Trains and scores a model like the command line.

    Args:
        model_type: conv, linear, pca or supervised; any name in ``conf/model``.
        data_path: image folder; by default ImageNet-64, with ``train_data/`` and ``dev_data/``.
        images_per_batch: number of images per puzzle.
        batch_size: number of puzzles per batch.
        epochs: maximum number of epochs.
        latent_dim: dimensions of the embedding.
        early_stopping_patience: number of validations without improvement before training stops.
        folder: run folder; by default a new one in ``outputs/``.
        data: format of the images; any name in ``conf/data``, such as folder.
        overrides: further settings, as on the command line: ``["optimizer.lr=3e-4"]``.
    """

    def __init__(
        self,
        model_type: str = "conv",
        data_path: str | Path = "data",
        images_per_batch: int = 10,
        batch_size: int = 8,
        epochs: int = 100,
        latent_dim: int = 128,
        early_stopping_patience: int = 15,
        folder: str | Path | None = None,
        data: str = "imagenet64",
        overrides: Sequence[str] = (),
    ) -> None:
        self.overrides = [
            f"data={data}",
            f"model={model_type}",
            f"data.root='{data_path}'",
            f"data.images_per_puzzle={images_per_batch}",
            f"data.puzzles_per_batch={batch_size}",
            f"data.epochs={epochs}",
            f"model.latent_dim={latent_dim}",
            f"selection.patience={early_stopping_patience}",
            *overrides,
        ]
        self.config = compose(self.overrides)
        now = datetime.now()
        self.folder = Path(folder or f"outputs/{now:%Y-%m-%d}/{now:%H-%M-%S-%f}-train-{model_type}").absolute()

    def train(self) -> dict[str, Any] | None:
        """Train the model and score its best checkpoint.

        Returns:
            The run's metrics; its record is in ``folder``.
        """
        record = Record(self.folder)
        record.check_unused()
        return jobs.run(self.config, record, self.overrides)
