"""Augmentation of whole images, in batches, before they are cut, so that the fragments of an image stay consistent.

Random draws are separate from their application: processes that share a batch draw for all of it, then apply their
part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fragrecon.data.compression import BLOCK, jpeg

QUALITIES = (30, 98)
"""Range of the quality at which images are compressed again, on the scale of libjpeg."""

# Luma and chroma of NTSC: saturation scales the chroma plane, hue rotates it.
_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = torch.linalg.inv(_TO_YIQ)


@dataclass(frozen=True)
class Augmentation:
    """Strength of the augmentation of training images; 0 disables a part.

    Attributes:
        horizontal_flip: probability of a flip.
        rotation: maximum angle in degrees, in either direction.
        brightness, contrast, saturation: maximum relative change s; factors are uniform in [1 - s, 1 + s].
        hue: maximum rotation of the hue in either direction, as a share of the full circle.
        crop: maximum share of height and width that is cropped, at any place; the rest is enlarged to the full size.
        compression: probability that the image is compressed as JPEG, on a random grid and at a random quality.
    """

    horizontal_flip: float = 0.5
    rotation: float = 10.0
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.0
    crop: float = 0.0
    compression: float = 0.0

    @property
    def colour(self) -> bool:
        """Whether any colour is changed."""
        return max(self.brightness, self.contrast, self.saturation, self.hue) > 0


@dataclass(frozen=True)
class Draws:
    """Random draws for M images, each (M,).

    Attributes:
        flip: whether to mirror.
        angle: in radians.
        brightness, contrast, saturation: factors.
        hue: rotation in radians.
        kept: share of height and width that is not cropped.
        down, across: place of the crop; 0 at the top or left, 1 at the bottom or right.
        compressed: whether to compress.
        subsampled: whether to compress chroma at half resolution.
        quality: of the compression.
        rows, columns: offset of the grid of the compression, in pixels.
    """

    flip: Tensor
    angle: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    kept: Tensor
    down: Tensor
    across: Tensor
    compressed: Tensor
    subsampled: Tensor
    quality: Tensor
    rows: Tensor
    columns: Tensor

    def __getitem__(self, part: slice) -> Draws:
        return Draws(**{name: value[part] for name, value in vars(self).items()})


def draw(count: int, strength: Augmentation, generator: torch.Generator) -> Draws:
    """Draw the augmentation of a batch; disabled parts still consume their random numbers.

    Args:
        count: number of images, M.
        strength: strength of the augmentation.
        generator: source of the random numbers.

    Returns:
        The draws.
    """
    uniform = torch.rand(6, count, generator=generator)
    signed = uniform * 2 - 1
    further = torch.rand(8, count, generator=generator)
    return Draws(
        flip=uniform[0] < strength.horizontal_flip,
        angle=signed[1] * math.radians(strength.rotation),
        brightness=1 + signed[2] * strength.brightness,
        contrast=1 + signed[3] * strength.contrast,
        saturation=1 + signed[4] * strength.saturation,
        hue=signed[5] * strength.hue * 2 * math.pi,
        kept=1 - further[0] * strength.crop,
        down=further[1],
        across=further[2],
        compressed=further[3] < strength.compression,
        subsampled=further[4] < 0.5,
        quality=QUALITIES[0] + (further[5] * (QUALITIES[1] + 1 - QUALITIES[0])).floor(),
        rows=(further[6] * BLOCK).long(),
        columns=(further[7] * BLOCK).long(),
    )


def apply(images: Tensor, draws: Draws, strength: Augmentation) -> Tensor:
    """Augment images as drawn.

    Args:
        images: (M, C, H, W) uint8.
        draws: random draws for M images.
        strength: strength of the augmentation; disabled parts are skipped.

    Returns:
        (M, C, H, W) uint8.
    """
    varied = images
    if strength.rotation > 0 or strength.crop > 0 or strength.colour:
        varied = images.float()
        if strength.rotation > 0:
            varied = rotate(varied, draws.angle)
        if strength.crop > 0:
            varied = crop(varied, draws.kept, draws.down, draws.across)
        if strength.colour:
            varied = colour_jitter(varied, draws.brightness, draws.contrast, draws.saturation, draws.hue)
        varied = varied.round_().clamp_(0, 255).to(torch.uint8)
    varied = flip(varied, draws.flip)
    return compress(varied, draws) if strength.compression > 0 else varied


def flip(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror images (M, C, H, W) horizontally where ``chosen`` (M,) is True."""
    return torch.where(chosen.view(-1, 1, 1, 1), images.flip(-1), images)


