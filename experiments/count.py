"""Compare two estimates of the number of images in a puzzle, eigengap and silhouette, on validation puzzles.

    python experiments/count.py [run=FOLDER ...] evaluation.validation_puzzles=60 data=imagenet64 data.root=FOLDER

Takes overrides as the command line does; ``run`` adds the embeddings of a trained model. For puzzles of 5, 10 and 20
images, both estimate the number from the same embeddings, between 2 and a quarter of the number of fragments. The
silhouette tries at most 40 and compares KMeans clusterings of 3 restarts each.
"""

from __future__ import annotations

import sys

import torch
from sklearn.metrics import silhouette_score
from torch import Tensor

from fragrecon.clustering.count import estimate_count
from fragrecon.clustering.kmeans import kmeans
from fragrecon.data.puzzles import FragmentBatch
from fragrecon.evaluation.clustering.baselines import WHITENED, Baselines, colour_histogram, raw_pixels
from fragrecon.evaluation.clustering.protocol import FEWEST_MEMBERS
from fragrecon.evaluation.setup import open_data, protocol_of
from fragrecon.evaluation.statistics import summary
from fragrecon.run import compose
from fragrecon.runs.read import load_run
from fragrecon.seeds import keys_of

IMAGES = (5, 10, 20)
MOST = 40


def by_silhouette(points: Tensor, largest: int) -> Tensor:
    """Return the numbers of clusters (P,) with the greatest mean silhouette (Rousseeuw 1987)."""
    keys = keys_of(0, "silhouette", 0, len(points))
    scores = []
    for k in range(2, min(largest, MOST) + 1):
        labels = kmeans(points, k, keys, restarts=3).labels
        scores.append([silhouette_score(*pair) for pair in zip(points.numpy(), labels.numpy(), strict=True)])
    return torch.tensor(scores).argmax(0) + 2


def blobs(batch: FragmentBatch, spread: float) -> Tensor:
    """Return embeddings (B, F, 32) scattered around a random centre of each image."""
    random = torch.Generator().manual_seed(0)
    centres = torch.randn(len(batch), batch.images_per_puzzle, 32, generator=random)
    own = centres.gather(1, batch.source_ids.unsqueeze(-1).expand(-1, -1, 32))
    return own + spread * torch.randn(own.shape, generator=random)


@torch.inference_mode()
def main(arguments: list[str]) -> None:
    folders = [argument.removeprefix("run=") for argument in arguments if argument.startswith("run=")]
    overrides = [argument for argument in arguments if not argument.startswith("run=")]
    models = {folder.rstrip("/").rpartition("/")[2]: load_run(folder).load_model() for folder in folders}
    print("| images | embedding | eigengap: mean error | median estimate | silhouette: mean error | median estimate |")
    print("| ---: | --- |" + " ---: |" * 4)
    for images in IMAGES:
        config = compose([*overrides, f"data.images_per_puzzle={images}"])
        data = open_data(config)
        batch = data.validation_set().read(slice(None)).as_float()
        components = Baselines(data, protocol_of(config), data.cache / "scores").components
        embeddings = {
            "raw pixels": raw_pixels(batch),
            "colour histogram": colour_histogram(batch),
            "whitened PCA": components(raw_pixels(batch), WHITENED, whitening=1.0).float(),
            **{f"{name}": model.encode(batch.fragments) for name, model in models.items()},
            **{f"blobs, spread {spread}": blobs(batch, spread) for spread in (0.3, 0.5, 0.8)},
        }
        for name, points in embeddings.items():
            largest = points.shape[1] // FEWEST_MEMBERS
            cells = []
            for found in (estimate_count(points, largest), by_silhouette(points, largest)):
                error = summary((found - images).abs().double().numpy())
                half = (error["ci95"][1] - error["ci95"][0]) / 2
                cells += [f"{error['mean']:.1f} ± {half:.1f}", f"{found.median():g}"]
            print(f"| {images} | {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
