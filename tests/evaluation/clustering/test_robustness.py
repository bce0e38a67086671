from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from fragrecon.clustering.backends import BACKENDS
from fragrecon.config.evaluation import RobustnessConfig
from fragrecon.data.corruption import CHANGES, turn
from fragrecon.data.module import FragmentData
from fragrecon.data.puzzles import FragmentBatch, draw_orders, grid_of, make_batch
from fragrecon.errors import TrainingError
from fragrecon.evaluation.clustering.protocol import ClusteringProtocol
from fragrecon.evaluation.clustering.robustness import Condition, Outcome, conditions, outcomes, table
from fragrecon.evaluation.statistics import Scores
from fragrecon.run import compose
from tests.data.test_compression import by_pillow, photograph, tensor
from tests.data.test_corruption import fragments, values_of
from tests.evaluation.samples import CPU, Pictures, batch_of, data_of

AXES = ("images", "fragment_size", "noise", "rotation", "jitter", "gap", "missing", "jpeg_quality")
METHODS = ["random", "raw_pixels", "colour_histogram", "exact_pca", "whitened_pca"]


# Conditions -----------------------------------------------------------------------------------------------------------


def harder(puzzles: int = 5, **axes: list[Any]) -> RobustnessConfig:
    none: dict[str, list[Any]] = {axis: [] for axis in AXES}
    return RobustnessConfig(puzzles=puzzles, **none | axes)


def test_conditions_come_axis_by_axis_in_the_order_of_the_config() -> None:
    config = harder(gap=[2, 1], images=[5, 2], noise=[0.02], jitter=[0.1], rotation=[0.25, 1.0], fragment_size=[8])
    assert [str(condition) for condition in conditions(config)] == [
        "images=5",
        "images=2",
        "fragment_size=8",
        "noise=0.02",
        "rotation=0.25",
        "rotation=1",
        "jitter=0.1",
        "gap=2",
        "gap=1",
    ]
    assert not list(conditions(harder()))


def test_the_conditions_of_the_file_are_those_of_all_axes() -> None:
    config = compose(["evaluation=robustness"]).evaluation.robustness
    assert config is not None
    found = list(conditions(config))
    assert {condition.axis for condition in found} == set(AXES)
    assert len({str(condition) for condition in found}) == len(found) == 24


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> FragmentData:
    """60 test images of 32x32 pixels; puzzles of 4 images in 16 fragments each."""
    return data_of(tmp_path_factory.mktemp("cache"))


def test_the_usual_puzzles_are_known_as_such(data: FragmentData) -> None:
    for condition, usual in (
        (Condition("images", 4), True),
        (Condition("images", 5), False),
        (Condition("fragment_size", 8), True),
        (Condition("fragment_size", 16), False),
        (Condition("noise", 0.1), False),
        (Condition("gap", 1), False),
        (Condition("jpeg_quality", 95), False),
    ):
        assert condition.is_usual(condition.data(data), data) == usual, condition


def test_other_puzzles_are_of_the_same_images(data: FragmentData) -> None:
    larger = Condition("fragment_size", 16).data(data)
    assert (larger.config.fragment_shape, larger.config.images_per_puzzle, larger.cells) == ((3, 16, 16), 4, 4)
    more = Condition("images", 7).data(data)
    assert (more.config.fragment_shape, more.config.images_per_puzzle, more.cells) == ((3, 8, 8), 7, 16)
    for other in (larger, more):
        assert other.store("test") is data.store("test")
        assert other.puzzle_seed == data.puzzle_seed
    assert torch.equal(larger.test_set(3).read(slice(0, 3)).image_ids, data.test_set(3).read(slice(0, 3)).image_ids)
    assert data.config.images_per_puzzle == 4
    assert Condition("noise", 0.1).data(data) is data


