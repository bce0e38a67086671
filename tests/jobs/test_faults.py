"""Faults of the machine: a full disk, a folder that cannot be written, a terminal of few characters."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fragrecon.errors import MachineError, RunError, explained
from fragrecon.run import compose
from fragrecon.runs import sweeps, write
from fragrecon.runs.checkpoints import AtomicCheckpointIO
from fragrecon.runs.write import Record
from tests.cli import SMALL, Cli, assert_same_run, checkpoint, finish, job, shared_cache, status, wait_until
from tests.jobs.apart import LACKING

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]
LINE = (*SMALL, "model=pca")


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    return Cli(tmp_path_factory.mktemp("faults"), shared_cache(tmp_path_factory))


def limited(cli: Cli, kibibytes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process whose files can grow to a size only, as on a disk that fills up."""
    return subprocess.run(
        [sys.executable, "-m", "fragrecon.run", *arguments],
        cwd=cli.home,
        env=cli.environment(),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (kibibytes << 10, kibibytes << 10)),
    )


@pytest.mark.long
@pytest.mark.fault("full disk in training, and resuming with room again")
def test_a_run_on_a_full_disk_fails_in_one_line_and_resumes_once_there_is_room(cli: Cli) -> None:
    cli.run(*LINE, "hydra.run.dir=whole").ok()
    done = limited(cli, 200, *LINE, "hydra.run.dir=full")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert os.strerror(errno.EFBIG) in done.stderr
    found = status(cli.home / "full")
    assert found["status"] == "failed"
    assert ".ckpt" in found["error"]
    assert not list((cli.home / "full" / "checkpoints").glob(".*"))
    cli.run("resume=full").ok()
    assert_same_run(cli.home / "whole", cli.home / "full")


@pytest.mark.fault("terminal with ASCII characters only")
def test_a_terminal_without_the_characters_of_a_table_fails_no_run(cli: Cli) -> None:
    line = (*LINE, "data.epochs=1", "report.figures=false", "hydra.run.dir=ascii")
    cli.run(*line, PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0").ok()
    assert status(cli.home / "ascii")["status"] == "done"


@pytest.mark.fault("output into a pipe that is closed, as by head -1")
def test_a_run_outlives_the_reader_of_its_output(cli: Cli) -> None:
    process = cli.start(*LINE, "data.epochs=1", "report.figures=false", "hydra.run.dir=piped")
    assert process.stdout
    assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr
    assert process.stderr.read() == ""
    assert process.wait() == 0
    assert status(cli.home / "piped")["status"] == "done"
    assert (cli.home / "piped" / "report.html").is_file()


@pytest.mark.fault("output that was closed before the start")
def test_a_closed_output_is_replaced(cli: Cli) -> None:
    line = f"{sys.executable} -m fragrecon.run data.epochs=0 >&-"
    done = subprocess.run(["bash", "-c", line], cwd=cli.home, env=cli.environment(), capture_output=True, check=False)
    assert (done.returncode, done.stderr[:19]) == (1, b"error: data.epochs=")


@pytest.mark.parametrize("name", ["x" * 300, "caf\udce9", __file__])
@pytest.mark.fault("folder of a run with a name that is too long, no UTF-8 or that of a file")
def test_a_folder_with_an_impossible_name_is_refused(cli: Cli, name: str) -> None:
    before = sorted(cli.home.iterdir())
    assert cli.run(*LINE, f"hydra.run.dir={name}").refusal()
    assert sorted(cli.home.iterdir()) == before


@pytest.mark.parametrize("line", ["model=pca,linear", "data.image_size=64,64"])
@pytest.mark.fault("several values without -m")
def test_several_values_without_a_sweep_are_told_what_is_missing(cli: Cli, line: str) -> None:
    message = cli.run(line).refusal()
    assert line in message
    assert re.search(r"-m\b", message)
    assert (line.replace("=", "=[") + "]" in message) == ("." in line)


@pytest.mark.fault("a search of no trials")
def test_a_search_of_no_trials_is_refused(cli: Cli) -> None:
    message = cli.here("-m", "experiment=search", "hydra.sweeper.n_trials=0", "sweep.name=none").refusal()
    assert "hydra.sweeper.n_trials=0" in message
    assert not (cli.home / "multirun" / "none" / "sweep.json").exists()


@pytest.mark.fault("fewer steps than an epoch has")
def test_a_run_of_fewer_steps_than_an_epoch_is_scored(cli: Cli, tmp_path: Path) -> None:
    job(tmp_path, cli.cache, *LINE, "trainer.max_epochs=null", "trainer.max_steps=5", "evaluation.puzzles=1")
    assert checkpoint(tmp_path)["global_step"] == 5
    assert status(tmp_path)["status"] == "done"


@pytest.mark.parametrize("part", ["reconstruction", "probe", "generation"])
@pytest.mark.fault("evaluation without clustering selects by the validation loss")
def test_what_clusters_nothing_selects_by_the_validation_loss(tmp_path: Path, cli: Cli, part: str) -> None:
    line = ["model=vae", f"evaluation={part}", "data.images_per_puzzle=1", "evaluation.puzzles=0", "data.epochs=1"]
    job(tmp_path, cli.cache, *SMALL, *line, "data.fragment_size=64", "trainer.limit_train_batches=2")
    assert list((tmp_path / "checkpoints").glob("best-*-val_loss=*.ckpt"))


@pytest.mark.fault("status of a run on a full disk")
def test_the_status_of_a_run_is_written_where_no_file_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record(tmp_path)
    record.enter("training")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.mkstemp", full)
    record.fail(MachineError("full"))
    found = status(tmp_path)
    assert (found["status"], found["error"], found["stage"]) == ("failed", "full", "training")


@pytest.mark.fault("checkpoint on a full disk or in a read-only folder")
def test_a_checkpoint_that_does_not_fit_names_its_file(tmp_path: Path) -> None:
    """/dev/full behaves like a full disk."""
    with pytest.raises(Exception, match=r".") as caught, open("/dev/full", "wb") as file:  # noqa: PTH123
        torch.save({"weight": torch.zeros(100_000)}, file)
    assert isinstance(explained(caught.value), MachineError)
    assert isinstance(explained(ValueError("other")), ValueError)
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):  # as root
        return
    with pytest.raises(OSError, match="last") as denied:
        AtomicCheckpointIO().save_checkpoint({}, folder / "last.ckpt")
    assert isinstance(explained(denied.value), MachineError)


