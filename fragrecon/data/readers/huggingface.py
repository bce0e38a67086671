"""Data sets that `datasets` of Hugging Face saved with ``save_to_disk``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from fragrecon.data.readers.images import root_folder
from fragrecon.data.readers.parquet import NAMES
from fragrecon.data.store import Split
from fragrecon.errors import DataError


class SavedDataset(Dataset[Any]):
    """A split of a saved data set, with the columns ``image`` (or ``img``) and, optionally, ``label``.

    Args:
        root: the folder.
        split: ``train``, or ``test``, which may also be called ``validation``.

    Attributes:
        classes: names of the classes, if known.

    Raises:
        DataError: `datasets` is not installed, or the folder holds no such split.
    """

    def __init__(self, root: str | Path | None, split: Split) -> None:
        folder = root_folder(root)
        try:
            import datasets
        except ImportError as error:
            raise DataError(
                f'data=huggingface needs the extra: pip install "fragrecon[huggingface]" ({error})'
            ) from None
        try:
            saved = datasets.load_from_disk(str(folder))
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{folder} is not a data set that save_to_disk wrote ({error})") from None
        found = [name for name in NAMES[split] if isinstance(saved, datasets.DatasetDict) and name in saved]
        if not found:
            held = ", ".join(saved) if isinstance(saved, datasets.DatasetDict) else "a single part"
            raise DataError(f"{folder} holds no split {' or '.join(NAMES[split])}, but {held}; save a DatasetDict")
        self.rows = saved[found[0]]
        self.classes = getattr(self.rows.features.get("label"), "names", None)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]
