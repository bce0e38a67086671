"""Runs from strangers: links, damaged files, and files made to do harm. No training: the runs are written here."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import pickle
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fragrecon import files
from fragrecon.config.saved import load
from fragrecon.data.readers.pickles import load_pickle
from fragrecon.errors import ConfigError, DataError, FragreconError, RunError
from fragrecon.report.leaderboard import jobs_of, leaderboard
from fragrecon.report.page import write_run_page
from fragrecon.report.sweep_files import update_leaderboard
from fragrecon.report.terminal import plain_console, print_leaderboard, print_metrics
from fragrecon.run import compose, run_folder
from fragrecon.runs import sweeps
from fragrecon.runs.checkpoints import AtomicCheckpointIO
from fragrecon.runs.modules import Facts, build_model
from fragrecon.runs.read import Run, load_run
from fragrecon.runs.write import Record
from tests import layouts

BEST, PROBE = "checkpoints/best-epoch=0-score=0.5000.ckpt", "probes/mlp.pt"
PUZZLES = 3


def write_run(folder: Path) -> Path:
    """Write the run of a small model, as a job would."""
    config = compose(["model=pca", "model.latent_dim=2", "data.epochs=1", f"evaluation.puzzles={PUZZLES}"])
    record = Record(folder)
    record.start(config, ["model=pca", "seed=0"])
    record.add_epoch({"epoch": 0, "step": 4, "seconds": 1.5, "lr": 0.1, "train/loss": 0.5, "val/loss": 0.25})
    scores = {name: {"kmeans_ari": np.linspace(0, 1, PUZZLES)} for name in ("model", "raw_pixels")}
    record.write_metrics(
        scores,
        protocol={
            "puzzles": PUZZLES,
            "images_per_puzzle": 10,
            "fragments_per_image": 16,
            "fragment_shape": [3, 16, 16],
            "seed": 0,
        },
        data={"name": "synthetic", "split": "test", "images": 60, "source": "0" * 64, "lossy": 0},
        model={"name": "PCAAutoencoder", "parameters": 10, "latent_dim": 2},
        seconds={"training": 1.0},
    )
    ids = np.arange(32).reshape(1, 32)
    record.write_examples(
        {
            "images": layouts.pictures(2)[None],
            "grid": np.array([4, 4]),
            "source_ids": ids // 16,
            "positions": ids % 16,
            "groups": ids // 16,
        }
    )
    facts = Facts((3, 16, 16), (4, 4), 10)
    weights = {f"model.{name}": value for name, value in build_model(config, facts)[0].state_dict().items()}
    (folder / "checkpoints").mkdir()
    torch.save({"state_dict": weights, "facts": vars(facts)}, folder / BEST)
    (folder / "figures").mkdir()
    (folder / "figures/puzzle.png").write_bytes(layouts.encoded(layouts.pictures(1)[0]))
    record.finish()
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("original") / "run")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "run")


def open_all(folder: Path) -> Run:
    """Read everything that a run has."""
    run = load_run(folder)
    _ = run.overrides, run.epochs, run.metrics, run.scores, run.examples
    if (folder / BEST).is_file():
        _ = run.model
    return run


def refusal(read: Callable[[], Any], named: Path) -> str:
    with pytest.raises((RunError, ConfigError)) as caught:
        read()
    text = str(caught.value)
    assert str(named) in text
    assert "\n" not in text
    assert len(text) < 1000
    return text


def test_the_run_of_these_tests_is_one(folder: Path) -> None:
    run = open_all(folder)
    write_run_page(folder / "report.html", run)
    print_metrics(run.metrics, folder)
    assert run.scores["model/kmeans_ari"].tolist() == [0, 0.5, 1]


@contextmanager
def chdir(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


# Links ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["checkpoints", "figures", "probes", "status.json", "metrics.json", "run.log", ".lock", BEST]
)
def test_a_link_that_leads_out_of_a_run_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    place, outside = folder / name, tmp_path / "outside"
    outside.mkdir()
    target = outside / place.name
    if place.exists():
        place.rename(target)
    else:
        target.mkdir() if name == "probes" else target.touch()
    place.symlink_to(target)
    (outside / ".last.ckpt.x.part").touch()
    before = sorted(outside.rglob("*"))
    for read in (
        lambda: load_run(folder),
        lambda: Record(folder),
        lambda: run_folder(str(folder), "", "train", "pca", None),
        lambda: sweeps.begin(folder.parent, "sweep", 1, [], []),
    ):
        refusal(read, place)
    assert sorted(outside.rglob("*")) == before


@pytest.mark.parametrize("name", ["figures/pipe.png", BEST, "metrics.json", ".lock"])
def test_a_pipe_in_a_run_is_refused_before_it_is_opened(folder: Path, name: str) -> None:
    """Reading it would wait for ever."""
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    for read in (lambda: load_run(folder), lambda: Record(folder)):
        refusal(read, folder / name)


def test_folders_deeper_than_the_stack_are_no_trouble(folder: Path, tmp_path: Path) -> None:
    (folder / "probes").mkdir()
    with chdir(folder / "probes"):
        for _ in range(1200):
            Path("d").mkdir()
            os.chdir("d")
        Path("link").symlink_to(tmp_path)
    place = folder / "probes" / "/".join(["d"] * 1200) / "link"
    with pytest.raises(RunError) as caught:
        load_run(folder)
    assert str(place) in str(caught.value)
    with chdir(place.parent):
        Path("link").unlink()
    load_run(folder)
    subprocess.run(["rm", "-rf", folder], check=True)  # `shutil.rmtree` is recursive


def test_the_files_of_a_sweep_itself_are_no_links_out_of_it(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path.parent / "outside"
    outside.mkdir()
    sweeps.begin(tmp_path, "sweep", 1, [], [])
    for name in ("figures", "study.db"):
        (tmp_path / name).symlink_to(outside)
        refusal(lambda: update_leaderboard(tmp_path, page=True), tmp_path / name)
        (tmp_path / name).unlink()
    (tmp_path / "sweep.json").unlink()
    os.mkfifo(tmp_path / "sweep.json")
    refusal(lambda: update_leaderboard(tmp_path), tmp_path / "sweep.json")
    assert not list(outside.iterdir())


def test_a_run_may_be_linked_itself(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    open_all(tmp_path / "link")
    assert load_run(tmp_path / "link").metrics == load_run(folder).metrics


# Damaged and foreign files -------------------------------------------------------------------------------------------


def changed(path: Path, *keys: str | int, value: Any = None) -> None:
    """Set a value in a JSON file, or delete it."""
    values = json.loads(path.read_text())
    place = values
    for key in keys[:-1]:
        place = place[key]
    if value is None:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (["scores", "model"], None),
        (["scores", "raw_pixels"], None),
        (["model_minus", "raw_pixels"], None),
        (["scores", "model", "kmeans_ari"], {"ci95": None}),
        (["scores", "model", "kmeans_ari", "mean"], "high"),
        (["scores", "model", "kmeans_ari", "mean"], float("nan")),
        (["scores", "model", "kmeans_ari", "ci95"], [0.1]),
        (["scores", "model", "masked_psnr"], {"mean": 1.0, "ci95": None}),
        (["scores"], [1]),
        (["model"], None),
        (["model", "parameters"], "many"),
        (["data", "lossy"], "some"),
        (["protocol", "puzzles"], None),
        (["seconds", "training"], 1e300),
        (["versions"], 3),
    ],
)
def test_metrics_without_what_is_read_are_refused(folder: Path, keys: list[str], value: Any) -> None:
    changed(folder / "metrics.json", *keys, value=value)
    refusal(lambda: load_run(folder).metrics, folder / "metrics.json")
    (job,) = jobs_of(folder.parent)
    assert job.status["status"] == "failed"


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 10**5, '{"status": 3}', '{"status": "done", "finished": 7}', "9" * 5000),
        *('{"status": "done", "started": "yesterday"}', '{"status": "done", "finished": "2999-01-01T00:00:00"}'),
    ],
)
def test_a_foreign_status_is_refused(folder: Path, text: str) -> None:
    (folder / "status.json").write_text(text)
    refusal(lambda: load_run(folder), folder / "status.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("swept", 5), ("swept", [5]), ("overrides", {"a": 1}), ("jobs", 0.5), ("name", None)],
        *[("started", "yesterday"), ("started", "2020-01-01"), ("started", "2020-01-01T00:00:00")],
    ],
)
def test_a_foreign_note_of_a_sweep_is_refused(folder: Path, key: str, value: Any) -> None:
    sweeps.begin(folder.parent, "sweep", 1, [], [])
    path = folder.parent / "sweep.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    refusal(lambda: update_leaderboard(folder.parent), path)


@pytest.mark.parametrize(
    "text", ["epoch,step,seconds\n0,high,1\n", "loss\n0.5\n", "epoch,step,seconds\nnan,1,1\n", "a\n1,2\n", "\0"]
)
def test_text_in_the_metrics_of_epochs_is_refused(folder: Path, text: str) -> None:
    (folder / "metrics.csv").write_text(text)
    if text == "\0":
        with suppress(RunError):
            _ = load_run(folder).epochs
        return
    refusal(lambda: load_run(folder).epochs, folder / "metrics.csv")


@pytest.mark.parametrize("text", ["a: 1", "- [1]", "- 1", "&a [*a]", "- ${oc.env:HOME}", "- a\n b: [", "x"])
def test_damaged_overrides_are_refused(folder: Path, text: str) -> None:
    (folder / "overrides.yaml").write_text(text)
    refusal(lambda: load_run(folder).overrides, folder / "overrides.yaml")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("images", None),
        ("grid", None),
        ("groups", None),
        ("images", np.zeros((1, 2, 3, 4))),
        ("images", np.zeros((1, 2, 5, 4, 4), np.uint8)),
        ("grid", np.array([4])),
        ("grid", np.array([1 << 30, 1 << 30])),
        ("source_ids", np.full((1, 32), 2)),
        ("source_ids", np.full((1, 32), -1)),
        ("groups", np.full((1, 32), 1 << 40)),
        ("positions", np.zeros((1, 31), int)),
        ("positions", np.zeros((1, 32))),
        ("rebuilt_images", np.zeros((1, 32), int)),
    ],
)
def test_examples_without_what_is_read_are_refused(folder: Path, name: str, value: Any) -> None:
    path = folder / "examples.npz"
    with np.load(path, allow_pickle=False) as file:
        arrays = {**file, name: value}
    files.write_arrays(path, {key: array for key, array in arrays.items() if array is not None})
    refusal(lambda: load_run(folder).examples, path)
    write_run_page(folder / "report.html", load_run(folder))  # says so in its place


def test_scores_that_are_none_are_refused(folder: Path) -> None:
    for array in (np.array(["a"]), np.zeros((2, 2)), np.array([{}], object)):
        files.write_arrays(folder / "scores.npz", {"model/kmeans_ari": array})
        refusal(lambda: load_run(folder).scores, folder / "scores.npz")


def as_list(path: Path) -> None:
    torch.save([1, 2], path)


def as_plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"state_dict": {}, "facts": {}}))


def as_other(key: str, value: Any) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        torch.save(torch.load(path, weights_only=True) | {key: value}, path)

    return spoil


def as_compressed(path: Path) -> None:
    content = path.read_bytes()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", content + bytes(10**6))


@pytest.mark.parametrize(
    "spoil",
    [
        as_list,
        as_plain_pickle,
        as_compressed,
        as_other("state_dict", [1]),
        as_other("state_dict", {"model.x": 1}),
        as_other("state_dict", {1: torch.zeros(1)}),
        as_other("facts", None),
        as_other("facts", {"fragment_shape": (3, 16, 16), "grid": (4, 4)}),
        as_other("facts", {"fragment_shape": (3, 1 << 40, 16), "grid": (4, 4), "num_classes": 1}),
        as_other("facts", {"fragment_shape": "abc", "grid": (4, 4), "num_classes": 1}),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused(folder: Path, spoil: Callable[[Path], None]) -> None:
    spoil(folder / BEST)
    refusal(lambda: load_run(folder).model, folder / BEST)


@pytest.mark.parametrize("size", [10**9, 10**30])
def test_a_model_larger_than_its_checkpoint_takes_no_memory(folder: Path, size: int) -> None:
    values = yaml.safe_load((folder / "config.yaml").read_text())
    values["model"]["latent_dim"] = size
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises((RunError, ConfigError)):
        _ = load_run(folder).model


def test_weights_alone_cannot_be_resumed(folder: Path) -> None:
    assert "'epoch'" in refusal(lambda: AtomicCheckpointIO().load_checkpoint(folder / BEST), folder / BEST)


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x89PNG\r\n\x1a\n" + bytes(100), b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_a_page_skips_a_broken_figure(folder: Path, caplog: pytest.LogCaptureFixture, content: bytes) -> None:
    (folder / "figures/broken.png").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        write_run_page(folder / "report.html", load_run(folder))
    assert str(folder / "figures/broken.png") in caplog.text
    assert (folder / "report.html").read_text().count("<figure") == 1


@pytest.mark.parametrize("content", [b"garbage" * 100, b"SQLite format 3\0" + bytes(4080)])
def test_the_page_of_a_sweep_skips_a_broken_study_and_its_figures(
    folder: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    sweep = folder.parent
    sweeps.begin(sweep, "sweep", 1, [], [])
    (sweep / "study.db").write_bytes(content)
    (sweep / "figures").mkdir()
    (sweep / "figures" / "search_history.png").write_bytes(b"<html>")
    with caplog.at_level(logging.WARNING):
        update_leaderboard(sweep, page=True)
    assert str(sweep / "figures" / "search_history.png") in caplog.text
    assert (sweep / "report.html").is_file()
    if importlib.util.find_spec("optuna"):
        assert str(sweep / "study.db") in caplog.text


@pytest.mark.parametrize(
    "part",
    [
        {"mean": "x"},
        {"mean": torch.zeros(7), "deviation": torch.ones(7)},
        {"widths": [2, -3]},
        {"weights": {"0.weight": torch.zeros(3, 2)}},
        {"classes": 5},
        {
            **{"widths": [4, 3], "mean": torch.zeros(4), "deviation": torch.ones(4)},
            "weights": {"0.weight": torch.zeros(3, 4), "0.bias": torch.zeros(3)},
        },
    ],
)
def test_a_classifier_whose_parts_do_not_fit_is_refused(folder: Path, part: dict[str, Any]) -> None:
    whole = {"format": 1, "key": "", "classes": None, "widths": [2, 3], "mean": torch.zeros(2), "trials": []}
    whole |= {"deviation": torch.ones(2), "weights": {"0.weight": torch.zeros(3, 2), "0.bias": torch.zeros(3)}}
    images = np.zeros((1, 3, 64, 64), np.uint8)
    (folder / "probes").mkdir()
    torch.save(whole | {"chosen": 0}, folder / PROBE)
    np.testing.assert_allclose(load_run(folder).classify(images), np.full((1, 3), 1 / 3), rtol=1e-6)
    torch.save(whole | {"chosen": 0} | part, folder / PROBE)
    refusal(lambda: load_run(folder).classify(images), folder / PROBE)


@pytest.fixture
def asked() -> Iterator[list[str]]:
    """The requests that a server gets, after its address."""
    found: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.append(self.path)
            self.send_error(404)

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found.append(f"http://127.0.0.1:{server.server_port}")
        yield found
        server.shutdown()


def test_a_run_that_is_read_downloads_nothing_wherever_its_config_asks_for_it(
    folder: Path, tmp_path: Path, asked: list[str]
) -> None:
    values = yaml.safe_load((folder / "config.yaml").read_text())
    reader = {"_target_": "fragrecon.data.readers.cifar.Cifar10", "url": f"{asked[0]}/x.tgz", "md5": "0" * 32}
    values["data"] |= {"name": "cifar10", "image_size": [32, 32], "root": str(tmp_path / "new"), "download": True}
    for extra, named in (({}, "data.root"), ({"download": True}, "data.reader.download")):
        values["data"]["reader"] = reader | extra
        (folder / "config.yaml").write_text(yaml.safe_dump(values))
        with pytest.raises(FragreconError, match=named.replace(".", r"\.")):
            load_run(folder).evaluate(puzzles=2)
    assert len(asked) == 1
    values["model"] = {"_target_": "fragrecon.models.timm.TimmEncoder", "name": "resnet10t", "load_pretrained": True}
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=r"model\.load_pretrained"):
        _ = load_run(folder).model


def test_the_saved_config_is_not_resolved(folder: Path) -> None:
    values = yaml.safe_load((folder / "config.yaml").read_text())
    values["data"]["reader"]["url"] = "http://host/${oc.env:HOME}"
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    refusal(lambda: load_run(folder), folder / "config.yaml")


# What is shown -------------------------------------------------------------------------------------------------------

EVIL = "\x1b]0;title\x07\x1b[2J\r=1+1\u202e"


def test_text_of_a_sweep_does_not_steer_the_terminal(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweeps.begin(tmp_path, EVIL, 1, [], [])
    changed(folder / "status.json", "status", value="failed")
    changed(folder / "status.json", "error", value=EVIL)
    (folder / "overrides.yaml").write_text(yaml.safe_dump(["model=pca", f"data.name={EVIL}"]))
    shutil.copytree(folder, tmp_path / f"other{EVIL[:6]}")
    changed(tmp_path / f"other{EVIL[:6]}" / "status.json", "error", value="=cmd()")
    print_leaderboard(update_leaderboard(tmp_path), tmp_path)
    shown = capsys.readouterr().out + (tmp_path / "leaderboard.md").read_text()
    assert shown
    assert not {char for char in shown if not char.isprintable()} - {"\n"}


def test_a_console_prints_escapes_of_text_but_its_own_styles(capsys: pytest.CaptureFixture[str]) -> None:
    console = plain_console()
    console._force_terminal, console.file = True, console.file
    console.print("a\x1b[31mb", style="bold")
    assert "a\\x1b[31mb" in capsys.readouterr().out


def test_scores_of_another_number_of_puzzles_are_not_paired(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    files.write_arrays(other / "scores.npz", {"model/kmeans_ari": np.zeros(7), "raw_pixels/kmeans_ari": np.zeros(7)})
    (other / "overrides.yaml").write_text("- model=pca\n- seed=1\n- data.epochs=2\n")
    assert len(leaderboard("", jobs_of(tmp_path)).rows) == 2


# Anything ------------------------------------------------------------------------------------------------------------

bounded = settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
FILES = ["config.yaml", "overrides.yaml", "status.json", "metrics.json", "metrics.csv", "scores.npz", "examples.npz"]


@st.composite
def mutations(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Random bytes, or a few places of the content cut out, repeated or overwritten."""
    if draw(st.booleans()):
        random = draw(st.binary(max_size=200))
        return lambda content: random
    changes = draw(
        st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), st.binary(max_size=40)), min_size=1, max_size=4)
    )

    def mutate(content: bytes) -> bytes:
        for share, length, new in changes:
            start = int(share * len(content))
            content = content[:start] + new + content[start + length :]
        return content

    return mutate


