"""Arrays and scores cached on disk, so that the baselines are computed once per sweep.

A file name has a hash of everything its contents depend on: data, settings, `VERSION` and the installed packages.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy.typing as npt

from fragrecon import files
from fragrecon.data.module import FixedPuzzles
from fragrecon.data.store import Split
from fragrecon.evaluation.clustering.protocol import Score, evaluate
from fragrecon.evaluation.statistics import Scores

log = logging.getLogger(__name__)

VERSION = 3
"""Version of the code that computes cached values. Increase it with every change that alters a value, and whenever a
metric is added or renamed, because metric names are not part of the file name."""

PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "kmedoids")
"""Packages whose versions are hashed in every file name."""

Arrays = dict[str, npt.NDArray[Any]]


def cache_path(folder: Path, name: str, facts: Any) -> Path:
    """Return the file of cached arrays.

    Args:
        folder: cache folder.
        name: readable first part of the file name.
        facts: everything that the arrays depend on, except the code; JSON-serialisable.

    Returns:
        The path of an ``.npz`` file, which need not exist.
    """
    return folder / f"{name}-{files.digest([facts, VERSION, _package_versions()])[:24]}.npz"


def cached_arrays(path: Path, compute: Callable[[], Arrays], on_hit: Callable[[], None] = lambda: None) -> Arrays:
    """Read arrays from the cache, or compute and save them if the file is missing or damaged.

    Args:
        path: path from `cache_path`.
        compute: function that computes the arrays.
        on_hit: called if the arrays are read from the cache, for a progress bar.

    Returns:
        The arrays by name.
    """
    if (found := _read(path)) is not None:
        on_hit()
        return found
    found = compute()
    files.write_arrays(path, found)
    return found


def cached_scores(
    puzzles: FixedPuzzles,
    methods: Mapping[str, Score],
    folder: Path,
    facts: Mapping[str, Any],
    *,
    fitted: Collection[str],
    advance: Callable[[int], None],
    **settings: Any,
) -> dict[str, dict[str, Scores]]:
    """Read scores of methods from the cache; score all missing methods together, and save their scores.

    Args:
        puzzles: puzzles to score on.
        methods: scoring functions by method name.
        folder: cache folder.
        facts: settings that the scores depend on, except the puzzles; JSON-serialisable.
        fitted: names of the methods that are fitted on training images.
        advance: called with the number of puzzles done, for a progress bar.
        settings: further arguments of `evaluate`.

    Returns:
        Scores (puzzles,) by method and metric.
    """
    data = puzzles.data

    def path_of(method: str) -> Path:
        splits: tuple[Split, ...] = ("test", "train") if method in fitted else ("test",)
        source = {
            "stores": [asdict(data.store(split).manifest) for split in splits],
            "fragment_shape": data.config.fragment_shape,
            "images_per_puzzle": data.config.images_per_puzzle,
            "puzzle_seed": data.puzzle_seed,
            "puzzles": len(puzzles),
        }
        return cache_path(folder, method, {**source, **facts})

    paths = {name: path_of(name) for name in methods}
    known = {name: scores for name, path in paths.items() if (scores := _read(path))}
    missing = {name: score for name, score in methods.items() if name not in known}
    if missing:
        for name, scores in evaluate(puzzles, missing, advance=advance, **settings).items():
            files.write_arrays(paths[name], scores)
            known[name] = scores
    else:
        advance(len(puzzles))
    return {name: known[name] for name in methods}


def _read(path: Path) -> Arrays | None:
    """Return cached arrays, or None if the file is missing or damaged."""
    try:
        return files.read_arrays(path) if path.is_file() else None
    except (OSError, ValueError) as error:
        log.warning("%s is damaged and is computed again: %s", path, error)
        return None


@cache
def _package_versions() -> list[str]:
    return [metadata.version(name) for name in PACKAGES]
