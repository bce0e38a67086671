from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kmedoids import fasterpam
from torch import Tensor

from fragrecon.clustering.kmedoids import KMedoids, _build, kmedoids
from tests.clustering.samples import FAMILIES, Floats, ari, blobs, distances, fragments, is_not_lower, uniform

unhurried = settings(deadline=None, max_examples=40)
LARGE = 2**40


def reference(points: Tensor, k: int) -> tuple[Tensor, Floats]:
    """Labels (P, n) and loss (P,) of FasterPAM."""
    solved = [fasterpam(own.numpy(), k, init="build", n_cpu=1) for own in distances(points).float()]
    labels = torch.stack([torch.from_numpy(one.labels.astype("int64")) for one in solved])
    return labels, np.array([one.loss for one in solved])


def loss_of(apart: Tensor, medoids: Tensor) -> Tensor:
    """Sums (P,) of distances to the nearest of the medoids, by distances (P, n, n)."""
    return torch.stack([own[chosen].amin(0).sum() for own, chosen in zip(apart, medoids, strict=True)])


# As good as FasterPAM -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_loss_and_ari_are_those_of_fasterpam() -> None:
    relative: list[Floats] = []
    for name, family in FAMILIES.items():
        points, truth = family(50)
        found = kmedoids(points, 10)
        labels, least = reference(points, 10)
        relative.append(found.loss.numpy() / least - 1)
        assert abs(relative[-1].mean()) < 0.0015, name
        if truth is not None:
            assert is_not_lower(ari(found.labels, truth), ari(labels, truth)), name
    # Without the first, eager pass it is 0.0004 above.
    assert abs(np.concatenate(relative).mean()) < 0.0003


@pytest.mark.real
@pytest.mark.slow
def test_fragments_of_real_images_are_clustered_as_well_as_by_fasterpam(real_data: Path) -> None:
    points, truth = fragments(real_data, 60)
    found = kmedoids(points, 10)
    labels, least = reference(points, 10)
    assert abs((found.loss.numpy() / least - 1).mean()) < 0.001
    assert is_not_lower(ari(found.labels, truth), ari(labels, truth))
    assert 0.1 < ari(found.labels, truth).mean() < 0.2


# What the answer holds ------------------------------------------------------------------------------------------------


def several() -> list[tuple[Tensor, int]]:
    return [
        (blobs(20, 10, 16, 0.5, 2)[0], 10),
        (blobs(20, 10, 16, 3.0, 128)[0], 10),
        (uniform(20, 60, 3), 25),
        (uniform(20, 40, 1), 2),
        (uniform(20, 40, 2), 1),
    ]


def test_points_go_to_their_nearest_medoid_and_the_loss_is_the_sum() -> None:
    for points, k in several():
        apart = distances(points)
        found = kmedoids(points, k)
        assert found.labels.dtype == found.medoids.dtype == torch.int64
        assert found.medoids.shape == (len(points), k)
        for own, labels, medoids in zip(apart, found.labels, found.medoids, strict=True):
            to_medoids = own[:, medoids]
            torch.testing.assert_close(
                to_medoids.gather(1, labels.unsqueeze(1)).squeeze(1), to_medoids.amin(1), rtol=1e-5, atol=1e-6
            )
        assert found.loss.dtype == torch.float64
        torch.testing.assert_close(found.loss, loss_of(apart, found.medoids), rtol=1e-6, atol=0)
        assert all(len(set(row)) == k for row in found.medoids.tolist())
        assert torch.equal(found.labels.gather(1, found.medoids), torch.arange(k).expand(len(points), -1))


@pytest.mark.parametrize("n", [1, 2, 9])
def test_as_many_medoids_as_points_are_all_of_them(n: int) -> None:
    found = kmedoids(uniform(6, n, 4), n)
    assert found.medoids.sort(1).values.tolist() == [list(range(n))] * 6
    assert found.labels.sort(1).values.tolist() == [list(range(n))] * 6
    assert found.loss.tolist() == [0.0] * 6


def test_no_loss_is_far_above_the_best_of_all_choices() -> None:
    points = uniform(40, 12, 2)
    choices = torch.combinations(torch.arange(12), 3)
    best = torch.stack([own[choices].amin(1).sum(1).min() for own in distances(points)])
    found = kmedoids(points, 3).loss
    assert (found >= best * (1 - 1e-6)).all()
    assert (found / best).mean() < 1.02
    assert (found < best * (1 + 1e-6)).float().mean() > 0.7


def test_the_start_is_build() -> None:
    """Each medoid lowers the loss as much as any other point could; two nearest neighbours often do so equally."""
    for own, medoids in zip(apart := distances(uniform(5, 20, 2)), _build(apart, 6), strict=True):
        for place in range(6):
            losses = torch.stack([own[[*medoids[:place].tolist(), point]].amin(0).sum() for point in range(20)])
            torch.testing.assert_close(losses[medoids[place]], losses.min(), rtol=1e-12, atol=0)


