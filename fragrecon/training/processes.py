"""How the further processes of a training on several devices are started."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from lightning.pytorch.strategies.launchers import subprocess_script

_WATCH = "_launch_process_observer"
_SET_BY_LIGHTNING = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@contextmanager
def started_from(folder: Path) -> Iterator[None]:
    """Let further processes be started from a run's folder in the block.

    Lightning starts them by the command line of this process, which may be that of a whole sweep. What it leaves in the
    environment would make the next job of a sweep take itself for such a process. And the thread by which it watches
    over them would kill this process, and with it the sweep, within seconds of a failure; none is needed, as the end of
    one process is an error to all that wait for it.
    """
    main, arguments = sys.modules["__main__"], sys.argv
    module, variables = getattr(main, "__spec__", None), dict(os.environ)
    main.__spec__, sys.argv = find_spec("fragrecon.rank"), [arguments[0], str(folder.absolute())]
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
