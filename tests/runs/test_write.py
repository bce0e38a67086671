from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from fragrecon import __version__
from fragrecon.config import saved
from fragrecon.config.saved import config_hash
from fragrecon.config.schema import Config
from fragrecon.errors import ConfigError, DataError, RunError
from fragrecon.evaluation.clustering.protocol import METRICS
from fragrecon.evaluation.statistics import Scores, paired, summary
from fragrecon.run import compose
from fragrecon.runs.modules import Facts, build_model
from fragrecon.runs.read import Run, load_run
from fragrecon.runs.write import Record, reason

PROTOCOL = {"puzzles": 5, "images_per_puzzle": 10, "fragments_per_image": 16, "backend": "sklearn"}
OVERRIDES = ["model=pca", "model.latent_dim=4", "seed=3"]
FACTS = Facts((3, 16, 16), (4, 4), 10)


@pytest.fixture(scope="module")
def config() -> Config:
    return compose(OVERRIDES)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def status(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "status.json").read_text())
    return found


def scores(puzzles: int = 5) -> dict[str, dict[str, Scores]]:
    random = np.random.default_rng(0)
    return {method: {m: random.random(puzzles) for m in METRICS} for method in ("random", "raw_pixels", "model")}


def write(record: Record, values: dict[str, dict[str, Scores]]) -> dict[str, Any]:
    return record.write_metrics(
        values,
        protocol=PROTOCOL,
        data={"name": "synthetic", "split": "test"},
        model={"name": "PCAAutoencoder", "parameters": 7},
        seconds={"training": 12.34567, "evaluation": 1},
    )


# Status --------------------------------------------------------------------------------------------------------------


def test_a_started_run_saves_its_config_overrides_and_status(config: Config, tmp_path: Path) -> None:
    Record(tmp_path / "run").start(config, OVERRIDES)
    assert names(tmp_path / "run") == {"config.yaml", "overrides.yaml", "status.json"}
    text = (tmp_path / "run" / "config.yaml").read_text()
    assert not {"${", "!!"} & {text[start : start + 2] for start in range(len(text))}, "it can be read without Hydra"
    assert saved.load(tmp_path / "run" / "config.yaml") == config
    assert list(OmegaConf.load(tmp_path / "run" / "overrides.yaml")) == OVERRIDES
    found = status(tmp_path / "run")
    assert (found["status"], found["error"], found["finished"]) == ("running", None, None)
    assert found["config_hash"] == config_hash(config)
    assert datetime.fromisoformat(found["started"]).tzinfo is not None


def test_the_status_follows_the_run(config: Config, tmp_path: Path) -> None:
    record = Record(tmp_path)
    record.start(config, [])
    assert status(tmp_path)["stage"] is None
    record.enter("training")
    assert (status(tmp_path)["status"], status(tmp_path)["stage"]) == ("running", "training")
    record.enter("evaluation")
    assert (status(tmp_path)["status"], status(tmp_path)["stage"]) == ("running", "evaluation")
    record.finish()
    found = status(tmp_path)
    assert (found["status"], found["stage"], found["error"]) == ("done", "evaluation", None)
    assert datetime.fromisoformat(found["finished"]) >= datetime.fromisoformat(found["started"])


def test_a_failure_is_saved_by_its_message_or_if_unexpected_by_its_traceback(config: Config, tmp_path: Path) -> None:
    Record(tmp_path / "early").fail(ConfigError("unknown key"))
    assert (status(tmp_path / "early")["status"], status(tmp_path / "early")["error"]) == ("failed", "unknown key")
    record = Record(tmp_path)
    record.start(config, [])
    record.enter("training")
    record.fail(DataError("the train split has 3 images"))
    found = status(tmp_path)
    assert (found["status"], found["stage"], found["error"]) == ("failed", "training", "the train split has 3 images")
    assert found["finished"] is not None
    try:
        _ = 1 // len([])
    except ZeroDivisionError as error:
        record.fail(error)
    text = status(tmp_path)["error"]
    assert text.startswith("Traceback")
    assert "ZeroDivisionError" in text
    assert "test_write.py" in text


