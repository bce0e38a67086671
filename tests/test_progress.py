"""Lines and bars of stages, with real blocks that wait for them."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator

import pytest
from rich.ansi import AnsiDecoder

from fragrecon.progress import Stopwatch, progress
from tests.stage_lines import LATE, SOON, Lines, kept


@pytest.fixture
def lines() -> Iterator[Lines]:
    with kept(every=SOON) as found:
        yield found


def test_a_stage_is_announced_before_it_begins(lines: Lines) -> None:
    with progress("sorting", 1200):
        assert [message for message in lines.messages if "sorting" in message and "1,200" in message]


def test_a_step_that_does_not_end_is_reported_again_and_again(lines: Lines) -> None:
    with progress("sorting", 5, announce=False) as advance:
        lines.wait_for("sorting", "0 of 5")
        advance(2)
        lines.wait_for("2 of 5")
        advance(3)
        lines.wait_for("5 of 5")


def test_a_stage_of_unknown_length_is_reported(lines: Lines) -> None:
    with progress("fitting", announce=False):
        lines.wait_for("fitting", " s")


def test_no_line_comes_after_a_stage_that_ended_or_failed(lines: Lines) -> None:
    for failure in (None, ValueError()):
        before = threading.active_count()
        try:
            with progress("sorting", 1):
                if failure:
                    raise failure
        except ValueError:
            assert failure
        assert threading.active_count() == before


def test_a_short_stage_can_be_silent() -> None:
    with kept(every=LATE) as lines, progress("sorting", 1, announce=False) as advance:
        advance(1)
    assert not lines.messages


def test_both_of_two_nested_stages_are_reported(lines: Lines) -> None:
    with progress("outer", 1), progress("inner", 7):
        lines.wait_for("inner", "0 of 7")
        lines.messages.clear()
        lines.wait_for("outer", "0 of 1")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_bars_and_no_lines(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress("outer [b]", 4) as advance:
        with progress("inner"):
            pass
        advance(4)
    shown = "\n".join(line.plain for line in AnsiDecoder().decode(terminal.getvalue()))
    assert "outer [b]" in shown
    assert "4/4" in shown
    assert not lines.messages


def test_bars_are_closed_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    for _ in range(2):
        with pytest.raises(ValueError, match="sorting"), progress("outer", 2), progress("inner", 2):
            raise ValueError("sorting")


def test_the_parts_of_a_job_are_timed_and_summed() -> None:
    watch = Stopwatch()
    with watch.part("data"):
        pass
    first = watch.seconds["data"]
    with pytest.raises(ValueError, match="x"), watch.part("data"), watch.part("training"):
        raise ValueError("x")
    assert list(watch.seconds) == ["data", "training"]
    assert watch.seconds["data"] - first >= watch.seconds["training"] >= 0
