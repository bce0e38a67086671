"""MLflow, by the files of its store, as another program reads them."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from fragrecon.errors import ConfigError
from fragrecon.evaluation.clustering.protocol import METRICS
from fragrecon.training import loggers
from tests.cli import SMALL, Cli, job, metrics, rows, status
from tests.training.test_loggers import MODEL, opened, pixels

pytestmark = pytest.mark.timeout(300)
LINE = (*SMALL, "model=pca", "data.batches_per_epoch=4", "logger=mlflow")
FINISHED, FAILED = 3, 4
"""States of a run in the files."""


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


needs_mlflow = pytest.mark.usefixtures("_installed")


def runs(place: Path) -> dict[str, Path]:
    """Folders of the runs in a store, by name."""
    found = [path.parent for path in (place / "mlruns").glob("*/*/meta.yaml") if path.parents[1].name.isdigit()]
    return {str(meta(folder)["run_name"]): folder for folder in found}


def meta(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((folder / "meta.yaml").read_text())
    return values


def logged(run: Path, name: str) -> list[tuple[int, float]]:
    """Steps and values of a metric."""
    lines = (run / "metrics" / name).read_text().splitlines()
    return [(int(step), float(value)) for _, value, step in (line.split()[:3] for line in lines)]


@needs_mlflow
def test_a_run_has_the_figures_of_metrics_csv_its_config_and_pictures(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "my run%20"
    job(folder, cache, *LINE, "+logger.mlflow.tags.kind=small")
    ((name, run),) = runs(folder).items()
    assert (name, meta(run)["status"]) == (folder.name, FINISHED)
    assert (folder / "mlflow_id.txt").read_text().strip() == run.name
    assert yaml.safe_load((run.parent / "meta.yaml").read_text())["name"] == "fragrecon"
    for key in ("train/loss", "val/kmeans_ari", "val_mean_clustering_score"):
        expected = [(int(row["step"]), float(row[key])) for row in rows(folder)]
        assert [value for _, value in logged(run, key)] == pytest.approx([value for _, value in expected])
    for metric in METRICS:
        ((step, value),) = logged(run, f"test/{metric}")
        assert step == int(rows(folder)[-1]["step"])
        assert value == pytest.approx(metrics(folder)["scores"]["model"][metric]["mean"])
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert yaml.safe_load((run / "artifacts" / "config.yaml").read_text()) == config
    assert (run / "params" / "optimizer" / "lr").read_text() == str(config["optimizer"]["lr"])
    assert [(run / "tags" / tag).read_text() for tag in ("model", "kind")] == ["pca", "small"]
    _, pictures, _ = opened(folder)
    for key, picture in pictures.items():
        shown = {
            int(found[1]): path
            for path in (run / "artifacts" / "images").iterdir()
            if (found := re.fullmatch(rf"pictures.{key}.step.(\d+)\D.*\.png", path.name))
        }
        assert sorted(shown) == [4, 8]
        assert torch.equal(pixels(shown[8]), picture)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@needs_mlflow
def test_a_resumed_run_is_one_run_and_ends_as_its_job_does(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "run"
    job(folder, cache, *LINE, "trainer.max_epochs=1", "evaluation.puzzles=0")
    before = list(runs(folder).values())
    job(folder, cache, f"resume={folder}", "trainer.max_epochs=2")
    assert list(runs(folder).values()) == before
    assert [value for _, value in logged(before[0], "val/loss")] == pytest.approx(
        [float(row["val/loss"]) for row in rows(folder)]
    )
    with pytest.raises(RuntimeError), loggers.ending([loggers.Mlflow(folder, MODEL)]):
        raise RuntimeError
    assert meta(before[0])["status"] == FAILED


@needs_mlflow
def test_a_store_that_has_been_moved_is_not_continued(tmp_path: Path) -> None:
    """MLflow's files hold absolute paths, so that pictures would be written to the old place."""
    (tmp_path / "run").mkdir()
    with loggers.ending([loggers.Mlflow(tmp_path / "run", MODEL)]):
        pass
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match=str(tmp_path / "run")), loggers.ending([loggers.Mlflow(moved, MODEL)]):
        raise AssertionError("not begun")
    assert not (tmp_path / "run").exists()


@needs_mlflow
def test_a_run_that_the_store_does_not_have_starts_anew(tmp_path: Path) -> None:
    (tmp_path / "mlflow_id.txt").write_text("0" * 32)
    with loggers.ending([loggers.Mlflow(tmp_path, MODEL, name="anew")]):
        ((name, run),) = runs(tmp_path).items()
    assert name == "anew"
    assert (tmp_path / "mlflow_id.txt").read_text().strip() == run.name != "0" * 32


@needs_mlflow
def test_jobs_of_a_sweep_share_a_store(tmp_path: Path, cache: Path) -> None:
    cli = Cli(tmp_path, cache)
    line = [*LINE, "data.epochs=1", "logger.mlflow.pictures_every_n_epochs=0"]
    assert cli.here("-m", *line, "optimizer.lr=0.001,1e30", "sweep.name=rates").code == 1
    sweep = tmp_path / "multirun" / "rates"
    folders = [path.parent for path in sweep.glob("*/status.json")]
    found = runs(sweep)
    assert {folder.name for folder in folders} == found.keys()
    states = {"done": FINISHED, "failed": FAILED}
    assert {name: meta(run)["status"] for name, run in found.items()} == {
        folder.name: states[status(folder)["status"]] for folder in folders
    }
    (experiment,) = {run.parent for run in found.values()}
    assert yaml.safe_load((experiment / "meta.yaml").read_text())["name"] == "rates"
    assert not list(experiment.rglob("*.png"))


@needs_mlflow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
def test_of_two_processes_only_the_first_logs(tmp_path: Path, cache: Path) -> None:
    cli = Cli(tmp_path, cache)
    line = [*LINE, "trainer=ddp_cpu", "trainer.max_epochs=1", "evaluation.puzzles=0", "hydra.run.dir=run"]
    assert cli.run(*line).ok().stderr == ""
    (run,) = runs(tmp_path / "run").values()
    assert len(logged(run, "val/loss")) == len(rows(tmp_path / "run")) == 1


@needs_mlflow
def test_an_address_of_an_unknown_kind_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="logger=mlflow") as caught:
        loggers.Mlflow(tmp_path, MODEL, tracking_uri="nowhere://host")
    assert "\n" not in str(caught.value)


def test_mlflow_that_is_not_installed_says_how_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mlflow", "mlflow.exceptions"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"fragrecon\[mlflow\]"):
        loggers.Mlflow(tmp_path, MODEL)
    assert not list(tmp_path.iterdir())
