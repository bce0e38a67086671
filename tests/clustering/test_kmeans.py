from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import sklearn.cluster
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits
from torch import Tensor

from fragrecon.clustering import kmeans as module
from fragrecon.clustering.kmeans import KMeans, _fill_empty, _plus_plus, kmeans
from fragrecon.clustering.problems import squared_distances
from fragrecon.seeds import keys_of, uniforms
from tests.clustering.samples import (
    FAMILIES,
    Floats,
    ari,
    blobs,
    distances,
    fragments,
    inertia,
    is_not_lower,
    means,
    uniform,
)

unhurried = settings(deadline=None, max_examples=60)
LARGE = 2**40


def keys(problems: int, seed: int = 0) -> Tensor:
    return keys_of(seed, "test", 0, problems)


def reference(points: Tensor, k: int, restarts: int = 10) -> tuple[Tensor, Floats]:
    """Labels (P, n) and inertia (P,) of scikit-learn's KMeans."""
    labels, least = [], []
    with threadpool_limits(1):
        for number, own in enumerate(points):
            solver = sklearn.cluster.KMeans(k, n_init=restarts, random_state=number).fit(own.double().numpy())
            labels.append(torch.from_numpy(solver.labels_).long())
            least.append(solver.inertia_)
    return torch.stack(labels), np.array(least)


# As good as scikit-learn ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_inertia_and_ari_are_those_of_scikit_learn() -> None:
    relative: list[Floats] = []
    for name, family in FAMILIES.items():
        points, truth = family(25)
        found = kmeans(points, 10, keys(len(points)))
        labels, least = reference(points, 10)
        relative.append(found.inertia.numpy() / least - 1)
        assert abs(relative[-1].mean()) < 0.004, name
        if truth is not None:
            assert is_not_lower(ari(found.labels, truth), ari(labels, truth)), name
    assert sum(map(len, relative)) > 750
    assert abs(np.concatenate(relative).mean()) < 0.001


@pytest.mark.real
@pytest.mark.slow
def test_fragments_of_real_images_are_clustered_as_well_as_by_scikit_learn(real_data: Path) -> None:
    relative: list[Floats] = []
    for problems, images in ((60, 10), (90, 5)):
        points, truth = fragments(real_data, problems, images)
        found = kmeans(points, images, keys(problems))
        labels, least = reference(points, images)
        relative.append(found.inertia.numpy() / least - 1)
        assert is_not_lower(ari(found.labels, truth), ari(labels, truth))
        assert 0.1 < ari(found.labels, truth).mean() < 0.25
    assert abs(np.concatenate(relative).mean()) < 0.001


@pytest.mark.parametrize(("k", "size", "dim"), [(2, 4, 2), (3, 50, 1), (10, 16, 64), (40, 4, 32), (50, 16, 16)])
def test_blobs_far_apart_are_found(k: int, size: int, dim: int) -> None:
    random = torch.Generator().manual_seed(0)
    truth = torch.stack([torch.randperm(k * size, generator=random) % k for _ in range(5)])
    grid = torch.arange(k).float().unsqueeze(-1) * torch.randn(dim, generator=random).sign()
    points = grid[truth] + 0.02 * torch.randn(*truth.shape, dim, generator=random)
    assert ari(kmeans(points, k, keys(5), restarts=30).labels, truth).tolist() == [1.0] * 5


# What the answer holds ------------------------------------------------------------------------------------------------


def several() -> list[tuple[Tensor, int]]:
    """Points and clusters by which W G is computed in both ways."""
    return [
        (blobs(20, 10, 16, 0.5, 2)[0], 10),
        (blobs(20, 10, 16, 3.0, 128)[0], 10),
        (blobs(20, 4, 8, 1.0, 300)[0], 4),
        (uniform(20, 60, 3), 25),
    ]


def test_inertia_is_that_of_the_labels_and_points_are_nearest_to_their_own_mean() -> None:
    for points, k in several():
        found = kmeans(points, k, keys(len(points)), restarts=2)
        assert (found.inertia.dtype, found.labels.dtype) == (torch.float64, torch.int64)
        torch.testing.assert_close(found.inertia, inertia(points, found.labels, k), rtol=1e-5, atol=0)
        assert all(sorted(set(row)) == list(range(k)) for row in found.labels.tolist())
        to_means = torch.cdist(points.double(), means(points, found.labels, k)).square()
        own = to_means.gather(2, found.labels.unsqueeze(-1)).squeeze(-1)
        assert (own <= to_means.amin(2) * (1 + 1e-5) + 1e-6 * points.square().max()).all()


def test_inertia_of_clusters_that_are_small_against_their_distance_is_that_of_the_labels() -> None:
    points, _ = blobs(20, 10, 16, 1e-4, 64)
    found = kmeans(points, 10, keys(20))
    assert (found.inertia >= 0).all()
    torch.testing.assert_close(found.inertia, inertia(points, found.labels, 10), rtol=0.01, atol=0)


