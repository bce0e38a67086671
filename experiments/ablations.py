"""Trains mosaic on a short schedule, whole and with one part left out at a time, and gathers the scores.

    python experiments/ablations.py data.root=FOLDER [OVERRIDE ...]

Each run is one of ``python -m fragrecon.run experiment=ablations``, in ``multirun/ablations/NAME``; one that is done
is not run again. Their scores puzzle by puzzle are written to ``experiments/results/mosaic/ablations.npz``.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fragrecon import files
from fragrecon.evaluation.statistics import Scores
from fragrecon.runs import load_run

HERE = Path(__file__).resolve().parent
RUNS = HERE.parent / "multirun" / "ablations"
LEFT_OUT = {
    "whole": [],
    "neither_edges_nor_seams": ["model.edges=false", "model.seams=false"],
    "no_context": ["model.context=false"],
    "half_the_depth": ["model.depth=4"],
    "no_learned_edges": ["model.edges=false"],
    "no_loss_on_sides": ["objective.sides=0"],
    "no_seam_features": ["model.seams=false"],
}
KEPT = ("kmeans_ari", "reassembly_perfect")


def main(overrides: Sequence[str]) -> None:
    arrays: dict[str, Scores] = {}
    for name, settings in LEFT_OUT.items():
        folder = RUNS / name
        if not (folder / "scores.npz").is_file():
            line = ["experiment=ablations", *settings, *overrides, f"hydra.run.dir={folder}"]
            subprocess.run([sys.executable, "-m", "fragrecon.run", *line], check=True)
        scores = files.read_arrays(load_run(folder).folder / "scores.npz")
        arrays |= {f"{name}/{metric}": scores[f"model/{metric}"] for metric in KEPT}
    files.write_arrays(HERE / "results" / "mosaic" / "ablations.npz", arrays)


if __name__ == "__main__":
    main(sys.argv[1:])
