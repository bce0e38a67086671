"""Studies of searches, written by Optuna."""

from __future__ import annotations

from pathlib import Path

import pytest

from fragrecon.runs.studies import read_search, record_jobs_in_studies


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("maximise", [True, False])
def test_a_study_is_read_with_the_importance_of_its_parameters(
    tmp_path: Path, maximise: bool, recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    optuna = pytest.importorskip("optuna")
    monkeypatch.setattr(optuna.Study, "tell", optuna.Study.tell)
    if recorded:  # a study of something else in a process that runs a search
        record_jobs_in_studies(tmp_path / "sweep")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler, direction = optuna.samplers.RandomSampler(seed=0), "maximize" if maximise else "minimize"
    study = optuna.create_study(f"sqlite:///{tmp_path / 'study.db'}", sampler, direction=direction, study_name="a")
    states = optuna.trial.TrialState
    expected: list[tuple[int, float | None, bool]] = []
    for number in range(20):
        trial = study.ask()
        rate, _ = trial.suggest_float("rate", 0, 1), trial.suggest_float("unused", 0, 1)
        if number == 18:
            trial.report(0.25, 0)
            study.tell(trial, state=states.PRUNED)
            expected.append((number, 0.25, True))
        elif number == 19:
            study.tell(trial, state=states.FAIL)
            expected.append((number, None, False))
        else:
            study.tell(trial, rate)
            expected.append((number, rate, False))
    study.ask()  # under way
    found = read_search(tmp_path)
    assert found is not None
    assert [(trial.number, trial.value, trial.is_pruned) for trial in found.trials] == expected
    assert found.maximise == maximise
    assert list(found.importances) == ["rate", "unused"]
    assert found.importances["rate"] > 0.9


def test_a_sweep_without_a_search_has_no_study(tmp_path: Path) -> None:
    assert read_search(tmp_path) is None
