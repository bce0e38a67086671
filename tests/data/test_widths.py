"""Groups of images of one width: that all are dealt, none twice, and always alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fragrecon.data.widths import TrainingGroups, commonest, groups

some_widths = st.lists(st.integers(1, 4), min_size=1, max_size=40).map(lambda widths: 16 * np.array(widths))
sizes = st.integers(1, 7)


@given(some_widths, sizes)
def test_groups_are_of_one_width_and_hold_each_image_once_in_order(widths: np.ndarray, size: int) -> None:
    found = list(groups(widths, size))
    assert [len(np.unique(widths[group])) for group in found] == [1] * len(found)
    assert sorted(np.concatenate(found).tolist()) == list(range(len(widths)))
    assert np.concatenate(found).tolist() == sorted(range(len(widths)), key=lambda place: (widths[place], place))
    assert len(found) == sum(-(-(widths == width).sum() // size) for width in set(widths.tolist()))
    assert max(map(len, found)) <= size


def test_the_commonest_width_is_the_least_of_several() -> None:
    assert commonest(np.array([48, 16, 32, 48, 16])).tolist() == [False, True, False, False, True]
    assert commonest(np.array([48, 16, 48])).tolist() == [True, False, True]
    assert commonest(np.array([8])).tolist() == [True]


@given(some_widths, sizes, st.integers(0, 3))
def test_a_pass_shows_each_image_once_in_as_few_groups_as_hold_them(widths: np.ndarray, size: int, seed: int) -> None:
    dealt = TrainingGroups(widths, size, seed)
    for number in range(2):
        found = [dealt[number * dealt.per_pass + place] for place in range(dealt.per_pass)]
        assert sorted(np.concatenate(found).tolist()) == list(range(len(widths)))
        lengths: dict[int, list[int]] = {}
        for group in found:
            (width,) = set(widths[group].tolist())
            lengths.setdefault(width, []).append(len(group))
        for width, counts in lengths.items():
            assert len(counts) == -(-(widths == width).sum() // size)
            assert max(counts) - min(counts) <= 1
            assert max(counts) <= size


def test_a_group_is_a_pure_function_of_seed_and_number() -> None:
    widths = np.repeat([16, 32, 48, 64], [40, 30, 20, 1])
    dealt, again = (TrainingGroups(widths, 8, seed=3) for _ in range(2))
    forwards = [dealt[number].tolist() for number in range(3 * dealt.per_pass)]
    backwards = [again[number].tolist() for number in reversed(range(3 * dealt.per_pass))]
    assert forwards == backwards[::-1]
    passes = [forwards[start : start + dealt.per_pass] for start in range(0, len(forwards), dealt.per_pass)]
    assert passes[0] != passes[1] != passes[2]
    assert passes[0] != [TrainingGroups(widths, 8, seed=4)[number].tolist() for number in range(dealt.per_pass)]


def test_widths_come_in_random_order_and_images_in_random_company() -> None:
    widths = np.repeat([16, 32], [64, 64])
    dealt = TrainingGroups(widths, 8, seed=0)
    first = [int(widths[dealt[number * dealt.per_pass][0]]) for number in range(200)]
    assert 70 < first.count(16) < 130  # of 200, by chance: beyond four standard deviations else
    together = sum({0, 1} <= set(dealt[number].tolist()) for number in range(200 * dealt.per_pass))
    assert together == pytest.approx(200 * 7 / 63, abs=20)  # the others of a group are 7 of the 63 of that width
