"""Benchmarks at their smallest sizes."""

from __future__ import annotations

from pathlib import Path

import gpu
import pytest

from fragrecon import files
from tests.cli import shared_cache

PARTS = ("smoke", "clustering", "data_path", "rates")
"""Parts that run in this process; others run whole jobs, which have tests of their own."""


@pytest.mark.slow
def test_the_parts_of_the_gpu_benchmark_are_done_once(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared_cache(tmp_path_factory)))
    line = ["--tiny", "--out", str(tmp_path), "--parts", *PARTS, "sprint"]
    first = gpu.main(line)
    assert {name for name in first if (tmp_path / f"{name}.json").is_file()} == set(PARTS), first
    found = {name: files.read_json(tmp_path / f"{name}.json") for name in PARTS}
    assert found["smoke"]["equal"]
    assert found["clustering"]["equal"]
    assert 0 <= found["data_path"]["share_waiting"] < 1
    (row,) = found["rates"]["rows"]
    assert row["puzzles_a_second"] == pytest.approx(2 / row["seconds_a_step"])
    assert row["share_of_peak"] > 0
    second = gpu.main(line)
    assert [second[name] for name in PARTS] == ["done before"] * len(PARTS)
    assert second["sprint"] == first["sprint"]


def test_no_part_begins_after_the_time_is_over(tmp_path: Path) -> None:
    gpu.main(["--tiny", "--out", str(tmp_path), "--seconds", "-1"])
    assert not list(tmp_path.iterdir())
