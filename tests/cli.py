"""Runs jobs for the tests: as a command line in a process of its own, or here in this process."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import hydra
import pytest
import torch
from filelock import FileLock
from hydra.core.global_hydra import GlobalHydra

import fragrecon
from fragrecon import jobs
from fragrecon import run as command

ROOT = Path(fragrecon.__file__).parents[1]
TIMEOUT = 600.0
SMALL = (
    "data.reader.train_images=300",
    "data.reader.test_images=60",
    "data.puzzles_per_batch=2",
    "data.epochs=2",
    "evaluation.puzzles=5",
    "evaluation.validation_puzzles=4",
    "evaluation.train_puzzles=2",
    "evaluation.restarts=2",
    "model=conv",
)
"""Settings of a run of a quick model that takes about a second beside the start of Python; an epoch has 14 batches."""


@dataclass(frozen=True)
class Result:
    """How a process ended."""

    code: int
    stdout: str
    stderr: str

    def ok(self) -> Result:
        assert self.code == 0, self.stderr
        return self

    def refusal(self) -> str:
        """The one message on stderr of a command that was refused for something its user can mend."""
        assert self.code not in (0, None)
        assert self.stderr.startswith("error: "), self.stderr
        assert self.stderr.count("\n") == 1, self.stderr
        return self.stderr.removeprefix("error: ").strip()


class Cli:
    """Starts ``python -m fragrecon.run`` in a folder.

    Args:
        home: working folder, where ``outputs/`` and ``multirun/`` appear.
        cache: where converted images are kept.
    """

    def __init__(self, home: Path, cache: Path) -> None:
        self.home, self.cache = home, cache
        home.mkdir(parents=True, exist_ok=True)

    def environment(self, **changes: str) -> dict[str, str]:
        ours = ("HYDRA_", "WANDB_", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_", "COLUMNS")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        own = {
            "XDG_CACHE_HOME": str(self.cache),
            "MPLCONFIGDIR": str(self.cache / "matplotlib"),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
        return kept | own | changes

    def start(self, *arguments: object, **changes: str) -> subprocess.Popen[str]:
        line = [sys.executable, "-m", "fragrecon.run", *map(str, arguments)]
        return subprocess.Popen(
            line,
            cwd=self.home,
            env=self.environment(**changes),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell that started the tests in the background has processes ignore Ctrl-C.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, *arguments: object, **changes: str) -> Result:
        return finish(self.start(*arguments, **changes))

    def here(self, *arguments: object) -> Result:
        """Run the command in this process, without the figures of its jobs."""
        with pytest.MonkeyPatch.context() as patch, one_thread(), _own_log():
            patch.setenv("HYDRA_FULL_ERROR", "0")
            patch.setenv("FRAGRECON_TRACEBACK", "0")
            patch.setenv("XDG_CACHE_HOME", str(self.cache))
            patch.setattr(sys, "argv", ["fragrecon", *map(str, arguments)])
            patch.setattr(command, "_sweep", None)
            patch.setattr("fragrecon.report.results.write", Mock())
            patch.chdir(self.home)
            GlobalHydra.instance().clear()
            out, err, code, handler = io.StringIO(), io.StringIO(), 0, signal.getsignal(signal.SIGINT)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    command.main()
                except SystemExit as stop:
                    code = stop.code if isinstance(stop.code, int) else 1
                    err.write(f"{stop.code}\n" if isinstance(stop.code, str) else "")
                finally:
                    signal.signal(signal.SIGINT, handler)
        return Result(code, out.getvalue(), err.getvalue())

    def stopped(self, moment: Callable[[], bool], signal_number: int, *arguments: object) -> Result:
        """Start a command, and send it a signal as soon as ``moment()`` holds."""
        process = self.start(*arguments)
        try:
            wait_until(lambda: moment() or process.poll() is not None)
            assert process.poll() is None, f"ended before it could be stopped: {process.communicate()}"
            process.send_signal(signal_number)
        except BaseException:
            process.kill()
            raise
        return finish(process)


def finish(process: subprocess.Popen[str]) -> Result:
    try:
        stdout, stderr = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        process.communicate()
        raise
    return Result(process.returncode, stdout, stderr)


def wait_until(condition: Callable[[], bool], timeout: float = TIMEOUT) -> None:
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("what was waited for did not happen")
        time.sleep(0.002)


def shared_cache(factory: pytest.TempPathFactory) -> Path:
    """A cache folder for all tests, also of other workers, so that each data set is converted once."""
    return shared_folder(factory) / "cache"


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of a test run have in common."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def shared_run(factory: pytest.TempPathFactory, name: str, *overrides: object) -> Path:
    """The folder of a finished run, made by the first test of any worker that asks for it; only to be read."""
    folder = shared_folder(factory) / "runs" / name
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / "finished").exists():
            job(folder / "run", shared_cache(factory), *overrides, figures=True)
            (folder / "finished").touch()
    return folder / "run"


def job(folder: Path, cache: Path, *overrides: object, figures: bool = False) -> dict[str, Any] | None:
    """Do a job in this process, in a given folder, as the command line would.

    Args:
        folder: of the record.
        cache: folder of converted images.
        overrides: of the config.
        figures: whether a scoring draws its figures, which takes longer than a small job itself.
    """
    given = [str(override) for override in overrides]
    placed = [] if any(text.startswith("resume=") for text in given) else [f"data.cache_dir={cache}"]
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(command.CONF), version_base="1.3"):
        composed = hydra.compose("config", [*placed, *given])
    folder.mkdir(parents=True, exist_ok=True)
    with one_thread(), pytest.MonkeyPatch.context() as patch:
        if not figures:
            patch.setattr("fragrecon.report.results.write", Mock())
        return jobs.run_job(composed, folder, given)


@contextlib.contextmanager
def _own_log() -> Iterator[None]:
    """Undo what Hydra changes of the root logger."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def status(folder: Path) -> dict[str, Any]:
    return read_json(folder / "status.json")


