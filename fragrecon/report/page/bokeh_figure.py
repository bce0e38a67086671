"""Interactive figures of the page, drawn by Bokeh.

A figure is drawn with the points of its first metric; ``curves.js`` replaces them when another metric is selected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from bokeh.embed import json_item
from bokeh.models import BasicTicker, ColumnDataSource, FactorRange, FixedTicker, HoverTool
from bokeh.models.annotations import Legend, LegendItem
from bokeh.models.renderers import DataRenderer, GlyphRenderer
from bokeh.plotting import figure

from fragrecon.report.tables import number

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444", "#8B5A2B")
"""The Okabe-Ito palette without yellow, which is faint on white."""

DASHES = ("dashed", "dotted", "dotdash", "dashdot")
"""Line styles of references."""
MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "hex", "plus", "star")
FONT = "system-ui, sans-serif"

LOGARITHMIC = 8
"""The axis is logarithmic if the largest number is at least this many times the smallest."""

TICKS = 12
"""Maximum number of values for one tick per value."""


@dataclass(frozen=True)
class Point:
    """A score at a position on the x axis.

    Attributes:
        x: number, or category with an offset from it.
        mean: mean of the score.
        low: lower end of its error bar; the mean if there is none.
        high: upper end of its error bar.
        name: name of the configuration.
        text: the score and its interval, as text.
    """

    x: float | tuple[str, float]
    mean: float
    low: float
    high: float
    name: str
    text: str


@dataclass(frozen=True)
class Line:
    """Points by metric; a reference is drawn with dashes of its own and without markers."""

    name: str
    points: Mapping[str, Sequence[Point]]
    is_reference: bool = False


@dataclass(frozen=True)
class Axis:
    """The x axis.

    Attributes:
        title: title of the axis.
        values: values in order.
        numbers: the values as numbers; None if they are categories.
    """

    title: str
    values: Sequence[str] = ()
    numbers: Mapping[str, float] | None = None

    @property
    def is_logarithmic(self) -> bool:
        found = list(self.numbers.values()) if self.numbers else [0.0]
        return min(found) > 0 and max(found) >= LOGARITHMIC * min(found)

    def place(self, value: str, line: int, lines: int) -> float | tuple[str, float]:
        """Return the position of a value; lines of a category are offset, so that error bars do not overlap."""
        return (value, 0.6 * ((line + 0.5) / lines - 0.5)) if self.numbers is None else self.numbers[value]

    @classmethod
    def of(cls, title: str, found: Iterable[str]) -> Axis:
        """Return the axis for these values."""
        values = in_order(found)
        numbers = {value: known for value in values if (known := number(value)) is not None}
        return cls(title, values, numbers if len(numbers) == len(values) else None)


def in_order(found: Iterable[str]) -> list[str]:
    """Sort distinct values: numerically if all are numbers, else by name."""
    values = sorted(set(found))
    numbers = {value: known for value in values if (known := number(value)) is not None}
    return sorted(values, key=numbers.__getitem__) if len(numbers) == len(values) else values


def draw(axis: Axis, lines: Sequence[Line], title: str, connected: bool) -> dict[str, Any]:
    """Draw a figure.

    Args:
        axis: x axis.
        lines: lines to draw, all with the same metrics.
        title: title of the legend.
        connected: whether the points of a line are connected.

    Returns:
        The figure as JSON for BokehJS, and the points of its lines by metric.
    """
    columns = {metric: [_columns(line.points[metric]) for line in lines] for metric in lines[0].points}
    first = next(iter(columns.values()))
    scale: dict[str, Any] = {"x_range": FactorRange(factors=list(axis.values))}
    if axis.numbers is not None:
        scale = {"x_axis_type": "log" if axis.is_logarithmic else "linear"}
    plot = figure(height=380, sizing_mode="stretch_width", toolbar_location=None, tools="", **scale)
    items: list[LegendItem] = []
    pointed: list[DataRenderer] = []
    for place, line in enumerate(lines):
        source = ColumnDataSource(first[place], name=f"line {place}")
        dash = DASHES[sum(other.is_reference for other in lines[:place]) % len(DASHES)]
        drawn = _dashes(plot, source, dash) if line.is_reference else _marks(plot, source, place, connected)
        items.append(LegendItem(label=line.name, renderers=drawn))
        pointed.append(drawn[-1])
    plot.add_tools(HoverTool(tooltips=[("", "@name"), ("", "@text")], renderers=pointed))
    if len(lines) > 1 or title:
        legend = Legend(items=items, title=title, name="legend", click_policy="hide", orientation="horizontal")
        legend.update(location="top_left", border_line_color=None, margin=0, padding=5, spacing=16)
        legend.update(label_text_font=FONT, title_text_font=FONT, title_text_font_style="normal")
        plot.add_layout(legend, "above")
    across, up = plot.xaxis[0], plot.yaxis[0]
    if axis.numbers and len(axis.numbers) <= TICKS:
        across.ticker = FixedTicker(ticks=list(axis.numbers.values()))
        across.major_label_overrides = {at: value for value, at in axis.numbers.items()}
    if axis.numbers == {}:  # epochs
        across.ticker = BasicTicker(min_interval=1)
    across.axis_label, up.name = axis.title, "score"
    for shown in (across, up):
        shown.update(axis_label_text_font=FONT, axis_label_text_font_style="normal", major_label_text_font=FONT)
        shown.update(axis_line_color="#bbbbbb", major_tick_line_color="#bbbbbb", minor_tick_line_color=None)
    plot.grid.grid_line_color = "#eeeeee"
    plot.update(outline_line_color=None, background_fill_alpha=0, border_fill_alpha=0)
    return {"name": axis.title, "item": json_item(plot), "points": columns}


def _dashes(plot: figure, source: ColumnDataSource, dash: str) -> list[GlyphRenderer[Any]]:
    return [plot.line("x", "mean", source=source, color="#555555", line_dash=dash, line_width=2)]


def _marks(plot: figure, source: ColumnDataSource, place: int, connected: bool) -> list[GlyphRenderer[Any]]:
    """Draw error bars, a line if points are connected, and the markers, last."""
    style: dict[str, Any] = {"source": source, "color": COLOURS[place % len(COLOURS)]}
    drawn: list[GlyphRenderer[Any]] = [
        plot.segment("x", "low", "x", "high", line_width=1.5, **style),
        plot.scatter("x", "low", marker="dash", size=10, line_width=1.5, **style),
        plot.scatter("x", "high", marker="dash", size=10, line_width=1.5, **style),
    ]
    if connected:
        drawn.append(plot.line("x", "mean", line_width=2, **style))
    return [*drawn, plot.scatter("x", "mean", marker=MARKERS[place % len(MARKERS)], size=7, **style)]


def _columns(points: Sequence[Point]) -> dict[str, list[Any]]:
    return {field.name: [getattr(point, field.name) for point in points] for field in fields(Point)}
