"""Writes the tables of the pages from the metrics.json and metrics.csv files in ``experiments/results/``.

With ``--check`` it writes nothing, prints each page whose tables differ from the results, and exits with 1 if any does.

A page holds a table between two comments; the first says what to show, and names the results in the order of the rows:

    <!-- scores: baselines/pca baselines/conv -->
    <!-- end of table -->

``scores`` shows the final scores (NAME.json) and ``beyond`` those that leave the protocol; ``backends`` shows scores by
both back ends (NAME.json, and sklearn/NAME.json with the last part of the name), ``epochs`` the course of training
(NAME.csv), ``bench`` and ``training`` results of ``benchmarks/``. ``reassembly`` and ``pairs`` show what only some
models are scored by, ``elsewhere`` results on other images, ``harder`` KMeans ARI under harder conditions
(NAME.robustness.csv), and ``ablations`` scores puzzle by puzzle (NAME.npz) and how they differ from those of the first
run. ``masked`` shows how well masked images are filled in, and ``steps`` how fast models train (of ``benchmarks/``).
``probes`` shows how well images are decoded and classified by their embeddings (and NAME.csv, the epochs of the MLP),
``seeds`` the same over the seeds of a training (NAME-0.json and so on), and ``published`` beside the figures of others.
``crops`` shows how well larger images are decoded (and NAME.csv, the epochs), ``timings`` what ``mode=bench`` found, on
a CPU and, where it was called there, on a GPU (NAME.cpu.json, NAME.cuda.json), ``estimates`` and ``speeds`` that
beside what the requirement estimates.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import cnn_v3
import latents

from fragrecon import files
from fragrecon.evaluation.statistics import paired, summary
from fragrecon.report.figures.bench import mebibytes, significant
from fragrecon.report.labels import label
from fragrecon.report.terminal import REASSEMBLY

HERE = Path(__file__).resolve().parent
PAGES = [HERE.parent / "README.md", *sorted(HERE.glob("*.md"))]
MARKED = re.compile(r"(<!-- (?P<kind>\w+): (?P<names>[^>]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
SELECTION = "val_mean_clustering_score"
COLUMNS = {
    "kmeans_ari": "KMeans ARI",
    "kmeans_nmi": "NMI",
    "kmeans_purity": "purity",
    "kmedoids_ari": "KMedoids ARI",
    "mean_clustering_score": "mean score",
}
BEYOND = {
    "kmeans_accuracy": "KMeans accuracy",
    "balanced_ari": "balanced ARI",
    "balanced_accuracy": "balanced accuracy",
    "unknown_ari": "unknown-N ARI",
    "unknown_k_error": "N error",
}
PAIRS = {
    "spectral_ari": "balanced spectral ARI",
    "spectral_nmi": "NMI",
    "spectral_accuracy": "accuracy",
    "same_auroc": "AUROC, same image",
    "adjacency_auroc": "AUROC, adjacent",
}
MASKED = {"masked_psnr": "masked PSNR, dB", "masked_ssim": "masked SSIM", "masked_mse": "masked MSE"}
COMPOSITE = {"composite_psnr": "composite PSNR, dB", "composite_ssim": "composite SSIM"}
PROBES = {
    "reconstruction_psnr": "PSNR, dB",
    "probe_mlp_accuracy": "MLP accuracy",
    "probe_linear_accuracy": "linear accuracy",
    "probe_knn_accuracy": "kNN accuracy",
}
DEVICES = {"cpu": "CPU", "cuda": "GPU"}
ABLATED = {
    "kmeans_ari": "KMeans ARI",
    "mean_clustering_score": "mean score",
    "reassembly_perfect": "images rebuilt perfectly",
}


def scores(names: list[str]) -> str:
    """A row a baseline and a result: means with half their 95% intervals, and the paired difference to raw pixels."""
    results = {name: json.loads((HERE / "results" / f"{name}.json").read_text()) for name in names}
    first = next(iter(results.values()))
    heads = ["", "parameters", *COLUMNS.values(), "KMeans ARI - raw pixels"]
    rows = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
    for baseline in baselines_of(results):
        found = first["scores"][baseline]
        rows.append([label(baseline), "", *(cell(found[metric]) for metric in COLUMNS), ""])
    for name, result in results.items():
        difference = cell(result["model_minus"]["raw_pixels"]["kmeans_ari"], sign="+")
        found = [cell(result["scores"]["model"][metric]) for metric in COLUMNS]
        rows.append([f"`{short(name)}`", f"{result['model']['parameters']:,}", *found, difference])
    return lines(rows)


def baselines_of(results: dict[str, Any], columns: dict[str, str] = COLUMNS) -> list[str]:
    """The baselines of results that have these scores, which must have been scored on the same puzzles."""
    first = next(iter(results.values()))["scores"]
    names = [name for name in first if name != "model" and columns.keys() <= first[name].keys()]
    for name in names:
        if any(result["scores"][name] != first[name] for result in results.values()):
            raise ValueError(f"{list(results)} were not scored on the same puzzles: their {name} differs")
    return names


def beyond(names: list[str]) -> str:
    """A row a baseline and a result: accuracy, and what knows more or less than the protocol."""
    results = {name: json.loads((HERE / "results" / f"{name}.json").read_text()) for name in names}
    first = next(iter(results.values()))["scores"]
    rows = [["", *BEYOND.values()], ["---"] + ["---:"] * len(BEYOND)]
    for baseline in baselines_of(results):
        if baseline != "random":
            rows.append([label(baseline), *(cell(first[baseline][metric]) for metric in BEYOND)])
    for name, result in results.items():
        rows.append([f"`{short(name)}`", *(cell(result["scores"]["model"][metric]) for metric in BEYOND)])
    return lines(rows)


def backends(names: list[str]) -> str:
    """A row a baseline and a result: some scores by the project's engine and by the libraries."""
    both = {
        "batched": {name: json.loads((HERE / "results" / f"{name}.json").read_text()) for name in names},
        "sklearn": {
            name: json.loads((HERE / "results" / "sklearn" / f"{short(name)}.json").read_text()) for name in names
        },
    }
    shown = ("kmeans_ari", "kmedoids_ari", "mean_clustering_score")
    heads = ["", *(f"{COLUMNS[metric]}, {backend}" for metric in shown for backend in both)]
    rows = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
    for baseline in baselines_of(both["batched"]):
        found = [next(iter(results.values()))["scores"][baseline] for results in both.values()]
        rows.append([label(baseline), *(cell(scores[metric]) for metric in shown for scores in found)])
    for name in names:
        found = [results[name]["scores"]["model"] for results in both.values()]
        rows.append([f"`{short(name)}`", *(cell(scores[metric]) for metric in shown for scores in found)])
    return lines(rows)