def test_one_cluster_has_the_inertia_of_the_whole() -> None:
    points = uniform(4, 30, 5)
    found = kmeans(points, 1, keys(4))
    assert found.labels.tolist() == [[0] * 30] * 4
    whole = (points.double() - points.double().mean(1, keepdim=True)).square().sum((1, 2))
    torch.testing.assert_close(found.inertia, whole, rtol=1e-6, atol=0)


@pytest.mark.parametrize("n", [1, 2, 9])
def test_as_many_clusters_as_points_are_one_each(n: int) -> None:
    found = kmeans(uniform(6, n, 4), n, keys(6))
    assert found.labels.sort(1).values.tolist() == [list(range(n))] * 6
    assert found.inertia.abs().max() < 1e-5


def test_best_of_all_clusterings_of_a_few_points_is_found() -> None:
    points = uniform(20, 7, 2)
    numbers = torch.cartesian_prod(*[torch.arange(3)] * 7)
    numbers = numbers[(torch.nn.functional.one_hot(numbers, 3).sum(1) > 0).all(1)]
    best = [inertia(own.expand(len(numbers), -1, -1), numbers, 3).min() for own in points]
    torch.testing.assert_close(kmeans(points, 3, keys(20), restarts=50).inertia, torch.stack(best), rtol=1e-5, atol=0)


# Degenerate points ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, -1e20])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (10, 4), (10, 10)])
@pytest.mark.fault("constant embeddings")
def test_equal_points_stay_in_one_cluster(value: float, n: int, k: int) -> None:
    found = kmeans(torch.full((3, n, 6), value), k, keys(3))
    assert (found.labels == found.labels[:, :1]).all()
    assert (found.inertia == 0).all()


@pytest.mark.parametrize(("copies", "k"), [(2, 3), (3, 5), (8, 9)])
@pytest.mark.fault("fewer distinct points than clusters")
def test_fewer_distinct_points_than_clusters_leave_clusters_empty(copies: int, k: int) -> None:
    points = torch.eye(3).repeat(1, copies, 1).expand(4, -1, -1)
    found = kmeans(points, min(k, 3 * copies), keys(4))
    assert ari(found.labels, (torch.arange(3 * copies) % 3).expand(4, -1)).tolist() == [1.0] * 4
    assert found.inertia.abs().max() < 1e-5


def test_equal_points_stay_together_though_their_distances_are_rounded() -> None:
    points = torch.randn(30, 6, 16, generator=torch.Generator().manual_seed(0)).repeat(1, 3, 1)
    labels = kmeans(points, 10, keys(30)).labels
    assert all((labels[:, i::6] == labels[:, i : i + 1]).all() for i in range(6))


def test_duplicates_among_other_points_stay_together() -> None:
    points = uniform(20, 30, 4)
    points[:, 10:] = points[:, :1]
    labels = kmeans(points, 8, keys(20)).labels
    assert (labels[:, 10:] == labels[:, :1]).all()
    assert all(len(set(row)) == 8 for row in labels.tolist())


def test_no_problems_are_no_labels() -> None:
    found = kmeans(torch.zeros(0, 6, 3), 2, keys(0))
    assert found.labels.shape == (0, 6)
    assert found.inertia.shape == (0,)


# Where a problem stands -----------------------------------------------------------------------------------------------


def same(one: KMeans, other: KMeans) -> bool:
    return torch.equal(one.labels, other.labels) and torch.equal(one.inertia, other.inertia)


def check_alike(one: KMeans, other: KMeans, dim: int) -> None:
    """Clusters are the same and, of points large enough for one kind of matrix product, their numbers are too."""
    assert (ari(one.labels, other.labels) == 1).all()
    torch.testing.assert_close(one.inertia, other.inertia, rtol=1e-5, atol=0)
    if dim > 8:
        assert torch.equal(one.labels, other.labels)


def test_a_problem_is_answered_alike_wherever_it_stands() -> None:
    for points, k in several():
        own = keys(len(points))
        whole = kmeans(points, k, own, memory=LARGE)
        for memory in (1, 2**20, 2**22):
            check_alike(kmeans(points, k, own, memory=memory), whole, points.shape[2])
        order = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))
        shuffled = kmeans(points[order], k, own[order], memory=LARGE)
        check_alike(shuffled, KMeans(whole.labels[order], whole.inertia[order]), points.shape[2])
        part = kmeans(points[3:9], k, own[3:9])
        check_alike(part, KMeans(whole.labels[3:9], whole.inertia[3:9]), points.shape[2])


