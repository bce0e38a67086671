"""Figures drawn once more: of a run's own puzzle, to the byte, and of photographs, by what they show."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from fragrecon import files
from fragrecon.clustering.kmeans import kmeans
from fragrecon.data.photographs import cut_photographs
from fragrecon.errors import ConfigError, DataError, RunError
from fragrecon.evaluation.setup import open_data
from fragrecon.runs.read import load_run
from fragrecon.seeds import keys_of
from tests import layouts
from tests.cli import SMALL, Cli, fingerprint, job, names, read_json, status
from tests.jobs.reassembled import CHINA, FLOWER
from tests.report.figures.pixels import tiles_of

pytestmark = pytest.mark.timeout(180)
OF_PHOTOGRAPHS = ["confusion.png", "embedding.png", "puzzle.png", "reconstructions.png"]


def draw(folder: Path, cache: Path, run: Path, *given: object) -> dict[str, Any]:
    found = job(folder, cache, "mode=draw", f"run={run}", *given)
    assert found is not None
    assert status(folder)["status"] == "done"
    return found


def listed(paths: Sequence[Path]) -> str:
    return f"input=[{','.join(map(str, paths))}]"


def stripes(folder: Path, size: int = 64) -> list[Path]:
    """Three images whose fragments nothing could mistake: black, white, and a bright red."""
    folder.mkdir()
    paths = [folder / f"{name}.png" for name in ("black", "red", "white")]
    for path in paths:
        Image.new("RGB", (size, size), path.stem).save(path)
    return paths


# A run's own ----------------------------------------------------------------------------------------------------------


def test_a_run_is_drawn_again_to_the_byte_and_left_as_it_was(cli: Cli, finished: Path) -> None:
    bare = cli.home / "bare"  # nothing else of the run is needed
    shutil.copytree(finished, bare, ignore=shutil.ignore_patterns("figures", "examples.npz", "metrics.json"))
    before = fingerprint(bare)
    result = cli.run("mode=draw", f"run={bare}", f"data.cache_dir={cli.cache}").ok()
    (folder,) = (cli.home / "outputs").glob("*/*")
    assert folder.name.endswith("-draw")
    assert fingerprint(folder / "figures") == fingerprint(finished / "figures")
    assert len(names(folder / "figures")) == 6
    assert fingerprint(bare) == before
    ari = files.read_arrays(finished / "scores.npz")["model/kmeans_ari"][0]
    assert f"160 fragments of 10 images, grouped by KMeans: ARI {ari:.4f}, NMI " in result.stdout
    assert f"figures: {folder / 'figures'}" in result.stdout
    assert status(folder)["status"] == "done"
    assert load_run(folder).config.run == str(bare)


def test_what_a_run_does_not_have_yet_is_left_out(tmp_path: Path, cache: Path) -> None:
    job(tmp_path / "run", cache, *SMALL, "model=pca", "evaluation.puzzles=0", "data.epochs=1")
    assert not (tmp_path / "run" / "figures").exists()
    draw(tmp_path / "drawn", cache, tmp_path / "run")
    assert names(tmp_path / "drawn" / "figures") == OF_PHOTOGRAPHS
    (tmp_path / "run" / "metrics.csv").unlink()
    draw(tmp_path / "again", cache, tmp_path / "run")
    assert names(tmp_path / "again" / "figures") == OF_PHOTOGRAPHS


# Photographs ----------------------------------------------------------------------------------------------------------


def test_photographs_are_grouped_and_drawn(
    tmp_path: Path, cache: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs, folder = tmp_path / "photographs", tmp_path / "run"
    photographs.mkdir()
    for path in (CHINA, FLOWER):
        shutil.copy(path, photographs)
    draw(folder, cache, finished, f"input={photographs}")
    output = capsys.readouterr().out
    assert names(folder / "figures") == OF_PHOTOGRAPHS
    told = re.search(r"32 fragments of 2 images, grouped by KMeans: ARI (\S+), NMI (\S+)\n", output)
    assert told
    assert f"figures: {folder / 'figures'}" in output
    config = load_run(finished).config
    cut = cut_photographs([CHINA, FLOWER], (3, 64, 64), (16, 16), config.seed)
    with torch.inference_mode():
        points = load_run(finished).load_model().encode(cut.seen.fragments)
    keys = keys_of(config.evaluation.seed, "clustering", 0, 1)
    groups = kmeans(points, 2, keys, config.evaluation.restarts, 32 * 2**20).labels[0]
    sources = cut.seen.source_ids[0]
    assert float(told[1]) == pytest.approx(adjusted_rand_score(sources, groups), abs=1e-4)
    assert float(told[2]) == pytest.approx(normalized_mutual_info_score(sources, groups), abs=1e-4)


def test_images_that_cannot_be_mistaken_are_grouped_perfectly(tmp_path: Path, cache: Path, finished: Path) -> None:
    found = draw(tmp_path / "run", cache, finished, listed(stripes(tmp_path / "images")))
    assert found == pytest.approx({"kmeans_ari": 1.0, "kmeans_nmi": 1.0})
    puzzle = np.asarray(Image.open(tmp_path / "run" / "figures" / "puzzle.png").convert("RGB")).reshape(-1, 3)
    for colour in ([0, 0, 0], [255, 0, 0]):
        assert (puzzle == colour).all(1).sum() > 10_000


def test_photographs_are_shown_in_finer_pixels_than_those_the_model_sees(
    tmp_path: Path, cache: Path, finished: Path
) -> None:
    """Lines half as wide as a pixel of the model, to which all of them are one grey."""
    folder = tmp_path / "images"
    folder.mkdir()
    lines = np.zeros((512, 512), np.uint8)
    lines[:, np.arange(512) // 4 % 2 == 1] = 255
    paths = [folder / "lines.png", folder / "turned.png"]
    for path, pixels in zip(paths, (lines, lines.T), strict=True):
        Image.fromarray(pixels).save(path)
    draw(tmp_path / "run", cache, finished, listed(paths))

    def shades(name: str) -> float:
        """Share of what is drawn that is not that grey."""
        pixels = np.asarray(Image.open(tmp_path / "run" / "figures" / name).convert("L"))
        drawn = pixels[pixels < 250]
        return float((np.abs(drawn.astype(int) - 127) > 8).mean())

    assert shades("puzzle.png") > 0.6
    assert shades("embedding.png") > 0.5
    above = np.asarray(Image.open(tmp_path / "run" / "figures" / "reconstructions.png").convert("L"))
    assert (np.abs(above.astype(int) - 127) <= 1).sum() > 2 * 100 * 100


def test_photographs_are_drawn_where_run_and_data_are_elsewhere(tmp_path: Path, cache: Path) -> None:
    layouts.imagenet64(tmp_path / "source", train=60, test=20)
    given = [
        "model=conv",
        "data=imagenet64",
        f"data.root={tmp_path / 'source'}",
        "data.batches_per_epoch=2",
        "data.epochs=1",
    ]
    few = ["data.puzzles_per_batch=2", "data.images_per_puzzle=2", "evaluation.puzzles=0"]
    job(tmp_path / "run", tmp_path / "cache", *given, *few, "evaluation.validation_puzzles=1")
    shutil.rmtree(tmp_path / "source")
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    shutil.move(tmp_path / "run", tmp_path / "moved")
    draw(tmp_path / "drawn", cache, tmp_path / "moved", listed([CHINA, FLOWER]))
    assert names(tmp_path / "drawn" / "figures") == OF_PHOTOGRAPHS
    with pytest.raises(DataError, match="source"):
        job(tmp_path / "own", cache, "mode=draw", f"run={tmp_path / 'moved'}")


# Of a model that decodes whole images ---------------------------------------------------------------------------------

UNCLUSTERED = (
    *SMALL,
    "data.epochs=1",
    "data.image_size=[16,16]",
    "data.fragment_size=16",
    "data.images_per_puzzle=1",
    "data.puzzles_per_batch=20",
    "evaluation.clustering=false",
    "selection.monitor=val/loss",
    "selection.mode=min",
)
OF_DECODED = ["interpolations.png", "reconstructions.png"]


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The folder of a run of which nothing is clustered; only to be read."""
    folder = tmp_path_factory.mktemp("autoencoder") / "run"
    job(folder, cache, *UNCLUSTERED, "model.latent_dim=12", "evaluation.puzzles=0")
    return folder


