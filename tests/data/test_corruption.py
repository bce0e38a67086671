from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given as drawn_from
from hypothesis import settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from fragrecon.data.adjacency import neighbours
from fragrecon.data.corruption import (
    CHANGES,
    KINDS,
    Corruption,
    add_noise,
    corrupt,
    erode,
    jitter,
    lose,
    quarter_turns,
    rotate,
    turn,
)
from fragrecon.data.puzzles import FragmentBatch
from fragrecon.errors import ConfigError
from fragrecon.seeds import keys_of, uniforms


def keys(count: int, seed: int = 0) -> Tensor:
    return keys_of(seed, "test", 0, count)


def fragments(count: int = 3, each: int = 6, shape: tuple[int, int, int] = (3, 8, 8), seed: int = 0) -> Tensor:
    return torch.rand(count, each, *shape, generator=torch.Generator().manual_seed(seed))


def puzzles_of(pixels: Tensor, step: int = 0, seed: int = 0) -> FragmentBatch:
    """A batch of fragments (B, F, C, h, w) of images of 2 x 2 cells, in random order."""
    puzzles, count = pixels.shape[:2]
    orders = torch.from_numpy(np.random.default_rng(seed).permuted(np.tile(np.arange(count), (puzzles, 1)), axis=1))
    images = -(-count // 4)
    ids = torch.arange(puzzles * images).view(puzzles, images)
    return FragmentBatch(pixels, orders // 4, orders % 4, torch.zeros_like(orders), orders // 4 + 100, ids, step)


def corrupted_bytes(corruption: Corruption, pixels: Tensor, seed: int, first: int) -> Tensor:
    return corruption.apply(puzzles_of(pixels), seed, first).fragments


def same(one: FragmentBatch, other: FragmentBatch) -> bool:
    return all(
        torch.equal(value, getattr(other, name)) if isinstance(value, Tensor) else value == getattr(other, name)
        for name, value in vars(one).items()
    )


def values_of(axis: str) -> float:
    """One that changes much."""
    return {"noise": 0.1, "rotation": 0.5, "jitter": 0.4, "gap": 2.0, "compression": 0.5}[axis]


# What all changes have in common --------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("axis", CHANGES)
def test_a_change_keeps_shape_type_and_range_and_leaves_what_it_is_given(axis: str, channels: int) -> None:
    given = fragments(shape=(channels, 8, 8))
    before, drawn = given.clone(), keys(3)
    changed = CHANGES[axis](given, drawn, values_of(axis))
    assert changed.shape == given.shape
    assert changed.dtype == torch.float32
    assert 0 <= changed.min() < changed.max() <= 1
    assert torch.equal(given, before)
    assert torch.equal(drawn, keys(3))
    assert not torch.equal(changed, given)


@pytest.mark.parametrize("axis", CHANGES)
def test_a_change_follows_from_a_puzzles_key_and_not_from_its_batch(axis: str) -> None:
    given, drawn = fragments(5), keys(5)
    whole = CHANGES[axis](given, drawn, values_of(axis))
    for part in (slice(0, 1), slice(1, 5), slice(3, 4)):
        assert torch.equal(CHANGES[axis](given[part], drawn[part], values_of(axis)), whole[part])
    again = CHANGES[axis](given, keys(5, seed=1), values_of(axis))
    assert torch.equal(again, whole) == (axis == "gap")


@pytest.mark.parametrize("axis", [axis for axis in CHANGES if axis != "gap"])
def test_puzzles_and_fragments_that_are_alike_are_changed_apart(axis: str) -> None:
    one = fragments(1, 1)
    changed = CHANGES[axis](one.expand(40, 5, -1, -1, -1), keys(40), values_of(axis))
    kinds = {tuple(fragment.flatten().tolist()) for fragment in changed.flatten(0, 1)}
    # Of 200 fragments, by chance; there are 4 rotations, and 256 offsets of the grid of compression.
    assert len(kinds) == 4 if axis == "rotation" else len(kinds) > (100 if axis == "compression" else 199)
    rows = {tuple(puzzle.flatten().tolist()) for puzzle in changed}
    assert len(rows) > 30


# Noise ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deviation", [0.01, 0.05, 0.1])
def test_noise_is_normal_and_has_its_deviation(deviation: float) -> None:
    grey = torch.full((4, 20, 3, 16, 16), 0.5)
    noise = ((add_noise(grey, keys(4), deviation) - 0.5) / deviation).flatten().double().numpy()
    assert noise.std() == pytest.approx(1, abs=4 / math.sqrt(2 * noise.size))
    assert noise.mean() == pytest.approx(0, abs=4 / math.sqrt(noise.size))
    within = stats.kstest(noise.clip(-4.9, 4.9), "norm").statistic
    assert within < 1.95 / math.sqrt(noise.size)  # the bound of one in a thousand


def test_noise_of_puzzles_fragments_and_channels_is_independent() -> None:
    noise = (add_noise(torch.full((3, 4, 3, 32, 32), 0.5), keys(3), 0.1) - 0.5).flatten(0, 2).flatten(1)
    together = torch.corrcoef(noise.double()) - torch.eye(36)
    assert together.abs().max() < 4.5 / 32  # 630 pairs of samples of 1024


def test_noise_ends_at_black_and_white() -> None:
    given = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1, 1).expand(1, 2, 1, 40, 40)
    changed = add_noise(given, keys(1), 0.2)
    assert (changed.min().item(), changed.max().item()) == (0, 1)
    for fragment, edge in zip(changed[0], (0, 1), strict=True):
        assert (fragment == edge).float().mean().item() == pytest.approx(0.5, abs=0.06)
        assert (fragment - edge).abs().mean().item() == pytest.approx(0.2 / math.sqrt(2 * math.pi), rel=0.15)


# Rotation -------------------------------------------------------------------------------------------------------------


def quarters(given: Tensor, changed: Tensor) -> list[int]:
    """By how many quarters each fragment was rotated, told by NumPy."""
    found = []
    for before, after in zip(given.flatten(0, 1).numpy(), changed.flatten(0, 1).numpy(), strict=True):
        ways = [n for n in range(4) if np.array_equal(np.rot90(before, n, (1, 2)), after)]
        assert len(ways) == 1
        found += ways
    return found


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_that_share_of_the_fragments_is_rotated_by_each_angle_alike(share: float) -> None:
    given = fragments(30, 20, (2, 4, 4))
    found = quarters(given, rotate(given, keys(30), share))
    for quarter in range(4):
        expected = 1 - share if quarter == 0 else share / 3
        least, most = stats.binom.interval(0.9999, len(found), expected)
        assert least <= found.count(quarter) <= most


def test_what_is_rotated_at_a_share_is_rotated_at_any_greater_one() -> None:
    given = fragments(4, 50)
    few, many = (quarters(given, rotate(given, keys(4), share)) for share in (0.3, 0.7))
    assert all(after == before for before, after in zip(few, many, strict=True) if before)


def test_fragments_that_are_not_square_cannot_be_rotated() -> None:
    with pytest.raises(ConfigError, match="8x16"):
        rotate(fragments(shape=(3, 8, 16)), keys(3), 0.5)
    with pytest.raises(ConfigError, match="8x16"):
        corrupt("rotation", puzzles_of(fragments(shape=(3, 8, 16))), keys(3), 0.5)


def test_a_turn_is_numpys_by_any_number_of_quarters() -> None:
    given = fragments(3, 5, (2, 4, 4))
    quarters_of = torch.arange(-7, 8).view(3, 5)
    before = given.clone()
    turned = turn(given, quarters_of)
    for puzzle in range(3):
        for place in range(5):
            expected = np.rot90(given[puzzle, place].numpy(), int(quarters_of[puzzle, place]), (1, 2))
            assert np.array_equal(turned[puzzle, place].numpy(), expected)
    assert torch.equal(given, before)
    assert torch.equal(turn(turned, -quarters_of), given)
    assert torch.equal(turn(given, torch.zeros(3, 5, dtype=torch.long)), given)
    assert torch.equal(turn(given.mul(255).to(torch.uint8), quarters_of), turned.mul(255).to(torch.uint8))
    for place, number in enumerate((1, -2, 6)):  # single fragments, and a puzzle, of one number
        assert torch.equal(turn(given[0, place], torch.tensor(number)), torch.rot90(given[0, place], number, (1, 2)))


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0, [0.0, 1.0, 0.3, 0.7]])
def test_the_quarter_turns_are_those_by_which_fragments_are_rotated(share: float | list[float]) -> None:
    given, strength = fragments(4, 30, (2, 4, 4)), torch.tensor(share) if isinstance(share, list) else share
    drawn, turned = quarter_turns(keys(4), 30, strength), rotate(given, keys(4), strength)
    assert drawn.shape == (4, 30)
    assert drawn.dtype == torch.int64
    assert drawn.flatten().tolist() == quarters(given, turned)
    assert torch.equal(turn(given, drawn), turned)
    assert torch.equal(turn(turned, -drawn), given)
    assert (set(drawn.flatten().tolist()) == {0}) == (share == 0.0)


