"""Write the tables of README.md and of the pages in ``experiments/`` from recorded results.

With ``--check`` nothing is written: pages whose tables differ from the results are printed, and the exit status is 1.

A table stands between two comments. The first names the kind of the table, which is one of the functions below, and
the results in the order of its rows:

    <!-- scores: baselines/pca baselines/conv -->
    <!-- end of table -->

A result NAME is ``results/NAME.json``, a copy of a run's ``metrics.json``; some kinds read further files of that name:
``.csv`` (epochs), ``.npz`` (scores by puzzle), ``.robustness.csv``, ``-SEED.json``, or ``.cpu.json`` and ``.cuda.json``
(of ``mode=bench``). ``bench``, ``training`` and ``steps`` read ``benchmarks/results/NAME.json``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import cnn_v3
import jigsaw as puzzles
import latents

from fragrecon import files
from fragrecon.evaluation.statistics import paired, summary
from fragrecon.report import metrics
from fragrecon.report.figures.bench import mebibytes, significant
from fragrecon.report.metrics import label

HERE = Path(__file__).resolve().parent
RESULTS, BENCHMARKS = HERE / "results", HERE.parent / "benchmarks" / "results"
PAGES = [HERE.parent / "README.md", *sorted(HERE.glob("*.md"))]
MARKED = re.compile(r"(<!-- (?P<kind>\w+): (?P<names>[^>]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
SELECTION = "val_mean_clustering_score"
PAIR_SCORES = ("spectral_ari", "spectral_nmi", "spectral_accuracy", "same_auroc", "adjacency_auroc")
MASKED = ("masked_psnr", "masked_ssim", "masked_mse", "composite_psnr", "composite_ssim")
PROBES = ("reconstruction_psnr", *metrics.PROBES.shown)
DOWNSAMPLED = "downsampled"
ABLATED = ("kmeans_ari", "mean_clustering_score", "reassembly_perfect")
GROUNDS = {"clean": "clean", "compressed": "JPEG"}
"""Folders of results on images that were never compressed at their size, and on images that were; column heads."""
AIMS = {
    "images 10": 0.99,
    "images 50": 0.97,
    "images 100": 0.95,
    "gap 1": 0.95,
    "gap 2": 0.87,
    "gap 3": 0.78,
    "noise 0.05": 0.98,
    "noise 0.1": 0.93,
    "rotation 0.75": 0.95,
    "jitter 0.2": 0.95,
    "jitter 0.4": 0.80,
    "missing 0.1": 0.98,
    "missing 0.33": 0.95,
}
"""KMeans ARI that `mosaic_any` should reach under each condition."""
LEAKING = ("kmeans_ari", "reassembly_perfect", "placing_direct")
DEVICES = {"cpu": "CPU", "cuda": "GPU"}

Rows = list[list[str]]


def compared(
    names: Sequence[str],
    columns: Sequence[str],
    parameters: bool = False,
    minus: tuple[str, Sequence[str]] = ("", ()),
    without: str = "",
) -> Rows:
    """A row for each baseline and each result: means with half their 95% intervals.

    Args:
        names: the results.
        columns: metrics to show.
        parameters: whether to show the number of parameters.
        minus: a baseline, and the metrics whose paired differences from it are shown.
        without: a baseline to omit.

    Raises:
        ValueError: the results were not scored on the same puzzles.
    """
    results = {name: result_of(name) for name in names}
    other, differences = minus
    heads = ["", *["parameters"] * parameters, *map(metrics.title, columns)]
    rows = [[*heads, *(f"{metrics.name(metric)} - {label(other)}" for metric in differences)]]
    for baseline, found in baselines_of(results, columns).items():
        if baseline != without:
            cells = [cell(metric, found[metric]) for metric in columns]
            rows.append([label(baseline), *[""] * parameters, *cells, *[""] * len(differences)])
    for name, result in results.items():
        found = result["scores"]["model"]
        if set(columns) <= found.keys():
            count = [f"{result['model']['parameters']:,}"] * parameters
            cells = [cell(metric, found[metric]) for metric in columns]
            cells += [cell(metric, result["model_minus"][other][metric], "+") for metric in differences]
            rows.append([code(name), *count, *cells])
    return rows


def baselines_of(results: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    """Scores of the baselines that have all of these metrics; raises `ValueError` if they differ between results."""
    found: dict[str, Any] = {}
    for result in results.values():
        for method, scores in result["scores"].items():
            if method != "model" and set(columns) <= scores.keys() and found.setdefault(method, scores) != scores:
                raise ValueError(f"{list(results)} were not scored on the same puzzles: their {method} differs")
    return found


def scores(names: list[str]) -> Rows:
    """Scores by the clustering protocol, parameters, and the difference from raw pixels."""
    return compared(names, metrics.CLUSTERING.shown, parameters=True, minus=("raw_pixels", ["kmeans_ari"]))


def beyond(names: list[str]) -> Rows:
    """Clustering scores that are not part of the protocol."""
    return compared(names, metrics.BEYOND, without="random")


def reassembly(names: list[str]) -> Rows:
    """Scores of reassembly, of the methods that have them."""
    return compared(names, metrics.REASSEMBLY)


def pairs(names: list[str]) -> Rows:
    """Scores of pairs of fragments, of the models that have them."""
    return compared(names, PAIR_SCORES)


def masked(names: list[str]) -> Rows:
    """Scores of inpainting, and the difference from the linear prediction."""
    return compared(names, MASKED, parameters=True, minus=("linear_prediction", MASKED[:2]))


def backends(names: list[str]) -> Rows:
    """Scores by the project's engine and, beside each, by the libraries."""
    shown = ("kmeans_ari", "kmedoids_ari", "mean_clustering_score")
    engine = compared(names, shown)
    libraries = compared([f"sklearn/{short(name)}" for name in names], shown)
    heads = ["", *(f"{metrics.title(metric)}, {backend}" for metric in shown for backend in ("batched", "sklearn"))]
    rows = [heads]
    for ours, theirs in zip(engine[1:], libraries[1:], strict=True):
        rows.append([ours[0], *(text for pair in zip(ours[1:], theirs[1:], strict=True) for text in pair)])
    return rows