def bench(names: list[str]) -> str:
    """A row a task: medians of the engine and of the loop over the libraries, and their ratio."""
    heads = ["", "engine, ms a puzzle", "loop, ms a puzzle", "ratio"]
    rows = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
    for name in names:
        result = json.loads((HERE.parent / "benchmarks" / "results" / f"{name}.json").read_text())
        for task, row in result["rows"].items():
            rows.append([task, f"{row['engine_ms']:.4f}", f"{row['loop_ms']:.3f}", f"{row['ratio']:.1f}"])
    return lines(rows)


def training(names: list[str]) -> str:
    """A row a benchmark of training: steps, how near they are to the machine's products, and the sprint."""
    heads = ["threads", "s a step", "puzzles/s", "share of peak", "sprint, s", "steps", "validation ARI"]
    rows = [heads, ["---:"] * len(heads)]
    for name in names:
        result = json.loads((HERE.parent / "benchmarks" / "results" / f"{name}.json").read_text())
        step, sprint = result["step"], result["sprint"]
        share = f"{step['share_of_peak']:.0%} of {step['peak_gflop_a_second']:,.0f} GFLOP/s"
        timed = [f"{step['threads']}", f"{step['seconds_a_step']:.3f}", f"{step['puzzles_a_second']:.1f}", share]
        rows.append([*timed, f"{sprint['seconds']:.0f}", f"{sprint['steps']}", f"{sprint['val_kmeans_ari']:.3f}"])
    return lines(rows)


def steps(names: list[str]) -> str:
    """A row an experiment: how fast it trains, and how near that is to the machine's products."""
    heads = ["", "precision", "threads", "GFLOP an image", "images/s", "share of peak"]
    rows = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
    for name in names:
        step = json.loads((HERE.parent / "benchmarks" / "results" / f"{name}.json").read_text())["step"]
        images = step["puzzles_a_second"] * step["seconds_a_step"]
        share = f"{step['share_of_peak']:.0%} of {step['peak_gflop_a_second']:,.0f} GFLOP/s"
        timed = [f"{step['gflop_a_step'] / images:.3f}", f"{step['puzzles_a_second']:.0f}", share]
        rows.append([f"`{name}`", step["precision"], str(step["threads"]), *timed])
    return lines(rows)


