"""Mended labels: what is slightly wrong is put right or set aside, and each time a note says so; nothing is raised.

How strict to be is the caller's: the notes are there to be counted, by kind.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgekit.data import outline
from edgekit.lazy import np
from edgekit.words import counted

if TYPE_CHECKING:
    from numpy import ndarray

    from edgekit.data.sample import Object

# What can be wrong: in the numbers of an object, in a picture's labels, in a file; `lost` is what a layout cannot hold.
KINDS = (
    "clipped", "reversed", "outside", "empty", "number", "class", "duplicate", "outline", "keypoints",
    "line", "size", "turned", "labels", "picture", "file", "frame", "lost",
)  # fmt: skip
ROUNDING = 0.01  # pixels outside the picture that come of rounded numbers, and are not worth a note


@dataclass(frozen=True)
class Mended:
    """One thing that was wrong: the picture's key (or the label file's name), its kind, and what, in a short phrase.

    kind: one of KINDS. dropped: an object, label or picture was set aside, not mended. count: how often.
    """

    key: str
    kind: str
    what: str
    dropped: bool = False
    count: int = 1

    def __str__(self) -> str:
        return f"{self.key}: {self.what}"


class Notes:
    """The notes on one picture or file, in the order in which they are made."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.rows: list[Mended] = []

    def add(self, kind: str, what: str, *, dropped: bool = False, count: int = 1) -> None:
        """Take one more."""
        self.rows.append(Mended(self.key, kind, what, dropped, count))


def clean(objects: Iterable[Object], size: tuple[int, int], classes: int, notes: Notes) -> tuple[Object, ...]:
    """Mend the objects of a picture of `size` (width, height); those that cannot be are left out.

    Reversed corners are swapped, boxes and outlines clipped to the picture (but for corners of turned boxes), points
    outside it unlabelled; a box without area is taken from its outline. classes: their number, 0 when it is not known.
    """
    kept: list[Object] = []
    seen: set[tuple[object, ...]] = set()
    for one in objects:
        mended = _mend(one, size, classes, notes)
        if mended is None:
            continue
        identity = _identity(mended)
        if identity in seen:
            notes.add("duplicate", "an object is there twice", dropped=True)
            continue
        seen.add(identity)
        kept.append(mended)
    return tuple(kept)


def _identity(one: Object) -> tuple[object, ...]:
    points = one.keypoints.tobytes() if one.keypoints is not None else b""
    region = one.region.tobytes() if one.region is not None else b""
    return one.number, one.crowd, one.box.tobytes(), tuple(part.tobytes() for part in one.polygons), points, region


def _mend(one: Object, size: tuple[int, int], classes: int, notes: Notes) -> Object | None:
    if one.number < 0 or (classes and one.number >= classes):
        notes.add("class", f"class {one.number}, but there are {classes}", dropped=True)
        return None
    polygons, region = _outline(one, size, notes)
    box = _box(one, polygons, region, size, notes)
    if box is None:
        return None
    extra = one.extra
    if "parts" in extra:
        extra = {**extra, "parts": clean(extra["parts"], size, 0, notes)}
    oriented = one.oriented and [len(part) for part in polygons] == [4]
    points = _keypoints(one, size, notes)
    return replace(one, box=box, polygons=polygons, region=region, keypoints=points, oriented=oriented, extra=extra)


def _outline(one: Object, size: tuple[int, int], notes: Notes) -> tuple[tuple[ndarray, ...], ndarray | None]:
    polygons: list[ndarray] = []
    for part in one.polygons:
        finite = part[np.isfinite(part).all(axis=1)]
        if len(finite) < len(part):
            what = counted(len(part) - len(finite), "point", "of an outline", "of an outline") + " without numbers"
            notes.add("outline", what, dropped=True)
        whole = _clipped(finite, size, one.oriented) if len(finite) >= 3 else ()
        if not whole:
            notes.add("outline", "a part of an outline without area in the picture", dropped=True)
        polygons += whole
    region = one.region
    if region is not None and (region.shape != size[::-1] or not region.any()):
        notes.add("outline", "an outline in run lengths that is empty or of another size", dropped=True)
        region = None
    return tuple(polygons), region


def _clipped(polygon: ndarray, size: tuple[int, int], oriented: bool) -> tuple[ndarray, ...]:
    """Cut a polygon at the frame; a turned box keeps its four corners, wherever they are, when some of it is inside."""
    inside = outline.clip(polygon, size) if abs(outline.signed_area(polygon)) > outline.SLIVER else ()
    return (polygon,) if oriented and inside else inside


def _box(
    one: Object, polygons: tuple[ndarray, ...], region: ndarray | None, size: tuple[int, int], notes: Notes
) -> ndarray | None:
    x0, y0, x1, y1 = one.box.tolist()
    finite = bool(np.isfinite(one.box).all())
    if not finite or x0 == x1 or y0 == y1:
        bounds = outline.bounds(polygons, region)
        if bounds is None:
            kind, what = ("empty", "a box without area") if finite else ("number", "a box of what is not a number")
            notes.add(kind, what, dropped=True)
            return None
        notes.add("empty" if finite else "number", "a box taken from its outline")
        x0, y0, x1, y1 = bounds.tolist()
    if x0 > x1 or y0 > y1:
        notes.add("reversed", "corners of a box swapped")
        x0, x1, y0, y1 = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
    whole = np.array([x0, y0, x1, y1], np.float64)
    inside = np.clip(whole, 0.0, np.array([*size, *size], np.float64))
    if inside[0] >= inside[2] or inside[1] >= inside[3]:
        notes.add("outside", "a box outside the picture", dropped=True)
        return None
    beyond = float(np.abs(whole - inside).max())
    if beyond > ROUNDING and not one.oriented:  # the corners of turned boxes may lie outside
        notes.add("clipped", f"a box reaches {beyond:.4g} pixels outside the picture: clipped")
    return inside


def _keypoints(one: Object, size: tuple[int, int], notes: Notes) -> ndarray | None:
    if one.keypoints is None:
        return None
    points = np.array(one.keypoints, np.float64)
    seen = np.nan_to_num(points[:, 2]) > 0
    finite = np.isfinite(points).all(axis=1)
    reach = np.abs(points[:, :2] - np.clip(points[:, :2], 0.0, np.array(size, np.float64))).max(axis=1)
    away = seen & ~(finite & (reach <= 1.0))
    if away.any():
        count = int(away.sum())
        notes.add("keypoints", f"{counted(count, 'point')} outside the picture: not labelled", count=count)
    points[~seen | away] = 0.0
    points[:, :2] = np.clip(points[:, :2], 0.0, np.array(size, np.float64))
    points[:, 2] = np.clip(np.rint(points[:, 2]), 0, 2)
    return points
