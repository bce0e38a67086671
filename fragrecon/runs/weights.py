"""Trained weights that are installed as Python packages, found by name.

A distribution registers them in its ``pyproject.toml``; the package holds the files that ``mode=export`` wrote:

    [project.entry-points."fragrecon.weights"]
    mosaic = "fragrecon_mosaic"

The package is located, never imported.
"""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path

from fragrecon.errors import RunError

GROUP = "fragrecon.weights"


def installed() -> dict[str, metadata.EntryPoint]:
    """Return the entry points of installed weights by name; of two with one name, the first on ``sys.path``."""
    return {point.name: point for point in reversed(metadata.entry_points(group=GROUP))}


def installed_folder(name: str) -> Path | None:
    """Locate installed weights.

    Args:
        name: name of the weights, such as ``mosaic``.

    Returns:
        The folder of their package; None if the name is not registered.

    Raises:
        RunError: the name is registered, but the package is missing.
    """
    point = installed().get(name)
    if point is None:
        return None
    top, *inner = point.value.split(".")  # `find_spec` of an inner package would import the outer one
    spec = importlib.util.find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        raise RunError(f"the weights '{name}' should be in the package {point.value}, which is missing; reinstall it")
    return Path(next(iter(spec.submodule_search_locations)), *inner)
