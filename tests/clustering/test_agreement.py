from __future__ import annotations

import itertools
import math
from fractions import Fraction
from random import Random

import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix, pair_confusion_matrix
from torch import Tensor

from fragrecon.clustering.agreement import (
    _expected_mutual_info,
    accuracy,
    adjusted_mutual_info,
    adjusted_rand_index,
    contingency,
    normalized_mutual_info,
    pair_precision,
    pair_recall,
    purity,
)

Labels = npt.NDArray[np.int64]
TIGHT = 1e-12
unhurried = settings(deadline=None, max_examples=40)
SCORES = (
    adjusted_rand_index,
    normalized_mutual_info,
    purity,
    adjusted_mutual_info,
    accuracy,
    pair_precision,
    pair_recall,
)


def slow_purity(predicted: Labels, truth: Labels) -> float:
    right = 0
    for cluster in set(predicted.tolist()):
        members = [int(t) for p, t in zip(predicted, truth, strict=True) if p == cluster]
        right += max(members.count(label) for label in members)
    return right / len(truth)


def slow_accuracy(predicted: Labels, truth: Labels) -> float:
    """The best of all ways to give clusters to classes one to one, of which only few are tried one by one."""
    table = contingency_matrix(truth, predicted)
    table = table if table.shape[0] <= table.shape[1] else table.T
    if table.shape[1] > 6:
        return float(table[linear_sum_assignment(-table)].sum()) / len(truth)
    ways = itertools.permutations(range(table.shape[1]), table.shape[0])
    return max(sum(int(table[row, column]) for row, column in enumerate(way)) for way in ways) / len(truth)


def slow_pairs(predicted: Labels, truth: Labels) -> tuple[float, float]:
    """Precision and recall of pairs."""
    (_, false), (missed, right) = pair_confusion_matrix(truth, predicted).tolist()
    return right / (right + false) if right + false else 1.0, right / (right + missed) if right + missed else 1.0


def scores(predicted: Tensor, truth: Tensor) -> Tensor:
    """All `SCORES`, (7, P)."""
    table = contingency(predicted, truth)
    return torch.stack([score(table) for score in SCORES])


def oracle(predicted: Labels, truth: Labels) -> list[float]:
    return [
        adjusted_rand_score(truth, predicted),
        normalized_mutual_info_score(truth, predicted),
        slow_purity(predicted, truth),
        adjusted_mutual_info_score(truth, predicted),
        slow_accuracy(predicted, truth),
        *slow_pairs(predicted, truth),
    ]