@pytest.mark.parametrize("axis", [*CHANGES, "jpeg_quality"])
def test_a_condition_changes_the_fragments_and_nothing_else(axis: str) -> None:
    batch = batch_of(fragments(3, 6), step=7)
    before = batch.fragments.clone()
    changed = Condition(axis, 75 if axis == "jpeg_quality" else values_of(axis)).change(batch, seed=0, grid=(1, 3))
    assert torch.equal(batch.fragments, before)
    assert not torch.equal(changed.fragments, before)
    same = {name for name, value in vars(batch).items() if vars(changed)[name] is value}
    assert vars(batch).keys() - same == {"fragments", *(["rotations"] if axis == "rotation" else [])}


@torch.inference_mode()
def test_fragments_that_were_rotated_and_put_back_are_those_from_before() -> None:
    batch = batch_of(fragments(3, 6))
    changed = Condition("rotation", 0.75).change(batch, seed=0, grid=(1, 3))
    assert 0 < int((changed.rotations == 0).sum()) < changed.rotations.numel()
    assert torch.equal(turn(changed.fragments, -changed.rotations), batch.fragments)


def test_missing_fragments_are_gone_with_all_that_was_known_of_them() -> None:
    batch = batch_of(fragments(3, 6))
    changed = Condition("missing", 0.33).change(batch, seed=0, grid=(1, 3))
    for name in ("fragments", "source_ids", "positions", "rotations", "labels"):
        assert torch.equal(getattr(changed, name), getattr(batch, name)[:, :4]), name
    assert torch.equal(changed.image_ids, batch.image_ids)


@pytest.mark.parametrize("axis", ["images", "fragment_size"])
def test_a_condition_of_the_cut_leaves_the_fragments(axis: str) -> None:
    batch = batch_of(fragments())
    assert Condition(axis, 8).change(batch, seed=0, grid=(1, 3)) is batch


@pytest.mark.parametrize("axis", ["noise", "rotation", "jitter"])
def test_a_condition_draws_by_seed_axis_value_and_number_of_the_puzzle(axis: str) -> None:
    whole = batch_of(fragments(1, 30).expand(6, -1, -1, -1, -1))

    def change(batch: FragmentBatch, value: float = 0.3, seed: int = 0) -> Tensor:
        return Condition(axis, value).change(batch, seed, (3, 5)).fragments

    found = change(whole)
    assert len({tuple(puzzle.flatten().tolist()) for puzzle in found}) == 6
    late = dataclasses.replace(whole, fragments=whole.fragments[:2], step=4)
    assert torch.equal(change(late), found[4:])
    assert torch.equal(change(whole), found)
    assert not torch.equal(change(whole, seed=1), found)
    # With the random numbers of 0.3, the fragments rotated at 0.3 would all be rotated at 0.300001 as well.
    assert not torch.allclose(change(whole, 0.300001), found, atol=0.01)


@pytest.mark.parametrize("quality", [75, 95])
@pytest.mark.parametrize(("mode", "size"), [("RGB", (16, 16)), ("RGB", (32, 8)), ("L", (16, 16))])
def test_whole_images_are_compressed_like_the_files_of_pillow_and_stay_shuffled(
    quality: int, mode: str, size: tuple[int, int]
) -> None:
    boxes = [(100, 0, 420, 320), (0, 192, 320, 512), (192, 192, 512, 512), (20, 60, 276, 316)]
    images = [photograph(64, box).convert(mode) for box in boxes]
    grid = grid_of((64, 64), size)
    orders = torch.from_numpy(draw_orders(2, 2 * grid[0] * grid[1], np.random.default_rng(0)))
    numbers = torch.arange(4).view(2, 2)

    def puzzles_of(pixels: list[Tensor]) -> FragmentBatch:
        return make_batch(torch.stack(pixels).view(2, 2, -1, 64, 64), numbers, numbers, orders, size)

    batch = puzzles_of([tensor(image) for image in images])
    found = Condition("jpeg_quality", quality).change(batch.as_float(), 0, grid).fragments * 255
    expected = puzzles_of([by_pillow(image, quality, 2 if mode == "RGB" else 0) for image in images]).fragments
    apart, lost = (found - expected).abs().mean(), (batch.fragments - expected).abs().mean()
    assert apart < 1  # of 255 levels
    assert apart < 0.4 * lost
    nearest = torch.cdist(found.flatten(2), expected.flatten(2)).argmin(2)
    assert torch.equal(nearest, torch.arange(nearest.shape[1]).expand_as(nearest))


