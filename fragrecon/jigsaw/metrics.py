"""Scores of assembled puzzles, under the names of the field.

If the orientation of pieces is unknown, an assembled image may be rotated as a whole, and is scored in the orientation
that suits it best.

A piece's look is its content, as `fragrecon.jigsaw.pieces.looks` numbers it. With these numbers, pieces that are equal
pixel by pixel may be exchanged without loss; with the numbers of `distinct`, they may not.

Shapes: n pieces, in N true images.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fragrecon.jigsaw.forest import EMPTY, STEPS, turned
from fragrecon.jigsaw.pieces import Arrangement, Ints

Bools = npt.NDArray[np.bool_]
SIDES = len(STEPS)


def score(found: Arrangement, truth: Arrangement, rotations: bool, looks: Ints | None = None) -> dict[str, float]:
    """Compute all scores of an assembled puzzle.

    Args:
        found: places of the pieces.
        truth: true places of the pieces.
        rotations: whether the orientation of pieces was unknown.
        looks: numbers (n, 4) of the contents of the pieces after counterclockwise quarter turns; by default, no two
            contents are equal.

    Returns:
        The scores of `comparison` and `enhanced`, and the numbers ``images_found`` and ``images``.
    """
    looks = distinct(len(truth.images)) if looks is None else looks
    scores = comparison(found, truth, rotations, looks) | enhanced(found, truth, rotations, looks)
    return scores | {"images_found": float(len(np.unique(found.images))), "images": float(len(truth.grids))}


def distinct(count: int) -> Ints:
    """Return looks (n, 4) of pieces of which no two are equal."""
    return np.arange(SIDES * count).reshape(count, SIDES)


def comparison(found: Arrangement, truth: Arrangement, rotations: bool, looks: Ints) -> dict[str, float]:
    """Compare pieces, pairs and images with the truth (Cho et al., CVPR 2010; Gallagher, CVPR 2012).

    Assembled images are matched to true ones one to one, so that most pieces are at the right cell.

    Args:
        found: places of the pieces.
        truth: true places of the pieces.
        rotations: whether each assembled image may be rotated.
        looks: numbers (n, 4) of the contents.

    Returns:
        ``direct``, the share of pieces at the right cell of the right image; ``neighbours``, the share of true pairs of
        adjacent pieces that are adjacent in the same way; ``perfect``, the share of images without an error; and
        ``largest_component``, the share of an image's pieces in its largest component of pieces that are joined as in
        the truth, as a mean over images. The latter never takes pieces for equal.
    """
    images, assembled = len(truth.grids), max(len(truth.grids), len(found.grids))
    right, complete = np.zeros((assembled, images)), np.zeros((assembled, images), bool)
    for number in range(len(found.grids)):
        for way in _ways(found, number, rotations):
            for image in range(images):
                count = _right(way, truth, number, image, looks).sum()
                if count > right[number, image]:
                    right[number, image] = count
                    complete[number, image] = count == (truth.images == image).sum() == (found.images == number).sum()
    matched = linear_sum_assignment(right, maximize=True)
    true, held = sides(truth, rotations, looks), sides(found, rotations, looks)
    inner = true[:, 2] != EMPTY
    return {
        "direct": float(right[matched].sum()) / len(truth.images),
        "neighbours": common(true[inner], held) / max(1, int(inner.sum())),
        "perfect": float(complete[matched].sum()) / images,
        "largest_component": _largest_component(found, truth, rotations),
    }


def enhanced(found: Arrangement, truth: Arrangement, rotations: bool, looks: Ints) -> dict[str, float]:
    """Score each true image against the assembled image that suits it best (Hammoudeh and Pollett, 2017).

    For an image of n pieces, and an assembled one that holds m pieces of other images, the shiftable enhanced direct
    accuracy score (SEDAS) is the number of pieces at the right cell, divided by n + m. Cells are counted from any cell
    that is as close to the upper left corner as the nearest piece, or closer (Manhattan distance). The enhanced
    neighbour accuracy score (ENAS) is the number of sides that have the right neighbour, or rightly none, divided by
    4 (n + m).

    Args:
        found: places of the pieces.
        truth: true places of the pieces.
        rotations: whether each assembled image may be rotated.
        looks: numbers (n, 4) of the contents.

    Returns:
        ``sedas`` and ``enas``, means over the true images.
    """
    images = len(truth.grids)
    direct, adjacent = np.zeros(images), np.zeros(images)
    true, held = (sides(one, rotations, looks).reshape(SIDES, -1, 3) for one in (truth, found))
    for number in range(len(found.grids)):
        ways = _ways(found, number, rotations)
        for image in range(images):
            inside, own = found.images == number, truth.images == image
            size = int(own.sum() + (inside & ~own).sum())
            same = common(true[:, own].reshape(-1, 3), held[:, inside & own].reshape(-1, 3))
            adjacent[image] = max(adjacent[image], same / (SIDES * size))
            for way in ways:
                for down, across in _corners(way, number):
                    shifted = replace(way, rows=way.rows - down, columns=way.columns - across)
                    direct[image] = max(direct[image], _right(shifted, truth, number, image, looks).sum() / size)
    return {"sedas": float(direct.mean()), "enas": float(adjacent.mean())}


def neighbours(found: Arrangement) -> Ints:
    """Return the piece (4, n) next to each upright piece in the order of `fragrecon.seams.SIDES`; -1 where is none."""
    height, width = (max(grid[axis] for grid in found.grids) + 2 for axis in (0, 1))
    cells = np.full((len(found.grids), height, width), EMPTY)
    cells[found.images, found.rows + 1, found.columns + 1] = np.arange(len(found.images))
    beside: Ints = cells[found.images, found.rows + 1 + STEPS[:, :1], found.columns + 1 + STEPS[:, 1:]]
    return beside


def sides(found: Arrangement, rotations: bool, looks: Ints) -> Ints:
    """Describe every side of the assembled pieces by what it shows.

    Args:
        found: places of the pieces.
        rotations: whether the whole may be rotated, so that all sides are described as if they were on the right.
        looks: numbers (n, 4) of the contents.

    Returns:
        A row (4 n, 3) per side of each piece: the side (0 with ``rotations``), the look of the piece, and that of its
        neighbour, -1 if it has none. Sides are in the order of `fragrecon.seams.SIDES`, each of all pieces.
    """
    beside = neighbours(found)
    side = np.broadcast_to(np.arange(SIDES)[:, None], beside.shape)
    quarters = side if rotations else np.zeros_like(side)
    own = looks[np.arange(len(looks)), (quarters - found.rotations) % 4]
    others = np.where(beside == EMPTY, EMPTY, looks[beside, (quarters - found.rotations[beside]) % 4])
    rows: Ints = np.stack([side - quarters, own, others], -1).reshape(-1, 3)
    return rows


def common(one: Ints, other: Ints) -> int:
    """Count the rows (m, k) that two arrays have in common; a row that occurs twice in both counts twice.

    Args:
        one: rows.
        other: rows of the same length.

    Returns:
        The number of common rows.

    Example:
        >>> common(np.array([[1, 2], [1, 2], [3, 4]]), np.array([[1, 2], [1, 2], [1, 2]]))
        2
    """
    rows, which = np.unique(np.concatenate([one, other]), axis=0, return_inverse=True)
    counts = [np.bincount(part, minlength=len(rows)) for part in np.split(which.ravel(), [len(one)])]
    return int(np.minimum(*counts).sum())


def _largest_component(found: Arrangement, truth: Arrangement, rotations: bool) -> float:
    count = len(truth.images)
    looks = distinct(count)
    true, held = (sides(one, rotations, looks) for one in (truth, found))
    kept = {tuple(row) for row in held.tolist()}
    links = [(row[1] // SIDES, row[2] // SIDES) for row in true.tolist() if row[2] != EMPTY and tuple(row) in kept]
    ends = np.array(links, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(ends.shape[1]), (ends[0], ends[1])), shape=(count, count))
    labels = connected_components(graph, directed=False)[1]
    owned = [labels[truth.images == image] for image in range(len(truth.grids))]
    return float(np.mean([np.bincount(own).max() / len(own) for own in owned]))


def _ways(found: Arrangement, number: int, rotations: bool) -> list[Arrangement]:
    """Return the places of the pieces with an assembled image rotated by all quarter turns that are allowed."""
    ways = []
    for quarters in range(SIDES if rotations else 1):
        corners = turned(np.array([[0, 0], np.array(found.grids[number]) - 1]), quarters)
        places = turned(np.stack([found.rows, found.columns], 1), quarters) - corners.min(0)
        turns = (found.rotations - quarters) % 4
        ways.append(replace(found, rows=places[:, 0], columns=places[:, 1], rotations=turns))
    return ways


def _right(found: Arrangement, truth: Arrangement, number: int, image: int, looks: Ints) -> Bools:
    """Return which pieces (n,) of an assembled image are at the right cell of a true image, and upright."""
    rows, columns = truth.grids[image]
    own = truth.images == image
    wanted = np.full((rows, columns), EMPTY)
    wanted[truth.rows[own], truth.columns[own]] = looks[own, -truth.rotations[own] % 4]
    right = (found.images == number) & (found.rows >= 0) & (found.rows < rows)
    right &= (found.columns >= 0) & (found.columns < columns)
    shown = looks[right, -found.rotations[right] % 4]
    match: Bools = right.copy()
    match[right] = wanted[found.rows[right], found.columns[right]] == shown
    return match


def _corners(found: Arrangement, number: int) -> list[tuple[int, int]]:
    """Return the cells from which SEDAS counts, in an assembled image."""
    own = found.images == number
    distance = int((found.rows[own] + found.columns[own]).min()) if own.any() else 0
    return [(row, column) for row in range(distance + 1) for column in range(distance + 1 - row)]
