from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from fragrecon.data.module import FragmentData
from fragrecon.errors import ConfigError, DataError
from fragrecon.evaluation.clustering.protocol import METRICS
from fragrecon.evaluation.setup import open_data, protocol_of
from fragrecon.report.figures.monitoring import LabelledEmbeddings, embedded, pictures_of
from fragrecon.run import compose
from fragrecon.runs.read import load_run
from fragrecon.training import loggers
from tests.cli import (
    ROOT,
    SMALL,
    Cli,
    assert_same_run,
    finish,
    job,
    metrics,
    names,
    one_thread,
    rows,
    status,
    wait_until,
)

pytestmark = pytest.mark.timeout(180)
LINE = (*SMALL, "model=pca", "data.batches_per_epoch=4")
OFFLINE = ("logger=wandb", "logger.wandb.offline=true")
KEY = "0123456789abcdef" * 2 + "01234567"
Record = dict[str, Any]


def places(home: Path) -> dict[str, str]:
    """Folders in which Weights & Biases finds no login and may write."""
    return {
        "HOME": str(home),
        "NETRC": str(home / "none"),
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_DATA_HOME": str(home / "data"),
    }


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home without a login, for runs in this process."""
    client = pytest.importorskip("wandb")
    for name, value in (places(tmp_path / "home") | {"WANDB_CACHE_DIR": str(tmp_path / "home" / "cache")}).items():
        monkeypatch.setenv(name, value)
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE", "WANDB_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    client.teardown()  # it reads its environment once
    yield tmp_path / "home"
    client.teardown()


def leet(path: Path, *options: str) -> str:
    line = [sys.executable, "-m", "wandb", "leet", "inspect", *options, "--json", str(path)]
    return subprocess.run(line, capture_output=True, text=True, check=True, timeout=60).stdout


def records(folder: Path) -> list[Record]:
    """What the file of a run of Weights & Biases holds, in order."""
    return [json.loads(line) for line in leet(folder).splitlines()]


def one(found: list[Record], kind: str) -> Record:
    (record,) = (record for record in found if record["type"] == kind)
    content: Record = record[kind]
    return content


def history(found: list[Record], name: str) -> list[tuple[int, Any]]:
    """Values of a figure, or the files of a picture, by step."""
    items = [record["history"]["item"] for record in found if record["type"] == "history"]
    keys = (name, f"{name}.filenames", f"{name}.path")
    return [(item["trainer/global_step"], item[key]) for item in items for key in keys if key in item]


def wandb_runs(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("*run-*-*"))


def exit_code(folder: Path) -> int:
    """How the one run in a folder ended."""
    (run,) = wandb_runs(folder)
    return int(one(records(run), "exit").get("exit_code", 0))


def pixels(path: Path) -> Tensor:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return torch.from_numpy(np.array(image.convert("RGB"))).movedim(-1, 0)


def opened(folder: Path) -> tuple[FragmentData, dict[str, Tensor], LabelledEmbeddings]:
    """The data of a run, the pictures of its last model and the embeddings of its best, made anew."""
    run = load_run(folder)
    data = open_data(run.config)
    batch = data.validation_set().read(slice(0, 1)).as_float()
    with one_thread():
        pictures = pictures_of(run.load_model(run.last_checkpoint), batch, data.grid, protocol_of(run.config))
        return data, pictures, embedded(run.load_model(), data.validation_set(), torch.device("cpu"))


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A run with TensorBoard."""
    pytest.importorskip("tensorboard")
    folder = tmp_path_factory.mktemp("board") / "run"
    job(folder, cache, *LINE, "logger=tensorboard")
    return folder


