"""Images mixed patch by patch, and how well the patches of one image are told from those of the others.

Chen et al., "Mixed Autoencoder for Self-supervised Visual Representation Learning", CVPR 2023,
https://arxiv.org/abs/2303.17152: its mixing of one image from every N (N = 1 / r, the paper's ratio) and its homologous
contrast, here of the encoder's tokens as they are. Not its segment embeddings, which tell the encoder what it should
recognise (fragments of a puzzle come without), nor its attention to the most alike patches alone, which would make the
encoder another one than that whose embeddings are scored.
Shapes: G groups of N images of P patches.
"""

from __future__ import annotations

import torch
from torch import Tensor


def draw_sources(groups: int, patches: int, images: int, generator: torch.Generator) -> Tensor:
    """Which image of its group each patch of a mix is taken from: (G, P) in 0..N-1, each equally often.

    Args:
        groups: G.
        patches: P, a multiple of N.
        images: N.
        generator: draws.
    """
    draws = torch.rand(groups, patches, generator=generator, device=generator.device)
    return draws.argsort(1) % images


def hidden_from(sources: Tensor, images: int) -> Tensor:
    """Which patches of each image are not in the mix: (G, N, P)."""
    return sources.unsqueeze(1) != torch.arange(images, device=sources.device).unsqueeze(1)


def mixed(patches: Tensor, sources: Tensor) -> Tensor:
    """The patches (G, P, values) that are taken from groups of images (G, N, P, values) as sources (G, P) say."""
    return patches.take_along_dim(sources[:, None, :, None], 1).squeeze(1)


def recognized(tokens: Tensor, sources: Tensor) -> Tensor:
    """The share of patches whose most similar other patch in the mix is of the same image: a scalar.

    Args:
        tokens: (G, P, D), of length 1.
        sources: (G, P).
    """
    with torch.autocast(tokens.device.type, enabled=False):  # bfloat16 would blur what is nearly alike
        similar = tokens @ tokens.mT
    itself = torch.eye(similar.shape[-1], dtype=torch.bool, device=tokens.device)
    nearest = similar.masked_fill(itself, -torch.inf).argmax(-1)
    return (sources.gather(1, nearest) == sources).float().mean()
