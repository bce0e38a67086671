"""An existing run, opened from Python: embeddings, scores, and damaged runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor

import fragrecon
from fragrecon import load_run
from fragrecon.data.puzzles import cut
from fragrecon.errors import ConfigError, DataError, RunError
from fragrecon.evaluation.embedding import embed
from fragrecon.evaluation.setup import open_data
from fragrecon.models.base import FragmentModel
from fragrecon.runs.read import Run
from tests import layouts
from tests.cli import SMALL, Cli, best, fingerprint, job, shared_run
from tests.jobs.test_reconstruction import TINY, WHOLE

pytestmark = pytest.mark.timeout(180)
MOSAIC = ("model=mosaic", "model.width=32", "model.depth=1", "model.heads=2", "evaluation.puzzles=3")
IMAGES = layouts.pictures(6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished run of a model that embeds each fragment on its own; only to be read."""
    return shared_run(tmp_path_factory, "pca", *SMALL, "model=pca", "data.epochs=1")


@pytest.fixture(scope="module")
def mosaic(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Run:
    """A run of a model that sees the whole puzzle."""
    folder = tmp_path_factory.mktemp("mosaic") / "run"
    job(folder, cache, *SMALL, *MOSAIC, "data.epochs=1", "data.batches_per_epoch=4")
    return load_run(folder)


@pytest.fixture
def run(folder: Path) -> Run:
    return load_run(folder)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "copy")


def one_by_one(model: FragmentModel, images: npt.NDArray[np.uint8], side: int = 16) -> npt.NDArray[np.float32]:
    """Embeddings (M, cells, D) by a loop over all fragments."""
    rows = []
    for image in images:
        for top in range(0, image.shape[1], side):
            for left in range(0, image.shape[2], side):
                fragment = torch.tensor(image[:, top : top + side, left : left + side] / 255, dtype=torch.float32)
                rows.append(model.embed(fragment.unsqueeze(0)).detach().numpy())
    return np.concatenate(rows).reshape(len(images), -1, model.latent_dim)


# Importing -----------------------------------------------------------------------------------------------------------


def modules_after(code: str) -> set[str]:
    line = [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"]
    return set(subprocess.run(line, capture_output=True, text=True, check=True).stdout.split())


def test_opening_a_run_imports_no_heavy_package() -> None:
    assert not modules_after("import fragrecon") & {"numpy", "omegaconf", "torch", "fragrecon.runs.read"}
    loaded = modules_after("from fragrecon import load_run")
    assert "fragrecon.runs.read" in loaded
    assert not loaded & {"torch", "hydra", "scipy", "lightning", "sklearn", "matplotlib", "pyarrow"}


def test_the_package_has_nothing_else() -> None:
    assert fragrecon.load_run is load_run
    with pytest.raises(AttributeError, match="no attribute 'load_runs'"):
        _ = fragrecon.load_runs  # type: ignore[attr-defined]


# A moved run ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_moved_run_works_in_a_fresh_interpreter_elsewhere_without_hydra(
    folder: Path, copy: Path, tmp_path: Path, cache: Path
) -> None:
    before = fingerprint(copy)
    np.save(tmp_path / "images.npy", IMAGES)
    code = (
        "import json, os, sys\n"
        "import numpy as np\n"
        "from fragrecon import load_run\n"
        "here, run = os.getcwd(), load_run('../copy')\n"
        "os.chdir('/')\n"
        "np.save(sys.argv[2], run.embed(np.load(sys.argv[1])))\n"
        "scores = run.evaluate()\n"
        "assert os.getcwd() == '/', os.getcwd()\n"
        "print(json.dumps([scores, 'hydra' in sys.modules, 'wandb' in sys.modules]))"
    )
    (tmp_path / "elsewhere").mkdir()
    line = [sys.executable, "-c", code, str(tmp_path / "images.npy"), str(tmp_path / "embeddings.npy")]
    environment = Cli(tmp_path, cache).environment()
    done = subprocess.run(
        line, cwd=tmp_path / "elsewhere", env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    scores, hydra, wandb = json.loads(done.stdout)
    assert scores == load_run(folder).metrics["scores"]["model"]
    assert (hydra, wandb) == (False, False)
    np.testing.assert_allclose(np.load(tmp_path / "embeddings.npy"), load_run(folder).embed(IMAGES), atol=1e-6)
    assert fingerprint(copy) == before


def test_the_model_is_that_of_the_best_checkpoint_ready_to_embed(run: Run, folder: Path) -> None:
    weights = torch.load(best(folder), weights_only=True)["state_dict"]
    assert run.model is run.model
    assert not run.model.training
    for name, value in run.model.state_dict().items():
        assert value.device.type == "cpu"
        assert torch.equal(value, weights[f"model.{name}"])


# Embedding -----------------------------------------------------------------------------------------------------------


def test_images_are_embedded_fragment_by_fragment(run: Run) -> None:
    found = run.embed(IMAGES)
    assert found.shape == (6, 16, 128)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, one_by_one(run.model, IMAGES), atol=1e-5)


