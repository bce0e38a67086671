"""Parts of images that grow by merging: a minimum spanning forest whose parts never overlap themselves.

The forest of Gallagher ("Jigsaw Puzzles with Pieces of Unknown Orientation", CVPR 2012): pairs of sides are visited by
decreasing evidence, and a pair merges the parts that its two pieces belong to, unless they would overlap. Here, parts
are also kept apart if the log-odds of all sides that would meet do not speak for the merger in sum, as loops of four
pieces do in Son et al., ECCV 2014.

Shapes: n pieces. Positions are (row, column). Sides and directions are numbered as in `fragrecon.seams.SIDES`; a piece
of rotation r has side s in direction ``(s + r) % 4``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fragrecon.jigsaw.evidence import FLOOR, Floats, ranked
from fragrecon.jigsaw.pieces import Grid, Ints

STEPS = np.array([[0, 1], [1, 0], [0, -1], [-1, 0]])
"""Row and column steps to the right, below, left and above."""
TURNS = np.array([[[1, 0], [0, 1]], [[0, 1], [-1, 0]], [[-1, 0], [0, -1]], [[0, -1], [1, 0]]])
"""Matrices that rotate a position (a row vector) counterclockwise by 0 to 3 quarter turns."""
EMPTY = -1
"""Value of an empty cell."""


@dataclass
class Part:
    """Pieces whose places relative to each other are fixed.

    Attributes:
        members: the pieces.
        grid: piece at each cell; the outermost rows and columns are empty.
        corner: position of the first cell of the grid.
    """

    members: Ints
    grid: Ints
    corner: Ints

    def at(self, places: Ints) -> Ints:
        """Return the pieces (...) at positions (..., 2)."""
        rows, columns = self.grid.shape
        row = np.minimum(np.maximum(places[..., 0] - self.corner[0], 0), rows - 1)
        column = np.minimum(np.maximum(places[..., 1] - self.corner[1], 0), columns - 1)
        pieces: Ints = self.grid[row, column]
        return pieces


class Forest:
    """Parts of images, at first one piece each or as given.

    Args:
        table: log-odds, a table of ways (4 or 16, n, n).
        part_of: number (n,) of the part of each piece.
        places: position (n, 2) of each piece in its part.
        rotations: rotations (n,) of the pieces in their parts.

    Attributes:
        table: the log-odds.
        places: position (n, 2) of each piece in its part.
        rotations: counterclockwise quarter turns (n,) by which the pieces are rotated in their part, to be undone.
        parts: parts by number.
        part_of: number (n,) of the part of each piece.
    """

    def __init__(
        self, table: Floats, part_of: Ints | None = None, places: Ints | None = None, rotations: Ints | None = None
    ) -> None:
        self.table, count = table, table.shape[1]
        self.part_of = np.arange(count) if part_of is None else part_of.copy()
        self.places = np.zeros((count, 2), np.int64) if places is None else places.copy()
        self.rotations = np.zeros(count, np.int64) if rotations is None else rotations.copy()
        # By parts and relative place: the parts' sizes when they were compared, and the evidence for a merger.
        self._tried: dict[tuple[int, int, int, int, int], tuple[tuple[int, int], float]] = {}
        order = np.argsort(self.part_of, kind="stable")
        numbers, starts = np.unique(self.part_of[order], return_index=True)
        groups = np.split(order, starts[1:])
        self.parts = {int(number): self._part(members) for number, members in zip(numbers, groups, strict=True)}

    def _part(self, members: Ints) -> Part:
        places = self.places[members]
        corner, end = places.min(0) - 1, places.max(0) + 2
        grid = np.full(end - corner, EMPTY)
        inside = places - corner
        grid[inside[:, 0], inside[:, 1]] = members
        return Part(members, grid, corner)

    def grow(self, pairs: Ints, least: float, limit: Grid | None = None) -> Ints:
        """Merge parts by pairs of sides, in order.

        Args:
            pairs: sides (m, 2) as ``s * n + a`` for side s of piece a.
            least: minimum sum of the log-odds of all sides that meet by a merger.
            limit: maximum number of rows and columns of a part, or of columns and rows if it may be rotated.

        Returns:
            The pairs that may still merge parts if ``least`` is lowered.
        """
        count, left = len(self.part_of), []
        pieces = pairs % count
        possible = np.flatnonzero(self.part_of[pieces[:, 0]] != self.part_of[pieces[:, 1]])
        for number, (one, other) in zip(possible.tolist(), pairs[possible].tolist(), strict=True):
            s, a, t, b = one // count, one % count, other // count, other % count
            first, second = int(self.part_of[a]), int(self.part_of[b])
            if first == second:
                continue
            if len(self.parts[first].members) < len(self.parts[second].members):
                s, a, t, b, first, second = t, b, s, a, second, first
            direction = int(s + self.rotations[a]) % 4
            quarters = int(self.rotations[b] - (direction + 2 - t)) % 4  # rotates the second part counterclockwise
            origin = self.places[a] + STEPS[direction] - turned(self.places[b], quarters)
            key = first, second, quarters, int(origin[0]), int(origin[1])
            sizes, evidence = self._tried.get(key, ((0, 0), 0.0))
            members = self.parts[second].members
            if evidence > -np.inf and sizes != (now := (len(self.parts[first].members), len(members))):
                evidence = self._evidence(first, members, origin, quarters, limit)
                self._tried[key] = now, evidence
            if evidence == -np.inf:
                continue
            if evidence >= least:
                places = origin + turned(self.places[members], quarters)
                self._merge(first, second, places, self.rotations[members] - quarters)
            else:
                left.append(number)
        return pairs[left]

    def _evidence(self, first: int, members: Ints, origin: Ints, quarters: int, limit: Grid | None) -> float:
        """Return the sum of the log-odds of all sides that meet by a merger; minus infinity if it is not possible."""
        part, places = self.parts[first], origin + turned(self.places[members], quarters)
        if (part.at(places) != EMPTY).any() or not self._fits(first, places, limit):
            return -np.inf
        others = part.at(places + STEPS[:, None])  # (4, m)
        directions, which = np.nonzero(others != EMPTY)
        beside = others[directions, which]
        s = (directions - self.rotations[members[which]] + quarters) % 4
        t = (directions + 2 - self.rotations[beside]) % 4
        return float(look_up(self.table, s, members[which], t, beside).sum())

    def _fits(self, number: int, places: Ints, limit: Grid | None) -> bool:
        """Return whether a part does not exceed a limit if it has pieces at further places."""
        if limit is None:
            return True
        own = self.places[self.parts[number].members]
        size = np.maximum(own.max(0), places.max(0)) - np.minimum(own.min(0), places.min(0)) + 1
        fits = (size <= limit).all() or (len(self.table) == 16 and (size[::-1] <= limit).all())
        return bool(fits)

    def _merge(self, first: int, second: int, places: Ints, rotations: Ints) -> None:
        part, members = self.parts[first], self.parts.pop(second).members
        least, most = places.min(0) - 1, places.max(0) + 2
        corner = np.minimum(part.corner, least)
        end = np.maximum(part.corner + part.grid.shape, most)
        if (corner < part.corner).any() or (end > part.corner + part.grid.shape).any():
            spare = (end - corner) // 4  # so that a part that grows is not copied each time
            corner, end = corner - spare, end + spare
            grid = np.full(end - corner, EMPTY)
            down, across = part.corner - corner
            grid[down : down + part.grid.shape[0], across : across + part.grid.shape[1]] = part.grid
            part.grid, part.corner = grid, corner
        inside = places - part.corner
        part.grid[inside[:, 0], inside[:, 1]] = members
        part.members = np.concatenate([part.members, members])
        self.places[members], self.rotations[members], self.part_of[members] = places, rotations % 4, first


def look_up(table: Floats, s: Ints, a: Ints, t: Ints, b: Ints) -> Floats:
    """Return the log-odds (...) that side s of piece a meets side t of piece b."""
    found: Floats = table[s if len(table) == 4 else 4 * s + t, a, b]
    return found


def turned(places: Ints, quarters: int) -> Ints:
    """Rotate positions (..., 2) counterclockwise about (0, 0).

    Args:
        places: positions.
        quarters: number of quarter turns.

    Returns:
        The positions.

    Example:
        >>> turned(np.array([0, 1]), 1).tolist()  # from the right to above
        [-1, 0]
    """
    found: Ints = places @ TURNS[quarters % 4]
    return found


def likely_pairs(table: Floats, count: int) -> Ints:
    """List pairs of sides by decreasing evidence.

    The evidence of a pair is how much its log-odds exceed those of the best other partner of each side, in sum.

    Args:
        table: log-odds, a table of ways (4 or 16, n, n).
        count: number of the likeliest partners of each side that are considered.

    Returns:
        Sides (m, 2) as ``s * n + a`` for side s of piece a.
    """
    n = table.shape[1]
    if n == 1:
        return np.empty((0, 2), np.int64)
    partners, scores = ranked(table, max(2, count))
    sides = np.broadcast_to(np.arange(4 * n).reshape(4, n, 1), partners.shape)
    pairs = np.stack([sides, partners], -1)[..., :count, :].reshape(-1, 2)
    values = scores[..., :count].ravel()
    pairs = np.sort(pairs, 1)
    _, unique = np.unique(pairs[:, 0] * 4 * n + pairs[:, 1], return_index=True)
    pairs, values = pairs[unique], values[unique]
    best = np.pad(scores.reshape(4 * n, -1), ((0, 0), (0, 1)), constant_values=FLOOR)  # so that there is a second best
    gains = sum(
        values - np.where(values >= best[side, 0], best[side, 1], best[side, 0]) for side in (pairs[:, 0], pairs[:, 1])
    )
    order: npt.NDArray[np.int64] = np.argsort(-gains, kind="stable")
    return pairs[order]
