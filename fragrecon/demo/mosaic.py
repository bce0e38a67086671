"""What the page of a model that puts puzzles together shows.

Shapes: one puzzle of F fragments (C, h, w) from N images; pictures (C, H, W) uint8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fragrecon.data.photographs import Photographs, check_count, cut_photographs
from fragrecon.data.puzzles import grid_of
from fragrecon.data.readers.images import Shape
from fragrecon.demo.drawing import enlarged
from fragrecon.evaluation.clustering.protocol import ClusteringProtocol
from fragrecon.evaluation.clustering.reassembly import agreement
from fragrecon.models.base import Solver
from fragrecon.reassembly.rebuild import Placement
from fragrecon.reassembly.solve import solve
from fragrecon.report.figures.reassembly import rebuilt_images, rebuilt_sheet, shuffled_sheet

SIDE = 1200
"""Width that sheets are enlarged to at least, in pixels."""


@dataclass(frozen=True)
class Table:
    """Photographs become puzzles, and these images again.

    Attributes:
        model: in eval mode.
        device: that the model is on.
        image_shape: (C, H, W) at which it sees a photograph.
        fragment_size: (h, w) at which it sees a fragment.
        protocol: for its seed, restarts and memory.
    """

    model: Solver
    device: torch.device
    image_shape: Shape
    fragment_size: tuple[int, int]
    protocol: ClusteringProtocol

    @property
    def grid(self) -> tuple[int, int]:
        return grid_of(self.image_shape[1:], self.fragment_size)

    def cut(self, paths: Sequence[Path], shuffle: int) -> Photographs:
        """Photographs as one puzzle, in the order of this shuffle.

        Raises:
            ConfigError: they are too many.
            DataError: a file is no image.
        """
        check_count(len(paths) * self.grid[0] * self.grid[1])
        return cut_photographs(paths, self.image_shape, self.fragment_size, shuffle)

    def solve(self, puzzle: Photographs) -> Rebuilt:
        fragments, protocol = puzzle.seen.fragments.to(self.device), self.protocol
        placement, k = solve(
            self.model,
            fragments,
            self.grid,
            seed=protocol.seed,
            restarts=protocol.restarts,
            memory=protocol.memory,
        )
        return Rebuilt(puzzle, placement, k, self.grid)


@dataclass(frozen=True)
class Rebuilt:
    """A puzzle that was put together.

    Attributes:
        puzzle: the photographs it was cut from.
        placement: where each fragment went.
        k: images that were made of it; as many as there are photographs.
        grid: rows and columns of fragments in an image.
    """

    puzzle: Photographs
    placement: Placement
    k: int
    grid: tuple[int, int]

    @property
    def fragments(self) -> int:
        return self.placement.cells.shape[1]

    @property
    def in_place(self) -> int:
        """How many fragments are at the right cell of the right image."""
        return round(float(self._agreement["direct"]) * self.fragments)

    @property
    def faultless(self) -> int:
        """How many images all of whose fragments are."""
        return round(float(self._agreement["perfect"]) * self.k)

    @property
    def _agreement(self) -> dict[str, Tensor]:
        return agreement(self.placement, self.puzzle.shown, self.grid)


def facts_of(rebuilt: Rebuilt) -> dict[str, str]:
    return {
        "in their place": f"{rebuilt.in_place} of {rebuilt.fragments} fragments",
        "without a fault": f"{rebuilt.faultless} of {rebuilt.k} images",
    }


def shuffled_picture(puzzle: Photographs) -> Tensor:
    """All fragments, as they are given to the model."""
    return enlarged(shuffled_sheet(puzzle.shown.fragments[0]), SIDE)


def rebuilt_picture(rebuilt: Rebuilt) -> Tensor:
    """Each image beside what was rebuilt of it, fragments that are wrong there framed."""
    shown = rebuilt.puzzle.shown
    images = rebuilt_images(shown.fragments[0], rebuilt.placement, rebuilt.k, rebuilt.grid)
    return enlarged(rebuilt_sheet(images, rebuilt.placement, shown, rebuilt.grid), SIDE)
