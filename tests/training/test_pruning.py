"""Pruning of jobs of a sweep, against Optuna's own pruner."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from fragrecon import files
from fragrecon.config.schema import SelectionConfig
from fragrecon.training.pruning import MedianPruning

MONITOR = "val/loss"


def write_job(folder: Path, scores: list[float], status: str = "done") -> None:
    files.write_json(folder / "status.json", {"status": status})
    rows = [{"epoch": epoch, "train/loss": 1.0, MONITOR: score} for epoch, score in enumerate(scores)]
    files.write_csv(folder / "metrics.csv", [row for row in rows if row[MONITOR] == row[MONITOR]])


def stops(callback: MedianPruning, epoch: int, score: float, epochs: int = 100) -> bool:
    """Whether training is stopped at the end of an epoch."""
    trainer: Any = SimpleNamespace(
        current_epoch=epoch,
        max_epochs=epochs,
        callback_metrics={MONITOR: torch.tensor(score, dtype=torch.float64)},
        is_global_zero=True,
        should_stop=False,
        strategy=SimpleNamespace(broadcast=lambda value: value),
    )
    callback.on_train_epoch_end(trainer, cast(Any, None))
    assert trainer.should_stop == (callback.reason is not None)
    return bool(trainer.should_stop)


def made(folder: Path, mode: Any, startup: int = 1, warmup: int = 0) -> MedianPruning:
    files.write_json(folder / "sweep.json", {"name": "a", "jobs": 2, "overrides": [], "started": ""})
    return MedianPruning(folder / "job", SelectionConfig(MONITOR, mode, 5, 0.0), startup, warmup)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(("jobs", "startup", "warmup"), [(1, 1, 0), (4, 5, 0), (5, 5, 2), (8, 0, 1), (0, 0, 0)])
def test_a_job_is_pruned_where_optuna_would(tmp_path: Path, mode: str, jobs: int, startup: int, warmup: int) -> None:
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    random, outcomes = np.random.default_rng(jobs + 10 * warmup), set()
    others = [random.normal(size=random.integers(1, 6)).tolist() for _ in range(jobs)]  # some ended early
    for number, scores in enumerate(others):
        write_job(tmp_path / f"job-{number}", scores)
    write_job(tmp_path / "pruned", [100.0, -100.0, 0.0], "pruned")  # is not compared with
    write_job(tmp_path / "under way", [100.0, -100.0, 0.0], "running")
    pruner = optuna.pruners.MedianPruner(startup, warmup)
    callback = made(tmp_path, mode, startup, warmup)
    for _ in range(8):
        own = random.normal(random.normal(scale=3), size=6).tolist()  # rather good, or rather bad
        study = optuna.create_study(direction={"min": "minimize", "max": "maximize"}[mode], pruner=pruner)
        for scores in others:
            values = dict(enumerate(scores))
            study.add_trial(optuna.trial.create_trial(value=scores[-1], intermediate_values=values))
        trial = study.ask()
        for epoch, score in enumerate(own):
            write_job(tmp_path / "job", own[:epoch], "running")
            trial.report(score, epoch)
            expected = trial.should_prune()
            assert stops(callback, epoch, score) == expected, (epoch, own, others)
            outcomes.add(expected)
    assert outcomes == ({False} if jobs < max(1, startup) else {False, True})


def test_nothing_is_pruned_outside_of_a_sweep_or_in_the_last_epoch(tmp_path: Path) -> None:
    write_job(tmp_path / "good", [0.0, 0.0])
    callback = made(tmp_path, "min")
    assert stops(callback, 0, 1.0)
    assert not stops(made(tmp_path, "min"), 1, 1.0, epochs=2)
    assert not stops(made(tmp_path, "min"), 0, 0.0)
    (tmp_path / "sweep.json").unlink()
    assert not stops(callback, 0, 1.0)


def test_damaged_files_of_other_jobs_do_not_stop_a_job(tmp_path: Path) -> None:
    callback = made(tmp_path, "min")
    write_job(tmp_path / "good", [0.0])
    for name, text in (("status.json", "{"), ("metrics.csv", "epoch,val/loss\n0,none\n")):
        write_job(tmp_path / "bad", [5.0])
        (tmp_path / "bad" / name).write_text(text)
        assert not stops(callback, 0, 0.0)
        assert stops(callback, 0, 1.0)
