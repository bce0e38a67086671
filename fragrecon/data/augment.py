"""Augmentations of whole images, for a batch at once, before they are cut: fragments of one image stay consistent.

The draws are made apart from their use, so that processes that share a batch can draw for all of it and treat their
part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Luma and chroma of NTSC: saturation scales the chroma plane, hue rotates it.
_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = torch.linalg.inv(_TO_YIQ)


@dataclass(frozen=True)
class Augmentation:
    """How strongly training images are varied; 0 switches a part off.

    Attributes:
        horizontal_flip: probability.
        rotation: greatest angle, in degrees, either way.
        brightness, contrast, saturation: greatest relative change; factors are uniform in 1 - s .. 1 + s.
        hue: greatest rotation of the hue, as a share of the full circle, either way.
    """

    horizontal_flip: float = 0.5
    rotation: float = 10.0
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.0

    @property
    def colour(self) -> bool:
        return max(self.brightness, self.contrast, self.saturation, self.hue) > 0


@dataclass(frozen=True)
class Draws:
    """What was drawn for each of M images: all of shape (M,)."""

    flip: Tensor
    angle: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor

    def __getitem__(self, part: slice) -> Draws:
        return Draws(**{name: value[part] for name, value in vars(self).items()})


def draw(count: int, strength: Augmentation, generator: torch.Generator) -> Draws:
    """Draw the variation of ``count`` images; a part that is switched off still consumes its numbers."""
    uniform = torch.rand(6, count, generator=generator)
    signed = uniform * 2 - 1
    return Draws(
        flip=uniform[0] < strength.horizontal_flip,
        angle=signed[1] * math.radians(strength.rotation),
        brightness=1 + signed[2] * strength.brightness,
        contrast=1 + signed[3] * strength.contrast,
        saturation=1 + signed[4] * strength.saturation,
        hue=signed[5] * strength.hue * 2 * math.pi,
    )


def apply(images: Tensor, draws: Draws, strength: Augmentation) -> Tensor:
    """Vary images (M, C, H, W) uint8 as drawn; the result is uint8 again."""
    if strength.rotation == 0 and not strength.colour:
        return flip(images, draws.flip)
    varied = images.float()
    if strength.rotation > 0:
        varied = rotate(varied, draws.angle)
    if strength.colour:
        varied = colour_jitter(varied, draws)
    return flip(varied.round_().clamp_(0, 255).to(torch.uint8), draws.flip)


def flip(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror the chosen (M,) of images (M, C, H, W) left to right."""
    return torch.where(chosen.view(-1, 1, 1, 1), images.flip(-1), images)


def rotate(images: Tensor, angle: Tensor) -> Tensor:
    """Turn float images (M, C, H, W) by ``angle`` (M,) radians about their centre, bilinear, corners filled by
    reflection.
    """
    height, width = images.shape[-2:]
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # affine_grid works in coordinates from -1 to 1 on both axes, so the sides' ratio enters off the diagonal.
    theta = torch.stack([cos, sin * (height / width), zero, -sin * (width / height), cos, zero], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def colour_jitter(images: Tensor, draws: Draws) -> Tensor:
    """Brightness, contrast about the mean grey, saturation and hue of float images (M, 1 or 3, H, W), as one affine
    map.
    """
    gain = (draws.brightness * draws.contrast).view(-1, 1, 1)
    if images.shape[1] == 1:
        matrix = gain
        mean_grey = images.mean((1, 2, 3))
    else:
        matrix = gain * _chroma_matrix(draws.saturation, draws.hue)
        mean_grey = images.mean((2, 3)) @ _TO_YIQ[0]
    offset = mean_grey * draws.brightness * (1 - draws.contrast)
    return torch.baddbmm(offset.view(-1, 1, 1), matrix, images.flatten(2)).view_as(images)


def _chroma_matrix(saturation: Tensor, hue: Tensor) -> Tensor:
    """RGB to RGB (M, 3, 3): chroma scaled and turned, luma kept."""
    cos, sin, zero = saturation * hue.cos(), saturation * hue.sin(), torch.zeros_like(hue)
    one = torch.ones_like(hue)
    turn = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], 1).view(-1, 3, 3)
    matrix: Tensor = _FROM_YIQ @ turn @ _TO_YIQ
    return matrix