def bench(names: list[str]) -> Rows:
    """Medians of the engine and of the loop over the libraries, by task, and their ratio."""
    rows = [["", "engine, ms per puzzle", "loop, ms per puzzle", "ratio"]]
    for name in names:
        for task, row in read(BENCHMARKS / f"{name}.json")["rows"].items():
            rows.append([task, f"{row['engine_ms']:.4f}", f"{row['loop_ms']:.3f}", f"{row['ratio']:.1f}"])
    return rows


def training(names: list[str]) -> Rows:
    """Benchmarks of training: steps, their share of the machine's peak, and the sprint."""
    rows = [["threads", "s per step", "puzzles/s", "share of peak", "sprint, s", "steps", "validation ARI"]]
    for name in names:
        result = read(BENCHMARKS / f"{name}.json")
        step, sprint = result["step"], result["sprint"]
        timed = [f"{step['threads']}", f"{step['seconds_a_step']:.3f}", f"{step['puzzles_a_second']:.1f}", share(step)]
        rows.append([*timed, f"{sprint['seconds']:.0f}", f"{sprint['steps']}", f"{sprint['val_kmeans_ari']:.3f}"])
    return rows


def steps(names: list[str]) -> Rows:
    """How fast experiments train, and at what share of the machine's peak."""
    rows = [["", "precision", "threads", "GFLOP per image", "images/s", "share of peak"]]
    for name in names:
        step = read(BENCHMARKS / f"{name}.json")["step"]
        images = step["puzzles_a_second"] * step["seconds_a_step"]
        timed = [f"{step['gflop_a_step'] / images:.3f}", f"{step['puzzles_a_second']:.0f}", share(step)]
        rows.append([f"`{name}`", step["precision"], str(step["threads"]), *timed])
    return rows


