"""Named sizes of the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fragrecon.errors import ConfigError, nearest
from fragrecon.models.cnn_v3.network import AutoEncoderCNNV3


def _stages(blocks: str, channels: tuple[int, ...], strides: tuple[int, ...]) -> dict[str, Any]:
    return {"block_config": blocks.split(), "channel_config": channels, "stride_config": strides}


PRESETS = {
    "tiny": {"latent_size": 128, **_stages("resnet resnet", (64, 36), (4, 2))},
    "small": {"latent_size": 512, **_stages("resnet resnext", (64, 96), (4, 1))},
    "medium": {"latent_size": 2048, **_stages("resnet resnext", (64, 128), (4, 1))},
    "large": {"latent_size": 8192, **_stages("resnet resnext", (64, 128), (4, 1))},
}
"""Arguments of `AutoEncoderCNNV3` by preset."""

SPATIAL = {
    "medium": _stages("resnet resnext", (32, 64), (2, 1)),
    "large": _stages("resnet resnet", (16, 16), (1, 1)),
}
"""Arguments that differ with the spatial strategy."""


def create_autoencoder(
    preset: str = "small", input_size: Sequence[int] = (201, 201), **overrides: Any
) -> AutoEncoderCNNV3:
    """Create a network from a preset: tiny (128 latents), small (512), medium (2,048) or large (8,192).

    With the ``conv`` strategy, the presets have about 0.5, 2, 8 and 32 million parameters. The latents of large are
    computed from the 2,048 values of its cells, so they contain no more information than these. With the ``spatial``
    strategy there are no wide linear layers and far fewer parameters. Attention is on unless overridden.

    Args:
        preset: Name of the preset.
        input_size: Default output (height, width).
        overrides: Further arguments of `AutoEncoderCNNV3`, which override the preset.

    Returns:
        The untrained network.

    Raises:
        ConfigError: The preset is unknown, or an argument is invalid.
    """
    if preset not in PRESETS:
        raise ConfigError(f"preset '{preset}' is not known{nearest(preset, PRESETS)}")
    spatial = SPATIAL.get(preset, {}) if overrides.get("latent_strategy") == "spatial" else {}
    return AutoEncoderCNNV3(**(PRESETS[preset] | spatial | {"input_size": input_size} | overrides))
