from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch.optim.lr_scheduler import LRScheduler

from fragrecon.config.build import build
from fragrecon.errors import ConfigError
from fragrecon.training.schedules import WarmupCosine

RATE = 0.4


def never() -> float:
    return 0.0


def clock(shares: Iterable[float]) -> Callable[[], float]:
    """The share of the time that has passed before the first step, after it, and so on."""
    return iter(shares).__next__


def rates(total: int, steps: int, warmup: float, floor: float, passed: Callable[[], float] = never) -> list[float]:
    """The rate at each of the first ``steps`` optimizer steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    schedule = WarmupCosine(optimizer, total, warmup, floor, passed)
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


@pytest.mark.parametrize(("warmup", "floor"), [(0.25, 0.0), (0.0, 0.1)])
def test_the_rate_follows_the_time_if_it_ends_training_earlier(warmup: float, floor: float) -> None:
    """At an uneven speed, as on a machine that others use too."""
    shares = [0, 0.01, 0.02, 0.1, 0.2, 0.3, 0.55, 0.6, 0.8, 0.99, 1, 1.2, 1.2]
    for share, rate in zip(shares, rates(10**9, 12, warmup, floor, clock(shares)), strict=False):
        if share < warmup:
            expected = RATE * share / warmup
        else:
            lowest, progress = RATE * floor, (min(share, 1) - warmup) / (1 - warmup)
            expected = lowest + 0.5 * (RATE - lowest) * (1 + math.cos(progress * math.pi))
        assert rate == pytest.approx(expected, abs=1e-7)


@given(st.integers(0, 60), st.floats(0, 0.99), st.floats(0, 1), st.lists(st.floats(0, 1.1), min_size=66, max_size=66))
def test_the_rate_follows_whichever_limit_is_nearer(
    total: int, warmup: float, floor: float, shares: list[float]
) -> None:
    shares, top = sorted(shares), round(total * warmup)
    found = rates(total, total + 5, warmup, floor, clock(shares))
    by_steps = rates(total, total + 5, warmup, floor)
    for step, share in enumerate(shares[: total + 5]):
        if share * total <= step:
            assert found[step] == by_steps[step]
        elif step >= top:
            assert found[step] <= by_steps[step] * (1 + 1e-12)
        assert 0 <= found[step] <= RATE * (1 + 1e-12)


@pytest.mark.parametrize(
    ("key", "value"), [("warmup", -0.1), ("warmup", 1.0), ("floor", -0.01), ("floor", 1.01), ("floor", math.nan)]
)
def test_a_share_out_of_range_is_refused(key: str, value: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    node = {"_target_": "fragrecon.training.schedules.WarmupCosine", key: value}
    with pytest.raises(ConfigError, match=rf"scheduler\.{key}="):
        build(node, "scheduler", LRScheduler, optimizer, total_steps=10)
