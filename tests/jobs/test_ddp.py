"""Two processes on one machine do together what one does alone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fragrecon.runs.read import load_run
from fragrecon.runs.sweeps import job_folder
from fragrecon.training.processes import started_from
from tests.cli import (
    SMALL,
    Cli,
    Result,
    assert_same_run,
    checkpoint,
    finish,
    job,
    metrics,
    names,
    rows,
    shared_cache,
    status,
    wait_until,
    weights,
)

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package"),
]

# No dropout and no normalisation over the batch, so that the sum over ranks is all that differs; KMeans from one start.
LINE = (*SMALL, "model=pca", "trainer.limit_train_batches=5", "optimizer.weight_decay=0", "evaluation.train_puzzles=0")
EXACT = ("trainer.precision=32-true", "report.figures=false")
RECORD = {"config.yaml", "overrides.yaml", "status.json", "metrics.json", "metrics.csv", "scores.npz", "run.log"}


def mentioning(text: str) -> list[int]:
    """Processes with ``text`` on their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if text in line:
            found.append(int(folder.name))
    return found


def struck(
    process: subprocess.Popen[str],
    folder: Path,
    number: int,
    moment: Callable[[], bool] = lambda: True,
    rank: int = 1,
) -> Result:
    """Send a signal to one of the two processes of a run as soon as both are there and ``moment()`` holds."""
    others: list[int] = []

    def is_ready() -> bool:
        others[:] = mentioning(f"fragrecon.jobs.train\0{folder}")
        return bool(others) and moment()

    try:
        wait_until(lambda: is_ready() or process.poll() is not None)
        (other,) = others
        os.kill(other if rank else process.pid, number)
    except BaseException:
        process.kill()
        raise
    finally:
        result = finish(process)
    return result


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    return Cli(tmp_path_factory.mktemp("ddp"), shared_cache(tmp_path_factory))


@pytest.fixture(scope="module")
def alone(cli: Cli) -> Path:
    job(cli.home / "alone", cli.cache, *LINE, *EXACT)
    return cli.home / "alone"


@pytest.fixture(scope="module")
def result(cli: Cli, alone: Path) -> Result:
    return cli.run(*LINE, *EXACT, "trainer=ddp_cpu", f"hydra.run.dir={cli.home / 'together'}")


@pytest.fixture(scope="module")
def together(cli: Cli, result: Result) -> Path:
    result.ok()
    return cli.home / "together"


def test_two_processes_train_to_the_weights_of_one(alone: Path, together: Path) -> None:
    assert checkpoint(together)["global_step"] == checkpoint(alone)["global_step"] == 10
    for name, value in weights(alone).items():
        torch.testing.assert_close(weights(together)[name], value, rtol=1e-4, atol=2e-5, msg=name)


def test_figures_are_means_over_both_processes(alone: Path, together: Path) -> None:
    for one, two in zip(rows(alone), rows(together), strict=True):
        assert one.keys() == two.keys()
        for name in ("train/loss", "val/loss"):
            assert float(two[name]) == pytest.approx(float(one[name]), rel=1e-4)
        for name in one:
            if name.startswith("val"):  # a fragment that lies between two clusters may fall to the other
                assert float(two[name]) == pytest.approx(float(one[name]), abs=0.02)


def test_scores_are_those_of_one_process(alone: Path, together: Path) -> None:
    one, two = metrics(alone)["scores"], metrics(together)["scores"]
    for baseline in ("random", "raw_pixels"):
        assert two[baseline] == one[baseline]
    assert two["model"]["mean_clustering_score"]["n"] == 5
    assert two["model"]["mean_clustering_score"]["mean"] == pytest.approx(
        one["model"]["mean_clustering_score"]["mean"], abs=0.02
    )


def test_one_record_is_written_and_nothing_beside_it(cli: Cli, together: Path) -> None:
    assert set(names(together)) >= RECORD
    assert not [name for name in names(cli.home) if "ddp" in name or name.startswith(("outputs", "multirun"))]
    assert names(together, ".*") == [".lock"]
    assert status(together)["status"] == "done"
    assert (together / "run.log").read_text().count("epoch 0:") == 1
    assert load_run(together).config.trainer.strategy == "ddp"


