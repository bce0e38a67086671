"""The working folder on Python's search path.

``python -m`` puts it first, so that any file in it can take the place of a module that the program imports. Commands
remove it. It is put back, at the end, for a trusted package that is found nowhere else.
"""

from __future__ import annotations

import os
import sys


def leave_working_folder() -> None:
    """Remove the working folder from the search path; if fragrecon itself is in it, move it to the end."""
    here = os.getcwd()  # noqa: PTH109 - pathlib is not imported yet, and could be a file of this folder
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    sys.path[:] = [entry for entry in sys.path if entry not in ("", here)]
    if own == here:
        append_working_folder()


def append_working_folder() -> None:
    """Append the working folder to the search path, unless it is on it."""
    here = os.getcwd()  # noqa: PTH109 - see above
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
