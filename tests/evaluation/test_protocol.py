from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from torch import Tensor

from fragrecon.clustering.backends import load_backend
from fragrecon.data.module import FixedPuzzles, FragmentData
from fragrecon.data.puzzles import FragmentBatch
from fragrecon.data.store import Block, Source, Split
from fragrecon.errors import ConfigError, TrainingError
from fragrecon.evaluation.protocol import METRICS, ClusteringProtocol, Embed, check_puzzle, evaluate, raw_pixels
from fragrecon.evaluation.statistics import Scores
from fragrecon.schema import DataConfig
from tests import layouts

CPU = torch.device("cpu")
PURE = [metric for metric in METRICS if metric.endswith("_purity")]


class Recorder:
    """The reference back end, which keeps the labels it gave."""

    def __init__(self) -> None:
        self.backend = load_backend("sklearn")
        self.labels: dict[str, list[Tensor]] = {"kmeans": [], "kmedoids": []}

    def kmeans(self, points: Tensor, k: int, seeds: Sequence[int], restarts: int = 10) -> Tensor:
        self.labels["kmeans"].append(self.backend.kmeans(points, k, seeds, restarts))
        return self.labels["kmeans"][-1]

    def kmedoids(self, points: Tensor, k: int, seeds: Sequence[int]) -> Tensor:
        self.labels["kmedoids"].append(self.backend.kmedoids(points, k, seeds))
        return self.labels["kmedoids"][-1]


class Pictures:
    """A reader of pictures made on the spot."""

    shape = (3, 32, 32)

    def source(self, split: Split) -> Source:
        return Source({"split": split}, 60, ("one", "two"))

    def blocks(self, split: Split) -> Iterator[Block]:
        yield layouts.block(60, self.shape, 2, seed=0 if split == "train" else 1)