def test_fragments_and_puzzles_keep_their_order(run: Run) -> None:
    fragments = cut(torch.from_numpy(IMAGES), (16, 16))
    expected = one_by_one(run.model, IMAGES)
    np.testing.assert_allclose(run.embed(fragments[:, 5]), expected[:, 5], atol=1e-5)
    puzzles = fragments.flatten(0, 1).view(2, 48, 3, 16, 16)
    np.testing.assert_allclose(run.embed(puzzles), expected.reshape(2, 48, 128), atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x / 255,
        lambda x: (x / 255).astype(np.float32),
        lambda x: torch.from_numpy(x),
        lambda x: torch.from_numpy(x / 255).requires_grad_(),
        lambda x: np.ascontiguousarray(x[::-1])[::-1],
        lambda x: np.asfortranarray(x),
        lambda x: x.astype(">f8") / 255,
    ],
)
def test_pixels_may_have_several_types(run: Run, change: Callable[[Any], Any]) -> None:
    np.testing.assert_allclose(run.embed(change(IMAGES)), run.embed(IMAGES), atol=1e-5)


def test_rounding_errors_outside_of_0_to_1_are_clipped(run: Run) -> None:
    white, black = np.ones((1, 3, 16, 16)), np.zeros((1, 3, 16, 16))
    np.testing.assert_array_equal(run.embed(white * 1.0009), run.embed(white))
    np.testing.assert_array_equal(run.embed(black - 0.0009), run.embed(black))


