"""Time the training of a model: puzzles per second, the share of the machine's peak, and the time to a first score.

    python benchmarks/training.py [--steps S] [--out FOLDER] data=imagenet64 data.root=FOLDER [experiment=NAME ...]

Times training steps of the experiment (`mosaic` by default) in the precision of the trainer, and counts their
operations by torch's FlopCounterMode. The peak is the speed of products of two 2048 x 2048 matrices in the same
precision, timed in turn with the steps. If no experiment is named, the whole command `experiment=sprint` is timed as
well, start of Python included. The results are printed and written, with machine and versions, to
``FOLDER/training.json`` or ``FOLDER/EXPERIMENT.json``.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fragrecon import files
from fragrecon import machine as hardware
from fragrecon.config.build import build
from fragrecon.config.schema import Config
from fragrecon.evaluation.setup import open_data
from fragrecon.run import compose
from fragrecon.runs.modules import Facts, build_model
from fragrecon.runs.write import versions
from fragrecon.seeds import torch_generator
from fragrecon.training.compute import prepare

RESULTS = Path(__file__).resolve().parent / "results"
SIDE = 2048
CLASSES = 1000
"""Classes of models with a classifier."""


def step_figures(config: Config, steps: int, *, made: bool = False, side: int = SIDE) -> dict[str, Any]:
    """Return medians over steps: seconds a step, puzzles a second, and the share of the peak of matrix products.

    Args:
        config: of the run.
        steps: number of steps that are timed.
        made: whether all steps use one batch that is on the device already; otherwise, making batches counts.
        side: side of the matrices.
    """
    data, device = open_data(config), hardware.device_of(config.trainer)
    model, objective = build_model(config, Facts(config.data.fragment_shape, data.grid, CLASSES))
    model, objective = model.to(device), objective.to(device)
    optimizer = build(config.optimizer, "optimizer", torch.optim.Optimizer, model.parameters())
    short = hardware.precision_of(config.trainer) == "bf16-mixed"
    matrix = torch.rand(side, side, dtype=torch.bfloat16 if short else torch.float32, device=device)
    first, puzzles = data.train_batch(0).to(device).as_float(), 0

    def waited() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def step(number: int) -> float:
        nonlocal puzzles
        started = waited()
        batch = first if made else data.train_batch(number).to(device).as_float()
        with torch.autocast(device.type, torch.bfloat16, enabled=short):
            generator = torch_generator(config.seed, "benchmark", number, device=device)
            loss = objective(model, batch, generator)["loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        puzzles = len(batch)
        return waited() - started

    def product() -> float:
        started = waited()
        matrix @ matrix
        return waited() - started

    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step(0)  # the counter does not know all fused kernels of attention
    prepare(model, config.compute)
    for number in range(3):  # compiles, and fills caches
        step(number)
        product()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    taken, products = zip(*((step(number), product()) for number in range(1, steps + 1)), strict=True)
    seconds, peak = statistics.median(taken), 2 * side**3 / statistics.median(products)
    operations = counter.get_total_flops()
    return {
        "model": config.model["_target_"].rpartition(".")[2],
        "threads": torch.get_num_threads(),
        "precision": "bfloat16" if short else "float32",
        "steps": steps,
        "seconds_a_step": seconds,
        "puzzles_a_second": puzzles / seconds,
        "gflop_a_step": operations / 1e9,
        "peak_gflop_a_second": peak / 1e9,
        "share_of_peak": operations / seconds / peak,
        **({"memory_bytes": torch.cuda.max_memory_allocated(device)} if device.type == "cuda" else {}),
    }


def sprint(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the seconds of a whole command, start of Python included, and the score on validation puzzles."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        settings = ["experiment=sprint", "evaluation.puzzles=0", f"hydra.run.dir={run}"]
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "fragrecon.run", *settings, *overrides], check=True)
        seconds = time.perf_counter() - started
        last = files.read_csv(run / "metrics.csv")[-1]
    return {"seconds": seconds, "steps": int(last["step"]), "val_kmeans_ari": float(last["val/kmeans_ari"])}


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options, overrides = parser.parse_known_args(arguments)
    named = [override.partition("=")[2] for override in overrides if override.startswith("experiment=")]
    command = " ".join(["python", "benchmarks/training.py", *arguments])
    step = step_figures(compose([*([] if named else ["experiment=mosaic"]), *overrides]), options.steps)
    run = None if named else sprint(overrides)
    result = {
        "step": step,
        **({"sprint": run} if run else {}),
        "machine": f"{platform.machine()} with {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores",
        "versions": versions(),
        "command": re.sub(r"(data\.root|data\.cache_dir|--out)([ =])\S+", r"\1\2FOLDER", command),
        "date": time.strftime("%Y-%m-%d"),
    }
    print(
        f"{step['model']} in {step['precision']} on {step['threads']} threads: {step['seconds_a_step']:.3f} s a step, "
        f"{step['puzzles_a_second']:.1f} puzzles/s, "
        f"{step['share_of_peak']:.0%} of {step['peak_gflop_a_second']:.0f} GFLOP/s"
    )
    if run:
        print(
            f"cold start to the end of {run['steps']} steps: {run['seconds']:.0f} s, "
            f"ARI {run['val_kmeans_ari']:.3f} on validation puzzles"
        )
    path = options.out / f"{named[0] if named else 'training'}.json"
    files.write_json(path, result)
    print(f"wrote {path}")


if __name__ == "__main__":
    main(sys.argv[1:])
