"""Move an image and all of its labels by one 3x3 matrix, or by a field; the only module that knows coordinates.

The matrix maps source to output in the continuous convention of `sample.py`, where the centre of the first pixel is
(0.5, 0.5). OpenCV puts it at (0, 0); the half pixel is taken off and put back here and nowhere else.

Three ways, the cheapest that is right:
- whole-pixel moves (mirrors, quarter turns, crops, pads) copy pixels and never interpolate;
- pure scaling is a resize, averaged over the area when it shrinks, cut or padded where that is in whole pixels;
- anything else is one bilinear warp. A warp that shrinks to half or less averages first, or it would alias.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgekit.augment import labels
from edgekit.augment.field import Field
from edgekit.augment.labels import USUAL, Applied, Rules
from edgekit.data import outline
from edgekit.data.outline import move_points
from edgekit.errors import EdgekitError
from edgekit.lazy import cv2, np

if TYPE_CHECKING:
    from edgekit.augment.margin import Margin
    from edgekit.data.sample import Sample

    Size = tuple[int, int]
    Window = tuple[int, int, int, int]  # x, y, width, height
    Pixels = Callable[[np.ndarray, "_Sampling"], np.ndarray]

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
    margin: Margin | None = None


@dataclass(frozen=True)
class _Outside:
    """What is outside the picture, as OpenCV has it, and its grey, 0..1."""

    border: int
    fill: float
    margin: Margin | None = None


@dataclass(frozen=True)
class _Aligned:
    """A matrix that keeps axes axes: transpose, then flip, then scale, then put the corner at `offset`."""

    transpose: bool
    flip_x: bool
    flip_y: bool
    scale: tuple[float, float]
    offset: tuple[float, float]


@dataclass(frozen=True)
class Reach:
    """What a move does with pixels.

    aligned: axes stay axes. copied: whole pixels are copied, and nothing is interpolated. inside: it shows a window of
    whole pixels, none of them outside the picture. whole: that window is the picture.
    """

    aligned: bool
    copied: bool = False
    inside: bool = False
    whole: bool = False


def reach(matrix: np.ndarray, source: Size, size: Size) -> Reach:
    """Say what `move` does by `matrix` from a picture of size `source` to one of `size`, (width, height)."""
    return _read_reach((matrix / matrix[2, 2]).tobytes(), source, size)


@functools.lru_cache(maxsize=256)
def _read_reach(matrix: bytes, source: Size, size: Size) -> Reach:
    aligned, window, _ = _read_way(matrix, source, size)
    if aligned is None or window is None:
        return Reach(aligned is not None)
    x, y, width, height = window
    turned = source[::-1] if aligned.transpose else source
    inside = min(x, y) >= 0 and x + width <= turned[0] and y + height <= turned[1]
    return Reach(True, (width, height) == size, inside, window == (0, 0, *turned))


def move(
    sample: Sample,
    matrix: np.ndarray,
    size: tuple[int, int],
    *,
    border: str = "reflect",
    fill: float = 0.0,
    rules: Rules = USUAL,
    margin: Margin | None = None,
) -> Applied:
    """Move image, mask and objects; `matrix` maps source to output, `size` is (width, height).

    border: what is outside the picture: `reflect` (mirrored about the outermost pixels), `replicate`, `wrap` or
    `constant`: `fill` (0..1 of full scale), transparent where there is alpha. Objects follow `rules`, as `labels.py`
    says; what the border shows is no object, and `Rules.outside` in the mask. margin: of the picture, or of another.

    Raises EdgekitError when a side exceeds 32766 pixels and the move is neither whole-pixel nor pure scaling, and when
    the output has too many pixels.
    """
    if size[0] * size[1] > max(MAX_PIXELS, sample.size[0] * sample.size[1]):
        raise EdgekitError(
            f"a picture of {size[0]}x{size[1]} pixels is too large to be made; the limit is {MAX_PIXELS / 1e6:.0f} MP",
            "pad less, or crop or resize first",
        )
    matrix = np.asarray(matrix, np.float64) / matrix[2, 2]

    def pixels(array: np.ndarray, sampling: _Sampling) -> np.ndarray:
        return _move_pixels(array, matrix, size, sampling)

    outside = _Outside(_border_code(border), fill, margin)
    if not sample.objects and sample.mask is None:
        sampling = _sampling(sample.image, outside)
        return Applied(sample.with_image(pixels(sample.image, sampling)), ())

    # Of a perspective's two sides the one with the middle of the picture is in front.
    middle = np.array([sample.size[0] / 2, sample.size[1] / 2, 1.0])
    facing = matrix if matrix[2] @ middle > 0 else -matrix
    step = labels.Move(
        size=size,
        source=sample.size,
        outline=lambda polygon: outline.move_polygon(polygon, facing),
        points=lambda points: move_points(points, facing),
        region=lambda region: _move_window(region, facing, size),
        matrix=facing,
        aligned=_align(matrix.tobytes(), sample.size) is not None,
        rigid=_is_rigid(matrix),
        mirrored=bool(np.linalg.det(facing) < 0),
    )
    return _moved(sample, step, pixels, outside, rules)


def move_by_field(
    sample: Sample,
    map_x: np.ndarray,
    map_y: np.ndarray,
    *,
    border: str = "reflect",
    fill: float = 0.0,
    folds: bool = False,
    rules: Rules = USUAL,
) -> Applied:
    """Move image, mask and objects by a displacement field, as `move` does by a matrix.

    map_x, map_y: HxW float, as large as the output: the place in the source that the centre of each output pixel shows,
    in continuous coordinates (the identity is column + 0.5, row + 0.5). The field has to lie near the identity: its
    displacement changes by less than a pixel from one pixel to the next, so that it neither folds nor mirrors. Edges of
    polygons are divided before they are bent. folds: it may fold after all; labels then go to the nearest pixel.

    Raises EdgekitError when the field folds at a label, unless it may, and when a side exceeds 32766 pixels.
    """
    if map_x.shape != map_y.shape:
        raise EdgekitError(f"the maps of a field differ in size: {map_x.shape} and {map_y.shape}", "make them alike")
    field = Field(map_x, map_y, folds=folds)
    size = (int(map_x.shape[1]), int(map_x.shape[0]))
    _check_side(max(*sample.size, *size))
    to_x, to_y = (np.asarray(values - 0.5, np.float32) for values in (map_x, map_y))

    def pixels(array: np.ndarray, sampling: _Sampling) -> np.ndarray:
        kind = cv2.INTER_NEAREST if sampling.nearest else cv2.INTER_LINEAR
        out = cv2.remap(array, to_x, to_y, kind, borderMode=sampling.border, borderValue=sampling.outside)
        return out.reshape(size[1], size[0], array.shape[2])

    step = labels.Move(
        size=size,
        source=sample.size,
        outline=lambda polygon: (field.points(outline.divided(polygon)),),
        points=field.points,
        region=lambda region: _move_region(region, pixels),
    )
    return _moved(sample, step, pixels, _Outside(_border_code(border), fill), rules)


def _moved(sample: Sample, step: labels.Move, pixels: Pixels, outside: _Outside, rules: Rules) -> Applied:
    mask = sample.mask
    moved = labels.move(sample.objects, step, rules)
    made = replace(
        sample,
        image=pixels(sample.image, _sampling(sample.image, outside)),
        mask=None if mask is None else _move_mask(mask, pixels, outside.border, rules.outside),
        objects=moved.objects,
    )
    return Applied(made, moved.kept, moved.changes)


def _sampling(image: np.ndarray, outside: _Outside) -> _Sampling:
    full = ((1 << 8 * image.itemsize) - 1) * outside.fill
    colours = (full, full, full, 0.0) if image.shape[2] == 4 else (full,) * 4
    return _Sampling(False, outside.border, colours, outside.margin)


def _is_rigid(matrix: np.ndarray) -> bool:
    """Tell whether right angles stay: a similarity, mirrored or not."""
    if matrix[2, :2].any():
        return False
    (xx, xy), (_, yy) = (matrix[:2, :2].T @ matrix[:2, :2]).tolist()
    return max(abs(xy), abs(xx - yy)) <= WHOLE * xx


@functools.cache
def _border_code(border: str) -> int:
    codes = (cv2.BORDER_REFLECT_101, cv2.BORDER_REPLICATE, cv2.BORDER_WRAP, cv2.BORDER_CONSTANT)
    return int(codes[BORDERS.index(border)])


def _move_mask(mask: np.ndarray, pixels: Pixels, border: int, outside: int | None) -> np.ndarray:
    """Move a mask of any integer type: as bytes of a width that OpenCV knows, which copying does not mind.

    outside: the value of what lies outside the picture; None: what the border shows there.
    """
    kind = {1: np.uint8, 2: np.uint16, 4: np.int32, 8: np.int32}[mask.dtype.itemsize]
    words = [0.0]
    if outside is not None:
        border, words = cv2.BORDER_CONSTANT, mask_value(mask, outside).view(kind).tolist()
    height, width = mask.shape
    raw = np.ascontiguousarray(mask).view(kind).reshape(height, width, -1)
    moved = pixels(raw, _Sampling(nearest=True, border=border, outside=tuple((words * 4)[:4])))
    return moved.reshape(len(moved), -1).view(mask.dtype)


def mask_value(mask: np.ndarray, value: int) -> np.ndarray:
    """Give `value` as an array (1,) of the mask's type; raise EdgekitError when it does not fit."""
    limits = (0, 1) if mask.dtype == np.bool_ else (np.iinfo(mask.dtype).min, np.iinfo(mask.dtype).max)
    if not limits[0] <= value <= limits[1]:
        raise EdgekitError(
            f"{value}, the value of what is outside, does not fit a mask of {limits[0]}..{limits[1]}",
            "choose a value that the mask files can hold",
        )
    return np.array([value], mask.dtype)


