"""The leaderboard of a sweep: a row a configuration, over its seeds, compared with the best."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fragrecon import files
from fragrecon.record import reason
from fragrecon.report.labels import label
from fragrecon.runs import Run
from fragrecon.schema import is_inert

if TYPE_CHECKING:
    from fragrecon.evaluation.statistics import Scores, Summary

HEADLINE = ("kmeans_ari", "kmeans_nmi", "kmeans_purity", "kmedoids_ari", "mean_clustering_score")
"""The test scores that people are shown; the CSV file has all."""

COMPARED = "mean_clustering_score"
"""The test score whose difference to the best row people are shown."""


@dataclass(frozen=True)
class Job:
    """A job of a sweep as it lies on disk.

    Attributes:
        name: of its folder.
        overrides: by key, as on the command line.
        status: as last noted.
        run: None where the job's config was refused.
    """

    name: str
    overrides: Mapping[str, str]
    status: Mapping[str, Any]
    run: Run | None

    @property
    def seed(self) -> int:
        """Zero where the job's config was refused, which may be for its seed."""
        return self.run.config.seed if self.run else 0

    @property
    def is_done(self) -> bool:
        return self.status.get("status") == "done" and self.run is not None

    @property
    def is_scored(self) -> bool:
        return self.is_done and self.run is not None and (self.run.folder / "metrics.json").is_file()


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n - 1) over n seeds; of a single one there is no deviation."""

    mean: float
    std: float | None
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.4f}" if self.std is None else f"{self.mean:.4f} ± {self.std:.4f}"


@dataclass(frozen=True)
class Failure:
    """The folder of a job that failed, and the first line of why."""

    job: str
    error: str


@dataclass(frozen=True)
class Row:
    """A configuration.

    Attributes:
        values: of the swept parameters.
        jobs: folders of its finished jobs.
        seeds: of these.
        selection: the validation figure that selects checkpoints, at the selected one.
        scores: of the test puzzles, by metric.
        difference: of these scores to those of the best row on the same puzzles, each puzzle's averaged over the
            seeds that both have; the interval is over puzzles. Empty where the puzzles are others.
        parameters: of the model.
        seconds: of training and evaluation, on average.
        failures: of its jobs.
        unfinished: folders of jobs that are under way or were killed.
    """

    values: dict[str, str]
    jobs: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    selection: Spread | None = None
    scores: dict[str, Spread] = field(default_factory=dict)
    difference: dict[str, Summary] = field(default_factory=dict)
    parameters: int | None = None
    seconds: float | None = None
    failures: list[Failure] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Leaderboard:
    """All configurations of a sweep, best first.

    Attributes:
        name: of the sweep.
        parameters: that differ between its jobs.
        rows: by validation, so that the best is not chosen on test puzzles; by the test score only where there was no
            validation. Those without a finished job come last.
        monitor: name of the validation figure that orders the rows; empty where the test score does.
        baselines: test scores by method and metric, of the best row's puzzles.
    """

    name: str
    parameters: list[str]
    rows: list[Row]
    monitor: str
    baselines: dict[str, dict[str, Summary]]


def leaderboard(name: str, jobs: Sequence[Job]) -> Leaderboard:
    """Gather the jobs of a sweep."""
    parameters = swept(jobs)
    groups: dict[tuple[str, ...], list[Job]] = {}
    for job in sorted(jobs, key=lambda job: (job.seed, job.name)):
        groups.setdefault(tuple(value_of(job, key) for key in parameters), []).append(job)
    done = {key: [job for job in group if job.is_done] for key, group in groups.items()}
    scored = {key: [job for job in group if job.is_scored] for key, group in done.items()}
    selected = {key: spread([best_validation(_run(job)) for job in group]) for key, group in done.items()}
    tested = {key: _test_scores(group) for key, group in scored.items()}
    finished = [key for key in groups if done[key]]
    by_validation = all(selected[key] is not None for key in finished)
    first = _run(done[finished[0]][0]) if finished else None
    maximize = not by_validation or first is None or first.config.selection.mode == "max"

    def place(key: tuple[str, ...]) -> float:
        found = selected[key] if by_validation else tested[key].get(COMPARED)
        return (-found.mean if maximize else found.mean) if found else np.inf

    finished = sorted(finished, key=place)
    best = scored[finished[0]] if finished else []
    rows = [
        Row(
            values=dict(zip(parameters, key, strict=True)),
            jobs=[job.name for job in done[key]],
            seeds=[job.seed for job in done[key]],
            selection=selected[key],
            scores=tested[key],
            difference={} if scored[key] is best else _difference(scored[key], best),
            parameters=_run(scored[key][0]).metrics["model"]["parameters"] if scored[key] else None,
            seconds=float(np.mean([_seconds(job) for job in scored[key]])) if scored[key] else None,
            failures=[
                Failure(job.name, reason(job.status)) for job in groups[key] if job.status.get("status") == "failed"
            ],
            unfinished=[job.name for job in groups[key] if job.status.get("status") == "running"],
        )
        for key in [*finished, *(key for key in groups if not done[key])]
    ]
    monitor = first.config.selection.monitor if first and by_validation else ""
    baselines = _run(best[0]).metrics["scores"] if best else {}
    return Leaderboard(name, parameters, rows, monitor, {m: found for m, found in baselines.items() if m != "model"})


def swept(jobs: Sequence[Job]) -> list[str]:
    """The keys, but for the seed and what has no part in the scores, that differ between jobs."""
    keys = dict.fromkeys(key for job in jobs for key in job.overrides if key != "seed" and not is_inert(key))
    return [key for key in keys if len({value_of(job, key) for job in jobs}) > 1]


def value_of(job: Job, key: str) -> str:
    """A key's value in a job: as it was given, or else what it was by default."""
    if key in job.overrides:
        return job.overrides[key]
    if job.run is None:
        return ""
    if key == "model":
        return job.run.model_name
    value: Any = job.run.config.to_dict()
    for part in key.split("."):
        value = value.get(part, {}) if isinstance(value, dict) else {}
    return "" if isinstance(value, dict) else str(value)


