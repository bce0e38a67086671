"""Score linear embeddings of fragments on validation puzzles: exact PCA, truncated and re-weighted.

    python experiments/spectrum.py data=imagenet64 data.root=FOLDER

Takes overrides as the command line does. Components are those of the baselines, fitted on training fragments without
augmentation. The first table describes the leading components. In the second, each component is divided by its
standard deviation to the power of p: p = 0 is plain PCA, p = 1 whitens.
"""

from __future__ import annotations

import sys

import torch

from fragrecon.evaluation.clustering.baselines import raw_pixels, training_fragments
from fragrecon.evaluation.components import PrincipalComponents
from fragrecon.evaluation.setup import open_data, protocol_of
from fragrecon.run import compose

COMPONENTS = (3, 6, 12, 24, 64, 128)
POWERS = (0.0, 0.5, 1.0)
LEADING = 3


@torch.inference_mode()
def main(overrides: list[str]) -> None:
    config = compose(overrides)
    data, protocol = open_data(config), protocol_of(config)
    fitted = PrincipalComponents(training_fragments(data).flatten(1), most=10**9)
    deviations, directions = fitted.deviations, fitted.directions
    puzzles = data.validation_set().read(slice(None)).as_float()

    def scores(embeddings: torch.Tensor) -> str:
        found = protocol.score(embeddings, puzzles)
        return f"{float(found['kmeans_ari'].mean()):.4f} / {float(found['mean_clustering_score'].mean()):.4f}"

    print("| component | share of variance | of it constant over the fragment | of it grey |")
    print("| ---: |" + " ---: |" * 3)
    for number in range(LEADING):
        pattern = directions[:, number].view(config.data.channels, -1)
        share = float(deviations[number].square() / deviations.square().sum())
        constant = float(pattern.mean(1).square().sum()) * pattern.shape[1]
        grey = float(pattern.mean(0).square().sum()) * pattern.shape[0]
        print(f"| {number + 1} | {share:.3f} | {constant:.3f} | {grey:.3f} |")

    print(
        f"\nKMeans ARI / mean score on {len(puzzles)} validation puzzles; raw pixels: {scores(raw_pixels(puzzles))}\n"
    )
    print("| components | share of variance | " + " | ".join(f"p = {power}" for power in POWERS) + " |")
    print("| ---: | ---: |" + " ---: |" * len(POWERS))
    for count in COMPONENTS:
        share = float(deviations[:count].square().sum() / deviations.square().sum())
        cells = [scores(fitted(raw_pixels(puzzles), count, whitening=power).float()) for power in POWERS]
        print(f"| {count} | {share:.3f} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
