"""Images of any pixel format as RGB of 8 bits, and as arrays of one size."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps


def to_rgb(file: Image.Image) -> tuple[Image.Image, bool]:
    """Decode an image: apply its EXIF orientation, blend with white, and reduce it to RGB of 8 bits.

    Args:
        file: the opened file; nothing is decoded yet.

    Returns:
        The image, and whether its values have 16 bits of which they use at most the lower 12.

    Raises:
        ValueError: the range of the pixel values is not known.
    """
    _scale_transparency(file)
    picture = ImageOps.exif_transpose(file)
    dark, clear = False, picture.info.get("transparency")
    if picture.mode == "I" and file.format not in ("PNG", "PPM"):  # those have 16 bits; Pillow scales the latter to it
        raise ValueError(
            "integer pixels of 32 bits or with a sign, whose range is not known; save it with 8 or 16 bits"
        )
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        values = np.asarray(picture)
        dark = 0 < values.max() <= 0xFFF
        grey = (values >> 8).astype(np.uint8)
        picture = Image.fromarray(grey if clear is None else np.where(values == clear, np.uint8(0xFF), grey))
    elif picture.mode == "F":
        raise ValueError("floating-point pixels, whose range is not known")
    elif picture.mode in ("RGBA", "RGBa", "LA", "PA") or clear is not None:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB"), bool(dark)


def to_pixels(picture: Image.Image, shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """Convert a picture in memory like a file.

    Args:
        picture: picture of any mode that Pillow converts to RGB.
        shape: (C, H, W), with C 1 for gray and 3 for RGB.

    Returns:
        uint8 (C, H, W).
    """
    return fitted(to_rgb(picture)[0], shape)


def fitted(picture: Image.Image, shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """Crop and scale an RGB picture, and convert it to an array (C, H, W)."""
    channels, height, width = shape
    if picture.size != (width, height):
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.BOX)
    if channels == 1:
        picture = picture.convert("L")
    pixels = np.asarray(picture, np.uint8).reshape(height, width, channels)
    return np.array(pixels.transpose(2, 0, 1), order="C")  # a copy, because Pillow's pixels are read-only


def _scale_transparency(file: Image.Image) -> None:
    """Scale the transparent value of a PNG that is about to be decoded as Pillow scales its pixels, to 8 bits."""
    tiles: list[tuple[Any, ...]] = vars(file)["tile"] if file.format == "PNG" else []
    clear, raw = file.info.get("transparency"), tiles[0][3] if tiles else None
    if raw == "RGB;16B" and isinstance(clear, tuple):
        file.info["transparency"] = tuple(value >> 8 for value in clear)
    elif raw in (scales := {"L;2": 0x55, "L;4": 0x11}) and isinstance(clear, int):
        file.info["transparency"] = clear * scales[raw]
