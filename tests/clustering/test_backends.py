from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import kmedoids
import numpy as np
import pytest
import sklearn.cluster
import torch
from threadpoolctl import threadpool_info, threadpool_limits
from torch import Tensor

from fragrecon.clustering.agreement import adjusted_rand_index, contingency
from fragrecon.clustering.backends import Backend, load_backend
from fragrecon.errors import ConfigError

ALGORITHMS = ("kmeans", "kmedoids")


@pytest.fixture(scope="module")
def backend() -> Backend:
    return load_backend("sklearn")


def cluster(backend: Backend, algorithm: str, points: Tensor, k: int, seeds: list[int]) -> Tensor:
    return backend.kmeans(points, k, seeds) if algorithm == "kmeans" else backend.kmedoids(points, k, seeds)


def blobs(problems: int, k: int, size: int, spread: float, dim: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points (P, k * size, dim) in shuffled order about far apart centres, and the blob of each."""
    random = torch.Generator().manual_seed(seed)
    truth = torch.stack([torch.randperm(k * size, generator=random) % k for _ in range(problems)])
    centres = torch.randn(problems, k, dim, generator=random)
    noise = torch.randn(*truth.shape, dim, generator=random)
    return centres.gather(1, truth.unsqueeze(-1).expand(-1, -1, dim)) + spread * noise, truth


def inertia(points: Tensor, labels: Tensor) -> float:
    """Sum of squared distances to the mean of the cluster, of one problem."""
    groups = [points[labels == label] for label in set(labels.tolist())]
    return float(sum((group - group.mean(0)).square().sum() for group in groups))


def medoids(points: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    """Loss and members of least distance to their cluster, of one problem."""
    distances = (points[:, None].double() - points[None].double()).square().sum(-1).sqrt()
    loss, chosen = 0.0, []
    for label in set(labels.tolist()):
        members = (labels == label).nonzero()[:, 0]
        sums = distances[members][:, members].sum(0)
        loss += float(sums.min())
        chosen.append(int(members[sums.argmin()]))
    return loss, torch.tensor(chosen)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_labels_depend_on_points_and_seed_alone(backend: Backend, algorithm: str) -> None:
    points, _ = blobs(6, 5, 8, spread=0.9)
    seeds = [2**62 + 11, 5, 5, 0, 2**32, 7]
    together = cluster(backend, algorithm, points, 5, seeds)
    assert together.shape == (6, 40)
    assert together.dtype == torch.int64
    order = [4, 0, 3, 5, 1, 2]
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    assert torch.equal(cluster(backend, algorithm, points[order], 5, [seeds[i] for i in order]), together[order])
    for i, seed in enumerate(seeds):
        assert torch.equal(cluster(backend, algorithm, points[i : i + 1], 5, [seed])[0], together[i])


def test_kmeans_starts_where_its_seed_says(backend: Backend) -> None:
    points = blobs(1, 10, 16, spread=3)[0].expand(8, -1, -1)
    labels = backend.kmeans(points, 10, list(range(8)), restarts=1)
    assert len({inertia(points[0], row) for row in labels}) > 1


def test_kmeans_takes_the_best_of_its_restarts(backend: Backend) -> None:
    points, _ = blobs(10, 10, 16, spread=3)
    few, many = (backend.kmeans(points, 10, list(range(10)), restarts) for restarts in (1, 10))
    few_loss, many_loss = (sum(map(inertia, points, labels)) for labels in (few, many))
    assert many_loss < few_loss


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("k", "size"), [(2, 4), (10, 16), (25, 4)])
def test_clusters_far_apart_are_found(backend: Backend, algorithm: str, k: int, size: int) -> None:
    points, truth = blobs(5, k, size, spread=1e-3, dim=32)
    labels = cluster(backend, algorithm, points, k, list(range(5)))
    assert adjusted_rand_index(contingency(labels, truth)).tolist() == [1.0] * 5


def test_kmeans_is_that_of_scikit_learn(backend: Backend) -> None:
    points, _ = blobs(6, 10, 16, spread=1.5)
    seeds = [3, 1, 4, 1, 5, 9]
    labels = backend.kmeans(points, 10, seeds)
    for own, found, seed in zip(points, labels, seeds, strict=True):
        solver = sklearn.cluster.KMeans(10, n_init=10, random_state=seed).fit(own.numpy())
        assert inertia(own, found) == pytest.approx(solver.inertia_, rel=1e-4)
        assert inertia(own, found) <= solver.inertia_ * (1 + 1e-6)  # the mean of a cluster is its best centre


@pytest.mark.parametrize("spread", [0.5, 1.5, 5.0])
def test_kmedoids_loses_little_to_twenty_random_starts(backend: Backend, spread: float) -> None:
    points, _ = blobs(8, 10, 16, spread, seed=int(spread * 10))
    labels = backend.kmedoids(points, 10, [0] * 8)
    losses = np.array([medoids(own, found)[0] for own, found in zip(points, labels, strict=True)])
    best = []
    for own in points:
        distances = (own[:, None].double() - own[None].double()).square().sum(-1).sqrt().numpy()
        starts = (kmedoids.fasterpam(distances, 10, init="random", random_state=i, n_cpu=1) for i in range(20))
        best.append(min(start.loss for start in starts))
    assert (losses / np.array(best) < 1.03).all()
    assert (losses / np.array(best)).mean() < 1.01


def test_kmedoids_gives_every_point_to_its_nearest_medoid(backend: Backend) -> None:
    points, _ = blobs(6, 10, 16, spread=1.5)
    for own, labels in zip(points, backend.kmedoids(points, 10, [0] * 6), strict=True):
        assert sorted(set(labels.tolist())) == list(range(10))
        _, chosen = medoids(own, labels)
        distances = torch.cdist(own.double(), own[chosen].double())
        torch.testing.assert_close(distances.gather(1, labels[:, None])[:, 0], distances.amin(1), rtol=0, atol=1e-5)


def test_kmedoids_needs_no_seed(backend: Backend) -> None:
    points, _ = blobs(3, 6, 6, spread=2)
    assert torch.equal(backend.kmedoids(points, 6, [0, 1, 2]), backend.kmedoids(points, 6, [7, 8, 9]))


def test_kmedoids_measures_euclidean_distance_of_far_off_points(backend: Backend) -> None:
    # Distances by way of a matrix product lose these two groups in the rounding of their squares.
    points = torch.tensor([[[40960.0], [40960.25], [40960.5], [40964.0], [40964.25], [40964.5]]]).expand(-1, -1, 64)
    labels = backend.kmedoids(points.contiguous(), 2, [0])
    assert adjusted_rand_index(contingency(labels, torch.tensor([[0, 0, 0, 1, 1, 1]]))).item() == 1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("distinct", [1, 3])
def test_fewer_distinct_points_than_clusters_are_answered_in_silence(
    backend: Backend, algorithm: str, distinct: int
) -> None:
    points = torch.randn(2, distinct, 4, generator=torch.Generator().manual_seed(0)).repeat(1, 8, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labels = cluster(backend, algorithm, points, 5, [0, 1])
    assert labels.min() >= 0
    assert labels.max() < 5


def test_kmeans_keeps_equal_points_together(backend: Backend) -> None:
    points = torch.eye(4).repeat(1, 6, 1)
    labels = backend.kmeans(points, 4, [0])
    assert adjusted_rand_index(contingency(labels, torch.arange(24)[None] % 4)).item() == 1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_cluster_takes_all_points_and_as_many_as_points_one_each(backend: Backend, algorithm: str) -> None:
    points, _ = blobs(2, 3, 3, spread=1)
    assert cluster(backend, algorithm, points, 1, [0, 1]).tolist() == [[0] * 9] * 2
    assert cluster(backend, algorithm, points, 9, [0, 1]).sort(1).values.tolist() == [list(range(9))] * 2


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_points_are_left_as_they_are(backend: Backend, algorithm: str) -> None:
    points, _ = blobs(2, 3, 3, spread=1)
    before = points.clone()
    cluster(backend, algorithm, points, 3, [0, 1])
    assert torch.equal(points, before)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused(backend: Backend, algorithm: str, value: float) -> None:
    points, _ = blobs(2, 3, 3, spread=1)
    points[1, 4, 0] = value
    with pytest.raises(ValueError, match="not finite"):
        cluster(backend, algorithm, points, 3, [0, 1])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("k", [-1, 0, 10])
def test_a_number_of_clusters_that_cannot_be_is_refused(backend: Backend, algorithm: str, k: int) -> None:
    with pytest.raises(ValueError, match=f"{k} clusters cannot be made of 9 points"):
        cluster(backend, algorithm, blobs(1, 3, 3, spread=1)[0], k, [0])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("shape", [(9, 4), (9,), (1, 1, 9, 4)])
def test_points_of_the_wrong_shape_are_refused(backend: Backend, algorithm: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(P, n, D\)"):
        cluster(backend, algorithm, torch.zeros(shape), 2, [0])


@pytest.mark.parametrize("count", [1, 3])
def test_kmeans_refuses_fewer_or_more_seeds_than_problems(backend: Backend, count: int) -> None:
    with pytest.raises(ValueError, match="zip"):
        backend.kmeans(blobs(2, 3, 3, spread=1)[0], 3, [0] * count)


@pytest.mark.parametrize("name", ["sklaern", "SKLEARN", "", "os", "__init__", "..agreement", "sklearn.KMeans"])
def test_an_unknown_back_end_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.backend=.* is not known.*sklearn"):
        load_backend(name)


def test_a_back_end_misspelt_is_answered_by_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'sklearn'"):
        load_backend("sklaern")


def test_every_module_of_the_folder_is_a_back_end() -> None:
    folder = Path(str(load_backend("sklearn").__file__)).parent  # type: ignore[attr-defined]
    for path in folder.glob("*.py"):
        if path.stem != "__init__":
            assert callable(load_backend(path.stem).kmeans)
            assert callable(load_backend(path.stem).kmedoids)


def test_clustering_runs_on_one_thread_and_gives_the_others_back(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def threads() -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "openmp"]

    seen = []
    fit = sklearn.cluster.KMeans.fit

    def watched(self: Any, *arguments: Any) -> Any:
        seen.extend(threads())
        return fit(self, *arguments)

    monkeypatch.setattr(sklearn.cluster.KMeans, "fit", watched)
    with threadpool_limits(2):
        before = threads()
        assert 2 in before
        backend.kmeans(blobs(1, 3, 3, spread=1)[0], 3, [0])
        assert threads() == before
    assert set(seen) == {1}
