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
    """Lay out the fragments (F, C, h, w) in a square, image by image, framed in the colour of their image."""
    hues, gap, images = colours(k), _gap(*fragments.shape[-2:]), placement.images[0]
    tiles = [framed(fragments[at], hues[images[at]], gap) for at in images.argsort(stable=True).tolist()]
    return sheet(tiles, square(len(tiles)), gap)


def rebuilt_images(fragments: Tensor, placement: Placement, k: int, grid: tuple[int, int]) -> Tensor:
    """Return the rebuilt images (k, C, H, W): the fragments (F, C, h, w) upright at their predicted cells."""
    cells = grid[0] * grid[1]
    images = torch.full((k * cells, *fragments.shape[1:]), PAPER, dtype=torch.uint8)
    images[placement.images[0] * cells + placement.cells[0]] = turn(fragments, -placement.rotations[0])
    return join(images.view(k, cells, *fragments.shape[1:]), grid)


def rebuilt_sheet(
    images: Tensor, placement: Placement, truth: FragmentBatch | None, grid: tuple[int, int], *, labels: bool
) -> Tensor:
    """Lay out the rebuilt images (k, C, H, W), each after its original if the truth is known.

    Args:
        images: rebuilt images.
        placement: image, cell and rotation of each fragment.
        truth: the true ones, if known.
        grid: rows and columns of fragments in an image.
        labels: whether each image has a label, and those lower than `LEAST` are enlarged.

    Returns:
        The picture.
    """
    height, width = images.shape[-2:]
    times = max(1, -(-LEAST // height)) if labels else 1
    shown = (
        {str(number): enlarge(image, times) for number, image in enumerate(images)}
        if truth is None
        else _beside_originals(truth, placement, images, grid, times)
    )
    columns = max(1, round(math.sqrt(len(shown) / 2))) * (1 if truth is None else 2)
    pictures = [labelled(picture, words) if labels else picture for words, picture in shown.items()]
    return sheet(pictures, columns, _gap(height * times // grid[0], width * times // grid[1]))


def _beside_originals(
    truth: FragmentBatch, placement: Placement, images: Tensor, grid: tuple[int, int], times: int
) -> dict[str, Tensor]:
    """Return each original, followed by its rebuilt image with frames around misplaced fragments, by label."""
    known = Placement(truth.source_ids, truth.positions, truth.rotations)
    originals = rebuilt_images(truth.fragments[0], known, truth.images_per_puzzle, grid)
    source_of = matches(placement, truth)[0]
    image, cell = placement.images[0], placement.cells[0]
    right = (source_of[image] == truth.source_ids[0]) & (cell == truth.positions[0])
    right &= placement.rotations[0] == truth.rotations[0]
    thickness = max(1, times * min(truth.fragment_size) // 16)
    shown, names = {}, names_of(len(originals))
    for source, (original, number) in enumerate(zip(originals, source_of.argsort().tolist(), strict=False)):
        marked = images[number] if number < len(images) else torch.full_like(original, PAPER)
        marked = enlarge(marked.expand(3, -1, -1), times)
        for at in cell[(image == number) & ~right].tolist():
            marked = frame_cell(marked, at, grid, WRONG, thickness)
        of = int((truth.source_ids[0] == source).sum())
        shown[names[source]] = enlarge(original.expand(3, -1, -1), times)
        shown[f"{names[source]} rebuilt: {int((right & (image == number)).sum())} of {of} in place"] = marked
    return shown


def _gap(height: int, width: int) -> int:
    """Return the space between tiles in pixels, proportional to the fragment size."""
    return max(1, min(height, width) // 10)
