"""Compare the clustering engine with a loop over scikit-learn and ``kmedoids``, on one thread.

    python benchmarks/clustering.py [--puzzles P] [--rounds R] [--out FOLDER] [data=imagenet64 data.root=FOLDER ...]

The embeddings are the 128 leading principal components of test fragments; other settings are overrides, as on the
command line. All functions are timed in turn in each round, in one process; the result is the median over rounds, and
the ratio of medians. Prints a table and writes it, with machine and versions, to ``FOLDER/clustering.json``.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.optimize import linear_sum_assignment
from sklearn import metrics
from sklearn.metrics.cluster import contingency_matrix, pair_confusion_matrix
from threadpoolctl import threadpool_limits
from torch import Tensor

from fragrecon import files
from fragrecon.clustering import agreement, kmeans
from fragrecon.clustering.backends import BACKENDS
from fragrecon.clustering.balanced import balance
from fragrecon.clustering.kmedoids import kmedoids
from fragrecon.clustering.problems import MEMORY
from fragrecon.data.puzzles import FragmentBatch
from fragrecon.evaluation.clustering.baselines import COMPONENTS, Baselines, raw_pixels
from fragrecon.evaluation.clustering.protocol import AGREEMENTS, FURTHER_AGREEMENTS, ClusteringProtocol, Score
from fragrecon.evaluation.setup import open_data
from fragrecon.run import compose
from fragrecon.runs.write import versions
from fragrecon.seeds import keys_of

RESULTS = Path(__file__).resolve().parent / "results"
RESTARTS = 10
GOALS = {"KMedoids": 6, "whole scoring by the protocol": 20}
"""Ratios to reach."""
SCORING_GOAL = 58
"""CPU seconds for the full scoring of the baselines and one model on 1,000 puzzles, to stay below."""


def purity(truth: Any, found: Any) -> float:
    table = contingency_matrix(truth, found)
    return float(table.max(0).sum() / table.sum())


def accuracy(truth: Any, found: Any) -> float:
    table = contingency_matrix(truth, found)
    return float(table[linear_sum_assignment(table, maximize=True)].sum() / table.sum())


def pair_precision(truth: Any, found: Any) -> float:
    pairs = pair_confusion_matrix(truth, found)
    return float(pairs[1, 1] / (pairs[1, 1] + pairs[0, 1]))


def pair_recall(truth: Any, found: Any) -> float:
    pairs = pair_confusion_matrix(truth, found)
    return float(pairs[1, 1] / (pairs[1, 1] + pairs[1, 0]))


ENGINE, LOOP = BACKENDS["batched"], BACKENDS["sklearn"]

BY_LIBRARY: dict[str, Callable[[Any, Any], float]] = {
    "ari": metrics.adjusted_rand_score,
    "nmi": metrics.normalized_mutual_info_score,
    "purity": purity,
    "ami": metrics.adjusted_mutual_info_score,
    "accuracy": accuracy,
    "precision": pair_precision,
    "recall": pair_recall,
}
"""Functions that score one puzzle without the code of the project."""


def library_scores(names: Sequence[str], truth: Tensor, found: Tensor) -> Tensor:
    """Return scores (len(names), P), computed puzzle by puzzle."""
    pairs = list(zip(truth.numpy(), found.numpy(), strict=True))
    return torch.tensor([[BY_LIBRARY[name](*pair) for pair in pairs] for name in names], dtype=torch.float64)


def engine_scores(names: Sequence[str], truth: Tensor, found: Tensor) -> Tensor:
    known, table = AGREEMENTS | FURTHER_AGREEMENTS, agreement.contingency(found, truth)
    return torch.stack([known[name](table) for name in names])


def contestants(points: Tensor, batch: FragmentBatch) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Return, by name, the engine and the loop, both of which do the same for all puzzles."""
    keys, k, truth = keys_of(0, "benchmark", 0, len(batch)), batch.images_per_puzzle, batch.source_ids
    protocol = ClusteringProtocol(ENGINE, RESTARTS, 0, MEMORY)
    labels = ENGINE.kmeans(points, k, keys, RESTARTS, MEMORY).labels
    few, every = list(AGREEMENTS), [*AGREEMENTS, *FURTHER_AGREEMENTS]

    def by_libraries() -> None:
        for found in (LOOP.kmeans(points, k, keys, RESTARTS, MEMORY), LOOP.kmedoids(points, k, MEMORY)):
            library_scores(few, truth, found.labels)

    return {
        f"KMeans, {RESTARTS} restarts": (
            lambda: ENGINE.kmeans(points, k, keys, RESTARTS, MEMORY),
            lambda: LOOP.kmeans(points, k, keys, RESTARTS, MEMORY),
        ),
        "KMedoids": (lambda: ENGINE.kmedoids(points, k, MEMORY), lambda: LOOP.kmedoids(points, k, MEMORY)),
        "agreement: ARI, NMI, purity": (
            lambda: engine_scores(few, truth, labels),
            lambda: library_scores(few, truth, labels),
        ),
        "agreement: all seven scores": (
            lambda: engine_scores(every, truth, labels),
            lambda: library_scores(every, truth, labels),
        ),
        "whole scoring by the protocol": (lambda: protocol.score(points, batch), by_libraries),
    }


