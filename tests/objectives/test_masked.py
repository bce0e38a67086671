from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fragrecon.data.puzzles import FragmentBatch
from fragrecon.models.base import FragmentModel
from fragrecon.models.patches import Patches
from fragrecon.objectives.masked import Masked, draw_mask, normalized

SHAPE = (3, 8, 8)


class Copy(FragmentModel):
    """Says of each patch what it sees of it, and a constant where it is hidden; remembers what it was given."""

    def __init__(self, constant: float = 0.0) -> None:
        super().__init__(SHAPE, 1)
        self.patches, self.constant = Patches(SHAPE, 4), constant
        self.weight = nn.Parameter(torch.zeros(()))

    def predict(self, images: Tensor, mask: Tensor) -> Tensor:
        self.images, self.mask = images, mask
        seen = self.patches.cut(images)
        return torch.where(mask.unsqueeze(-1), torch.full_like(seen, self.constant), seen) + self.weight


def batch(images: int = 6) -> FragmentBatch:
    ids = torch.arange(images).view(1, -1)
    pixels = torch.rand(1, images, *SHAPE, generator=torch.Generator().manual_seed(0))
    zeros = torch.zeros_like(ids)
    return FragmentBatch(pixels, ids, zeros, zeros, ids, ids)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("ratio", "patches", "hidden"), [(0.85, 64, 54), (0.75, 16, 12), (0.01, 16, 1), (0.99, 16, 15)]
)
def test_each_image_has_equally_many_patches_hidden(ratio: float, patches: int, hidden: int) -> None:
    mask = draw_mask(50, patches, ratio, generator())
    assert mask.shape == (50, patches)
    assert set(mask.sum(1).tolist()) == {hidden}


def test_every_patch_is_hidden_equally_often_and_independently() -> None:
    mask = draw_mask(20_000, 16, 0.75, generator()).double()
    torch.testing.assert_close(mask.mean(0), torch.full((16,), 0.75, dtype=torch.double), atol=0.015, rtol=0)
    both = (mask.T @ mask / len(mask))[~torch.eye(16, dtype=torch.bool)]
    torch.testing.assert_close(both, torch.full_like(both, 12 / 16 * 11 / 15), atol=0.02, rtol=0)


def test_a_mask_follows_from_its_generator() -> None:
    assert torch.equal(draw_mask(5, 16, 0.5, generator(3)), draw_mask(5, 16, 0.5, generator(3)))
    assert not torch.equal(draw_mask(5, 16, 0.5, generator(3)), draw_mask(5, 16, 0.5, generator(4)))


@pytest.mark.parametrize("normalize", [False, True])
def test_the_loss_is_of_hidden_patches_alone(normalize: bool) -> None:
    model, puzzles = Copy(constant=0.25), batch()
    loss = Masked(0.5, normalize=normalize)(model, puzzles, generator())["loss"]
    total, count = 0.0, 0
    for image, row in zip(puzzles.fragments[0], model.mask, strict=True):
        for place in range(4):
            if row[place]:
                top, left = place // 2 * 4, place % 2 * 4
                tile = image[:, top : top + 4, left : left + 4].double()
                if normalize:
                    tile = (tile - tile.mean()) / tile.std()
                total += float((tile - 0.25).square().sum())
                count += tile.numel()
    assert count == 6 * 2 * 48
    assert float(loss) == pytest.approx(total / count, rel=1e-4)


def test_noise_is_on_what_is_seen_and_not_on_the_targets() -> None:
    puzzles, clean, noisy = batch(400), Copy(0.5), Copy(0.5)
    still = Masked(0.5)(clean, puzzles, generator())["loss"]
    loss = Masked(0.5, noise=0.1)(noisy, puzzles, generator())["loss"]
    assert torch.equal(clean.images, puzzles.fragments[0])
    added = noisy.images - puzzles.fragments[0]
    assert float(added.std()) == pytest.approx(0.1, rel=0.02)
    assert float(added.mean()) == pytest.approx(0, abs=0.002)
    assert float(loss) == pytest.approx(float(still), rel=1e-6)  # the same mask, the same targets


def test_normalized_patches_have_mean_zero_and_variance_one() -> None:
    patches = normalized(torch.rand(3, 4, 48) * 0.1 + 0.6)
    torch.testing.assert_close(patches.mean(-1), torch.zeros(3, 4), atol=1e-4, rtol=0)
    torch.testing.assert_close(patches.var(-1), torch.ones(3, 4), atol=5e-3, rtol=0)
    assert torch.isfinite(normalized(torch.full((1, 1, 48), 0.3))).all()
