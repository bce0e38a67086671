"""The model interface: one embedding per fragment.

Every model is a `FragmentModel`. Further abilities, such as decoding, are small protocols, which objectives and
evaluations check with ``isinstance``.

Shapes: B puzzles of F fragments (C, h, w); M single fragments or images; D embedding dimensions; P patches of an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

Shape = tuple[int, int, int]
"""(channels, height, width) of a fragment."""


class FragmentModel(nn.Module):
    """Base class of all models.

    A model that embeds fragments one by one implements `embed`; one that needs the whole puzzle overrides `encode`.

    Args:
        fragment_shape: (C, h, w).
        latent_dim: number of embedding dimensions, D.

    Attributes:
        any_size: whether the model accepts, and decodes to, any height and width.
    """

    any_size: ClassVar[bool] = False

    def __init__(self, fragment_shape: Shape, latent_dim: int) -> None:
        super().__init__()
        self.fragment_shape = fragment_shape
        self.latent_dim = latent_dim

    def encode(self, fragments: Tensor) -> Tensor:
        """Embed the fragments of puzzles; deterministic in eval mode.

        Args:
            fragments: (B, F, C, h, w) in [0, 1].

        Returns:
            Embeddings (B, F, D).
        """
        embedded = self.embed(fragments.flatten(0, 1))
        return embedded.view(*fragments.shape[:2], -1)

    def embed(self, fragments: Tensor) -> Tensor:
        """Embed single fragments (M, C, h, w) in [0, 1] as (M, D)."""
        raise NotImplementedError


@runtime_checkable
class Decoder(Protocol):
    """A model that decodes embeddings to fragments."""

    def decode(self, latents: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Decode embeddings.

        Args:
            latents: (..., D).
            size: (h, w) of the result, for models that support several sizes; by default the fragment size.

        Returns:
            Fragments (..., C, h, w) in [0, 1].
        """


