"""Draw crops that are downsampled and enlarged beside what the runs of ``cnn_v3.py`` decode.

    python experiments/decoded.py FOLDER

Reads crops for testing in FOLDER and the runs in ``multirun/cnn_v3/``; writes ``figures/cnn_v3_SIZE.png``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cnn_v3
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.nn import functional

from fragrecon.evaluation.pixels.reconstruction import downsampled_size
from fragrecon.models.base import Decoder
from fragrecon.report.figures.plotting import save
from fragrecon.runs.read import load_run

HERE = Path(__file__).resolve().parent
NETWORKS = ("tiny", "small", "medium", "large_spatial")
SHOWN = {"201": (1, 2), "1280": (4,)}
"""Numbers of the crops that are drawn, by size."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="of the crops, as given to cnn_v3.py")
    folder = parser.parse_args().folder
    for size, numbers in SHOWN.items():
        paths = [folder / size / "test" / f"{number:05}.png" for number in numbers]
        images = torch.stack([torch.from_numpy(np.array(Image.open(path))) for path in paths]).unsqueeze(1) / 255
        found = {network: both(images, cnn_v3.RUNS / f"{network}_{size}") for network in NETWORKS}
        figure = across(images, found) if images.shape[3] < 2 * images.shape[2] else down(images, found)
        save(figure, HERE / "figures" / f"cnn_v3_{size}.png")


@torch.inference_mode()
def both(images: Tensor, folder: Path) -> tuple[int, Tensor, Tensor]:
    """Return a run's latent dimensions, images (B, 1, H, W) downsampled to as many values, and images decoded."""
    model = load_run(folder).load_model()
    assert isinstance(model, Decoder)
    size = (images.shape[2], images.shape[3])
    small = functional.interpolate(images, downsampled_size(model.latent_dim, images.shape), mode="area")
    enlarged = functional.interpolate(small, size, mode="bicubic")
    return model.latent_dim, enlarged, model.decode(model.encode(images.unsqueeze(1)), size).squeeze(1)


def across(images: Tensor, found: dict[str, tuple[int, Tensor, Tensor]]) -> Figure:
    """A column a network; for each image a row downsampled and a row decoded."""
    figure = Figure(figsize=(9.0, 3.9 * len(images)), dpi=110, layout="constrained")
    panels = figure.subplots(2 * len(images), 1 + len(found), squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for row, image in enumerate(images):
        panel(panels[2 * row, 0], image, "" if row else "original")
        for column, (network, (latents, *pictures)) in enumerate(found.items(), 1):
            for part, picture in enumerate(pictures):
                title = (f"downsampled to {latents:,}", network.replace("_", ", "))[part]
                panel(panels[2 * row + part, column], picture[row], "" if row else title)
    return figure


def down(images: Tensor, found: dict[str, tuple[int, Tensor, Tensor]]) -> Figure:
    """A row a network, downsampled and decoded side by side."""
    figure = Figure(figsize=(9.0, 0.78 * (1 + len(found))), dpi=140, layout="constrained")
    panels = figure.subplots(1 + len(found), 2, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    panel(panels[0, 0], images[0], "original")
    for row, (network, (latents, *pictures)) in enumerate(found.items(), 1):
        panel(panels[row, 0], pictures[0][0], f"downsampled to {latents:,}")
        panel(panels[row, 1], pictures[1][0], network.replace("_", ", "))
    return figure


def panel(axes: Axes, image: Tensor, title: str) -> None:
    axes.imshow(image[0], cmap="gray", vmin=0, vmax=1)
    axes.set_title(title, fontsize=8)


if __name__ == "__main__":
    main()
