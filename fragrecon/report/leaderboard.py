"""The leaderboard of a sweep: one row per configuration, averaged over seeds and compared with the best row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fragrecon.config.saved import is_inert
from fragrecon.errors import FragreconError
from fragrecon.report import metrics
from fragrecon.runs.read import Run, open_run
from fragrecon.runs.sweeps import by_key
from fragrecon.runs.write import CONFIG, STATUS, Record, reason

if TYPE_CHECKING:
    from fragrecon.evaluation.statistics import Scores, Summary


@dataclass(frozen=True)
class Job:
    """A job of a sweep, read from disk.

    Attributes:
        name: folder name.
        overrides: overrides of the command line, by key.
        status: content of ``status.json``.
        run: its run; None if its config was refused or its files cannot be read.
    """

    name: str
    overrides: Mapping[str, str]
    status: Mapping[str, Any]
    run: Run | None

    @property
    def finished(self) -> Run | None:
        """The run, if it has finished."""
        return self.run if self.status.get("status") == "done" else None


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (with n - 1) over n seeds; a single seed has no standard deviation."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class Failure:
    """The folder of a job that failed or was pruned, and the first line of its error, or why."""

    job: str
    error: str


@dataclass(frozen=True)
class Row:
    """A configuration.

    Attributes:
        values: values of the swept parameters.
        jobs: folders of its finished jobs.
        seeds: seeds of these jobs.
        selection: value of the selection metric at the selected checkpoints.
        scores: test scores by metric.
        difference: by compared metric, paired difference from the best row that has it, averaged over common seeds;
            the interval is over puzzles. A metric is missing if the test puzzles or the hidden patches differ.
        parameters: number of parameters of the model.
        seconds: mean duration of training and evaluation.
        failures: its failed jobs.
        unfinished: folders of jobs that are running or were killed.
        pruned: its pruned jobs, and why.
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
    pruned: list[Failure] = field(default_factory=list)


@dataclass(frozen=True)
class Leaderboard:
    """All configurations of a sweep, best first.

    Attributes:
        name: name of the sweep.
        parameters: keys that differ between its jobs.
        rows: rows ordered by validation score, so that nothing is selected on test puzzles; by test score only if
            validation scores are missing or not comparable. Rows without a finished job come last.
        monitor: validation metric that orders the rows; empty if rows are ordered by test score.
        baselines: test scores by method and metric, on the puzzles of the best row that has this metric.
        samples: unit that scores are averaged over: ``puzzles`` or ``images``.
        caveat: a sentence on the test images, if their compression makes the puzzles too easy.
    """

    name: str
    parameters: list[str]
    rows: list[Row]
    monitor: str
    baselines: dict[str, dict[str, Summary]]
    samples: str = "puzzles"
    caveat: str = ""

    @cached_property
    def metrics(self) -> list[str]:
        """The metrics of all rows, in display order."""
        return metrics.ordered(name for row in self.rows for name in row.scores)

    @cached_property
    def compared(self) -> list[str]:
        """The metrics whose differences are shown."""
        return metrics.compared(self.metrics)

    def leader(self, metric: str) -> Row | None:
        """Return the best row that has this metric."""
        return next((row for row in self.rows if metric in row.scores), None)


def jobs_of(folder: Path) -> list[Job]:
    """Return the jobs of a sweep that have started, sorted by name."""
    started = {path.parent for name in (STATUS, CONFIG) for path in folder.glob(f"*/{name}")}
    return [_job(path) for path in sorted(started)]


def _job(folder: Path) -> Job:
    """Read a job; one whose files cannot be read counts as failed."""
    given: dict[str, str] = {}
    try:
        record = Record(folder, writes=False)  # which checks the links
        given = by_key(record.overrides)
        run = open_run(folder) if (folder / CONFIG).is_file() else None  # a refused job has no config
        job = Job(folder.name, given, record.status, run)
        leaderboard("", [job])
        if job.finished and job.finished.is_scored:
            _by_puzzle([job.finished])
    except Exception as error:  # damaged files of one job must not hide the others
        text = str(error) if isinstance(error, FragreconError) else f"its files cannot be read: {error!r}"
        return Job(folder.name, given, {"status": "failed", "error": text}, None)
    return job


