from __future__ import annotations

import itertools
import subprocess
import sys
import zlib

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fragrecon.seeds import numpy_generator, seed_of, torch_generator

unhurried = settings(deadline=None)
seeds = st.integers(0, 2**32 - 1)
positions = st.lists(st.integers(0, 2**32 - 1), max_size=3)


@unhurried
@given(seeds, st.text(max_size=20), positions)
def test_equal_keys_give_equal_numbers(seed: int, purpose: str, position: list[int]) -> None:
    assert seed_of(seed, purpose, *position) == seed_of(seed, purpose, *position)
    first, second = (numpy_generator(seed, purpose, *position).random(5) for _ in range(2))
    assert (first == second).all()
    one, two = (torch.rand(5, generator=torch_generator(seed, purpose, *position)) for _ in range(2))
    assert one.equal(two)


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


def test_another_process_draws_the_same() -> None:
    """Python's own hash of a string, for one, differs from process to process."""
    code = "from fragrecon.seeds import seed_of; print(seed_of(7, 'orders/train', 3))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(output) == seed_of(7, "orders/train", 3)


def test_neighbouring_positions_are_not_correlated() -> None:
    """Means of 2000 first draws of consecutive steps and of their products lie where independence puts them."""
    first = np.array([numpy_generator(0, "augment", step).random() for step in range(2000)]) - 0.5
    other = np.array([numpy_generator(1, "augment", step).random() for step in range(2000)]) - 0.5
    spread = 5 / np.sqrt(2000)  # five standard errors of a variable of standard deviation 1
    assert abs(first.mean()) * np.sqrt(12) < spread
    assert abs((first[1:] * first[:-1]).mean()) * 12 < spread
    assert abs((first * other).mean()) * 12 < spread
