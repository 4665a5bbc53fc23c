"""Masks out: a PNG of class numbers for each picture, in the form it came in, or painted from objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.data import masks, splits
from edgekit.data.mend import Notes
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
    said,
)

_PICTURES = "images"


class Masks:
    """masks/NAME.png for images/NAME.jpg; value v is class v - 1."""

    kind = "masks"

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._rows = Rows()

    def place(self, key: str, split: str | None = None, label: str | None = None) -> str:
        """Keep a key that has a folder of pictures, else put it below images; folders tell the splits."""
        return splits.below(key if _folder(key) is not None else f"{_PICTURES}/{key}", split, masks.PICTURES)

    def label(self, output: Output) -> Written:
        """Write the mask of one picture."""
        notes = Notes(output.key)
        note_lost(output, self.kind, notes, mask=False)
        mask = output.mask
        if mask is None:
            mask = masks.paint(output.objects, (output.width, output.height))
            bare = sum(not one.polygons and one.region is None for one in output.objects)
            note_objects(output, self.kind, "boxes without an outline (painted whole)", bare, notes)
            note_objects(output, self.kind, "objects of one class told apart", _touching(output), notes)
        else:
            note_objects(output, self.kind, "objects beside the mask", len(output.objects), notes)
        for what, lost in (
            ("keypoints", [one.keypoints is not None for one in output.objects]),
            ("crowds (painted like others)", [one.crowd for one in output.objects]),
            ("fields beyond the class", [bool(said(one)) for one in output.objects]),
        ):
            note_objects(output, self.kind, what, sum(lost), notes)
        picture = self.place(output.key, output.split, output.label)
        most = max((one.number + 1 for one in output.objects), default=0) if output.mask is None else 0
        return finish(output, picture, ((_mask_path(picture), masks.encode(mask)),), notes, classes=most)

    def take(self, row: Mapping[str, Any]) -> None:
        """Take in a row."""
        self._rows.take(row)

    def close(self) -> Files:
        """Write the names of the classes, a line a value, when they are known."""
        names = self._schema.all_names(max((row["classes"] for row in self._rows.ordered()), default=0))
        if not names:
            return ()
        lines = [" ".join(name.splitlines()) for name in ("background", *names)]
        return ((masks.NAMES, encoded("".join(f"{line}\n" for line in lines))),)


def _touching(output: Output) -> int:
    """Count the objects that share their class with another."""
    numbers = [one.number for one in output.objects]
    return sum(numbers.count(number) > 1 for number in numbers)


def _folder(key: str) -> int | None:
    parts = key.split("/")[:-1]
    return next((place for place, part in enumerate(parts) if part.lower() in masks.PICTURES), None)


def _mask_path(picture: str) -> str:
    *folders, name = picture.split("/")
    place = _folder(picture) or 0
    return "/".join([*folders[:place], "masks", *folders[place + 1 :], f"{name.rpartition('.')[0] or name}.png"])
