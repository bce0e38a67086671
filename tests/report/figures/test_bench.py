"""What is told of measured times: every figure in its place, in a terminal and in a plot."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image
from rich.console import Console

from fragrecon.report.figures.bench import bench_figure, conditions, count, print_bench, significant, title
from fragrecon.report.figures.plotting import save

MIB = 2**20


def timed(seconds: float, images: int, memory: int | None) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "quartiles": [0.9 * seconds, 1.3 * seconds],
        "runs": 7,
        "ms_an_image": 1000 * seconds / images,
        "images_a_second": images / seconds,
        "memory_bytes": memory,
    }


def result(known: bool = True, stopped: str | None = None) -> dict[str, Any]:
    """As ``bench.json`` holds it, of a device that tells its memory or of another."""
    rows = [
        {
            "batch_size": size,
            "forward": timed(0.002 * size, size, 3 * size * MIB if known else None),
            "training": timed(0.25 + 0.01 * size, size, (100 + 17 * size) * MIB if known else None),
            "process_memory_bytes": (1000 + size) * MIB if known else None,
        }
        for size in (1, 8, 32)
    ]
    return {
        "model": {
            "name": "ConvAutoencoder",
            "image_shape": [1, 201, 152],
            "latent_dim": 512,
            "parameters": 2_051_000,
            "forward": "encode and decode",
            "forward_gflop_an_image": 0.1234,
            "training_gflop_an_image": 12.34,
        },
        "settings": {
            "precision": "bf16-mixed",
            "compute": {"compile": "default", "channels_last": True, "gradient_checkpointing": False},
            "objective": "Reconstruction",
            "optimizer": "AdamW",
        },
        "machine": {"type": "cpu" if known else "mps", "device": "x86_64 with AVX512", "cores": 8, "threads": 4},
        "rows": rows,
        "stopped": stopped,
    }


def printed(found: dict[str, Any], width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, markup=False)
    print_bench(found, Path("some/run"), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def table(text: str) -> list[list[str]]:
    """The words of the lines of figures."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if "───" in line)
    end = next(number for number, line in enumerate(lines) if line.startswith("forward: "))
    return [words for line in lines[start + 1 : end] if (words := line.split())]


def test_each_size_has_a_line_of_its_figures_for_each_part() -> None:
    text = printed(result())
    assert table(text) == [
        ["forward", "1", "0.00200", "2.00", "500", "3.00"],
        ["8", "0.0160", "2.00", "500", "24.0"],
        ["32", "0.0640", "2.00", "500", "96.0"],
        ["training", "1", "0.260", "260", "3.85", "117", "1,001"],
        ["8", "0.330", "41.2", "24.2", "236", "1,008"],
        ["32", "0.570", "17.8", "56.1", "644", "1,032"],
    ]
    assert "ConvAutoencoder, 2.05M parameters, on 201x152 grey images" in text
    assert "at most 40%" in text
    assert "process: memory of the process, with Python and libraries" in text
    assert "record: some/run" in text
    assert "stopped" not in text


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits(width: int) -> None:
    lines = printed(result(), width).splitlines()
    start = next(number for number, line in enumerate(lines) if "───" in line)
    assert max(len(line) for line in lines[: start + 8]) <= width
    assert not any("…" in line for line in lines)


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    found = result(known=False)
    assert [len(words) for words in table(printed(found))] == [5, 4, 4, 5, 4, 4]
    assert "process: not known on this device" in printed(found)
    *_, memory = bench_figure(found).axes
    assert not memory.lines
    save(bench_figure(found), tmp_path / "bench.png")


def test_where_a_series_ended_early_it_says_so() -> None:
    assert "stopped: batches of 64 need more memory" in printed(result(stopped="batches of 64 need more memory"))


def test_how_it_was_computed_is_told() -> None:
    found = result()
    found["model"]["image_shape"] = [3, 64, 64]
    assert title(found).endswith("on 64x64 colour images")
    assert conditions(found) == [
        "forward: encode and decode, 0.123 GFLOP per image",
        "training: Reconstruction by AdamW, 12.3 GFLOP per image",
        "bf16-mixed, compile=default, channels_last=true, x86_64 with AVX512, 4 of 8 cores",
    ]


def test_every_figure_is_a_point_of_the_plot() -> None:
    found = result()
    figure = bench_figure(found)
    seconds, speed, memory = cast(list[Any], figure.axes)
    for number, part in enumerate(("forward", "training")):
        rows = [row[part] for row in found["rows"]]
        curves = (seconds.containers[number].lines[0], speed.lines[number], memory.lines[number])
        expected = (
            [row["seconds"] for row in rows],
            [row["images_a_second"] for row in rows],
            [row["memory_bytes"] / MIB for row in rows],
        )
        for curve, values in zip(curves, expected, strict=True):
            assert list(curve.get_xdata()) == [1, 8, 32]
            assert list(curve.get_ydata()) == pytest.approx(values)
        (bars,) = seconds.containers[number].lines[2]
        for segment, row in zip(bars.get_segments(), rows, strict=True):
            assert sorted(y for _, y in segment) == pytest.approx(row["quartiles"])
    for axes in (seconds, speed, memory):
        assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "8", "32"]
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["forward", "training"]


def test_a_single_size_is_drawn_too(tmp_path: Path) -> None:
    found = result()
    found["rows"] = found["rows"][:1]
    save(bench_figure(found), tmp_path / "bench.png")
    with Image.open(tmp_path / "bench.png") as picture:
        assert len(picture.convert("L").getcolors() or []) > 2


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00001234, "1.2e-05"),
        (0.000345678, "0.000346"),
        (0.5, "0.500"),
        (9.999, "10.0"),
        (99.4, "99.4"),
        (99.96, "100"),
        (12345, "12,345"),
    ],
)
def test_numbers_have_three_digits_that_count(value: float, text: str) -> None:
    assert significant(value) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (7, "7"),
        (999, "999"),
        (1000, "1K"),
        (999_499, "999K"),
        (999_600, "1M"),
        (493_210, "493K"),
        (2_051_000, "2.05M"),
        (32e6, "32M"),
    ],
)
def test_parameters_are_counted_in_thousands_and_millions(number: int, text: str) -> None:
    assert count(number) == text
