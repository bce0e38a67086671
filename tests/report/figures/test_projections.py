"""Embeddings in a plane: that places tell what the embeddings do, and colours the classes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fragrecon.config.evaluation import PROJECTIONS
from fragrecon.errors import ConfigError
from fragrecon.evaluation.probes.base import Samples
from fragrecon.evaluation.probes.scoring import ProbeResults
from fragrecon.report.figures import projections


def clouds(count: int = 90, classes: int = 3, apart: float = 40, dim: int = 8) -> Samples:
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    corners = apart * torch.randn(classes, dim, generator=random)
    return Samples(corners[labels] + torch.randn(count, dim, generator=random), labels)


def probed(test: Samples, classes: int = 3) -> ProbeResults:
    return ProbeResults({}, {}, {}, test, [f"class {number}" for number in range(classes)])


def points(figure: Any) -> tuple[Any, Any, list[int]]:
    """Places and colours of the points, and the marker of each, in the order of the classes' markers."""
    drawn = [marked for marked in figure.axes[0].collections if len(marked.get_offsets())]
    markers = [number for number, marked in enumerate(drawn) for _ in marked.get_offsets()]
    hues = np.concatenate([marked.get_facecolors() for marked in drawn])
    return np.concatenate([marked.get_offsets() for marked in drawn]), hues, markers


def own_nearest(places: Tensor, labels: Tensor) -> float:
    """Share of the images whose nearest in the plane is of their class."""
    distances = torch.cdist(places.double(), places.double()).fill_diagonal_(torch.inf)
    return float((labels[distances.argmin(1)] == labels).double().mean())


def ways() -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow if name == "umap" else ()) for name in PROJECTIONS]


@pytest.mark.parametrize("name", ways())
def test_clouds_that_are_apart_stay_so_and_come_out_the_same_again(name: str) -> None:
    if name == "umap":
        pytest.importorskip("umap")
    test = clouds()
    places, _ = projections.project(name, test.embeddings)
    assert places.shape == (90, 2)
    assert own_nearest(places, test.labels) == 1.0
    again, _ = projections.project(name, test.embeddings)
    assert torch.equal(places, again)


def test_principal_components_are_those_of_the_singular_values() -> None:
    embeddings = clouds().embeddings
    places, told = projections.project("pca", embeddings)
    centred = (embeddings - embeddings.mean(0)).double()
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(places.abs(), (left[:, :2] * values[:2]).abs(), atol=1e-8)
    parts = (values**2 / (values**2).sum())[:2]
    assert told == (f"{parts[0]:.0%} of the variance", f"{parts[1]:.0%} of the variance")


@pytest.mark.parametrize("embeddings", [torch.arange(9.0)[:, None], torch.ones(9, 4)])
def test_embeddings_of_one_number_or_all_alike_can_be_drawn(tmp_path: Path, embeddings: Tensor) -> None:
    test = Samples(embeddings, torch.arange(9) % 3)
    projections.draw(probed(test), ["pca", "tsne"], "a model", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["projection_pca.png", "projection_tsne.png"]
    places, told = projections.project("pca", embeddings)
    assert torch.isfinite(places).all()
    assert told[1] == "0% of the variance"


@pytest.mark.parametrize(("count", "listed"), [(10, True), (11, True), (20, True), (21, False)])
def test_each_class_has_a_colour_of_its_own_and_few_are_named(tmp_path: Path, count: int, listed: bool) -> None:
    labels = torch.arange(300) % count
    names = [f"class {number}" for number in range(count)]
    places = torch.rand(300, 2, generator=torch.Generator().manual_seed(0))
    figure = projections.projection_figure(places, labels, names, "title", ("one", "other"))
    found, hues, markers = points(figure)
    order = [int(np.abs(places.numpy() - place).sum(1).argmin()) for place in found]
    assert sorted(order) == list(range(300))
    by_class: dict[int, set[tuple[float, ...]]] = {}
    for place, hue, marker in zip(order, hues, markers, strict=True):
        by_class.setdefault(int(labels[place]), set()).add((*hue, marker))
    assert all(len(own) == 1 for own in by_class.values())
    assert len(set.union(*by_class.values())) == count
    assert [len(legend.get_texts()) for legend in figure.legends] == ([count] if listed else [])
    if listed:
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == names
        handles: list[Any] = list(legend.legend_handles)
        for number, handle in enumerate(handles):
            np.testing.assert_allclose(handle.get_facecolor()[0][:3], next(iter(by_class[number]))[:3])
    axes = figure.axes[0]
    assert (axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()) == ("title", "one", "other")


def test_no_more_than_so_many_images_are_drawn_and_of_all_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projections, "POINTS", 50)
    test = clouds(600)
    in_order = torch.argsort(test.labels, stable=True)
    drawn: list[tuple[int, list[int], str]] = []
    real = projections.projection_figure

    def figure(places: Tensor, labels: Tensor, *given: Any) -> Any:
        drawn.append((len(places), torch.bincount(labels).tolist(), given[1]))
        return real(places, labels, *given)

    monkeypatch.setattr(projections, "projection_figure", figure)
    projections.draw(probed(Samples(test.embeddings[in_order], test.labels[in_order])), ["pca"], "a model", tmp_path)
    ((count, classes, title),) = drawn
    assert count == 50
    assert min(classes) > 5
    assert title == "50 test images, by principal components of the embeddings\na model"
    with Image.open(tmp_path / "projection_pca.png") as picture:
        assert min(picture.size) > 500


def test_a_projection_that_is_not_installed_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    projections.check(["pca", "tsne"])
    message = r'evaluation\.probe\.projections: umap needs the extra: pip install "fragrecon\[umap\]"; or leave it out'
    with pytest.raises(ConfigError, match=message):
        projections.check(["pca", "umap"])
    with pytest.raises(ConfigError, match=message):
        projections.project("umap", clouds().embeddings)
