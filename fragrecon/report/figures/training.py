"""Draw losses and scores by epoch of a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fragrecon.report.figures.plotting import Points, epochs_figure
from fragrecon.report.metrics import label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOSSES = {"training": "train/loss", "validation": "val/loss"}


def curves_figure(epochs: Sequence[Mapping[str, float]], monitor: str, selected: int | None) -> Figure:
    """Plot the training and validation loss and, if it is a different metric, the monitored one.

    Args:
        epochs: rows of ``metrics.csv``; metrics may be missing.
        monitor: metric that selects the epoch.
        selected: selected epoch, if any.

    Returns:
        The figure.
    """

    def points(metric: str) -> Points:
        return [(row["epoch"], row[metric]) for row in epochs if metric in row]

    panels = {"loss": {name: points(metric) for name, metric in LOSSES.items()}}
    if monitor not in LOSSES.values():
        name = label(monitor.replace("/", "_").replace("val_", "validation_"))
        panels[name] = {"validation": points(monitor)}
    return epochs_figure(panels, selected)
