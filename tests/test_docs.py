"""The site in ``docs/``, README and CITATION."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import configuration
import generate
import pytest
import yaml

import fragrecon
from tests.cli import ROOT

DOCS = ROOT / "docs"
SPHINX = ("sphinx", "myst_nb", "furo")


def test_every_key_has_a_type_and_a_meaning() -> None:
    rows = [line.split(" | ") for line in configuration.sections().splitlines() if line.startswith("| `")]
    keys = {key.strip("| `"): (kind, meaning.strip(" |")) for key, kind, _, meaning in rows}
    assert {"seed", "data.augment.crop", "trainer.ema", "evaluation.probe.noise", "export.onnx"} <= set(keys)
    assert all(kind and meaning for kind, meaning in keys.values())
    assert keys["data.corruption.missing"][0] == "float ≥ 0 and < 1"
    assert keys["data.image_size"][0] == "list of 2 int ≥ 1"
    assert keys["trainer.devices"][0] == "int ≥ 1 or `-1` or str or list of int ≥ 0"


@pytest.mark.parametrize("group", ["data", "logger", "model", "objective", "optimizer", "scheduler"])
def test_every_key_of_an_option_has_a_meaning(group: str) -> None:
    for path in configuration.options_of(group):
        for key, _, _, meaning in configuration.keys_of(group, path)[1:]:
            assert meaning or "split" in key, (path, key)


def test_a_table_has_underscores_and_bars_as_they_are() -> None:
    table = configuration.markdown([["key", "meaning"], ["`image_size`", "a package with __init__.py | a *"]])
    assert table.splitlines()[-1] == r"| `image_size` | a package with \_\_init\_\_.py \| a \* |"


def test_no_fault_of_the_table_fails() -> None:
    outcomes = json.loads((DOCS / "faults.json").read_text())["outcomes"]
    assert set(outcomes.values()) <= {"passed", "skipped"}
    assert [line.split(" | ")[1] for line in generate.faults().splitlines() if line.startswith("| ")][2:] == [
        f"{outcome} |" for outcome in outcomes.values()
    ]


def test_every_model_has_a_page() -> None:
    pages = "".join(path.read_text() for path in (DOCS / "models").glob("*.md"))
    for path in configuration.options_of("model"):
        assert f"generated/models/{path.stem}.md" in pages


def test_links_of_the_readme_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 130
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("https://")]
    assert len(links) > 20
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_citation_has_the_version() -> None:
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert found["version"] == fragrecon.__version__


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(
    not all(map(find_spec, SPHINX)),
    reason='the site is not built: Sphinx is not installed; pip install "fragrecon[docs]"',
)
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Without its tutorials, which ``make docs`` runs in minutes; their cells have no lexer then."""
    line = [sys.executable, "-m", "sphinx", "--builder", "html", "--fail-on-warning", "--keep-going", "--quiet"]
    line += ["-D", "nb_execution_mode=off", "-D", "suppress_warnings=myst-nb.lexer"]
    line += ["--jobs", "2", "--doctree-dir", str(tmp_path / "doctrees"), str(DOCS), str(tmp_path / "html")]
    built = subprocess.run(line, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    index = (tmp_path / "html" / "searchindex.js").read_text()
    for name in ("FragmentModel", "load_run"):
        assert name.lower() in index.lower()
