"""``mode=draw``: redraw a run's figures, or draw them for user-supplied photographs, into a new record."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from fragrecon import machine as hardware
from fragrecon.clustering import agreement
from fragrecon.config.schema import Config, class_name
from fragrecon.data.module import FragmentData
from fragrecon.data.photographs import Photographs, check_count, cut_photographs, image_files
from fragrecon.data.puzzles import FragmentBatch, cut, grid_of, in_place
from fragrecon.errors import ConfigError
from fragrecon.evaluation.clustering.protocol import check_puzzle
from fragrecon.evaluation.examples import Example, example_of, first_examples
from fragrecon.evaluation.pixels.generation import Generated, Generation, interpolate
from fragrecon.evaluation.pixels.inpainting_examples import Inpainted, first_inpainted, inpaint
from fragrecon.evaluation.pixels.reconstruction import Masking
from fragrecon.evaluation.setup import open_data, protocol_of, user_data
from fragrecon.evaluation.statistics import Scores
from fragrecon.models.base import Decoder, FragmentModel, Inpainter, Viewer
from fragrecon.objectives.masked import draw_mask
from fragrecon.objectives.reconstruction import psnr
from fragrecon.progress import progress
from fragrecon.report.figures import tiles, write
from fragrecon.report.figures.inpainting import masked_psnr
from fragrecon.report.figures.monitoring import view_picture
from fragrecon.report.results import open_model
from fragrecon.report.terminal import say
from fragrecon.runs.read import Run, run_of
from fragrecon.runs.write import FIGURES, SCORES, Record
from fragrecon.seeds import torch_generator

log = logging.getLogger(__name__)

MOST = 8
"""Maximum number of test images to inpaint."""

VIEW = 160
"""Approximate height in pixels of a model's view."""


def main(config: Config, record: Record) -> dict[str, Any]:
    """Draw the figures of ``config.run``, or figures of ``config.input`` with its model.

    Args:
        config: job config.
        record: record to write.

    Returns:
        Scores of the drawn images.

    Raises:
        ConfigError: ``run`` is not set, or its model has nothing to draw.
    """
    run, folder = run_of(config), record.folder / FIGURES
    checkpoint = run.checkpoint
    model = open_model(config, run, checkpoint).to(hardware.device_of(config.trainer))
    clustering, generation = config.evaluation.clustering, config.evaluation.generation
    if not (clustering or isinstance(model, (Inpainter, Decoder))):
        raise ConfigError(
            f"{class_name(config)} neither inpaints nor decodes, and evaluation.clustering=false leaves "
            "nothing to draw; set evaluation.clustering=true"
        )
    found: dict[str, float] = {}
    if config.input is None:
        write.write_epochs(run.epochs, config.selection.monitor, checkpoint.name, folder)
        if (run.folder / SCORES).is_file() and run.selected == "best":  # whose scores they are
            write.write_scores(by_method(run), class_name(config), folder)
    if clustering:
        found |= draw_puzzle(config, model, folder)
    if isinstance(model, Inpainter):
        found |= draw_masked(config, model, folder)
    if isinstance(model, Decoder) and (generation or not clustering):
        found |= draw_decoded(config, model, folder)
    say(f"figures: {folder}")
    return found


def test_data(config: Config) -> FragmentData:
    """Open the run's data and check that there are test images."""
    data = open_data(config)
    data.check_test(1)
    return data


def draw_puzzle(config: Config, model: FragmentModel, folder: Path) -> dict[str, float]:
    """Draw the clusters of the first test puzzle, or of ``config.input`` as one puzzle, and return their scores."""
    if config.input is None:
        example, shown = first_test_puzzle(config, model), None
    else:
        example, shown = photographed_puzzle(config, model)
    with progress("drawing the puzzle", announce=False):
        write.write_example(example, class_name(config), folder, shown)
    table = agreement.contingency(example.groups, example.batch.source_ids)
    found = {
        "kmeans_ari": float(agreement.adjusted_rand_index(table)),
        "kmeans_nmi": float(agreement.normalized_mutual_info(table)),
    }
    n, fragments = example.batch.images_per_puzzle, example.groups.shape[1]
    ari, nmi = found.values()
    say(f"{fragments} fragments of {n} images, grouped by KMeans: ARI {ari:.4f}, NMI {nmi:.4f}")
    return found


