"""Embeddings of user-supplied images, fragments or puzzles.

Shapes: M images (C, H, W), cut into ``cells`` fragments (C, h, w), or M fragments; B puzzles of F fragments; D
dimensions of an embedding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fragrecon.data.photographs import MOST
from fragrecon.data.puzzles import batches, cut
from fragrecon.errors import ConfigError, DataError
from fragrecon.models.base import FragmentModel, Shape

ROUNDING = 1e-3
"""Tolerance for floats outside [0, 1]."""

Embeddings = npt.NDArray[np.float32]


def embeds_puzzles(model: FragmentModel) -> bool:
    """Whether a model embeds the fragments of a puzzle jointly, so that each embedding depends on all of them."""
    return type(model).encode is not FragmentModel.encode


def embed(
    model: FragmentModel, given: Any, image_shape: Shape, *, device: torch.device | str, batch_size: int
) -> Embeddings:
    """Embed user-supplied pixels.

    Args:
        model: model in eval mode, on ``device``.
        given: images (M, C, H, W), fragments (M, C, h, w) or puzzles (B, F, C, h, w), as array or tensor; uint8, or
            floats in [0, 1]. If the model embeds puzzles, all images or all fragments form one puzzle. If the model
            accepts any size, pixels of another size than ``image_shape`` are fragments.
        image_shape: shape (C, H, W) of the run's images.
        device: device to embed on.
        batch_size: fragments per batch; puzzles are not split if the model embeds puzzles.

    Returns:
        Embeddings: (M, cells, D) for images, with the cells of the grid row by row; (M, D) for fragments, and for
        images if a fragment is a whole image; (B, F, D) for puzzles.

    Raises:
        DataError: the pixels have the wrong type, range or shape.
        ConfigError: ``batch_size`` is not positive.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size} should be at least 1")
    pixels = _checked(given)
    fragments = _fragments(pixels, image_shape, model)
    *lead, channels, height, width = fragments.shape
    if not embeds_puzzles(model):
        puzzles = fragments.reshape(-1, 1, channels, height, width)
    elif pixels.ndim == 5:
        puzzles = fragments
    else:
        puzzles = fragments.reshape(1, -1, channels, height, width)
    together = puzzles.shape[1]
    if together > MOST:
        raise DataError(
            f"the model embeds the fragments of a puzzle together, and {together:,} are more than {MOST:,}; "
            "give fewer at a time, or several puzzles (B, F, C, h, w)"
        )
    found = np.empty((len(puzzles), together, model.latent_dim), np.float32)
    with torch.inference_mode():
        for part in batches(len(puzzles), max(1, batch_size // max(1, together))):
            found[part] = model.encode(_as_float(puzzles[part].to(device))).float().cpu().numpy()
    return found.reshape(*lead, model.latent_dim)


def embed_images(
    model: FragmentModel, given: Any, image_shape: Shape, *, device: torch.device | str, batch_size: int
) -> Embeddings:
    """Embed images separately, as the mean of the embeddings of their fragments.

    The arguments are those of `embed`, with images (M, C, H, W).

    Returns:
        Embeddings (M, D).

    Raises:
        DataError: as for `embed`, or the images do not have the shape of the model's.
    """
    pixels, fragment_size = _checked(given), model.fragment_shape[1:]
    if model.any_size and image_shape == model.fragment_shape and pixels.ndim == 4:
        image_shape = image_shape[0], *pixels.shape[2:]
        fragment_size = image_shape[1:]
    if tuple(pixels.shape[1:]) != image_shape:
        raise DataError(f"images should be of shape {('M', *image_shape)}, not {tuple(pixels.shape)}".replace("'", ""))
    fragments = cut(pixels, fragment_size)  # (M, cells, C, h, w)
    found: Embeddings = embed(model, fragments, image_shape, device=device, batch_size=batch_size).mean(1)
    return found


def _checked(given: Any) -> Tensor:
    """Convert pixels to a tensor and check their type and range."""
    if isinstance(given, Tensor):
        pixels = given.detach()
    elif isinstance(given, np.ndarray) and (given.dtype.kind == "f" or given.dtype == np.uint8):
        kind = np.float32 if given.dtype.kind == "f" else np.uint8
        pixels = torch.from_numpy(np.require(given, kind, ["C", "W"]))  # torch cannot share read-only memory
    else:
        found = f"an array of {given.dtype}" if isinstance(given, np.ndarray) else type(given).__name__
        raise DataError(f"pixels should be a NumPy array or a tensor of uint8, or of floats in 0..1, not {found}")
    if pixels.dtype != torch.uint8:
        if not pixels.is_floating_point():
            raise DataError(f"pixels should be uint8, or floats in 0..1, not {pixels.dtype}".replace("torch.", ""))
        if pixels.numel():
            least, most = (float(bound) for bound in torch.aminmax(pixels))
            if not (least >= -ROUNDING and most <= 1 + ROUNDING):  # also false for NaN
                raise DataError(
                    f"pixels that are floats should lie in 0..1, these reach from {least:g} to {most:g}; "
                    "divide them by 255, undo a normalisation, or give uint8"
                )
    return pixels


def _fragments(pixels: Tensor, image: Shape, model: FragmentModel) -> Tensor:
    """Cut images (M, C, H, W) into fragments (M, cells, C, h, w); return fragments and puzzles as they are."""
    shape, fragment = tuple(pixels.shape), model.fragment_shape
    if shape[-3:] == fragment and len(shape) in (4, 5):
        return pixels
    if shape[-3:] == image and len(shape) == 4:
        return cut(pixels, fragment[1:])
    if model.any_size and shape[-3:-2] == fragment[:1] and len(shape) in (4, 5):
        return pixels
    message = (
        f"these pixels are of shape {shape}; they should be images {('M', *image)}, fragments {('M', *fragment)} "
        f"or puzzles {('B', 'F', *fragment)}"
    ).replace("'", "")
    if shape in (image, fragment):
        message += "; put a single one into a batch: x[None]"
    elif len(shape) in (4, 5) and (shape[-1], *shape[-3:-1]) in (image, fragment):
        message += f"; move the channels first: numpy.moveaxis(x, -1, {len(shape) - 3})"
    raise DataError(message)


def _as_float(pixels: Tensor) -> Tensor:
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float().clamp(0, 1)