def epochs(names: list[str]) -> str:
    """A row a training: its best epoch by the selection metric, and its last."""
    figures = ["validation loss", "validation score"]
    heads = ["", "best epoch", "step", *figures, "last epoch", *figures]
    rows = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
    for name in names:
        with (HERE / "results" / f"{name}.csv").open(newline="") as file:
            course = list(csv.DictReader(file))
        best, last = max(course, key=lambda row: float(row[SELECTION])), course[-1]
        shown = [[f"{float(row['val/loss']):.4f}", f"{float(row[SELECTION]):.4f}"] for row in (best, last)]
        rows.append([f"`{short(name)}`", best["epoch"], best["step"], *shown[0], last["epoch"], *shown[1]])
    return lines(rows)


def special(names: list[str], columns: dict[str, str]) -> str:
    """A row a method of any of the results that has these scores, models by the name of their result."""
    rows = [["", *columns.values()], ["---"] + ["---:"] * len(columns)]
    found: dict[str, Any] = {}
    for name in names:
        result = json.loads((HERE / "results" / f"{name}.json").read_text())["scores"]
        for method in result:
            if columns.keys() <= result[method].keys():
                found[f"`{short(name)}`" if method == "model" else label(method)] = result[method]
    for method in sorted(found, key=lambda method: method.startswith("`")):
        rows.append([method, *(cell(found[method][metric]) for metric in columns)])
    return lines(rows)


def reassembly(names: list[str]) -> str:
    return special(names, REASSEMBLY)


def pairs(names: list[str]) -> str:
    return special(names, PAIRS)


def masked(names: list[str]) -> str:
    """A row a baseline and a result: how well hidden patches are filled in, and how much better than linearly."""
    results = {name: json.loads((HERE / "results" / f"{name}.json").read_text()) for name in names}
    columns = MASKED | COMPOSITE
    heads = ["", "parameters", *columns.values(), "masked PSNR - linear prediction", "masked SSIM - linear prediction"]
    rows = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
    for baseline in baselines_of(results, columns):
        found = next(iter(results.values()))["scores"][baseline]
        rows.append(
            [label(baseline), "", *(cell(found[metric], digits=digits_of(metric)) for metric in columns), "", ""]
        )
    for name, result in results.items():
        found = [cell(result["scores"]["model"][metric], digits=digits_of(metric)) for metric in columns]
        minus = result["model_minus"]["linear_prediction"]
        better = [cell(minus[metric], "+", digits_of(metric)) for metric in ("masked_psnr", "masked_ssim")]
        rows.append([f"`{short(name)}`", f"{result['model']['parameters']:,}", *found, *better])
    return lines(rows)


def probes(names: list[str]) -> str:
    """A row a baseline and a result: PSNR, accuracies on test images, and of the MLP on validation images by epoch."""
    results = {name: json.loads((HERE / "results" / f"{name}.json").read_text()) for name in names}
    heads = ["", "parameters", *PROBES.values(), "MLP, validation: best epoch", "last epoch"]
    rows = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
    classified = [metric for metric in PROBES if metric.startswith("probe")]
    baselines: dict[str, list[str]] = {}
    for result in results.values():  # principal components are as many as the model's latents
        for baseline in ("raw_pixels", "exact_pca"):
            count = f", {result['model']['latent_dim']}" if baseline == "exact_pca" else ""
            found = [cell(result["scores"][baseline][metric]) for metric in classified]
            if baselines.setdefault(label(baseline) + count, found) != found:
                raise ValueError(f"{list(results)} were not scored on the same images: their {baseline} differs")
    rows += [[name, "", "", *found, "", ""] for name, found in baselines.items()]
    for name, result in results.items():
        scores = result["scores"]["model"]
        course = [float(row["validation_accuracy"]) for row in files.read_csv(HERE / "results" / f"{name}.csv")]
        found = [cell(scores[metric], digits=digits_of(metric)) for metric in PROBES]
        held_out = [f"{accuracy:.4f}" for accuracy in (max(course), course[-1])]
        rows.append([f"`{short(name)}`", f"{result['model']['parameters']:,}", *found, *held_out])
    return lines(rows)


def published(names: list[str]) -> str:
    """A row a number of latents: PSNR and accuracy of the folder's results beside those that others published."""
    (folder,) = names
    heads = [
        "latents",
        *(
            f"{model} {what}, {where}"
            for what in ("PSNR", "accuracy")
            for model in ("AE", "VAE")
            for where in ("there", "here")
        ),
    ]
    rows = [heads, ["---:"] * len(heads)]
    for at, count in enumerate(latents.LATENTS):
        cells = [str(count)]
        for metric, models in latents.PUBLISHED.items():
            digits = 3 if metric.endswith("accuracy") else 1
            for model, there in models.items():
                result = json.loads((HERE / "results" / folder / f"{model}_{count}.json").read_text())
                here = result["scores"]["model"][metric]["mean"]
                cells += [f"{there[at]:g}", f"{here:.{digits}f}"]
        rows.append(cells)
    return lines(rows)


