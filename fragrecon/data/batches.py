"""Batches prepared ahead of their use, and the position of training within its epochs."""

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
    """Where the current kind of epoch begins: after some optimizer steps and epochs of another length.

    Both are 0, unless a run was resumed with other batches or another accumulation of gradients.

    Attributes:
        step: optimizer steps before.
        epoch: epochs before.
    """

    step: int = 0
    epoch: int = 0

    def place(self, step: int, per_epoch: int, every: int) -> tuple[int, int]:
        """The epoch at an optimizer step, and the step within it.

        Args:
            step: optimizer steps since the start of training.
            per_epoch: batches an epoch.
            every: batches an optimizer step; an epoch's last batch ends a step, too.

        Returns:
            Number of the epoch, and of the optimizer step within it.
        """
        epochs, within = divmod(step - self.step, -(-per_epoch // every))
        return self.epoch + epochs, within


class Batches:
    """A sequence of batches, prepared ahead of their use by one thread.

    Args:
        make: makes the batch of a number; pure, so that a batch does not depend on those made before.
        numbers: returns the numbers of the next pass; called at its start.
        length: of a complete pass.
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
