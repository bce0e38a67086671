"""Where the words of a figure are."""

from __future__ import annotations

import itertools

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Affine2D


def assert_words_apart(figure: Figure) -> None:
    """Assert that all words of a figure are inside of it and do not overlap each other, as rotated rectangles."""
    figure.draw_without_rendering()
    hidden = {text for axes in figure.axes for text in _not_drawn(axes)}
    shown = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    boxes = [(text.get_text(), _corners(text)) for text in shown if text not in hidden]
    assert boxes
    for place, (words, corners) in enumerate(boxes):
        xs, ys = zip(*corners, strict=True)
        assert -1 <= min(xs) < max(xs) <= figure.bbox.width + 1, words
        assert -1 <= min(ys) < max(ys) <= figure.bbox.height + 1, words
        for other, others in boxes[place + 1 :]:
            assert _apart(corners, others), (words, other)


def _not_drawn(axes: Axes) -> list[Text]:
    """The words of axes that are off, and the labels of ticks outside of the limits."""
    if not axes.axison:
        return axes.findobj(Text)
    found: list[Text] = []
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        outside = [tick for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high]
        found += [label for tick in outside for label in (tick.label1, tick.label2)]
    return found


def _corners(text: Text) -> list[tuple[float, float]]:
    """The corners of the rotated rectangle around a text, in pixels."""
    angle, box = text.get_rotation(), text.get_window_extent()
    middle = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
    text.set_rotation(0)
    flat = text.get_window_extent()
    text.set_rotation(angle)
    turned = Affine2D().rotate_deg(angle).translate(*middle)
    half = flat.width / 2, flat.height / 2
    return [tuple(turned.transform((x * half[0], y * half[1]))) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]


def _apart(one: list[tuple[float, float]], other: list[tuple[float, float]]) -> bool:
    """Whether a line separates two rectangles: the normal of a side of either (separating axis theorem)."""
    for corners in (one, other):
        for (x0, y0), (x1, y1) in itertools.pairwise(corners):
            normal = y0 - y1, x1 - x0
            (low, high), (least, most) = (
                (min(places), max(places))
                for places in ([x * normal[0] + y * normal[1] for x, y in box] for box in (one, other))
            )
            if high <= least or most <= low:
                return True
    return False
