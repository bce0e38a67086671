"""Images mixed patch by patch, and the contrastive task on their patches.

Chen et al., "Mixed Autoencoder for Self-supervised Visual Representation Learning", CVPR 2023,
https://arxiv.org/abs/2303.17152. Implemented are the mixing of N images into one (N = 1 / r, with the paper's ratio
r) and the homologous contrastive loss, here on the encoder's tokens. Two parts are omitted: segment embeddings, because
they tell the encoder the source image of each patch, which is unknown for the fragments of a puzzle; and attention
restricted to the most similar patches, because the trained encoder would differ from the one that is evaluated.

Shapes: G groups of N images of P patches.
"""

from __future__ import annotations

import torch
from torch import Tensor


def draw_sources(groups: int, patches: int, images: int, generator: torch.Generator) -> Tensor:
    """Draw the source image of each patch of the mixed images.

    Args:
        groups: number of mixed images, G.
        patches: number of patches per image, P, a multiple of N.
        images: number of images per mixed image, N.
        generator: source of random numbers.

    Returns:
        Indices (G, P) in 0..N-1, each equally often in every row.

    Example:
        >>> draw_sources(1, 6, 2, torch.Generator().manual_seed(0)).sum()
        tensor(3)
    """
    draws = torch.rand(groups, patches, generator=generator, device=generator.device)
    return draws.argsort(1) % images


def hidden_from(sources: Tensor, images: int) -> Tensor:
    """Return, for each image, the mask of the patches that the mixed image does not show.

    Args:
        sources: source image of each patch, (G, P).
        images: number of images per mixed image, N.

    Returns:
        True for hidden patches, (G, N, P) bool.

    Example:
        >>> hidden_from(torch.tensor([[0, 1, 0]]), 2)
        tensor([[[False,  True, False],
                 [ True, False,  True]]])
    """
    return sources.unsqueeze(1) != torch.arange(images, device=sources.device).unsqueeze(1)


def mixed(patches: Tensor, sources: Tensor) -> Tensor:
    """Mix the patches of images.

    Args:
        patches: (G, N, P, values).
        sources: source image of each patch, (G, P).

    Returns:
        Patches of the mixed images, (G, P, values).

    Example:
        >>> patches = torch.tensor([[1, 2, 3], [10, 20, 30]]).view(1, 2, 3, 1)
        >>> mixed(patches, torch.tensor([[0, 1, 0]])).flatten()
        tensor([ 1, 20,  3])
    """
    return patches.take_along_dim(sources[:, None, :, None], 1).squeeze(1)


def contrast_accuracy(tokens: Tensor, sources: Tensor) -> Tensor:
    """Share of patches whose most similar other patch of the mixed image comes from the same image.

    Args:
        tokens: unit-norm tokens, (G, P, D).
        sources: source image of each patch, (G, P).

    Returns:
        A scalar in [0, 1].

    Example:
        >>> tokens = torch.eye(2)[[0, 0, 1, 1]].unsqueeze(0)
        >>> contrast_accuracy(tokens, torch.tensor([[0, 0, 1, 1]]))
        tensor(1.)
        >>> contrast_accuracy(tokens, torch.tensor([[0, 0, 0, 1]]))
        tensor(0.5000)
    """
    with torch.autocast(tokens.device.type, enabled=False):  # bfloat16 would blur small differences
        similar = tokens @ tokens.mT
    itself = torch.eye(similar.shape[-1], dtype=torch.bool, device=tokens.device)
    nearest = similar.masked_fill(itself, -torch.inf).argmax(-1)
    return (sources.gather(1, nearest) == sources).float().mean()
