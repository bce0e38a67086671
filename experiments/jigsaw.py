"""Measure jigsaw assembly on the benchmarks of the field, and fit the weights of the compatibilities.

    python experiments/jigsaw.py FOLDER TASK [TASK ...]

FOLDER holds ``mit/`` (20 photographs of 672x504 pixels; Cho et al., CVPR 2010), ``mcgill/`` (20 of 756x560; Pomeranz et
al., CVPR 2011) and ``bsds/`` (photographs to fit the weights to). A TASK is one of

* ``mit_known``, ``mcgill_known``: pieces of 28 pixels, known orientation and size;
* ``mit_rotated``, ``mcgill_rotated``: the same with unknown orientation;
* ``mit_unsized``, ``mcgill_unsized``: one image of unknown size, known orientation;
* ``bags_K_known``, ``bags_K_rotated``: bags of K images of both sets, whose number and sizes are not known;
* ``eroded_P``: 10x10 pieces of 50 pixels that lose P pixels on every side, known orientation and size, both sets;
* ``sides_mit``, ``sides_mcgill``: the share of sides whose true neighbour is the likeliest, by each compatibility;
* ``fit``: prints weights of the compatibilities.

Each writes ``results/jigsaw/TASK.json``, except ``fit``.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fragrecon import files
from fragrecon.data.photographs import read_whole
from fragrecon.jigsaw import compatibility
from fragrecon.jigsaw.evidence import CLASSICAL, LEAST, alone, logits
from fragrecon.jigsaw.forest import EMPTY
from fragrecon.jigsaw.metrics import neighbours, score
from fragrecon.jigsaw.pieces import Jigsaw, cut, erode, looks, shuffle
from fragrecon.jigsaw.solve import solve_jigsaw
from fragrecon.runs.write import versions

RESULTS = Path(__file__).resolve().parent / "results" / "jigsaw"
SIZE, FITTED = 28, 30
BAGS = {"bags_2_known": 10, "bags_3_known": 10}
FEWER_BAGS = 5
"""Number of bags of the tasks that `BAGS` does not list."""
SETS = ("mit", "mcgill")

PUBLISHED: dict[str, list[tuple[str, str, str, str]]] = {
    "mit_known": [
        ("Pomeranz et al., CVPR 2011", "94.0", "95.0", "13"),
        ("Gallagher, CVPR 2012", "95.3", "95.1", "12"),
        ("Sholomon et al., CVPR 2013, mean", "82.9", "95.7", "7"),
        ("Son et al., ECCV 2014 (not verified)", "95.6", "95.5", "13"),
        ("Paikin and Tal, CVPR 2015 (not verified)", "96.2", "95.8", "13"),
        ("PSQP, PAMI 2017", "96.0", "95.6", "13"),
    ],
    "mcgill_known": [
        ("Pomeranz et al., CVPR 2011", "83.5", "90.9", "9"),
        ("Sholomon et al., CVPR 2013, mean", "91.6", "95.4", "8"),
        ("Paikin and Tal, CVPR 2015 (not verified)", "93.2", "96.1", "13"),
        ("PSQP, PAMI 2017", "90.8", "95.3", "13"),
    ],
    "mit_rotated": [
        ("Gallagher, CVPR 2012", "82.2", "90.4", "9"),
        ("Son et al., ECCV 2014 (not verified)", "94.7", "94.9", "12"),
    ],
}
"""Direct and neighbour comparison in %, and images without an error, that papers report."""


def title(task: str) -> str:
    """Return the name of a task in tables."""
    kind, *rest = task.split("_")
    name = {"mit": "MIT", "mcgill": "McGill", "bags": "bags of"}.get(kind, kind)
    return f"{name} {rest[0]}, {rest[1]}" if kind == "bags" else ", ".join([name, *rest])


def puzzles(folder: Path, task: str) -> list[tuple[list[str], Jigsaw, dict[str, Any]]]:
    """Return the names of the photographs, the puzzle and the arguments of `solve_jigsaw`, of each puzzle of a task."""
    photographs = {name: sorted((folder / name).iterdir()) for name in SETS}
    first, *rest = task.split("_")
    rotations = task.endswith("_rotated")
    if first == "bags":
        every = [path for paths in photographs.values() for path in paths]
        bags = range(BAGS.get(task, FEWER_BAGS))
        groups = [random.Random(f"{task} {bag}").sample(every, int(rest[0])) for bag in bags]
    else:
        groups = [[path] for name in (SETS if first == "eroded" else [first]) for path in photographs[name]]
    found = []
    for number, group in enumerate(groups):
        grid = (10, 10) if first == "eroded" else None
        size = 50 if first == "eroded" else SIZE
        whole = cut(read_whole(group), (size, size), grid)
        jigsaw = shuffle(whole, torch.Generator().manual_seed(number), rotate=rotations)
        assert jigsaw.truth is not None
        if first == "eroded":
            jigsaw = Jigsaw(erode(jigsaw.pieces, int(rest[0])), jigsaw.truth)
        arguments: dict[str, Any] = {"rotations": rotations}
        if task.endswith("_unsized") and jigsaw.truth:
            arguments["images"] = 1
        elif first != "bags" and jigsaw.truth:
            arguments["grids"] = jigsaw.truth.grids
        found.append(([f"{path.parent.name}/{path.stem}" for path in group], jigsaw, arguments))
    return found


def measure(folder: Path, task: str) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for names, jigsaw, arguments in puzzles(folder, task):
        assert jigsaw.truth is not None
        began = time.perf_counter()
        solved = solve_jigsaw(jigsaw.pieces, **arguments)
        seconds = time.perf_counter() - began
        rotations = arguments["rotations"]
        strict = score(solved.arrangement, jigsaw.truth, rotations)
        alike = score(solved.arrangement, jigsaw.truth, rotations, looks(jigsaw.pieces, rotations))
        rows.append(
            {"photographs": names, "pieces": len(jigsaw.pieces), "strict": strict, "alike": alike}
            | {"seconds": round(seconds, 2)}
        )
        print(
            f"{task} {' '.join(names)}: direct {strict['direct']:.3f}, SEDAS {strict['sedas']:.3f}, {seconds:.1f} s",
            flush=True,
        )
    return {
        "task": task,
        "puzzles": len(rows),
        "scores": {
            kind: {name: float(np.mean([row[kind][name] for row in rows])) for name in rows[0][kind]}
            for kind in ("strict", "alike")
        },
        "counted_right": sum(row["strict"]["images_found"] == row["strict"]["images"] for row in rows),
        "perfect_puzzles": sum(row["strict"]["perfect"] == 1 for row in rows),
        "seconds": {"mean": round(float(np.mean([row["seconds"] for row in rows])), 2)},
        "threads": torch.get_num_threads(),
        "rows": rows,
        "versions": versions(),
    }


def rank_one(folder: Path, name: str) -> dict[str, Any]:
    """Return the share of sides with a neighbour whose neighbour is the best partner, by compatibility."""
    measures: dict[str, Callable[[Tensor], Tensor]] = {
        "sum_of_squares": lambda pieces: -compatibility.sum_of_squares(pieces, False),
        "prediction (0.3, 1/16)": lambda pieces: -compatibility.prediction(pieces, False, 0.3, 1 / 16),
        "prediction": lambda pieces: -compatibility.prediction(pieces, False),
        "gradients": lambda pieces: -compatibility.gradients(pieces, False),
        "gradient_changes": lambda pieces: -compatibility.gradient_changes(pieces, False),
        "combined": lambda pieces: logits(pieces, False),
    }
    right, total = dict.fromkeys(measures, 0), 0
    for path in sorted((folder / name).iterdir()):
        jigsaw = cut(read_whole([path]), (SIZE, SIZE))
        assert jigsaw.truth is not None
        wanted = neighbours(jigsaw.truth)
        total += int((wanted != EMPTY).sum())
        for measure_name, function in measures.items():
            best = function(jigsaw.pieces.float()).argmax(-1).numpy()  # of each side, as of the truth: (4, n)
            right[measure_name] += int((best == wanted).sum())
    return {"task": f"sides_{name}", "sides": total, "rank_one": {key: value / total for key, value in right.items()}}


def fit(folder: Path) -> None:
    """Fit the slopes of `CLASSICAL` by logistic regression over the partners of every side, and no neighbour."""
    data = []
    for path in sorted((folder / "bsds").iterdir())[:: 300 // FITTED]:
        jigsaw = cut(read_whole([path]), (SIZE, SIZE))
        assert jigsaw.truth is not None
        pieces, wanted = jigsaw.pieces.float(), torch.from_numpy(neighbours(jigsaw.truth))
        values = pieces.shape[1] * SIZE
        tables = [-(function(pieces, False) / values + LEAST).log() for function, _ in CLASSICAL]
        data.append((torch.stack(tables).clamp(min=-50), torch.where(wanted == EMPTY, len(pieces), wanted)))
    slopes = torch.tensor([slope for _, slope in CLASSICAL], requires_grad=True)
    optimizer = torch.optim.LBFGS([slopes], max_iter=40, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses = []
        for tables, wanted in data:
            table = torch.einsum("k,kwab->wab", slopes, tables)
            with torch.no_grad():
                none = alone(table.logsumexp(-1), wanted.shape[1] ** -0.5)
            table = torch.cat([table, none.expand(*wanted.shape, 1)], -1)
            losses.append(torch.nn.functional.cross_entropy(table.flatten(0, 1), wanted.flatten()))
        loss = torch.stack(losses).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    before = closure().item()
    optimizer.step(closure)  # type: ignore[no-untyped-call]
    print(f"from a loss of {before:.4f} to {closure().item():.4f}:")
    for (function, _), slope in zip(CLASSICAL, slopes.tolist(), strict=True):
        print(f"  {getattr(function, '__name__', function)}: {slope:.2f}")


def main(arguments: Sequence[str]) -> None:
    folder, *tasks = arguments
    for task in tasks:
        if task == "fit":
            fit(Path(folder))
        else:
            kind, _, name = task.partition("_")
            found = rank_one(Path(folder), name) if kind == "sides" else measure(Path(folder), task)
            files.write_json(RESULTS / f"{task}.json", found)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python experiments/jigsaw.py FOLDER TASK [TASK ...]")
    main(sys.argv[1:])
