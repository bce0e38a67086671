from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.linalg import sqrtm
from torch import Tensor, nn

from fragrecon.clustering.backends import BACKENDS
from fragrecon.data.module import FragmentData
from fragrecon.data.store import Block, Split
from fragrecon.errors import TrainingError
from fragrecon.evaluation.clustering.protocol import ClusteringProtocol
from fragrecon.evaluation.pixels.generation import Generated, Generation, Latents, Normal, pairs_of, standard_normal
from fragrecon.evaluation.pixels.perceptual import PerceptualNetworks, PerceptualScores
from fragrecon.models.base import FragmentModel, Posterior
from fragrecon.models.conv import ConvAutoencoder
from fragrecon.seeds import keys_of
from tests.evaluation.samples import CPU, Pictures, data_of

DEVIATION = 0.08
"""Of pixels about their mean of 0.5."""
PROTOCOL = ClusteringProtocol(BACKENDS["batched"], 2, 0, 2**26)


class Gaussians(Pictures):
    """Grey images of 4x4 pixels, each pixel normally distributed, neighbours in a row alike."""

    def __init__(self, train: int = 600, test: int = 900) -> None:
        super().__init__((1, 4, 4), train, test)

    def blocks(self, split: Split) -> Iterator[Block]:
        random = np.random.default_rng(split == "test")
        numbers = random.standard_normal((self.counts[split], 1, 4, 5))
        pixels = 0.5 + DEVIATION * (numbers[..., 1:] + numbers[..., :-1]) / 2**0.5
        images = (pixels * 255).round().clip(0, 255).astype(np.uint8)
        yield Block(images, np.zeros(len(images), np.int64))


