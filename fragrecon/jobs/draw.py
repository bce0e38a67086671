"""``mode=draw``: the figures of a run once more, or of one's own photographs, into a record of their own."""

from __future__ import annotations

import logging
from typing import Any

from fragrecon import hardware
from fragrecon.clustering import agreement
from fragrecon.data.photographs import check_count, cut_photographs, image_files
from fragrecon.data.puzzles import FragmentBatch, grid_of
from fragrecon.errors import ConfigError
from fragrecon.evaluation.examples import Example, example_of, first_examples
from fragrecon.evaluation.opening import open_data, protocol_of
from fragrecon.evaluation.protocol import check_puzzle
from fragrecon.evaluation.statistics import Scores
from fragrecon.jobs.evaluate import class_name, open_model
from fragrecon.models.base import FragmentModel
from fragrecon.record import FIGURES, SCORES, Record
from fragrecon.report import gallery
from fragrecon.report.terminal import plain_console
from fragrecon.runs import Run, load_run
from fragrecon.schema import Config

log = logging.getLogger(__name__)


def main(config: Config, record: Record) -> dict[str, Any]:
    """Draw ``config.run``, or ``config.input`` as its model sees it; returns how well that puzzle is grouped."""
    if config.run is None:
        raise ConfigError("mode=draw needs the run to draw: run=FOLDER")
    run, folder = load_run(config.run), record.folder / FIGURES
    checkpoint = run.best_checkpoint
    model = open_model(config, run, checkpoint).to(hardware.device_of(config.trainer))
    shown = None
    if config.input is None:
        example = first_test_puzzle(config, model)
        if (run.folder / SCORES).is_file():
            gallery.draw_scores(by_method(run), class_name(config), folder)
        gallery.draw_epochs(run.epochs, config.selection.monitor, checkpoint.name, folder)
    else:
        example, shown = photographs(config, model)
    gallery.draw_example(example, class_name(config), folder, shown)
    table = agreement.contingency(example.groups, example.batch.source_ids)
    found = {
        "kmeans_ari": float(agreement.adjusted_rand_index(table)),
        "kmeans_nmi": float(agreement.normalized_mutual_info(table)),
    }
    n, fragments = example.batch.images_per_puzzle, example.groups.shape[1]
    console = plain_console()
    console.print(
        f"{fragments} fragments of {n} images, grouped by KMeans: "
        f"ARI {found['kmeans_ari']:.4f}, NMI {found['kmeans_nmi']:.4f}",
        soft_wrap=True,
    )
    console.print(f"figures: {folder}", soft_wrap=True)
    return found


def first_test_puzzle(config: Config, model: FragmentModel) -> Example:
    """The one that the run's own figures show."""
    data = open_data(config)
    data.check_test(1)
    device = hardware.device_of(config.trainer)
    return first_examples(model, data.test_set(1), data.grid, protocol_of(config), device)[0]


def photographs(config: Config, model: FragmentModel) -> tuple[Example, FragmentBatch]:
    """``config.input`` as one puzzle, and its fragments in finer pixels."""
    paths = image_files(config.input)
    image_shape, size = config.data.image_shape, config.data.fragment_shape[1:]
    grid = grid_of(image_shape[1:], size)
    cells = grid[0] * grid[1]
    if len(paths) < 2:
        raise ConfigError(f"mode=draw groups the fragments of at least 2 images, but input names {len(paths)}")
    check_puzzle(len(paths), cells)
    check_count(len(paths) * cells)
    cut = cut_photographs(paths, image_shape, size, config.seed)
    log.info("%d images are cut into %d fragments", len(paths), len(paths) * cells)
    seen = cut.seen.to(hardware.device_of(config.trainer))
    return example_of(model, seen, grid, protocol_of(config)), cut.shown


def by_method(run: Run) -> dict[str, dict[str, Scores]]:
    """A run's scores by method and metric."""
    found: dict[str, dict[str, Scores]] = {}
    for name, scores in run.scores.items():
        method, _, metric = name.partition("/")
        found.setdefault(method, {})[metric] = scores
    return found