def seeds(names: list[str]) -> str:
    """A row a training: the mean over its seeds and their standard deviation, and each seed's accuracy by the MLP."""
    heads = ["", "seeds", *PROBES.values(), "MLP accuracy by seed"]
    rows = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
    for name in names:
        paths = sorted((HERE / "results").glob(f"{name}-[0-9].json"))
        runs = [json.loads(path.read_text())["scores"]["model"] for path in paths]
        found = {metric: [run[metric]["mean"] for run in runs] for metric in PROBES}
        cells = [
            f"{mean(values):.{digits_of(metric)}f} ± {stdev(values):.{digits_of(metric)}f}"
            for metric, values in found.items()
        ]
        each = ", ".join(f"{value:.4f}" for value in found["probe_mlp_accuracy"])
        rows.append([f"`{short(name)}`", str(len(runs)), *cells, each])
    return lines(rows)


def crops(names: list[str]) -> str:
    """A row a result: PSNR and SSIM beside those of downsampling the same images to as many values."""
    heads = ["", "parameters", "latents", "epochs", "minutes"]
    for score in ("PSNR, dB", "SSIM"):
        heads += [f"downsampled: {score}", score, "gain over downsampled"]
    rows = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
    for name in names:
        result = json.loads((HERE / "results" / f"{name}.json").read_text())
        model, course = result["model"], files.read_csv(HERE / "results" / f"{name}.csv")
        row = [f"`{short(name)}`", f"{model['parameters']:,}", f"{model['latent_dim']:,}"]
        row += [f"{int(course[-1]['epoch']) + 1}", f"{result['seconds']['training'] / 60:.1f}"]
        for metric in ("reconstruction_psnr", "reconstruction_ssim"):
            digits = digits_of(metric)
            row += [cell(result["scores"][method][metric], digits=digits) for method in ("downsampled", "model")]
            row.append(cell(result["model_minus"]["downsampled"][metric], "+", digits))
        rows.append(row)
    return lines(rows)


def timings(names: list[str]) -> str:
    """A row a size of a batch that was timed: time and memory of a CPU and, if it was called there, of a GPU."""
    heads = ["", "parameters", "GFLOP an image", "images a batch"]
    for device in DEVICES.values():
        heads += [f"{device}: {what}" for what in ("forward, ms an image", "training, ms an image", "training, MiB")]
    rows = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
    for name in names:
        found = timed(name)
        for at, row in enumerate(found["cpu"]["rows"]):
            model = found["cpu"]["model"]
            about = [f"`{short(name)}`", f"{model['parameters']:,}", f"{model['forward_gflop_an_image']:.2f}"]
            cells = [*(["", "", ""] if at else about), str(row["batch_size"])]
            for device in DEVICES:
                cells += timing(found[device]["rows"][at]) if device in found else ["", "", ""]
            rows.append(cells)
    return lines(rows)


def timing(row: dict[str, Any]) -> list[str]:
    times = [significant(row[part]["ms_an_image"]) for part in ("forward", "training")]
    return [*times, mebibytes(row["training"]["memory_bytes"])]


def timed(name: str) -> dict[str, Any]:
    """What ``mode=bench`` found, by the types of devices that it was called on."""
    paths = {device: HERE / "results" / f"{name}.{device}.json" for device in DEVICES}
    return {device: json.loads(path.read_text()) for device, path in paths.items() if path.is_file()}


def estimates(names: list[str]) -> str:
    """A row a preset and a size: parameters and memory of training in float32 as estimated, and as found."""
    (folder,) = names
    heads = ["", "images a batch", "parameters: estimate", "found", "GB, a GPU: estimate"]
    heads += [f"GB, {device}: {what}" for device in DEVICES.values() for what in ("tensors", "process")]
    rows = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
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
    return lines(rows)


