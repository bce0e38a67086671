from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from scipy.stats import pearsonr
from torch import Tensor

from fragrecon.data.puzzles import FragmentBatch
from fragrecon.models.base import FragmentModel
from fragrecon.objectives.anti_correlation import AntiCorrelation, correlation
from fragrecon.objectives.base import Losses
from tests.descent import descend
from tests.objectives.test_objectives import CLASSES, batch, losses


class Given(FragmentModel):
    """Embeds fragments (B, F) as it was told to."""

    def __init__(self, embeddings: Tensor) -> None:
        super().__init__((3, 4, 4), embeddings.shape[-1])
        self.embeddings = torch.nn.Parameter(embeddings)

    def encode(self, fragments: Tensor) -> Tensor:
        return self.embeddings


def embeddings(puzzles: int = 2, latents: int = 6) -> Tensor:
    found = torch.randn(puzzles, 6, latents, generator=torch.Generator().manual_seed(3))
    return found * torch.tensor([0.1, 1, 3, 1, 1, 20]).view(1, 6, 1) + torch.linspace(-5, 5, 6).view(1, 6, 1)


def slow(of: Tensor, labels: Tensor) -> tuple[float, float]:
    flat, classes = of.detach().flatten(0, 1).double().numpy(), labels.flatten().tolist()
    found = [
        float(pearsonr(flat[i], flat[j]).statistic)
        for i, j in itertools.combinations(range(len(flat)), 2)
        if classes[i] != classes[j]
    ]
    return sum(r**2 for r in found) / len(found), sum(abs(r) for r in found) / len(found)


def test_it_is_the_mean_squared_correlation_of_all_pairs_of_different_classes() -> None:
    labels = torch.tensor([[0, 3, 1, 1, 0, 3], [1, 1, 3, 0, 0, 2]])
    puzzles, model = replace(batch(), labels=labels), Given(embeddings())
    squared, absolute = slow(model.embeddings, puzzles.labels)
    found = losses(AntiCorrelation(CLASSES), model, puzzles)
    assert found == {"loss": pytest.approx(squared, rel=1e-5), "correlation": pytest.approx(absolute, rel=1e-5)}


def test_classes_of_different_puzzles_are_held_apart_too() -> None:
    puzzles = batch()
    labels = torch.tensor([[0] * 6, [1] * 6])
    model = Given(embeddings())
    squared, _ = slow(model.embeddings, labels)
    assert losses(AntiCorrelation(CLASSES), model, replace(puzzles, labels=labels))["loss"] == pytest.approx(squared)


def test_correlation_does_not_change_with_scale_and_shift() -> None:
    of = embeddings().flatten(0, 1)
    torch.testing.assert_close(correlation(7 * of - 3), correlation(of), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(correlation(-of), correlation(of))
    torch.testing.assert_close(correlation(of).diagonal(), torch.ones(12))


def test_orthogonal_classes_cost_nothing_and_opposite_ones_all() -> None:
    puzzles = two_classes()
    first, second = torch.tensor([1.0, -1, 0, 0]), torch.tensor([0.0, 0, 1, -1])
    apart = torch.where(puzzles.labels.unsqueeze(-1) == 0, first, second)
    assert losses(AntiCorrelation(2), Given(apart), puzzles) == {"loss": 0.0, "correlation": 0.0}
    opposite = torch.where(puzzles.labels.unsqueeze(-1) == 0, first, 3 - 2 * first)
    found = losses(AntiCorrelation(2), Given(opposite), puzzles)
    assert found == {"loss": pytest.approx(1), "correlation": pytest.approx(1)}


def two_classes() -> FragmentBatch:
    return replace(batch(), labels=torch.tensor([[0, 1, 1, 0, 1, 0], [1, 0, 0, 0, 1, 1]]))


def gradient(model: Given, of: FragmentBatch) -> Tensor:
    found: Losses = AntiCorrelation(CLASSES)(model, of, torch.Generator())
    assert all(torch.isfinite(value) for value in found.values())
    found["loss"].backward()  # type: ignore[no-untyped-call]
    assert model.embeddings.grad is not None
    return model.embeddings.grad


def test_a_batch_of_one_class_costs_nothing_and_trains_nothing() -> None:
    model, puzzles = Given(embeddings()), replace(batch(), labels=torch.zeros(2, 6, dtype=torch.long))
    assert losses(AntiCorrelation(CLASSES), model, puzzles) == {"loss": 0.0, "correlation": 0.0}
    assert not gradient(model, puzzles).any()


def test_embeddings_that_do_not_vary_correlate_with_nothing() -> None:
    of = embeddings()
    of[0, 0], of[1, 3] = 0.0, 5.0
    found = gradient(Given(of), two_classes())
    assert torch.isfinite(found).all()
    assert found[0, 1].any()
    alike = torch.ones(2, 6, 6)
    assert losses(AntiCorrelation(CLASSES), Given(alike), two_classes())["loss"] == 0
    assert torch.isfinite(gradient(Given(alike), two_classes())).all()
    assert gradient(Given(1e-9 * embeddings()), two_classes()).abs().max() < 100


def test_following_it_makes_classes_uncorrelated_but_not_their_members() -> None:
    puzzles, model = two_classes(), Given(embeddings(latents=16))
    with torch.no_grad():
        model.embeddings.add_(3 * torch.randn(16, generator=torch.Generator().manual_seed(0)))  # all much alike
    before = correlation(model.embeddings.detach().flatten(0, 1))
    descend(model.parameters(), lambda: AntiCorrelation(2)(model, puzzles, torch.Generator())["loss"], 300, 0.05)
    after = correlation(model.embeddings.detach().flatten(0, 1))
    labels = puzzles.labels.flatten()
    apart = labels.unsqueeze(0) != labels.unsqueeze(1)
    assert before[apart].abs().mean() > 0.5
    assert after[apart].abs().mean() < 0.02
    assert after[~apart].mean() > 0.3


def test_it_computes_in_single_precision() -> None:
    model = Given(embeddings())
    expected = losses(AntiCorrelation(CLASSES), model, batch())["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        assert losses(AntiCorrelation(CLASSES), model, batch())["loss"] == pytest.approx(expected, rel=1e-6)
