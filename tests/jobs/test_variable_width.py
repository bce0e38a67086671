"""Photographs of free width from end to end: trained on, taken up again, shared, scored, embedded and drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fragrecon.data.readers.images import decode
from fragrecon.data.store import Store
from fragrecon.errors import ConfigError
from fragrecon.evaluation.setup import open_data
from fragrecon.files import read_arrays, read_csv
from fragrecon.models.base import Decoder
from fragrecon.runs.read import Run, load_run
from tests.cli import Cli, assert_same_run, checkpoint, job, metrics, names, rows, shared_cache
from tests.jobs.conftest import Moments

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

MODEL = (
    "model=cnn_v3_tiny",
    "model.latent_dim=16",
    "model.use_attention=true",
    "model.block_config=[resnet,resnet]",
    "model.channel_config=[4,8]",
    "model.stride_config=[2,2]",
)
SMALL = (
    "experiment=whole_images",
    "evaluation=reconstruction",
    "data=folder",
    "data.channels=1",
    "data.image_height=32",
    "data.puzzles_per_batch=4",
    "data.epochs=2",
    "evaluation.puzzles=22",
    "evaluation.validation_puzzles=3",
    "evaluation.batch_size=4",
    "optimizer.lr=0.005",
    "trainer.precision=32-true",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """The folder of a run that nothing has stopped; only to be read."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    job(folder, shared_cache(tmp_path_factory), *line(photos), figures=True)
    return folder


def line(photos: Path, *more: str) -> list[str]:
    return [*SMALL, *MODEL, f"data.root={photos}", *more]


def errors_of(run: Run, images: list[Tensor]) -> list[float]:
    """Mean squared errors of images (1, C, H, W) in 0..1, each reconstructed by itself."""
    model = run.model
    assert isinstance(model, Decoder)
    with torch.inference_mode():
        outputs = [model.decode(model.embed(image), (image.shape[2], image.shape[3])) for image in images]
    return [float((output - image).square().mean()) for output, image in zip(outputs, images, strict=True)]


def read(store: Store, ids: list[int]) -> list[Tensor]:
    return [torch.from_numpy(store.read(np.array([number]))) / 255 for number in ids]


def test_a_run_is_scored_on_every_test_image_by_itself(whole: Path) -> None:
    run = load_run(whole)
    assert float(rows(whole)[1]["train/loss"]) < float(rows(whole)[0]["train/loss"])
    store = open_data(run.config).store("test")
    assert set(store.widths.tolist()) == {16, 32, 48, 96}
    expected = errors_of(run, read(store, list(range(22))))
    found = run.scores["model/reconstruction_mse"]
    np.testing.assert_allclose(sorted(found), sorted(expected), rtol=1e-4)
    assert metrics(whole)["scores"]["model"]["reconstruction_psnr"]["n"] == 22
    assert metrics(whole)["data"]["image_shape"] == [1, 32, None]
    again = run.evaluate()
    assert again["reconstruction_mse"]["mean"] == pytest.approx(np.mean(expected), rel=1e-4)
    assert (whole / "figures" / "reconstructions.png").is_file()


def test_a_run_that_is_stopped_and_resumed_ends_as_one_that_was_not(
    tmp_path: Path, cache: Path, photos: Path, whole: Path, terms: Moments
) -> None:
    folder = tmp_path / "run"
    terms.restart(int(rows(whole)[0]["step"]) + 3, "training_step")
    with pytest.raises(SystemExit):
        job(folder, cache, *line(photos))
    terms.restart()
    job(folder, cache, f"resume={folder}", figures=True)
    assert_same_run(whole, folder)
    job(tmp_path / "page", cache, "mode=report", f"run={folder}")
    assert (folder / "report.html").is_file()