def test_a_resumed_run_keeps_its_start_and_stage_but_not_its_error(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = "1 start"
    monkeypatch.setattr("fragrecon.runs.write.now", lambda: now)
    first = Record(tmp_path)
    first.start(config, [])
    first.enter("evaluation")
    now = "2 failure"
    first.fail(KeyboardInterrupt())
    assert status(tmp_path)["finished"] == "2 failure"
    now = "3 end"
    again = Record(tmp_path)
    assert again.status == status(tmp_path)
    again.start(config, ["resume=here"])
    found = status(tmp_path)
    assert (found["started"], found["stage"], found["status"]) == ("1 start", "evaluation", "running")
    assert (found["error"], found["finished"]) == (None, None)
    again.finish()
    assert (status(tmp_path)["started"], status(tmp_path)["finished"]) == ("1 start", "3 end")


# The folder of a run ----------------------------------------------------------------------------------------------


def test_a_folder_is_locked_by_one_process_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    line = (
        "import sys, pathlib; from fragrecon.runs.write import Record\nwith Record(pathlib.Path(sys.argv[1])).hold(): "
    )
    waiting = [sys.executable, "-c", line + "print('held', flush=True); sys.stdin.read()", str(folder)]
    with subprocess.Popen(waiting, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=str(folder)), Record(folder).hold():
            pytest.fail("held twice")
        with Record(folder, writes=False).hold():
            pass  # a further process of the same run
        other.kill()
    with pytest.raises(ZeroDivisionError), Record(folder).hold():
        _ = 1 // len([])
    with Record(folder).hold():
        pass
    assert names(folder) <= {".lock"}


def test_the_status_is_read_again_when_the_folder_is_locked(config: Config, tmp_path: Path) -> None:
    early = Record(tmp_path)
    Record(tmp_path).start(config, [])
    assert early.status == {}
    with early.hold():
        assert early.status["status"] == "running"


LEFT = (
    "metrics.json",
    "metrics.csv",
    "scores.npz",
    "examples.npz",
    "robustness.csv",
    "checkpoints/last.ckpt",
    "figures/a.png",
)


def left_behind(config: Config, folder: Path, ended: str) -> Record:
    """The record of a run that has written all its files and then ended."""
    record = Record(folder)
    record.start(config, [])
    for name in LEFT:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    (folder / "run.log").touch()
    if ended == "done":
        record.finish()
    if ended == "failed":
        record.fail(ConfigError("bad"))
    return Record(folder)


@pytest.mark.parametrize("ended", ["running", "failed"])
def test_an_unfinished_job_runs_again_with_its_files_unless_they_are_of_another_configuration(
    config: Config, tmp_path: Path, ended: str
) -> None:
    record = left_behind(config, tmp_path, ended)
    before = names(tmp_path)
    assert record.must_run(config)
    assert names(tmp_path) == before
    assert record.must_run(compose([*OVERRIDES, "seed=4"]))
    assert names(tmp_path) == {"config.yaml", "overrides.yaml", "status.json", "run.log"}


def test_a_finished_job_is_skipped_unless_its_scores_are_missing(config: Config, tmp_path: Path) -> None:
    record = left_behind(config, tmp_path, "done")
    before = names(tmp_path)
    assert not record.must_run(config)
    with pytest.raises(RunError, match=r"sweep\.name"):
        record.must_run(compose([*OVERRIDES, "seed=4"]))
    assert names(tmp_path) == before
    (tmp_path / "metrics.json").unlink()
    assert record.must_run(config)
    unscored = compose([*OVERRIDES, "evaluation.puzzles=0"])
    record = left_behind(unscored, tmp_path / "unscored", "done")
    (tmp_path / "unscored" / "metrics.json").unlink()
    assert not record.must_run(unscored)


def test_a_run_is_not_started_in_the_folder_of_another(config: Config, tmp_path: Path) -> None:
    record = left_behind(config, tmp_path, "failed")
    with pytest.raises(RunError, match=r"failed.* resume="):
        record.check_unused()
    Record(tmp_path / "new").check_unused()


def test_a_refusal_is_saved_unless_it_would_change_a_run(config: Config, tmp_path: Path) -> None:
    Record(tmp_path / "new").refuse(["seed=true"], ConfigError("bad"))
    assert (status(tmp_path / "new")["status"], status(tmp_path / "new")["error"]) == ("failed", "bad")
    assert names(tmp_path / "new") == {"overrides.yaml", "status.json"}
    Record(tmp_path / "new").refuse(["seed=1.5"], ConfigError("worse"))
    assert status(tmp_path / "new")["error"] == "worse"
    assert Record(tmp_path / "new").overrides == ["seed=1.5"]
    for ended in ("done", "running"):
        record = left_behind(config, tmp_path / ended, ended)
        before = status(tmp_path / ended)
        record.refuse(["seed=true"], ConfigError("bad"))
        assert status(tmp_path / ended) == before
        assert record.overrides == []


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ("one\ntwo", "one"),
        ("Traceback (most recent call last):\n  File\nKeyError: 'a'\n", "KeyError: 'a'"),
        (None, "no reason was given"),
        ("", "no reason was given"),
        ("\n x \n", "x"),
    ],
)
def test_the_reason_of_a_failure_is_one_line(error: str | None, line: str) -> None:
    assert reason({"error": error}) == line