def draw_masked(config: Config, model: Inpainter, folder: Path) -> dict[str, float]:
    """Inpaint and draw the first test images, or ``config.input``, and return their score."""
    ratio = config.evaluation.reconstruction.ratio if config.evaluation.reconstruction else config.objective["ratio"]
    masking, device = Masking(float(ratio), config.evaluation.seed), hardware.device_of(config.trainer)
    if config.input is None:
        inpainted = first_inpainted(model, test_data(config).test_set(MOST), masking, device, MOST)
    else:
        inpainted = inpaint_photographs(config, model, masking)
    write.write_inpainted(inpainted, folder)
    ratio = float(masked_psnr(inpainted, inpainted.output).mean())
    say(f"{len(inpainted.images)} images, {masking.ratio:.0%} hidden: masked PSNR {ratio:.2f} dB")
    return {"masked_psnr": ratio}


def draw_decoded(config: Config, model: FragmentModel, folder: Path) -> dict[str, float]:
    """Draw reconstructions, interpolations and samples, and return the score of the reconstructions.

    The images are test images or ``config.input``.
    """
    device, protocol = hardware.device_of(config.trainer), protocol_of(config)
    settings: Any = {"seed": config.evaluation.seed, "device": device, "batch_size": config.evaluation.batch_size}
    if config.input is None:
        shown = Generation(model, test_data(config), **settings).show(protocol)
    elif config.data.variable_width:
        with user_data(config, image_files(config.input)) as data:
            shown = Generation(model, data, **settings).show_images(protocol)
    else:
        photographs, grid = cut_input(config)
        example = example_of(model, photographs.seen.to(device), grid, protocol)
        shown = Generated(example, interpolate(model, example, device))
    write.write_generated(shown, folder, clustered=config.evaluation.clustering)
    if isinstance(model, Viewer):
        for name, views in model.views(shown.example.batch.fragments[:1].to(device)).items():
            tiles.save(view_picture(views, VIEW), folder / f"{name}.png")
    ratios = torch.cat([psnr((output - images).square().mean((1, 2, 3))) for images, output in shown.reconstructions])
    ratio = float(ratios.mean())
    say(f"{len(ratios)} image{'s' * (len(ratios) > 1)} decoded from embeddings: PSNR {ratio:.2f} dB")
    return {"reconstruction_psnr": ratio}


def inpaint_photographs(config: Config, model: Inpainter, masking: Masking) -> Inpainted:
    """Inpaint the fragments of ``config.input`` independently and assemble them into images."""
    photographs, grid = cut_input(config)
    seen = photographs.seen
    fragments = cut(in_place(seen.fragments, seen, grid), config.data.fragment_shape[1:]).flatten(0, 1)
    mask = draw_mask(
        len(fragments), model.patches.count, masking.ratio, torch_generator(masking.seed, "masks of input")
    )
    device = hardware.device_of(config.trainer)
    inpainted = inpaint(model, fragments.to(device), mask.to(device))
    return inpainted if grid == (1, 1) else inpainted.joined(grid)


def first_test_puzzle(config: Config, model: FragmentModel) -> Example:
    """Return the puzzle shown in the run's figures."""
    data, device = test_data(config), hardware.device_of(config.trainer)
    data.warn_if_lossy()
    return first_examples(model, data.test_set(1), data.grid, protocol_of(config), device)[0]


def photographed_puzzle(config: Config, model: FragmentModel) -> tuple[Example, FragmentBatch]:
    """Return ``config.input`` as one puzzle with predictions, and the same puzzle at higher resolution."""
    photographs, grid = cut_input(config)
    count, cells = photographs.seen.images_per_puzzle, grid[0] * grid[1]
    if count < 2:
        raise ConfigError(f"mode=draw groups the fragments of at least 2 images, but input names {count}")
    check_puzzle(count, cells)
    log.info("%d images are cut into %d fragments", count, count * cells)
    seen = photographs.seen.to(hardware.device_of(config.trainer))
    return example_of(model, seen, grid, protocol_of(config)), photographs.shown


def cut_input(config: Config) -> tuple[Photographs, tuple[int, int]]:
    """Cut ``config.input`` like the run's images, and return the photographs and the grid."""
    paths = image_files(config.input)
    image_shape, size = config.data.image_shape, config.data.fragment_shape[1:]
    grid = grid_of(image_shape[1:], size)
    check_count(len(paths) * grid[0] * grid[1])
    return cut_photographs(paths, image_shape, size, config.seed, max_pixels=config.data.max_pixels), grid


def by_method(run: Run) -> dict[str, dict[str, Scores]]:
    """Return the scores of a run by method and metric."""
    found: dict[str, dict[str, Scores]] = {}
    for name, scores in run.scores.items():
        method, _, metric = name.partition("/")
        found.setdefault(method, {})[metric] = scores
    return found
