"""A further process of a training on several devices: does what the first does, by the config in the run's folder.

Lightning starts it by ``python -m fragrecon.rank FOLDER``. So all processes have the same configuration, whatever
command, sweep, launcher or notebook started the first.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from fragrecon import jobs
from fragrecon.errors import FragreconError
from fragrecon.runs.read import load_run
from fragrecon.runs.write import Record


def main() -> None:
    """Train as one of several processes."""
    logging.getLogger("fragrecon").setLevel(logging.WARNING)  # the first process speaks for all
    folder = Path(sys.argv[1])
    try:
        jobs.run(load_run(folder).config, Record(folder, writes=False), [])
    except KeyboardInterrupt:
        sys.exit(130)
    except FragreconError:
        sys.exit(1)  # the first process says why


if __name__ == "__main__":
    main()
