"""Samples of the prior of a model that decodes, compared with test images.

Two scores depend on the latents alone: their Fréchet distance to the standard normal distribution that samples are
drawn from, and the share of active dimensions. The latter shows whether latents are close to the normal only because
they carry no information.

Shapes: M fragments (C, h, w), D dimensions of a latent, N images (C, H, W) of ``cells`` fragments.
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
from fragrecon.evaluation.pixels.perceptual import PerceptualNetworks, PerceptualScores, score_perceptual
from fragrecon.evaluation.pixels.reconstruction import Output, decoded
from fragrecon.models.base import Decoder, FragmentModel, Variational
from fragrecon.seeds import keys_of, uniforms

log = logging.getLogger(__name__)

FITTED = 10_000
"""Maximum number of fragments whose latents a normal distribution is fitted to."""

MANY = 2048
"""Above this number of dimensions, an eigendecomposition of the covariance takes too long."""
ACTIVE = 0.01
"""A dimension of the latents is active if its variance over images exceeds this."""
COLUMNS, SHOWN, STEPS = 10, 20, 9
"""Number of images and samples shown, and of steps of an interpolation."""
WIDTHS, FEW = 7, 3
"""Number of other widths shown if widths are variable, and of images per width."""


@dataclass(frozen=True)
class Normal:
    """A normal distribution of latents.

    Attributes:
        mean: mean (D,), float64.
        covariance: covariance (D, D).
    """

    mean: Tensor
    covariance: Tensor

    def draw(self, keys: Tensor) -> Tensor:
        """Draw latents (M, D) float32, one per key (M,); the noise is the same for all distributions."""
        numbers = uniforms(keys, len(self.mean)).clamp_(min=2.0**-54)
        noise: Tensor = torch.special.ndtri(numbers)
        return (self.mean + noise @ self._root).float()

    def distance(self) -> float:
        """Return the Fréchet distance (squared 2-Wasserstein distance) to the standard normal distribution.

        ``|m|^2 + tr(S + I - 2 S^(1/2))`` (Dowson and Landau, 1982); unlike the
        Kullback-Leibler divergence, it is finite if S is singular.
        """
        deviations = torch.linalg.eigvalsh(self.covariance).clamp(min=0).sqrt()
        return float(self.mean.square().sum() + (deviations - 1).square().sum())

    @cached_property
    def _root(self) -> Tensor:
        """A matrix R with R^T R equal to the covariance: its symmetric root or, for very many dimensions, where that is
        slow, the Cholesky factor after adding a millionth of the mean variance to the diagonal.
        """
        if len(self.mean) > MANY:
            ridge = 1e-6 * self.covariance.diagonal().mean()
            upper: Tensor = torch.linalg.cholesky(self.covariance + ridge * torch.eye(len(self.mean)), upper=True)
            return upper
        values, directions = torch.linalg.eigh(self.covariance)
        root: Tensor = (directions * values.clamp(min=0).sqrt()) @ directions.T
        return root


def standard_normal(dim: int) -> Normal:
    """Return the standard normal distribution in ``dim`` dimensions."""
    return Normal(torch.zeros(dim, dtype=torch.float64), torch.eye(dim, dtype=torch.float64))


@dataclass(frozen=True)
class Latents:
    """Latents of fragments.

    Attributes:
        means: embeddings (M, D), float64.
        variances: variances (M, D); zero unless the model is variational.
    """

    means: Tensor
    variances: Tensor

    def normal(self) -> Normal:
        """Return the normal distribution with the mean and covariance of the latents.

        For a variational model these are the moments of the aggregate posterior, which the prior has to match
        (Makhzani et al., 2015).
        """
        covariance = torch.cov(self.means.T, correction=0).view(self.means.shape[1], -1)
        return Normal(self.means.mean(0), covariance + self.variances.mean(0).diag())

    def active(self) -> float:
        """Return the share of dimensions whose means vary over images (active units: Burda et al., 2016)."""
        return float((self.means.var(0, correction=0) > ACTIVE).double().mean())


@dataclass(frozen=True)
class Generated:
    """Images decoded by a model, on the CPU, in [0, 1].

    Attributes:
        example: test images with their reconstructions.
        between: interpolations (P, S, C, H, W) between the pairs of `pairs_of`; None for a single image.
        samples: decoded samples (M, C, h, w) of the standard normal distribution.
        fitted: decoded samples (M, C, h, w), with the same noise, of the normal fitted to latents of training images.
        others: images of other widths, if widths are variable.
    """

    example: Example
    between: Tensor | None
    samples: Tensor | None = None
    fitted: Tensor | None = None
    others: Sequence[Example] = ()

    @property
    def reconstructions(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (N, C, H, W) with their reconstructions, the narrowest first."""
        for example in sorted((self.example, *self.others), key=lambda example: example.batch.fragment_size[1]):
            assert example.decoded is not None
            yield example.images, example.in_place(example.decoded)


