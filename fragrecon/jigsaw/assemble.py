"""Assemble the pieces of one or several images.

Shapes: n pieces. Positions are (row, column).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fragrecon.jigsaw.evidence import Floats, partners
from fragrecon.jigsaw.fill import Canvas, Filling
from fragrecon.jigsaw.forest import EMPTY, Forest, likely_pairs, turned
from fragrecon.jigsaw.pieces import Arrangement, Grid, Ints

CANDIDATES = 5
"""Number of likeliest partners of each side by which parts of images are merged."""
STAGES = (0.9, 0.6, 2.0, 1.5, 1.0, 0.8, 0.6, 0.4, 0.2, 0.0)
"""Minimum evidence for a merger in each pass over the pairs, in units of one pair of sides without doubt."""
ROUNDS, PATIENCE = 40, 12
"""Maximum number of rounds of the search, and of those in a row without success."""
LARGE, LEAST_PATIENCE = 1000, 3
"""With more pieces, patience decreases in proportion to their number, down to this many rounds."""
SURE = 0.9
"""The search ends if all pieces have a higher probability."""
SMALLEST, SHARE = 9, 0.15
"""A part is the start of an image if it has this many pieces, and this share of the largest part's."""
KEPT = 0.8
"""Share of a part's pieces that a grid has to hold, to be the size of its image."""


