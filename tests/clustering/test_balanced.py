from __future__ import annotations

import itertools
import math
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fragrecon.clustering.balanced import assign, balance, balanced_kmeans
from fragrecon.clustering.kmeans import kmeans
from fragrecon.seeds import keys_of
from tests.clustering.samples import ari, blobs, inertia, means, uniform

unhurried = settings(deadline=None, max_examples=50)


def keys(problems: int) -> Tensor:
    return keys_of(0, "test", 0, problems)


def counts(labels: Tensor, k: int) -> list[list[int]]:
    return torch.nn.functional.one_hot(labels, k).sum(1).tolist()


def total(scores: Tensor, labels: Tensor) -> Tensor:
    return scores.gather(2, labels.unsqueeze(-1)).sum((1, 2))


def test_scores_are_left_as_they_are_and_may_carry_gradients() -> None:
    scores = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    before = scores.detach().clone()
    assert not assign(scores).requires_grad
    assert torch.equal(scores, before)


def test_what_cannot_be_assigned_is_refused() -> None:
    for n, k in ((7, 2), (2, 4), (5, 0)):
        with pytest.raises(ValueError, match=f"{n} points.* {k} clusters"):
            assign(torch.zeros(1, n, k))
    for value in (math.nan, math.inf, -math.inf):
        scores = torch.zeros(2, 6, 3)
        scores[1, 5, 2] = value
        with pytest.raises(ValueError, match="finite"):
            assign(scores)
    for shape in ((6, 3), (6,), (1, 1, 6, 3)):
        with pytest.raises(ValueError, match=r"\(P, n, k\)"):
            assign(torch.zeros(shape))


@pytest.mark.parametrize(("k", "size"), [(2, 3), (10, 16), (5, 1), (1, 7)])
def test_blobs_far_apart_are_found(k: int, size: int) -> None:
    points, truth = blobs(5, k, size, 0.01, 32)
    labels = balanced_kmeans(points, k, keys(5))
    assert counts(labels, k) == [[size] * k] * 5
    assert ari(labels, truth).tolist() == [1.0] * 5


@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_knowing_the_sizes_helps(spread: float) -> None:
    points, truth = blobs(30, 10, 16, spread, 16)
    free, balanced = kmeans(points, 10, keys(30)).labels, balanced_kmeans(points, 10, keys(30))
    assert counts(balanced, 10) == [[16] * 10] * 30
    assert ari(balanced, truth).mean() > ari(free, truth).mean()


def closeness(points: Tensor, centres: Tensor) -> Tensor:
    return -torch.cdist(points.double(), centres).square()


def test_the_result_is_better_than_one_assignment_to_the_centres_of_kmeans() -> None:
    for points in (blobs(20, 6, 8, 1.0, 2)[0], uniform(20, 48, 3)):
        once = assign(closeness(points, means(points, kmeans(points, 6, keys(20)).labels, 6)))
        first, last = inertia(points, once, 6), inertia(points, balanced_kmeans(points, 6, keys(20)), 6)
        assert (last <= first * (1 + 1e-9)).all()
        assert (last < first * (1 - 1e-6)).any()


def test_the_result_is_a_best_assignment_to_its_own_centres() -> None:
    points = blobs(20, 6, 8, 1.0, 2)[0]
    labels = balanced_kmeans(points, 6, keys(20))
    near = closeness(points, means(points, labels, 6))
    torch.testing.assert_close(total(near, assign(near)), total(near, labels), rtol=1e-9, atol=0)


@pytest.mark.parametrize(("spread", "size"), [(1.0, None), (3.0, None), (3.0, 20)])
def test_clusters_of_any_start_become_a_best_assignment_to_their_own_centres(spread: float, size: int | None) -> None:
    """Over many steps, of which the later ones reuse the prices of the earlier ones."""
    points = blobs(20, 10, 16, spread, 5)[0]
    start = torch.randint(3, (20, 160), generator=torch.Generator().manual_seed(0))
    before = start.clone()
    labels = balance(points, start, 10, size=size)
    assert torch.equal(start, before)
    assert torch.nn.functional.one_hot(labels, 10).sum(1).amax() <= (size or 16)
    near = closeness(points, means(points, labels, 10))
    for own, found in zip(near.numpy(), labels.numpy(), strict=True):
        places = own.repeat(size or 16, 1)
        best = places[linear_sum_assignment(places, maximize=True)].sum()
        assert own[range(160), found].sum() == pytest.approx(best, rel=1e-9)


def test_balanced_kmeans_starts_from_the_clusters_of_kmeans() -> None:
    points = blobs(10, 6, 8, 2.0, 3)[0]
    assert torch.equal(balance(points, kmeans(points, 6, keys(10)).labels, 6), balanced_kmeans(points, 6, keys(10)))


