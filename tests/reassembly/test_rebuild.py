from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fragrecon.reassembly.clues import Clues, gradient_clues
from fragrecon.reassembly.place import gain
from fragrecon.reassembly.rebuild import Placement, count_images, rebuild
from tests.reassembly.samples import (
    Grid,
    photographs,
    puzzle_of,
    random_clues,
    reordered,
    seeded,
    shuffled,
    slow_gain,
    taken,
    true_clues,
)

unhurried = settings(deadline=None, max_examples=25)
SEEDS = st.integers(0, 2**32)


def unit(labels: Tensor) -> Tensor:
    """Embeddings of length 1 in clear clusters."""
    noise = torch.randn(*labels.shape, 16, generator=seeded(0))
    return F.normalize(F.one_hot(labels, 16).float() + 0.05 * noise, dim=-1)


def held_by(placement: Placement, puzzle: int, k: int, n: int) -> list[int]:
    """What lies where in a puzzle, by a slow loop; F for nothing."""
    fragments = placement.images.shape[1]
    found = [fragments] * (k * n)
    for f in range(fragments):
        place = int(placement.images[puzzle, f]) * n + int(placement.cells[puzzle, f])
        assert found[place] == fragments, "two fragments at one place"
        found[place] = f
    return found


def assert_is(placement: Placement, images: Tensor, cells: Tensor) -> None:
    assert torch.equal(placement.images, images)
    assert torch.equal(placement.cells, cells)


def without(sources: Tensor, positions: Tensor, lost: int) -> tuple[Tensor, Tensor]:
    """A puzzle that has lost its last fragments, which are random ones."""
    kept = sources.shape[1] - lost
    return sources[:, :kept], positions[:, :kept]


# How many images ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("images", "cells"), [(1, 16), (2, 16), (7, 4), (5, 1), (3, 6)])
def test_fragments_that_fill_whole_images_are_of_as_many(images: int, cells: int) -> None:
    for seed in range(3):
        assert count_images(torch.randn(1, images * cells, 8, generator=seeded(seed)), cells) == images


@pytest.mark.parametrize(("images", "cells", "lost"), [(2, 16, 2), (5, 16, 7), (4, 9, 10), (7, 16, 12), (3, 6, 5)])
def test_where_fragments_are_lost_clear_clusters_are_counted(images: int, cells: int, lost: int) -> None:
    sources = torch.arange(images * cells) % images
    assert count_images(unit(sources[lost:].unsqueeze(0)), cells) == images


