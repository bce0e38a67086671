"""Photographs of free width through every evaluation of whole images, held to loops over single images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from fragrecon.config.schema import Config
from fragrecon.data.module import FragmentData
from fragrecon.errors import ConfigError, DataError
from fragrecon.evaluation.clustering.protocol import evaluate
from fragrecon.evaluation.embedding import embed, embed_images
from fragrecon.evaluation.pixels.generation import Generation
from fragrecon.evaluation.pixels.perceptual import PerceptualNetworks, score_perceptual
from fragrecon.evaluation.pixels.reconstruction import Masking, decoded, reconstruction_of
from fragrecon.evaluation.probes.embeddings import PARTS, WholeImages
from fragrecon.evaluation.setup import open_data, protocol_of
from fragrecon.models.pca import PCAAutoencoder
from fragrecon.report.figures.monitoring import embedded, pictures_of
from fragrecon.report.figures.write import write_generated
from fragrecon.run import compose
from fragrecon.runs.modules import build_on_meta
from tests.data.photos import Bands, bands

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    return compose(
        [
            *("experiment=whole_images", "evaluation=reconstruction", "data=folder", f"data.root={photos}"),
            *("data.channels=1", "data.image_height=32", f"data.cache_dir={tmp_path_factory.mktemp('cache')}"),
        ]
    )


@pytest.fixture
def data(config: Config) -> FragmentData:
    return open_data(config)


@pytest.fixture
def model(config: Config) -> Bands:
    return Bands(config.data.fragment_shape).eval()


def images_of(data: FragmentData, ids: list[int], split: str = "test") -> list[Tensor]:
    """Each (1, 1, H, W) in 0..1."""
    store = data.store("train" if split == "train" else "test")
    return [torch.from_numpy(store.read(np.array([number]))) / 255 for number in ids]


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_reconstructions_are_scored_image_by_image(data: FragmentData, model: Bands, batch_size: int) -> None:
    puzzles = data.test_set(22)
    score = reconstruction_of(model, Masking(0.5, 0))
    assert score is not None
    found = evaluate(puzzles, {"model": score}, batch_size=batch_size, device=CPU)["model"]
    ids = [int(puzzles.read(slice(number, number + 1)).image_ids[0, 0]) for number in range(22)]
    for number, image in enumerate(images_of(data, ids)):
        output = model.decode(model.embed(image), (32, image.shape[3]))
        error = float((output - image).square().mean())
        assert found["reconstruction_mse"][number] == pytest.approx(error, rel=1e-5)
        assert found["reconstruction_psnr"][number] == pytest.approx(-10 * np.log10(error), rel=1e-5)
        similarity = structural_similarity_index_measure(output, image, data_range=1.0)
        assert isinstance(similarity, Tensor)
        assert found["reconstruction_ssim"][number] == pytest.approx(float(similarity), abs=2e-3)


@pytest.mark.slow
def test_networks_look_at_images_of_all_widths(data: FragmentData, model: Bands) -> None:
    try:
        networks = PerceptualNetworks(["features"], CPU)
    except ConfigError as error:
        pytest.skip(str(error))
    puzzles = data.test_set(6)
    how: Any = {"prefix": "reconstruction", "device": CPU}
    found, single = (
        score_perceptual(puzzles, {"model": decoded(model)}, networks, batch_size=size, **how) for size in (4, 1)
    )
    assert found.images == 6
    for name, values in found.scores["model"].items():
        assert values.shape == (6,)
        np.testing.assert_allclose(values, single.scores["model"][name], rtol=1e-3)


def test_embeddings_of_all_parts_belong_to_their_images_and_labels(
    data: FragmentData, model: Bands, tmp_path: Path
) -> None:
    (tmp_path / "weights").write_bytes(b"none")
    whole = WholeImages(data, None, at_once=4, device=CPU)
    done: list[int] = []
    found = whole.by_model(model, tmp_path / "weights", {}, done.append)
    assert sum(done) == len(whole) == 66
    for part, split in PARTS.items():
        store, ids, samples = data.store(split), whole.ids[part], getattr(found, part)
        own = np.concatenate([bands(store.read(ids[[place]])) for place in range(len(ids))])
        np.testing.assert_allclose(samples.embeddings, own, atol=1e-5)
        assert samples.labels.tolist() == store.labels[ids].tolist()


def test_what_is_simpler_sees_images_of_one_size(data: FragmentData) -> None:
    whole = WholeImages(data, None, at_once=4, device=CPU)
    pixels, components = whole.by_pixels(), whole.by_components(5)
    assert pixels.test.embeddings.shape == (22, 32 * 32)
    assert components.test.embeddings.shape == (22, 5)
    square = next(place for place in range(22) if data.store("test").widths[place] == 32)
    (image,) = images_of(data, [square])
    assert pixels.test.embeddings[square].equal(image.flatten())
    wide = next(place for place in range(22) if data.store("test").widths[place] == 96)
    (image,) = images_of(data, [wide])
    assert torch.allclose(pixels.test.embeddings[wide].view(32, 32), image[0, 0].view(32, 32, 3).mean(2))


def test_latents_of_all_widths_make_one_distribution(data: FragmentData, model: Bands) -> None:
    found = Generation(model, data, seed=0, device=CPU, batch_size=4).latents("test")
    own = torch.cat([model.embed(image) for image in images_of(data, list(range(22)))]).double()
    order = torch.argsort(found.means[:, 0])
    assert torch.allclose(found.means[order], own[torch.argsort(own[:, 0])], atol=1e-5)


def test_images_of_all_widths_are_shown_each_above_its_own_reconstruction(
    config: Config, data: FragmentData, model: Bands, tmp_path: Path
) -> None:
    shown = Generation(model, data, seed=0, device=CPU, batch_size=4).show(protocol_of(config))
    pairs = list(shown.reconstructions)
    assert [images.shape[3] for images, _ in pairs] == [16, 32, 48, 96]
    assert [len(images) for images, _ in pairs] == [3, 10, 3, 2]  # ten of the commonest, three at most of the others
    for images, output in pairs:
        assert torch.allclose(output, model.decode(model.embed(images), (32, images.shape[3])))
    assert shown.samples is not None
    assert shown.samples.shape[1:] == (1, 32, 32)
    write_generated(shown, tmp_path, clustered=False)
    assert {path.name for path in tmp_path.iterdir()} == {
        "reconstructions.png",
        "generated.png",
        "interpolations.png",
    }


def test_pictures_while_training_are_of_the_commonest_width(data: FragmentData, model: Bands) -> None:
    shown = data.side_by_side(10).validation_set()
    batch = shown.read(slice(0, 1)).as_float()
    pictures = pictures_of(model, batch, data.grid, None)
    assert {"reconstructions", "samples"} <= pictures.keys()
    assert embedded(model, shown, CPU).embeddings.shape == (3 * batch.images_per_puzzle, 4)


# Images of one's own -------------------------------------------------------------------------------------------------


def test_a_model_of_any_size_embeds_images_of_any_size() -> None:
    model = Bands((3, 32, 32)).eval()
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 40, 56), dtype=np.uint8)
    for embedder in (embed, embed_images):
        found = embedder(model, images, (3, 32, 32), device="cpu", batch_size=2)
        np.testing.assert_allclose(found, bands(images), atol=1e-5)
    puzzles = images.reshape(1, 5, 3, 40, 56)
    assert embed(model, puzzles, (3, 32, 32), device="cpu", batch_size=2).shape == (1, 5, 12)
    with pytest.raises(DataError, match="should be images"):
        embed(model, images[:, :1], (3, 32, 32), device="cpu", batch_size=2)
    with pytest.raises(DataError, match="images should be of shape"):
        embed_images(model, images[:, :1], (3, 32, 32), device="cpu", batch_size=2)


def test_images_are_still_cut_where_the_model_was_trained_on_fragments() -> None:
    model = Bands((3, 16, 16)).eval()
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
    found = embed(model, images, (3, 32, 32), device="cpu", batch_size=2)
    assert found.shape == (5, 4, 12)
    np.testing.assert_allclose(found[:, 1], bands(images[:, :, :16, 16:]), atol=1e-5)
    averaged = embed_images(model, images, (3, 32, 32), device="cpu", batch_size=2)
    np.testing.assert_allclose(averaged, found.mean(1), atol=1e-5)


def test_a_model_of_one_size_takes_no_other() -> None:
    model = PCAAutoencoder((3, 32, 32), 4).eval()
    images = np.zeros((5, 3, 40, 56), np.uint8)
    for embedder in (embed, embed_images):
        with pytest.raises(DataError, match="should be"):
            embedder(model, images, (3, 32, 32), device="cpu", batch_size=2)


def test_a_model_of_one_size_is_refused_where_widths_are_free(config: Config) -> None:
    with pytest.raises(ConfigError, match=r"data\.image_height"):
        build_on_meta(config, (1, 1))