@pytest.fixture(scope="module")
def events(board: Path) -> Any:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(board / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    found.Reload()
    return found


def test_tensorboard_shows_the_figures_of_metrics_csv(board: Path, events: Any) -> None:
    tags = set(events.Tags()["scalars"])
    assert {"val/kmeans_ari", "val_mean_clustering_score", "val/loss", "train/loss", "train/kmeans_ari"} <= tags
    for name in ("val/kmeans_ari", "val_mean_clustering_score", "train/loss"):
        shown = [event.value for event in events.Scalars(name)]
        assert shown == pytest.approx([float(row[name]) for row in rows(board)])
    scores = metrics(board)["scores"]["model"]
    for metric in METRICS:
        (event,) = events.Scalars(f"test/{metric}")
        assert event.value == pytest.approx(scores[metric]["mean"])
        assert event.step == int(rows(board)[-1]["step"])
    assert [path.name for path in board.parent.iterdir()] == ["run"]


def test_tensorboard_shows_config_and_pictures(board: Path, events: Any) -> None:
    from io import BytesIO

    _, pictures, _ = opened(board)
    assert (
        events.Tags()["images"]
        == [f"pictures/{name}" for name in pictures]
        == ["pictures/puzzle", "pictures/reconstructions", "pictures/samples"]
    )
    for name, picture in pictures.items():
        shown = events.Images(f"pictures/{name}")
        assert [event.step for event in shown] == [4, 8]
        with Image.open(BytesIO(shown[-1].encoded_image_string)) as image:
            assert torch.equal(torch.from_numpy(np.array(image)).movedim(-1, 0), picture)
    (text,) = events.Tensors("config/text_summary")
    lines = text.tensor_proto.string_val[0].decode().splitlines()
    assert all(line.startswith("    ") for line in lines)  # a block of code
    assert yaml.safe_load("\n".join(lines)) == yaml.safe_load((board / "config.yaml").read_text())


def test_tensorboard_projects_the_embeddings_of_the_best_checkpoint(board: Path) -> None:
    text_format = pytest.importorskip("google.protobuf.text_format")
    projector = pytest.importorskip("tensorboard.plugins.projector.projector_config_pb2")
    folder = board / "tensorboard"
    config = text_format.Parse((folder / "projector_config.pbtxt").read_text(), projector.ProjectorConfig())
    (shown,) = config.embeddings
    _, _, found = opened(board)
    for path in (shown.tensor_path, shown.metadata_path, shown.sprite.image_path):
        assert not Path(path).is_absolute()
    np.testing.assert_allclose(np.loadtxt(folder / shown.tensor_path), found.embeddings, rtol=1e-5, atol=1e-6)
    header, *table = (line.split("\t") for line in (folder / shown.metadata_path).read_text().splitlines())
    assert header == ["image", "class", "puzzle", "cell"]
    assert [list(column) for column in zip(*table, strict=True)] == list(found.facts.values())
    sprite, side = pixels(folder / shown.sprite.image_path), shown.sprite.single_image_dim[0]
    across = sprite.shape[2] // side
    for number, thumbnail in enumerate(found.thumbnails):
        top, left = number // across * side, number % across * side
        torch.testing.assert_close(sprite[:, top : top + side, left : left + side], thumbnail, rtol=0, atol=1)


def test_numbers_are_the_same_without_a_logger_and_go_to_metrics_csv_only(
    board: Path, tmp_path: Path, cache: Path
) -> None:
    job(tmp_path / "plain", cache, *LINE, "logger=csv")
    assert_same_run(tmp_path / "plain", board)
    found = set(names(tmp_path / "plain"))
    assert not [name for name in found if "events" in name or "wandb" in name or "lightning" in name]
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]


