"""Hardware of the machine, and the precision used on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fragrecon.errors import ConfigError

if TYPE_CHECKING:
    from fragrecon.config.schema import TrainerConfig


def device_of(trainer: TrainerConfig) -> torch.device:
    """Return the device of a single process.

    Args:
        trainer: settings of the trainer.

    Returns:
        The device.

    Raises:
        ConfigError: the machine has no such device.
    """
    accelerator = str(trainer.accelerator)
    wanted = {"gpu": ("cuda", "mps"), "auto": ("cuda", "mps", "cpu")}.get(accelerator, (accelerator,))
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    for device in wanted:
        if there.get(device):
            return torch.device(device)
    raise ConfigError(
        f"trainer.accelerator={accelerator} is not available on this machine or in this build of torch; "
        "use trainer=cpu, or trainer=auto for a GPU where there is one"
    )


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device has bfloat16 units; emulation would be slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def precision_of(trainer: TrainerConfig) -> str:
    """Precision in Lightning's terms; ``auto`` is bfloat16 if the device has units for it, else float32."""
    precision = str(trainer.precision)
    if precision != "auto":
        return precision
    return "bf16-mixed" if has_bfloat16(device_of(trainer)) else "32-true"


def describe(trainer: TrainerConfig) -> str:
    """One line on device and precision, for the log."""
    device = device_of(trainer)
    threads = torch.get_num_threads()
    processor = f"{device.type}, {threads} thread{'s' if threads > 1 else ''}"
    name = torch.cuda.get_device_name() if device.type == "cuda" else processor
    arithmetic = "bfloat16 autocast" if precision_of(trainer) == "bf16-mixed" else precision_of(trainer)
    has = "has" if has_bfloat16(device) else "has no"
    return f"{name}; it {has} bfloat16 units; training in {arithmetic}, embeddings for scores in float32"
