"""Learning from image fragments: one command trains, sweeps and evaluates models of the mixed fragment puzzle."""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["__version__", "load_run"]

if TYPE_CHECKING:
    from fragrecon.runs.read import load_run
else:  # otherwise type checkers would accept any attribute

    def __getattr__(name: str) -> object:
        """Import `load_run` on first access, because its module needs `__version__` to be defined."""
        if name == "load_run":
            from fragrecon.runs.read import load_run

            return load_run
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
