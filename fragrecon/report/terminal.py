"""What a run prints at its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

ROWS = {
    "kmeans_ari": "KMeans ARI",
    "kmeans_nmi": "KMeans NMI",
    "kmeans_purity": "KMeans purity",
    "kmedoids_ari": "KMedoids ARI",
    "kmedoids_nmi": "KMedoids NMI",
    "kmedoids_purity": "KMedoids purity",
    "mean_clustering_score": "mean score",
}


def print_metrics(metrics: Mapping[str, Any], folder: Path, console: Console | None = None) -> None:
    """A table of the model beside its baselines, where the record lies, and how long each part took."""
    console = console or Console()
    protocol, scores = metrics["protocol"], metrics["scores"]
    model, name = metrics["model"]["name"], metrics["data"]["name"]
    table = Table(
        title=f"{model} on {protocol['puzzles']} test puzzles of {protocol['images_per_puzzle']} {name} images",
        caption="mean ± half its 95% interval over puzzles; differences are paired",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("")
    differences = [method for method in metrics["model_minus"] if method != "random"]
    for method in scores:
        table.add_column(method.replace("_", " "), justify="right", style="bold" if method == "model" else "")
    for method in differences:
        table.add_column(f"- {method.replace('_', ' ')}", justify="right")
    for metric, label in ROWS.items():
        cells = [_cell(scores[method][metric]) for method in scores]
        cells += [_cell(metrics["model_minus"][method][metric], sign="+") for method in differences]
        table.add_row(label, *cells)
    console.print(table)
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in metrics["seconds"].items())
    console.print(f"time: {seconds}")
    console.print(f"record: {folder}", soft_wrap=True)


def _cell(summary: Mapping[str, Any], sign: str = "") -> str:
    mean = format(summary["mean"], f"{sign}.4f")
    if summary["ci95"] is None:
        return mean
    low, high = summary["ci95"]
    half = f"{(high - low) / 2:.4f}".removeprefix("0")
    return f"{mean} ±{half}"
