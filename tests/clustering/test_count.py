from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fragrecon.clustering.count import estimate_count
from fragrecon.clustering.spectral import local_affinity, spectrum
from tests.clustering.samples import blobs, uniform


def corners(k: int, size: int, dim: int = 16, spread: float = 0.02) -> Tensor:
    """Points (3, k * size, dim), in shuffled order, of k blobs whose centres are far apart."""
    random = torch.Generator().manual_seed(k)
    truth = torch.stack([torch.randperm(k * size, generator=random) % k for _ in range(3)])
    return torch.eye(dim)[truth] + spread * torch.randn(*truth.shape, dim, generator=random)


@pytest.mark.parametrize("k", [2, 5, 12])
def test_blobs_far_apart_are_counted(k: int) -> None:
    found = estimate_count(corners(k, 16), 12)
    assert found.dtype == torch.int64
    assert found.tolist() == [k] * 3


@pytest.mark.parametrize("largest", [2, 3, 5, 12, 59])
def test_counts_lie_in_the_range_and_at_the_widest_gap(largest: int) -> None:
    points = uniform(20, 60, 3)
    found = estimate_count(points, largest).tolist()
    for count, values in zip(found, spectrum(local_affinity(points)).tolist(), strict=True):
        gaps = {k: values[k - 1] - values[k] for k in range(2, largest + 1)}
        assert count == max(gaps, key=lambda k: gaps[k])


def test_a_problem_is_answered_alike_wherever_it_stands() -> None:
    points, _ = blobs(30, 6, 12, 0.6, 8)
    whole = estimate_count(points, 12)
    assert len(set(whole.tolist())) > 1
    for memory in (1, 2**20, 2**40):
        assert torch.equal(estimate_count(points, 12, memory=memory), whole)
    assert torch.equal(torch.cat([estimate_count(points[i : i + 1], 12) for i in range(30)]), whole)
    assert torch.equal(estimate_count(points.flip(0), 12), whole.flip(0))


@pytest.mark.parametrize("distinct", [2, 3, 5])
def test_distinct_points_are_counted_where_each_comes_often(distinct: int) -> None:
    points = torch.eye(8)[torch.arange(60) % distinct].expand(2, -1, -1)
    assert estimate_count(points, 10).tolist() == [distinct] * 2


def test_equal_points_and_no_problems_are_answered() -> None:
    assert 2 <= int(estimate_count(torch.full((1, 20, 3), 0.3), 10)) <= 10
    assert estimate_count(torch.zeros(0, 20, 3), 10).shape == (0,)


@pytest.mark.parametrize(("n", "largest"), [(20, 1), (20, 20), (2, 2)])
def test_a_range_without_room_is_refused(n: int, largest: int) -> None:
    with pytest.raises(ValueError, match=f"largest={largest} "):
        estimate_count(uniform(1, n, 2), largest)


def test_what_cannot_be_clustered_is_refused() -> None:
    points = uniform(2, 20, 2)
    with pytest.raises(ValueError, match=r"\(P, n, D\)"):
        estimate_count(points[0], 5)
    with pytest.raises(ValueError, match="k=0 "):
        estimate_count(points, 0)
    with pytest.raises(ValueError, match="k=21 "):
        estimate_count(points, 21)
    points[1, 3, 1] = math.nan
    with pytest.raises(ValueError, match="finite"):
        estimate_count(points, 5)
