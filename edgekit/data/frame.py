"""Frames: from the picture as its file stores it, or as its labels state it, to the upright one (EXIF applied)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgekit.lazy import cv2, np

if TYPE_CHECKING:
    from numpy import ndarray

    from edgekit.data.headers import Header
    from edgekit.data.mend import Notes
    from edgekit.data.sample import Object

    Size = tuple[int, int]

FRAMES = ("auto", "upright", "raw")


def upright_size(header: Header) -> Size:
    """Give width and height in pixels as they are once orientation is applied."""
    return (header.height, header.width) if header.orientation >= 5 else (header.width, header.height)


def is_raw(stated: Size, header: Header, frame: str) -> bool:
    """Tell whether labels are on the picture as it is stored, by a tool that does not know orientation.

    frame: `raw` and `upright` decide; `auto` goes by the size that the labels state, (0, 0) when they state none.
    """
    if frame != "auto":
        return frame == "raw"
    return stated not in (upright_size(header), (0, 0)) and stated == (header.width, header.height)


def place(objects: Sequence[Object], stated: Size, header: Header, frame: str, notes: Notes) -> Sequence[Object]:
    """Bring objects from the frame of `stated` pixels into the upright picture: scaled, then turned."""
    if is_raw(stated, header, frame):
        here = (header.width, header.height)
        scaled = _scaled(objects, stated, here, notes)
        if header.orientation == 1:
            return scaled
        if objects:
            notes.add("turned", f"labelled on the picture as stored: turned by its orientation {header.orientation}")
        return [turned(one, here, header.orientation) for one in scaled]
    return _scaled(objects, stated, upright_size(header), notes)


def _scaled(objects: Sequence[Object], stated: Size, size: Size, notes: Notes) -> Sequence[Object]:
    if stated in (size, (0, 0)):
        return objects
    notes.add("size", f"labelled at {stated[0]}x{stated[1]}, the picture is {size[0]}x{size[1]}: labels scaled")
    factors = np.array([size[0] / stated[0], size[1] / stated[1]])
    return [_moved(one, lambda points: points * factors, lambda region: _resized(region, size)) for one in objects]


def turned(one: Object, size: Size, orientation: int) -> Object:
    """Turn an object from the picture as stored, of `size` (width, height), to the upright one."""
    return _moved(
        one,
        lambda points: turned_points(points, size, orientation),
        lambda region: turned_pixels(region, orientation),
    )


def turned_points(points: ndarray, size: Size, orientation: int) -> ndarray:
    """Turn Nx2 points from the picture as stored, of `size` (width, height), to the upright one (EXIF 2.3, tag 274)."""
    x, y = points[:, 0], points[:, 1]
    across = size[0] - x if orientation in (2, 3, 7, 8) else x
    down = size[1] - y if orientation in (3, 4, 6, 7) else y
    first, second = (down, across) if orientation >= 5 else (across, down)
    return np.stack([first, second], axis=1)


def turned_pixels(array: ndarray, orientation: int) -> ndarray:
    """Turn an HxW array as `turned_points` does points."""
    array = array[:, ::-1] if orientation in (2, 3, 7, 8) else array
    array = array[::-1] if orientation in (3, 4, 6, 7) else array
    return np.ascontiguousarray(array.T if orientation >= 5 else array)


def _resized(region: ndarray, size: Size) -> ndarray:
    resized: ndarray = cv2.resize(region.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT) > 0
    return resized


def _moved(one: Object, points: Callable[[ndarray], ndarray], pixels: Callable[[ndarray], ndarray]) -> Object:
    corners = points(one.box.reshape(2, 2))
    keypoints = one.keypoints
    if keypoints is not None:
        moved = np.concatenate([points(keypoints[:, :2]), keypoints[:, 2:]], axis=1)
        keypoints = np.where(keypoints[:, 2:] > 0, moved, 0.0)
    extra = one.extra
    if "parts" in extra:
        extra = {**extra, "parts": tuple(_moved(part, points, pixels) for part in extra["parts"])}
    return replace(
        one,
        box=np.concatenate([corners.min(axis=0), corners.max(axis=0)]),
        polygons=tuple(points(part) for part in one.polygons),
        region=None if one.region is None else pixels(one.region),
        keypoints=keypoints,
        extra=extra,
    )
