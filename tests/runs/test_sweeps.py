"""Sweeps: a folder for each job, which the same command finds again, and one table of all jobs."""

from __future__ import annotations

import math
import re
import shlex
import shutil
import signal
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from fragrecon import files
from fragrecon.errors import LONGEST_NAME, RunError
from fragrecon.runs import sweeps
from fragrecon.runs.sweeps import job_folder
from tests.cli import (
    SMALL,
    Cli,
    Result,
    assert_same_run,
    checkpoint,
    fingerprint,
    finish,
    metrics,
    names,
    rows,
    status,
    table,
    wait_until,
)

pytestmark = pytest.mark.timeout(300)
LINE = (*SMALL, "model=pca", "data.batches_per_epoch=4")
GATHERED = {"sweep.json", "multirun.yaml", "leaderboard.csv", "leaderboard.md", "report.html"}


def jobs_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def job_of(folder: Path, **values: object) -> Path:
    """The folder of the one job with these values of ``model.latent_dim`` and ``seed``."""
    keys = {"size": "model.latent_dim", "seed": "seed"}
    wanted = {f"{keys[key]}={value}" for key, value in values.items()}
    (found,) = (path for path in jobs_in(folder) if wanted <= set(overrides(path)))
    return found


def overrides(folder: Path) -> list[str]:
    return [line.removeprefix("- ").strip("'") for line in (folder / "overrides.yaml").read_text().splitlines()]


def results(folder: Path) -> dict[str, str]:
    """A hash of each file of a job except its log."""
    return {name: value for name, value in fingerprint(folder).items() if name != "run.log"}


# Names of folders -----------------------------------------------------------------------------------------------------

KEYS = st.sampled_from(["model", "model.latent_dim", "seed", "data.root", "optimizer.lr", "run", "a", "b", "a_b", "_c"])
VALUES = st.one_of(
    st.sampled_from(
        ["1", "-1", "1e-3", "[1,2]", "{a: 1}", "'a b'", '"x"', "a/b", "a=b", "x_seed-1", "b-1", "1_b-2", ""]
    ),
    st.text("ab1_-.=,/[]'\" ü", max_size=8),
)
OVERRIDES = st.dictionaries(KEYS, VALUES, max_size=5)


def given_as(values: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in values.items()]


@given(OVERRIDES, st.randoms(use_true_random=False))
def test_a_folders_name_does_not_depend_on_the_order_of_overrides(values: dict[str, str], random: Any) -> None:
    shuffled = given_as(values)
    random.shuffle(shuffled)
    assert job_folder(shuffled) == job_folder(given_as(values))
    earlier = [f"{key}=other" for key in values]
    assert job_folder([*earlier, *shuffled]) == job_folder(given_as(values)), (
        "of a key given twice the later one counts"
    )


@given(OVERRIDES, OVERRIDES)
def test_jobs_that_differ_never_share_a_name(first: dict[str, str], second: dict[str, str]) -> None:
    assert (job_folder(given_as(first)) == job_folder(given_as(second))) == (first == second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (["a=1_b-2"], ["a=1", "b=2"]),
        (["a=1_b", "c=2"], ["a=1", "b_c=2"]),
        (["a=1__b-2"], ["a=1_", "b=2"]),
        (["model.channels=[32,64]"], ["model.channels=[3,264]"]),
        (["run=a/b"], ["run=a-b"]),
        (["data.root=/x/y"], ["data.root=/x_y"]),
        (["~seed"], ["seed="]),
        (["data.root=" + "x" * 200], ["data.root=" + "x" * 201]),
    ],
)
def test_jobs_with_similar_overrides_have_different_names(first: list[str], second: list[str]) -> None:
    assert job_folder(first) != job_folder(second)


@given(OVERRIDES)
def test_inert_keys_are_not_part_of_a_name(values: dict[str, str]) -> None:
    inert = ["sweep.name=x", "sweep.dir=y", "logger=wandb", "logger.wandb.offline=true", "data.cache_dir=/tmp/c"]
    hydras = ["hydra.launcher.n_jobs=4", "trainer.enable_progress_bar=false"]
    assert job_folder([*inert, *given_as(values), *hydras]) == job_folder(given_as(values))


