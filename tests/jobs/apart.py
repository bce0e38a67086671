"""Jobs in processes of their own that lack something, or are killed: ``python -m tests.jobs.apart KIND HOME``.

A process that has imported everything and done a job is forked for each case, so that a case costs only its job. The
outcomes are printed as JSON.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fragrecon.errors import RunError
from tests.cli import SMALL, Cli, assert_same_run, job, names, status

NOBODY = 65534
LINE = (*SMALL, "model=pca", "data.epochs=1", "evaluation.puzzles=2")
TRAINED = (
    *(*SMALL, "model=linear", "scheduler=plateau", "scheduler.patience=0", "data.images_per_puzzle=4"),
    *("data.batches_per_epoch=3", "evaluation.puzzles=2", "trainer.checkpoint_every_n_steps=1"),
)


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


# Kills at writes ------------------------------------------------------------------------------------------------------


def watch(met: Callable[[str], None]) -> None:
    """Call ``met`` with the kind of file before this process puts a finished file in its place or deletes one."""

    def watched(name: str) -> None:
        real = getattr(os, name)

        def call(path: Any, *others: Any, **named: Any) -> Any:
            met(f"{name} {re.sub(r'^[.]|-.*|[.][^.]*[.]part$', '', Path(path).name)}")
            return real(path, *others, **named)

        setattr(os, name, call)

    for name in ("replace", "unlink"):
        watched(name)


def kills(home: Path, cache: Path) -> list[dict[str, Any]]:
    """Kill a job at the first, the second and the last call of each kind, and resume it."""

    def traced() -> list[str]:
        points: list[str] = []
        watch(points.append)
        job(home / "whole", cache, *TRAINED)
        return points

    points: list[str] = forked(traced)["result"]
    kinds = {kind: [at for at, point in enumerate(points) if point == kind] for kind in points}
    outcomes = []
    for at in sorted({at for places in kinds.values() for at in (*places[:2], places[-1])}):
        folder, count = home / str(at), iter(range(len(points)))

        def strike(folder: Path = folder, at: int = at, count: Any = count) -> None:
            watch(lambda _: os.kill(os.getpid(), signal.SIGKILL) if next(count) == at else None)
            job(folder, cache, *TRAINED)

        def resume(folder: Path = folder) -> str:
            before = status(folder)["status"] if (folder / "status.json").exists() else "none"
            try:
                job(folder, cache, f"resume={folder}")
            except RunError:
                return f"{before}, refused"
            assert_same_run(home / "whole", folder)
            assert not names(folder, "*.part")
            return f"{before}, resumed"

        ended = forked(strike)
        outcomes.append({"point": points[at], "code": ended["code"], "then": forked(resume)["result"]})
    return outcomes


if __name__ == "__main__":
    kind, home = sys.argv[1], Path(sys.argv[2])
    cache = home / "cache"
    printed = os.dup(1)
    os.dup2(2, 1)  # what jobs print
    home.chmod(0o755)
    warm = Cli(home / "warm", cache).here(*LINE, f"data.cache_dir={cache}", "hydra.run.dir=run").ok()
    if kind == "lacking":
        outcome: Any = lacking(home, cache)
    else:
        job(home / "warm" / "run2", cache, *TRAINED)
        outcome = kills(home, cache)
    os.write(printed, json.dumps(outcome).encode())
