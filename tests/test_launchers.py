"""Launchers of the jobs of a sweep, and a search."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import DictConfig

from fragrecon import run as command
from fragrecon.runs.sweeps import job_folder
from fragrecon.runs.write import Record
from tests.cli import SMALL, Cli, Result, fingerprint, rows, status, table

pytestmark = pytest.mark.timeout(300)
LINE = (*SMALL, "model=pca", "data.batches_per_epoch=4", "data.epochs=1", "evaluation.puzzles=0")


def test_a_sweep_can_end_with_its_first_failed_job(cli: Cli) -> None:
    line = ["-m", *LINE, "model.latent_dim=8,-1,16,32", "sweep.name=sizes"]
    result = cli.here(*line, "sweep.stop_on_failure=true")
    assert result.code == 1
    ended = states(cli.home / "multirun" / "sizes")
    assert ended == {"8": "done", "-1": "failed"}
    cli.here(*line)  # the same jobs, whose names do not depend on it
    ended = states(cli.home / "multirun" / "sizes")
    assert ended == {"8": "done", "-1": "failed", "16": "done", "32": "done"}


def states(folder: Path) -> dict[str, str]:
    """The status of each job of a sweep, by its latent dimensions."""
    jobs = [path for path in folder.iterdir() if path.is_dir()]
    given = [dict(text.partition("=")[::2] for text in Record(path).overrides) for path in jobs]
    return {each["model.latent_dim"]: status(path)["status"] for each, path in zip(given, jobs, strict=True)}


SEEN = """
import os
import time
from pathlib import Path

from lightning.pytorch import Callback


class Seen(Callback):
    def on_fit_start(self, trainer, learner):
        folder = Path(trainer.default_root_dir)
        (folder / "gpus.txt").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
        end = time.monotonic() + 120
        while len(list(folder.parent.glob("*/gpus.txt"))) < 2 and time.monotonic() < end:  # two jobs at a time
            time.sleep(0.1)
"""


@pytest.mark.slow
def test_parallel_jobs_see_a_gpu_each(cli: Cli) -> None:
    """With names of GPUs as a machine with two has them; without any, the jobs run on the CPU."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    (cli.home / "seen.py").write_text(SEEN)
    line = [*LINE, "trainer=auto", "+trainer.callbacks.seen._target_=seen.Seen", "sweep.name=gpus"]
    line += ["model.latent_dim=8,16", "hydra/launcher=cores", "hydra.launcher.n_jobs=2"]
    cli.run("-m", *line, CUDA_VISIBLE_DEVICES="0,GPU-8a").ok()
    found = (cli.home / "multirun" / "gpus").glob("*/gpus.txt")
    assert sorted(path.read_text() for path in found) == ["0", "GPU-8a"]