def test_rotated_puzzles_know_their_rotations_and_others_have_none() -> None:
    batch = puzzles_of(fragments(4, 8))
    for kind in CHANGES:
        changed = corrupt(kind, batch, keys(4), values_of(kind))
        expected = quarters(batch.fragments, changed.fragments) if kind == "rotation" else [0] * 32
        assert changed.rotations.flatten().tolist() == expected
        assert torch.equal(changed.fragments, CHANGES[kind](batch.fragments, keys(4), values_of(kind)))
        for name in ("source_ids", "positions", "labels", "image_ids", "step"):
            assert getattr(changed, name) is getattr(batch, name)
        assert not batch.rotations.any()


# Jitter ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.1, 0.4])
def test_brightness_and_contrast_change_by_up_to_the_strength(strength: float) -> None:
    grey = jitter(torch.full((50, 40, 3, 2, 2), 0.4), keys(50), strength)[..., 0, 0, 0].double()
    edge = 0.4 + 0.1 * torch.tensor([-1.0, 1.0]).view(1, 1, 1, 1, 2).expand(50, 40, 1, 1, 2)
    edge = jitter(edge, keys(50), strength)[:, :, 0, 0].double()
    contrast = (edge[..., 1] - edge[..., 0]) / edge.sum(-1) * 4  # independent of the brightness
    for factor in (grey / 0.4, contrast):
        assert factor.min().item() >= 1 - strength - 1e-4
        assert factor.max().item() <= 1 + strength + 1e-4
        expected = stats.uniform(1 - strength, 2 * strength).cdf
        assert stats.kstest(factor.flatten().numpy(), expected).statistic < 1.95 / 2000**0.5