def test_there_are_never_fewer_images_than_the_fragments_need() -> None:
    sources = torch.arange(50).unsqueeze(0) % 2  # two clusters, but fifty fragments need four images
    assert count_images(unit(sources), 16) == 4
    assert count_images(unit(torch.arange(30).unsqueeze(0) % 5), 16) == 5  # there may be more
    for count in range(1, 40):
        found = count_images(torch.randn(1, count, 4, generator=seeded(count)), 16)
        assert -(-count // 16) <= found <= max(3, count // 4)


# Images ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (2, 3), (3, 1), (4, 4)])
@pytest.mark.parametrize("images", [1, 2, 3])
@pytest.mark.parametrize("regroup", [False, True])
def test_clues_of_the_truth_rebuild_every_image(grid: Grid, images: int, regroup: bool) -> None:
    sources, positions = shuffled(3, images, grid)
    clues = true_clues(sources, positions, grid, cells=0.5)
    assert_is(rebuild(clues, sources, grid, regroup=regroup), sources, positions)


@pytest.mark.parametrize("grid", [(2, 3), (3, 2), (4, 4)])
@pytest.mark.parametrize("lost", [1, 3, 5])
def test_fragments_that_are_left_are_rebuilt(grid: Grid, lost: int) -> None:
    sources, positions = without(*shuffled(4, 3, grid), lost)
    clues = true_clues(sources, positions, grid, cells=0.5)
    for regroup in (False, True):
        assert_is(rebuild(clues, sources, grid, regroup=regroup), sources, positions)


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (96, 64)])
def test_photographs_are_rebuilt_by_their_pixels(size: tuple[int, int]) -> None:
    batch, grid = puzzle_of(photographs(*size), (16, 16)), (size[0] // 16, size[1] // 16)
    clues = gradient_clues(batch.fragments, grid[0] * grid[1])
    assert_is(rebuild(clues, batch.source_ids, grid), batch.source_ids, batch.positions)
    assert_is(rebuild(clues, batch.source_ids, grid, regroup=True), batch.source_ids, batch.positions)


def mistaken(sources: Tensor, swaps: int, seed: int = 0) -> Tensor:
    """Groups in which pairs of fragments of different images have changed places."""
    found = sources.clone()
    for b, own in enumerate(found):
        pairs = [(i, j) for i, j in itertools.combinations(range(len(own)), 2) if sources[b, i] != sources[b, j]]
        for pick in torch.randperm(len(pairs), generator=seeded(seed + b))[:swaps].tolist():
            i, j = pairs[pick]
            own[[i, j]] = own[[j, i]]
    return found


@pytest.mark.parametrize("grid", [(3, 3), (4, 4)])
def test_only_with_regrouping_do_fragments_leave_their_group(grid: Grid) -> None:
    sources, positions = shuffled(6, 3, grid)
    clues = true_clues(sources, positions, grid, cells=0.2)
    wrong = mistaken(sources, 2)
    assert not (wrong == sources).all(1).any()
    assert torch.equal(rebuild(clues, wrong, grid).images, wrong)
    assert_is(rebuild(clues, wrong, grid, regroup=True), sources, positions)


@unhurried
@given(SEEDS, st.sampled_from([(2, 2), (2, 3), (1, 3), (1, 1)]), st.integers(1, 3), st.integers(0, 2), st.booleans())
def test_every_fragment_has_a_place_of_its_own_and_regrouping_never_loses(
    seed: int, grid: Grid, k: int, lost: int, coarse: bool
) -> None:
    n = grid[0] * grid[1]
    fragments = max(1, k * n - lost)
    clues = random_clues(2, fragments, grid, seed)
    if coarse:
        clues = Clues(clues.cells.round(), clues.across.round(), clues.down.round())
    order = torch.stack([torch.randperm(k * n, generator=seeded(seed % 1000 + i)) for i in range(2)])
    images = order[:, :fragments] // n
    first, last = (rebuild(clues, images, grid, regroup=regroup) for regroup in (False, True))
    assert torch.equal(first.images, images)
    for b in range(2):
        gains = [slow_gain(clues, b, held_by(placement, b, k, n), grid) for placement in (first, last)]
        assert gains[1] >= gains[0] - 1e-3


def test_the_fragments_of_each_image_are_placed_in_the_best_way() -> None:
    grid, sources = (2, 2), shuffled(5, 3, (2, 2))[0]
    clues = random_clues(5, 12, grid)
    found = rebuild(clues, sources, grid)
    for b in range(5):
        for image in range(3):
            own = torch.nonzero(sources[b] == image).flatten()
            alone = Clues(
                clues.cells[b, own][None], clues.across[b, own][:, own][None], clues.down[b, own][:, own][None]
            )
            every = torch.tensor(list(itertools.permutations(range(4)))).unsqueeze(0)
            best = every[0, gain(alone, every, grid)[0].argmax()]
            assert found.cells[b, own[best]].tolist() == [0, 1, 2, 3]


def test_regrouping_ends_where_no_swap_of_any_two_places_gains() -> None:
    grid, k = (2, 2), 3
    clues, images = random_clues(6, 11, grid), shuffled(6, k, grid)[0][:, :11]
    found = rebuild(clues, images, grid, regroup=True)
    moved = 0
    for b in range(6):
        held = held_by(found, b, k, 4)
        reached = slow_gain(clues, b, held, grid)
        for one, other in itertools.combinations(range(12), 2):
            swapped = list(held)
            swapped[one], swapped[other] = held[other], held[one]
            assert slow_gain(clues, b, swapped, grid) <= reached + 1e-3
        moved += int((found.images[b] != images[b]).sum())
    assert moved > 6


@pytest.mark.parametrize("regroup", [False, True])
def test_a_puzzle_is_rebuilt_alike_wherever_it_stands(regroup: bool) -> None:
    grid, images = (2, 3), shuffled(6, 3, (2, 3))[0][:, :16]
    clues = random_clues(6, 16, grid)
    whole = rebuild(clues, images, grid, regroup=regroup)
    assert_is(rebuild(clues, images, grid, regroup=regroup, memory=1), whole.images, whole.cells)
    for i in range(6):
        alone = rebuild(taken(clues, slice(i, i + 1)), images[i : i + 1], grid, regroup=regroup)
        assert_is(alone, whole.images[i : i + 1], whole.cells[i : i + 1])


@pytest.mark.parametrize("regroup", [False, True])
def test_the_order_of_fragments_does_not_matter(regroup: bool) -> None:
    grid, images = (2, 3), shuffled(3, 2, (2, 3))[0][:1].expand(3, -1)
    clues, order = random_clues(3, 12, grid), torch.randperm(12, generator=seeded(5))
    found = rebuild(clues, images, grid, regroup=regroup)
    moved = rebuild(reordered(clues, order), images[:, order], grid, regroup=regroup)
    assert_is(moved, found.images[:, order], found.cells[:, order])


def test_an_image_without_fragments_is_left_empty() -> None:
    sources, positions = torch.tensor([[0, 0, 0, 2, 2]]), torch.tensor([[1, 3, 0, 2, 0]])
    clues = true_clues(sources, positions, (2, 2), cells=1.0)
    assert_is(rebuild(clues, sources, (2, 2)), sources, positions)


def test_more_fragments_than_cells_are_refused() -> None:
    images = torch.tensor([[0, 0, 1, 1, 1], [0, 0, 0, 0, 0]])
    with pytest.raises(ValueError, match="an image of 4 cells cannot take 5 fragments"):
        rebuild(random_clues(2, 5, (2, 2)), images, (2, 2))