def milliseconds(work: Callable[[], Any], puzzles: int, repeats: int = 1) -> float:
    """Return the time per puzzle."""
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - start) * 1e3 / puzzles / repeats


def floor_of_kmeans(points: Tensor, k: int) -> dict[str, float]:
    """Return how long the matrix products of KMeans alone would take at the measured speed of such products."""
    n, counted = points.shape[1], [2.0 * points.shape[0] * points.shape[1] ** 2 * points.shape[2]]
    inner = kmeans.inner_products

    def counting(members: Tensor, products: Tensor) -> Tensor:
        counted.append(2.0 * members.shape[0] * members.shape[1] * n * n)
        return inner(members, products)

    kmeans.inner_products = counting
    try:
        kmeans.kmeans(points, k, keys_of(0, "benchmark", 0, len(points)), RESTARTS)
    finally:
        kmeans.inner_products = inner
    members, products = torch.rand(32, RESTARTS * k, n), torch.rand(32, n, n)
    milliseconds(lambda: members @ products, 1, 20)
    speed = 2.0 * 32 * RESTARTS * k * n * n / (milliseconds(lambda: members @ products, 1, 50) * 1e6)  # GFLOP/s
    work = sum(counted) / len(points) / 1e6  # MFLOP
    return {"mflop": work, "gflop_per_second": speed, "ms": work / speed}


def stages(points: Tensor, batch: FragmentBatch) -> dict[str, Callable[[], Any]]:
    """Return, by name, what full scoring of an embedding does beside KMeans, KMedoids and their agreement."""
    keys, k = keys_of(0, "benchmark", 0, len(batch)), batch.images_per_puzzle
    labels = ENGINE.kmeans(points, k, keys, RESTARTS, MEMORY).labels
    protocol = ClusteringProtocol(ENGINE, RESTARTS, 0, MEMORY)
    return {
        "balanced clusters": lambda: balance(points, labels, k),
        "full scoring": lambda: protocol.score_fully(points, batch),
        "full scoring with an estimated number of images": lambda: replace(protocol, estimate_count=True).score_fully(
            points, batch
        ),
    }


def scoring_seconds(methods: Mapping[str, Score], model: Score, batch: FragmentBatch) -> float:
    """Return the CPU seconds of full scoring per 1,000 puzzles: the baselines, and a model whose embedding is known."""
    start = time.process_time()
    for score in (*methods.values(), model):
        score(batch)
    return (time.process_time() - start) * 1e3 / len(batch)