def _move_region(region: np.ndarray, pixels: Pixels) -> np.ndarray:
    """Move an outline of bools; outside the picture there is nothing of an object, whatever the border shows."""
    raw = np.ascontiguousarray(region).view(np.uint8)[..., None]
    sampling = _Sampling(nearest=True, border=cv2.BORDER_CONSTANT, outside=(0.0,) * 4)
    moved: np.ndarray = pixels(raw, sampling)[..., 0] > 0
    return moved


def _move_window(region: np.ndarray, matrix: np.ndarray, size: Size) -> np.ndarray:
    """Move an outline of bools by a matrix, from the window that it takes to the one that it comes to."""
    moved = np.zeros(size[::-1], np.bool_)
    bounds = outline.hull_of_pixels(region)
    seen = () if bounds is None else outline.move_polygon(outline.corners(bounds), matrix)
    if bounds is None or not seen:
        return moved
    left, top, right, bottom = bounds.astype(np.int64).tolist()
    x, y, width, height = outline.window(outline.hull(seen), size, room=2)
    there, back = np.eye(3), np.eye(3)
    there[:2, 2], back[:2, 2] = (-x, -y), (left, top)
    whole = there @ matrix @ back
    whole = whole / (whole[2, 2] or 1.0)
    moved[y : y + height, x : x + width] = _move_region(
        region[top:bottom, left:right], lambda raw, sampling: _move_pixels(raw, whole, (width, height), sampling)
    )
    return moved


