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
from fragrecon.config.saved import is_inert
from fragrecon.report import metrics
from fragrecon.report.metrics import label
from fragrecon.runs.read import Run
from fragrecon.runs.write import reason

if TYPE_CHECKING:
    from fragrecon.evaluation.statistics import Scores, Summary


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
        return self.text("")

    def text(self, metric: str) -> str:
        """Written as values of the metric are."""
        return metrics.around(metric, self.mean, self.std)


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
        difference: of these scores to those of the best row that has them too, on the same puzzles, each puzzle's
            averaged over the seeds that both have; the interval is over puzzles. Without those of which the puzzles, or
            what is hidden of them, are others.
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
            validation, or none that compares. Those without a finished job come last.
        monitor: name of the validation figure that orders the rows; empty where the test score does.
        baselines: test scores by method and metric, of the puzzles of the best row that has them.
        samples: what scores are means over: puzzles, or images where each is a puzzle of its own.
    """

    name: str
    parameters: list[str]
    rows: list[Row]
    monitor: str
    baselines: dict[str, dict[str, Summary]]
    samples: str = "puzzles"

    @property
    def metrics(self) -> list[str]:
        """All that any row has a score by, in the order that people see them."""
        return metrics.ordered(name for row in self.rows for name in row.scores)

    @property
    def compared(self) -> list[str]:
        """The metrics whose differences people are shown."""
        return metrics.compared(self.metrics)

    def leader(self, metric: str) -> Row | None:
        """The best row that has a score by a metric."""
        return next((row for row in self.rows if metric in row.scores), None)


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
    yardsticks = {_yardstick(_run(job)) for key in finished for job in done[key]}
    by_validation = len(yardsticks) == 1 and all(selected[key] is not None for key in finished)
    monitor, mode, _ = yardsticks.pop() if by_validation else ("", "", "")
    compared = metrics.compared(name for key in finished for name in tested[key])

    def place(key: tuple[str, ...]) -> list[float]:
        if by_validation:
            return [_rank(selected[key], falling=mode == "min")]
        return [_rank(tested[key].get(name), falling=metrics.measure(name).lower_is_better) for name in compared]

    finished = sorted(finished, key=place)
    leaders = {name: scored[key] for key in reversed(finished) for name in tested[key]}
    rows = [
        Row(
            values=dict(zip(parameters, key, strict=True)),
            jobs=[job.name for job in done[key]],
            seeds=[job.seed for job in done[key]],
            selection=selected[key],
            scores=tested[key],
            difference=_differences(scored[key], leaders),
            parameters=_run(scored[key][0]).metrics["model"]["parameters"] if scored[key] else None,
            seconds=float(np.mean([_seconds(job) for job in scored[key]])) if scored[key] else None,
            failures=[
                Failure(job.name, reason(job.status)) for job in groups[key] if job.status.get("status") == "failed"
            ],
            unfinished=[job.name for job in groups[key] if job.status.get("status") == "running"],
        )
        for key in [*finished, *(key for key in groups if not done[key])]
    ]
    best = next((scored[key] for key in finished if scored[key]), [])
    samples = metrics.samples(_run(best[0]).metrics["protocol"]) if best else "puzzles"
    return Leaderboard(name, parameters, rows, monitor, _baselines(leaders), samples)


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


def _yardstick(run: Run) -> tuple[str, str, str]:
    """What has to be the same for figures of validation to compare: a loss says nothing of models with another one."""
    selection, objective = run.config.selection, run.config.objective
    return (
        selection.monitor,
        selection.mode,
        repr(objective) if metrics.measure(selection.monitor).lower_is_better else "",
    )


def _rank(found: Spread | None, falling: bool) -> float:
    """What rows are sorted by; what is not known comes last."""
    return np.inf if found is None else found.mean if falling else -found.mean


def _baselines(leaders: Mapping[str, Sequence[Job]]) -> dict[str, dict[str, Summary]]:
    """Scores by method and metric, each of a run that leads by it."""
    found: dict[str, dict[str, Summary]] = {}
    for metric, jobs in leaders.items():
        for method, scores in metrics.scores_of(_run(jobs[0]).metrics).items():
            if method != "model" and metric in scores:
                found.setdefault(method, {})[metric] = scores[metric]
    return found


def _test_scores(jobs: Sequence[Job]) -> dict[str, Spread]:
    found = [metrics.scores_of(_run(job).metrics)["model"] for job in jobs]
    names = [name for name in (found[0] if found else {}) if all(name in scores for scores in found)]
    spreads = {name: spread([scores[name]["mean"] for scores in found]) for name in names}
    return {name: value for name, value in spreads.items() if value is not None}


def _differences(jobs: Sequence[Job], leaders: Mapping[str, Sequence[Job]]) -> dict[str, Summary]:
    """Paired differences of a configuration's jobs to those of the leading one, by metric."""
    from fragrecon.evaluation.statistics import paired

    found: dict[str, Summary] = {}
    for best in {id(best): best for best in leaders.values() if best is not jobs}.values():
        common = {job.seed for job in jobs} & {job.seed for job in best}
        own, other = (_by_puzzle([job for job in group if job.seed in common or not common]) for group in (jobs, best))
        for name, scores in own.items():
            if leaders.get(name) is best and name in other and _puzzles(jobs[0], name) == _puzzles(best[0], name):
                found[name] = paired(scores, other[name])
    return found