def test_only_the_first_process_speaks(result: Result) -> None:
    assert result.stdout.count("epoch 0:") == 1
    assert result.stdout.count("model minus") == 1
    assert result.stderr == ""


def test_no_process_is_left_behind(together: Path) -> None:
    assert mentioning(str(together)) == []


@pytest.mark.long
@pytest.mark.fault("two processes killed and resumed")
def test_a_run_of_two_processes_goes_on_where_it_was_killed(cli: Cli, together: Path) -> None:
    folder = cli.home / "killed"

    def is_after_first_epoch() -> bool:
        return (folder / "metrics.csv").exists() and (folder / "checkpoints" / "last.ckpt").exists()

    line = [*LINE, *EXACT, "trainer=ddp_cpu", f"hydra.run.dir={folder}"]
    assert cli.stopped(is_after_first_epoch, signal.SIGKILL, *line).code == -signal.SIGKILL
    wait_until(lambda: not mentioning(str(folder)), timeout=60)  # the other process ends by itself
    cli.run(f"resume={folder}").ok()
    assert_same_run(together, folder)
    assert mentioning(str(folder)) == []


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.fault("SIGTERM to one of two processes")
def test_a_sigterm_to_one_process_stops_both_after_the_same_batch(cli: Cli, together: Path, rank: int) -> None:
    folder = cli.home / f"terminated-{rank}"
    line = [*LINE, *EXACT, "trainer=ddp_cpu", "trainer.checkpoint_every_n_steps=1", f"hydra.run.dir={folder}"]
    process = cli.start(*line)
    result = struck(process, folder, signal.SIGTERM, lambda: (folder / "checkpoints" / "last.ckpt").exists(), rank=rank)
    assert result.code == 128 + signal.SIGTERM, result.stderr
    assert f"resume={folder}" in result.stdout + result.stderr
    wait_until(lambda: not mentioning(str(folder)), timeout=60)
    cli.run(f"resume={folder}").ok()
    assert_same_run(together, folder)


@pytest.mark.fault("process that dies before training begins")
def test_a_process_that_dies_before_training_is_named(cli: Cli) -> None:
    folder = cli.home / "stillborn"
    process = cli.start(*LINE, "trainer=ddp_cpu", f"hydra.run.dir={folder}")
    result = struck(process, folder, signal.SIGKILL)
    assert result.code == 1
    assert status(folder)["status"] == "failed"
    for text in ("process 1 of 2", str(-signal.SIGKILL)):
        assert text in status(folder)["error"]


