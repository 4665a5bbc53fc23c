"""Outlines in the plane: polygons, ellipses, rectangles and regions of pixels, from one to the other, moved and cut.

A polygon is Mx2 float64, closed by itself; a box is (4,): x0 y0 x1 y1; both in the coordinates of `sample.py`. A region
is HxW bool. Maps are projective, 3x3.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from edgekit.lazy import cv2, np

if TYPE_CHECKING:
    from collections.abc import Sequence

    Point = tuple[int, int]
    Size = tuple[int, int]
    Parts = tuple[np.ndarray, ...]

# Depth (the third homogeneous coordinate) at which something counts as at the horizon.
HORIZON = 1e-9

# Parts of less area, in square pixels, are rounding errors.
SLIVER = 1e-9


def move_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Map Nx2 points by a 3x3 matrix; the result is not clipped."""
    mapped: np.ndarray = np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]
    # At or behind the horizon of a perspective there is no position; far away is the nearest thing to it.
    flat: np.ndarray = mapped[:, :2] / np.maximum(mapped[:, 2:], HORIZON)
    return flat


def move_polygon(polygon: np.ndarray, matrix: np.ndarray) -> Parts:
    """Map a polygon; of one that reaches behind the horizon of a perspective, the parts that do not."""
    if not matrix[2, :2].any():
        return (move_points(polygon, matrix),)
    depth = polygon @ matrix[2, :2] + matrix[2, 2]
    # A little before the horizon: what lies on it is moved to infinity.
    return tuple(move_points(part, matrix) for part in cut(polygon, depth - 1e-6 * abs(matrix[2, 2])))


def area(parts: Sequence[np.ndarray]) -> float:
    """Add up the areas of polygons, whatever their winding."""
    return float(sum(abs(signed_area(part)) for part in parts))


