from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fragrecon.models.mae import MaskedAutoencoder
from fragrecon.models.patches import Patches

SHAPE = (3, 8, 12)


def model(**settings: Any) -> MaskedAutoencoder:
    torch.manual_seed(0)
    small = {"latent_dim": 12, "depth": 2, "decoder_width": 6, "decoder_depth": 1}
    return MaskedAutoencoder(SHAPE, **{**small, **settings}).eval()


def random_mask(images: int, hidden: int) -> Tensor:
    return torch.stack([torch.randperm(6) < hidden for _ in range(images)])


def test_patches_are_cut_row_by_row_and_joined_again() -> None:
    patches, images = Patches(SHAPE, 4), torch.rand(5, *SHAPE)
    cut = patches.cut(images)
    assert cut.shape == (5, patches.count, patches.values) == (5, 6, 48)
    for place in range(6):
        row, column = divmod(place, 3)
        tile = images[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        assert torch.equal(cut[:, place].view(5, 3, 4, 4), tile)
    assert torch.equal(patches.join(cut), images)


def test_the_encoder_is_given_visible_patches_only() -> None:
    made, seen = model(), []
    made.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    made.predict(torch.rand(4, *SHAPE), random_mask(4, 5))
    assert seen == [(4, 1 + 1, 12)]
    made.embed(torch.rand(4, *SHAPE))
    assert seen[1] == (4, 1 + 6, 12)


def test_patches_come_back_to_their_places() -> None:
    """Hiding the same places of images in another order gives the same, and each place has its own position."""
    made, images, mask = model(), torch.rand(3, *SHAPE), random_mask(3, 3)
    together = made.predict(images, mask)
    alone = torch.cat([made.predict(image[None], row[None]) for image, row in zip(images, mask, strict=True)])
    torch.testing.assert_close(together, alone)
    made.positions.data[:, 0] += 1.0  # of a place that the second image does not show
    first, second = mask.clone(), mask.clone()
    first[:], second[:] = torch.tensor([0, 1, 1, 1, 0, 1]).bool(), torch.tensor([1, 0, 1, 1, 0, 1]).bool()
    moved = made.predict(images, first), made.predict(images, second)
    made.positions.data[:, 0] -= 1.0
    assert not torch.allclose(made.predict(images, first), moved[0])
    assert torch.equal(made.predict(images, second), moved[1])


def mixture(groups: int = 3, images: int = 2) -> tuple[Tensor, Tensor]:
    """Mixed images, and what of each of their images they hide: (G, N, 6)."""
    sources = torch.stack([torch.randperm(6) % images for _ in range(groups)])
    return torch.rand(groups, *SHAPE), torch.stack([sources != image for image in range(images)], 1)


def test_one_image_unmixed_is_one_with_nothing_hidden() -> None:
    made, images, nothing = model(), torch.rand(3, *SHAPE), torch.zeros(3, 6, dtype=torch.bool)
    unmixed = made.unmix(images, nothing.unsqueeze(1))
    torch.testing.assert_close(unmixed.patches[:, 0], made.predict(images, nothing))
    torch.testing.assert_close(unmixed.tokens.mean(1), made.embed(images))


def test_the_decoder_is_given_the_tokens_of_an_image_at_their_places_and_mask_tokens_elsewhere() -> None:
    made, (mixed, mask), given, encoded = model(), mixture(), [], []
    made.decoder.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    made.encoder.register_forward_hook(lambda _module, _inputs, output: encoded.append(output))
    unmixed = made.unmix(mixed, mask)
    ((decoded,), (tokens,)) = (given, encoded)
    assert (decoded.shape, tokens.shape) == ((6, 1 + 6, 6), (3, 1 + 6, 12))
    assert torch.equal(unmixed.tokens, tokens[:, 1:])
    for group in range(3):
        for image in range(2):
            row = decoded[2 * group + image]
            torch.testing.assert_close(row[0], made.to_decoder(tokens[group, 0]))
            for place in range(6):
                hidden = mask[group, image, place]
                content = made.mask_token if hidden else made.to_decoder(tokens[group, 1 + place])
                torch.testing.assert_close(row[1 + place], content + made.decoder_positions[0, place])


def test_mixed_images_do_not_depend_on_those_of_other_mixes_nor_on_their_order() -> None:
    made, (mixed, mask) = model(), mixture(images=3)
    whole, alone = made.unmix(mixed, mask), made.unmix(mixed[1:2], mask[1:2])
    torch.testing.assert_close(whole.patches[1:2], alone.patches)
    torch.testing.assert_close(whole.tokens[1:2], alone.tokens)
    order = [2, 0, 1]
    torch.testing.assert_close(made.unmix(mixed, mask[:, order]).patches, whole.patches[:, order])


def test_images_with_unequal_numbers_of_visible_patches_are_refused() -> None:
    mask = torch.tensor([[True] * 4 + [False] * 2, [False] * 4 + [True] * 2])
    with pytest.raises(ValueError, match=r"\[2, 4\]"):
        model().predict(torch.rand(2, *SHAPE), mask)
    with pytest.raises(ValueError, match=r"\[2, 4\]"):
        model().unmix(torch.rand(1, *SHAPE), mask.unsqueeze(0))