def quality(points: Tensor, k: int) -> dict[str, float]:
    """Return the ratios of the engine's mean inertia and loss to those of the libraries."""
    from kmedoids import fasterpam
    from sklearn.cluster import KMeans

    ours = kmeans.kmeans(points, k, keys_of(0, "benchmark", 0, len(points)), RESTARTS).inertia
    theirs = [KMeans(k, n_init=RESTARTS, random_state=i).fit(p.numpy()).inertia_ for i, p in enumerate(points)]
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").numpy()
    losses = [fasterpam(d, k, init="build", n_cpu=1).loss for d in distances]
    return {
        "inertia_ratio": float(ours.mean()) / float(np.mean(theirs)),
        "loss_ratio": float(kmedoids(points, k).loss.mean()) / float(np.mean(losses)),
    }


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--puzzles", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options, overrides = parser.parse_known_args(arguments)
    torch.set_num_threads(1)
    data = open_data(compose(overrides))
    batch = data.test_set(options.puzzles).read(slice(0, options.puzzles)).as_float()
    protocol = ClusteringProtocol(ENGINE, RESTARTS, 0, MEMORY)
    baselines = Baselines(data, protocol, data.cache / "scores")
    points = baselines.components(raw_pixels(batch), COMPONENTS).float()
    k = batch.images_per_puzzle

    with threadpool_limits(1):
        known = contestants(points, batch)
        times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in known}
        for engine, _ in known.values():
            engine()  # the first call of each kind sets things up
        for _ in track(range(options.rounds), "rounds", disable=not sys.stdout.isatty()):
            for name, (engine, libraries) in known.items():
                # What takes microseconds is repeated, so that a turn is long enough to be timed.
                repeats = 50 if name.startswith("agreement") else 1
                times[name][0].append(milliseconds(engine, options.puzzles, repeats))
                times[name][1].append(milliseconds(libraries, options.puzzles))
        further = {
            name: statistics.median(milliseconds(work, options.puzzles) for _ in range(options.rounds))
            for name, work in stages(points, batch).items()
        }
        scored = [
            scoring_seconds(baselines.methods, lambda batch: protocol.score_fully(points, batch), batch)
            for _ in range(options.rounds)
        ]
        floor, close = floor_of_kmeans(points, k), quality(points, k)

    rows: dict[str, dict[str, Any]] = {}
    for name, both in times.items():
        ours, theirs = (statistics.median(found) for found in both)
        spread = [[min(found), max(found)] for found in both]
        rows[name] = {"engine_ms": ours, "loop_ms": theirs, "ratio": theirs / ours, "ranges_ms": spread}
    command = " ".join(["python", "benchmarks/clustering.py", *arguments])
    machine = f"{platform.machine()} with {torch.backends.cpu.get_cpu_capability()}, one of {os.cpu_count()} cores"
    result = {
        "points": list(points.shape),
        "clusters": k,
        "data": data.config.name,
        "rounds": options.rounds,
        "rows": rows,
        "further_ms": further,
        "goals": GOALS,
        "scoring": {"cpu_seconds_per_1000_puzzles": statistics.median(scored), "goal": SCORING_GOAL},
        "floor_of_kmeans": floor | {"share": floor["ms"] / rows[f"KMeans, {RESTARTS} restarts"]["engine_ms"]},
        "quality": close,
        "machine": machine,
        "versions": versions(),
        "command": re.sub(r"(data\.root|data\.cache_dir|--out)([ =])\S+", r"\1\2FOLDER", command),
        "date": time.strftime("%Y-%m-%d"),
    }
    show(result)
    files.write_json(options.out / "clustering.json", result)
    print(f"wrote {options.out / 'clustering.json'}")


def show(result: dict[str, Any]) -> None:
    problems, n, dim = result["points"]
    table = Table(
        title=f"{problems} puzzles of {n} points x {dim} dimensions, k = {result['clusters']}",
        caption=result["machine"],
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=0,
    )
    for column in ("", "engine, ms\na puzzle", "loop, ms\na puzzle", "ratio", "goal"):
        table.add_column(column, justify="right" if column else "left")
    for name, row in result["rows"].items():
        table.add_row(
            name,
            f"{row['engine_ms']:.4f}",
            f"{row['loop_ms']:.3f}",
            f"{row['ratio']:.1f}",
            str(result["goals"].get(name, "")),
        )
    floor, close = result["floor_of_kmeans"], result["quality"]
    console = Console()
    console.print(table)
    for name, further in result["further_ms"].items():
        console.print(f"{name}: {further:.3f} ms a puzzle")
    scoring = result["scoring"]
    console.print(
        f"full scoring of all baselines and a model: {scoring['cpu_seconds_per_1000_puzzles']:.1f} CPU s for 1,000 "
        f"puzzles, goal {scoring['goal']}"
    )
    console.print(
        f"KMeans: {floor['mflop']:.0f} MFLOP of products a puzzle at {floor['gflop_per_second']:.0f} GFLOP/s take "
        f"{floor['ms']:.3f} ms, {floor['share']:.0%} of its time"
    )
    console.print(
        f"mean inertia over scikit-learn's: {close['inertia_ratio']:.5f}; "
        f"mean loss over FasterPAM's: {close['loss_ratio']:.5f}"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
