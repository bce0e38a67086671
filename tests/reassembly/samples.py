"""Puzzles whose solution is known, and slow measures that know nothing of the code under test."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor

from fragrecon.data.puzzles import FragmentBatch, make_batch
from fragrecon.reassembly.clues import Clues
from tests import layouts

Grid = tuple[int, int]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shuffled(puzzles: int, images: int, grid: Grid, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The image and the cell (B, F) of fragments in random order."""
    n = grid[0] * grid[1]
    orders = torch.stack([torch.randperm(images * n, generator=seeded(1000 * seed + i)) for i in range(puzzles)])
    return orders // n, orders % n


def true_clues(sources: Tensor, positions: Tensor, grid: Grid, *, cells: float = 0.0, seams: float = 1.0) -> Clues:
    """Clues of a puzzle's truth: ``cells`` for the right cell, ``seams`` for a pair that abuts, and 0 for all else."""
    puzzles, fragments = sources.shape
    found = Clues(
        torch.zeros(puzzles, fragments, grid[0] * grid[1]),
        torch.zeros(puzzles, fragments, fragments),
        torch.zeros(puzzles, fragments, fragments),
    )
    for b in range(puzzles):
        places = {place: f for f, place in enumerate(zip(sources[b].tolist(), positions[b].tolist(), strict=True))}
        for (image, cell), f in places.items():
            found.cells[b, f, cell] = cells
            if cell % grid[1] + 1 < grid[1] and (image, cell + 1) in places:
                found.across[b, f, places[image, cell + 1]] = seams
            if (image, cell + grid[1]) in places:
                found.down[b, f, places[image, cell + grid[1]]] = seams
    return found


def random_clues(puzzles: int, fragments: int, grid: Grid, seed: int = 0, scale: float = 1.0) -> Clues:
    random = seeded(seed)
    cells = torch.randn(puzzles, fragments, grid[0] * grid[1], generator=random)
    pairs = torch.randn(2, puzzles, fragments, fragments, generator=random)
    return Clues(scale * cells, scale * pairs[0], scale * pairs[1])


def taken(clues: Clues, puzzles: slice | Tensor) -> Clues:
    return Clues(clues.cells[puzzles], clues.across[puzzles], clues.down[puzzles])


def reordered(clues: Clues, order: Tensor) -> Clues:
    """The clues of the same fragments, of which ``order[i]`` now comes at place i."""
    return Clues(clues.cells[:, order], clues.across[:, order][:, :, order], clues.down[:, order][:, :, order])


def slow_gain(clues: Clues, puzzle: int, held: Sequence[int], grid: Grid) -> float:
    """The sum of all gains of what lies where, in images one after another; what is no fragment gains nothing."""
    (rows, columns), fragments = grid, clues.cells.shape[1]
    cells, across, down = (table[puzzle].tolist() for table in (clues.cells, clues.across, clues.down))
    total = 0.0
    for place, fragment in enumerate(held):
        row, column = divmod(place % (rows * columns), columns)
        if fragment >= fragments:
            continue
        total += cells[fragment][place % (rows * columns)]
        if column + 1 < columns and held[place + 1] < fragments:
            total += across[fragment][held[place + 1]]
        if row + 1 < rows and held[place + columns] < fragments:
            total += down[fragment][held[place + columns]]
    return total


def puzzle_of(images: Tensor, fragment_size: tuple[int, int], seed: int = 0) -> FragmentBatch:
    """Puzzles of images (B, N, C, H, W) in random order, as float."""
    puzzles, count, _, height, width = images.shape
    cells = (height // fragment_size[0]) * (width // fragment_size[1])
    orders = torch.stack([torch.randperm(count * cells, generator=seeded(1000 * seed + i)) for i in range(puzzles)])
    ids = torch.arange(puzzles * count).view(puzzles, count)
    return make_batch(images, torch.full_like(ids, -1), ids, orders, fragment_size).as_float()


def smooth(puzzles: int, images: int, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    """Smooth synthetic images (B, N, C, H, W), uint8."""
    drawn = torch.from_numpy(layouts.pictures(puzzles * images, shape, seed))
    return drawn.view(puzzles, images, *shape)


@lru_cache(maxsize=4)
def photographs(height: int, width: int) -> Tensor:
    """The two photographs that come with scikit-learn, (1, 2, 3, H, W), uint8."""
    found = []
    for name in load_sample_images().filenames:
        with Image.open(name) as file:
            found.append(torch.from_numpy(np.array(file.convert("RGB").resize((width, height), Image.Resampling.BOX))))
    return torch.stack(found).movedim(-1, 1).unsqueeze(0)
