from __future__ import annotations

import contextlib
import csv
import gc
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

import fragrecon
from fragrecon import jobs
from fragrecon import run as command
from fragrecon.data.readers.pickles import load_pickle
from fragrecon.errors import DataError, FragreconError
from fragrecon.evaluation.clustering.protocol import METRICS
from fragrecon.runs.read import load_run
from fragrecon.runs.write import Record
from tests import layouts
from tests.cli import SMALL, Cli, best, checkpoint, job, metrics, names, rows, status

pytestmark = pytest.mark.timeout(180)
FURTHER = {f"{a}_{name}" for a in ("kmeans", "kmedoids") for name in ("ami", "accuracy", "precision", "recall")}
BEYOND = {"balanced_ari", "balanced_accuracy"}
DONE = {"config.yaml", "overrides.yaml", "status.json", "metrics.json", "metrics.csv", "scores.npz", "run.log"}
REFUSED_LEAVE = {".lock", "config.yaml", "overrides.yaml", "status.json", "run.log"}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The folder of a run that was started without a given folder; it has the log of all imports beside it."""
    cli = Cli(tmp_path_factory.mktemp("done"), cache)
    imports = cli.run(*SMALL, "model=pca", PYTHONPROFILEIMPORTTIME="1").ok().stderr
    (cli.home / "outputs" / "imports").write_text(imports)
    (folder,) = (cli.home / "outputs").glob("*/*")
    return folder


COMPOSED: tuple[tuple[list[str], list[str]], ...] = (
    (["mdoel=conv"], ["mdoel", "'model'", "scheduler"]),
    (["data.epoch=3"], ["data.epoch", "'epochs'"]),
    (["epochs=3"], ["epochs", "data.epochs?"]),
    (["run=somewhere"], ["run", "mode=demo, draw, embed"]),
    (["model=transformer"], ["'transformer'", "cnn_v3_tiny, conv, encoder, energy_transformer, linear, mae, mosaic"]),
    (["trainer=gpus"], ["'gpus'", "'gpu'"]),
    (["mode=tran"], ["'tran'", "'train'"]),
    (["mode=scoring"], ["'scoring'", "evaluate"]),
    (["resume=nowhere"], ["resume=nowhere", "config.yaml"]),
    (["resume=nowhere", "hydra.run.dir=run"], ["nowhere"]),
)


@pytest.mark.fault("data.root=~/images")
def test_a_home_folder_that_the_shell_does_not_expand(cli: Cli) -> None:
    assert "data.root=$HOME/images" in cli.here("data=folder", "data.root=~/images").refusal()


def test_the_version_is_that_of_the_package(cli: Cli) -> None:
    assert cli.here("--version").ok().stdout == f"fragrecon {fragrecon.__version__}\n"


@pytest.mark.fault("unknown names and keys")
def test_a_command_that_cannot_be_composed_is_refused_and_leaves_nothing(cli: Cli) -> None:
    for arguments, words in COMPOSED:
        message = cli.here(*arguments).refusal()
        for word in words:
            assert word in message, arguments
        assert "full_key" not in message
        assert not names(cli.home)


REFUSED: tuple[tuple[str, list[str]], ...] = (
    ("evaluation.backend", ["evaluation.backend=scipy"]),
    ("seed", ["seed=true"]),
    ("model.depth", ["model=conv", "+model.depth=3"]),
    ("os.system", ["model._target_=os.system"]),
    ("model.latent_dim", ["model.latent_dim=abc"]),
    ("model.latent_dim", ["model.latent_dim=-1"]),
    ("model.encoder_channels", ["model=conv", "model.encoder_channels=[a]"]),
    ("model.encoder_channels", ["model=conv", "model.encoder_channels=[8,8,8,8,8]"]),
    ("data.fragment_size", ["data.fragment_size=64"]),
    ("data.images_per_puzzle", ["data.images_per_puzzle=400"]),
    ("data.images_range", ["data.images_range=[4,32]"]),
    ("data.puzzles_per_batch", ["trainer=ddp_cpu", "data.puzzles_per_batch=3"]),
    ("trainer.limit_train_batches", ["trainer.limit_train_batches=0.01"]),
    ("objective", ["model=conv", "objective=pairs"]),
    ("val_mean_clustering_score", ["selection.monitor=val_clustering_score"]),
    ("trainer.max_time", ["trainer.max_time=soon"]),
    ("optimizer.lr", ["optimizer.lr=fast"]),
    ("trainer.max_epochs", ["trainer.max_epochs=0"]),
    ("evaluation.puzzles", ["evaluation.puzzles=-1"]),
    ("nowhere", ["mode=evaluate", "run=nowhere"]),
    ("evaluation.robustness.puzzles", ["evaluation=robustness", "evaluation.puzzles=20"]),
    ("evaluation.robustness.blur", ["evaluation=robustness", "+evaluation.robustness.blur=[1]"]),
    ("run", ["mode=evaluate"]),
    ("run", ["mode=evaluate", "run=null"]),
    ("embed", ["mode=embed", "run=nowhere", "embed=null"]),
    ("nowhere", ["init_from=nowhere"]),
)


@pytest.mark.fault("invalid values")
def test_an_invalid_value_is_refused_by_name_before_any_training(tmp_path: Path, cache: Path) -> None:
    for number, (key, arguments) in enumerate(REFUSED):
        with pytest.raises(FragreconError, match=re.escape(key)):
            job(tmp_path / str(number), cache, *SMALL, *arguments)
        assert set(names(tmp_path / str(number))) <= REFUSED_LEAVE, arguments


@pytest.mark.parametrize("line", ["data.epochs=many", "data.fragment_size=15", "model=null"])
def test_a_refused_command_says_why_in_one_line_and_leaves_nothing(cli: Cli, line: str) -> None:
    assert line.partition("=")[0] in cli.run(*SMALL, line).refusal()
    assert not names(cli.home)


def test_a_refused_command_keeps_what_was_in_its_folder(cli: Cli) -> None:
    """A run that another process is training, a failed run, and files of the user's own."""
    record = {"status.json": '{"status": "failed"}', "config.yaml": "a: 1", "overrides.yaml": "[]", "run.log": "log"}
    for name, kept in (
        ("live", record),
        ("failed", record),
        ("mine", {"config.yaml": "b: 2"}),
        ("log", {"run.log": "log"}),
    ):
        folder = cli.home / name
        folder.mkdir()
        for file, text in kept.items():
            (folder / file).write_text(text)
        with Record(folder).hold() if name == "live" else contextlib.nullcontext():
            cli.here(f"hydra.run.dir={name}", "seed=true").refusal()
        found = {file: (folder / file).read_text() for file in names(folder) if file != ".lock"}
        assert found.keys() == kept.keys()
        assert all(found[file].startswith(text) for file, text in kept.items())


