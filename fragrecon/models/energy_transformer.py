"""The Energy Transformer, which updates tokens by gradient descent on an energy of attention and memories.

Hoover et al., "Energy Transformer", NeurIPS 2023, https://arxiv.org/abs/2302.07253; equations are numbered as there.
Shapes: M images of n tokens of width D; H heads of width Y; K memories; P patches of an image.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from fragrecon.models.base import Descent, FragmentModel, Shape
from fragrecon.models.patches import Patches, attention_views


class EnergyNorm(nn.Module):
    """Layer norm with a single scale (eq. 1): the gradient of the convex `lagrangian`.

    Args:
        width: D.
        eps: added to the variance.
    """

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.gamma = nn.Parameter(torch.ones(()))
        self.delta = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise tokens (..., D)."""
        centred = x - x.mean(-1, keepdim=True)
        std = (centred.square().mean(-1, keepdim=True) + self.eps).sqrt()
        return self.gamma * centred / std + self.delta

    def lagrangian(self, x: Tensor) -> Tensor:
        """Compute the Lagrangian (...) of tokens (..., D), eq. 2."""
        variance = (x - x.mean(-1, keepdim=True)).square().mean(-1)
        return x.shape[-1] * self.gamma * (variance + self.eps).sqrt() + (self.delta * x).sum(-1)


