"""Packages of the user: which of them are trusted, where they are, and what they add to the configuration.

A class named by ``_target_`` is imported only from a trusted package. Besides fragrecon itself, these are

- packages that an installed distribution registers: an entry point of the group ``fragrecon.plugins``, whose value is
  the name of the package;
- packages named by a ``_target_`` or by ``plugins`` on the command line or in a file of its ``--config-dir``;
- packages listed in the environment variable ``FRAGRECON_PLUGINS``, separated by commas;
- packages given to `fragrecon.load_run`, and modules of the running program that are already imported.

A config that a run has saved makes no package trusted, because a run may come from anybody.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from fragrecon import search_path

GROUP = "fragrecon.plugins"
"""Group of the entry points of packages whose classes may be named in a config."""

OWN = ("fragrecon.", "torch.optim.", "torch.nn.")
"""Beginnings of the names of classes that any config may name."""

VARIABLE = "FRAGRECON_PLUGINS"
"""Environment variable that lists trusted packages, separated by commas."""

FRAMEWORKS = ("fragrecon", "torch", "lightning")
"""Packages of which only some modules are trusted, whatever a command line says."""

_trusted: set[str] = set()


def trust(packages: Iterable[str]) -> None:
    """Trust packages, by their top-level names, for the rest of the process."""
    _trusted.update({top_level(package) for package in packages}.difference(FRAMEWORKS))


def named() -> set[str]:
    """Return the trusted packages that are not registered: those given to `trust`, and those in the environment."""
    listed = {top_level(name.strip()) for name in os.environ.get(VARIABLE, "").split(",")}
    return (_trusted | listed) - {""}


def is_trusted(module: str) -> bool:
    """Whether a module may be imported, or is a module of the running program that is already imported."""
    return top_level(module) in {*named(), *map(top_level, registered())} or _is_of_this_program(module)


def top_level(name: str) -> str:
    """Return the first part of a dotted name."""
    return name.partition(".")[0]


def targets(config: Any) -> Iterator[str]:
    """Yield every ``_target_`` in nested mappings and lists."""
    if isinstance(config, Mapping):
        if isinstance(target := config.get("_target_"), str):
            yield target
        config = list(config.values())
    if isinstance(config, list):
        for part in config:
            yield from targets(part)


def registered() -> list[str]:
    """Return the packages of installed entry points; a distribution in the working folder counts as not installed."""
    here = Path.cwd()
    points = metadata.entry_points(group=GROUP)
    return sorted({p.value for p in points if p.dist and Path(str(p.dist.locate_file(""))).resolve() != here})


def find(package: str) -> Path | None:
    """Locate a package without importing it; None if it is missing, or a module without a folder."""
    top, *inner = package.split(".")  # `find_spec` of an inner package would import the outer one
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # ``__main__`` has no spec
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)), *inner)


def config_folders() -> list[Path]:
    """Return the folders ``conf`` of the registered packages, which are laid out like the project's own."""
    folders = [folder / "conf" for package in registered() if (folder := find(package))]
    return [folder for folder in folders if folder.is_dir()]


def load(module: str) -> Any:
    """Import a module of a trusted package; one that is in the working folder only is found there.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    top = top_level(module)
    if top not in sys.modules and importlib.util.find_spec(top) is None:
        search_path.append_working_folder()
    return importlib.import_module(module)


def _is_of_this_program(module: str) -> bool:
    """Whether a module is imported, and belongs to neither Python nor an installed distribution."""
    if module not in sys.modules or top_level(module) in sys.stdlib_module_names - {"__main__"}:
        return False
    file = getattr(sys.modules[module], "__file__", None)
    installed = {"site-packages", "dist-packages"}
    return module == "__main__" or (file is not None and not installed.intersection(Path(file).parts))