def test_pictures_can_be_disabled(tmp_path: Path, cache: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    line = [
        "logger=tensorboard",
        "logger.tensorboard.pictures_every_n_epochs=0",
        "trainer.max_epochs=1",
        "evaluation.puzzles=0",
    ]
    job(tmp_path / "run", cache, *LINE, *line)
    found = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    found.Reload()
    assert found.Tags()["images"] == []
    assert (tmp_path / "run" / "tensorboard" / "projector_config.pbtxt").is_file()  # also where nothing is scored
    with pytest.raises(ConfigError, match=r"logger\.tensorboard\.pictures_every_n_epochs=-1"):
        job(tmp_path / "negative", cache, *LINE, "logger=tensorboard", "logger.tensorboard.pictures_every_n_epochs=-1")


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
def test_of_two_processes_only_the_first_shows(tmp_path: Path, cache: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    cli = Cli(tmp_path, cache)
    line = [*LINE, "trainer=ddp_cpu", "logger=tensorboard", "trainer.max_epochs=1", "evaluation.puzzles=0"]
    assert cli.run(*line, "hydra.run.dir=run").ok().stderr == ""
    writers = {path.name.split(".")[-2] for path in (tmp_path / "run" / "tensorboard").glob("events*")}
    assert len(writers) == 1  # the number of the process
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Images("pictures/puzzle")] == [4]


def test_tensorboard_says_what_to_install_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("tensorboard")

    monkeypatch.setattr("fragrecon.training.loggers.TensorBoardLogger.__init__", refuse)
    with pytest.raises(ConfigError, match=r"fragrecon\[tensorboard\]"):
        loggers.TensorBoard(tmp_path, {})


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The folder of a sweep of two jobs in one process, of which the second fails while it trains."""
    client = pytest.importorskip("wandb")
    cli = Cli(tmp_path_factory.mktemp("sweep"), cache)
    line = [
        *LINE,
        *OFFLINE,
        "model=conv",
        "logger.wandb.tags=[small,test]",
        "sweep.name=rates",
        "optimizer.lr=0.001,1e30",
    ]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in places(cli.home / "home").items():
            patch.setenv(name, value)
        client.teardown()  # it reads its environment once
        result = cli.here("-m", *line)
        client.teardown()
    assert result.code == 1
    return cli.home / "multirun" / "rates"


@pytest.fixture(scope="module")
def jobs(sweep: Path) -> dict[str, Path]:
    """Folders of the jobs, by how they ended."""
    return {status(path.parent)["status"]: path.parent for path in sweep.glob("*/status.json")}


@pytest.fixture(scope="module")
def logged(sweep: Path) -> dict[str, tuple[Path, list[Record]]]:
    """Folders of Weights & Biases and what they hold, by the name of the run."""
    found = {folder: records(folder) for folder in wandb_runs(sweep)}
    return {str(one(those, "run")["display_name"]): (folder, those) for folder, those in found.items()}


Logged = dict[str, tuple[Path, list[Record]]]


def test_jobs_of_a_sweep_are_a_run_each_in_the_folder_of_the_sweep(
    sweep: Path, jobs: dict[str, Path], logged: Logged
) -> None:
    assert set(jobs) == {"done", "failed"}
    assert "finite" in status(jobs["failed"])["error"]
    assert len(wandb_runs(sweep)) == 2
    assert {folder.name for folder in jobs.values()} == set(logged)
    assert not any((folder / "wandb").exists() for folder in jobs.values())
    assert len({folder.name.rpartition("-")[2] for folder in wandb_runs(sweep)}) == 2
    assert {path.name for path in sweep.parents[1].iterdir()} == {"multirun", "home"}
    assert json.loads(leet(sweep / "wandb", "--summary"))["state"] in ("finished", "failed")
    line = [sys.executable, "-m", "wandb", "sync", "--dry-run", str(sweep / "wandb")]
    environment = Cli(sweep, sweep).environment(WANDB_API_KEY=KEY, **places(sweep.parents[1] / "home"))
    sent = subprocess.run(line, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert "Would sync 2 run(s)" in sent.stdout + sent.stderr


def test_a_run_has_its_sweep_model_tags_and_config(jobs: dict[str, Path], logged: Logged) -> None:
    for folder in jobs.values():
        run = one(logged[folder.name][1], "run")
        assert run["run_group"] == "rates"
        assert run["job_type"] == "conv"
        assert run["tags"] == ["small", "test"]
        assert run["project"] == "fragrecon"
        config = {key: value for key, value in run["config"]["update"].items() if key != "_wandb"}
        assert config == yaml.safe_load((folder / "config.yaml").read_text())


def test_a_run_ends_as_its_job_did(jobs: dict[str, Path], logged: Logged) -> None:
    for outcome, code in (("done", 0), ("failed", 1)):
        assert one(logged[jobs[outcome].name][1], "exit").get("exit_code", 0) == code


def test_a_run_shows_the_figures_of_metrics_csv(jobs: dict[str, Path], logged: Logged) -> None:
    folder = jobs["done"]
    found = logged[folder.name][1]
    for name in ("train/loss", "val/kmeans_ari", "val_mean_clustering_score"):
        shown = [value for _, value in history(found, name)]
        assert shown == pytest.approx([float(row[name]) for row in rows(folder)])
    for name in METRICS:
        assert history(found, f"test/{name}") == [(8, pytest.approx(metrics(folder)["scores"]["model"][name]["mean"]))]
    assert not history(logged[jobs["failed"].name][1], "test/mean_clustering_score")


def test_a_run_shows_pictures_of_each_epoch(jobs: dict[str, Path], logged: Logged) -> None:
    folder, found = logged[jobs["done"].name]
    _, pictures, _ = opened(jobs["done"])
    assert set(pictures) == {"puzzle", "reconstructions", "samples"}
    for name, picture in pictures.items():
        shown = history(found, f"pictures/{name}")
        assert [step for step, _ in shown] == [4, 8]
        assert torch.equal(pixels(folder / "files" / shown[-1][1][0]), picture)
        assert not torch.equal(pixels(folder / "files" / shown[0][1][0]), picture)


def test_a_run_has_a_table_of_embeddings_with_thumbnails(sweep: Path, jobs: dict[str, Path], logged: Logged) -> None:
    folder, found = logged[jobs["done"].name]
    ((step, path),) = history(found, "embeddings")
    assert step == 8
    table = json.loads((folder / "files" / path).read_text())
    _, _, expected = opened(jobs["done"])
    columns = dict(zip(table["columns"], zip(*table["data"], strict=True), strict=True))
    assert list(columns) == ["fragment", *expected.facts, *(f"d{number}" for number in range(128))]
    for name, values in expected.facts.items():
        assert list(columns[name]) == values
        assert all(isinstance(value, str) for value in values)  # a number would be taken for a dimension
    numbers = np.array([columns[f"d{number}"] for number in range(128)]).T
    np.testing.assert_allclose(numbers, expected.embeddings, rtol=1e-5, atol=1e-6)
    contents = one(found, "artifact")["manifest"]["contents"]
    files = {entry["path"]: Path(entry["local_path"]) for entry in contents}
    assert all(path.is_relative_to(sweep) and path.is_file() for path in files.values())
    rows = json.loads(files["embeddings.table.json"].read_text())["data"]
    assert len(rows) == len(expected.thumbnails) == 480
    for row, thumbnail in zip(rows, expected.thumbnails, strict=True):
        assert torch.equal(pixels(files[row[0]["path"]]), thumbnail)


def test_nothing_that_a_run_needs_is_left_in_the_home(sweep: Path, logged: Logged) -> None:
    home = sweep.parents[1] / "home"
    assert not [name for name in names(home) if "netrc" in name or name.startswith(("config/", "data/"))]


MODEL = {"model": {"_target_": "fragrecon.models.pca.PCAAutoencoder"}}


def begun(folder: Path, **settings: Any) -> loggers.Wandb:
    folder.mkdir()
    return loggers.Wandb(folder, MODEL, **settings)


def test_a_run_outside_of_a_sweep_is_in_its_own_folder_with_its_own_name(tmp_path: Path, home: Path) -> None:
    with loggers.ending([begun(tmp_path / "run", offline=True, name="mine", group="ours", project="other")]):
        pass
    (folder,) = wandb_runs(tmp_path / "run")
    run = one(records(folder), "run")
    assert (run["display_name"], run["run_group"], run["project"]) == ("mine", "ours", "other")
    assert (run["job_type"], run.get("tags", [])) == ("pca", [])
    assert exit_code(tmp_path / "run") == 0


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_run_ends_as_failed_after_any_exception(error: type[BaseException], tmp_path: Path, home: Path) -> None:
    import wandb

    with pytest.raises(error), loggers.ending([begun(tmp_path / "run", offline=True)]):
        raise error
    assert wandb.run is None
    assert exit_code(tmp_path / "run") == 1


def test_a_job_that_fails_before_it_trains_is_a_failed_run(tmp_path: Path, cache: Path, home: Path) -> None:
    with pytest.raises(DataError, match="test split"):
        job(tmp_path / "run", cache, *LINE, *OFFLINE, "data.reader.test_images=4")
    assert exit_code(tmp_path / "run") == 1


def test_a_job_that_fails_while_it_is_scored_is_a_failed_run(
    tmp_path: Path, cache: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr("fragrecon.jobs.train.score", fail)
    with pytest.raises(RuntimeError):
        job(tmp_path / "run", cache, *LINE, *OFFLINE, "trainer.max_epochs=1")
    assert exit_code(tmp_path / "run") == 1


def test_a_resumed_run_keeps_its_id(tmp_path: Path, cache: Path, home: Path) -> None:
    job(tmp_path / "run", cache, *LINE, *OFFLINE, "trainer.max_epochs=1", "evaluation.puzzles=0")
    time.sleep(1)  # folders are named by the second
    job(tmp_path / "run", cache, f"resume={tmp_path / 'run'}", "trainer.max_epochs=2")
    first, second = (records(folder) for folder in wandb_runs(tmp_path / "run"))
    assert one(first, "run")["run_id"] == one(second, "run")["run_id"]
    names_of = [folder.name for folder in wandb_runs(tmp_path / "run")]
    assert {name.rpartition("-")[2] for name in names_of} == {one(first, "run")["run_id"]}
    assert [step for step, _ in history(first, "pictures/puzzle")] == [4]
    assert [step for step, _ in history(second, "pictures/puzzle")] == [8]


def test_the_id_is_random_and_moves_with_the_run(tmp_path: Path, home: Path) -> None:
    ids = []
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        with loggers.ending([begun(tmp_path / place / "run", offline=True)]):
            pass
        (folder,) = wandb_runs(tmp_path / place / "run")
        ids.append(str(one(records(folder), "run")["run_id"]))
        shutil.rmtree(tmp_path / place / "run" / "wandb")
    assert len(set(ids)) == 2
    moved = (tmp_path / "here" / "run").rename(tmp_path / "moved")
    logger = loggers.Wandb(moved, MODEL, offline=True)
    with loggers.ending([logger]):
        (folder,) = wandb_runs(moved)
        assert folder.name.endswith(f"-{ids[0]}")


def test_the_agent_of_a_sweep_names_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "given")
    assert loggers.run_id(tmp_path) != "given"  # without a sweep, all jobs of a process would share it
    (tmp_path / "agent").mkdir()
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    assert loggers.run_id(tmp_path / "agent") == "given"
    monkeypatch.setenv("WANDB_RUN_ID", "another")
    assert loggers.run_id(tmp_path / "agent") == "given"


def test_the_command_of_an_agent_is_a_command_of_this_package() -> None:
    """By the functions of the client that fill in the template."""
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    template = yaml.safe_load((ROOT / "experiments" / "wandb_sweep.yaml").read_text())
    drawn = {"model": "linear", "model.latent_dim": 64, "optimizer.lr": 0.00123}
    assert drawn.keys() == template["parameters"].keys()
    filled = utils.create_sweep_command_args({"args": {key: {"value": value} for key, value in drawn.items()}})
    macros = {"${env}": ["/usr/bin/env"], "${program}": [template["program"]]}
    macros["${args_no_hyphens}"] = filled["args_no_hyphens"]
    line = [word for part in template["command"] for word in macros.get(part, [part])]
    assert line[:4] == ["/usr/bin/env", "python", "-m", "fragrecon.run"]
    config = compose(line[4:])
    assert list(config.logger) == ["wandb"]
    assert config.model["_target_"] == "fragrecon.models.linear.LinearAutoencoder"
    assert (config.model["latent_dim"], config.optimizer["lr"]) == (64, 0.00123)
    assert template["metric"] == {"name": config.selection.monitor, "goal": f"{config.selection.mode}imize"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"project": "a/b"}, "Invalid project name 'a/b'"), ({"tags": ["t" * 65]}, "Tags must be between 1 and 64")],
)
def test_a_setting_that_weights_and_biases_refuses_is_reported_in_one_line(
    settings: dict[str, Any], message: str, tmp_path: Path, home: Path
) -> None:
    logger = begun(tmp_path / "run", offline=True, **settings)
    with pytest.raises(ConfigError, match=message) as caught, loggers.ending([logger]):
        raise AssertionError("not begun")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_signal_while_a_run_is_scored_ends_it_as_failed(tmp_path: Path, cache: Path) -> None:
    pytest.importorskip("wandb")
    cli, folder = Cli(tmp_path, cache), tmp_path / "run"
    line = [*LINE, *OFFLINE, "trainer.max_epochs=1", "evaluation.puzzles=20000", f"hydra.run.dir={folder}"]
    process = cli.start(*line, **places(tmp_path / "home"))

    def is_scored() -> bool:
        return (folder / "status.json").exists() and status(folder).get("stage") == "evaluation"

    wait_until(lambda: is_scored() or process.poll() is not None)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert finish(process).code == 128 + signal.SIGTERM
    assert exit_code(folder) == 1
    assert status(folder)["status"] == "running"  # and can be taken up again


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that accepts connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("server", "key", "reason"),
    [
        ("silent", KEY, "Failed to get resume status"),
        ("absent", KEY, "connection refused"),
        ("absent", "", "No API key configured"),
    ],
)
@pytest.mark.fault("wandb unreachable")
def test_a_run_continues_offline_if_there_is_no_answer_no_server_or_no_login(
    server: str,
    key: str,
    reason: str,
    silent: int,
    tmp_path: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = silent if server == "silent" else unused.getsockname()[1]
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setattr(loggers, "PATIENCE", 2)
    with loggers.ending([begun(tmp_path / "run")]):
        (run,) = wandb_runs(tmp_path / "run")  # nothing of the attempt is left
        assert reason in caplog.text
        assert f"wandb sync {run}" in caplog.text
    assert run.name.startswith("offline-run-")
    assert exit_code(tmp_path / "run") == 0
