"""Fill images with single pieces, and exchange single pieces between cells.

Shapes: n pieces. Positions are (row, column); sides and directions are numbered as in `fragrecon.seams.SIDES`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from fragrecon.jigsaw.evidence import Floats
from fragrecon.jigsaw.forest import EMPTY, STEPS, look_up
from fragrecon.jigsaw.pieces import Grid, Ints


@dataclass
class Canvas:
    """An image in progress.

    Attributes:
        grid: piece at each cell; the outermost rows and columns are always empty.
        limit: maximum number of rows and columns from the first to the last piece.
    """

    grid: Ints
    limit: Grid

    def box(self) -> tuple[Ints, Ints]:
        """Return the first position of a piece, and the position after the last."""
        filled = np.argwhere(self.grid != EMPTY)
        return filled.min(0), filled.max(0) + 1

    def size(self) -> Grid:
        """Return the number of rows and columns from the first to the last piece."""
        least, most = self.box()
        rows, columns = (most - least).tolist()
        return rows, columns


class Filling:
    """Images in progress, and the pieces that are not placed yet.

    Args:
        table: log-odds, a table of ways (4 or 16, n, n).
        canvases: the images; they are changed.
        rotations: rotation (n,) of each piece; it is changed.

    Attributes:
        pool: pieces that are on no canvas.
    """

    def __init__(self, table: Floats, canvases: list[Canvas], rotations: Ints) -> None:
        self.table, self.canvases, self.rotations = table, canvases, rotations
        placed = np.zeros(table.shape[1], bool)
        for canvas in canvases:
            placed[canvas.grid[canvas.grid != EMPTY]] = True
        self.pool = np.flatnonzero(~placed)
        self.quarters = 1 if len(table) == 4 else 4

    def scores(self, canvas: Canvas, cells: Ints, pieces: Ints) -> Floats:
        """Sum the log-odds of pieces at cells with all their neighbours.

        Args:
            canvas: the image.
            cells: cells (m, 2).
            pieces: candidates (k,).

        Returns:
            Scores (m, quarters, k) by rotation of the candidate; without unknown orientation, there is one.
        """
        found = np.zeros((len(cells), self.quarters, len(pieces)), np.float32)
        for direction, step in enumerate(STEPS):
            beside = canvas.grid[tuple((cells + step).T)]
            there = np.flatnonzero(beside != EMPTY)
            side = (direction + 2 - self.rotations[beside[there]]) % 4
            for quarter in range(self.quarters):
                way = side if self.quarters == 1 else 4 * side + (direction - quarter) % 4
                found[there, quarter] += self.table[way, beside[there]][:, pieces]
        return found

    def fill(self) -> None:
        """Place one piece after another: at a cell with most neighbours, where a piece has the highest score."""
        pool, free = self.pool, np.ones(len(self.pool), bool)
        best: dict[tuple[int, int, int], tuple[int, float, int, Floats]] = {}  # neighbours, score, choice, all scores

        def consider(number: int, cells: Ints) -> None:
            canvas, box = self.canvases[number], boxes[number]
            inside = [_is_inside(canvas, box, (row, column)) for row, column in cells.tolist()]
            cells = cells[np.array(inside, bool) & (canvas.grid[tuple(cells.T)] == EMPTY)]
            counts = (canvas.grid[tuple((cells + STEPS[:, None]).transpose(2, 0, 1))] != EMPTY).sum(0).tolist()
            for cell, count, scores in zip(cells.tolist(), counts, self.scores(canvas, cells, pool), strict=True):
                best[number, cell[0], cell[1]] = count, *_best(scores, free), scores

        boxes = [_ends(canvas) for canvas in self.canvases]
        for number, canvas in enumerate(self.canvases if len(pool) else []):
            consider(number, _frontier(canvas.grid))
        while best and free.any():
            number, row, column = max(best, key=lambda key: best[key][:2])
            quarter, chosen = divmod(best.pop((number, row, column))[2], len(pool))
            canvas, piece, before = self.canvases[number], pool[chosen], boxes[number]
            canvas.grid[row, column], self.rotations[piece], free[chosen] = piece, quarter, False
            for key, (count, _, other, scores) in best.items() if free.any() else ():
                if other % len(pool) == chosen:
                    best[key] = count, *_best(scores, free), scores
            top, left, bottom, right = before
            boxes[number] = min(top, row), min(left, column), max(bottom, row + 1), max(right, column + 1)
            if boxes[number] != before:
                for key in [key for key in best if key[0] == number and not _is_inside(canvas, boxes[number], key[1:])]:
                    del best[key]
            if free.any():
                consider(number, np.array([row, column]) + STEPS)
        self.pool = pool[free]

    def extend(self) -> None:
        """Allow one more row or column to the image where the best remaining pieces fit best, on average."""
        best: tuple[float, int, int, bool] | None = None
        for number, canvas in enumerate(self.canvases):
            canvas.grid = np.pad(canvas.grid, 1, constant_values=EMPTY)
            least, most = canvas.box()
            for axis in (0, 1):
                for after, line in ((False, least[axis] - 1), (True, most[axis])):
                    cells = np.empty((int(most[1 - axis] - least[1 - axis]), 2), np.int64)
                    cells[:, axis], cells[:, 1 - axis] = line, np.arange(least[1 - axis], most[1 - axis])
                    fit = float(self.scores(canvas, cells, self.pool).max((1, 2)).mean())
                    if best is None or fit > best[0]:
                        best = fit, number, axis, after
        assert best is not None
        _, number, axis, after = best
        canvas = self.canvases[number]
        (top, left), (bottom, right) = canvas.box()
        spare = [(1, 1), (1, 1)]
        spare[axis] = (1, 2) if after else (2, 1)
        canvas.grid = np.pad(canvas.grid[top:bottom, left:right], spare, constant_values=EMPTY)
        rows, columns = canvas.size()
        canvas.limit = (rows + 1, columns) if axis == 0 else (rows, columns + 1)

    def exchange(self, rounds: int = 10) -> None:
        """Reassign all pieces on the cells of one colour of a chessboard, and those left over, to the best cells.

        No two cells of one colour are neighbours, so this is a linear assignment problem, and the total score never
        decreases.

        Args:
            rounds: maximum number of assignments for each colour; fewer if none increases the score.
        """
        total, waiting = self.total(), 0
        for number in range(2 * rounds):
            self._assign(number % 2)
            now = self.total()
            waiting, total = (waiting + 1 if now <= total + 1e-3 else 0), now
            if waiting == 2:
                break

    def _assign(self, colour: int) -> None:
        cells = [_window(canvas, colour) for canvas in self.canvases]
        held = np.concatenate([canvas.grid[tuple(own.T)] for canvas, own in zip(self.canvases, cells, strict=True)])
        pieces = np.concatenate([held[held != EMPTY], self.pool])
        if not len(pieces):
            return
        each = [self.scores(canvas, own, pieces) for canvas, own in zip(self.canvases, cells, strict=True)]
        scores = np.concatenate(each)
        chosen, which = linear_sum_assignment(scores.max(1), maximize=True)
        after = np.full(len(held), EMPTY)
        after[chosen] = pieces[which]
        self.rotations[pieces[which]] = scores[chosen, :, which].argmax(1)
        self.pool = np.delete(pieces, which)
        for canvas, own in zip(self.canvases, cells, strict=True):
            canvas.grid[tuple(own.T)], after = after[: len(own)], after[len(own) :]

    def total(self) -> float:
        """Return the sum of the log-odds of all sides that meet."""
        return sum(float(self.meeting(canvas)[2].sum()) for canvas in self.canvases)

    def meeting(self, canvas: Canvas) -> tuple[Ints, Ints, Floats]:
        """List the sides that meet on a canvas.

        Args:
            canvas: the image.

        Returns:
            The two pieces and the log-odds of each pair, (m,).
        """
        found = []
        for direction, step in enumerate(STEPS[:2]):
            first, second = canvas.grid[1:-1, 1:-1], np.roll(canvas.grid, -step, (0, 1))[1:-1, 1:-1]
            both = (first != EMPTY) & (second != EMPTY)
            a, b = first[both], second[both]
            s, t = (direction - self.rotations[a]) % 4, (direction + 2 - self.rotations[b]) % 4
            found.append((a, b, look_up(self.table, s, a, t, b)))
        (a, b, odds), (c, d, others) = found
        return np.append(a, c), np.append(b, d), np.append(odds, others)

    def confidences(self) -> Floats:
        """Return the probability (n,) of each placed piece among all pieces, given its neighbours; else 0."""
        every = np.arange(self.table.shape[1])
        found = np.zeros(len(every), np.float32)
        for canvas in self.canvases:
            for cells in np.array_split(np.argwhere(canvas.grid != EMPTY), 1 + len(every) // 64):
                if not len(cells):
                    continue
                pieces = canvas.grid[tuple(cells.T)]
                scores = self.scores(canvas, cells, every)
                odds = np.exp(scores - scores.max((1, 2), keepdims=True))
                quarters = self.rotations[pieces] if self.quarters > 1 else 0
                found[pieces] = odds[np.arange(len(cells)), quarters, pieces] / odds.sum((1, 2))
        return found


def _best(scores: Floats, free: np.ndarray) -> tuple[float, int]:
    """Return the highest of scores (quarters, k) of free pieces, and its index."""
    possible = np.where(free, scores, -np.inf)
    choice = int(possible.argmax())
    return float(possible.flat[choice]), choice


def _frontier(grid: Ints) -> Ints:
    """Return the empty cells (m, 2) with a neighbour, except on the outermost rows and columns."""
    filled = grid != EMPTY
    beside = np.zeros_like(filled)
    beside[1:] |= filled[:-1]
    beside[:-1] |= filled[1:]
    beside[:, 1:] |= filled[:, :-1]
    beside[:, :-1] |= filled[:, 1:]
    beside[[0, -1]] = beside[:, [0, -1]] = False
    found: Ints = np.argwhere(beside & ~filled)
    return found


def _ends(canvas: Canvas) -> tuple[int, int, int, int]:
    """Return the first row and column of an image with a piece, and those after the last."""
    (top, left), (bottom, right) = (ends.tolist() for ends in canvas.box())
    return top, left, bottom, right


def _is_inside(canvas: Canvas, box: tuple[int, int, int, int], cell: tuple[int, int]) -> bool:
    """Whether an image of these `_ends` does not exceed its limit if it has a piece at a cell."""
    (rows, columns), (row, column), (top, left, bottom, right) = canvas.grid.shape, cell, box
    if not (0 < row < rows - 1 and 0 < column < columns - 1):
        return False
    height, width = max(bottom, row + 1) - min(top, row), max(right, column + 1) - min(left, column)
    return height <= canvas.limit[0] and width <= canvas.limit[1]


def _window(canvas: Canvas, colour: int) -> Ints:
    """Return the cells (m, 2) of one colour of a chessboard, from the first to the last row and column with a piece."""
    least, most = canvas.box()
    rows, columns = np.meshgrid(*(np.arange(low, high) for low, high in zip(least, most, strict=True)), indexing="ij")
    chosen = (rows + columns) % 2 == colour
    return np.stack([rows[chosen], columns[chosen]], -1)
