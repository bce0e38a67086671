"""Write the pages and tables of the site that follow from the code, from ``conf/`` and from ``experiments/``."""

from __future__ import annotations

import importlib
import json
import pkgutil
from pathlib import Path

import configuration

from fragrecon.models.base import count_parameters
from fragrecon.report import metrics
from fragrecon.run import compose
from fragrecon.runs.modules import build_on_meta

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = ROOT / "experiments" / "results"

API = (
    *("fragrecon.trainer", "fragrecon.runs", "fragrecon.models", "fragrecon.objectives", "fragrecon.clustering"),
    *("fragrecon.reassembly", "fragrecon.evaluation", "fragrecon.data", "fragrecon.training", "fragrecon.config"),
    *("fragrecon.errors", "fragrecon.seams", "fragrecon.seeds"),
)
"""Packages and modules with a page of their own; that of a package has its modules."""
SCHEMA = ("fragrecon.config.schema", "fragrecon.config.evaluation", "fragrecon.config.types")
"""Described key by key in the reference of the configuration."""
AGAIN = ("sklearn", "embed_plain")
"""Folders of results of models that another folder has, too."""


def main() -> None:
    """Write all of them, and delete those that are out of date."""
    pages = api() | results()
    tables = {"sections": configuration.sections(), "options": configuration.options(), "metrics": metrics_tables()}
    pages |= {f"generated/{name}.md": text for name, text in tables.items()}
    for path in configuration.options_of("model"):
        pages[f"generated/models/{path.stem}.md"] = model(path)
        name = configuration.target_of("model", path).__name__
        pages[f"generated/results/{name}.md"] = recorded(name)
    pages["generated/faults.md"] = faults()
    for name, text in pages.items():
        path = HERE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text() != text:  # so that Sphinx reads only what has changed
            path.write_text(text)
    for path in (*HERE.glob("api/fragrecon*.md"), *HERE.glob("results/*.md")):
        if str(path.relative_to(HERE)) not in pages:
            path.unlink()


def results() -> dict[str, str]:
    """Return a page for each of ``experiments/``, which includes it."""
    names = sorted(path.name for path in (ROOT / "experiments").glob("*.md"))
    return {f"results/{name}": f"```{{include}} ../../experiments/{name}\n:relative-images:\n```\n" for name in names}


def faults() -> str:
    """Return the outcomes of the last ``make faults``, as a table."""
    found = json.loads((HERE / "faults.json").read_text())
    outcomes = found["outcomes"]
    head = f"`make faults` on {found['date']}: {len(outcomes)} cases in {found['seconds'] / 60:.0f} minutes"
    rows = [["case", "outcome"], *([case, outcome] for case, outcome in outcomes.items())]
    return f"{head}, in {found['machine']}.\n\n{configuration.markdown(rows)}"


def api() -> dict[str, str]:
    """Return a page for each of `API`, with what the docstrings of its public modules say."""
    pages = {}
    for name in API:
        path = getattr(importlib.import_module(name), "__path__", [])
        parts = [f"# `{name}`\n", automodule(name, members=not path)]
        for found in pkgutil.walk_packages(path, f"{name}."):
            if found.name not in SCHEMA:
                head = found.name.removeprefix(f"{name}.")
                parts += [f"## `{head}`\n", automodule(found.name, members=not found.ispkg)]
        pages[f"api/{name}.md"] = "\n".join(parts)
    return pages


def automodule(name: str, *, members: bool) -> str:
    """Return what shows the docstring of a module and, unless it is a package, of its members."""
    return f"```{{eval-rst}}\n.. automodule:: {name}\n{'   :members:' if members else ''}\n```\n"


def metrics_tables() -> str:
    """Describe every metric that a recorded result has, and those of the registry, by family."""
    recorded: dict[str, None] = dict.fromkeys(metrics.SHOWN)
    for path in sorted(RESULTS.rglob("*.json")):
        result = json.loads(path.read_text())
        for scores in result["scores"].values() if "model_minus" in result else ():
            recorded |= dict.fromkeys(scores)
    for columns in (metrics.BEYOND, metrics.PAIRS, metrics.REASSEMBLY, metrics.COMPOSITE, metrics.LATENTS):
        recorded |= dict.fromkeys(columns)
    recorded |= dict.fromkeys(f"reconstruction_{metric}" for metric in metrics.PERCEPTUAL)
    parts = []
    for family in metrics.FAMILIES:
        rows = [["name in `metrics.json`", "in tables", "unit", "better", "shown by default"]]
        for metric in family.of(recorded):
            found = metrics.measure(metric)
            better = "lower" if found.lower_is_better else "higher"
            shown = "yes" if metric in family.shown else ""
            rows.append([f"`{metric}`", metrics.name(metric), found.unit, better, shown])
        prefixes = " or ".join(f"`{prefix}`" for prefix in family.prefixes if prefix)
        starts = f"Names start with {prefixes}." if prefixes else ""
        ranks = f"Runs are ranked by `{family.compared}`." if family.compared else ""
        parts.append(f"## {family.name}\n\n{' '.join(filter(None, (starts, ranks, family.note)))}\n\n")
        parts.append(configuration.markdown(rows) + "\n" if len(rows) > 1 else "")
    return "".join(parts)


def model(path: Path) -> str:
    """Describe an option of ``model``: its keys, its parameters and its class."""
    target = configuration.target_of("model", path)
    parts = [f"    python -m fragrecon.run model={path.stem}\n"]
    parts.append(configuration.markdown(configuration.keys_of("model", path)))
    if count := parameters(path):
        parts.append(f"{count:,} parameters for colour fragments of 16x16 pixels.\n")
    parts.append(f"Class: {{py:class}}`{target.__module__}.{target.__qualname__}`.\n")
    return "\n".join(parts)


def parameters(path: Path) -> int | None:
    """Count the parameters of a model with the default settings; None if it needs further ones."""
    if "???" in path.read_text():
        return None
    return count_parameters(build_on_meta(compose([f"model={path.stem}"]), (4, 4))[0])


def recorded(name: str) -> str:
    """Return the recorded results of a class of models, as a table."""
    rows = [["result", "data", "parameters", "training, min", "scores"]]
    for path in sorted(RESULTS.rglob("*.json")):
        result = json.loads(path.read_text())
        if result.get("model", {}).get("name") != name or path.parent.name in AGAIN:
            continue
        if "model" not in result.get("scores", {}):  # of a benchmark, or by condition
            continue
        scores, seconds = result["scores"]["model"], result.get("seconds", {}).get("training")
        best = metrics.compared(scores)
        cells = [path.relative_to(RESULTS).with_suffix("").as_posix(), result["data"]["name"]]
        cells += [f"{result['model']['parameters']:,}", f"{seconds / 60:.0f}" if seconds else ""]
        values = [metrics.around(one, scores[one]["mean"], metrics.half(scores[one])) for one in best]
        shown = "; ".join(f"{metrics.title(one)} {value}" for one, value in zip(best, values, strict=True))
        rows.append([*cells, shown])
    return configuration.markdown(rows) if len(rows) > 1 else ""


if __name__ == "__main__":
    main()
