"""Render a page from its template: text is escaped, and only the inlined scripts may run."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from bokeh.resources import Resources
from itables.utils import read_package_file
from jinja2 import Environment, PackageLoader, StrictUndefined

TEMPLATES = Environment(
    loader=PackageLoader("fragrecon.report.page"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
# Keys are not sorted, because Bokeh objects may only refer to earlier ones; NaN is not valid JSON.
TEMPLATES.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}


def render(template: str, values: Mapping[str, Any]) -> str:
    """Render a page.

    Args:
        template: name of the template.
        values: values of the template's variables.

    Returns:
        The page as HTML.
    """
    scripts = [*_bokeh(), *(_source(name) for name in ("tables.js", "curves.js", "viewer.js"))]
    return TEMPLATES.get_template(template).render(
        values,
        scripts=scripts,
        policy=_policy(scripts),
        style=_source("page.css"),
        datatables=read_package_file("html", "dt_bundle.js"),
        datatables_style=read_package_file("html", "dt_bundle.css"),
    )


def _policy(scripts: Sequence[str]) -> str:
    """Return a Content-Security-Policy that allows only these scripts and no requests.

    ``blob:`` is for DataTables, a module that ``tables.js`` imports from text in the page.
    """
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{found}'" for found in hashes)
    return (
        f"default-src 'none'; script-src {allowed} blob:; style-src 'unsafe-inline'; img-src data:; font-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


@lru_cache
def _bokeh() -> list[str]:
    """Return the source of BokehJS without widgets and tables."""
    return Resources(mode="inline", components=["bokeh"]).js_raw


def _source(name: str) -> str:
    assert TEMPLATES.loader is not None
    return TEMPLATES.loader.get_source(TEMPLATES, name)[0]
