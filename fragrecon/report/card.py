"""The model card of an export: what was trained, on what, how well it scores, and what the user says about it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fragrecon import files
from fragrecon.config.saved import is_inert
from fragrecon.config.schema import class_name
from fragrecon.errors import ConfigError
from fragrecon.models.base import Classifier, Decoder, FragmentModel, Inpainter, PairScorer, Solver
from fragrecon.report import metrics
from fragrecon.runs.read import Run
from fragrecon.runs.write import ONNX, WEIGHTS

LIMITS, TERMS = "## Limits", "## Terms of the data"
TO_FILL_IN = f"""{LIMITS}

To be filled in: on which images the model was not tested, and where it fails.

{TERMS}

To be filled in: the licence of the training images, and what it permits to do with the weights.
"""
ABILITIES = (
    (Solver, "groups the fragments of mixed images and reassembles each image (`mode=reassemble`)"),
    (PairScorer, "scores for each pair of fragments whether they are from the same image, and whether they touch"),
    (Inpainter, "predicts the hidden patches of an image (`mode=draw`)"),
    (Decoder, "decodes embeddings to pixels (`mode=draw`)"),
    (Classifier, "classifies embeddings"),
)
"""What the models of a kind are for, besides embedding fragments."""


def notes(given: str | None, earlier: Path) -> str:
    """Return the last sections of a card, which the user writes.

    Args:
        given: file with these sections; None to keep those of an earlier card.
        earlier: the earlier card, which need not exist.

    Raises:
        ConfigError: the file is missing, or does not consist of these sections; the earlier card is no text.
    """
    if given is None:
        try:
            text = files.read_text(earlier) if earlier.is_file() else ""
        except ValueError as error:
            raise ConfigError(f"{earlier} cannot be read, so that its last sections cannot be kept: {error}") from None
        return "".join(text.partition(f"\n{LIMITS}\n")[1:]).lstrip() or TO_FILL_IN
    try:
        text = Path(given).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"export.notes={given} cannot be read: {error}") from None
    if not text.startswith(f"{LIMITS}\n") or f"\n{TERMS}\n" not in text:
        raise ConfigError(f"export.notes={given} should consist of two sections, '{LIMITS}' and '{TERMS}'")
    return f"{text}\n"


def model_card(run: Run, model: FragmentModel, export: dict[str, Any], own: str) -> str:
    """Write the card of a scored run.

    Args:
        run: run that is exported.
        model: its model.
        export: section ``export`` of the export's ``metrics.json``.
        own: last sections, from `notes`.

    Returns:
        The card, in Markdown.
    """
    name = class_name(run.config)
    parts = (
        f"# {name}, trained on {run.config.data.name}",
        " ".join((inspect.getdoc(type(model)) or "").partition("\n\n")[0].split()),
        *_model(run, model),
        *_training(run),
        *_scores(run, export["checkpoint"]),
        *_files(export),
        own.strip(),
    )
    return "\n\n".join(parts) + "\n"


def _model(run: Run, model: FragmentModel) -> Iterator[str]:
    facts, data = run.metrics["model"], run.config.data
    (channels, height, width), (_, h, w) = data.image_shape, data.fragment_shape
    size = "images of any size" if model.any_size else f"images of {height}x{width} pixels, fragments of {h}x{w} pixels"
    yield "## Model"
    yield _listed(
        [
            f"{facts['parameters']:,} parameters; embeddings of {facts.get('latent_dim')} dimensions",
            f"input: {size}, {channels} channel{'s' * (channels > 1)}, in [0, 1]",
            "embeds fragments, so that clusters of the embeddings are the images (`mode=embed`, `run.embed`)",
            *(use for kind, use in ABILITIES if isinstance(model, kind)),
        ]
    )
    yield "To load it from this folder, or from an installed package by its name:"
    yield "```python\nfrom fragrecon import load_run\n\nrun = load_run(FOLDER)\n```"


def _training(run: Run) -> Iterator[str]:
    data, seconds = run.metrics["data"], run.metrics["seconds"]
    lossy = f"{data['lossy']} of the {data['images']} test images are stored with lossy compression at this size."
    yield "## Training"
    yield f"Data: {data['name']}. {metrics.caveat(run.metrics) or lossy}"
    yield f"```\n{' '.join(['python -m fragrecon.run', *_overrides(run)])}\n```"
    versions = ", ".join(f"{name} {version}" for name, version in run.metrics["versions"].items())
    yield _listed(
        [
            f"machine: {run.status.get('machine') or 'not recorded'}",
            f"started {run.status.get('started')}, finished {run.status.get('finished')}",
            f"time: {', '.join(f'{part} {value:,.0f} s' for part, value in seconds.items())}",
            f"commits: {_commits(run)}",
            f"versions: {versions}",
        ]
    )


def _commits(run: Run) -> str:
    """List the commit of each package; those of packages that are not in a checkout are not known."""
    found: dict[str, str | None] = run.status.get("commits") or {}
    return ", ".join(f"{name} {known}" for name, known in found.items() if known) or "not recorded"


def _overrides(run: Run) -> list[str]:
    """Return the overrides that affect results; FOLDER stands for paths of the machine."""
    found = []
    for override in run.overrides:
        key, _, value = override.partition("=")
        is_path = key == "data.root" or value.strip("'\"").startswith(("/", "~/", "./", "../"))
        if not is_inert(key.lstrip("+~")):
            found.append(f"{key}=FOLDER" if is_path else override)
    return found


def _scores(run: Run, checkpoint: str) -> Iterator[str]:
    """List all scores of the model, and those of the baselines."""
    protocol, scores = run.metrics["protocol"], metrics.scores_of(run.metrics)
    methods = ["model", *(method for method in scores if method != "model")]
    yield "## Scores"
    if (scored := run.metrics["model"].get("checkpoint")) != checkpoint:
        yield f"These are scores of the checkpoint `{scored}` of this run. The weights here are of `{checkpoint}`."
    yield (
        f"{protocol['puzzles']} puzzles of {protocol['images_per_puzzle']} test images; mean over "
        f"{metrics.samples(protocol)} ± half its 95% interval."
    )
    rows = [["", *map(metrics.label, methods)], ["---", *["---:"] * len(methods)]]
    for metric in metrics.ordered(scores["model"]):
        values = (scores[method].get(metric) for method in methods)
        cells = (metrics.around(metric, found["mean"], metrics.half(found)) if found else "" for found in values)
        rows.append([metrics.title(metric), *cells])
    yield "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _files(export: dict[str, Any]) -> Iterator[str]:
    yield "## Files"
    converted = export["onnx"]
    difference = "not compared with torch"
    if converted and converted["difference"] is not None:
        difference = f"differs from torch by at most {converted['difference']:.1e}"
    yield _listed(
        [
            f"`{WEIGHTS}`: float16 weights, SHA-256 `{export['sha256']}`. On a generated puzzle of "
            f"{export['fragments']} fragments, embeddings differ from those of the float32 weights by at most "
            f"{export['embedding_difference']:.1e}; the greatest value in them is {export['embedding_greatest']:.1e}",
            *([f"`{ONNX}`: the same model as ONNX, for any number of fragments; {difference}"] if converted else []),
        ]
    )


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
