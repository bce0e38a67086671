"""Train models with and without some of their parts, and collect the scores.

    python experiments/ablations.py mosaic data.root=FOLDER [OVERRIDE ...]
    python experiments/ablations.py mixed data.root=FOLDER [OVERRIDE ...]

``mosaic`` trains the mosaic whole and with one part left out at a time, each as ``python -m fragrecon.run
experiment=ablations`` in ``multirun/ablations/NAME``. ``mixed`` is the sweep ``experiment=mixed_ablation`` of a masked
autoencoder, with and without mixed fragments. Finished runs are not repeated. The scores of each puzzle are written to
``experiments/results/``.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fragrecon import files
from fragrecon.errors import ConfigError
from fragrecon.report.leaderboard import jobs_of
from fragrecon.runs.read import load_run

HERE = Path(__file__).resolve().parent
RUNS = HERE.parent / "multirun"
LEFT_OUT = {
    "whole": [],
    "neither_edges_nor_seams": ["model.edges=false", "model.seams=false"],
    "no_context": ["model.context=false"],
    "half_the_depth": ["model.depth=4"],
    "no_learned_edges": ["model.edges=false"],
    "no_loss_on_sides": ["objective.sides=0"],
    "no_seam_features": ["model.seams=false"],
}


def main(study: str, overrides: Sequence[str]) -> None:
    if study == "mosaic":
        folders = {name: RUNS / "ablations" / name for name in LEFT_OUT}
        for name, folder in folders.items():
            if not (folder / "scores.npz").is_file():
                run("experiment=ablations", *LEFT_OUT[name], *overrides, f"hydra.run.dir={folder}")
        gather(folders, ("kmeans_ari", "reassembly_perfect"), "mosaic/ablations")
    elif study == "mixed":
        sweep = RUNS / "mixed_ablation"
        run("experiment=mixed_ablation", *overrides, f"hydra.sweep.dir={sweep}")
        runs = {mixing(job.run.config.objective): job.run.folder for job in jobs_of(sweep) if job.run}
        order = ("not_mixed", "mixed", "mixed_and_recognised")
        gather({name: runs[name] for name in order}, ("mean_clustering_score", "kmeans_ari"), "fragments/mixed")
    else:
        raise ConfigError(f"'{study}' is not a study; use mosaic or mixed")


def mixing(objective: Mapping[str, float | None]) -> str:
    """Return the name of a variant of the sweep ``mixed_ablation``."""
    if not objective["mix"]:
        return "not_mixed"
    return "mixed_and_recognised" if objective["homologous"] else "mixed"


def run(*overrides: str) -> None:
    subprocess.run([sys.executable, "-m", "fragrecon.run", *overrides], check=True)


def gather(folders: Mapping[str, Path], metrics: Sequence[str], name: str) -> None:
    """Write the scores of several runs to ``results/NAME.npz``, under the name of each."""
    found = {run: files.read_arrays(load_run(folder).folder / "scores.npz") for run, folder in folders.items()}
    arrays = {f"{run}/{metric}": scores[f"model/{metric}"] for run, scores in found.items() for metric in metrics}
    files.write_arrays(HERE / "results" / f"{name}.npz", arrays)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
