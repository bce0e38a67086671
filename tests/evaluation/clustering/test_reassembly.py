from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fragrecon.clustering.backends import BACKENDS
from fragrecon.data.puzzles import FragmentBatch
from fragrecon.evaluation.clustering.protocol import ClusteringProtocol
from fragrecon.evaluation.clustering.reassembly import agreement, matches, score_clues, score_gradients, score_solution
from fragrecon.models.base import Solution
from fragrecon.reassembly.clues import Clues
from fragrecon.reassembly.rebuild import Placement, rebuild
from tests.evaluation.samples import alone_of, puzzles
from tests.reassembly.samples import Grid, puzzle_of, random_clues, seeded, smooth, true_clues

MEMORY = 2**26
PROTOCOL = ClusteringProtocol(BACKENDS["batched"], restarts=5, seed=0, memory=MEMORY)
METRICS = ("direct", "neighbours", "perfect")
NAMES = [f"{way}_{metric}" for way in ("placing", "reassembly") for metric in METRICS]
unhurried = settings(deadline=None, max_examples=15)


def placed(images: Tensor, cells: Tensor) -> Placement:
    return Placement(images, cells, torch.zeros_like(images))


def truth_of(batch: FragmentBatch) -> Placement:
    return placed(batch.source_ids.clone(), batch.positions.clone())


def places(placement: Placement, puzzle: int) -> list[tuple[int, int]]:
    return list(zip(placement.images[puzzle].tolist(), placement.cells[puzzle].tolist(), strict=True))


def slow_seams(at: list[tuple[int, int]], grid: Grid) -> set[tuple[int, int, str]]:
    """Pairs that abut, the first to the left of or above the second."""
    columns, found = grid[1], set()
    for (i, (image, cell)), (j, (other, far)) in itertools.permutations(enumerate(at), 2):
        if image == other and far == cell + 1 and far % columns:
            found.add((i, j, "across"))
        if image == other and far == cell + columns:
            found.add((i, j, "down"))
    return found


def slow_agreement(placement: Placement, batch: FragmentBatch, puzzle: int, grid: Grid) -> dict[str, float]:
    """By all ways to take rebuilt images for true ones."""
    found, true = places(placement, puzzle), places(truth_of(batch), puzzle)
    n, images = grid[0] * grid[1], batch.images_per_puzzle
    best: list[list[int]] = []
    for names in itertools.permutations(range(images)):
        right = [0] * images
        for (image, cell), (source, position) in zip(found, true, strict=True):
            right[source] += names[image] == source and cell == position
        best.append(right)
    right = max(best, key=sum)
    seams = slow_seams(true, grid)
    return {
        "direct": sum(right) / len(true),
        "neighbours": len(seams & slow_seams(found, grid)) / max(1, len(seams)),
        "perfect": sum(count == n for count in right) / images,
    }


def moved(batch: FragmentBatch, swaps: int, seed: int = 0, within: bool = False) -> Placement:
    """The truth, with pairs of fragments that have changed places."""
    images, cells = batch.source_ids.clone(), batch.positions.clone()
    random = seeded(seed)
    for b in range(len(batch)):
        for _ in range(swaps):
            one, other = torch.randperm(images.shape[1], generator=random)[:2].tolist()
            if not within or images[b, one] == images[b, other]:
                images[b, [one, other]] = images[b, [other, one]]
                cells[b, [one, other]] = cells[b, [other, one]]
    return placed(images, cells)


# Agreement ------------------------------------------------------------------------------------------------------------


@unhurried
@given(st.integers(0, 2**32), st.sampled_from([(3, (2, 3)), (2, (3, 1)), (4, (2, 2)), (2, (3, 2)), (1, (2, 3))]))
def test_agreement_is_that_of_a_slow_loop(seed: int, sizes: tuple[int, Grid]) -> None:
    images, grid = sizes
    batch = puzzles(5, images, grid[0] * grid[1], seed % 1000)
    for swaps in (0, 1, 3, 30):
        placement = moved(batch, swaps, seed)
        found = agreement(placement, batch, grid)
        assert set(found) == set(METRICS)
        for b in range(5):
            expected = slow_agreement(placement, batch, b, grid)
            own = {name: found[name][b].item() for name in ("direct", "neighbours")}
            assert own == pytest.approx({name: expected[name] for name in own}, abs=1e-12)
            if swaps <= 3:  # beyond, several ways to name the images may be best
                assert found["perfect"][b].item() == pytest.approx(expected["perfect"], abs=1e-12)


