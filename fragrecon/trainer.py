"""Training as a Python call, for notebooks and scripts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from torch import nn

from fragrecon import jobs
from fragrecon.config.schema import model_name
from fragrecon.data.readers.datasets import ImageDataset, give
from fragrecon.models.base import FragmentModel
from fragrecon.run import compose
from fragrecon.runs.write import Record


class FragmentAutoencoderTrainer:
    """Trains and scores a model like the command line.

    Args:
        model_type: conv, linear, pca or supervised; any name in ``conf/model``. Or a class of your own: a
            `FragmentModel`, or any module that maps (M, C, h, w) to (M, D), which becomes an encoder.
        data_path: image folder; by default ImageNet-64, with ``train_data/`` and ``dev_data/``.
        images_per_batch: number of images per puzzle.
        batch_size: number of puzzles per batch.
        epochs: maximum number of epochs.
        latent_dim: dimensions of the embedding; by default those of the model.
        early_stopping_patience: number of validations without improvement before training stops.
        folder: run folder; by default a new one in ``outputs/``.
        data: format of the images; any name in ``conf/data``, such as folder. Or the training images: an array
            (N, H, W) or (N, H, W, C) of uint8, a ``Dataset`` as in torchvision, or a data set of Hugging Face; see
            `fragrecon.data.readers.datasets.ImageDataset`. They have the size of the first image, unless
            ``data.image_size`` is set.
        test_data: test images, if ``data`` holds images; by default, about a tenth of ``data`` is held out.
        overrides: further settings, as on the command line: ``["optimizer.lr=3e-4"]``.
    """

    def __init__(
        self,
        model_type: str | type[nn.Module] = "conv",
        data_path: str | Path = "data",
        images_per_batch: int = 10,
        batch_size: int = 8,
        epochs: int = 100,
        latent_dim: int | None = None,
        early_stopping_patience: int = 15,
        folder: str | Path | None = None,
        data: str | ImageDataset = "imagenet64",
        overrides: Sequence[str] = (),
        test_data: ImageDataset | None = None,
    ) -> None:
        self.overrides = [
            *([f"data={data}", f"data.root='{data_path}'"] if isinstance(data, str) else _given(data, test_data)),
            *_model(model_type),
            f"data.images_per_puzzle={images_per_batch}",
            f"data.puzzles_per_batch={batch_size}",
            f"data.epochs={epochs}",
            *([] if latent_dim is None else [f"model.latent_dim={latent_dim}"]),
            f"selection.patience={early_stopping_patience}",
            *overrides,
        ]
        self.config = compose(self.overrides)
        now, name = datetime.now(), model_name(self.config.model)
        self.folder = Path(folder or f"outputs/{now:%Y-%m-%d}/{now:%H-%M-%S-%f}-train-{name}").absolute()

    def train(self) -> dict[str, Any] | None:
        """Train the model and score its best checkpoint.

        Returns:
            The run's metrics; its record is in ``folder``.
        """
        record = Record(self.folder)
        record.check_unused()
        return jobs.run(self.config, record, self.overrides)


def _model(model: str | type[nn.Module]) -> list[str]:
    """Return the overrides that select a model."""
    if isinstance(model, str):
        return [f"model={model}"]
    name = f"{model.__module__}.{model.__qualname__}"
    if issubclass(model, FragmentModel):
        return ["model=conv", f"model._target_={name}"]  # its objective, reconstruction
    return ["model=encoder", f"model.network._target_={name}"]


def _given(data: ImageDataset, test: ImageDataset | None) -> list[str]:
    """Return the overrides that select a data set in memory."""
    reader = give(data, test)
    channels, height, width = reader.shape
    name = f"{type(reader).__module__}.{type(reader).__qualname__}"
    return [
        "data=dataset",
        "data.name=given",
        f"data.reader._target_={name}",
        "~data.reader.dataset",
        f"+data.reader.key={reader.key}",
        f"data.image_size=[{height},{width}]",
        f"data.channels={channels}",
    ]
