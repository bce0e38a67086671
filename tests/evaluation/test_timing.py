"""Times, peaks of memory and counts of operations, beside sleeps, sizes and arithmetic that are known."""

from __future__ import annotations

import gc
import itertools
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fragrecon.evaluation.timing import operations, peak_memory, process_memory, time_of
from tests.cli import one_thread

CPU = torch.device("cpu")
K = 2**20


def block(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8)


# Time -----------------------------------------------------------------------------------------------------------------


def test_the_time_of_a_sleep_is_its_length() -> None:
    short, long = (time_of(partial(time.sleep, length), 0.1) for length in (0.005, 0.02))
    for timing, length in ((short, 0.005), (long, 0.02)):
        low, high = timing.quartiles
        assert length <= low <= timing.seconds <= high
    assert short.seconds < long.seconds


def test_slow_work_runs_once_at_least_and_few_times() -> None:
    calls: list[None] = []

    def work() -> None:
        calls.append(None)
        time.sleep(0.05)

    assert 1 <= time_of(work, 0.02).runs < len(calls) <= 3


def test_quick_work_is_repeated_between_two_looks_at_the_clock() -> None:
    timing = time_of(lambda: None, 0.05)
    assert timing.runs > 1000


def test_quartiles_show_how_far_times_differ_and_are_no_extremes() -> None:
    lengths = itertools.cycle([0.005, 0.005, 0.01, 0.01, 0.01, 0.05])
    low, high = time_of(lambda: time.sleep(next(lengths)), 0.5).quartiles
    assert 0.005 <= low < high


def test_work_has_as_many_threads_as_without_a_clock() -> None:
    before, seen = torch.get_num_threads(), set()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            time_of(lambda: seen.add(torch.get_num_threads()), 0.01)
            assert seen == {threads}
            assert torch.get_num_threads() == threads
            seen.clear()
    finally:
        torch.set_num_threads(before)


# Memory ---------------------------------------------------------------------------------------------------------------


def lasting(size: int) -> Callable[[], Tensor]:
    return lambda: block(size)


def peaks_later(made: Tensor) -> None:
    first = block(3 * K)
    del first
    both = block(2 * K), block(2 * K)
    del both


@pytest.mark.parametrize(
    ("make", "use", "expected"),
    [
        (lasting(5 * K), peaks_later, 9 * K),
        (lambda: [block(4 * K)], lambda made: (made.pop(), block(3 * K)), 7 * K),
        (lambda: [block(4 * K)], lambda made: (made.clear(), block(3 * K)), 4 * K),
        (lambda: [block(8 * K), block(K)][1], lambda made: block(K), 2 * K),
    ],
)
def test_the_peak_is_what_is_held_at_one_time(
    make: Callable[[], object], use: Callable[[object], object], expected: int
) -> None:
    before = [block(7 * K)]
    assert peak_memory(make, use, CPU) == expected

    def use_instead(made: object) -> None:
        before.clear()
        use(made)

    assert peak_memory(make, use_instead, CPU) == expected


def test_garbage_of_earlier_measurements_counts_for_nothing() -> None:
    def tangled() -> list[object]:
        knot: list[object] = [block(6 * K)]
        knot.append(knot)
        return knot

    gc.disable()
    try:
        assert peak_memory(tangled, lambda made: None, CPU) == 6 * K
        assert peak_memory(lasting(K), lambda made: (gc.collect(), block(K)), CPU) == 2 * K
    finally:
        gc.enable()


def test_a_block_where_one_of_an_earlier_measurement_lay_is_another() -> None:
    places = []

    def make() -> Tensor:
        made = block(40 * K)
        places.append(made.data_ptr())
        return made

    assert peak_memory(make, lambda made: None, CPU) == 40 * K
    blocks = {found.data_ptr(): found for found in (block(40 * K) for _ in range(50))}
    if places[0] not in blocks:
        pytest.skip("the allocator has given none the same place")

    def use(made: Tensor) -> None:
        del blocks[places[0]]
        block(K)

    assert peak_memory(lasting(K), use, CPU) == 2 * K


def test_training_holds_weights_gradients_and_the_state_of_the_optimizer() -> None:
    def make() -> tuple[nn.Linear, torch.optim.Optimizer]:
        layer = nn.Linear(512, 512, bias=False)
        return layer, torch.optim.Adam(layer.parameters(), foreach=False, fused=True)

    def steps(made: tuple[nn.Linear, torch.optim.Optimizer]) -> None:
        layer, optimizer = made
        for _ in range(2):
            layer(torch.ones(1, 512)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    peak = peak_memory(make, steps, CPU)
    assert peak is not None
    assert peak == pytest.approx(4 * 512 * 512 * 4, rel=0.02)


def test_a_device_that_does_not_tell_has_no_peak() -> None:
    assert peak_memory(lasting(K), lambda made: None, torch.device("mps")) is None
    assert process_memory(torch.device("mps")) is None


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_the_memory_of_a_process_is_its_own_at_its_most() -> None:
    before = process_memory(CPU)
    assert before is not None
    large = bytearray(b"x") * (before + 300 * K)
    after = process_memory(CPU)
    assert after is not None
    assert len(large) < after < len(large) + 2 * before
    assert after == pytest.approx(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, rel=0.01)
    code = "import torch; from fragrecon.evaluation.timing import process_memory as p; print(p(torch.device('cpu')))"
    child = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)
    assert 50 * K < child < len(large)
    size = len(large)
    del large
    assert process_memory(CPU) >= size  # type: ignore[operator]


# Operations -----------------------------------------------------------------------------------------------------------


def test_products_and_convolutions_are_counted_forward_and_backward() -> None:
    layer, rows = nn.Linear(5, 7), torch.randn(3, 5)
    product = 2 * 3 * 5 * 7
    assert operations(lambda: layer(rows)) == product
    assert operations(lambda: layer(rows).sum().backward()) == 2 * product  # nobody asks for the gradient of the rows
    convolution, images = nn.Conv2d(2, 4, 3, padding=1), torch.randn(6, 2, 8, 9)
    once = 2 * 6 * 8 * 9 * 4 * 2 * 3 * 3
    assert operations(lambda: convolution(images)) == once
    assert operations(lambda: convolution(images).sum().backward()) == 2 * once
    assert operations(lambda: images + images) == 0


def test_attention_is_counted_on_every_device() -> None:
    batch, heads, length, width = 2, 3, 11, 8
    tokens = torch.randn(batch, heads, length, width)
    found = operations(lambda: F.scaled_dot_product_attention(tokens, tokens, tokens))
    assert found == 2 * 2 * math.prod((batch, heads, length, length, width))


def test_a_transformer_layer_counts_alike_in_training_and_evaluation() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
    tokens = torch.randn(2, 5, 16)
    projections, attention, feed = 4 * 16 * 16, 2 * 5 * 16, 2 * 16 * 32
    with one_thread():
        for mode in (True, False):
            assert operations(lambda: layer(tokens)) == 2 * 2 * 5 * (projections + attention + feed)
            layer.train(not mode)
