"""What a model fills in, step by step, and where it attends, beside slower ways to say the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fragrecon.evaluation.pixels.inpainting_examples import Inpainted, Steps, inpaint, middle
from fragrecon.models.base import Attentive, Descender, FragmentModel, Inpainter, Viewer
from fragrecon.models.energy_transformer import EnergyBlock, EnergyTransformer
from fragrecon.models.mae import MaskedAutoencoder
from fragrecon.models.patches import Patches
from fragrecon.report.figures.inpainting import HATCH, masked_psnr, visible

SHAPE = (3, 8, 12)
PATCHES = 6  # of 4x4


def energy_transformer(**given: object) -> EnergyTransformer:
    torch.manual_seed(0)
    settings = {"latent_dim": 10, "patch": 4, "heads": 3, "head_width": 5, "steps": 4, "alpha": 0.01, "init": 0.5}
    return EnergyTransformer(SHAPE, **(settings | given)).eval()  # type: ignore[arg-type]


def mae() -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(SHAPE, 12, 4, 1, 3, 8, 2, 2).eval()


def masked_images(count: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    mask = torch.rand(count, PATCHES, generator=generator).argsort(1) < 4
    return torch.rand(count, *SHAPE, generator=generator), mask


def test_the_descent_ends_in_what_is_predicted_and_starts_at_the_tokens() -> None:
    model, (images, mask) = energy_transformer(layers=2), masked_images()
    with torch.no_grad():
        descent = model.descend(images, mask)
        assert descent.patches.shape == (1 + 2 * 4, 5, PATCHES, 48)
        assert torch.equal(descent.patches[-1], model.predict(images, mask))
        start = model.to_pixels(model.norm(model.tokens(images, mask))[:, 1:])
        assert torch.equal(descent.patches[0], start)
        shorter = energy_transformer(layers=1, steps=3)
        shorter.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("blocks.1")})
        assert torch.equal(descent.patches[3], shorter.predict(images, mask))


def test_the_energies_are_those_of_each_block_and_fall_by_small_steps() -> None:
    model, (images, mask) = energy_transformer(layers=2), masked_images()
    with torch.no_grad():
        energies = model.descend(images, mask).energies
        assert energies.shape == (2, 5, 5)
        tokens = model.tokens(images, mask)
        for number, block in enumerate(model.blocks):
            assert isinstance(block, EnergyBlock)
            torch.testing.assert_close(energies[number, 0], block.energy(tokens))
            tokens = block(tokens)
            torch.testing.assert_close(energies[number, -1], block.energy(tokens))
    assert (energies.diff(dim=1) < 0).all()


@pytest.mark.parametrize("itself", [False, True])
def test_attention_is_the_softmax_of_queries_and_keys(itself: bool) -> None:
    model, (images, mask) = energy_transformer(attend_to_self=itself), masked_images()
    chosen = torch.tensor([0, 5, 2, 2, 3])
    with torch.no_grad():
        found = model.attention(images, mask, chosen)
        (block,) = model.blocks
        assert isinstance(block, EnergyBlock)
        g = block.norm(block(model.tokens(images, mask)))
    assert found.shape == (5, 3, PATCHES)
    for image in range(5):
        for head in range(3):
            query, key = (
                weights.detach().view(3, 5, 10)[head] for weights in (block.attention.queries, block.attention.keys)
            )
            asking = 1 + int(chosen[image])
            terms = [
                math.exp(float((query @ g[image, asking]) @ (key @ g[image, other])) / math.sqrt(5))
                if itself or other != asking
                else 0.0
                for other in range(1 + PATCHES)
            ]
            expected = np.array(terms[1:]) / sum(terms)
            np.testing.assert_allclose(found[image, head].numpy(), expected, atol=1e-5)


def test_attention_of_the_masked_autoencoder_is_that_of_its_last_block() -> None:
    model, (images, mask) = mae(), masked_images()
    chosen = torch.tensor([0, 5, 2, 2, 3])
    seen: list[Tensor] = []
    last = list(model.decoder.layers)[-1]
    assert isinstance(last, nn.TransformerEncoderLayer)
    with torch.no_grad():
        handle = last.norm1.register_forward_hook(lambda _module, _given, normed: seen.append(normed))
        found = model.attention(images, mask, chosen)
        handle.remove()
    assert found.shape == (5, 2, PATCHES)
    weights = last.self_attn.in_proj_weight.detach().view(3, 2, 4, 8)  # query, key, value; heads; width of a head
    bias = last.self_attn.in_proj_bias.detach().view(3, 2, 4)
    for image in range(5):
        for head in range(2):
            normed = seen[0][image]
            query, key = (normed @ weights[part, head].T + bias[part, head] for part in (0, 1))
            row = torch.softmax(query[1 + chosen[image]] @ key.T / 2.0, -1)
            torch.testing.assert_close(found[image, head], row[1:])


@pytest.mark.parametrize("model", [energy_transformer(), mae()], ids=["energy_transformer", "mae"])
def test_a_filling_keeps_what_was_visible_and_says_how_it_came_about(model: FragmentModel) -> None:
    assert isinstance(model, Inpainter)
    images, mask = masked_images()
    filling = inpaint(model, images, mask)
    assert torch.equal(filling.composite[~filling.hidden.expand_as(images)], images[~filling.hidden.expand_as(images)])
    with torch.no_grad():
        expected = model.patches.join(model.predict(images, mask)).clamp(0, 1)
    torch.testing.assert_close(filling.output, expected)
    assert (filling.steps is not None) == isinstance(model, Descender)
    assert isinstance(model, Attentive)
    assert filling.attention is not None
    assert filling.attention.weights.shape[2:] == (2, 3)
    assert torch.equal(filling.attention.chosen, middle(mask, model.patches))
    shown = visible(filling)
    seen = ~filling.hidden.expand_as(images)
    assert torch.equal(shown[seen], images[seen])
    assert sorted(set(shown[~seen].tolist())) == pytest.approx(sorted(HATCH))
    for image, ratio in zip(range(5), masked_psnr(filling, filling.output).tolist(), strict=True):
        hidden = filling.hidden[image, 0].numpy()
        errors = (filling.output[image].numpy() - images[image].numpy())[:, hidden]
        assert ratio == pytest.approx(-10 * math.log10(float((errors.astype(np.float64) ** 2).mean())), rel=1e-5)


def test_the_chosen_patch_is_hidden_and_next_to_the_middle() -> None:
    patches = Patches((1, 20, 20), 4)  # 5x5
    mask = torch.zeros(4, 25, dtype=torch.bool)
    mask[0] = True
    mask[1, [0, 17, 24]] = True
    mask[2, 4] = True
    assert middle(mask, patches).tolist() == [12, 17, 4, 12]


def test_fragments_that_were_filled_in_are_joined_to_their_images() -> None:
    grid, count = (2, 3), 12
    generator = torch.Generator().manual_seed(0)
    images, output = torch.rand(2, count, 1, 2, 2, generator=generator)
    hidden = torch.rand(count, 1, 2, 2, generator=generator) < 0.5
    energies = torch.rand(1, 4, count, generator=generator)
    filling = Inpainted(images, hidden, output, Steps(torch.stack([images, output, output, output]), energies))
    joined = filling.joined(grid)
    assert joined.images.shape == (2, 1, 4, 6)
    for image in range(2):
        for cell in range(6):
            row, column = divmod(cell, 3)
            place = (..., slice(2 * row, 2 * row + 2), slice(2 * column, 2 * column + 2))
            fragment = 6 * image + cell
            assert torch.equal(joined.images[image][place], images[fragment])
            assert torch.equal(joined.hidden[image][place], hidden[fragment])
            assert torch.equal(joined.composite[image][place], filling.composite[fragment])
            assert joined.steps is not None
            assert torch.equal(joined.steps.output[1, image][place], output[fragment])
    assert joined.steps is not None
    expected = [[float(energies[0, step, 6 * image : 6 * image + 6].sum()) for image in (0, 1)] for step in range(4)]
    np.testing.assert_allclose(joined.steps.energies[0].numpy(), expected, rtol=1e-6)


def test_views_show_a_map_for_each_head_up_to_its_most() -> None:
    for model, heads in ((energy_transformer(), 3), (mae(), 2)):
        assert isinstance(model, Viewer)
        images, _ = masked_images()
        with torch.no_grad():
            (picture,) = model.views(images.unsqueeze(0)).values()
        assert picture.shape == (heads, 1, 2, 3)
        assert torch.equal(picture.amax((1, 2, 3)), torch.ones(heads))
        assert picture.min() >= 0