def share(step: Mapping[str, float]) -> str:
    return f"{step['share_of_peak']:.0%} of {step['peak_gflop_a_second']:,.0f} GFLOP/s"


def epochs(names: list[str]) -> Rows:
    """The best epoch of each training by the selection metric, and its last."""
    figures = ["validation loss", "validation score"]
    rows = [["", "best epoch", "step", *figures, "last epoch", *figures]]
    for name in names:
        course = files.read_csv(RESULTS / f"{name}.csv")
        best, last = max(course, key=lambda row: float(row[SELECTION])), course[-1]
        shown = [[f"{float(row['val/loss']):.4f}", f"{float(row[SELECTION]):.4f}"] for row in (best, last)]
        rows.append([code(name), best["epoch"], best["step"], *shown[0], last["epoch"], *shown[1]])
    return rows


def probes(names: list[str]) -> Rows:
    """PSNR and test accuracies of baselines and results, and the MLP's validation accuracy by epoch."""
    rows = [["", "parameters", *map(metrics.title, PROBES), "MLP, validation: best epoch", "last epoch"]]
    baselines: dict[str, list[str]] = {}
    results = {name: result_of(name) for name in names}
    for result in results.values():  # there are as many principal components as the model has latents
        for baseline in ("raw_pixels", "exact_pca"):
            count = f", {result['model']['latent_dim']}" if baseline == "exact_pca" else ""
            found = [cell(metric, result["scores"][baseline][metric]) for metric in PROBES[1:]]
            if baselines.setdefault(label(baseline) + count, found) != found:
                raise ValueError(f"{names} were not scored on the same images: their {baseline} differs")
    rows += [[name, "", "", *found, "", ""] for name, found in baselines.items()]
    for name, result in results.items():
        course = [float(row["validation_accuracy"]) for row in files.read_csv(RESULTS / f"{name}.csv")]
        found = [cell(metric, result["scores"]["model"][metric]) for metric in PROBES]
        held_out = [f"{accuracy:.4f}" for accuracy in (max(course), course[-1])]
        rows.append([code(name), f"{result['model']['parameters']:,}", *found, *held_out])
    return rows


def published(names: list[str]) -> Rows:
    """PSNR and accuracy of a folder's results beside published ones, by the number of latents."""
    (folder,) = names
    sources = [(model, where) for model in ("AE", "VAE") for where in ("there", "here")]
    rows = [["latents", *(f"{model} {what}, {where}" for what in ("PSNR", "accuracy") for model, where in sources)]]
    for at, count in enumerate(latents.LATENTS):
        cells = [str(count)]
        for metric, models in latents.PUBLISHED.items():
            digits = 3 if metric.endswith("accuracy") else 1
            for model, there in models.items():
                here = result_of(f"{folder}/{model}_{count}")["scores"]["model"][metric]["mean"]
                cells += [f"{there[at]:g}", f"{here:.{digits}f}"]
        rows.append(cells)
    return rows


def seeds(names: list[str]) -> Rows:
    """Mean and standard deviation over the seeds of a training, and the MLP's accuracy for each seed."""
    rows = [["", "seeds", *map(metrics.title, PROBES), "MLP accuracy by seed"]]
    for name in names:
        runs = [read(path)["scores"]["model"] for path in sorted(RESULTS.glob(f"{name}-[0-9].json"))]
        found = {metric: [run[metric]["mean"] for run in runs] for metric in PROBES}
        cells = [metrics.around(metric, mean(values), stdev(values)) for metric, values in found.items()]
        each = ", ".join(f"{value:.4f}" for value in found["probe_mlp_accuracy"])
        rows.append([code(name), str(len(runs)), *cells, each])
    return rows


