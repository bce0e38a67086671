"""Batches prefetched by a background thread, and the position of training within its epochs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fragrecon.data.puzzles import FragmentBatch
from fragrecon.errors import ConfigError

if TYPE_CHECKING:
    from fragrecon.config.schema import DataConfig

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


def check_share(data: DataConfig, processes: int) -> None:
    """Check that a batch can be shared equally.

    Args:
        data: settings of the data.
        processes: number of processes that share a batch.

    Raises:
        ConfigError: the number of puzzles is not a multiple of ``processes``, or a process gets too few images.
    """
    per_batch = data.puzzles_per_batch
    if per_batch % processes:
        raise ConfigError(
            f"data.puzzles_per_batch={per_batch} cannot be shared equally by {processes} processes; "
            f"use a multiple of {processes}"
        )
    images = per_batch // processes * data.images_per_puzzle
    if data.images_range and data.images_range[1] > images:
        raise ConfigError(
            f"data.images_range={data.images_range} needs up to {data.images_range[1]} images, but each of {processes} "
            f"processes gets only {images} images per batch; increase data.puzzles_per_batch"
        )


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
