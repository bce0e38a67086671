"""A run that is stopped, in any way and at any moment, and then resumed ends as if it had never been stopped."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import yaml

from fragrecon import files
from fragrecon.errors import ConfigError, RunError
from fragrecon.runs.checkpoints import AtomicCheckpointIO
from tests.cli import (
    SMALL,
    Cli,
    assert_same_run,
    assert_same_weights,
    checkpoint,
    fingerprint,
    job,
    metrics,
    names,
    rows,
    status,
    weights,
)
from tests.jobs.conftest import Moments

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

# In real processes ---------------------------------------------------------------------------------------------------

LONG = (
    *SMALL,
    "model=linear",
    "scheduler=plateau",
    "scheduler.patience=0",
    "data.batches_per_epoch=30",
    "trainer.checkpoint_every_n_steps=5",
    "evaluation.puzzles=20",
)


def in_first_epoch(folder: Path) -> bool:
    return (folder / "checkpoints" / "last.ckpt").exists()


def in_second_epoch(folder: Path) -> bool:
    """A checkpoint has been written since the row of the first epoch, and is not the one of that epoch's end."""
    try:
        steps = int(rows(folder)[0]["step"])
        return int(checkpoint(folder)["global_step"]) > steps
    except (FileNotFoundError, IndexError):
        return False


def in_evaluation(folder: Path) -> bool:
    return (folder / "status.json").exists() and status(folder)["stage"] == "evaluation"


@pytest.mark.long
@pytest.mark.fault("SIGINT, SIGTERM and SIGKILL")
def test_a_process_that_is_stopped_again_and_again_ends_as_one_that_was_not(cli: Cli, cache: Path) -> None:
    job(cli.home / "whole", cache, *LONG)
    folder, line = cli.home / "run", [*LONG, f"data.cache_dir={cache}", "hydra.run.dir=run"]
    started = ""
    for moment, stop in (
        (in_first_epoch, signal.SIGINT),
        (in_second_epoch, signal.SIGTERM),
        (in_evaluation, signal.SIGKILL),
    ):
        result = cli.stopped(partial(moment, folder), stop, *line)
        assert result.code == (-stop if stop == signal.SIGKILL else 128 + stop), result.stderr
        assert "Traceback" not in result.stdout + result.stderr
        assert status(folder)["status"] == "running"
        assert not (folder / "metrics.json").exists()
        assert (f"resume={folder}" in result.stdout) == (stop != signal.SIGKILL)
        started = started or status(folder)["started"]
        line = ["resume=run"]
    assert cli.run("resume=run").ok().stderr == ""
    assert_same_run(cli.home / "whole", folder)
    assert (status(folder)["status"], status(folder)["started"]) == ("done", started)
    assert not names(folder, "*.part")
    assert {path.name for path in cli.home.iterdir()} == {"run", "whole"}


@pytest.mark.fault("resuming a finished run")
def test_resuming_a_finished_run_says_so_and_changes_nothing(cli: Cli, finished: Path) -> None:
    folder = cli.home / "run"  # a copy, because the shared run would get a log
    shutil.copytree(finished, folder)
    (folder / "report.html").touch()  # which jobs of these tests do not write
    before = fingerprint(folder)
    result = cli.run(f"resume={folder}").ok()
    assert "is finished; nothing is left to do" in result.stdout
    assert fingerprint(folder) == before | {"run.log": fingerprint(folder)["run.log"]}
    assert [path.name for path in cli.home.iterdir()] == ["run"]


# In this process, at every moment ------------------------------------------------------------------------------------

SHORT = (
    *SMALL,
    "model=linear",
    "data.images_per_puzzle=4",
    "data.batches_per_epoch=4",
    "evaluation.puzzles=2",
    "trainer.checkpoint_every_n_steps=1",
)
PLATEAU = (*SHORT, "scheduler=plateau", "scheduler.patience=0")
UNSCORED = "evaluation.puzzles=0"  # nothing comes after training
AVERAGING = (
    *SHORT,
    UNSCORED,
    "data.batches_per_epoch=5",
    "evaluation.validation_puzzles=2",
    "scheduler=cosine",
    "trainer.accumulate_grad_batches=2",
    "trainer.val_check_interval=0.5",
    "trainer.ema=0.9",
)