class Generation:
    """Evaluates the samples of a model that decodes.

    Args:
        model: model in eval mode, on the device.
        data: data module with fragments of the size that the model was trained on.
        seed: seed of the samples.
        device: device of the model.
        batch_size: images per batch.
    """

    def __init__(
        self, model: FragmentModel, data: FragmentData, *, seed: int, device: torch.device, batch_size: int
    ) -> None:
        self.model, self.seed, self.device, self.batch_size = model, seed, device, batch_size
        self.data = data.variant(images_per_puzzle=1)

    def puzzles(self, samples: int) -> FixedPuzzles:
        """Return test images with ``samples`` fragments in total, rounded up to whole images; each is a puzzle."""
        wanted, cells, there = -(-samples // self.data.cells), self.data.cells, len(self.data.store("test"))
        if wanted > there:
            log.warning(
                "evaluation.generation.samples=%d, but the test images have %d fragments; that many samples are drawn",
                samples,
                there * cells,
            )
        return self.data.test_set(min(wanted, there))

    @cached_property
    def fitted(self) -> Normal | None:
        """Normal distribution fitted to latents of training images; None if there are none."""
        try:
            return self.latents("train").normal()
        except DataError as error:
            log.warning("samples of a fitted normal are skipped: %s", error)
            return None

    @torch.inference_mode()
    def latents(self, split: Split) -> Latents:
        """Return the latents of up to `FITTED` fragments of training or test images, without augmentation.

        Raises:
            TrainingError: a latent is not finite.
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
            raise TrainingError("the model's latents are not finite; no normal distribution can be fitted to them")
        return found

    def score(
        self, puzzles: FixedPuzzles, networks: PerceptualNetworks, advance: Callable[[int], None] = lambda count: None
    ) -> PerceptualScores:
        """Score the latents, and samples of the prior by pretrained networks.

        In addition to samples of the standard normal distribution, three references are scored: samples of the normal
        fitted to the model's latents, which are better if the prior does not match them; reconstructions of the test
        images, which bound what the decoder can achieve; and other test images, if there are enough.

        Args:
            puzzles: test images from `puzzles`; one sample is decoded per fragment.
            networks: networks to score with.
            advance: called with the number of images done, for a progress bar.

        Returns:
            Dataset-wide scores.
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
        return replace(seen, scores={}, dataset_wide=wide)  # samples do not correspond to images

    @torch.inference_mode()
    def show(self, protocol: ClusteringProtocol) -> Generated:
        """Return test images with reconstructions, interpolations and samples."""
        shown, keys, fitted = self.show_images(protocol), self._keys(0, SHOWN), self.fitted
        size = shown.example.batch.fragment_size
        return replace(
            shown,
            samples=decode(self.model, standard_normal(self.model.latent_dim).draw(keys), size, self.device).cpu(),
            fitted=decode(self.model, fitted.draw(keys), size, self.device).cpu() if fitted else None,
        )

    def show_images(self, protocol: ClusteringProtocol) -> Generated:
        """Return test images with reconstructions and interpolations."""
        available = self.data.alike("test", np.arange(len(self.data.store("test"))))
        example = self._example(available, COLUMNS, protocol)
        others = [self._example(images, FEW, protocol) for images in self._other_widths(example.batch.fragment_size[1])]
        return Generated(example, interpolate(self.model, example, self.device), others=others)

    def _example(self, available: Indices, most: int, protocol: ClusteringProtocol) -> Example:
        """Return an example of up to ``most`` of the available test images, which have equal width."""
        data = self.data.variant(images_per_puzzle=min(most, len(available)))
        batch = FixedPuzzles(data, "test", available, 1, "test").read(slice(0, 1))
        return example_of(self.model, batch.to(self.device).as_float(), data.grid, protocol)

    def _other_widths(self, width: int) -> list[Indices]:
        """Return test images of up to `WIDTHS` other widths, in increasing order."""
        if not self.data.config.variable_width:
            return []
        widths = self.data.store("test").widths
        others = np.setdiff1d(widths, [width])
        chosen = np.linspace(0, len(others) - 1, min(WIDTHS, len(others))).round().astype(int)
        return [np.flatnonzero(widths == other) for other in others[chosen]]

    def _outputs(self, count: int) -> dict[str, Output]:
        normals = {"model": standard_normal(self.model.latent_dim), "fitted_normal": self.fitted}
        outputs = {name: self._sampled(normal) for name, normal in normals.items() if normal}
        outputs["reconstruction"] = decoded(self.model)
        # With variable width, other test images have other widths.
        if 2 * count <= len(self.data.store("test")) and not self.data.config.variable_width:
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
    """Decode latents (..., D) to fragments (..., C, h, w) of a size, in [0, 1] on a device."""
    assert isinstance(model, Decoder)
    return model.decode(latents.to(device), size).float().clamp(0, 1)


def pairs_of(count: int) -> list[tuple[int, int]]:
    """Return pairs of images to interpolate between, so that each of ``count`` images is in a pair."""
    return [(first, (first + 1) % count) for first in range(0, count, 2)] if count > 1 else []


@torch.inference_mode()
def interpolate(model: FragmentModel, example: Example, device: torch.device, steps: int = STEPS) -> Tensor | None:
    """Decode points on the lines between the embeddings of pairs of images.

    Each fragment is interpolated with the fragment at the same cell of the other image.

    Args:
        model: model that decodes, in eval mode on the device.
        example: images with their embeddings.
        device: device of the model.
        steps: number of points S, including both ends.

    Returns:
        Images (P, S, C, H, W), or None for a single image.
    """
    pairs = pairs_of(example.batch.images_per_puzzle)
    if not pairs:
        return None
    latents = example.in_place(example.embeddings[..., None, None])  # (N, D, rows, columns): one pixel per fragment
    ends = latents[torch.tensor(pairs)].unsqueeze(2)  # (P, 2, 1, D, rows, columns)
    between = torch.lerp(ends[:, 0], ends[:, 1], torch.linspace(0, 1, steps).view(-1, 1, 1, 1))
    fragments = decode(model, cut(between, (1, 1)).flatten(-3), example.batch.fragment_size, device)
    return join(fragments, example.grid).cpu()
