"""Faults of the machine: a full disk, a folder that cannot be written, a terminal of few characters."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fragrecon.errors import MachineError, explained
from fragrecon.runs.checkpoints import AtomicCheckpointIO
from fragrecon.runs.write import Record
from tests.cli import SMALL, Cli, assert_same_run, job, shared_cache, status

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
    cli.run(*LINE, "hydra.run.dir=ascii", PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0").ok()
    assert status(cli.home / "ascii")["status"] == "done"


@pytest.mark.parametrize("name", ["x" * 300, "caf\udce9"])
@pytest.mark.fault("folder of a run with a name that is too long or no UTF-8")
def test_a_folder_with_an_impossible_name_is_refused(cli: Cli, name: str) -> None:
    before = sorted(cli.home.iterdir())
    assert cli.run(*LINE, f"hydra.run.dir={name}").refusal()
    assert sorted(cli.home.iterdir()) == before


@pytest.mark.parametrize("line", ["model=pca,linear", "seed=0,1"])
@pytest.mark.fault("several values without -m")
def test_several_values_without_a_sweep_are_told_what_is_missing(cli: Cli, line: str) -> None:
    message = cli.run(line).refusal()
    assert line in message
    assert "-m" in message.split()


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
