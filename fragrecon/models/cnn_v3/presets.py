"""Named sizes of the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fragrecon.errors import ConfigError, nearest
from fragrecon.models.cnn_v3.network import AutoEncoderCNNV3


@dataclass(frozen=True)
class Stages:
    """The stages of `AutoEncoderCNNV3`, named as its arguments are."""

    block_config: tuple[str, ...]
    channel_config: tuple[int, ...]
    stride_config: tuple[int, ...]


@dataclass(frozen=True)
class Preset:
    """Number of latents and stages for each latent strategy; ``spatial=None`` uses the stages of ``conv``."""

    latent_size: int
    conv: Stages
    spatial: Stages | None = None


PRESETS = {
    "tiny": Preset(128, Stages(("resnet", "resnet"), (64, 36), (4, 2))),
    "small": Preset(512, Stages(("resnet", "resnext"), (64, 96), (4, 1))),
    "medium": Preset(
        2048,
        Stages(("resnet", "resnext"), (64, 128), (4, 1)),
        Stages(("resnet", "resnext"), (32, 64), (2, 1)),
    ),
    "large": Preset(
        8192,
        Stages(("resnet", "resnext"), (64, 128), (4, 1)),
        Stages(("resnet", "resnet"), (16, 16), (1, 1)),
    ),
}


def create_autoencoder(
    preset: str = "small", input_size: Sequence[int] = (201, 201), **overrides: Any
) -> AutoEncoderCNNV3:
    """Create a network from a preset: tiny (128 latents), small (512), medium (2,048) or large (8,192).

    With the ``conv`` strategy, the presets have about 0.5, 2, 8 and 32 million parameters. The latents of large are
    computed from the 2,048 values of its cells, so they hold no more information than these. With the ``spatial``
    strategy there are no wide linear layers and far fewer parameters. Attention is on unless overridden.

    Args:
        preset: Name of the preset.
        input_size: (height, width) that is decoded to by default.
        overrides: Other arguments of `AutoEncoderCNNV3`; these replace the preset's.

    Returns:
        The untrained network.

    Raises:
        ConfigError: The preset is unknown, or an argument is invalid.
    """
    if preset not in PRESETS:
        raise ConfigError(f"preset '{preset}' is not known{nearest(preset, PRESETS)}")
    chosen = PRESETS[preset]
    spatial = overrides.get("latent_strategy") == "spatial"
    stages = (chosen.spatial if spatial else None) or chosen.conv
    settings = {"latent_size": chosen.latent_size, "input_size": input_size, **asdict(stages)}
    return AutoEncoderCNNV3(**(settings | overrides))