def test_threads_do_not_change_the_answer() -> None:
    before = torch.get_num_threads()
    try:
        for points, k in several()[:1]:
            found = []
            for threads in (1, 2):
                torch.set_num_threads(threads)
                found.append(kmeans(points[:5], k, keys(5)))
            check_alike(found[0], found[1], points.shape[2])
    finally:
        torch.set_num_threads(before)


def test_views_are_taken_as_what_they_show() -> None:
    points, _ = blobs(4, 5, 8, 0.5)
    turned = points.mT.contiguous().mT
    assert torch.equal(kmeans(turned, 5, keys(4)).labels, kmeans(points, 5, keys(4)).labels)
    alike = kmeans(points[:1].expand(4, -1, -1), 5, keys(1).expand(4))
    assert (alike.labels == alike.labels[0]).all()


def test_the_global_generators_are_neither_read_nor_changed() -> None:
    points = uniform(3, 30, 3)
    torch.manual_seed(0)
    first, state = kmeans(points, 6, keys(3), restarts=1), torch.get_rng_state()
    torch.manual_seed(1)
    assert same(kmeans(points, 6, keys(3), restarts=1), first)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)


# Random starts --------------------------------------------------------------------------------------------------------


def test_keys_that_differ_start_elsewhere() -> None:
    points = uniform(1, 100, 2).expand(30, -1, -1)
    assert len(set(kmeans(points, 10, keys(30), restarts=1).inertia.tolist())) > 20


def test_more_restarts_are_better_on_average_and_worse_for_none() -> None:
    points = uniform(100, 100, 2)
    few, some, many = (kmeans(points, 10, keys(100), restarts).inertia for restarts in (1, 4, 16))
    assert (some <= few * (1 + 1e-5)).all()
    assert (many <= some * (1 + 1e-5)).all()
    assert few.mean() > 1.02 * some.mean() > 1.03 * many.mean()


def slow_plus_plus(squared: Tensor, draws: Tensor) -> list[int]:
    """Greedy k-means++ of one restart: squared distances (n, n), numbers (k, T)."""
    chosen = [int(draws[0, 0] * len(squared))]
    for row in draws[1:]:
        closest = [min(float(squared[c, i]) for c in chosen) for i in range(len(squared))]
        best: tuple[float, int] | None = None
        for draw in row.tolist():
            left, tried = draw * math.fsum(closest), 0
            while (left := left - closest[tried]) >= 0:
                tried += 1
            potential = sum(min(one, float(other)) for one, other in zip(closest, squared[tried], strict=True))
            if best is None or potential < best[0]:
                best = (potential, tried)
        assert best is not None
        chosen.append(best[1])
    return chosen


@pytest.mark.parametrize("trials", [1, 2, 4])
def test_starts_are_those_of_a_slow_loop(trials: int) -> None:
    squared = distances(uniform(4, 20, 3)).square()
    draws = uniforms(keys(4), 5 * 6 * trials).view(4, 5, 6, trials)
    found = _plus_plus(squared, draws)
    for own, starts, numbers in zip(squared, found, draws, strict=True):
        assert starts.tolist() == [slow_plus_plus(own, restart) for restart in numbers]


@unhurried
@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 3))
def test_starts_are_distinct_points(seed: int, n: int, trials: int) -> None:
    points = uniform(3, n, 2, seed) - 0.5
    squared = squared_distances(points @ points.mT)
    starts = _plus_plus(squared, uniforms(keys(3, seed), 4 * n * trials).float().view(3, 4, n, trials))
    assert starts.sort(-1).values.tolist() == [[list(range(n))] * 4] * 3


@pytest.mark.parametrize("draw", [0.0, 1 - 2**-24])
def test_the_ends_of_the_range_of_numbers_draw_points_that_are_still_free(draw: float) -> None:
    for n in (3, 7, 100, 513):
        points = torch.arange(n).float().view(1, n, 1) / n - 0.5
        starts = _plus_plus(squared_distances(points @ points.mT), torch.full((1, 1, 3, 1), draw))
        assert len(set(starts[0, 0].tolist())) == 3
        assert starts.max() < n


# Empty clusters -------------------------------------------------------------------------------------------------------


def slow_fill(members: Tensor, far: Tensor) -> Tensor:
    """One restart: indicators (k, n), distances (n,)."""
    filled = members.clone()
    farthest = sorted(range(len(far)), key=lambda point: -float(far[point]))
    empty = [cluster for cluster in range(len(members)) if members[cluster].sum() == 0]
    for cluster, point in zip(empty, farthest, strict=False):
        if far[point] > torch.finfo(far.dtype).eps:
            filled[:, point] = 0
            filled[cluster, point] = 1
    return filled