@pytest.mark.parametrize(("images", "grid"), [(10, (4, 4)), (3, (2, 3)), (2, (1, 1)), (1, (3, 2))])
def test_the_truth_is_perfect_whatever_its_images_are_called(images: int, grid: Grid) -> None:
    batch = puzzles(3, images, grid[0] * grid[1])
    names = torch.randperm(images, generator=seeded(1))
    for placement in (truth_of(batch), placed(names[batch.source_ids], batch.positions)):
        found = agreement(placement, batch, grid)
        assert found["direct"].tolist() == found["perfect"].tolist() == [1.0] * 3
        assert found["neighbours"].tolist() == [float(grid != (1, 1))] * 3
    assert torch.equal(matches(placed(names[batch.source_ids], batch.positions), batch)[0, names], torch.arange(images))


@pytest.mark.fault("rebuilt.png where no fragment is in place")
def test_where_no_fragment_is_in_place_images_match_by_their_fragments() -> None:
    batch, names = puzzles(1, 3, 6), torch.tensor([2, 0, 1])
    found = matches(placed(names[batch.source_ids], (batch.positions + 1) % 6), batch)
    assert torch.equal(found[0, names], torch.arange(3))


def test_a_fragment_in_its_cell_is_right_only_if_its_rotation_is_undone() -> None:
    batch = dataclasses.replace(puzzles(2, 3, 6), rotations=torch.randint(4, (2, 18), generator=seeded(1)))
    truth = Placement(batch.source_ids, batch.positions, batch.rotations)
    assert all(float(score.min()) == 1 for score in agreement(truth, batch, (2, 3)).values())
    wrong = batch.rotations.clone()
    wrong[0, 5] = (wrong[0, 5] + 1) % 4
    found = agreement(Placement(batch.source_ids, batch.positions, wrong), batch, (2, 3))
    assert found["direct"].tolist() == pytest.approx([17 / 18, 1])
    assert found["perfect"].tolist() == pytest.approx([2 / 3, 1])


def test_images_with_missing_fragments_are_perfect_without_them() -> None:
    batch = puzzles(2, 3, 6).first(13)
    found = agreement(truth_of(batch), batch, (2, 3))
    assert all(score.tolist() == [1, 1] for score in found.values())


def test_one_image_too_many_costs_only_its_fragments() -> None:
    batch = puzzles(2, 3, 6)
    images = torch.where((batch.source_ids == 2) & (batch.positions < 2), 3, batch.source_ids)
    found = agreement(placed(images, batch.positions), batch, (2, 3))
    assert found["direct"].tolist() == pytest.approx([16 / 18] * 2)
    assert found["perfect"].tolist() == pytest.approx([2 / 3] * 2)


def test_a_shifted_image_has_its_neighbours_but_no_fragment_in_place() -> None:
    batch, grid = puzzles(2, 2, 16), (4, 4)
    row, column = batch.positions // 4, batch.positions % 4
    shifted = row * 4 + (column + 1) % 4
    of_first = batch.source_ids == 0
    found = agreement(placed(batch.source_ids, torch.where(of_first, shifted, batch.positions)), batch, grid)
    assert found["direct"].tolist() == [0.5] * 2
    assert found["perfect"].tolist() == [0.5] * 2
    # Of 24 seams of the image, the four between the last two columns are open.
    assert found["neighbours"].tolist() == pytest.approx([44 / 48] * 2)


def test_a_mirrored_image_has_no_neighbour_across_though_all_abut() -> None:
    batch, grid = puzzles(1, 1, 6), (2, 3)
    mirrored = batch.positions // 3 * 3 + 2 - batch.positions % 3
    found = agreement(placed(batch.source_ids, mirrored), batch, grid)
    assert found["neighbours"].tolist() == pytest.approx([3 / 7])  # the three seams that lie flat
    assert found["direct"].tolist() == pytest.approx([2 / 6])


def test_two_fragments_that_changed_places_spoil_both_images() -> None:
    batch = puzzles(4, 4, 16)
    images, cells = batch.source_ids.clone(), batch.positions
    for b in range(4):
        pair = [int(torch.nonzero((images[b] == image) & (cells[b] == 5))[0]) for image in (0, 1)]
        images[b, pair] = images[b, pair[::-1]]
    found = agreement(placed(images, cells), batch, (4, 4))
    assert found["direct"].tolist() == [62 / 64] * 4
    assert found["perfect"].tolist() == [0.5] * 4
    assert found["neighbours"].tolist() == pytest.approx([(96 - 8) / 96] * 4)


