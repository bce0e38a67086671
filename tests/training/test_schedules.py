from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from fragrecon.errors import ConfigError
from fragrecon.training.schedules import warmup_cosine

RATE = 0.4


def rates(total: int, steps: int, warmup: float, floor: float) -> list[float]:
    """The rate at each of the first ``steps`` optimizer steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    schedule = warmup_cosine(optimizer, total, warmup, floor)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(
    ("total", "warmup", "floor"), [(100, 0.05, 0.0), (100, 0.1, 0.01), (37, 0.3, 0.5), (10, 0.0, 0.0), (1000, 0.99, 0)]
)
def test_rises_in_a_line_and_falls_along_half_a_cosine(total: int, warmup: float, floor: float) -> None:
    top = round(warmup * total)
    for step, rate in enumerate(rates(total, total, warmup, floor)):
        if step < top:
            expected = RATE * (step + 1) / top
        else:
            lowest = RATE * floor
            expected = lowest + 0.5 * (RATE - lowest) * (1 + math.cos((step - top) / (total - top) * math.pi))
        assert rate == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_the_full_rate_is_reached_where_the_rise_ends() -> None:
    found = rates(100, 100, 0.1, 0.0)
    assert found[0] == pytest.approx(RATE / 10)
    assert found[9] == pytest.approx(RATE)
    assert max(found) == found[9]


@pytest.mark.parametrize("floor", [0.0, 0.25, 1.0])
def test_ends_at_the_floor_and_stays_there(floor: float) -> None:
    found = rates(20, 40, 0.1, floor)
    assert found[20:] == pytest.approx([RATE * floor] * 20, abs=1e-12)
    assert found[19] == pytest.approx(RATE * floor, abs=RATE * 0.02)


@given(st.integers(0, 60), st.floats(0, 0.99), st.floats(0, 1))
def test_rises_then_falls_within_its_bounds(total: int, warmup: float, floor: float) -> None:
    found = rates(total, total + 5, warmup, floor)
    top = round(total * warmup)
    assert all(0 <= rate <= RATE * (1 + 1e-12) for rate in found)
    assert found[:top] == sorted(found[:top])
    assert found[top:] == sorted(found[top:], reverse=True)


@pytest.mark.parametrize(
    ("warmup", "floor"), [(-0.1, 0), (1.0, 0), (1.5, 0), (0.1, -0.01), (0.1, 1.01), (math.nan, 0), (0.1, math.nan)]
)
def test_shares_out_of_range_are_refused_by_name(warmup: float, floor: float) -> None:
    with pytest.raises(ConfigError, match=r"scheduler\.warmup=.*scheduler\.floor="):
        rates(10, 1, warmup, floor)
