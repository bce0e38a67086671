"""``mode=reassemble``: cut, shuffle and reassemble photographs, or reassemble loose fragments.

With a run, its model reassembles photographs that are reduced to the images it was trained on; without one, whole
photographs are cut into pieces, and `fragrecon.jigsaw` assembles them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fragrecon import files
from fragrecon import machine as hardware
from fragrecon.config.schema import Config, PiecesConfig
from fragrecon.data.photographs import check_count, cut_photographs, image_files, read_whole
from fragrecon.data.puzzles import FragmentBatch, grid_of
from fragrecon.data.readers.images import decode, size_of
from fragrecon.errors import ConfigError, DataError
from fragrecon.evaluation.clustering.reassembly import agreement
from fragrecon.evaluation.setup import shape_text
from fragrecon.jigsaw.pieces import Grid, Jigsaw, check_square, cut, piece_size, shuffle
from fragrecon.jigsaw.solve import solve_jigsaw
from fragrecon.models.base import Solver
from fragrecon.progress import progress
from fragrecon.reassembly.rebuild import Placement
from fragrecon.reassembly.solve import solve
from fragrecon.report.figures import tiles
from fragrecon.report.figures.reassembly import groups_sheet, rebuilt_images, rebuilt_sheet, shuffled_sheet
from fragrecon.report.jigsaw import write_assembly
from fragrecon.report.terminal import rebuilt_text, say
from fragrecon.runs.read import run_of
from fragrecon.runs.write import FIGURES, Record
from fragrecon.seeds import torch_generator

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Puzzle:
    """The fragments of one puzzle.

    Attributes:
        names: file names, one per fragment, or one per image if ``truth`` is known.
        shown: fragments (F, C, H, W) uint8 for drawing.
        seen: fragments (1, F, C, h, w) in [0, 1], the model's input.
        truth: image and cell of each fragment, if known.
    """

    names: list[str]
    shown: Tensor
    seen: Tensor
    truth: FragmentBatch | None


def main(config: Config, record: Record) -> dict[str, Any]:
    """Reassemble ``config.input``.

    Args:
        config: job config.
        record: record to write.

    Returns:
        The content of ``placement.json``.

    Raises:
        ConfigError: the model of ``run`` does not reassemble such images, or nothing says how to cut without a run.
        DataError: loose fragments differ in size.
    """
    if config.run is None:
        return main_jigsaw(config, record)
    if config.pieces and (config.pieces.size or config.pieces.grid):
        raise ConfigError("pieces.size and pieces.grid are for photographs at full size, without run=; leave one out")
    paths = image_files(config.input)
    run = run_of(config)
    shape, grid = config.data.fragment_shape, grid_of(config.data.image_shape[1:], config.data.fragment_shape[1:])
    sizes = [size_of(path, config.data.max_pixels) for path in paths]
    loose = are_loose(sizes, config) if config.loose is None else config.loose
    fragments = len(paths) if loose else len(paths) * grid[0] * grid[1]
    check_count(fragments)
    model = run.load_model()
    if not isinstance(model, Solver) or (model.fragment_shape, model.grid) != (shape, grid):
        raise ConfigError(
            f"the model of {run.folder} does not reassemble images of {grid[0]}x{grid[1]} fragments of "
            f"{shape_text(shape)}; use a run of model=mosaic, and do not set "
            "data.fragment_size, data.image_size or data.channels"
        )
    puzzle = loose_puzzle(paths, sizes, shape) if loose else cut_puzzle(paths, config)
    if loose:
        log.info("reading %d files as loose fragments (loose=false reads whole images)", len(paths))
    else:
        hint = "" if len(set(sizes)) > 1 else " (loose=true reads the files as fragments)"
        log.info("%d images are cut into %d fragments%s", len(paths), fragments, hint)
        size = tuple(side * cells for side, cells in zip(puzzle.shown.shape[-2:], grid, strict=True))
        if other := sorted(set(sizes) - {size}):
            log.warning(
                "%d of %d images are cropped to their centre and scaled to %dx%d pixels; the largest has %dx%d",
                *(sum(found != size for found in sizes), len(sizes), *size, *other[-1]),
            )
    device = hardware.device_of(config.trainer)
    evaluation = config.evaluation
    with progress(f"reassembling {fragments} fragments"):
        placement, k = solve(
            model.to(device),
            puzzle.seen.to(device),
            grid,
            seed=evaluation.seed,
            restarts=evaluation.restarts,
            memory=evaluation.memory_mb * 2**20,
        )
    result = describe(puzzle, placement, k, grid)
    with progress("drawing figures", announce=False):
        draw(puzzle, placement, k, grid, record.folder)
    files.write_json(record.folder / "placement.json", result)
    print_result(result, record.folder)
    return result


def main_jigsaw(config: Config, record: Record) -> dict[str, Any]:
    """Assemble pieces of whole photographs, or loose pieces, without a model."""
    settings = config.pieces
    if settings is None or not (settings.size or settings.grid or config.loose):
        raise ConfigError(
            "set run=FOLDER to reassemble with the model of a run; without one, set pieces.size=PIXELS or "
            "pieces.grid=[ROWS,COLUMNS] to cut whole photographs, or loose=true for pieces in files of their own"
        )
    if config.rotate:
        raise ConfigError("rotate=true is for the model of a run; without one, set pieces.rotation=unknown")
    paths, rotations = image_files(config.input), settings.rotation == "unknown"
    jigsaw = loose_pieces(paths, config) if config.loose else cut_pieces(paths, config, settings)
    check_count(len(jigsaw.pieces))
    check_square(jigsaw.pieces, rotations)
    images, grids = known_images(settings, jigsaw)
    solved = solve_jigsaw(jigsaw.pieces, rotations=rotations, grids=grids, images=images, seed=config.seed)
    return write_assembly(jigsaw, solved, rotations, [str(path) for path in paths], record.folder)


def known_images(settings: PiecesConfig, jigsaw: Jigsaw) -> tuple[int | None, list[Grid] | None]:
    """Return the number of images and the rows and columns of each, as far as ``pieces.images`` tells them."""
    given, count = settings.images, len(jigsaw.pieces)
    if given == "known":
        if jigsaw.truth is None:
            raise ConfigError(
                "pieces.images=known is for photographs; of loose pieces, give the number of images or the rows and "
                "columns of each, as pieces.images=[[12,16]]"
            )
        return None, list(jigsaw.truth.grids)
    if isinstance(given, list):
        if (cells := sum(rows * columns for rows, columns in given)) < count:
            raise ConfigError(f"pieces.images={given} has room for {cells} pieces, but there are {count}")
        return None, [(rows, columns) for rows, columns in given]
    if isinstance(given, int) and given > count:
        raise ConfigError(f"pieces.images={given} is more than the number of pieces, {count}")
    return (given if isinstance(given, int) else None), None


def cut_pieces(paths: Sequence[Path], config: Config, settings: PiecesConfig) -> Jigsaw:
    """Cut photographs into pieces, in random order."""
    images = read_whole(paths, config.data.max_pixels)
    grid = (settings.grid[0], settings.grid[1]) if settings.grid else None
    if grid:
        size = piece_size(images, grid)
    else:
        height, width = settings.size if isinstance(settings.size, list) else [settings.size or 0] * 2
        size = height, width
    jigsaw = cut(images, size, grid)
    assert jigsaw.truth is not None
    log.info("%d photographs are cut into %d pieces of %dx%d pixels", len(paths), len(jigsaw.pieces), *size)
    for path, image, (rows, columns) in zip(paths, images, jigsaw.truth.grids, strict=True):
        lost = image.shape[1] - rows * size[0], image.shape[2] - columns * size[1]
        if any(lost):
            log.info("%s: %d rows and %d columns of pixels at the border fill no piece and are cropped", path, *lost)
    generator = torch_generator(config.seed, "jigsaw")
    return shuffle(jigsaw, generator, rotate=settings.rotation == "unknown", missing=config.missing or 0.0)


def loose_pieces(paths: Sequence[Path], config: Config) -> Jigsaw:
    """Read pieces from files of one size."""
    check_one_size(paths, [size_of(path, config.data.max_pixels) for path in paths])
    return Jigsaw(torch.stack(read_whole(paths, config.data.max_pixels)), None)


def are_loose(sizes: Sequence[tuple[int, int]], config: Config) -> bool:
    """Return whether files of these sizes are loose fragments: equal in size and smaller than an image."""
    height, width = config.data.image_size
    return len(set(sizes)) == 1 and sizes[0][0] < height and sizes[0][1] < width


def cut_puzzle(paths: Sequence[Path], config: Config) -> Puzzle:
    """Crop photographs to one size and cut them into a puzzle."""
    data = config.data
    photographs = cut_photographs(
        paths,
        data.image_shape,
        data.fragment_shape[1:],
        config.seed,
        bool(config.rotate),
        config.missing or 0.0,
        data.max_pixels,
    )
    shown = photographs.shown
    return Puzzle([str(path) for path in paths], shown.fragments[0], photographs.seen.fragments, shown)


def loose_puzzle(paths: Sequence[Path], sizes: Sequence[tuple[int, int]], shape: tuple[int, int, int]) -> Puzzle:
    """Read a puzzle of loose fragments, one per file.

    Raises:
        DataError: the fragments differ in size.
    """
    channels, h, w = shape
    check_one_size(paths, sizes)
    shown = torch.stack([torch.from_numpy(decode(path, (channels, *sizes[0]))) for path in paths])
    smaller = sizes[0][0] < h or sizes[0][1] < w
    how: dict[str, Any] = {"mode": "bilinear", "align_corners": False} if smaller else {"mode": "area"}
    if smaller:
        log.warning("the fragments are smaller than the %dx%d pixels that the model needs and are enlarged", h, w)
    return Puzzle([str(path) for path in paths], shown, F.interpolate(shown.float() / 255, (h, w), **how)[None], None)


def check_one_size(paths: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> None:
    """Raise `DataError` if files of loose fragments differ in size."""
    for path, size in zip(paths, sizes, strict=True):
        if size != sizes[0]:
            raise DataError(
                f"loose fragments should have one size, but {path} has {size[0]}x{size[1]} pixels and {paths[0]} "
                f"{sizes[0][0]}x{sizes[0][1]}; loose=false reads the files as whole images"
            )


def describe(puzzle: Puzzle, placement: Placement, k: int, grid: tuple[int, int]) -> dict[str, Any]:
    """Return the image, cell and counterclockwise rotation in degrees of each fragment, and scores if known."""
    truth, rows = puzzle.truth, []
    for number in range(puzzle.seen.shape[1]):
        row: dict[str, Any] = {"fragment": number}
        if truth is None:
            row["file"] = puzzle.names[number]
        else:
            source, cell = int(truth.source_ids[0, number]), int(truth.positions[0, number])
            row |= {"file": puzzle.names[source], "cut_from": [cell // grid[1], cell % grid[1]]}
            row["rotated"] = 90 * int(truth.rotations[0, number])
        cell = int(placement.cells[0, number])
        row |= {"image": int(placement.images[0, number]), "cell": [cell // grid[1], cell % grid[1]]}
        rows.append(row | {"rotation": 90 * int(placement.rotations[0, number])})
    result: dict[str, Any] = {"grid": list(grid), "images": k, "fragments": rows}
    if truth is not None:
        result["scores"] = {name: float(score) for name, score in agreement(placement, truth, grid).items()}
    return result


def draw(puzzle: Puzzle, placement: Placement, k: int, grid: tuple[int, int], folder: Path) -> None:
    """Draw the shuffled puzzle, its groups and the rebuilt images as PNG files."""
    tiles.save(shuffled_sheet(puzzle.shown), folder / FIGURES / "shuffled.png")
    tiles.save(groups_sheet(puzzle.shown, placement, k), folder / FIGURES / "groups.png")
    rebuilt = rebuilt_images(puzzle.shown, placement, k, grid)
    for number, image in enumerate(rebuilt):
        tiles.save(image, folder / "images" / f"{number:0{len(str(k - 1))}d}.png")
    tiles.save(rebuilt_sheet(rebuilt, placement, puzzle.truth, grid, labels=True), folder / FIGURES / "rebuilt.png")


def print_result(result: dict[str, Any], folder: Path) -> None:
    """Print the scores and the paths of the images."""
    count = result["images"]
    found = f"{len(result['fragments'])} fragments were assigned to {count} image{'s' * (count != 1)}"
    if scores := result.get("scores"):
        found += rebuilt_text(scores)
    say(found)
    say(f"pictures: {folder / FIGURES}, each image: {folder / 'images'}")
    say(f"record: {folder}")
