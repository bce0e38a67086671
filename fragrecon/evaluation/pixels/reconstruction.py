"""How well images are reconstructed: whole, or where patches of them were masked.

Shapes: M images (C, H, W) in 0..1 of P patches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.image import structural_similarity_index_measure

from fragrecon.data.puzzles import FragmentBatch
from fragrecon.evaluation.clustering.protocol import Score
from fragrecon.models.base import Decoder, FragmentModel, Inpainter, PatchGrid
from fragrecon.objectives.masked import mask_of
from fragrecon.objectives.reconstruction import decoded_like, psnr
from fragrecon.seeds import keys_of, uniforms

Fill = Callable[[Tensor, Tensor], Tensor]
"""From images (M, C, H, W) and a mask (M, P), True where hidden, to images, of which the hidden patches count."""


@dataclass(frozen=True)
class Masking:
    """Which patches of test images are hidden: the same for all that is scored.

    Attributes:
        ratio: share of the patches.
        seed: keys the random numbers of each puzzle.
    """

    ratio: float
    seed: int

    def draw(self, batch: FragmentBatch, patches: int) -> Tensor:
        """Masks (B * F, P) of a batch's fragments, each puzzle's its own however they are batched."""
        fragments = batch.source_ids.shape[1]
        draws = uniforms(keys_of(self.seed, "test masks", batch.step, len(batch)), fragments * patches)
        return mask_of(draws.view(-1, patches), self.ratio).to(batch.fragments.device)


def reconstruction_of(model: FragmentModel, masking: Masking) -> Score | None:
    """How a model is scored: by what it fills in, by what it decodes; None if it does neither."""
    if isinstance(model, Inpainter):
        return filled(fill_of(model), masking, model.patches)
    if isinstance(model, Decoder):
        decoder = model

        def score(batch: FragmentBatch) -> dict[str, Tensor]:
            output = decoded_like(decoder, model.encode(batch.fragments), batch.fragments).clamp(0, 1)
            return by_puzzle(score_reconstruction(output.flatten(0, 1), batch.fragments.flatten(0, 1)), batch)

        return score
    return None


def downsampled(latents: int) -> Score:
    """How images are scored that are shrunk to at most as many numbers as there are latents, and enlarged again.

    Shrunk by means of areas, to the shape nearest to their own, and enlarged by cubic convolution.
    """

    def score(batch: FragmentBatch) -> dict[str, Tensor]:
        images = batch.fragments.flatten(0, 1)
        small = functional.interpolate(images, downsampled_size(latents, images.shape), mode="area")
        output = functional.interpolate(small, images.shape[-2:], mode="bicubic").clamp(0, 1)
        return by_puzzle(score_reconstruction(output, images), batch)

    return score


def downsampled_size(latents: int, shape: torch.Size) -> tuple[int, int]:
    """Rows and columns that images (M, C, H, W) can be shrunk to, at least one of each."""
    _, channels, height, width = shape
    pixels, short, long = max(1, latents // channels), min(height, width), max(height, width)
    less = min(short, pixels, max(1, round((pixels * short / long) ** 0.5)))
    more = min(long, pixels // less)
    return (less, more) if height <= width else (more, less)


def fill_of(model: Inpainter) -> Fill:
    """How a model fills in."""
    return lambda images, mask: model.patches.join(model.predict(images, mask).float()).clamp(0, 1)


def filled(fill: Fill, masking: Masking, patches: PatchGrid) -> Score:
    """How a way to fill in is scored, each fragment of a puzzle as an image of its own."""

    def score(batch: FragmentBatch) -> dict[str, Tensor]:
        images, mask = batch.fragments.flatten(0, 1), masking.draw(batch, patches.count)
        return by_puzzle(score_filling(fill, images, mask, patches), batch)

    return score


def by_puzzle(scores: dict[str, Tensor], batch: FragmentBatch) -> dict[str, Tensor]:
    """Means (B,) over the fragments of each puzzle, of scores (B * F,)."""
    return {name: values.view(len(batch), -1).mean(1).cpu() for name, values in scores.items()}


def score_filling(fill: Fill, images: Tensor, mask: Tensor, patches: PatchGrid) -> dict[str, Tensor]:
    """Scores (M,): ``masked_...`` of the hidden patches alone, ``composite_...`` of these beside the visible ones.

    The structural similarity of hidden patches is that of the composite, averaged over their pixels.
    """
    hidden = pixels_of(mask, patches, images.shape)
    composite = torch.where(hidden, fill(images, mask), images)
    errors, similarity = (composite - images).square(), similarity_map(composite, images)
    masked = (errors * hidden).sum((1, 2, 3)) / (hidden.sum((1, 2, 3)) * images.shape[1])
    return {
        "masked_mse": masked.double(),
        "masked_psnr": psnr(masked.double()),
        "masked_ssim": ((similarity * hidden).sum((1, 2, 3)) / (hidden.sum((1, 2, 3)) * images.shape[1])).double(),
        "composite_mse": errors.mean((1, 2, 3)).double(),
        "composite_psnr": psnr(errors.mean((1, 2, 3)).double()),
        "composite_ssim": similarity.mean((1, 2, 3)).double(),
    }


def score_reconstruction(output: Tensor, images: Tensor) -> dict[str, Tensor]:
    """Scores (M,) of whole outputs where nothing was masked."""
    errors = (output - images).square().mean((1, 2, 3))
    return {
        "reconstruction_mse": errors.double(),
        "reconstruction_psnr": psnr(errors.double()),
        "reconstruction_ssim": similarity_map(output, images).mean((1, 2, 3)).double(),
    }


def similarity_map(images: Tensor, others: Tensor) -> Tensor:
    """Structural similarity (M, C, H, W) at each pixel, in Gaussian windows of deviation 1.5 (Wang et al., 2004)."""
    _, found = structural_similarity_index_measure(
        images, others, data_range=1.0, reduction="none", return_full_image=True
    )
    return found


def pixels_of(mask: Tensor, patches: PatchGrid, shape: torch.Size) -> Tensor:
    """A mask (M, 1, H, W) of pixels from one (M, P) of patches."""
    rows, columns = patches.grid
    sides = (shape[-2] // rows, shape[-1] // columns)
    return mask.view(-1, 1, rows, columns).repeat_interleave(sides[0], 2).repeat_interleave(sides[1], 3)