@pytest.mark.fault("first process killed")
def test_a_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    child = "from fragrecon.training.processes import end_with_parent as end; end(); import time; time.sleep(600)"
    parent = (
        "import os, subprocess, sys; os.environ['FRAGRECON_PARENT'] = str(os.getpid()); "
        f"print(subprocess.Popen([sys.executable, '-c', {child!r}]).pid, flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        stat = Path("/proc", process.stdout.readline().decode().strip(), "stat")
        process.kill()
    wait_until(lambda: not stat.exists() or stat.read_text().split()[2] == "Z", 120)


def test_a_sweep_of_runs_of_two_processes_gives_each_its_own_record(cli: Cli, together: Path) -> None:
    before, line = set(names(cli.home)), [*LINE, *EXACT, "trainer=ddp_cpu"]
    rates = ("0.001", "3e+38")  # the second fails in its first step, in both processes
    result = cli.run("-m", *line, f"optimizer.lr={','.join(rates)}", "sweep.name=rates")
    folders = [cli.home / "multirun" / "rates" / job_folder([*line, f"optimizer.lr={rate}"]) for rate in rates]
    assert [status(folder)["status"] for folder in folders] == ["done", "failed"]
    assert "optimizer.lr" in status(folders[1])["error"]
    assert result.code == 1
    assert "error: 1 of the 2 jobs that ran failed" in result.stderr
    assert f"  {folders[1].name}: " in result.stderr
    assert_same_run(together, folders[0])
    assert [load_run(folder).config.optimizer["lr"] for folder in folders] == [0.001, 3e38]
    for folder in folders:
        assert (folder / "run.log").read_text().count("training by 2 processes") == 1
        assert (folder / "run.log").read_text().count("epoch 0:") == (0 if folder is folders[1] else 1)
    new = set(names(cli.home)) - before
    assert all(name == "multirun" or name.startswith("multirun/rates") for name in new)
    assert {path for path in (cli.home / "multirun" / "rates").iterdir() if path.is_dir()} == set(folders)
    wait_until(lambda: not mentioning(str(cli.home)), timeout=60)


@pytest.mark.long
@pytest.mark.fault("process that dies in training")
def test_a_process_that_dies_alone_fails_its_job_and_not_the_sweep(cli: Cli, together: Path) -> None:
    """The second job also shows that two processes train in bfloat16."""
    line = [
        *LINE,
        "trainer.precision=bf16-mixed",
        "trainer=ddp_cpu",
        "trainer.limit_train_batches=1.0",
        "data.epochs=1",
        "evaluation.puzzles=0",
    ]
    line += ["trainer.checkpoint_every_n_steps=5"]
    sizes = (4000, 4)  # long enough to be met at work, and then a short one
    folder = cli.home / "multirun" / "dying"
    first, second = (folder / job_folder([*line, f"data.batches_per_epoch={size}"]) for size in sizes)
    process = cli.start("-m", *line, "data.batches_per_epoch=4000,4", "sweep.name=dying")
    result = struck(process, first, signal.SIGKILL, lambda: (first / "checkpoints" / "last.ckpt").exists())
    assert result.code == 1
    assert [status(job)["status"] for job in (first, second)] == ["failed", "done"]
    assert "error: 1 of the 2 jobs that ran failed" in result.stderr
    assert checkpoint(second)["global_step"] == 4
    low, full = (float(rows(folder)[0]["train/loss"]) for folder in (second, together))
    assert low == pytest.approx(full, rel=0.2)
    wait_until(lambda: not mentioning(str(folder)), timeout=60)


@pytest.mark.long
@pytest.mark.fault("process that dies while a checkpoint is written")
def test_a_process_that_dies_at_a_checkpoint_leaves_a_whole_one(cli: Cli) -> None:
    folder = cli.home / "checkpointing"
    line = [*LINE, "trainer=ddp_cpu", "trainer.limit_train_batches=1.0", "data.epochs=1", "evaluation.puzzles=0"]
    line += ["trainer.checkpoint_every_n_steps=1", "data.batches_per_epoch=4000", f"hydra.run.dir={folder}"]
    written = folder / "checkpoints"
    process = cli.start(*line)
    result = struck(
        process, folder, signal.SIGKILL, lambda: (written / "last.ckpt").exists() and any(written.glob(".*.part"))
    )
    assert result.code == 1
    assert status(folder)["status"] == "failed"
    assert checkpoint(folder)["global_step"] > 0
    wait_until(lambda: not mentioning(str(folder)), timeout=60)


@pytest.mark.parametrize("fails", [False, True])
def test_what_lightning_leaves_in_the_environment_is_cleared_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    names = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_ADDR", "given")
    monkeypatch.chdir(tmp_path)
    main = sys.modules["__main__"]
    before, arguments = main.__spec__, sys.argv
    with pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext(), started_from(Path("run")):
        assert main.__spec__ is not None
        assert (main.__spec__.name, sys.argv[1:]) == ("fragrecon.jobs.train", [str(tmp_path / "run")])
        for name in names:
            os.environ[name] = "left"
        _ = 1 // (not fails)
    assert (main.__spec__, sys.argv) == (before, arguments)
    assert [name for name in names if name in os.environ] == ["MASTER_ADDR"]
