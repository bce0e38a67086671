"""Which scores people are shown, in what order, and how each is named and written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fragrecon.report.labels import label

if TYPE_CHECKING:
    from fragrecon.evaluation.statistics import Summary


@dataclass(frozen=True)
class Measure:
    """What is measured.

    Attributes:
        name: of it.
        unit: of its numbers.
        digits: behind the point.
        falling: whether less is better.
    """

    name: str
    unit: str = ""
    digits: int = 4
    falling: bool = False


MEASURES = {
    "mse": Measure("MSE", digits=5, falling=True),
    "psnr": Measure("PSNR", "dB", digits=3),
    "ssim": Measure("SSIM"),
    "lpips": Measure("LPIPS", falling=True),
    "fid": Measure("FID", digits=2, falling=True),
    "distance": Measure("distance", falling=True),
    "error": Measure("error", falling=True),
    "loss": Measure("loss", falling=True),
    "entropy": Measure("entropy", "nats", falling=True),
    "kl": Measure("KL", "nats", falling=True),
}
"""By the last word of a metric. All else is a share or an agreement: more is better."""


@dataclass(frozen=True)
class Family:
    """Scores of one task.

    Attributes:
        name: of the task.
        prefixes: of its metrics.
        shown: the metrics that people see first; the rest is to be had.
        compared: by which runs are ordered and their differences are told.
        reference: the baseline that is drawn beside the models.
        note: what its metrics are of.
    """

    name: str
    prefixes: tuple[str, ...]
    shown: tuple[str, ...]
    compared: str
    reference: str = ""
    note: str = ""

    def of(self, metrics: Iterable[str]) -> list[str]:
        """Those of its metrics, in the order that people see them."""
        return ordered(metric for metric in metrics if family(metric) is self)


CLUSTERING = Family(
    "Clustering",
    ("",),  # all that no other has
    ("kmeans_ari", "kmeans_nmi", "kmeans_purity", "kmedoids_ari", "mean_clustering_score"),
    "mean_clustering_score",
    "raw_pixels",
)
MASKED = Family(
    "Masked patches",
    ("masked_", "composite_"),
    ("masked_psnr", "masked_ssim", "masked_mse"),
    "masked_psnr",
    "linear_prediction",
    "Masked: of the hidden patches alone. Composite: of the whole image, with what the model says only where patches "
    "were hidden.",
)
WHOLE = Family(
    "Reconstruction",
    ("reconstruction_",),
    ("reconstruction_psnr", "reconstruction_ssim", "reconstruction_mse"),
    "reconstruction_psnr",
    note="Of all that the model says where nothing is hidden.",
)
PROBES = Family(
    "Classification",
    ("probe_",),
    ("probe_mlp_accuracy", "probe_linear_accuracy", "probe_knn_accuracy"),
    "probe_mlp_accuracy",
    "raw_pixels",
    "Of classifiers that were trained on frozen embeddings, and chosen on validation images.",
)
GENERATION = Family(
    "Generation",
    ("generation_",),
    ("generation_frechet_feature_distance", "generation_fid"),
    "generation_frechet_feature_distance",
    note="How far latents are from the standard normal, and how many of their numbers vary over images; how far "
    "decoded samples of the standard normal are from as many test images. One value for all images has no interval.",
)
FAMILIES = (CLUSTERING, MASKED, WHOLE, PROBES, GENERATION)
"""The first of which there are scores decides."""

SHOWN = tuple(metric for family in FAMILIES for metric in family.shown)


def family(metric: str) -> Family:
    return next((found for found in FAMILIES[1:] if metric.startswith(found.prefixes)), CLUSTERING)


def ordered(metrics: Iterable[str]) -> list[str]:
    """Distinct metrics: those that people are shown, and then the rest as they come."""
    found = dict.fromkeys(metrics)
    return [metric for metric in SHOWN if metric in found] + [metric for metric in found if metric not in SHOWN]


def compared(metrics: Iterable[str]) -> list[str]:
    """Those by which runs are compared, the most important first."""
    found = set(metrics)
    return [family.compared for family in FAMILIES if family.compared in found]


def measure(metric: str) -> Measure:
    """What a metric, or what is noted after an epoch, measures."""
    last = metric.replace("/", "_").rpartition("_")[2]
    return MEASURES.get(last) or Measure(label(last))


def name(metric: str) -> str:
    """``masked_psnr`` as ``masked PSNR``."""
    return " ".join([*label(metric).split(" ")[:-1], measure(metric).name])


def title(metric: str) -> str:
    """The name and the unit: ``masked PSNR, dB``."""
    return ", ".join(filter(None, (name(metric), measure(metric).unit)))


def text(metric: str, value: float, sign: str = "") -> str:
    """A value of a metric; ``sign="+"`` where it is a difference."""
    return format(value, f"{sign}.{measure(metric).digits}f")


def around(metric: str, value: float, half: float | None, sign: str = "") -> str:
    """A value and what it may be off by, if that is known."""
    return text(metric, value, sign) + ("" if half is None else f" ± {text(metric, half)}")


def half(found: Summary) -> float | None:
    """Half of the 95% interval, if there is one."""
    return None if found["ci95"] is None else (found["ci95"][1] - found["ci95"][0]) / 2


def scores_of(found: Mapping[str, Any]) -> dict[str, dict[str, Summary]]:
    """All scores of ``metrics.json`` by method and metric; what has one value for all puzzles has no interval."""
    wide = {
        method: {metric: {"mean": value, "ci95": None} for metric, value in values.items()}
        for method, values in found.get("dataset_wide", {}).items()
    }
    return {method: scores | wide.get(method, {}) for method, scores in found["scores"].items()}


def samples(protocol: Mapping[str, Any]) -> str:
    """What scores are means over."""
    return "images" if protocol["images_per_puzzle"] == 1 else "puzzles"