@pytest.mark.parametrize("distinct", [3, 6])
def test_the_place_of_equal_points_does_not_matter(distinct: int) -> None:
    """Where kmeans leaves clusters empty, so that centres have to be made up; rounding may still decide a tie."""
    points = uniform(100, distinct, 4).double()[:, torch.arange(24) % distinct]
    moved = points + torch.tensor([8.0, -16.0, 32.0, 0.0])
    one, other = (inertia(own, balanced_kmeans(own, 8, keys(100)), 8) for own in (points, moved))
    assert torch.isclose(one, other, rtol=1e-6).float().mean() > 0.9


def test_a_problem_is_answered_alike_wherever_it_stands() -> None:
    points = blobs(12, 6, 8, 1.5, 8)[0]
    whole = balanced_kmeans(points, 6, keys(12))
    assert torch.equal(balanced_kmeans(points, 6, keys(12), memory=1), whole)
    assert torch.equal(balanced_kmeans(points.flip(0), 6, keys(12).flip(0)), whole.flip(0))
    alone = [balanced_kmeans(points[i : i + 1], 6, keys(12)[i : i + 1]) for i in range(12)]
    assert torch.equal(torch.cat(alone), whole)


def test_half_precision_points_are_taken_and_left_as_they_are() -> None:
    points, truth = blobs(3, 4, 6, 0.02, 16)
    half = points.half()
    before = half.clone()
    assert ari(balanced_kmeans(half, 4, keys(3)), truth).tolist() == [1.0] * 3
    assert torch.equal(half, before)


def test_no_problems_are_no_labels() -> None:
    assert balanced_kmeans(torch.zeros(0, 6, 3), 2, keys(0)).shape == (0, 6)
    assert assign(torch.zeros(0, 6, 2)).shape == (0, 6)


@pytest.mark.fault("k > points")
def test_kmeans_refuses_what_plain_kmeans_refuses_and_unequal_clusters() -> None:
    points = uniform(2, 10, 2)
    for k in (4, 7):
        with pytest.raises(ValueError, match=f"10 points.* {k} clusters"):
            balanced_kmeans(points, k, keys(2))
    with pytest.raises(ValueError, match=r"\(P, n, D\)"):
        balanced_kmeans(points[0], 2, keys(2))
    with pytest.raises(ValueError, match="k=20 "):
        balanced_kmeans(points, 20, keys(2))
    with pytest.raises(ValueError, match=r"keys must be \(2,\)"):
        balanced_kmeans(points, 2, keys(3))
    points[0, 0, 0] = math.nan
    with pytest.raises(ValueError, match="finite"):
        balanced_kmeans(points, 2, keys(2))


# At most so many points ----------------------------------------------------------------------------------------------