# Outcomes -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def protocol() -> ClusteringProtocol:
    return ClusteringProtocol(BACKENDS["batched"], restarts=1, seed=0, memory=2**24)


class Halves:
    """A model whose embedding loses much, the means of the halves of a fragment, and that takes one shape only.

    Attributes:
        seen: fragments that it encoded.
    """

    def __init__(self, shape: tuple[int, int, int] = (3, 8, 8), scale: float = 1.0) -> None:
        self.fragment_shape, self.scale, self.seen = shape, scale, list[Tensor]()

    def encode(self, fragments: Tensor) -> Tensor:
        assert tuple(fragments.shape[2:]) == self.fragment_shape
        self.seen.append(fragments)
        return torch.cat([half.mean((-2, -1)) for half in fragments.chunk(2, dim=-1)], -1) * self.scale


def usual_scores(puzzles: int = 8) -> dict[str, dict[str, Scores]]:
    """Scores that no one would compute."""
    random = np.random.default_rng(0)
    return {
        method: {metric: random.random(puzzles) for metric in ("kmeans_ari", "mean_nmi")}
        for method in (*METHODS, "model")
    }


def run(
    config: RobustnessConfig,
    data: FragmentData,
    model: Halves,
    cache: Path,
    batch_size: int = 4,
    advance: Callable[[int], None] = lambda count: None,
) -> list[Outcome]:
    settings: dict[str, Any] = {"backend": "batched", "restarts": 1, "seed": 0, "memory_mb": 16, "estimate_count": True}
    evaluation = SimpleNamespace(robustness=config, **settings)
    scoring: Any = SimpleNamespace(config=SimpleNamespace(evaluation=evaluation), model=model, data=data, cache=cache)
    scoring.settings = {"batch_size": batch_size, "device": CPU}
    return list(outcomes(scoring, usual_scores(), advance))


@pytest.mark.parametrize(("axis", "value"), [("noise", 0.1), ("jpeg_quality", 75)])
def test_model_and_baselines_are_scored_on_the_changed_puzzles(
    protocol: ClusteringProtocol, data: FragmentData, tmp_path: Path, axis: str, value: float
) -> None:
    embed = Halves()
    axes: dict[str, Any] = {axis: [value]}
    (found,) = run(harder(**axes), data, embed, tmp_path)
    condition = Condition(axis, value)
    assert (found.condition, found.not_applicable) == (condition, {})
    assert list(found.scores) == [*METHODS, "model"]
    batch = condition.change(data.test_set(5).read(slice(0, 5)).as_float(), protocol.seed, data.grid)
    assert torch.equal(torch.cat(embed.seen), batch.fragments)
    assert not torch.equal(batch.fragments, data.test_set(5).read(slice(0, 5)).as_float().fragments)
    for method, embeddings in (("model", embed.encode(batch.fragments)), ("raw_pixels", batch.fragments.flatten(2))):
        for metric, values in protocol.score_fully(embeddings, batch).items():
            np.testing.assert_array_equal(found.scores[method][metric], values.numpy(), f"{method} {metric}")


@pytest.mark.parametrize(
    ("axes", "count", "shape"),
    [({"images": [7]}, 7 * 16, (3, 8, 8)), ({"fragment_size": [16]}, 4 * 4, (3, 16, 16))],
)
def test_other_puzzles_are_scored_with_the_model_if_it_takes_their_fragments(
    protocol: ClusteringProtocol,
    data: FragmentData,
    tmp_path: Path,
    axes: dict[str, Any],
    count: int,
    shape: tuple[int, int, int],
) -> None:
    embed = Halves()
    (found,) = run(harder(**axes), data, embed, tmp_path)
    batch = found.condition.data(data).test_set(5).read(slice(0, 5)).as_float()
    assert tuple(batch.fragments.shape) == (5, count, *shape)
    for metric, values in protocol.score_fully(batch.fragments.flatten(2), batch).items():
        np.testing.assert_array_equal(found.scores["raw_pixels"][metric], values.numpy(), metric)
    if "images" in axes:
        assert list(found.scores) == [*METHODS, "model"]
        assert torch.equal(torch.cat(embed.seen), batch.fragments)
        assert found.not_applicable == {}
    else:
        assert list(found.scores) == METHODS
        assert embed.seen == []  # nothing is resized for it
        assert found.not_applicable == {"model": "it takes fragments of 8x8 pixels, not 16x16"}


