"""``mode=demo``: a local web page to try the model of a run."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from fragrecon import machine as hardware
from fragrecon.config.schema import Config, class_name
from fragrecon.data.puzzles import grid_of
from fragrecon.demo.temporary import temporary_folder
from fragrecon.errors import ConfigError, DataError
from fragrecon.evaluation.setup import open_data, protocol_of, shape_text
from fragrecon.models.base import FragmentModel, Inpainter, Solver
from fragrecon.report.figures import tiles
from fragrecon.report.results import open_model
from fragrecon.report.terminal import say
from fragrecon.runs.read import Run, run_of
from fragrecon.runs.write import Record

if TYPE_CHECKING:
    import gradio

log = logging.getLogger(__name__)

EXAMPLES = 12
"""Number of test images to choose from."""


def main(config: Config, record: Record) -> None:
    """Serve the page of ``config.run`` until Ctrl-C.

    Args:
        config: job config.
        record: record of the job.

    Raises:
        ConfigError: Gradio is not installed, no page supports the model, or the port is in use.
    """
    assert config.demo
    if importlib.util.find_spec("gradio") is None:
        raise ConfigError('mode=demo needs Gradio: pip install "fragrecon[demo]"')
    run = run_of(config)
    model = open_model(config, run, run.checkpoint)
    check_shown(config, model, run)

    with temporary_folder() as folder:
        from fragrecon.demo import layout

        page = page_of(config, model.to(hardware.device_of(config.trainer)), run, folder)
        with layout.opened(page, config.demo.port, config.demo.open) as address:
            say(f"demo: {address} (Ctrl-C ends it)")
            try:
                threading.Event().wait()
            except KeyboardInterrupt:
                log.info("the demo has ended")


def check_shown(config: Config, model: FragmentModel, run: Run) -> None:
    """Check that a page supports the model of a run.

    Raises:
        ConfigError: no page supports it.
    """
    if isinstance(model, Inpainter):
        if config.objective.get("normalize"):
            raise ConfigError(
                f"the model of {run.folder} predicts normalised patches (objective.normalize=true), which have no "
                "pixels to show"
            )
        return
    grid = grid_of(config.data.image_shape[1:], config.data.fragment_shape[1:])
    if not isinstance(model, Solver):
        raise ConfigError(
            "mode=demo shows inpainting models, such as model=energy_transformer or model=mae, and models that "
            f"reassemble puzzles, model=mosaic; {class_name(config)} does neither"
        )
    if model.grid != grid:
        raise ConfigError(
            f"the model of {run.folder} reassembles images of {model.grid[0]}x{model.grid[1]} fragments, but "
            f"data.image_size gives {grid[0]}x{grid[1]}; leave data.image_size as it is in the run"
        )


def page_of(config: Config, model: FragmentModel, run: Run, folder: Path) -> gradio.Blocks:
    """Build the page of a model, with the example images as files in a folder."""
    from fragrecon.demo.inpainting_page import InpaintingPage
    from fragrecon.demo.reassembly import Reassembler
    from fragrecon.demo.reassembly_page import ReassemblyPage

    device, data = hardware.device_of(config.trainer), config.data
    note = f"{run.model_name} trained on {data.name} · "
    if isinstance(model, Inpainter):
        rows, columns = model.patches.grid
        note += f"images of {shape_text(data.fragment_shape)}, in {rows}x{columns} patches · {run.folder}"
        examples = example_files(config, data.fragment_shape[1:], folder)
        ratio = float(config.objective.get("ratio", 0.85))
        return InpaintingPage(model, device, data.fragment_shape, examples, ratio, note).blocks
    assert isinstance(model, Solver)
    reassembler = Reassembler(model, device, data.image_shape, data.fragment_shape[1:], protocol_of(config))
    rows, columns = reassembler.grid
    note += f"images of {shape_text(data.image_shape)}, in {rows}x{columns} fragments · {run.folder}"
    return ReassemblyPage(reassembler, example_files(config, data.image_shape[1:], folder), note).blocks


def example_files(config: Config, size: tuple[int, int], folder: Path) -> list[Path]:
    """Save test images, or fragments of them, as example files. Nothing is downloaded for them.

    Args:
        config: job config.
        size: height and width of the examples.
        folder: folder to save to.

    Returns:
        The files; empty if the data does not exist, or its folder is not known.
    """
    try:
        data = open_data(dataclasses.replace(config, data=dataclasses.replace(config.data, download=False)))
        single = data.variant(fragment_size=list(size), images_per_puzzle=1)
        count = min(EXAMPLES, len(single.store("test")))
        shown = single.test_set(count).read(slice(0, count)).fragments[:, 0]
    except (ConfigError, DataError) as error:
        log.warning("no test images to choose from: %s", error)
        return []
    paths = [folder / f"{number:02d}.png" for number in range(len(shown))]
    for image, path in zip(shown, paths, strict=True):
        tiles.save(image, path)
    return paths
