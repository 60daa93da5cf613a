"""Names beside the curves of a plot, where they cover nothing, in place of a legend."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from compressai_gen._matplotlib import backend_set_aside

with backend_set_aside():
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

__all__ = ["Curve", "label_curves"]

_SPACING = 3.0  # pixels between the points that stand for a curve
_PAD = 2.5  # pixels around a name that stay free
_RADII = (7.0, 13.0, 21.0, 32.0, 46.0, 64.0, 88.0, 118.0)  # pixels from a curve to its name
_ANGLES = np.linspace(0, 2 * np.pi, 24, endpoint=False)
_ALONG = np.linspace(0, 1, 16)[:, None]  # a line from a curve to its name
_TOUCHING = 14.0  # up to so many pixels away, no line is needed between both
# Costs, in pixels of distance: covering a point of a curve, a line across another curve, the middle of a curve.
_COVERED, _CROSSED, _INNER = 60.0, 45.0, 8.0
_CELL = 4  # pixels: nearer than that, a line meets a curve
_SWEEPS = 2  # over all names: later ones may have taken the place of earlier ones


class Curve(NamedTuple):
    """A line and how its name looks.

    Attributes:
        name: shown as it is, never parsed as mathematics.
        points: shape (n, 2), in the units of the axes.
        color: of the name.
        weight: of the font.
    """

    name: str
    points: np.ndarray
    color: str
    weight: str


class _Place(NamedTuple):
    box: np.ndarray  # left, bottom, right, top, in pixels
    foot: np.ndarray  # where the curve is named
    tip: np.ndarray  # the nearest point of the box


class _Ground:
    """Where curves run, counted in pixels of the frame, so that many places are looked up at once."""

    def __init__(self, lines: Sequence[np.ndarray], frame: np.ndarray) -> None:
        self._origin = frame[:2]
        shape = tuple(np.ceil(frame[2:] - frame[:2]).astype(int) + 1)
        counts = np.zeros(shape, dtype=int)
        coarse = tuple(extent // _CELL + 1 for extent in shape)
        self._cells = np.zeros((len(lines), *coarse), dtype=bool)
        for index, line in enumerate(lines):
            x, y = self._pixels(line)
            np.add.at(counts, (x, y), 1)
            self._cells[index, x // _CELL, y // _CELL] = True
        self._sums = np.pad(counts.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))

    def _pixels(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y = np.moveaxis(np.floor(points - self._origin).astype(int), -1, 0)
        return x, y

    def covered(self, boxes: np.ndarray) -> np.ndarray:
        """Return how many points of curves lie in each box, shape (boxes, 4)."""
        left, bottom = self._pixels(boxes[:, :2])
        right, top = (values + 1 for values in self._pixels(boxes[:, 2:]))
        sums = self._sums
        return sums[right, top] - sums[left, top] - sums[right, bottom] + sums[left, bottom]

    def crossed(self, ways: np.ndarray, index: int) -> np.ndarray:
        """Return how many curves other than `index` each way meets; shape (ways, points, 2)."""
        x, y = self._pixels(ways)
        met = self._cells[:, x // _CELL, y // _CELL].any(axis=2)
        return met.sum(axis=0) - met[index]


def label_curves(axes: Axes, curves: Sequence[Curve], fontsize: float = 7) -> bool:
    """Write the names of curves beside them, so that no name covers another one, nor a curve where that can be had.

    A name that finds no room beside its curve stands further away, with a thin line to it.

    Args:
        axes: with its final limits, scales and place in the figure.
        curves: what has been drawn.
        fontsize: in points.

    Returns:
        Whether there was room for all names; if not, none is written.
    """
    canvas = FigureCanvasAgg(axes.figure)
    renderer = canvas.get_renderer()
    axes.apply_aspect()
    frame = np.array(axes.get_window_extent(renderer).extents)
    # A name is measured with some room to spare: other programs have other fonts.
    texts = [_text(axes, curve, fontsize) for curve in curves]
    sizes = [np.array([1.04, 1.0]) * text.get_window_extent(renderer).size + 2 * _PAD for text in texts]
    corners = [axes.transData.transform(curve.points) for curve in curves]
    lines = [_sampled(line, frame) for line in corners]
    places = _arranged(sizes, [_feet(line, frame) for line in corners], lines, frame)
    if places is None:
        for text in texts:
            text.remove()
        return False
    to_data = axes.transData.inverted()
    for curve, text, place in zip(curves, texts, places, strict=True):
        x, y = to_data.transform((place.box[:2] + place.box[2:]) / 2)
        text.set_position((x, y))
        if np.linalg.norm(place.tip - place.foot) > _TOUCHING:
            line = to_data.transform([place.foot, place.tip]).T
            axes.plot(*line, color=curve.color, linewidth=0.5, alpha=0.6, zorder=3.5, label="_leader")
    return True


def _text(axes: Axes, curve: Curve, fontsize: float) -> Text:
    x, y = curve.points[0]
    return axes.text(
        x,
        y,
        curve.name,
        color=curve.color,
        weight=curve.weight,
        fontsize=fontsize,
        ha="center",
        va="center",
        parse_math=False,
        zorder=4,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.6, "pad": 0.6},
    )


def _sampled(corners: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Return points of a line at most ``_SPACING`` pixels apart, as far as they lie in the frame."""
    pieces = [corners[:1]]
    for start, end in pairwise(corners):
        count = max(2, min(2000, int(np.ceil(np.linalg.norm(end - start) / _SPACING)) + 1))
        pieces.append(start + np.linspace(0, 1, count)[1:, None] * (end - start))
    points = np.concatenate(pieces)
    return points[_inside(points, frame)]


