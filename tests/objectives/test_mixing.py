from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fragrecon import run as command
from fragrecon.data.puzzles import FragmentBatch
from fragrecon.errors import ConfigError
from fragrecon.models.base import FragmentModel, Unmixed
from fragrecon.models.energy_transformer import EnergyTransformer
from fragrecon.models.mae import MaskedAutoencoder
from fragrecon.models.patches import Patches
from fragrecon.objectives.masked import Masked
from fragrecon.objectives.mixing import contrast_accuracy, draw_sources, hidden_from, mixed
from tests.objectives.test_contrastive import slow
from tests.objectives.test_masked import batch, generator
from tests.test_launchers import composed

SHAPE = (3, 8, 8)
PLACES = [
    (slice(0, 4), slice(0, 4)),
    (slice(0, 4), slice(4, 8)),
    (slice(4, 8), slice(0, 4)),
    (slice(4, 8), slice(4, 8)),
]
"""Rows and columns of the four patches of an image of `SHAPE`."""


# What is drawn --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("patches", "images"), [(16, 4), (16, 2), (64, 4), (12, 3)])
def test_each_image_has_an_equal_share_of_a_mix(patches: int, images: int) -> None:
    sources = draw_sources(50, patches, images, generator())
    assert sources.shape == (50, patches)
    for row in sources.tolist():
        assert [row.count(image) for image in range(images)] == [patches // images] * images


def test_every_place_shows_every_image_equally_often_and_places_are_independent() -> None:
    sources = F.one_hot(draw_sources(20_000, 8, 4, generator()), 4).double()  # (G, P, N)
    shown = sources.mean(0)
    torch.testing.assert_close(shown, torch.full_like(shown, 1 / 4), atol=0.015, rtol=0)
    together = torch.einsum("gpn,gqn->pq", sources, sources) / len(sources)
    apart = together[~torch.eye(8, dtype=torch.bool)]
    torch.testing.assert_close(apart, torch.full_like(apart, 1 / 7), atol=0.015, rtol=0)


def test_a_draw_follows_from_its_generator() -> None:
    assert torch.equal(draw_sources(5, 16, 4, generator(3)), draw_sources(5, 16, 4, generator(3)))
    assert not torch.equal(draw_sources(5, 16, 4, generator(3)), draw_sources(5, 16, 4, generator(4)))


def test_a_mix_shows_at_each_place_the_patch_of_the_one_image_that_is_not_hidden_there() -> None:
    patches, sources = torch.rand(3, 4, 8, 5), draw_sources(3, 8, 4, generator())
    mix, hidden = mixed(patches, sources), hidden_from(sources, 4)
    assert (mix.shape, hidden.shape) == ((3, 8, 5), (3, 4, 8))
    for group, place in itertools.product(range(3), range(8)):
        (image,) = [image for image in range(4) if not hidden[group, image, place]]
        assert image == sources[group, place]
        assert torch.equal(mix[group, place], patches[group, image, place])


# Accuracy of the contrast ---------------------------------------------------------------------------------------------


def slow_accuracy(tokens: Tensor, sources: Tensor) -> float:
    right = count = 0
    for rows_, own in zip(tokens.double().tolist(), sources.tolist(), strict=True):
        for i, token in enumerate(rows_):
            alike = {
                j: sum(a * b for a, b in zip(token, other, strict=True)) for j, other in enumerate(rows_) if j != i
            }
            right += own[max(alike, key=alike.__getitem__)] == own[i]
            count += 1
    return right / count


def test_the_accuracy_is_that_of_a_slow_loop() -> None:
    tokens = F.normalize(torch.randn(6, 8, 3, generator=generator()), dim=-1)
    sources = draw_sources(6, 8, 2, generator(1))
    share = slow_accuracy(tokens, sources)
    assert 0.2 < share < 0.8
    assert contrast_accuracy(tokens, sources).item() == pytest.approx(share)


def test_the_accuracy_of_perfect_tokens_is_one_of_opposite_ones_zero_and_of_random_ones_chance() -> None:
    sources = draw_sources(3000, 16, 4, generator())
    assert contrast_accuracy(F.one_hot(sources, 4).float(), sources).item() == 1
    # Of two patches an image, each with a token of its own image's opposite.
    pairs = torch.tensor([[0, 0, 1, 1]])
    crossed = torch.eye(2)[torch.tensor([[0, 1, 0, 1]])]
    assert contrast_accuracy(crossed, pairs).item() == 0
    chance = contrast_accuracy(F.normalize(torch.randn(3000, 16, 8, generator=generator(1)), dim=-1), sources)
    assert chance.item() == pytest.approx(3 / 15, abs=0.01)


def test_the_accuracy_is_exact_under_autocast() -> None:
    """A nearest token that bfloat16 would not tell from others."""
    angles = torch.tensor([[0.0, 0.02, 0.031, 0.05]])
    tokens, sources = torch.stack([angles.cos(), angles.sin()], -1), torch.tensor([[0, 1, 1, 0]])
    with torch.autocast("cpu", torch.bfloat16):
        assert contrast_accuracy(tokens, sources).item() == 0.5


# The objective --------------------------------------------------------------------------------------------------------


class Told(FragmentModel):
    """Says what it was told of every group; remembers what it was given."""

    def __init__(self, tokens: Tensor, patches: Tensor) -> None:
        super().__init__(SHAPE, 1)
        self.patches, self.answer = Patches(SHAPE, 4), Unmixed(tokens, patches)

    def predict(self, images: Tensor, mask: Tensor) -> Tensor:
        raise AssertionError

    def unmix(self, mixed: Tensor, mask: Tensor) -> Unmixed:
        self.mixed, self.mask = mixed, mask
        return self.answer


def told(groups: int = 3) -> Told:
    """Anything, for groups of two images."""
    random = generator(5)
    return Told(torch.randn(groups, 4, 6, generator=random), torch.rand(groups, 2, 4, 48, generator=random))


def mae(shape: tuple[int, int, int] = SHAPE) -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(shape, 12, patch=4, depth=2, decoder_width=6, decoder_depth=1)


@pytest.mark.parametrize("normalize", [False, True])
def test_the_loss_is_that_of_a_slow_loop(normalize: bool) -> None:
    model, puzzles = told(), batch(6)
    found = Masked(mix=2, homologous=0.5, temperature=0.3, normalize=normalize)(model, puzzles, generator())
    images, total, count, sources = puzzles.fragments[0].double(), 0.0, 0, torch.empty(3, 4, dtype=torch.long)
    for group, place in itertools.product(range(3), range(4)):
        rows_, columns = PLACES[place]
        tiles = [images[2 * group + image][:, rows_, columns] for image in range(2)]
        seen = model.mixed[group][:, rows_, columns].double()
        (shown,) = [image for image in range(2) if torch.equal(tiles[image], seen)]
        assert model.mask[group, :, place].tolist() == [image != shown for image in range(2)]
        sources[group, place] = shown
        hidden = tiles[1 - shown]
        if normalize:
            hidden = (hidden - hidden.mean()) / hidden.std()
        told_ = model.answer.patches[group, 1 - shown, place].view(3, 4, 4).double()
        total += float((told_ - hidden).square().sum())
        count += hidden.numel()
    assert count == 6 * 2 * 48
    tokens = F.normalize(model.answer.tokens.double(), dim=-1)
    assert tuple(found) == ("loss", "error", "contrast", "contrast_accuracy")
    assert found["error"].item() == pytest.approx(total / count, rel=1e-4)
    assert found["contrast"].item() == pytest.approx(slow(tokens, sources, 0.3), rel=1e-5)
    assert found["contrast_accuracy"].item() == pytest.approx(slow_accuracy(tokens, sources))
    assert found["loss"].item() == pytest.approx(found["error"].item() + 0.5 * found["contrast"].item(), rel=1e-6)


def test_a_perfect_answer_costs_the_choice_within_images_and_no_knowledge_its_logarithm() -> None:
    puzzles, truth = batch(6), Patches(SHAPE, 4).cut(batch(6).fragments[0]).view(3, 2, 4, 48)
    sources = draw_sources(3, 4, 2, generator(0))
    objective = Masked(mix=2, homologous=1.0, temperature=0.01)
    perfect = objective(Told(torch.eye(2)[sources], truth), puzzles, generator(0))
    assert (perfect["error"].item(), perfect["contrast_accuracy"].item()) == (0, 1)
    assert perfect["contrast"].item() == pytest.approx(math.log(1), abs=1e-6)  # one other patch of its image
    blank = objective(Told(torch.ones(3, 4, 2), truth + 0.5), puzzles, generator(0))
    assert blank["error"].item() == pytest.approx(0.25, rel=1e-5)
    assert blank["contrast"].item() == pytest.approx(math.log(3), rel=1e-5)


@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_the_contrast_trains_tokens_where_it_has_a_weight(weight: float) -> None:
    model = told()
    free = model.answer.tokens.requires_grad_()
    model.answer.patches.requires_grad_()
    found = Masked(mix=2, homologous=weight)(model, batch(6), generator())
    torch.autograd.backward(found["loss"])
    assert free.grad is not None
    assert bool(free.grad.any()) == bool(weight)
    assert [value.requires_grad for value in found.values()] == [True, False, False, False]


def test_no_hidden_pixel_is_seen_and_every_image_of_a_mix_is() -> None:
    """What an image is filled in from: all that its mix shows, also of the others, and nothing that it hides."""
    model, sources = mae().eval(), draw_sources(2, 4, 2, generator())
    hidden = hidden_from(sources, 2)
    patches = torch.rand(2, 2, 4, 48, requires_grad=True)
    found = model.unmix(model.patches.join(mixed(patches, sources)), hidden)
    for image in range(2):
        (gradient,) = torch.autograd.grad(found.patches[:, image].square().sum(), patches, retain_graph=True)
        assert torch.equal((gradient != 0).any(-1), ~hidden)


def test_random_numbers_come_from_the_generator_alone() -> None:
    model, puzzles, objective = mae().eval(), batch(6), Masked(mix=2, homologous=0.1, noise=0.05)
    before = torch.get_rng_state()
    first, again, other = (objective(model, puzzles, generator(seed))["loss"].item() for seed in (3, 3, 4))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_is_on_what_is_seen_and_not_on_the_targets() -> None:
    clean, noisy, puzzles = told(200), told(200), batch(400)
    still = Masked(mix=2)(clean, puzzles, generator())
    found = Masked(mix=2, noise=0.1)(noisy, puzzles, generator())
    added = noisy.mixed - clean.mixed
    assert float(added.std()) == pytest.approx(0.1, rel=0.02)
    assert found["loss"].item() == still["loss"].item()  # the same mix, the same targets


def test_images_that_make_no_whole_group_are_left_out() -> None:
    seven = Masked(mix=2)(told(), batch(7), generator())
    six = Masked(mix=2)(told(), replace(batch(7), fragments=batch(7).fragments[:, :6]), generator())
    assert seven == six
    with pytest.raises(ConfigError, match=r"objective\.mix=2 needs at least 2 images per batch, but a batch has 1"):
        Masked(mix=2)(told(), batch(1), generator())


def test_mixing_takes_the_place_of_the_ratio_and_has_nothing_to_train() -> None:
    first, second = (Masked(ratio, mix=2)(told(), batch(6), generator()) for ratio in (0.1, 0.9))
    assert first == second
    assert not list(Masked(mix=4, homologous=0.1).parameters())
    assert Masked().parts == ("loss",)


def coloured(random: torch.Generator) -> FragmentBatch:
    """Images of one colour each, under noise that hides it from single pixels."""
    colours = torch.rand(1, 64, 3, 1, 1, generator=random)
    return replace(batch(), fragments=colours + 0.3 * torch.randn(1, 64, 3, 16, 16, generator=random))


def test_patches_of_one_image_are_learned_to_be_recognised_and_images_to_be_filled_in() -> None:
    model, random, objective = mae((3, 16, 16)), generator(), Masked(mix=4, homologous=0.1)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    found = []
    for _ in range(150):
        losses = objective(model, coloured(random), random)
        found.append({name: value.item() for name, value in losses.items()})
        optimizer.zero_grad()
        torch.autograd.backward(losses["loss"])
        optimizer.step()
    first, last = (
        {name: sum(row[name] for row in some) / 10 for name in found[0]} for some in (found[:10], found[-10:])
    )
    assert first["contrast_accuracy"] < 0.7
    assert last["contrast_accuracy"] > 0.8
    assert last["error"] < first["error"]
    assert last["contrast"] < first["contrast"]


# Settings and recipe --------------------------------------------------------------------------------------------------


def test_models_and_patches_that_cannot_be_mixed_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"objective\.mix=2 .* EnergyTransformer"):
        Masked(mix=2).check(EnergyTransformer(SHAPE, 8, heads=2, head_width=4))
    sixteen = mae((3, 16, 16))
    for mix in (2, 4, 8):
        Masked(mix=mix).check(sixteen)
    for mix in (3, 16, 32):
        with pytest.raises(ConfigError, match=rf"objective\.mix={mix} must divide the 16 patches .*; use 2, 4, 8$"):
            Masked(mix=mix).check(sixteen)
    with pytest.raises(ConfigError, match=r"objective\.mix=2 must divide the 1 patches .*model\.patch"):
        Masked(mix=2).check(MaskedAutoencoder(SHAPE, 12, patch=8))


def test_the_rows_of_the_ablation_differ_by_the_objective_alone() -> None:
    config = composed("experiment=mixed_ablation", "data.root=somewhere")
    assert config.hydra.mode.name == "MULTIRUN"
    assert command.count_jobs(config.hydra.sweeper, ["experiment=mixed_ablation"]) == 3
    found = []
    for row in ("{mix:null}", "{mix:4}", "{mix:4,homologous:0.1}"):
        assert row in config.hydra.sweeper.params.objective
        given = command.compose(["experiment=mixed_ablation", "data.root=somewhere", f"objective={row}"]).objective
        found.append((given["mix"], given["homologous"], given["ratio"]))
    assert found == [(None, 0.0, 0.75), (4, 0.0, 0.75), (4, 0.1, 0.75)]
    assert config.evaluation.reconstruction.ratio == 1 - 1 / 4