def _move_pixels(array: np.ndarray, matrix: np.ndarray, size: Size, sampling: _Sampling) -> np.ndarray:
    """Move HxWxC pixels the cheapest way that is right; the result is contiguous and keeps its three axes."""
    channels = array.shape[2]
    aligned, window, landing = _read_way(matrix.tobytes(), (array.shape[1], array.shape[0]), size)
    if aligned is not None and window is not None and (window[2], window[3]) == size:
        moved = _cut(_turn(array, aligned), window, sampling)
    elif aligned is not None and landing is not None and landing[2] * landing[3] <= size[0] * size[1]:
        scaled = _resize(_turn(array, aligned), landing[2:], sampling).reshape(landing[3], landing[2], channels)
        moved = _cut(scaled, (-landing[0], -landing[1], *size), sampling)
    elif aligned is None or window is None:
        moved = _warp(array, matrix, size, sampling)
    elif window[2] * window[3] <= 4 * array.shape[0] * array.shape[1]:
        moved = _resize(_cut(_turn(array, aligned), window, sampling), size, sampling)
    else:  # so much border that making it at full size would cost more memory than the picture is worth
        moved = _warp(array, matrix, size, sampling)
    return np.ascontiguousarray(moved).reshape(size[1], size[0], channels)


@functools.lru_cache(maxsize=256)  # every move asks several times, and mirrors and turns are but eight
def _align(matrix: bytes, size: Size) -> _Aligned | None:
    """Read a matrix as transpose, flip, scale and offset; None when it rotates, shears or has perspective."""
    a, b, tx, c, d, ty, gx, gy, _ = np.frombuffer(matrix).tolist()
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


