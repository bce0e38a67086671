from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from fragrecon.data.puzzles import FragmentBatch
from fragrecon.evaluation.pixels.baselines import ConditionalMean, bilinear, mean_colour
from fragrecon.evaluation.pixels.reconstruction import (
    Masking,
    decoding_score,
    downsampled,
    downsampled_size,
    inpainted,
    inpainting_score,
    pixels_of,
    reconstruction_of,
    score_composites,
    score_reconstruction,
    similarity_map,
)
from fragrecon.models.conv import ConvAutoencoder
from fragrecon.models.mae import MaskedAutoencoder
from fragrecon.models.patches import Patches
from fragrecon.models.supervised import SupervisedClassifier
from fragrecon.objectives.reconstruction import BEST_PSNR

SHAPE = (3, 16, 16)
PATCHES = Patches(SHAPE, 4)


def smooth(count: int, seed: int = 0) -> Tensor:
    """Images with structure of several pixels."""
    noise = np.random.default_rng(seed).normal(size=(count, *SHAPE))
    soft = gaussian_filter(noise, (0, 0, 2, 2)) * 2 + 0.5
    return torch.from_numpy(soft).float().clamp(0, 1)


def masks(count: int, ratio: float = 0.75, first: int = 0) -> Tensor:
    return Masking(ratio, 0).draw(batch(smooth(count).unsqueeze(1), first), PATCHES.count)


def score_filling(guess: Tensor, images: Tensor, mask: Tensor) -> dict[str, Tensor]:
    hidden = pixels_of(mask, PATCHES, images.shape)
    return score_composites(torch.where(hidden, guess, images), images, hidden)


def batch(fragments: Tensor, step: int = 0) -> FragmentBatch:
    puzzles, count = fragments.shape[:2]
    ids = torch.arange(count).expand(puzzles, -1)
    zeros = torch.zeros_like(ids)
    return FragmentBatch(fragments, ids, zeros, zeros, ids, ids, step)


def slow_similarity(image: Tensor, other: Tensor) -> Tensor:
    """By SciPy's filter, channel by channel, in double precision."""
    planes = []
    for x, y in zip(image.double().numpy(), other.double().numpy(), strict=True):

        def local(
            values: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
        ) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
            return gaussian_filter(values, 1.5, mode="mirror", radius=5)

        means = local(x), local(y)
        variances = local(x * x) - means[0] ** 2, local(y * y) - means[1] ** 2
        covariance = local(x * y) - means[0] * means[1]
        c1, c2 = 0.01**2, 0.03**2
        top = (2 * means[0] * means[1] + c1) * (2 * covariance + c2)
        planes.append(top / ((means[0] ** 2 + means[1] ** 2 + c1) * (sum(variances) + c2)))
    return torch.from_numpy(np.stack(planes))


def test_similarity_is_that_of_the_definition() -> None:
    images, others = smooth(3), smooth(3, seed=1)
    found = similarity_map(images, others)
    for one, image, other in zip(found, images, others, strict=True):
        torch.testing.assert_close(one.double(), slow_similarity(image, other), atol=2e-4, rtol=0)


def test_scores_of_filling_in_are_those_of_loops() -> None:
    images, mask = smooth(4), masks(4)
    guess = smooth(4, seed=2)
    scores = score_filling(guess, images, mask)
    for number, (image, row) in enumerate(zip(images, mask, strict=True)):
        composite, hidden = image.clone(), torch.zeros(16, 16, dtype=torch.bool)
        for place in range(16):
            if row[place]:
                top, left = place // 4 * 4, place % 4 * 4
                composite[:, top : top + 4, left : left + 4] = guess[number, :, top : top + 4, left : left + 4]
                hidden[top : top + 4, left : left + 4] = True
        errors, similarity = (composite - image).double() ** 2, slow_similarity(composite, image)
        expected = {
            "masked_mse": float(errors[:, hidden].mean()),
            "masked_psnr": -10 * math.log10(float(errors[:, hidden].mean())),
            "masked_ssim": float(similarity[:, hidden].mean()),
            "composite_mse": float(errors.mean()),
            "composite_psnr": -10 * math.log10(float(errors.mean())),
            "composite_ssim": float(similarity.mean()),
        }
        assert set(scores) == set(expected)
        for name, value in expected.items():
            assert float(scores[name][number]) == pytest.approx(value, abs=2e-4), name


