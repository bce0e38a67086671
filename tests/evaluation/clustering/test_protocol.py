from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import pair_confusion_matrix
from torch import Tensor

from fragrecon.clustering.backends import BACKENDS, Backend
from fragrecon.clustering.kmeans import KMeans
from fragrecon.clustering.kmedoids import KMedoids
from fragrecon.data.module import FragmentData
from fragrecon.data.puzzles import FragmentBatch
from fragrecon.errors import ConfigError, TrainingError
from fragrecon.evaluation.clustering.baselines import raw_pixels
from fragrecon.evaluation.clustering.protocol import METRICS, ClusteringProtocol, Embed, Score, check_puzzle, evaluate
from tests.evaluation.samples import CPU, data_of, noisy, one_hot, puzzles

MEMORY = 2**26
FURTHER = [f"{a}_{name}" for a in ("kmeans", "kmedoids") for name in ("ami", "accuracy", "precision", "recall")]
BEYOND = ["balanced_ari", "balanced_accuracy", "unknown_ari", "unknown_nmi", "unknown_k_error"]


class Recorder:
    """The reference backend, which records its labels."""

    def __init__(self) -> None:
        self.reference, self.backend = BACKENDS["sklearn"], Backend("recorder", self.kmeans, self.kmedoids)
        self.labels: dict[str, list[Tensor]] = {"kmeans": [], "kmedoids": []}

    def kmeans(self, points: Tensor, k: int, keys: Tensor, restarts: int, memory: int) -> KMeans:
        found = self.reference.kmeans(points, k, keys, restarts, memory)
        self.labels["kmeans"].append(found.labels)
        return found

    def kmedoids(self, points: Tensor, k: int, memory: int) -> KMedoids:
        found = self.reference.kmedoids(points, k, memory)
        self.labels["kmedoids"].append(found.labels)
        return found