def test_garbage_is_collected_again_after_the_imports_of_a_job_even_if_they_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "whole_module.py").write_text("import gc\n\ncollects = gc.isenabled()\n")
    (tmp_path / "broken_module.py").write_text("raise ImportError\n")
    assert not jobs.import_heavy("whole_module").collects
    assert gc.isenabled()
    with pytest.raises(ImportError):
        jobs.import_heavy("broken_module")
    assert gc.isenabled()


def test_each_mode_has_its_module() -> None:
    for path in (command.CONF / "mode").glob("*.yaml"):
        assert find_spec(f"fragrecon.jobs.{path.stem}"), path.stem


def malicious(batch: Path) -> None:
    batch.write_bytes(b"cos\nsystem\n(S'touch " + str(batch.parent.parent / "touched").encode() + b"'\ntR.")


def truncated(batch: Path) -> None:
    batch.write_bytes(batch.read_bytes()[:5000])


def relabelled(batch: Path) -> None:
    contents = load_pickle(batch)
    contents["labels"][3] = 1001
    batch.write_bytes(pickle.dumps(contents))


def narrowed(batch: Path) -> None:
    contents = load_pickle(batch)
    contents["data"] = contents["data"][:, :3072]
    batch.write_bytes(pickle.dumps(contents))


DAMAGED: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "malicious": (malicious, ["train_data_batch_2", "os.system"]),
    "truncated": (truncated, ["train_data_batch_2", "cut short"]),
    "empty": (lambda batch: batch.write_bytes(b""), ["train_data_batch_2", "is empty"]),
    "label out of range": (relabelled, ["train_data_batch_2", "1001", "1..1000"]),
    "wrong shape": (narrowed, ["train_data_batch_2", "3072", "12288"]),
    "missing": (Path.unlink, ["train_data_batch_2"]),
}


