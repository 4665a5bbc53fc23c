"""Move an image and all of its labels by one 3x3 matrix; the only module that knows coordinates.

The matrix maps source to output in the continuous convention of `sample.py`, where the centre of the first pixel is
(0.5, 0.5). OpenCV puts it at (0, 0); the half pixel is taken off and put back here and nowhere else.

Three ways, the cheapest that is right:
- whole-pixel moves (mirrors, quarter turns, crops, pads) copy pixels and never interpolate;
- pure scaling is a resize, averaged over the area when it shrinks;
- anything else is one bilinear warp. A warp that shrinks to half or less averages first, or it would alias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgekit.errors import EdgekitError
from edgekit.lazy import cv2, np

if TYPE_CHECKING:
    from edgekit.data.sample import Sample

    Size = tuple[int, int]

BORDERS = ("reflect", "replicate", "wrap", "constant")

# OpenCV's warps keep coordinates in 16-bit integers.
MAX_WARPED_SIDE = 32766

# The largest picture that is made, unless its source is larger: several pads in a row grow without end.
MAX_PIXELS = 16384**2

# How far from a whole number, in pixels, still counts as whole: far above rounding errors, far below what can be seen.
WHOLE = 1e-6


@dataclass(frozen=True)
class _Sampling:
    """How pixels are read: between the pixels and outside the picture."""

    nearest: bool
    border: int
    outside: tuple[float, ...]


@dataclass(frozen=True)
class _Aligned:
    """A matrix that keeps axes axes: transpose, then flip, then scale, then put the corner at `offset`."""

    transpose: bool
    flip_x: bool
    flip_y: bool
    scale: tuple[float, float]
    offset: tuple[float, float]


def move(
    sample: Sample, matrix: np.ndarray, size: tuple[int, int], *, border: str = "reflect", fill: float = 0.0
) -> Sample:
    """Move image, mask, boxes, polygons and points; `matrix` maps source to output, `size` is (width, height).

    border: what is outside the picture: `reflect` (mirrored about the outermost pixels), `replicate`, `wrap` or
    `constant`: `fill` (0..1 of full scale), transparent where there is alpha, and 0 in the mask. Boxes become the hull
    of their moved corners, cut at the frame; polygons and points are kept where they land, even outside.

    Raises EdgekitError when a side exceeds 32766 pixels and the move is neither whole-pixel nor pure scaling, and when
    the output has too many pixels.
    """
    if size[0] * size[1] > max(MAX_PIXELS, sample.size[0] * sample.size[1]):
        raise EdgekitError(
            f"a picture of {size[0]}x{size[1]} pixels is too large to be made; the limit is {MAX_PIXELS / 1e6:.0f} MP",
            "pad less, or crop or resize first",
        )
    matrix = np.asarray(matrix, np.float64) / matrix[2, 2]
    image, mask = sample.image, sample.mask
    full = np.iinfo(image.dtype).max * fill
    colours = (full, full, full, 0.0) if image.shape[2] == 4 else (full,) * 4
    code = _border_code(border)
    return replace(
        sample,
        image=_move_pixels(image, matrix, size, _Sampling(nearest=False, border=code, outside=colours)),
        mask=None if mask is None else _move_mask(mask, matrix, size, code),
        boxes=None if sample.boxes is None else move_boxes(sample.boxes, matrix, size),
        polygons=tuple(move_points(polygon, matrix) for polygon in sample.polygons),
        points=None if sample.points is None else move_points(sample.points, matrix),
    )


def move_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Map Nx2 points; the result is not clipped."""
    mapped: np.ndarray = np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]
    # At or behind the horizon of a perspective there is no position; far away is the nearest thing to it.
    flat: np.ndarray = mapped[:, :2] / np.maximum(mapped[:, 2:], 1e-9)
    return flat


