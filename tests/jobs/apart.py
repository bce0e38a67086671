"""Jobs in processes of their own that lack something: ``python -m tests.jobs.apart HOME``.

A process that has imported everything and done a job is forked for each case, so that a case costs only its job. The
outcomes are printed as JSON.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.cli import SMALL, Cli

NOBODY = 65534
LINE = (*SMALL, "model=pca", "data.epochs=1", "evaluation.puzzles=2")


def forked(act: Callable[[], Any]) -> dict[str, Any]:
    """Act in a forked process; return how it ended, and what it returned or the traceback of its error."""
    reading, writing = os.pipe()
    if child := os.fork():
        os.close(writing)
        with os.fdopen(reading) as file:
            text = file.read()
        _, code = os.waitpid(child, 0)
        return {"code": os.waitstatus_to_exitcode(code), "result": json.loads(text) if text else None}
    try:
        result = act()
    except BaseException:
        result = traceback.format_exc()
    os.write(writing, json.dumps(result).encode())
    os._exit(0)


# Something is missing -------------------------------------------------------------------------------------------------


def as_nobody(home: Path) -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def without_home(home: Path) -> None:
    for name in [name for name in os.environ if name == "HOME" or name.startswith("XDG_")]:
        del os.environ[name]


def with_few_files(home: Path) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def without_shared_memory(home: Path) -> None:
    """Mount nothing over /dev/shm for this process, where it may; another folder would be no test."""
    libc = ctypes.CDLL(None, use_errno=True)
    private, read_only = 1 << 18 | 1 << 14, 1
    if (
        libc.unshare(0x20000)
        or libc.mount(b"none", b"/", None, private, None)
        or libc.mount(b"none", b"/dev/shm", b"tmpfs", read_only, None)
    ):
        raise PermissionError(ctypes.get_errno(), "no mounts of its own")


def read_only(home: Path) -> None:
    home.chmod(0o555)
    as_nobody(home)


LACKING = {
    "a user who is not root": as_nobody,
    "no HOME": without_home,
    "ulimit -n 64": with_few_files,
    "no /dev/shm": without_shared_memory,
    "a folder that cannot be written": read_only,
}


def lacking(home: Path, cache: Path) -> dict[str, Any]:
    """The outcomes of a command line by case."""
    found = {}
    for number, (case, prepare) in enumerate(LACKING.items()):
        folder = home / str(number)
        folder.mkdir()
        os.chown(folder, *(NOBODY if prepare in (as_nobody, read_only) and os.getuid() == 0 else -1,) * 2)

        def act(folder: Path = folder, prepare: Callable[[Path], None] = prepare) -> dict[str, Any]:
            try:
                prepare(folder)
            except PermissionError as error:
                return {"skipped": str(error)}
            os.chdir(folder)
            given = (*LINE, f"data.cache_dir={cache}", "hydra.run.dir=run")
            return asdict(Cli(folder, cache).here(*given))

        found[case] = forked(act) | {"folder": str(folder / "run")}
    return found


if __name__ == "__main__":
    home = Path(sys.argv[1])
    cache = home / "cache"
    printed = os.dup(1)
    os.dup2(2, 1)  # what jobs print
    home.chmod(0o755)
    Cli(home / "warm", cache).here(*LINE, f"data.cache_dir={cache}", "hydra.run.dir=run").ok()
    os.write(printed, json.dumps(lacking(home, cache)).encode())