def test_a_malformed_file_is_refused_by_name_and_leaves_no_store(tmp_path: Path) -> None:
    for damage, (spoil, words) in DAMAGED.items():
        home = tmp_path / damage.replace(" ", "_")
        layouts.imagenet64(home / "data", train=30, test=20, files=3)
        spoil(home / "data" / "train_data" / "train_data_batch_2")
        with pytest.raises(DataError) as refused:
            job(home / "run", home / "cache", "data=imagenet64", f"data.root={home / 'data'}")
        for word in words:
            assert word in str(refused.value), damage
        assert not names(home / "cache", "train")
        assert not names(home / "cache", "*.part")
        assert not (home / "touched").exists()


def test_hydra_full_error_shows_the_traceback(cli: Cli) -> None:
    result = cli.run("data.epochs=many", HYDRA_FULL_ERROR="1")
    assert result.code != 0
    assert "Traceback" in result.stderr
    assert "ConfigError" in result.stderr


@pytest.mark.parametrize("arguments", [["--cfg", "job"], ["--help"], ["data.epoch=3"]])
def test_little_is_imported_before_a_job_starts(cli: Cli, arguments: list[str]) -> None:
    """So that help and refusals take no longer than Hydra itself."""
    code = (
        "import sys; from fragrecon.run import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'lightning', 'sklearn', 'matplotlib', 'numpy', 'pydantic', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    line = [sys.executable, "-c", code, *arguments]
    found = subprocess.run(line, cwd=cli.home, env=cli.environment(), capture_output=True, text=True, timeout=60)
    assert found.stdout.splitlines()[-1] == "[]", found.stderr


def test_a_run_is_saved_under_outputs_by_date_time_and_mode(done: Path) -> None:
    assert done.parent.parent.name == "outputs"
    assert done.name.endswith("-train-pca")
    assert {path.name for path in done.parents[2].iterdir()} == {"outputs"}


def test_no_logger_is_imported_without_a_request(done: Path) -> None:
    imports = (done.parents[1] / "imports").read_text()
    assert " torch\n" in imports
    assert " wandb\n" not in imports
    assert not [name for name in ("tensorboard", "kmedoids", "mlflow") if f" {name}\n" in imports]


def test_a_finished_run_has_all_its_files(done: Path) -> None:
    assert set(names(done)) >= DONE
    assert not names(done, "*.part")
    noted = status(done)
    assert (noted["status"], noted["stage"], noted["error"]) == ("done", "evaluation", None)
    assert noted["started"] <= noted["finished"]
    assert len(noted["config_hash"]) == 16
    log = (done / "run.log").read_text()
    assert "epoch 0: train/loss" in log
    assert "epoch 1: train/loss" in log


def test_the_saved_config_is_plain_yaml_with_nothing_left_to_resolve(done: Path) -> None:
    text = (done / "config.yaml").read_text()
    assert "${" not in text
    plain = yaml.safe_load(text)
    assert plain == OmegaConf.to_container(OmegaConf.load(done / "config.yaml"), resolve=True)
    assert plain["data"]["epochs"] == 2
    assert plain["model"]["_target_"] == "fragrecon.models.pca.PCAAutoencoder"
    assert load_run(done).config.to_dict() == plain
    assert yaml.safe_load((done / "overrides.yaml").read_text()) == [*SMALL, "model=pca"]


def test_a_saved_config_opens_without_hydra_and_torch(cli: Cli, done: Path) -> None:
    code = (
        "import sys; from fragrecon.runs.read import load_run; run = load_run(sys.argv[1])\n"
        "print(run.config.data.name, run.metrics['model']['name'], 'hydra' in sys.modules, 'torch' in sys.modules)"
    )
    line = [sys.executable, "-c", code, str(done)]
    found = subprocess.run(line, env=cli.environment(), capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.split() == ["synthetic", "PCAAutoencoder", "False", "False"]


def test_metrics_json_holds_scores_of_model_and_baselines(done: Path) -> None:
    found = metrics(done)
    assert set(found) >= {"protocol", "scores", "data", "versions", "seconds"}
    baselines = ["random", "raw_pixels", "colour_histogram", "exact_pca", "whitened_pca"]
    assert list(found["scores"]) == [*baselines, "model"]
    assert list(found["model_minus"]) == baselines
    for method, scores in found["scores"].items():
        assert list(scores)[: len(METRICS)] == list(METRICS)
        assert set(scores) - set(METRICS) == FURTHER | (set() if method == "random" else BEYOND)
        for summary in scores.values():
            assert set(summary) == {"mean", "std", "ci95", "n"}
            assert summary["n"] == 5
            assert summary["ci95"][0] <= summary["mean"] <= summary["ci95"][1]
    model = {metric: summary["mean"] for metric, summary in found["scores"]["model"].items()}
    assert model["mean_ari"] == pytest.approx((model["kmeans_ari"] + model["kmedoids_ari"]) / 2)
    assert model["mean_clustering_score"] == pytest.approx((model["mean_ari"] + model["mean_nmi"]) / 2)
    assert found["protocol"]["puzzles"] == 5
    assert found["protocol"]["images_per_puzzle"] == 10
    assert found["data"]["split"] == "test"
    assert found["versions"]["fragrecon"]
    assert set(found["seconds"]) >= {"data", "training", "evaluation"}


def test_metrics_csv_has_a_row_an_epoch_with_the_names_of_the_loggers(done: Path) -> None:
    with (done / "metrics.csv").open(newline="") as file:
        header = next(csv.reader(file))
    assert header[:4] == ["epoch", "step", "seconds", "lr"]
    expected = {f"{stage}/{metric}" for stage in ("train", "val") for metric in ("loss", "psnr", *METRICS)}
    expected = expected - {"val/mean_clustering_score"} | {"val_mean_clustering_score"}
    assert set(header[4:]) == expected
    found = rows(done)
    assert [(row["epoch"], row["step"]) for row in found] == [("0", "14"), ("1", "28")]


def test_the_best_checkpoint_is_named_after_its_epoch_and_score(done: Path) -> None:
    scores = [float(row["val_mean_clustering_score"]) for row in rows(done)]
    epoch = scores.index(max(scores))
    assert best(done).name == f"best-epoch={epoch}-val_mean_clustering_score={max(scores):.4f}.ckpt"
    assert checkpoint(done, best(done).name)["epoch"] == epoch
    assert checkpoint(done)["global_step"] == 28
    assert metrics(done)["model"]["checkpoint"] == best(done).name


def options(*groups: str) -> list[str]:
    """Of these config groups, as the command line has them."""
    paths = [path for group in groups for path in sorted((command.CONF / group).glob("*.yaml")) if path.stem != "base"]
    return [f"{path.parent.relative_to(command.CONF)}={path.stem}" for path in paths]


def test_help_says_in_a_line_what_each_group_and_each_option_is(cli: Cli) -> None:
    lines = cli.run("--help").ok().stdout.splitlines()
    groups = [
        *(path.name for path in command.CONF.iterdir() if path.is_dir() and path.name != "hydra"),
        "hydra/launcher",
    ]
    for group in groups:
        (place,) = (number for number, line in enumerate(lines) if line.startswith(f"  {group}= "))
        assert len(lines[place].split(maxsplit=1)[1]) > 5, group
        end = next(number for number in range(place, len(lines)) if not lines[number].strip())
        said = dict(line.split(maxsplit=1) for line in lines[place + 1 : end])
        assert sorted(f"{group}={name}" for name in said) == options(group)
        for name, text in said.items():
            assert len(text) > 5, name
            assert "${" not in text
            assert "@package" not in text
    text = "\n".join(lines)
    for words in ("-m model=conv,pca seed=0,1", "resume=FOLDER", "mode=MODE run=FOLDER", "--cfg", "multirun/"):
        assert words in text


GPUS = {"accelerator": "gpu", "strategy": "ddp", "devices": 8, "precision": "bf16-mixed"}


@pytest.mark.parametrize(("overrides", "nodes"), [([], 1), (["trainer.num_nodes=4"], 4)])
def test_the_trainer_of_many_gpus_composes(overrides: list[str], nodes: int) -> None:
    trainer = command.compose(["trainer=ddp_h100", *overrides]).trainer
    assert GPUS.items() <= asdict(trainer).items()
    assert trainer.num_nodes == nodes
