"""Training on several devices: further processes are started from the run's folder, and all stop together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies.launchers import subprocess_script

from fragrecon.config import plugins
from fragrecon.errors import FragreconError, TrainingError

POLL_SECONDS = 0.2
"""Time between two looks at other processes."""

_WATCH = "_launch_process_observer"
_READY, _PARENT = "FRAGRECON_READY", "FRAGRECON_PARENT"
_SET_BY_LIGHTNING = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class StopTogether(Callback):
    """Stops all processes after the same batch once one of them has received SIGTERM.

    Lightning's handler waits for the other processes wherever the signal arrives, for instance while a checkpoint is
    written, where they never come. This one only notes the signal.
    """

    def __init__(self) -> None:
        self.asked = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.world_size > 1 and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._note)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        if trainer.world_size > 1:
            asked = torch.tensor(float(self.asked), device=trainer.strategy.root_device)
            together = trainer.strategy.reduce(asked, reduce_op="max")
            trainer._signal_connector.received_sigterm = bool(together)

    def _note(self, *_: Any) -> None:
        self.asked = True


@contextmanager
def started_from(folder: Path) -> Iterator[None]:
    """Start further processes by ``python -m fragrecon.jobs.train FOLDER`` within the block.

    By default Lightning repeats the command line of this process, which may be that of a whole sweep; the config saved
    in the run's folder does not depend on the command, launcher or notebook that started the first process. They trust
    the packages that this process trusts, which a saved config does not name. Environment
    variables that Lightning sets are removed at the end, as they would make the next job of a sweep believe that it is
    a further process. Lightning's watching thread is replaced: it would kill this process, and with it the sweep, after
    a failure. Instead, this process waits until all others are about to connect, because one that ends before would
    leave it waiting; later, the end of one process is an error in all.

    Raises:
        TrainingError: another process has ended.
    """
    main, arguments = sys.modules["__main__"], sys.argv
    module, variables = getattr(main, "__spec__", None), dict(os.environ)
    main.__spec__, sys.argv = find_spec("fragrecon.jobs.train"), [arguments[0], str(folder.absolute())]
    os.environ[plugins.VARIABLE] = ",".join(sorted(plugins.named()))
    watch, others = getattr(subprocess_script, _WATCH), list[subprocess.Popen[bytes]]()

    def wait(processes: Sequence[subprocess.Popen[bytes]]) -> None:
        others.extend(processes)
        try:
            while len(list(Path(ready).iterdir())) < len(others):
                _raise_ended(others)
                time.sleep(POLL_SECONDS)
        except BaseException:
            for process in others:
                process.terminate()
            raise

    setattr(subprocess_script, _WATCH, wait)
    try:
        with TemporaryDirectory(prefix="fragrecon-") as ready:
            os.environ.setdefault(_READY, ready)
            os.environ.setdefault(_PARENT, str(os.getpid()))
            yield
    except FragreconError:
        raise
    except Exception as error:
        time.sleep(POLL_SECONDS)  # the connection is lost a moment before the process has ended
        _raise_ended(others, error)
        raise
    finally:
        setattr(subprocess_script, _WATCH, watch)
        main.__spec__, sys.argv = module, arguments
        for name in (*_SET_BY_LIGHTNING, _READY, _PARENT):
            if name not in variables:
                os.environ.pop(name, None)
        os.environ[plugins.VARIABLE] = variables.get(plugins.VARIABLE, "")


def _raise_ended(others: Sequence[subprocess.Popen[bytes]], error: Exception | None = None) -> None:
    """Raise `TrainingError` if one of the other processes has failed; ``error`` is what was noticed of it."""
    for rank, process in enumerate(others, 1):
        if process.poll():
            reason = f": {str(error).partition(chr(10))[0]}" if error else " before training began"
            raise TrainingError(
                f"process {rank} of {len(others) + 1} ended with exit code {process.returncode}{reason}"
            ) from error


def report_ready() -> None:
    """Tell the first process, if it started this one, that this one is about to connect to it."""
    if _READY in os.environ and "LOCAL_RANK" in os.environ:
        Path(os.environ[_READY], os.environ["LOCAL_RANK"]).touch()


def end_with_parent() -> None:
    """End this process as soon as the first process, which started it, has ended."""
    parent = int(os.environ[_PARENT])

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