def leaderboard(name: str, jobs: Sequence[Job]) -> Leaderboard:
    """Create the leaderboard of a sweep.

    Args:
        name: name of the sweep.
        jobs: jobs of the sweep.

    Returns:
        The leaderboard.
    """
    parameters = swept(jobs)
    groups: dict[tuple[str, ...], list[Job]] = {}
    for job in sorted(jobs, key=lambda job: (job.run.config.seed if job.run else 0, job.name)):
        groups.setdefault(tuple(value_of(job, key) for key in parameters), []).append(job)
    done = {key: [run for job in group if (run := job.finished)] for key, group in groups.items()}
    scored = {key: [run for run in runs if run.is_scored] for key, runs in done.items()}
    selected = {key: spread([best_validation(run) for run in runs]) for key, runs in done.items()}
    tested = {key: _test_scores(runs) for key, runs in scored.items()}
    finished = [key for key in groups if done[key]]
    criteria = {_criterion(run) for key in finished for run in done[key]}
    by_validation = len(criteria) == 1 and all(selected[key] is not None for key in finished)
    monitor, mode, _ = criteria.pop() if by_validation else ("", "", "")
    compared = metrics.compared(name for key in finished for name in tested[key])

    def place(key: tuple[str, ...]) -> list[float]:
        if by_validation:
            return [_rank(selected[key], lower_is_better=mode == "min")]
        return [_rank(tested[key].get(name), metrics.measure(name).lower_is_better) for name in compared]

    finished = sorted(finished, key=place)
    leaders = {name: scored[key] for key in reversed(finished) for name in tested[key]}
    rows = [
        Row(
            values=dict(zip(parameters, key, strict=True)),
            jobs=[run.folder.name for run in done[key]],
            seeds=[run.config.seed for run in done[key]],
            selection=selected[key],
            scores=tested[key],
            difference=_differences(scored[key], leaders),
            parameters=scored[key][0].metrics["model"]["parameters"] if scored[key] else None,
            seconds=float(np.mean([_seconds(run) for run in scored[key]])) if scored[key] else None,
            failures=[
                Failure(job.name, reason(job.status)) for job in groups[key] if job.status.get("status") == "failed"
            ],
            unfinished=[job.name for job in groups[key] if job.status.get("status") == "running"],
            pruned=[
                Failure(job.name, str(job.status.get("pruned")))
                for job in groups[key]
                if job.status.get("status") == "pruned"
            ],
        )
        for key in [*finished, *(key for key in groups if not done[key])]
    ]
    best = next((scored[key] for key in finished if scored[key]), [])
    samples = metrics.samples(best[0].metrics["protocol"]) if best else "puzzles"
    caveat = metrics.caveat(best[0].metrics) if best else ""
    return Leaderboard(name, parameters, rows, monitor, _baselines(leaders), samples, caveat)


def swept(jobs: Sequence[Job]) -> list[str]:
    """Return the keys whose values differ between jobs, except the seed and keys that do not affect scores."""
    keys = dict.fromkeys(key for job in jobs for key in job.overrides if key != "seed" and not is_inert(key))
    return [key for key in keys if len({value_of(job, key) for job in jobs}) > 1]


def value_of(job: Job, key: str) -> str:
    """Return the value of a key in a job: the override, or else the default."""
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
    """Return mean and standard deviation of one value per seed; None if `values` is empty or contains None."""
    if not values or any(value is None for value in values):
        return None
    numbers = np.array(values, dtype=np.float64)
    if len(numbers) == 1:
        return Spread(float(numbers[0]), None, 1)
    return Spread(float(numbers.mean()), float(numbers.std(ddof=1)), len(numbers))


def best_validation(run: Run) -> float | None:
    """Return the selection metric of the selected checkpoint; None if there was no validation."""
    selection = run.config.selection
    values = [row[selection.monitor] for row in run.epochs if selection.monitor in row]
    return {"max": max, "min": min}[selection.mode](values) if values else None


def _criterion(run: Run) -> tuple[str, str, str]:
    """Return the key under which validation scores are comparable: monitor, mode and, for a loss, the objective."""
    selection = run.config.selection
    objective = repr(run.config.objective) if metrics.measure(selection.monitor).lower_is_better else ""
    return selection.monitor, selection.mode, objective


def _rank(found: Spread | None, lower_is_better: bool) -> float:
    """Return the sort key of a row; unknown scores come last."""
    return np.inf if found is None else found.mean if lower_is_better else -found.mean


