"""No words overlap or leave the picture, in all plots with axes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from matplotlib.figure import Figure

from fragrecon.report.figures.bench import bench_figure
from fragrecon.report.figures.clustering import confusion_figure
from fragrecon.report.figures.probes import confusion_figure as probe_confusion_figure
from fragrecon.report.figures.projections import projection_figure
from fragrecon.report.figures.search import history_figure, importance_figure, parameters_figure
from fragrecon.report.figures.training import curves_figure
from tests.report.figures.test_bench import result
from tests.report.figures.test_clustering import example
from tests.report.figures.test_plotting import HISTORY, MONITOR
from tests.report.figures.test_search import made
from tests.report.figures.words import assert_words_apart

MODEL = "AnAutoencoderWithANameOfSomeLength, mean of 16 fragments"


def projection(classes: int) -> Figure:
    random = torch.Generator().manual_seed(0)
    points = torch.rand(200, 2, generator=random) * torch.tensor([10, 1])
    names = [f"a class called {number}" for number in range(classes)]
    title = f"1,000 test images, by principal components of the embeddings\n{MODEL}"
    return projection_figure(points, torch.arange(200) % classes, names, title, ("95% of the variance", "3%"))


def probe(classes: int) -> Figure:
    labels = torch.arange(200) % classes
    return probe_confusion_figure(labels, labels.flip(0), [f"class {n}" for n in range(classes)], f"kNN on {MODEL}")


FIGURES: dict[str, Callable[[], Figure]] = {
    "bench": lambda: bench_figure(result()),
    "confusion of 10": lambda: confusion_figure(example(10)),
    "confusion of 30": lambda: confusion_figure(example(30)),
    "curves": lambda: curves_figure(HISTORY, MONITOR, 1),
    "curves of one epoch": lambda: curves_figure(HISTORY[:1], MONITOR, 0),
    "history": lambda: history_figure(made(True)),
    "importance": lambda: importance_figure({"optimizer.weight_decay": 0.75, "model.latent_dim": 0.25}),
    "parameters": lambda: parameters_figure(made(True)),
    "probe of 2": lambda: probe(2),
    "probe of 20": lambda: probe(20),
    "probe of 100": lambda: probe(100),
    "projection of 3": lambda: projection(3),
    "projection of 20": lambda: projection(20),
    "projection of 50": lambda: projection(50),
}


@pytest.mark.parametrize("name", FIGURES)
def test_no_words_overlap_or_leave_the_picture(name: str) -> None:
    assert_words_apart(FIGURES[name]())


def test_words_that_overlap_are_found() -> None:
    figure = Figure()
    figure.text(0.5, 0.5, "one", rotation=40)
    figure.text(0.5, 0.5, "other")
    with pytest.raises(AssertionError, match="one"):
        assert_words_apart(figure)
