"""What a run prints at its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fragrecon.report import metrics as measures
from fragrecon.report.labels import label
from fragrecon.report.leaderboard import Leaderboard, caption, duration, short, signed, troubles
from fragrecon.runs.write import PAGE

if TYPE_CHECKING:
    from fragrecon.evaluation.clustering.robustness import Outcome
    from fragrecon.evaluation.statistics import Scores, Summary

TABLES = (
    ("kmeans_ari", "kmeans_nmi", "kmeans_purity", "mean_clustering_score"),
    ("masked_psnr", "masked_ssim", "composite_psnr", "composite_ssim"),
    measures.WHOLE.shown,
)
"""The scores that stand in a table, where a model has them all."""
SEEN = ("lpips", "feature_distance", "fid", "frechet_feature_distance")
"""What networks tell of an image, by the last words of a metric."""
LATENTS = {
    "generation_latent_frechet_distance": "Fréchet distance",
    "generation_active_share": "share of active numbers",
}
REASSEMBLY = {
    "placing_direct": "placed right",
    "placing_perfect": "images perfect",
    "reassembly_direct": "rebuilt right",
    "reassembly_neighbours": "neighbours right",
    "reassembly_perfect": "images perfect",
}
PAIRS = {
    "spectral_ari": "balanced spectral ARI",
    "same_auroc": "AUROC of being of one image",
    "adjacency_auroc": "AUROC of abutting",
}
HARDER = {
    "mean_clustering_score": "mean score",
    "balanced_ari": "balanced ARI",
    "unknown_ari": "unknown-N ARI",
    "unknown_k_error": "N error",
}

MOST_ROWS = 20
"""Of a leaderboard."""


def plain_console() -> Console:
    """The terminal, where brackets, such as paths and errors have, are no markup."""
    return Console(markup=False)


def print_metrics(metrics: Mapping[str, Any], folder: Path, console: Console | None = None) -> None:
    """A table of the model beside its baselines, where the record lies, and how long each part took."""
    console = console or plain_console()
    protocol, scores = metrics["protocol"], metrics["scores"]
    model, name = metrics["model"]["name"], metrics["data"]["name"]
    what, over = f"{model} on {protocol['puzzles']} {name} test images", measures.samples(protocol)
    if over == "puzzles":
        what = f"{model} on {protocol['puzzles']} test puzzles of {protocol['images_per_puzzle']} {name} images"
    every = measures.scores_of(metrics)
    generated = measures.GENERATION.of(every["model"])
    seen = tuple(name for name in every["model"] if name.partition("_")[2] in SEEN and name not in generated)
    for columns in (*TABLES, seen):
        if columns and set(columns) <= every["model"].keys():
            console.print(_compared(metrics, every, what, columns, over))
    probed = tuple(name for name in measures.PROBES.of(every["model"]) if name.endswith("accuracy"))
    if probed:
        embedding = ", ".join(filter(None, (model, protocol["probe_embedding"])))
        what = f"classifiers of embeddings: {embedding}, {metrics['data']['images']} {name} test images"
        console.print(_compared(metrics, every, what, probed, "images", within="probe "))
    latents = {name: every["model"][name]["mean"] for name in LATENTS if name in every["model"]}
    if latents:
        told = ", ".join(f"{LATENTS[name]} {value:.3f}" for name, value in latents.items())
        console.print(f"latents beside the standard normal: {told}", soft_wrap=True)
    distances = tuple(name for name in generated if name not in LATENTS)
    if distances:
        what = f"{model}: {protocol['generated_images']} samples of the standard normal"
        console.print(_compared(metrics, every, what, distances, "", within="generation "))
    if REASSEMBLY.keys() <= scores["model"].keys():
        rebuilt = _table(
            "fragments put back into place",
            "placed: told the images; rebuilt: by the images that were found",
            REASSEMBLY.values(),
        )
        _add_rows(rebuilt, scores, REASSEMBLY, digits=3)
        console.print(rebuilt)
    if PAIRS.keys() <= scores["model"].keys():
        found = [f"{text} {_cell(scores['model'][metric])}" for metric, text in PAIRS.items()]
        console.print(f"pairs of fragments: {', '.join(found)}", soft_wrap=True)
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in metrics["seconds"].items())
    console.print(f"time: {seconds}")
    console.print(f"record: {folder}", soft_wrap=True)


def _compared(
    metrics: Mapping[str, Any],
    scores: Mapping[str, Mapping[str, Summary]],
    title: str,
    columns: Sequence[str],
    over: str,
    within: str = "",
) -> Table:
    """The model and its baselines by some metrics, and how far they are apart.

    Args:
        metrics: of the run.
        scores: by method and metric.
        title: of the table.
        columns: the metrics.
        over: what means are of; nothing where they are none.
        within: what the names of the metrics begin with, and the table is about anyway.
    """
    caption = f"mean ± half its 95% interval over {over}; differences are paired" if over else ""
    table = _table(title, caption, (measures.title(metric).removeprefix(within) for metric in columns))
    _add_rows(table, scores, columns)
    minus = {}
    for method, found in metrics["model_minus"].items():
        single = {
            metric: _single(scores["model"][metric]["mean"] - scores[method][metric]["mean"])
            for metric in columns
            if metric in scores[method] and metric not in found
        }
        if method != "random" and set(columns) <= (found | single).keys():
            minus[method] = found | single
    if minus:
        table.add_section()
        table.add_row("model minus", style="bold")
    for method, found in minus.items():
        table.add_row(label(method), *(_cell(found[metric], sign="+") for metric in columns))
    return table


def _single(value: float) -> Summary:
    return {"mean": value, "ci95": None}


def print_robustness(outcomes: Sequence[Outcome], console: Console | None = None) -> None:
    """Two tables with a row a condition: KMeans ARI of all methods, and more of the model's scores."""
    console = console or plain_console()
    methods = list(dict.fromkeys(m for outcome in outcomes for m in outcome.scores if m not in ("random", "model")))
    first = _table(
        "KMeans ARI under harder conditions",
        "mean ± half its 95% interval",
        ["model", *(label(m) for m in methods)],
    )
    second = _table(
        "the model under harder conditions",
        "unknown-N: the number of images is estimated; N error: how far it is off",
        HARDER.values(),
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
        second.add_row(name, *(_scored(model, metric) for metric in HARDER))
    console.print(first)
    console.print(second)
    for outcome in outcomes:
        for method, why in outcome.not_applicable.items():
            console.print(f"n/a: {outcome.condition}, {method}: {why}", soft_wrap=True)


def print_sweep_progress(
    job: str, begun: int, jobs: int | None, seconds_left: float | None, console: Console | None = None
) -> None:
    """A line with a bar: which job of a sweep begins, of how many, and when the last may end.

    Args:
        job: its folder's name.
        begun: how many have begun before.
        jobs: how many there are.
        seconds_left: until the end of the last.
        console: to print to.
    """
    console = console or plain_console()
    counts = f"job {begun + 1} of {jobs or '?'}"
    left = f"{duration(seconds_left)} left" if seconds_left is not None else ""
    parts = [counts, ProgressBar(jobs, begun, width=24) if jobs else "", left]
    name = Text(job)  # all else is more important
    name.truncate(max(console.width - len(counts) - 24 - len(left) - 6, 0), overflow="ellipsis")
    line = Table.grid(padding=(0, 2, 0, 0))
    line.add_row(*(part for part in parts if part), name)
    console.print(line)


def print_leaderboard(board: Leaderboard, folder: Path, console: Console | None = None) -> None:
    """The best of a sweep's table, what failed, and where the whole is."""
    console = console or plain_console()
    keys = [key.rpartition(".")[2] for key in board.parameters]
    part = measures.family(board.compared[0]) if board.compared else measures.CLUSTERING
    compared = part.compared
    beside = next(name for name in part.shown if name != compared)
    columns = [*keys, "seeds", "valid.", measures.title(beside), measures.title(compared), "minus best"]
    table = _table(f"{board.name}: {len(board.rows)} configurations", "", columns)
    for column in table.columns[1 : len(keys) + 1]:
        column.no_wrap, column.overflow = False, "fold"  # values may be long, figures must not be cut
    for number, row in enumerate(board.rows[:MOST_ROWS], 1):
        figures = [
            f"{row.selection.mean:.4f}" if row.selection else "",
            measures.text(beside, row.scores[beside].mean) if beside in row.scores else "",
            row.scores[compared].text(compared) if compared in row.scores else "",
            signed(row.difference.get(compared), compared),
        ]
        figures = [text.replace("± 0.", "±.") for text in figures]
        rank = str(number) if row.jobs else "-"
        table.add_row(
            rank, *map(short, row.values.values()), str(len(row.seeds)), *figures, style="bold" if number == 1 else ""
        )
    console.print(table)
    if len(board.rows) > MOST_ROWS:
        console.print(f"and {len(board.rows) - MOST_ROWS} more")
    known = {name: found for name, found in board.baselines.items() if {beside, compared} <= found.keys()}
    if known:
        figures = [
            f"{label(name)} {' / '.join(measures.text(metric, found[metric]['mean']) for metric in (beside, compared))}"
            for name, found in known.items()
        ]
        console.print(f"baselines, {measures.name(beside)} / {measures.name(compared)}: {', '.join(figures)}")
    console.print(caption(board), style="italic")
    for line in troubles(board):
        console.print(line, soft_wrap=True)
    console.print(f"page: {folder / PAGE}", soft_wrap=True)


def _add_rows(
    table: Table, scores: Mapping[str, Mapping[str, Summary]], columns: Iterable[str], digits: int = 4
) -> None:
    """A row for each method that has these scores."""
    shown = list(columns)
    for method, found in scores.items():
        if set(shown) <= found.keys():
            style = "bold" if method == "model" else ""
            table.add_row(label(method), *(_cell(found[metric], digits=digits) for metric in shown), style=style)


def _table(title: str, caption: str, columns: Iterable[str]) -> Table:
    wide = min(cell_len(title), 72)  # a table of few columns does not break its title
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, show_edge=False, padding=0, min_width=wide)
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column.replace(" ", "\n"), justify="right", no_wrap=True)
    return table


def _scored(scores: Mapping[str, Scores], metric: str) -> str:
    if metric not in scores:
        return "n/a"
    from fragrecon.evaluation.statistics import summary

    return _cell(summary(scores[metric]), digits=2 if metric == "unknown_k_error" else 4)


def _cell(found: Summary, sign: str = "", digits: int = 4) -> str:
    mean = format(found["mean"], f"{sign}.{digits}f")
    if found["ci95"] is None:
        return mean
    low, high = found["ci95"]
    half = f"{(high - low) / 2:.{digits}f}".removeprefix("0")
    return f"{mean} ±{half}"
