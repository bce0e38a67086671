"""Checkpoints: written atomically, containing only tensors and plain containers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from fragrecon import files
from fragrecon.errors import RunError


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
    """Load a checkpoint.

    Args:
        path: checkpoint file.
        map_location: device to load tensors to, as in `torch.load`.

    Returns:
        The contents.

    Raises:
        RunError: the file is missing or damaged, or holds more than tensors and plain containers.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise RunError(f"the checkpoint {path} does not exist") from None
    except Exception as error:  # a damaged file may raise anything
        raise RunError(
            f"the checkpoint {path} is damaged, or holds more than weights and plain containers: "
            f"{str(error).partition(chr(10))[0]}"
        ) from None
    return checkpoint
