"""The notebooks, executed as such."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fragrecon import load_run
from tests.cli import ROOT, SMALL, Cli, fingerprint, shared_run

jupytext = pytest.importorskip("jupytext")
nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

NOTEBOOK = ROOT / "experiments" / "notebooks" / "fragment_inference.py"
METRICS = ("kmeans_ari", "kmeans_nmi", "kmeans_purity")
PUZZLES = 50

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.slow,
    pytest.mark.skipif(not NOTEBOOK.is_file(), reason="not a checkout"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_run(tmp_path_factory, "conv", *SMALL, "model=conv")


def execute(folder: Path, environment: dict[str, str]) -> Any:
    """Turn the script into a notebook by the command that it names, and run that in a kernel of its own."""
    folder.mkdir()
    notebook = folder / "fragment_inference.ipynb"
    line = [sys.executable, "-m", "jupytext", "--to", "ipynb", "--output", str(notebook), str(NOTEBOOK)]
    subprocess.run(line, check=True, capture_output=True, timeout=60)
    contents = nbformat.read(notebook, as_version=4)
    client = nbclient.NotebookClient(contents, timeout=200, resources={"metadata": {"path": str(folder)}})
    client.execute(env=environment)
    return contents


def printed(notebook: Any) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output["text"] for output in outputs if output["output_type"] == "stream")


def pictures(notebook: Any) -> list[Image.Image]:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    encoded = [output["data"]["image/png"] for output in outputs if "image/png" in output["data"]]
    return [Image.open(io.BytesIO(base64.b64decode(text))) for text in encoded]


def scores(text: str) -> dict[str, list[tuple[float, float]]]:
    """Mean and half of its interval by method, metric by metric, as the notebook prints them."""
    rows = re.findall(r"^(random|raw pixels|model) +(.+)$", text, re.MULTILINE)
    return {
        method: [(float(mean), float(half)) for mean, half in re.findall(r"(-?\d\.\d{4}) ± (\d\.\d{4})", row)]
        for method, row in rows
    }


def assert_shows(notebook: Any, folder: Path) -> None:
    """Scores of the run in this folder beside the baselines, and its clusters."""
    text, run = printed(notebook), load_run(folder)
    found, expected = scores(text), run.evaluate(puzzles=PUZZLES)
    assert list(found) == ["random", "raw pixels", "model"]
    for (mean, half), metric in zip(found["model"], METRICS, strict=True):
        assert mean == pytest.approx(expected[metric]["mean"], abs=6e-5)
        assert mean + half == pytest.approx(expected[metric]["ci95"][1], abs=2e-4)
    assert abs(found["random"][0][0]) < 0.01
    assert found["raw pixels"][0][0] > 0.1
    puzzle, layout = pictures(notebook)
    assert puzzle.width > 1.8 * puzzle.height
    for picture in (puzzle, layout):
        assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 1000  # fragments, not an empty page
    assert f"embeds a fragment as {run.model.latent_dim} numbers on the CPU" in text
    assert f"(10, 3, 64, 64) -> (10, 16, {run.model.latent_dim})" in text


def test_the_notebook_shows_a_given_run(tmp_path: Path, cache: Path, finished: Path) -> None:
    before = fingerprint(finished)
    environment = Cli(tmp_path, cache).environment(FRAGRECON_RUN=str(finished), CUDA_VISIBLE_DEVICES="0")
    notebook = execute(tmp_path / "work", environment)
    assert f"run: {finished}" in printed(notebook)
    assert_shows(notebook, finished)
    assert fingerprint(finished) == before
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["fragment_inference.ipynb"]


def test_without_a_run_the_notebook_trains_one_elsewhere(tmp_path: Path, cache: Path, monkeypatch: Any) -> None:
    (tmp_path / "scratch").mkdir()
    environment = Cli(tmp_path, cache).environment(TMPDIR=str(tmp_path / "scratch"))
    environment.pop("FRAGRECON_RUN", None)
    notebook = execute(tmp_path / "work", environment)
    (folder,) = (tmp_path / "scratch").glob("*/run")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    assert_shows(notebook, folder)
    run = load_run(folder)
    assert run.status["status"] == "done"
    (found,) = {mean for mean, _ in scores(printed(notebook))["model"][:1]}
    assert found == pytest.approx(run.metrics["scores"]["model"]["kmeans_ari"]["mean"], abs=6e-5)
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["fragment_inference.ipynb"]


def test_the_script_says_how_to_open_it_and_holds_no_outputs() -> None:
    notebook = jupytext.read(NOTEBOOK)
    first, code = notebook.cells[0], [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert "jupytext --to ipynb fragment_inference.py" in first.source
    assert 'os.environ["CUDA_VISIBLE_DEVICES"] = ""' in code[0].source
    assert not any(cell.get("outputs") for cell in code)