def test_two_processes_share_batches_and_score_every_validation_image_once(
    tmp_path: Path, cache: Path, photos: Path, whole: Path
) -> None:
    folder = tmp_path / "together"
    given = line(
        photos, f"data.cache_dir={cache}", "trainer=ddp_cpu", "evaluation.puzzles=0", f"hydra.run.dir={folder}"
    )
    assert Cli(tmp_path, cache).run(*given).ok().stderr == ""
    assert checkpoint(folder)["global_step"] == checkpoint(whole)["global_step"]
    for place in (folder, whole):
        run = load_run(place)
        data = open_data(run.config)
        puzzles = data.validation_set()
        ids = [int(puzzles.read(slice(number, number + 1)).image_ids[0, 0]) for number in range(3)]
        run.model.load_state_dict(run.load_model(run.last_checkpoint).state_dict())
        expected = np.mean(errors_of(run, read(data.store("train"), ids)))
        assert float(rows(place)[-1]["val/loss"]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_embeddings_are_written_row_by_row_of_their_images(tmp_path: Path, cache: Path, whole: Path, kind: str) -> None:
    job(tmp_path / "table", cache, "mode=embed", f"run={whole}", f"embed.format={kind}", "embed.split=test")
    if kind == "npz":
        table = read_arrays(tmp_path / "table" / "embeddings.npz")
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        columns = parquet.read_table(tmp_path / "table" / "embeddings.parquet").to_pydict()
        table = {name: np.array(values) for name, values in columns.items()}
    run = load_run(whole)
    store = open_data(run.config).store("test")
    assert sorted(table["image"].tolist()) == list(range(22))
    assert table["label"].tolist() == store.labels[table["image"]].tolist()
    for image, embedding in zip(table["image"], table["embedding"], strict=True):
        own = run.embed(store.read(np.array([image])))  # of a width of its own, which `Run.embed` takes as it is
        np.testing.assert_allclose(embedding, own[0], atol=1e-4)


def test_files_of_ones_own_are_embedded_at_their_own_widths(
    tmp_path: Path, cache: Path, whole: Path, photos: Path
) -> None:
    given = photos / "test" / "flower"
    job(tmp_path / "own", cache, "mode=embed", f"run={whole}", f"input={given}")
    table, run = read_arrays(tmp_path / "own" / "embeddings.npz"), load_run(whole)
    named = [Path(row["file"]) for row in read_csv(tmp_path / "own" / "images.csv")]
    assert len(table["image"]) == len(named) == 11
    for image, embedding in zip(table["image"], table["embedding"], strict=True):
        own = run.embed(decode(named[image], (1, 32, None), step=16)[None])
        np.testing.assert_allclose(embedding, own[0], atol=1e-4)


def test_images_and_files_of_ones_own_are_drawn_at_all_widths(
    tmp_path: Path, cache: Path, whole: Path, photos: Path
) -> None:
    found = job(tmp_path / "drawn", cache, "mode=draw", f"run={whole}")
    own = job(tmp_path / "own", cache, "mode=draw", f"run={whole}", f"input={photos / 'test' / 'china'}")
    assert found is not None
    assert own is not None
    figures = ["curves.png", "generated.png", "interpolations.png", "reconstructions.png"]
    assert [name for name in figures if name in names(tmp_path / "drawn" / "figures")] == figures
    views = ["attention_matrix.png", "saliency.png"]
    assert names(tmp_path / "own" / "figures") == sorted(["interpolations.png", "reconstructions.png", *views])
    assert set(views) <= set(names(tmp_path / "drawn" / "figures"))
    run = load_run(whole)
    paths = sorted((photos / "test" / "china").glob("*.png"))
    images = [torch.from_numpy(decode(path, (1, 32, None), step=16))[None] / 255 for path in paths]
    ratios = -10 * np.log10(errors_of(run, images))
    assert own["reconstruction_psnr"] == pytest.approx(ratios.mean(), abs=0.01)  # all 11 of them


def test_classes_are_told_and_samples_scored(tmp_path: Path, cache: Path, whole: Path) -> None:
    probe = (
        "evaluation.probe.classifiers=[linear,knn]",
        "evaluation.probe.epochs=3",
        "evaluation.probe.neighbours=[1]",
    )
    more = ("evaluation.puzzles=22", "evaluation.batch_size=4", "evaluation.probe.projections=[pca]")
    job(tmp_path / "probed", cache, "mode=evaluate", f"run={whole}", "evaluation=probe", *probe, *more)
    scores = metrics(tmp_path / "probed")["scores"]
    for method in ("model", "raw_pixels", "exact_pca"):
        assert scores[method]["probe_linear_accuracy"]["n"] == 22
    samples = ("evaluation.generation.samples=22", "evaluation.puzzles=22", "evaluation.batch_size=4")
    job(tmp_path / "sampled", cache, "mode=evaluate", f"run={whole}", "evaluation=generation", *samples)
    assert metrics(tmp_path / "sampled")["dataset_wide"]["model"]["generation_active_share"] > 0


def test_a_model_of_one_size_is_refused_before_any_work(tmp_path: Path, cache: Path, photos: Path) -> None:
    given = [*SMALL, "model=conv", "data.root=/nowhere"]
    with pytest.raises(ConfigError, match=r"data\.image_height .*ConvAutoencoder"):
        job(tmp_path / "refused", cache, *given)
    assert not list(photos.glob("*.lock"))


def test_a_trained_run_keeps_its_height(cache: Path, whole: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.width_step"):
        job(whole, cache, f"resume={whole}", "data.width_step=8")
    whole_at_64 = ("data.image_height=64", "data.fragment_size=[64,64]", "data.images_per_puzzle=1")
    with pytest.raises(ConfigError, match=r"data\.image_"):
        job(whole, cache, f"resume={whole}", *whole_at_64, "evaluation=reconstruction")
