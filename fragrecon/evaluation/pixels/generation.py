"""What a model decodes of latents that are drawn at random, beside test images.

Two numbers tell of the latents, without any picture: how far they are from the standard normal that is drawn from, and
how many of their numbers say anything of an image. A model may be near to the normal because it says nothing.

Shapes: M fragments (C, h, w), D numbers a latent, N images (C, H, W) of ``cells`` fragments.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fragrecon.data.module import FixedPuzzles, FragmentData
from fragrecon.data.puzzles import FragmentBatch, Indices, cut, draw_images, fragment_size, join
from fragrecon.data.store import Split
from fragrecon.data.widths import groups
from fragrecon.errors import DataError, TrainingError
from fragrecon.evaluation.clustering.protocol import ClusteringProtocol
from fragrecon.evaluation.examples import Example, example_of
from fragrecon.evaluation.pixels.perceptual import (
    Output,
    PerceptualNetworks,
    PerceptualScores,
    decoded,
    score_perceptual,
)
from fragrecon.models.base import Decoder, FragmentModel, Variational
from fragrecon.seeds import keys_of, uniforms

log = logging.getLogger(__name__)

FITTED = 10_000
"""Images whose latents a normal is fitted to at most."""

MANY = 2048
"""Latents, beyond which the eigenvectors of their covariance take too long."""
ACTIVE = 0.01
"""Variance over images from which on a number of the latents counts as saying something of them."""
COLUMNS, SHOWN, STEPS = 10, 20, 9
"""Images that are shown, samples beside them, and steps from one image to another."""
WIDTHS, FEW = 7, 3
"""Other widths that are shown where these are free, and images of each."""


@dataclass(frozen=True)
class Normal:
    """A normal distribution of latents.

    Attributes:
        mean: (D,), float64.
        covariance: (D, D).
    """

    mean: Tensor
    covariance: Tensor

    def draw(self, keys: Tensor) -> Tensor:
        """A latent under each of the keys (M,), as (M, D) float32; the same noise for all distributions."""
        numbers = uniforms(keys, len(self.mean)).clamp_(min=2.0**-54)
        noise: Tensor = torch.special.ndtri(numbers)
        return (self.mean + noise @ self._root).float()

    def distance(self) -> float:
        """The Fréchet distance, which is Wasserstein's squared, from the standard normal.

        ``|m|^2 + tr(S + I - 2 S^(1/2))`` (Dowson and Landau, 1982); finite also where S is singular, as the
        Kullback-Leibler divergence is not.
        """
        deviations = torch.linalg.eigvalsh(self.covariance).clamp(min=0).sqrt()
        return float(self.mean.square().sum() + (deviations - 1).square().sum())

    @cached_property
    def _root(self) -> Tensor:
        """R, of which R^T R is the covariance: the symmetric one, but of very many latents, where that takes minutes,
        the triangular one of a covariance that is a millionth wider.
        """
        if len(self.mean) > MANY:
            hair = 1e-6 * self.covariance.diagonal().mean()
            upper: Tensor = torch.linalg.cholesky(self.covariance + hair * torch.eye(len(self.mean)), upper=True)
            return upper
        values, directions = torch.linalg.eigh(self.covariance)
        root: Tensor = (directions * values.clamp(min=0).sqrt()) @ directions.T
        return root


def standard_normal(dim: int) -> Normal:
    return Normal(torch.zeros(dim, dtype=torch.float64), torch.eye(dim, dtype=torch.float64))


@dataclass(frozen=True)
class Latents:
    """What a model takes fragments for.

    Attributes:
        means: (M, D), their embeddings, float64.
        variances: (M, D), of a model that takes each for a distribution; else zero.
    """

    means: Tensor
    variances: Tensor

    def normal(self) -> Normal:
        """The normal with mean and covariance of all latents.

        With variances, of the latents that the decoder was trained on: the mixture of the distributions, which is what
        a prior has to match (the aggregate posterior: Makhzani et al., 2015).
        """
        covariance = torch.cov(self.means.T, correction=0).view(self.means.shape[1], -1)
        return Normal(self.means.mean(0), covariance + self.variances.mean(0).diag())

    def active(self) -> float:
        """Share of the numbers whose means vary over images (active units: Burda et al., 2016)."""
        return float((self.means.var(0, correction=0) > ACTIVE).double().mean())


@dataclass(frozen=True)
class Generated:
    """What is shown of a model that decodes, on the CPU, pixels in 0..1.

    Attributes:
        example: images, and what is decoded of their embeddings.
        between: (P, S, C, H, W), decoded on the way from one image to another, see `pairs_of`; None of a single image.
        samples: (M, C, h, w), decoded of the standard normal.
        fitted: (M, C, h, w), of the same noise by the normal fitted to latents of training images.
        others: images of other widths, where these are free.
    """

    example: Example
    between: Tensor | None
    samples: Tensor | None = None
    fitted: Tensor | None = None
    others: Sequence[Example] = ()

    @property
    def reconstructions(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (N, C, H, W) and what is decoded of them, the narrowest first."""
        for example in sorted((self.example, *self.others), key=lambda example: example.batch.fragment_size[1]):
            assert example.decoded is not None
            yield example.images, example.in_place(example.decoded)