def crops(names: list[str]) -> Rows:
    """PSNR and SSIM beside those of downsampling the same images to as many numbers."""
    rows = [["", "parameters", "latents", "epochs", "minutes"]]
    for metric in metrics.WHOLE.shown[:2]:
        rows[0] += [f"downsampled: {metrics.title(metric)}", metrics.title(metric), "difference"]
    for name in names:
        result, course = result_of(name), files.read_csv(RESULTS / f"{name}.csv")
        row = [code(name), f"{result['model']['parameters']:,}", f"{result['model']['latent_dim']:,}"]
        row += [f"{int(course[-1]['epoch']) + 1}", f"{result['seconds']['training'] / 60:.1f}"]
        for metric in metrics.WHOLE.shown[:2]:
            row += [cell(metric, result["scores"][method][metric]) for method in (DOWNSAMPLED, "model")]
            row.append(cell(metric, result["model_minus"][DOWNSAMPLED][metric], "+"))
        rows.append(row)
    return rows


def timings(names: list[str]) -> Rows:
    """Time and memory by batch size, on a CPU and, if it was measured there, on a GPU."""
    rows = [["", "parameters", "GFLOP per image", "images per batch"]]
    for device in DEVICES.values():
        rows[0] += [
            f"{device}: {what}" for what in ("forward, ms per image", "training, ms per image", "training, MiB")
        ]
    for name in names:
        found = timed(name)
        model = found["cpu"]["model"]
        about = [code(name), f"{model['parameters']:,}", f"{model['forward_gflop_an_image']:.2f}"]
        for at, row in enumerate(found["cpu"]["rows"]):
            cells = [*(["", "", ""] if at else about), str(row["batch_size"])]
            for device in DEVICES:
                cells += timing(found[device]["rows"][at]) if device in found else ["", "", ""]
            rows.append(cells)
    return rows


def timing(row: Mapping[str, Any]) -> list[str]:
    times = [significant(row[part]["ms_an_image"]) for part in ("forward", "training")]
    return [*times, mebibytes(row["training"]["memory_bytes"])]


def timed(name: str) -> dict[str, Any]:
    """Results of ``mode=bench`` by the type of device."""
    paths = {device: RESULTS / f"{name}.{device}.json" for device in DEVICES}
    return {device: read(path) for device, path in paths.items() if path.is_file()}


def estimates(names: list[str]) -> Rows:
    """Parameters and memory of training in float32 of each preset and size, as estimated and as measured."""
    (folder,) = names
    rows = [["", "images per batch", "parameters: estimate", "found", "GB, a GPU: estimate"]]
    rows[0] += [f"GB, {device}: {what}" for device in DEVICES.values() for what in ("tensors", "process")]
    for preset, (parameters, memory) in cnn_v3.ESTIMATED.items():
        for size, (height, width) in cnn_v3.SIZES.items():
            found = timed(f"{folder}/{preset}_{size}_float32")
            cells = [f"`{preset}`, {height}x{width}", str(cnn_v3.BATCHES[size][preset]), parameters]
            cells += [f"{found['cpu']['model']['parameters']:,}", memory]
            for device in DEVICES:
                for row in found[device]["rows"] if device in found else [None]:
                    held = (row["training"]["memory_bytes"], row["process_memory_bytes"]) if row else None
                    cells += [f"{amount / 1e9:.2f}" for amount in held] if held else ["", ""]
            rows.append(cells)
    return rows