@bounded
@given(mutations(), st.sampled_from([*FILES, BEST]))
def test_any_file_of_a_run_is_read_or_refused(
    original: Path, tmp_path: Path, mutate: Callable[[bytes], bytes], name: str
) -> None:
    folder = tmp_path / "run"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(original, folder)
    (folder / name).write_bytes(mutate((folder / name).read_bytes()))
    with suppress(FragreconError):
        open_all(folder)
    assert len(jobs_of(folder.parent)) == 1


@bounded
@given(mutations())
def test_any_saved_config_is_read_or_refused(original: Path, tmp_path: Path, mutate: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(mutate((original / "config.yaml").read_bytes()))
    with suppress(ConfigError):
        load(path)


@bounded
@given(mutations(), st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_any_pickle_is_read_or_refused(tmp_path: Path, mutate: Callable[[bytes], bytes], protocol: int) -> None:
    batch = {"data": np.zeros((2, 12), np.uint8), "labels": [1, 2], "names": ["a", "b"], "size": np.int64(3)}
    path = tmp_path / "batch"
    path.write_bytes(mutate(pickle.dumps(batch, protocol)))
    with suppress(DataError):
        load_pickle(path)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The keys of all values within a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, part in inner for found in ((*path, key), *places(part, (*path, key)))]


SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5) | st.just("\x1b[2J")
)
ANYTHING = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(max_size=5), SCALARS, max_size=3)


@bounded
@given(st.data(), st.sampled_from(["metrics.json", "status.json", "config.yaml"]))
def test_a_run_with_any_other_value_is_shown_or_refused(
    original: Path, tmp_path: Path, data: st.DataObject, name: str
) -> None:
    folder = tmp_path / "run"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(original, folder)
    values = yaml.safe_load((folder / name).read_text())
    *path, key = data.draw(st.sampled_from(places(values)))
    place = values
    for part in path:
        place = place[part]
    place[key] = data.draw(ANYTHING)
    (folder / name).write_text(json.dumps(values) if name.endswith("json") else yaml.safe_dump(values))
    with suppress(FragreconError):
        run = open_all(folder)
        write_run_page(folder / "report.html", run)
        print_metrics(run.metrics, folder)
    board = leaderboard("", jobs_of(folder.parent))
    print_leaderboard(board, folder.parent)
