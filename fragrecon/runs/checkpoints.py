"""Checkpoints that are whole or not there, and hold weights and plain containers only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from fragrecon import files
from fragrecon.errors import RunError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it; reads weights and plain containers only.

    Lightning's own goes through the folder for temporary files, and where that is another disk a kill leaves half a
    file.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with files.atomic_file(Path(path)) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        return load_checkpoint(Path(path), map_location)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def load_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """The contents of a checkpoint.

    Raises:
        RunError: it is damaged, or holds more than weights and plain containers.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise RunError(f"the checkpoint {path} is not there") from None
    except Exception as error:  # torch hands on whatever a damaged file leads it to
        raise RunError(
            f"the checkpoint {path} is damaged, or holds more than weights and plain containers: "
            f"{str(error).partition(chr(10))[0]}"
        ) from None
    return checkpoint