class Linear(FragmentModel):
    """Embeds pixels, in deviations from their mean, times ``scale`` plus ``shift``, and decodes that exactly.

    With a scale of one and no shift, embeddings of `Gaussians` are standard normal but for what neighbours share.
    """

    def __init__(self, size: int = 4, shift: float = 0.0, scale: float = 1.0) -> None:
        super().__init__((1, size, size), size * size)
        self.shift, self.scale = shift, scale

    def embed(self, fragments: Tensor) -> Tensor:
        return (fragments.flatten(1) - 0.5) / DEVIATION * self.scale + self.shift

    def decode(self, latents: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        pixels = 0.5 + (latents - self.shift) / self.scale * DEVIATION
        return pixels.clamp(0, 1).view(*latents.shape[:-1], *self.fragment_shape)


class Curved(Linear):
    """Decodes otherwise than it embeds, and not linearly."""

    def decode(self, latents: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        return latents.sigmoid().view(*latents.shape[:-1], *self.fragment_shape)


class Constant(Linear):
    """Embeds all alike."""

    def embed(self, fragments: Tensor) -> Tensor:
        return torch.full((len(fragments), self.latent_dim), 2.0)


class Uncertain(Linear):
    """Says nothing of an image in the second half of its numbers, which are standard normal; little noise beside the
    others.
    """

    def embed(self, fragments: Tensor) -> Tensor:
        return self.posterior(fragments).mean

    def posterior(self, fragments: Tensor) -> Posterior:
        means = super().embed(fragments)
        silent = torch.arange(self.latent_dim) >= self.latent_dim // 2
        variances = torch.where(silent, 1.0, 0.25).expand_as(means)
        return Posterior(torch.where(silent, 0.0, means), variances.log())


class Pixels(nn.Module):
    """Features that are the pixels, on the scale of their deviations."""

    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.num_features = size * size

    def forward(self, images: Tensor) -> Tensor:
        return (images.flatten(1) - 0.5) / DEVIATION


def looking(size: int = 4) -> PerceptualNetworks:
    networks = PerceptualNetworks([], CPU)
    networks.features["frechet_pixel_distance"] = Pixels(size)  # type: ignore[assignment]
    return networks


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> FragmentData:
    return whole(tmp_path_factory.mktemp("cache"), Gaussians())


def whole(cache: Path, reader: Pictures, **changes: Any) -> FragmentData:
    return data_of(cache, reader, **{"fragment_size": 4, "images_per_puzzle": 1} | changes)


def generation_of(model: FragmentModel, data: FragmentData, batch_size: int = 64, seed: int = 0) -> Generation:
    return Generation(model.eval(), data, seed=seed, device=CPU, batch_size=batch_size)


def scored(model: FragmentModel, data: FragmentData, samples: int = 400, **how: Any) -> dict[str, float]:
    """The Fréchet distance of pixels by method."""
    generation = generation_of(model, data, **how)
    found = generation.score(generation.puzzles(samples), looking())
    assert found.scores == {}
    return {method: values["generation_frechet_pixel_distance"] for method, values in found.dataset_wide.items()}


def frechet(one: tuple[Any, Any], other: tuple[Any, Any]) -> float:
    """Of means and covariances, by SciPy's square root of a matrix."""
    root = sqrtm(one[1] @ other[1]).real
    return float(((one[0] - other[0]) ** 2).sum() + np.trace(one[1] + other[1] - 2 * root))


def test_pixels(data: FragmentData) -> None:
    """What the tests below build on: neighbours are alike, and the rest is standard normal."""
    pixels = (data.store("test").images[:].reshape(900, 16) / 255 - 0.5) / DEVIATION
    np.testing.assert_allclose(pixels.mean(0), 0, atol=0.15)
    np.testing.assert_allclose(pixels.std(0), 1, atol=0.1)
    assert np.corrcoef(pixels[:, 0], pixels[:, 1])[0, 1] == pytest.approx(0.5, abs=0.1)


# Normal distributions -------------------------------------------------------------------------------------------------


def some_normal(dim: int = 6) -> Normal:
    random = torch.Generator().manual_seed(1)
    mixing = torch.randn(dim, dim, generator=random, dtype=torch.float64)
    return Normal(torch.randn(dim, generator=random, dtype=torch.float64), mixing @ mixing.T)


def test_numbers_of_the_standard_normal_are_distributed_so() -> None:
    drawn = standard_normal(5).draw(keys_of(0, "test", 0, 20_000))
    assert drawn.shape == (20_000, 5)
    assert drawn.dtype == torch.float32
    for column in drawn.T:
        assert stats.kstest(column.numpy(), "norm").pvalue > 1e-3
    np.testing.assert_allclose(np.cov(drawn.T), np.eye(5), atol=0.04)


@pytest.mark.parametrize("many", [5, 6], ids=["triangular", "symmetric"])
def test_draws_have_the_mean_and_covariance_of_their_normal(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fragrecon.evaluation.pixels.generation.MANY", many)
    normal = some_normal()
    drawn = normal.draw(keys_of(0, "test", 0, 50_000)).double()
    torch.testing.assert_close(drawn.mean(0), normal.mean, atol=0.05, rtol=0)
    torch.testing.assert_close(torch.cov(drawn.T), normal.covariance, atol=0.25, rtol=0.03)


def test_a_draw_depends_on_its_key_alone_and_the_noise_is_the_same_for_all_normals() -> None:
    keys, normal = keys_of(3, "test", 0, 40), some_normal()
    together, noise = normal.draw(keys), standard_normal(6).draw(keys)
    for part in (slice(0, 1), slice(7, 30)):
        torch.testing.assert_close(normal.draw(keys[part]), together[part])
        assert torch.equal(standard_normal(6).draw(keys[part]), noise[part])
    assert not torch.equal(normal.draw(keys_of(4, "test", 0, 40)), together)
    root = torch.from_numpy(sqrtm(normal.covariance.numpy()).real)
    torch.testing.assert_close(together.double(), normal.mean + noise.double() @ root, atol=1e-4, rtol=1e-4)


def test_the_distance_to_the_standard_normal_is_that_of_the_definition() -> None:
    normal = some_normal()
    expected = frechet((normal.mean.numpy(), normal.covariance.numpy()), (np.zeros(6), np.eye(6)))
    assert normal.distance() == pytest.approx(expected, rel=1e-8)
    assert standard_normal(7).distance() == pytest.approx(0, abs=1e-12)
    shifted = Normal(torch.full((3,), 2.0, dtype=torch.float64), torch.diag(torch.tensor([1.0, 4.0, 9.0])).double())
    assert shifted.distance() == pytest.approx(3 * 4 + 0 + 1 + 4)


def test_a_point_is_at_a_finite_distance_and_draws_are_that_point() -> None:
    point = Normal(torch.full((3,), 2.0, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64))
    assert point.distance() == pytest.approx(3 * 4 + 3)
    assert (point.draw(keys_of(0, "test", 0, 10)) == 2).all()


# Latents --------------------------------------------------------------------------------------------------------------


def test_the_normal_of_embeddings_has_their_mean_and_covariance() -> None:
    means = torch.from_numpy(np.random.default_rng(0).gamma(2, size=(50, 4)))
    normal = Latents(means, torch.zeros_like(means)).normal()
    np.testing.assert_allclose(normal.mean, means.numpy().mean(0))
    np.testing.assert_allclose(normal.covariance, np.cov(means.numpy().T, bias=True))


def test_the_normal_of_distributions_has_the_mean_and_covariance_of_their_mixture() -> None:
    random = np.random.default_rng(0)
    means, variances = random.gamma(2, size=(30, 3)), random.gamma(2, size=(30, 3))
    normal = Latents(torch.from_numpy(means), torch.from_numpy(variances)).normal()
    drawn = (means + np.sqrt(variances) * random.standard_normal((20_000, 30, 3))).reshape(-1, 3)
    np.testing.assert_allclose(normal.mean, drawn.mean(0), atol=0.02)
    np.testing.assert_allclose(normal.covariance, np.cov(drawn.T), atol=0.05)


@pytest.mark.parametrize(("count", "dim"), [(1, 1), (1, 4), (3, 1), (3, 5)])
def test_fewer_images_than_numbers_leave_a_normal_without_extent_in_some_directions(count: int, dim: int) -> None:
    means = torch.from_numpy(np.random.default_rng(0).standard_normal((count, dim)))
    normal = Latents(means, torch.zeros_like(means)).normal()
    assert normal.covariance.shape == (dim, dim)
    assert np.isfinite(normal.distance())
    drawn = normal.draw(keys_of(0, "test", 0, 100)).double()
    assert np.linalg.matrix_rank((drawn - drawn.mean(0)).numpy(), tol=1e-3) == min(count - 1, dim)


def test_numbers_that_do_not_vary_say_nothing_of_an_image() -> None:
    means = torch.zeros(100, 4, dtype=torch.float64)
    means[::2, 0], means[::2, 1], means[:, 2] = 1.0, 0.1, 7.0  # variances 0.25, 0.0025, 0
    assert Latents(means, torch.ones_like(means)).active() == 0.25


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("size", [4, 2])
def test_latents_are_of_the_images_of_a_part_and_of_no_validation_image(
    data: FragmentData, split: Split, size: int
) -> None:
    own = data.variant(fragment_size=size)
    found = generation_of(Linear(size, shift=1.0), own, batch_size=77).latents(split)
    ids = own.training_images() if split == "train" else np.arange(900)
    pixels = own.store(split).images[ids].astype(float) / 255
    tiles = pixels.reshape(-1, 1, 4 // size, size, 4 // size, size).transpose(0, 2, 4, 1, 3, 5).reshape(-1, size * size)
    expected = (tiles - 0.5) / DEVIATION + 1
    assert found.means.shape == expected.shape
    order, other = (np.lexsort(np.round(rows, 3).T) for rows in (found.means.numpy(), expected))
    np.testing.assert_allclose(found.means.numpy()[order], expected[other], atol=1e-4)
    assert (found.variances == 0).all()


def test_a_model_of_distributions_is_held_to_the_prior_by_these_and_not_by_its_embeddings(data: FragmentData) -> None:
    generation = generation_of(Uncertain(scale=0.75**0.5), data)
    latents = generation.latents("test")
    assert latents.active() == 0.5
    np.testing.assert_allclose(latents.variances.mean(0), [0.25] * 8 + [1.0] * 8, rtol=1e-5)
    found = generation.score(generation.puzzles(10), PerceptualNetworks([], CPU)).dataset_wide["model"]
    expected = np.cov(latents.means.numpy().T, bias=True) + np.diag([0.25] * 8 + [1.0] * 8)
    far = frechet((latents.means.numpy().mean(0), expected), (np.zeros(16), np.eye(16)))
    assert found["generation_latent_frechet_distance"] == pytest.approx(far, rel=1e-6)
    assert generation.fitted is not None
    np.testing.assert_allclose(generation.fitted.covariance[8:, 8:], np.eye(8), atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_latents_that_are_not_finite_are_refused(data: FragmentData, value: float) -> None:
    with pytest.raises(TrainingError, match="not finite"):
        generation_of(Linear(shift=value), data).latents("test")


# What networks see ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shifted(data: FragmentData) -> dict[str, float]:
    return scored(Linear(shift=2.0), data)


def test_samples_of_a_prior_that_is_missed_are_far_and_those_of_the_fitted_normal_are_not(
    data: FragmentData, shifted: dict[str, float]
) -> None:
    """The decoder takes 2 off each of 16 numbers, and the prior knows not what neighbours share."""
    assert list(shifted) == ["model", "fitted_normal", "reconstruction", "test_images"]
    latents = generation_of(Linear(), data).latents("test").means.numpy()
    truth = latents.mean(0), np.cov(latents.T)
    assert shifted["model"] == pytest.approx(frechet((np.full(16, -2.0), np.eye(16)), truth), rel=0.05)
    assert shifted["model"] > 60
    assert shifted["reconstruction"] == pytest.approx(0, abs=1e-6)
    # Of 400 draws each, an equal distribution is at a distance of about this.
    assert shifted["fitted_normal"] < 1
    assert shifted["test_images"] < 1


def test_samples_of_a_prior_that_is_met_are_near(data: FragmentData, shifted: dict[str, float]) -> None:
    found = scored(Linear(), data)
    assert found["model"] < 0.1 * shifted["model"]
    assert found["fitted_normal"] == pytest.approx(shifted["fitted_normal"], rel=1e-3)
    assert found["fitted_normal"] < found["model"]  # of what neighbours share, only the fitted normal knows
    assert found["test_images"] == shifted["test_images"]


def test_the_distance_is_that_of_the_samples_from_the_test_images(data: FragmentData) -> None:
    model = Linear(scale=2.0)
    generation = generation_of(model, data)
    puzzles = generation.puzzles(50)
    found = generation.score(puzzles, looking()).dataset_wide["model"]["generation_frechet_pixel_distance"]
    samples = standard_normal(16).draw(keys_of(0, "samples of the prior", 0, 50)).numpy() / 2
    images = (puzzles.read(slice(0, 50)).as_float().fragments.reshape(50, 16).numpy() - 0.5) / DEVIATION
    moments = [(rows.mean(0), np.cov(rows.T)) for rows in (samples.astype(float), images.astype(float))]
    assert found == pytest.approx(frechet(*moments), rel=1e-4)


def test_how_images_are_batched_changes_nothing_and_the_seed_does(
    data: FragmentData, shifted: dict[str, float]
) -> None:
    assert scored(Linear(shift=2.0), data, batch_size=27) == pytest.approx(shifted, rel=1e-4, abs=1e-6)
    other = scored(Linear(shift=2.0), data, seed=1)
    assert other["model"] != shifted["model"]
    assert other["model"] == pytest.approx(shifted["model"], rel=0.1)
    assert other["test_images"] == shifted["test_images"]


def test_samples_of_fragments_are_held_to_fragments(data: FragmentData) -> None:
    own = data.variant(fragment_size=2, images_per_puzzle=5)
    done: list[int] = []
    generation = generation_of(Linear(2), own)
    puzzles = generation.puzzles(401)
    assert len(puzzles) == 101  # images of four fragments
    found = generation.score(puzzles, looking(2), done.append)
    assert sum(done) == 101
    assert found.images == 404
    values = {method: rows["generation_frechet_pixel_distance"] for method, rows in found.dataset_wide.items()}
    assert list(values) == ["model", "fitted_normal", "reconstruction", "test_images"]
    assert values["fitted_normal"] < 0.15 < values["model"] < 2
    again = generation_of(Linear(2), own, batch_size=9)
    for method, rows in again.score(puzzles, looking(2)).dataset_wide.items():
        assert rows["generation_frechet_pixel_distance"] == pytest.approx(values[method], rel=1e-4, abs=1e-6)


def test_other_test_images_are_others(data: FragmentData) -> None:
    """Half of all: were any of them the same, they would be nearer than images of training are."""
    generation = generation_of(Linear(), data)
    puzzles = generation.puzzles(450)
    outputs = generation._outputs(450)
    first = puzzles.read(slice(0, 450)).fragments.flatten(1)
    others = torch.cat([outputs["test_images"](puzzles.read(part)) for part in (slice(0, 100), slice(100, 450))])
    rows = torch.cat([first, (others.flatten(1) * 255).round().to(torch.uint8)])
    assert len(torch.unique(rows, dim=0)) == len(np.unique(data.store("test").images[:].reshape(900, 16), axis=0))


@pytest.mark.parametrize(
    ("samples", "methods", "images"),
    [
        (450, ["model", "fitted_normal", "reconstruction", "test_images"], 450),
        (451, ["model", "fitted_normal", "reconstruction"], 451),
        (900, ["model", "fitted_normal", "reconstruction"], 900),
        (901, ["model", "fitted_normal", "reconstruction"], 900),
    ],
)
def test_more_samples_than_test_images_are_not_drawn(
    data: FragmentData, samples: int, methods: list[str], images: int, caplog: pytest.LogCaptureFixture
) -> None:
    generation = generation_of(Linear(), data, batch_size=500)
    found = generation.score(generation.puzzles(samples), looking())
    assert list(found.dataset_wide) == methods
    assert found.images == images
    assert ("900 fragments" in caplog.text) == (samples > 900)


def test_without_training_images_there_is_no_fitted_normal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = whole(tmp_path, Gaussians(train=0, test=60))
    with caplog.at_level(logging.WARNING):
        found = scored(Linear(), data, samples=20)
        assert generation_of(Linear(), data).show(PROTOCOL).fitted is None
    assert list(found) == ["model", "reconstruction", "test_images"]
    assert "train split" in caplog.text


def test_where_nobody_looks_nothing_but_latents_is_told(data: FragmentData) -> None:
    generation = generation_of(Linear(shift=2.0), data)
    found = generation.score(generation.puzzles(100), PerceptualNetworks([], CPU))
    told = found.dataset_wide["model"]
    assert found == PerceptualScores(dataset_wide={"model": told})
    assert list(told) == ["generation_latent_frechet_distance", "generation_active_share"]
    assert told["generation_latent_frechet_distance"] == pytest.approx(16 * 4, rel=0.1)
    assert told["generation_active_share"] == 1


def test_a_model_that_embeds_all_alike_is_scored(data: FragmentData) -> None:
    generation = generation_of(Constant(), data)
    found = generation.score(generation.puzzles(100), looking()).dataset_wide
    assert found["model"]["generation_latent_frechet_distance"] == pytest.approx(16 * 4 + 16)
    assert found["model"]["generation_active_share"] == 0
    for method in ("fitted_normal", "reconstruction"):
        distance = found[method]["generation_frechet_pixel_distance"]
        assert distance == pytest.approx(16 * 4 + 16, rel=0.1)  # of a point from the images


def test_the_network_that_is_installed_looks_at_samples(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = data_of(tmp_path, Pictures((3, 16, 16), train=40, test=20), fragment_size=16, images_per_puzzle=2)
    torch.manual_seed(0)
    generation = generation_of(ConvAutoencoder((3, 16, 16), 6), data)
    with caplog.at_level(logging.WARNING):
        found = generation.score(generation.puzzles(6), PerceptualNetworks(["features"], CPU)).dataset_wide
    assert "of 6 images" in caplog.text
    assert "evaluation.generation.samples" in caplog.text
    distances = {method: values["generation_frechet_feature_distance"] for method, values in found.items()}
    assert list(distances) == ["model", "fitted_normal", "reconstruction", "test_images"]
    assert distances["test_images"] < min(distances[name] for name in ("model", "fitted_normal", "reconstruction"))


# What is shown --------------------------------------------------------------------------------------------------------


def reconstructions(shown: Generated) -> Tensor:
    assert shown.example.decoded is not None
    return shown.example.in_place(shown.example.decoded)


@pytest.mark.parametrize(("size", "grid"), [(4, (1, 1)), (2, (2, 2))])
def test_ways_between_images_go_from_one_reconstruction_to_the_other(
    data: FragmentData, size: int, grid: tuple[int, int]
) -> None:
    own = data.variant(fragment_size=size)
    shown = generation_of(Curved(size), own).show(PROTOCOL)
    assert shown.example.grid == grid
    assert shown.between is not None
    assert shown.between.shape == (5, 9, 1, 4, 4)
    decoded = reconstructions(shown)
    torch.testing.assert_close(shown.between[:, 0], decoded[0::2])
    torch.testing.assert_close(shown.between[:, -1], decoded[1::2])
    assert not torch.allclose(decoded[0::2], decoded[1::2])
    assert not torch.allclose(shown.between[:, 4], (decoded[0::2] + decoded[1::2]) / 2)


def test_the_line_between_embeddings_is_straight_and_its_steps_are_equal(data: FragmentData) -> None:
    for size in (4, 2):  # a linear decoder turns it into a fade
        shown = generation_of(Linear(size, shift=3.0, scale=0.1), data.variant(fragment_size=size)).show(PROTOCOL)
        images = shown.example.images
        torch.testing.assert_close(reconstructions(shown), images, atol=1e-5, rtol=0)
        assert shown.between is not None
        for pair in range(5):
            for step in range(9):
                share = step / 8
                fade = (1 - share) * images[2 * pair] + share * images[2 * pair + 1]
                torch.testing.assert_close(shown.between[pair, step], fade, atol=1e-5, rtol=0)


def test_test_images_and_samples_are_shown_the_same_every_time(data: FragmentData) -> None:
    model = Linear(shift=2.0)
    shown, again = (generation_of(model, data, batch_size=size).show(PROTOCOL) for size in (64, 7))
    rows = {tuple(row) for row in data.store("test").images[:].reshape(900, 16).tolist()}
    images = (shown.example.images * 255).round().long().flatten(1).tolist()
    assert len(images) == 10
    assert all(tuple(image) in rows for image in images)
    noise = standard_normal(16).draw(keys_of(0, "samples of the prior", 0, 20))
    assert shown.samples is not None
    assert shown.fitted is not None
    torch.testing.assert_close(shown.samples, model.decode(noise))
    assert again.samples is not None
    assert torch.equal(shown.samples, again.samples)
    assert torch.equal(shown.example.images, again.example.images)
    assert float(shown.fitted.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(shown.samples.mean()) == pytest.approx(0.5 - 2 * DEVIATION, abs=0.02)


@pytest.mark.parametrize("test", [1, 3])
def test_few_test_images_are_all_shown(tmp_path: Path, test: int) -> None:
    shown = generation_of(Linear(), whole(tmp_path, Gaussians(test=test))).show(PROTOCOL)
    assert len(shown.example.images) == test
    assert (shown.between is None) == (test == 1)
    assert shown.samples is not None
    assert len(shown.samples) == 20


@pytest.mark.parametrize(
    ("count", "pairs"),
    [(0, []), (1, []), (2, [(0, 1)]), (3, [(0, 1), (2, 0)]), (4, [(0, 1), (2, 3)])],
)
def test_every_image_is_of_a_pair(count: int, pairs: list[tuple[int, int]]) -> None:
    assert pairs_of(count) == pairs
