from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fragrecon.data.puzzles import cut
from fragrecon.seams import SIDES, continued_differences, seam_features, strips, touching_differences


def fragments(puzzles: int = 2, count: int = 5, shape: tuple[int, int, int] = (3, 4, 6)) -> Tensor:
    return torch.rand(puzzles, count, *shape, generator=torch.Generator().manual_seed(0))


def lines(fragment: Tensor, side: str) -> tuple[list[float], list[float]]:
    """The pixels along a side, and those one step within."""
    pixels = {
        "right": (fragment[:, :, -1], fragment[:, :, -2]),
        "left": (fragment[:, :, 0], fragment[:, :, 1]),
        "below": (fragment[:, -1], fragment[:, -2]),
        "above": (fragment[:, 0], fragment[:, 1]),
    }[side]
    return pixels[0].flatten().tolist(), pixels[1].flatten().tolist()


OPPOSITE = {"right": "left", "left": "right", "below": "above", "above": "below"}


def slow(first: Tensor, second: Tensor, side: str) -> tuple[float, float]:
    """Both differences of a pair whose second fragment lies on that side of the first."""
    (near, inner), (far, beyond) = lines(first, side), lines(second, OPPOSITE[side])
    touching = [abs(a - b) for a, b in zip(near, far, strict=True)]
    predicted = [abs(2 * a - i - b) for a, i, b in zip(near, inner, far, strict=True)]
    predicted_back = [abs(2 * b - j - a) for a, b, j in zip(near, far, beyond, strict=True)]
    return math.fsum(touching) / len(near), (math.fsum(predicted) + math.fsum(predicted_back)) / 2 / len(near)


@pytest.mark.parametrize("shape", [(3, 4, 6), (1, 5, 3), (3, 2, 2)])
def test_differences_are_those_of_a_slow_loop(shape: tuple[int, int, int]) -> None:
    some = fragments(shape=shape)
    found = torch.stack([touching_differences(some), continued_differences(some)])
    assert found.shape == (2, 2, 5, 5, 4)
    for puzzle in range(2):
        for i in range(5):
            for j in range(5):
                for number, side in enumerate(SIDES):
                    expected = slow(some[puzzle, i], some[puzzle, j], side)
                    assert found[:, puzzle, i, j, number].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_two_orders_of_a_pair_tell_the_same_seam() -> None:
    features = seam_features(fragments())
    for kind in (0, 4):
        torch.testing.assert_close(features[..., kind], features[..., kind + 1].mT)
        torch.testing.assert_close(features[..., kind + 2], features[..., kind + 3].mT)


def test_fragments_of_a_ramp_abut_where_they_did() -> None:
    height, width = torch.arange(12.0).view(-1, 1), torch.arange(12.0).view(1, -1)
    image = ((3 * height + width) / 48).expand(1, 3, 12, 12)
    continued = continued_differences(cut(image, (4, 4)))[0]
    for place in range(9):
        row, column = divmod(place, 3)
        if column < 2:
            assert continued[place, place + 1, 0].item() == pytest.approx(0, abs=1e-6)
            assert continued[place + 1, place, 1].item() == pytest.approx(0, abs=1e-6)
        if row < 2:
            assert continued[place, place + 3, 2].item() == pytest.approx(0, abs=1e-6)
            assert continued[place + 3, place, 3].item() == pytest.approx(0, abs=1e-6)
    assert continued[0, 8].min() > 0.1


def test_features_are_centred_in_each_puzzle_and_follow_the_order_of_fragments() -> None:
    some, order = fragments(), torch.tensor([3, 1, 4, 0, 2])
    features = seam_features(some)
    torch.testing.assert_close(features.mean((1, 2)), torch.zeros(2, 8), rtol=0, atol=1e-5)
    torch.testing.assert_close(seam_features(some[:, order]), features[:, order][:, :, order])
    torch.testing.assert_close(seam_features(some[1:]), features[1:])


def test_flat_fragments_have_finite_features() -> None:
    assert torch.isfinite(seam_features(torch.zeros(1, 4, 3, 4, 4))).all()


def slow_strip(fragment: Tensor, side: str, depth: int) -> list[list[list[float]]]:
    """Along the seam, colour, and from the seam inwards, of one fragment (C, h, w)."""
    channels, height, width = fragment.shape
    places: dict[str, Callable[[int, int], tuple[int, int]]] = {
        "right": lambda along, inwards: (along, width - 1 - inwards),
        "left": lambda along, inwards: (along, inwards),
        "below": lambda along, inwards: (height - 1 - inwards, along),
        "above": lambda along, inwards: (inwards, along),
    }
    place, length = places[side], height if side in ("right", "left") else width
    return [
        [[fragment[c][place(along, inwards)].item() for inwards in range(depth)] for c in range(channels)]
        for along in range(length)
    ]


@pytest.mark.parametrize(("shape", "depth"), [((3, 4, 6), 1), ((3, 4, 6), 3), ((1, 5, 3), 3), ((2, 2, 2), 2)])
def test_strips_are_those_of_a_slow_loop(shape: tuple[int, int, int], depth: int) -> None:
    some = fragments(shape=shape)
    across, down = strips(some, depth)
    assert across.shape == (2, 5, 2, shape[1], shape[0], depth)
    assert down.shape == (2, 5, 2, shape[2], shape[0], depth)
    for puzzle in range(2):
        for place in range(5):
            found = [*across[puzzle, place], *down[puzzle, place]]
            for side, strip in zip(SIDES, found, strict=True):
                assert strip.tolist() == slow_strip(some[puzzle, place], side, depth), side


def test_strips_of_all_the_depth_hold_all_pixels_and_leave_the_fragments() -> None:
    some = fragments(shape=(3, 4, 4))
    before = some.clone()
    for strip in strips(some, 4):
        for side in strip.unbind(2):
            assert torch.equal(side.flatten(2).sort(-1).values, some.flatten(2).sort(-1).values)
    assert torch.equal(some, before)


def test_strips_of_fragments_that_abut_meet_where_they_did() -> None:
    """Cut an image in two: the first rows of both strips are pixels that touched, in the same order along the seam."""
    image = torch.rand(3, 6, 10, generator=torch.Generator().manual_seed(2))
    one, other = (strips(part.expand(1, 1, 3, 6, 5), 2)[0][0, 0] for part in (image[:, :, :5], image[:, :, 5:]))
    assert torch.equal(one[0, :, :, 0], image[:, :, 4].T)
    assert torch.equal(other[1, :, :, 0], image[:, :, 5].T)
    upper, lower = (strips(part.expand(1, 1, 3, 3, 10), 2)[1][0, 0] for part in (image[:, :3], image[:, 3:]))
    assert torch.equal(upper[0, :, :, 1], image[:, 1].T)
    assert torch.equal(lower[1, :, :, 1], image[:, 4].T)
