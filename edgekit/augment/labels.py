"""What becomes of labels when pixels move or are covered; `warp.py` says where things go, `mix.py` what covers them.

- Polygons, keypoints and oriented boxes go where the map takes their points; regions to the nearest pixel.
- Boxes go with mirrors, quarter turns, scaling and shifts exactly. After any other map they are the hull of the
  polygons, else of the region, else of the box's inscribed ellipse or of its corners (`Rules.box_method`).
- Everything is cut at the frame. What a border shows of a picture again (reflect, wrap) is no object.
- An object of which less than `Rules.min_visibility` is left is dropped; a crowd only when nothing of it is left,
  because the rest of a crowd is not background.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgekit.data import outline
from edgekit.errors import EdgekitError
from edgekit.lazy import np

if TYPE_CHECKING:
    from edgekit.data.sample import Object, Sample

    Size = tuple[int, int]

BOX_METHODS = ("ellipse", "corners")

# A loss of less than this share of an object's area is not worth a line in the manifest.
NOTICED = 0.005

# A region in a window of more pixels is thinned out to find its share inside.
FOLLOWED = 128**2


@dataclass(frozen=True)
class Rules:
    """How labels follow; one for a whole run, part of its recipe.

    min_visibility: the least share (0..1) of the source object's area that has to be left. box_method: how a box alone
    follows a turn: `ellipse` or `corners`. flip_index: for each keypoint the one that takes its place in a mirrored
    picture, as the data set says; empty when its keypoints have no sides. outside: the value of masks beyond the
    picture: the data set's ignore value, or its background. None lets the mask show what the picture shows there (the
    same reflection; 0 for a constant border), so that it is true pixel by pixel and no label is new.
    """

    min_visibility: float = 0.1
    box_method: str = "ellipse"
    flip_index: tuple[int, ...] = ()
    outside: int | None = None

    def __post_init__(self) -> None:
        if self.box_method not in BOX_METHODS:
            raise EdgekitError(f"box-method={self.box_method} is not one of {', '.join(BOX_METHODS)}", "use ellipse")
        if not 0 <= self.min_visibility <= 1:
            raise EdgekitError(f"min-visibility={self.min_visibility:g} is not a share", "use a number from 0 to 1")
        index = self.flip_index
        if sorted(index) != list(range(len(index))) or any(index[there] != here for here, there in enumerate(index)):
            raise EdgekitError(
                f"the flip index does not swap keypoints in pairs: {list(index)}",
                "give for each keypoint the one that takes its place, such as [1, 0, 2]",
            )

    def to_dict(self) -> dict[str, Any]:
        """Give the plain values, for the stamp of a run."""
        return {
            "min_visibility": self.min_visibility,
            "box_method": self.box_method,
            "flip_index": list(self.flip_index),
            "outside": self.outside,
        }


USUAL = Rules()


@dataclass(frozen=True)
class Change:
    """What became of one object: its position among the input's objects, and in words ("clipped 0.31").

    The figure is the share of the source object's area that is visible.
    """

    index: int
    what: str


@dataclass(frozen=True)
class Outcome:
    """Objects after a move or a cover. `kept`: the position that each of them has among the input's objects."""

    objects: tuple[Object, ...]
    kept: tuple[int, ...]
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True)
class Applied:
    """A sample after an op. Positions count through the objects of its input, then of its partners in order."""

    sample: Sample
    kept: tuple[int, ...]
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True)
class Move:
    """A move as labels see it.

    size: of the output, (width, height). source: of the input. outline: maps a polygon to its visible parts, not
    clipped. points: maps Nx2. region: moves an HxW bool to the nearest pixel, False outside. matrix: when one 3x3 says
    it all. aligned: axes stay axes. rigid: right angles stay right angles. mirrored: left and right are swapped.
    """

    size: Size
    source: Size
    outline: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    points: Callable[[np.ndarray], np.ndarray]
    region: Callable[[np.ndarray], np.ndarray]
    matrix: np.ndarray | None = None
    aligned: bool = False
    rigid: bool = False
    mirrored: bool = False


