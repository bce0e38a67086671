"""Crop the sample photographs that Python packages ship, for autoencoders of larger images.

    pip install scikit-image
    python experiments/crops.py FOLDER 201 201
    python -m fragrecon.run experiment=crops model=cnn_v3_tiny data.root=FOLDER

Writes grey crops of the given size to FOLDER/train and FOLDER/test; the two come from different photographs. Place,
scale and mirroring of a crop are random, with a fixed seed. A photograph smaller than a crop is enlarged.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

PARTS = {
    "train": [
        *(f"skimage/data/{name}.png" for name in ("astronaut", "brick", "chelsea", "coins", "grass", "gravel", "ihc")),
        *(f"skimage/data/{name}" for name in ("hubble_deep_field.jpg", "motorcycle_left.png", "retina.jpg")),
        "skimage/data/rocket.jpg",
        "sklearn/datasets/images/china.jpg",
    ],
    "test": ["skimage/data/camera.png", "skimage/data/coffee.png", "sklearn/datasets/images/flower.jpg"],
}
SMALLEST = 0.4
"""Smallest scale of a photograph, unless it has to be enlarged."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("height", type=int)
    parser.add_argument("width", type=int)
    parser.add_argument("--train", type=int, default=1200, help="crops for training")
    parser.add_argument("--test", type=int, default=96, help="crops for testing")
    given = parser.parse_args()
    for part, count in (("train", given.train), ("test", given.test)):
        cut(part, count, (given.width, given.height), given.folder / part)
        print(f"{count} crops of {given.height}x{given.width} in {given.folder / part}")


def cut(part: str, count: int, size: tuple[int, int], folder: Path) -> None:
    """Write crops of the photographs of a part, one photograph after another."""
    photographs = [photograph(name) for name in PARTS[part]]
    drawn = np.random.default_rng([*size, part == "test"])
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image = photographs[number % len(photographs)]
        least = max(size[0] / image.width, size[1] / image.height)
        low, high = max(least, SMALLEST), max(1.0, 1.5 * least)
        width, height = (side / low * (low / high) ** drawn.uniform() for side in size)
        x, y = drawn.uniform(0, image.width - width), drawn.uniform(0, image.height - height)
        finer = width >= size[0]
        crop = image.resize(
            size, Image.Resampling.BOX if finer else Image.Resampling.BICUBIC, (x, y, x + width, y + height)
        )
        (ImageOps.mirror(crop) if drawn.random() < 0.5 else crop).save(folder / f"{number:05}.png")


def photograph(name: str) -> Image.Image:
    package, _, path = name.partition("/")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{package} is not installed: pip install scikit-image scikit-learn")
    with Image.open(Path(spec.origin).parent / path) as file:
        return file.convert("L")


if __name__ == "__main__":
    main()
