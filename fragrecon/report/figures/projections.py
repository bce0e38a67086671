"""Embeddings of images in a plane, coloured by class.

Shapes: M images, D numbers an embedding.
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
from fragrecon.report.figures import puzzles as figures
from fragrecon.report.figures.pictures import colours

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = 2000
"""Images that are drawn at most."""
LISTED = 20
"""Classes at most that a legend names."""
NEAR = 15
"""Neighbours that UMAP keeps near, as its authors have it."""
TITLES = {"pca": "principal components", "tsne": "t-SNE", "umap": "UMAP"}


def check(names: Iterable[str]) -> None:
    """Refuse a projection that is not installed; raises `ConfigError`."""
    if "umap" in names:
        _import_umap()


def draw(probed: ProbeResults, names: Iterable[str], model: str, folder: Path) -> None:
    """Write ``projection_{name}.png``, one for each name of `fragrecon.config.evaluation.PROJECTIONS`.

    Args:
        probed: whose test images.
        names: of the projections.
        model: what the model is called.
        folder: of the figures.
    """
    # Any of them, as a store may hold class after class.
    chosen = torch.randperm(len(probed.test), generator=torch.Generator().manual_seed(0))[:POINTS]
    embeddings, labels = probed.test.embeddings[chosen], probed.test.labels[chosen]
    for name in names:
        places, axes = project(name, embeddings)
        title = f"{len(chosen):,} test images, by {TITLES[name]} of the embeddings of {model}"
        figures.save(projection_figure(places, labels, probed.classes, title, axes), folder / f"projection_{name}.png")


def project(name: str, embeddings: Tensor) -> tuple[Tensor, tuple[str, str]]:
    """Places (M, 2) for embeddings (M, D), and what their two numbers are, if that can be said.

    Raises:
        ConfigError: UMAP is asked for and not installed.
    """
    if name == "tsne":
        return figures.in_plane(embeddings, figures.PERPLEXITY), ("", "")
    if name == "umap":
        near = min(NEAR, len(embeddings) - 1)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "n_jobs value")  # one, as always where there is a seed
            spread = _import_umap().UMAP(n_neighbors=near, random_state=0).fit_transform(embeddings.numpy())
        return torch.from_numpy(spread), ("", "")
    points = embeddings.double()
    with np.errstate(invalid="ignore"):
        components = PrincipalComponents(points, 2)
    count = len(components.deviations)
    places = torch.zeros(len(points), 2, dtype=torch.float64)
    places[:, :count] = components(points, count)
    # No numbers if all embeddings are equal.
    shares = [*torch.nan_to_num(components.deviations.square() / points.var(0).sum()).tolist(), 0.0]
    first, second, *_ = (f"{share:.0%} of the variance" for share in shares)
    return places, (first, second)


def projection_figure(
    places: Tensor, labels: Tensor, classes: Sequence[str], title: str, axes_names: tuple[str, str]
) -> Figure:
    """A point an image, in the colour of its class; few classes are named beside it.

    Args:
        places: (M, 2).
        labels: (M,).
        classes: what they are called.
        title: of the figure.
        axes_names: what the two numbers of a place are.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    listed = len(classes) <= LISTED
    # Hues in equal steps are told apart less easily than colours that were picked for that, of which there are few.
    picked = colormaps["tab10" if len(classes) <= 10 else "tab20"]
    hues = np.array(picked(range(len(classes))) if listed else colours(len(classes)))
    figure = Figure(figsize=(6.4 if listed else 5.2, 5.2), dpi=160, layout="constrained")
    axes = figure.subplots()
    axes.scatter(places[:, 0], places[:, 1], s=7, c=hues[labels.numpy()], alpha=0.8, linewidths=0)
    if listed:
        dots: list[Any] = [axes.scatter([], [], s=22, color=hue) for hue in hues]
        figure.legend(dots, classes, loc="outside right upper", fontsize=7, frameon=False)
    axes.set(xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel(axes_names[0], fontsize=8)
    axes.set_ylabel(axes_names[1], fontsize=8)
    axes.spines[:].set_color("0.8")
    axes.set_title(title, fontsize=8)
    return figure


def _import_umap() -> Any:
    try:
        return import_module("umap")
    except ImportError as error:
        raise ConfigError(
            'evaluation.probe.projections: umap needs the extra: pip install "fragrecon[umap]"; '
            f"or leave it out ({error})"
        ) from None
