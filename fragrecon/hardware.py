"""What the machine has, and which arithmetic training uses on it."""

from __future__ import annotations

from typing import Any

import torch


def device_of(trainer: dict[str, Any]) -> torch.device:
    """Where a single process evaluates, under these settings of the trainer."""
    accelerator = trainer["accelerator"]
    if accelerator == "mps" or (accelerator == "auto" and torch.backends.mps.is_available()):
        return torch.device("mps")
    if accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available()):
        return torch.device("cuda")
    return torch.device("cpu")


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 by units of its own, rather than by emulation that would be slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def precision_of(trainer: dict[str, Any]) -> str:
    """Lightning's name of the arithmetic: ``auto`` is bfloat16 where the device has it, else float32."""
    precision = str(trainer["precision"])
    if precision != "auto":
        return precision
    return "bf16-mixed" if has_bfloat16(device_of(trainer)) else "32-true"


def describe(trainer: dict[str, Any]) -> str:
    """One line on device and arithmetic, for the log."""
    device = device_of(trainer)
    name = (
        torch.cuda.get_device_name() if device.type == "cuda" else f"{device.type}, {torch.get_num_threads()} threads"
    )
    arithmetic = "bfloat16 autocast" if precision_of(trainer) == "bf16-mixed" else precision_of(trainer)
    has = "has" if has_bfloat16(device) else "has no"
    return f"{name}; it {has} bfloat16 units; training in {arithmetic}, embeddings for scores in float32"