def speeds(names: list[str]) -> Rows:
    """Time, memory and images a second of a forward pass of each network and size, as estimated and as measured."""
    (folder,) = names
    quantities = {"ms per image": "ms_an_image", "MB per batch": "memory_bytes", "images/s": "images_a_second"}
    heads = [
        "",
        "images per batch",
        *(f"{name}: {of}" for name in quantities for of in ("estimate", *DEVICES.values())),
    ]
    rows = [heads]
    for name, estimated in cnn_v3.ESTIMATED_SPEEDS.items():
        found = {device: result["rows"][-1] for device, result in timed(f"{folder}/{name}").items()}
        preset, _, size = name.partition("_")
        height, width = cnn_v3.SIZES[size]
        cells = [f"`{preset}`, {height}x{width}", str(found["cpu"]["batch_size"])]
        for estimate, (unit, key) in zip(estimated, quantities.items(), strict=True):
            times = 1e-6 if unit == "MB per batch" else 1
            values = [found[device]["forward"][key] * times if device in found else None for device in DEVICES]
            cells += [estimate, *("" if value is None else significant(value) for value in values)]
        rows.append(cells)
    return rows


def elsewhere(names: list[str]) -> Rows:
    """Results on images of other sources: KMeans ARI beside that of raw pixels, and reassembly."""
    shown = ("kmeans_ari", "reassembly_direct", "reassembly_perfect")
    rows = [["", "images", "raw pixels: KMeans ARI", *(f"model: {metrics.title(metric)}" for metric in shown)]]
    for name in names:
        result = result_of(name)
        cells = [cell(shown[0], result["scores"]["raw_pixels"][shown[0]])]
        cells += [cell(metric, result["scores"]["model"][metric]) for metric in shown]
        rows.append([short(name), str(result["data"]["images"]), *cells])
    return rows


