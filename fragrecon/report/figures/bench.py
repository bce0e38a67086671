"""The result of ``mode=bench``, as a table and as a plot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from fragrecon.report.figures.plotting import blank, tidy
from fragrecon.report.terminal import plain_console

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTS = {"forward": ("0.5", "--"), "training": ("black", "-")}
"""The timed parts, with the colour and style of their curves."""
MIB = 2**20
RESIDENT = {"cuda": "device memory reserved by torch", "cpu": "memory of the process, with Python and libraries"}
"""Memory of the process, by type of the device."""
HEADINGS = (
    "",
    "images\nper batch",
    "s\nper batch",
    "ms\nper image",
    "images\nper second",
    "tensors\nMiB",
    "process\nMiB",
)


def print_bench(result: Mapping[str, Any], folder: Path, console: Console | None = None) -> None:
    """Print a table with one row per batch size.

    Args:
        result: content of ``bench.json``.
        folder: job folder.
        console: console to print to.
    """
    console = console or plain_console()
    table = Table(title=title(result), box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), min_width=72)
    for heading in HEADINGS:
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for part in PARTS:
        for number, row in enumerate(result["rows"]):
            found = row[part]
            process = row["process_memory_bytes"] if part == "training" else None
            table.add_row(
                "" if number else part,
                str(row["batch_size"]),
                *(significant(found[name]) for name in ("seconds", "ms_an_image", "images_a_second")),
                mebibytes(found["memory_bytes"]),
                mebibytes(process),
            )
        table.add_section()
    console.print(table)
    for line in (*conditions(result), *explanations(result)):
        console.print(line, style="italic", soft_wrap=True)
    if result["stopped"]:
        console.print(f"stopped: {result['stopped']}", soft_wrap=True)
    console.print(f"record: {folder}", soft_wrap=True)


def title(result: Mapping[str, Any]) -> str:
    """Describe the model and its images in one line."""
    model = result["model"]
    channels, height, width = model["image_shape"]
    colour = "grey" if channels == 1 else "colour"
    return f"{model['name']}, {count(model['parameters'])} parameters, on {height}x{width} {colour} images"


def conditions(result: Mapping[str, Any]) -> list[str]:
    """Describe the timed parts, the compute settings and the machine."""
    model, settings, machine = result["model"], result["settings"], result["machine"]
    chosen = [f"{name}={value}".lower() for name, value in settings["compute"].items() if value]
    threads = machine["threads"]
    forward, training = (f"{model[f'{part}_gflop_an_image']:.3g} GFLOP per image" for part in PARTS)
    return [
        f"forward: {model['forward']}, {forward}",
        f"training: {settings['objective']} by {settings['optimizer']}, {training}",
        ", ".join([settings["precision"], *chosen, machine["device"], f"{threads} of {machine['cores']} cores"]),
    ]


def explanations(result: Mapping[str, Any]) -> list[str]:
    """Explain the columns."""
    timings = [row[part] for row in result["rows"] for part in PARTS]
    spread = max((high - low) / timing["seconds"] for timing in timings for low, high in (timing["quartiles"],))
    resident = RESIDENT.get(result["machine"]["type"], "not known on this device")
    return [
        f"times: medians, with an interquartile range of at most {spread:.0%}",
        f"tensors: peak; process: {resident}",
    ]


def bench_figure(result: Mapping[str, Any]) -> Figure:
    """Plot seconds per batch with quartiles, images per second, and memory against the batch size."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    rows = result["rows"]
    sizes = [row["batch_size"] for row in rows]
    figure = blank(9.0, 3.2)
    figure.suptitle(f"{title(result)}\n{conditions(result)[-1]}", fontsize=8)
    seconds, speed, memory = figure.subplots(1, 3)
    for part, (colour, style) in PARTS.items():
        how: dict[str, Any] = {"color": colour, "linestyle": style, "linewidth": 1.2, "marker": ".", "label": part}
        found = [row[part] for row in rows]
        medians = [timing["seconds"] for timing in found]
        around = [[abs(timing["quartiles"][side] - timing["seconds"]) for timing in found] for side in (0, 1)]
        seconds.errorbar(sizes, medians, around, capsize=2, **how)
        speed.plot(sizes, [timing["images_a_second"] for timing in found], **how)
        if all(timing["memory_bytes"] is not None for timing in found):
            memory.plot(sizes, [timing["memory_bytes"] / MIB for timing in found], **how)
    panels = {seconds: "seconds per batch", speed: "images per second", memory: "peak of tensors, MiB"}
    for axes, name in panels.items():
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axes.minorticks_off()
        axes.set_xlabel("images per batch", fontsize=8)
        axes.set_ylabel(name, fontsize=8)
        tidy(axes)
    figure.legend(*speed.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=7, frameon=False)
    return figure


def significant(value: float) -> str:
    """Format a number with three digits and no exponent."""
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:#.3g}" if value >= 1e-4 else f"{value:.1e}"


def mebibytes(size: int | None) -> str:
    """Format bytes as MiB; empty if unknown."""
    return "" if size is None else significant(size / MIB)


def count(number: int) -> str:
    """Format a number of parameters as ``2.05M``."""
    for unit, name in ((1e6, "M"), (1e3, "K")):
        if number >= 0.9995 * unit:  # otherwise it would be rounded to 1000 of the next unit
            return f"{number / unit:.3g}{name}"
    return str(number)
