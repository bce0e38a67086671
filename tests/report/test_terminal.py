from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from fragrecon.evaluation.protocol import METRICS
from fragrecon.report.terminal import ROWS, print_metrics


def summary(mean: float, half: float | None = 0.0123) -> dict[str, Any]:
    interval = None if half is None else [mean - half, mean + half]
    return {"mean": mean, "std": half, "ci95": interval, "n": 5 if half is not None else 1}


def written(half: float | None = 0.0123) -> dict[str, Any]:
    """A ``metrics.json`` in which each figure tells method and metric: method in the first digit, metric after it."""
    methods = ("random", "raw_pixels", "model")
    scores = {
        method: {metric: summary(number / 10 + place / 1000, half) for place, metric in enumerate(METRICS, 1)}
        for number, method in enumerate(methods, 1)
    }
    return {
        "protocol": {"puzzles": 1000, "images_per_puzzle": 10},
        "scores": scores,
        "model_minus": {
            "random": {metric: summary(0.25, half) for metric in METRICS},
            "raw_pixels": {metric: summary(-0.0625, half) for metric in METRICS},
        },
        "model": {"name": "SupervisedClassifier"},
        "data": {"name": "imagenet64"},
        "seconds": {"data": 1.25, "training": 3723.5, "evaluation": 12.0},
    }


def shown(metrics: dict[str, Any], width: int = 80, folder: str = "outputs/run") -> list[str]:
    file = io.StringIO()
    print_metrics(metrics, Path(folder), Console(file=file, width=width))
    return file.getvalue().splitlines()


def test_each_metric_has_a_row_with_every_methods_figure() -> None:
    lines = shown(written())
    for metric, label in ROWS.items():
        (line,) = (line for line in lines if line.strip().startswith(label + " "))
        figures = re.findall(r"([+-]?\d\.\d{4}) ±(\.\d{4})", line)
        place = METRICS.index(metric) + 1
        expected = [f"{number / 10 + place / 1000:.4f}" for number in (1, 2, 3)]
        assert figures == [(figure, ".0123") for figure in (*expected, "-0.0625")]


def test_a_gain_is_shown_with_its_sign() -> None:
    metrics = written()
    metrics["model_minus"]["raw_pixels"]["kmeans_ari"] = summary(0.0625)
    assert any("+0.0625" in line for line in shown(metrics))


def test_the_table_fits_a_terminal_of_80_columns() -> None:
    lines = shown(written())
    assert max(cell_len(line.rstrip()) for line in lines) <= 80
    assert not any("…" in line for line in lines)


def test_the_table_tells_what_was_scored_on_what_and_in_what_time() -> None:
    text = "\n".join(shown(written()))
    for part in ("SupervisedClassifier", "1000 test puzzles of 10 imagenet64 images", "raw pixels", "- raw pixels"):
        assert part in text
    assert "data 1.2 s, training 3723.5 s, evaluation 12.0 s" in text


def test_a_single_puzzle_has_no_interval() -> None:
    text = "\n".join(shown(written(half=None)))
    assert "0.3010" in text
    assert "±" not in text.replace("mean ± half", "")


@pytest.mark.parametrize("length", [10, 300])
def test_the_folder_is_never_broken_so_that_it_can_be_copied(length: int) -> None:
    folder = "/runs/" + "x" * length
    assert f"record: {folder}" in shown(written(), folder=folder)