class Generation:
    """A model that decodes, on a data set.

    Args:
        model: in eval mode, on the device.
        data: of the fragments that it was trained on.
        seed: keys samples.
        device: of the model.
        batch_size: images at once.
    """

    def __init__(
        self, model: FragmentModel, data: FragmentData, *, seed: int, device: torch.device, batch_size: int
    ) -> None:
        self.model, self.seed, self.device, self.batch_size = model, seed, device, batch_size
        self.data = data.variant(images_per_puzzle=1)

    def puzzles(self, samples: int) -> FixedPuzzles:
        """As many fragments of test images as samples, or up to an image's more; each image is a puzzle by itself."""
        wanted, cells, there = -(-samples // self.data.cells), self.data.cells, len(self.data.store("test"))
        if wanted > there:
            log.warning("there are %d fragments of test images, and so as many samples, not %d", there * cells, samples)
        return self.data.test_set(min(wanted, there))

    @cached_property
    def fitted(self) -> Normal | None:
        """To latents of training images; None where there are none."""
        try:
            return self.latents("train").normal()
        except DataError as error:
            log.warning("no samples of a fitted normal: %s", error)
            return None

    @torch.inference_mode()
    def latents(self, split: Split) -> Latents:
        """Of up to `FITTED` fragments of training or test images as they are, without augmentation.

        Raises:
            TrainingError: some of their numbers are not finite.
        """
        images = self.data.training_images() if split == "train" else np.arange(len(self.data.store("test")))
        count = min(-(-FITTED // self.data.cells), len(images))
        drawn = np.sort(draw_images(images, 1, 0, count, self.data.puzzle_seed, split).flatten())
        means, variances = [], []
        store = self.data.store(split)
        for part in groups(store.widths[drawn], self.batch_size):
            pixels = torch.from_numpy(store.read(drawn[part])).to(self.device)
            fragments = cut(pixels, fragment_size(pixels, self.data.grid)).flatten(0, 1).float() / 255
            if isinstance(self.model, Variational):
                posterior = self.model.posterior(fragments)
                mean, variance = posterior.mean, posterior.log_variance.exp()
            else:
                mean = self.model.encode(fragments.unsqueeze(1)).squeeze(1)
                variance = torch.zeros_like(mean)
            means.append(mean.cpu().double())
            variances.append(variance.cpu().double())
        found = Latents(torch.cat(means), torch.cat(variances))
        if not (found.means + found.variances).isfinite().all():
            raise TrainingError("the model's latents hold numbers that are not finite; no normal can be fitted to them")
        return found

    def score(
        self, puzzles: FixedPuzzles, networks: PerceptualNetworks, advance: Callable[[int], None] = lambda count: None
    ) -> PerceptualScores:
        """How far latents are from the prior, and in the eyes of networks what is decoded of it from test images.

        Beside the model's samples of the standard normal: of the normal fitted to its latents, which are as good if
        nothing but the prior is at fault; its reconstructions of the test images, the best that its decoder could do;
        and, if there are as many, other test images, which are as near as any can be.

        Args:
            puzzles: of `puzzles`; one sample is decoded for each of their fragments.
            networks: to look with.
            advance: told how many images are done, for a progress bar.
        """
        latents = self.latents("test")
        found = {
            "model": {
                "generation_latent_frechet_distance": latents.normal().distance(),
                "generation_active_share": latents.active(),
            }
        }
        if not networks.features:
            return PerceptualScores(dataset_wide=found)
        seen = score_perceptual(
            puzzles,
            self._outputs(len(puzzles)),
            networks,
            prefix="generation",
            batch_size=self.batch_size,
            device=self.device,
            advance=advance,
            setting="evaluation.generation.samples",
        )
        wide = {method: found.get(method, {}) | values for method, values in seen.dataset_wide.items()}
        return replace(seen, scores={}, dataset_wide=wide)  # no sample is of a certain image

    @torch.inference_mode()
    def show(self, protocol: ClusteringProtocol) -> Generated:
        """Some test images, ways between them, and some samples."""
        shown, keys, fitted = self.show_images(protocol), self._keys(0, SHOWN), self.fitted
        size = shown.example.batch.fragment_size
        return replace(
            shown,
            samples=decode(self.model, standard_normal(self.model.latent_dim).draw(keys), size, self.device).cpu(),
            fitted=decode(self.model, fitted.draw(keys), size, self.device).cpu() if fitted else None,
        )

    def show_images(self, protocol: ClusteringProtocol) -> Generated:
        """Some test images and ways between them."""
        available = self.data.alike("test", np.arange(len(self.data.store("test"))))
        example = self._example(available, COLUMNS, protocol)
        others = [self._example(images, FEW, protocol) for images in self._other_widths(example.batch.fragment_size[1])]
        return Generated(example, interpolate(self.model, example, self.device), others=others)

    def _example(self, available: Indices, most: int, protocol: ClusteringProtocol) -> Example:
        """Some of the available test images, which are of one width."""
        data = self.data.variant(images_per_puzzle=min(most, len(available)))
        batch = data.fixed_batches("test", available, 1, "test").read(slice(0, 1))
        return example_of(self.model, batch.to(self.device).as_float(), data.grid, protocol)

    def _other_widths(self, width: int) -> list[Indices]:
        """Test images of each of up to `WIDTHS` other widths, from the least to the greatest that there is."""
        if not self.data.config.free_width:
            return []
        widths = self.data.store("test").widths
        others = np.setdiff1d(widths, [width])
        chosen = np.linspace(0, len(others) - 1, min(WIDTHS, len(others))).round().astype(int)
        return [np.flatnonzero(widths == other) for other in others[chosen]]

    def _outputs(self, count: int) -> dict[str, Output]:
        normals = {"model": standard_normal(self.model.latent_dim), "fitted_normal": self.fitted}
        outputs = {name: self._sampled(normal) for name, normal in normals.items() if normal}
        outputs["reconstruction"] = decoded(self.model)["model"]
        # Where widths are free, others are of other widths.
        if 2 * count <= len(self.data.store("test")) and not self.data.config.free_width:
            others = self.data.test_set(2 * count)
            outputs["test_images"] = lambda batch: self._read(others, count + batch.step, len(batch))
        return outputs

    def _sampled(self, normal: Normal) -> Output:
        def output(batch: FragmentBatch) -> Tensor:
            fragments = batch.source_ids.shape[1]
            keys = self._keys(batch.step * fragments, len(batch) * fragments)
            return decode(self.model, normal.draw(keys), batch.fragment_size, self.device)

        return output

    def _keys(self, first: int, count: int) -> Tensor:
        return keys_of(self.seed, "samples of the prior", first, count)

    def _read(self, puzzles: FixedPuzzles, first: int, count: int) -> Tensor:
        return puzzles.read(slice(first, first + count)).to(self.device).as_float().fragments.flatten(0, 1)


def decode(model: FragmentModel, latents: Tensor, size: tuple[int, int], device: torch.device) -> Tensor:
    """Fragments (..., C, h, w) in 0..1 of that size, on a device, of latents (..., D)."""
    assert isinstance(model, Decoder)
    return model.decode(latents.to(device), size).float().clamp(0, 1)


def pairs_of(count: int) -> list[tuple[int, int]]:
    """Two by two, so that each of ``count`` images is of a pair."""
    return [(first, (first + 1) % count) for first in range(0, count, 2)] if count > 1 else []


@torch.inference_mode()
def interpolate(model: FragmentModel, example: Example, device: torch.device, steps: int = STEPS) -> Tensor | None:
    """Images (P, S, C, H, W) decoded on straight lines between the embeddings of two images, both ends included.

    Each fragment goes to that at the same place of the other image.
    """
    pairs = pairs_of(example.batch.images_per_puzzle)
    if not pairs:
        return None
    latents = example.in_place(example.embeddings[..., None, None])  # (N, D, rows, columns): a pixel a fragment
    ends = latents[torch.tensor(pairs)].unsqueeze(2)  # (P, 2, 1, D, rows, columns)
    between = torch.lerp(ends[:, 0], ends[:, 1], torch.linspace(0, 1, steps).view(-1, 1, 1, 1))
    fragments = decode(model, cut(between, (1, 1)).flatten(-3), example.batch.fragment_size, device)
    return join(fragments, example.grid).cpu()
