"""YOLO labels out: a text file a picture, and data.yaml (docs.ultralytics.com/datasets)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.data import outline, splits
from edgekit.data.mend import ROUNDING, Notes
from edgekit.data.writer import (
    Files,
    Output,
    Rows,
    Schema,
    Written,
    encoded,
    finish,
    note_objects,
    objects_in,
    said,
    split_folder,
    without,
)
from edgekit.data.yaml import quoted
from edgekit.lazy import cv2, np

if TYPE_CHECKING:
    from numpy import ndarray

    from edgekit.data.sample import Object

_PICTURES = "images"
_OTHERS = ("jpegimages", "imgs", "img", "image", "leftimg8bit")


class Yolo:
    """Boxes, outlines, turned boxes (a box beside either becomes its four corners), or boxes with keypoints.

    One form for the whole set: Ultralytics drops all outlines when some lines have none.
    """

    kind = "yolo"

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._rows = Rows()

    def place(self, key: str, split: str | None = None, label: str | None = None) -> str:
        """Keep a key that has a folder `images`, else put it below images/SPLIT."""
        if _PICTURES in key.split("/")[:-1]:
            return key
        return f"{_PICTURES}/{split_folder(without(key, _OTHERS), split)}"

    def label(self, output: Output) -> Written:
        """Write the label file of one picture."""
        notes = Notes(output.key)
        objects = objects_in(output, self.kind, notes)
        lines = _lines(output, objects, self._schema, notes)
        _note_losses(output, objects, self._schema, notes)
        picture = self.place(output.key, output.split, output.label)
        most = max((one.number + 1 for one in objects), default=0)
        files = ((_label_path(picture), "".join(f"{line}\n" for line in lines).encode("ascii")),)
        return finish(output, picture, files, notes, classes=most)

    def take(self, row: Mapping[str, Any]) -> None:
        """Take in a row."""
        self._rows.take(row)

    def close(self) -> Files:
        """Write data.yaml, and lists of pictures when folders do not tell the splits apart.

        Training needs both `train` and `val`: one that is missing is the other, or all there is.
        """
        rows = self._rows.ordered()
        homes: dict[str, dict[str, list[str]]] = {}
        for row in rows:
            homes.setdefault(row["split"] or "", {}).setdefault(_home(row["picture"]), []).append(row["picture"])
        claimed = [home for split in homes.values() for home in split]
        nested = any(one != other and f"{other}/".startswith(f"{one}/") for one in claimed for other in claimed)
        shared = len(homes) > 1 and (nested or len(set(claimed)) < len(claimed))
        files: list[tuple[str, bytes]] = []
        places: dict[str, list[str]] = {}
        for split in (*splits.ordered(split or None for split in homes), *([""] if "" in homes else [])):
            name = split or "train"
            if shared:
                pictures = sorted(picture for home in homes[split].values() for picture in home)
                path = f"{name}.txt" if name not in places else "rest.txt"
                files.append((path, encoded("".join(f"./{picture}\n" for picture in pictures))))
                places.setdefault(name, []).append(path)
            else:
                places.setdefault(name, []).extend(sorted(homes[split]))
        most = max((row["classes"] for row in rows), default=0)
        text = _yaml(self._schema, self._schema.all_names(most), places)
        return (*files, ("data.yaml", encoded(text)))


def _yaml(schema: Schema, names: Sequence[str], places: dict[str, list[str]]) -> str:
    every = [place for found in places.values() for place in found]
    for needed, other in (("train", "val"), ("val", "train")):
        places.setdefault(needed, places.get(other) or every)
    lines = []
    for split in splits.ordered(places):
        found = [quoted(place) for place in places[split]]
        lines.append(f"{split}: {found[0] if len(found) == 1 else '[' + ', '.join(found) + ']'}")
    if schema.keypoint_shape is None and schema.form == "oriented":
        lines.append("task: obb")  # not Ultralytics', which is told; nothing else tells turned boxes from outlines
    if schema.keypoint_shape is not None:
        lines.append(f"kpt_shape: [{schema.keypoint_shape[0]}, 3]")
        if schema.flip_index:
            lines.append(f"flip_idx: [{', '.join(map(str, schema.flip_index))}]")
        if schema.keypoint_names:
            points = ", ".join(quoted(name) for name in schema.keypoint_names)
            lines += ["kpt_names:", *(f"  {number}: [{points}]" for number in range(max(1, len(names))))]
    lines += [f"nc: {len(names)}", "names:" if names else "names: []"]
    lines += [f"  {number}: {quoted(name)}" for number, name in enumerate(names)]
    return "\n".join(lines) + "\n"


def _home(picture: str) -> str:
    """Give the folder that a picture's split is told by: `images`, or what is below it and called like a split."""
    parts = picture.split("/")[:-1]
    last = len(parts) - 1 - parts[::-1].index(_PICTURES)
    below = parts[last + 1 : last + 2]
    return "/".join(parts[: last + 1] + [part for part in below if splits.of_word(part) is not None])


