"""Dissimilarity of the sides of pieces: pure functions of pixels, low where two pieces fit.

Shapes: n pieces (C, h, w) in 0..255. A table of ways is (W, n, n), the ways in which two sides can meet. For known
orientation W = 4: ``table[s, a, b]`` is for side s of piece a next to the opposite side of piece b. For unknown
orientation W = 16: ``table[4 * s + t, a, b]`` is for side s of piece a next to side t of piece b. Sides are numbered as
in `fragrecon.seams.SIDES`. Tables are symmetric: the sides (s, a), (t, b) and (t, b), (s, a) have one value. The two
sides of one piece have the value infinity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fragrecon.reassembly.clues import mahalanobis
from fragrecon.seams import strips

Compatibility = Callable[[Tensor, bool], Tensor]
"""Maps pieces (n, C, h, w) and whether their orientation is unknown to a table of ways, float32."""


def sum_of_squares(pieces: Tensor, rotations: bool) -> Tensor:
    """Compare the pixels that touch by the sum of squared differences (Cho et al., CVPR 2010).

    Args:
        pieces: pieces (n, C, h, w) in 0..255.
        rotations: whether the orientation is unknown.

    Returns:
        A table of ways, (4 or 16, n, n).

    Example:
        >>> pieces = torch.tensor([[1.0, 2.0], [4.0, 8.0]]).view(2, 1, 1, 2)
        >>> sum_of_squares(pieces, rotations=False)[0]  # the second piece right of the first: (4 - 2)^2
        tensor([[inf, 4.],
                [49., inf]])
    """
    edges, others = _edges(pieces, 1)
    return _ways(lambda s, t: _distance(edges[s][..., 0], others[t][..., 0], 2.0) ** 2, rotations)


def prediction(pieces: Tensor, rotations: bool, norm: float = 1.0, power: float = 1.0) -> Tensor:
    """Compare the pixels of one piece with those predicted from the other (Pomeranz et al., CVPR 2011, eq. 3).

    The line through the last two pixels of a piece is continued by one pixel; the differences of all pixels from the
    prediction are added as ``(sum of |d|^norm)^(power / norm)``, for both pieces. With norm and power 1, this is the
    measure of Paikin and Tal (CVPR 2015).

    Args:
        pieces: pieces (n, C, h, w) in 0..255, at least 2x2 pixels.
        rotations: whether the orientation is unknown.
        norm: the norm; 3/10 in the paper. Others than 1 and 2 take much longer.
        power: the power of the norm; 1/16 in the paper.

    Returns:
        A table of ways, (4 or 16, n, n).
    """
    edges, others = _edges(pieces, 2)
    predicted = [2 * edge[..., 0] - edge[..., 1] for edge in edges]
    return _both_ways(lambda s, t: _distance(predicted[s], others[t][..., 0], norm) ** power, rotations)


def gradients(pieces: Tensor, rotations: bool) -> Tensor:
    """Compare colour gradients across the seam with those inside of each piece (Gallagher, CVPR 2012).

    Mahalanobis gradient compatibility, as in `fragrecon.reassembly.clues.mahalanobis`, in both directions.

    Args:
        pieces: pieces (n, C, h, w) in 0..255, at least 2x2 pixels.
        rotations: whether the orientation is unknown.

    Returns:
        A table of ways, (4 or 16, n, n).
    """
    return _mahalanobis(*_edges(pieces.double(), 2), rotations)


def gradient_changes(pieces: Tensor, rotations: bool) -> Tensor:
    """Compare differences of successive pixels along the seam (Son et al., ECCV 2014, as a term of their measure).

    These differences are scored like the pixels in `gradients`: by how they change across the seam, relative to how
    they change inside of each piece.

    Args:
        pieces: pieces (n, C, h, w) in 0..255, at least 2x2 pixels.
        rotations: whether the orientation is unknown.

    Returns:
        A table of ways, (4 or 16, n, n).
    """
    edges, others = _edges(pieces.double(), 2)
    return _mahalanobis([edge.diff(dim=1) for edge in edges], [other.diff(dim=1) for other in others], rotations)


def _mahalanobis(edges: Sequence[Tensor], others: Sequence[Tensor], rotations: bool) -> Tensor:
    """Return a table of ways of `mahalanobis`, of values (n, length, C, 2) next to each side."""

    def compare(s: int, t: int) -> Tensor:
        edge = edges[s].unsqueeze(0)
        return mahalanobis(edge[..., 0], edge[..., 0] - edge[..., 1], others[t][..., 0].unsqueeze(0))[0]

    return _both_ways(compare, rotations)


def _edges(pieces: Tensor, depth: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return the pixels (n, length, C, depth) next to each side, read clockwise and, to be met, counterclockwise."""
    found = [strip[0] for strip in strips(pieces.unsqueeze(0), depth)]
    return found, [strip.flip(1) for strip in found]


def _distance(one: Tensor, other: Tensor, norm: float) -> Tensor:
    return torch.cdist(one.flatten(1).float(), other.flatten(1).float(), norm)


def _both_ways(compare: Callable[[int, int], Tensor], rotations: bool) -> Tensor:
    """Return a table of ways of comparisons that depend on the direction, added for both."""
    return _ways(lambda s, t: compare(s, t) + compare(t, s).mT, rotations)


def _ways(compare: Callable[[int, int], Tensor], rotations: bool) -> Tensor:
    """Return a table of ways from the comparison (n, n) of a side of the first piece with a side of the second."""
    pairs: Sequence[tuple[int, int]] = (
        [(s, t) for s in range(4) for t in range(s, 4)] if rotations else [(s, s + 2) for s in range(2)]
    )
    table = torch.empty(0)
    for s, t in pairs:
        found = compare(s, t).float()
        if not len(table):
            table = found.new_empty(16 if rotations else 4, *found.shape)
        found.fill_diagonal_(torch.inf)
        table[4 * s + t if rotations else s] = found
        table[4 * t + s if rotations else t] = found.mT
    return table
