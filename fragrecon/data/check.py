"""Compare all pixels of stores with the digests that were written with them.

python -m fragrecon.data.check FOLDER     # a store, or a folder that contains stores, such as data.cache_dir
"""

from __future__ import annotations

import sys
from pathlib import Path

from fragrecon.data.store import MANIFEST, open_store
from fragrecon.errors import DataError


def main(folder: Path) -> int:
    """Check all stores in a folder, and print the result of each.

    Args:
        folder: folder of a store, or a folder that contains stores.

    Returns:
        Number of damaged stores.

    Raises:
        DataError: the folder contains no store.
    """
    manifests = sorted(folder.rglob(MANIFEST))
    if not manifests:
        raise DataError(f"{folder} contains no converted images: no {MANIFEST}")
    damaged = 0
    for manifest in manifests:
        try:
            store = open_store(manifest.parent, thorough=True)
            print(f"{manifest.parent}: {len(store)} images, as they were written")
        except DataError as error:
            damaged += 1
            print(error)
    return damaged


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m fragrecon.data.check FOLDER")
    try:
        sys.exit(main(Path(sys.argv[1])) > 0)
    except DataError as error:
        sys.exit(f"error: {error}")