# Figures -------------------------------------------------------------------------------------------------------------


def test_epochs_are_read_as_they_were_added(tmp_path: Path) -> None:
    record = Record(tmp_path)
    assert record.epochs == []
    record.add_epoch({"epoch": 0, "step": 3, "train/loss": 0.25})
    record.add_epoch({"epoch": 1, "step": 6, "train/loss": 1 / 3, "val/loss": 0.5})
    assert Record(tmp_path).epochs == [
        {"epoch": 0, "step": 3, "train/loss": 0.25},
        {"epoch": 1, "step": 6, "train/loss": 1 / 3, "val/loss": 0.5},
    ]
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[:2] == ["epoch,step,train/loss,val/loss", "0,3,0.25,"]


def test_rows_of_a_resumed_run_replace_later_rows(tmp_path: Path) -> None:
    record = Record(tmp_path)
    for epoch in range(12):
        record.add_epoch({"epoch": epoch, "loss": epoch})
    Record(tmp_path).add_epoch({"epoch": 9, "loss": -1})
    rows = record.epochs
    assert [int(row["epoch"]) for row in rows] == list(range(10))
    assert [int(row["loss"]) for row in rows] == [*range(9), -1]


def test_metrics_have_the_documented_layout(config: Config, tmp_path: Path) -> None:
    record, values = Record(tmp_path), scores()
    returned = write(record, values)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert returned == metrics
    assert list(metrics) == ["protocol", "scores", "model_minus", "model", "data", "versions", "seconds"]
    assert metrics["protocol"] == PROTOCOL
    assert metrics["data"] == {"name": "synthetic", "split": "test"}
    assert metrics["model"] == {"name": "PCAAutoencoder", "parameters": 7}
    assert metrics["seconds"] == {"training": 12.346, "evaluation": 1}
    assert metrics["versions"]["fragrecon"] == __version__
    assert metrics["versions"]["torch"] == torch.__version__
    assert list(metrics["scores"]) == ["random", "raw_pixels", "model"]
    for method, rows in metrics["scores"].items():
        assert tuple(rows) == METRICS
        for metric, found in rows.items():
            assert list(found) == ["mean", "std", "ci95", "n"]
            assert found == summary(values[method][metric])


