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

from fragrecon.clustering.backends import Backend, load_backend
from fragrecon.clustering.problems import MEMORY
from fragrecon.seeds import keys_of
from tests.clustering.samples import ari, blobs, distances, inertia

ALGORITHMS = ("kmeans", "kmedoids")
BACKENDS = ("batched", "sklearn")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return load_backend(request.param)


def keys(problems: int) -> Tensor:
    return keys_of(0, "test", 0, problems)


def cluster(backend: Backend, algorithm: str, points: Tensor, k: int, own: Tensor) -> Tensor:
    return backend.kmeans(points, k, own, 10, MEMORY) if algorithm == "kmeans" else backend.kmedoids(points, k, MEMORY)


def medoids(points: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    """Loss and members of least distance to their cluster, of one problem."""
    apart, loss, chosen = distances(points[None])[0], 0.0, []
    for label in set(labels.tolist()):
        members = (labels == label).nonzero()[:, 0]
        sums = apart[members][:, members].sum(0)
        loss += float(sums.min())
        chosen.append(int(members[sums.argmin()]))
    return loss, torch.tensor(chosen)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_labels_depend_on_points_and_key_alone(backend: Backend, algorithm: str) -> None:
    points, _ = blobs(6, 5, 8, spread=0.9)
    own = torch.tensor([2**62 + 11, 5, 5, 0, 2**32, -7])
    together = cluster(backend, algorithm, points, 5, own)
    assert together.shape == (6, 40)
    assert together.dtype == torch.int64
    order = [4, 0, 3, 5, 1, 2]
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    assert torch.equal(cluster(backend, algorithm, points[order], 5, own[order]), together[order])
    for i in range(6):
        assert torch.equal(cluster(backend, algorithm, points[i : i + 1], 5, own[i : i + 1])[0], together[i])


def test_memory_changes_no_label(backend: Backend) -> None:
    points, _ = blobs(6, 5, 32, spread=0.9)
    for memory in (1, 2**40):
        labels = backend.kmeans(points, 5, keys(6), 10, memory)
        assert torch.equal(labels, backend.kmeans(points, 5, keys(6), 10, MEMORY))
        assert torch.equal(backend.kmedoids(points, 5, memory), backend.kmedoids(points, 5, MEMORY))


def test_kmeans_starts_where_its_key_says(backend: Backend) -> None:
    points = blobs(1, 10, 16, spread=3)[0].expand(8, -1, -1)
    labels = backend.kmeans(points, 10, keys(8), 1, MEMORY)
    assert len(set(inertia(points, labels, 10).tolist())) > 1
    alike = backend.kmeans(points, 10, keys(1).expand(8), 1, MEMORY)
    assert (alike == alike[0]).all()


def test_kmeans_takes_the_best_of_its_restarts(backend: Backend) -> None:
    points, _ = blobs(10, 10, 16, spread=3)
    few, many = (inertia(points, backend.kmeans(points, 10, keys(10), n, MEMORY), 10).sum() for n in (1, 10))
    assert many < few


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("k", "size"), [(2, 4), (10, 16), (25, 4)])
def test_clusters_far_apart_are_found(backend: Backend, algorithm: str, k: int, size: int) -> None:
    points, truth = blobs(5, k, size, spread=1e-3, dim=32)
    assert ari(cluster(backend, algorithm, points, k, keys(5)), truth).tolist() == [1.0] * 5


def test_kmeans_is_as_good_as_that_of_scikit_learn(backend: Backend) -> None:
    points, _ = blobs(40, 10, 16, spread=1.5)
    found = inertia(points, backend.kmeans(points, 10, keys(40), 10, MEMORY), 10).numpy()
    with threadpool_limits(1):
        solvers = [
            sklearn.cluster.KMeans(10, n_init=10, random_state=i).fit(own) for i, own in enumerate(points.numpy())
        ]
    expected = np.array([solver.inertia_ for solver in solvers])
    assert abs(found / expected - 1).max() < 0.04
    assert abs((found / expected - 1).mean()) < 0.004


def test_the_reference_is_kmeans_of_scikit_learn_seeded_with_the_key() -> None:
    points, _ = blobs(6, 10, 16, spread=1.5)
    own = torch.tensor([3, 1, 4, 1, -5, 2**40 + 9])
    labels = load_backend("sklearn").kmeans(points, 10, own, 10, MEMORY)
    least = inertia(points, labels, 10).tolist()
    for problem, found, key in zip(points, least, [3, 1, 4, 1, 2**32 - 5, 9], strict=True):
        solver = sklearn.cluster.KMeans(10, n_init=10, random_state=key).fit(problem.numpy())
        assert found == pytest.approx(solver.inertia_, rel=1e-4)
        assert found <= solver.inertia_ * (1 + 1e-6)  # the mean of a cluster is its best centre