class EnergyAttention(nn.Module):
    """Attention as an energy, low where the query of each token matches the keys of others (eq. 3), without values.

    Args:
        width: D.
        heads: H.
        head_width: Y.
        beta: inverse temperature; by default 1 / sqrt(Y).
        attend_to_self: whether a token attends to itself, as in the published code but not in the paper.
        init: standard deviation of the initial weights.
    """

    def __init__(
        self, width: int, heads: int, head_width: int, beta: float | None, attend_to_self: bool, init: float = 0.002
    ) -> None:
        super().__init__()
        self.heads, self.attend_to_self = heads, attend_to_self
        self.beta = beta or 1 / math.sqrt(head_width)
        self.queries = nn.Parameter(torch.randn(heads * head_width, width) * init)
        self.keys = nn.Parameter(torch.randn(heads * head_width, width) * init)

    def energy(self, g: Tensor) -> Tensor:
        """Compute the energy (M,) of tokens (M, n, D)."""
        *_, logits = self._scores(g)
        return -torch.logsumexp(logits, -1).sum((-2, -1)) / self.beta

    def gradient(self, g: Tensor) -> Tensor:
        """Compute the gradient (M, n, D) of `energy` in closed form; tokens act as queries and as keys."""
        queries, keys, logits = self._scores(g)
        attention = logits.softmax(-1)
        by_query, by_key = attention @ keys, attention.mT @ queries  # (M, H, n, Y)
        return -(by_query.transpose(1, 2).flatten(2) @ self.queries + by_key.transpose(1, 2).flatten(2) @ self.keys)

    def weights(self, g: Tensor) -> Tensor:
        """Compute the attention weights (M, H, n, n) of tokens (M, n, D); each row sums to 1."""
        *_, logits = self._scores(g)
        return logits.softmax(-1)

    def _scores(self, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute queries and keys (M, H, n, Y), and their scaled products (M, H, n, n) with queries in rows."""
        queries, keys = (
            F.linear(g, weights).view(*g.shape[:2], self.heads, -1).transpose(1, 2)
            for weights in (self.queries, self.keys)
        )
        logits = self.beta * queries @ keys.mT
        if not self.attend_to_self:
            own = torch.eye(g.shape[1], dtype=torch.bool, device=g.device)
            logits = logits.masked_fill(own, -torch.inf)
        return queries, keys, logits


class Memories(nn.Module):
    """A Hopfield network: an energy that is low where tokens are similar to one of K memories (eq. 5, with ReLU).

    Args:
        width: D.
        count: K.
    """

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.memories = nn.Parameter(torch.randn(count, width) * 0.02)

    def energy(self, g: Tensor) -> Tensor:
        """Compute the energy (M,) of tokens (M, n, D)."""
        return -F.linear(g, self.memories).relu().square().sum((-2, -1)) / 2

    def gradient(self, g: Tensor) -> Tensor:
        """Compute the gradient (M, n, D) of `energy` with respect to tokens (M, n, D)."""
        return -F.linear(g, self.memories).relu() @ self.memories


class EnergyBlock(nn.Module):
    """Gradient descent on the sum of both energies, with a constant step size (eq. 6).

    Args:
        width: D.
        attention: energy of attention.
        memories: energy of memories.
        steps: number of steps.
        alpha: step size.
    """

    def __init__(self, width: int, attention: EnergyAttention, memories: Memories, steps: int, alpha: float) -> None:
        super().__init__()
        self.norm, self.attention, self.memories = EnergyNorm(width), attention, memories
        self.steps, self.alpha = steps, alpha

    def forward(self, x: Tensor) -> Tensor:
        """Apply all steps to tokens (M, n, D)."""
        for _ in range(self.steps):
            x = self.step(x)
        return x

    def step(self, x: Tensor) -> Tensor:
        """Update tokens (M, n, D) by one step, along the gradient with respect to the normalised tokens."""
        g = self.norm(x)
        return x - self.alpha * (self.attention.gradient(g) + self.memories.gradient(g))

    def energy(self, x: Tensor) -> Tensor:
        """Compute the energy (M,) of tokens (M, n, D)."""
        g = self.norm(x)
        return self.attention.energy(g) + self.memories.energy(g)


class EnergyTransformer(FragmentModel):
    """Predicts the masked patches of an image by descending an energy, with the same weights at every step.

    All patches are processed, with a learned token in place of the masked ones, and an image token, whose final value
    is the embedding.

    Args:
        fragment_shape: image shape (C, h, w).
        latent_dim: D, the width of tokens.
        patch: side of a patch, in pixels.
        heads: H.
        head_width: Y.
        memory_ratio: number of memories as a multiple of D.
        layers: number of blocks, each with its own weights.
        steps: number of gradient steps in each block.
        alpha: step size.
        beta: inverse temperature of attention; by default 1 / sqrt(Y).
        attend_to_self: whether tokens attend to themselves.
        init: standard deviation of the initial weights of attention, positions and learned tokens.

    Raises:
        ConfigError: the side of a patch does not divide the image.
    """

    def __init__(
        self,
        fragment_shape: Shape,
        latent_dim: PositiveInt = 256,
        patch: PositiveInt = 4,
        heads: PositiveInt = 12,
        head_width: PositiveInt = 64,
        memory_ratio: PositiveFloat = 4.0,
        layers: PositiveInt = 1,
        steps: PositiveInt = 12,
        alpha: PositiveFloat = 10.0,
        beta: PositiveFloat | None = None,
        attend_to_self: bool = False,
        init: PositiveFloat = 0.002,
    ) -> None:
        super().__init__(fragment_shape, latent_dim)
        self.patches = Patches(fragment_shape, patch)
        self.embed_patch = nn.Linear(self.patches.values, latent_dim)
        self.mask_token = nn.Parameter(torch.randn(latent_dim) * init)
        self.image_token = nn.Parameter(torch.randn(1, 1, latent_dim) * init)
        self.positions = nn.Parameter(torch.randn(1, self.patches.count + 1, latent_dim) * init)
        self.blocks = nn.ModuleList(
            EnergyBlock(
                latent_dim,
                EnergyAttention(latent_dim, heads, head_width, beta, attend_to_self, init),
                Memories(latent_dim, round(memory_ratio * latent_dim)),
                steps,
                alpha,
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(latent_dim)
        self.to_pixels = nn.Linear(latent_dim, self.patches.values)

    def embed(self, fragments: Tensor) -> Tensor:
        """Embed whole images (M, C, h, w) as their image tokens (M, D) after the descent."""
        tokens: Tensor = self.norm(self._descend(self.tokens(fragments, None)))
        return tokens[:, 0]

    def predict(self, images: Tensor, mask: Tensor) -> Tensor:
        """Predict all patches (M, P, values) of images (M, C, h, w), masked where mask (M, P) is True."""
        return self._to_pixels(self._descend(self.tokens(images, mask)))

    def descend(self, images: Tensor, mask: Tensor) -> Descent:
        """Record predictions and energies during the descent; see `fragrecon.models.base.Descender`."""
        tokens = self.tokens(images, mask)
        patches, energies = [self._to_pixels(tokens)], []
        for block in self._blocks:
            energies.append([block.energy(tokens)])
            for _ in range(block.steps):
                tokens = block.step(tokens)
                patches.append(self._to_pixels(tokens))
                energies[-1].append(block.energy(tokens))
        return Descent(torch.stack(patches), torch.stack([torch.stack(found) for found in energies]))

    def attention(self, images: Tensor, mask: Tensor, chosen: Tensor) -> Tensor:
        """Compute the last block's attention weights after the descent; see `fragrecon.models.base.Attentive`."""
        block = self._blocks[-1]
        weights = block.attention.weights(block.norm(self._descend(self.tokens(images, mask))))
        return weights[torch.arange(len(images)), :, 1 + chosen, 1:]

    def views(self, fragments: Tensor) -> dict[str, Tensor]:
        """Draw the attention of the middle patch; see `fragrecon.models.patches.attention_views`."""
        return attention_views(self, fragments)

    def tokens(self, images: Tensor, mask: Tensor | None) -> Tensor:
        """Compute the initial tokens of the descent.

        Args:
            images: (M, C, h, w) in [0, 1].
            mask: True for hidden patches, (M, P) bool; None if no patch is hidden.

        Returns:
            Tokens (M, 1 + P, D), the image token first.
        """
        tokens = self.embed_patch(self.patches.cut(images) * 2 - 1)
        if mask is not None:
            tokens = torch.where(mask.unsqueeze(-1), self.mask_token.to(tokens.dtype), tokens)
        return torch.cat([self.image_token.expand(len(tokens), -1, -1), tokens], 1) + self.positions

    def _descend(self, tokens: Tensor) -> Tensor:
        for block in self.blocks:
            tokens = block(tokens)
        return tokens

    def _to_pixels(self, tokens: Tensor) -> Tensor:
        """Predict patches (M, P, values) from tokens (M, 1 + P, D)."""
        pixels: Tensor = self.to_pixels(self.norm(tokens)[:, 1:])
        return pixels

    @property
    def _blocks(self) -> list[EnergyBlock]:
        return [block for block in self.blocks if isinstance(block, EnergyBlock)]