def harder(names: list[str]) -> Rows:
    """KMeans ARI of each result's model, and of the colour histogram, under each condition."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for name in names:
        for row in files.read_csv(RESULTS / f"{name}.robustness.csv"):
            if row.get("metric") == "kmeans_ari" and row["method"] in ("model", "colour_histogram"):
                method = code(name) if row["method"] == "model" else label(row["method"])
                key = row["axis"], f"{float(row['value']):g}"
                found.setdefault(key, {})[method] = spread("kmeans_ari", row)
    methods = [*map(code, names), label("colour_histogram")]
    rows = [["condition", *methods]]
    for (axis, value), cells in found.items():
        if len(cells) == len(methods):
            rows.append([f"{label(axis)} {value}", *(cells[method] for method in methods)])
    return rows


def grounds(names: list[str]) -> Rows:
    """Scores of the same models on clean images and on images compressed at their size; NAMEs without the folder."""
    shown = ("kmeans_ari", "mean_clustering_score", "reassembly_perfect")
    rows = [["", "parameters", *(f"{metrics.title(metric)}, {head}" for metric in shown for head in GROUNDS.values())]]
    results = {name: {ground: result_of(f"{ground}/{name}") for ground in GROUNDS} for name in names}
    methods: dict[str, dict[str, Any]] = {}
    for ground in GROUNDS:
        for method, scores in baselines_of({name: results[name][ground] for name in names}, shown[:1]).items():
            methods.setdefault(label(method), {"count": ""})[ground] = scores
    for name, by_ground in results.items():
        count = f"{by_ground['clean']['model']['parameters']:,}"
        methods[f"`{name}`"] = {"count": count} | {ground: by_ground[ground]["scores"]["model"] for ground in GROUNDS}
    for method, found in methods.items():
        pairs = [(metric, found[ground]) for metric in shown for ground in GROUNDS]
        cells = [cell(metric, scores[metric]) if metric in scores else "" for metric, scores in pairs]
        rows.append([method, found["count"], *cells])
    return rows


def aims(names: list[str]) -> Rows:
    """KMeans ARI, and rotations predicted correctly, under each condition of `AIMS`, beside what is aimed at."""
    (name,) = names
    rows = [["condition", "puzzles", "aim", "reached", "rotation accuracy"]]
    found = {
        (f"{label(row['axis'])} {float(row['value']):g}", row["metric"]): row
        for row in files.read_csv(RESULTS / f"{name}.robustness.csv")
        if row["method"] == "model" and row.get("metric")
    }
    for condition, aim in AIMS.items():
        ari, accuracy = (found[condition, metric] for metric in ("kmeans_ari", "rotation_accuracy"))
        rows.append(
            [condition, ari["n"], f"{aim:.2f}", spread("kmeans_ari", ari), spread("rotation_accuracy", accuracy)]
        )
    return rows


def leak(names: list[str]) -> Rows:
    """Scores on images as they are and after JPEG compression, and paired differences."""
    results = {name: result_of(name) for name in names}
    if len({json.dumps([result["protocol"], result["data"]]) for result in results.values()}) > 1:
        raise ValueError(f"{list(results)} were not scored on the same puzzles")
    reassembled = [result for result in results.values() if "seam_gradients" in result["scores"]["as_they_are"]]
    shown = [(label("seam_gradients"), "seam_gradients", result) for result in reassembled[:1]]
    shown += [(code(name), "model", result) for name, result in results.items()]
    rows = [["", "images", *(part for metric in LEAKING for part in (metrics.title(metric), "minus as they are"))]]
    for name, method, result in shown:
        for condition, scores in result["scores"].items():
            minus = result["minus_as_they_are"].get(condition, {}).get(method, {})
            cells = [name, label(condition).replace("=", " ")]
            for metric in LEAKING:
                cells.append(cell(metric, scores[method][metric]) if metric in scores[method] else "")
                cells.append(cell(metric, minus[metric], "+") if metric in minus else "")
            rows.append(cells)
    return rows


def ablations(names: list[str]) -> Rows:
    """Means of each run in NAME.npz, and their paired differences to the first run."""
    (name,) = names
    arrays = files.read_arrays(RESULTS / f"{name}.npz")
    runs = list(dict.fromkeys(key.partition("/")[0] for key in arrays))
    shown = [metric for metric in ABLATED if f"{runs[0]}/{metric}" in arrays]
    rows = [["", *(part for metric in shown for part in (metrics.title(metric), f"minus {label(runs[0])}"))]]
    for run in runs:
        cells: list[str] = []
        for metric in shown:
            own, whole = arrays[f"{run}/{metric}"], arrays[f"{runs[0]}/{metric}"]
            difference = "" if run == runs[0] else cell(metric, paired(own, whole), "+")
            cells += [cell(metric, summary(own)), difference]
        rows.append([label(run), *cells])
    return rows


def jigsaw(names: list[str]) -> Rows:
    """Direct and neighbour comparison of each result and of publications, and results up to equal pieces."""
    heads = ["direct, %", "neighbours, %", "perfect"]
    rows = [["", "", "puzzles", *heads, *(f"{head}, equal pieces exchanged" for head in heads), "s per puzzle"]]
    for name in names:
        found, task = result_of(name), puzzles.title(short(name))
        rows += [
            [task, source, "20", *figures, "", "", "", ""]
            for source, *figures in puzzles.PUBLISHED.get(short(name), [])
        ]
        cells = []
        for kind in ("strict", "alike"):
            scores = found["scores"][kind]
            perfect = sum(row[kind]["perfect"] == 1 for row in found["rows"])
            cells += [f"{100 * scores['direct']:.1f}", f"{100 * scores['neighbours']:.1f}", str(perfect)]
        rows.append([task, "here", str(found["puzzles"]), *cells, f"{found['seconds']['mean']:.1f}"])
    return rows


def bags(names: list[str]) -> Rows:
    """Scores of puzzles of several images, whose number and sizes were not known."""
    rows = [["", "bags", "SEDAS", "ENAS", "neighbours, %", "bags perfect", "bags of the right number", "s per bag"]]
    for name in names:
        found = result_of(name)
        scores = found["scores"]["strict"]
        cells = [f"{scores['sedas']:.3f}", f"{scores['enas']:.3f}", f"{100 * scores['neighbours']:.1f}"]
        counts = [str(found["perfect_puzzles"]), str(found["counted_right"]), f"{found['seconds']['mean']:.1f}"]
        rows.append([puzzles.title(short(name)), str(found["puzzles"]), *cells, *counts])
    return rows


def sides(names: list[str]) -> Rows:
    """Share of sides whose true neighbour is the likeliest, by each compatibility."""
    results = {puzzles.title(short(name).removeprefix("sides_")): result_of(name) for name in names}
    rows = [["", *(f"{name}: {found['sides']:,} sides" for name, found in results.items())]]
    for measure in next(iter(results.values()))["rank_one"]:
        rows.append([f"`{measure}`", *(f"{found['rank_one'][measure]:.3f}" for found in results.values())])
    return rows


def edges(names: list[str]) -> Rows:
    """Rank-one neighbours, and assembled puzzles, of pieces in each condition by each model that compares sides."""
    (name,) = names
    result = result_of(name)
    rows = [["pieces", "model", "rank one", "neighbours, %", f"perfect of {result['puzzles']}"]]
    for condition, found in result["conditions"].items():
        for model, share in found["rank_one"].items():
            scores = found["assembled"].get(model)
            cells = (
                [f"{100 * scores['neighbours']:.1f}", f"{result['puzzles'] * scores['perfect']:.0f}"] if scores else []
            )
            rows.append([puzzles.title(condition), model, f"{share:.3f}", *(cells or ["", ""])])
    return rows


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def result_of(name: str) -> dict[str, Any]:
    return read(RESULTS / f"{name}.json")


def short(name: str) -> str:
    return name.rpartition("/")[2]


def code(name: str) -> str:
    return f"`{short(name)}`"


def cell(metric: str, found: Any, sign: str = "") -> str:
    return metrics.around(metric, found["mean"], metrics.half(found), sign)


def spread(metric: str, row: Mapping[str, str]) -> str:
    """The mean of a row of ``robustness.csv`` with half its interval."""
    return metrics.around(metric, float(row["mean"]), (float(row["high"]) - float(row["low"])) / 2)


def markdown(rows: Iterable[Sequence[str]]) -> str:
    """A table whose first row is its header; columns are aligned to the right, but for a first column of names."""
    heads, *others = rows
    numbered = bool(others) and others[0][0].isdigit()
    rules = ["---:" if place or numbered else "---" for place in range(len(heads))]
    return "".join(f"| {' | '.join(row)} |\n" for row in (heads, rules, *others))


KINDS: dict[str, Callable[[list[str]], Rows]] = {
    kind.__name__: kind
    for kind in (
        *(
            scores,
            beyond,
            backends,
            reassembly,
            pairs,
            masked,
            elsewhere,
            harder,
            grounds,
            aims,
            leak,
            ablations,
            epochs,
        ),
        *(probes, seeds, published, crops, timings, estimates, speeds, bench, training, steps),
        *(jigsaw, bags, sides, edges),
    )
}


def filled(page: str) -> str:
    """Replace the tables of a page by those that the results give."""
    return MARKED.sub(lambda found: found[1] + markdown(KINDS[found["kind"]](found["names"].split())) + found[4], page)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tables of all pages, or check them.

    Args:
        arguments: ``["--check"]`` to write nothing; those of the command line by default.

    Returns:
        The exit status: 1 if ``--check`` found a page whose tables differ from the results, otherwise 0.
    """
    parser = argparse.ArgumentParser(description="Write the tables of experiments/ and README.md from the results.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a table differs")
    check = parser.parse_args(arguments).check
    differing = {path: new for path in PAGES if (new := filled(text := path.read_text())) != text}
    for path, new in differing.items():
        if not check:
            path.write_text(new)
        print(f"{path}: its tables differ from experiments/results/; run `make tables`" if check else f"wrote {path}")
    return int(check and bool(differing))


if __name__ == "__main__":
    sys.exit(main())
