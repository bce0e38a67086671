"""Seam features, which measure how well the sides of two fragments fit together.

Shapes: B puzzles of F fragments (C, h, w). A table of ways is (..., W, R, R) and holds one number per way in which two
sides can meet. For upright fragments W = 4 and R = F: ``table[s, a, b]`` is for side s of fragment a next to the
opposite side of fragment b. For fragments that may be rotated, W = 1 and R = 4 F, and any two sides can meet:
``table[0, s * F + a, t * F + b]`` is for side s of fragment a and side t of fragment b.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

SIDES = ("right", "below", "left", "above")
"""Sides of a fragment, clockwise, so that side ``(s + 2) % 4`` is opposite to side s."""
FEATURES = 2
"""Number of tables that `seam_features` returns."""


def strips(fragments: Tensor, depth: int) -> list[Tensor]:
    """Return the rows of pixels next to each side, read clockwise around the fragment.

    Args:
        fragments: (B, F, C, h, w).
        depth: number of rows.

    Returns:
        A strip (B, F, length, C, depth) per side: the axes are along the seam, channels, and from the seam inwards.

    Example:
        >>> right, below, left, above = strips(torch.arange(6).view(1, 1, 1, 2, 3), 1)
        >>> [side.flatten().tolist() for side in (right, below, left, above)]
        [[2, 5], [5, 4, 3], [3, 0], [0, 1, 2]]
    """
    right, below = fragments[..., -depth:].flip(-1), fragments[..., -depth:, :].flip(-2)
    left, above = fragments[..., :depth], fragments[..., :depth, :]
    return [right.movedim(-2, 2), below.movedim(-1, 2).flip(2), left.movedim(-2, 2).flip(2), above.movedim(-1, 2)]


def for_all_ways(
    compare: Callable[[Tensor, Tensor], Tensor], sides: Sequence[Tensor], others: Sequence[Tensor], rotations: bool
) -> Tensor:
    """Compare the sides of all pairs of fragments, in all ways in which they can meet.

    Args:
        compare: function that maps two tensors (..., R, V) to their comparisons (..., R, R).
        sides: features (..., F, V) of each side of the first fragment.
        others: features (..., F, V) of each side of the second fragment.
        rotations: whether any two sides can meet; otherwise only opposite ones.

    Returns:
        A table of ways, (..., W, R, R).

    Example:
        >>> sides = [torch.full((2, 1), float(side)) for side in range(4)]
        >>> for_all_ways(lambda one, other: one @ other.mT, sides, sides, rotations=False)[:, 0, 1]
        tensor([0., 3., 0., 3.])
        >>> for_all_ways(lambda one, other: one @ other.mT, sides, sides, rotations=True).shape
        torch.Size([1, 8, 8])
    """
    if rotations:
        return compare(torch.cat(list(sides), -2), torch.cat(list(others), -2)).unsqueeze(-3)
    return torch.stack([compare(sides[side], others[(side + 2) % 4]) for side in range(4)], -3)


def swapped(ways: Tensor) -> Tensor:
    """Exchange the two fragments of each pair in a table of ways (..., W, R, R)."""
    return ways.roll(2, -3).mT


def log_mean_squared(one: Tensor, other: Tensor, least: float) -> Tensor:
    """Logarithms of the mean squared differences of all pairs of rows.

    Args:
        one: (..., R, V).
        other: (..., R, V).
        least: added to the mean squares, so that equal rows have a finite logarithm.

    Returns:
        (..., R, R).

    Example:
        >>> log_mean_squared(torch.zeros(1, 4), torch.ones(1, 4), 0.0)
        tensor([[0.]])
    """
    with torch.autocast(one.device.type, enabled=False):  # bfloat16 would round small differences to zero
        one, other = one.float() * one.shape[-1] ** -0.5, other.float() * one.shape[-1] ** -0.5
        # |a - b|^2 as one matrix product: (a, |a|^2, 1) (-2 b, 1, |b|^2).
        left = torch.cat([one, one.square().sum(-1, keepdim=True) + least, torch.ones_like(one[..., :1])], -1)
        right = torch.cat([-2 * other, torch.ones_like(one[..., :1]), other.square().sum(-1, keepdim=True)], -1)
        return (left @ right.mT).clamp(min=least).log()


def seam_features(fragments: Tensor, rotations: bool = False) -> Tensor:
    """Compare the pixels on both sides of each possible seam.

    The first feature is the logarithm of the mean squared difference of the pixels that touch. For the second, the line
    through the last two pixels of a fragment is continued by one pixel and compared with the first pixel of the other
    fragment; the logarithms from either side are averaged. It is the prediction-based compatibility of Pomeranz et al.,
    CVPR 2011, with squared differences.

    Args:
        fragments: (B, F, C, h, w) in [0, 1].
        rotations: whether any two sides can meet; fragments must then be square.

    Returns:
        Tables of ways (B, 2, W, R, R), low where fragments fit.

    Example:
        >>> seam_features(torch.rand(1, 3, 3, 4, 4)).shape
        torch.Size([1, 2, 4, 3, 3])
        >>> seam_features(torch.rand(1, 3, 3, 4, 4), rotations=True).shape
        torch.Size([1, 2, 1, 12, 12])
    """
    found = strips(fragments, 2)
    edges = [strip[..., 0] for strip in found]
    continued = [2 * strip[..., 0] - strip[..., -1] for strip in found]
    others = [edge.flip(2).flatten(2) for edge in edges]
    compare = partial(log_mean_squared, least=255.0**-2)
    touching = for_all_ways(compare, [edge.flatten(2) for edge in edges], others, rotations)
    predicted = for_all_ways(compare, [edge.flatten(2) for edge in continued], others, rotations)
    return torch.stack([touching, (predicted + swapped(predicted)) / 2], 1)


def best_partners(scores: Tensor, fragments: int) -> Tensor:
    """Subtract from the score of a seam the mean log-sum-exp of its two sides over all their partners.

    Args:
        scores: tables of ways (..., W, R, R), logits.
        fragments: number of fragments, F.

    Returns:
        Tables of the same shape: the mean of the log-probabilities of the second side among all partners of the first,
        and of the first among all partners of the second, by a softmax; 0 for two sides of one fragment.

    Example:
        >>> scores = torch.tensor([[0.0, 2.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]).expand(4, 3, 3)
        >>> best_partners(scores, 3)[0].round(decimals=2)
        tensor([[ 0.0000, -0.1300, -1.4100],
                [-0.1300,  0.0000, -1.4100],
                [-1.4100, -1.4100,  0.0000]])
    """
    itself = of_one_fragment(scores, fragments)
    others = scores.masked_fill(itself, -torch.inf)
    found = others - (others.logsumexp(-1, keepdim=True) + others.logsumexp(-2, keepdim=True)) / 2
    return found.masked_fill(itself, 0.0)


def of_one_fragment(ways: Tensor, fragments: int) -> Tensor:
    """Return which entries of a table of ways (..., W, R, R) are for two sides of the same fragment, (R, R) bool."""
    repeats = 4 // ways.shape[-3]
    return torch.eye(fragments, dtype=torch.bool, device=ways.device).repeat(repeats, repeats)


def relative_rotations(sure: Tensor, fragments: int) -> Tensor:
    """Sum how surely sides meet by the rotation between the fragments.

    Args:
        sure: probability that two sides meet, a table of ways (B, 1, 4 F, 4 F).
        fragments: number of fragments, F.

    Returns:
        Ties (B, 4, F, F) in [0, 4]: entry r of a pair is the sum over the sides of the first fragment at which it would
        be rotated by r quarter turns more than the second.
    """
    ways = sure.reshape(sure.shape[0], 4, fragments, 4, fragments).transpose(2, 3)  # (B, side, other, F, F)
    sides = torch.arange(4, device=sure.device)
    return torch.stack([ways[:, sides, (sides + more - 2) % 4].sum(1) for more in range(4)], 1)


@torch.no_grad()
def synchronised(tied: Tensor, doublings: int = 5) -> Tensor:
    """Compute the rotations between all fragments of an image from those between fragments that seem to meet.

    Rotations are complex numbers of length one, and ties a Hermitian matrix of their quotients, weighted by how sure
    they are. In its powers, a pair is related along all paths; paths within an image agree. Two fragments are of the
    same image as far as their rows agree up to a rotation, which is the one between them.

    Source of the matrix: Singer, "Angular synchronization by eigenvectors and semidefinite programming", Applied and
    Computational Harmonic Analysis 30, 2011, section 2.

    Args:
        tied: (B, 4, F, F), from `relative_rotations`.
        doublings: the power of the matrix is 2 to this number.

    Returns:
        Weights in [0, 1], (B, 4, F, F): a pair has a weight at r, if the first fragment is rotated by r quarter turns
        more than the second, and zeros elsewhere. The weight of a fragment and itself is 1.
    """
    with torch.autocast(tied.device.type, enabled=False):
        both = (tied + tied[:, [0, 3, 2, 1]].mT).float()
        # Real and imaginary parts are kept apart, because ONNX has no complex numbers.
        real, imaginary = both[:, 0] - both[:, 2], both[:, 1] - both[:, 3]
        sure = (real.square() + imaginary.square()).sqrt()
        real, imaginary = (_balanced(part * sure, (sure * sure).sum(-1)) for part in (real, imaginary))
        real = real + torch.eye(real.shape[-1], device=real.device)
        for _ in range(doublings):
            mixed = real @ imaginary  # real is symmetric, and imaginary antisymmetric
            real, imaginary = real @ real - imaginary @ imaginary, mixed - mixed.mT
            length = (real.square() + imaginary.square()).sum(-1).sqrt()
            real, imaginary = _balanced(real, length), _balanced(imaginary, length)
        length = (real.square() + imaginary.square()).sum(-1, keepdim=True).sqrt()
        real, imaginary = real / length, imaginary / length
        mixed = imaginary @ real.mT
        cosine, sine = real @ real.mT + imaginary @ imaginary.mT, mixed - mixed.mT
        quarter = torch.stack([cosine, sine, -cosine, -sine], 1).argmax(1)
        weights: Tensor = F.one_hot(quarter, 4).movedim(-1, 1) * (cosine.square() + sine.square()).unsqueeze(1)
    return weights


def _balanced(matrix: Tensor, sizes: Tensor) -> Tensor:
    """Divide rows and columns of matrices (B, F, F) by the square roots of their sizes (B, F)."""
    scale = sizes.clamp(min=1e-6).rsqrt()
    return scale.unsqueeze(-1) * matrix * scale.unsqueeze(-2)


def votes(relative: Tensor, logits: Tensor) -> Tensor:
    """Sum what all fragments tell of the rotation of each.

    Args:
        relative: weights (B, 4, F, F) from `synchronised`.
        logits: of the rotation of each fragment, by that fragment, (B, F, 4).

    Returns:
        Logits (B, F, 4).
    """
    return torch.stack([part @ logits.roll(more, -1) for more, part in enumerate(relative.unbind(1))]).sum(0)
