"""Score models on the same puzzles before and after JPEG compression of the whole images.

    python experiments/leak.py --run NAME FOLDER [--run NAME FOLDER ...] data=imagenet64 data.root=IMAGES [OVERRIDE ...]

FOLDER is the run of a model, IMAGES a data set that was never compressed at the size at which it is cut. Overrides are
those of the command line; all models are scored on the puzzles that they define. Writes ``results/leak/NAME.json`` and
prints their table; `leak.md` explains it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

import tables

from fragrecon import files
from fragrecon.config.schema import Config, class_name
from fragrecon.data.module import FragmentData
from fragrecon.evaluation.clustering.protocol import evaluate
from fragrecon.evaluation.clustering.robustness import JPEG_QUALITY, Condition
from fragrecon.evaluation.clustering.scoring import methods_of
from fragrecon.evaluation.setup import open_data, protocol_of
from fragrecon.evaluation.statistics import paired_summaries, summary
from fragrecon.machine import device_of
from fragrecon.models.base import count_parameters
from fragrecon.progress import progress
from fragrecon.report.results import open_model
from fragrecon.run import compose
from fragrecon.runs.read import Run, load_run

QUALITIES = (95, 75)
USUAL = "as_they_are"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", nargs=2, action="append", required=True, metavar=("NAME", "FOLDER"))
    parser.add_argument("overrides", nargs="*", help="of the configuration: the data, the number of puzzles")
    given = parser.parse_args(arguments)
    config = compose(given.overrides)
    data = open_data(config)
    data.check_test(config.evaluation.puzzles)
    data.warn_if_lossy()
    for name, folder in given.run:
        files.write_json(tables.RESULTS / "leak" / f"{name}.json", compared(load_run(folder), config, data))
    print(tables.markdown(tables.leak([f"leak/{name}" for name, _ in given.run])), end="")


def compared(run: Run, config: Config, data: FragmentData) -> dict[str, Any]:
    """Score the model of a run on images as they are and at each quality.

    Returns:
        Summaries of the scores by condition, method and metric, and of their paired differences to `USUAL`.

    Raises:
        ConfigError: the model does not fit the fragments of the data.
    """
    device, protocol, evaluation = device_of(config.trainer), protocol_of(config), config.evaluation
    model = open_model(config, run, run.checkpoint).to(device)
    puzzles, methods = data.test_set(evaluation.puzzles), methods_of(model, protocol, data.grid)
    with progress(f"scoring {run.folder.name}", (1 + len(QUALITIES)) * len(puzzles)) as advance:
        score = partial(evaluate, puzzles, methods, batch_size=evaluation.batch_size, device=device, advance=advance)
        found = {USUAL: score()}
        for condition in (Condition(JPEG_QUALITY, quality) for quality in QUALITIES):
            found[str(condition)] = score(change=partial(condition.change, seed=protocol.seed, grid=data.grid))
    manifest = data.store("test").manifest
    return {
        "protocol": {
            "puzzles": len(puzzles),
            "images_per_puzzle": config.data.images_per_puzzle,
            "fragment_shape": list(config.data.fragment_shape),
            "backend": evaluation.backend,
            "restarts": evaluation.restarts,
            "seed": evaluation.seed,
        },
        "data": {"name": config.data.name, "images": manifest.count, "lossy": manifest.lossy},
        "model": {"name": class_name(run.config), "parameters": count_parameters(model)},
        "scores": {
            condition: {
                method: {metric: summary(values) for metric, values in scores.items()}
                for method, scores in by_method.items()
            }
            for condition, by_method in found.items()
        },
        "minus_as_they_are": {
            condition: {method: paired_summaries(scores, found[USUAL][method]) for method, scores in by_method.items()}
            for condition, by_method in found.items()
            if condition != USUAL
        },
    }


if __name__ == "__main__":
    main()
