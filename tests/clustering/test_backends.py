"""The reference backend; the engine, `kmeans` and `kmedoids`, has tests of its own."""

from __future__ import annotations

import math
import warnings
from typing import Any, get_args, get_type_hints

import kmedoids as library
import numpy as np
import pytest
import sklearn.cluster
import torch
from threadpoolctl import threadpool_info, threadpool_limits
from torch import Tensor

from fragrecon.clustering.backends import BACKENDS, Backend
from fragrecon.clustering.problems import MEMORY
from fragrecon.config.evaluation import EvaluationConfig
from fragrecon.seeds import keys_of
from tests.clustering.samples import ari, blobs, distances, inertia

REFERENCE = BACKENDS["sklearn"]
ALGORITHMS = ("kmeans", "kmedoids")


def keys(problems: int) -> Tensor:
    return keys_of(0, "test", 0, problems)


def cluster(algorithm: str, points: Tensor, k: int, own: Tensor) -> Tensor:
    if algorithm == "kmeans":
        return REFERENCE.kmeans(points, k, own, 10, MEMORY).labels
    return REFERENCE.kmedoids(points, k, MEMORY).labels


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_labels_depend_on_points_and_key_alone(algorithm: str) -> None:
    points, _ = blobs(6, 5, 8, spread=0.9)
    own = torch.tensor([2**62 + 11, 5, 5, 0, 2**32, -7])
    whole = cluster(algorithm, points, 5, own)
    assert whole.dtype == torch.int64
    order = [4, 0, 3, 5, 1, 2]
    np.random.seed(1)  # noqa: NPY002
    assert torch.equal(cluster(algorithm, points[order], 5, own[order]), whole[order])
    assert torch.equal(cluster(algorithm, points[:1], 5, own[:1]), whole[:1])


def test_kmeans_is_that_of_scikit_learn_seeded_with_the_key() -> None:
    points, _ = blobs(6, 10, 16, spread=1.5)
    found = REFERENCE.kmeans(points, 10, torch.tensor([3, 1, 4, 1, -5, 2**40 + 9]), 3, MEMORY)
    torch.testing.assert_close(found.inertia, inertia(points, found.labels, 10), rtol=1e-4, atol=0)
    for problem, own, key in zip(points, found.labels, [3, 1, 4, 1, 2**32 - 5, 9], strict=True):
        solver = sklearn.cluster.KMeans(10, n_init=3, random_state=key).fit(problem.numpy())
        assert own.tolist() == solver.labels_.tolist()


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
@pytest.mark.parametrize("spread", [0.5, 5.0])
def test_kmedoids_loses_little_to_twenty_random_starts(backend: Backend, spread: float) -> None:
    points, _ = blobs(6, 10, 16, spread, seed=int(spread * 10))
    found = backend.kmedoids(points, 10, MEMORY)
    best = []
    for apart, labels, medoids, loss in zip(distances(points), found.labels, found.medoids, found.loss, strict=True):
        torch.testing.assert_close(apart[medoids].amin(0).sum(), loss, rtol=1e-5, atol=0)
        torch.testing.assert_close(apart[medoids[labels], torch.arange(160)], apart[medoids].amin(0))
        starts = (library.fasterpam(apart.numpy(), 10, init="random", random_state=i, n_cpu=1) for i in range(20))
        best.append(min(start.loss for start in starts))
    ratio = found.loss.numpy() / np.array(best)
    assert ratio.max() < 1.03
    assert ratio.mean() < 1.01


def test_kmedoids_measures_euclidean_distance_of_far_off_points() -> None:
    # Distances by way of a matrix product lose these two groups in the rounding of their squares.
    points = torch.tensor([[[40960.0], [40960.25], [40960.5], [40964.0], [40964.25], [40964.5]]]).expand(-1, -1, 64)
    assert ari(cluster("kmedoids", points.contiguous(), 2, keys(1)), torch.tensor([[0, 0, 0, 1, 1, 1]])).item() == 1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_degenerate_points_are_clustered_without_a_warning(algorithm: str) -> None:
    random = torch.Generator().manual_seed(0)
    for distinct in (1, 3):
        points = torch.randn(2, distinct, 4, generator=random).repeat(1, 8, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            labels = cluster(algorithm, points, 5, keys(2))
        assert 0 <= int(labels.min()) <= int(labels.max()) < 5
    points, _ = blobs(2, 3, 3, spread=1)
    before = points.clone()
    assert cluster(algorithm, points, 1, keys(2)).tolist() == [[0] * 9] * 2
    assert cluster(algorithm, points, 9, keys(2)).sort(1).values.tolist() == [list(range(9))] * 2
    assert torch.equal(points, before)
    assert cluster(algorithm, torch.zeros(0, 9, 4), 3, keys(0)).shape == (0, 9)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_invalid_arguments_are_refused(algorithm: str) -> None:
    points, _ = blobs(2, 3, 3, spread=1)
    with pytest.raises(ValueError, match=r"k=10 .*9"):
        cluster(algorithm, points, 10, keys(2))
    points[1, 4, 0] = math.nan
    with pytest.raises(ValueError, match="finite"):
        cluster(algorithm, points, 3, keys(2))
    for count in (1, 3):
        with pytest.raises(ValueError, match="zip"):
            REFERENCE.kmeans(torch.zeros(2, 9, 1), 3, keys(count), 10, MEMORY)


def test_the_choices_of_the_schema_are_the_backends() -> None:
    assert set(get_args(get_type_hints(EvaluationConfig)["backend"])) == set(BACKENDS)


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
        REFERENCE.kmeans(blobs(1, 3, 3, spread=1)[0], 3, keys(1), 10, MEMORY)
        assert threads() == before
    assert set(seen) == {1}