@given(st.dictionaries(KEYS, st.text(max_size=80), max_size=8))
def test_a_name_is_short_and_needs_no_quotes(values: dict[str, str]) -> None:
    name = job_folder(given_as(values))
    assert name.isascii()
    assert 0 < len(name) <= 110
    assert "/" not in name
    assert not name.startswith(("-", "."))
    assert shlex.quote(name) == name
    path = f"multirun/2025-01-02_03-04-05/{name}"
    assert OverridesParser.create().parse_override(f"run={path}").value() == path


def test_a_name_starts_with_the_model_and_the_seed() -> None:
    given = ["data.epochs=2", "seed=1", "model.latent_dim=8", "model=pca"]
    assert job_folder(given) == "model-pca_model.latent_dim-8_seed-1_data.epochs-2"
    assert job_folder(["trainer=ddp_cpu"]) == "trainer-ddp__cpu"
    assert job_folder([*SMALL, *given]).startswith("model-pca_model.latent_dim-8_seed-1_")
    assert job_folder([]) == "job"


# The progress of a sweep ----------------------------------------------------------------------------------------------


def ago(seconds: float) -> str:
    return (datetime.now(timezone.utc) - timedelta(seconds=seconds)).isoformat(timespec="seconds")


def begun(folder: Path, jobs: int | None, seconds: float) -> None:
    """Write that a command started a sweep some seconds ago."""
    sweeps.begin(folder, "name", jobs, ["seed=0,1"], ["seed"])
    files.write_json(folder / "sweep.json", sweeps.note(folder) | {"started": ago(seconds)})


def test_the_time_left_follows_from_the_jobs_that_this_command_has_run(tmp_path: Path) -> None:
    begun(tmp_path, 10, 100)
    assert sweeps.time_left(tmp_path, 0) is None
    ended = {"a": ("done", 40), "b": ("failed", 10), "earlier": ("done", 5000), "under way": ("running", None)}
    for name, (how, when) in ended.items():
        finished = None if when is None else ago(when)
        files.write_json(tmp_path / name / "status.json", {"status": how, "finished": finished})
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "status.json").write_text('{"sta')
    assert [(found["name"], found["status"]) for found in sweeps.ended_since_start(tmp_path)] == [
        ("a", "done"),
        ("b", "failed"),
    ]
    # Two jobs in 100 seconds; of the ten, the two and one that was there before have been passed.
    assert sweeps.time_left(tmp_path, 3) == pytest.approx(100 / 2 * 7, rel=0.05)
    assert sweeps.time_left(tmp_path, 9) == pytest.approx(100 / 2, rel=0.05)
    begun(tmp_path, None, 100)
    assert sweeps.time_left(tmp_path, 3) is None


def test_the_folder_of_a_sweep_holds_sweep_json(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"sweep\.json"):
        sweeps.note(tmp_path)
    assert sweeps.sweep_of(tmp_path / "job") is None
    sweeps.begin(tmp_path, "name", 2, ["seed=0,1"], ["seed"])
    assert sweeps.sweep_of(tmp_path / "job") == tmp_path
    assert sweeps.sweep_of(tmp_path) is None
    found = sweeps.note(tmp_path)
    assert (found["name"], found["jobs"], found["overrides"]) == ("name", 2, ["seed=0,1"])
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(RunError, match=r"sweep\.json"):
        sweeps.note(tmp_path)


# A sweep with jobs that are refused -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweeps")


@pytest.fixture(scope="module")
def ended(home: Path, cache: Path) -> Result:
    """The outcome of a sweep of six jobs, two of which were refused."""
    return Cli(home, cache).here("-m", *LINE, "model.latent_dim=8,-1,16", "seed=0,1", "sweep.name=sizes")


@pytest.fixture(scope="module")
def sweep(home: Path, ended: Result) -> Path:
    """The folder of that sweep; only to be read."""
    assert ended.code != 0
    return home / "multirun" / "sizes"


@pytest.fixture
def copied(cli: Cli, sweep: Path) -> Path:
    """A copy of that sweep, to continue."""
    return Path(shutil.copytree(sweep, cli.home / "multirun" / "sizes"))


