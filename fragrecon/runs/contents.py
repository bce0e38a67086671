"""The form of a run's files, checked when they are read: a damaged or foreign file gives a message that names it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from fragrecon import files
from fragrecon.errors import RunError

NEEDED = {
    "masked_": "mask_ratio",
    "composite_": "mask_ratio",
    "probe_": "probe_embedding",
    "generation_": "generated_images",
}
"""The key of the protocol in ``metrics.json`` that metrics with a prefix need."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


_Seconds = Annotated[float, Field(ge=0, le=1e9)]
_Side = Annotated[int, Field(ge=1, le=1 << 16)]


class _Summary(_Part):
    mean: float
    ci95: Annotated[list[float], Field(min_length=2, max_length=2)] | None


class _Protocol(_Part):
    puzzles: int
    images_per_puzzle: int
    fragments_per_image: int
    fragment_shape: list[int] | None = None
    mask_ratio: float | None = None
    probe_embedding: str | None = None
    generated_images: int | None = None


class _Model(_Part):
    name: str
    parameters: int
    latent_dim: int | None = None


class _Data(_Part):
    name: str
    images: int | None = None
    lossy: int = 0


class _Metrics(_Part):
    protocol: _Protocol
    scores: dict[str, dict[str, _Summary]]
    model_minus: dict[str, dict[str, _Summary]]
    dataset_wide: dict[str, dict[str, float]] = {}
    model: _Model
    data: _Data
    versions: dict[str, str]
    seconds: dict[str, _Seconds]

    @model_validator(mode="after")
    def _check(self) -> _Metrics:
        if "model" not in self.scores:
            raise ValueError("scores should have the key 'model'")
        if missing := sorted(self.model_minus.keys() - self.scores.keys()):
            raise ValueError(f"model_minus has {missing[0]!r}, which scores lacks")
        if missing := sorted(self.scores.keys() - self.model_minus.keys() - {"model"}):
            raise ValueError(f"model_minus lacks {missing[0]!r}")
        names = {name for methods in (self.scores, self.dataset_wide) for part in methods.values() for name in part}
        for prefix, key in NEEDED.items():
            if getattr(self.protocol, key) is None and any(name.startswith(prefix) for name in names):
                raise ValueError(f"protocol should have the key '{key}'")
        if self.data.images is None and (self.data.lossy or any(name.startswith("probe_") for name in names)):
            raise ValueError("data should have the key 'images'")
        return self


def _moment(text: str) -> str:
    if datetime.fromisoformat(text).utcoffset() is None:
        raise ValueError("it should be a time with its offset from UTC")
    return text


_Moment = Annotated[str, AfterValidator(_moment)]


class _Status(_Part):
    status: str
    stage: str | None = None
    error: str | None = None
    started: _Moment | None = None
    finished: _Moment | None = None
    machine: str | None = None
    commits: dict[str, str | None] = {}
    config_hash: str | None = None


class _Note(_Part):
    name: str
    jobs: int | None
    started: _Moment
    overrides: list[str] = []
    swept: list[str] = []


class _Facts(_Part):
    fragment_shape: Annotated[tuple[_Side, _Side, _Side], Field(strict=False)]
    grid: Annotated[tuple[_Side, _Side], Field(strict=False)]
    num_classes: Annotated[int, Field(ge=0, le=1 << 31)]


class _Export(_Part):
    sha256: str
    facts: _Facts


class _Exported(_Part):
    export: _Export


def read_status(path: Path) -> dict[str, Any]:
    """Read ``status.json``; raises `RunError`."""
    return _read(path, _Status)


def read_metrics(path: Path) -> dict[str, Any]:
    """Read ``metrics.json``; raises `RunError`."""
    return _read(path, _Metrics)


def read_note(path: Path) -> dict[str, Any]:
    """Read ``sweep.json``; raises `RunError`."""
    return _read(path, _Note)


def read_export(path: Path) -> dict[str, Any]:
    """Read the section ``export`` of ``metrics.json``; raises `RunError`."""
    export: dict[str, Any] = _read(path, _Exported)["export"]
    return export