def signed_area(polygon: np.ndarray) -> float:
    """Give the area by the shoelace formula; positive when the vertices go clockwise as seen (y points down)."""
    x, y = (polygon - polygon[0]).T
    return 0.5 * float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def hull(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Give the upright box around all points of some polygons."""
    points = np.concatenate(parts)
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def corners(box: np.ndarray) -> np.ndarray:
    """Give the corners of a box, 4x2, clockwise as seen from the top left."""
    return np.asarray(box, np.float64)[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2)


def clip_box(box: np.ndarray, size: Size) -> np.ndarray:
    """Cut a box at the frame; one that lies outside becomes one without area on the frame's edge."""
    return np.clip(box, 0.0, np.array([*size, *size], np.float64))


def clip(polygon: np.ndarray, size: Size) -> Parts:
    """Cut a polygon at the frame (width, height); none, one or more parts, wound as it is, inside to the last bit."""
    limits = np.array(size, np.float64)
    if ((polygon >= 0) & (polygon <= limits)).all():
        return (polygon,)
    parts: Parts = (polygon,)
    for axis, sign, limit in ((0, 1.0, 0.0), (0, -1.0, -limits[0]), (1, 1.0, 0.0), (1, -1.0, -limits[1])):
        parts = tuple(piece for part in parts for piece in cut(part, sign * part[:, axis] - limit))
    return tuple(np.clip(part, 0.0, limits) for part in parts if abs(signed_area(part)) > SLIVER)


def cut(polygon: np.ndarray, distance: np.ndarray) -> Parts:
    """Keep what of a polygon lies on one side of a line: where `distance` (M, affine in the place) is not negative.

    Crossings of a simple polygon, sorted along the line, pair up: between the two of a pair the line runs inside. So a
    concave polygon falls into its true parts. When they do not pair up, because the polygon crosses itself, the parts
    stay joined along the line, as in Sutherland and Hodgman 1974: the area is right all the same.
    """
    inside = distance >= 0
    if inside.all():
        return (polygon,)
    if not inside.any():
        return ()
    leaves = np.flatnonzero(inside & ~np.roll(inside, -1))
    enters = np.flatnonzero(~inside & np.roll(inside, -1))
    if leaves[0] < enters[0]:
        leaves = np.roll(leaves, -1)
    doubled = np.concatenate([polygon, polygon])
    chains = []
    for enter, leave in zip(enters.tolist(), leaves.tolist(), strict=True):
        last = leave if leave > enter else leave + len(polygon)
        ends = [_crossing(polygon, distance, edge)[None] for edge in (enter, leave)]
        chains.append(np.concatenate([ends[0], doubled[enter + 1 : last + 1], ends[1]]))
    return tuple(np.concatenate([chains[i] for i in ring]) for ring in _rings(chains))


def _crossing(polygon: np.ndarray, distance: np.ndarray, edge: int) -> np.ndarray:
    """Find where the edge from a vertex to the next meets the line; the same whichever way the edge is walked."""
    one, other = edge, (edge + 1) % len(polygon)
    if distance[one] < 0:
        one, other = other, one
    share = distance[one] / (distance[one] - distance[other])
    place: np.ndarray = polygon[one] + share * (polygon[other] - polygon[one])
    return place


def _rings(chains: list[np.ndarray]) -> list[list[int]]:
    """Say which chains (each from an entering to a leaving crossing) close one another, along the line they end on."""
    count = len(chains)
    together = [list(range(count))]
    if count == 1:
        return together
    ends = np.array([chain[side] for chain in chains for side in (0, -1)])  # start and end of each chain in turn
    far = ends[np.argmax(((ends - ends[0]) ** 2).sum(axis=1))]
    order = np.argsort((ends - ends[0]) @ (far - ends[0]), kind="stable")
    following: dict[int, int] = {}
    for one, other in order.reshape(-1, 2).tolist():
        if one % 2 == other % 2:  # two starts or two ends
            return together
        start, end = (one, other) if one % 2 == 0 else (other, one)
        following[end // 2] = start // 2
    rings, left = [], list(range(count))
    while left:
        ring = [left[0]]
        while following[ring[-1]] != ring[0]:
            ring.append(following[ring[-1]])
        rings.append(ring)
        left = [chain for chain in left if chain not in ring]
    return rings


def divided(polygon: np.ndarray, step: float = 8.0) -> np.ndarray:
    """Put points on the edges, so that none is longer than `step`: ready to be bent."""
    following = np.roll(polygon, -1, axis=0)
    lengths = np.hypot(*(following - polygon).T)
    pieces = []
    for start, end, length in zip(polygon, following, lengths.tolist(), strict=True):
        count = max(1, int(np.ceil(length / step)))
        pieces.append(start + (np.arange(count) / count)[:, None] * (end - start))
    return np.concatenate(pieces)


def disc(count: int = 64) -> np.ndarray:
    """Give points on the unit circle, clockwise as seen."""
    angles = np.arange(count) * (2 * np.pi / count)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


SQUARE = ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))


def span(box: np.ndarray) -> np.ndarray:
    """Give the matrix that maps the square -1..1 to a box, and the unit circle to its inscribed ellipse."""
    x0, y0, x1, y1 = np.asarray(box, np.float64).tolist()
    return np.array([[(x1 - x0) / 2, 0.0, (x0 + x1) / 2], [0.0, (y1 - y0) / 2, (y0 + y1) / 2], [0.0, 0.0, 1.0]])


def hull_of_circle(matrix: np.ndarray) -> np.ndarray | None:
    """Give the upright box around the image of the unit circle; None when it reaches the horizon.

    Exact, for perspective too: the lines l that touch a conic are l' C l = 0 with C its dual, the dual of the unit
    circle is diag(1, 1, -1), and that of its image is M C M' (Hartley and Zisserman 2004, section 2.2.3 and 2.3).
    """
    if matrix[2, 2] <= np.hypot(*matrix[2, :2]) + HORIZON:
        return None
    middle = matrix[:2, 2] / matrix[2, 2]
    shifted = matrix.copy()
    shifted[:2] -= middle[:, None] * matrix[2]  # about the middle, or squares of large coordinates would cancel
    dual = shifted @ np.diag([1.0, 1.0, -1.0]) @ shifted.T
    centre = dual[:2, 2] / dual[2, 2]
    half = np.sqrt(np.maximum(centre**2 - dual[[0, 1], [0, 1]] / dual[2, 2], 0.0))
    return np.concatenate([middle + centre - half, middle + centre + half])


