"""A package outside of the tree: ``examples/own_package``, installed, or in the working folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fragrecon.files import read_csv
from fragrecon.runs.read import load_run
from fragrecon.runs.sweeps import job_folder
from tests.cli import ROOT, Cli, metrics, status
from tests.wheels import place, site, wheel

__all__ = ["place", "site", "wheel"]  # fixtures

PACKAGE = ROOT / "examples" / "own_package"
LINE = (
    "data.batches_per_epoch=2",
    "data.epochs=1",
    "data.images_per_puzzle=4",
    "data.puzzles_per_batch=2",
    "evaluation.puzzles=4",
    "evaluation.validation_puzzles=2",
    "evaluation.train_puzzles=0",
    "evaluation.restarts=1",
    "report.figures=false",
)
THEIRS = ("model=gray_world", "data=stripes", *LINE)
METRIC = "+evaluation.own.near={_target_: puzzlings.metric.Neighbourhood, neighbours: 3}"

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.slow,
    pytest.mark.skipif(not PACKAGE.is_dir(), reason="not a checkout"),
]


@pytest.fixture(scope="module")
def source() -> Path:
    return PACKAGE


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Cli:
    return Cli(tmp_path_factory.mktemp("home"), cache)


@pytest.fixture(scope="module")
def trained(cli: Cli, place: dict[str, str]) -> Path:
    cli.run(*THEIRS, METRIC, "hydra.run.dir=trained", **place).ok()
    return cli.home / "trained"


def test_help_lists_what_a_package_and_a_config_dir_add(cli: Cli, place: dict[str, str]) -> None:
    own = cli.home / "conf" / "model"
    own.mkdir(parents=True)
    (own / "wide.yaml").write_text("# @package _global_\n# A wider one.\ndefaults: [gray_world]\n")
    lines = cli.run("--config-dir", own.parent, "--help", **place).ok().stdout.splitlines()
    found = {line.split()[0]: line for line in lines if line.startswith("    ") and line.split()}
    assert found["gray_world"].endswith("Two linear layers on fragments without their mean colour.")
    assert found["stripes"].endswith("Generated images of coloured stripes.")
    assert found["wide"].endswith("A wider one.")
    assert "variance" in found
    assert {"conv", "synthetic"} <= found.keys()
    message = cli.run("model=gray_wold", **place).refusal()
    assert "did you mean 'gray_world'?" in message


def test_a_model_a_reader_an_objective_and_a_metric_train_and_score(trained: Path) -> None:
    run = load_run(trained)
    assert (run.model_name, run.config.data.name) == ("GrayWorld", "stripes")
    assert run.config.objective["_target_"] == "puzzlings.objective.Variance"
    for method in ("model", "raw_pixels"):
        found = metrics(trained)["scores"][method]["own_near_share"]
        assert found["n"] == 4
        assert 0 <= found["mean"] <= 1
        assert found["ci95"][0] <= found["mean"] <= found["ci95"][1]
    assert "train/together" in run.epochs[0]
    assert "near share" in (trained / "report.html").read_text()


def test_the_run_is_evaluated_and_loaded_by_other_processes(cli: Cli, trained: Path, place: dict[str, str]) -> None:
    cli.run("mode=evaluate", f"run={trained}", "evaluation.puzzles=3", "hydra.run.dir=evaluated", **place).ok()
    assert metrics(cli.home / "evaluated")["scores"]["model"]["own_near_share"]["n"] == 3
    code = f"from fragrecon import load_run; print(type(load_run({str(trained)!r}).model).__module__)"
    line, environment = [sys.executable, "-c", code], cli.environment(**place)
    done = subprocess.run(line, cwd=cli.home, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "puzzlings.model"


@pytest.mark.parametrize(
    ("launcher", "plugin"),
    [("basic", None), ("cores", "joblib"), ("local_queue", "submitit"), ("ray_cluster", "ray")],
)
def test_it_can_be_swept_with_a_job_that_fails(
    tmp_path: Path, cache: Path, place: dict[str, str], launcher: str, plugin: str | None
) -> None:
    if plugin:
        pytest.importorskip(f"hydra_plugins.hydra_{plugin}_launcher")
    line, folder = [*THEIRS, "evaluation.puzzles=0"], tmp_path / "multirun" / "sizes"
    sweep = ["-m", *line, "model.latent_dim=8,-1", f"hydra/launcher={launcher}", "sweep.name=sizes"]
    result = Cli(tmp_path, cache).run(*sweep, **place)
    assert result.code == 1
    good, bad = (folder / job_folder([*line, f"model.latent_dim={size}"]) for size in (8, -1))
    assert "error: 1 of the 2 jobs" in result.stderr
    assert f"  {bad.name}: model.latent_dim=-1 " in result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert [status(job)["status"] for job in (good, bad)] == ["done", "failed"]
    assert load_run(good).config.model["latent_dim"] == 8
    assert (good / "run.log").read_text().count("epoch 0:") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"multirun"}
    ranked = [(row.get("rank", ""), row["model.latent_dim"]) for row in read_csv(folder / "leaderboard.csv")]
    assert ranked == [("1", "8"), ("", "-1")]
    assert (folder / "report.html").is_file()


def test_an_own_objective_is_a_term_of_a_sum(place: dict[str, str], tmp_path: Path, cache: Path) -> None:
    cli = Cli(tmp_path, cache)
    term = ["objective=combined", "+objective.terms.near={_target_: puzzlings.objective.Variance, weight: 0.5}"]
    weights = ["+objective.weights.near=2", "objective.weights.vae=0"]
    cli.run(*THEIRS, *term, *weights, "evaluation.puzzles=0", "hydra.run.dir=run", **place).ok()
    epoch = load_run(tmp_path / "run").epochs[0]
    assert float(epoch["train/loss"]) == pytest.approx(2 * float(epoch["train/near_loss"]), rel=1e-4)


def test_two_processes_train_a_class_that_is_in_the_working_folder_only(tmp_path: Path, cache: Path) -> None:
    """Nothing of it is installed, so that the second process has to be told that it is trusted."""
    cli = Cli(tmp_path, cache)
    shutil.copytree(PACKAGE / "src" / "puzzlings", tmp_path / "puzzlings")
    own = ["model._target_=puzzlings.model.GrayWorld", "objective._target_=puzzlings.objective.Variance"]
    cli.run(*LINE, *own, "model.latent_dim=6", "trainer=ddp_cpu", "hydra.run.dir=run").ok()
    assert load_run(tmp_path / "run").config.model == {"_target_": "puzzlings.model.GrayWorld", "latent_dim": 6}
    assert metrics(tmp_path / "run")["model"]["latent_dim"] == 6
    assert "by 2 processes" in (tmp_path / "run" / "run.log").read_text()


def test_a_run_does_not_make_a_module_of_the_working_folder_trusted(tmp_path: Path, cache: Path, trained: Path) -> None:
    cli = Cli(tmp_path, cache)
    shutil.copytree(trained, tmp_path / "stranger")
    shutil.copytree(PACKAGE / "src" / "puzzlings", tmp_path / "puzzlings")
    for name in ("puzzlings/__init__.py", "stranger/puzzlings.py"):
        (tmp_path / name).write_text("from pathlib import Path; Path('imported').touch()\n")
    # A module that Python itself would import, if the working folder came first.
    (tmp_path / "lightning.py").write_text("from pathlib import Path; Path('imported').touch()\n")
    message = cli.run("mode=evaluate", "run=stranger").refusal()
    assert "plugins=[puzzlings]" in message
    code = (
        "from fragrecon import load_run; from fragrecon.errors import ConfigError\n"
        "try: load_run('stranger').model\n"
        "except ConfigError as error: print(error)"
    )
    line = [sys.executable, "-P", "-c", code] if sys.version_info >= (3, 11) else [sys.executable, "-c", code]
    done = subprocess.run(line, cwd=tmp_path, env=cli.environment(), capture_output=True, text=True, check=True)
    assert 'plugins=["puzzlings"]' in done.stdout
    assert not (tmp_path / "imported").exists()
    (tmp_path / "lightning.py").unlink()
    cli.run("mode=evaluate", "run=stranger", "plugins=[puzzlings]", "hydra.run.dir=evaluated").ok()
    assert (tmp_path / "imported").exists()
    assert json.loads((tmp_path / "evaluated" / "status.json").read_text())["status"] == "done"


def test_the_packages_own_tests_pass(cli: Cli, place: dict[str, str]) -> None:
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(PACKAGE / "tests")]
    done = subprocess.run(line, cwd=cli.home, env=cli.environment(**place), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