def test_hue_turns_by_up_to_a_quarter_of_the_strength_and_saturation_by_all_of_it() -> None:
    colour = torch.tensor([0.5, 0.4, 0.45]).view(1, 1, 3, 1, 1).expand(50, 40, 3, 1, 1)
    changed = jitter(colour, keys(50), 0.4)[..., 0, 0].double()

    def chroma(pixels: Tensor) -> Tensor:
        """The plane of I and Q of NTSC as complex numbers, over the luma."""
        red, green, blue = pixels.unbind(-1)
        luma = 0.299 * red + 0.587 * green + 0.114 * blue
        i, q = 0.596 * red - 0.274 * green - 0.322 * blue, 0.211 * red - 0.523 * green + 0.312 * blue
        return torch.complex(i, q) / luma

    change = chroma(changed) / chroma(colour[..., 0, 0].double())
    angle, share = change.angle().flatten() / (2 * math.pi), change.abs().flatten()
    assert angle.abs().max().item() <= 0.1 + 1e-3
    assert stats.kstest(angle.numpy(), stats.uniform(-0.1, 0.2).cdf).statistic < 1.95 / 2000**0.5
    # A plain colour has no contrast to its mean grey but that of its channels, which contrast scales as well.
    assert 0.6 * 0.6 - 1e-3 <= share.min().item() < 0.6 < 1.4 < share.max().item() <= 1.4 * 1.4 + 1e-3


