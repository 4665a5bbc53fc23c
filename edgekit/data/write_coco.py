"""COCO labels out: one JSON file a split (cocodataset.org/#format-data)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgekit.data import outline, rle, splits
from edgekit.data.coco import OWN, outline_digest
from edgekit.data.mend import Notes
from edgekit.data.writer import Files, Output, Rows, Schema, Written, finish, objects_in

if TYPE_CHECKING:
    from numpy import ndarray

    from edgekit.data.sample import Object

_PICTURES = ("images", "jpegimages", "imgs", "img", "image")
_DIGITS = 3  # decimals of a pixel


class Coco:
    """Everything that objects have; the rows are the images and annotations themselves, numbered at the end."""

    kind = "coco"

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._rows = Rows()

    def place(self, key: str, split: str | None = None, label: str | None = None) -> str:
        """Keep the key: the files say which picture is of which split."""
        return key

    def label(self, output: Output) -> Written:
        """Write the image and the annotations of one picture as a row."""
        notes = Notes(output.key)
        objects = objects_in(output, self.kind, notes)
        points = self._schema.keypoint_shape
        annotations = [_annotation(one, points is not None, notes) for one in objects]
        image = {"width": output.width, "height": output.height, **_plain(output.extra, notes)}
        return finish(output, self.place(output.key), (), notes, image=image, annotations=annotations)

    def take(self, row: Mapping[str, Any]) -> None:
        """Take in a row."""
        self._rows.take(row)

    def close(self) -> Files:
        """Write annotations/instances_SPLIT.json, pictures in the order of their paths."""
        rows = self._rows.ordered()
        most = max((one["number"] + 1 for row in rows for one in row["annotations"]), default=0)
        categories = self._categories(most)
        by_split: dict[str | None, list[Mapping[str, Any]]] = {}
        for row in rows:
            by_split.setdefault(row["split"], []).append(row)
        files = []
        for split in (*splits.ordered(by_split), *([None] if None in by_split else [])):
            name = f"instances_{split}" if split is not None else "instances"
            files.append((f"annotations/{name}.json", self._document(by_split[split], categories)))
        return tuple(files)

    def _document(self, rows: list[Mapping[str, Any]], categories: list[dict[str, Any]]) -> bytes:
        short = [_file_name(row["picture"], row["split"]) for row in rows]
        often = Counter(short)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, (row, name) in enumerate(zip(rows, short, strict=True), 1):
            file_name = name if often[name] == 1 else row["picture"]
            images.append({"id": number, "file_name": file_name, **row["image"]})
            for one in row["annotations"]:
                own = {key: part for key, part in one.items() if key != "number"}
                ids = {"id": len(annotations) + 1, "image_id": number, "category_id": categories[one["number"]]["id"]}
                annotations.append(ids | own)
        others = {key: part for key, part in self._schema.about.items() if key != "categories"}
        about = _plain(others, Notes(""))
        content = about | {"images": images, "annotations": annotations, "categories": categories}
        return _dumps(content).encode("ascii")

    def _categories(self, least: int) -> list[dict[str, Any]]:
        """Give the categories as they came, ids included; others are numbered on from 1."""
        names = self._schema.all_names(least)
        known = [_plain(one, Notes("")) for one in self._schema.about.get("categories", ())]
        fitting = [one.get("name") for one in known] == names[: len(known)]
        ids = [one.get("id") for one in known]
        if not fitting or len(set(ids)) < len(ids) or not all(isinstance(one, int) for one in ids):
            known = []
        first = max((one["id"] for one in known), default=0) + 1
        made = [{"id": first + place, "name": name} for place, name in enumerate(names[len(known) :])]
        if self._schema.keypoint_shape is not None and not any("keypoints" in one for one in known):
            count = self._schema.keypoint_shape[0]
            points = list(self._schema.keypoint_names) or [str(number) for number in range(count)]
            return [one | {"keypoints": points, "skeleton": []} for one in [*known, *made]]
        return [*known, *made]


def _file_name(picture: str, split: str | None) -> str:
    """Give the path below the folder of pictures: `images`, the split's own, or one in the other."""
    parts = picture.split("/")
    while len(parts) > 1:
        own = split is not None and splits.of_word(parts[0]) == split
        if not own and parts[0].lower() not in _PICTURES:
            break
        parts = parts[1:]
    return "/".join(parts)


def _annotation(one: Object, pose: bool, notes: Notes) -> dict[str, Any]:
    x0, y0, x1, y1 = one.box.tolist()
    own = one.extra.get(OWN, {})
    made: dict[str, Any] = {
        "number": one.number,
        "bbox": [_round(value) for value in (x0, y0, x1 - x0, y1 - y0)],
        "area": own["area"] if own.get("digest") == outline_digest(one) else _round(_area(one)),
        "iscrowd": int(one.crowd),
        "segmentation": [],  # no outline, as Roboflow and CVAT say it: many readers ask for the key
    }
    if one.region is not None:
        # COCO itself has the outlines of crowds as plain numbers.
        counts = rle.encode(one.region, plain=own.get("plain", one.crowd))
        made["segmentation"] = {"size": list(one.region.shape), "counts": counts}
    elif one.polygons:
        made["segmentation"] = [_flat(part) for part in one.polygons]
    if one.oriented:
        made["oriented"] = True
    if one.keypoints is not None and pose:
        made["keypoints"] = _flat(one.keypoints)
        made["num_keypoints"] = int((one.keypoints[:, 2] > 0).sum())
    elif one.keypoints is not None:
        notes.add("lost", "keypoints of no known shape", dropped=True)
    return made | _plain(one.extra, notes)


def _area(one: Object) -> float:
    if one.region is not None:
        return float(one.region.sum())
    if one.polygons:
        return outline.area(one.polygons)
    x0, y0, x1, y1 = one.box.tolist()
    return float((x1 - x0) * (y1 - y0))


def _plain(extra: Mapping[str, Any], notes: Notes) -> dict[str, Any]:
    """Give what survives JSON of an object's or a picture's extra; parts become names and boxes."""
    kept: dict[str, Any] = {}
    for key, value in extra.items():
        if key == OWN:
            continue
        if key == "parts":
            kept[key] = [{"name": part.extra.get("name", ""), "bbox": _flat(_corners(part))} for part in value]
            continue
        try:
            kept[key] = json.loads(_dumps(value))
        except (TypeError, ValueError):
            notes.add("lost", f"{key} cannot be written as JSON", dropped=True)
    return kept


def _corners(part: Object) -> ndarray:
    box = part.box.copy()
    box[2:] -= box[:2]
    return box


def _flat(values: ndarray) -> list[float]:
    return [_round(value) for value in values.reshape(-1).tolist()]


def _round(value: float) -> float:
    rounded = round(value, _DIGITS)
    return int(rounded) if rounded == int(rounded) else rounded


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, allow_nan=False, default=list, separators=(",", ":"))
