"""Open the data and the clustering protocol that a run is scored with.

Each part takes a `Scoring` and returns a `PartResult`.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from fragrecon.clustering.backends import BACKENDS
from fragrecon.config.build import build
from fragrecon.config.schema import Config, DataConfig, class_name
from fragrecon.data.module import FixedPuzzles, FragmentData
from fragrecon.data.puzzles import batches
from fragrecon.data.readers.images import ImageDecoder
from fragrecon.data.store import AnyWidthShape, Block, Reader, Source, Split
from fragrecon.errors import ConfigError, DataError
from fragrecon.evaluation.clustering.protocol import ClusteringProtocol, check_puzzle
from fragrecon.evaluation.statistics import Scores
from fragrecon.models.base import FragmentModel

if TYPE_CHECKING:
    from fragrecon.evaluation.examples import Example
    from fragrecon.evaluation.pixels.generation import Generated
    from fragrecon.evaluation.pixels.inpainting_examples import Inpainted
    from fragrecon.evaluation.probes.scoring import ProbeResults

READER_KEYS = (
    *("root", "image_size", "channels", "download", "image_height", "width_step", "on_bad_image", "max_pixels"),
)
"""Keys of the ``data`` section that are filled in as arguments of a reader."""

Images = npt.NDArray[Any] | Sequence[Path]


@dataclass(frozen=True)
class Scoring:
    """A model and the data to score it on.

    Attributes:
        config: job config.
        model: model in eval mode, on ``device``.
        checkpoint: file with its weights.
        data: data module whose test split is used.
        device: device to score on.
        probe_folders: folders in which the model's probes may already be saved; new ones are saved in the first.
    """

    config: Config
    model: FragmentModel
    checkpoint: Path
    data: FragmentData
    device: torch.device
    probe_folders: Sequence[Path]

    @property
    def name(self) -> str:
        """Name of the model in tables and figures."""
        return class_name(self.config)

    @property
    def cache(self) -> Path:
        """Cache folder for scores of baselines."""
        return self.data.cache / "scores"

    @cached_property
    def puzzles(self) -> FixedPuzzles:
        """The test puzzles."""
        return self.data.test_set(self.config.evaluation.puzzles)

    @property
    def settings(self) -> dict[str, Any]:
        """Batch size and device, as arguments of `evaluate` and the like."""
        return {"batch_size": self.config.evaluation.batch_size, "device": self.device}


@dataclass(frozen=True)
class PartResult:
    """Scores of one part of the evaluation, and the data its figures are drawn from.

    Attributes:
        scores: scores by method and metric; the scores of a metric are in the same order for all methods.
        dataset_wide: values by method and metric that are computed once per data set.
        protocol: settings that the scores depend on, for ``metrics.json``.
        examples: the first puzzles with the model's predictions.
        inpainted: masked images inpainted by the model.
        generated: images decoded by the model.
        probes: trained probes with their predictions.
    """

    scores: Mapping[str, Mapping[str, Scores]] = field(default_factory=dict)
    dataset_wide: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    examples: Sequence[Example] = ()
    inpainted: Inpainted | None = None
    generated: Generated | None = None
    probes: ProbeResults | None = None

    @classmethod
    def joined(cls, parts: Sequence[PartResult]) -> PartResult:
        """Join the results of several parts."""
        return cls(
            _joined(part.scores for part in parts),
            _joined(part.dataset_wide for part in parts),
            {key: value for part in parts for key, value in part.protocol.items()},
            next((part.examples for part in parts if part.examples), ()),
            next((part.inpainted for part in parts if part.inpainted), None),
            next((part.generated for part in parts if part.generated), None),
            next((part.probes for part in parts if part.probes), None),
        )


def _joined(found: Iterable[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Join values by method and metric."""
    whole: dict[str, dict[str, Any]] = {}
    for part in found:
        for method, values in part.items():
            whole[method] = whole.get(method, {}) | dict(values)
    return whole


