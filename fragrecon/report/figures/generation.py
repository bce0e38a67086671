"""Draw decoded samples of latents, and interpolations between images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fragrecon.evaluation.pixels.generation import COLUMNS, Generated, pairs_of
from fragrecon.report.figures.tiles import rows_figure, tiles

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def generated_figure(generated: Generated) -> Figure:
    """Draw test images, their reconstructions, and samples from normal distributions of latents."""
    example, cells = generated.example, generated.example.grid[0] * generated.example.grid[1]
    assert example.decoded is not None
    assert generated.samples is not None
    # The middle fragment of an image that is cut into several.
    middle = example.grid[0] // 2 * example.grid[1] + example.grid[1] // 2
    order = torch.argsort(example.batch.source_ids[0] * cells + example.batch.positions[0])[middle::cells]
    groups = {
        f"test {'images' if cells == 1 else 'fragments'}": example.batch.fragments[0, order],
        "reconstructions": example.decoded[0, order],
        "samples of the\nstandard normal": generated.samples,
        "samples of a normal\nfitted to embeddings": generated.fitted,
    }
    rows = []
    for name, images in groups.items():
        for number, part in enumerate(torch.split(tiles(images), COLUMNS) if images is not None else []):
            rows.append((name if number == 0 else "", list(part)))
    return rows_figure(rows)


def interpolations_figure(generated: Generated) -> Figure:
    """Draw one row per pair of images: the first, decoded points between their embeddings, and the second."""
    assert generated.between is not None
    images, steps = tiles(generated.example.images), generated.between.shape[1]
    between = tiles(generated.between)
    pairs = zip(pairs_of(len(images)), between, strict=True)
    rows = [("", [images[first], *decoded, images[second]]) for (first, second), decoded in pairs]
    captions = ["first image", *(f"{100 * step / (steps - 1):.3g}%" for step in range(steps)), "second image"]
    return rows_figure(rows, ("weight of the\nsecond image", captions), across=float("inf"))
