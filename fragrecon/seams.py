"""Seam features, which measure how well two fragments fit together: differences of the pixels that would touch.

Shapes: B puzzles of F fragments (C, h, w). `SIDES` lists the four ways in which the second fragment of a pair can lie
next to the first.
"""

from __future__ import annotations

import torch
from torch import Tensor

SIDES = ("right", "left", "below", "above")
"""Where the second fragment of a pair lies next to the first."""
FEATURES = 2 * len(SIDES)


def touching_differences(fragments: Tensor) -> Tensor:
    """Mean absolute difference of the touching pixels, for each ordered pair of fragments and each side.

    Args:
        fragments: (B, F, C, h, w).

    Returns:
        (B, F, F, 4), sides in the order of `SIDES`.

    Example:
        >>> left, right = torch.tensor([[0.0, 0.5]]), torch.tensor([[0.5, 1.0]])
        >>> fragments = torch.stack([left, right]).view(1, 2, 1, 1, 2)
        >>> touching_differences(fragments)[0, 0, 1]  # the second right of, left of, below, above the first
        tensor([0.0000, 1.0000, 0.5000, 0.5000])
    """
    right, left, below, above = _edges(fragments, 0)
    across, down = _distance(right, left), _distance(below, above)
    return torch.stack([across, across.mT, down, down.mT], -1)


def continued_differences(fragments: Tensor) -> Tensor:
    """Like `touching_differences`, between the pixels extrapolated from one fragment and those of the other.

    The line through the last two pixels is continued by one pixel, from either side of the seam, and the two errors are
    averaged. Fragments that are one pixel wide are extrapolated as constant.

    Source: the gradients of Gallagher, CVPR 2012.

    Args:
        fragments: (B, F, C, h, w).

    Returns:
        (B, F, F, 4), sides in the order of `SIDES`.

    Example:
        >>> ramp = torch.arange(4.0).view(1, 1, 1, 1, 4)
        >>> continued_differences(torch.cat([ramp[..., :2], ramp[..., 2:]], 1))[0, 0, 1, 0]
        tensor(0.)
    """
    first = _edges(fragments, 0)
    predicted = [2 * edge - inner for edge, inner in zip(first, _edges(fragments, 1), strict=True)]
    across = (_distance(predicted[0], first[1]) + _distance(first[0], predicted[1])) / 2
    down = (_distance(predicted[2], first[3]) + _distance(first[2], predicted[3])) / 2
    return torch.stack([across, across.mT, down, down.mT], -1)


def seam_features(fragments: Tensor) -> Tensor:
    """Logarithms of `touching_differences` and `continued_differences`, minus their mean over the puzzle's pairs.

    Extrapolated pixels can differ by up to three times the range of a pixel, hence the logarithm.

    Args:
        fragments: (B, F, C, h, w) in [0, 1].

    Returns:
        (B, F, F, 8), low where fragments fit together.

    Example:
        >>> seam_features(torch.rand(1, 3, 3, 4, 4)).shape
        torch.Size([1, 3, 3, 8])
    """
    both = torch.cat([touching_differences(fragments), continued_differences(fragments)], -1)
    logs = torch.log(both + 1 / 255)
    return logs - logs.mean((1, 2), keepdim=True)


def strips(fragments: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """Return the ``depth`` rows of pixels next to each side, oriented so that the seam comes first.

    Args:
        fragments: (B, F, C, h, w).
        depth: number of rows.

    Returns:
        Strips of the right and left sides, (B, F, 2, h, C, depth), and of the lower and upper sides, (B, F, 2, w, C,
        depth): the axes are along the seam, channels, and from the seam inwards.

    Example:
        >>> across, down = strips(torch.zeros(1, 4, 3, 8, 6), 2)
        >>> across.shape, down.shape
        (torch.Size([1, 4, 2, 8, 3, 2]), torch.Size([1, 4, 2, 6, 3, 2]))
    """
    left, above = fragments[..., :depth], fragments[..., :depth, :]
    right, below = fragments[..., -depth:].flip(-1), fragments[..., -depth:, :].flip(-2)
    across = torch.stack([right, left], 2).movedim(-2, 3)
    down = torch.stack([below, above], 2).movedim(-1, 3)
    return across, down


def _edges(fragments: Tensor, depth: int) -> list[Tensor]:
    """Pixels (B, F, values) of each side, ``depth`` pixels in, in the order of `SIDES`."""
    columns, rows = min(depth, fragments.shape[-1] - 1), min(depth, fragments.shape[-2] - 1)
    sides = (
        fragments[..., :, -1 - columns],
        fragments[..., :, columns],
        fragments[..., -1 - rows, :],
        fragments[..., rows, :],
    )
    return [side.flatten(2).contiguous() for side in sides]


def _distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean absolute differences (B, F, F) of values (B, F, values)."""
    return torch.cdist(first, second, p=1) / first.shape[-1]
