from __future__ import annotations

import pytest
import torch
from torch import nn

from fragrecon.errors import ConfigError
from fragrecon.objectives.anti_correlation import AntiCorrelation
from fragrecon.objectives.combined import Combined
from fragrecon.objectives.reconstruction import Reconstruction
from fragrecon.objectives.vae import VAE
from fragrecon.run import compose
from fragrecon.runs.modules import Facts, build_objective
from tests.objectives.test_objectives import CLASSES, GRID, autoencoder, batch, losses, mosaic, vae

FACTS = Facts((3, 4, 4), GRID, CLASSES)


def combined(*overrides: str) -> Combined:
    torch.manual_seed(0)
    node = compose(["model=vae", "objective=combined", *overrides]).objective
    objective = build_objective(node, FACTS, latent_dim=7)
    assert isinstance(objective, Combined)
    return objective


def weighted(**given: float) -> list[str]:
    every = {"vae": 0.0, "reconstruction": 0.0, "cross_entropy": 0.0, "anti_correlation": 0.0, **given}
    return [f"objective.weights.{name}={weight}" for name, weight in every.items()]


def test_the_loss_is_the_weighted_sum_and_every_part_is_told() -> None:
    model, puzzles = vae().eval(), batch()
    objective = combined(*weighted(vae=2, reconstruction=0.5, cross_entropy=10, anti_correlation=0.25))
    found = losses(objective, model, puzzles, seed=3)
    variational = losses(VAE(), model, puzzles, seed=3)
    plain, apart = (losses(term, model, puzzles) for term in (Reconstruction(), AntiCorrelation(CLASSES)))
    (head,) = (part for part in objective.modules() if isinstance(part, nn.Linear))
    logits = head(model.encode(puzzles.fragments)).flatten(0, 1)
    entropy = nn.functional.cross_entropy(logits, puzzles.labels.flatten()).item()
    expected = {
        **{f"vae_{part}": value for part, value in variational.items()},
        **{f"reconstruction_{part}": value for part, value in plain.items()},
        "cross_entropy_loss": entropy,
        "cross_entropy_accuracy": (logits.argmax(1) == puzzles.labels.flatten()).float().mean().item(),
        **{f"anti_correlation_{part}": value for part, value in apart.items()},
    }
    total = 2 * variational["loss"] + 0.5 * plain["loss"] + 10 * entropy + 0.25 * apart["loss"]
    assert found == pytest.approx({"loss": total, **expected}, rel=1e-5)
    assert objective.parts == ("loss", *expected)


def test_terms_draw_from_one_generator_in_turn() -> None:
    settings = ["+objective@objective.terms.second=vae", "+objective.weights.second=1"]
    found = losses(combined(*weighted(vae=1), *settings), vae().eval(), batch(), seed=5)
    assert found["vae_kl"] == found["second_kl"]
    assert found["vae_error"] != found["second_error"]
    assert found["loss"] == pytest.approx(found["vae_loss"] + found["second_loss"], rel=1e-6)


def test_a_weight_of_nothing_leaves_a_term_out() -> None:
    """It is neither built nor asked whether it can train the model."""
    objective = combined(*weighted(reconstruction=3), "objective.terms.vae.kl_weight=-1")
    assert objective.parts == ("loss", "reconstruction_loss", "reconstruction_psnr")
    assert not list(objective.parameters())
    objective.check(autoencoder())
    found = losses(objective, autoencoder().eval(), batch())
    assert found["loss"] == pytest.approx(3 * found["reconstruction_loss"])


def test_by_default_it_is_the_variational_objective_alone() -> None:
    found, alone = (losses(objective, vae().eval(), batch()) for objective in (combined(), VAE()))
    assert found == {"loss": alone["loss"], **{f"vae_{name}": value for name, value in alone.items()}}


def test_another_objective_can_be_added_and_is_told_the_facts() -> None:
    settings = ["+objective@objective.terms.contrastive=contrastive", "+objective.weights.contrastive=1"]
    objective = combined(*weighted(), *settings)
    assert losses(objective, mosaic().eval(), batch())["contrastive_contrast"] > 0
    assert objective.parts[:3] == ("loss", "contrastive_loss", "contrastive_contrast")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (weighted(vae=-1), [r"objective\.weights\.vae=-1"]),
        (["objective.weights.vae=much"], [r"objective\.weights\.vae=.much"]),
        (["objective.weights.vae=nan"], [r"objective\.weights\.vae=nan"]),
        (weighted(), [r"objective\.weights are all 0", r"objective\.weights\.vae=1"]),
        (
            ["+objective.weights.vea=1"],
            [r"objective\.weights\.vea does not name a term", "did you mean 'vae'", "reconstruction"],
        ),
        (["objective.terms.vae.kl_weight=-1"], [r"^objective\.terms\.vae\.kl_weight=-1"]),
        (["+objective.terms.vae.beta=1"], [r"^objective\.terms\.vae\.beta is not known to fragrecon\.objectives\.vae"]),
        (["objective.terms.vae._target_=torch.nn.ReLU"], [r"^objective\.terms\.vae\._target_='torch\.nn\.ReLU'"]),
        (
            [*weighted(cross_entropy=1), "objective.terms.cross_entropy.hidden=[0]"],
            [r"^objective\.terms\.cross_entropy\.hidden\[0\]=0"],
        ),
    ],
)
def test_what_cannot_be_combined_is_refused(overrides: list[str], words: list[str]) -> None:
    for word in words:
        with pytest.raises(ConfigError, match=word):
            combined(*overrides)


def test_a_model_that_cannot_be_trained_for_a_term_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"model=vae.*LinearAutoencoder.*; objective\.weights\.vae=0 leaves this"):
        combined().check(autoencoder())
    own = combined(*weighted(cross_entropy=1), "objective.terms.cross_entropy.hidden=null")
    with pytest.raises(ConfigError, match=r"objective\.terms\.cross_entropy\.hidden=\[\] gives it a linear head"):
        own.check(autoencoder())


def test_an_objective_that_is_given_goes_before_that_of_the_model_in_any_order() -> None:
    one, other = (compose(["model=vae", "objective=combined"][::order]).objective for order in (1, -1))
    assert one == other
    assert one["_target_"].endswith("Combined")
