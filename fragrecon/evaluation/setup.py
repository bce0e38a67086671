"""From a run's configuration to what it is scored with: its data, its protocol, and all that its model can do."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fragrecon.clustering.backends import load_backend
from fragrecon.config.build import build
from fragrecon.config.schema import Config
from fragrecon.data.module import FragmentData
from fragrecon.data.puzzles import FragmentBatch, batches
from fragrecon.data.readers.images import FreeShape, block_length, decode_blocks
from fragrecon.data.store import Block, Reader, Source, Split
from fragrecon.errors import ConfigError, DataError
from fragrecon.evaluation.clustering.pairs import score_pairs
from fragrecon.evaluation.clustering.protocol import ClusteringProtocol, Score, check_puzzle
from fragrecon.evaluation.clustering.reassembly import score_gradients, score_solution
from fragrecon.models.base import FragmentModel, PairScorer, Solver

Images = npt.NDArray[Any] | Sequence[Path]


def open_data(config: Config) -> FragmentData:
    """The data module of a job, with what the configuration alone can tell already checked."""
    known = ("root", "image_size", "channels", "download", "image_height", "width_step")
    facts = {name: getattr(config.data, name) for name in known}
    reader = build(config.data.reader, "data.reader", **facts)
    if config.data.free_width and reader.shape[2] is not None:
        raise ConfigError(
            f"data={config.data.name} holds images of one size, {shape_text(reader.shape)}; data.image_height leaves "
            "the width free where images are files of their own: data=folder"
        )
    if reader.shape != _stored_shape(config):
        raise ConfigError(
            f"data={config.data.name} holds images of {shape_text(reader.shape)}; "
            f"data.image_size and data.channels ask for {shape_text(config.data.image_shape)}"
        )
    return _data(config, reader)


@contextmanager
def own_data(config: Config, images: Images) -> Iterator[FragmentData]:
    """The data module of a job on images of one's own, all of them its test split; gone after the block.

    Args:
        config: of the run.
        images: (M, C, H, W) of the run's image size, or files, which are brought to it; W may be another where the
            run's widths are free.

    Raises:
        DataError: the images are of another type or size.
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
        yield _data(dataclasses.replace(config, data=own), _Images(images, shape, config.data.width_step))


def _stored_shape(config: Config) -> FreeShape:
    channels, height, width = config.data.image_shape
    return channels, height, None if config.data.free_width else width


def _data(config: Config, reader: Reader) -> FragmentData:
    evaluation = config.evaluation
    data = FragmentData(config.data, reader, config.seed, evaluation.seed, evaluation.validation_puzzles)
    if evaluation.clustering:
        check_puzzle(config.data.images_per_puzzle, data.cells)
    return data


class _Images:
    """Reader of images that are no data set: without labels, in the given order."""

    def __init__(self, images: Images, shape: FreeShape, width_step: int) -> None:
        self.images, self.shape, self.width_step = images, shape, width_step

    def source(self, split: Split) -> Source:
        return Source({"reader": "own images"}, len(self.images))

    def blocks(self, split: Split) -> Iterator[Block]:
        for part in batches(len(self.images), block_length(self.shape)):
            images = self.images[part]
            unlabelled = np.full(len(images), -1)
            if isinstance(images, np.ndarray):
                yield Block(images, unlabelled)
            else:
                named = [(str(path), path) for path in images]
                yield from decode_blocks([(named, unlabelled)], self.shape, self.width_step)


def protocol_of(config: Config) -> ClusteringProtocol:
    evaluation = config.evaluation
    backend = load_backend(evaluation.backend)
    return ClusteringProtocol(backend, evaluation.restarts, evaluation.seed, evaluation.memory_mb * 2**20)


def methods_of(model: FragmentModel, protocol: ClusteringProtocol, grid: tuple[int, int]) -> dict[str, Score]:
    """How the model scores a batch, by all that it can do; and what pixels alone do, if it puts puzzles together.

    It can only put images together that are cut as those it was trained on.
    """
    puts_together = isinstance(model, Solver) and model.grid == grid

    def score(batch: FragmentBatch) -> dict[str, torch.Tensor]:
        solution = model.solve(batch.fragments) if isinstance(model, Solver) else None
        embeddings = model.encode(batch.fragments) if solution is None else solution.embeddings
        scores = protocol.score_fully(embeddings, batch)
        if solution is not None:
            scores |= score_pairs(solution.pair_scores(), batch, grid, protocol)
            scores |= score_solution(solution, batch, grid, protocol) if puts_together else {}
        elif isinstance(model, PairScorer):
            scores |= score_pairs(model.pair_scores(batch.fragments), batch, grid, protocol)
        return scores

    methods: dict[str, Score] = {"model": score}
    if puts_together:
        methods["seam_gradients"] = lambda batch: score_gradients(batch, grid, protocol)
    return methods


def shape_text(shape: FreeShape) -> str:
    channels, height, width = shape
    return f"{height}x{'any' if width is None else width} pixels, {channels} channel{'s' if channels > 1 else ''}"