@dataclass(frozen=True)
class Posterior:
    """Normal distributions of latents with independent dimensions.

    Attributes:
        mean: (..., D).
        log_variance: (..., D).
    """

    mean: Tensor
    log_variance: Tensor

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw one sample per distribution, differentiable with respect to mean and variance.

        Source: the reparameterisation of Kingma and Welling, 2014, section 2.4.

        Args:
            generator: source of random numbers.

        Returns:
            Latents (..., D).
        """
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean + (self.log_variance / 2).exp() * noise


@runtime_checkable
class Variational(Decoder, Protocol):
    """A model that predicts a distribution of latents, whose mean is the embedding."""

    def posterior(self, fragments: Tensor) -> Posterior:
        """Predict the distribution of the latents of each of the fragments (M, C, h, w)."""


@runtime_checkable
class Classifier(Protocol):
    """A model with a classification head."""

    def classify(self, latents: Tensor) -> Tensor:
        """Predict logits (..., classes) from embeddings (..., D)."""


TEMPERATURE = 0.1
"""Temperature of the cosine similarity in `Solution.pair_scores`."""


@dataclass(frozen=True)
class PairScores:
    """Symmetric scores of pairs of fragments, in [0, 1].

    Attributes:
        same: score that two fragments are from the same image, (B, F, F).
        adjacent: score that two fragments are adjacent, (B, F, F).
    """

    same: Tensor
    adjacent: Tensor


@dataclass(frozen=True)
class Solution:
    """Predictions of a model for puzzles of F fragments.

    Attributes:
        embeddings: unit-norm embeddings, (B, F, D).
        cells: logits of the cell of each fragment in its image, (B, F, cells).
        sides: logits of the neighbour on each side of a fragment, (B, F, 4, F + 1); sides are in the order of
            `fragrecon.seams.SIDES`; the last logit means no neighbour. If rotations are predicted, (B, F, 4, 4 F + 1):
            logit ``t * F + b`` is for side t of fragment b, and sides are those of the fragments as they are given.
        rotations: logits of the number of counterclockwise quarter turns by which a fragment was rotated, (B, F, 4);
            None if the model takes fragments to be upright.
    """

    embeddings: Tensor
    cells: Tensor
    sides: Tensor
    rotations: Tensor | None = None

    def quarter_turns(self) -> Tensor:
        """Return the predicted rotations (B, F), 0..3; all 0 if the model takes fragments to be upright."""
        if self.rotations is None:
            return torch.zeros(self.cells.shape[:2], dtype=torch.int64, device=self.cells.device)
        return self.rotations.argmax(-1)

    def upright(self) -> Solution:
        """Return the predictions for the fragments after undoing their predicted rotations."""
        if self.rotations is None:
            return self
        count, side = self.cells.shape[1], torch.arange(4, device=self.sides.device)
        own = (side - self.quarter_turns().unsqueeze(-1)) % 4  # the given side of each side of the upright fragment
        other = own.roll(2, -1).mT.unsqueeze(1)  # (B, 1, 4, F): the side of each fragment that meets it
        candidates = torch.arange(count, device=side.device) + other * count
        rows = self.sides.gather(2, own.unsqueeze(-1).expand(-1, -1, -1, self.sides.shape[-1]))
        met = rows.gather(3, candidates.expand(-1, count, -1, -1))
        return Solution(self.embeddings, self.cells, torch.cat([met, rows[..., -1:]], -1))

    def pair_scores(self) -> PairScores:
        """Score pairs by the similarity of their embeddings, and by the probability that they are adjacent."""
        same = torch.exp((self.embeddings @ self.embeddings.mT - 1) / TEMPERATURE)
        puzzles, count = self.cells.shape[:2]
        beside = self.sides.softmax(-1)[..., :-1].reshape(puzzles, count, -1, count).sum(2).clamp(max=1)
        return PairScores(same, (beside + beside.mT) / 2)


@runtime_checkable
class Solver(Protocol):
    """A model that solves puzzles: it predicts embeddings, cells and neighbours of all fragments together.

    Attributes:
        grid: rows and columns of fragments in an image.
    """

    grid: tuple[int, int]

    def solve(self, fragments: Tensor) -> Solution:
        """Solve puzzles of fragments (B, F, C, h, w) in [0, 1]."""


@dataclass(frozen=True)
class PairLogits:
    """Logits of ordered pairs of fragments.

    Attributes:
        same: logit that two fragments are from the same image, (B, F, F).
        adjacent: logit that two fragments are adjacent, (B, F, F).
    """

    same: Tensor
    adjacent: Tensor


@runtime_checkable
class PairPredictor(Protocol):
    """A model that is trained on pairs of fragments."""

    def pair_logits(self, fragments: Tensor) -> PairLogits:
        """Predict logits of all ordered pairs of the fragments (B, F, C, h, w) of each puzzle."""


@runtime_checkable
class PairScorer(Protocol):
    """A model that scores pairs of fragments."""

    def pair_scores(self, fragments: Tensor) -> PairScores:
        """Score all pairs of the fragments (B, F, C, h, w) of each puzzle."""


class PatchGrid(Protocol):
    """The grid of equal-sized patches of an image.

    Attributes:
        count: P, number of patches of an image.
        grid: rows and columns of patches.
    """

    count: int
    grid: tuple[int, int]

    def cut(self, images: Tensor) -> Tensor:
        """Cut images (M, C, h, w) into patches (M, P, values), row by row."""

    def join(self, patches: Tensor) -> Tensor:
        """Join patches (M, P, values) to images (M, C, h, w)."""


@runtime_checkable
class Inpainter(Protocol):
    """A model that predicts the masked patches of images."""

    @property
    def patches(self) -> PatchGrid:
        """The grid of patches of an image."""

    def predict(self, images: Tensor, mask: Tensor) -> Tensor:
        """Predict all patches.

        Args:
            images: (M, C, h, w) in [0, 1].
            mask: True for hidden patches, (M, P) bool.

        Returns:
            Patches (M, P, values).
        """


@dataclass(frozen=True)
class Unmixed:
    """Predictions of a model for G mixed images, each made of patches of N images.

    Attributes:
        tokens: encoding of each patch in the context of the others, (G, P, D).
        patches: prediction of each patch of each of the N images, (G, N, P, values).
    """

    tokens: Tensor
    patches: Tensor


@runtime_checkable
class Unmixer(Protocol):
    """A model whose encoder processes visible patches only, so it can recover several images from one mixed image."""

    @property
    def patches(self) -> PatchGrid:
        """The grid of patches of an image."""

    def unmix(self, mixed: Tensor, mask: Tensor) -> Unmixed:
        """Encode mixed images, and predict all patches of the images they are mixed from.

        Args:
            mixed: (G, C, h, w) in [0, 1].
            mask: True for the hidden patches of each of N images, (G, N, P) bool. At each patch position exactly one
                image is visible, and all images have the same number of visible patches.

        Returns:
            Encoded and predicted patches.
        """


@runtime_checkable
class Viewer(Protocol):
    """A model that can visualise its internals, such as attention."""

    def views(self, fragments: Tensor) -> dict[str, Tensor]:
        """Visualise how puzzles are processed.

        Args:
            fragments: (B, F, C, h, w) in [0, 1].

        Returns:
            Pictures (K, C, H, W) in [0, 1] by name; C is 1 or 3.
        """


@dataclass(frozen=True)
class Descent:
    """The descent of an energy from masked to predicted images, in S steps.

    Attributes:
        patches: prediction before the first step and after each step, (S + 1, M, P, values).
        energies: (L, T + 1, M): for each of L blocks, the energy before its first step and after each of its T steps;
            S = L * T.
    """

    patches: Tensor
    energies: Tensor


@runtime_checkable
class Descender(Protocol):
    """A model that inpaints by descending an energy."""

    def descend(self, images: Tensor, mask: Tensor) -> Descent:
        """Record the descent for images (M, C, h, w) in [0, 1] with patches hidden where mask (M, P) is True."""


@runtime_checkable
class Attentive(Protocol):
    """A model whose patches attend to each other."""

    def attention(self, images: Tensor, mask: Tensor, chosen: Tensor) -> Tensor:
        """Compute the last layer's attention weights for one query patch per image.

        Args:
            images: (M, C, h, w) in [0, 1].
            mask: True for hidden patches, (M, P) bool.
            chosen: index of the query patch, (M,) in 0..P-1.

        Returns:
            Weights (M, H, P) of H heads on all patches; weights on other tokens are omitted.
        """


def count_parameters(model: nn.Module) -> int:
    """Count the parameters of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def check_size(size: tuple[int, int] | None, shape: Shape) -> None:
    """Check a requested output size, for models that decode to one size only.

    Args:
        size: requested (h, w), if any.
        shape: (C, h, w) of the decoded fragments.

    Raises:
        ValueError: the sizes differ.
    """
    if size is not None and size != shape[1:]:
        raise ValueError(f"this model decodes to fragments of {shape[1:]} only, not {size}")