def test_filling_in_the_truth_is_perfect_and_what_is_visible_does_not_count() -> None:
    images, mask = smooth(3), masks(3)
    perfect = score_filling(images, images, mask)
    for name, value in {"mse": 0.0, "psnr": BEST_PSNR, "ssim": 1.0}.items():
        for part in ("masked", "composite"):
            torch.testing.assert_close(perfect[f"{part}_{name}"], torch.full((3,), value, dtype=torch.float64))
    guess = smooth(3, seed=5)
    spoiled = torch.where(mask.unsqueeze(-1), PATCHES.cut(guess), torch.rand(3, 16, 48))
    first = score_filling(guess, images, mask)
    second = score_filling(PATCHES.join(spoiled), images, mask)
    for name, values in first.items():
        assert torch.equal(values, second[name])


def test_whole_outputs_are_scored_on_all_pixels() -> None:
    images, output = smooth(3), smooth(3, seed=1)
    scores = score_reconstruction(output, images)
    errors = (output - images).double().square().flatten(1).mean(1)
    torch.testing.assert_close(scores["reconstruction_mse"], errors, atol=1e-6, rtol=0)
    torch.testing.assert_close(scores["reconstruction_psnr"], -10 * errors.log10(), atol=1e-4, rtol=0)
    assert torch.all(scores["reconstruction_ssim"] < 1)


def test_masks_are_each_puzzles_own_however_they_are_batched() -> None:
    together = masks(6)
    parts = torch.cat([masks(2), masks(3, first=2), masks(1, first=5)])
    assert torch.equal(together, parts)
    assert len(torch.unique(together, dim=0)) == 6
    assert set(together.sum(1).tolist()) == {12}
    assert not torch.equal(together, Masking(0.75, 1).draw(batch(smooth(6).unsqueeze(1)), 16))


def test_what_each_kind_of_model_is_scored_by() -> None:
    masking, puzzles = Masking(0.75, 0), batch(smooth(6).view(2, 3, *SHAPE))
    fills = reconstruction_of(MaskedAutoencoder(SHAPE, 12, depth=1, decoder_width=6, decoder_depth=1).eval(), masking)
    decodes = reconstruction_of(ConvAutoencoder(SHAPE, 8).eval(), masking)
    assert fills is not None
    assert decodes is not None
    with torch.no_grad():
        assert set(fills(puzzles)) == {f"{a}_{b}" for a in ("masked", "composite") for b in ("mse", "psnr", "ssim")}
        assert set(decodes(puzzles)) == {f"reconstruction_{name}" for name in ("mse", "psnr", "ssim")}
        assert all(values.shape == (2,) for values in fills(puzzles).values())
    assert reconstruction_of(SupervisedClassifier(SHAPE, 3), masking) is None


def test_a_puzzles_score_is_the_mean_of_its_fragments() -> None:
    masking, images = Masking(0.75, 0), smooth(6)
    puzzles = batch(images.view(2, 3, *SHAPE))
    black = torch.zeros(6, *SHAPE)
    found = inpainting_score(inpainted(lambda *_: black, masking, PATCHES), masking, PATCHES)(puzzles)
    alone = score_filling(black, images, masking.draw(puzzles, 16))
    for name, values in found.items():
        torch.testing.assert_close(values, alone[name].view(2, 3).mean(1))


def test_the_mean_colour_is_that_of_the_visible_patches() -> None:
    images, mask = smooth(3), masks(3)
    found = mean_colour(images, mask, PATCHES)
    for image, row, output in zip(images, mask, found, strict=True):
        seen = PATCHES.cut(image[None])[0][~row].view(-1, 3, 16).movedim(1, 0).reshape(3, -1)
        torch.testing.assert_close(output, seen.mean(1)[:, None, None].expand(SHAPE))


def test_interpolation_restores_a_ramp_between_what_is_visible() -> None:
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 16), torch.linspace(0, 1, 16), indexing="ij")
    ramp = torch.stack([rows, columns, (rows + columns) / 2])[None]
    mask = torch.ones(1, 16, dtype=torch.bool)
    mask[0, [0, 3, 12, 15]] = False  # the corners
    torch.testing.assert_close(bilinear(ramp, mask, PATCHES), ramp, atol=1e-5, rtol=0)


