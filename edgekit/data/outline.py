"""Outlines: polygons and regions of pixels, from one to the other, in the coordinates of `sample.py`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from edgekit.lazy import np

if TYPE_CHECKING:
    from numpy import ndarray

    Point = tuple[int, int]


def area(polygon: ndarray) -> float:
    """Give the signed area of an Mx2 polygon in square pixels (shoelace formula); clockwise on screen is above 0."""
    x, y = polygon[:, 0], polygon[:, 1]
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def bounds(polygons: Sequence[ndarray], region: ndarray | None = None) -> ndarray | None:
    """Give the box (x0, y0, x1, y1, float64) around polygons, or else a region; None without either."""
    if polygons:
        points = np.concatenate(polygons)
        return np.concatenate([points.min(axis=0), points.max(axis=0)]).astype(np.float64)
    if region is None or not region.any():
        return None
    columns, rows = np.flatnonzero(region.any(axis=0)), np.flatnonzero(region.any(axis=1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)


def clip(polygon: ndarray, size: tuple[int, int]) -> ndarray:
    """Cut an Mx2 polygon at the frame (Sutherland and Hodgman, 1974); 0x2 when nothing is inside."""
    frame = np.array(size, np.float64)
    if (polygon >= 0).all() and (polygon <= frame).all():
        return polygon
    points = polygon.tolist()
    for axis in (0, 1):
        for limit, sign in ((0.0, 1.0), (float(size[axis]), -1.0)):
            points = _cut(points, axis, limit, sign)
    return np.clip(np.array(points, np.float64).reshape(-1, 2), 0.0, frame)


def _cut(points: list[list[float]], axis: int, limit: float, sign: float) -> list[list[float]]:
    kept: list[list[float]] = []
    for one, other in zip(points[-1:] + points[:-1], points, strict=True):
        before, after = sign * (one[axis] - limit), sign * (other[axis] - limit)
        if (before < 0) != (after < 0):
            share = before / (before - after)
            crossing = [one[side] + share * (other[side] - one[side]) for side in (0, 1)]
            crossing[axis] = limit
            kept.append(crossing)
        if after >= 0:
            kept.append(other)
    return kept


def paint(polygons: Sequence[ndarray], size: tuple[int, int]) -> ndarray:
    """Fill polygons, each by the even-odd rule: HxW bool, true where a pixel's centre is inside one of them."""
    width, height = size
    region = np.zeros((height, width), bool)
    for polygon in polygons:
        region |= _fill(polygon, width, height)
    return region


def _fill(polygon: ndarray, width: int, height: int) -> ndarray:
    start, end = polygon, np.roll(polygon, -1, axis=0)
    upper = np.where(start[:, 1] <= end[:, 1], 0, 1)[:, None]
    top, bottom = np.where(upper == 0, start, end), np.where(upper == 0, end, start)
    # An edge crosses the centre lines of the rows first .. last - 1.
    first = np.clip(np.ceil(top[:, 1] - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(bottom[:, 1] - 0.5), 0, height).astype(np.int64)
    counts = last - first
    edge = np.repeat(np.arange(len(polygon)), counts)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    share = (row + 0.5 - top[edge, 1]) / (bottom[edge, 1] - top[edge, 1])
    across = top[edge, 0] + share * (bottom[edge, 0] - top[edge, 0])
    column = np.clip(np.ceil(across - 0.5), 0, width).astype(np.int64)
    toggles = np.zeros((height, width + 1), np.int64)
    np.add.at(toggles, (row, column), 1)
    filled: ndarray = np.cumsum(toggles[:, :width], axis=1) % 2 == 1
    return filled


def trace(region: ndarray) -> tuple[ndarray, ...]:
    """Trace an HxW bool region along the edges of its pixels: rings of corners, clockwise, holes the other way round.

    Pixels that touch at a corner only are apart. Even-odd filling of the rings gives the region back exactly.
    """
    ends = _edges(region)
    rings = []
    for start in sorted(ends):
        while ends[start]:
            rings.append(_ring(start, ends))
    return tuple(rings)


def _edges(region: ndarray) -> dict[Point, list[Point]]:
    """Give the directed edges between pixels inside and outside, inside on the right: start -> ends."""
    padded = np.pad(np.asarray(region, bool), 1)
    inside = padded[1:-1, 1:-1]
    beyond = (padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2])
    steps = (((0, 0), (1, 0)), ((1, 0), (1, 1)), ((1, 1), (0, 1)), ((0, 1), (0, 0)))
    ends: dict[Point, list[Point]] = {}
    for other, ((ax, ay), (bx, by)) in zip(beyond, steps, strict=True):
        for y, x in np.argwhere(inside & ~other).tolist():
            ends.setdefault((x + ax, y + ay), []).append((x + bx, y + by))
    return ends


def _ring(start: Point, ends: dict[Point, list[Point]]) -> ndarray:
    path = [start, ends[start].pop()]
    while path[-1] != start:
        (ax, ay), (bx, by) = path[-2:]
        choices = ends[bx, by]
        # Where two pixels touch at a corner the turn to the right stays with the same one.
        right = (bx - (by - ay), by + (bx - ax))
        choice = choices.index(right) if right in choices else 0
        path.append(choices.pop(choice))
    steps = [(bx - ax, by - ay) for (ax, ay), (bx, by) in pairwise(path)]
    corners = [point for point, before, after in zip(path, [steps[-1], *steps], steps, strict=False) if before != after]
    return np.array(corners, np.float64)


def join(rings: Sequence[ndarray]) -> ndarray:
    """Join rings into one Mx2 polygon by bridges of no width between nearest corners.

    Parts and holes stay: even-odd filling of the result is that of all rings together.
    """
    whole, *others = rings
    for ring in others:
        gaps = ((whole[:, None, :] - ring[None, :, :]) ** 2).sum(axis=2)
        here, there = divmod(int(gaps.argmin()), len(ring))
        around = np.concatenate([ring[there:], ring[: there + 1]])
        whole = np.concatenate([whole[: here + 1], around, whole[here:]])
    return whole
