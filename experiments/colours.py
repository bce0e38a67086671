"""Score colour histograms of fragments by their number of bins, on validation puzzles.

    python experiments/colours.py data=imagenet64 data.root=FOLDER

Takes overrides as the command line does. The baseline uses the square roots of the bins' shares; the shares themselves
are scored as well.
"""

from __future__ import annotations

import sys

import torch

from fragrecon.evaluation.clustering.baselines import colour_histogram, raw_pixels
from fragrecon.evaluation.setup import open_data, protocol_of
from fragrecon.run import compose

LEVELS = (2, 3, 4, 6, 8, 10, 12, 16)


@torch.inference_mode()
def main(overrides: list[str]) -> None:
    config = compose(overrides)
    data, protocol = open_data(config), protocol_of(config)
    puzzles = data.validation_set().read(slice(None)).as_float()

    def scores(embeddings: torch.Tensor) -> str:
        found = protocol.score(embeddings, puzzles)
        return f"{float(found['kmeans_ari'].mean()):.4f} / {float(found['mean_clustering_score'].mean()):.4f}"

    print(f"KMeans ARI / mean score on {len(puzzles)} validation puzzles; raw pixels: {scores(raw_pixels(puzzles))}\n")
    print("| bins per channel | bins | shares | square roots of shares |")
    print("| ---: | ---: | ---: | ---: |")
    for levels in LEVELS:
        roots = colour_histogram(puzzles, levels)
        print(f"| {levels} | {roots.shape[-1]:,} | {scores(roots.square())} | {scores(roots)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