def _baselines(leaders: Mapping[str, Sequence[Run]]) -> dict[str, dict[str, Summary]]:
    """Return scores by method and metric, each from a run of the best row for the metric."""
    found: dict[str, dict[str, Summary]] = {}
    for metric, runs in leaders.items():
        for method, scores in metrics.scores_of(runs[0].metrics).items():
            if method != "model" and metric in scores:
                found.setdefault(method, {})[metric] = scores[metric]
    return found


def _test_scores(runs: Sequence[Run]) -> dict[str, Spread]:
    found = [metrics.scores_of(run.metrics)["model"] for run in runs]
    names = [name for name in (found[0] if found else {}) if all(name in scores for scores in found)]
    spreads = {name: spread([scores[name]["mean"] for scores in found]) for name in names}
    return {name: value for name, value in spreads.items() if value is not None}


def _differences(runs: Sequence[Run], leaders: Mapping[str, Sequence[Run]]) -> dict[str, Summary]:
    """Return paired differences of a configuration's runs from those of the best row, by metric."""
    from fragrecon.evaluation.statistics import paired

    found: dict[str, Summary] = {}
    for best in {id(best): best for best in leaders.values() if best is not runs}.values():
        common = {run.config.seed for run in runs} & {run.config.seed for run in best}
        own, other = (
            _by_puzzle([run for run in group if run.config.seed in common or not common]) for group in (runs, best)
        )
        for name, scores in own.items():
            same = name in other and scores.shape == other[name].shape
            if leaders.get(name) is best and same and _puzzles(runs[0], name) == _puzzles(best[0], name):
                found[name] = paired(scores, other[name])
    return found


def _puzzles(run: Run, metric: str) -> tuple[Any, ...]:
    """Return the key under which two runs' scores can be paired: test images, puzzles and hidden patches."""
    protocol, data = run.metrics["protocol"], run.metrics["data"]
    if metrics.family(metric) is metrics.PROBES:  # classifiers are scored on all test images
        return data["name"], data.get("source")
    puzzles = protocol["puzzles"], protocol["images_per_puzzle"], protocol.get("seed"), data["name"], data.get("source")
    if metrics.family(metric) is not metrics.MASKED:
        return puzzles
    return *puzzles, protocol["mask_ratio"], protocol.get("fragment_shape"), run.config.model.get("patch")


def _by_puzzle(runs: Sequence[Run]) -> dict[str, Scores]:
    """Return scores (puzzles,) of the model by compared metric, averaged over runs."""
    found = [run.model_scores(metrics.compared(run.metrics["scores"]["model"])) for run in runs]
    first = found[0] if found else {}
    names = [name for name in first if all(name in each and each[name].shape == first[name].shape for each in found)]
    return {name: np.mean([scores[name] for scores in found], axis=0) for name in names}


def _seconds(run: Run) -> float:
    seconds: dict[str, float] = run.metrics["seconds"]
    return seconds.get("training", 0.0) + seconds.get("evaluation", 0.0)


def short(value: str) -> str:
    """Shorten a swept value for display: numbers to four significant digits."""
    try:
        return value if value.lstrip("-").isdigit() else f"{float(value):.4g}"
    except ValueError:
        return value


def duration(seconds: float) -> str:
    """Format seconds as hours, minutes and seconds: ``0:01:40``."""
    return str(timedelta(seconds=round(seconds)))


def caption(board: Leaderboard) -> str:
    """Return the caption of a leaderboard."""
    by_test = f"ordered by {metrics.name(board.compared[0])}" if board.compared else "not ordered"
    order = f"ordered by {board.monitor} on validation {board.samples}" if board.monitor else by_test
    return (
        f"Test scores: mean ± standard deviation over seeds, {order}. Differences from the best row, ± half their 95% "
        f"interval over {board.samples}, are paired; there are none between rows that were scored on different ones."
        + f" {board.caveat}".rstrip()
    )


def troubles(board: Leaderboard) -> list[str]:
    """Return one line per job that failed, was pruned or has not finished."""
    failed = [f"{found.job} failed: {found.error}" for row in board.rows for found in row.failures]
    failed += [f"{found.job} was pruned: {found.error}" for row in board.rows for found in row.pruned]
    return failed + [f"{job} has not finished" for row in board.rows for job in row.unfinished]
