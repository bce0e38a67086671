"""Data of the puzzle viewer: example puzzles and their solutions by models.

Shapes: P puzzles of F fragments from N images.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fragrecon.errors import RunError
from fragrecon.evaluation.matching import match
from fragrecon.runs.read import Run

Array = npt.NDArray[Any]


def gallery(runs: Mapping[str, Run]) -> dict[str, Any]:
    """Collect the example puzzles of runs; a puzzle shared by several runs is included once.

    Args:
        runs: runs by display name.

    Returns:
        ``puzzles``; ``solvers``, each with solutions by puzzle index; ``missing``, the reason why a run has no puzzles,
        by run.
    """
    puzzles: dict[str, dict[str, Any]] = {}
    solvers, missing = [], {}
    for name, run in runs.items():
        try:
            examples = run.examples
        except RunError as error:
            missing[name] = str(error)
            continue
        solutions = {}
        for number in range(len(examples["images"])):
            key = _key(examples, number)
            if key not in puzzles:
                puzzles[key] = _puzzle(examples, number)
            solutions[list(puzzles).index(key)] = _solution(examples, number) | {"ari": _ari(run, number)}
        solvers.append({"name": name, "solutions": solutions})
    return {"puzzles": list(puzzles.values()), "solvers": solvers, "missing": missing}


def picture(path: Path) -> str:
    """Encode an image file as a data URI; raises `RunError` if it is none."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return _uri(image.convert("RGB"))
    except Exception as error:  # Pillow's decoders raise arbitrary exceptions for damaged files
        raise RunError(f"{path} is not a readable PNG ({error!r:.100})") from None


def _key(examples: Mapping[str, Array], number: int) -> str:
    """Return a hash of a puzzle's images and the order of its fragments."""
    sha = hashlib.sha256()
    parts = [examples[name][number] for name in ("images", "source_ids", "positions")]
    for part in (*parts, examples["grid"]):
        sha.update(f"{part.dtype}{part.shape}".encode())
        sha.update(np.ascontiguousarray(part).tobytes())
    return sha.hexdigest()


def _puzzle(examples: Mapping[str, Array], number: int) -> dict[str, Any]:
    images = examples["images"][number]
    return {
        "images": [
            _uri(Image.fromarray(image[0] if len(image) == 1 else np.moveaxis(image, 0, -1))) for image in images
        ],
        "size": [int(side) for side in images.shape[-2:]],
        "grid": examples["grid"].tolist(),
        "sources": examples["source_ids"][number].tolist(),
        "positions": examples["positions"][number].tolist(),
    }


def _solution(examples: Mapping[str, Array], number: int) -> dict[str, Any]:
    """Return groups and rebuilt images, each with the image it is named after, or None."""
    images = examples["images"].shape[1]
    sources, groups = examples["source_ids"][number], examples["groups"][number]
    solution: dict[str, Any] = {
        "groups": groups.tolist(),
        "names": match(_counts(groups, sources, images)),
        "rebuilt": None,
    }
    if "rebuilt_images" in examples:
        rebuilt, cells = examples["rebuilt_images"][number], examples["rebuilt_cells"][number]
        rotations = examples["rebuilt_rotations"][number]
        right = (cells == examples["positions"][number]) & (rotations == 0)  # the fragments of examples are upright
        # As in the scores, maximise the fragments at their cell; ties are broken by the fragments of the image.
        counts = _counts(rebuilt, sources, images, right) * (len(sources) + 1) + _counts(rebuilt, sources, images)
        solution["rebuilt"] = {
            "images": rebuilt.tolist(),
            "cells": cells.tolist(),
            "rotations": rotations.tolist(),
            "names": match(counts),
        }
    return solution


def _counts(groups: Array, sources: Array, images: int, which: Array | None = None) -> Array:
    """Count the fragments, or those in ``which``, by group and image: (groups, images)."""
    table = np.zeros((int(groups.max()) + 1, images), np.int64)
    np.add.at(table, (groups, sources), 1 if which is None else which)
    return table


def _ari(run: Run, number: int) -> float | None:
    try:
        return float(run.model_scores(["kmeans_ari"])["kmeans_ari"][number])
    except (RunError, KeyError, IndexError):
        return None


def _uri(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "webp", lossless=True, method=0)  # nearly as small as the default, and 20 times as fast
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
