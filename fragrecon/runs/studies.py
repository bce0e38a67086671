"""The study of a search with Optuna: ``study.db`` in the folder of the sweep."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fragrecon.errors import FragreconError
from fragrecon.runs.read import load_run
from fragrecon.runs.sweeps import job_folder
from fragrecon.runs.write import STATUS

log = logging.getLogger(__name__)

STUDY = "study.db"


@dataclass(frozen=True)
class Trial:
    """A trial that has ended.

    Attributes:
        number: its number in the study, from 0.
        value: best validation score; of a pruned trial, the last one; None if the job failed.
        is_pruned: whether the job was pruned.
        params: values of the searched parameters.
    """

    number: int
    value: float | None
    is_pruned: bool
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Search:
    """A study.

    Attributes:
        trials: trials that have ended, in order.
        maximise: whether higher values are better.
        importances: share of the decrease of variance at the splits of a random forest by parameter, largest first;
            empty if there are too few trials.
    """

    trials: list[Trial]
    maximise: bool
    importances: dict[str, float]


def read_search(sweep: Path) -> Search | None:
    """Read the study of a sweep.

    Args:
        sweep: folder of the sweep.

    Returns:
        The study; None if the sweep has none that can be read, or Optuna is not installed.
    """
    path = sweep / STUDY
    if not path.is_file() or find_spec("optuna") is None:
        return None
    try:
        return _read(path)
    except Exception as error:  # a damaged database may raise anything
        log.warning("%s is not a readable study (%s); the page lacks it", path, str(error).partition("\n")[0])
        return None


def _read(path: Path) -> Search | None:
    import optuna

    optuna.logging.set_verbosity(logging.WARNING)
    storage = f"sqlite:///{path}"
    names = [summary.study_name for summary in optuna.get_all_study_summaries(storage)]
    if not names:
        return None
    study = optuna.load_study(names[0], storage)
    ended = [trial for trial in study.trials if trial.state.is_finished()]
    complete = [trial for trial in ended if trial.state == optuna.trial.TrialState.COMPLETE]
    varied = len({trial.value for trial in complete}) > 1
    # The default evaluator of Optuna 2.10 fails with current versions of NumPy.
    forest = optuna.importance.MeanDecreaseImpurityImportanceEvaluator(seed=0)
    return Search(
        [Trial(trial.number, trial.value, trial.state.name == "PRUNED", trial.params) for trial in ended],
        study.direction == optuna.study.StudyDirection.MAXIMIZE,
        dict(optuna.importance.get_param_importances(study, evaluator=forest)) if varied else {},
    )


def record_jobs_in_studies(sweep: Path) -> None:
    """Have Optuna record validation scores by epoch, and pruned jobs as such, in studies that this process runs.

    Hydra's sweeper only tells a study whether a job returned a value, so ``Study.tell`` is replaced.

    Args:
        sweep: folder of the sweep.
    """
    import optuna

    tell = getattr(optuna.Study.tell, "__wrapped__", optuna.Study.tell)

    def tell_with_scores(study: Any, trial: Any, *values: Any, **named: Any) -> Any:
        if _report(sweep, trial) == "pruned":
            return tell(study, trial, state=optuna.trial.TrialState.PRUNED)
        return tell(study, trial, *values, **named)

    tell_with_scores.__wrapped__ = tell  # type: ignore[attr-defined]
    optuna.Study.tell = tell_with_scores  # type: ignore[method-assign, assignment]


def _report(sweep: Path, trial: Any) -> str | None:
    """Report the validation scores of a trial's job to its study, and return the status of the job."""
    # The sweeper keeps values that are not searched as attributes of the trial.
    given = {**trial.user_attrs, **trial.params}
    folder = sweep / job_folder([f"{key}={value}" for key, value in given.items()])
    if not (folder / STATUS).is_file():
        return None
    try:
        run = load_run(folder)
    except FragreconError:  # a refused job has no config
        return None
    monitor = run.config.selection.monitor
    for row in run.epochs:
        if math.isfinite(row.get(monitor, math.nan)):
            trial.report(row[monitor], int(row["epoch"]))
    return str(run.status["status"])
