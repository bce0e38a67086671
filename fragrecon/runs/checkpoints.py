"""Checkpoints: written atomically, containing only tensors and plain containers; and the weights of exports."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from safetensors import SafetensorError
from torch import Tensor, nn

from fragrecon import files
from fragrecon.errors import RunError, typed
from fragrecon.runs.contents import check_facts, read_export
from fragrecon.runs.write import LAST, METRICS_FILE, WEIGHTS

RESUMED = ("epoch", "global_step", "epochs", "loops", "callbacks", "optimizer_states", "lr_schedulers")
"""Keys of a checkpoint that resuming needs, besides the weights."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file in its folder and renames it; reads tensors and plain containers only.

    Lightning's default writes to the system's temporary folder; on another disk, a killed process leaves half a file.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint; called by Lightning."""
        with files.atomic_file(Path(path)) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        """Read a checkpoint to resume from; called by Lightning. Raises `RunError` if it holds only weights."""
        checkpoint = load_checkpoint(Path(path), map_location)
        if missing := [key for key in RESUMED if key not in checkpoint]:
            raise RunError(f"{path} is not a checkpoint to resume from: it holds no '{missing[0]}'")
        return checkpoint


def load_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Load a checkpoint, or the weights of an export.

    Args:
        path: checkpoint file, or ``model.safetensors``, which is loaded to the CPU.
        map_location: device to load tensors to, as in `torch.load`.

    Returns:
        The contents; of an export, ``state_dict`` and ``facts``.

    Raises:
        RunError: the file is missing or damaged, or holds more than tensors and plain containers.
    """
    if path.name == WEIGHTS:
        return _load_weights(path)
    try:
        checkpoint = files.read_tensors(path, map_location)
    except FileNotFoundError:
        raise RunError(f"the checkpoint {path} does not exist") from None
    except Exception as error:  # a damaged file may raise anything
        again = f"; {typed('init_from', path.parent.parent)} starts a new run from the best weights"
        raise RunError(
            f"the checkpoint {path} is damaged, or holds more than weights and plain containers: "
            f"{str(error).partition(chr(10))[0]}{again if path.name == LAST else ''}"
        ) from None
    if missing := [key for key in ("state_dict", "facts") if not isinstance(checkpoint, dict) or key not in checkpoint]:
        raise RunError(f"{path} is not a checkpoint of a run: it holds no '{missing[0]}'")
    weights = checkpoint["state_dict"]
    if not isinstance(weights, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in weights.items()
    ):
        raise RunError(f"{path} is not a checkpoint of a run: its 'state_dict' should hold tensors by name")
    return {**checkpoint, "facts": check_facts(path, checkpoint["facts"])}


def half_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights and buffers of a model for an export.

    Args:
        model: model on the CPU.

    Returns:
        Copies by name: floating-point tensors as float16, unless that would overflow; others as they are.
    """
    return {name: _half(value).clone().contiguous() for name, value in model.state_dict().items()}


def _half(value: Tensor) -> Tensor:
    half = value.half() if value.is_floating_point() else value
    return half if torch.equal(half.isfinite(), value.isfinite()) else value


def save_weights(path: Path, weights: dict[str, Tensor]) -> str:
    """Write weights as a safetensors file.

    Args:
        path: path of the file.
        weights: result of `half_weights`.

    Returns:
        The SHA-256 of the file, which ``metrics.json`` of the export has to state.
    """
    with files.atomic_file(path) as file:
        file.write(safetensors.torch.save(weights, {"format": "pt"}))
    return files.file_digest(path)


def _load_weights(path: Path) -> dict[str, Any]:
    """Load the weights of an export, in the form of a checkpoint, after comparing their hash with ``metrics.json``."""
    metrics = path.parent / METRICS_FILE
    export, content = read_export(metrics), path.read_bytes()
    expected, facts = export["sha256"], check_facts(metrics, export["facts"])
    if (found := hashlib.sha256(content).hexdigest()) != expected:
        raise RunError(
            f"{path} is damaged: its SHA-256 is {found}, but {METRICS_FILE} states {expected}; "
            "get the folder again, or repeat mode=export"
        )
    try:
        weights = safetensors.torch.load(content)
    except SafetensorError as error:
        raise RunError(f"{path} is not a safetensors file: {error}") from None
    return {"state_dict": {f"model.{name}": value for name, value in weights.items()}, "facts": facts}
