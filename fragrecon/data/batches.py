"""Batches prefetched by a background thread, and the position of training within its epochs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from fragrecon.data.puzzles import FragmentBatch

LOOKAHEAD = 2
"""Number of batches prepared ahead."""


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

    def place(self, step: int, per_epoch: int, every: int) -> tuple[int, int]:
        """Return the epoch of an optimizer step, and the index of the step within the epoch.

        Args:
            step: optimizer steps since the start of training.
            per_epoch: batches per epoch.
            every: batches per optimizer step; the last step of an epoch may have fewer.

        Returns:
            Index of the epoch, and of the optimizer step within it.
        """
        epochs, within = divmod(step - self.step, -(-per_epoch // every))
        return self.epoch + epochs, within


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
