"""How well two fragments abut: differences along the pixels that would touch.

Shapes: B puzzles of F fragments (C, h, w). A fragment can stand in four ways to another, in the order of `SIDES`: the
second lies to the right of the first, to its left, below it, above it.
"""

from __future__ import annotations

import torch
from torch import Tensor

SIDES = ("right", "left", "below", "above")
FEATURES = 2 * len(SIDES)


def touching_differences(fragments: Tensor) -> Tensor:
    """Mean absolute difference of the pixels that touch, (B, F, F, 4), for each ordered pair and side.

    Args:
        fragments: (B, F, C, h, w).
    """
    right, left, below, above = _edges(fragments, 0)
    across, down = _distance(right, left), _distance(below, above)
    return torch.stack([across, across.mT, down, down.mT], -1)


def continued_differences(fragments: Tensor) -> Tensor:
    """The same between what each fragment's last two rows of pixels foretell of the next, and the other's first row.

    The line through the two is continued by one pixel, from either side of the seam, and the two errors are averaged,
    as in the gradients of Gallagher, CVPR 2012. Fragments a single pixel wide foretell themselves.
    """
    first = _edges(fragments, 0)
    foretold = [2 * edge - inner for edge, inner in zip(first, _edges(fragments, 1), strict=True)]
    across = (_distance(foretold[0], first[1]) + _distance(first[0], foretold[1])) / 2
    down = (_distance(foretold[2], first[3]) + _distance(first[2], foretold[3])) / 2
    return torch.stack([across, across.mT, down, down.mT], -1)


def seam_features(fragments: Tensor) -> Tensor:
    """Logarithms of both differences less their mean over the puzzle's pairs, (B, F, F, 8); low where fragments abut.

    What is foretold can differ by up to three times the range of a pixel, so it is the logarithm that is compared.
    """
    both = torch.cat([touching_differences(fragments), continued_differences(fragments)], -1)
    logs = torch.log(both + 1 / 255)
    return logs - logs.mean((1, 2), keepdim=True)


def strips(fragments: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """The `depth` rows of pixels next to each side, as seen from the seam.

    Returns:
        Those of the right and left sides, (B, F, 2, h, C, depth), and of the lower and upper ones, (B, F, 2, w, C,
        depth): along the seam, then colours, then from the seam inwards.
    """
    left, above = fragments[..., :depth], fragments[..., :depth, :]
    right, below = fragments[..., -depth:].flip(-1), fragments[..., -depth:, :].flip(-2)
    across = torch.stack([right, left], 2).movedim(-2, 3)
    down = torch.stack([below, above], 2).movedim(-1, 3)
    return across, down


def _edges(fragments: Tensor, depth: int) -> list[Tensor]:
    """Pixels (B, F, values) of each side, `depth` pixels in, in the order of `SIDES`."""
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
