"""Digests of the pieces of a large file, so that a damaged piece is found without reading all of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from fragrecon import files

PIECE = 1 << 20
"""Size of a piece in bytes."""

CHECKED = 16
"""Number of pieces that `first_damage` reads by default."""


def write_digests(path: Path, digests: Path) -> None:
    """Write the SHA-256 of each piece of a file, a line for each.

    Args:
        path: the file.
        digests: file to write.
    """
    files.write_text(digests, "\n".join(_digests(path, range(-(-path.stat().st_size // PIECE)))))


def first_damage(path: Path, digests: Path, *, thorough: bool = False) -> int | None:
    """Compare pieces of a file with their digests.

    Args:
        path: the file.
        digests: file written by `write_digests`.
        thorough: whether all pieces are read; by default, one drawn from each of `CHECKED` equal parts, and the last.

    Returns:
        The first byte of the first damaged piece, or None.
    """
    expected = digests.read_text().split()
    edges = np.linspace(0, len(expected), min(len(expected), CHECKED) + 1).astype(int)
    drawn = {*np.random.default_rng().integers(edges[:-1], edges[1:]).tolist(), len(expected) - 1}
    numbers = range(len(expected)) if thorough else sorted(drawn)
    found = zip(numbers, _digests(path, numbers), strict=True)
    return next((number * PIECE for number, digest in found if digest != expected[number]), None)


def _digests(path: Path, numbers: Iterable[int]) -> Iterator[str]:
    with path.open("rb") as file:
        for number in numbers:
            file.seek(number * PIECE)
            yield hashlib.sha256(file.read(PIECE)).hexdigest()
