"""Training on several devices: the batch is shared equally, and further processes are started from the run's folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from lightning.pytorch.strategies.launchers import subprocess_script

from fragrecon.config import plugins
from fragrecon.config.schema import DataConfig
from fragrecon.errors import ConfigError

_WATCH = "_launch_process_observer"
_SET_BY_LIGHTNING = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def check_share(data: DataConfig, processes: int) -> None:
    """Check that a batch can be shared equally, before any process is started.

    Args:
        data: settings of the data.
        processes: number of processes that share a batch.

    Raises:
        ConfigError: the number of puzzles is not a multiple of ``processes``, or a process gets too few images.
    """
    per_batch = data.puzzles_per_batch
    if per_batch % processes:
        raise ConfigError(
            f"data.puzzles_per_batch={per_batch} cannot be shared equally by {processes} processes; "
            f"use a multiple of {processes}"
        )
    images = per_batch // processes * data.images_per_puzzle
    if data.images_range and data.images_range[1] > images:
        raise ConfigError(
            f"data.images_range={data.images_range} needs up to {data.images_range[1]} images, but each of {processes} "
            f"processes gets only {images} images per batch; increase data.puzzles_per_batch"
        )


@contextmanager
def started_from(folder: Path) -> Iterator[None]:
    """Start further processes by ``python -m fragrecon.jobs.train FOLDER`` within the block.

    By default Lightning repeats the command line of this process, which may be that of a whole sweep; the config saved
    in the run's folder does not depend on the command, launcher or notebook that started the first process. They trust
    the packages that this process trusts, which a saved config does not name. Environment
    variables that Lightning sets are removed at the end, as they would make the next job of a sweep believe that it is
    a further process. Lightning's watching thread is disabled: it would kill this process, and with it the sweep,
    after a failure. It is not needed, because the end of one process is an error in all that wait for it.
    """
    main, arguments = sys.modules["__main__"], sys.argv
    module, variables = getattr(main, "__spec__", None), dict(os.environ)
    main.__spec__, sys.argv = find_spec("fragrecon.jobs.train"), [arguments[0], str(folder.absolute())]
    os.environ[plugins.VARIABLE] = ",".join(sorted(plugins.named()))
    watch = getattr(subprocess_script, _WATCH)
    setattr(subprocess_script, _WATCH, lambda processes: None)
    try:
        yield
    finally:
        setattr(subprocess_script, _WATCH, watch)
        main.__spec__, sys.argv = module, arguments
        for name in _SET_BY_LIGHTNING:
            if name not in variables:
                os.environ.pop(name, None)
        os.environ[plugins.VARIABLE] = variables.get(plugins.VARIABLE, "")
