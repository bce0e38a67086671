"""Pixel scores of reconstructed and inpainted images.

Shapes: M images (C, H, W) in [0, 1] of P patches.
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
"""Maps images (M, C, H, W) and a mask (M, P), True where hidden, to images with filled hidden patches."""

Output = Callable[[FragmentBatch], Tensor]
"""Maps a batch of float fragments to outputs (B * F, C, h, w) in [0, 1]."""


@dataclass(frozen=True)
class Masking:
    """Masks of the test images, the same for all methods.

    Attributes:
        ratio: share of hidden patches.
        seed: seed of the random masks.
    """

    ratio: float
    seed: int

    def draw(self, batch: FragmentBatch, patches: int) -> Tensor:
        """Draw masks (B * F, P) for the fragments of a batch; the masks of a puzzle do not depend on the batch size."""
        fragments = batch.source_ids.shape[1]
        draws = uniforms(keys_of(self.seed, "test masks", batch.step, len(batch)), fragments * patches)
        return mask_of(draws.view(-1, patches), self.ratio).to(batch.fragments.device)


def reconstruction_of(model: FragmentModel, masking: Masking) -> Score | None:
    """Return the scoring function of a model that inpaints or decodes.

    Args:
        model: model in eval mode.
        masking: masks of the test images, for a model that inpaints.

    Returns:
        The scoring function, or None for a model that does neither.
    """
    if isinstance(model, Inpainter):
        return inpainting_score(inpainted(fill_of(model), masking, model.patches), masking, model.patches)
    return decoding_score(decoded(model)) if isinstance(model, Decoder) else None


def decoded(model: FragmentModel) -> Output:
    """Return the output function of a model that decodes."""

    def output(batch: FragmentBatch) -> Tensor:
        assert isinstance(model, Decoder)
        return decoded_like(model, model.encode(batch.fragments), batch.fragments).clamp(0, 1).flatten(0, 1)

    return output


def downsampled(latents: int) -> Output:
    """Return the output function that downsamples images and upsamples them again.

    Images are downsampled by area averaging, with nearly the same aspect ratio, and upsampled bicubically.

    Args:
        latents: maximum number of values of a downsampled image.

    Returns:
        The output function.
    """

    def output(batch: FragmentBatch) -> Tensor:
        images = batch.fragments.flatten(0, 1)
        small = functional.interpolate(images, downsampled_size(latents, images.shape), mode="area")
        return functional.interpolate(small, images.shape[-2:], mode="bicubic").clamp(0, 1)

    return output


def downsampled_size(latents: int, shape: torch.Size) -> tuple[int, int]:
    """Return the height and width to downsample images (M, C, H, W) to, for at most ``latents`` values."""
    _, channels, height, width = shape
    pixels, short, long = max(1, latents // channels), min(height, width), max(height, width)
    less = min(short, pixels, max(1, round((pixels * short / long) ** 0.5)))
    more = min(long, pixels // less)
    return (less, more) if height <= width else (more, less)


def fill_of(model: Inpainter) -> Fill:
    """Return the inpainting function of a model, clipped to [0, 1]."""
    return lambda images, mask: model.patches.join(model.predict(images, mask).float()).clamp(0, 1)


def inpainted(fill: Fill, masking: Masking, patches: PatchGrid) -> Output:
    """Return the output function for composites: images with filled hidden patches, each fragment as an image."""

    def output(batch: FragmentBatch) -> Tensor:
        images, mask = batch.fragments.flatten(0, 1), masking.draw(batch, patches.count)
        return torch.where(pixels_of(mask, patches, images.shape), fill(images, mask), images)

    return output


def inpainting_score(output: Output, masking: Masking, patches: PatchGrid) -> Score:
    """Return the scoring function of composites, averaged over the fragments of each puzzle."""

    def score(batch: FragmentBatch) -> dict[str, Tensor]:
        images, mask = batch.fragments.flatten(0, 1), masking.draw(batch, patches.count)
        return by_puzzle(score_composites(output(batch), images, pixels_of(mask, patches, images.shape)), batch)

    return score


def decoding_score(output: Output) -> Score:
    """Return the scoring function of whole outputs, averaged over the fragments of each puzzle."""
    return lambda batch: by_puzzle(score_reconstruction(output(batch), batch.fragments.flatten(0, 1)), batch)


def by_puzzle(scores: dict[str, Tensor], batch: FragmentBatch) -> dict[str, Tensor]:
    """Average scores (B * F,) over the fragments of each puzzle; returns scores (B,)."""
    return {name: values.view(len(batch), -1).mean(1).cpu() for name, values in scores.items()}


def score_composites(composites: Tensor, images: Tensor, hidden: Tensor) -> dict[str, Tensor]:
    """Score inpainted images.

    Args:
        composites: images (M, C, H, W) in [0, 1] with filled hidden pixels.
        images: true images (M, C, H, W).
        hidden: hidden pixels (M, 1, H, W).

    Returns:
        Scores (M,): ``masked_...`` of the hidden pixels, ``composite_...`` of the whole image. The structural
        similarity (SSIM) of hidden pixels is that of the composite, averaged over these pixels.
    """
    errors, similarity = (composites - images).square(), similarity_map(composites, images)
    masked, masked_similarity = (
        (values * hidden).sum((1, 2, 3)) / (hidden.sum((1, 2, 3)) * images.shape[1]) for values in (errors, similarity)
    )
    return {
        **_pixel_scores("masked", masked, masked_similarity),
        **_pixel_scores("composite", errors.mean((1, 2, 3)), similarity.mean((1, 2, 3))),
    }


def score_reconstruction(output: Tensor, images: Tensor) -> dict[str, Tensor]:
    """Score outputs (M,) for images (M, C, H, W) without a mask."""
    errors, similarity = (output - images).square().mean((1, 2, 3)), similarity_map(output, images).mean((1, 2, 3))
    return _pixel_scores("reconstruction", errors, similarity)


def _pixel_scores(prefix: str, errors: Tensor, similarity: Tensor) -> dict[str, Tensor]:
    """Return mean squared errors (M,), PSNR and structural similarities (M,) as scores."""
    found = {"mse": errors.double(), "psnr": psnr(errors.double()), "ssim": similarity.double()}
    return {f"{prefix}_{name}": values for name, values in found.items()}


def similarity_map(images: Tensor, others: Tensor) -> Tensor:
    """Return the structural similarity (M, C, H, W) per pixel, in Gaussian windows of sigma 1.5 (Wang et al., 2004)."""
    _, found = structural_similarity_index_measure(
        images, others, data_range=1.0, reduction="none", return_full_image=True
    )
    return found


def pixels_of(mask: Tensor, patches: PatchGrid, shape: torch.Size) -> Tensor:
    """Convert a mask of patches (M, P) to a mask of pixels (M, 1, H, W)."""
    rows, columns = patches.grid
    sides = (shape[-2] // rows, shape[-1] // columns)
    return mask.view(-1, 1, rows, columns).repeat_interleave(sides[0], 2).repeat_interleave(sides[1], 3)