def test_read_only_images_are_embedded_without_a_warning(run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", IMAGES)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(run.embed(mapped), run.embed(IMAGES))


@pytest.mark.parametrize("size", [1, 7, 96, 10_000])
def test_the_batch_size_does_not_change_embeddings(run: Run, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    seen: list[int] = []
    embed_fragments = run.model.embed

    def noted(fragments: Tensor) -> Tensor:
        seen.append(len(fragments))
        return embed_fragments(fragments)

    monkeypatch.setattr(run.model, "embed", noted)
    expected = one_by_one(load_run(run.folder).model, IMAGES)
    found = run.embed(IMAGES, batch_size=size)
    assert max(seen) == min(size, 96)
    assert sum(seen) == 96
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_model_of_puzzles_treats_the_images_of_a_call_as_one_puzzle(mosaic: Run) -> None:
    fragments = cut(torch.from_numpy(IMAGES), (16, 16))
    with torch.inference_mode():
        together = mosaic.model.encode(fragments.flatten(0, 1).unsqueeze(0).float() / 255)[0].numpy()
    for size in (1, 10_000):
        found = mosaic.embed(IMAGES, batch_size=size)
        np.testing.assert_allclose(found.reshape(96, -1), together, atol=1e-5)
    np.testing.assert_allclose(mosaic.embed(fragments.flatten(0, 1)), together, atol=1e-5)
    assert np.abs(mosaic.embed(IMAGES[:1]) - found[:1]).max() > 1e-3  # alone it is another puzzle


@pytest.mark.parametrize(("size", "at_once"), [(1, [1, 1, 1]), (70, [2, 1]), (10_000, [3])])
def test_a_model_of_puzzles_keeps_puzzles_apart(
    mosaic: Run, monkeypatch: pytest.MonkeyPatch, size: int, at_once: list[int]
) -> None:
    puzzles = cut(torch.from_numpy(IMAGES), (16, 16)).view(3, 32, 3, 16, 16)
    alone = [mosaic.embed(puzzle) for puzzle in puzzles]
    seen: list[int] = []
    encode = mosaic.model.encode

    def noted(fragments: Tensor) -> Tensor:
        seen.append(len(fragments))
        return encode(fragments)

    monkeypatch.setattr(mosaic.model, "encode", noted)
    np.testing.assert_allclose(mosaic.embed(puzzles, batch_size=size), np.stack(alone), atol=1e-5)
    assert seen == at_once


def test_only_a_model_of_puzzles_refuses_too_many_fragments(mosaic: Run, run: Run) -> None:
    many = np.zeros((257, 3, 64, 64), np.uint8)
    with pytest.raises(DataError, match=r"4,?112"):
        mosaic.embed(many)
    assert run.embed(many).shape == (257, 16, 128)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((0, 3, 64, 64), (0, 16)), ((0, 3, 16, 16), (0,)), ((0, 5, 3, 16, 16), (0, 5)), ((2, 0, 3, 16, 16), (2, 0))],
)
def test_no_images_give_no_embeddings(run: Run, mosaic: Run, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    for opened in (run, mosaic):
        found = opened.embed(np.zeros(shape, np.uint8))
        assert found.shape == (*expected, opened.model.latent_dim)


def test_an_image_that_is_a_fragment_has_one_embedding(run: Run) -> None:
    fragments = layouts.pictures(5, (3, 16, 16))
    found = embed(run.model, fragments, (3, 16, 16), device="cpu", batch_size=2)
    assert found.shape == (5, 128)
    np.testing.assert_array_equal(found, run.embed(fragments, batch_size=2))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((4, 64, 64, 3), np.uint8), r"\(4, 64, 64, 3\).*images \(M, 3, 64, 64\).*moveaxis\(x, -1, 1\)"),
        (np.zeros((4, 16, 16, 3), np.uint8), r"fragments \(M, 3, 16, 16\).*moveaxis\(x, -1, 1\)"),
        (np.zeros((2, 9, 16, 16, 3), np.uint8), r"puzzles \(B, F, 3, 16, 16\).*moveaxis\(x, -1, 2\)"),
        (np.zeros((3, 64, 64), np.uint8), r"x\[None\]"),
        (np.zeros((3, 16, 16), np.uint8), r"x\[None\]"),
        (np.zeros((4, 3, 32, 32), np.uint8), r"of shape \(4, 3, 32, 32\)"),
        (np.zeros((4, 1, 64, 64), np.uint8), r"of shape \(4, 1, 64, 64\)"),
        (np.zeros((2, 4, 3, 64, 64), np.uint8), r"of shape \(2, 4, 3, 64, 64\)"),
        (np.full((4, 3, 64, 64), 255.0), r"in 0\.\.1, these reach from 255 to 255; divide them by 255"),
        (np.full((4, 3, 64, 64), -0.5), r"reach from -0\.5 to -0\.5"),
        (np.full((4, 3, 64, 64), np.nan), "reach from nan"),
        (np.zeros((4, 3, 64, 64), np.int64), "not an array of int64"),
        (np.zeros((4, 3, 64, 64), bool), "not an array of bool"),
        (torch.zeros(4, 3, 64, 64, dtype=torch.int32), "not int32"),
        ([[1, 2], [3]], "not list"),
        ("images", "not str"),
    ],
)
def test_pixels_of_another_shape_type_or_range_are_refused(run: Run, pixels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        run.embed(pixels)


def test_numbers_below_1_are_refused(run: Run) -> None:
    for number in (0, -1):
        with pytest.raises(ConfigError, match=f"batch_size={number}"):
            run.embed(IMAGES, batch_size=number)
        with pytest.raises(ConfigError, match=f"puzzles={number}"):
            run.evaluate(puzzles=number)


# Scoring -------------------------------------------------------------------------------------------------------------


def test_a_run_scores_itself_like_its_metrics(run: Run, mosaic: Run) -> None:
    assert run.evaluate() == run.metrics["scores"]["model"]
    found = mosaic.evaluate()
    assert found == mosaic.metrics["scores"]["model"]
    assert {"kmeans_ari", "spectral_ari", "reassembly_direct"} <= found.keys()


@pytest.mark.slow
@pytest.mark.parametrize("line", [[*WHOLE], [*SMALL, "model.patch=4", "evaluation.clustering=true"]])
def test_a_run_scores_reconstructions_like_its_metrics(tmp_path: Path, cache: Path, line: list[str]) -> None:
    job(tmp_path / "run", cache, *line, *TINY["mae"], "evaluation=reconstruction", "data.epochs=1")
    run = load_run(tmp_path / "run")
    kept = run.metrics["scores"]["model"]
    assert run.evaluate() == kept
    assert ("kmeans_ari" in kept) == ("evaluation.clustering=true" in line)
    own = layouts.pictures(20, seed=1)
    assert run.evaluate(own, puzzles=2)["masked_psnr"]["n"] == 2


def test_fewer_puzzles_are_the_first_of_them(run: Run) -> None:
    found = run.evaluate(puzzles=3)
    for metric in ("kmeans_ari", "kmedoids_nmi", "mean_clustering_score", "balanced_accuracy"):
        assert found[metric]["n"] == 3
        assert found[metric]["mean"] == pytest.approx(float(np.mean(run.scores[f"model/{metric}"][:3])), abs=1e-6)


def test_puzzles_of_your_own_images_are_drawn_like_those_of_the_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test images, passed in any form, score like the test split, and no file is left."""
    images = np.array(open_data(run.config).store("test").images)
    (tmp_path / "images").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / "images" / f"{number:03d}.png")
    files = sorted((tmp_path / "images").iterdir())
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    own = run.metrics["scores"]["model"]
    for given in (images, tmp_path / "images", str(tmp_path / "images"), files, [str(file) for file in files]):
        assert run.evaluate(given) == own
    assert run.evaluate(files[::-1]) != own
    assert run.evaluate(torch.from_numpy(images), puzzles=2)["kmeans_ari"]["n"] == 2
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (IMAGES / 255, DataError, r"uint8 \('M', 3, 64, 64\).*float64"),
        (IMAGES.transpose(0, 2, 3, 1), DataError, r"uint8.*not uint8 \(6, 64, 64, 3\)"),
        (IMAGES[:, :, :32, :32], DataError, r"not uint8 \(6, 3, 32, 32\)"),
        (IMAGES, DataError, "needs 10 images, but .* has 6"),
        (IMAGES[:0], DataError, "own images"),
        ("nowhere", DataError, "nowhere is not there"),
        ([Path("a.png"), "b.png"], DataError, r"a\.png is not there"),
        (3, ConfigError, "a folder, image files, or an array of images, not int"),
        ([], ConfigError, "not list"),
    ],
)
def test_images_that_cannot_be_scored_are_refused(run: Run, given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run.evaluate(given)


def test_a_file_that_is_no_image_is_refused_by_name(run: Run, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.png"):
        run.evaluate([tmp_path / "broken.png"] * 12)


def test_a_run_without_a_score_for_evaluate_is_refused(run: Run) -> None:
    run.config = replace(run.config, evaluation=replace(run.config.evaluation, clustering=False))
    with pytest.raises(ConfigError, match=r"evaluation\.clustering .*mode=evaluate run="):
        run.evaluate(puzzles=2)


def test_missing_data_are_named_with_what_to_do(run: Run) -> None:
    reader = {"_target_": "fragrecon.data.readers.folder.ImageFolder"}
    run.config = replace(run.config, data=replace(run.config.data, reader=reader, root="/gone/images"))
    with pytest.raises(DataError, match=rf"/gone/images .*{run.folder}.*run\.evaluate\(FOLDER\)"):
        run.evaluate()


# Damaged runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "inside", ["checkpoints", "checkpoints/last.ckpt", "config.yaml", "metrics.json", "checkpoints/absent.ckpt"]
)
def test_a_part_of_a_run_names_the_run(folder: Path, inside: str) -> None:
    with pytest.raises(RunError, match=rf": use {folder}$"):
        load_run(folder / inside)


def test_the_folder_of_a_sweep_names_its_jobs(folder: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    for name in "abcdefg":
        shutil.copytree(folder, sweep / name)
        (sweep / "multirun.yaml").touch()
    (sweep / "unfinished").mkdir()
    with pytest.raises(RunError, match=r"config\.yaml; .*: 'a', 'b', 'c', 'd', 'e' and 2 more$"):
        load_run(sweep)
    shutil.rmtree(sweep / "a")
    shutil.rmtree(sweep / "b")
    with pytest.raises(RunError, match=r": 'c', 'd', 'e', 'f', 'g'$"):
        load_run(sweep)


def test_a_path_may_start_with_the_home_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load_run("~/run").folder == folder


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("config.yaml", ["", "- 1\n", "a: [1\n", "colour: red\n", "\0\1"]),
        ("status.json", ["", '{"status": "don', "[]", "{}", '"done"', "null", "\udcff"]),
        ("metrics.json", ["", '{"scores": {', "[]", "{}", "\udcff"]),
    ],
)
@pytest.mark.fault("damaged files of a run")
def test_a_damaged_file_is_refused_by_name(copy: Path, name: str, texts: list[str]) -> None:
    for text in texts:
        (copy / name).write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises((ConfigError, RunError), match=rf"^{copy}.*{name}"):
            _ = load_run(copy).metrics


def test_a_truncated_config_is_refused(copy: Path) -> None:
    text = (copy / "config.yaml").read_text()
    for share in np.linspace(0, 0.9, 12):
        (copy / "config.yaml").write_text(text[: int(len(text) * share)])
        with pytest.raises(ConfigError, match=r"config\.yaml"):
            load_run(copy)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def of_somebody_else(path: Path) -> None:
    torch.save({"state_dict": {}, "epoch": 3}, path)


def of_another_model(path: Path) -> None:
    contents = torch.load(path, weights_only=True)
    contents["state_dict"] = {name: value.flatten()[:5] for name, value in contents["state_dict"].items()}
    torch.save(contents, path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut_short, r"best.*\.ckpt"),
        (of_somebody_else, r"best.*\.ckpt.*'facts'"),
        (of_another_model, r"best.*\.ckpt .*PCAAutoencoder"),
    ],
)
@pytest.mark.fault("damaged or foreign checkpoint")
def test_a_damaged_or_foreign_checkpoint_is_refused(copy: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(best(copy))
    run = load_run(copy)
    for use in (lambda: run.model, lambda: run.embed(IMAGES), lambda: run.evaluate()):
        with pytest.raises(RunError, match=message):
            use()


def test_a_run_without_checkpoints_says_so_and_still_shows_its_scores(copy: Path) -> None:
    shutil.rmtree(copy / "checkpoints")
    run = load_run(copy)
    assert run.metrics["scores"]["model"]["kmeans_ari"]["n"] == 5
    with pytest.raises(RunError, match=str(copy)):
        run.embed(IMAGES)