def test_brightness_contrast_saturation_and_hue_are_drawn_apart() -> None:
    colour = torch.tensor([[0.5, 0.4, 0.45], [0.3, 0.4, 0.25]]).T.view(1, 1, 3, 1, 2).expand(60, 40, 3, 1, 2)
    changed = jitter(colour, keys(60), 0.2)[..., 0, :].double()
    luma = (torch.tensor([0.299, 0.587, 0.114]).double().view(3, 1) * changed).sum(2)
    brightness, contrast = luma.mean(-1), (luma[..., 0] - luma[..., 1]) / luma.mean(-1)
    together = torch.corrcoef(torch.stack([brightness.flatten(), contrast.flatten()]))[0, 1]
    assert abs(together.item()) < 4 / 2400**0.5


# Gap ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "gap"), [((3, 8, 8), 1), ((3, 8, 8), 3), ((1, 7, 9), 2), ((3, 5, 5), 2)])
def test_eroded_borders_take_the_colour_of_the_nearest_pixel_that_is_left(
    shape: tuple[int, int, int], gap: int
) -> None:
    given = fragments(2, 3, shape)
    changed = erode(given, keys(2), float(gap))
    height, width = shape[1:]
    for y in range(height):
        for x in range(width):
            nearest = min(max(y, gap), height - 1 - gap), min(max(x, gap), width - 1 - gap)
            assert torch.equal(changed[..., y, x], given[..., nearest[0], nearest[1]])


def test_fragments_cannot_be_eroded_completely() -> None:
    for shape, gap in (((3, 8, 8), 4), ((3, 8, 8), 9), ((3, 6, 16), 3), ((3, 16, 6), 3)):
        with pytest.raises(ConfigError, match=rf"\b{gap}\b.*{shape[1]}x{shape[2]}"):
            erode(fragments(shape=shape), keys(3), float(gap))


# Each puzzle by its own measure ---------------------------------------------------------------------------------------

MEASURES = {
    "noise": [0.0, 0.02, 0.3, 0.1, 0.0],
    "rotation": [0.0, 1.0, 0.3, 0.7, 0.0],
    "jitter": [0.5, 0.0, 0.1, 1.0, 0.2],
    "gap": [0.0, 3.0, 1.0, 1.0, 2.0],
    "compression": [0.0, 0.9, 0.5, 0.25, 0.1],
}


@pytest.mark.parametrize("kind", CHANGES)
def test_how_much_may_be_a_number_for_each_puzzle(kind: str) -> None:
    given, drawn, much = fragments(5), keys(5), MEASURES[kind]
    for numbers in (torch.tensor(much), torch.tensor(much, dtype=torch.float64)):
        whole = CHANGES[kind](given, drawn, numbers)
        assert whole.shape == given.shape
        assert whole.dtype == torch.float32
        for place, number in enumerate(much):
            part = slice(place, place + 1)
            assert torch.equal(CHANGES[kind](given[part], drawn[part], number), whole[part])
    alike = CHANGES[kind](given, drawn, torch.full((5,), values_of(kind), dtype=torch.float64))
    assert torch.equal(alike, CHANGES[kind](given, drawn, values_of(kind)))


@pytest.mark.parametrize("kind", ["noise", "rotation", "gap"])
def test_nothing_of_a_kind_leaves_the_very_numbers(kind: str) -> None:
    given = fragments(2)
    assert torch.equal(CHANGES[kind](given, keys(2), 0.0), given)


