"""Example images inpainted by a model, with the steps of its descent and its attention.

Shapes: M images (C, H, W) in [0, 1] of P patches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fragrecon.data.module import FixedPuzzles
from fragrecon.data.puzzles import join
from fragrecon.evaluation.pixels.reconstruction import Masking, pixels_of
from fragrecon.models.base import Attentive, Descender, Inpainter, PatchGrid


@dataclass(frozen=True)
class Steps:
    """Steps of a model with energy descent.

    Attributes:
        output: outputs (S + 1, M, C, H, W) before the first step and after each step.
        energies: energies (L, T + 1, M), as in `fragrecon.models.base.Descent`.
    """

    output: Tensor
    energies: Tensor


@dataclass(frozen=True)
class Attention:
    """Attention of one patch of each image.

    Attributes:
        chosen: index (M,) of the patch.
        weights: attention weights (M, H, rows, columns) of H heads.
    """

    chosen: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Inpainted:
    """Masked images inpainted by a model, on the CPU.

    Attributes:
        images: true images (M, C, H, W).
        hidden: hidden pixels (M, 1, H, W).
        output: whole outputs (M, C, H, W) of the model.
        steps: steps of a model with energy descent.
        attention: attention of a model that exposes it.
    """

    images: Tensor
    hidden: Tensor
    output: Tensor
    steps: Steps | None = None
    attention: Attention | None = None

    @property
    def composite(self) -> Tensor:
        """Images (M, C, H, W) with the output in place of hidden pixels."""
        return torch.where(self.hidden, self.output, self.images)

    def joined(self, grid: tuple[int, int]) -> Inpainted:
        """Join fragments (N * cells, C, h, w) to N images, without their attention."""
        cells = grid[0] * grid[1]

        def put(fragments: Tensor) -> Tensor:
            return join(fragments.reshape(-1, cells, *fragments.shape[1:]), grid)

        steps = self.steps and Steps(
            torch.stack([put(output) for output in self.steps.output]),
            self.steps.energies.view(*self.steps.energies.shape[:2], -1, cells).sum(-1),
        )
        return Inpainted(put(self.images), put(self.hidden), put(self.output), steps)


@torch.inference_mode()
def inpaint(model: Inpainter, images: Tensor, mask: Tensor, chosen: Tensor | None = None) -> Inpainted:
    """Inpaint images.

    Args:
        model: model in eval mode, on the device of the images.
        images: images (M, C, H, W) in [0, 1].
        mask: hidden patches (M, P).
        chosen: patch (M,) whose attention is returned; by default the hidden one closest to the centre.

    Returns:
        The inpainted images.
    """
    grid, steps, attention = model.patches, None, None

    def joined(patches: Tensor) -> Tensor:
        return grid.join(patches.float()).clamp(0, 1).cpu()

    if isinstance(model, Descender):
        descent = model.descend(images, mask)
        steps = Steps(torch.stack([joined(patches) for patches in descent.patches]), descent.energies.float().cpu())
        output = steps.output[-1]
    else:
        output = joined(model.predict(images, mask))
    if isinstance(model, Attentive):
        chosen = middle(mask, grid) if chosen is None else chosen
        weights = model.attention(images, mask, chosen).float().cpu()
        attention = Attention(chosen.cpu(), weights.view(*weights.shape[:2], *grid.grid))
    return Inpainted(images.cpu(), pixels_of(mask, grid, images.shape).cpu(), output, steps, attention)


def middle(mask: Tensor, patches: PatchGrid) -> Tensor:
    """Return the hidden patch (M,) closest to the centre, or the closest of all if none is hidden."""
    rows, columns = patches.grid
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    far = ((row - rows / 2) ** 2 + (column - columns / 2) ** 2).flatten().to(mask.device)
    return (far + rows * columns * (rows + columns) * ~mask).argmin(1)


def first_inpainted(
    model: Inpainter, puzzles: FixedPuzzles, masking: Masking, device: torch.device, most: int = 8
) -> Inpainted:
    """Inpaint the first ``most`` fragments of the test puzzles, each as a separate image."""
    count = -(-most // puzzles.read(slice(0, 1)).source_ids.shape[1])
    batch = puzzles.read(slice(0, count)).to(device).as_float()
    images, mask = batch.fragments.flatten(0, 1), masking.draw(batch, model.patches.count)
    return inpaint(model, images[:most], mask[:most])
