"""Pages, comments of ``conf/`` and docstrings use the words of the field."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.cli import ROOT

WORDS = {
    r"tak(?:e|es|ing|en) up|took up|go(?:es)? on with\b": "resume",
    r"(?:of )?one's own|of ones own": "user-supplied or your own",
    r"\btold\b": "given or set",
    r"\bshrunk(?:en)?\b": "downsample",
    r"numbers an embedding": "dimensions",
    r"\bw(?:ear|orn)\b": "corruption or erosion",
    r"\bfree width": "variable width",
    r"\bforet(?:ell|old)": "predict",
    r"\bjudg(?:e|es|ed|ing)\b": "score",
    r"\bpassed over\b": "skip",
    r"\bin (?:their|its) eyes\b": "as computed by",
}
"""Patterns of words and phrases, and what is written instead."""
GENERATED = ("_build", "generated", "results")
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if not {*path.parts} & {*GENERATED}),
    *sorted((ROOT / "experiments").glob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]


def texts() -> Iterator[tuple[str, str]]:
    """Yield each text with the place that it is from."""
    for path in (*PAGES, *sorted((ROOT / "conf").rglob("*.yaml"))):
        yield str(path), path.read_text()
    for path in sorted((ROOT / "fragrecon").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (text := ast.get_docstring(node)):
                yield f"{path}: {getattr(node, 'name', '')}", text


def test_no_text_has_a_word_for_which_the_field_has_another() -> None:
    found = [
        f"{place}: {match[0]!r}; write {instead}"
        for place, text in texts()
        for pattern, instead in WORDS.items()
        for match in re.finditer(pattern, text, re.IGNORECASE)
    ]
    assert not found, "\n".join(found)
