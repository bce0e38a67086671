"""Draw a hyperparameter search: scores by trial and by parameter, and the importance of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fragrecon.report.figures.plotting import PALETTE, blank, save, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fragrecon.runs.studies import Search, Trial

WIDE = 20
"""Ratio of the largest to the smallest value of a parameter from which its axis is logarithmic."""


def draw(search: Search, folder: Path) -> None:
    """Write ``search_history.png``, ``search_parameters.png`` and ``search_importance.png``.

    Args:
        search: study; nothing is drawn if no trial has a value.
        folder: folder of the figures.
    """
    if any(trial.value is not None for trial in search.trials):
        save(history_figure(search), folder / "search_history.png")
        save(parameters_figure(search), folder / "search_parameters.png")
    if search.importances:
        save(importance_figure(search.importances), folder / "search_importance.png")


def history_figure(search: Search) -> Figure:
    """Plot the value of each trial and the best one so far.

    Args:
        search: a study with at least one trial that has a value.

    Returns:
        The figure.
    """
    from matplotlib.ticker import MaxNLocator

    figure = blank(6, 3)
    axes = figure.subplots()
    _draw(axes, search, lambda trial: trial.number)
    complete = [trial for trial in search.trials if trial.value is not None and not trial.is_pruned]
    best, steps = max if search.maximise else min, [trial.number for trial in complete]
    leading = [best(_value(trial) for trial in complete[: place + 1]) for place in range(len(complete))]
    axes.plot(steps, leading, drawstyle="steps-post", color="black", linewidth=1, label="best so far")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial", fontsize=8)
    axes.set_ylabel("validation score", fontsize=8)
    figure.legend(loc="outside upper center", ncols=3, fontsize=7, frameon=False)
    return figure


def importance_figure(importances: dict[str, float]) -> Figure:
    """Plot the importance of each parameter as a bar.

    Args:
        importances: importance by parameter, largest first.

    Returns:
        The figure.
    """
    figure = blank(6, 0.6 + 0.3 * len(importances))
    axes = figure.subplots()
    axes.barh(list(importances), list(importances.values()), color="0.5")
    axes.invert_yaxis()
    axes.set_xlabel("importance", fontsize=8)
    tidy(axes)
    return figure


def parameters_figure(search: Search) -> Figure:
    """Plot the values of all trials against each parameter.

    Args:
        search: a study with at least one trial that has a value.

    Returns:
        The figure, with one panel per parameter.
    """
    names = list(dict.fromkeys(name for trial in search.trials for name in trial.params))
    figure = blank(3 * len(names), 3)
    panels: Sequence[Axes] = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for name, axes in zip(names, panels, strict=True):
        values = [trial.params[name] for trial in search.trials if name in trial.params]
        numeric = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
        if numeric and min(values) > 0 and max(values) / min(values) >= WIDE:
            axes.set_xscale("log")
        _draw(axes, search, lambda trial, name=name, numeric=numeric: _place(trial, name, numeric))
        axes.set_xlabel(name, fontsize=8)
    panels[0].set_ylabel("validation score", fontsize=8)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=7, frameon=False
    )
    return figure


def _place(trial: Trial, name: str, numeric: bool) -> Any:
    value = trial.params.get(name)
    return value if numeric or value is None else str(value)


def _draw(axes: Axes, search: Search, place: Any) -> None:
    """Draw complete trials as points and pruned ones as crosses."""
    tidy(axes)
    valued = [trial for trial in search.trials if trial.value is not None and place(trial) is not None]
    for pruned, label, marker, colour in ((False, "complete", "o", PALETTE[0]), (True, "pruned", "x", PALETTE[1])):
        shown = [trial for trial in valued if trial.is_pruned == pruned]
        if shown:
            places, values = [place(trial) for trial in shown], [_value(trial) for trial in shown]
            axes.scatter(places, values, s=14, marker=marker, color=colour, label=label)


def _value(trial: Trial) -> float:
    assert trial.value is not None
    return trial.value
