"""Trained weights that are installed as Python packages, found by name.

A distribution registers them in its ``pyproject.toml``; the package holds the files that ``mode=export`` wrote:

    [project.entry-points."fragrecon.weights"]
    mosaic = "fragrecon_mosaic"

The package is located, never imported.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from fragrecon.config.plugins import find
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
    folder = find(point.value)
    if folder is None:
        raise RunError(f"the weights '{name}' should be in the package {point.value}, which is missing; reinstall it")
    return folder
