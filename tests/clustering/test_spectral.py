from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.cluster
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fragrecon.clustering.kmeans import kmeans
from fragrecon.clustering.spectral import local_affinity, spectral, spectral_embedding, spectrum
from fragrecon.seeds import keys_of
from tests.clustering.samples import ari, distances, uniform

unhurried = settings(deadline=None, max_examples=50)


def keys(problems: int) -> Tensor:
    return keys_of(0, "test", 0, problems)


def rings(problems: int, size: int = 60) -> tuple[Tensor, Tensor]:
    """Points (P, 2 * size, 2) on two rings about one centre, and the ring of each."""
    random = torch.Generator().manual_seed(0)
    truth = torch.stack([torch.randperm(2 * size, generator=random) % 2 for _ in range(problems)])
    angle = 2 * math.pi * truth.argsort(1).argsort(1) / size
    radius = 1 + 3 * truth + 0.05 * torch.randn(truth.shape, generator=random)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], -1), truth


def blocks(problems: int, k: int, size: int, within: float, across: float) -> tuple[Tensor, Tensor]:
    """Affinities (P, n, n) that are higher within blocks, with noise, and the block of each point."""
    random = torch.Generator().manual_seed(1)
    truth = torch.stack([torch.randperm(k * size, generator=random) % k for _ in range(problems)])
    alike = truth.unsqueeze(2) == truth.unsqueeze(1)
    noise = torch.rand(alike.shape, generator=random)
    return torch.where(alike, within, across) * noise, truth


