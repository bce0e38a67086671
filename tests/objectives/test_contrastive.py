from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fragrecon.errors import ConfigError
from fragrecon.models.factories import create_linear_autoencoder
from fragrecon.models.mosaic import Mosaic
from fragrecon.objectives.contrastive import Contrastive, supervised_contrastive
from tests.objectives.test_objectives import batch


def embeddings(puzzles: int = 2, count: int = 6, dim: int = 5) -> Tensor:
    return F.normalize(torch.randn(puzzles, count, dim, generator=torch.Generator().manual_seed(0)), dim=-1)


def slow(embedded: Tensor, sources: Tensor, temperature: float) -> float:
    total, fragments = 0.0, 0
    for puzzle, own in zip(embedded.double().tolist(), sources.tolist(), strict=True):
        for i, anchor in enumerate(puzzle):
            alike = {j: sum(a * b for a, b in zip(anchor, other, strict=True)) / temperature
                     for j, other in enumerate(puzzle) if j != i}  # fmt: skip
            everything = math.log(math.fsum(math.exp(value) for value in alike.values()))
            same = [value for j, value in alike.items() if own[j] == own[i]]
            total += sum(everything - value for value in same) / max(1, len(same))
            fragments += 1
    return total / fragments


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize(
    "sources", [[[0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 0, 1]], [[0, 0, 0, 0, 0, 1], [2, 1, 1, 1, 2, 0]]]
)
def test_the_contrast_is_that_of_a_slow_loop(sources: list[list[int]], temperature: float) -> None:
    found = supervised_contrastive(embeddings(), torch.tensor(sources), temperature).item()
    assert found == pytest.approx(slow(embeddings(), torch.tensor(sources), temperature), rel=1e-5)


def test_perfect_groups_leave_only_the_choice_within_them() -> None:
    sources = torch.tensor([[0, 0, 0, 1, 1, 1]])
    perfect = F.one_hot(sources).float()
    assert supervised_contrastive(perfect, sources, 0.01).item() == pytest.approx(math.log(2), rel=1e-5)
    assert supervised_contrastive(torch.ones(1, 6, 1), sources, 0.01).item() == pytest.approx(math.log(5), rel=1e-5)


def test_order_and_names_of_images_do_not_matter() -> None:
    sources, order = torch.tensor([[0, 0, 1, 1, 2, 2]] * 2), torch.tensor([4, 2, 0, 5, 1, 3])
    loss = supervised_contrastive(embeddings(), sources, 0.2)
    torch.testing.assert_close(supervised_contrastive(embeddings()[:, order], sources[:, order], 0.2), loss)
    torch.testing.assert_close(supervised_contrastive(embeddings(), (sources + 1) % 3, 0.2), loss)


def test_the_objective_is_the_weighted_sum_of_its_parts() -> None:
    torch.manual_seed(0)
    model, puzzles = Mosaic((3, 4, 4), (1, 2), 8, width=16, depth=1, heads=2, window=2), batch()
    found = Contrastive(temperature=0.3, cells=0.5)(model, puzzles, torch.Generator())
    assert tuple(found) == Contrastive.parts
    assert found["loss"].item() == pytest.approx(found["contrast"].item() + 0.5 * found["cells"].item(), rel=1e-6)
    features = model.features(puzzles.fragments)
    logits = model.cell_logits(features).flatten(0, 1)
    positions = puzzles.positions.flatten()
    assert found["cells"].item() == pytest.approx(F.cross_entropy(logits, positions).item(), rel=1e-5)
    assert found["cell_accuracy"].item() == pytest.approx((logits.argmax(1) == positions).float().mean().item())
    contrast = supervised_contrastive(model.project(features), puzzles.source_ids, 0.3)
    assert found["contrast"].item() == pytest.approx(contrast.item(), rel=1e-5)


def test_a_model_without_cells_is_trained_by_the_contrast_alone() -> None:
    torch.manual_seed(0)
    model, puzzles = create_linear_autoencoder(latent_dim=7, input_size=4).eval(), batch()
    found = Contrastive(temperature=0.3)(model, puzzles, torch.Generator())
    embedded = F.normalize(model.encode(puzzles.fragments), dim=-1)
    assert found["loss"].item() == pytest.approx(slow(embedded.detach(), puzzles.source_ids, 0.3), rel=1e-5)
    assert found["cells"].item() == 0


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"temperature": -1.0}, {"cells": -0.1}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Contrastive(**settings)


def test_the_gradient_pulls_fragments_of_an_image_together() -> None:
    free = torch.nn.Parameter(embeddings(1, 6, 4)[0])
    sources = torch.tensor([[0, 0, 0, 1, 1, 1]])
    optimizer = torch.optim.Adam([free], 0.05)
    for _ in range(300):
        optimizer.zero_grad()
        torch.autograd.backward(supervised_contrastive(F.normalize(free, dim=-1)[None], sources, 0.2))
        optimizer.step()
    alike = F.normalize(free, dim=-1) @ F.normalize(free, dim=-1).T
    assert alike[:3, :3].min() > 0.95
    assert alike[:3, 3:].max() < 0
