"""``mode=embed``: write the embeddings of a split, or of user-supplied images, as a table with one row per fragment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, BinaryIO
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt
import torch

from fragrecon import files
from fragrecon import machine as hardware
from fragrecon.config.schema import Config
from fragrecon.data.module import FragmentData
from fragrecon.data.photographs import image_files
from fragrecon.data.puzzles import Indices, cut, draw_images, fragment_size
from fragrecon.data.store import Store
from fragrecon.data.widths import groups
from fragrecon.errors import ConfigError
from fragrecon.evaluation.embedding import embeds_puzzles
from fragrecon.evaluation.setup import open_data, user_data
from fragrecon.models.base import FragmentModel
from fragrecon.progress import progress
from fragrecon.report.results import open_model
from fragrecon.report.terminal import say
from fragrecon.runs.read import run_of
from fragrecon.runs.write import Record


def main(config: Config, record: Record) -> dict[str, Any]:
    """Embed images with the model of ``config.run``.

    Args:
        config: job config.
        record: record to write.

    Returns:
        File and size of the table.

    Raises:
        ConfigError: ``run`` is not set, a setting is invalid, or PyArrow is not installed.
    """
    assert config.embed
    settings, writers = config.embed, {"npz": write_npz, "parquet": write_parquet}
    if config.input and settings.split != "test":
        raise ConfigError(f"embed.split={settings.split} does not apply to input=FILES; leave it out")
    if settings.format == "parquet":
        _import_pyarrow()
    paths = image_files(config.input) if config.input else []
    device = hardware.device_of(config.trainer)
    run = run_of(config)
    with user_data(config, paths) if paths else nullcontext(open_data(config)) as data:
        model = open_model(config, run, run.checkpoint).to(device)
        table = open_table(config, data, model, device)
        data.warn_if_lossy()
        path = record.folder / f"embeddings.{settings.format}"
        with progress("embedding images", table.puzzles.size) as advance, files.atomic_file(path) as file:
            writers[settings.format](file, table, advance)
    images, numbers = table.puzzles.size, model.latent_dim
    if paths:
        names = [{"image": number, "file": str(name)} for number, name in enumerate(paths)]
        files.write_csv(record.folder / "images.csv", names)
    say(f"{table.rows:,} embeddings of {numbers} dimensions, of {images:,} images: {path}")
    return {"file": str(path), "rows": table.rows, "latent_dim": numbers, "images": images}


@dataclass(frozen=True)
class EmbeddingTable:
    """One row per fragment, in the order of ``puzzles`` and of the cells of the grid, computed while writing.

    Attributes:
        puzzles: store indices (P, N) of the images that are embedded together, the narrowest first.
        together: whether embeddings depend on the puzzle, so that the puzzle is a column.
        store: image store.
        model: model in eval mode, on ``device``.
        grid: rows and columns of fragments in an image.
        device: device to embed on.
        at_once: number of images embedded and written at once.
    """

    puzzles: Indices
    together: bool
    store: Store
    model: FragmentModel
    grid: tuple[int, int]
    device: torch.device
    at_once: int

    @property
    def cells(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def rows(self) -> int:
        return self.puzzles.size * self.cells

    def parts(self) -> Iterator[slice]:
        """Yield batches of puzzles of equal width."""
        widths = self.store.widths[self.puzzles[:, 0]]
        for group in groups(widths, max(1, self.at_once // self.puzzles.shape[1])):
            yield slice(int(group[0]), int(group[-1]) + 1)

    def columns(self, part: slice) -> dict[str, npt.NDArray[np.int64]]:
        """Return all columns (rows,) except the embedding."""
        ids = self.puzzles[part]
        image, cell = np.repeat(ids, self.cells), np.tile(np.arange(self.cells), ids.size)
        columns = {
            "image": image,
            "row": cell // self.grid[1],
            "column": cell % self.grid[1],
            "label": self.store.labels[image],
        }
        if self.together:
            columns["puzzle"] = np.repeat(np.arange(len(self.puzzles))[part], ids.shape[1] * self.cells)
        return columns

    @torch.inference_mode()
    def embedding(self, part: slice) -> npt.NDArray[np.float32]:
        """Return the last column, (rows, D)."""
        ids = self.puzzles[part]
        images = torch.from_numpy(self.store.read(ids.reshape(-1))).to(self.device).float().div_(255)
        fragments = cut(images, fragment_size(images, self.grid))
        embedded = self.model.encode(fragments.view(len(ids), -1, *fragments.shape[2:]))
        found: npt.NDArray[np.float32] = embedded.flatten(0, 1).float().cpu().numpy()
        return found


def open_table(config: Config, data: FragmentData, model: FragmentModel, device: torch.device) -> EmbeddingTable:
    """Return the table of embeddings to compute.

    A model that embeds fragments independently gets single images in the order of the split, sorted by width if widths
    are variable. A model that sees puzzles gets the first puzzles of the split, which for validation and test are those
    that are scored; images that do not fill a puzzle are dropped.

    Raises:
        ConfigError: there are fewer images than requested, or too few for a puzzle.
    """
    assert config.embed
    split, together = config.embed.split, embeds_puzzles(model)
    store = data.store("test" if split == "test" else "train")
    available = {
        "test": lambda: np.arange(len(store)),
        "validation": data.validation_images,
        "train": data.training_images,
    }[split]()
    count = len(available) if config.embed.images is None else config.embed.images
    a_puzzle = config.data.images_per_puzzle if together else 1
    if not a_puzzle <= count <= len(available):
        raise ConfigError(
            f"embed.images={count} should be from {a_puzzle} to {len(available)}, which is all of embed.split={split}"
        )
    puzzles = draw_images(available, a_puzzle, 0, count // a_puzzle, data.puzzle_seed, split)
    if not together:
        puzzles.sort(0)
        puzzles = puzzles[np.argsort(store.widths[puzzles[:, 0]], kind="stable")]
    at_once = config.evaluation.batch_size * config.data.images_per_puzzle
    return EmbeddingTable(puzzles, together, store, model, data.grid, device, at_once)


def write_npz(file: BinaryIO, table: EmbeddingTable, advance: Callable[[int], None]) -> None:
    """Write the table in parts, in the format of NumPy's ``savez``."""

    def write(name: str, kind: Any, row: tuple[int, ...], pieces: Iterator[npt.NDArray[Any]]) -> None:
        header = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": (table.rows, *row)}
        with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for piece in pieces:
                member.write(np.ascontiguousarray(piece, kind).data)

    def embeddings() -> Iterator[npt.NDArray[np.float32]]:
        for part in table.parts():
            yield table.embedding(part)
            advance(table.puzzles[part].size)

    with ZipFile(file, "w") as archive:
        for name in table.columns(slice(0, 0)):
            write(name, np.int64, (), (table.columns(part)[name] for part in table.parts()))
        write("embedding", np.float32, (table.model.latent_dim,), embeddings())


def write_parquet(file: BinaryIO, table: EmbeddingTable, advance: Callable[[int], None]) -> None:
    """Write the table in parts as Parquet, with the embedding as a fixed-size list."""
    arrow, length = _import_pyarrow(), table.model.latent_dim
    schema = arrow.schema(
        [
            *((name, arrow.int64()) for name in table.columns(slice(0, 0))),
            ("embedding", arrow.list_(arrow.float32(), length)),
        ]
    )
    with arrow.parquet.ParquetWriter(file, schema) as writer:
        for part in table.parts():
            embedding = arrow.FixedSizeListArray.from_arrays(arrow.array(table.embedding(part).reshape(-1)), length)
            columns = [*(arrow.array(column) for column in table.columns(part).values()), embedding]
            writer.write_table(arrow.Table.from_arrays(columns, schema=schema))
            advance(table.puzzles[part].size)


def _import_pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(
            'embed.format=parquet needs PyArrow: pip install "fragrecon[parquet]"; embed.format=npz does not'
        ) from None
    return pyarrow