def assemble(
    table: Floats,
    grids: Sequence[Grid] | None = None,
    images: int | None = None,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> tuple[Arrangement, Floats]:
    """Place the pieces so that the log-odds of all sides that meet have a large sum.

    Parts of images grow as in `fragrecon.jigsaw.forest`, the largest become images, and single pieces fill these
    (`fragrecon.jigsaw.fill`). Then, in rounds, what joins pieces weakly is undone, and the same is tried again with the
    pairs in a slightly different order; the better result is kept (large neighbourhood search).

    Args:
        table: log-odds, a table of ways (4 or 16, n, n).
        grids: rows and columns of each image, if known.
        images: number of images, if known; implied by ``grids``.
        rounds: maximum number of rounds of the search.
        seed: seed of the search.

    Returns:
        Places of the pieces, and the probability (n,) of each piece among all, given its neighbours. Without ``grids``,
        images of unknown orientation lie as their first piece did.
    """
    generator = np.random.default_rng(seed)
    unit, pairs = float(np.log(partners(table))), likely_pairs(table, CANDIDATES)
    forest = _grown(Forest(table), pairs, unit, grids)
    best = _completed(forest, grids, images)
    patience = min(PATIENCE, max(LEAST_PATIENCE, PATIENCE * LARGE // table.shape[1]))
    total, failures, sure = best.total(), 0, bool((best.confidences() > SURE).all())
    for _ in range(rounds):
        if sure or failures == patience:
            break
        order = np.argsort(np.arange(len(pairs)) * generator.uniform(0.7, 1.3, len(pairs)))
        forest = _grown(_loosened(best, unit, generator), pairs[order], unit, grids, generator.uniform(-2.0, 0.5))
        other = _completed(forest, grids, images)
        now = other.total()
        failures = 0 if now > total + 1e-3 else failures + 1
        if not failures:
            best, total, sure = other, now, bool((other.confidences() > SURE).all())
    return _arrangement(best, grids), best.confidences()


def count_images(sizes: Sequence[int]) -> int:
    """Estimate the number of images from the numbers of pieces of all parts.

    Args:
        sizes: numbers of pieces.

    Returns:
        The number of parts that are large enough to be the start of an image, at least 1.

    Example:
        >>> count_images([400, 350, 12, 1, 1])
        2
    """
    least = max(SMALLEST, SHARE * max(sizes))
    return max(1, sum(size >= least for size in sizes))


def _grown(forest: Forest, pairs: Ints, unit: float, grids: Sequence[Grid] | None, last: float = 0.0) -> Forest:
    """Merge parts in passes that ask for less and less evidence."""
    limit = (max(rows for rows, _ in grids), max(columns for _, columns in grids)) if grids else None
    for stage in (*STAGES, last):
        pairs = forest.grow(pairs, stage * unit, limit)
    return forest


def _completed(forest: Forest, grids: Sequence[Grid] | None, images: int | None) -> Filling:
    """Trim the largest parts to images, and place all other pieces in them."""
    sizes = [len(part.members) for part in forest.parts.values()]
    wanted = len(grids) if grids else images or count_images(sizes)
    seeds = sorted(forest.parts, key=lambda number: -len(forest.parts[number].members))[:wanted]
    rotations = np.zeros(len(forest.part_of), np.int64)
    count, left = len(forest.part_of), list(grids or [])
    canvases = []
    for number in seeds:
        if grids:
            options = [_trimmed(forest, number, grid) for grid in left]
            chosen = max(range(len(left)), key=lambda at: (len(options[at][0]), -left[at][0] * left[at][1]))
            grid, (members, places, turns) = left.pop(chosen), options[chosen]
        else:
            grid, (members, places, turns) = _unknown(forest, number, count if images == 1 else None)
        rotations[members] = (forest.rotations[members] - turns) % 4
        canvases.append(_canvas(members, places, grid))
    filling = Filling(forest.table, canvases, rotations)
    filling.fill()
    while len(filling.pool) and not grids:
        filling.extend()
        filling.fill()
    filling.exchange()
    if not grids and images is None:
        filling.canvases = [part for canvas in filling.canvases for part in _split(filling, canvas)]
    if not grids:
        _tighten(filling)
    return filling


def _tighten(filling: Filling) -> None:
    """Take pieces off rows and columns at the border that are nearly empty, and place them where they fit best."""
    for canvas in filling.canvases:
        first, last = _densest(np.where(canvas.grid == EMPTY, -1, 1))
        rows, columns = (last - first).tolist()
        inside = np.full_like(canvas.grid, EMPTY)
        window = slice(first[0], last[0]), slice(first[1], last[1])
        inside[window] = canvas.grid[window]
        filling.pool = np.append(filling.pool, canvas.grid[canvas.grid != inside])
        canvas.grid, canvas.limit = inside, (rows, columns)
    filling.fill()
    while len(filling.pool):
        filling.extend()
        filling.fill()


def _split(filling: Filling, canvas: Canvas) -> list[Canvas]:
    """Split an image along lines between large parts if the log-odds of the pieces across it speak for that, in sum."""
    most = canvas.box()[1]
    a, b, odds = filling.meeting(canvas)
    places = np.zeros((filling.table.shape[1], 2), np.int64)
    at = np.argwhere(canvas.grid != EMPTY)
    places[canvas.grid[tuple(at.T)]] = at
    for axis in (0, 1):
        across = places[a, axis] != places[b, axis]
        lines = np.maximum(places[a, axis], places[b, axis])[across]
        sums = np.bincount(lines, odds[across], most[axis] + 1)
        before = np.bincount(at[:, axis], minlength=most[axis] + 1).cumsum()[:-1]  # pieces before each line
        sums[1:][np.minimum(before, len(at) - before) < max(SMALLEST, SHARE * len(at))] = 0.0
        if sums.min() < 0:
            line = int(sums.argmin())
            parts = []
            for own in (places[:, axis] < line, places[:, axis] >= line):
                grid = np.where((canvas.grid != EMPTY) & own[canvas.grid], canvas.grid, EMPTY)
                part = Canvas(grid, canvas.limit)
                part.limit = part.size()
                parts += _split(filling, part)
            return parts
    return [canvas]


def _trimmed(forest: Forest, number: int, grid: Grid) -> tuple[Ints, Ints, int]:
    """Find the window of a grid's size, upright or rotated, that holds most pieces of a part.

    Returns:
        The pieces in the window, their positions from (0, 0), and the quarter turns that were applied.
    """
    members, best = forest.parts[number].members, None
    for quarters in range(1 if len(forest.table) == 4 or grid[0] == grid[1] else 2):
        places = turned(forest.places[members], quarters)
        places = places - places.min(0)
        held = np.zeros(places.max(0) + 1, np.int64)
        held[tuple(places.T)] = 1
        first = _window_of(held, grid)
        inside = ((places >= first) & (places < first + grid)).all(1)
        if best is None or inside.sum() > len(best[0]):
            best = members[inside], places[inside] - places[inside].min(0), quarters
    assert best is not None
    return best


def _window_of(held: Ints, grid: Grid) -> Ints:
    """Return the position of the window of a grid's size with the highest sum of an array."""
    rows, columns = grid
    sums = np.pad(held, ((rows, rows), (columns, columns))).cumsum(0).cumsum(1)
    counts = sums[rows:, columns:] - sums[:-rows, columns:] - sums[rows:, :-columns] + sums[:-rows, :-columns]
    first: Ints = np.array(np.unravel_index(counts.argmax(), counts.shape)) - np.array([rows - 1, columns - 1])
    return first


def _unknown(forest: Forest, number: int, count: int | None) -> tuple[Grid, tuple[Ints, Ints, int]]:
    """Find the size of an image from a part of it, and trim the part to it.

    If the part's image has ``count`` pieces, sizes of so many cells are tried first. Otherwise the size is that of the
    window in which the number of pieces exceeds the number of empty cells most.

    Returns:
        The size, and the result of `_trimmed`.
    """
    members = forest.parts[number].members
    if count is not None:
        options = {
            (rows, count // rows): _trimmed(forest, number, (rows, count // rows))
            for rows in range(1, count + 1)
            if count % rows == 0
        }
        grid = max(options, key=lambda one: len(options[one][0]))
        if len(options[grid][0]) >= KEPT * len(members):
            return grid, options[grid]
    places = forest.places[members] - forest.places[members].min(0)
    held = np.full(places.max(0) + 1, -1)
    held[tuple(places.T)] = 1
    first, last = _densest(held)
    inside = ((places >= first) & (places < last)).all(1)
    places = places[inside] - places[inside].min(0)
    rows, columns = (places.max(0) + 1).tolist()
    return (rows, columns), (members[inside], places, 0)


def _densest(values: Ints) -> tuple[Ints, Ints]:
    """Return the first position of the window of highest sum, and the position after its last."""
    best, window = -np.inf, (0, 0, 0, 0)
    for top in range(len(values)):
        sums = np.cumsum(np.pad(values[top:].cumsum(0), ((0, 0), (1, 0))), 1)  # (height, columns + 1)
        lowest = np.minimum.accumulate(sums, 1)
        gains = sums[:, 1:] - lowest[:, :-1]
        height, right = np.unravel_index(gains.argmax(), gains.shape)
        if gains[height, right] > best:
            left = int(sums[height, : right + 1].argmin())
            best, window = float(gains[height, right]), (top, left, top + int(height) + 1, int(right) + 1)
    return np.array(window[:2]), np.array(window[2:])


def _canvas(members: Ints, places: Ints, grid: Grid) -> Canvas:
    """Return a canvas of some pieces at positions from (0, 0), on which they may grow to a grid's size."""
    spare = np.array(grid) - places.max(0) - 1
    cells = np.full(np.array(grid) + spare + 2, EMPTY)
    cells[tuple((places + spare + 1).T)] = members
    return Canvas(cells, grid)


def _loosened(filling: Filling, unit: float, generator: np.random.Generator) -> Forest:
    """Return a forest whose parts are connected by pairs of high log-odds; thresholds are drawn at random.

    Pieces whose mean log-odds are low and, sometimes, all pieces near a cell become parts of their own, and so do the
    pieces of small parts.
    """
    table, count = filling.table, filling.table.shape[1]
    least, mean = unit * generator.uniform(0.0, 0.7), unit * generator.uniform(0.0, 0.6)
    smallest = np.exp(generator.uniform(0.0, np.log(40.0)))
    places, links, odds = np.zeros((count, 2), np.int64), [], []
    for canvas in filling.canvases:
        at = np.argwhere(canvas.grid != EMPTY)
        pieces = canvas.grid[tuple(at.T)]
        places[pieces] = at
        a, b, found = filling.meeting(canvas)
        links.append(np.stack([a, b]))
        odds.append(found)
    ends, values = np.concatenate(links, 1), np.concatenate(odds)
    number = np.bincount(ends.ravel(), minlength=count)
    firm = np.bincount(ends.ravel(), np.tile(values, 2), count) > mean * np.maximum(number, 1)
    if generator.uniform() < 0.5:
        centre = places[generator.integers(count)]
        firm &= abs(places - centre).sum(1) > generator.integers(1, 8)
    ends = ends[:, (values > least) & firm[ends].all(0)]
    graph = coo_array((np.ones(ends.shape[1]), (ends[0], ends[1])), shape=(count, count))
    labels = connected_components(graph, directed=False)[1].astype(np.int64)
    small = np.bincount(labels)[labels] < smallest
    labels[small] = labels.max() + 1 + np.arange(small.sum())
    return Forest(table, labels, places, filling.rotations)


def _arrangement(filling: Filling, grids: Sequence[Grid] | None) -> Arrangement:
    """Return the places of the pieces, with the images in the order of ``grids`` or by decreasing size."""
    count = filling.table.shape[1]
    images, places = np.zeros(count, np.int64), np.zeros((count, 2), np.int64)
    left = list(filling.canvases)
    if not grids:
        left.sort(key=lambda canvas: -math.prod(canvas.size()))
        grids = [canvas.size() for canvas in left]
        for canvas, grid in zip(left, grids, strict=True):
            canvas.limit = grid
    for image, grid in enumerate(grids):
        which = next((at for at, canvas in enumerate(left) if canvas.limit == grid), None)
        if which is not None:  # else no piece is left for this image
            cells = left.pop(which).grid
            at = np.argwhere(cells != EMPTY)
            pieces = cells[tuple(at.T)]
            images[pieces], places[pieces] = image, at - at.min(0)
    return Arrangement(images, places[:, 0], places[:, 1], filling.rotations % 4, tuple(grids))
