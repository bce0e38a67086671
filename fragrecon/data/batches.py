"""Batches prefetched by a background thread, and the position of training within its epochs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from fragrecon.data.puzzles import FragmentBatch

LOOKAHEAD = 2
"""Number of batches prepared ahead."""


Accumulation = int | Mapping[int, int]
"""Batches per optimizer step: a number, or a number by the epoch from which it applies."""


def batches_per_step(accumulation: Accumulation, epoch: int) -> int:
    """Return the batches per optimizer step in an epoch; 1 before the first epoch of a schedule.

    Example:
        >>> [batches_per_step({0: 8, 4: 2}, epoch) for epoch in (0, 3, 4, 9)]
        [8, 8, 2, 2]
    """
    if isinstance(accumulation, int):
        return accumulation
    begun = [first for first in accumulation if first <= epoch]
    return accumulation[max(begun)] if begun else 1


def steps_per_epoch(batches: int, accumulation: Accumulation, epoch: int) -> int:
    """Return the optimizer steps in an epoch, whose last step may have fewer batches."""
    return -(-batches // batches_per_step(accumulation, epoch))


@dataclass(frozen=True)
class Start:
    """Offset of the epoch counter after resuming with a different epoch length.

    Both numbers are 0 unless a run was resumed with a different number of batches or gradient accumulation.

    Attributes:
        step: optimizer steps completed before that point.
        epoch: epochs completed before that point.
    """

    step: int = 0
    epoch: int = 0

    def place(self, step: int, per_epoch: int, every: Accumulation) -> tuple[int, int]:
        """Return the epoch of an optimizer step, and the index of the step within the epoch.

        Args:
            step: optimizer steps since the start of training.
            per_epoch: batches per epoch.
            every: batches per optimizer step.

        Returns:
            Index of the epoch, and of the optimizer step within it.
        """
        epoch, within = self.epoch, step - self.step
        while within >= (steps := steps_per_epoch(per_epoch, every, epoch)):
            epoch, within = epoch + 1, within - steps
        return epoch, within


class Batches:
    """A sequence of batches, prefetched by a background thread.

    Args:
        make: function that maps a batch number to its batch; must be a pure function.
        numbers: function that returns the batch numbers of the next pass; called at the start of each pass.
        length: number of batches in a complete pass.
    """

    def __init__(self, make: Callable[[int], FragmentBatch], numbers: Callable[[], Iterable[int]], length: int) -> None:
        self.make, self.numbers, self.length = make, numbers, length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[FragmentBatch]:
        pending: deque[Future[FragmentBatch]] = deque()
        with ThreadPoolExecutor(1, "batches") as thread:
            try:
                for number in self.numbers():
                    pending.append(thread.submit(self.make, number))
                    if len(pending) > LOOKAHEAD:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()