def spread(values: Sequence[float | None]) -> Spread | None:
    """Of values by seed; None where there are none, or one is not known."""
    if not values or any(value is None for value in values):
        return None
    numbers = np.array(values, dtype=np.float64)
    return Spread(float(numbers.mean()), float(numbers.std(ddof=1)) if len(numbers) > 1 else None, len(numbers))


def _run(job: Job) -> Run:
    assert job.run is not None
    return job.run


def best_validation(run: Run) -> float | None:
    """The figure that selects a run's checkpoint, at the selected one; None where there was no validation."""
    selection = run.config.selection
    values = [row[selection.monitor] for row in run.epochs if selection.monitor in row]
    return {"max": max, "min": min}[selection.mode](values) if values else None


def _test_scores(jobs: Sequence[Job]) -> dict[str, Spread]:
    found = [_run(job).metrics["scores"]["model"] for job in jobs]
    names = [name for name in (found[0] if found else {}) if all(name in scores for scores in found)]
    spreads = {name: spread([scores[name]["mean"] for scores in found]) for name in names}
    return {name: value for name, value in spreads.items() if value is not None}


def _difference(jobs: Sequence[Job], best: Sequence[Job]) -> dict[str, Summary]:
    """Paired differences of jobs to those of the best configuration, by metric."""
    from fragrecon.evaluation.statistics import paired

    if not jobs or not best or _puzzles(jobs[0]) != _puzzles(best[0]):
        return {}
    common = {job.seed for job in jobs} & {job.seed for job in best}
    own, other = (_by_puzzle([job for job in group if job.seed in common or not common]) for group in (jobs, best))
    return {name: paired(scores, other[name]) for name, scores in own.items() if name in other}


def _puzzles(job: Job) -> tuple[Any, ...]:
    """What decides which images are in which test puzzle."""
    metrics = _run(job).metrics
    protocol, data = metrics["protocol"], metrics["data"]
    return protocol["puzzles"], protocol["images_per_puzzle"], protocol["seed"], data["name"], data["source"]


def _by_puzzle(jobs: Sequence[Job]) -> dict[str, Scores]:
    """Scores (puzzles,) of the model by metric, averaged over jobs."""
    found = [_run(job).scores for job in jobs]
    prefix = "model/"
    names = [name for name in found[0] if name.startswith(prefix) and all(name in scores for scores in found)]
    return {name.removeprefix(prefix): np.mean([scores[name] for scores in found], axis=0) for name in names}


def _seconds(job: Job) -> float:
    seconds: dict[str, float] = _run(job).metrics["seconds"]
    return sum(value for name, value in seconds.items() if name != "data")


