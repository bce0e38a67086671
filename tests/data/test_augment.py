from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from fragrecon.data import augment
from fragrecon.data.augment import Augmentation, Draws
from fragrecon.data.compression import jpeg

unhurried = settings(deadline=None)
OFF = Augmentation(0, 0, 0, 0, 0, 0)
EVERYTHING = Augmentation(0.5, 30, 0.4, 0.3, 0.5, 0.2, 0.3, 0.5)
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(256, shape, generator=generator(seed), dtype=torch.uint8)


def smooth(channels: int, height: int, width: int) -> Tensor:
    """A smooth float picture (C, H, W), in 0..255, without any symmetry."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    planes = [128 + 60 * torch.sin(5 * y + 3 * x + c) + 50 * torch.cos(7 * x - (4 + c) * y) for c in range(channels)]
    return torch.stack(planes)


def still(count: int) -> Draws:
    """Draws that change nothing."""
    one, zero, no = torch.ones(count), torch.zeros(count), torch.zeros(count, dtype=torch.bool)
    colours = {"brightness": one, "contrast": one, "saturation": one, "hue": zero}
    crop = {"kept": one, "down": zero, "across": zero}
    compression = {"compressed": no, "subsampled": no, "quality": one, "rows": zero.long(), "columns": zero.long()}
    return Draws(flip=no, angle=zero, **colours, **crop, **compression)


def jittered(images: Tensor, draws: Draws) -> Tensor:
    return augment.colour_jitter(images.float(), draws.brightness, draws.contrast, draws.saturation, draws.hue)


def test_draws_are_in_range_and_reach_it() -> None:
    strength = Augmentation(0.3, 20.0, 0.1, 0.2, 0.5, 0.25, 0.4, 0.3)
    draws = augment.draw(20_000, strength, generator())
    for chosen, probability in ((draws.flip, 0.3), (draws.compressed, 0.3), (draws.subsampled, 0.5)):
        assert chosen.dtype == torch.bool
        assert abs(chosen.double().mean() - probability) < 4 * math.sqrt(probability * (1 - probability) / 20_000)
    assert set(draws.quality.tolist()) == set(range(augment.QUALITIES[0], augment.QUALITIES[1] + 1))
    assert set(draws.rows.tolist()) == set(draws.columns.tolist()) == set(range(16))
    for values, centre, reach in (
        (draws.angle, 0.0, math.radians(20)),
        (draws.brightness, 1.0, 0.1),
        (draws.contrast, 1.0, 0.2),
        (draws.saturation, 1.0, 0.5),
        (draws.hue, 0.0, math.pi / 2),
        (draws.kept, 0.8, 0.2),
        (draws.down, 0.5, 0.5),
        (draws.across, 0.5, 0.5),
    ):
        assert values.shape == (20_000,)
        share = (values - centre) / reach  # uniform in -1 .. 1
        assert share.abs().max() <= 1 + 1e-6
        assert share.max() > 0.99
        assert share.min() < -0.99
        assert abs(share.mean()) < 4 * math.sqrt(1 / 3 / 20_000)


def test_draws_of_different_parts_are_independent() -> None:
    draws = augment.draw(5000, EVERYTHING, generator())
    table = np.corrcoef(np.stack([value.double().numpy() for value in vars(draws).values()]))
    assert abs(table - np.eye(len(table))).max() < 5 / math.sqrt(5000)


@pytest.mark.parametrize(
    "part", ["horizontal_flip", "rotation", "brightness", "contrast", "saturation", "hue", "crop", "compression"]
)
def test_switching_a_part_off_leaves_the_draws_of_the_others(part: str) -> None:
    every = augment.draw(50, EVERYTHING, generator())
    fewer = augment.draw(50, replace(EVERYTHING, **{part: 0.0}), generator())
    names = {"horizontal_flip": "flip", "rotation": "angle", "crop": "kept", "compression": "compressed"}
    switched = names.get(part, part)
    for name, value in vars(fewer).items():
        if name == switched:
            assert value.equal(vars(still(50))[name])
        else:
            assert value.equal(vars(every)[name])


@pytest.mark.parametrize("shape", [(1, 5, 7), (3, 8, 8)])
def test_flipping_mirrors_exactly_the_chosen_images_left_to_right(shape: tuple[int, int, int]) -> None:
    images, chosen = noise(6, *shape), torch.tensor([True, False, False, True, True, False])
    found = augment.flip(images, chosen)
    for image, mirrored, turned in zip(images.tolist(), found.tolist(), chosen.tolist(), strict=True):
        assert mirrored == [[row[::-1] if turned else row for row in plane] for plane in image]
    only_flips = replace(OFF, horizontal_flip=0.5)
    assert augment.apply(images, replace(still(6), flip=chosen), only_flips).equal(found)
    assert augment.flip(found, chosen).equal(images)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (24, 40), (50, 31)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("degrees", [-90.0, -33.0, 7.0, 180.0])
def test_rotation_is_that_of_scipy(height: int, width: int, channels: int, degrees: float) -> None:
    """Also in the corners, which both fill by reflection. A positive angle turns clockwise on the screen."""
    image = smooth(channels, height, width)
    found = augment.rotate(image[None], torch.tensor([math.radians(degrees)]))[0]
    for plane, expected in zip(found.double().numpy(), image.double().numpy(), strict=True):
        slow = ndimage.rotate(expected, -degrees, reshape=False, order=1, mode="reflect")
        np.testing.assert_allclose(plane, slow, rtol=0, atol=0.02)


def test_fragments_of_one_image_are_varied_alike() -> None:
    """A flat image stays flat: every pixel of an image gets the same colour change."""
    flat = noise(20, 3, 1, 1).expand(20, 3, 12, 12).contiguous()
    found = augment.apply(flat, augment.draw(20, EVERYTHING, generator()), EVERYTHING)
    spread = found.flatten(2).int()
    assert ((spread.amax(2) - spread.amin(2)) <= 1).all()  # a bilinear weight may round the other way
    assert not found.equal(flat)


def test_a_grey_image_and_its_copy_in_three_channels_are_varied_alike() -> None:
    plane = noise(8, 1, 16, 12)
    draws = augment.draw(8, EVERYTHING, generator())
    grey = augment.apply(plane, draws, EVERYTHING)
    colour = augment.apply(plane.expand(8, 3, 16, 12), draws, EVERYTHING)
    assert grey.shape == plane.shape
    difference = (colour.int() - grey.int()).abs()
    assert difference.max() <= 1  # of rounding
    assert (difference == 0).float().mean() > 0.99


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([1, 3]))
def test_colour_jitter_is_brightness_then_contrast_then_saturation_then_hue(seed: int, channels: int) -> None:
    """One after the other in double precision, each as it is defined."""
    images = noise(3, channels, 7, 5, seed=seed)
    draws = augment.draw(3, EVERYTHING, generator(seed))
    found = jittered(images, draws)
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    for at in range(3):
        image = images[at].double().numpy() * float(draws.brightness[at])
        grey = image[0] if channels == 1 else np.tensordot(LUMA, image, 1)
        image = grey.mean() + float(draws.contrast[at]) * (image - grey.mean())
        if channels == 3:
            y, i, q = np.tensordot(to_yiq, image, 1)
            chroma = (i + 1j * q) * float(draws.saturation[at]) * np.exp(1j * float(draws.hue[at]))
            image = np.tensordot(np.linalg.inv(to_yiq), np.stack([y, chroma.real, chroma.imag]), 1)
        np.testing.assert_allclose(found[at].numpy(), image, atol=5e-3)


@pytest.mark.parametrize("channels", [1, 3])
def test_with_everything_off_no_pixel_changes(channels: int) -> None:
    images = noise(10, channels, 9, 6)
    assert augment.apply(images, augment.draw(10, OFF, generator()), OFF).equal(images)


@pytest.mark.parametrize("part", [field.name for field in fields(Augmentation)])
def test_each_part_alone_changes_images_in_its_own_way(part: str) -> None:
    strength = replace(OFF, **{part: getattr(EVERYTHING, part)})
    images = noise(10, 3, 9, 6)
    draws = augment.draw(10, strength, generator())
    found = augment.apply(images, draws, strength)
    assert found.dtype == torch.uint8
    assert found.shape == images.shape
    if part == "horizontal_flip":
        expected = augment.flip(images, draws.flip)
    elif part == "rotation":
        expected = augment.rotate(images.float(), draws.angle).round().to(torch.uint8)
    elif part == "crop":
        expected = augment.crop(images.float(), draws.kept, draws.down, draws.across).round().to(torch.uint8)
    elif part == "compression":
        expected = augment.compress(images, draws)
    else:
        expected = jittered(images, draws).round().clamp(0, 255).to(torch.uint8)
    assert found.equal(expected)
    assert not found.equal(images)


def test_the_images_given_are_left_as_they_were() -> None:
    images = noise(6, 3, 8, 8)
    copy = images.clone()
    for strength in (OFF, EVERYTHING, replace(OFF, brightness=0.5), replace(OFF, rotation=20.0)):
        augment.apply(images, augment.draw(6, strength, generator()), strength)
        assert images.equal(copy)


@pytest.mark.parametrize("strength", [EVERYTHING, Augmentation(), replace(OFF, horizontal_flip=0.5)])
@pytest.mark.parametrize("channels", [1, 3])
def test_treating_a_part_is_taking_the_part_of_all_treated(strength: Augmentation, channels: int) -> None:
    """Bit for bit, so that training does not depend on the number of processes."""
    images = noise(80, channels, 32, 32)
    draws = augment.draw(80, strength, generator())
    whole = augment.apply(images, draws, strength)
    for parts in (2, 4, 5, 80):
        size = 80 // parts
        for start in range(0, 80, size):
            part = slice(start, start + size)
            assert augment.apply(images[part], draws[part], strength).equal(whole[part])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_crop_is_the_image_between_its_corners(channels: int) -> None:
    """On a picture that is linear in both coordinates, so that bilinear interpolation is exact."""
    height, width = 12, 20
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    image = (3 * y + 5 * x).expand(1, channels, height, width)
    for kept, down, across in ((1.0, 0.3, 0.8), (0.5, 0.0, 1.0), (0.7, 0.4, 0.1)):
        found = augment.crop(image, *(torch.tensor([value]) for value in (kept, down, across)))
        top, left = down * (1 - kept) * height, across * (1 - kept) * width
        expected = 3 * (top + kept * y) + 5 * (left + kept * x)
        inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))  # the border has no pixels to extrapolate
        torch.testing.assert_close(found[inside], expected.expand_as(found)[inside], rtol=0, atol=1e-3)


def test_only_the_chosen_images_are_compressed_each_with_its_own_settings() -> None:
    images = smooth(3, 32, 32).round().clamp(0, 255).to(torch.uint8).expand(4, -1, -1, -1)
    draws = replace(
        still(4),
        compressed=torch.tensor([True, False, True, True]),
        subsampled=torch.tensor([True, True, False, False]),
        quality=torch.tensor([40.0, 40.0, 40.0, 90.0]),
        rows=torch.tensor([0, 0, 3, 15]),
    )
    found = augment.compress(images, draws)
    assert found[1].equal(images[1])
    for at in (0, 2, 3):
        offset = torch.tensor([[int(draws.rows[at]), 0]])
        expected = jpeg(images[:1], draws.quality[at : at + 1], offset, bool(draws.subsampled[at]))[0]
        assert found[at].equal(expected.to(torch.uint8))
        assert not found[at].equal(images[at])