def composed(*overrides: str) -> DictConfig:
    """A config with its settings of Hydra."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(command.CONF), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=True)


def test_the_launcher_of_a_cluster_has_its_settings() -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    launcher = instantiate(composed("hydra/launcher=slurm", "hydra.launcher.partition=long").hydra.launcher)
    assert type(launcher).__name__ == "SlurmLauncher"
    expected = {"timeout_min": 1440, "gpus_per_node": 1, "cpus_per_task": 8, "mem_gb": 32, "array_parallelism": 16}
    assert expected.items() <= launcher.params.items()
    assert launcher.params["partition"] == "long"


EXTRAS = [
    ("hydra/launcher=cores", "hydra_joblib_launcher", "joblib"),
    ("hydra/launcher=local_queue", "hydra_submitit_launcher", "submitit"),
    ("hydra/launcher=slurm", "hydra_submitit_launcher", "submitit"),
    ("hydra/launcher=ray_cluster", "hydra_ray_launcher", "ray"),
    ("experiment=search", "hydra_optuna_sweeper", "optuna"),
]


@pytest.mark.parametrize(("option", "plugin", "extra"), EXTRAS)
def test_a_launcher_that_is_not_installed_says_how_it_is(cli: Cli, option: str, plugin: str, extra: str) -> None:
    """In a process that cannot find the plugin."""
    code = (
        "import pkgutil, sys; see = pkgutil.walk_packages\n"
        f"hide = lambda *a, **k: (found for found in see(*a, **k) if '{plugin}' not in found.name)\n"
        "pkgutil.walk_packages = hide\n"
        "from fragrecon.run import main; main()"
    )
    line = [sys.executable, "-c", code, "-m", option, "seed=0,1"]
    found = subprocess.run(line, cwd=cli.home, env=cli.environment(), capture_output=True, text=True, timeout=60)
    message = Result(found.returncode, found.stdout, found.stderr).refusal()
    assert message.endswith(f'needs the extra: pip install "fragrecon[{extra}]"')
    assert not list(cli.home.iterdir())


@pytest.mark.slow
def test_a_search_is_saved_and_continued(cli: Cli) -> None:
    optuna = pytest.importorskip("optuna")
    folder = cli.home / "multirun" / "search"
    line = [*LINE, "experiment=search", "hydra.sweeper.n_trials=1"]
    assert "1 of 1  " in cli.here(*line).ok().stdout
    assert {path.name for path in cli.home.iterdir()} == {"multirun"}
    storage = f"sqlite:///{folder / 'study.db'}"
    assert [trial.number for trial in optuna.load_study("search", storage).trials] == [0]
    cli.here(*line).ok()
    study = optuna.load_study("search", storage)
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert [trial.number for trial in study.trials] == [0, 1]
    jobs = [path for path in folder.iterdir() if (path / "metrics.csv").is_file()]
    found = {}
    for job in jobs:
        given = dict(text.partition("=")[::2] for text in Record(job).overrides)
        best = max(float(row["val_mean_clustering_score"]) for row in rows(job))
        found[given["optimizer.lr"], given["optimizer.weight_decay"]] = (given["model.latent_dim"], best)
    assert len(found) == 2
    for trial in study.trials:
        params = trial.params
        size, best = found[str(params["optimizer.lr"]), str(params["optimizer.weight_decay"])]
        assert size == str(params["model.latent_dim"])
        assert trial.value == pytest.approx(best, abs=1e-9)
    assert study.best_value == max(best for _, best in found.values())
    assert len(table(folder)) == 2
    assert float(table(folder)[0]["validation"]) == pytest.approx(study.best_value)


@pytest.mark.slow
def test_a_search_prunes_bad_trials_and_its_page_shows_the_study(cli: Cli) -> None:
    optuna = pytest.importorskip("optuna")
    folder = cli.home / "multirun" / "search"
    line = [*LINE, "data.epochs=3", "evaluation.puzzles=2", "model=linear", "model.latent_dim=8"]
    line += ["selection.monitor=val/loss", "selection.mode=min"]
    line += ["optimizer.lr=choice(1e-9,1e-3)", "experiment=search", "trainer.callbacks.pruning.startup=1"]
    line += ["trainer.callbacks.pruning.warmup=0", "hydra.sweeper.direction=minimize", "hydra.sweeper.n_trials=4"]
    cli.here(*line, "hydra.sweeper.sampler.seed=1").ok()
    jobs = {path.name: path for path in folder.iterdir() if (path / "status.json").is_file()}
    ended = {name: status(path)["status"] for name, path in jobs.items()}
    assert set(ended.values()) == {"done", "pruned"}
    study, states = optuna.load_study("search", f"sqlite:///{folder / 'study.db'}"), optuna.trial.TrialState
    assert len(study.trials) == len(jobs) == 4
    for trial in study.trials:
        (job,) = (
            path
            for path in jobs.values()
            if f"optimizer.weight_decay={trial.params['optimizer.weight_decay']}" in Record(path).overrides
        )
        scores = {int(row["epoch"]): float(row["val/loss"]) for row in rows(job)}
        assert trial.intermediate_values == pytest.approx(scores)
        if ended[job.name] == "pruned":
            assert (trial.state, trial.value) == (states.PRUNED, scores[0])
            assert list(scores) == [0]
            assert not (job / "metrics.json").exists()
        else:
            assert trial.state == states.COMPLETE
            assert trial.value == pytest.approx(min(scores.values()))
    pruned = {name for name, how in ended.items() if how == "pruned"}
    assert {name for row in table(folder) for name in row["pruned"].split()} == pruned
    assert not any(row["failures"] or row["unfinished"] for row in table(folder))
    drawn = {path.name for path in (folder / "figures").iterdir()}
    assert {"search_history.png", "search_parameters.png"} <= drawn  # importances need several complete trials
    page = (folder / "report.html").read_text()
    assert all(name in page for name in pruned)
    assert page.count("data:image/png") >= len(drawn)


def test_a_pruned_job_is_not_run_again(cli: Cli) -> None:
    line = ["-m", *LINE, "data.epochs=3", "optimizer.lr=1e-2,1e-9", "sweep.name=rates", "model=linear"]
    line += ["selection.monitor=val/loss", "selection.mode=min", "+trainer.callbacks.pruning.startup=1"]
    line += ["+trainer.callbacks.pruning._target_=fragrecon.training.pruning.MedianPruning"]
    cli.here(*line).ok()
    found = {status(path)["status"]: path for path in (cli.home / "multirun" / "rates").iterdir() if path.is_dir()}
    assert set(found) == {"done", "pruned"}
    assert [int(row["epoch"]) for row in rows(found["pruned"])] == [0]
    before = fingerprint(found["pruned"])
    cli.here(*line).ok()
    assert {**fingerprint(found["pruned"]), "run.log": ""} == {**before, "run.log": ""}


# Recipes --------------------------------------------------------------------------------------------------------------

STUDY = {"model": ["conv", "linear", "pca", "supervised"], "seed": ["0", "1", "2"]}
GRIDS = {
    "sweep_baselines": STUDY,
    "sweep_latent_dim": STUDY | {"model.latent_dim": ["32", "64", "128", "256"]},
    "sweep_fragment_size": STUDY | {"data.fragment_size": ["8", "16", "32"]},
    "sweep_images_per_puzzle": STUDY | {"data.images_per_puzzle": ["2", "5", "10", "20"]},
}


def test_every_recipe_of_a_sweep_has_its_grid_here() -> None:
    found = {path.stem for path in (command.CONF / "experiment").glob("sweep_*.yaml")}
    assert found == GRIDS.keys()


@pytest.mark.parametrize("name", GRIDS)
def test_a_recipe_has_the_jobs_of_its_grid(name: str) -> None:
    config = composed(f"experiment={name}", "data.root=somewhere")
    assert config.hydra.mode.name == "MULTIRUN"
    assert (config.sweep.name, config.hydra.sweep.dir) == (name, f"multirun/{name}")
    given = [f"{key}={values}" for key, values in config.hydra.sweeper.params.items()]
    (jobs,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(given), None)
    keys, values = zip(*GRIDS[name].items(), strict=True)
    expected = {frozenset(map("=".join, zip(keys, job, strict=True))) for job in itertools.product(*values)}
    assert {frozenset(job) for job in jobs} == expected
    assert len({job_folder(job) for job in jobs}) == len(jobs) == len(expected)
    assert command.count_jobs(config.hydra.sweeper, [f"experiment={name}"]) == len(jobs)
    first, last = (command.compose([f"experiment={name}", *job]) for job in (jobs[0], jobs[-1]))
    assert (first.seed, last.seed) == (0, 2)
    assert (first.model["_target_"], last.model["_target_"]) == (
        "fragrecon.models.conv.ConvAutoencoder",
        "fragrecon.models.supervised.SupervisedClassifier",
    )


def test_overrides_cut_the_grid_of_a_recipe_which_is_a_sweep_without_m(cli: Cli) -> None:
    cut = ["model=pca", "model.latent_dim=32", "data.images_per_puzzle=0"]  # so that each job is refused at once
    result = cli.here("experiment=sweep_latent_dim", *cut)
    assert result.code == 1
    folder = cli.home / "multirun" / "sweep_latent_dim"
    jobs = [path for path in folder.iterdir() if path.is_dir()]
    assert {path.name for path in jobs} == {
        job_folder(["experiment=sweep_latent_dim", *cut, f"seed={seed}"]) for seed in range(3)
    }
    assert all("data.images_per_puzzle=0" in status(job)["error"] for job in jobs)
    assert "error: 3 of the 3 jobs that ran failed" in result.stderr
    assert "3 of 3  " in result.stdout


@pytest.mark.parametrize(
    ("overrides", "jobs"),
    [
        (["model=conv,pca", "seed=0,1,2", "data.epochs=3"], 6),
        (["seed=range(0,5)"], 5),
        (["model=choice(conv,pca)", "model=linear"], 1),
        (["data.image_size=[32,64],[64,64]", "data.root='a,b'"], 2),
        (["seed=0"], 1),
        (["model=glob(*)"], None),
    ],
)
def test_the_jobs_of_a_sweep_are_counted(overrides: list[str], jobs: int | None) -> None:
    assert command.count_jobs(composed().hydra.sweeper, overrides) == jobs


def test_the_jobs_of_a_search_are_its_trials() -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    assert command.count_jobs(composed("experiment=search").hydra.sweeper, ["seed=0,1"]) == 20
