"""The blocks of a conversion, written so that a later process resumes it if this one is killed."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from fragrecon import files

if TYPE_CHECKING:
    from fragrecon.data.store import Block

_NAME = "blocks-{host}-{process}.jsonl"
"""Name of the file of lines; it says which process of which machine writes it."""


class Journal:
    """The blocks that are converted so far: their pixels in one file, and a line of JSON for each block in another.

    A line is written after the pixels of its block are on the disk, so those of all lines are complete.

    Args:
        pixels: file of pixels, open for writing.
        lines: file of lines, open for writing.
        known: contents of the lines that are there.

    Attributes:
        known: ``labels`` (n,), ``width``, ``lossy`` and ``skipped`` of each block.
    """

    def __init__(self, pixels: BinaryIO, lines: BinaryIO, known: list[dict[str, Any]]) -> None:
        self.pixels, self.lines, self.known = pixels, lines, known

    def add(self, block: Block) -> None:
        """Write a block."""
        self.pixels.write(np.ascontiguousarray(block.images).data)  # unlike `tofile`, this reports why it fails
        files.sync(self.pixels)
        known = {"width": block.images.shape[3], "lossy": block.lossy, "skipped": block.skipped}
        self.lines.write(json.dumps({**known, "labels": block.labels.tolist()}).encode() + b"\n")
        self.lines.flush()
        self.known.append({**known, "labels": block.labels.astype(np.int64)})

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Labels of all images, (count,)."""
        return np.concatenate([*(block["labels"] for block in self.known), np.empty(0, np.int64)])

    @property
    def widths(self) -> npt.NDArray[np.int64]:
        """Widths of all images, (count,)."""
        return np.repeat([block["width"] for block in self.known], [len(block["labels"]) for block in self.known])


@contextmanager
def journal(pixels: Path, row: int) -> Iterator[Journal]:
    """Open the journal beside a file of pixels, or begin both; what is incomplete is cut off.

    Args:
        pixels: path of the file of pixels.
        row: bytes of a column of pixels of an image, channels times height.

    Yields:
        The journal; its file is deleted if the block succeeds.
    """
    path, known, whole, size = pixels.with_name(_name(os.getpid())), list[dict[str, Any]](), 0, 0
    with pixels.open("ab") as file, path.open("a+b") as lines:  # where there are lines, there is a file of pixels
        lines.seek(0)
        for line in lines:
            try:
                block = json.loads(line)
            except ValueError:  # cut off, or lost in a power failure
                break
            end = size + row * block["width"] * len(block["labels"])
            if not line.endswith(b"\n") or end > file.tell():
                break
            known.append({**block, "labels": np.array(block["labels"], np.int64)})
            whole, size = whole + len(line), end
        lines.truncate(whole)
        file.truncate(size)
        yield Journal(file, lines, known)
    path.unlink()


def claim(folder: Path) -> Path | None:
    """Claim what a killed conversion has left, so that no other process does.

    Args:
        folder: folder of the store.

    Returns:
        A temporary folder for `fragrecon.files.atomic_folder`; None if no process of this machine has left one.
    """
    for lines in folder.parent.glob(f".{folder.name}.*.part/{_name('*')}"):
        if not _is_running(int(lines.stem.rpartition("-")[2])):
            with suppress(OSError):  # another process was faster
                return lines.rename(lines.with_name(_name(os.getpid()))).parent
    return None


def _name(process: int | str) -> str:
    return _NAME.format(host=platform.node(), process=process)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        pass
    return True
