"""Types shared by sections of the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field

Node = dict[str, Any]
"""A mapping with ``_target_``, the dotted name of a class, and its arguments."""

Whole = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Unlimited = Literal[-1]

PlainName = Annotated[str, Field(pattern=r"^\w[\w .+-]{0,99}$")]
"""A name that can be part of a path."""
SavedPath = Annotated[str, AfterValidator(lambda path: path and str(Path(path).expanduser().absolute()))]
"""A path made absolute, so that a saved config can be used from any working folder."""


def _run_path(run: str) -> str:
    """Make the path of a run absolute; a name that is no folder is left as it is."""
    path = Path(run).expanduser()
    return str(path.absolute()) if run and (path.is_dir() or path.name != run) else run


RunPath = Annotated[str, AfterValidator(_run_path)]
"""The folder of a run, made absolute, or the name of installed weights."""

INERT = {"inert": True}
"""Marks keys that do not affect results: job name, output folder, printing, saving."""

STRICT = ConfigDict(extra="forbid", strict=True)


class Section:
    """A section of the configuration, checked when it is parsed."""

    __pydantic_config__ = STRICT
