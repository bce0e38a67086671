"""Git commits of the code that a run is made by: that of fragrecon, and that of the user's own packages."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import fragrecon
from fragrecon.config import plugins
from fragrecon.config.schema import Config


def commits(config: Config) -> dict[str, str | None]:
    """Return the commit of fragrecon and of each package of the user that may take part in a job.

    Args:
        config: job config.

    Returns:
        Commits by package, with ``-dirty`` if files of the package are changed or not committed; None if a package is
        not in a checkout, such as an installed one.
    """
    here = Path(fragrecon.__file__).parent
    found = {"fragrecon": commit((here, *filter(Path.is_dir, [here.parent / "conf"])))}
    named = {*plugins.named(), *plugins.registered(), *plugins.targets(config.to_dict())}
    for package in sorted({plugins.top_level(name) for name in named}.difference(plugins.FRAMEWORKS)):
        path = location(package)
        found[package] = commit((path,)) if path else None
    return found


def location(package: str) -> Path | None:
    """Locate the folder of a package, or the file of a module, without importing it.

    Args:
        package: top-level name; it may be that of a module of the working folder.

    Returns:
        The path; None if there is no such package.
    """
    if folder := plugins.find(package):
        return folder
    with suppress(ValueError):  # ``__main__`` has no spec
        spec = importlib.util.find_spec(package)
        if spec and spec.origin:
            return Path(spec.origin)
    file = getattr(sys.modules.get(package), "__file__", None)
    places = [Path(file)] if file else [Path.cwd() / package, Path.cwd() / f"{package}.py"]
    return next((place for place in places if place.exists()), None)


@cache
def commit(paths: Sequence[Path]) -> str | None:
    """Return the commit of the checkout that holds these files or folders.

    Args:
        paths: files and folders of one package.

    Returns:
        The hash, with ``-dirty`` if any of them is changed or not committed; None if they are not in a checkout, or are
        ignored by it, as a virtual environment in a project is.
    """
    folder = paths[0] if paths[0].is_dir() else paths[0].parent
    names = [str(path.resolve()) for path in paths]

    def git(*arguments: str) -> str:
        line = ["git", "-C", str(folder), *arguments]
        return subprocess.run(line, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        found = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--ignored=matching", "--", *names).splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    if any(line.startswith("!!") for line in changed) and not git("ls-files", "--", *names):
        return None
    return found + "-dirty" * any(not line.startswith("!!") for line in changed)
