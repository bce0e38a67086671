"""Configuration of Sphinx. Pages are Markdown (MyST); `generate` writes those that follow from code and results."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # of `python` in the tutorials
os.environ["XDG_CACHE_HOME"] = str(HERE / "_build" / "cache")  # of converted images
os.environ["TTY_COMPATIBLE"] = "0"  # no colours in the output of the tutorials
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))

import generate  # noqa: E402
import references  # noqa: E402
from nbclient import NotebookClient  # noqa: E402

generate.main()

project = "fragrecon"
copyright = "the authors of fragrecon"
exclude_patterns = ["_build", "generated"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

nitpicky = True  # links lead to pages of this site only, so that it builds without a network
nitpick_ignore_regex = [
    ("py:(class|exc)", r"(?!fragrecon\.).*"),
    ("py:class", r"fragrecon\..*\._.*"),
    ("py:obj", r"typing\..*"),
]
default_role = "py:obj"  # of `names` in docstrings
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
python_use_unqualified_type_names = True
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_ivar = True

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_timeout = 600  # seconds per cell, on a machine that is busy with tests
nb_execution_raise_on_error = True
nb_render_markdown_format = "myst"  # so that a table is one
NotebookClient.coalesce_streams = True  # `nb_merge_streams` would break lines: output comes in parts of 100 characters

html_theme = "furo"
html_title = "fragrecon"
html_copy_source = False
html_show_sphinx = False


def setup(app):
    """Connect the handlers of references."""
    app.connect("autodoc-process-docstring", references.without_type, priority=400)
    app.connect("missing-reference", references.resolve)