def move(objects: Sequence[Object], step: Move, rules: Rules) -> Outcome:
    """Move objects, cut them at the frame, and drop those of which too little is left.

    Raises EdgekitError when the flip index does not fit the keypoints.
    """
    results = []
    for one in objects:
        moved, share, remark = _move(one, step, rules)
        results.append((moved and _with_parts(moved, lambda parts: move(parts, step, rules).objects), share, remark))
    return _sift(results, rules, "clipped")


def _with_parts(one: Object, change: Callable[[Sequence[Object]], tuple[Object, ...]]) -> Object:
    """Change the objects that layouts keep as parts of an object, too."""
    parts = one.extra.get("parts")
    return replace(one, extra={**one.extra, "parts": change(parts)}) if parts else one


def _sift(results: Sequence[tuple[Object | None, float, str]], rules: Rules, how: str) -> Outcome:
    """Keep or drop, by (object, share that this step left of it, remark); `how` names what took the rest."""
    objects, kept, changes = [], [], []
    for index, (one, share, remark) in enumerate(results):
        if one is None or (one.visible < rules.min_visibility and not one.crowd):
            changes.append(Change(index, f"dropped: {0.0 if one is None else one.visible:.2f} visible"))
            continue
        said = [f"{how} {one.visible:.2f}"] if share < 1 - NOTICED else []
        said += [remark] if remark else []
        changes += [Change(index, ", ".join(said))] if said else []
        objects.append(one)
        kept.append(index)
    return Outcome(tuple(objects), tuple(kept), tuple(changes))


def _move(one: Object, step: Move, rules: Rules) -> tuple[Object | None, float, str]:
    """Give the moved object (None when nothing is left), the share of it inside, and a remark."""
    parts = tuple(part for polygon in one.polygons for part in step.outline(polygon))
    region = None if one.region is None else step.region(one.region)
    box, span = _whole_box(one, parts, step, rules)
    share = _share_inside(one, _shown(one, parts, step), box, step)
    upright = one.oriented and share >= 1 and step.rigid  # its corners may lie outside, as they may in the source
    cut = parts if upright else tuple(piece for part in parts for piece in _inside(part, share >= 1, step.size))
    seen = None if region is None else outline.hull_of_pixels(region)
    if share <= 0 or (region is not None and seen is None) or (one.polygons and not cut):
        return None, 0.0, ""
    if not (share >= 1 and step.aligned):
        if cut:
            box = outline.hull(cut)
        elif seen is not None:
            box = seen
    if one.oriented and cut and not upright:
        cut = (_rectangle(one, cut, step),)
    keypoints, gone = _move_keypoints(one, step, rules)
    moved = replace(
        one,
        box=outline.clip_box(box, step.size),
        polygons=cut,
        region=region,
        keypoints=keypoints,
        span=span if share >= 1 else None,  # of a clipped box, the box says what is there
        visible=one.visible * share,
        extent=one.extent * share,
    )
    return moved, share, f"{gone} keypoint{'s' if gone > 1 else ''} outside" if gone else ""


def _shown(one: Object, parts: tuple[np.ndarray, ...], step: Move) -> tuple[np.ndarray, ...]:
    """Give what of the moved `parts` the source shows: a turned box may reach beyond it, and no move has cut that."""
    corners = np.concatenate(one.polygons) if one.oriented else np.zeros((0, 2))
    if ((corners >= -_EDGE) & (corners <= np.array(step.source, np.float64) + _EDGE)).all():
        return parts
    shown = [piece for polygon in one.polygons for piece in outline.clip(polygon, step.source)]
    return tuple(part for piece in shown for part in step.outline(piece))


def _inside(polygon: np.ndarray, whole: bool, size: Size) -> tuple[np.ndarray, ...]:
    # Rounding errors at the edge must not cut a corner off.
    return (np.clip(polygon, 0.0, np.array(size, np.float64)),) if whole else outline.clip(polygon, size)