@pytest.mark.fault("failed jobs of a sweep")
def test_a_bad_value_fails_its_own_jobs_only(home: Path, sweep: Path) -> None:
    assert names(home, "*").count("outputs") == 0
    assert {path.name for path in sweep.iterdir() if path.is_file()} == GATHERED
    assert len(jobs_in(sweep)) == 6
    for size in (8, 16, -1):
        for seed in (0, 1):
            folder = job_of(sweep, size=size, seed=seed)
            assert not names(folder, "*.part")
            if size > 0:
                assert status(folder)["status"] == "done"
                assert metrics(folder)["model"]["latent_dim"] == size
                assert (folder / "run.log").read_text().count("epoch 0:") == 1
            else:
                assert status(folder)["status"] == "failed"
                assert "model.latent_dim=-1" in status(folder)["error"]
                assert not (folder / "checkpoints").exists()


def test_the_command_ends_with_an_error_that_names_what_failed(sweep: Path, ended: Result) -> None:
    assert ended.code == 1
    text = ended.stderr[ended.stderr.index("error: ") :].splitlines()
    assert "2 of the 6 jobs" in text[0]
    failed = [job_of(sweep, size=-1, seed=seed) for seed in (0, 1)]
    assert sorted(text[1:]) == sorted(f"  {job.name}: {status(job)['error']}" for job in failed)
    assert "Traceback" not in ended.stdout + ended.stderr


def test_each_job_that_ended_has_a_line_and_a_page(sweep: Path, ended: Result) -> None:
    lines = [re.split("  +", line) for line in ended.stdout.splitlines() if re.match(r"\d of 6  ", line)]
    assert [line[0] for line in lines] == [f"{number} of 6" for number in range(1, 7)]
    assert ["left" in line[-1] for line in lines] == [True] * 5 + [False]
    seen = []
    for _, name, score, *_ in lines:
        found = re.fullmatch(r"latent_dim=(-?\d+) seed=(\d)", name)
        assert found
        folder = job_of(sweep, size=int(found[1]), seed=int(found[2]))
        seen.append(folder)
        assert (folder / "report.html").is_file() == (int(found[1]) > 0)
        if int(found[1]) < 0:
            assert score == "failed"
        else:
            mean = metrics(folder)["scores"]["model"]["mean_clustering_score"]["mean"]
            assert score == f"mean clustering score {mean:.4f}"
    assert sorted(seen) == jobs_in(sweep)
    assert not any(line.startswith("model minus") for line in ended.stdout.splitlines())
    assert ended.stdout.count("colour histogram") == 1


def test_the_table_holds_means_and_standard_deviations_over_seeds(sweep: Path) -> None:
    found = {row["model.latent_dim"]: row for row in table(sweep) if row["rank"]}
    assert found.keys() == {"8", "16"}
    for size, row in found.items():
        folders = [job_of(sweep, size=size, seed=seed) for seed in (0, 1)]
        assert row["seeds"] == "0 1"
        assert row["jobs"].split() == [folder.name for folder in folders]
        scores = [metrics(folder)["scores"]["model"] for folder in folders]
        assert set(scores[0]) <= row.keys()
        for name in scores[0]:
            first, second = (seed[name]["mean"] for seed in scores)
            assert float(row[name]) == pytest.approx((first + second) / 2, abs=1e-12), name
            assert float(row[f"{name}_std"]) == pytest.approx(abs(first - second) / math.sqrt(2), abs=1e-12), name
        best = [max(float(epoch["val_mean_clustering_score"]) for epoch in rows(folder)) for folder in folders]
        assert float(row["validation"]) == pytest.approx(sum(best) / 2)
        assert float(row["validation_std"]) == pytest.approx(abs(best[0] - best[1]) / math.sqrt(2))
        assert int(row["parameters"]) == metrics(folders[0])["model"]["parameters"]
        seconds = [metrics(folder)["seconds"] for folder in folders]
        assert float(row["seconds"]) == pytest.approx(sum(s["training"] + s["evaluation"] for s in seconds) / 2)


def test_the_markdown_table_shows_the_figures_of_the_csv(sweep: Path) -> None:
    text = (sweep / "leaderboard.md").read_text()
    for row in table(sweep):
        assert row["model.latent_dim"] in text
        if row["rank"]:
            for name in ("kmeans_ari", "validation"):
                deviation = f"{float(row[f'{name}_std']):.4f}".removeprefix("0")
                assert f"{float(row[name]):.4f} ±{deviation}" in text
            assert f"{int(row['parameters']):,}" in text
    assert text.count("model.latent_dim=-1 ") == 2
    assert "ordered by val_mean_clustering_score on validation puzzles" in text


# The same command again -----------------------------------------------------------------------------------------------