ACCUMULATING = (
    *SHORT,
    UNSCORED,
    "data.batches_per_epoch=5",
    "evaluation.validation_puzzles=2",
    "scheduler=cosine",
    "trainer.accumulate_grad_batches={0: 3, 1: 2}",
    "+trainer.callbacks.rates._target_=lightning.pytorch.callbacks.LearningRateMonitor",
    "trainer.log_every_n_steps=1",
)
SOLVING = (
    *(line for line in SHORT if line != "model=linear"),
    UNSCORED,
    *("model=mosaic", "model.width=16", "model.depth=1", "model.heads=2", "model.latent_dim=8"),
    *("data.images_range=[2,8]", "data.corruption.share=0.5", "data.corruption.gap=3", "data.corruption.noise=0.2"),
    *("data.corruption.jitter=0.3", "data.corruption.rotation=0.5", "evaluation.validation_puzzles=2"),
    "scheduler=cosine",
)
PAIRING = (
    *(line for line in SHORT if line != "model=linear"),
    UNSCORED,
    *("model=siamese", "model.latent_dim=8", "model.channels=[4,4,4]", "model.hidden=8"),
    *("data.images_range=[2,8]", "evaluation.validation_puzzles=2"),
)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The folder of a run of `SHORT` that nothing has stopped; only to be read."""
    folder = tmp_path_factory.mktemp("short") / "run"
    job(folder, cache, *SHORT)
    return folder


@pytest.fixture
def folder(tmp_path: Path, cache: Path) -> Path:
    """The folder of a run of `SHORT` with one epoch."""
    job(tmp_path / "run", cache, *SHORT, "data.epochs=1")
    return tmp_path / "run"


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> Moments:
    """Moments just before a file appears or goes; the run can be ended at one of them."""

    def die(_: Any) -> None:
        raise Killed

    moments = Moments(die)
    real_file, real_remove = files.atomic_file, AtomicCheckpointIO.remove_checkpoint

    @contextmanager
    def atomic_file(path: Path) -> Iterator[BinaryIO]:
        with real_file(path) as file:
            yield file
            moments.pass_by(path, re.sub(r"-.*", "", path.name))

    def remove_checkpoint(self: AtomicCheckpointIO, path: Any) -> None:
        moments.pass_by(path, "removal")
        real_remove(self, path)

    monkeypatch.setattr(files, "atomic_file", atomic_file)
    monkeypatch.setattr(AtomicCheckpointIO, "remove_checkpoint", remove_checkpoint)
    return moments


@pytest.mark.parametrize(
    "line", [PLATEAU, pytest.param(AVERAGING, marks=pytest.mark.long)], ids=["plateau", "averaging"]
)
@pytest.mark.fault("a kill before any file is written")
def test_a_kill_before_any_file_is_written_changes_nothing(
    tmp_path: Path, cache: Path, kills: Moments, line: tuple[str, ...]
) -> None:
    job(tmp_path / "warm", cache, *line)  # converts the data, so that all runs write the same files
    kills.restart()
    job(tmp_path / "whole", cache, *line)
    moments, unreadable = kills.different(), []
    assert len(moments) > 8
    for at in moments:
        folder = tmp_path / str(at)
        kills.restart(at)
        with pytest.raises(Killed):
            job(folder, cache, *line)
        kills.restart()
        assert status(folder)["status"] == "running" if (folder / "status.json").exists() else True
        if not ((folder / "config.yaml").exists() and (folder / "status.json").exists()):
            unreadable.append(at)
            with pytest.raises(RunError, match="holds no"):
                job(folder, cache, f"resume={folder}")
            continue
        job(folder, cache, f"resume={folder}")
        assert_same_run(tmp_path / "whole", folder)
        assert not names(folder, "*.part")
    assert unreadable == [1, 2, 3], "only a run without its config and status cannot be resumed"


@pytest.mark.parametrize(
    "line",
    [
        (*PLATEAU, UNSCORED),
        pytest.param(AVERAGING, marks=pytest.mark.long),
        pytest.param(ACCUMULATING, marks=pytest.mark.long),
    ],
    ids=["plateau", "averaging", "accumulating"],
)
@pytest.mark.fault("SIGTERM at any batch, resumed bit for bit")
def test_a_sigterm_at_any_moment_of_training_changes_nothing(
    tmp_path: Path, cache: Path, terms: Moments, line: tuple[str, ...]
) -> None:
    job(tmp_path / "whole", cache, *line)
    moments = terms.different()
    assert len(moments) >= 8
    for at in moments:
        folder = tmp_path / str(at)
        terms.restart(at)
        with pytest.raises(SystemExit) as stop:
            job(folder, cache, *line)
        assert stop.value.code == 128 + signal.SIGTERM
        terms.restart()
        job(folder, cache, f"resume={folder}")
        assert_same_run(tmp_path / "whole", folder)


@pytest.mark.parametrize("line", [SOLVING, PAIRING], ids=["solving worn puzzles", "pairing"])
def test_puzzles_of_any_size_go_on_as_they_would_have(
    tmp_path: Path, cache: Path, terms: Moments, line: tuple[str, ...]
) -> None:
    """In the middle of the first epoch, at its end, and in the second."""
    job(tmp_path / "whole", cache, *line)
    last = terms.count
    stopped_at = set()
    for at in (3, last // 2, last - 3):
        folder = tmp_path / str(at)
        terms.restart(at)
        with pytest.raises(SystemExit):
            job(folder, cache, *line)
        terms.restart()
        stopped_at.add(int(checkpoint(folder)["global_step"]))
        job(folder, cache, f"resume={folder}")
        assert_same_run(tmp_path / "whole", folder)
    assert len(stopped_at) == 3
    assert {step % 4 for step in stopped_at} > {0}


@pytest.mark.parametrize("at", [3, 7], ids=["in the middle", "at the end"])
def test_batches_of_another_size_make_whole_epochs_from_the_one_that_was_begun(
    tmp_path: Path, cache: Path, terms: Moments, seen: list[int], at: int
) -> None:
    """Batches of four puzzles make epochs of seven; a run is stopped in its second epoch, or before the third."""
    line = [*SHORT, UNSCORED, "scheduler=cosine", "data.batches_per_epoch=null", "data.epochs=4"]
    line += ["data.images_per_puzzle=10", "data.puzzles_per_batch=4", "evaluation.validation_puzzles=1"]
    job(tmp_path / "whole", cache, *line)
    if at < 7:
        terms.restart(7 + at, "training_step")
    else:
        terms.restart(3, "on_train_epoch_start")
    folder = tmp_path / "run"
    with pytest.raises(SystemExit):
        job(folder, cache, *line)
    terms.restart()
    stopped = int(checkpoint(folder)["global_step"])
    copy = shutil.copytree(folder, tmp_path / "stopped")
    for puzzles, every in ((2, 1), (4, 1), (8, 1), (4, 2), (2, 2)):
        shutil.rmtree(folder)
        shutil.copytree(copy, folder)
        seen.clear()
        given = (f"data.puzzles_per_batch={puzzles}", f"trainer.accumulate_grad_batches={every}")
        job(folder, cache, f"resume={folder}", *given)
        steps, batches = [int(row["step"]) for row in rows(folder)], 285 // (10 * puzzles)
        if (puzzles, every) == (4, 1):
            assert seen == list(range(stopped, 28))
            assert steps == [7, 14, 21, 28]
            assert_same_run(tmp_path / "whole", folder)
        else:
            done = [7] if at < 7 else [7, 14]
            assert seen == list(range(len(done) * batches, 4 * batches))
            assert steps == [*done, *(stopped - (-batches // every) * number for number in range(1, 5 - len(done)))]
        (state,) = checkpoint(folder)["lr_schedulers"]
        assert state["last_epoch"] == steps[-1]
        assert state["_last_lr"][0] < 1e-6


@pytest.mark.parametrize("key", ["trainer.max_epochs", "data.epochs"])
@pytest.mark.fault("resume at the end of training, with more epochs")
def test_a_finished_run_goes_on_with_more_epochs(folder: Path, cache: Path, short: Path, key: str) -> None:
    assert len(rows(folder)) == 1
    job(folder, cache, f"resume={folder}", f"{key}=2")
    assert_same_run(short, folder)
    noted = yaml.safe_load((folder / "overrides.yaml").read_text())
    assert noted == [*SHORT, "data.epochs=1", f"{key}=2"]


def test_a_run_that_early_stopping_ended_does_not_go_on(tmp_path: Path, cache: Path, kills: Moments) -> None:
    line = [*SHORT, "trainer.max_epochs=6", "selection.patience=1", "selection.min_delta=1"]
    job(tmp_path / "warm", cache, *line)
    kills.restart()
    job(tmp_path / "whole", cache, *line)
    assert len(rows(tmp_path / "whole")) == 2
    kills.restart(kills.count - 4)  # after training, before its scores
    with pytest.raises(Killed):
        job(tmp_path / "run", cache, *line)
    kills.restart()
    folder = tmp_path / "run"
    files.write_json(folder / "status.json", status(folder) | {"stage": "training"})  # as if killed a moment earlier
    job(folder, cache, f"resume={folder}")
    assert_same_run(tmp_path / "whole", folder)


def test_a_resumed_run_keeps_its_config_and_notes_only_its_own_folder(
    tmp_path: Path, cache: Path, kills: Moments, short: Path
) -> None:
    kills.restart(8)
    with pytest.raises(Killed):
        job(tmp_path / "run", cache, *SHORT)
    kills.restart()
    job(tmp_path / "run", cache, f"resume={tmp_path / 'run'}")
    found, expected = (yaml.safe_load((folder / "config.yaml").read_text()) for folder in (tmp_path / "run", short))
    assert {key for key in expected if found[key] != expected[key]} <= {"resume", "sweep"}
    assert status(tmp_path / "run")["config_hash"] == status(short)["config_hash"]
    assert metrics(tmp_path / "run")["scores"] == metrics(short)["scores"]


def test_what_is_refused_leaves_the_run_it_would_have_taken_up_as_it_was(short: Path, cache: Path) -> None:
    before = fingerprint(short)
    refused = (
        "seed=true",
        "~seed",
        "experiment=case_study",
        "model.latent_dim=5",
        "model=pca",
        "objective=cross_entropy",
        "data.fragment_size=8",
        "data.channels=1",
        f"init_from={short}",
    )
    for bad in refused:
        with pytest.raises(ConfigError):
            job(short, cache, f"resume={short}", bad)
    with pytest.raises(RunError, match=r"already holds a run.*resume="):
        job(short, cache, *SHORT)
    assert fingerprint(short) == before


@pytest.mark.parametrize("schedule", ["none", "cosine", "plateau"])
def test_a_new_learning_rate_counts_from_where_the_run_is_taken_up(tmp_path: Path, cache: Path, schedule: str) -> None:
    folder = tmp_path / "run"
    job(folder, cache, *SHORT, f"scheduler={schedule}", "data.epochs=1")
    still = weights(folder)
    job(folder, cache, f"resume={folder}", "trainer.max_epochs=2", "optimizer.lr=0.0", "optimizer.weight_decay=0.0")
    groups = checkpoint(folder)["optimizer_states"][0]["param_groups"]
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(0.0, 0.0)]
    assert_same_weights(
        {name: value for name, value in weights(folder).items() if "running" not in name and "tracked" not in name},
        {name: value for name, value in still.items() if "running" not in name and "tracked" not in name},
    )


@pytest.mark.fault("resume with another optimizer")
def test_another_optimizer_cannot_take_over_the_state_of_the_first(folder: Path, cache: Path) -> None:
    with pytest.raises(ConfigError, match="init_from=FOLDER"):
        job(folder, cache, f"resume={folder}", "trainer.max_epochs=2", "optimizer=adamw")