def _whole_box(
    one: Object, parts: tuple[np.ndarray, ...], step: Move, rules: Rules
) -> tuple[np.ndarray, np.ndarray | None]:
    """Find the box before clipping, and what a box alone stands for (`Object.span`) after the move."""
    if step.aligned and step.matrix is not None:
        box = outline.hull([outline.move_points(outline.corners(one.box), step.matrix)])
        return box, None if one.span is None else step.matrix @ one.span
    if parts:
        return outline.hull(parts), None
    span = outline.span(one.box) if one.span is None else one.span
    ellipse = rules.box_method == "ellipse"
    if step.matrix is not None:
        moved = step.matrix @ span
        around = outline.hull_of_circle(moved) if ellipse else None
        if around is not None:
            return around, moved
        seen = outline.move_polygon(outline.disc() if ellipse else np.array(outline.SQUARE), moved)
    else:
        moved = None
        shape = outline.disc() if ellipse else np.array(outline.SQUARE)
        seen = step.outline(outline.move_points(shape, span))
    # Behind the horizon, and so outside the frame, when nothing is left.
    return outline.hull(seen) if seen else np.full(4, -1.0), moved


def _share_inside(one: Object, parts: tuple[np.ndarray, ...], box: np.ndarray, step: Move) -> float:
    """Give the share of the object's area that lies in the frame: of polygons, else of the region, else of the box."""
    limits = np.array(step.size, np.float64)
    if parts and (whole := outline.area(parts)) > outline.SLIVER:
        if all(((part >= -_EDGE) & (part <= limits + _EDGE)).all() for part in parts):
            return 1.0
        return min(1.0, outline.area([piece for part in parts for piece in outline.clip(part, step.size)]) / whole)
    if one.region is not None:
        return _share_of_pixels(one.region, step)
    if ((box[:2] >= -_EDGE) & (box[2:] <= limits + _EDGE)).all():
        return 1.0
    sides, left = box[2:] - box[:2], outline.clip_box(box, step.size)
    if sides.min() <= 0:  # no area to compare: it is there when its middle is
        middle = (box[:2] + box[2:]) / 2
        return float(((middle >= 0) & (middle <= limits)).all())
    return float(np.prod((left[2:] - left[:2]) / sides))


_EDGE = 1e-6  # pixels beyond the frame that are rounding errors


def _share_of_pixels(region: np.ndarray, step: Move) -> float:
    limits = np.array(step.size, np.float64)
    bounds = outline.hull_of_pixels(region)
    if bounds is None:
        return 0.0
    if step.matrix is not None:
        seen = step.outline(outline.corners(bounds))
        if seen and all(((part >= -_EDGE) & (part <= limits + _EDGE)).all() for part in seen):
            return 1.0
    left, top, right, bottom = bounds.astype(np.int64).tolist()
    every = max(1, math.isqrt((right - left) * (bottom - top) // FOLLOWED))
    rows, columns = np.nonzero(region[top:bottom:every, left:right:every])
    if not len(rows):  # too thin for the grid
        every, (rows, columns) = 1, np.nonzero(region[top:bottom, left:right])
    points = step.points(np.stack([left + every * columns, top + every * rows], axis=1) + 0.5)
    return float(((points >= 0) & (points <= limits)).all(axis=1).mean())


def _rectangle(one: Object, cut: tuple[np.ndarray, ...], step: Move) -> np.ndarray:
    """Make an oriented box a rectangle again, the smallest around what is left; its corners may lie outside."""
    whole = step.points(one.polygons[0])
    return outline.smallest_rectangle(np.concatenate(cut), whole)


def _move_keypoints(one: Object, step: Move, rules: Rules) -> tuple[np.ndarray | None, int]:
    """Move keypoints, zero those that are outside, swap sides in a mirror; count those that were lost."""
    if one.keypoints is None:
        return None, 0
    placed, limits = step.points(one.keypoints[:, :2]), np.array(step.size, np.float64)
    labelled = one.keypoints[:, 2] > 0
    inside = labelled & ((placed >= -_EDGE) & (placed <= limits + _EDGE)).all(axis=1)
    moved = np.zeros_like(one.keypoints, np.float64)
    moved[inside] = np.column_stack([np.clip(placed, 0.0, limits), one.keypoints[:, 2]])[inside]
    if step.mirrored and rules.flip_index:
        if len(rules.flip_index) != len(moved):
            raise EdgekitError(
                f"an object has {len(moved)} keypoints and the flip index {len(rules.flip_index)} entries",
                "give the flip index one entry for each keypoint",
            )
        moved = moved[list(rules.flip_index)]
    return moved, int(labelled.sum() - inside.sum())


def shift(objects: Sequence[Object], x: int, y: int, size: Size) -> tuple[Object, ...]:
    """Put the objects of a smaller picture into one of `size` (width, height) in which its corner lies at (x, y)."""
    there = np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])
    offset = np.array([x, y], np.float64)
    moved = []
    for one in objects:
        region, keypoints = None, None
        if one.region is not None:
            region = np.zeros(size[::-1], np.bool_)
            region[y : y + one.region.shape[0], x : x + one.region.shape[1]] = one.region
        if one.keypoints is not None:
            keypoints = one.keypoints + np.array([x, y, 0.0]) * (one.keypoints[:, 2:] > 0)
        placed = replace(
            one,
            box=one.box + np.tile(offset, 2),
            polygons=tuple(polygon + offset for polygon in one.polygons),
            region=region,
            keypoints=keypoints,
            span=None if one.span is None else there @ one.span,
        )
        moved.append(_with_parts(placed, lambda parts: shift(parts, x, y, size)))
    return tuple(moved)