@functools.lru_cache(maxsize=256)
def _read_way(matrix: bytes, source: Size, size: Size) -> tuple[_Aligned | None, Window | None, Window | None]:
    """Read a matrix as `_align` does, with its `_window` and its `_landing`."""
    aligned = _align(matrix, source)
    if aligned is None:
        return None, None, None
    return aligned, _window(aligned, size), _landing(aligned, source)


def _window(aligned: _Aligned, size: Size) -> Window | None:
    """Find the window (x, y, width, height) of the turned source that fills the output; None when it cuts pixels."""
    edges = [-offset / scale for offset, scale in zip(aligned.offset, aligned.scale, strict=True)]
    edges += [side / scale for side, scale in zip(size, aligned.scale, strict=True)]
    if any(abs(edge - round(edge)) > WHOLE for edge in edges):
        return None
    x, y, width, height = (round(edge) for edge in edges)
    return x, y, width, height


def _landing(aligned: _Aligned, source: Size) -> Window | None:
    """Find the window (x, y, width, height) of the output that the whole source fills; None when it cuts pixels."""
    turned = source[::-1] if aligned.transpose else source
    sides = [side * scale for side, scale in zip(turned, aligned.scale, strict=True)]
    if any(abs(place - round(place)) > WHOLE for place in (*aligned.offset, *sides)) or min(sides) < 1 - WHOLE:
        return None
    x, y, width, height = (round(place) for place in (*aligned.offset, *sides))
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


def _cut(array: np.ndarray, window: Window, sampling: _Sampling) -> np.ndarray:
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
    _check_side(max(*array.shape[:2], *size))
    to_centres, from_centres = _half_pixels()
    matrix = to_centres @ matrix @ from_centres
    flags = cv2.INTER_NEAREST if sampling.nearest else cv2.INTER_LINEAR
    warp, rows = (cv2.warpPerspective, matrix) if matrix[2, :2].any() else (cv2.warpAffine, matrix[:2])
    margin = None if rows is matrix else sampling.margin
    warped = margin.warp(rows, size, sampling.border) if margin is not None and margin.image is array else None
    if warped is None:
        warped = warp(array, rows, size, flags=flags, borderMode=sampling.border, borderValue=sampling.outside)
    return warped


@functools.cache
def _half_pixels() -> tuple[np.ndarray, np.ndarray]:
    """Give the moves to OpenCV's coordinates and back."""
    there, back = np.eye(3), np.eye(3)
    there[:2, 2], back[:2, 2] = -0.5, 0.5
    return there, back


def _check_side(side: int) -> None:
    if side > MAX_WARPED_SIDE:
        raise EdgekitError(
            f"a side of {side} pixels is too long to be warped; the limit is {MAX_WARPED_SIDE}",
            "put crop or resize first; they, flips, quarter turns and whole-pixel moves have no such limit",
        )


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
    if not matrix[2, :2].any():
        return _largest_stretch(*matrix[:2, :2].flat)
    places = np.array([(0, 0), (width, 0), (0, height), (width, height), (width / 2, height / 2)], np.float64)
    depths = places @ matrix[2, :2] + 1.0
    if depths.min() <= 0:
        return math.inf
    moved = move_points(places, matrix)
    jacobians = (matrix[None, :2, :2] - moved[:, :, None] * matrix[2, :2]) / depths[:, None, None]
    return max(_largest_stretch(*jacobian.flat) for jacobian in jacobians)


def _largest_stretch(a: float, b: float, c: float, d: float) -> float:
    """Give the larger singular value of [[a, b], [c, d]], without a solver."""
    square = a * a + b * b + c * c + d * d
    determinant = a * d - b * c
    return math.sqrt((square + math.sqrt(max(square * square - 4 * determinant * determinant, 0.0))) / 2)
