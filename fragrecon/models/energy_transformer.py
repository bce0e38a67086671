"""The Energy Transformer: tokens that roll down an energy of attention and memory.

Hoover et al., "Energy Transformer", NeurIPS 2023, https://arxiv.org/abs/2302.07253; equations by their numbers there.
Shapes: M images of n tokens of D numbers; H heads of Y numbers; K memories.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fragrecon.errors import ConfigError
from fragrecon.models.base import Descent, FragmentModel, Shape
from fragrecon.models.patches import Patches, attention_views


class EnergyNorm(nn.Module):
    """Layer norm with one scale for all numbers (eq. 1): the gradient of the convex `lagrangian`.

    Args:
        width: D.
    """

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.gamma = nn.Parameter(torch.ones(()))
        self.delta = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        deviation = (centred.square().mean(-1, keepdim=True) + self.eps).sqrt()
        return self.gamma * centred / deviation + self.delta

    def lagrangian(self, x: Tensor) -> Tensor:
        """(..., D) to (...), eq. 2."""
        variance = (x - x.mean(-1, keepdim=True)).square().mean(-1)
        return x.shape[-1] * self.gamma * (variance + self.eps).sqrt() + (self.delta * x).sum(-1)


class EnergyAttention(nn.Module):
    """Attention as an energy: low where each token's query meets the keys of others (eq. 3). It has no values.

    Args:
        width: D.
        heads: H.
        head_width: Y.
        beta: inverse temperature; by default 1 / sqrt(Y).
        itself: whether a token may attend to itself, as in the published code; the paper leaves it out.
        init: standard deviation of initial weights.
    """

    def __init__(
        self, width: int, heads: int, head_width: int, beta: float | None, itself: bool, init: float = 0.002
    ) -> None:
        super().__init__()
        self.heads, self.itself = heads, itself
        self.beta = beta or 1 / math.sqrt(head_width)
        self.queries = nn.Parameter(torch.randn(heads * head_width, width) * init)
        self.keys = nn.Parameter(torch.randn(heads * head_width, width) * init)

    def energy(self, g: Tensor) -> Tensor:
        """Of tokens (M, n, D): (M,)."""
        *_, logits = self._scores(g)
        return -torch.logsumexp(logits, -1).sum((-2, -1)) / self.beta

    def gradient(self, g: Tensor) -> Tensor:
        """Of `energy` by the tokens, (M, n, D), in closed form: each as one that asks and as one that is asked."""
        queries, keys, logits = self._scores(g)
        attention = logits.softmax(-1)
        asking, asked = attention @ keys, attention.mT @ queries  # (M, H, n, Y)
        return -(asking.transpose(1, 2).flatten(2) @ self.queries + asked.transpose(1, 2).flatten(2) @ self.keys)

    def weights(self, g: Tensor) -> Tensor:
        """How much tokens attend to each other, (M, H, n, n), each row of sum 1."""
        *_, logits = self._scores(g)
        return logits.softmax(-1)

    def _scores(self, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys (M, H, n, Y), and how well they meet (M, H, n, n), for the token that asks in rows."""
        queries, keys = (
            F.linear(g, weights).view(*g.shape[:2], self.heads, -1).transpose(1, 2)
            for weights in (self.queries, self.keys)
        )
        logits = self.beta * queries @ keys.mT
        if not self.itself:
            own = torch.eye(g.shape[1], dtype=torch.bool, device=g.device)
            logits = logits.masked_fill(own, -torch.inf)
        return queries, keys, logits


class Memories(nn.Module):
    """A Hopfield network: an energy that is low where tokens look like one of K memories (eq. 5, with ReLU).

    Args:
        width: D.
        count: K.
    """

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.memories = nn.Parameter(torch.randn(count, width) * 0.02)

    def energy(self, g: Tensor) -> Tensor:
        """Of tokens (M, n, D): (M,)."""
        return -F.linear(g, self.memories).relu().square().sum((-2, -1)) / 2

    def gradient(self, g: Tensor) -> Tensor:
        """Of `energy` by the tokens, (M, n, D)."""
        return -F.linear(g, self.memories).relu() @ self.memories


class EnergyBlock(nn.Module):
    """Descends the sum of both energies by steps of one size, taken by the normalised tokens (eq. 6)."""

    def __init__(self, width: int, attention: EnergyAttention, memories: Memories, steps: int, alpha: float) -> None:
        super().__init__()
        self.norm, self.attention, self.memories = EnergyNorm(width), attention, memories
        self.steps, self.alpha = steps, alpha

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.steps):
            x = self.step(x)
        return x

    def step(self, x: Tensor) -> Tensor:
        g = self.norm(x)
        return x - self.alpha * (self.attention.gradient(g) + self.memories.gradient(g))

    def energy(self, x: Tensor) -> Tensor:
        """Of tokens (M, n, D): (M,)."""
        g = self.norm(x)
        return self.attention.energy(g) + self.memories.energy(g)


