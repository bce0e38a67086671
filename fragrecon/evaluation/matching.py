"""Name groups of fragments after images: the one rule of all figures and pages."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
from scipy.optimize import linear_sum_assignment


def match(counts: npt.NDArray[Any]) -> list[int | None]:
    """Match groups to images one to one, so that as many fragments as possible are in the group of their image.

    Args:
        counts: fragments (groups, images) that a group has of an image.

    Returns:
        The image of each group; None for a group that has no fragment of the image left for it.

    Example:
        >>> import numpy as np
        >>> match(np.array([[3, 1], [2, 1], [0, 0]]))
        [0, 1, None]
    """
    found: list[int | None] = [None] * len(counts)
    for group, image in zip(*linear_sum_assignment(counts, maximize=True), strict=True):
        if counts[group, image]:
            found[group] = int(image)
    return found
