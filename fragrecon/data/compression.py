"""JPEG compression of batches of images, as tensors.

Images that are stored as JPEG at the size at which they are cut show where fragments were neighbours: 2x2 pixels share
a chroma value, and decoders interpolate between them, so that the colours at the border of a fragment contain those of
its neighbour. Compressing training images again, on a grid that differs from the fragments', keeps models
from relying on this.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 16
"""Side, in pixels, of the squares that are compressed independently: 8x8 chroma values at half resolution."""

# Annex K of the JPEG standard (ITU-T T.81), for quality 50.
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
# RGB to luma and chroma (JFIF, ITU-T T.871).
_TO_YCC = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
_FROM_YCC = torch.linalg.inv(_TO_YCC)


def jpeg(images: Tensor, quality: Tensor, offset: Tensor, subsampling: bool = True) -> Tensor:
    """Compress and decompress images as a JPEG codec would.

    Args:
        images: (M, 3 or 1, H, W), values in 0..255.
        quality: (M,) in 1..100, on the scale of libjpeg.
        offset: (M, 2), rows and columns, 0..15, by which the grid of compressed squares is shifted up and left.
        subsampling: whether chroma is stored at half resolution.

    Returns:
        (M, 3 or 1, H, W), float32, whole numbers in 0..255.

    Source: ITU-T T.81; the scale of quality and the triangle filter for chroma are those of libjpeg.

    Example:
        >>> grey = torch.full((1, 3, 16, 16), 128.0)
        >>> jpeg(grey, torch.tensor([75]), torch.zeros(1, 2, dtype=torch.int64)).unique()
        tensor([128.])
    """
    count, channels, height, width = images.shape
    rows, columns = (_shifted(length, shift) for length, shift in zip((height, width), offset.unbind(1), strict=True))
    one = torch.arange(count, device=images.device).view(-1, 1, 1)
    # Indexing with the channels last: (M, rows, columns, C).
    shifted = images.float().movedim(1, -1)[
        one, rows.clamp(0, height - 1).unsqueeze(2), columns.clamp(0, width - 1).unsqueeze(1)
    ]
    if channels == 1:
        planes = _quantise(shifted.movedim(-1, 1) - 128, _LUMA, quality) + 128
    else:
        ycc = (shifted @ _TO_YCC.to(images.device).mT).round().movedim(-1, 1)
        luma = _quantise(ycc[:, :1] - 128, _LUMA, quality) + 128
        chroma = _quantise(F.avg_pool2d(ycc[:, 1:], 2).round() if subsampling else ycc[:, 1:], _CHROMA, quality)
        if subsampling:
            chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
        planes = (torch.cat([luma, chroma], 1).movedim(1, -1) @ _FROM_YCC.to(images.device).mT).movedim(-1, 1)
    inside_rows = torch.arange(height, device=images.device) + offset[:, :1]
    inside_columns = torch.arange(width, device=images.device) + offset[:, 1:]
    found = planes.movedim(1, -1)[one, inside_rows.unsqueeze(2), inside_columns.unsqueeze(1)]
    return found.movedim(-1, 1).round().clamp(0, 255)


def _shifted(length: int, shift: Tensor) -> Tensor:
    """Positions in the image, (M, L), of the rows or columns of the shifted grid; they may lie outside of it."""
    padded = BLOCK * math.ceil(length / BLOCK) + BLOCK
    return torch.arange(padded, device=shift.device) - shift.unsqueeze(1)


def _quantise(planes: Tensor, table: tuple[tuple[int, ...], ...], quality: Tensor) -> Tensor:
    """Quantise and dequantise the DCT coefficients of 8x8 blocks of planes (M, C, H, W); return the decoded planes."""
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality).float().view(-1, 1, 1)
    steps = (
        ((torch.tensor(table, device=planes.device) * scale + 50) / 100).floor().clamp(1, 255).view(-1, 1, 1, 1, 8, 8)
    )
    basis = _cosines().to(planes.device)
    count, channels, height, width = planes.shape
    blocks = planes.reshape(count, channels, height // 8, 8, width // 8, 8).transpose(-2, -3)
    coefficients = basis @ blocks @ basis.mT
    restored: Tensor = basis.mT @ ((coefficients / steps).round() * steps) @ basis
    return restored.round().transpose(-2, -3).reshape(planes.shape)


def _cosines() -> Tensor:
    """The orthonormal 8-point cosine transform, (8, 8)."""
    frequency, place = torch.arange(8.0).unsqueeze(1), torch.arange(8.0)
    basis = torch.cos(math.pi / 8 * (place + 0.5) * frequency) / 2
    basis[0] /= math.sqrt(2)
    return basis
