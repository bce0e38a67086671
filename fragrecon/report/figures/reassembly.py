"""Draw a reassembled puzzle: shuffled, grouped, rebuilt.

Shapes: one puzzle of F fragments (C, h, w) uint8, of k images.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fragrecon.data.corruption import turn
from fragrecon.data.puzzles import FragmentBatch, join
from fragrecon.evaluation.clustering.reassembly import matches
from fragrecon.reassembly.rebuild import Placement
from fragrecon.report.figures.clustering import names_of
from fragrecon.report.figures.plotting import colours
from fragrecon.report.figures.tiles import PAPER, WRONG, enlarge, frame_cell, framed, labelled, sheet, square

LEAST = 192
"""Minimum height of a rebuilt image, in pixels."""


def shuffled_sheet(fragments: Tensor) -> Tensor:
    """Lay out the fragments (F, C, h, w) in a square."""
    return sheet(list(fragments), square(len(fragments)), _gap(*fragments.shape[-2:]))


def groups_sheet(fragments: Tensor, placement: Placement, k: int) -> Tensor:
    """Lay out the fragments (F, C, h, w) in a square, framed in the colour of their image."""
    hues, gap, images = colours(k), _gap(*fragments.shape[-2:]), placement.images[0].tolist()
    tiles = [framed(fragment, hues[image], gap) for fragment, image in zip(fragments, images, strict=True)]
    return sheet(tiles, square(len(tiles)), gap)


def rebuilt_images(fragments: Tensor, placement: Placement, k: int, grid: tuple[int, int]) -> Tensor:
    """Return the rebuilt images (k, C, H, W): the fragments (F, C, h, w) upright at their predicted cells."""
    cells = grid[0] * grid[1]
    images = torch.full((k * cells, *fragments.shape[1:]), PAPER, dtype=torch.uint8)
    images[placement.images[0] * cells + placement.cells[0]] = turn(fragments, -placement.rotations[0])
    return join(images.view(k, cells, *fragments.shape[1:]), grid)


def rebuilt_sheet(images: Tensor, placement: Placement, truth: FragmentBatch | None, grid: tuple[int, int]) -> Tensor:
    """Lay out the rebuilt images (k, C, H, W) with labels, each after its original if the truth is known.

    Images lower than `LEAST` are enlarged.
    """
    times = max(1, -(-LEAST // images.shape[-2]))
    shown = (
        [labelled(enlarge(image, times), str(number)) for number, image in enumerate(images)]
        if truth is None
        else _beside_originals(truth, placement, images, grid, times)
    )
    columns = max(1, round(math.sqrt(len(shown) / 2))) * (1 if truth is None else 2)
    height, width = images.shape[-2] * times, images.shape[-1] * times
    return sheet(shown, columns, _gap(height // grid[0], width // grid[1]))


def _beside_originals(
    truth: FragmentBatch, placement: Placement, images: Tensor, grid: tuple[int, int], times: int
) -> list[Tensor]:
    """Return each original, followed by its rebuilt image with frames around misplaced fragments."""
    known = Placement(truth.source_ids, truth.positions, truth.rotations)
    originals = rebuilt_images(truth.fragments[0], known, truth.images_per_puzzle, grid)
    source_of = matches(placement, truth)[0]
    image, cell = placement.images[0], placement.cells[0]
    right = (source_of[image] == truth.source_ids[0]) & (cell == truth.positions[0])
    right &= placement.rotations[0] == truth.rotations[0]
    thickness = max(2, times * min(truth.fragment_size) // 16)
    shown, names = [], names_of(len(originals))
    for source, (original, number) in enumerate(zip(originals, source_of.argsort().tolist(), strict=False)):
        marked = images[number] if number < len(images) else torch.full_like(original, PAPER)
        marked = enlarge(marked.expand(3, -1, -1), times)
        for at in cell[(image == number) & ~right].tolist():
            marked = frame_cell(marked, at, grid, WRONG, thickness)
        of = int((truth.source_ids[0] == source).sum())
        told = f"{names[source]} rebuilt: {int((right & (image == number)).sum())} of {of} in place"
        shown += [labelled(enlarge(original, times), names[source]), labelled(marked, told)]
    return shown


def _gap(height: int, width: int) -> int:
    """Return the space between tiles in pixels, proportional to the fragment size."""
    return max(1, min(height, width) // 10)