def check_facts(path: Path, facts: Any) -> dict[str, Any]:
    """Return the facts in a checkpoint, with sizes as tuples; raises `RunError` with the path of the checkpoint."""
    return vars(_check(path, facts, _Facts))


def _read(path: Path, kind: type[_Part]) -> dict[str, Any]:
    try:
        values: dict[str, Any] = files.read_json(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is missing or damaged: {error}") from None
    _check(path, values, kind)
    return values


def _check(path: Path, values: Any, kind: type[_Part]) -> _Part:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"]))[:100]
        raise RunError(f"{path} is damaged: {key}{': ' * bool(key)}{first['msg']}") from None


def read_epochs(path: Path) -> list[dict[str, float]]:
    """Read ``metrics.csv``.

    Args:
        path: CSV file.

    Returns:
        The rows, each with ``epoch`` and metrics.

    Raises:
        RunError: the file is damaged.
    """
    try:
        rows = [{name: float(value) for name, value in row.items()} for row in files.read_csv(path)]
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged: {error}") from None
    for number, row in enumerate(rows, 1):
        if not 0 <= row.get("epoch", -1) <= 1e9:
            raise RunError(f"{path} is damaged: row {number} has no valid 'epoch'")
    return rows


def read_scores(path: Path, names: Collection[str] | None = None) -> dict[str, npt.NDArray[np.float64]]:
    """Read ``scores.npz``, or those of ``names`` that it has: scores (n,) by ``METHOD/METRIC``; raises `RunError`."""
    found = _arrays(path, names)
    for name, values in found.items():
        if values.ndim != 1 or values.dtype.kind != "f":
            raise RunError(f"{path} is damaged: {name[:100]!r} should be a list of scores")
    return found


def read_examples(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read ``examples.npz``, whose arrays `fragrecon.runs.write.Record.write_examples` describes; raises `RunError`."""
    found = _arrays(path)
    try:
        _check_examples(found)
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}") from None
    return found


def _arrays(path: Path, names: Collection[str] | None = None) -> dict[str, npt.NDArray[Any]]:
    try:
        return files.read_arrays(path, names)
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged: {error}") from None


def _check_examples(found: Mapping[str, npt.NDArray[Any]]) -> None:
    rebuilt = ["rebuilt_images", "rebuilt_cells", "rebuilt_rotations"]
    names = ["source_ids", "positions", "groups", *(rebuilt if any(name in found for name in rebuilt) else ())]
    if missing := [name for name in ("images", "grid", *names) if name not in found]:
        raise ValueError(f"it has no array '{missing[0]}'")
    images, grid, ids = found["images"], found["grid"], found["source_ids"]
    if images.dtype != np.uint8 or images.ndim != 5 or images.shape[2] not in (1, 3) or 0 in images.shape[1:]:
        raise ValueError(f"'images' should be uint8 (P, N, C, H, W), not {images.dtype} {images.shape}")
    if grid.dtype.kind != "i" or grid.shape != (2,) or not all(1 <= side <= 1 << 10 for side in grid.tolist()):
        raise ValueError("'grid' should have two sides")
    count, cells = images.shape[1], int(grid.prod())
    if ids.ndim != 2 or len(ids) != len(images) or ids.shape[1] != count * cells:
        raise ValueError(f"'source_ids' should be (P, F) = ({len(images)}, {count * cells}), not {ids.shape}")
    limits = {"source_ids": count, "positions": cells, "groups": ids.shape[1], "rebuilt_images": count}
    limits |= {"rebuilt_cells": cells, "rebuilt_rotations": 4}
    for name in names:
        values = found[name]
        if values.dtype.kind != "i" or values.shape != ids.shape or values.min(initial=0) < 0:
            raise ValueError(f"'{name}' should be integers {ids.shape}, not {values.dtype} {values.shape}")
        if values.max(initial=0) >= limits[name]:
            raise ValueError(f"'{name}' has the value {values.max()}, expected values below {limits[name]}")