# Processes that lack something, or are killed ------------------------------------------------------------------------


def apart(kind: str, home: Path) -> Any:
    """The outcomes of `tests.jobs.apart`."""
    home.mkdir()
    line = [sys.executable, "-m", "tests.jobs.apart", kind, str(home)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def lacking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    # Not below the folders of these tests, which only their user may open.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield apart("lacking", Path(folder) / "home")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.fault(case)) for case in LACKING if "written" not in case]
)
def test_a_run_does_without(case: str, lacking: dict[str, Any]) -> None:
    found = lacking[case]["result"]
    if "skipped" in found:
        pytest.skip(found["skipped"])
    assert found["code"] == 0, found
    assert status(Path(lacking[case]["folder"]))["status"] == "done"


@pytest.mark.fault("output folder that cannot be written")
def test_a_folder_that_cannot_be_written_is_refused_in_one_line(lacking: dict[str, Any]) -> None:
    found = lacking["a folder that cannot be written"]["result"]
    if "skipped" in found:
        pytest.skip(found["skipped"])
    assert found["code"] == 1
    assert found["stderr"].startswith("error: ")
    assert found["stderr"].count("\n") == 1
    assert "hydra.run.dir" in found["stderr"]


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.fault("kill -9 at each write of a file")
def test_a_run_that_is_killed_at_any_write_resumes_as_if_it_had_not_been(tmp_path: Path) -> None:
    outcomes = apart("kills", tmp_path / "home")
    assert {found["code"] for found in outcomes} == {-signal.SIGKILL}
    ends = [found["then"] for found in outcomes]
    refused = ends.count("none, refused")
    assert set(ends[:refused]) == {"none, refused"}, "only before there is a status"
    assert set(ends[refused:]) == {"running, resumed", "done, resumed"}, outcomes
    written = {found["point"].split()[1] for found in outcomes[refused:]}
    assert written >= {"status.json", "metrics.csv", "metrics.json", "scores.npz", "examples.npz", "last.ckpt", "best"}


