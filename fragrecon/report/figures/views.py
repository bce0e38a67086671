"""What is shown while a model trains, and of its embeddings when it is done; and what takes it.

Shapes: one puzzle of F fragments (C, h, w) from N images; pictures (3, H, W) uint8.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from fragrecon.clustering import agreement
from fragrecon.clustering.balanced import assign
from fragrecon.data.module import FixedPuzzles
from fragrecon.data.puzzles import FragmentBatch, in_place
from fragrecon.evaluation.clustering.protocol import ClusteringProtocol
from fragrecon.evaluation.pixels.generation import SHOWN, standard_normal
from fragrecon.evaluation.pixels.inpainting_examples import Inpainted, inpaint
from fragrecon.models.base import Decoder, FragmentModel, Inpainter, Viewer
from fragrecon.objectives.masked import draw_mask
from fragrecon.report.figures.masked import visible
from fragrecon.report.figures.pictures import PAPER, colours, framed, sheet
from fragrecon.seeds import keys_of

PUZZLES, ROWS, DIMENSIONS = 3, 480, 128
"""Of which embeddings are shown at most: puzzles, fragments, numbers of each."""

THUMBNAIL = 64
"""Side of a thumbnail at most."""

THIN, THICK = 1, 4
"""Frames of fragments that are where they belong, and of those that are not."""

MOST_VIEWS = 64

COLUMNS = 10
"""Images beside each other."""

SHARE = 0.75
"""Share of the patches that is hidden in pictures of what a model fills in."""


@dataclass(frozen=True)
class Embedded:
    """Embeddings of fragments, with what one wants to know of each.

    Attributes:
        embeddings: (M, D), on the CPU.
        thumbnails: (M, 3, s, s) uint8.
        facts: M values, for each thing one may want to colour by.
    """

    embeddings: Tensor
    thumbnails: Tensor
    facts: Mapping[str, Sequence[str]]


@runtime_checkable
class Album(Protocol):
    """A logger that takes more than numbers.

    Attributes:
        pictures_every_n_epochs: how often it wants pictures; 0 is never.
    """

    pictures_every_n_epochs: int

    def show(self, name: str, picture: Tensor, step: int) -> None:
        """Keep a picture (3, H, W) uint8."""

    def show_embeddings(self, embedded: Embedded, step: int) -> None:
        """Keep embeddings for a projector."""


@torch.inference_mode()
def views_of(
    model: FragmentModel, batch: FragmentBatch, grid: tuple[int, int], protocol: ClusteringProtocol | None
) -> dict[str, Tensor]:
    """Pictures of all that a model in eval mode has to show of a batch of one puzzle.

    Args:
        model: on the device of the batch.
        batch: with fragments as float.
        grid: rows and columns of fragments in an image.
        protocol: groups the fragments by their embeddings; None where there is no puzzle.
    """
    found = {}
    embeddings = model.encode(batch.fragments)
    if protocol:
        found["puzzle"] = puzzle_picture(batch, protocol.cluster(embeddings.float(), batch)["kmeans"], grid)
    if isinstance(model, Decoder):
        found["reconstructions"] = reconstruction_picture(batch, model.decode(embeddings, batch.fragment_size), grid)
        latents = standard_normal(model.latent_dim).draw(keys_of(0, "samples shown", 0, SHOWN))  # always the same
        found["samples"] = samples_picture(model.decode(latents.to(embeddings.device), batch.fragment_size))
    if isinstance(model, Inpainter):
        images = batch.fragments[0, :COLUMNS]
        generator = torch.Generator(images.device).manual_seed(0)
        mask = draw_mask(len(images), model.patches.count, SHARE, generator)
        found["masked"] = masked_picture(inpaint(model, images, mask))
    if isinstance(model, Viewer):
        found |= {name: view_picture(views) for name, views in model.views(batch.fragments).items()}
    return found


def puzzle_picture(batch: FragmentBatch, groups: Tensor, grid: tuple[int, int]) -> Tensor:
    """Fragments by their true image on the left, by the image that their group is taken for on the right.

    An image is a row and has a colour, in which its fragments are framed: thinly where they are in their own row, and
    thickly where they are not. Groups (1, F) are taken for images one to one, so that as many fragments as can be are
    in their own row.
    """
    cells = grid[0] * grid[1]
    fragments, sources = ink(batch.fragments[0], 32), batch.source_ids[0].cpu()
    found = image_of_group(batch, groups)[groups[0].cpu()]
    order = torch.argsort(sources * cells + batch.positions[0].cpu())
    palette = colours(batch.images_per_puzzle)

    def tile(member: int, thickness: int) -> Tensor:
        picture = framed(fragments[member], palette[int(sources[member])], thickness)
        return F.pad(picture, [THICK - thickness] * 4, value=PAPER)

    left_width, right_width = min(cells, 16), min(cells, 16) * 3 // 2
    empty = torch.full_like(tile(0, THICK), PAPER)
    tiles: list[Tensor] = []
    for image in range(batch.images_per_puzzle):
        true, here = order[sources[order] == image], order[found[order] == image]
        own = sources[here] == image
        left = [tile(member, THIN) for member in true.tolist()]
        right = [tile(member, THIN) for member in here[own].tolist()]
        right += [tile(member, THICK) for member in here[~own].tolist()]
        for line in range(max(-(-len(left) // left_width), -(-len(right) // right_width))):
            for members, width in ((left, left_width), ([], 1), (right, right_width)):
                shown = members[line * width : (line + 1) * width]
                tiles += [*shown, *[empty] * (width - len(shown))]
    return sheet(tiles, left_width + 1 + right_width, gap=2)


def image_of_group(batch: FragmentBatch, groups: Tensor) -> Tensor:
    """The image (N,) that each group of the one puzzle is taken for, by groups (1, F)."""
    n = batch.images_per_puzzle
    counts = agreement.contingency(groups.cpu(), batch.source_ids.cpu())
    return assign(F.pad(counts, (0, n - counts.shape[2], 0, n - counts.shape[1])))[0]


def reconstruction_picture(batch: FragmentBatch, decoded: Tensor, grid: tuple[int, int]) -> Tensor:
    """Images of the puzzle, ten a row, each above what became of its fragments, (1, F, C, h, w)."""
    pair = [ink(in_place(fragments, batch, grid), 96) for fragments in (batch.fragments, decoded)]
    columns = torch.cat(pair, 2)  # each original above its reconstruction
    return sheet(list(columns), min(len(columns), COLUMNS), gap=6)


def samples_picture(samples: Tensor) -> Tensor:
    """Fragments (M, C, h, w), ten a row."""
    return sheet(list(ink(samples, 96)), COLUMNS, gap=6)


def masked_picture(filling: Inpainted) -> Tensor:
    """What was visible of images, above what a model makes of it and above the images, ten a row."""
    rows = [ink(images, 96) for images in (visible(filling), filling.composite, filling.images)]
    columns = torch.cat(rows, 2)
    return sheet(list(columns), min(len(columns), COLUMNS), gap=6)


def view_picture(views: Tensor, side: int = 64) -> Tensor:
    """Pictures (K, C, H, W) in 0..1, each enlarged to about ``side``, laid out nearly in a square."""
    shown, (height, width) = list(ink(views[:MOST_VIEWS], side)), views.shape[2:]
    return sheet(shown, math.ceil(math.sqrt(len(shown) * height / width)), gap=4)


@torch.inference_mode()
def embedded(model: FragmentModel, puzzles: FixedPuzzles, device: torch.device) -> Embedded:
    """Embeddings by a model in eval mode of the fragments of the first puzzles.

    Of more than `DIMENSIONS` numbers the principal components are kept, which keep distances best.
    """
    rows, pixels = [], []
    facts: dict[str, list[str]] = {"image": [], "class": [], "puzzle": [], "cell": []}
    for number in range(min(PUZZLES, len(puzzles))):
        batch = puzzles.read(slice(number, number + 1)).to(device).as_float()
        rows.append(model.encode(batch.fragments)[0].float().cpu())
        pixels.append(batch.fragments[0].cpu())
        # A word each: a projector takes all that is a number for a dimension.
        facts["image"] += [f"image {i}" for i in batch.image_ids[0, batch.source_ids[0]].tolist()]
        facts["class"] += [f"class {i}" if i >= 0 else "unknown" for i in batch.labels[0].tolist()]
        facts["puzzle"] += [f"puzzle {number}"] * batch.labels.shape[1]
        facts["cell"] += [f"cell {i}" for i in batch.positions[0].tolist()]
    found = torch.cat(rows)[:ROWS]
    if found.shape[1] > DIMENSIONS:
        left, strengths, _ = torch.linalg.svd(found - found.mean(0), full_matrices=False)
        found = (left * strengths)[:, :DIMENSIONS]
    return Embedded(
        found, _thumbnails(torch.cat(pixels)[:ROWS]), {name: values[:ROWS] for name, values in facts.items()}
    )


def _thumbnails(fragments: Tensor) -> Tensor:
    """Squares (M, 3, s, s) uint8, as a sprite needs them, of fragments (M, C, h, w)."""
    height, width = fragments.shape[-2:]
    side = max(height, width)
    square = F.pad(fragments, (0, side - width, 0, side - height), value=1.0)
    if side > THUMBNAIL:
        square = F.interpolate(square, size=(THUMBNAIL, THUMBNAIL), mode="area")
    return ink(square, 1)


def ink(pictures: Tensor, side: int) -> Tensor:
    """Pictures (K, C, H, W) in 0..1 as (K, 3, H, W) uint8 on the CPU, enlarged by a whole number to about ``side``."""
    return enlarged(pictures, max(1, round(side / min(pictures.shape[-2:]))))


def enlarged(pictures: Tensor, times: int) -> Tensor:
    """Pictures (K, C, H, W) in 0..1 as (K, 3, H, W) uint8 on the CPU, each pixel as often in both directions."""
    pixels = (pictures.float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    return pixels.expand(-1, 3, -1, -1).repeat_interleave(times, 2).repeat_interleave(times, 3)
