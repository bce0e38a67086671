"""Writes the tables of the pages from the metrics.json and metrics.csv files in ``experiments/results/``.

A page holds a table between two comments; the first says what to show, and names the results in the order of the rows:

    <!-- scores: baselines/pca baselines/conv -->
    <!-- end of table -->

``scores`` shows the final scores (NAME.json), ``epochs`` the course of training (NAME.csv).
"""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PAGES = [HERE.parent / "README.md", *sorted(HERE.glob("*.md"))]
MARKED = re.compile(r"(<!-- (?P<kind>scores|epochs): (?P<names>[^>]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
SELECTION = "val_mean_clustering_score"
COLUMNS = {
    "kmeans_ari": "KMeans ARI",
    "kmeans_nmi": "NMI",
    "kmeans_purity": "purity",
    "kmedoids_ari": "KMedoids ARI",
    "mean_clustering_score": "mean score",
}


def scores(names: list[str]) -> str:
    """A row a baseline and a result: means with half their 95% intervals, and the paired difference to raw pixels."""
    results = {name: json.loads((HERE / "results" / f"{name}.json").read_text()) for name in names}
    first = next(iter(results.values()))
    heads = ["", "parameters", *COLUMNS.values(), "KMeans ARI - raw pixels"]
    rows = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
    for baseline in ("random", "raw_pixels"):
        found = first["scores"][baseline]
        if any(result["scores"][baseline] != found for result in results.values()):
            raise ValueError(f"{names} were not scored on the same puzzles: their {baseline} differs")
        rows.append([baseline.replace("_", " "), "", *(cell(found[metric]) for metric in COLUMNS), ""])
    for name, result in results.items():
        difference = cell(result["model_minus"]["raw_pixels"]["kmeans_ari"], sign="+")
        found = [cell(result["scores"]["model"][metric]) for metric in COLUMNS]
        rows.append([f"`{name.rpartition('/')[2]}`", f"{result['model']['parameters']:,}", *found, difference])
    return lines(rows)


def epochs(names: list[str]) -> str:
    """A row a training: its best epoch by the selection metric, and its last."""
    figures = ["validation loss", "validation score"]
    heads = ["", "best epoch", "step", *figures, "last epoch", *figures]
    rows = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
    for name in names:
        with (HERE / "results" / f"{name}.csv").open(newline="") as file:
            course = list(csv.DictReader(file))
        best, last = max(course, key=lambda row: float(row[SELECTION])), course[-1]
        shown = [[f"{float(row['val/loss']):.4f}", f"{float(row[SELECTION]):.4f}"] for row in (best, last)]
        rows.append([f"`{name.rpartition('/')[2]}`", best["epoch"], best["step"], *shown[0], last["epoch"], *shown[1]])
    return lines(rows)


def lines(rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def cell(summary: dict[str, Any], sign: str = "") -> str:
    low, high = summary["ci95"]
    return f"{summary['mean']:{sign}.4f} ± {(high - low) / 2:.4f}"


def filled(page: str) -> str:
    """The page with its tables as the results have them."""
    kinds = {"scores": scores, "epochs": epochs}
    return MARKED.sub(lambda found: found[1] + kinds[found["kind"]](found["names"].split()) + found[4], page)


def main() -> None:
    for path in PAGES:
        text = path.read_text()
        if (new := filled(text)) != text:
            path.write_text(new)
            print(f"wrote {path}")


if __name__ == "__main__":
    main()