class EnergyTransformer(FragmentModel):
    """Fills in the masked patches of an image by descending an energy, with the same weights at every step.

    All patches are processed, a learned token in the place of those that are masked, and one more token for the image.

    Args:
        fragment_shape: (C, h, w) of an image.
        latent_dim: D, of tokens.
        patch: side of a patch, in pixels.
        heads: H.
        head_width: Y.
        memory_ratio: memories for each of the D numbers.
        layers: blocks of weights of their own.
        steps: of descent, in each block.
        alpha: size of a step.
        beta: inverse temperature of attention.
        itself: whether tokens attend to themselves.
        init: standard deviation of the initial weights of attention, of positions and of learned tokens.

    Raises:
        ConfigError: patches do not divide the image, or a number is not positive.
    """

    def __init__(
        self,
        fragment_shape: Shape,
        latent_dim: int = 256,
        patch: int = 4,
        heads: int = 12,
        head_width: int = 64,
        memory_ratio: float = 4.0,
        layers: int = 1,
        steps: int = 12,
        alpha: float = 10.0,
        beta: float | None = None,
        itself: bool = False,
        init: float = 0.002,
    ) -> None:
        super().__init__(fragment_shape, latent_dim)
        for name, value in (
            ("heads", heads),
            ("head_width", head_width),
            ("memory_ratio", memory_ratio),
            ("layers", layers),
            ("steps", steps),
            ("alpha", alpha),
            ("beta", 1.0 if beta is None else beta),
            ("init", init),
        ):
            if value <= 0:
                raise ConfigError(f"model.{name}={value} should be above 0")
        self.patches = Patches(fragment_shape, patch)
        self.embed_patch = nn.Linear(self.patches.values, latent_dim)
        self.mask_token = nn.Parameter(torch.randn(latent_dim) * init)
        self.image_token = nn.Parameter(torch.randn(1, 1, latent_dim) * init)
        self.positions = nn.Parameter(torch.randn(1, self.patches.count + 1, latent_dim) * init)
        self.blocks = nn.ModuleList(
            EnergyBlock(
                latent_dim,
                EnergyAttention(latent_dim, heads, head_width, beta, itself, init),
                Memories(latent_dim, round(memory_ratio * latent_dim)),
                steps,
                alpha,
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(latent_dim)
        self.to_pixels = nn.Linear(latent_dim, self.patches.values)

    def embed(self, fragments: Tensor) -> Tensor:
        """The image's token after descent from whole images (M, C, h, w)."""
        tokens: Tensor = self.norm(self._descend(self.start(fragments, None)))
        return tokens[:, 0]

    def predict(self, images: Tensor, mask: Tensor) -> Tensor:
        """What lies in each patch, (M, P, values), of images (M, C, h, w) that are hidden where mask (M, P)."""
        return self._read(self._descend(self.start(images, mask)))

    def descend(self, images: Tensor, mask: Tensor) -> Descent:
        tokens = self.start(images, mask)
        patches, energies = [self._read(tokens)], []
        for block in self._blocks:
            energies.append([block.energy(tokens)])
            for _ in range(block.steps):
                tokens = block.step(tokens)
                patches.append(self._read(tokens))
                energies[-1].append(block.energy(tokens))
        return Descent(torch.stack(patches), torch.stack([torch.stack(found) for found in energies]))

    def attention(self, images: Tensor, mask: Tensor, chosen: Tensor) -> Tensor:
        """At the end of the descent, by the last block; see `fragrecon.models.base.Attentive`."""
        block = self._blocks[-1]
        weights = block.attention.weights(block.norm(self._descend(self.start(images, mask))))
        return weights[torch.arange(len(images)), :, 1 + chosen, 1:]

    def views(self, fragments: Tensor) -> dict[str, Tensor]:
        return attention_views(self, fragments)

    def start(self, images: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens (M, 1 + P, D) before descent, the image's first."""
        tokens = self.embed_patch(self.patches.of(images) * 2 - 1)
        if mask is not None:
            tokens = torch.where(mask.unsqueeze(-1), self.mask_token.to(tokens.dtype), tokens)
        return torch.cat([self.image_token.expand(len(tokens), -1, -1), tokens], 1) + self.positions

    def _descend(self, tokens: Tensor) -> Tensor:
        for block in self.blocks:
            tokens = block(tokens)
        return tokens

    def _read(self, tokens: Tensor) -> Tensor:
        """Pixels (M, P, values) of tokens (M, 1 + P, D)."""
        pixels: Tensor = self.to_pixels(self.norm(tokens)[:, 1:])
        return pixels

    @property
    def _blocks(self) -> list[EnergyBlock]:
        return [block for block in self.blocks if isinstance(block, EnergyBlock)]
