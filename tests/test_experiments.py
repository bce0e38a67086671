"""The pages say what the results say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tables

ROOT = Path(__file__).parents[1]
RESULTS = sorted((ROOT / "experiments" / "results").rglob("*.json"))


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda path: path.name)
def test_a_page_holds_the_tables_that_its_results_give(page: Path) -> None:
    text = page.read_text()
    assert tables.filled(text) == text, "run: make tables"


def test_the_readme_shows_every_model_of_the_baselines() -> None:
    (names,) = re.findall(r"<!-- scores: ([^>]+) -->", (ROOT / "README.md").read_text())
    assert {"baselines/conv", "baselines/linear", "baselines/pca", "baselines/supervised"} <= set(names.split())


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_result_was_scored_by_the_whole_protocol(path: Path) -> None:
    result = json.loads(path.read_text())
    assert result["protocol"]["puzzles"] == 1000
    assert result["protocol"]["images_per_puzzle"] == 10
    assert {"model", "random", "raw_pixels"} <= set(result["scores"])
    random, pixels = result["scores"]["random"], result["scores"]["raw_pixels"]
    assert abs(random["kmeans_ari"]["mean"]) < 0.002
    assert 0.145 < pixels["kmeans_ari"]["mean"] < 0.160


def test_the_table_is_a_row_for_each_method_with_its_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def summary(mean: float) -> dict[str, object]:
        return {"mean": mean, "std": 0.1, "ci95": [mean - 0.01, mean + 0.01], "n": 1000}

    row = dict.fromkeys(tables.COLUMNS, summary(0.25))
    result = {
        "scores": {"random": row, "raw_pixels": row, "model": dict.fromkeys(tables.COLUMNS, summary(0.5))},
        "model_minus": {"raw_pixels": {"kmeans_ari": summary(0.25)}},
        "model": {"parameters": 1234},
    }
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "mine.json").write_text(json.dumps(result))
    monkeypatch.setattr(tables, "HERE", tmp_path)
    lines = tables.filled("<!-- scores: mine -->\nold\n<!-- end of table -->\n").splitlines()
    assert [line.split("|")[1].strip() for line in lines[1:-1]] == ["", "---", "random", "raw pixels", "`mine`"]
    assert "0.5000 ± 0.0100" in lines[-2]
    assert "+0.2500 ± 0.0100" in lines[-2]
    assert "1,234" in lines[-2]


def test_results_of_different_puzzles_are_not_put_into_one_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "results").mkdir()
    for name, mean in (("one", 0.15), ("two", 0.16)):
        scores = {metric: {"mean": mean, "ci95": [mean, mean]} for metric in tables.COLUMNS}
        result = {"scores": {"random": scores, "raw_pixels": scores, "model": scores}}
        (tmp_path / "results" / f"{name}.json").write_text(json.dumps(result))
    monkeypatch.setattr(tables, "HERE", tmp_path)
    with pytest.raises(ValueError, match="same puzzles"):
        tables.scores(["one", "two"])


def test_the_course_of_a_training_is_told_by_its_best_and_its_last_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "results").mkdir()
    rows = ["epoch,step,val/loss,val_mean_clustering_score", "0,5,0.3,0.1", "1,10,0.2,0.4", "2,15,0.1,0.25"]
    (tmp_path / "results" / "mine.csv").write_text("\n".join(rows))
    monkeypatch.setattr(tables, "HERE", tmp_path)
    last = tables.filled("<!-- epochs: mine -->\n<!-- end of table -->\n").splitlines()[-2]
    assert last == "| `mine` | 1 | 10 | 0.2000 | 0.4000 | 2 | 0.1000 | 0.2500 |"


def test_the_spectrum_script_prints_its_tables(tmp_path: Path) -> None:
    small = ["data.reader.train_images=300", "evaluation.validation_puzzles=2", "evaluation.restarts=1"]
    script = [sys.executable, str(ROOT / "experiments" / "spectrum.py"), *small, f"data.cache_dir={tmp_path}"]
    printed = subprocess.run(script, capture_output=True, text=True, check=True, timeout=120).stdout
    leading, cut = (
        [[float(cell) for cell in row.split("|")[1:3]] for row in part.splitlines() if re.match(r"\| \d", row)]
        for part in printed.split("KMeans ARI")
    )
    assert [number for number, _ in leading] == [1, 2, 3]
    assert [count for count, _ in cut] == [3, 6, 12, 24, 64, 128]
    shares = [share for _, share in cut]
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] <= 1
    assert sum(share for _, share in leading) == pytest.approx(shares[0], abs=0.002)