@unhurried
@given(
    st.integers(0, 2**32),
    st.sampled_from(
        [(1, 1, 3), (5, 2, 3), (4, 3, 2), (3, 2, 3), (2, 4, 1), (6, 2, 3), (6, 3, None), (4, 4, None), (4, 1, None)]
    ),
    st.booleans(),
)
def test_assignment_is_the_best_of_all_with_no_more_than_a_size(
    seed: int, sizes: tuple[int, int, int | None], coarse: bool
) -> None:
    n, k, size = sizes
    scores = torch.randn(3, n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if coarse:
        scores = scores.round()
    most = n // k if size is None else size
    every = [labels for labels in itertools.product(range(k), repeat=n) if max(map(labels.count, labels)) <= most]
    found = assign(scores, size)
    assert found.dtype == torch.int64
    for own, labels in zip(scores.tolist(), found.tolist(), strict=True):
        assert tuple(labels) in every
        best = max(sum(own[i][label] for i, label in enumerate(those)) for those in every)
        assert sum(own[i][label] for i, label in enumerate(labels)) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize(("n", "k", "size"), [(7, 2, 3), (1, 4, 0), (5, 0, 9)])
def test_more_points_than_clusters_take_are_refused(n: int, k: int, size: int) -> None:
    message = f"{n} points .* {k} clusters of at most {size} points"
    with pytest.raises(ValueError, match=message):
        assign(torch.zeros(1, n, k), size)
    if n >= k > 0:
        with pytest.raises(ValueError, match=message):
            balanced_kmeans(torch.zeros(1, n, 2), k, keys(1), size=size)


def test_a_size_that_only_just_suffices_is_the_same_as_none() -> None:
    points, scores = blobs(10, 5, 6, 1.5, 4)[0], torch.randn(4, 12, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(assign(scores, 4), assign(scores))
    assert torch.equal(balanced_kmeans(points, 5, keys(10), size=6), balanced_kmeans(points, 5, keys(10)))


def uneven(problems: int, sizes: list[int], spread: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points about far apart centres, of which each has as many as told, and the centre of each."""
    random = torch.Generator().manual_seed(seed)
    each = torch.tensor([cluster for cluster, size in enumerate(sizes) for _ in range(size)])
    truth = torch.stack([each[torch.randperm(len(each), generator=random)] for _ in range(problems)])
    centres = 3 * torch.randn(problems, len(sizes), 8, generator=random)
    noise = torch.randn(*truth.shape, 8, generator=random)
    return centres.gather(1, truth.unsqueeze(-1).expand(-1, -1, 8)) + spread * noise, truth


@pytest.mark.parametrize("sizes", [[16, 15, 13], [16, 16, 9], [4, 1], [6, 6, 6, 2, 5], [16, 3, 1]])
def test_blobs_that_are_not_full_are_found(sizes: list[int]) -> None:
    points, truth = uneven(8, sizes, 0.01)
    labels = balanced_kmeans(points, len(sizes), keys(8), size=max(sizes))
    assert ari(labels, truth).tolist() == [1.0] * 8
    assert torch.nn.functional.one_hot(labels, len(sizes)).sum(1).amax(1).tolist() == [max(sizes)] * 8


@pytest.mark.parametrize("size", [5, 7, 10, 30])
def test_no_cluster_has_more_points_than_the_size(size: int) -> None:
    points = blobs(20, 6, 5, 2.0, 3)[0]
    members = torch.nn.functional.one_hot(balanced_kmeans(points, 6, keys(20), size=size), 6).sum(1)
    assert members.amax() <= size
    assert size == 5 or members.amin() < 5


@pytest.mark.parametrize("n", [1, 9, 24])
@pytest.mark.parametrize("distinct", [1, 3])
def test_equal_points_are_shared_within_the_size(n: int, distinct: int) -> None:
    points = (torch.eye(4) * 0.3)[torch.arange(n) % distinct].expand(3, -1, -1)
    k = min(n, 4)
    labels = balanced_kmeans(points, k, keys(3), size=6)
    assert torch.nn.functional.one_hot(labels, k).sum(1).amax() <= 6
    assert labels.min() >= 0


# Large problems ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "k", "size"), [(600, 30, 20), (520, 40, 16), (501, 3, 400), (504, 252, 2)])
@pytest.mark.parametrize("coarse", [False, True])
def test_a_large_assignment_is_as_good_as_that_to_single_places(n: int, k: int, size: int, coarse: bool) -> None:
    scores = torch.randn(2, n, k, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    if coarse:  # many ties
        scores = scores.round()
    found = assign(scores, size)
    assert torch.nn.functional.one_hot(found, k).sum(1).amax() <= size
    for own, labels in zip(scores.numpy(), found.numpy(), strict=True):
        best = own.repeat(size, 1)[linear_sum_assignment(own.repeat(size, 1), maximize=True)].sum()
        assert own[range(n), labels].sum() == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("far", [0.0, 1e3, 1e30, 1e300])
def test_an_assignment_is_the_best_however_far_a_cluster_is_from_all_points(far: float) -> None:
    scores = torch.randn(5, 24, 4, generator=torch.Generator().manual_seed(0)).double()
    scores[:, :, 2] -= far
    labels = assign(scores)
    assert counts(labels, 4) == [[6] * 4] * 5
    for own, found in zip(scores.numpy(), labels.numpy(), strict=True):
        places, best = linear_sum_assignment(own.repeat(6, 1), maximize=True)
        assert own[range(24), found].sum() == pytest.approx(own[places, best // 6].sum(), rel=1e-12)


@pytest.mark.parametrize("size", [None, 18])
def test_a_large_result_is_a_best_assignment_to_its_own_centres(size: int | None) -> None:
    points = blobs(2, 34, 16, 2.0, 3)[0]
    labels = balanced_kmeans(points, 34, keys(2), restarts=1, size=size)
    near = closeness(points, means(points, labels, 34))
    torch.testing.assert_close(total(near, assign(near, size)), total(near, labels), rtol=1e-9, atol=0)


@pytest.mark.fault("puzzles of 200 images")
@pytest.mark.parametrize("spread", [0.0, 2.0])
def test_a_puzzle_of_200_images_is_clustered_in_bounded_time(spread: float) -> None:
    """One assignment of 3,200 points to places takes SciPy seconds, and there are up to a hundred."""
    points = spread * blobs(1, 200, 16, 1.0, 8)[0]
    started = time.process_time()
    labels = balanced_kmeans(points, 200, keys(1), restarts=1)
    assert time.process_time() - started < 60
    assert labels[0].bincount().tolist() == [16] * 200