def _puzzles(job: Job, metric: str) -> tuple[Any, ...]:
    """What decides which images are in which test puzzle and, for a metric of what is filled in, what is hidden.

    Classifiers answer for all test images.
    """
    run = _run(job)
    protocol, data = run.metrics["protocol"], run.metrics["data"]
    if metrics.family(metric) is metrics.PROBES:
        return data["name"], data["source"]
    puzzles = protocol["puzzles"], protocol["images_per_puzzle"], protocol["seed"], data["name"], data["source"]
    if metrics.family(metric) is not metrics.MASKED:
        return puzzles
    return *puzzles, protocol["mask_ratio"], protocol["fragment_shape"], run.config.model.get("patch")


def _by_puzzle(jobs: Sequence[Job]) -> dict[str, Scores]:
    """Scores (puzzles,) of the model by metric, averaged over jobs."""
    found = [_run(job).scores for job in jobs]
    prefix = "model/"
    first = found[0] if found else {}
    names = [name for name in first if name.startswith(prefix) and all(name in scores for scores in found)]
    return {name.removeprefix(prefix): np.mean([scores[name] for scores in found], axis=0) for name in names}


def _seconds(job: Job) -> float:
    seconds: dict[str, float] = _run(job).metrics["seconds"]
    return sum(value for name, value in seconds.items() if name != "data")


def cells(board: Leaderboard) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table that people are shown."""
    shown = [name for name in board.metrics if name in metrics.SHOWN]
    header = ["", *board.parameters, "seeds", "validation", *map(metrics.title, shown)]
    header += [*(f"{metrics.name(name)} - best" for name in board.compared), "parameters", "time"]
    table = []
    for rank, row in enumerate(board.rows, 1):
        line = [str(rank) if row.jobs else "", *map(short, row.values.values()), str(len(row.seeds))]
        line += [
            str(row.selection or ""),
            *(row.scores[name].text(name) if name in row.scores else "" for name in shown),
        ]
        line += [metrics.summed(name, row.difference.get(name), "+") for name in board.compared]
        line += [f"{row.parameters:,}" if row.parameters else ""]
        table.append([*line, duration(row.seconds) if row.seconds is not None else ""])
    for method, found in board.baselines.items():
        line = [label(method), *[""] * len(board.parameters), "", ""]
        line += [metrics.summed(name, found.get(name)) for name in shown]
        table.append([*line, *[""] * (len(header) - len(line))])
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


def caption(board: Leaderboard) -> str:
    """What the figures of `cells` mean."""
    by_test = f"ordered by the {metrics.name(board.compared[0])}" if board.compared else "in no order"
    order = f"ordered by {board.monitor} on validation {board.samples}" if board.monitor else by_test
    return (
        f"Test scores, mean ± standard deviation over seeds; {order}. Differences are to the best row that has the "
        f"score, where both saw the same {board.samples}: paired, ± half their 95% interval, as baselines have it too."
    )


def troubles(board: Leaderboard) -> list[str]:
    """A line for each job that failed or has not finished."""
    failed = [f"{found.job} failed: {found.error}" for row in board.rows for found in row.failures]
    return failed + [f"{job} has not finished" for row in board.rows for job in row.unfinished]


def write(board: Leaderboard, folder: Path) -> None:
    """Write ``leaderboard.csv`` and ``leaderboard.md``."""
    files.write_csv(folder / "leaderboard.csv", [_flat(rank, row) for rank, row in enumerate(board.rows, 1)])
    files.write_text(folder / "leaderboard.md", markdown(board))


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