def footprint(one: Object, size: Size) -> np.ndarray:
    """Give the pixels that an object takes, HxW bool: its region, else its polygons, else its box."""
    if one.region is not None:
        return one.region
    return outline.paint(one.polygons or (outline.corners(one.box),), size)


def cover(objects: Sequence[Object], covered: np.ndarray, rules: Rules, *, trim: bool) -> Outcome:
    """Hide what lies under `covered` (HxW bool): drop what is hardly visible any more; its keypoints become hidden (1).

    trim: labels shrink to what is still seen, as behind another object: outlines become regions, boxes their hull, but
    oriented boxes stay. Otherwise labels stay, as behind a square of noise.
    """
    results = []
    for one in objects:
        left, share, remark = _cover(one, covered, trim)
        results.append(
            (left and _with_parts(left, lambda parts: cover(parts, covered, rules, trim=trim).objects), share, remark)
        )
    return _sift(results, rules, "covered")


def _cover(one: Object, covered: np.ndarray, trim: bool) -> tuple[Object | None, float, str]:
    pixels = footprint(one, covered.shape[::-1])
    if not pixels.any():  # too small for any pixel's centre: the one that it lies in
        x, y = ((one.box[:2] + one.box[2:]) / 2).astype(np.int64)
        pixels = np.zeros_like(covered)
        pixels[min(y, len(pixels) - 1), min(x, pixels.shape[1] - 1)] = True
    left = pixels & ~covered
    share = float(np.count_nonzero(left)) / float(np.count_nonzero(pixels))
    keypoints, hidden = _hide_keypoints(one, covered)
    if share <= 0:
        return None, 0.0, ""
    one = replace(one, keypoints=keypoints, visible=one.visible * share)
    remark = f"{hidden} keypoint{'s' if hidden > 1 else ''} hidden" if hidden else ""
    if share == 1:
        return one, share, remark
    if not trim or one.oriented:
        return one, share, remark
    seen = outline.hull_of_pixels(left)
    outlined = bool(one.polygons) or one.region is not None
    # Pixels are coarser than the box, which says better where the object ends on the sides that are not covered.
    box = _tighter(one.box, outline.hull_of_pixels(pixels), seen)
    extent, region = one.extent * share, left if outlined else None
    return replace(one, box=box, polygons=(), region=region, span=None, extent=extent), share, remark


def _tighter(box: np.ndarray, before: np.ndarray | None, after: np.ndarray | None) -> np.ndarray:
    if before is None or after is None:
        return box
    return np.where(before == after, box, after)


def _hide_keypoints(one: Object, covered: np.ndarray) -> tuple[np.ndarray | None, int]:
    if one.keypoints is None:
        return None, 0
    height, width = covered.shape
    columns = np.clip(one.keypoints[:, 0].astype(np.int64), 0, width - 1)
    rows = np.clip(one.keypoints[:, 1].astype(np.int64), 0, height - 1)
    under = (one.keypoints[:, 2] == 2) & covered[rows, columns]
    keypoints = one.keypoints.astype(np.float64)
    keypoints[under, 2] = 1.0
    return keypoints, int(under.sum())
