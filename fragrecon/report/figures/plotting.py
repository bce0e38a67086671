"""Helpers for plots: figures without a window, colours, axes and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from fragrecon import files

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLES = {"training": ("0.5", "--"), "validation": ("black", "-")}
"""Colour and line style of each curve."""
SPAN = 0.25
"""Minimum range of an axis, relative to its largest absolute value, so that small changes look small."""
PALETTE = (
    *("#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#F0E442", "#000000"),
    *("#772200", "#555555", "#440077", "#CCCCDD", "#0000DD", "#CCAAAA", "#442233", "#8877FF"),
    *("#AADD99", "#774477", "#667777", "#995544"),
)
"""Colours that colour-blind readers can distinguish.

The first eight are those of Okabe and Ito (Color Universal Design, 2008). Each further one is the colour farthest, by
CIEDE2000, from those before it, to normal and to simulated dichromatic vision (Machado et al., 2009).
"""
MARKERS, DASHES = "os^Dv", ("-", "--", ":")
"""Markers and line styles, so that points and curves do not differ by colour only."""
NOTE: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7}
"""Style of annotations."""

Points = Sequence[tuple[float, float]]


def blank(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """Create an empty figure of a size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=160, layout=layout)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file, atomically."""
    with files.atomic_file(path) as file:
        figure.savefig(file, format="png")


def wrapped(title: str, width: float) -> str:
    """Break the lines of a title to fit a width in inches."""
    return "\n".join(fill(line, int(13 * width)) for line in title.split("\n"))


def tidy(axes: Axes) -> None:
    """Apply the style of all plots: small numbers, a faint grid, no box."""
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)


def colours(count: int) -> list[tuple[float, float, float]]:
    """Return ``count`` RGB colours: those of `PALETTE`, again and again."""
    from matplotlib.colors import to_rgb

    return [to_rgb(PALETTE[number % len(PALETTE)]) for number in range(count)]


def epochs_figure(panels: Mapping[str, Mapping[str, Points]], selected: float | None, title: str = "") -> Figure:
    """Plot values by epoch.

    Args:
        panels: points (epoch, value) of the curves named in `STYLES`, by panel label.
        selected: epoch to mark.
        title: title of the figure.

    Returns:
        The figure.
    """
    from matplotlib.ticker import MaxNLocator

    figure = blank(4.8, 1.6 * len(panels) + 0.8)
    figure.suptitle(wrapped(title, 4.8), fontsize=8)
    above: dict[str, Any] = {**NOTE, "xycoords": ("data", "axes fraction"), "ha": "center", "va": "bottom"}
    all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False).flatten()
    for axes, (name, curves) in zip(all_axes, panels.items(), strict=True):
        drawn = {curve: points for curve, points in curves.items() if points}
        highest = max(drawn, key=lambda curve: drawn[curve][-1][1], default="")
        for curve, points in drawn.items():
            colour, line = STYLES[curve]
            axes.plot(*zip(*points, strict=True), line, color=colour, linewidth=1.2, marker=".", markersize=3)
            if len(curves) > 1:
                side = "bottom" if curve == highest else "top"
                axes.annotate(curve, points[-1], (4, 0), **NOTE, color=colour, va=side)
        if selected is not None:
            axes.axvline(selected, color="0.7", linewidth=0.8, zorder=1)
            marked = [point for point in curves["validation"] if point[0] == selected]
            axes.plot(*np.reshape(marked, (-1, 2)).T, "o", color="black", markersize=5)
        values = [value for points in drawn.values() for _, value in points if np.isfinite(value)]
        if values:
            middle, half = (max(values) + min(values)) / 2, (max(values) - min(values)) / 2
            half = 1.15 * max(half, SPAN / 2 * max(map(abs, values))) or 1.0
            axes.set_ylim(middle - half, middle + half)
        axes.set_ylabel(name, fontsize=7)
        tidy(axes)
    if selected is not None:
        all_axes[0].annotate(f"epoch {selected:.0f} selected", (selected, 1), (0, 2), **above)
    axes.set_xlabel("epoch", fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    epochs = {epoch for curves in panels.values() for points in curves.values() for epoch, _ in points}
    if len(epochs) == 1:
        axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    return figure


def draw_matrix(axes: Axes, values: npt.NDArray[np.float64], most: float, font: float | None) -> Any:
    """Draw a matrix in shades of grey up to ``most``, with its numbers unless the font size is None."""
    drawn = axes.imshow(values, cmap="Greys", vmin=0, vmax=most, interpolation="nearest")
    for row, column in np.argwhere(values >= 0.5) if font else []:
        colour = "white" if values[row, column] > most / 2 else "black"
        axes.text(column, row, f"{values[row, column]:.0f}", fontsize=font, color=colour, ha="center", va="center")
    axes.tick_params(length=0)
    return drawn
