"""The registry of metrics: display name, unit, direction, digits and family of every score.

The terminal, leaderboards, pages, figures and the tables of ``experiments/`` read it from here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fragrecon.evaluation.statistics import Summary

WORDS = {
    "pca": "PCA",
    "tsne": "t-SNE",
    "umap": "UMAP",
    "jpeg": "JPEG",
    "ari": "ARI",
    "nmi": "NMI",
    "ami": "AMI",
    "auroc": "AUROC",
    "kmeans": "KMeans",
    "kmedoids": "KMedoids",
    "frechet": "Fréchet",
    "mlp": "MLP",
    "knn": "kNN",
    "svm": "SVM",
}
NAMES = {
    "unknown_ari": "unknown-N ARI",
    "unknown_k_error": "N error",
    "spectral_ari": "balanced spectral ARI",
    "spectral_nmi": "balanced spectral NMI",
    "spectral_accuracy": "balanced spectral accuracy",
    "same_auroc": "AUROC, same image",
    "adjacency_auroc": "AUROC, adjacent",
    "placing_direct": "fragments placed",
    "placing_perfect": "images placed perfectly",
    "reassembly_direct": "fragments rebuilt",
    "reassembly_neighbours": "neighbours rebuilt",
    "reassembly_perfect": "images rebuilt perfectly",
    "generation_active_share": "generation share of active dimensions",
}
"""Display names of metrics that `label` would get wrong."""


@dataclass(frozen=True)
class Measure:
    """A quantity that a metric measures.

    Attributes:
        name: name of the quantity.
        unit: unit; empty for shares and scores.
        digits: decimal places shown.
        lower_is_better: direction of the metric.
    """

    name: str
    unit: str = ""
    digits: int = 4
    lower_is_better: bool = False


MEASURES = {
    "mse": Measure("MSE", digits=5, lower_is_better=True),
    "psnr": Measure("PSNR", "dB", digits=2),
    "ssim": Measure("SSIM"),
    "lpips": Measure("LPIPS", lower_is_better=True),
    "fid": Measure("FID", digits=2, lower_is_better=True),
    "distance": Measure("distance", lower_is_better=True),
    "error": Measure("error", digits=2, lower_is_better=True),
    "loss": Measure("loss", lower_is_better=True),
    "entropy": Measure("entropy", "nats", lower_is_better=True),
    "direct": Measure("direct", digits=3),
    "neighbours": Measure("neighbours", digits=3),
    "perfect": Measure("perfect", digits=3),
    "kl": Measure("KL", "nats", lower_is_better=True),
}
"""Measures, keyed by the last word of a metric's name. Metrics with any other last word have no unit, and higher is
better."""


@dataclass(frozen=True)
class Family:
    """The metrics of one task.

    Attributes:
        name: name of the task.
        prefixes: prefixes of its metrics.
        shown: metrics shown by default; the others are optional.
        compared: metric that ranks runs and whose differences are shown; empty if the metrics are the user's.
        note: explanation of its metrics, shown on the page.
    """

    name: str
    prefixes: tuple[str, ...]
    shown: tuple[str, ...]
    compared: str
    note: str = ""

    def of(self, metrics: Iterable[str]) -> list[str]:
        """Select the metrics of the family, in display order."""
        return ordered(metric for metric in metrics if family(metric) is self)


CLUSTERING = Family(
    "Clustering",
    ("",),  # metrics that no other family claims
    ("kmeans_ari", "kmeans_nmi", "kmeans_purity", "kmedoids_ari", "mean_clustering_score"),
    "mean_clustering_score",
)
MASKED = Family(
    "Masked patches",
    ("masked_", "composite_"),
    ("masked_psnr", "masked_ssim", "masked_mse"),
    "masked_psnr",
    "Masked: the hidden patches only. Composite: the whole image, with the model's prediction in place of the hidden "
    "patches.",
)
WHOLE = Family(
    "Reconstruction",
    ("reconstruction_",),
    ("reconstruction_psnr", "reconstruction_ssim", "reconstruction_mse"),
    "reconstruction_psnr",
    "Reconstruction of whole images; no patches are hidden.",
)
PROBES = Family(
    "Classification",
    ("probe_",),
    ("probe_mlp_accuracy", "probe_linear_accuracy", "probe_knn_accuracy"),
    "probe_mlp_accuracy",
    "Classifiers trained on frozen embeddings and selected on validation images.",
)
GENERATION = Family(
    "Generation",
    ("generation_",),
    ("generation_frechet_feature_distance", "generation_fid"),
    "generation_frechet_feature_distance",
    "Latents: Fréchet distance to N(0, I) and share of active dimensions. Samples: Fréchet distance between "
    "decoded samples of N(0, I) and an equal number of test images. These are single values, so they have no interval.",
)
OWN = Family(
    "Own metrics",
    ("own_",),
    (),
    "",
    "Metrics in evaluation.own, of the embeddings of the model and of raw pixels.",
)
FAMILIES = (CLUSTERING, MASKED, WHOLE, PROBES, GENERATION, OWN)
"""Runs are ranked by the first family in this list that they have scores for."""
SHOWN = tuple(metric for family in FAMILIES for metric in family.shown)

# Columns of individual tables, in the terminal and in experiments/tables.py; `PERCEPTUAL` has suffixes.
BEYOND = ("kmeans_accuracy", "balanced_ari", "balanced_accuracy", "unknown_ari", "unknown_k_error")
"""Clustering scores beyond the protocol, which has ARI, NMI and purity with the number of images known."""
ROBUST = ("mean_clustering_score", "balanced_ari", "unknown_ari", "unknown_k_error")
PAIRS = ("spectral_ari", "same_auroc", "adjacency_auroc")
REASSEMBLY = (
    "placing_direct",
    "placing_perfect",
    "reassembly_direct",
    "reassembly_neighbours",
    "reassembly_perfect",
)
COMPOSITE = ("masked_psnr", "masked_ssim", "composite_psnr", "composite_ssim")
LATENTS = ("generation_latent_frechet_distance", "generation_active_share")
PERCEPTUAL = ("lpips", "feature_distance", "fid", "frechet_feature_distance")
"""Suffixes of metrics that a pretrained network computes."""


def family(metric: str) -> Family:
    """Return the family of a metric."""
    return next((found for found in FAMILIES[1:] if metric.startswith(found.prefixes)), CLUSTERING)


def ordered(metrics: Iterable[str]) -> list[str]:
    """Return distinct metrics in display order: those shown by default, then the others as given."""
    found = dict.fromkeys(metrics)
    return [metric for metric in SHOWN if metric in found] + [metric for metric in found if metric not in SHOWN]


def compared(metrics: Iterable[str]) -> list[str]:
    """Select the metrics that runs are compared by, the most important first."""
    found = set(metrics)
    return [family.compared for family in FAMILIES if family.compared in found]


def measure(metric: str) -> Measure:
    """Return the measure of a metric, or of a value logged after an epoch."""
    last = metric.replace("/", "_").rpartition("_")[2]
    return MEASURES.get(last) or Measure(label(last))


def label(name: str) -> str:
    """Spell out an identifier: ``whitened_pca`` as ``whitened PCA``, ``kmeans_ari`` as ``KMeans ARI``."""
    return " ".join(WORDS.get(word, word) for word in name.split("_"))


def name(metric: str) -> str:
    """Return the display name: ``masked PSNR`` for ``masked_psnr``."""
    metric = metric.removeprefix("own_")
    return NAMES.get(metric) or " ".join([*label(metric).split(" ")[:-1], measure(metric).name])


def title(metric: str) -> str:
    """Return name and unit: ``masked PSNR, dB``."""
    return ", ".join(filter(None, (name(metric), measure(metric).unit)))


def text(metric: str, value: float, sign: str = "") -> str:
    """Format a value of a metric; with ``sign="+"``, a difference. Zero has no minus."""
    digits = measure(metric).digits
    return format(round(value, digits) + 0.0, f"{sign}.{digits}f")


def around(metric: str, value: float, half: float | None, sign: str = "") -> str:
    """Format a value with half of its interval, or its standard deviation, if there is one."""
    return text(metric, value, sign) + ("" if half is None else f" ± {text(metric, half)}")


def half(found: Summary) -> float | None:
    """Return half of the 95% interval, if there is one."""
    return None if found["ci95"] is None else (found["ci95"][1] - found["ci95"][0]) / 2


def scores_of(found: Mapping[str, Any]) -> dict[str, dict[str, Summary]]:
    """Return all scores of ``metrics.json`` by method and metric; dataset-wide values have no interval."""
    wide = {
        method: {metric: {"mean": value, "ci95": None} for metric, value in values.items()}
        for method, values in found.get("dataset_wide", {}).items()
    }
    return {method: scores | wide.get(method, {}) for method, scores in found["scores"].items()}


def caveat(record: Mapping[str, Any]) -> str:
    """A sentence for tables of scores on images whose compression gives away which fragments were neighbours."""
    data = record["data"]
    if not data.get("lossy") or record["protocol"]["fragments_per_image"] == 1:
        return ""
    return (
        f"{data['lossy']} of {data['images']} test images are lossy files (JPEG or WebP) that were not scaled down "
        "before cutting, so the borders of fragments contain colours of their neighbours: seams are too easy to match."
    )


def samples(protocol: Mapping[str, Any]) -> str:
    """Return the unit that scores are averaged over: ``images`` or ``puzzles``."""
    return "images" if protocol["images_per_puzzle"] == 1 else "puzzles"