@unhurried
@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(0, 12), st.floats(0, 1))
def test_empty_clusters_are_filled_as_by_a_slow_loop(seed: int, k: int, more: int, on_centre: float) -> None:
    random, n = torch.Generator().manual_seed(seed), k + more
    labels = torch.randint(k, (3, 2, n), generator=random)
    labels = torch.minimum(labels, torch.randint(k, (3, 2, 1), generator=random))
    members = torch.nn.functional.one_hot(labels, k).mT.float()
    far = torch.rand(3, 2, n, generator=random)
    far[torch.rand(far.shape, generator=random) < on_centre] = 0
    found = _fill_empty(members.clone(), far, torch.zeros(3, 1, 1))
    for problem in range(3):
        for restart in range(2):
            assert torch.equal(found[problem, restart], slow_fill(members[problem, restart], far[problem, restart]))


def test_a_cluster_that_runs_empty_takes_the_farthest_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is no centre itself until then: one at the mean of all would take the point at 6."""
    points = torch.tensor([0.0, 0.1, 0.2, 6.0, 13.0, 13.1, 13.2, 22.0]).view(1, 8, 1)

    def same_start(squared: Tensor, draws: Tensor) -> Tensor:
        """Two centres upon one point, so that one of them is left with none."""
        return torch.tensor([0, 0, 4]).expand(*draws.shape[:3])

    monkeypatch.setattr(module, "_plus_plus", same_start)
    found = kmeans(points, 3, keys(1))
    assert ari(found.labels, torch.tensor([[0, 0, 0, 0, 1, 1, 1, 2]])).item() == 1
    torch.testing.assert_close(found.inertia, inertia(points, found.labels, 3), rtol=1e-4, atol=0)


# Scales and types -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [-60, 60])
def test_a_power_of_two_as_scale_changes_no_bit(power: int) -> None:
    points = uniform(10, 60, 8)
    plain, scaled = kmeans(points, 6, keys(10)), kmeans(points * 2.0**power, 6, keys(10))
    assert torch.equal(scaled.labels, plain.labels)
    assert torch.equal(scaled.inertia, plain.inertia * 4.0**power)


@pytest.mark.parametrize("dim", [2, 128])
@pytest.mark.parametrize(("scale", "offset"), [(1e-20, 0), (1e20, 0), (1, 1e4), (1, -1e4), (1e-3, 10), (1e15, -1e18)])
def test_scale_and_place_do_not_matter(scale: float, offset: float, dim: int) -> None:
    centres = 3 * torch.eye(10)[:, torch.arange(dim) % 10] + torch.arange(10.0).unsqueeze(1)
    truth = (torch.arange(160) % 10).expand(5, -1)
    points = centres[truth] + 0.1 * torch.randn(5, 160, dim, generator=torch.Generator().manual_seed(0))
    found = kmeans(points * scale + offset, 10, keys(5))
    assert ari(found.labels, truth).tolist() == [1.0] * 5
    expected = inertia(points, truth, 10) * scale**2
    torch.testing.assert_close(found.inertia, expected, rtol=0.02 if offset else 1e-4, atol=0)


@pytest.mark.parametrize(("dtype", "scale"), [(torch.float32, 3e37), (torch.float64, 1e50), (torch.float64, 1e-50)])
def test_no_finite_scale_is_too_small_or_too_large(dtype: torch.dtype, scale: float) -> None:
    points, truth = blobs(5, 5, 10, 0.01, 8)
    assert ari(kmeans(points.to(dtype) * scale, 5, keys(5)).labels, truth).tolist() == [1.0] * 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_all_floating_types_are_taken(dtype: torch.dtype) -> None:
    points = uniform(5, 60, 8).to(dtype)
    found = kmeans(points, 6, keys(5))
    check_alike(found, kmeans(points.float(), 6, keys(5)), points.shape[2])
    assert found.labels.dtype == torch.int64


# Refusals -------------------------------------------------------------------------------------------------------------


def test_wrong_keys_and_restarts_are_refused() -> None:
    points, few = uniform(3, 10, 2), torch.zeros(3, dtype=torch.int64)
    for shape in ((2,), (4,), (3, 1), ()):
        with pytest.raises(ValueError, match=r"keys must be \(3,\)"):
            kmeans(points, 2, torch.zeros(shape, dtype=torch.int64))
    for restarts in (0, -1):
        with pytest.raises(ValueError, match=f"restarts={restarts}"):
            kmeans(points, 2, few, restarts)
    with pytest.raises(ValueError, match="dimensions"):
        kmeans(torch.zeros(1, 6, 0), 2, few[:1])


def test_autocast_does_not_lower_the_precision() -> None:
    points = uniform(20, 160, 64)
    expected = kmeans(points, 10, keys(20))
    with torch.autocast("cpu", torch.bfloat16):
        found = kmeans(points, 10, keys(20))
    assert torch.equal(found.labels, expected.labels)
