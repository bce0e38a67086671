"""Gathers photographs of another source than the training images: those that Python packages ship as samples.

    pip install scikit-image
    python experiments/photographs.py FOLDER
    python -m fragrecon.run mode=evaluate run=RUN data=folder data.root=FOLDER/scenes evaluation.puzzles=200

Writes the four quarters of each photograph's largest centred square, which show other things, into FOLDER/scenes/test,
or into FOLDER/textures/test where one half of the photograph looks like the other; and the squares themselves into
FOLDER/whole/test, for mode=reassemble. All are larger than 64x64 pixels, to which they are then scaled.
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
    for kind in ("whole", "scenes", "textures"):
        print(f"{len(list((folder / kind / 'test').iterdir()))} images in {folder / kind}")


def gather(path: Path, kind: str, folder: Path) -> None:
    """Write the square and its quarters."""
    with Image.open(path) as file:
        square = ImageOps.fit(file.convert("RGB"), (min(file.size),) * 2)
    half = square.width // 2
    boxes = [(x, y, x + half, y + half) for y in (0, half) for x in (0, half)]
    for name, pictures in (("whole", [square]), (kind, [square.crop(box) for box in boxes])):
        (folder / name / "test").mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(pictures):
            picture.save(folder / name / "test" / f"{path.stem}-{number}.png")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python experiments/photographs.py FOLDER")
    main(Path(sys.argv[1]))