# Missing fragments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "share", "left"),
    [(12, 0.0, 12), (12, 0.25, 9), (12, 0.3, 8), (12, 0.99, 2), (16, 0.5, 8), (2, 0.9, 2), (1, 0.9, 1)],
)
def test_a_share_of_the_fragments_is_missing_and_the_first_are_left(count: int, share: float, left: int) -> None:
    batch = puzzles_of(fragments(3, count), step=5)
    batch.rotations = torch.arange(3 * count).view(3, count) % 4
    for found in (lose(batch, share), corrupt("missing", batch, keys(3), share)):
        assert found.step == 5
        assert torch.equal(found.image_ids, batch.image_ids)
        for name in ("fragments", "source_ids", "positions", "rotations", "labels"):
            assert torch.equal(getattr(found, name), getattr(batch, name)[:, :left]), name
    assert batch.fragments.shape[1] == count
    assert (*CHANGES, "missing") == KINDS


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_neighbours_of_what_is_left_are_those_of_the_whole_that_are_left(share: float) -> None:
    whole = puzzles_of(fragments(3, 12))
    batch = lose(whole, share)
    left = batch.fragments.shape[1]
    images = batch.images_per_puzzle
    before, after = (neighbours(own.source_ids, own.positions, (2, 2), images) for own in (whole, batch))
    for puzzle in range(3):
        expected = [[b if b < left else left for b in row] for row in before[puzzle, :left].tolist()]
        assert after[puzzle].tolist() == expected


# Training fragments ---------------------------------------------------------------------------------------------------

ALL: dict[str, float] = {"gap": 3.0, "noise": 0.2, "jitter": 0.5, "rotation": 0.8, "compression": 0.6}


def cut_bytes(count: int = 6, each: int = 4, shape: tuple[int, int, int] = (3, 8, 8), seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, each, *shape), generator=random, dtype=torch.uint8)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"share": 1.0},
        {"share": 0.0, "missing": 0.9, **ALL},
        {"share": 1.0, **dict.fromkeys((*ALL, "missing"), 0.0)},
    ],
)
def test_no_share_or_no_kind_leaves_the_bytes(settings: dict[str, float]) -> None:
    batch = puzzles_of(cut_bytes())
    assert same(Corruption(**settings).apply(batch, 0, 0), puzzles_of(cut_bytes()))
    assert list(CHANGES) == ["gap", "rotation", "jitter", "noise", "compression"]  # noise is in the file


@pytest.mark.parametrize("kinds", [*([kind] for kind in ALL), list(ALL)])
def test_corruption_gives_bytes_anew_and_leaves_what_it_is_given(kinds: list[str]) -> None:
    given, before = cut_bytes(6, 40), torch.get_rng_state()
    corruption, batch = Corruption(share=1.0, **{kind: ALL[kind] for kind in kinds}), puzzles_of(given, step=3)
    # Seed 1 draws no strength that is too small to change a byte.
    corrupted = corruption.apply(batch, 1, 0).fragments
    assert corrupted.dtype == torch.uint8
    assert corrupted.shape == given.shape
    assert torch.equal(given, cut_bytes(6, 40))
    assert (corrupted != given).flatten(1).any(1).all()
    assert torch.equal(corruption.apply(batch, 1, 0).fragments, corrupted)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(batch, puzzles_of(cut_bytes(6, 40), step=3))


