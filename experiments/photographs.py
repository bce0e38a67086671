"""Collect photographs from another source than the training images: the samples that Python packages ship.

    pip install scikit-image
    python experiments/photographs.py FOLDER
    python -m fragrecon.run mode=evaluate run=RUN data=folder data.root=FOLDER/scenes data.images_per_puzzle=5

Writes the largest centred square of each photograph to FOLDER/scenes/test, or to FOLDER/textures/test if its halves
look alike. The quarters of a scene's square go to FOLDER/quarters-0/test to FOLDER/quarters-3/test, so that no puzzle
holds two adjacent ones. All are larger than the 64x64 pixels that they are scaled to later.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageOps

PHOTOGRAPHS = {
    "skimage": {
        "scenes": [
            *(f"data/{name}.png" for name in ("astronaut", "camera", "chelsea", "coffee", "motorcycle_left")),
            *(f"data/{name}.jpg" for name in ("retina", "rocket")),
        ],
        "textures": [
            *(f"data/{name}.png" for name in ("brick", "coins", "grass", "gravel", "ihc", "moon")),
            "data/hubble_deep_field.jpg",
        ],
    },
    "sklearn": {"scenes": ["datasets/images/china.jpg", "datasets/images/flower.jpg"]},
    "matplotlib": {"scenes": ["mpl-data/sample_data/grace_hopper.jpg"]},
}


def main(folder: Path) -> None:
    for package, kinds in PHOTOGRAPHS.items():
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            sys.exit(f"{package} is not installed: pip install scikit-image")
        for kind, names in kinds.items():
            for name in names:
                gather(Path(spec.origin).parent / name, kind, folder)
    for found in sorted(folder.iterdir()):
        print(f"{len(list((found / 'test').iterdir()))} images in {found}")


def gather(path: Path, kind: str, folder: Path) -> None:
    """Write the square and, of a scene, its quarters."""
    with Image.open(path) as file:
        square = ImageOps.fit(file.convert("RGB"), (min(file.size),) * 2)
    pictures = {kind: square}
    if kind == "scenes":
        half = square.width // 2
        corners = [(x, y) for y in (0, half) for x in (0, half)]
        pictures |= {f"quarters-{i}": square.crop((x, y, x + half, y + half)) for i, (x, y) in enumerate(corners)}
    for name, picture in pictures.items():
        (folder / name / "test").mkdir(parents=True, exist_ok=True)
        picture.save(folder / name / "test" / f"{path.stem}.png")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python experiments/photographs.py FOLDER")
    main(Path(sys.argv[1]))
