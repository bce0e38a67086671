"""The contract of a model: fragments in, one embedding a fragment out.

What only some models can do are small protocols, which objectives and evaluations ask for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fragrecon.errors import ConfigError

Shape = tuple[int, int, int]
"""(channels, height, width) of a fragment."""


class FragmentModel(nn.Module):
    """Base of all models. A model that sees fragments one by one writes `embed`; one that sees the puzzle overrides
    `encode`.

    Args:
        fragment_shape: (C, h, w).
        latent_dim: D.

    Attributes:
        any_size: whether fragments of any height and width can be embedded, and decoded to, besides (C, h, w).
    """

    any_size: ClassVar[bool] = False

    def __init__(self, fragment_shape: Shape, latent_dim: int) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ConfigError(f"model.latent_dim={latent_dim} should be at least 1")
        self.fragment_shape = fragment_shape
        self.latent_dim = latent_dim

    def encode(self, fragments: Tensor) -> Tensor:
        """Embed the fragments of puzzles, (B, F, C, h, w) in [0, 1], as (B, F, D); deterministic in eval mode."""
        embedded = self.embed(fragments.flatten(0, 1))
        return embedded.view(*fragments.shape[:2], -1)

    def embed(self, fragments: Tensor) -> Tensor:
        """Embed single fragments (M, C, h, w) as (M, D)."""
        raise NotImplementedError


@runtime_checkable
class Decoder(Protocol):
    """A model that turns embeddings back into fragments."""

    def decode(self, latents: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """(..., D) to (..., C, h, w) in [0, 1]; ``size`` is (h, w) where a model can make several."""


@dataclass(frozen=True)
class Posterior:
    """Normal distributions of latents, each number independent of the others.

    Attributes:
        mean: (..., D).
        log_variance: (..., D).
    """

    mean: Tensor
    log_variance: Tensor

    def sample(self, generator: torch.Generator) -> Tensor:
        """Latents (..., D), differentiable by mean and variance (Kingma and Welling, 2014, section 2.4)."""
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean + (self.log_variance / 2).exp() * noise


@runtime_checkable
class Variational(Decoder, Protocol):
    """A model that takes a fragment for a distribution of latents, of which its embedding is the mean."""

    def posterior(self, fragments: Tensor) -> Posterior:
        """Of fragments (M, C, h, w)."""


@runtime_checkable
class Classifier(Protocol):
    """A model with a head for classes."""

    def classify(self, latents: Tensor) -> Tensor:
        """(..., D) to logits (..., classes)."""


TEMPERATURE = 0.1
"""Of the cosine of two embeddings, where it is read as how likely they are of one image."""


@dataclass(frozen=True)
class PairScores:
    """How likely two fragments are of the same image, and abut: (B, F, F) in 0..1, alike in both orders."""

    same: Tensor
    adjacent: Tensor


@dataclass(frozen=True)
class Solution:
    """What a model makes of puzzles of F fragments.

    Attributes:
        embeddings: (B, F, D), of length 1.
        cells: logits (B, F, cells) of a fragment's place in its image.
        sides: logits (B, F, 4, F + 1), for each side of a fragment in the order of `fragrecon.seams.SIDES`, of which
            fragment abuts there; the last is that none does.
    """

    embeddings: Tensor
    cells: Tensor
    sides: Tensor

    def pair_scores(self) -> PairScores:
        """By the similarity of embeddings, and how likely either is at a side of the other."""
        same = torch.exp((self.embeddings @ self.embeddings.mT - 1) / TEMPERATURE)
        beside = self.sides.softmax(-1)[..., :-1].sum(2).clamp(max=1)
        return PairScores(same, (beside + beside.mT) / 2)


@runtime_checkable
class Solver(Protocol):
    """A model that puts a puzzle together.

    Attributes:
        grid: rows and columns of fragments in an image.
    """

    grid: tuple[int, int]

    def solve(self, fragments: Tensor) -> Solution:
        """Of fragments (B, F, C, h, w)."""


@dataclass(frozen=True)
class PairLogits:
    """Logits (B, F, F) for ordered pairs of fragments: that they are of the same image, and that they abut."""

    same: Tensor
    adjacent: Tensor


@runtime_checkable
class PairPredictor(Protocol):
    """A model that is trained to judge fragments two by two."""

    def pair_logits(self, fragments: Tensor) -> PairLogits:
        """Of fragments (B, F, C, h, w)."""


@runtime_checkable
class PairScorer(Protocol):
    """A model that scores fragments two by two."""

    def pair_scores(self, fragments: Tensor) -> PairScores:
        """Of fragments (B, F, C, h, w)."""


class PatchGrid(Protocol):
    """How images divide into patches of equal size.

    Attributes:
        count: P, patches of an image.
        grid: rows and columns of them.
    """

    count: int
    grid: tuple[int, int]

    def of(self, images: Tensor) -> Tensor:
        """The patches (M, P, values) of images (M, C, h, w), row by row."""

    def join(self, patches: Tensor) -> Tensor:
        """Images (M, C, h, w) of patches (M, P, values)."""


@runtime_checkable
class Inpainter(Protocol):
    """A model that fills in the masked patches of whole images."""

    @property
    def patches(self) -> PatchGrid:
        """How images divide into patches."""

    def predict(self, images: Tensor, mask: Tensor) -> Tensor:
        """What lies in each patch, (M, P, values), of images (M, C, h, w) that are hidden where mask (M, P)."""


@dataclass(frozen=True)
class Unmixed:
    """What a model makes of G mixed images, each of the patches of N images.

    Attributes:
        tokens: (G, P, D), what encodes each patch in the light of the others.
        patches: (G, N, P, values), what lies in each patch of each of the N images.
    """

    tokens: Tensor
    patches: Tensor


@runtime_checkable
class Unmixer(Protocol):
    """A model that encodes what it sees by itself, and so can fill in several images that are seen mixed."""

    @property
    def patches(self) -> PatchGrid:
        """How images divide into patches."""

    def unmix(self, mixed: Tensor, mask: Tensor) -> Unmixed:
        """Of mixed images (G, C, h, w), each of whose patches is of the one image whose mask (G, N, P) is False there.

        All N images have equally many patches.
        """


@runtime_checkable
class Viewer(Protocol):
    """A model that has something to show of how it sees a puzzle, such as where it attends."""

    def views(self, fragments: Tensor) -> dict[str, Tensor]:
        """Pictures (K, C, H, W) in [0, 1] by name, of fragments (B, F, C, h, w); C is 1 or 3."""


@dataclass(frozen=True)
class Descent:
    """How a model came to what it fills in.

    Attributes:
        patches: (S + 1, M, P, values), what it would have filled in before the first of S steps, and after each.
        energies: (L, T + 1, M), before the first step and after each, for the T steps of each of L blocks that have
            an energy of their own; S = L * T.
    """

    patches: Tensor
    energies: Tensor


@runtime_checkable
class Descender(Protocol):
    """A model that fills in by descending an energy."""

    def descend(self, images: Tensor, mask: Tensor) -> Descent:
        """Of images (M, C, h, w) that are hidden where mask (M, P)."""


@runtime_checkable
class Attentive(Protocol):
    """A model whose patches attend to each other."""

    def attention(self, images: Tensor, mask: Tensor, chosen: Tensor) -> Tensor:
        """How much one patch of each image, chosen (M,), attends to each at last, (M, H, P), by H heads.

        Of images (M, C, h, w) that are hidden where mask (M, P). What goes to other tokens than patches is left out.
        """


def count_parameters(model: nn.Module) -> int:
    """Number of parameters of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def fixed_size(size: tuple[int, int] | None, shape: Shape) -> None:
    """Refuse a size that a model of one size cannot decode to."""
    if size is not None and size != shape[1:]:
        raise ValueError(f"this model decodes fragments of {shape[1:]} only, not {size}")