def random_affinity(seed: int, n: int, problems: int = 2, share: float = 1.0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    full = torch.rand(problems, n, n, generator=random, dtype=torch.float64)
    full = full * (torch.rand(problems, n, n, generator=random) < share)
    return full + full.mT


# Clustering -----------------------------------------------------------------------------------------------------------


def test_rings_about_one_centre_are_told_apart_where_kmeans_fails() -> None:
    points, truth = rings(4)
    assert ari(kmeans(points, 2, keys(4)).labels, truth).max() < 0.2
    assert ari(spectral(torch.exp(-8 * distances(points).square()), 2, keys(4)), truth).tolist() == [1.0] * 4
    assert ari(spectral(local_affinity(points), 2, keys(4)), truth).tolist() == [1.0] * 4


@pytest.mark.parametrize(("k", "size"), [(2, 3), (10, 16), (5, 4)])
@pytest.mark.parametrize("across", [0.0, 0.02])
def test_blocks_are_found(k: int, size: int, across: float) -> None:
    affinity, truth = blocks(5, k, size, 1.0, across)
    labels = spectral(affinity, k, keys(5))
    assert labels.dtype == torch.int64
    assert ari(labels, truth).tolist() == [1.0] * 5


def test_easy_graphs_are_divided_as_by_scikit_learn() -> None:
    affinity, truth = blocks(5, 4, 20, 1.0, 0.3)
    symmetric = (affinity + affinity.mT) / 2
    found = spectral(affinity, 4, keys(5))
    solver = sklearn.cluster.SpectralClustering(4, affinity="precomputed", random_state=0)
    theirs = torch.stack([torch.from_numpy(solver.fit_predict(own.numpy())).long() for own in symmetric])
    assert ari(found, theirs).tolist() == [1.0] * 5
    assert ari(found, truth).tolist() == [1.0] * 5


def test_one_way_affinities_count_by_their_symmetric_part() -> None:
    affinity = random_affinity(0, 20)
    one_way = 2 * affinity.triu(1) + affinity.diagonal(dim1=1, dim2=2).diag_embed()
    torch.testing.assert_close(spectrum(one_way), spectrum(affinity), rtol=0, atol=1e-12)
    graph, truth = blocks(3, 3, 10, 1.0, 0.01)
    assert ari(spectral(graph.triu(), 3, keys(3)), truth).tolist() == [1.0] * 3


def test_a_point_that_goes_with_none_disturbs_no_other() -> None:
    affinity, truth = blocks(3, 3, 10, 1.0, 0.0)
    affinity[:, 4] = 0
    affinity[:, :, 4] = 0
    labels = spectral(affinity, 3, keys(3))
    others = [point for point in range(30) if point != 4]
    assert ari(labels[:, others], truth[:, others]).tolist() == [1.0] * 3
    assert torch.isfinite(spectral_embedding(affinity, 3)).all()
    assert torch.isfinite(spectrum(affinity)).all()


def test_a_problem_is_answered_alike_wherever_it_stands() -> None:
    affinity, _ = blocks(10, 5, 10, 1.0, 0.6)
    whole = spectral(affinity, 5, keys(10))
    one_by_one, turned = spectral(affinity, 5, keys(10), memory=1), spectral(affinity.flip(0), 5, keys(10).flip(0))
    alone = spectral(affinity[4:5], 5, keys(10)[4:5])
    for found, expected in ((one_by_one, whole), (turned, whole.flip(0)), (alone, whole[4:5])):
        assert (ari(found, expected) == 1).all()


def test_no_problems_are_no_labels() -> None:
    assert spectral(torch.zeros(0, 6, 6), 2, keys(0)).shape == (0, 6)


# Spectrum -------------------------------------------------------------------------------------------------------------


@unhurried
@given(st.integers(0, 2**32), st.integers(2, 12))
def test_the_spectrum_is_that_of_the_random_walk(seed: int, n: int) -> None:
    """D^-1 A has the eigenvalues of D^-1/2 A D^-1/2, though it is not symmetric."""
    affinity = random_affinity(seed, n)
    found = spectrum(affinity)
    assert found.dtype == torch.float64
    for own, values in zip(affinity.numpy(), found, strict=True):
        walk = np.linalg.eigvals(own / own.sum(1, keepdims=True))
        np.testing.assert_allclose(values.numpy(), np.sort(walk.real)[::-1], rtol=0, atol=1e-9)
    torch.testing.assert_close(found[:, 0], torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_the_greatest_eigenvalue_is_one_as_often_as_there_are_parts_apart(parts: int) -> None:
    affinity, _ = blocks(4, parts, 6, 1.0, 0.0)
    values = spectrum(affinity)
    assert ((values - 1).abs() < 1e-9).sum(1).tolist() == [parts] * 4
    assert (values.diff(dim=1) <= 1e-12).all()
    assert (values >= -1 - 1e-9).all()


# Embedding ------------------------------------------------------------------------------------------------------------


def test_the_embedding_spans_the_leading_eigenvectors_in_rows_of_length_one() -> None:
    affinity = random_affinity(0, 20)
    found = spectral_embedding(affinity, 4)
    assert found.shape == (2, 20, 4)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.norm(dim=2), torch.ones(2, 20, dtype=torch.float64), rtol=0, atol=1e-12)
    for own, rows in zip(affinity.numpy(), found.numpy(), strict=True):
        values, vectors = np.linalg.eig(own / own.sum(1, keepdims=True))
        # Of the random walk the eigenvectors are those of the other over the root of the degree: a scale of each row.
        leading = vectors[:, np.argsort(-values.real)[:4]].real * np.sqrt(own.sum(1, keepdims=True))
        basis = np.linalg.qr(leading)[0]
        expected = basis / np.linalg.norm(basis, axis=1, keepdims=True)
        np.testing.assert_allclose(rows @ rows.T, expected @ expected.T, rtol=0, atol=1e-8)


def test_points_of_one_part_are_embedded_at_one_place_and_parts_at_right_angles() -> None:
    affinity, truth = blocks(3, 4, 8, 1.0, 0.0)
    found = spectral_embedding(affinity, 4)
    alike = (truth.unsqueeze(2) == truth.unsqueeze(1)).double()
    torch.testing.assert_close(found @ found.mT, alike, rtol=0, atol=1e-9)


# Affinity of points ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "dim"), [(20, 2), (30, 200), (5, 3), (8, 1)])
def test_local_affinity_is_that_of_a_slow_loop(n: int, dim: int) -> None:
    points = uniform(2, n, dim).double()
    found = local_affinity(points)
    torch.testing.assert_close(local_affinity(points.float()), found, rtol=0, atol=1e-6)
    assert found.dtype == torch.float64
    for own, apart in zip(found, distances(points).tolist(), strict=True):
        scale = [sorted(row)[min(7, n - 1)] for row in apart]
        for i in range(n):
            for j in range(n):
                expected = math.exp(-(apart[i][j] ** 2) / scale[i] / scale[j])
                assert float(own[i, j]) == pytest.approx(expected, abs=1e-12)


def test_local_affinity_does_not_see_scale_and_place() -> None:
    points = uniform(2, 20, 3).double()
    expected = local_affinity(points)
    for scale, offset in ((1e-6, 0), (1e6, 0), (1, 1_000_000)):
        torch.testing.assert_close(local_affinity(points * scale + offset), expected, rtol=0, atol=1e-7)


def test_equal_points_go_together_fully_and_with_others_not_at_all() -> None:
    points = torch.eye(3)[torch.arange(30) % 3].unsqueeze(0)
    alike = torch.arange(30).unsqueeze(0) % 3 == torch.arange(30).unsqueeze(1) % 3
    assert torch.equal(local_affinity(points)[0], alike.double())
    assert torch.equal(local_affinity(torch.full((1, 5, 2), 0.3))[0], torch.ones(5, 5, dtype=torch.float64))


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-1e-9, math.nan, math.inf, -math.inf])
def test_affinities_that_are_negative_or_not_finite_are_refused(value: float) -> None:
    affinity = random_affinity(0, 6)
    affinity[1, 2, 3] = value
    with pytest.raises(ValueError, match="finite and not negative"):
        spectrum(affinity)
    with pytest.raises(ValueError, match="finite and not negative"):
        spectral(affinity, 2, keys(2))


@pytest.mark.parametrize("shape", [(6, 6), (2, 6, 5), (1, 2, 6, 6)])
def test_affinities_of_the_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(P, n, n\)"):
        spectrum(torch.ones(shape))
    with pytest.raises(ValueError, match=r"\(P, n, n\)"):
        spectral(torch.ones(shape), 2, keys(shape[0]))


@pytest.mark.parametrize("k", [-1, 0, 7])
def test_a_number_of_clusters_that_cannot_be_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"k={k} .*6"):
        spectral(torch.ones(1, 6, 6), k, keys(1))