def test_beyond_what_is_visible_the_nearest_pixel_is_taken() -> None:
    images, mask = smooth(1), torch.ones(1, 16, dtype=torch.bool)
    mask[0, 5] = False  # rows and columns 4 to 7
    found = bilinear(images, mask, PATCHES)[0]
    torch.testing.assert_close(found[:, 0, 0], images[0, :, 4, 4])
    torch.testing.assert_close(found[:, 15, 15], images[0, :, 7, 7])
    torch.testing.assert_close(found[:, 5, 15], images[0, :, 5, 7])
    torch.testing.assert_close(found[:, 4:8, 4:8], images[0, :, 4:8, 4:8])


def test_one_line_of_visible_pixels_is_no_fault() -> None:
    images, mask = smooth(1)[:, :, :1, :4], torch.tensor([[False, True, True, False]])
    found = bilinear(images, mask, Patches((3, 1, 4), 1))
    torch.testing.assert_close(found[..., 1], images[..., 0])
    torch.testing.assert_close(found[..., 2], images[..., 3])


def slow_conditional(training: Tensor, image: Tensor, row: Tensor) -> Tensor:
    """By NumPy, with an index a pixel."""
    rows = PATCHES.cut(training).flatten(1).double().numpy()
    mean, covariance = rows.mean(0), np.cov(rows.T) + 1e-4 * np.eye(rows.shape[1])
    seen = np.repeat(~row.numpy(), 48)
    values = PATCHES.cut(image[None]).flatten().double().numpy()
    guess = mean + covariance[:, seen] @ np.linalg.solve(covariance[np.ix_(seen, seen)], values[seen] - mean[seen])
    return PATCHES.join(torch.from_numpy(guess).view(1, 16, 48)).clamp(0, 1)[0]


def test_the_linear_prediction_is_the_conditional_mean() -> None:
    training, images, mask = smooth(1200), smooth(5, seed=3), masks(5)
    found = ConditionalMean(training, PATCHES)(images, mask, batch=2)
    for image, row, output in zip(images, mask, found, strict=True):
        torch.testing.assert_close(output.double(), slow_conditional(training, image, row), atol=1e-4, rtol=0)


def test_the_linear_prediction_is_better_than_interpolation_and_that_than_the_mean() -> None:
    training, images, mask = smooth(3000), smooth(40, seed=3), masks(40, ratio=0.5)
    outputs = [mean_colour(images, mask, PATCHES), bilinear(images, mask, PATCHES)]
    outputs.append(ConditionalMean(training, PATCHES)(images, mask))
    errors = [float(score_filling(output, images, mask)["masked_mse"].mean()) for output in outputs]
    assert errors[0] > 1.1 * errors[1]
    assert errors[1] > 1.1 * errors[2]


@pytest.mark.parametrize(
    ("latents", "shape", "size"),
    [
        (128, (1, 1, 201, 201), (11, 11)),
        (128, (1, 1, 152, 1280), (4, 32)),
        (128, (1, 1, 1280, 152), (32, 4)),
        (128, (1, 3, 32, 32), (6, 7)),
        (2, (1, 3, 32, 32), (1, 1)),
        (10**6, (1, 3, 7, 5), (7, 5)),
    ],
)
def test_images_are_downsampled_to_no_more_values_than_latents(
    latents: int, shape: tuple[int, ...], size: tuple[int, int]
) -> None:
    assert downsampled_size(latents, torch.Size(shape)) == size
    assert size[0] * size[1] * shape[1] <= max(latents, shape[1])


def test_downsampled_images_are_means_that_pillow_enlarges() -> None:
    whole = torch.rand(3, 1, 24, 36, generator=torch.Generator().manual_seed(0))
    ids = torch.zeros(3, 1, dtype=torch.long)
    batch = FragmentBatch(whole.unsqueeze(1), ids, ids, ids, ids, ids)
    found = decoding_score(downsampled(24))(batch)
    for number, image in enumerate(whole[:, 0].numpy()):
        means = image.reshape(4, 6, 6, 6).mean((1, 3))
        # Pillow's cubic has another parameter than torch's: -0.5 instead of -0.75
        enlarged = np.asarray(Image.fromarray(means).resize((36, 24), Image.Resampling.BICUBIC)).clip(0, 1)
        error = float(((enlarged - image) ** 2).mean())
        assert float(found["reconstruction_mse"][number]) == pytest.approx(error, rel=0.05)
    exact = decoding_score(downsampled(24 * 36))(batch)
    assert exact["reconstruction_mse"].max() < 1e-10
