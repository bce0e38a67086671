from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fragrecon.errors import ConfigError, RunError
from fragrecon.runs import load_run
from tests import layouts
from tests.cli import Cli, fingerprint, job, metrics, names, status

pytestmark = pytest.mark.timeout(180)


def test_a_run_is_scored_again_exactly_and_left_as_it_was(cli: Cli, finished: Path) -> None:
    before = fingerprint(finished)
    result = cli.run("mode=evaluate", f"run={finished}", f"data.cache_dir={cli.cache}").ok()
    (folder,) = (cli.home / "outputs").glob("*/*")
    assert folder.name.endswith("-evaluate")
    assert "KMeans ARI" in result.stdout
    again, own = metrics(folder), metrics(finished)
    for part in ("scores", "model_minus", "protocol", "data"):
        assert again[part] == own[part]
    assert fingerprint(finished) == before
    assert status(folder)["status"] == "done"
    assert not names(folder, "*.ckpt")
    saved = load_run(folder).config
    assert (saved.mode, saved.run) == ("evaluate", str(finished))
    assert saved.model == load_run(finished).config.model


def test_a_run_can_be_scored_on_other_puzzles_of_other_data(tmp_path: Path, cache: Path, finished: Path) -> None:
    layouts.imagenet64(tmp_path / "source", train=12, test=30)
    before = fingerprint(finished)
    other = ["data=imagenet64", f"data.root={tmp_path / 'source'}", f"data.cache_dir={cache}"]
    job(tmp_path / "run", cache, "mode=evaluate", f"run={finished}", *other, "evaluation.puzzles=3")
    found = metrics(tmp_path / "run")
    assert (found["data"]["name"], found["data"]["images"]) == ("imagenet64", 30)
    assert found["scores"]["model"]["kmeans_ari"]["n"] == 3
    assert found["model"]["checkpoint"] == metrics(finished)["model"]["checkpoint"]
    assert fingerprint(finished) == before


def test_more_test_puzzles_begin_with_the_same_ones(tmp_path: Path, cache: Path, finished: Path) -> None:
    import numpy as np

    job(tmp_path / "run", cache, "mode=evaluate", f"run={finished}", "evaluation.puzzles=7")
    more, own = (np.load(folder / "scores.npz") for folder in (tmp_path / "run", finished))
    for name in ("random/kmeans_ari", "raw_pixels/kmeans_ari", "raw_pixels/kmedoids_nmi"):
        np.testing.assert_allclose(more[name][:5], own[name], atol=1e-6)


def test_a_model_of_other_fragments_is_refused(tmp_path: Path, cache: Path, finished: Path) -> None:
    with pytest.raises(ConfigError, match="takes fragments of 16x16 pixels, 3 channels, but data gives 8x8"):
        job(tmp_path / "run", cache, "mode=evaluate", f"run={finished}", "data.fragment_size=8")
    assert status(tmp_path / "run")["status"] == "failed"
    with pytest.raises(ConfigError, match="but data gives 16x16 pixels, 1 channel"):
        job(tmp_path / "grey", cache, "mode=evaluate", f"run={finished}", "data.channels=1")


def test_a_run_that_was_moved_is_scored_as_before(tmp_path: Path, cache: Path, finished: Path) -> None:
    moved = tmp_path / "elsewhere" / "moved"
    shutil.copytree(finished, moved)
    job(tmp_path / "run", cache, "mode=evaluate", f"run={moved}")
    assert metrics(tmp_path / "run")["scores"] == metrics(finished)["scores"]


def test_scoring_nothing_is_refused(tmp_path: Path, cache: Path, finished: Path) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.puzzles=0 leaves nothing to score"):
        job(tmp_path / "run", cache, "mode=evaluate", f"run={finished}", "evaluation.puzzles=0")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("checkpoints", "holds no checkpoint"),
        ("config.yaml", r"holds no config\.yaml"),
        ("status.json", r"holds no status\.json"),
    ],
)
def test_a_run_that_is_half_written_is_refused(
    tmp_path: Path, cache: Path, finished: Path, missing: str, message: str
) -> None:
    half = tmp_path / "half"
    shutil.copytree(finished, half)
    shutil.rmtree(half / missing) if (half / missing).is_dir() else (half / missing).unlink()
    with pytest.raises(RunError, match=message):
        job(tmp_path / "run", cache, "mode=evaluate", f"run={half}")
    assert status(tmp_path / "run")["status"] == "failed"


@pytest.mark.parametrize("name", ["config.yaml", "status.json"])
def test_a_run_with_a_damaged_file_is_refused(tmp_path: Path, cache: Path, finished: Path, name: str) -> None:
    half = tmp_path / "half"
    shutil.copytree(finished, half)
    text = (half / name).read_text()
    (half / name).write_text(text[: len(text) // 2] + "\n: [")
    with pytest.raises((RunError, ConfigError), match=name):
        job(tmp_path / "run", cache, "mode=evaluate", f"run={half}")


def test_a_damaged_checkpoint_is_refused(tmp_path: Path, cache: Path, finished: Path) -> None:
    half = tmp_path / "half"
    shutil.copytree(finished, half)
    checkpoint = load_run(half).best_checkpoint
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"best-.*\.ckpt"):
        job(tmp_path / "run", cache, "mode=evaluate", f"run={half}")


@pytest.mark.parametrize("change", ["model=pca", "model.latent_dim=7"])
def test_a_trained_model_is_not_recorded_as_another(tmp_path: Path, cache: Path, finished: Path, change: str) -> None:
    with pytest.raises(ConfigError, match="model of a trained run stays"):
        job(tmp_path / "run", cache, "mode=evaluate", f"run={finished}", change)
