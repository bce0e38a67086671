from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fragrecon.clustering.backends import Backend
from fragrecon.clustering.kmeans import KMeans, kmeans
from fragrecon.clustering.kmedoids import KMedoids, kmedoids
from fragrecon.data.module import FragmentData
from fragrecon.data.puzzles import join
from fragrecon.data.store import Block, Source, Split
from fragrecon.errors import DataError
from fragrecon.evaluation import cache
from fragrecon.evaluation.clustering import baselines
from fragrecon.evaluation.clustering.baselines import Baselines, colour_histogram, raw_pixels, training_fragments
from fragrecon.evaluation.clustering.protocol import ClusteringProtocol, evaluate
from fragrecon.evaluation.clustering.robustness import Condition
from fragrecon.evaluation.components import PrincipalComponents
from fragrecon.evaluation.statistics import Scores
from tests.evaluation.samples import CPU, Pictures, batch_of, data_of, puzzles

METHODS = ["random", "raw_pixels", "colour_histogram", "exact_pca", "whitened_pca"]
MEMORY = 2**24


def fragments(count: int, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    """Smooth fragments (count, C, h, w) with a spectrum that falls off, as that of pictures does."""
    random = np.random.default_rng(seed)
    pixels = math.prod(shape)
    directions = np.linalg.qr(random.normal(size=(pixels, min(40, pixels))))[0]
    weights = random.normal(size=(count, directions.shape[1])) * 0.8 ** np.arange(directions.shape[1])
    values = 0.5 + 0.1 * weights @ directions.T + 1e-3 * random.normal(size=(count, pixels))
    return torch.from_numpy(values.clip(0, 1)).float().view(count, *shape)


# Pixels and colours ---------------------------------------------------------------------------------------------------


def test_raw_pixels_are_the_values_of_each_fragment() -> None:
    batch = puzzles(2, images=2, cells=2)
    assert raw_pixels(batch).shape == (2, 4, 3)
    assert raw_pixels(batch)[1, 2].tolist() == batch.fragments[1, 2].flatten().tolist()


def slow_histogram(fragment: Tensor, levels: int | None = None) -> list[float]:
    """Square roots of the shares of one fragment (C, h, w) in each of 64 cells of grey or 512 of colours."""
    channels, height, width = fragment.shape
    levels = levels or {1: 64, 3: 8}[channels]
    counts: dict[tuple[int, ...], int] = {}
    for y in range(height):
        for x in range(width):
            values = fragment[:, y, x].tolist()
            cell = tuple(min(int(value * levels), levels - 1) for value in values)
            counts[cell] = counts.get(cell, 0) + 1
    rows = [0.0] * levels**channels
    for cell, count in counts.items():
        place = sum(level * levels**channel for channel, level in enumerate(cell))
        rows[place] = math.sqrt(count / (height * width))
    return rows


@pytest.mark.parametrize(("channels", "levels"), [(1, None), (3, None), (1, 5), (3, 4)])
def test_a_colour_histogram_is_that_of_a_loop(channels: int, levels: int | None) -> None:
    random = torch.Generator().manual_seed(0)
    given = torch.randint(256, (2, 5, channels, 6, 7), generator=random).float() / 255
    given[0, 0], given[0, 1] = 0, 1
    given[1, 2] = (torch.rand(channels, 6, 7, generator=random) > 0.5).float()  # nothing but 0 and 1
    found = colour_histogram(batch_of(given), levels)
    cells = levels**channels if levels else {1: 64, 3: 512}[channels]
    assert found.shape == (2, 5, cells)
    assert found.dtype == torch.float32
    for puzzle, rows in zip(given, found, strict=True):
        for fragment, row in zip(puzzle, rows, strict=True):
            assert row.tolist() == pytest.approx(slow_histogram(fragment, levels), abs=1e-6)
    torch.testing.assert_close(found.norm(dim=2), torch.ones(2, 5))
    assert found[0, 0].nonzero().tolist() == [[0]]
    assert found[0, 1].nonzero().tolist() == [[cells - 1]]


def test_every_grey_level_and_every_byte_of_colour_falls_where_it_should() -> None:
    grey = torch.arange(256).view(1, 256, 1, 1, 1) / 255
    cells = colour_histogram(batch_of(grey))[0].argmax(1)
    assert cells.tolist() == [min(int(byte / 255 * 64), 63) for byte in range(256)]
    colours = torch.cartesian_prod(*[torch.linspace(0, 1, 8)] * 3).view(1, 512, 3, 1, 1)
    assert sorted(colour_histogram(batch_of(colours))[0].argmax(1).tolist()) == list(range(512))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_colour_histogram_does_not_depend_on_where_the_pixels_are(channels: int) -> None:
    given = torch.rand(2, 3, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    moved = given.flatten(3)[..., order].view_as(given)
    assert torch.equal(colour_histogram(batch_of(given)), colour_histogram(batch_of(moved)))
    if channels == 3:  # but on which channel is which
        assert not torch.equal(colour_histogram(batch_of(given)), colour_histogram(batch_of(given.flip(2))))


# Principal components -------------------------------------------------------------------------------------------------


def by_svd(fitted: Tensor, given: Tensor, count: int, whitening: float = 0.0) -> Tensor:
    """Projections (M, count) of given fragments on the components of fitted ones, by NumPy."""
    pixels = fitted.flatten(1).double().numpy()
    mean = pixels.mean(0)
    _, singular, directions = np.linalg.svd(pixels - mean, full_matrices=False)
    deviations = singular[:count] / math.sqrt(len(pixels) - 1)
    projected = (given.flatten(1).double().numpy() - mean) @ directions[:count].T / deviations**whitening
    return torch.from_numpy(projected)


SHAPES = [(1, 9, 5), (3, 20, 20)]
"""The last has more than 1024 pixels, for which there is another solver."""


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("count", "whitening"), [(10, 0.0), (3, 1.0), (5, 0.5)])
def test_principal_components_are_those_of_the_singular_values(
    shape: tuple[int, int, int], count: int, whitening: float
) -> None:
    fitted, given = fragments(150, shape), fragments(24, shape, seed=1)
    components = PrincipalComponents(fitted.flatten(1), 12)
    found = components(given.view(2, 12, -1), count, whitening)
    assert found.shape == (2, 12, count)
    assert found.dtype == torch.float64
    expected = by_svd(fitted, given, count, whitening)
    signs = (found.flatten(0, 1).double() * expected).sum(0).sign()
    torch.testing.assert_close(found.flatten(0, 1).double(), expected * signs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_principal_components_are_exact_where_none_stands_out(shape: tuple[int, int, int]) -> None:
    noise = torch.rand(300, *shape, generator=torch.Generator().manual_seed(0))
    found = PrincipalComponents(noise.flatten(1), 12)(noise.flatten(1), 12).double()
    torch.testing.assert_close(found.var(0), by_svd(noise, noise, 12).var(0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_whitened_components_have_unit_variance_on_what_they_were_fitted_on(shape: tuple[int, int, int]) -> None:
    fitted = fragments(200, shape).flatten(1)
    found = PrincipalComponents(fitted, 128)(fitted, 3, whitening=1.0).double()
    torch.testing.assert_close(torch.cov(found.T), torch.eye(3).double(), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.mean(0), torch.zeros(3).double(), rtol=0, atol=1e-4)
    plain = PrincipalComponents(fitted, 128)(fitted, 3).double()
    assert plain.var(0).diff().max() < 0  # the leading ones come first


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [2, 5])
def test_fewer_fragments_than_components_are_enough(shape: tuple[int, int, int], count: int) -> None:
    fitted = fragments(count, shape).flatten(1)
    components = PrincipalComponents(fitted, 128)
    for whitening in (0.0, 1.0):
        found = components(fitted, 128, whitening)
        assert found.shape == (count, min(count, math.prod(shape)))
        assert torch.isfinite(found).all()
    # All that there is of so few fragments is kept, so their distances are.
    plain, pixels = components(fitted, 128).double(), fitted.double()
    if count < math.prod(shape):
        torch.testing.assert_close(torch.cdist(plain, plain), torch.cdist(pixels, pixels), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("whitening", [0.0, 1.0])
def test_directions_without_variance_are_not_blown_up(shape: tuple[int, int, int], whitening: float) -> None:
    # All fitted fragments differ in brightness only, those looked at in all ways.
    bright = torch.linspace(0.2, 0.8, 50).view(-1, 1, 1, 1).expand(50, *shape).flatten(1)
    given, components = fragments(8, shape).flatten(1), PrincipalComponents(bright, 6)
    found = components(given, 128, whitening)
    # A millionth of the greatest deviation is the least that is divided by.
    least = 1e-6 * bright.double().var(0).sum().sqrt().item()
    farthest = (given - bright.mean(0)).norm(dim=1).max().item()
    assert found.abs().max().item() <= 1.001 * farthest / least**whitening
    own = components(bright, 128, whitening)
    assert own[:, 1:].abs().max() < 1e-2 * own[:, 0].abs().max()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("whitening", [0.0, 1.0])
def test_fragments_that_are_all_alike_give_finite_embeddings(whitening: float) -> None:
    grey = torch.full((20, 45), 0.5)
    assert torch.isfinite(PrincipalComponents(grey, 128)(grey[:6], 3, whitening)).all()


# The images of the components -----------------------------------------------------------------------------------------


def test_components_are_fitted_on_whole_training_images_as_they_are_and_on_none_of_validation(tmp_path: Path) -> None:
    data = data_of(tmp_path, Pictures(train=100), augment={"rotation": 30.0, "brightness": 0.5})
    found = training_fragments(data)
    assert found.shape == (len(data.training_images()) * 16, 3, 8, 8)
    assert found.dtype == torch.float32
    store = data.store("train").images

    def cells(images: Any) -> set[bytes]:
        whole = torch.from_numpy(np.array(store[images]))
        tiles = whole.unfold(2, 8, 8).unfold(3, 8, 8).movedim((2, 3), (1, 2)).flatten(0, 2)
        return {tile.numpy().tobytes() for tile in tiles}

    seen = {tile.numpy().tobytes() for tile in (found * 255).round().to(torch.uint8)}
    assert len(data.validation_images()) > 0
    assert seen <= cells(data.training_images())
    assert not seen & (cells(data.validation_images()) - cells(data.training_images()))
    assert torch.equal(training_fragments(data), found)
    assert join(found[:16], (4, 4)).shape == (3, 32, 32)


def test_no_more_training_images_than_needed_are_read(tmp_path: Path) -> None:
    few = training_fragments(data_of(tmp_path), 14)
    assert len(few) == 14 * 16
    assert torch.equal(training_fragments(data_of(tmp_path, images_per_puzzle=20), 14), few)


# Scores ---------------------------------------------------------------------------------------------------------------


class Counting:
    """A backend that counts the puzzles it is asked to cluster."""

    def __init__(self, name: str = "counting") -> None:
        self.backend, self.puzzles = Backend(name, self.kmeans, self.kmedoids), 0

    def kmeans(self, points: Tensor, k: int, keys: Tensor, restarts: int, memory: int) -> KMeans:
        self.puzzles += len(points)
        return kmeans(points, k, keys, restarts, memory)

    def kmedoids(self, points: Tensor, k: int, memory: int) -> KMedoids:
        self.puzzles += len(points)
        return kmedoids(points, k, memory)


def quiet(count: int) -> None:
    pass


def scores_of(
    data: FragmentData,
    cache: Path,
    backend: Counting | None = None,
    puzzles: int = 3,
    condition: Condition | None = None,
    restarts: int = 1,
    seed: int = 0,
    estimate_count: bool = False,
    memory: int = MEMORY,
    batch_size: int = 2,
    advance: Callable[[int], None] = quiet,
) -> dict[str, dict[str, Scores]]:
    protocol = ClusteringProtocol((backend or Counting()).backend, restarts, seed, memory, estimate_count)
    change: dict[str, Any] = {}
    if condition:
        change = {"condition": str(condition), "change": lambda batch: condition.change(batch, seed, data.grid)}
    own = Baselines(data, protocol, cache)
    return own.score(data.test_set(puzzles), advance=advance, batch_size=batch_size, device=CPU, **change)


def assert_equal(one: dict[str, dict[str, Scores]], other: dict[str, dict[str, Scores]]) -> None:
    assert list(one) == list(other)
    for method, rows in one.items():
        assert list(rows) == list(other[method])
        for metric, values in rows.items():
            assert values.dtype == np.float64
            np.testing.assert_array_equal(values, other[method][metric], f"{method} {metric}")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> FragmentData:
    return data_of(tmp_path_factory.mktemp("cache"))


def test_scores_are_computed_once(data: FragmentData, tmp_path: Path) -> None:
    backend, told = Counting(), list[int]()
    first = scores_of(data, tmp_path / "scores", backend, advance=told.append)
    worked = backend.puzzles
    assert worked == 3 * 4 * 2  # three puzzles of four baselines, by each algorithm
    assert sorted(path.name.rpartition("-")[0] for path in (tmp_path / "scores").iterdir()) == sorted(METHODS)
    second = scores_of(data, tmp_path / "scores", backend, advance=told.append)
    assert backend.puzzles == worked
    assert sum(told) == 6
    assert list(first) == METHODS
    assert_equal(first, second)


def test_kept_scores_are_those_that_are_computed(data: FragmentData, tmp_path: Path) -> None:
    kept = [scores_of(data, tmp_path) for _ in range(2)][1]
    own = Baselines(data, ClusteringProtocol(Counting().backend, 1, 0, MEMORY), tmp_path)
    assert_equal(kept, evaluate(data.test_set(3), own.methods, batch_size=3, device=CPU))


def test_each_baseline_scores_its_own_embeddings(data: FragmentData, tmp_path: Path) -> None:
    found, protocol = scores_of(data, tmp_path), ClusteringProtocol(Counting().backend, 1, 0, MEMORY)
    batch = data.test_set(3).read(slice(0, 3)).as_float()
    fitted = training_fragments(data)
    given = batch.fragments.flatten(0, 1)
    embeddings = {
        "raw_pixels": batch.fragments.flatten(2),
        "colour_histogram": colour_histogram(batch),  # a last bit can lead to other clusters
        "exact_pca": by_svd(fitted, given, 128).view(3, 64, 128),
        "whitened_pca": by_svd(fitted, given, 3, whitening=1.0).view(3, 64, 3),
    }
    for method, points in embeddings.items():
        for metric, values in protocol.score(points.float(), batch).items():
            np.testing.assert_allclose(found[method][metric], values, atol=1e-6, err_msg=f"{method} {metric}")
    assert list(found["random"]) == list(protocol.score_random(batch))
    for metric, values in protocol.score_random(batch).items():
        np.testing.assert_array_equal(found["random"][metric], values)


def test_a_part_that_is_missing_is_computed_alone(data: FragmentData, tmp_path: Path) -> None:
    first, backend = scores_of(data, tmp_path), Counting()
    (lost,) = tmp_path.glob("raw_pixels-*")
    others = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path != lost}
    lost.unlink()
    assert_equal(scores_of(data, tmp_path, backend), first)
    assert backend.puzzles == 3 * 2
    assert lost.is_file()
    assert all(path.stat().st_mtime_ns == time for path, time in others.items())


def test_scores_of_other_settings_are_cached_apart(data: FragmentData, tmp_path: Path) -> None:
    first = scores_of(data, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    changes: list[dict[str, Any]] = [
        {"seed": 1},
        {"restarts": 2},
        {"estimate_count": True},
        {"backend": Counting("another")},
        {"condition": Condition("noise", 0.1)},
        {"puzzles": 2},
    ]
    for number, change in enumerate(changes, 2):
        other = scores_of(data, tmp_path, **change)
        assert len(list(tmp_path.iterdir())) == 5 * number, change
        assert_equal(scores_of(data, tmp_path, **change), other)
    assert all(path.read_bytes() == contents for path, contents in before.items())
    assert_equal(scores_of(data, tmp_path), first)


def test_scores_of_other_puzzles_are_cached_apart(data: FragmentData, tmp_path: Path) -> None:
    first = scores_of(data, tmp_path / "scores")
    changes: list[dict[str, Any]] = [
        {"puzzle_seed": 1},
        {"images_per_puzzle": 5},
        {"fragment_size": 16},
        {"reader": Pictures(seed=1)},
        {"reader": Pictures(test=59)},
    ]
    for number, change in enumerate(changes, 2):
        other = scores_of(data_of(tmp_path / str(number), **change), tmp_path / "scores")
        assert len(list((tmp_path / "scores").iterdir())) == 5 * number, change
        assert any(first[m]["kmeans_ari"].tolist() != other[m]["kmeans_ari"].tolist() for m in METHODS[1:]), change
    assert_equal(scores_of(data, tmp_path / "scores"), first)


def test_training_images_count_for_what_is_fitted_on_them_alone(tmp_path: Path) -> None:
    class Other(Pictures):
        """Other training images beside the same test images."""

        def source(self, split: Split) -> Source:
            return Pictures(seed=5).source(split) if split == "train" else super().source(split)

        def blocks(self, split: Split) -> Iterator[Block]:
            return Pictures(seed=5).blocks(split) if split == "train" else super().blocks(split)

    scores_of(data_of(tmp_path / "one"), tmp_path / "scores")
    scores_of(data_of(tmp_path / "two", Other()), tmp_path / "scores")
    found = [path.name.rpartition("-")[0] for path in (tmp_path / "scores").iterdir()]
    assert sorted(found) == sorted([*METHODS, "exact_pca", "whitened_pca"])


def test_what_only_makes_the_work_lighter_does_not_compute_it_anew(data: FragmentData, tmp_path: Path) -> None:
    first, backend = scores_of(data, tmp_path), Counting()
    assert_equal(scores_of(data, tmp_path, backend, memory=1, batch_size=3), first)
    assert backend.puzzles == 0


def test_another_version_of_the_code_or_of_a_package_computes_its_own(
    data: FragmentData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, version = tmp_path / "scores", metadata.version
    scores_of(data, folder, puzzles=1)
    for number, package in enumerate((None, *cache.PACKAGES), 2):
        with monkeypatch.context() as patched:
            if package is None:
                patched.setattr(cache, "VERSION", cache.VERSION + 1)
            else:
                patched.setattr(metadata, "version", lambda name, own=package: "0" if name == own else version(name))
            cache._package_versions.cache_clear()
            scores_of(data, folder, puzzles=1)
        assert len(list(folder.iterdir())) == 5 * number
    cache._package_versions.cache_clear()


class Killed(BaseException):
    """Stands for the end of the process."""


def test_a_write_that_is_killed_leaves_no_half_of_a_file(
    data: FragmentData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "test"):  # which writes files, too, where no test has opened them
        data.store(split)
    replaced: list[str] = []
    replace = Path.replace

    def fail(self: Path, target: Path) -> Path:
        replaced.append(target.name)
        if len(replaced) == 3:
            raise Killed
        return replace(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", fail)
        with pytest.raises(Killed):
            scores_of(data, tmp_path)
    assert len(replaced) == 3
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == sorted(replaced[:2])
    backend = Counting()
    again = scores_of(data, tmp_path, backend)
    assert_equal(again, scores_of(data, tmp_path / "fresh"))
    assert 0 < backend.puzzles < 3 * 4 * 2
    assert len([path for path in tmp_path.iterdir() if path.is_file()]) == 5


@pytest.mark.parametrize("damage", ["pickled", "truncated", "empty"])
def test_a_damaged_file_is_told_and_computed_anew_and_never_unpickled(
    data: FragmentData, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    before = scores_of(data, tmp_path)
    (path,) = tmp_path.glob("raw_pixels-*")
    if damage == "pickled":
        with path.open("wb") as file:
            np.savez(file, kmeans_ari=np.array([{"a": 1}], dtype=object))
    else:
        path.write_bytes(path.read_bytes()[: 200 if damage == "truncated" else 0])
    with caplog.at_level(logging.WARNING):
        again = scores_of(data, tmp_path)
    assert str(path) in caplog.text
    for metric, found in before["raw_pixels"].items():
        np.testing.assert_array_equal(again["raw_pixels"][metric], found)
    caplog.clear()
    scores_of(data, tmp_path)
    assert not caplog.text


def test_without_training_images_the_other_baselines_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bare = data_of(tmp_path / "bare", Pictures(train=0))
    with caplog.at_level(logging.WARNING):
        found = scores_of(bare, tmp_path / "scores")
    assert list(found) == METHODS[:3]
    (warning,) = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert "there is no train split" in warning
    own = Baselines(bare, ClusteringProtocol(Counting().backend, 1, 0, MEMORY), tmp_path)
    with pytest.raises(DataError, match="no train split"):
        own.components  # noqa: B018


def test_images_are_fitted_on_once_for_both_kinds_of_components(
    data: FragmentData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[int] = []

    class Spy(PrincipalComponents):
        def __init__(self, points: Tensor, most: int) -> None:
            fits.append(len(points))
            super().__init__(points, most)

    monkeypatch.setattr(baselines, "PrincipalComponents", Spy)
    scores_of(data, tmp_path)
    assert len(fits) == 1
    scores_of(data, tmp_path)
    assert len(fits) == 1