def _feet(corners: np.ndarray, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the points where a curve may be named, those of the curve and between them, and which are inner ones."""
    feet = np.concatenate([corners, (corners[:-1] + corners[1:]) / 2])
    feet = feet[_inside(feet, frame)]
    feet = feet[np.argsort(feet[:, 0], kind="stable")]
    inner = np.ones(len(feet), dtype=bool)
    inner[[0, -1] if len(feet) else []] = False
    return feet, inner


def _arranged(
    sizes: Sequence[np.ndarray],
    feet: Sequence[tuple[np.ndarray, np.ndarray]],
    lines: Sequence[np.ndarray],
    frame: np.ndarray,
) -> list[_Place] | None:
    """Find a place for each name, one after the other, and then again each among all others."""
    if not all(len(points) for points, _ in feet):
        return None
    places: list[_Place | None] = [None] * len(sizes)
    ground = _Ground(lines, frame)
    for _ in range(_SWEEPS):
        for index, size in enumerate(sizes):
            others = [place for other, place in enumerate(places) if place is not None and other != index]
            place = _best(size, *feet[index], index, ground, others, frame)
            if place is None:
                return None
            places[index] = place
    return [place for place in places if place is not None]


def _best(
    size: np.ndarray,
    feet: np.ndarray,
    inner: np.ndarray,
    index: int,
    ground: _Ground,
    others: Sequence[_Place],
    frame: np.ndarray,
) -> _Place | None:
    """Return the cheapest place of a name that overlaps no other name, nor the line that leads to one."""
    radius, angle, at = (grid.ravel() for grid in np.meshgrid(_RADII, _ANGLES, np.arange(len(feet)), indexing="ij"))
    center = feet[at] + np.stack([np.cos(angle), np.sin(angle)], axis=1) * (radius[:, None] + size / 2 - _PAD)
    boxes = np.concatenate([center - size / 2, center + size / 2], axis=1)
    free = _inside(boxes[:, :2], frame) & _inside(boxes[:, 2:], frame)
    for other in others:
        free &= ~_overlap(boxes, other.box)
    boxes, radius, at = boxes[free], radius[free], at[free]
    foot = feet[at]
    tips = np.clip(foot, boxes[:, :2] + _PAD, boxes[:, 2:] - _PAD)
    ways = foot[:, None] + _ALONG * (tips - foot)[:, None]
    free = np.ones(len(boxes), dtype=bool)
    for other in others:
        free &= ~_inside(ways, other.box).any(axis=1)
        free &= ~_within(other.foot + _ALONG * (other.tip - other.foot), boxes).any(axis=1)
    if not free.any():
        return None
    cost = radius + _INNER * inner[at] + _COVERED * ground.covered(boxes)
    cost += _CROSSED * ground.crossed(ways[:, 3:], index) * (radius > _TOUCHING)
    best = int(np.argmin(np.where(free, cost, np.inf)))
    return _Place(boxes[best], foot[best], tips[best])


def _overlap(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    across = (boxes[:, 0] < box[2]) & (boxes[:, 2] > box[0])
    return across & (boxes[:, 1] < box[3]) & (boxes[:, 3] > box[1])


def _inside(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    x, y = points[..., 0], points[..., 1]
    return (x >= box[0]) & (x <= box[2]) & (y >= box[1]) & (y <= box[3])


def _within(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return, of shape (boxes, points), which point lies in which box."""
    left, bottom, right, top = boxes.T[:, :, None]
    x, y = points.T[:, None]
    return (x >= left) & (x <= right) & (y >= bottom) & (y <= top)