def test_what_is_no_puzzle_has_a_reason_and_stops_nothing(data: FragmentData, tmp_path: Path) -> None:
    config = harder(puzzles=2, jitter=[0.2], images=[61, 1], fragment_size=[12, 32], gap=[4])
    values = {"images=61": "60", "images=1": "images_per_puzzle", "fragment_size=12": "12", "gap=4": "8x8"}
    for outcome in run(config, data, Halves(), tmp_path):
        if outcome.condition.axis == "jitter":
            assert list(outcome.scores) == [*METHODS, "model"]
        else:
            assert outcome.scores == {}
            assert list(outcome.not_applicable) == ["all"]
            assert values.get(str(outcome.condition), "data.fragment_size") in outcome.not_applicable["all"]


@pytest.mark.fault("too few training images")
def test_fewer_training_images_than_a_puzzle_has_stop_nothing(tmp_path: Path) -> None:
    few = data_of(tmp_path, Pictures((3, 8, 8), train=5), fragment_size=4)
    large, eroded = run(harder(puzzles=1, images=[9], gap=[1]), few, Halves((3, 4, 4)), tmp_path / "scores")
    assert {"raw_pixels", "model"} <= set(large.scores)
    assert list(eroded.scores) == [*METHODS, "model"]


def test_fragments_that_are_not_square_are_not_rotated_but_eroded(tmp_path: Path) -> None:
    flat = data_of(tmp_path, fragment_size=[8, 16])
    rotated, eroded = run(harder(puzzles=1, rotation=[0.5], gap=[2]), flat, Halves((3, 8, 16)), tmp_path)
    assert "8x16 pixels" in rotated.not_applicable["all"]
    assert list(eroded.scores) == [*METHODS, "model"]


def test_the_usual_condition_takes_the_scores_that_are_there_bit_for_bit(data: FragmentData, tmp_path: Path) -> None:
    embed = Halves()
    found = run(harder(images=[4], fragment_size=[8]), data, embed, tmp_path)
    assert [str(outcome.condition) for outcome in found] == ["images=4", "fragment_size=8"]
    for outcome in found:
        assert list(outcome.scores) == list(usual_scores())
        for method, rows in usual_scores().items():
            for metric, values in rows.items():
                np.testing.assert_array_equal(outcome.scores[method][metric], values[:5])
    assert embed.seen == []
    assert not list(tmp_path.iterdir())


def test_outcomes_depend_neither_on_the_size_of_the_batches_nor_on_each_other(
    data: FragmentData, tmp_path: Path
) -> None:
    axes: dict[str, list[Any]] = {"images": [3], "noise": [0.1], "gap": [1]}
    together = run(harder(puzzles=3, **axes), data, Halves(), tmp_path / "together", batch_size=2)
    for axis, outcome in zip(axes, together, strict=True):
        (alone,) = run(harder(puzzles=3, **{axis: axes[axis]}), data, Halves(), tmp_path / axis, batch_size=3)
        assert outcome.condition == alone.condition
        for method, rows in outcome.scores.items():
            for metric, values in rows.items():
                # Tables of puzzles side by side are as wide as the widest, so their sums round in another order.
                np.testing.assert_allclose(values, alone.scores[method][metric], 0, 1e-12, err_msg=metric)


def test_progress_comes_to_what_was_promised_also_when_scores_are_known(data: FragmentData, tmp_path: Path) -> None:
    config = harder(puzzles=2, images=[4, 3, 100], fragment_size=[16, 12], gap=[9])
    for _ in range(2):
        told: list[int] = []
        assert len(run(config, data, Halves(), tmp_path, advance=told.append)) == 6
        assert sum(told) == 2 * 6 * 2
        assert min(told) > 0


