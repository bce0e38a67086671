"""Images of one height and variable width, in batches of one width: pure functions of the widths and a seed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from fragrecon.data.puzzles import Indices
from fragrecon.seeds import numpy_generator


def groups(widths: Indices, size: int) -> Iterator[Indices]:
    """Yield the indices of images of widths (M,), in groups of at most ``size`` images of one width."""
    order = np.argsort(widths, kind="stable")
    for alike in np.split(order, np.flatnonzero(np.diff(widths[order])) + 1):
        yield from (alike[start : start + size] for start in range(0, len(alike), size))


def commonest(widths: Indices) -> npt.NDArray[np.bool_]:
    """Whether each image of widths (M,) has the most common width; the smallest of equally common ones."""
    found, counts = np.unique(widths, return_counts=True)
    chosen: npt.NDArray[np.bool_] = widths == found[counts.argmax()]
    return chosen


class TrainingGroups:
    """An endless sequence of groups of images of one width.

    It consists of passes. A pass divides the images of each width, in random order, into the fewest groups of nearly
    equal size; all groups then come in random order. So a pass contains each image once, in groups that are smaller
    for rare widths.

    Args:
        widths: widths of the images, (M,).
        size: maximum number of images per group.
        seed: seed of the random orders.
    """

    def __init__(self, widths: Indices, size: int, seed: int) -> None:
        self.widths, self.size, self.seed = widths, size, seed
        counts = np.unique(widths, return_counts=True)[1]
        self.per_pass = int((-(-counts // size)).sum())
        self._known: tuple[int, list[Indices]] = (-1, [])

    def __getitem__(self, number: int) -> Indices:
        """Return the indices of the images of group ``number``, at most ``size``: a pure function of ``number``."""
        pass_number, place = divmod(number, self.per_pass)
        if self._known[0] != pass_number:
            self._known = pass_number, self._pass(pass_number)
        return self._known[1][place]

    def _pass(self, number: int) -> list[Indices]:
        generator = numpy_generator(self.seed, "images of a width", number)
        order = generator.permutation(len(self.widths))
        dealt = [
            part
            for alike in groups(self.widths[order], len(order))
            for part in np.array_split(order[alike], -(-len(alike) // self.size))
        ]
        return [dealt[place] for place in generator.permutation(len(dealt))]