def cells(board: Leaderboard) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table that people are shown."""
    metrics = [name for name in HEADLINE if any(name in row.scores for row in board.rows)]
    header = ["", *board.parameters, "seeds", "validation", *(label(name) for name in metrics)]
    header += [f"{label(COMPARED)} - best", "parameters", "time"]
    table = []
    for rank, row in enumerate(board.rows, 1):
        line = [str(rank) if row.jobs else "", *map(short, row.values.values()), str(len(row.seeds))]
        line += [str(row.selection or ""), *(str(row.scores.get(name, "")) for name in metrics)]
        line += [signed(row.difference.get(COMPARED)), f"{row.parameters:,}" if row.parameters else ""]
        table.append([*line, duration(row.seconds) if row.seconds is not None else ""])
    for method, found in board.baselines.items():
        line = [label(method), *[""] * len(board.parameters), "", ""]
        line += [_with_interval(found[name]) if name in found else "" for name in metrics]
        table.append([*line, "", "", ""])
    return header, table


def short(value: str) -> str:
    """A swept value as people are shown it: numbers with four digits."""
    try:
        return value if value.lstrip("-").isdigit() else f"{float(value):.4g}"
    except ValueError:
        return value


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: ``0:01:40``."""
    return str(timedelta(seconds=round(seconds)))


def signed(found: Summary | None) -> str:
    """A difference and half its interval."""
    return _with_interval(found, "+") if found else ""


def _with_interval(found: Summary, sign: str = "") -> str:
    mean = format(found["mean"], f"{sign}.4f")
    if found["ci95"] is None:
        return mean
    return f"{mean} ± {(found['ci95'][1] - found['ci95'][0]) / 2:.4f}"


def caption(board: Leaderboard) -> str:
    """What the figures of `cells` mean."""
    order = f"ordered by {board.monitor} on validation puzzles" if board.monitor else "ordered by the mean score"
    return (
        f"Test scores, mean ± standard deviation over seeds; {order}. The difference to the best row is "
        "paired puzzle by puzzle, ± half its 95% interval over puzzles; so are the intervals of baselines."
    )


def troubles(board: Leaderboard) -> list[str]:
    """A line for each job that failed or has not finished."""
    failed = [f"{found.job} failed: {found.error}" for row in board.rows for found in row.failures]
    return failed + [f"{job} has not finished" for row in board.rows for job in row.unfinished]


def write(board: Leaderboard, folder: Path) -> None:
    """Write ``leaderboard.csv``, ``.md`` and ``.html``."""
    files.write_csv(folder / "leaderboard.csv", [_flat(rank, row) for rank, row in enumerate(board.rows, 1)])
    files.write_text(folder / "leaderboard.md", markdown(board))
    files.write_text(folder / "leaderboard.html", page(board))


def _flat(rank: int, row: Row) -> dict[str, Any]:
    """A row with a column a number."""
    flat: dict[str, Any] = {"rank": rank if row.jobs else "", **row.values}
    flat |= {"seeds": " ".join(map(str, row.seeds)), "parameters": row.parameters, "seconds": row.seconds}
    if row.selection:
        flat |= {"validation": row.selection.mean, "validation_std": row.selection.std}
    for name, found in row.scores.items():
        flat |= {name: found.mean, f"{name}_std": found.std}
    for name, minus in row.difference.items():
        low, high = minus["ci95"] or (None, None)
        flat |= {f"{name}_minus_best": minus["mean"], f"{name}_minus_best_low": low, f"{name}_minus_best_high": high}
    flat |= {"jobs": " ".join(row.jobs), "unfinished": " ".join(row.unfinished)}
    return flat | {"failures": "; ".join(f"{found.job}: {found.error}" for found in row.failures)}


def markdown(board: Leaderboard) -> str:
    header, table = cells(board)
    numbers = 1 + len(board.parameters)
    rules = ["---" if column < numbers else "---:" for column in range(len(header))]
    lines = ["| " + " | ".join(map(_inline, line)) + " |" for line in (header, rules, *table)]
    notes = [f"- {_inline(line)}" for line in troubles(board)]
    return "\n".join([f"# {_inline(board.name)}", "", *lines, "", caption(board), "", *notes]).rstrip() + "\n"


def _inline(text: str) -> str:
    """Text that stays on its line and in its cell of Markdown, and is no markup."""
    return html.escape(text, quote=False).replace("|", "\\|").replace("\n", " ")


def page(board: Leaderboard) -> str:
    """The table as a page of its own."""
    header, table = cells(board)
    name, notes = html.escape(board.name), "".join(f"<li>{html.escape(line)}</li>" for line in troubles(board))

    def line(tag: str, values: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(value)}</{tag}>" for value in values) + "</tr>"

    rows = "\n".join(line("td", values) for values in table)
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title>
<style>
  body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color: #222; overflow-x: auto }}
  table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
  th, td {{ padding: .3rem .8rem; text-align: left; white-space: nowrap; border-bottom: 1px solid #ddd }}
</style>
<h1>{name}</h1>
<table>
<thead>{line("th", header)}</thead>
<tbody>
{rows}
</tbody>
</table>
<p>{html.escape(caption(board))}</p>
<ul>{notes}</ul>
</html>
"""
