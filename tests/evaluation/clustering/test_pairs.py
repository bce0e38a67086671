from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, roc_auc_score
from torch import Tensor

from fragrecon.clustering.backends import BACKENDS
from fragrecon.data.puzzles import FragmentBatch
from fragrecon.evaluation.clustering.pairs import auroc, score_pairs
from fragrecon.evaluation.clustering.protocol import ClusteringProtocol
from fragrecon.models.base import PairScores
from tests.evaluation.samples import alone_of, puzzles

PROTOCOL = ClusteringProtocol(BACKENDS["batched"], restarts=5, seed=0, memory=2**26)
NAMES = {"spectral_ari", "spectral_nmi", "spectral_accuracy", "same_auroc", "adjacency_auroc"}
unhurried = settings(deadline=None, max_examples=20)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def symmetric(scores: Tensor) -> Tensor:
    return (scores + scores.mT) / 2


def random_scores(batch: FragmentBatch, seed: int = 0) -> PairScores:
    count, fragments = batch.source_ids.shape
    same, adjacent = torch.rand(2, count, fragments, fragments, generator=seeded(seed))
    return PairScores(symmetric(same), symmetric(adjacent))


def pairs_of(batch: FragmentBatch, puzzle: int, columns: int) -> list[tuple[int, int, bool, bool]]:
    """Each pair once, whether it is of one image, and whether it abuts; by a slow loop."""
    places = list(zip(batch.source_ids[puzzle].tolist(), batch.positions[puzzle].tolist(), strict=True))
    found = []
    for i, (image, cell) in enumerate(places):
        for j, (other, far) in enumerate(places[:i]):
            apart = abs(cell // columns - far // columns) + abs(cell % columns - far % columns)
            found.append((j, i, image == other, image == other and apart == 1))
    return found


def true_scores(batch: FragmentBatch, columns: int) -> PairScores:
    same = (batch.source_ids.unsqueeze(1) == batch.source_ids.unsqueeze(2)).float()
    adjacent = torch.zeros_like(same)
    for b in range(len(batch)):
        for i, j, _, touching in pairs_of(batch, b, columns):
            adjacent[b, i, j] = adjacent[b, j, i] = float(touching)
    return PairScores(same, adjacent)


# Area under the curve -------------------------------------------------------------------------------------------------


@unhurried
@given(st.integers(0, 2**32), st.integers(2, 40), st.sampled_from([1, 3, 1000]))
def test_the_area_is_that_of_scikit_learn_also_with_ties(seed: int, count: int, levels: int) -> None:
    scores = (torch.randn(4, count, generator=seeded(seed)) * levels).round() / levels
    positive = torch.rand(4, count, generator=seeded(seed + 1)) < 0.4
    positive[:, 0], positive[:, 1] = True, False
    found = auroc(scores, positive)
    assert found.dtype == torch.float64
    expected = [roc_auc_score(p.numpy(), s.numpy()) for s, p in zip(scores, positive, strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=1e-12)


def test_perfect_reversed_and_equal_scores_have_known_areas() -> None:
    positive = torch.tensor([[True, False, True, False, False]])
    assert auroc(positive.float(), positive).tolist() == [1.0]
    assert auroc(-positive.float(), positive).tolist() == [0.0]
    assert auroc(torch.full((1, 5), 3.0), positive).tolist() == [0.5]
    infinite = torch.where(positive, -math.inf, math.inf)
    assert auroc(infinite, positive).tolist() == [0.0]


@pytest.mark.parametrize("value", [True, False])
def test_where_there_is_one_kind_alone_the_area_is_one_half(value: bool) -> None:
    scores = torch.rand(3, 7, generator=seeded(0))
    assert auroc(scores, torch.full((3, 7), value)).tolist() == [0.5] * 3


def test_the_area_depends_on_the_order_of_scores_alone() -> None:
    scores, positive = torch.randn(5, 30, generator=seeded(0)), torch.rand(5, 30, generator=seeded(1)) < 0.5
    found = auroc(scores, positive)
    assert torch.equal(auroc(scores.exp() - 5, positive), found)
    torch.testing.assert_close(auroc(-scores, positive), 1 - found)
    order = torch.randperm(30, generator=seeded(2))
    assert torch.equal(auroc(scores[:, order], positive[:, order]), found)
    assert torch.equal(auroc(scores[2:3], positive[2:3]), found[2:3])


# Pairs of a puzzle ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("images", "grid"), [(10, (4, 4)), (2, (1, 2)), (3, (2, 3)), (2, (3, 1))])
def test_scores_of_the_truth_are_perfect(images: int, grid: tuple[int, int]) -> None:
    batch = puzzles(3, images, grid[0] * grid[1])
    found = score_pairs(true_scores(batch, grid[1]), batch, grid, PROTOCOL)
    assert set(found) == NAMES
    for name, values in found.items():
        assert values.tolist() == pytest.approx([1.0] * 3, abs=1e-12), name
        assert values.dtype == torch.float64


def test_random_scores_are_chance() -> None:
    batch = puzzles(40, 5, 6)
    found = score_pairs(random_scores(batch), batch, (2, 3), PROTOCOL)
    for name, chance in (("same_auroc", 0.5), ("adjacency_auroc", 0.5), ("spectral_ari", 0.0)):
        assert found[name].mean().item() == pytest.approx(chance, abs=4 * found[name].std().item() / 40**0.5), name
    assert found["spectral_accuracy"].mean() < 0.5


def test_scores_that_are_all_alike_tell_nothing() -> None:
    batch = puzzles(2, 4, 4)
    found = score_pairs(PairScores(torch.ones(2, 16, 16), torch.ones(2, 16, 16)), batch, (2, 2), PROTOCOL)
    assert found["same_auroc"].tolist() == found["adjacency_auroc"].tolist() == [0.5, 0.5]
    assert found["spectral_ari"].max() < 0.5


@pytest.mark.parametrize("grid", [(2, 3), (3, 2), (1, 6)])
def test_areas_are_those_of_scikit_learn_over_pairs_counted_once(grid: tuple[int, int]) -> None:
    batch = puzzles(4, 3, 6)
    truth, noise = true_scores(batch, grid[1]), random_scores(batch)
    scores = PairScores(truth.same + 2 * noise.same, truth.adjacent + 3 * noise.adjacent)
    found = score_pairs(scores, batch, grid, PROTOCOL)
    for b in range(4):
        pairs = pairs_of(batch, b, grid[1])
        same = roc_auc_score([pair[2] for pair in pairs], [scores.same[b, i, j].item() for i, j, _, _ in pairs])
        touch = roc_auc_score([pair[3] for pair in pairs], [scores.adjacent[b, i, j].item() for i, j, _, _ in pairs])
        assert found["same_auroc"][b].item() == pytest.approx(same, abs=1e-12)
        assert found["adjacency_auroc"][b].item() == pytest.approx(touch, abs=1e-12)


def test_clear_clusters_that_are_not_the_images_have_the_agreement_of_scikit_learn() -> None:
    batch = puzzles(5, 4, 6)
    seen = torch.stack([torch.randperm(24, generator=seeded(i)) % 4 for i in range(5)])
    mixed = torch.where(batch.positions < 3, batch.source_ids, seen)
    balanced = torch.empty_like(mixed)
    balanced.scatter_(1, mixed.argsort(1), (torch.arange(24) // 6).expand(5, -1))
    same = (balanced.unsqueeze(1) == balanced.unsqueeze(2)).float()
    found = score_pairs(PairScores(same, same), batch, (2, 3), PROTOCOL)
    for b, truth in enumerate(batch.source_ids.tolist()):
        own = balanced[b].tolist()
        assert found["spectral_ari"][b].item() == pytest.approx(adjusted_rand_score(truth, own), abs=1e-12)
        assert found["spectral_nmi"][b].item() == pytest.approx(normalized_mutual_info_score(truth, own), abs=1e-12)
    assert len(set(found["spectral_ari"].tolist())) > 1
    assert found["spectral_accuracy"].max() < 1


def test_spectral_clusters_have_equal_size() -> None:
    batch = puzzles(3, 2, 4)
    # One fragment of image 1 goes with image 0 a little more than with its own.
    same = (batch.source_ids.unsqueeze(1) == batch.source_ids.unsqueeze(2)).float()
    for b in range(3):
        stray = int(torch.nonzero((batch.source_ids[b] == 1) & (batch.positions[b] == 2))[0])
        weights = torch.where(batch.source_ids[b] == 0, 0.55, 0.45)
        same[b, stray] = same[b, :, stray] = weights
        same[b, stray, stray] = 1
    found = score_pairs(PairScores(same, same), batch, (2, 2), PROTOCOL)
    assert found["spectral_accuracy"].tolist() == [1.0] * 3


def test_scores_of_pairs_do_not_depend_on_the_other_puzzles_or_on_the_order_of_fragments() -> None:
    batch = puzzles(4, 3, 6)
    truth, noise = true_scores(batch, 3), random_scores(batch)
    scores = PairScores(truth.same + 0.5 * noise.same, truth.adjacent + noise.adjacent)
    whole = score_pairs(scores, batch, (2, 3), PROTOCOL)
    for b in range(4):
        own = alone_of(batch, b)
        alone = score_pairs(PairScores(scores.same[b : b + 1], scores.adjacent[b : b + 1]), own, (2, 3), PROTOCOL)
        for name, values in alone.items():
            assert values.item() == pytest.approx(whole[name][b].item(), abs=1e-12), name
    order = torch.randperm(18, generator=seeded(1))
    moved = FragmentBatch(
        batch.fragments[:, order],
        batch.source_ids[:, order],
        batch.positions[:, order],
        batch.rotations[:, order],
        batch.labels[:, order],
        batch.image_ids,
        batch.step,
    )
    other = PairScores(scores.same[:, order][..., order], scores.adjacent[:, order][..., order])
    for name in ("same_auroc", "adjacency_auroc"):
        assert torch.equal(score_pairs(other, moved, (2, 3), PROTOCOL)[name], whole[name])


def test_the_rest_of_the_protocol_reaches_the_clustering() -> None:
    batch = puzzles(20, 6, 6)
    noise = random_scores(batch)
    scores = PairScores(
        noise.same + 0.2 * F.one_hot(batch.source_ids).float() @ F.one_hot(batch.source_ids).float().mT, noise.adjacent
    )
    first = score_pairs(scores, batch, (2, 3), PROTOCOL)
    assert torch.equal(score_pairs(scores, batch, (2, 3), PROTOCOL)["spectral_ari"], first["spectral_ari"])
    for change in ({"seed": 1}, {"restarts": 1}):
        other = ClusteringProtocol(**vars(PROTOCOL) | change)
        assert not torch.equal(score_pairs(scores, batch, (2, 3), other)["spectral_ari"], first["spectral_ari"])
