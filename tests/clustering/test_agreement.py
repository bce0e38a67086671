from __future__ import annotations

import itertools
from random import Random

import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from torch import Tensor

from fragrecon.clustering.agreement import adjusted_rand_index, contingency, normalized_mutual_info, purity

Labels = npt.NDArray[np.int64]
TIGHT = 1e-12


def slow_purity(predicted: Labels, truth: Labels) -> float:
    right = 0
    for cluster in set(predicted.tolist()):
        members = [int(t) for p, t in zip(predicted, truth, strict=True) if p == cluster]
        right += max(members.count(label) for label in members)
    return right / len(truth)


def scores(predicted: Tensor, truth: Tensor) -> Tensor:
    """ARI, NMI and purity, (3, P)."""
    table = contingency(predicted, truth)
    return torch.stack([adjusted_rand_index(table), normalized_mutual_info(table), purity(table)])


def oracle(predicted: Labels, truth: Labels) -> list[float]:
    return [
        adjusted_rand_score(truth, predicted),
        normalized_mutual_info_score(truth, predicted),
        slow_purity(predicted, truth),
    ]


def random_labels(kind: str) -> tuple[Labels, Labels]:
    """Predicted and true labels (P, n)."""
    random = np.random.default_rng(5)
    if kind == "uniform":
        return random.integers(0, 10, (40, 160)), random.integers(0, 10, (40, 160))
    if kind == "puzzles":
        truth = random.permuted(np.tile(np.arange(160) // 16, (40, 1)), axis=1)
        return np.where(random.random(truth.shape) < 0.4, random.integers(0, 10, truth.shape), truth), truth
    if kind == "skewed":
        return random.geometric(0.5, (40, 100)) - 1, random.geometric(0.1, (40, 100)) - 1
    if kind == "more clusters than classes":
        return random.integers(0, 50, (20, 60)), random.integers(0, 2, (20, 60))
    if kind == "labels with gaps":
        return random.integers(0, 4, (20, 30)) * 7, random.integers(0, 3, (20, 30)) * 11 + 2
    if kind == "two points":
        return random.integers(0, 2, (30, 2)), random.integers(0, 2, (30, 2))
    assert kind == "many points"
    return random.integers(0, 5, (2, 20_000)), random.integers(0, 7, (2, 20_000))


KINDS = ("uniform", "puzzles", "skewed", "more clusters than classes", "labels with gaps", "two points", "many points")


@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_scikit_learn_and_a_slow_loop(kind: str) -> None:
    predicted, truth = random_labels(kind)
    expected = torch.tensor([oracle(*pair) for pair in zip(predicted, truth, strict=True)], dtype=torch.float64).T
    found = scores(torch.from_numpy(predicted), torch.from_numpy(truth))
    torch.testing.assert_close(found, expected, rtol=0, atol=TIGHT)


ONE, SINGLETONS, HALVES = [0] * 6, [5, 3, 4, 0, 1, 2], [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("predicted", "truth", "known"),
    [
        (ONE, ONE, (1, 1, 1)),
        (SINGLETONS, SINGLETONS, (1, 1, 1)),
        (HALVES, HALVES, (1, 1, 1)),
        ([4, 4, 4, 2, 2, 2], HALVES, (1, 1, 1)),
        (ONE, SINGLETONS, (0, 0, 1 / 6)),
        (SINGLETONS, ONE, (0, 0, 1)),
        (ONE, HALVES, (0, 0, 1 / 2)),
        (HALVES, ONE, (0, 0, 1)),
        ([0], [0], (1, 1, 1)),
        ([3], [7], (1, 1, 1)),
    ],
)
def test_degenerate_clusterings_score_what_theory_says(
    predicted: list[int], truth: list[int], known: tuple[float, float, float]
) -> None:
    found = scores(torch.tensor([predicted]), torch.tensor([truth]))[:, 0].tolist()
    assert found == pytest.approx(known, abs=TIGHT)
    assert found == pytest.approx(oracle(np.array(predicted), np.array(truth)), abs=TIGHT)


def test_the_worked_example_of_the_textbook() -> None:
    # Manning, Raghavan and Schuetze, Introduction to Information Retrieval, 2008, fig. 16.4 and its table 16.2.
    clusters = ["xxxxxo", "xooood", "xxddd"]
    truth = torch.tensor([["xod".index(point) for cluster in clusters for point in cluster]])
    predicted = torch.tensor([[number for number, cluster in enumerate(clusters) for _ in cluster]])
    _, nmi, pure = scores(predicted, truth)[:, 0].tolist()
    assert pure == pytest.approx(12 / 17, abs=TIGHT)
    assert round(nmi, 2) == 0.36


def test_ari_is_zero_on_average_over_all_orders_of_the_points() -> None:
    truth = [0, 0, 0, 1, 1, 2]
    orders = torch.tensor(list(itertools.permutations(truth)))
    predicted = torch.tensor([[0, 0, 1, 1, 1, 1]]).expand_as(orders)
    assert adjusted_rand_index(contingency(predicted, orders)).mean().item() == pytest.approx(0, abs=TIGHT)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_scores_what_its_problems_score_one_by_one(kind: str) -> None:
    predicted, truth = (torch.from_numpy(labels) for labels in random_labels(kind))
    alone = [scores(predicted[i : i + 1], truth[i : i + 1]) for i in range(len(truth))]
    torch.testing.assert_close(scores(predicted, truth), torch.cat(alone, 1), rtol=0, atol=TIGHT)


def test_problems_of_unlike_numbers_of_clusters_go_in_one_batch() -> None:
    predicted, truth = torch.tensor([[0, 0, 1, 1], [0, 1, 2, 9]]), torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(
        scores(predicted, truth), torch.tensor([[1, 0], [1, 0], [1, 1]], dtype=torch.float64), rtol=0, atol=TIGHT
    )


pairs_of_labels = st.integers(1, 30).flatmap(
    lambda n: st.tuples(*(st.lists(st.integers(0, 6), min_size=n, max_size=n) for _ in range(2)))
)


@given(pairs_of_labels)
def test_any_labels_score_as_in_scikit_learn(labels: tuple[list[int], list[int]]) -> None:
    predicted, truth = map(np.array, labels)
    found = scores(torch.from_numpy(predicted)[None], torch.from_numpy(truth)[None])[:, 0].tolist()
    assert found == pytest.approx(oracle(predicted, truth), abs=TIGHT)


@given(pairs_of_labels, st.permutations(range(7)), st.permutations(range(7)))
def test_names_of_clusters_and_classes_do_not_matter(
    labels: tuple[list[int], list[int]], names: list[int], classes: list[int]
) -> None:
    predicted, truth = (torch.tensor([part]) for part in labels)
    renamed = scores(torch.tensor(names)[predicted], torch.tensor(classes)[truth])
    torch.testing.assert_close(renamed, scores(predicted, truth), rtol=0, atol=TIGHT)


@given(pairs_of_labels, st.randoms(use_true_random=False))
def test_the_order_of_the_points_does_not_matter(labels: tuple[list[int], list[int]], random: Random) -> None:
    both = list(zip(*labels, strict=True))
    shuffled = both.copy()
    random.shuffle(shuffled)
    table, other = (contingency(*(torch.tensor([part]) for part in zip(*p, strict=True))) for p in (both, shuffled))
    assert torch.equal(table, other)


@given(pairs_of_labels)
def test_ari_and_nmi_are_symmetric_and_all_scores_within_bounds(labels: tuple[list[int], list[int]]) -> None:
    predicted, truth = (torch.tensor([part]) for part in labels)
    ari, nmi, pure = scores(predicted, truth)[:, 0].tolist()
    assert scores(truth, predicted)[:2, 0].tolist() == pytest.approx([ari, nmi], abs=TIGHT)
    assert -0.5 - TIGHT <= ari <= 1 + TIGHT  # the bound of Chacon and Rastrojo, 2023
    assert 0 <= nmi <= 1 + TIGHT
    assert 1 / len(labels[1]) - TIGHT <= pure <= 1


def test_contingency_counts_pairs_of_labels() -> None:
    random = np.random.default_rng(0)
    predicted, truth = random.integers(0, 4, (3, 50)), random.integers(0, 6, (3, 50))
    expected = np.zeros((3, 4, 6))
    for problem, (some, others) in enumerate(zip(predicted, truth, strict=True)):
        for p, t in zip(some, others, strict=True):
            expected[problem, p, t] += 1
    table = contingency(torch.from_numpy(predicted), torch.from_numpy(truth))
    assert table.dtype == torch.float64
    np.testing.assert_array_equal(table.numpy(), expected)


@pytest.mark.parametrize("shapes", [((2, 3), (3, 2)), ((6,), (6,)), ((1, 2, 3), (1, 2, 3)), ((2, 3), (2, 4))])
def test_labels_of_the_wrong_shape_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    predicted, truth = (torch.zeros(shape, dtype=torch.int64) for shape in shapes)
    with pytest.raises(ValueError, match=r"\(P, n\)"):
        contingency(predicted, truth)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_no_labels_are_refused(shape: tuple[int, int]) -> None:
    empty = torch.zeros(shape, dtype=torch.int64)
    with pytest.raises(ValueError, match="no labels"):
        contingency(empty, empty)


def test_negative_labels_are_refused_on_either_side() -> None:
    good, bad = torch.tensor([[0, 1]]), torch.tensor([[0, -1]])
    for pair in ((good, bad), (bad, good)):
        with pytest.raises(ValueError, match="count from 0"):
            contingency(*pair)
