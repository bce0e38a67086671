"""What the page of an inpainting model shows, against numpy and the model itself."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fragrecon.demo import inpainting
from fragrecon.demo.inpainting import Scene
from fragrecon.evaluation.pixels.inpainting_examples import Inpainted
from fragrecon.models.base import FragmentModel, Inpainter
from fragrecon.models.energy_transformer import EnergyTransformer
from fragrecon.models.mae import MaskedAutoencoder

CPU = torch.device("cpu")
SHAPE, PATCH, GRID, COUNT = (3, 12, 20), 4, (3, 5), 15
ORANGE, BLUE = (237, 107, 26), (26, 102, 242)


def transformer(shape: tuple[int, int, int] = SHAPE) -> EnergyTransformer:
    """Of two blocks of three steps, whose weights are large enough to do something."""
    torch.manual_seed(0)
    model = EnergyTransformer(shape, 8, PATCH, heads=2, head_width=4, layers=2, steps=3, alpha=0.3, init=0.5)
    return model.eval()


def autoencoder() -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(SHAPE, 12, PATCH, 1, 3, 6, 1, 3).eval()


def image(shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def mask_with(*hidden: int) -> Tensor:
    return torch.tensor([patch in hidden for patch in range(COUNT)])


def pixels(picture: Tensor) -> npt.NDArray[np.uint8]:
    """A picture at the size of its image, which it must enlarge by whole pixels."""
    times = picture.shape[-2] // SHAPE[1]
    assert picture.dtype == torch.uint8
    assert tuple(picture.shape) == (3, SHAPE[1] * times, SHAPE[2] * times)
    small = picture.numpy()[:, ::times, ::times]
    np.testing.assert_array_equal(np.kron(small, np.ones((times, times), np.uint8)), picture.numpy())
    return small


def of_pixels(mask: Tensor) -> npt.NDArray[np.bool_]:
    return np.kron(mask.view(GRID).numpy(), np.ones((PATCH, PATCH), bool))


def bytes_of(values: Tensor) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = np.round(values.double().numpy() * 255)
    return found


@pytest.mark.parametrize("make", [transformer, autoencoder])
def test_the_composite_keeps_visible_pixels_and_takes_hidden_ones_from_the_model(
    make: Callable[[], FragmentModel],
) -> None:
    model, scene = make(), Scene(image(), mask_with(0, 3, 4, 7, 14))
    assert isinstance(model, Inpainter)
    filling = inpainting.answer(model, scene, CPU)
    question, answer = inpainting.input_pictures(filling, GRID), inpainting.output_pictures(filling)
    with torch.no_grad():
        patches = model.predict(scene.image[None], scene.mask[None])[0].numpy()
    said = np.zeros(SHAPE)
    for number, patch in enumerate(patches):
        row, column = divmod(number, GRID[1])
        said[:, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] = patch.reshape(3, PATCH, PATCH)
    said = np.round(said.clip(0, 1) * 255)
    hidden = of_pixels(scene.mask)
    np.testing.assert_allclose(pixels(answer["output"]), said, atol=1)
    np.testing.assert_array_equal(pixels(question["image"]), bytes_of(scene.image))
    composite = pixels(answer["composite"])
    np.testing.assert_array_equal(composite[:, ~hidden], bytes_of(scene.image)[:, ~hidden])
    np.testing.assert_array_equal(composite[:, hidden], pixels(answer["output"])[:, hidden])


def test_what_was_hidden_is_hatched_between_thin_lines() -> None:
    scene = Scene(image(), mask_with(2, 6))
    shown = inpainting.input_pictures(inpainting.answer(autoencoder(), scene, CPU), GRID)["visible"].numpy()
    height, width = shown.shape[1] // GRID[0], shown.shape[2] // GRID[1]
    for patch in range(COUNT):
        row, column = divmod(patch, GRID[1])
        inside = shown[:, row * height + 2 : (row + 1) * height - 2, column * width + 2 : (column + 1) * width - 2]
        if patch in (2, 6):
            assert set(inside.flatten().tolist()) == {102, 217}
        else:
            middle = bytes_of(scene.image[:, row * PATCH + 1, column * PATCH + 1])
            np.testing.assert_array_equal(inside[:, height * 3 // 8 - 2, width * 3 // 8 - 2], middle)
    line = shown[:, height, 2 * width + width // 2]  # between two patches, the upper of which is hidden
    assert not np.isin(line, (102, 217)).any()


def slow_psnr(output: Tensor, truth: Tensor, hidden: npt.NDArray[np.bool_]) -> float:
    error = np.mean((output.double().numpy() - truth.double().numpy())[:, hidden] ** 2)
    return float(10 * np.log10(1 / error))


def test_psnr_is_that_of_hidden_pixels_alone_at_each_step() -> None:
    scene = Scene(image(), mask_with(0, 5, 6, 11))
    filling = inpainting.answer(transformer(), scene, CPU)
    hidden = of_pixels(scene.mask)
    wanted = [slow_psnr(inpainting.at_step(filling, step).output[0], scene.image, hidden) for step in range(7)]
    np.testing.assert_allclose(inpainting.ratios_of(filling).numpy(), wanted, rtol=1e-5)
    facts = inpainting.facts_of(inpainting.at_step(filling, 2), COUNT)
    assert facts == {"hidden": "4 of 15 patches", "masked PSNR": f"{wanted[2]:.2f} dB"}


def test_an_output_is_that_after_the_step_if_the_model_descends() -> None:
    filling = inpainting.answer(autoencoder(), Scene(image(), mask_with(4)), CPU)
    assert (inpainting.steps_of(filling), len(inpainting.ratios_of(filling))) == (0, 1)
    assert inpainting.at_step(filling, 0) is filling
    descended = inpainting.answer(transformer(), Scene(image(), mask_with(4)), CPU)
    assert (inpainting.steps_of(descended), len(inpainting.ratios_of(descended))) == (6, 7)
    assert descended.steps is not None
    assert torch.equal(inpainting.at_step(descended, 2).output, descended.steps.output[2])


@given(ratio=st.floats(0, 1), draw=st.integers(0, 1000))
def test_a_random_mask_hides_its_share_but_never_nothing_or_all(ratio: float, draw: int) -> None:
    hidden = int(inpainting.random_mask(64, ratio, draw).sum())
    assert 1 <= hidden <= 63
    assert abs(hidden - 64 * ratio) <= 0.5 or hidden in (1, 63)


def test_a_larger_share_hides_all_that_a_smaller_one_does_and_another_draw_others() -> None:
    masks = [inpainting.random_mask(64, ratio, 3) for ratio in (0.0, 0.2, 0.5, 0.51, 0.9, 1.0)]
    for fewer, more in itertools.pairwise(masks):
        assert not (fewer & ~more).any()
    assert not torch.equal(masks[2], inpainting.random_mask(64, 0.5, 4))
    assert torch.equal(masks[2], inpainting.random_mask(64, 0.5, 3))


def test_a_painted_mask_is_what_was_clicked() -> None:
    mask = mask_with(0, 1)
    for x, y in [(10.0, 10.0), (499.0, 299.0), (150.0, 120.0), (10.0, 10.0)]:
        mask = inpainting.toggled(mask, inpainting.patch_at((x, y), (300, 500), GRID))
    assert mask.nonzero().flatten().tolist() == [0, 1, 6, 14]
    assert inpainting.toggled(mask, 0).nonzero().flatten().tolist() == [1, 6, 14]


def test_the_last_visible_and_the_last_hidden_patch_stay() -> None:
    one, all_but_one = mask_with(3), ~mask_with(3)
    assert torch.equal(inpainting.toggled(one, 3), mask_with(3))
    assert torch.equal(inpainting.toggled(all_but_one, 3), ~mask_with(3))
    assert torch.equal(inpainting.toggled(one, 4), mask_with(3, 4))


@given(st.floats(-5, 510), st.floats(-5, 310))
def test_the_patch_under_a_point_is_inside_also_at_the_edges(x: float, y: float) -> None:
    patch = inpainting.patch_at((x, y), (300, 500), GRID)
    row, column = divmod(patch, GRID[1])
    assert row == min(max(math.floor(y / 100), 0), 2)
    assert column == min(max(math.floor(x / 100), 0), 4)


def test_attention_is_that_of_the_chosen_patch() -> None:
    model, scene = transformer(), Scene(image(), mask_with(1, 2, 3), chosen=11)
    filling = inpainting.answer(model, scene, CPU)
    with torch.no_grad():
        wanted = model.attention(scene.image[None], scene.mask[None], torch.tensor([11]))[0].view(2, *GRID)
    assert filling.attention is not None
    torch.testing.assert_close(filling.attention.weights[0], wanted)
    heads = inpainting.head_pictures(filling)
    assert list(heads) == [f"{n}, up to {float(head.max()):.0%}" for n, head in enumerate(wanted, 1)]
    for picture, head in [
        (inpainting.mean_picture(filling), wanted.mean(0)),
        *zip(heads.values(), wanted, strict=True),
    ]:
        check_attended(picture.numpy(), head.numpy(), 11)


def check_attended(picture: npt.NDArray[np.uint8], weights: npt.NDArray[np.float32], chosen: int) -> None:
    """The more weight, the more colour: the difference of red and blue of a patch's middle tells it."""
    height, width = picture.shape[1] // GRID[0], picture.shape[2] // GRID[1]
    middles = picture[:, height // 2 :: height, width // 2 :: width].astype(float)
    shares = (middles[0] - middles[2]) / (ORANGE[0] - ORANGE[2]) / 0.85
    np.testing.assert_allclose(shares, weights / weights.max(), atol=0.02)
    row, column = divmod(chosen, GRID[1])
    assert picture[:, row * height, column * width].tolist() == list(BLUE)
    assert picture[:, (row + 1) * height - 1, (column + 1) * width - 1].tolist() == list(BLUE)
    blue = (picture == np.array(BLUE)[:, None, None]).all(0)
    assert not blue[: row * height].any()
    assert not blue[:, : column * width].any()


def test_by_default_a_hidden_patch_next_to_the_middle_is_looked_at() -> None:
    filling = inpainting.answer(transformer(), Scene(image(), mask_with(0, 8)), CPU)
    assert filling.attention is not None
    assert filling.attention.chosen.tolist() == [8]
    drawn = inpainting.chosen_picture(filling, GRID).numpy()
    blue = np.argwhere((drawn == np.array(BLUE)[:, None, None]).all(0))
    height, width = drawn.shape[1] // GRID[0], drawn.shape[2] // GRID[1]
    assert blue.min(0).tolist() == [height, 3 * width]
    assert blue.max(0).tolist() == [2 * height - 1, 4 * width - 1]


def test_the_plot_shows_each_energy_and_marks_the_step() -> None:
    filling = inpainting.answer(transformer(), Scene(image(), mask_with(1, 2)), CPU)
    assert filling.steps is not None
    energies = filling.steps.energies[..., 0].numpy()
    for step, block in ((0, 0), (2, 0), (3, 1), (6, 1)):
        left, right = inpainting.descent_figure(filling, step).axes
        lines = [np.asarray(line.get_xydata()) for line in left.lines]
        np.testing.assert_allclose(lines[0], np.column_stack([range(4), energies[0]]))
        np.testing.assert_allclose(lines[1], np.column_stack([range(3, 7), energies[1]]))
        np.testing.assert_allclose(lines[2], [[step, energies[block, step - 3 * block]]])
        ratios = inpainting.ratios_of(filling).numpy()
        np.testing.assert_allclose(np.asarray(right.lines[0].get_xydata()), np.column_stack([range(7), ratios]))
        np.testing.assert_allclose(np.asarray(right.lines[1].get_xydata()), [[step, ratios[step]]])


def test_grey_images_are_drawn_in_three_channels() -> None:
    shape = (1, 12, 20)
    filling: Inpainted = inpainting.answer(transformer(shape), Scene(image(shape), mask_with(1, 2)), CPU)
    drawn = [*inpainting.input_pictures(filling, GRID).values(), *inpainting.output_pictures(filling).values()]
    drawn += [inpainting.mean_picture(filling), inpainting.chosen_picture(filling, GRID)]
    height, width = inpainting.picture(image(shape)).shape[1:]
    assert all(tuple(picture.shape) == (3, height, width) for picture in drawn)
    assert (height % 12, width % 20) == (0, 0)
    assert 512 <= width < 512 + 20
