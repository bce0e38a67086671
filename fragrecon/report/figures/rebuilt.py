"""Pictures of a puzzle that was put together: shuffled, grouped, rebuilt.

Shapes: one puzzle of F fragments (C, h, w) uint8, of k images of a grid of cells.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fragrecon.data.puzzles import FragmentBatch, in_place, join
from fragrecon.evaluation.clustering.reassembly import matches
from fragrecon.reassembly.rebuild import Placement
from fragrecon.report.figures import pictures


def shuffled_sheet(shown: Tensor) -> Tensor:
    """The fragments (F, C, h, w), in a square."""
    return pictures.sheet(list(shown), _columns(shown), _gap(*shown.shape[-2:]))


def groups_sheet(shown: Tensor, placement: Placement, k: int) -> Tensor:
    """The same, each in a frame of its image's colour."""
    hues, line = pictures.colours(k), _gap(*shown.shape[-2:])
    framed = [
        pictures.framed(fragment, hues[int(image)], line)
        for fragment, image in zip(shown, placement.images[0], strict=True)
    ]
    return pictures.sheet(framed, _columns(shown), line)


def rebuilt_images(shown: Tensor, placement: Placement, k: int, grid: tuple[int, int]) -> Tensor:
    """Images (k, C, H, W) of the fragments (F, C, h, w) where they were placed."""
    cells = grid[0] * grid[1]
    held = torch.full((k * cells, *shown.shape[1:]), pictures.PAPER, dtype=torch.uint8)
    held[placement.images[0] * cells + placement.cells[0]] = shown
    return join(held.view(k, cells, *shown.shape[1:]), grid)


def beside_originals(
    truth: FragmentBatch, placement: Placement, rebuilt: Tensor, grid: tuple[int, int]
) -> list[Tensor]:
    """Each original of a batch of one puzzle, and what was rebuilt of it with wrong fragments framed, in turn."""
    height, width = truth.fragments.shape[-2:]
    n, (rows, columns) = truth.images_per_puzzle, grid
    originals = in_place(truth.fragments, truth, grid)
    of_original = matches(placement, truth)[0].argsort()
    wrong = torch.ones(n, rows * columns, dtype=torch.bool)
    image, cell = placement.images[0], placement.cells[0]
    right = (matches(placement, truth)[0][image] == truth.source_ids[0]) & (cell == truth.positions[0])
    wrong[image[right], cell[right]] = False
    line = max(1, min(height, width) // 16)
    shown = []
    for source in range(n):
        number = int(of_original[source])
        marked = rebuilt[number].expand(3, -1, -1).clone()
        for at in torch.nonzero(wrong[number]).flatten().tolist():
            top, left = at // columns * height, at % columns * width
            tile = marked[:, top : top + height, left : left + width]
            inner = tile[:, line:-line, line:-line].clone()
            tile.copy_(pictures.framed(inner, pictures.WRONG, line))
        shown += [originals[source].expand(3, -1, -1), marked]
    return shown


def rebuilt_sheet(images: Tensor, placement: Placement, truth: FragmentBatch | None, grid: tuple[int, int]) -> Tensor:
    """The rebuilt images (k, C, H, W); where the truth is known, each after its original as in `beside_originals`."""
    shown = list(images) if truth is None else beside_originals(truth, placement, images, grid)
    columns = max(1, round(math.sqrt(len(shown) / 2))) * (1 if truth is None else 2)
    height, width = images.shape[-2:]
    return pictures.sheet(shown, columns, _gap(height // grid[0], width // grid[1]))


def _gap(height: int, width: int) -> int:
    """Pixels between pictures, in proportion to fragments."""
    return max(1, min(height, width) // 10)


def _columns(shown: Tensor) -> int:
    return math.ceil(math.sqrt(len(shown)))