def test_random_placements_are_chance() -> None:
    batch, grid = puzzles(400, 2, 16), (4, 4)
    order = torch.stack([torch.randperm(32, generator=seeded(i + 5000)) for i in range(400)])
    found = agreement(placed(order // 16, order % 16), batch, grid)
    # The second of a pair that abuts lies on that side of the first: 24 of 32 * 31 ordered pairs of places.
    error = found["neighbours"].std().item() / 20
    assert found["neighbours"].mean().item() == pytest.approx(24 / (32 * 31), abs=4 * error)
    assert 1 / 32 < found["direct"].mean() < 3 / 32  # one in 32, for the better of two ways to name the images
    assert found["perfect"].max() == 0


def test_each_puzzle_is_judged_alone_and_in_any_order_of_fragments() -> None:
    batch, grid = puzzles(5, 3, 6), (2, 3)
    placement, order = moved(batch, 3), torch.randperm(18, generator=seeded(2))
    whole = agreement(placement, batch, grid)
    for b in range(5):
        own = alone_of(batch, b)
        alone = agreement(placed(placement.images[b : b + 1], placement.cells[b : b + 1]), own, grid)
        assert {name: values.item() for name, values in alone.items()} == {
            name: values[b].item() for name, values in whole.items()
        }
    turned = FragmentBatch(
        batch.fragments[:, order],
        batch.source_ids[:, order],
        batch.positions[:, order],
        batch.rotations[:, order],
        batch.labels[:, order],
        batch.image_ids,
    )
    again = agreement(placed(placement.images[:, order], placement.cells[:, order]), turned, grid)
    for name, values in whole.items():
        assert torch.equal(values, again[name]), name
    assert len(set(whole["direct"].tolist())) > 1


# Clues ----------------------------------------------------------------------------------------------------------------


def mixed(batch: FragmentBatch) -> Tensor:
    """Groups in which one fragment of each image is in the next."""
    return torch.where(batch.positions == 1, (batch.source_ids + 1) % batch.images_per_puzzle, batch.source_ids)


@pytest.mark.parametrize("grid", [(4, 4), (2, 3)])
def test_clues_of_the_truth_score_one_also_from_wrong_groups(grid: Grid) -> None:
    batch = puzzles(3, 4, grid[0] * grid[1])
    clues = true_clues(batch.source_ids, batch.positions, grid, cells=0.2)
    for images in (batch.source_ids, mixed(batch)):
        found = score_clues(clues, images, batch, grid, MEMORY)
        assert list(found) == NAMES
        for name, values in found.items():
            assert values.tolist() == [1.0] * 3, name
            assert values.dtype == torch.float64 or name.endswith("direct")


def test_placing_is_told_the_images_and_reassembly_is_not() -> None:
    batch, grid = puzzles(3, 3, 6), (2, 3)
    clues = true_clues(batch.source_ids, batch.positions, grid, cells=1.0, seams=0.0)  # nothing tells the image
    found = score_clues(clues, mixed(batch), batch, grid, MEMORY)
    assert [found[f"placing_{metric}"].tolist() for metric in METRICS] == [[1.0] * 3] * 3
    assert found["reassembly_direct"].tolist() == pytest.approx([15 / 18] * 3)
    assert found["reassembly_perfect"].tolist() == [0.0] * 3


def test_only_reassembly_lets_fragments_change_places_between_images() -> None:
    batch, grid = puzzles(10, 3, 6), (2, 3)
    clues, images = random_clues(10, 18, grid), mixed(batch)
    found = score_clues(clues, images, batch, grid, MEMORY)
    for way, groups, regroup in (("placing", batch.source_ids, False), ("reassembly", images, True)):
        expected = agreement(rebuild(clues, groups, grid, regroup=regroup), batch, grid)
        other = agreement(rebuild(clues, groups, grid, regroup=not regroup), batch, grid)
        for metric in METRICS:
            assert torch.equal(found[f"{way}_{metric}"], expected[metric])
        assert not torch.equal(expected["direct"], other["direct"])


def test_random_clues_are_chance() -> None:
    batch, grid = puzzles(60, 3, 6), (2, 3)
    found = score_clues(random_clues(60, 18, grid, seed=7), batch.source_ids.flip(1), batch, grid, MEMORY)
    placed = found["placing_direct"]
    assert placed.mean().item() == pytest.approx(1 / 6, abs=4 * placed.std().item() / 60**0.5)
    assert found["reassembly_direct"].mean() < 0.3
    assert found["reassembly_neighbours"].mean() < 0.15
    assert found["reassembly_perfect"].mean() < 0.05


# Pixels, and a model --------------------------------------------------------------------------------------------------


def test_smooth_images_are_rebuilt_by_their_pixels_and_noise_is_not() -> None:
    grid, shape = (2, 3), (3, 32, 48)
    found = score_gradients(puzzle_of(smooth(4, 3, shape), (16, 16)), grid, PROTOCOL)
    assert list(found) == NAMES
    for metric in METRICS:
        assert found[f"placing_{metric}"].tolist() == [1.0] * 4
        assert found[f"reassembly_{metric}"].mean() > 0.6
    noise = torch.randint(256, (30, 3, *shape), generator=seeded(0)).to(torch.uint8)
    found = score_gradients(puzzle_of(noise, (16, 16)), grid, PROTOCOL)
    assert found["placing_direct"].mean() < 0.3
    assert found["reassembly_direct"].mean() < 0.3
    assert found["reassembly_perfect"].mean() < 0.05


@pytest.mark.parametrize("grid", [(1, 6), (6, 1)])
def test_images_of_a_single_row_or_column_are_grouped_by_their_seams(grid: Grid) -> None:
    batch = puzzle_of(smooth(8, 3, (3, 16 * grid[0], 16 * grid[1])), (16, 16))
    assert score_gradients(batch, grid, PROTOCOL)["reassembly_direct"].mean() > 0.9


def test_gradients_are_scored_alike_in_any_batch() -> None:
    grain = torch.randint(60, (5, 3, 3, 32, 48), generator=seeded(0))
    batch = puzzle_of((smooth(5, 3, (3, 32, 48)) // 2 + grain).to(torch.uint8), (16, 16))
    whole = score_gradients(batch, (2, 3), PROTOCOL)
    for b in range(5):
        own = alone_of(batch, b)
        alone = score_gradients(own, (2, 3), PROTOCOL)
        assert {name: values.item() for name, values in alone.items()} == {
            name: values[b].item() for name, values in whole.items()
        }
    assert len(set(whole["reassembly_direct"].tolist())) > 1


def solved(batch: FragmentBatch, grid: Grid, sure: float = 20.0) -> Solution:
    """What a model that knows the truth would say."""
    truth = true_clues(batch.source_ids, batch.positions, grid, cells=sure, seams=sure)
    beside = torch.stack([truth.across, truth.down, truth.across.mT, truth.down.mT], 2)  # (B, F, 4, F)
    alone = sure * (beside.amax(-1, keepdim=True) == 0)
    return Solution(F.one_hot(batch.source_ids).float(), truth.cells, torch.cat([beside, alone], -1))


@pytest.mark.parametrize("grid", [(2, 3), (4, 2)])
def test_a_model_that_knows_the_truth_scores_one_whatever_the_pixels_say(grid: Grid) -> None:
    noise = torch.randint(256, (3, 4, 3, 8 * grid[0], 8 * grid[1]), generator=seeded(0)).to(torch.uint8)
    batch = puzzle_of(noise, (8, 8))
    found = score_solution(solved(batch, grid), batch, grid, PROTOCOL)
    assert list(found) == NAMES
    for name, values in found.items():
        assert values.tolist() == [1.0] * 3, name


def test_a_model_that_knows_nothing_still_has_the_pixels() -> None:
    grid, batch = (2, 3), puzzle_of(smooth(3, 3, (3, 32, 48)), (16, 16))
    known = solved(batch, grid)
    ignorant = Solution(known.embeddings, torch.zeros_like(known.cells), torch.zeros_like(known.sides))
    assert score_solution(ignorant, batch, grid, PROTOCOL)["reassembly_perfect"].tolist() == [1.0] * 3


def test_the_groups_of_a_model_come_from_its_embeddings() -> None:
    grid, batch = (2, 3), puzzles(3, 3, 6)
    plain = torch.full((3, 18, 3, 4, 4), 0.5)  # pixels that tell nothing
    batch = FragmentBatch(**vars(batch) | {"fragments": plain})
    known = solved(batch, grid)
    silent = Solution(known.embeddings, known.cells, torch.zeros_like(known.sides))
    lost = Solution(torch.randn(3, 18, 4, generator=seeded(1)), silent.cells, silent.sides)
    by_groups, by_chance = (score_solution(own, batch, grid, PROTOCOL) for own in (silent, lost))
    assert by_groups["reassembly_perfect"].tolist() == by_chance["placing_perfect"].tolist() == [1.0] * 3
    assert by_chance["reassembly_direct"].max() < 0.9


def test_scores_keep_their_type_and_shape_for_the_least_puzzle() -> None:
    batch = puzzles(2, 2, 2)
    clues = Clues(torch.zeros(2, 4, 2), torch.zeros(2, 4, 4), torch.zeros(2, 4, 4))
    for name, values in score_clues(clues, batch.source_ids, batch, (1, 2), MEMORY).items():
        assert values.shape == (2,), name
        assert ((values >= 0) & (values <= 1)).all()