def move_boxes(boxes: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Map Nx4 boxes to the upright hulls of their moved corners, clipped to the frame.

    A box that leaves the frame entirely stays as one without area on the frame's edge.
    """
    corners = move_points(np.asarray(boxes, np.float64)[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2), matrix)
    corners = np.clip(corners.reshape(-1, 4, 2), 0.0, np.asarray(size, np.float64))
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def _border_code(border: str) -> int:
    codes = (cv2.BORDER_REFLECT_101, cv2.BORDER_REPLICATE, cv2.BORDER_WRAP, cv2.BORDER_CONSTANT)
    return int(codes[BORDERS.index(border)])


def _move_mask(mask: np.ndarray, matrix: np.ndarray, size: Size, border: int) -> np.ndarray:
    """Move a mask of any integer type: as bytes of a width that OpenCV knows, which copying does not mind."""
    kinds = {1: np.uint8, 2: np.uint16, 4: np.int32, 8: np.int32}
    height, width = mask.shape
    raw = np.ascontiguousarray(mask).view(kinds[mask.dtype.itemsize]).reshape(height, width, -1)
    moved = _move_pixels(raw, matrix, size, _Sampling(nearest=True, border=border, outside=(0.0,) * 4))
    return moved.reshape(size[1], -1).view(mask.dtype)


def _move_pixels(array: np.ndarray, matrix: np.ndarray, size: Size, sampling: _Sampling) -> np.ndarray:
    """Move HxWxC pixels the cheapest way that is right; the result is contiguous and keeps its three axes."""
    channels = array.shape[2]
    aligned = _align(matrix, (array.shape[1], array.shape[0]))
    window = None if aligned is None else _window(aligned, size)
    if aligned is None or window is None:
        moved = _warp(array, matrix, size, sampling)
    elif (window[2], window[3]) == size:
        moved = _cut(_turn(array, aligned), window, sampling)
    elif window[2] * window[3] <= 4 * array.shape[0] * array.shape[1]:
        moved = _resize(_cut(_turn(array, aligned), window, sampling), size, sampling)
    else:  # so much border that making it at full size would cost more memory than the picture is worth
        moved = _warp(array, matrix, size, sampling)
    return np.ascontiguousarray(moved).reshape(size[1], size[0], channels)


def _align(matrix: np.ndarray, size: Size) -> _Aligned | None:
    """Read a matrix as transpose, flip, scale and offset; None when it rotates, shears or has perspective."""
    (a, b, tx), (c, d, ty), (gx, gy, _) = matrix.tolist()
    reach = WHOLE / max(size)
    if max(abs(gx), abs(gy)) > reach / max(size):
        return None
    transpose = abs(b) > abs(a)
    if max(abs(a), abs(d)) > reach if transpose else max(abs(b), abs(c)) > reach:
        return None
    scale_x, scale_y = (b, c) if transpose else (a, d)
    width, height = size[::-1] if transpose else size
    # A flip puts the far edge of the source at the near edge of the output.
    offset = (tx + min(0.0, scale_x) * width, ty + min(0.0, scale_y) * height)
    return _Aligned(transpose, scale_x < 0, scale_y < 0, (abs(scale_x), abs(scale_y)), offset)


def _window(aligned: _Aligned, size: Size) -> tuple[int, int, int, int] | None:
    """Find the window (x, y, width, height) of the turned source that fills the output; None when it cuts pixels."""
    edges = [-offset / scale for offset, scale in zip(aligned.offset, aligned.scale, strict=True)]
    edges += [side / scale for side, scale in zip(size, aligned.scale, strict=True)]
    if any(abs(edge - round(edge)) > WHOLE for edge in edges):
        return None
    x, y, width, height = (round(edge) for edge in edges)
    return x, y, width, height


def _turn(array: np.ndarray, aligned: _Aligned) -> np.ndarray:
    """Apply one of the eight mirrors and quarter turns; the picture itself when it is the first of them."""
    turned: np.ndarray = array
    flips = (aligned.flip_x, aligned.flip_y)
    if aligned.transpose and sum(flips) == 1:  # in one pass
        turned = cv2.rotate(array, cv2.ROTATE_90_CLOCKWISE if aligned.flip_x else cv2.ROTATE_90_COUNTERCLOCKWISE)
    else:
        if aligned.transpose:
            turned = cv2.transpose(turned)
        if any(flips):
            turned = cv2.flip(turned, {(True, False): 1, (False, True): 0, (True, True): -1}[flips])
    return turned


def _cut(array: np.ndarray, window: tuple[int, int, int, int], sampling: _Sampling) -> np.ndarray:
    """Copy a window, which may reach beyond the picture."""
    x, y, width, height = window
    left, right = max(0, -x), max(0, x + width - array.shape[1])
    top, bottom = max(0, -y), max(0, y + height - array.shape[0])
    if left or right or top or bottom:
        array = cv2.copyMakeBorder(array, top, bottom, left, right, sampling.border, value=sampling.outside)
    return array[y + top : y + top + height, x + left : x + left + width]


def _resize(array: np.ndarray, size: Size, sampling: _Sampling) -> np.ndarray:
    """Resize: masks to the nearest pixel; pictures by area where they shrink and bilinearly where they grow."""
    resized: np.ndarray = np.ascontiguousarray(array)
    height, width = array.shape[:2]
    smaller = (min(width, size[0]), min(height, size[1]))
    if smaller != (width, height) and not sampling.nearest:
        resized = cv2.resize(resized, smaller, interpolation=cv2.INTER_AREA)
    if resized.shape[1::-1] != size:
        # The plain INTER_NEAREST reads the top left of each output pixel, not its centre.
        kind = cv2.INTER_NEAREST_EXACT if sampling.nearest else cv2.INTER_LINEAR
        resized = cv2.resize(resized, size, interpolation=kind)
    return resized


def _warp(array: np.ndarray, matrix: np.ndarray, size: Size, sampling: _Sampling) -> np.ndarray:
    """Interpolate once, by whatever the matrix says."""
    if not sampling.nearest:
        array, matrix = _shrunk_first(array, matrix)
    side = max(*array.shape[:2], *size)
    if side > MAX_WARPED_SIDE:
        raise EdgekitError(
            f"a side of {side} pixels is too long to be warped; the limit is {MAX_WARPED_SIDE}",
            "put crop or resize first; they, flips, quarter turns and whole-pixel moves have no such limit",
        )
    to_centres, from_centres = np.eye(3), np.eye(3)
    to_centres[:2, 2], from_centres[:2, 2] = -0.5, 0.5
    matrix = to_centres @ matrix @ from_centres
    flags = cv2.INTER_NEAREST if sampling.nearest else cv2.INTER_LINEAR
    warp, rows = (cv2.warpPerspective, matrix) if matrix[2, :2].any() else (cv2.warpAffine, matrix[:2])
    warped: np.ndarray = warp(array, rows, size, flags=flags, borderMode=sampling.border, borderValue=sampling.outside)
    return warped


def _shrunk_first(array: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average a picture that the matrix would shrink to half or less everywhere, and correct the matrix for it."""
    height, width = array.shape[:2]
    factor = math.floor(1 / max(_stretch(matrix, width, height), 1e-9) + WHOLE)
    if factor < 2:
        return array, matrix
    small = (max(1, width // factor), max(1, height // factor))
    shrunk = cv2.resize(array, small, interpolation=cv2.INTER_AREA).reshape(small[1], small[0], -1)
    return shrunk, matrix @ np.diag([width / small[0], height / small[1], 1.0])


def _stretch(matrix: np.ndarray, width: int, height: int) -> float:
    """Find the largest magnification of the matrix at the corners and the centre of the source."""
    places = np.array([(0, 0), (width, 0), (0, height), (width, height), (width / 2, height / 2)], np.float64)
    depths = places @ matrix[2, :2] + 1.0
    if depths.min() <= 0:
        return math.inf
    moved = move_points(places, matrix)
    jacobians = (matrix[None, :2, :2] - moved[:, :, None] * matrix[2, :2]) / depths[:, None, None]
    return float(np.linalg.norm(jacobians, ord=2, axis=(1, 2)).max())
