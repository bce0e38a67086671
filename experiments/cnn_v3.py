"""Train and time autoencoders of larger images, and collect the results.

    python experiments/cnn_v3.py train FOLDER
    python experiments/cnn_v3.py bench

Crops of ``experiments/crops.py`` are written to FOLDER unless they are there. Each run is ``python -m fragrecon.run``
in ``multirun/cnn_v3/``; finished runs are not repeated, and stopped ones are resumed. Metrics and timings are written
to ``experiments/results/cnn_v3/``; the name of a timing ends with the type of the device.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from fragrecon import files

HERE = Path(__file__).resolve().parent
RUNS = HERE.parent / "multirun" / "cnn_v3"
RESULTS = HERE / "results" / "cnn_v3"

SIZES = {"201": (201, 201), "1280": (152, 1280)}
"""Height and width by the suffix of a run's name."""
SPATIAL = "model.latent_strategy=spatial"
PRESETS = ("tiny", "small", "medium", "large")
BLOCKS = ("resnet", "resnext", "se", "inception")
NETWORKS = {
    **{preset: [f"model=cnn_v3_{preset}"] for preset in PRESETS},
    **{f"{preset}_spatial": [f"model=cnn_v3_{preset}", SPATIAL] for preset in PRESETS},
    **{f"tiny_{block}": ["model=cnn_v3_tiny", f"model.block_config=[{block},{block}]"] for block in BLOCKS[1:]},
    **{
        f"tiny_spatial_{block}": ["model=cnn_v3_tiny", SPATIAL, f"model.block_config=[{block},{block}]"]
        for block in BLOCKS[1:]
    },
    "tiny_attention": ["model=cnn_v3_tiny", "model.use_attention=true"],
}
"""Tiny networks without a block in their name use ResNet blocks."""

WIDE = ["data.puzzles_per_batch=4", "evaluation.puzzles=48"]
TRAINED = {
    **{f"{name}_201": ["data.epochs=8"] for name in NETWORKS if name.startswith("tiny")},
    "small_201": ["data.epochs=8", "optimizer.lr=2e-4"],
    "small_spatial_201": ["data.epochs=8", "optimizer.lr=2e-4"],
    "medium_201": ["data.epochs=8", "optimizer.lr=5e-5"],
    "medium_spatial_201": ["data.epochs=4", "optimizer.lr=2e-4"],
    "large_201": ["data.epochs=4", "optimizer.lr=2e-5"],
    "large_spatial_201": ["data.epochs=4", "optimizer.lr=2e-4"],
    "tiny_1280": ["data.epochs=4", "optimizer.lr=3e-4", *WIDE],
    "small_1280": ["data.epochs=2", "optimizer.lr=2e-4", *WIDE],
    "medium_1280": ["data.epochs=2", "optimizer.lr=5e-5", *WIDE],
    "large_spatial_1280": ["data.epochs=1", "optimizer.lr=2e-4", *WIDE],
}
"""Wider linear layers need lower learning rates."""
CROPS = {"201": ["--train", "1200", "--test", "96"], "1280": ["--train", "2400", "--test", "48"]}
BATCHES = {
    "201": {"tiny": 32, "small": 16, "medium": 8, "large": 4},
    "1280": {"tiny": 16, "small": 8, "medium": 4, "large": 2},
}
"""Batch size that is timed besides 1, by size and preset."""
ESTIMATED = {"tiny": ("500K", "2"), "small": ("2M", "3"), "medium": ("8M", "5"), "large": ("32M", "7")}
"""Estimates in the requirements of the networks: parameters, and GB of GPU memory for training in float32."""

ESTIMATED_SPEEDS = {"small_201": ("5 to 8", "150", "2,000"), "small_1280": ("10 to 15", "200", "800")}
"""Estimates likewise for a forward pass on a GPU in mixed precision: ms an image, MB a batch, images a second."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    studies = parser.add_subparsers(dest="study", required=True)
    studies.add_parser("train").add_argument("folder", type=Path, help="of the crops")
    studies.add_parser("bench")
    given = parser.parse_args()
    if given.study == "train":
        train(given.folder)
    else:
        bench()


def train(folder: Path) -> None:
    for size, counts in CROPS.items():
        if not (folder / size / "test").is_dir():
            script, sides = str(HERE / "crops.py"), map(str, SIZES[size])
            subprocess.run([sys.executable, script, str(folder / size), *sides, *counts], check=True)
    for name, settings in TRAINED.items():
        network, _, size = name.rpartition("_")
        run = RUNS / name
        height, width = SIZES[size]
        if (run / "config.yaml").is_file() and not (run / "metrics.json").is_file():
            call(f"resume={run}")
        elif not (run / "metrics.json").is_file():
            data = [f"data.root={folder / size}", f"data.image_size=[{height},{width}]"]
            call("experiment=crops", *NETWORKS[network], *data, *settings, f"hydra.run.dir={run}")
        files.write_json(RESULTS / f"{name}.json", json.loads((run / "metrics.json").read_text()))
        files.write_text(RESULTS / f"{name}.csv", (run / "metrics.csv").read_text())


def bench() -> None:
    for size, batches in BATCHES.items():
        for network, model in NETWORKS.items():
            preset, _, others = network.partition("_")
            if size == "201" or network in ("large_spatial", *PRESETS):
                time(f"{network}_{size}", size, [1, batches[preset]], *model)
            if not others:
                time(f"{network}_{size}_float32", size, [batches[preset]], *model, "trainer.precision=32-true")


def time(name: str, size: str, batches: list[int], *settings: str) -> None:
    run = RUNS / "bench" / name
    height, width = SIZES[size]
    if not (run / "bench.json").is_file():
        data = ["data.channels=1", f"data.image_size=[{height},{width}]"]
        call("mode=bench", *settings, *data, f"bench.batch_sizes={batches}", f"hydra.run.dir={run}")
    found = json.loads((run / "bench.json").read_text())
    files.write_json(RESULTS / "bench" / f"{name}.{found['machine']['type']}.json", found)


def call(*overrides: str) -> None:
    subprocess.run([sys.executable, "-m", "fragrecon.run", *overrides], check=True)


if __name__ == "__main__":
    main()