# Degenerate points ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, -1e20])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (10, 4), (10, 10)])
def test_equal_points_have_no_loss(value: float, n: int, k: int) -> None:
    found = kmedoids(torch.full((3, n, 6), value), k)
    assert found.loss.tolist() == [0.0] * 3
    assert (found.labels == found.labels[:, :1]).all()
    assert all(len(set(row)) == k for row in found.medoids.tolist())


@pytest.mark.parametrize(("copies", "k"), [(2, 3), (3, 5), (8, 9)])
def test_equal_points_go_together(copies: int, k: int) -> None:
    points = torch.eye(3).repeat(20, copies, 1)
    found = kmedoids(points, min(k, 3 * copies))
    assert ari(found.labels, (torch.arange(3 * copies) % 3).expand(20, -1)).tolist() == [1.0] * 20
    assert found.loss.tolist() == [0.0] * 20


def test_no_problems_are_no_labels() -> None:
    found = kmedoids(torch.zeros(0, 6, 3), 2)
    assert found.labels.shape == (0, 6)
    assert found.loss.shape == (0,)
    assert found.medoids.shape == (0, 2)


# Where a problem stands -----------------------------------------------------------------------------------------------


def same(one: KMedoids, other: KMedoids) -> bool:
    return all(torch.equal(some, others) for some, others in zip(one, other, strict=True))


def test_a_problem_is_answered_alike_wherever_it_stands() -> None:
    for points, k in [*several(), (blobs(200, 3, 3, 0.5, 4)[0], 3)]:
        whole = kmedoids(points, k, memory=LARGE)
        for memory in (1, 2**20, 2**22):
            assert same(kmedoids(points, k, memory=memory), whole)
        order = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))
        assert same(kmedoids(points[order], k), KMedoids(*(part[order] for part in whole)))
        assert same(kmedoids(points[3:9], k), KMedoids(*(part[3:9] for part in whole)))


def test_threads_do_not_change_the_answer() -> None:
    before = torch.get_num_threads()
    try:
        for points, k in several()[:1]:
            found = []
            for threads in (1, 2):
                torch.set_num_threads(threads)
                found.append(kmedoids(points[:5], k))
            assert same(*found)
    finally:
        torch.set_num_threads(before)


@unhurried
@given(st.integers(0, 2**32), st.integers(1, 20), st.integers(1, 4), st.data())
def test_any_points_get_medoids_that_no_swap_betters(seed: int, n: int, dim: int, data: st.DataObject) -> None:
    """On a coarse grid, so with ties and duplicates."""
    k = data.draw(st.integers(1, n))
    points = (uniform(1, n, dim, seed) * 4).round()
    found, apart = kmedoids(points, k), distances(points)[0]
    medoids = found.medoids[0].tolist()
    assert len(set(medoids)) == k
    assert float(found.loss) == pytest.approx(float(apart[medoids].amin(0).sum()), rel=1e-5, abs=1e-5)
    for place, other in itertools.product(range(k), range(n)):
        swapped = [*medoids[:place], other, *medoids[place + 1 :]]
        assert apart[swapped].amin(0).sum() >= float(found.loss) * (1 - 1e-5) - 1e-5


# Scales and types -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [-60, 60])
def test_a_power_of_two_as_scale_changes_no_bit(power: int) -> None:
    points = uniform(10, 60, 8)
    plain, scaled = kmedoids(points, 6), kmedoids(points * 2.0**power, 6)
    assert torch.equal(scaled.medoids, plain.medoids)
    assert torch.equal(scaled.loss, plain.loss * 2.0**power)


@pytest.mark.parametrize("scale", [1e-300, 1e-20, 1e20, 1e300])
def test_no_finite_scale_is_too_small_or_too_large(scale: float) -> None:
    points, truth = blobs(5, 6, 10, 0.05, 8)
    found = kmedoids(points.double() * scale, 6)
    assert ari(found.labels, truth).tolist() == [1.0] * 5
    torch.testing.assert_close(found.loss / scale, kmedoids(points, 6).loss, rtol=1e-6, atol=0)


def test_distances_of_far_off_points_are_those_of_near_ones() -> None:
    # Products of the points as they are would lose these two groups in the rounding of their squares.
    row = torch.tensor([0, 0.25, 0.5, 4, 4.25, 4.5])
    for offset in (0.0, 40960.0, -(2.0**20)):
        found = kmedoids((row + offset).view(1, 6, 1).repeat(1, 1, 64), 2)
        assert found.labels[0].tolist() in ([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0])
        assert found.medoids[0].sort().values.tolist() == [1, 4]
        assert float(found.loss) == pytest.approx(4 * 0.25 * 8, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_all_floating_types_are_taken(dtype: torch.dtype) -> None:
    points = uniform(5, 60, 8).to(dtype)
    assert same(kmedoids(points, 6), kmedoids(points.double(), 6))


def test_autocast_does_not_lower_the_precision() -> None:
    points = uniform(20, 160, 64)
    expected = kmedoids(points, 10)
    with torch.autocast("cpu", torch.bfloat16):
        found = kmedoids(points, 10)
    assert torch.equal(found.medoids, expected.medoids)