def open_data(config: Config) -> FragmentData:
    """Open the data of a job, and check everything that needs no data.

    Args:
        config: job config.

    Returns:
        The data module.

    Raises:
        ConfigError: the reader, the image size or the protocol are incompatible.
    """
    facts = {name: getattr(config.data, name) for name in READER_KEYS}
    reader = build(config.data.reader, "data.reader", Reader, **facts)
    if config.data.variable_width and reader.shape[2] is not None:
        raise ConfigError(
            f"data={config.data.name} holds images of one size, {shape_text(reader.shape)}; data.image_height "
            "is for image files of any size: use data=folder, or data.image_height=null"
        )
    if reader.shape != _stored_shape(config):
        raise ConfigError(
            f"data={config.data.name} holds images of {shape_text(reader.shape)}; "
            f"data.image_size and data.channels ask for {shape_text(config.data.image_shape)}"
        )
    return _data(config, reader)


@contextmanager
def user_data(config: Config, images: Images) -> Iterator[FragmentData]:
    """Open user-supplied images as the test split of a job; the prepared data is deleted after the block.

    Args:
        config: run config.
        images: array (M, C, H, W) uint8 of the run's image size, or image files, which are resized to it; W may differ
            if the run has variable widths.

    Yields:
        The data module.

    Raises:
        DataError: the images have the wrong type or size.
    """
    shape = _stored_shape(config)
    if isinstance(images, np.ndarray):
        wanted = (*shape[:2], images.shape[-1]) if shape[2] is None else shape
        if images.dtype != np.uint8 or images.shape[1:] != wanted:
            named = ("M", *shape[:2], "any" if shape[2] is None else shape[2])
            raise DataError(
                f"images to score should be uint8 {named}, as the run's are, not {images.dtype} {images.shape}"
            )
    with tempfile.TemporaryDirectory(prefix="fragrecon-") as folder:
        own = dataclasses.replace(config.data, name="own", cache_dir=folder)
        yield _data(dataclasses.replace(config, data=own), _Images(images, shape, config.data))


def _stored_shape(config: Config) -> AnyWidthShape:
    channels, height, width = config.data.image_shape
    return channels, height, None if config.data.variable_width else width


def _data(config: Config, reader: Reader) -> FragmentData:
    evaluation = config.evaluation
    data = FragmentData(config.data, reader, config.seed, evaluation.seed, evaluation.validation_puzzles)
    if evaluation.clustering:
        check_puzzle(config.data.images_per_puzzle, data.cells)
    return data


class _Images:
    """Reader of user-supplied images, without labels and in the given order."""

    def __init__(self, images: Images, shape: AnyWidthShape, config: DataConfig) -> None:
        self.images, self.shape = images, shape
        self.decoder = ImageDecoder(shape, config.width_step, max_pixels=config.max_pixels)

    def source(self, split: Split) -> Source:
        return Source({"reader": "own images"}, len(self.images))

    def blocks(self, split: Split) -> Iterator[Block]:
        for part in batches(len(self.images), self.decoder.block_length):
            images = self.images[part]
            unlabelled = np.full(len(images), -1)
            if isinstance(images, np.ndarray):
                yield Block(images, unlabelled)
            else:
                named = [(str(path), path) for path in images]
                yield from self.decoder.blocks([(named, unlabelled)])


def protocol_of(config: Config) -> ClusteringProtocol:
    """Return the clustering protocol of a config."""
    evaluation = config.evaluation
    backend = BACKENDS[evaluation.backend]
    memory = evaluation.memory_mb * 2**20
    return ClusteringProtocol(backend, evaluation.restarts, evaluation.seed, memory, evaluation.estimate_count)


def shape_text(shape: AnyWidthShape) -> str:
    """Format a shape (C, H, W) for messages; W is None for any width."""
    channels, height, width = shape
    return f"{height}x{'any' if width is None else width} pixels, {channels} channel{'s' if channels > 1 else ''}"
