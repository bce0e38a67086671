from __future__ import annotations

import io

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torch import Tensor

from fragrecon.data.compression import BLOCK, jpeg


def photograph(size: int = 64, box: tuple[int, int, int, int] = (100, 0, 420, 320)) -> Image.Image:
    """A photograph scaled down from a much larger one."""
    whole = Image.fromarray(skimage.data.astronaut())  # type: ignore[no-untyped-call]
    return whole.crop(box).resize((size, size), Image.Resampling.BOX)


def tensor(image: Image.Image) -> Tensor:
    pixels = np.asarray(image.convert("RGB") if image.mode != "L" else image)
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1).copy()).movedim(-1, 0)


def by_pillow(image: Image.Image, quality: int, subsampling: int) -> Tensor:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling=subsampling)
    return tensor(Image.open(file)).float()


def compressed(image: Image.Image, quality: int, offset: tuple[int, int] = (0, 0), subsampling: bool = True) -> Tensor:
    return jpeg(tensor(image)[None], torch.tensor([quality]), torch.tensor([offset]), subsampling)[0]


@pytest.mark.parametrize("quality", [10, 30, 50, 75, 95])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_it_is_that_of_libjpeg_but_for_rounding(quality: int, subsampling: int) -> None:
    image = photograph()
    expected = by_pillow(image, quality, subsampling)
    found = compressed(image, quality, subsampling=subsampling == 2)
    apart, lost = (found - expected).abs().mean(), (tensor(image) - expected).abs().mean()
    assert apart < 1  # of 255 levels
    assert apart < 0.4 * lost
    other = compressed(image, quality, subsampling=subsampling == 0)
    assert (other - expected).abs().mean() > apart + 0.2 or quality == 10


@pytest.mark.parametrize("quality", [30, 75])
def test_grey_images_are_compressed_as_luma(quality: int) -> None:
    image = photograph().convert("L")
    expected = by_pillow(image, quality, 0)
    assert (compressed(image, quality) - expected).abs().mean() < 1


def test_a_shifted_grid_is_that_of_an_image_with_a_repeated_border() -> None:
    image = photograph()
    rows, columns = 5, 11
    padded = np.pad(np.asarray(image), ((rows, BLOCK), (columns, BLOCK), (0, 0)), mode="edge")
    expected = by_pillow(Image.fromarray(padded[: 64 + BLOCK, : 64 + BLOCK]), 75, 2)
    expected = expected[:, rows : rows + 64, columns : columns + 64]
    found = compressed(image, 75, (rows, columns))
    assert (found - expected).abs().mean() < 1
    assert (compressed(image, 75) - expected).abs().mean() > 2


def test_images_of_any_size_are_compressed_and_each_by_its_own_settings() -> None:
    image = tensor(photograph(48, (0, 0, 300, 300)))[:, :37, :]
    both = torch.stack([image, image.flip(-1)])
    quality, offset = torch.tensor([20, 90]), torch.tensor([[0, 3], [15, 0]])
    found = jpeg(both, quality, offset)
    assert found.shape == both.shape
    for at in (0, 1):
        assert torch.equal(jpeg(both[at : at + 1], quality[at : at + 1], offset[at : at + 1])[0], found[at])
    lost = (found - both).abs().mean((1, 2, 3))
    assert lost[0] > 2 * lost[1] > 0
    assert torch.equal(found, found.round())
    assert 0 <= found.min() < found.max() <= 255


def test_chroma_at_half_resolution_crosses_the_borders_of_fragments_and_of_its_own_blocks_only_by_interpolation() -> (
    None
):
    """Two colours that meet at the border of two fragments; each fragment's last column then shows the other colour."""
    image = torch.zeros(1, 3, 32, 32)
    image[:, 0, :, :16], image[:, 2, :, 16:] = 200, 200
    none, quality = torch.zeros(1, 2, dtype=torch.int64), torch.tensor([100])
    leaking = jpeg(image, quality, none)[0, :, 8, 15] - jpeg(image, quality, none)[0, :, 8, 8]
    tight = jpeg(image, quality, none, False)[0, :, 8, 15] - jpeg(image, quality, none, False)[0, :, 8, 8]
    assert leaking.abs().max() > 20
    assert tight.abs().max() <= 3
