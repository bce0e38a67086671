"""Figures of a network's attention and saliency."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fragrecon.models.cnn_v3.network import AutoEncoderCNNV3

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def visualize_attention(
    model: AutoEncoderCNNV3,
    x: Tensor,
    save_path: str | Path | None = None,
    show_matrix: bool = True,
    show_heatmap: bool = True,
) -> Figure:
    """Draw images with their reconstructions, attention matrices and saliency maps.

    The panels of an image form a row or, for wide images, a column.

    Args:
        model: The network; without attention, no attention matrix is drawn.
        x: Images (B, C, H, W) in [0, 1].
        save_path: File to save the figure to, in any format of matplotlib; None saves nothing.
        show_matrix: Whether to draw the attention matrix.
        show_heatmap: Whether to draw the saliency map over the image.

    Returns:
        The figure.
    """
    from matplotlib.figure import Figure

    with torch.no_grad():
        decoded = model(x).clamp(0, 1)
        matrix = model.get_attention_matrix(x) if show_matrix else None
    heat = model.get_attention_map(x) if show_heatmap else None
    titles = ["image", "reconstruction"]
    titles += [] if matrix is None else ["attention (row: query, column: key)"]
    titles += [] if heat is None else ["saliency of the error"]
    height, width = x.shape[-2:]
    side_by_side = width < 2 * height
    grid = (len(x), len(titles)) if side_by_side else (len(titles), len(x))
    panel = (2.8, 2.8 * height / width) if side_by_side else (5.6, max(0.8, 5.6 * height / width))
    figure = Figure(figsize=(grid[1] * panel[0], grid[0] * (panel[1] + 0.3)), dpi=120, layout="constrained")
    panels = figure.subplots(*grid, squeeze=False)
    grey: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1}
    for row, axes in enumerate(panels if side_by_side else panels.T):
        pictures = [image[row].permute(1, 2, 0).cpu().numpy() for image in (x, decoded)]
        for axis, picture in zip(axes, pictures, strict=False):
            axis.imshow(picture, **grey)
        if matrix is not None:
            axes[2].imshow(matrix[row].cpu().numpy(), cmap="magma")
        if heat is not None:
            axes[-1].imshow(pictures[0], **grey)
            axes[-1].imshow(heat[row, 0].cpu().numpy(), cmap="magma", alpha=0.6, vmin=0, vmax=1)
        for axis, title in zip(axes, titles, strict=True):
            axis.set_axis_off()
            if row == 0:
                axis.set_title(title, fontsize=9)
    if save_path is not None:
        figure.savefig(save_path)
    return figure