@pytest.mark.parametrize(
    ("number", "times"),
    [
        pytest.param(
            *(signal.SIGHUP, 1), marks=[pytest.mark.long, pytest.mark.fault("SIGHUP, as of a terminal that is closed")]
        ),
        pytest.param(signal.SIGINT, 50, marks=pytest.mark.fault("Ctrl-C twice and more")),
    ],
)
def test_a_run_that_is_stopped_impatiently_resumes(
    cli: Cli, tmp_path: Path, number: signal.Signals, times: int
) -> None:
    line = (*LINE, "data.batches_per_epoch=30", "trainer.checkpoint_every_n_steps=5", "evaluation.puzzles=0")
    folder = tmp_path / "run"
    process = cli.start(*line, f"hydra.run.dir={folder}")
    wait_until(lambda: (folder / "checkpoints" / "last.ckpt").exists() or process.poll() is not None)
    for _ in range(times):
        process.send_signal(number)
        time.sleep(0.01)
    result = finish(process)
    assert result.code in (-number, 128 + number), result
    assert "Traceback" not in result.stderr
    assert status(folder)["status"] == "running"
    job(folder, cli.cache, f"resume={folder}")
    job(tmp_path / "whole", cli.cache, *line)
    assert_same_run(tmp_path / "whole", folder)


@pytest.mark.fault("damaged newest checkpoint, and the way on")
def test_a_damaged_last_checkpoint_is_named_and_the_best_starts_another_run(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    job(folder, cli.cache, *LINE, "data.epochs=1", "evaluation.puzzles=0")
    last = folder / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    with pytest.raises(RunError) as refused:
        job(folder, cli.cache, f"resume={folder}", "data.epochs=2")
    assert str(last) in str(refused.value)
    assert f"init_from={folder}" in str(refused.value)
    job(tmp_path / "next", cli.cache, *LINE, f"init_from={folder}", "data.epochs=1", "evaluation.puzzles=0")
    assert status(tmp_path / "next")["status"] == "done"


@pytest.mark.fault("Ctrl-C while the page is written")
def test_a_page_that_was_not_written_is_written_by_resuming(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    folder = cli.home / "pageless"
    with monkeypatch.context() as patch:
        patch.setattr("fragrecon.report.page.write_run_page", interrupted)
        result = cli.here(*LINE, f"hydra.run.dir={folder}")
    assert result.code == 130
    assert status(folder)["status"] == "done"
    before = (folder / "metrics.json").stat().st_mtime_ns
    assert cli.here(f"resume={folder}").code == 0
    assert (folder / "report.html").is_file()
    assert (folder / "metrics.json").stat().st_mtime_ns == before, "nothing is scored again"
    page = (folder / "report.html").stat().st_mtime_ns
    assert cli.here(f"resume={folder}").code == 0
    assert (folder / "report.html").stat().st_mtime_ns == page, "there is nothing left to do"


@pytest.mark.long
@pytest.mark.fault("one failed job of 12")
def test_one_of_twelve_jobs_fails_alone(cli: Cli) -> None:
    line = (*LINE, "data.epochs=1", "trainer.limit_train_batches=1", "evaluation.puzzles=1")
    sizes = [*range(4, 15), -1]
    result = cli.here("-m", *line, f"model.latent_dim={','.join(map(str, sizes))}", "sweep.name=twelve")
    assert result.code == 1
    found = {path.parent.name: status(path.parent)["status"] for path in cli.home.glob("multirun/twelve/*/status.json")}
    assert sorted(found.values()) == ["done"] * 11 + ["failed"]
    (failed,) = (name for name, outcome in found.items() if outcome == "failed")
    assert failed in result.stderr


@pytest.mark.fault("clock set back during a sweep")
def test_a_job_that_fails_after_the_clock_was_set_back_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeps.begin(tmp_path, "name", 1, [], [])
    started = sweeps.note(tmp_path)["started"]
    monkeypatch.setattr(write, "now", lambda: "2001-01-01T00:00:00+00:00")
    Record(tmp_path / "job", after=started).fail(MachineError("full"))
    assert [found["name"] for found in sweeps.ended_since_start(tmp_path)] == ["job"]
    record = Record(tmp_path / "run")
    record.status["started"] = started
    record.finish()
    assert status(tmp_path / "run")["finished"] == started


@pytest.mark.fault("two sweeps started in the same second")
def test_sweeps_of_one_second_have_folders_of_their_own(tmp_path: Path) -> None:
    found = {compose([]).sweep.name for _ in range(3)}
    assert len(found) == 3
