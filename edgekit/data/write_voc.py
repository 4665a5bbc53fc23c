"""Pascal VOC labels out: an XML file a picture, and ImageSets (VOC2012 development kit).

Boxes are in whole pixels, counted from 1, both ends included, as VOC has them, and so kept to half a pixel.
Turned boxes and outlines stand beside them in a `robndbox` or `polygon`, as `voc.py` reads them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from edgekit.data import masks, splits
from edgekit.data.coco import OWN
from edgekit.data.mend import Notes
from edgekit.data.voc import FLAGS, MASKS, OF_OBJECT, SETS, TURNED
from edgekit.data.writer import (
    Files,
    Output,
    Rows,
    Schema,
    Written,
    encoded,
    finish,
    note_lost,
    note_objects,
    without,
)
from edgekit.lazy import np

if TYPE_CHECKING:
    from edgekit.data.sample import Object

_PICTURES = "JPEGImages"
_OTHERS = ("images", "imgs", "img", "image", "leftimg8bit")
_TAG = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_OF_PICTURE = ("filename", "path", "size", "object")
# An object of which its label spans less is truncated: "more than 15-20% outside the box" (VOC2011 annotation
# guidelines). What noise covers is inside of it.
WHOLE = 0.85
_DEFAULTS = {"pose": "Unspecified", "truncated": "0", "difficult": "0"}


class Voc:
    """Boxes of named objects, their outlines, and masks in SegmentationClass."""

    kind = "voc"

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._rows = Rows()

    def place(self, key: str, split: str | None = None, label: str | None = None) -> str:
        """Keep a key that has a folder JPEGImages, else put it below one."""
        return key if _PICTURES in key.split("/")[:-1] else f"{_PICTURES}/{without(key, _OTHERS)}"

    def label(self, output: Output) -> Written:
        """Write the XML file of one picture, and its mask."""
        notes = Notes(output.key)
        note_lost(output, self.kind, notes, mask=False)
        picture = self.place(output.key, output.split, output.label)
        base, inner = _parted(picture)
        files = [(f"{base}Annotations/{inner}.xml", self._document(output, picture, notes).encode("utf-8"))]
        if output.mask is not None:
            files.append((f"{base}{MASKS}/{inner}.png", masks.encode(output.mask)))
        _note_losses(output, notes)
        return finish(output, picture, tuple(files), notes)

    def take(self, row: Mapping[str, Any]) -> None:
        """Take in a row."""
        self._rows.take(row)

    def close(self) -> Files:
        """Write ImageSets/Main/SPLIT.txt: names without suffix, in order; and the names of the classes."""
        lists: dict[tuple[str, str], list[str]] = {}
        for row in self._rows.ordered():
            base, inner = _parted(row["picture"])
            if row["split"] is not None:
                lists.setdefault((base, row["split"]), []).append(inner)
        order = {split: place for place, split in enumerate(splits.ordered(split for _, split in lists))}
        files = [
            (f"{base}{SETS}/Main/{split}.txt", _text(stems))
            for (base, split), stems in sorted(lists.items(), key=lambda one: (one[0][0], order[one[0][1]]))
        ]
        if self._schema.names:
            # Not VOC's, but nothing else keeps the order of the classes, and those without objects.
            files.append(("classes.txt", _text(" ".join(name.splitlines()) for name in self._schema.names)))
        return tuple(files)

    def _document(self, output: Output, picture: str, notes: Notes) -> str:
        texts = _texts(output.extra, "its picture", notes, without=_OF_PICTURE)
        depth = 1 if texts.get("depth") == "1" else 3
        lines = ["<annotation>", *(_element(1, tag, text) for tag, text in texts.items())]
        lines.append(_element(1, "filename", picture.rpartition("/")[2]))
        lines += ["\t<size>", _element(2, "width", output.width), _element(2, "height", output.height)]
        lines += [_element(2, "depth", depth), "\t</size>"]
        for one in output.objects:
            lines += self._object(one, (output.width, output.height), notes)
        return "\n".join([*lines, "</annotation>", ""])

    def _object(self, one: Object, size: tuple[int, int], notes: Notes) -> list[str]:
        extra = {key: value for key, value in one.extra.items() if key not in ("parts", OWN)}
        texts = _DEFAULTS | _texts(extra, "an object", notes, without=OF_OBJECT)
        if one.extent < WHOLE:
            texts["truncated"] = "1"
        ordered = {tag: texts[tag] for tag in (*FLAGS, *texts) if tag in texts}
        lines = ["\t<object>", _element(2, "name", self._schema.name(one.number))]
        lines += [_element(2, tag, text) for tag, text in ordered.items()]
        lines += _box(2, one, size, notes)
        lines += _turned(one.polygons[0]) if one.oriented else [row for part in one.polygons for row in _polygon(part)]
        for part in one.extra.get("parts", ()):
            lines += ["\t\t<part>", _element(3, "name", part.extra.get("name", "")), *_box(3, part, size, notes)]
            lines.append("\t\t</part>")
        return [*lines, "\t</object>"]


def _text(lines: Iterable[str]) -> bytes:
    return encoded("".join(f"{line}\n" for line in lines))


def _parted(picture: str) -> tuple[str, str]:
    """Give what is above JPEGImages, with a slash, and the path below it without suffix."""
    parts = picture.split("/")
    last = len(parts) - 1 - parts[::-1].index(_PICTURES)
    *folders, name = parts[last + 1 :]
    inner = "/".join([*folders, name.rpartition(".")[0] or name])
    return "".join(f"{part}/" for part in parts[:last]), inner


def _box(depth: int, one: Object, size: tuple[int, int], notes: Notes) -> list[str]:
    low, high = np.rint(one.box[:2]).astype(int), np.rint(one.box[2:]).astype(int)
    thin = low >= high
    if thin.any():
        notes.add("lost", "voc has no boxes thinner than a pixel: widened to one", count=1)
        low = np.where(thin, np.minimum(np.floor(one.box[:2]), np.array(size) - 1).astype(int), low)
        high = np.where(thin, low + 1, high)
    (x0, y0), (x1, y1) = (low + 1).tolist(), high.tolist()
    edges = [_element(depth + 1, tag, value) for tag, value in zip(_EDGES, (x0, y0, x1, y1), strict=True)]
    indent = "\t" * depth
    return [f"{indent}<bndbox>", *edges, f"{indent}</bndbox>"]


def _turned(corners: np.ndarray) -> list[str]:
    """Write a turned box: its middle, its sides, and the angle of the first of them."""
    (x, y), (across, down) = corners.mean(axis=0).tolist(), (corners[1] - corners[0]).tolist()
    width, height = math.hypot(across, down), math.hypot(*(corners[2] - corners[1]).tolist())
    values = [*(f"{value:.3f}" for value in (x, y, width, height)), f"{math.atan2(down, across) % math.tau:.6f}"]
    rows = [_element(3, tag, value) for tag, value in zip(TURNED, values, strict=True)]
    return ["\t\t<robndbox>", *rows, "\t\t</robndbox>"]


def _polygon(points: np.ndarray) -> list[str]:
    rows = []
    for number, (x, y) in enumerate(points.tolist(), 1):
        rows += [_element(3, f"x{number}", f"{x:.3f}"), _element(3, f"y{number}", f"{y:.3f}")]
    return ["\t\t<polygon>", *rows, "\t\t</polygon>"]


_EDGES = ("xmin", "ymin", "xmax", "ymax")


def _element(depth: int, tag: str, value: object) -> str:
    # What XML 1.0 cannot hold, and halves of characters from file names, become question marks.
    text = re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", str(value))
    indent = "\t" * depth
    return f"{indent}<{tag}>{escape(text)}</{tag}>"


def _texts(extra: Mapping[str, Any], whose: str, notes: Notes, *, without: Sequence[str]) -> dict[str, str]:
    """Give the plain values of an extra as texts by tag; others are lost."""
    kept = {}
    for key, value in extra.items():
        if isinstance(value, (str, int, float)) and _TAG.fullmatch(key) and key not in without:
            kept[key] = str(int(value)) if isinstance(value, bool) else str(value)
        else:
            notes.add("lost", f"voc has no {key} of {whose}", dropped=True)
    return kept


def _note_losses(output: Output, notes: Notes) -> None:
    objects = output.objects
    note_objects(output, "voc", "outlines in run lengths", sum(one.region is not None for one in objects), notes)
    note_objects(output, "voc", "keypoints", sum(one.keypoints is not None for one in objects), notes)
    note_objects(output, "voc", "crowds (kept as one object)", sum(one.crowd for one in objects), notes)
