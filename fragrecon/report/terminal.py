"""Tables printed to the terminal at the end of a run or a sweep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment
from rich.table import Table

from fragrecon.errors import printable
from fragrecon.report import metrics, tables
from fragrecon.report.leaderboard import Leaderboard, caption, short, troubles
from fragrecon.report.metrics import label
from fragrecon.runs.write import PAGE

if TYPE_CHECKING:
    from fragrecon.evaluation.clustering.robustness import Outcome
    from fragrecon.evaluation.statistics import Scores, Summary

TABLES = ((*metrics.CLUSTERING.shown[:3], metrics.CLUSTERING.compared), metrics.COMPOSITE, metrics.WHOLE.shown)
"""Columns of tables; a table is printed if the model has all of its scores."""
MOST_ROWS = 20
"""Maximum number of rows of a leaderboard."""


class _Printable(RenderHook):
    """Shows control characters in printed text as escapes."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_PrintableText(renderable) for renderable in renderables]


class _PrintableText:
    def __init__(self, shown: ConsoleRenderable) -> None:
        self.shown = shown

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for text, style, control in console.render(self.shown, options):
            yield Segment(text if control else printable(text), style, control)


def plain_console() -> Console:
    """Return a console that prints text of files of others literally: neither brackets nor control characters act."""
    console = Console(markup=False)
    console.push_render_hook(_Printable())
    return console


def say(line: str) -> None:
    """Print a line, which is not wrapped."""
    plain_console().print(line, soft_wrap=True)


def print_metrics(record: Mapping[str, Any], folder: Path, console: Console | None = None) -> None:
    """Print the scores of the model and the baselines, and the folder.

    Args:
        record: content of ``metrics.json``.
        folder: folder of the run.
        console: console to print to; by default the terminal.
    """
    console = console or plain_console()
    protocol, every = record["protocol"], metrics.scores_of(record)
    scores = every["model"]
    model, data, over = record["model"]["name"], record["data"]["name"], metrics.samples(protocol)
    title = f"{model} on {protocol['puzzles']} {data} test images"
    if over == "puzzles":
        title = f"{model} on {protocol['puzzles']} test puzzles of {protocol['images_per_puzzle']} {data} images"
    generated = [name for name in metrics.GENERATION.of(scores) if name not in metrics.LATENTS]
    perceptual = [name for name in scores if name.partition("_")[2] in metrics.PERCEPTUAL and name not in generated]
    for columns in (*TABLES, perceptual):
        if columns and set(columns) <= scores.keys():
            console.print(_compared(record, every, title, columns, over))
    if probed := [name for name in metrics.PROBES.of(scores) if name.endswith("accuracy")]:
        embedding = ", ".join(filter(None, (model, protocol["probe_embedding"])))
        title = f"classifiers of embeddings: {embedding}, {record['data']['images']} {data} test images"
        console.print(_compared(record, every, title, probed, "images", prefix="probe "))
    if latents := [name for name in metrics.LATENTS if name in scores]:
        values = (f"{metrics.name(name).removeprefix('generation ')} {_cell(name, scores[name])}" for name in latents)
        console.print(f"latents, compared with the standard normal: {', '.join(values)}", soft_wrap=True)
    if generated:
        title = f"{model}: {protocol['generated_images']} samples of the standard normal"
        console.print(_compared(record, every, title, generated, "", prefix="generation "))
    if set(metrics.REASSEMBLY) <= scores.keys():
        table = _table(
            "reassembly",
            "placed: given which fragments belong together; rebuilt: given the number of images only",
            map(metrics.title, metrics.REASSEMBLY),
        )
        _add_rows(table, every, metrics.REASSEMBLY)
        console.print(table)
    if set(metrics.PAIRS) <= scores.keys():
        values = (f"{metrics.name(name)} {_cell(name, scores[name])}" for name in metrics.PAIRS)
        console.print(f"pairs of fragments: {'; '.join(values)}", soft_wrap=True)
    if caveat := metrics.caveat(record):
        console.print(caveat, soft_wrap=True)
    console.print(f"record: {folder}", soft_wrap=True)


def print_time(seconds: Mapping[str, float], console: Console | None = None) -> None:
    """Print the duration of each part of a job."""
    console = console or plain_console()
    parts = (f"{name} {value:.1f} s" for name, value in seconds.items())
    console.print(f"time: {', '.join(parts)}", soft_wrap=True)


def _compared(
    record: Mapping[str, Any],
    scores: Mapping[str, Mapping[str, Summary]],
    title: str,
    columns: Sequence[str],
    over: str,
    prefix: str = "",
) -> Table:
    """Return a table of the scores of the model and the baselines, and of their differences.

    Args:
        record: content of ``metrics.json``.
        scores: scores by method and metric.
        title: title of the table.
        columns: metrics to show.
        over: unit that the means are over; empty if the scores are not means.
        prefix: prefix of the metric names that the title makes redundant; it is omitted.
    """
    caption = f"mean ± half its 95% interval over {over}; differences are paired" if over else ""
    table = _table(title, caption, (metrics.title(metric).removeprefix(prefix) for metric in columns))
    _add_rows(table, scores, columns)
    minus = {}
    for method, found in record["model_minus"].items():
        single: dict[str, Summary] = {
            metric: {"mean": scores["model"][metric]["mean"] - scores[method][metric]["mean"], "ci95": None}
            for metric in columns
            if metric in scores[method] and metric not in found
        }
        if method != "random" and set(columns) <= (found | single).keys():
            minus[method] = found | single
    if minus:
        table.add_section()
        table.add_row("model minus", style="bold")
    for method, found in minus.items():
        table.add_row(label(method), *(_cell(metric, found[metric], "+") for metric in columns))
    return table


