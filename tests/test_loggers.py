from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fragrecon import loggers
from fragrecon.errors import ConfigError
from fragrecon.evaluation.protocol import METRICS
from tests.cli import SMALL, Cli, job, metrics, names, rows, shared_cache, status

pytestmark = pytest.mark.timeout(180)
LINE = (*SMALL, "model=pca", "data.batches_per_epoch=4")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_cache(tmp_path_factory)


def test_without_a_logger_figures_go_to_metrics_csv_only(tmp_path: Path, cache: Path) -> None:
    job(tmp_path / "run", cache, *LINE, "logger=csv")
    found = set(names(tmp_path / "run"))
    assert "metrics.csv" in found
    assert not [name for name in found if "events" in name or "wandb" in name or "lightning" in name]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_tensorboard_shows_the_figures_of_metrics_csv(tmp_path: Path, cache: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = tmp_path / "run"
    job(folder, cache, *LINE, "logger=tensorboard")
    events = accumulator.EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"val/kmeans_ari", "val_mean_clustering_score", "val/loss", "train/loss", "train/kmeans_ari"} <= tags
    for name in ("val/kmeans_ari", "val_mean_clustering_score", "train/loss"):
        shown = [event.value for event in events.Scalars(name)]
        assert shown == pytest.approx([float(row[name]) for row in rows(folder)])
    scores = metrics(folder)["scores"]["model"]
    for metric in METRICS:
        (event,) = events.Scalars(f"test/{metric}")
        assert event.value == pytest.approx(scores[metric]["mean"])
        assert event.step == int(rows(folder)[-1]["step"])
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_tensorboard_says_what_to_install_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lightning.pytorch.loggers as known

    def refuse(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("tensorboard")

    monkeypatch.setattr(known, "TensorBoardLogger", refuse)
    with pytest.raises(ConfigError, match=r"pip install .fragrecon\[tensorboard\]"):
        loggers.tensorboard(tmp_path)


@pytest.mark.slow
def test_wandb_offline_keeps_one_run_a_job_in_its_folder_and_needs_no_login(tmp_path: Path, cache: Path) -> None:
    pytest.importorskip("wandb")
    cli = Cli(tmp_path / "work", cache)
    places = {"HOME": str(tmp_path / "home"), "NETRC": str(tmp_path / "none"), "XDG_CONFIG_HOME": str(tmp_path / "cfg")}
    offline = ["logger=wandb", "logger.offline=true", "trainer.max_epochs=1", "sweep.name=seeds", "seed=0,1"]
    result = cli.run("-m", *LINE, *offline, **places).ok()
    assert "Traceback" not in result.stderr
    assert [path.name for path in cli.home.iterdir()] == ["multirun"]
    folders = sorted(path for path in (cli.home / "multirun" / "seeds").iterdir() if path.is_dir())
    assert len(folders) == 2
    for folder in folders:
        assert status(folder)["status"] == "done"
        (run,) = (folder / "wandb").glob("offline-run-*")
        (file,) = run.glob("*.wandb")
        written = file.read_bytes()
        for name in ("val/kmeans_ari", "val_mean_clustering_score", "test/mean_clustering_score"):
            assert name.encode() in written
    assert not (tmp_path / "home" / ".netrc").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="finds the figures where Linux keeps them")
def test_no_logger_is_imported_unless_it_is_asked_for(tmp_path: Path, cache: Path) -> None:
    import subprocess

    cli = Cli(tmp_path, cache)
    code = (
        "import sys; from fragrecon.run import main; main()\nprint(sorted({'wandb', 'tensorboard'} & set(sys.modules)))"
    )
    line = [sys.executable, "-c", code, *LINE, "trainer.max_epochs=1", "hydra.run.dir=run"]
    found = subprocess.run(line, cwd=tmp_path, env=cli.environment(), capture_output=True, text=True, timeout=120)
    assert found.stdout.splitlines()[-1] == "[]", found.stderr