def random_labels(kind: str) -> tuple[Labels, Labels]:
    """Predicted and true labels (P, n)."""
    random = np.random.default_rng(5)
    if kind == "uniform":
        return random.integers(0, 10, (10, 160)), random.integers(0, 10, (10, 160))
    if kind == "puzzles":
        truth = random.permuted(np.tile(np.arange(160) // 16, (10, 1)), axis=1)
        return np.where(random.random(truth.shape) < 0.4, random.integers(0, 10, truth.shape), truth), truth
    if kind == "skewed":
        return random.geometric(0.5, (10, 100)) - 1, random.geometric(0.1, (10, 100)) - 1
    if kind == "more clusters than classes":
        return random.integers(0, 50, (20, 60)), random.integers(0, 2, (20, 60))
    if kind == "labels with gaps":
        return random.integers(0, 4, (20, 30)) * 7, random.integers(0, 3, (20, 30)) * 11 + 2
    if kind == "two points":
        return random.integers(0, 2, (30, 2)), random.integers(0, 2, (30, 2))
    assert kind == "many points"
    return random.integers(0, 5, (1, 5_000)), random.integers(0, 7, (1, 5_000))


KINDS = ("uniform", "puzzles", "skewed", "more clusters than classes", "labels with gaps", "two points", "many points")


@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_scikit_learn_and_a_slow_loop(kind: str) -> None:
    predicted, truth = random_labels(kind)
    expected = torch.tensor([oracle(*pair) for pair in zip(predicted, truth, strict=True)], dtype=torch.float64).T
    found = scores(torch.from_numpy(predicted), torch.from_numpy(truth))
    torch.testing.assert_close(found, expected, rtol=0, atol=TIGHT)


ONE, SINGLETONS, HALVES = [0] * 6, [5, 3, 4, 0, 1, 2], [0, 0, 0, 1, 1, 1]
PERFECT = (1.0,) * len(SCORES)


@pytest.mark.parametrize(
    ("predicted", "truth", "known"),
    [
        (ONE, ONE, PERFECT),
        (SINGLETONS, SINGLETONS, PERFECT),
        (SINGLETONS, SINGLETONS[::-1], PERFECT),
        (HALVES, HALVES, PERFECT),
        ([4, 4, 4, 2, 2, 2], HALVES, PERFECT),
        (ONE, SINGLETONS, (0, 0, 1 / 6, 0, 1 / 6, 0, 1)),
        (SINGLETONS, ONE, (0, 0, 1, 0, 1 / 6, 1, 0)),
        (ONE, HALVES, (0, 0, 1 / 2, 0, 1 / 2, 6 / 15, 1)),
        (HALVES, ONE, (0, 0, 1, 0, 1 / 2, 1, 6 / 15)),
        ([0], [0], PERFECT),
        ([3], [7], PERFECT),
    ],
)
def test_degenerate_clusterings_score_what_theory_says(
    predicted: list[int], truth: list[int], known: tuple[float, ...]
) -> None:
    found = scores(torch.tensor([predicted]), torch.tensor([truth]))[:, 0].tolist()
    assert found == pytest.approx(known, abs=TIGHT)
    assert found == pytest.approx(oracle(np.array(predicted), np.array(truth)), abs=TIGHT)


def test_any_number_of_single_points_agrees_perfectly_with_itself() -> None:
    found = [adjusted_mutual_info(torch.eye(n, dtype=torch.float64)[None]).item() for n in range(1, 201)]
    assert found == pytest.approx([1.0] * 200, abs=TIGHT)


@pytest.mark.parametrize("k", [2, 40])
def test_adjusted_scores_of_random_labels_are_zero_on_average(k: int) -> None:
    random = np.random.default_rng(k)
    truth = torch.arange(160).expand(1000, -1) % 10
    table = contingency(torch.from_numpy(random.integers(0, k, (1000, 160))), truth)
    for score in (adjusted_rand_index, adjusted_mutual_info):
        found = score(table)
        assert abs(found.mean()) < 4 * found.std() / math.sqrt(1000) < 0.005
    assert normalized_mutual_info(table).mean() > 0.01


def slow_expected(rows: list[int], columns: list[int]) -> float:
    """Of clusters and classes of these sizes, by exact probabilities."""
    n = sum(rows)
    found = 0.0
    for a, b in itertools.product(rows, columns):
        for shared in range(max(1, a + b - n), min(a, b) + 1):
            probability = Fraction(math.comb(a, shared) * math.comb(n - a, b - shared), math.comb(n, b))
            found += float(probability * Fraction(shared, n)) * math.log(n * shared / (a * b))
    return found


sizes_of_parts = st.lists(st.integers(1, 12), min_size=1, max_size=6)


@unhurried
@given(sizes_of_parts, sizes_of_parts)
def test_mutual_info_expected_is_that_of_exact_fractions(rows: list[int], columns: list[int]) -> None:
    short = sum(rows) - sum(columns)
    rows, columns = rows + [1] * max(0, -short), columns + [1] * max(0, short)
    predicted, truth = (np.repeat(np.arange(len(sizes)), sizes) for sizes in (rows, columns))
    table = contingency(torch.from_numpy(predicted)[None], torch.from_numpy(truth)[None])
    assert float(_expected_mutual_info(table)) == pytest.approx(slow_expected(rows, columns), abs=TIGHT)


def test_the_worked_example_of_the_textbook() -> None:
    # Manning, Raghavan and Schuetze, Introduction to Information Retrieval, 2008, fig. 16.4 and its table 16.2.
    clusters = ["xxxxxo", "xooood", "xxddd"]
    truth = torch.tensor([["xod".index(point) for cluster in clusters for point in cluster]])
    predicted = torch.tensor([[number for number, cluster in enumerate(clusters) for _ in cluster]])
    _, nmi, pure, *_ = scores(predicted, truth)[:, 0].tolist()
    assert pure == pytest.approx(12 / 17, abs=TIGHT)
    assert round(nmi, 2) == 0.36
    # Table 16.2 and its text: of 40 pairs put together 20 belong together, and 24 are apart that belong together.
    assert pair_precision(contingency(predicted, truth)).item() == pytest.approx(20 / 40, abs=TIGHT)
    assert pair_recall(contingency(predicted, truth)).item() == pytest.approx(20 / 44, abs=TIGHT)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_scores_what_its_problems_score_one_by_one(kind: str) -> None:
    predicted, truth = (torch.from_numpy(labels) for labels in random_labels(kind))
    alone = [scores(predicted[i : i + 1], truth[i : i + 1]) for i in range(len(truth))]
    torch.testing.assert_close(scores(predicted, truth), torch.cat(alone, 1), rtol=0, atol=TIGHT)


def test_problems_of_unlike_sizes_have_scores_of_their_own() -> None:
    """Tables of another number of points, as where some are left out."""
    tables = [torch.tensor([[[5.0, 1.0], [0.0, 4.0]]]), torch.tensor([[[50.0, 30.0], [20.0, 7.0]]])]
    tables = [table.double() for table in tables]
    for score in SCORES:
        alone = torch.cat([score(table) for table in tables])
        torch.testing.assert_close(score(torch.cat(tables)), alone, rtol=0, atol=TIGHT)


pairs_of_labels = (
    st.integers(1, 30)
    .flatmap(lambda n: st.tuples(*(st.lists(st.integers(0, 6), min_size=n, max_size=n) for _ in range(2))))
    .filter(lambda both: len(both[0]) == 1 or min(len(set(labels)) for labels in both) < len(both[0]))
)
"""Two clusterings of the same points, not both into single ones, which have a test of their own."""


@unhurried
@given(pairs_of_labels)
def test_any_labels_score_as_in_scikit_learn(labels: tuple[list[int], list[int]]) -> None:
    predicted, truth = map(np.array, labels)
    found = scores(torch.from_numpy(predicted)[None], torch.from_numpy(truth)[None])[:, 0].tolist()
    assert found == pytest.approx(oracle(predicted, truth), abs=TIGHT)


@unhurried
@given(pairs_of_labels, st.permutations(range(7)), st.permutations(range(7)))
def test_names_of_clusters_and_classes_do_not_matter(
    labels: tuple[list[int], list[int]], names: list[int], classes: list[int]
) -> None:
    predicted, truth = (torch.tensor([part]) for part in labels)
    renamed = scores(torch.tensor(names)[predicted], torch.tensor(classes)[truth])
    torch.testing.assert_close(renamed, scores(predicted, truth), rtol=0, atol=TIGHT)


@unhurried
@given(pairs_of_labels, st.randoms(use_true_random=False))
def test_the_order_of_the_points_does_not_matter(labels: tuple[list[int], list[int]], random: Random) -> None:
    both = list(zip(*labels, strict=True))
    shuffled = both.copy()
    random.shuffle(shuffled)
    pairs = [tuple(torch.tensor([part]) for part in zip(*points, strict=True)) for points in (both, shuffled)]
    assert torch.equal(contingency(*pairs[0]), contingency(*pairs[1]))
    assert torch.equal(scores(*pairs[0]), scores(*pairs[1]))


@unhurried
@given(pairs_of_labels)
def test_scores_that_are_symmetric_are_so_and_all_lie_within_bounds(labels: tuple[list[int], list[int]]) -> None:
    predicted, truth = (torch.tensor([part]) for part in labels)
    ari, nmi, pure, ami, right, precision, recall = scores(predicted, truth)[:, 0].tolist()
    turned = scores(truth, predicted)[:, 0].tolist()
    assert turned[:2] == pytest.approx([ari, nmi], abs=TIGHT)
    assert turned[3:] == pytest.approx([ami, right, recall, precision], abs=TIGHT)
    assert -0.5 - TIGHT <= ari <= 1 + TIGHT  # the bound of Chacon and Rastrojo, 2023
    assert 0 <= nmi <= 1 + TIGHT
    assert ami <= 1 + TIGHT
    assert 1 / len(labels[1]) - TIGHT <= right <= pure <= 1
    assert 0 <= precision <= 1
    assert 0 <= recall <= 1


def test_contingency_counts_pairs_of_labels_and_refuses_what_are_no_labels() -> None:
    table = contingency(torch.tensor([[0, 0, 2, 2]]), torch.tensor([[1, 0, 1, 1]]))
    assert table.dtype == torch.float64
    assert table.tolist() == [[[1, 1], [0, 0], [0, 2]]]
    zeros = [torch.zeros(shape, dtype=torch.int64) for shape in ((2, 3), (3, 2), (6,), (1, 2, 3), (0, 5), (5, 0))]
    pairs = [(zeros[0], zeros[1]), *((some, some) for some in zeros[2:])]
    for predicted, truth in [*pairs, (zeros[0], zeros[0] - 1), (zeros[0] - 1, zeros[0])]:
        with pytest.raises(ValueError, match="labels"):
            contingency(predicted, truth)