def smallest_rectangle(polygon: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Give the smallest rectangle around a convex polygon, wound as `like` (4x2) and beginning at the same corner.

    One of its sides lies along an edge of the polygon (Freeman and Shapira 1975).
    """
    edges = np.roll(polygon, -1, axis=0) - polygon
    lengths = np.hypot(edges[:, 0], edges[:, 1])
    edges = edges[lengths > 0] / lengths[lengths > 0, None]
    if not len(edges):
        return np.repeat(polygon[:1], 4, axis=0)
    along = polygon @ edges.T
    across = polygon @ np.stack([-edges[:, 1], edges[:, 0]])
    best = int(np.argmin(np.ptp(along, axis=0) * np.ptp(across, axis=0)))
    x, y = edges[best]
    bounds = hull([np.stack([along[:, best], across[:, best]], axis=1)])
    found = corners(bounds) @ np.array([[x, y], [-y, x]])
    if (signed_area(found) < 0) != (signed_area(like) < 0):
        found = found[::-1]
    turns = [np.roll(found, turn, axis=0) for turn in range(4)]
    return turns[int(np.argmin([((turn - like) ** 2).sum() for turn in turns]))]


def window(box: np.ndarray, size: Size, room: int = 0) -> tuple[int, int, int, int]:
    """Give the whole pixels (x, y, width, height) that a box touches, and `room` around, at least one, in the frame."""
    low = [min(max(math.floor(edge) - room, 0), side - 1) for edge, side in zip(box[:2].tolist(), size, strict=True)]
    high = [min(max(math.ceil(edge) + room, 1), side) for edge, side in zip(box[2:].tolist(), size, strict=True)]
    return low[0], low[1], max(1, high[0] - low[0]), max(1, high[1] - low[1])


def hull_of_pixels(region: np.ndarray) -> np.ndarray | None:
    """Give the upright box around the pixels of an HxW bool; None when there are none."""
    x, y, width, height = cv2.boundingRect(np.ascontiguousarray(region).view(np.uint8))
    return np.array([x, y, x + width, y + height], np.float64) if width else None


def bounds(polygons: Sequence[np.ndarray], region: np.ndarray | None = None) -> np.ndarray | None:
    """Give the box around polygons, or else a region; None without either."""
    if polygons:
        return hull(polygons)
    return None if region is None else hull_of_pixels(region)


# ---- outlines and pixels, each from the other


def paint(polygons: Sequence[np.ndarray], size: Size) -> np.ndarray:
    """Fill polygons, each by the even-odd rule: HxW bool, true where a pixel's centre is inside one of them."""
    width, height = size
    region = np.zeros((height, width), np.bool_)
    for polygon in polygons:
        x, y, wide, tall = window(hull([polygon]), size)
        region[y : y + tall, x : x + wide] |= _fill(polygon - np.array([x, y]), wide, tall)
    return region


def _fill(polygon: np.ndarray, width: int, height: int) -> np.ndarray:
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
    filled: np.ndarray = np.cumsum(toggles[:, :width], axis=1) % 2 == 1
    return filled


def trace(region: np.ndarray) -> tuple[np.ndarray, ...]:
    """Trace an HxW bool region along the edges of its pixels: rings of corners, clockwise, holes the other way round.

    Pixels that touch at a corner only are apart. Even-odd filling of the rings gives the region back exactly.
    """
    ends = _edges(region)
    rings = []
    for start in sorted(ends):
        while ends[start]:
            rings.append(_ring(start, ends))
    return tuple(rings)


def _edges(region: np.ndarray) -> dict[Point, list[Point]]:
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


def _ring(start: Point, ends: dict[Point, list[Point]]) -> np.ndarray:
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


def join(rings: Sequence[np.ndarray]) -> np.ndarray:
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