def rotate(images: Tensor, angle: Tensor) -> Tensor:
    """Rotate images about their centre, with bilinear interpolation and reflected corners.

    Args:
        images: (M, C, H, W) floats.
        angle: angles in radians, (M,).

    Returns:
        (M, C, H, W).
    """
    height, width = images.shape[-2:]
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # affine_grid uses coordinates from -1 to 1 on both axes, hence the aspect ratio off the diagonal.
    theta = torch.stack([cos, sin * (height / width), zero, -sin * (width / height), cos, zero], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def crop(images: Tensor, kept: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Crop images at any place, also between pixels, and enlarge them to their size by bilinear interpolation.

    Args:
        images: (M, C, H, W) floats.
        kept: (M,) shares of height and width, in (0, 1].
        down: (M,) in [0, 1], 0 for a crop at the top.
        across: (M,) in [0, 1], 0 for a crop at the left.

    Returns:
        (M, C, H, W).
    """
    zero, y, x = torch.zeros_like(kept), (2 * down - 1) * (1 - kept), (2 * across - 1) * (1 - kept)
    theta = torch.stack([kept, zero, x, zero, kept, y], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def compress(images: Tensor, draws: Draws) -> Tensor:
    """Compress the images with ``draws.compressed`` as JPEG, and decompress them.

    Args:
        images: (M, 1 or 3, H, W) uint8.
        draws: random draws for M images.

    Returns:
        (M, 1 or 3, H, W) uint8.
    """
    result = images.clone()
    for subsampling in (False, True):
        chosen = torch.nonzero(draws.compressed & (draws.subsampled == subsampling)).flatten()
        if len(chosen):
            offset = torch.stack([draws.rows[chosen], draws.columns[chosen]], 1)
            found = jpeg(images[chosen], draws.quality[chosen], offset, subsampling)
            result[chosen] = found.to(torch.uint8)
    return result


def colour_jitter(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """Change brightness, contrast about the mean gray, saturation and hue, as one affine map.

    Args:
        images: (M, 1 or 3, H, W) floats.
        brightness: (M,) factors.
        contrast: (M,) factors.
        saturation: (M,) factors.
        hue: (M,) rotations in radians.

    Returns:
        Images of the same shape, not clamped.
    """
    gain = (brightness * contrast).view(-1, 1, 1)
    if images.shape[1] == 1:
        matrix = gain
        mean_grey = images.mean((1, 2, 3))
    else:
        matrix = gain * _chroma_matrix(saturation, hue)
        mean_grey = images.mean((2, 3)) @ _TO_YIQ[0]
    offset = mean_grey * brightness * (1 - contrast)
    return torch.baddbmm(offset.view(-1, 1, 1), matrix, images.flatten(2)).view_as(images)


def _chroma_matrix(saturation: Tensor, hue: Tensor) -> Tensor:
    """RGB to RGB (M, 3, 3): chroma scaled and rotated, luma unchanged."""
    cos, sin, zero = saturation * hue.cos(), saturation * hue.sin(), torch.zeros_like(hue)
    one = torch.ones_like(hue)
    rotation = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], 1).view(-1, 3, 3)
    matrix: Tensor = _FROM_YIQ @ rotation @ _TO_YIQ
    return matrix