@pytest.fixture(params=["sklearn", "batched"])
def protocol(request: pytest.FixtureRequest) -> ClusteringProtocol:
    return ClusteringProtocol(BACKENDS[request.param], restarts=10, seed=0, memory=MEMORY, estimate_count=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> FragmentData:
    return data_of(tmp_path_factory.mktemp("cache"))


def slow_scores(labels: Mapping[str, Tensor], batch: FragmentBatch) -> dict[str, list[float]]:
    """All metrics of each puzzle, by scikit-learn and by loops."""
    scores: dict[str, list[float]] = {metric: [] for metric in METRICS}
    for i, truth in enumerate(batch.source_ids.tolist()):
        row = {}
        for algorithm in ("kmeans", "kmedoids"):
            found = labels[algorithm][i].tolist()
            row[f"{algorithm}_ari"] = adjusted_rand_score(truth, found)
            row[f"{algorithm}_nmi"] = normalized_mutual_info_score(truth, found)
            clusters = [[t for t, label in zip(truth, found, strict=True) if label == c] for c in set(found)]
            row[f"{algorithm}_purity"] = sum(max(map(own.count, own)) for own in clusters) / len(truth)
        row["mean_ari"] = (row["kmeans_ari"] + row["kmedoids_ari"]) / 2
        row["mean_nmi"] = (row["kmeans_nmi"] + row["kmedoids_nmi"]) / 2
        row["mean_clustering_score"] = (row["mean_ari"] + row["mean_nmi"]) / 2
        for metric in METRICS:
            scores[metric].append(row[metric])
    return scores


def shuffled(batch: FragmentBatch, embeddings: Tensor) -> tuple[FragmentBatch, Tensor]:
    """The fragments of each puzzle in another order."""
    random = torch.Generator().manual_seed(9)
    order = torch.stack([torch.randperm(batch.source_ids.shape[1], generator=random) for _ in range(len(batch))])
    rows = torch.arange(len(batch)).unsqueeze(1)
    moved = FragmentBatch(
        batch.fragments[rows, order],
        batch.source_ids[rows, order],
        batch.positions[rows, order],
        batch.rotations[rows, order],
        batch.labels[rows, order],
        batch.image_ids,
        batch.step,
    )
    return moved, embeddings[rows, order]


def test_the_metrics_have_the_names_of_the_records() -> None:
    assert METRICS == (
        "kmeans_ari",
        "kmeans_nmi",
        "kmeans_purity",
        "kmedoids_ari",
        "kmedoids_nmi",
        "kmedoids_purity",
        "mean_ari",
        "mean_nmi",
        "mean_clustering_score",
    )


@pytest.mark.parametrize(("images", "cells"), [(10, 16), (2, 2), (3, 4)])
def test_perfect_embeddings_score_one_by_every_metric(protocol: ClusteringProtocol, images: int, cells: int) -> None:
    batch = puzzles(5, images, cells)
    scores = protocol.score(one_hot(batch), batch)
    assert set(scores) == set(METRICS)
    for metric, values in scores.items():
        assert values.tolist() == pytest.approx([1.0] * 5, abs=1e-12), metric


def test_embeddings_that_are_all_alike_score_no_better_than_chance(protocol: ClusteringProtocol) -> None:
    scores = protocol.score_fully(torch.ones(2, 160, 8), puzzles(2))
    assert all(torch.isfinite(values).all() for values in scores.values())
    for metric in ("mean_ari", "mean_nmi", "balanced_ari"):
        assert max(scores[metric].tolist()) < 0.2
    assert scores["kmeans_ari"].tolist() == pytest.approx([0] * 2, abs=1e-12)
    assert scores["kmeans_purity"].tolist() == pytest.approx([0.1] * 2, abs=1e-12)


def test_random_assignment_scores_what_is_known_of_it() -> None:
    protocol = ClusteringProtocol(BACKENDS["batched"], restarts=1, seed=0, memory=MEMORY)
    scores = protocol.score_random(puzzles(500))
    assert list(scores) == [*METRICS, *FURTHER]
    # Mean and standard deviation over 50,000 draws of torch, scored by `fragrecon.clustering.agreement`; and by theory:
    # given how many pairs are put together, each is one of an image with the chance of any pair.
    known = {"ari": (0.0, 0.0089), "nmi": (0.1324, 0.0180), "purity": (0.2255, 0.0157)}
    theory = {"ami": 0.0, "precision": 15 / 159, "recall": 1 / 10}
    for algorithm in ("kmeans", "kmedoids"):
        for name, (mean, deviation) in known.items():
            assert scores[f"{algorithm}_{name}"].mean().item() == pytest.approx(mean, abs=4 * deviation / 500**0.5)
        for name, mean in theory.items():
            found = scores[f"{algorithm}_{name}"]
            assert found.mean().item() == pytest.approx(mean, abs=4 * found.std().item() / 500**0.5), name
    assert not torch.equal(scores["kmeans_ari"], scores["kmedoids_ari"])


def test_every_metric_is_that_of_scikit_learn_on_the_labels_given() -> None:
    recorder = Recorder()
    protocol, batch = ClusteringProtocol(recorder.backend, 3, 1, MEMORY), puzzles(6)
    scores = protocol.score(noisy(batch) + 0.5 * torch.randn(6, 160, 10), batch)
    expected = slow_scores({name: labels[0] for name, labels in recorder.labels.items()}, batch)
    assert not torch.equal(recorder.labels["kmeans"][0], recorder.labels["kmedoids"][0])
    for metric in METRICS:
        assert scores[metric].tolist() == pytest.approx(expected[metric], abs=1e-12), metric


def test_the_back_end_gets_the_number_of_images_the_restarts_the_memory_and_a_key_a_puzzle() -> None:
    asked: list[tuple[int, list[int], int, int]] = []

    class Spy(Recorder):
        def kmeans(self, points: Tensor, k: int, keys: Tensor, restarts: int, memory: int) -> KMeans:
            asked.append((k, keys.tolist(), restarts, memory))
            return super().kmeans(points, k, keys, restarts, memory)

        def kmedoids(self, points: Tensor, k: int, memory: int) -> KMedoids:
            assert (k, memory) == (5, 12345)
            return super().kmedoids(points, k, memory)

    batch = puzzles(3, images=5, cells=4)
    for seed in (0, 1):
        ClusteringProtocol(Spy().backend, restarts=4, seed=seed, memory=12345).score(one_hot(batch), batch)
    assert [(k, restarts, memory) for k, _, restarts, memory in asked] == [(5, 4, 12345)] * 2
    assert len({*asked[0][1], *asked[1][1]}) == 6


def test_embeddings_are_clustered_as_they_are() -> None:
    seen: list[Tensor] = []

    class Spy(Recorder):
        def kmeans(self, points: Tensor, k: int, keys: Tensor, restarts: int, memory: int) -> KMeans:
            seen.append(points)
            return super().kmeans(points, k, keys, restarts, memory)

        def kmedoids(self, points: Tensor, k: int, memory: int) -> KMedoids:
            seen.append(points)
            return super().kmedoids(points, k, memory)

    batch = puzzles(2, images=2, cells=4)
    embeddings = (100 * torch.randn(2, 8, 3)).requires_grad_()
    ClusteringProtocol(Spy().backend, 1, 0, MEMORY).score(embeddings, batch)
    assert all(torch.equal(points, embeddings) for points in seen)
    assert len(seen) == 2


def test_the_order_of_the_fragments_does_not_matter(protocol: ClusteringProtocol) -> None:
    batch = puzzles(8)
    embeddings = noisy(batch)
    other, others = shuffled(batch, embeddings)
    scores, moved = protocol.score(embeddings, batch), protocol.score(others, other)
    assert 0.2 < scores["mean_ari"].mean().item() < 0.9
    for metric in METRICS:
        torch.testing.assert_close(moved[metric], scores[metric], rtol=0, atol=1e-12)


def test_fewer_bits_are_taken_too(protocol: ClusteringProtocol) -> None:
    batch = puzzles(2)
    assert protocol.score(one_hot(batch).bfloat16(), batch)["mean_ari"].tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.fault("NaN embeddings")
def test_embeddings_that_are_not_finite_are_refused(protocol: ClusteringProtocol, value: float) -> None:
    batch = puzzles(2)
    embeddings = one_hot(batch)
    embeddings[1, 5, 0] = value
    with pytest.raises(TrainingError, match=r"embeddings.*not finite"):
        protocol.score(embeddings, batch)


@pytest.mark.parametrize(("images", "cells"), [(1, 16), (10, 1), (1, 1), (0, 16)])
def test_what_is_no_puzzle_is_refused_by_name(images: int, cells: int) -> None:
    with pytest.raises(ConfigError, match=rf"{images} and {cells}.*data\.images_per_puzzle.*data\.fragment_size"):
        check_puzzle(images, cells)
    check_puzzle(2, 2)


def methods_of(protocol: ClusteringProtocol, embeds: Mapping[str, Embed]) -> dict[str, Score]:
    """Chance, and what scores the embeddings of each."""

    def scored(embed: Embed) -> Score:
        return lambda batch: protocol.score(embed(batch), batch)

    return {"random": protocol.score_random} | {name: scored(embed) for name, embed in embeds.items()}


def test_a_puzzle_has_the_same_scores_in_any_batch_and_among_any_number(
    protocol: ClusteringProtocol, data: FragmentData
) -> None:
    methods: dict[str, Score] = {
        "random": protocol.score_random,
        "pixels": lambda batch: protocol.score_fully(raw_pixels(batch), batch),
    }
    fixed = data.test_set(7)
    found = evaluate(fixed, methods, batch_size=3, device=CPU)
    assert list(found) == list(methods)
    for name, score in methods.items():
        alone = [score(fixed.read(slice(i, i + 1)).as_float()) for i in range(7)]
        assert list(found[name]) == list(alone[0])
        for metric, values in found[name].items():
            assert values.dtype == np.float64
            assert values.tolist() == [own[metric].item() for own in alone], metric
        assert len(set(found[name]["kmeans_ari"])) > 4  # every puzzle is drawn and clustered anew
    few = evaluate(data.test_set(4), methods, batch_size=4, device=CPU)
    for name, rows in few.items():
        for metric, values in rows.items():
            np.testing.assert_array_equal(values, found[name][metric][:4])


def test_all_methods_see_the_same_puzzles_as_float(protocol: ClusteringProtocol, data: FragmentData) -> None:
    seen: dict[str, list[Tensor]] = {"one": [], "two": []}

    def watcher(name: str) -> Embed:
        def embed(batch: FragmentBatch) -> Tensor:
            assert not torch.is_grad_enabled()
            seen[name].append(batch.fragments.clone())
            return one_hot(batch)

        return embed

    told: list[int] = []
    fixed = data.test_set(5)
    methods = methods_of(protocol, {name: watcher(name) for name in seen})
    result = evaluate(fixed, methods, batch_size=2, device=CPU, advance=told.append)
    assert told == [2, 2, 1]
    assert torch.equal(torch.cat(seen["one"]), torch.cat(seen["two"]))
    assert torch.equal(torch.cat(seen["one"]), fixed.read(slice(0, 5)).fragments / 255)
    for name in seen:
        assert result[name]["mean_clustering_score"].tolist() == pytest.approx([1] * 5, abs=1e-12)
    assert max(result["random"]["mean_clustering_score"]) < 0.5


def test_a_model_that_fails_stops_the_evaluation(protocol: ClusteringProtocol, data: FragmentData) -> None:
    def broken(batch: FragmentBatch) -> dict[str, Tensor]:
        return protocol.score(raw_pixels(batch) * float("nan"), batch)

    with pytest.raises(TrainingError):
        evaluate(data.test_set(2), {"model": broken}, batch_size=2, device=CPU)


# Beyond the protocol --------------------------------------------------------------------------------------------------


def slow_further(predicted: list[int], truth: list[int]) -> dict[str, float]:
    """Further scores of one puzzle, by scikit-learn and SciPy."""
    (_, falsely), (missed, both) = pair_confusion_matrix(truth, predicted)
    table = np.zeros((max(predicted) + 1, max(truth) + 1))
    np.add.at(table, (predicted, truth), 1)
    return {
        "ami": adjusted_mutual_info_score(truth, predicted),
        "accuracy": table[linear_sum_assignment(-table)].sum() / len(truth),
        "precision": both / (both + falsely),
        "recall": both / (both + missed),
    }


def grouped(batch: FragmentBatch, groups: Iterable[int]) -> Tensor:
    """Embeddings in as many clear clusters for each puzzle as ``groups`` says, each of some of its images."""
    random = torch.Generator().manual_seed(5)
    counts = torch.tensor(list(groups)).unsqueeze(1)
    centres = F.one_hot(batch.source_ids % counts, batch.images_per_puzzle).float()
    return centres + 0.02 * torch.randn(centres.shape, generator=random)


def test_the_full_scores_are_those_of_the_protocol_and_more_under_names_of_their_own(
    protocol: ClusteringProtocol,
) -> None:
    batch = puzzles(4)
    embeddings = noisy(batch)
    scores, known = protocol.score_fully(embeddings, batch), protocol.score(embeddings, batch)
    assert list(scores) == [*METRICS, *FURTHER, *BEYOND]
    for metric, values in scores.items():
        assert values.shape == (4,), metric
        assert values.dtype == torch.float64, metric
    for metric in METRICS:
        assert torch.equal(scores[metric], known[metric])


@pytest.mark.parametrize(("images", "cells"), [(10, 16), (3, 4), (2, 16)])
def test_clear_clusters_are_found_whatever_is_known_of_them(
    protocol: ClusteringProtocol, images: int, cells: int
) -> None:
    batch = puzzles(5, images, cells)
    scores = protocol.score_fully(grouped(batch, [images] * 5), batch)
    for metric, values in scores.items():
        best = 0.0 if metric == "unknown_k_error" else 1.0
        assert values.tolist() == pytest.approx([best] * 5, abs=1e-12), metric


@pytest.mark.parametrize(("images", "cells"), [(2, 2), (2, 4), (5, 2)])
def test_the_least_puzzles_have_all_scores(protocol: ClusteringProtocol, images: int, cells: int) -> None:
    batch = puzzles(3, images, cells)
    scores = protocol.score_fully(one_hot(batch), batch)
    assert list(scores) == [*METRICS, *FURTHER, *BEYOND]
    assert all(torch.isfinite(values).all() for values in scores.values())
    assert scores["balanced_accuracy"].tolist() == pytest.approx([1] * 3)


def test_clusters_of_equal_size_are_known_to_the_balanced_scores_alone(protocol: ClusteringProtocol) -> None:
    batch = puzzles(3, images=2, cells=4)
    # One fragment of image 1 looks more like image 0.
    places = (batch.source_ids * torch.where(batch.positions == 2, 0.4, 1.0)).unsqueeze(-1)
    scores = protocol.score_fully(places, batch)
    found = adjusted_rand_score([0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1, 1])
    assert scores["kmeans_ari"].tolist() == pytest.approx([found] * 3)
    assert scores["kmeans_accuracy"].tolist() == pytest.approx([7 / 8] * 3)
    assert scores["balanced_ari"].tolist() == pytest.approx([1] * 3)
    assert scores["balanced_accuracy"].tolist() == pytest.approx([1] * 3)


def test_puzzles_of_a_batch_may_seem_to_have_unlike_numbers_of_images(protocol: ClusteringProtocol) -> None:
    groups = [4, 10, 2, 4, 7]
    batch = puzzles(5)
    scores = protocol.score_fully(grouped(batch, groups), batch)
    assert scores["unknown_k_error"].tolist() == [10 - count for count in groups]
    for i, count in enumerate(groups):
        truth = batch.source_ids[i].tolist()
        merged = [source % count for source in truth]
        assert scores["unknown_ari"][i].item() == pytest.approx(adjusted_rand_score(truth, merged), abs=1e-12)
        assert scores["unknown_nmi"][i].item() == pytest.approx(normalized_mutual_info_score(truth, merged), abs=1e-12)


def test_more_clusters_than_images_are_an_error_too(protocol: ClusteringProtocol) -> None:
    batch = puzzles(2, images=2, cells=16)
    halves = batch.source_ids * 2 + batch.positions % 2
    embeddings = F.one_hot(halves, 4) + 0.02 * torch.randn(2, 32, 4, generator=torch.Generator().manual_seed(0))
    assert protocol.score_fully(embeddings, batch)["unknown_k_error"].tolist() == [2, 2]


def test_each_puzzle_keeps_its_key_where_the_number_of_images_is_unknown() -> None:
    asked: dict[int, set[tuple[int, int]]] = {}

    class Spy(Recorder):
        def kmeans(self, points: Tensor, k: int, keys: Tensor, restarts: int, memory: int) -> KMeans:
            assert (restarts, memory) == (3, MEMORY)
            for number, key in zip(points[:, 0, 0].round().long().tolist(), keys.tolist(), strict=True):
                asked.setdefault(number, set()).add((k, key))
            return super().kmeans(points, k, keys, restarts, memory)

    groups, batch = [4, 2, 4], puzzles(3)
    # The first coordinate tells the puzzle.
    named = torch.arange(3.0).view(3, 1, 1).expand(3, 160, 1)
    ClusteringProtocol(Spy().backend, 3, 0, MEMORY, True).score_fully(
        torch.cat([named, grouped(batch, groups)], 2), batch
    )
    keys = {number: {key for _, key in found} for number, found in asked.items()}
    assert {number: {k for k, _ in found} for number, found in asked.items()} == {0: {10, 4}, 1: {10, 2}, 2: {10, 4}}
    assert [len(own) for own in keys.values()] == [1, 1, 1]
    assert len(set.union(*keys.values())) == 3


def test_the_further_scores_are_those_of_scikit_learn() -> None:
    recorder, batch = Recorder(), puzzles(6)
    protocol = ClusteringProtocol(recorder.backend, 2, 1, MEMORY)
    scores = protocol.score_fully(noisy(batch) + 0.5 * torch.randn(6, 160, 10), batch)
    for algorithm in ("kmeans", "kmedoids"):
        labels = recorder.labels[algorithm][0]
        for i, truth in enumerate(batch.source_ids.tolist()):
            for name, expected in slow_further(labels[i].tolist(), truth).items():
                assert scores[f"{algorithm}_{name}"][i].item() == pytest.approx(expected, abs=1e-10), name


@pytest.mark.parametrize("memory", [1, 2**20, 2**30])
def test_memory_does_not_change_scores(memory: int) -> None:
    batch = puzzles(5, images=4, cells=9)
    plenty, given = (
        ClusteringProtocol(BACKENDS["batched"], 4, 0, size, True).score_fully(noisy(batch, 0.5), batch)
        for size in (2**26, memory)
    )
    for metric, values in plenty.items():
        assert torch.equal(values, given[metric]), metric


@pytest.mark.parametrize("change", [{"seed": 1}, {"restarts": 1}])
def test_seed_and_restarts_count(change: dict[str, int]) -> None:
    batch = puzzles(4, images=8, cells=9)
    unclear = torch.randn(4, 72, 6, generator=torch.Generator().manual_seed(0))
    settings: dict[str, Any] = {"seed": 0, "restarts": 2, "memory": MEMORY, "estimate_count": True}
    for name in ("sklearn", "batched"):
        one, other = (ClusteringProtocol(BACKENDS[name], **settings | own) for own in ({}, change))
        for metric in ("kmeans_ari", "unknown_ari", "balanced_ari"):
            before, after = (own.score_fully(unclear, batch)[metric] for own in (one, other))
            assert not torch.equal(before, after), (name, metric)


def test_a_change_is_made_to_the_fragments_that_all_methods_see(data: FragmentData) -> None:
    seen: list[FragmentBatch] = []

    def darker(batch: FragmentBatch) -> FragmentBatch:
        assert batch.fragments.dtype == torch.float32
        seen.append(batch)
        return FragmentBatch(**vars(batch) | {"fragments": batch.fragments / 2})

    def brightest(batch: FragmentBatch) -> dict[str, Tensor]:
        return {"brightest": batch.fragments.amax((1, 2, 3, 4)).double()}

    fixed = data.test_set(5)
    found = evaluate(fixed, {"one": brightest, "two": brightest}, batch_size=2, device=CPU, change=darker)
    expected = fixed.read(slice(0, 5)).as_float().fragments.amax((1, 2, 3, 4)).double().numpy() / 2
    assert [len(batch) for batch in seen] == [2, 2, 1]
    for method in ("one", "two"):
        np.testing.assert_array_equal(found[method]["brightest"], expected)


def test_nothing_is_read_for_no_method(data: FragmentData) -> None:
    def refuse(batch: FragmentBatch) -> FragmentBatch:
        raise AssertionError

    assert evaluate(data.test_set(5), {}, batch_size=2, device=CPU, change=refuse) == {}
