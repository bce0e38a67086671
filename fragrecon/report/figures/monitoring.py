"""Pictures and embeddings logged during training, and the loggers that accept them.

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
from fragrecon.evaluation.components import PrincipalComponents
from fragrecon.evaluation.pixels.generation import SHOWN, standard_normal
from fragrecon.evaluation.pixels.inpainting_examples import inpaint
from fragrecon.models.base import Decoder, FragmentModel, Inpainter, Viewer
from fragrecon.objectives.masked import draw_mask
from fragrecon.report.figures.inpainting import visible
from fragrecon.report.figures.plotting import colours
from fragrecon.report.figures.tiles import GAP, PAPER, framed, sheet, tiles, to_pixels
from fragrecon.seeds import keys_of

PUZZLES, ROWS, DIMENSIONS = 3, 480, 128
"""Maximum number of puzzles and fragments whose embeddings are logged, and of their dimensions."""

THUMBNAIL = 64
"""Maximum side of a thumbnail in pixels."""

THIN, THICK = 1, 4
"""Thickness of the frames of fragments in the right group, and in a wrong one."""

MOST_VIEWS = 64

COLUMNS = 10
"""Images in a row."""

SHARE = 0.75
"""Share of hidden patches in pictures of inpainting."""


@dataclass(frozen=True)
class LabelledEmbeddings:
    """Embeddings of fragments, for a projector.

    Attributes:
        embeddings: (M, D), on the CPU.
        thumbnails: (M, 3, s, s) uint8.
        facts: M values per property that points can be coloured by.
    """

    embeddings: Tensor
    thumbnails: Tensor
    facts: Mapping[str, Sequence[str]]


@runtime_checkable
class PictureLogger(Protocol):
    """A logger that accepts pictures and embeddings.

    Attributes:
        pictures_every_n_epochs: epochs between pictures; 0 disables them.
    """

    pictures_every_n_epochs: int

    def show(self, name: str, picture: Tensor, step: int) -> None:
        """Log a picture (3, H, W) uint8."""

    def show_embeddings(self, embedded: LabelledEmbeddings, step: int) -> None:
        """Log embeddings for a projector."""


@torch.inference_mode()
def pictures_of(
    model: FragmentModel, batch: FragmentBatch, grid: tuple[int, int], protocol: ClusteringProtocol | None
) -> dict[str, Tensor]:
    """Draw everything that a model can show for one puzzle.

    Args:
        model: model in eval mode, on the device of the batch.
        batch: batch of one puzzle, with float fragments.
        grid: rows and columns of fragments in an image.
        protocol: clustering protocol; None if the batch is not a puzzle.

    Returns:
        Pictures by name.
    """
    found = {}
    embeddings = model.encode(batch.fragments)
    if protocol:
        found["puzzle"] = puzzle_picture(batch, protocol.cluster(embeddings.float(), batch)["kmeans"], grid)
    if isinstance(model, Decoder):
        decoded = model.decode(embeddings, batch.fragment_size)
        found["reconstructions"] = columns_picture(
            *(in_place(some, batch, grid) for some in (batch.fragments, decoded))
        )
        latents = standard_normal(model.latent_dim).draw(
            keys_of(0, "samples shown", 0, SHOWN)
        )  # the same in every epoch
        found["samples"] = columns_picture(model.decode(latents.to(embeddings.device), batch.fragment_size))
    if isinstance(model, Inpainter):
        images = batch.fragments[0, :COLUMNS]
        generator = torch.Generator(images.device).manual_seed(0)
        inpainted = inpaint(model, images, draw_mask(len(images), model.patches.count, SHARE, generator))
        found["masked"] = columns_picture(visible(inpainted), inpainted.composite, inpainted.images)
    if isinstance(model, Viewer):
        found |= {name: view_picture(views) for name, views in model.views(batch.fragments).items()}
    return found


def puzzle_picture(batch: FragmentBatch, groups: Tensor, grid: tuple[int, int]) -> Tensor:
    """Draw the fragments in rows: by their image on the left, by the image matched to their group on the right.

    Fragments have a frame in the colour of their image: thin in the row of that image, thick elsewhere.

    Args:
        batch: batch of one puzzle.
        groups: group (1, F) of each fragment.
        grid: rows and columns of fragments in an image.

    Returns:
        The picture.
    """
    cells = grid[0] * grid[1]
    fragments, sources = tiles(batch.fragments[0], 32), batch.source_ids[0].cpu()
    found = image_of_group(batch, groups)[groups[0].cpu()]
    order = torch.argsort(sources * cells + batch.positions[0].cpu())
    palette = colours(batch.images_per_puzzle)

    def tile(member: int, thickness: int) -> Tensor:
        picture = framed(fragments[member], palette[int(sources[member])], thickness)
        return F.pad(picture, [THICK - thickness] * 4, value=PAPER)

    left_width, right_width = min(cells, 16), min(cells, 16) * 3 // 2
    empty = torch.full_like(tile(0, THICK), PAPER)
    shown: list[Tensor] = []
    for image in range(batch.images_per_puzzle):
        true, here = order[sources[order] == image], order[found[order] == image]
        own = sources[here] == image
        left = [tile(member, THIN) for member in true.tolist()]
        right = [tile(member, THIN) for member in here[own].tolist()]
        right += [tile(member, THICK) for member in here[~own].tolist()]
        for line in range(max(-(-len(left) // left_width), -(-len(right) // right_width))):
            for members, width in ((left, left_width), ([], 1), (right, right_width)):
                part = members[line * width : (line + 1) * width]
                shown += [*part, *[empty] * (width - len(part))]
    return sheet(shown, left_width + 1 + right_width, gap=2)


def image_of_group(batch: FragmentBatch, groups: Tensor) -> Tensor:
    """Match groups (1, F) to images one to one, maximising the fragments in the group of their image.

    Returns:
        The image (N,) of each group.
    """
    n = batch.images_per_puzzle
    counts = agreement.contingency(groups.cpu(), batch.source_ids.cpu())
    return assign(F.pad(counts, (0, n - counts.shape[2], 0, n - counts.shape[1])))[0]


def columns_picture(*rows: Tensor) -> Tensor:
    """Lay out rows of images (M, C, H, W) below each other, ten columns per line."""
    columns = torch.cat([tiles(images) for images in rows], 2)
    return sheet(list(columns), min(len(columns), COLUMNS), GAP)


def view_picture(views: Tensor, side: int = 64) -> Tensor:
    """Lay out images (K, C, H, W) in about a square, each enlarged to a height of about ``side``."""
    shown, (height, width) = list(tiles(views[:MOST_VIEWS], side)), views.shape[2:]
    return sheet(shown, math.ceil(math.sqrt(len(shown) * height / width)), gap=4)


@torch.inference_mode()
def embedded(model: FragmentModel, puzzles: FixedPuzzles, device: torch.device) -> LabelledEmbeddings:
    """Embed the fragments of the first puzzles with a model in eval mode.

    Embeddings of more than `DIMENSIONS` dimensions are projected onto their principal components.
    """
    rows, pixels = [], []
    facts: dict[str, list[str]] = {"image": [], "class": [], "puzzle": [], "cell": []}
    for number in range(min(PUZZLES, len(puzzles))):
        batch = puzzles.read(slice(number, number + 1)).to(device).as_float()
        rows.append(model.encode(batch.fragments)[0].float().cpu())
        pixels.append(batch.fragments[0].cpu())
        # Strings, because the projector treats numbers as continuous values.
        facts["image"] += [f"image {i}" for i in batch.image_ids[0, batch.source_ids[0]].tolist()]
        facts["class"] += [f"class {i}" if i >= 0 else "unknown" for i in batch.labels[0].tolist()]
        facts["puzzle"] += [f"puzzle {number}"] * batch.labels.shape[1]
        facts["cell"] += [f"cell {i}" for i in batch.positions[0].tolist()]
    found = torch.cat(rows)[:ROWS]
    if found.shape[1] > DIMENSIONS:
        found = PrincipalComponents(found, DIMENSIONS)(found, DIMENSIONS).float()
    thumbnails = _thumbnails(torch.cat(pixels)[:ROWS])
    return LabelledEmbeddings(found, thumbnails, {name: values[:ROWS] for name, values in facts.items()})


def _thumbnails(fragments: Tensor) -> Tensor:
    """Return fragments (M, C, h, w) as squares (M, 3, s, s) uint8, as a sprite needs."""
    height, width = fragments.shape[-2:]
    side = max(height, width)
    square = F.pad(fragments, (0, side - width, 0, side - height), value=1.0)
    if side > THUMBNAIL:
        square = F.interpolate(square, size=(THUMBNAIL, THUMBNAIL), mode="area")
    return to_pixels(square)
