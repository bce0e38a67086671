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
from fragrecon.runs.write import LAST, METRICS_FILE, WEIGHTS, read_json


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file in its folder and renames it; reads tensors and plain containers only.

    Lightning's default writes to the system's temporary folder; on another disk, a killed process leaves half a file.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint; called by Lightning."""
        with files.atomic_file(Path(path)) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        """Read a checkpoint; called by Lightning."""
        return load_checkpoint(Path(path), map_location)

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint; called by Lightning."""
        Path(path).unlink(missing_ok=True)


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
        checkpoint: dict[str, Any] = files.read_tensors(path, map_location)
    except FileNotFoundError:
        raise RunError(f"the checkpoint {path} does not exist") from None
    except Exception as error:  # a damaged file may raise anything
        again = f"; {typed('init_from', path.parent.parent)} starts a new run from the best weights"
        raise RunError(
            f"the checkpoint {path} is damaged, or holds more than weights and plain containers: "
            f"{str(error).partition(chr(10))[0]}{again if path.name == LAST else ''}"
        ) from None
    return checkpoint


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
    export, content = read_json(metrics, "export")["export"], path.read_bytes()
    try:
        expected, facts = export["sha256"], export["facts"]
        shapes = {key: tuple(facts[key]) for key in ("fragment_shape", "grid")}
        facts = {**shapes, "num_classes": facts["num_classes"]}
    except (KeyError, TypeError) as error:
        raise RunError(f"{metrics} is damaged: its section 'export' is incomplete: {error}") from None
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