def psnr_of(run: Path, images: np.ndarray) -> float:
    """Of images (M, C, H, W) uint8, by hand."""
    model, given = load_run(run).load_model(), torch.from_numpy(images).float() / 255
    with torch.no_grad():
        errors = (model.decode(model.embed(given)) - given).square().flatten(1).mean(1)  # type: ignore[operator]
    return float((-10 * errors.log10()).mean())


def test_an_autoencoder_draws_what_it_decodes_of_test_images_and_of_noise(
    tmp_path: Path, cache: Path, autoencoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = draw(tmp_path / "run", cache, autoencoder)
    assert names(tmp_path / "run" / "figures") == ["generated.png", *OF_DECODED]
    data = open_data(load_run(autoencoder).config)
    images = data.variant(images_per_puzzle=10).test_set(1).read(slice(0, 1)).fragments[0].numpy()
    assert len(np.unique(images.reshape(10, -1), axis=0)) == 10
    assert found == pytest.approx({"reconstruction_psnr": psnr_of(autoencoder, images)}, rel=1e-4)
    assert f"10 images decoded from embeddings: PSNR {found['reconstruction_psnr']:.2f} dB" in capsys.readouterr().out
    draw(tmp_path / "again", cache, autoencoder, "evaluation.batch_size=3")
    assert fingerprint(tmp_path / "again" / "figures") == fingerprint(tmp_path / "run" / "figures")


@pytest.mark.parametrize(("count", "expected"), [(1, ["reconstructions.png"]), (2, OF_DECODED), (3, OF_DECODED)])
def test_an_autoencoder_draws_photographs_at_the_size_it_sees(
    tmp_path: Path, cache: Path, autoencoder: Path, count: int, expected: list[str]
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(autoencoder, moved)
    paths = [CHINA, FLOWER, *stripes(tmp_path / "images")][:count]
    nowhere = f"data.cache_dir={tmp_path / 'nowhere'}"  # the run's data is not asked for
    found = draw(tmp_path / "run", cache, moved, listed(paths), nowhere)
    assert not (tmp_path / "nowhere").exists()
    assert names(tmp_path / "run" / "figures") == expected
    seen = cut_photographs(paths, (3, 16, 16), (16, 16), load_run(moved).config.seed).seen
    images = seen.fragments[0].mul(255).numpy()
    assert found == pytest.approx({"reconstruction_psnr": psnr_of(moved, images)}, rel=1e-4)


def test_an_image_in_fragments_is_drawn_whole(tmp_path: Path, cache: Path) -> None:
    """Of plain images, whose fragments are alike, and so is what is decoded of each."""
    folder = tmp_path / "run"
    job(folder, cache, *UNCLUSTERED, "data.image_size=[32,32]", "evaluation.puzzles=0")
    draw(tmp_path / "own", cache, folder)
    assert names(tmp_path / "own" / "figures") == ["generated.png", *OF_DECODED]
    draw(tmp_path / "drawn", cache, folder, listed(stripes(tmp_path / "images", 32)))
    assert names(tmp_path / "drawn" / "figures") == OF_DECODED
    picture = np.asarray(Image.open(tmp_path / "drawn" / "figures" / "interpolations.png").convert("RGB"))
    rows = tiles_of(picture, ["weight of the"], 2, 11)
    for column, colours in ((0, ([0, 0, 0], [255, 255, 255])), (-1, ([255, 0, 0], [0, 0, 0]))):
        for row, colour in enumerate(colours):  # black to red, and white to black
            assert (rows[row, column] == colour).all()
    steps = rows[0, 1:-1].astype(int)
    for tile in steps:
        for part in (tile[:48, 48:], tile[48:, :48], tile[48:, 48:]):
            assert np.abs(part - tile[:48, :48]).max() <= 1
    assert np.abs(steps[0] - steps[-1]).max() > 1


def test_what_an_evaluation_draws_of_samples_is_drawn_again_to_the_byte(
    tmp_path: Path, cache: Path, autoencoder: Path
) -> None:
    scored = tmp_path / "scored"
    given = ["evaluation=generation", "evaluation.puzzles=5", "evaluation.generation.samples=20"]
    job(scored, cache, "mode=evaluate", f"run={autoencoder}", *given, figures=True)
    wide = read_json(scored / "metrics.json")["dataset_wide"]
    assert set(wide["model"]) == {"generation_latent_frechet_distance", "generation_active_share"}
    draw(tmp_path / "drawn", cache, autoencoder, *given)
    drawn, before = (fingerprint(folder / "figures") for folder in (tmp_path / "drawn", scored))
    assert {"generated.png", *OF_DECODED} <= before.keys()
    assert {name: drawn[name] for name in before} == before


def test_samples_of_a_run_that_is_clustered_are_drawn_where_they_are_asked_for(
    tmp_path: Path, cache: Path, finished: Path
) -> None:
    asked = ["evaluation=generation", "evaluation.clustering=true", "evaluation.restarts=2"]
    found = draw(tmp_path / "run", cache, finished, *asked)
    drawn, before = (fingerprint(folder / "figures") for folder in (tmp_path / "run", finished))
    assert set(drawn) - set(before) == {"generated.png", "interpolations.png"}
    assert {name: drawn[name] for name in before} == before  # reconstructions are those of the puzzle
    assert set(found) == {"kmeans_ari", "kmeans_nmi", "reconstruction_psnr"}


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([f"input={CHINA}"], ConfigError, "at least 2 images, but input names 1"),
        (["input=[]"], ConfigError, "needs images: input=FOLDER"),
        (["input=/nowhere/at/all"], DataError, "/nowhere/at/all is not there"),
        (["data.fragment_size=8"], ConfigError, "takes fragments of 16x16 pixels, 3 channels, but data gives 8x8"),
        ([listed([CHINA, FLOWER]), "data.channels=1"], ConfigError, "but data gives 16x16 pixels, 1 channel"),
        ([listed([CHINA, FLOWER]), "data.image_size=[16,16]"], ConfigError, "at least .* 2 fragments per image"),
        ([listed([CHINA] * 300)], ConfigError, "4800 fragments are more than the 4096"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    tmp_path: Path, cache: Path, finished: Path, given: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        job(tmp_path, cache, "mode=draw", f"run={finished}", *given)
    assert status(tmp_path)["status"] == "failed"
    assert "figures" not in names(tmp_path)


def test_a_run_must_be_named_and_have_a_model(tmp_path: Path, cache: Path, finished: Path) -> None:
    with pytest.raises(ConfigError, match="run"):
        job(tmp_path / "none", cache, "mode=draw")
    half = tmp_path / "half"
    shutil.copytree(finished, half, ignore=shutil.ignore_patterns("checkpoints"))
    with pytest.raises(RunError, match="holds no checkpoint"):
        job(tmp_path / "run", cache, "mode=draw", f"run={half}")


def test_a_model_of_which_there_is_nothing_to_draw_is_refused(tmp_path: Path, cache: Path) -> None:
    monitored = ["evaluation.puzzles=0", "selection.monitor=val/accuracy", "selection.mode=max"]
    job(tmp_path / "run", cache, *UNCLUSTERED, "model=supervised", *monitored)
    with pytest.raises(ConfigError, match=r"evaluation\.clustering=false"):
        job(tmp_path / "drawn", cache, "mode=draw", f"run={tmp_path / 'run'}")
