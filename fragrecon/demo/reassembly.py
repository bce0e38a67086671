"""Contents of the page of a reassembling model.

Shapes: one puzzle of F fragments (C, h, w) from N images; pictures (C, H, W) uint8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fragrecon.data.photographs import Photographs, check_count, cut_photographs
from fragrecon.data.puzzles import grid_of
from fragrecon.data.readers.images import Shape
from fragrecon.evaluation.clustering.protocol import ClusteringProtocol
from fragrecon.evaluation.clustering.reassembly import agreement
from fragrecon.models.base import Solver
from fragrecon.reassembly.rebuild import Placement
from fragrecon.reassembly.solve import solve
from fragrecon.report.figures.reassembly import rebuilt_images, rebuilt_sheet, shuffled_sheet
from fragrecon.report.figures.tiles import enlarge

SIDE = 1200
"""Minimum width of a sheet in pixels."""


@dataclass(frozen=True)
class Rebuilt:
    """A reassembled puzzle.

    Attributes:
        puzzle: photographs that the puzzle was cut from.
        placement: image and cell of each fragment.
        k: number of images.
        grid: rows and columns of fragments in an image.
    """

    puzzle: Photographs
    placement: Placement
    k: int
    grid: tuple[int, int]

    @property
    def facts(self) -> dict[str, str]:
        """The scores as text, by name."""
        scores = agreement(self.placement, self.puzzle.shown, self.grid)
        fragments = self.placement.cells.shape[1]
        return {
            "at the correct cell": f"{round(float(scores['direct']) * fragments)} of {fragments} fragments",
            "perfect": f"{round(float(scores['perfect']) * self.k)} of {self.k} images",
        }

    @property
    def picture(self) -> Tensor:
        """Each image followed by the rebuilt one, in which misplaced fragments are framed."""
        shown = self.puzzle.shown
        images = rebuilt_images(shown.fragments[0], self.placement, self.k, self.grid)
        return _wide(rebuilt_sheet(images, self.placement, shown, self.grid, labels=False))


@dataclass(frozen=True)
class Reassembler:
    """Cuts photographs into a puzzle, and reassembles it.

    Attributes:
        model: model in eval mode.
        device: device of the model.
        image_shape: shape (C, H, W) that photographs are resized to.
        fragment_size: size (h, w) of a fragment.
        protocol: clustering protocol, for its seed, restarts and memory.
    """

    model: Solver
    device: torch.device
    image_shape: Shape
    fragment_size: tuple[int, int]
    protocol: ClusteringProtocol

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of fragments in an image."""
        return grid_of(self.image_shape[1:], self.fragment_size)

    def cut(self, paths: Sequence[Path], shuffle: int) -> Photographs:
        """Cut photographs into one puzzle, shuffled with a seed.

        Raises:
            ConfigError: there are too many.
            DataError: a file is not an image.
        """
        check_count(len(paths) * self.grid[0] * self.grid[1])
        return cut_photographs(paths, self.image_shape, self.fragment_size, shuffle)

    def solve(self, puzzle: Photographs) -> Rebuilt:
        """Reassemble a puzzle."""
        protocol = self.protocol
        placement, k = solve(
            self.model,
            puzzle.seen.fragments.to(self.device),
            self.grid,
            seed=protocol.seed,
            restarts=protocol.restarts,
            memory=protocol.memory,
        )
        return Rebuilt(puzzle, placement, k, self.grid)


def shuffled_picture(puzzle: Photographs) -> Tensor:
    """Draw all fragments in the order of the model's input."""
    return _wide(shuffled_sheet(puzzle.shown.fragments[0]))


def _wide(sheet: Tensor) -> Tensor:
    return enlarge(sheet, math.ceil(SIDE / sheet.shape[-1]))
