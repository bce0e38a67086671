"""Writes the tables of the pages from the metrics.json files in ``experiments/results/``.

A page holds a table between two comments; the first names the results, in the order of the rows:

    <!-- table: baselines/pca baselines/conv -->
    <!-- end of table -->
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PAGES = [HERE.parent / "README.md", *sorted(HERE.glob("*.md"))]
MARKED = re.compile(r"(<!-- table: (?P<names>[^>]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
COLUMNS = {
    "kmeans_ari": "KMeans ARI",
    "kmeans_nmi": "NMI",
    "kmeans_purity": "purity",
    "kmedoids_ari": "KMedoids ARI",
    "mean_clustering_score": "mean score",
}


def table(names: list[str]) -> str:
    """A row a baseline and a result: means with half their 95% intervals, and the paired difference to raw pixels."""
    results = {name: json.loads((HERE / "results" / f"{name}.json").read_text()) for name in names}
    first = next(iter(results.values()))
    heads = ["", "parameters", *COLUMNS.values(), "KMeans ARI - raw pixels"]
    rows = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
    for baseline in ("random", "raw_pixels"):
        scores = first["scores"][baseline]
        if any(result["scores"][baseline] != scores for result in results.values()):
            raise ValueError(f"{names} were not scored on the same puzzles: their {baseline} differs")
        rows.append([baseline.replace("_", " "), "", *(cell(scores[metric]) for metric in COLUMNS), ""])
    for name, result in results.items():
        difference = cell(result["model_minus"]["raw_pixels"]["kmeans_ari"], sign="+")
        scores = [cell(result["scores"]["model"][metric]) for metric in COLUMNS]
        rows.append([f"`{name.rpartition('/')[2]}`", f"{result['model']['parameters']:,}", *scores, difference])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def cell(summary: dict[str, Any], sign: str = "") -> str:
    low, high = summary["ci95"]
    return f"{summary['mean']:{sign}.4f} ± {(high - low) / 2:.4f}"


def filled(page: str) -> str:
    """The page with its tables as the results have them."""
    return MARKED.sub(lambda found: found[1] + table(found["names"].split()) + found[3], page)


def main() -> None:
    for path in PAGES:
        text = path.read_text()
        if (new := filled(text)) != text:
            path.write_text(new)
            print(f"wrote {path}")


if __name__ == "__main__":
    main()
