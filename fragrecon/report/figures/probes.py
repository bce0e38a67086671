"""Draw the learning curves and confusion matrices of probes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from fragrecon.evaluation.probes.base import FittedProbe
from fragrecon.evaluation.probes.scoring import ProbeResults
from fragrecon.report.figures.plotting import STYLES, blank, draw_matrix, epochs_figure, save, wrapped
from fragrecon.report.metrics import label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = {"cross_entropy": "cross-entropy, nats", "accuracy": "accuracy"}
PARTS = {"training": "train", "validation": "validation"}
COUNTED, NAMED = 20, 200
"""Maximum number of classes for numbers in the cells, and for class names on the axes."""


def draw(probed: ProbeResults, model: str, folder: Path) -> None:
    """Write ``probe_confusion.png`` for the first probe and, if there is an MLP, ``probe_mlp_curves.png``.

    Args:
        probed: results of the probes.
        model: name of the model.
        folder: folder of the figures.
    """
    if "mlp" in probed.fitted:
        save(curves_figure(probed.fitted["mlp"], f"MLP on {model}"), folder / "probe_mlp_curves.png")
    name, predictions = next(iter(probed.predictions.items()))
    figure = confusion_figure(probed.test.labels, predictions.classes, probed.classes, f"{label(name)} on {model}")
    save(figure, folder / "probe_confusion.png")


def curves_figure(fitted: FittedProbe, title: str) -> Figure:
    """Plot cross-entropy and accuracy in training and validation by epoch."""
    panels = {
        name: {
            curve: [(trial["epoch"], trial[f"{PARTS[curve]}_{metric}"]) for trial in fitted.trials] for curve in STYLES
        }
        for metric, name in PANELS.items()
    }
    return epochs_figure(panels, fitted.trials[fitted.chosen]["epoch"], title)


def confusion_figure(labels: Tensor, predicted: Tensor, classes: Sequence[str], title: str) -> Figure:
    """Draw a confusion matrix: the share of each true class (row) that is predicted as each class (column).

    Args:
        labels: true classes (M,). The row of a class without images is empty.
        predicted: predicted classes (M,).
        classes: names of the classes.
        title: title of the figure.

    Returns:
        The figure.
    """
    from sklearn.metrics import confusion_matrix  # slow to import

    count = len(classes)
    counted = count <= COUNTED
    table = confusion_matrix(labels.numpy(), predicted.numpy(), labels=range(count)).astype(float)
    images = table.sum(1, keepdims=True)
    shares = 100 * np.divide(table, images, out=np.full_like(table, np.nan), where=images > 0)
    side = float(np.clip(0.32 * count, 2.6, 6.4)) if counted else 8.5
    font = 7 if counted else max(3.0, min(7.0, 0.8 * 72 * side / count))
    figure = blank(side + 1.2, side + 1.2)
    axes = figure.subplots()
    drawn = draw_matrix(axes, shares, np.nanmax(shares), 6 if counted else None)
    if not counted:
        bar = figure.colorbar(drawn, shrink=0.5, pad=0.01, format="%.0f%%")
        bar.ax.tick_params(labelsize=7)
        bar.outline.set_visible(False)
    if count <= NAMED:
        axes.set_xticks(range(count), classes, fontsize=font, rotation=90)
        axes.set_yticks(range(count), classes, fontsize=font)
    axes.spines[:].set_color("0.8")
    axes.set_xlabel("predicted class", fontsize=8)
    axes.set_ylabel("class", fontsize=8)
    unit = ", shares in %" if counted else ""
    accuracy = float((labels == predicted).double().mean())
    title += f"\naccuracy {accuracy:.1%} on {len(labels):,} test images{unit}"
    axes.set_title(wrapped(title, side + 1.2), fontsize=7)
    return figure
