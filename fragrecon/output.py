"""Standard output and standard error of a job, which does not depend on them."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path


class LastingOutput(io.TextIOWrapper):
    """A text stream that drops what it cannot write, so that neither a closed pipe nor a full disk fails a job."""

    def write(self, text: str, /) -> int:
        """Write text, and return its length."""
        try:
            return super().write(text)
        except OSError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        try:
            super().flush()
        except OSError:
            self._drop()

    def _drop(self) -> None:
        with Path(os.devnull).open("wb") as file:
            os.dup2(file.fileno(), self.fileno())


def make_output_lasting() -> None:
    """Replace standard output and standard error.

    Characters that their encoding lacks are written as question marks. A stream that was closed before Python started
    gets a file that drops everything; a stream that is not that of the process is kept.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = Path(os.devnull).open("w")  # noqa: SIM115
            setattr(sys, name, stream)
        if type(stream) is io.TextIOWrapper:
            lasting = LastingOutput(
                stream.buffer,
                stream.encoding,
                "replace",
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, lasting)
