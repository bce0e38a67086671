"""Embeddings of images projected to a plane, coloured by class.

Shapes: M images, D dimensions of an embedding.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fragrecon.errors import ConfigError
from fragrecon.evaluation.components import PrincipalComponents
from fragrecon.evaluation.probes.scoring import ProbeResults
from fragrecon.report.figures.plotting import MARKERS, PALETTE, blank, colours, save, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = 1000
"""Maximum number of images drawn."""
LISTED = 20
"""Maximum number of classes in a legend."""
NEAR = 15
"""Number of neighbours in UMAP, its default."""
ITERATIONS = 500
"""Iterations of t-SNE; twice as many change the picture little."""
PERPLEXITY = 30
"""Maximum perplexity of t-SNE: roughly the number of near neighbours."""
TITLES = {"pca": "principal components", "tsne": "t-SNE", "umap": "UMAP"}


def check(names: Iterable[str]) -> None:
    """Check that the projections are installed.

    Raises:
        ConfigError: UMAP is requested but not installed.
    """
    if "umap" in names:
        _import_umap()


def draw(probed: ProbeResults, names: Iterable[str], model: str, folder: Path) -> None:
    """Write ``projection_{name}.png`` per projection.

    Args:
        probed: results of the probes, with the test images.
        names: names from `fragrecon.config.evaluation.PROJECTIONS`.
        model: name of the model.
        folder: folder of the figures.
    """
    # A random subset, as a store may be sorted by class.
    chosen = torch.randperm(len(probed.test), generator=torch.Generator().manual_seed(0))[:POINTS]
    embeddings, labels = probed.test.embeddings[chosen], probed.test.labels[chosen]
    for name in names:
        points, axes = project(name, embeddings)
        title = f"{len(chosen):,} test images, by {TITLES[name]} of the embeddings\n{model}"
        save(projection_figure(points, labels, probed.classes, title, axes), folder / f"projection_{name}.png")


def project(name: str, embeddings: Tensor) -> tuple[Tensor, tuple[str, str]]:
    """Project embeddings (M, D) to points (M, 2), and label the axes if they have a meaning.

    Raises:
        ConfigError: UMAP is requested but not installed.
    """
    if name == "tsne":
        return tsne(embeddings, PERPLEXITY), ("", "")
    if name == "umap":
        near = min(NEAR, len(embeddings) - 1)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "n_jobs value")  # it is always 1 if a seed is set
            spread = _import_umap().UMAP(n_neighbors=near, random_state=0).fit_transform(embeddings.numpy())
        return torch.from_numpy(spread), ("", "")
    values = embeddings.double()
    with np.errstate(invalid="ignore"):
        components = PrincipalComponents(values, 2)
    count = len(components.deviations)
    points = torch.zeros(len(values), 2, dtype=torch.float64)
    points[:, :count] = components(values, count)
    # The shares are NaN if all embeddings are equal.
    shares = [*torch.nan_to_num(components.deviations.square() / values.var(0).sum()).tolist(), 0.0]
    first, second, *_ = (f"{share:.0%} of the variance" for share in shares)
    return points, (first, second)


def tsne(embeddings: Tensor, near: int) -> Tensor:
    """Project embeddings by t-SNE (van der Maaten and Hinton, JMLR 2008).

    Args:
        embeddings: embeddings (M, D), at least two.
        near: expected number of near neighbours.

    Returns:
        Points (M, 2) in the unit square.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    # Principal components do not span a plane if all embeddings are equal or on a line.
    start = "pca" if min(embeddings.shape) > 1 and float(embeddings.std(0).max()) > 0 else "random"
    perplexity = max(1, min(near, PERPLEXITY, (len(embeddings) - 1) / 3))
    with threadpool_limits(1):
        spread = TSNE(perplexity=perplexity, init=start, max_iter=ITERATIONS, random_state=0).fit_transform(
            embeddings.numpy()
        )
    points = torch.from_numpy(spread)
    least, most = points.amin(0), points.amax(0)
    return (points - least) / (most - least).clamp(min=1e-12)


def projection_figure(
    points: Tensor, labels: Tensor, classes: Sequence[str], title: str, axes_names: tuple[str, str]
) -> Figure:
    """Draw one point per image in the colour of its class, with a legend if there are few classes.

    Args:
        points: points (M, 2).
        labels: class (M,) of each image.
        classes: names of the classes.
        title: title of the figure.
        axes_names: labels of the two axes.

    Returns:
        The figure.
    """
    listed, hues = len(classes) <= LISTED, np.array(colours(len(classes)))
    wide, high = (points.amax(0) - points.amin(0)).tolist()
    lowest = max(2.6, 0.17 * len(classes) + 0.3) if listed else 2.6
    figure = blank(6.4 if listed else 5.2, float(np.clip(5.2 * high / max(wide, 1e-12), lowest, 5.2)))
    axes = figure.subplots()
    # Classes of one colour have different markers. Points are drawn by marker, so no class is below all others.
    markers = [MARKERS[(number + number // len(PALETTE)) % len(MARKERS)] for number in range(len(classes))]
    for marker in sorted(set(markers)):
        own = np.array([markers[label] == marker for label in labels.tolist()])
        axes.scatter(
            points[own, 0], points[own, 1], s=9, c=hues[labels.numpy()[own]], marker=marker, alpha=0.8, linewidths=0
        )
    if listed:
        dots: list[Any] = [axes.scatter([], [], s=22, color=h, marker=m) for h, m in zip(hues, markers, strict=True)]
        figure.legend(dots, classes, loc="outside right upper", fontsize=7, frameon=False)
    axes.set(xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel(axes_names[0], fontsize=8)
    axes.set_ylabel(axes_names[1], fontsize=8)
    axes.spines[:].set_color("0.8")
    axes.set_title(wrapped(title, 5), fontsize=8, loc="left")
    return figure


def _import_umap() -> Any:
    try:
        return import_module("umap")
    except ImportError as error:
        raise ConfigError(
            'evaluation.probe.projections: umap needs the extra: pip install "fragrecon[umap]"; '
            f"or leave it out ({error})"
        ) from None