def print_robustness(outcomes: Sequence[Outcome], console: Console | None = None) -> None:
    """Print two tables with one row per condition: KMeans ARI of all methods, and more scores of the model."""
    console = console or plain_console()
    methods = list(dict.fromkeys(m for outcome in outcomes for m in outcome.scores if m not in ("random", "model")))
    first = _table(
        "KMeans ARI under harder conditions",
        "mean ± half its 95% interval",
        ["model", *(label(m) for m in methods)],
    )
    second = _table(
        "the model under harder conditions",
        "unknown-N: number of images estimated; N error: absolute error of the estimate",
        map(metrics.title, metrics.ROBUST),
    )
    for number, outcome in enumerate(outcomes):
        if number and outcomes[number - 1].condition.axis != outcome.condition.axis:
            first.add_section()
            second.add_section()
        model, name = outcome.scores.get("model", {}), str(outcome.condition)
        means = [
            f"{outcome.scores[method]['kmeans_ari'].mean():.4f}" if method in outcome.scores else "n/a"
            for method in methods
        ]
        first.add_row(name, _scored(model, "kmeans_ari"), *means)
        second.add_row(name, *(_scored(model, metric) for metric in metrics.ROBUST))
    console.print(first)
    console.print(second)
    for outcome in outcomes:
        for method, why in outcome.not_applicable.items():
            console.print(f"n/a: {outcome.condition}, {method}: {why}", soft_wrap=True)


def print_leaderboard(board: Leaderboard, folder: Path, console: Console | None = None) -> None:
    """Print the best rows of a sweep's leaderboard, its failures, and the path of its page."""
    console = console or plain_console()
    keys = [key.rpartition(".")[2] for key in board.parameters]
    part = metrics.family(board.compared[0]) if board.compared else metrics.CLUSTERING
    compared = part.compared
    extra = next(name for name in part.shown if name != compared)
    columns = [*keys, "seeds", "valid.", metrics.title(extra), metrics.title(compared), "minus best"]
    table = _table(f"{board.name}: {len(board.rows)} configurations", "", columns)
    for column in table.columns[1 : len(keys) + 1]:
        column.no_wrap, column.overflow = False, "fold"  # values may be long; scores must not be cut
    for number, row in enumerate(board.rows[:MOST_ROWS], 1):
        figures = [
            metrics.text(board.monitor, row.selection.mean) if row.selection else "",
            metrics.text(extra, row.scores[extra].mean) if extra in row.scores else "",
            str(tables.spread(row.scores.get(compared), compared)),
            str(tables.summed(row.difference.get(compared), compared, "+")),
        ]
        rank = str(number) if row.jobs else "-"
        table.add_row(
            rank, *map(short, row.values.values()), str(len(row.seeds)), *figures, style="bold" if number == 1 else ""
        )
    console.print(table)
    if len(board.rows) > MOST_ROWS:
        console.print(f"and {len(board.rows) - MOST_ROWS} more")
    known = {name: found for name, found in board.baselines.items() if {extra, compared} <= found.keys()}
    if known:
        figures = [
            f"{label(name)} {' / '.join(metrics.text(metric, found[metric]['mean']) for metric in (extra, compared))}"
            for name, found in known.items()
        ]
        console.print(f"baselines, {metrics.name(extra)} / {metrics.name(compared)}: {', '.join(figures)}")
    console.print(caption(board), style="italic")
    for line in troubles(board):
        console.print(line, soft_wrap=True)
    console.print(f"page: {folder / PAGE}", soft_wrap=True)


def _add_rows(table: Table, scores: Mapping[str, Mapping[str, Summary]], columns: Sequence[str]) -> None:
    """Add one row per method that has all of these scores."""
    for method, found in scores.items():
        if set(columns) <= found.keys():
            style = "bold" if method == "model" else ""
            table.add_row(label(method), *(_cell(metric, found[metric]) for metric in columns), style=style)


def _table(title: str, caption: str, columns: Iterable[str]) -> Table:
    wide = min(cell_len(title), 72)  # so that the title of a narrow table is not wrapped
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, show_edge=False, padding=0, min_width=wide)
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column.replace(" ", "\n"), justify="right", no_wrap=True)
    return table


def _scored(scores: Mapping[str, Scores], metric: str) -> str:
    if metric not in scores:
        return "n/a"
    from fragrecon.evaluation.statistics import summary

    return _cell(metric, summary(scores[metric]))


def _cell(metric: str, found: Summary, sign: str = "") -> str:
    return str(tables.summed(found, metric, sign))


def rebuilt_text(scores: Mapping[str, float]) -> str:
    """Return the shares of pieces, pairs and images that are right, for the line that says how many were rebuilt."""
    return (
        f": {scores['direct']:.1%} at the correct cell, {scores['neighbours']:.1%} of pairs adjacent again, "
        f"{scores['perfect']:.1%} of images without an error"
    )
