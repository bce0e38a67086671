"""Figures of classifiers of embeddings: how they learned, and what they take for what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import confusion_matrix
from torch import Tensor

from fragrecon.evaluation.probes.base import FittedProbe
from fragrecon.evaluation.probes.scoring import ProbeResults
from fragrecon.report.figures import puzzles as figures
from fragrecon.report.figures.plots import course, tidy
from fragrecon.report.metrics import label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES = {"train": ("training", "0.5", "--"), "validation": ("validation", "black", "-")}
"""How each is called and drawn."""
PANELS = {"cross_entropy": "cross-entropy, nats", "accuracy": "accuracy"}
COUNTED, NAMED = 20, 200
"""Classes at most where every cell says its share, and where every class says its name."""


def draw(probed: ProbeResults, model: str, folder: Path) -> None:
    """Write ``probe_confusion.png`` of the first classifier, and ``probe_mlp_curves.png`` if there is an MLP.

    Args:
        probed: what is drawn.
        model: what the model is called.
        folder: of the figures.
    """
    if "mlp" in probed.fitted:
        figures.save(curves_figure(probed.fitted["mlp"], f"MLP on {model}"), folder / "probe_mlp_curves.png")
    name, predictions = next(iter(probed.predictions.items()))
    figure = confusion_figure(probed.test.labels, predictions.classes, probed.classes, f"{label(name)} on {model}")
    figures.save(figure, folder / "probe_confusion.png")


def curves_figure(fitted: FittedProbe, title: str) -> Figure:
    """Cross-entropy and accuracy in training and validation, epoch by epoch, and the epoch that was chosen."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(4.8, 4.0), dpi=160, layout="constrained")
    figure.suptitle(title, fontsize=8)
    panels = figure.subplots(2, 1, sharex=True)
    note: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7}
    chosen = fitted.trials[fitted.chosen]
    for axes, (metric, text) in zip(panels, PANELS.items(), strict=True):
        ends = {part: fitted.trials[-1][f"{part}_{metric}"] for part in CURVES}
        for part, (name, colour, style) in CURVES.items():
            course(axes, [(trial["epoch"], trial[f"{part}_{metric}"]) for trial in fitted.trials], style, colour)
            # The name of what ends higher stands higher, also where both end at one place.
            higher = ends[part] > min(ends.values()) or (part == "train" and len(set(ends.values())) == 1)
            place, side = (fitted.trials[-1]["epoch"], ends[part]), "bottom" if higher else "top"
            axes.annotate(name, place, (4, 0), **note, color=colour, va=side)
        axes.axvline(chosen["epoch"], color="0.7", linewidth=0.8, zorder=1)
        axes.plot([chosen["epoch"]], [chosen[f"validation_{metric}"]], "o", color="black", markersize=5)
        axes.margins(y=0.12)
        axes.set_ylabel(text, fontsize=8)
        tidy(axes)
    above: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "ha": "center", "va": "bottom"}
    panels[0].annotate(f"epoch {chosen['epoch']:.0f} chosen", (chosen["epoch"], 1), (0, 2), **note, **above)
    panels[1].set_xlabel("epoch", fontsize=8)
    panels[1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def confusion_figure(labels: Tensor, found: Tensor, classes: Sequence[str], title: str) -> Figure:
    """Which share of the images of each class, a row, is taken for each class, a column.

    Rows of classes without an image stay empty.

    Args:
        labels: true classes (M,).
        found: what the images are taken for (M,).
        classes: what they are called.
        title: what took them for that.
    """
    from matplotlib.figure import Figure

    count = len(classes)
    table = confusion_matrix(labels.numpy(), found.numpy(), labels=range(count)).astype(float)
    images = table.sum(1, keepdims=True)
    shares = np.divide(table, images, out=np.full_like(table, np.nan), where=images > 0)
    side = float(np.clip(0.32 * count, 2.6, 6.4)) if count <= COUNTED else 8.5
    font = 7 if count <= COUNTED else max(3.0, min(7.0, 0.8 * 72 * side / count))
    figure = Figure(figsize=(side + 1.2, side + 1.2), dpi=160, layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(shares, cmap="Greys", vmin=0, vmax=np.nanmax(shares), interpolation="nearest")
    if count <= COUNTED:
        for row, column in np.argwhere(shares >= 0.005):
            colour = "white" if shares[row, column] > np.nanmax(shares) / 2 else "black"
            text = f"{100 * shares[row, column]:.0f}"
            axes.text(column, row, text, fontsize=6, color=colour, ha="center", va="center")
    else:
        bar = figure.colorbar(drawn, shrink=0.5, pad=0.01, format=lambda share, _: f"{share:.0%}")
        bar.ax.tick_params(labelsize=7)
        bar.outline.set_visible(False)
    if count <= NAMED:
        axes.set_xticks(range(count), classes, fontsize=font, rotation=90)
        axes.set_yticks(range(count), classes, fontsize=font)
    axes.tick_params(length=0)
    axes.spines[:].set_color("0.8")
    axes.set_xlabel("taken for", fontsize=8)
    axes.set_ylabel("class", fontsize=8)
    unit = ", shares in %" if count <= COUNTED else ""
    right = float((labels == found).double().mean())
    axes.set_title(f"{title}\n{right:.1%} of {len(labels):,} test images right{unit}", fontsize=7)
    return figure