def speeds(names: list[str]) -> str:
    """A row a network and a size: time, memory and images a second of a forward pass, as estimated and as found."""
    (folder,) = names
    quantities = {"ms an image": "ms_an_image", "MB a batch": "memory_bytes", "images/s": "images_a_second"}
    heads = ["", "images a batch", *(f"{name}: {of}" for name in quantities for of in ("estimate", *DEVICES.values()))]
    rows = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
    for name, estimated in cnn_v3.ESTIMATED_SPEEDS.items():
        found = {device: result["rows"][-1] for device, result in timed(f"{folder}/{name}").items()}
        preset, _, size = name.partition("_")
        height, width = cnn_v3.SIZES[size]
        cells = [f"`{preset}`, {height}x{width}", str(found["cpu"]["batch_size"])]
        for estimate, (unit, key) in zip(estimated, quantities.items(), strict=True):
            times = 1e-6 if unit == "MB a batch" else 1
            values = [found[device]["forward"][key] * times if device in found else None for device in DEVICES]
            cells += [estimate, *("" if value is None else significant(value) for value in values)]
        rows.append(cells)
    return lines(rows)


def digits_of(metric: str) -> int:
    return 2 if metric.endswith("psnr") else 4


def elsewhere(names: list[str]) -> str:
    """A row a result on images of another source: how many, KMeans ARI beside that of raw pixels, and reassembly."""
    heads = ["", "images", "raw pixels, KMeans ARI", "model, KMeans ARI", "rebuilt right", "images perfect"]
    rows = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
    for name in names:
        result = json.loads((HERE / "results" / f"{name}.json").read_text())
        model, pixels = result["scores"]["model"], result["scores"]["raw_pixels"]
        shown = [pixels["kmeans_ari"], *(model[m] for m in ("kmeans_ari", "reassembly_direct", "reassembly_perfect"))]
        rows.append([short(name), str(result["data"]["images"]), *(cell(found) for found in shown)])
    return lines(rows)


def harder(names: list[str]) -> str:
    """A row a condition: KMeans ARI of each result's model, and of the colour histogram."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for name in names:
        for row in files.read_csv(HERE / "results" / f"{name}.robustness.csv"):
            if row.get("metric") == "kmeans_ari" and row["method"] in ("model", "colour_histogram"):
                method = f"`{short(name)}`" if row["method"] == "model" else label(row["method"])
                half = (float(row["high"]) - float(row["low"])) / 2
                key = row["axis"], f"{float(row['value']):g}"
                found.setdefault(key, {})[method] = f"{float(row['mean']):.4f} ± {half:.4f}"
    methods = [*(f"`{short(name)}`" for name in names), label("colour_histogram")]
    rows = [["condition", *methods], ["---"] + ["---:"] * len(methods)]
    for (axis, value), cells in found.items():
        if len(cells) == len(methods):
            rows.append([f"{label(axis)} {value}", *(cells[method] for method in methods)])
    return lines(rows)


def ablations(names: list[str]) -> str:
    """A row an array of NAME.npz: its mean, and its paired difference to the first of the same metric."""
    (name,) = names
    arrays = files.read_arrays(HERE / "results" / f"{name}.npz")
    runs = list(dict.fromkeys(key.partition("/")[0] for key in arrays))
    metrics = [metric for metric in ABLATED if f"{runs[0]}/{metric}" in arrays]
    heads = [part for metric in metrics for part in (ABLATED[metric], f"less {runs[0].replace('_', ' ')}")]
    rows = [["", *heads], ["---"] + ["---:"] * len(heads)]
    for run in runs:
        cells: list[str] = []
        for metric in metrics:
            own, whole = arrays[f"{run}/{metric}"], arrays[f"{runs[0]}/{metric}"]
            cells += [cell(summary(own)), "" if run == runs[0] else cell(paired(own, whole), sign="+")]
        rows.append([run.replace("_", " "), *cells])
    return lines(rows)


def short(name: str) -> str:
    return name.rpartition("/")[2]


def lines(rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def cell(summary: dict[str, Any], sign: str = "", digits: int = 4) -> str:
    low, high = summary["ci95"]
    return f"{summary['mean']:{sign}.{digits}f} ± {(high - low) / 2:.{digits}f}"


def filled(page: str) -> str:
    """The page with its tables as the results have them."""
    kinds = {
        "scores": scores,
        "beyond": beyond,
        "backends": backends,
        "epochs": epochs,
        "bench": bench,
        "training": training,
        "reassembly": reassembly,
        "pairs": pairs,
        "elsewhere": elsewhere,
        "harder": harder,
        "ablations": ablations,
        "masked": masked,
        "steps": steps,
        "probes": probes,
        "seeds": seeds,
        "published": published,
        "crops": crops,
        "timings": timings,
        "estimates": estimates,
        "speeds": speeds,
    }
    return MARKED.sub(lambda found: found[1] + kinds[found["kind"]](found["names"].split()) + found[4], page)


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
