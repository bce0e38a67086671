from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from fragrecon.config.build import build
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
def test_the_rate_rises_linearly_and_falls_along_half_a_cosine(total: int, warmup: float, floor: float) -> None:
    top = round(warmup * total)
    for step, rate in enumerate(rates(total, total, warmup, floor)):
        if step < top:
            expected = RATE * (step + 1) / top
        else:
            lowest = RATE * floor
            expected = lowest + 0.5 * (RATE - lowest) * (1 + math.cos((step - top) / (total - top) * math.pi))
        assert rate == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("floor", [0.0, 0.25, 1.0])
def test_the_rate_ends_at_the_floor_and_stays_there(floor: float) -> None:
    found = rates(20, 40, 0.1, floor)
    assert found[20:] == pytest.approx([RATE * floor] * 20, abs=1e-12)
    assert found[19] == pytest.approx(RATE * floor, abs=RATE * 0.02)


@given(st.integers(0, 60), st.floats(0, 0.99), st.floats(0, 1))
def test_the_rate_rises_then_falls_within_its_bounds(total: int, warmup: float, floor: float) -> None:
    found = rates(total, total + 5, warmup, floor)
    top = round(total * warmup)
    assert all(0 <= rate <= RATE * (1 + 1e-12) for rate in found)
    assert found[:top] == sorted(found[:top])
    assert found[top:] == sorted(found[top:], reverse=True)


@pytest.mark.parametrize(
    ("key", "value"), [("warmup", -0.1), ("warmup", 1.0), ("floor", -0.01), ("floor", 1.01), ("floor", math.nan)]
)
def test_a_share_out_of_range_is_refused(key: str, value: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    node = {"_target_": "fragrecon.training.schedules.warmup_cosine", key: value}
    with pytest.raises(ConfigError, match=rf"scheduler\.{key}="):
        build(node, "scheduler", optimizer, total_steps=10)
