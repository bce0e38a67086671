"""Check that two versions of the code compute the same, bit for bit, by a hash of short runs of every part.

    python benchmarks/fingerprint.py > before.txt
    python benchmarks/fingerprint.py --against before.txt [--only NAME,NAME]

Each recipe is a command line, ``python -m fragrecon.run ...`` in a process of its own, and prints a line
``RECIPE  HASH``. The hash covers the metrics in ``metrics.csv`` and other tables, all scores, the weights of the best
checkpoint, scores of a data set as a whole, embeddings, and the places of reassembled fragments. Names and durations
are left out, so metrics, modules and parameters may be renamed. The code is the package that Python finds: to hash
another checkout, put it on ``PYTHONPATH``. Hashes compare on one machine with the same versions of the libraries.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

FEW = """
    data.reader.train_images=300 data.reader.test_images=60 data.puzzles_per_batch=2 data.epochs=2
    evaluation.puzzles=5 evaluation.validation_puzzles=4 evaluation.train_puzzles=2 evaluation.restarts=2"""
WHOLE = """
    data.reader.train_images=300 data.reader.test_images=60 data.reader.num_classes=3 data.image_size=[16,16]
    data.fragment_size=16 data.images_per_puzzle=1 data.puzzles_per_batch=20 data.epochs=2
    evaluation.puzzles=12 evaluation.validation_puzzles=10 evaluation.train_puzzles=0
    selection.monitor=val/loss selection.mode=min"""
DECODED = f"{WHOLE} evaluation=reconstruction"
LARGER = f"{DECODED} data.image_size=[32,32] data.fragment_size=32 data.puzzles_per_batch=4 data.batches_per_epoch=2"
CONV = "model=conv model.latent_dim=8 model.encoder_channels=[4,8]"
VAE = "model=vae model.latent_dim=6 model.encoder_channels=[4,8]"
MAE = "model=mae model.latent_dim=12 model.depth=1 model.decoder_width=6 model.decoder_depth=1"
ENERGY = "model=energy_transformer model.latent_dim=12 model.heads=2 model.head_width=6 model.steps=3 model.alpha=0.5"
MOSAIC = "model=mosaic model.width=16 model.depth=1 model.heads=2 model.latent_dim=8 data.batches_per_epoch=4"
BLOCKS = "model.block_config=[resnet,resnext] model.channel_config=[4,8] model.stride_config=[2,2]"

RECIPES = {
    # models with their own objectives
    "conv": f"{FEW} {CONV}",
    "linear-plateau": f"""{FEW} model=linear model.hidden=[16] model.latent_dim=8 data.epochs=3
        scheduler=plateau scheduler.patience=0 scheduler.threshold=1""",
    "pca-robustness": f"""{FEW} model=pca model.latent_dim=8 evaluation=robustness evaluation.robustness.puzzles=2
        evaluation.robustness.images=[2] evaluation.robustness.fragment_size=[16,32] evaluation.robustness.noise=[0.1]
        evaluation.robustness.rotation=[0.5] evaluation.robustness.jitter=[0.4] evaluation.robustness.gap=[3]
        evaluation.robustness.jpeg_quality=[75]""",
    "supervised": f"{FEW} model=supervised model.hidden=[16] model.latent_dim=8",
    "simclr-cosine": f"""{FEW} model=simclr model.encoder_channels=[4,8] model.hidden=16 model.latent_dim=8
        scheduler=cosine scheduler.warmup=0.2 optimizer=adamw""",
    "siamese": f"{FEW} model=siamese model.channels=[4,4,4] model.hidden=8 model.latent_dim=8 data.batches_per_epoch=4",
    "mosaic": f"{FEW} {MOSAIC}",
    "mae-reconstruction": f"{DECODED} {MAE} evaluation.reconstruction.perceptual=[features]",
    "energy_transformer-reconstruction": f"{DECODED} {ENERGY}",
    "vae-generation": f"""{WHOLE} {VAE} evaluation=generation evaluation.generation.samples=12
        evaluation.generation.perceptual=[features]""",
    "resnet_ae-sgd": f"{FEW} model=resnet_ae model.width=2 model.latent_dim=8 data.batches_per_epoch=3 optimizer=sgd",
    "resnet_vae": f"{FEW} model=resnet_vae model.width=2 model.latent_dim=8 data.batches_per_epoch=3",
    "cnn_v3_tiny": f"{LARGER} model=cnn_v3_tiny",
    "cnn_v3_small": f"{LARGER} model=cnn_v3_small model.use_attention=true",
    "cnn_v3_medium": f"{LARGER} model=cnn_v3_medium model.latent_dim=64 model.latent_strategy=spatial",
    "cnn_v3_large": f"{LARGER} model=cnn_v3_large model.latent_dim=64 model.latent_strategy=spatial data.epochs=1",
    # evaluations
    "conv-sklearn": f"{FEW} {CONV} data.epochs=1 evaluation.backend=sklearn",
    "conv-reconstruction": f"{DECODED} {CONV} evaluation.reconstruction.perceptual=[features]",
    "conv-probe": f"""{WHOLE} {CONV} evaluation=probe evaluation.probe.classifiers=[mlp,linear,knn,logistic,svm]
        evaluation.probe.epochs=3 evaluation.probe.hidden=[8] evaluation.probe.batch_size=50
        evaluation.probe.neighbours=[1,5] evaluation.probe.noise=0.1 evaluation.probe.projections=[pca]""",
    # other objectives
    "mae-mix": f"{FEW} {MAE} objective.mix=4 objective.homologous=0.1",
    "conv-cross_entropy": f"{FEW} {CONV} objective=cross_entropy objective.hidden=[8]",
    "conv-anti_correlation": f"{FEW} {CONV} objective=anti_correlation",
    "vae-combined": f"""{FEW} {VAE} objective=combined objective.weights.reconstruction=0.5
        objective.weights.cross_entropy=10 objective.weights.anti_correlation=1""",
    "conv-perceptual": f"""{WHOLE} {CONV} evaluation=reconstruction data.batches_per_epoch=3
        objective.perceptual=0.1 objective.bottleneck=0.01 objective.error={{mse:0.5,l1:0.5}}""",
    # data
    "pca-augment": f"""{FEW} model=pca model.latent_dim=8 data.augment.horizontal_flip=0.3 data.augment.rotation=45
        data.augment.brightness=0.4 data.augment.contrast=0.4 data.augment.saturation=0.4 data.augment.hue=0.1""",
    "mosaic-corruption": f"""{FEW} {MOSAIC} data.corruption.share=0.7 data.corruption.gap=3 data.corruption.noise=0.1
        data.corruption.jitter=0.2 data.corruption.rotation=0.5""",
    "mosaic-images_range": f"{FEW} {MOSAIC} data.images_range=[2,14]",
    "cnn_v3-free_width": f"""experiment=whole_images data=folder data.root=@photos data.channels=1 data.image_height=32
        data.puzzles_per_batch=4 data.epochs=2 evaluation=reconstruction evaluation.puzzles=12
        evaluation.validation_puzzles=3 evaluation.batch_size=4 model=cnn_v3_tiny model.latent_dim=16
        model.use_attention=true {BLOCKS} trainer.precision=32-true""",
    # modes that read a run
    "conv-evaluate": "mode=evaluate run=@conv evaluation.puzzles=6",
    "conv-embed": "mode=embed run=@conv",
    "mosaic-reassemble": "mode=reassemble run=@mosaic input=@photos/test/first",
}
"""Overrides of each run. ``@NAME`` is the folder of an earlier recipe, ``@photos`` one of images of several widths."""

TIMES = ("seconds",)
"""Columns of tables that differ between runs."""
RUNNING = "means."
"""Prefix of the tensors of a checkpoint that are running means of metrics, not weights."""
TABLES = ("metrics.csv", "robustness.csv")
ARRAYS = ("scores.npz", "embeddings.npz")
DATASET_WIDE = "dataset_wide"
"""Key of ``metrics.json`` for scores of all images together, which no other file holds."""
PLACEMENT = "placement.json"
"""File with the place of each reassembled fragment."""
OURS = ("HYDRA_", "WANDB_", "FRAGRECON_", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_", "COLUMNS")


def code() -> Path:
    """Return the folder of the package that Python finds."""
    found = importlib.util.find_spec("fragrecon")
    if found is None or found.origin is None:
        sys.exit("error: there is no fragrecon on PYTHONPATH")
    return Path(found.origin).resolve().parents[1]


def command(recipe: str, folders: Mapping[str, Path]) -> list[str]:
    """Return the overrides of a recipe, the last of each key, with the folder of ``NAME`` in place of ``@NAME``."""
    given = (override.partition("=")[::2] for override in RECIPES[recipe].split())
    values = {key: placed(value[1:], folders) if value.startswith("@") else value for key, value in given}
    return [f"{key}={value}" for key, value in values.items()]


def placed(path: str, folders: Mapping[str, Path]) -> Path:
    """Return the folder of ``NAME`` or ``NAME/PATH``."""
    name, _, inside = path.partition("/")
    return folders[name] / inside


def needed(recipe: str) -> list[str]:
    """Return the recipes whose runs a recipe reads."""
    return [name for name in re.findall(r"=@(\S+)", RECIPES[recipe]) if name in RECIPES]


def draw_photos(folder: Path) -> None:
    """Write smooth coloured noise of three widths as PNG files of two classes: 36 for training, 12 for testing."""
    random = np.random.default_rng(0)
    for split, count in (("train", 18), ("test", 6)):
        for label in ("first", "second"):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                noise = Image.fromarray(random.integers(256, size=(4, 6, 3), dtype=np.uint8))
                size = (round(48 * (0.5, 1.0, 1.5, 1.0)[number % 4]), 48)
                noise.resize(size, Image.Resampling.BICUBIC).save(folder / split / label / f"{number:03}.png")


def digest(parts: Iterable[bytes]) -> bytes:
    """Return a hash of some parts, independent of their order."""
    return hashlib.sha256(b"".join(sorted(hashlib.sha256(part).digest() for part in parts))).digest()


def array_bytes(array: npt.NDArray[Any]) -> bytes:
    """Return type, shape and values as bytes."""
    return f"{array.dtype.str} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes()


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def table_rows(path: Path) -> Iterator[bytes]:
    """Yield the numbers of each row as they are printed, sorted, without names and durations."""
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            printed = sorted(text for name, text in row.items() if name not in TIMES and is_number(text))
            yield " ".join(printed).encode()


def numbers(node: Any) -> Iterator[bytes]:
    """Yield all numbers of nested dicts and lists."""
    if isinstance(node, dict | list):
        for child in node.values() if isinstance(node, dict) else node:
            yield from numbers(child)
    elif isinstance(node, int | float):
        yield repr(node).encode()


def arrays(path: Path) -> Iterator[bytes]:
    with np.load(path, allow_pickle=False) as file:
        for name in file.files:
            yield array_bytes(file[name])


def weights(path: Path) -> Iterator[bytes]:
    state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    for name, tensor in state.items():
        if not name.startswith(RUNNING):
            buffer = io.BytesIO()
            np.save(buffer, tensor.contiguous().view(torch.uint8).numpy() if tensor.ndim else tensor.numpy())
            yield f"{tensor.dtype} {tuple(tensor.shape)} ".encode() + buffer.getvalue()


def fingerprint(folder: Path) -> str:
    """Return the first 16 hexadecimal digits of a hash of all results in the folder of a run."""
    found = [digest(table_rows(folder / name)) for name in TABLES if (folder / name).is_file()]
    found += [digest(arrays(folder / name)) for name in ARRAYS if (folder / name).is_file()]
    found += [digest(weights(path)) for path in sorted((folder / "checkpoints").glob("best-*.ckpt"))]
    if (folder / "metrics.json").is_file():
        found.append(digest(numbers(json.loads((folder / "metrics.json").read_text()).get(DATASET_WIDE, {}))))
    if (folder / PLACEMENT).is_file():
        content = json.loads((folder / PLACEMENT).read_text())
        found += [digest(b" ".join(numbers(row)) for row in content.pop("fragments")), digest(numbers(content))]
    if not any((folder / name).is_file() for name in (*ARRAYS, PLACEMENT)):
        raise FileNotFoundError(f"{folder} holds none of {', '.join((*ARRAYS, PLACEMENT))}")
    return hashlib.sha256(b"".join(found)).hexdigest()[:16]


def run(recipe: str, home: Path, root: Path) -> str | None:
    """Run a recipe and return its hash; if it failed, print the reason to stderr and return None."""
    folders = {name: home / name for name in ("photos", *RECIPES)}
    kept = {key: value for key, value in os.environ.items() if not key.startswith(OURS)}
    own = {
        "PYTHONPATH": str(root),
        "OMP_NUM_THREADS": "1",
        "XDG_CACHE_HOME": str(home / "cache"),
        "MPLCONFIGDIR": str(home / "cache" / "matplotlib"),
    }
    line = [sys.executable, "-m", "fragrecon.run", f"hydra.run.dir={folders[recipe]}"]
    line += command(recipe, folders)
    process = subprocess.run(
        line, cwd=home, env=kept | own, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if process.returncode:
        print(f"{recipe} failed:\n{process.stderr.strip()}", file=sys.stderr, flush=True)
        return None
    return fingerprint(folders[recipe])


def read_lines(path: Path) -> dict[str, str]:
    """Return the hashes of an earlier output."""
    pairs = (line.split() for line in path.read_text().splitlines())
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAME[,NAME]", help=f"of {', '.join(RECIPES)}")
    parser.add_argument("--against", metavar="FILE", type=Path, help="an earlier output; 1 is returned if one differs")
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else list(RECIPES)
    if unknown := [name for name in chosen if name not in RECIPES]:
        parser.error(f"no recipe is called {', '.join(unknown)}")
    before = read_lines(options.against) if options.against else None

    root = code()
    print(f"code: {root}", file=sys.stderr)
    wanted = {name for recipe in chosen for name in (recipe, *needed(recipe))}
    wrong, started = [], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fingerprint-") as name:
        home = Path(name)
        draw_photos(home / "photos")
        for recipe in (recipe for recipe in RECIPES if recipe in wanted):
            found = run(recipe, home, root)
            if recipe not in chosen:
                continue
            print(f"{recipe:<34} {found or 'failed'}", flush=True)
            if found is None:
                wrong.append(f"{recipe} failed")
            elif before is not None and before.get(recipe) != found:
                wrong.append(f"{recipe} differs: {before.get(recipe, 'not there')} before, {found} now")
    print(f"{len(chosen)} recipes in {time.monotonic() - started:.0f} s", file=sys.stderr)
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