@settings(deadline=None, max_examples=30)
@drawn_from(st.integers(0, 2**31), st.integers(0, 10**9), st.lists(st.integers(0, 6), min_size=1, max_size=5))
def test_a_puzzles_corruption_does_not_depend_on_the_batch_it_is_in(seed: int, first: int, counts: list[int]) -> None:
    given, corruption = cut_bytes(sum(counts), 2, (3, 7, 7)), Corruption(share=0.6, **ALL)
    whole = corruption.apply(puzzles_of(given), seed, first)
    starts = np.cumsum([0, *counts]).tolist()
    parts = [
        corruption.apply(puzzles_of(given[start : start + count]), seed, first + start)
        for start, count in zip(starts, counts, strict=False)
    ]
    for name in ("fragments", "rotations"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


@pytest.mark.parametrize("kind", ALL)
def test_corruption_is_the_change_of_its_puzzles_one_by_one(kind: str) -> None:
    """Puzzle by puzzle, in plain numbers; of which keys is told by hand."""
    given, corruption = cut_bytes(40, 3), Corruption(share=0.5, **{kind: ALL[kind]})
    corrupted = corrupted_bytes(corruption, given, 7, 20)
    for place in range(40):
        key = keys_of(7, f"corruption/{kind}", 20 + place, 1)
        drawn, much = uniforms(key, 2)[0].tolist()
        expected = given[place]
        if drawn < 0.5:
            measure = {"gap": 1 + math.floor(3 * much), "rotation": ALL["rotation"]}.get(kind, much * ALL[kind])
            one = CHANGES[kind](given[place : place + 1] / 255, key + 1, float(measure))
            expected = torch.from_numpy(np.rint(one[0].numpy() * np.float32(255)).astype(np.uint8))
        assert torch.equal(corrupted[place], expected), place


@pytest.mark.parametrize("most", [0.5, 2.5])
def test_no_more_than_the_most_is_eroded(most: float) -> None:
    given = cut_bytes(300, 1, (1, 8, 8))
    corrupted = corrupted_bytes(Corruption(share=1.0, gap=most), given, 0, 0)
    beyond = erode(given / 255, keys(300), math.floor(most) + 1.0).mul(255).round().to(torch.uint8)
    assert not (corrupted == beyond).flatten(1).all(1).any()


def test_corruption_that_cannot_be_applied_is_refused() -> None:
    for corruption, shape, size in (
        (Corruption(share=1.0, gap=4), (3, 8, 8), "8x8"),
        (Corruption(share=1.0, rotation=0.5), (3, 8, 4), "8x4"),
    ):
        with pytest.raises(ConfigError, match=size):
            corruption.apply(puzzles_of(cut_bytes(20, 2, shape)), 0, 0)


@pytest.mark.parametrize("gap", [0.0, 2.0])
def test_undoing_the_rotations_gives_back_the_fragments(gap: float) -> None:
    """Those of the same corruption without rotation; erosion is alike on all sides."""
    batch = puzzles_of(cut_bytes(20, 30))
    upright = Corruption(share=0.7, gap=gap).apply(batch, 3, 40)
    found = Corruption(share=0.7, gap=gap, rotation=0.8).apply(batch, 3, 40)
    assert not torch.equal(found.fragments, upright.fragments)
    assert torch.equal(turn(found.fragments, -found.rotations), upright.fragments)
    assert found.rotations.flatten().tolist() == quarters(upright.fragments, found.fragments)
    rotated = found.rotations.any(1)
    assert 5 < rotated.sum() < 20  # 14 of 20 puzzles in the mean
    assert not upright.rotations.any()


def test_other_corruptions_leave_the_rotations_stored() -> None:
    batch = puzzles_of(cut_bytes(20, 30))
    expected = Corruption(share=0.7, rotation=0.8).apply(batch, 3, 40).rotations
    assert torch.equal(Corruption(share=0.7, **ALL).apply(batch, 3, 40).rotations, expected)


def test_missing_fragments_are_drawn_for_a_batch_and_before_all_else() -> None:
    """Of which key is told by hand: that a batch lacks any, and the share, which is uniform up to the most."""
    given, corruption = puzzles_of(cut_bytes(2, 40)), Corruption(share=0.5, missing=0.6, rotation=1.0)
    kept = []
    for step in range(200):
        batch = FragmentBatch(**vars(given) | {"step": step})
        drawn, lost = uniforms(keys_of(7, "corruption/missing", step, 1), 2)[0].tolist()
        kept.append(40 - round(40 * 0.6 * lost) if drawn < 0.5 else 40)
        found = corruption.apply(batch, 7, 2 * step)
        expected = Corruption(share=0.5, rotation=1.0).apply(batch.first(kept[-1]), 7, 2 * step)
        assert same(found, expected)
        assert same(found, corruption.apply(batch, 7, 2 * step))
    assert len(set(kept)) > 15
    assert min(kept) >= 16
    assert 70 <= kept.count(40) <= 135


def test_at_least_two_fragments_are_left() -> None:
    corruption = Corruption(share=1.0, missing=0.999)
    left = [corruption.apply(puzzles_of(cut_bytes(1, 8), step), 0, 0).fragments.shape[1] for step in range(60)]
    assert min(left) == 2
    assert max(left) == 8