def _label_path(picture: str) -> str:
    """Put `labels` in the place of the last `images`."""
    *folders, name = picture.split("/")
    last = len(folders) - 1 - folders[::-1].index(_PICTURES)
    stem = name.rpartition(".")[0] or name
    return "/".join([*folders[:last], "labels", *folders[last + 1 :], f"{stem}.txt"])


# ---- lines


def _lines(output: Output, objects: Sequence[Object], schema: Schema, notes: Notes) -> list[str]:
    shape = schema.keypoint_shape
    # A reader takes all lines of a file for outlines as soon as one of them is.
    outlined = shape is None and (schema.form != "box" or any(_has_outline(one) for one in objects))
    scale = np.array([output.width, output.height], np.float64)
    lines, moved = [], 0
    for one in objects:
        box = one.box.reshape(2, 2) / scale
        if outlined:
            polygon = _rectangle(one) if schema.form == "oriented" else _one_polygon(one)
            inside = np.clip(polygon, 0.0, scale)  # Ultralytics refuses shares beyond 0..1
            moved += bool(np.abs(polygon - inside).max() > ROUNDING)
            numbers = (inside / scale).reshape(-1)
        else:
            numbers = np.concatenate([box.mean(axis=0), box[1] - box[0]])
        words = [_number(value) for value in numbers.tolist()]
        if shape is not None:
            words += _points(one, scale, shape[0])
        lines.append(" ".join([str(one.number), *words]))
    note_objects(output, "yolo", "corners outside the picture (moved to its edge)", moved, notes)
    return lines


def _has_outline(one: Object) -> bool:
    return bool(one.polygons) or one.region is not None


def _one_polygon(one: Object) -> ndarray:
    """Give the outline as one polygon: parts are joined by bridges, a box is its corners."""
    if one.polygons:
        return outline.join(one.polygons)
    if one.region is not None and one.region.any():
        return outline.join(outline.trace(one.region))
    return outline.corners(one.box)


def _rectangle(one: Object) -> ndarray:
    """Give the four corners of a turned box; of an outline, those of the smallest rectangle around it."""
    polygon = _one_polygon(one)
    if len(polygon) == 4:
        return polygon
    around = cv2.convexHull(polygon.astype(np.float32)).reshape(-1, 2).astype(np.float64)
    return outline.smallest_rectangle(around, outline.corners(one.box))


def _points(one: Object, scale: ndarray, count: int) -> list[str]:
    """Give three numbers a point, always: of two numbers, Ultralytics takes a point that is lost (0 0) for visible."""
    points = np.zeros((count, 3)) if one.keypoints is None else np.array(one.keypoints, np.float64)
    points[:, :2] /= scale
    words: list[str] = []
    for x, y, seen in points.tolist():
        words += [_number(x), _number(y), str(int(seen))]
    return words


def _number(value: float) -> str:
    """Write a share so that a side of a million pixels comes back within a hundredth."""
    text = f"{value:.9f}".rstrip("0").rstrip(".")
    return "0" if text in ("", "-0") else text


def _note_losses(output: Output, objects: Sequence[Object], schema: Schema, notes: Notes) -> None:
    def note(what: str, count: int) -> None:
        note_objects(output, "yolo", what, count, notes)

    note("crowds (kept as one object)", sum(one.crowd for one in objects))
    note("fields beyond its label", sum(bool(said(one)) for one in objects))
    if schema.keypoint_shape is not None:
        note("outlines in a pose set", sum(_has_outline(one) for one in objects))
        return
    note("keypoints in this set", sum(one.keypoints is not None for one in objects))
    outlined = [one for one in objects if _has_outline(one)]
    if schema.form == "oriented":
        note("outlines among turned boxes (their smallest rectangle)", sum(not _has_corners(one) for one in outlined))
        return
    if schema.form == "outline" or outlined:
        note("boxes among outlines (written as their four corners)", len(objects) - len(outlined))
    several = sum(len(one.polygons) > 1 or one.region is not None for one in outlined)
    note("outlines in parts or run lengths (joined to one polygon)", several)
    apart = 0
    for one in outlined:
        bounds = outline.bounds(one.polygons, one.region)
        apart += bounds is not None and bool(np.abs(bounds - one.box).max() > 0.01)
    note("boxes beside outlines (taken from the outline)", apart)


def _has_corners(one: Object) -> bool:
    return len(one.polygons) == 1 and len(one.polygons[0]) == 4