def test_baselines_are_cached_for_each_condition_apart(data: FragmentData, tmp_path: Path) -> None:
    config = harder(puzzles=1, images=[2, 3], fragment_size=[16], noise=[0.1, 0.2])
    found = run(config, data, Halves(), tmp_path)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(kept) == 5 * len(METHODS)
    again = run(config, data, Halves(), tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == kept
    for one, other in zip(found, again, strict=True):
        for method, rows in one.scores.items():
            for metric, values in rows.items():
                np.testing.assert_array_equal(values, other.scores[method][metric])


def test_a_model_whose_embeddings_are_no_numbers_is_an_error(data: FragmentData, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="not finite"):
        run(harder(puzzles=1, gap=[1]), data, Halves(scale=math.nan), tmp_path)


def test_grey_images_are_scored_under_every_condition(tmp_path: Path) -> None:
    grey = data_of(tmp_path, Pictures((1, 8, 8)), fragment_size=4, images_per_puzzle=3)
    config = harder(puzzles=1, images=[2], noise=[0.1], rotation=[1.0], jitter=[0.2], gap=[1], jpeg_quality=[75])
    for outcome in run(config, grey, Halves((1, 4, 4)), tmp_path):
        assert list(outcome.scores) == [*METHODS, "model"]


# The table ------------------------------------------------------------------------------------------------------------


def test_the_table_has_means_intervals_and_paired_differences() -> None:
    random = np.random.default_rng(0)
    hardness = random.normal(0, 0.2, 9)
    scores = {
        method: {"ari": own + hardness + random.normal(0, 0.02, 9), "nmi": random.random(9)}
        for method, own in (("random", 0.0), ("pixels", 0.3), ("model", 0.5))
    }
    del scores["random"]["nmi"]
    rows = table([Outcome(Condition("noise", 0.1), scores, {})])
    assert [(row["method"], row["metric"]) for row in rows] == [
        ("random", "ari"),
        ("pixels", "ari"),
        ("pixels", "nmi"),
        ("model", "ari"),
        ("model", "nmi"),
        ("model_minus_random", "ari"),
        ("model_minus_pixels", "ari"),
        ("model_minus_pixels", "nmi"),
    ]
    for row in rows:
        assert list(row) == ["axis", "value", "method", "metric", "mean", "std", "low", "high", "n"]
        assert (row["axis"], row["value"], row["n"]) == ("noise", 0.1, 9)
        baseline = row["method"].removeprefix("model_minus_")
        sample = scores[baseline][row["metric"]]
        if baseline != row["method"]:
            sample = scores["model"][row["metric"]] - sample
        interval = stats.ttest_1samp(sample, 0).confidence_interval(0.95)
        assert row["mean"] == pytest.approx(sample.mean(), rel=1e-12)
        assert row["std"] == pytest.approx(np.std(sample, ddof=1), rel=1e-12)
        assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high), rel=1e-9)
    widths = {row["method"]: row["high"] - row["low"] for row in rows if row["metric"] == "ari"}
    assert widths["model_minus_pixels"] < widths["model"] / 3


def test_the_table_has_a_row_for_what_cannot_be_scored() -> None:
    pixels = {"pixels": {"ari": np.array([0.25])}}
    rows = table(
        [
            Outcome(Condition("images", 100), {}, {"all": "too many"}),
            Outcome(Condition("fragment_size", 8), pixels, {"model": "another size"}),
        ]
    )
    assert rows == [
        {"axis": "images", "value": 100, "method": "all", "not_applicable": "too many"},
        {
            "axis": "fragment_size",
            "value": 8,
            "method": "pixels",
            "metric": "ari",
            "mean": 0.25,
            "std": None,
            "low": None,
            "high": None,
            "n": 1,
        },
        {"axis": "fragment_size", "value": 8, "method": "model", "not_applicable": "another size"},
    ]
