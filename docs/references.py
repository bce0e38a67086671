"""References from docstrings: `names` link to what is on a page, and are plain code if they exist elsewhere."""

from __future__ import annotations

import importlib
from pkgutil import resolve_name
from typing import Any

from sphinx.util.nodes import make_refnode


def without_type(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Keep Napoleon from reading the words before a colon in the docstring of an attribute as its type."""
    if what in ("attribute", "data", "property"):
        lines.insert(0, "")


def resolve(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Resolve a reference to an object by the end of its name. A name that is nowhere stays a warning."""
    if node["refdomain"] != "py":
        return None
    target, module, owner = node["reftarget"], node.get("py:module"), node.get("py:class")
    domain = env.get_domain("py")
    found = domain.find_obj(env, module, owner, target, None, 1)
    if found:
        name, entry = found[0]
        return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content, name)
    return content if exists(target, module) else None


def exists(name: str, module: str | None) -> bool:
    """Whether a name is one of a module, of fragrecon, or a full one."""
    if module:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is not None:
            return True
    for full in (name, f"fragrecon.{name}"):
        try:
            resolve_name(full)
        except (ImportError, AttributeError, ValueError):
            continue
        return True
    return False