def test_scores_are_saved_by_puzzle_and_compared_with_each_baseline_in_pairs(tmp_path: Path) -> None:
    values = scores()
    minus = write(Record(tmp_path), values)["model_minus"]
    assert list(minus) == ["random", "raw_pixels"]
    for method, rows in minus.items():
        for metric, found in rows.items():
            assert found == paired(values["model"][metric], values[method][metric])
    with np.load(tmp_path / "scores.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {f"{method}/{metric}" for method in values for metric in METRICS}
        for name, found in arrays.items():
            method, metric = name.split("/")
            np.testing.assert_array_equal(found, values[method][metric])


def test_conditions_are_written_as_rows(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"axis": "noise", "value": 0.1, "method": "model", "metric": "kmeans_ari", "mean": 1 / 3, "std": None},
        {"axis": "gap", "value": 9, "method": "all", "not_applicable": "nothing is left, at all"},
    ]
    Record(tmp_path).write_robustness(rows)
    assert names(tmp_path) == {"robustness.csv"}
    with (tmp_path / "robustness.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == ["axis", "value", "method", "metric", "mean", "std", "not_applicable"]
    assert (float(found[0]["mean"]), found[0]["std"], found[0]["not_applicable"]) == (1 / 3, "", "")
    assert (found[1]["mean"], found[1]["not_applicable"]) == ("", "nothing is left, at all")


def test_metrics_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    values = scores()
    values["model"]["kmeans_ari"][2] = math.nan
    with pytest.raises(ValueError, match=r"JSON|nan"):
        write(Record(tmp_path), values)
    assert not (tmp_path / "metrics.json").exists()


def test_other_processes_write_nothing(config: Config, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    record = Record(folder, writes=False)
    record.start(config, OVERRIDES)
    record.enter("training")
    record.add_epoch({"epoch": 0})
    assert write(record, scores())["protocol"]["puzzles"] == 5
    record.write_robustness([{"axis": "gap"}])
    record.finish()
    record.fail(ValueError("unimportant"))
    assert not folder.exists()
    assert record.status["status"] == "failed"


# Opening a run -------------------------------------------------------------------------------------------------------


def save_checkpoint(path: Path, config: Config, shift: float = 0.0) -> dict[str, torch.Tensor]:
    """Write a checkpoint of a model with weights of its own, and return them."""
    model, _ = build_model(config, FACTS)
    weights = {key: value + shift for key, value in model.state_dict().items()}
    path.parent.mkdir(exist_ok=True)
    state = {f"model.{key}": value for key, value in weights.items()} | {"means.train/loss.weight": torch.zeros(())}
    torch.save({"state_dict": state, "facts": vars(FACTS)}, path)
    return weights


@pytest.fixture
def finished(config: Config, tmp_path: Path) -> Path:
    folder = tmp_path / "outputs" / "run"
    record = Record(folder)
    record.start(config, OVERRIDES)
    write(record, scores())
    save_checkpoint(folder / "checkpoints" / "last.ckpt", config)
    record.finish()
    return folder


def assert_weights(run: Run, weights: dict[str, torch.Tensor]) -> None:
    found = run.load_model().state_dict()
    assert found.keys() == weights.keys()
    assert all(torch.equal(value, weights[key]) for key, value in found.items())


def test_a_finished_run_opens(finished: Path, config: Config) -> None:
    for name in (finished, str(finished)):
        run = load_run(name)
        assert run.folder == finished
        assert run.config == config
        assert run.status["status"] == "done"
        assert run.metrics["protocol"]["puzzles"] == 5
        assert run.last_checkpoint == finished / "checkpoints" / "last.ckpt"


def test_the_best_checkpoint_is_preferred_to_the_last_and_of_two_the_newer(finished: Path, config: Config) -> None:
    folder = finished / "checkpoints"
    assert load_run(finished).checkpoint.name == "last.ckpt"
    weights = {}
    for age, name in (
        (300, "best-epoch=9-x=0.9.ckpt"),
        (100, "best-epoch=10-x=0.2.ckpt"),
        (200, "best-epoch=2-x=0.5.ckpt"),
    ):
        weights[name] = save_checkpoint(folder / name, config, age / 100)
        os.utime(folder / name, (2e9 - age, 2e9 - age))
    assert load_run(finished).checkpoint.name == "best-epoch=10-x=0.2.ckpt"
    assert_weights(load_run(finished), weights["best-epoch=10-x=0.2.ckpt"])
    given = load_run(finished).load_model(folder / "best-epoch=9-x=0.9.ckpt").state_dict()
    assert all(torch.equal(given[key], value) for key, value in weights["best-epoch=9-x=0.9.ckpt"].items())


def test_a_missing_or_foreign_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="absent"):
        load_run(tmp_path / "absent")
    (tmp_path / "foreign").mkdir()
    with pytest.raises(RunError, match=r"foreign .*config\.yaml"):
        load_run(tmp_path / "foreign")
    (tmp_path / "foreign" / "config.yaml").touch()
    with pytest.raises(RunError, match=r"foreign .*status\.json"):
        load_run(tmp_path / "foreign")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="file"):
        load_run(tmp_path / "file")


def test_a_run_that_ended_early_says_how_to_end_it(config: Config, tmp_path: Path) -> None:
    Record(tmp_path).start(config, [])
    run = load_run(tmp_path)
    assert run.last_checkpoint is None
    with pytest.raises(RunError, match=r"metrics\.json.* running; resume="):
        _ = run.metrics
    with pytest.raises(RunError, match=r"resume="):
        _ = run.checkpoint
