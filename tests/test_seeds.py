from __future__ import annotations

import itertools
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fragrecon.seeds import keys_of, numpy_generator, random_bits, seed_of, torch_generator, uniforms

unhurried = settings(deadline=None, max_examples=40)
seeds = st.integers(0, 2**32 - 1)
positions = st.lists(st.integers(0, 2**32 - 1), max_size=3)


@unhurried
@given(seeds, st.text(max_size=20), positions)
def test_a_seed_is_the_upper_63_bits_of_numpys_seed_sequence(seed: int, purpose: str, position: list[int]) -> None:
    sequence = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *position])
    found = seed_of(seed, purpose, *position)
    assert found == int(sequence.generate_state(1, np.uint64)[0]) // 2
    assert 0 <= found < 2**63


def test_seeds_purposes_and_positions_that_differ_give_numbers_that_differ() -> None:
    keys = list(itertools.product(range(6), ("augment", "orders/train", "orders/test", ""), range(20), range(5)))
    assert len({seed_of(*key) for key in keys}) == len(keys)
    assert len({numpy_generator(*key).integers(2**62) for key in keys}) == len(keys)
    assert len({int(torch.randint(2**62, (), generator=torch_generator(*key))) for key in keys}) == len(keys)


def test_numbers_do_not_depend_on_what_was_drawn_before() -> None:
    keys = [(seed, purpose, step) for seed in (0, 1) for purpose in ("a", "b") for step in range(5)]

    def draw(key: tuple[int, str, int]) -> tuple[float, float]:
        generator = torch_generator(*key)
        return float(numpy_generator(*key).random()), float(torch.rand((), generator=generator))

    in_order = {key: draw(key) for key in keys}
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    live = torch_generator(0, "a", 0)
    torch.rand(100, generator=live)
    assert {key: draw(key) for key in reversed(keys)} == in_order


def test_drawing_leaves_the_global_generators_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    torch.rand(9, generator=torch_generator(0, "augment"))
    numpy_generator(0, "augment").random(9)
    assert torch.rand(4).equal(expected)


# Keys and hashes ------------------------------------------------------------------------------------------------------

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15
keys_in_range = st.integers(-(2**63), 2**63 - 1)


def slow_mix(bits: int) -> int:
    """The output function of SplitMix64 on an unsigned number, as in the reference code of S. Vigna."""
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & MASK
    return bits ^ (bits >> 31)


def slow_bits(key: int, count: int) -> list[int]:
    """The generator itself, step by step from state ``key``."""
    state, found = key & MASK, []
    for _ in range(count):
        state = (state + GOLDEN) & MASK
        found.append(slow_mix(state))
    return found


def unsigned(bits: torch.Tensor) -> list[int]:
    return [number & MASK for number in bits.flatten().tolist()]


@pytest.mark.parametrize(
    ("state", "published"),
    [
        (0, [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC, 0x1B39896A51A8749B]),
        (1234567, [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]),
    ],
)
def test_bits_are_the_published_outputs_of_splitmix64(state: int, published: list[int]) -> None:
    assert unsigned(random_bits(torch.tensor([state]), len(published))) == published
    assert slow_bits(state, len(published)) == published


@unhurried
@given(st.lists(keys_in_range, max_size=4), st.integers(0, 20))
def test_bits_are_those_of_splitmix64_in_python_integers(keys: list[int], count: int) -> None:
    found = random_bits(torch.tensor(keys, dtype=torch.int64), count)
    assert found.shape == (len(keys), count)
    assert found.dtype == torch.int64
    assert [unsigned(row) for row in found] == [slow_bits(key, count) for key in keys]


@unhurried
@given(st.lists(keys_in_range, min_size=1, max_size=4), st.integers(1, 20))
def test_uniform_numbers_are_the_upper_53_bits(keys: list[int], count: int) -> None:
    found = uniforms(torch.tensor(keys), count)
    assert found.dtype == torch.float64
    assert found.tolist() == [[(bits >> 11) / 2**53 for bits in slow_bits(key, count)] for key in keys]


@unhurried
@given(seeds, st.text(max_size=10), st.integers(0, 2**62), st.integers(0, 10))
def test_keys_are_hashes_of_seed_purpose_and_number(seed: int, purpose: str, first: int, count: int) -> None:
    start = seed_of(seed, purpose)
    expected = [slow_mix((start + number * GOLDEN) & MASK) for number in range(first, first + count)]
    assert unsigned(keys_of(seed, purpose, first, count)) == expected


def test_the_largest_bits_stay_below_one() -> None:
    """The key whose first output has all bits set, found by running the hash backwards."""

    def unshifted(bits: int, by: int) -> int:
        found = bits
        for _ in range(64 // by):
            found = bits ^ (found >> by)
        return found

    bits = unshifted(MASK, 31) * pow(0x94D049BB133111EB, -1, 2**64) & MASK
    bits = unshifted(bits, 27) * pow(0xBF58476D1CE4E5B9, -1, 2**64) & MASK
    key = (unshifted(bits, 30) - GOLDEN) & MASK
    assert slow_bits(key, 1) == [MASK]
    signed = key - 2**64 if key >= 2**63 else key
    assert uniforms(torch.tensor([signed]), 1).item() == 1 - 2**-53