def metrics(folder: Path) -> dict[str, Any]:
    return read_json(folder / "metrics.json")


def read_json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text())
    return value


def rows(folder: Path) -> list[dict[str, str]]:
    """Rows of ``metrics.csv`` but for the time they took."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def table(folder: Path) -> list[dict[str, str]]:
    """Rows of the leaderboard of a sweep."""
    with (folder / "leaderboard.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def checkpoint(folder: Path, name: str = "last.ckpt") -> dict[str, Any]:
    contents: dict[str, Any] = torch.load(folder / "checkpoints" / name, weights_only=True)
    return contents


def best(folder: Path) -> Path:
    """The one best checkpoint of a run."""
    (found,) = (folder / "checkpoints").glob("best-*.ckpt")
    return found


def weights(folder: Path, name: str = "last.ckpt") -> dict[str, torch.Tensor]:
    """All that the checkpoint holds of the model and the objective, without running means of figures."""
    state: dict[str, torch.Tensor] = checkpoint(folder, name)["state_dict"]
    return {key: value for key, value in state.items() if not key.startswith("means.")}


def assert_same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert list(first) == list(second)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def assert_same_run(first: Path, second: Path) -> None:
    """Bit-identical weights, figures and scores, and the same checkpoint selected."""
    assert_same_weights(weights(first), weights(second))
    assert_same_weights(*(checkpoint(folder).get("trained_weights", {}) for folder in (first, second)))
    assert rows(first) == rows(second)
    scored = [(folder / "metrics.json").exists() for folder in (first, second)]
    assert scored[0] == scored[1]
    assert not scored[0] or metrics(first)["scores"] == metrics(second)["scores"]
    assert best(first).name == best(second).name
    assert_same_weights(weights(first, best(first).name), weights(second, best(second).name))


def fingerprint(folder: Path) -> dict[str, str]:
    """A hash of each file under a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def names(folder: Path, pattern: str = "*") -> Sequence[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(pattern))