def test_the_same_command_runs_failed_jobs_again_and_skips_the_rest(cli: Cli, copied: Path) -> None:
    """One of the failed jobs finds a file where it needs a folder."""
    odd = job_of(copied, size=16, seed=1)
    files.write_json(odd / "status.json", status(odd) | {"status": "running", "stage": None})
    shutil.rmtree(odd / "checkpoints")
    (odd / "checkpoints").touch()  # where a folder has to be
    before = {folder.name: results(folder) for folder in jobs_in(copied) if status(folder)["status"] == "done"}
    result = cli.here("-m", *LINE, "model.latent_dim=8,-1,16", "seed=0,1", "sweep.name=sizes")
    assert result.code == 1
    assert "error: 3 of the 3 jobs that ran failed" in result.stderr
    assert result.stdout.count("is finished; skipped") == len(before) == 3
    assert len(jobs_in(copied)) == 6
    for name, found in before.items():
        assert results(copied / name) == found
    failed = job_of(copied, size=-1, seed=0)
    assert (failed / "run.log").read_text().count(status(failed)["error"]) == 2
    assert status(odd)["status"] == "failed"
    assert str(odd / "checkpoints")[-LONGEST_NAME:] in status(odd)["error"]
    assert f"{odd.name}: {status(odd)['error']}\n" in result.stderr
    assert "Traceback" not in result.stderr
    assert {row["model.latent_dim"]: row["seeds"] for row in table(copied)} == {"8": "0 1", "16": "0", "-1": ""}


def test_a_larger_grid_runs_only_new_jobs_and_keeps_finished_ones_of_another_configuration(
    cli: Cli, copied: Path
) -> None:
    foreign, stale = job_of(copied, size=8, seed=0), job_of(copied, size=8, seed=1)
    twin = {"rows": rows(stale), "scores": metrics(stale)["scores"]}
    files.write_json(foreign / "status.json", status(foreign) | {"config_hash": "0" * 16})
    files.write_json(stale / "status.json", status(stale) | {"config_hash": "0" * 16, "status": "failed"})
    (stale / "checkpoints" / "left.ckpt").touch()
    before = {folder.name: results(folder) for folder in jobs_in(copied) if folder != stale}
    result = cli.here("-m", "seed=2,1,0", *LINE, "model.latent_dim=8", "sweep.name=sizes")
    assert result.code == 1
    message = result.stderr[result.stderr.index("error: ") :]
    assert foreign.name in message
    assert "sweep.name" in message
    assert len(jobs_in(copied)) == 7
    for name, found in before.items():
        assert results(copied / name) == found
    assert status(job_of(copied, size=8, seed=2))["status"] == "done"
    assert status(stale)["status"] == "done"
    assert not (stale / "checkpoints" / "left.ckpt").exists(), "what another configuration left is deleted"
    assert {"rows": rows(stale), "scores": metrics(stale)["scores"]} == twin
    assert {row["model.latent_dim"]: row["seeds"] for row in table(copied)} == {"8": "0 1 2", "16": "0 1", "-1": ""}


def test_torch_is_not_imported_to_skip_jobs(cli: Cli, copied: Path) -> None:
    """So that a command skips hundreds of finished jobs at once."""
    line = [*LINE, "model.latent_dim=8", "seed=0,1", "sweep.name=sizes"]
    result = cli.run("-m", *line, PYTHONPROFILEIMPORTTIME="1").ok()
    assert result.stdout.count("is finished; skipped") == 2
    assert not {"torch", "lightning", "sklearn"} & {name.split("|")[-1].strip() for name in result.stderr.splitlines()}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mdoel=conv,pca"], ["mdoel", "'model'"]),
        (["model=conv,transformer"], ["model='transformer'"]),
        (["hydra/launcher=nope", "seed=0,1"], ["hydra/launcher='nope'"]),
    ],
)
def test_a_sweep_that_cannot_be_composed_is_refused_before_its_first_job(
    cli: Cli, arguments: list[str], words: list[str]
) -> None:
    result = cli.here("-m", *arguments, "sweep.name=wrong")
    for word in words:
        assert word in result.refusal()
    assert result.stdout == ""
    assert not (cli.home / "multirun").exists() or not jobs_in(cli.home / "multirun" / "wrong")


