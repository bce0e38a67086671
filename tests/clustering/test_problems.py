from __future__ import annotations

import math
import re
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fragrecon.clustering.problems import MEMORY, centred, check_points, parts, rows_of, squared_distances
from tests.clustering.samples import distances, uniform

unhurried = settings(deadline=None)


@unhurried
@given(st.integers(0, 300), st.integers(1, 1000), st.integers(1, 100_000))
def test_parts_cover_all_problems_once_and_fit_into_memory(problems: int, bytes_each: int, memory: int) -> None:
    found = list(parts(problems, bytes_each, memory))
    assert [index for part in found for index in range(part.start, part.stop)] == list(range(problems))
    sizes = [part.stop - part.start for part in found]
    assert all(size == 1 or size * bytes_each <= memory for size in sizes)
    assert all((size + 1) * bytes_each > memory for size in sizes[:-1])


@pytest.mark.parametrize(("n", "dim"), [(1, 3), (2, 1), (30, 2), (20, 700)])
def test_squared_distances_are_those_of_a_slow_way(n: int, dim: int) -> None:
    points = uniform(4, n, dim) - 0.5
    expected = distances(points).square()
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-13)):
        own = points.to(dtype)
        found = squared_distances(own @ own.mT)
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance * dim)


def test_squared_distances_are_not_negative_and_none_from_a_point_to_itself() -> None:
    points = uniform(4, 10, 16).repeat(1, 4, 1) + 1e-5 * uniform(4, 40, 16, seed=1)
    found = squared_distances(points @ points.mT)
    assert (found >= 0).all()
    assert (found.diagonal(dim1=1, dim2=2) == 0).all()
    torch.testing.assert_close(found, found.mT, rtol=1e-4, atol=1e-4)


def test_centring_leaves_the_points_alone() -> None:
    points = uniform(2, 10, 3)
    before = points.clone()
    centred(points)
    assert torch.equal(points, before)


@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 4, 2), (3, 1, 1, 2), (3, 0)])
def test_rows_are_those_of_indexing(shape: tuple[int, ...]) -> None:
    random = torch.Generator().manual_seed(0)
    matrices = torch.randn(3, 7, 5, generator=random)
    chosen = torch.randint(7, shape, generator=random)
    expected = torch.stack([own[places] for own, places in zip(matrices, chosen, strict=True)])
    assert torch.equal(rows_of(matrices, chosen), expected)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_centred_points_have_mean_zero_and_a_largest_coordinate_of_one(scale: float) -> None:
    points = (uniform(4, 20, 3) + 2) * torch.tensor([1, 2, 3, 4]).view(4, 1, 1) * scale
    about_mean, found = centred(points)
    assert found.shape == (4,)
    torch.testing.assert_close(about_mean.mean(1), torch.zeros(4, 3), rtol=0, atol=1e-5)
    assert about_mean.abs().amax((1, 2)).tolist() == [1.0] * 4
    back = points.double() - points.double().mean(1, keepdim=True)
    torch.testing.assert_close(about_mean.double() * found.view(4, 1, 1), back, rtol=1e-4, atol=1e-5 * scale)


def test_equal_points_are_centred_to_zero() -> None:
    about_mean, scale = centred(torch.full((2, 4, 3), 0.25))
    assert not about_mean.any()
    assert scale.tolist() == [0.25, 0.25]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_number_that_is_not_finite_is_refused(dtype: torch.dtype, value: float) -> None:
    points = uniform(3, 10, 2).to(dtype)
    check_points(points, 10)
    points[2, 9, 1] = value
    with pytest.raises(ValueError, match="finite"):
        check_points(points, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_sum_that_overflows_is_no_reason_to_refuse(dtype: torch.dtype) -> None:
    points = torch.full((3, 100, 20), torch.finfo(dtype).max, dtype=dtype)
    assert not torch.isfinite(points.sum())
    check_points(points, 2)


@pytest.mark.parametrize("shape", [(9, 4), (9,), (1, 1, 9, 4), ()])
def test_the_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=re.escape(str(shape))):
        check_points(torch.zeros(shape), 1)


@pytest.mark.parametrize(("k", "n"), [(-1, 9), (0, 9), (10, 9), (1, 0)])
def test_a_number_of_clusters_that_cannot_be_is_refused(k: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"k={k} .*{n}"):
        check_points(torch.zeros(2, n, 3), k)


HUNGRY = """
import resource
import torch
from fragrecon.clustering.kmeans import kmeans
from fragrecon.clustering.kmedoids import kmedoids
from fragrecon.seeds import keys_of

points = torch.randn(1, 800, 4, generator=torch.Generator().manual_seed(0))

def peak(problems):
    many = points.expand(problems, -1, -1)
    kmeans(many, 20, keys_of(0, "test", 0, problems), restarts=2)
    kmedoids(many, 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

small = points[:, :60]
kmeans(small, 5, keys_of(0, "test", 0, 1))
kmedoids(small, 5)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, peak(4), peak(12))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts in the units of Linux")
def test_memory_does_not_grow_with_the_number_of_problems() -> None:
    output = subprocess.run([sys.executable, "-c", HUNGRY], capture_output=True, text=True, check=True).stdout
    start, few, many = (int(number) * 2**10 for number in output.split())
    assert few - start < 1.5 * MEMORY
    assert many - few < 16 * 2**20