@pytest.mark.parametrize("spread", [0.5, 1.5, 5.0])
def test_kmedoids_loses_little_to_twenty_random_starts(backend: Backend, spread: float) -> None:
    points, _ = blobs(8, 10, 16, spread, seed=int(spread * 10))
    labels = backend.kmedoids(points, 10, MEMORY)
    losses = np.array([medoids(own, found)[0] for own, found in zip(points, labels, strict=True)])
    best = []
    for apart in distances(points).numpy():
        starts = (kmedoids.fasterpam(apart, 10, init="random", random_state=i, n_cpu=1) for i in range(20))
        best.append(min(start.loss for start in starts))
    assert (losses / np.array(best) < 1.03).all()
    assert (losses / np.array(best)).mean() < 1.01


def test_kmedoids_gives_every_point_to_its_nearest_medoid(backend: Backend) -> None:
    points, _ = blobs(6, 10, 16, spread=1.5)
    for own, labels in zip(points, backend.kmedoids(points, 10, MEMORY), strict=True):
        assert sorted(set(labels.tolist())) == list(range(10))
        _, chosen = medoids(own, labels)
        apart = torch.cdist(own.double(), own[chosen].double())
        torch.testing.assert_close(apart.gather(1, labels[:, None])[:, 0], apart.amin(1), rtol=0, atol=1e-5)


def test_kmedoids_measures_euclidean_distance_of_far_off_points(backend: Backend) -> None:
    # Distances by way of a matrix product lose these two groups in the rounding of their squares.
    points = torch.tensor([[[40960.0], [40960.25], [40960.5], [40964.0], [40964.25], [40964.5]]]).expand(-1, -1, 64)
    labels = backend.kmedoids(points.contiguous(), 2, MEMORY)
    assert ari(labels, torch.tensor([[0, 0, 0, 1, 1, 1]])).item() == 1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("distinct", [1, 3])
def test_fewer_distinct_points_than_clusters_are_answered_in_silence(
    backend: Backend, algorithm: str, distinct: int
) -> None:
    points = torch.randn(2, distinct, 4, generator=torch.Generator().manual_seed(0)).repeat(1, 8, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labels = cluster(backend, algorithm, points, 5, keys(2))
    assert labels.min() >= 0
    assert labels.max() < 5


def test_kmeans_keeps_equal_points_together(backend: Backend) -> None:
    points = torch.eye(4).repeat(1, 6, 1)
    labels = backend.kmeans(points, 4, keys(1), 10, MEMORY)
    assert ari(labels, torch.arange(24)[None] % 4).item() == 1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_cluster_takes_all_points_and_as_many_as_points_one_each(backend: Backend, algorithm: str) -> None:
    points, _ = blobs(2, 3, 3, spread=1)
    assert cluster(backend, algorithm, points, 1, keys(2)).tolist() == [[0] * 9] * 2
    assert cluster(backend, algorithm, points, 9, keys(2)).sort(1).values.tolist() == [list(range(9))] * 2


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_points_are_left_as_they_are(backend: Backend, algorithm: str) -> None:
    points, _ = blobs(2, 3, 3, spread=1)
    before = points.clone()
    cluster(backend, algorithm, points, 3, keys(2))
    assert torch.equal(points, before)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_cannot_be_clustered_is_refused(backend: Backend, algorithm: str) -> None:
    for value in (float("nan"), float("inf"), -float("inf")):
        points, _ = blobs(2, 3, 3, spread=1)
        points[1, 4, 0] = value
        with pytest.raises(ValueError, match="finite"):
            cluster(backend, algorithm, points, 3, keys(2))
    for k in (-1, 0, 10):
        with pytest.raises(ValueError, match=f"k={k} .*9"):
            cluster(backend, algorithm, blobs(1, 3, 3, spread=1)[0], k, keys(1))
    for shape in ((9, 4), (9,), (1, 1, 9, 4)):
        with pytest.raises(ValueError, match=r"\(P, n, D\)"):
            cluster(backend, algorithm, torch.zeros(shape), 2, keys(1))


@pytest.mark.parametrize("count", [1, 3])
def test_kmeans_refuses_fewer_or_more_keys_than_problems(backend: Backend, count: int) -> None:
    with pytest.raises(ValueError, match=r"keys must be|zip"):
        backend.kmeans(blobs(2, 3, 3, spread=1)[0], 3, keys(count), 10, MEMORY)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_problems_are_no_labels(backend: Backend, algorithm: str) -> None:
    assert cluster(backend, algorithm, torch.zeros(0, 9, 4), 3, keys(0)).shape == (0, 9)


def test_every_module_of_the_folder_is_a_back_end() -> None:
    folder = Path(str(load_backend("sklearn").__file__)).parent  # type: ignore[attr-defined]
    names = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert names == set(BACKENDS)  # which are also the choices of the schema
    for name in names:
        assert callable(load_backend(name).kmeans)
        assert callable(load_backend(name).kmedoids)


def test_the_reference_runs_on_one_thread_and_gives_the_others_back(monkeypatch: pytest.MonkeyPatch) -> None:
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
        load_backend("sklearn").kmeans(blobs(1, 3, 3, spread=1)[0], 3, keys(1), 10, MEMORY)
        assert threads() == before
    assert set(seen) == {1}