def test_a_sweep_resumes_no_single_runs(cli: Cli, sweep: Path) -> None:
    done = job_of(sweep, size=8, seed=0)
    before = fingerprint(done)
    result = cli.here("-m", f"resume={done}", "data.epochs=2,3", "sweep.name=on")
    assert result.code == 1
    assert f"resume={done}" in result.stderr
    assert fingerprint(done) == before
    assert not names(cli.home, "metrics.csv")


def test_values_of_the_wrong_kind_fail_their_own_jobs(cli: Cli) -> None:
    result = cli.here("-m", "model=pca", "data.epochs=0", "sweep.name=kinds", "seed=abc,1.5,-1,0")
    assert "4 of the 4 jobs" in result.stderr
    failures = " ".join(row["failures"] for row in table(cli.home / "multirun" / "kinds"))
    for value in ("seed='abc'", "seed=1.5", "seed=-1", "data.epochs=0"):
        assert value in failures


# Stopped sweeps -------------------------------------------------------------------------------------------------------

# Nothing is scored at the end, so that the signals arrive during training.
LONG = (*LINE, "data.batches_per_epoch=30", "trainer.checkpoint_every_n_steps=5", "evaluation.puzzles=0")


@pytest.fixture(scope="module")
def whole(home: Path, cache: Path) -> Path:
    """A sweep that was not stopped."""
    Cli(home, cache).here("-m", *LONG, "seed=0,1,2", "sweep.name=whole").ok()
    return home / "multirun" / "whole"


@pytest.mark.long
@pytest.mark.fault("a sweep stopped and killed")
def test_a_sweep_that_was_stopped_and_killed_resumes_where_it_was(cli: Cli, whole: Path) -> None:
    folder, line = cli.home / "multirun" / "cut", ["-m", *LONG, "seed=0,1,2", "sweep.name=cut"]
    first, second = (folder / job_folder([*LONG, f"seed={seed}"]) for seed in (0, 1))

    def is_in_second_job() -> bool:
        return (second / "checkpoints" / "last.ckpt").exists()

    stopped = cli.stopped(is_in_second_job, signal.SIGINT, *line)
    assert stopped.code == 130
    assert "the same command" in stopped.stdout
    assert "Traceback" not in stopped.stderr
    assert [status(job)["status"] for job in jobs_in(folder)] == ["done", "running"], "nothing has failed"
    (row,) = table(folder)
    assert (row["seeds"], row["unfinished"]) == ("0", second.name)
    before, step = results(first), int(checkpoint(second)["global_step"])

    def has_gone_on() -> bool:
        return int(checkpoint(second)["global_step"]) > step

    assert cli.stopped(has_gone_on, signal.SIGKILL, *line).code == -signal.SIGKILL
    assert [status(job)["status"] for job in jobs_in(folder)] == ["done", "running"]
    cli.run(*line).ok()
    assert results(first) == before
    log = (second / "run.log").read_text()
    assert log.count(f"resuming from {second / 'checkpoints' / 'last.ckpt'}") == 2
    assert [path.name for path in jobs_in(folder)] == [path.name for path in jobs_in(whole)]
    for one, other in zip(jobs_in(whole), jobs_in(folder), strict=True):
        assert_same_run(one, other)
    assert [row["validation"] for row in table(folder)] == [row["validation"] for row in table(whole)]
    assert table(folder)[0]["seeds"] == "0 1 2"


@pytest.mark.slow
@pytest.mark.fault("two processes in one folder")
def test_two_processes_never_run_in_one_folder(cli: Cli) -> None:
    folder = cli.home / "multirun" / "twice"
    line = ["-m", *LONG, "data.epochs=100", "sweep.name=twice", "seed=0,1"]
    lying = folder / job_folder([*LONG, "data.epochs=100", "seed=0"])
    first = cli.start(*line)
    try:
        wait_until(lambda: (lying / "checkpoints" / "last.ckpt").exists() or first.poll() is not None)
        second = cli.run(*line[:-1], "seed=0")
        assert second.code == 1
        assert str(lying) in second.stderr
        assert status(lying)["status"] == "running"
        assert first.poll() is None
    finally:
        first.kill()
        finish(first)
    again = cli.start(*line)
    try:  # a lock ends with its process, however that ended
        wait_until(lambda: "resuming from" in (lying / "run.log").read_text() or again.poll() is not None)
        assert again.poll() is None
    finally:
        again.kill()
        finish(again)