@pytest.fixture
def protocol() -> ClusteringProtocol:
    return ClusteringProtocol(load_backend("sklearn"), restarts=10, seed=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> FragmentData:
    config = DataConfig(
        name="pictures",
        reader={},
        root=None,
        image_size=[32, 32],
        channels=3,
        fragment_size=8,
        images_per_puzzle=4,
        puzzles_per_batch=2,
        batches_per_epoch=None,
        epochs=1,
        download=False,
        cache_dir=str(tmp_path_factory.mktemp("cache")),
        augment={},
    )
    return FragmentData(config, Pictures(), seed=0, puzzle_seed=0, validation_puzzles=2)


def puzzles(count: int, images: int = 10, cells: int = 16, seed: int = 0) -> FragmentBatch:
    """Puzzles whose fragments are a random pixel each."""
    random = torch.Generator().manual_seed(seed)
    orders = torch.stack([torch.randperm(images * cells, generator=random) for _ in range(count)])
    return FragmentBatch(
        fragments=torch.rand(count, images * cells, 3, 1, 1, generator=random),
        source_ids=orders // cells,
        positions=orders % cells,
        labels=torch.zeros_like(orders),
        image_ids=torch.arange(count * images).view(count, images),
        step=seed,
    )


def one_hot(batch: FragmentBatch) -> Tensor:
    return F.one_hot(batch.source_ids, batch.images_per_puzzle).float()


def noisy(batch: FragmentBatch, share: float = 0.3) -> Tensor:
    """Embeddings in clear clusters, which are those of the sources but for a share of the fragments."""
    random = torch.Generator().manual_seed(3)
    other = torch.randint(batch.images_per_puzzle, batch.source_ids.shape, generator=random)
    seen = torch.where(torch.rand(other.shape, generator=random) < share, other, batch.source_ids)
    tight = 0.01 * torch.randn(*other.shape, batch.images_per_puzzle, generator=random)
    return F.one_hot(seen, batch.images_per_puzzle) + tight


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
    batch = puzzles(4)
    scores = protocol.score(torch.ones(4, 160, 8), batch)
    for metric in ("mean_ari", "mean_nmi"):
        assert max(scores[metric].tolist()) < 0.2
    assert scores["kmeans_ari"].tolist() == pytest.approx([0] * 4, abs=1e-12)
    assert scores["kmeans_purity"].tolist() == pytest.approx([0.1] * 4, abs=1e-12)


def test_random_assignment_scores_what_is_known_of_it(protocol: ClusteringProtocol) -> None:
    scores = protocol.score_random(puzzles(1000))
    # Mean and standard deviation over 50,000 draws of torch, scored by `fragrecon.clustering.agreement`.
    for name, mean, deviation in (("ari", 0.0, 0.0089), ("nmi", 0.1324, 0.0180), ("purity", 0.2255, 0.0157)):
        for algorithm in ("kmeans", "kmedoids"):
            assert scores[f"{algorithm}_{name}"].mean().item() == pytest.approx(mean, abs=4 * deviation / 1000**0.5)
    assert not torch.equal(scores["kmeans_ari"], scores["kmedoids_ari"])


def test_random_assignment_scores_as_numbers_drawn_elsewhere_do(protocol: ClusteringProtocol) -> None:
    batch, random = puzzles(400, images=4, cells=4), np.random.default_rng(0)
    ours = protocol.score_random(batch)
    drawn = {a: torch.from_numpy(random.integers(0, 4, (400, 16))) for a in ("kmeans", "kmedoids")}
    for metric, values in slow_scores(drawn, batch).items():
        error = np.hypot(np.std(values), ours[metric].std().item()) / 20
        assert abs(np.mean(values) - ours[metric].mean().item()) < 4 * error, metric


def test_every_metric_is_that_of_scikit_learn_on_the_labels_given() -> None:
    recorder = Recorder()
    protocol, batch = ClusteringProtocol(recorder, restarts=3, seed=1), puzzles(6)
    scores = protocol.score(noisy(batch) + 0.5 * torch.randn(6, 160, 10), batch)
    expected = slow_scores({name: labels[0] for name, labels in recorder.labels.items()}, batch)
    assert not torch.equal(recorder.labels["kmeans"][0], recorder.labels["kmedoids"][0])
    for metric in METRICS:
        assert scores[metric].tolist() == pytest.approx(expected[metric], abs=1e-12), metric


def test_the_back_end_gets_the_number_of_images_the_restarts_and_a_seed_a_puzzle() -> None:
    asked: list[tuple[int, tuple[int, ...], int]] = []

    class Spy(Recorder):
        def kmeans(self, points: Tensor, k: int, seeds: Sequence[int], restarts: int = 10) -> Tensor:
            asked.append((k, tuple(seeds), restarts))
            return super().kmeans(points, k, seeds, restarts)

    batch = puzzles(3, images=5, cells=4)
    for seed in (0, 1):
        ClusteringProtocol(Spy(), restarts=4, seed=seed).score(one_hot(batch), batch)
    assert [k for k, _, _ in asked] == [5, 5]
    assert [restarts for _, _, restarts in asked] == [4, 4]
    assert len({*asked[0][1], *asked[1][1]}) == 6


def test_embeddings_are_clustered_as_they_are() -> None:
    seen: list[Tensor] = []

    class Spy(Recorder):
        def kmeans(self, points: Tensor, k: int, seeds: Sequence[int], restarts: int = 10) -> Tensor:
            seen.append(points)
            return super().kmeans(points, k, seeds, restarts)

        def kmedoids(self, points: Tensor, k: int, seeds: Sequence[int]) -> Tensor:
            seen.append(points)
            return super().kmedoids(points, k, seeds)

    batch = puzzles(2, images=2, cells=4)
    embeddings = (100 * torch.randn(2, 8, 3)).requires_grad_()
    ClusteringProtocol(Spy(), 1, 0).score(embeddings, batch)
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


def test_the_least_puzzle_is_accepted() -> None:
    check_puzzle(2, 2)


def run(
    protocol: ClusteringProtocol, puzzles: FixedPuzzles, methods: Mapping[str, Embed], batch_size: int
) -> dict[str, dict[str, Scores]]:
    return evaluate(protocol, puzzles, methods, batch_size=batch_size, device=CPU)


def halves(batch: FragmentBatch) -> Tensor:
    """An embedding that loses much: the mean of each half of a fragment."""
    return torch.cat([half.mean((2, 3)) for half in batch.fragments.chunk(2, dim=-1)], -1)


def test_scores_do_not_depend_on_the_size_of_the_batches(protocol: ClusteringProtocol, data: FragmentData) -> None:
    methods = {"raw_pixels": raw_pixels, "halves": halves}
    results = [run(protocol, data.test_set(15), methods, size) for size in (1, 7, 32)]
    for result in results:
        assert list(result) == ["random", "raw_pixels", "halves"]
        for method, rows in result.items():
            assert tuple(rows) == METRICS
            for metric, values in rows.items():
                assert values.shape == (15,)
                assert values.dtype == np.float64
                np.testing.assert_array_equal(values, results[0][method][metric])
    assert len(set(results[0]["random"]["mean_ari"])) > 10  # every puzzle is drawn anew


def test_scores_come_puzzle_by_puzzle_in_their_order(protocol: ClusteringProtocol, data: FragmentData) -> None:
    fixed = data.test_set(6)
    found = run(protocol, fixed, {"raw_pixels": raw_pixels}, 4)["raw_pixels"]
    for i in range(6):
        batch = fixed.read(slice(i, i + 1)).as_float()
        for metric, values in protocol.score(batch.fragments.flatten(2), batch).items():
            assert values.item() == found[metric][i]


def test_more_puzzles_leave_the_scores_of_the_first(protocol: ClusteringProtocol, data: FragmentData) -> None:
    few, many = (run(protocol, data.test_set(count), {"raw_pixels": raw_pixels}, 4) for count in (5, 9))
    for method, rows in few.items():
        for metric, values in rows.items():
            np.testing.assert_array_equal(values, many[method][metric][:5])


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
    result = evaluate(
        protocol, fixed, {name: watcher(name) for name in seen}, batch_size=2, device=CPU, advance=told.append
    )
    assert told == [2, 2, 1]
    assert torch.equal(torch.cat(seen["one"]), torch.cat(seen["two"]))
    assert torch.equal(torch.cat(seen["one"]), fixed.read(slice(0, 5)).fragments / 255)
    for name in seen:
        assert result[name]["mean_clustering_score"].tolist() == pytest.approx([1] * 5, abs=1e-12)
    assert max(result["random"]["mean_clustering_score"]) < 0.5


def test_one_method_does_not_change_the_scores_of_another(protocol: ClusteringProtocol, data: FragmentData) -> None:
    alone = run(protocol, data.test_set(4), {"raw_pixels": raw_pixels}, 4)
    beside = run(protocol, data.test_set(4), {"halves": halves, "raw_pixels": raw_pixels}, 4)
    for method in ("random", "raw_pixels"):
        for metric in METRICS:
            np.testing.assert_array_equal(alone[method][metric], beside[method][metric])


def test_a_model_that_fails_stops_the_evaluation(protocol: ClusteringProtocol, data: FragmentData) -> None:
    with pytest.raises(TrainingError):
        run(protocol, data.test_set(2), {"model": lambda batch: raw_pixels(batch) * float("nan")}, 2)


def test_raw_pixels_are_the_values_of_each_fragment() -> None:
    batch = puzzles(2, images=2, cells=2)
    assert raw_pixels(batch).shape == (2, 4, 3)
    assert raw_pixels(batch)[1, 2].tolist() == batch.fragments[1, 2].flatten().tolist()
