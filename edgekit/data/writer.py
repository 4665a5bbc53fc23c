"""Writers: labelled pictures out, in each of the layouts; bytes and relative paths, which the caller stores.

A writer is fed in any order and from anywhere: `label` is a pure function of one picture, its row survives JSON, and
the files that close the set depend on the rows alone. What a layout cannot hold is said in a note of the kind `lost`.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from edgekit.data import splits
from edgekit.data.mend import Mended, Notes
from edgekit.errors import EdgekitError
from edgekit.words import counted

if TYPE_CHECKING:
    from edgekit.data.dataset import Dataset
    from edgekit.data.masks import Mask
    from edgekit.data.sample import Object

# Folders that hold pictures and tell nothing of them.
PICTURES = ("images", "imgs", "image", "img", "jpegimages")

Files = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, eq=False)
class Output:
    """One new picture: the key it would have in its source's layout, its size in pixels, and its labels."""

    key: str
    width: int
    height: int
    objects: Sequence[Object] = ()
    label: str | None = None
    mask: Mask | None = None
    split: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Written:
    """What one picture comes to: its own path, its label files, a row for `Writer.take`, and what was lost."""

    picture: str
    files: Files
    row: dict[str, Any]
    notes: tuple[Mended, ...]


@dataclass(frozen=True)
class Schema:
    """What a set says of all its pictures; `Dataset`'s fields."""

    names: tuple[str, ...] = ()
    keypoint_shape: tuple[int, int] | None = None
    keypoint_names: tuple[str, ...] = ()
    flip_index: tuple[int, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    form: str = "box"

    def name(self, number: int) -> str:
        """Give the name of a class, its number when it has none."""
        return self.names[number] if number < len(self.names) else str(number)

    def all_names(self, least: int) -> list[str]:
        """Give the names of all classes, and of `least` at least."""
        return [self.name(number) for number in range(max(len(self.names), least))]


def schema_of(dataset: Dataset) -> Schema:
    """Gather what a writer needs to know of a data set."""
    shape, names, flip = dataset.keypoint_shape, dataset.keypoint_names, dataset.flip_index
    return Schema(dataset.names, shape, names, flip, dataset.about, dataset.form)


class Writer(Protocol):
    """Writes one layout."""

    kind: str

    def place(self, key: str, split: str | None = None, label: str | None = None) -> str:
        """Give the path of a picture in this layout."""

    def label(self, output: Output) -> Written:
        """Write the labels of one picture; pure."""

    def take(self, row: Mapping[str, Any]) -> None:
        """Take in the row of a picture, in any order; raises EdgekitError when two pictures need one label file."""

    def close(self) -> Files:
        """Give the files that describe the whole set, from the rows taken in."""


def writer(kind: str, schema: Schema) -> Writer:
    """Make the writer of one of `dataset.KINDS`; raises KeyError for any other."""
    # The layouts are tenants of this module: they make its types.
    from edgekit.data import write_coco, write_masks, write_voc, write_yolo

    made: dict[str, type] = {
        "coco": write_coco.Coco,
        "yolo": write_yolo.Yolo,
        "voc": write_voc.Voc,
        "masks": write_masks.Masks,
        "folder": Folders,
        "none": Plain,
    }
    found: Writer = made[kind](schema)
    return found


# ---- what the layouts share


class Rows:
    """The rows of a set by picture, and whose each label file is."""

    def __init__(self) -> None:
        self._rows: dict[str, Mapping[str, Any]] = {}
        self._files: dict[str, tuple[str, int]] = {}

    def take(self, row: Mapping[str, Any]) -> None:
        """Take one in; one that comes again replaces itself."""
        picture, crc = row["picture"], row.get("crc", 0)
        for path in row.get("files", ()):
            other, before = self._files.setdefault(path, (picture, crc))
            if other != picture and before != crc:
                raise EdgekitError(f"{picture} and {other} would share the label file {path}", "rename one of them")
        self._rows[picture] = row

    def ordered(self) -> list[Mapping[str, Any]]:
        """Give all rows in the order of their pictures' paths."""
        return [self._rows[picture] for picture in sorted(self._rows)]


def finish(output: Output, picture: str, files: Files, notes: Notes, **row: Any) -> Written:
    """Put together what one picture comes to."""
    crc = zlib.crc32(b"\0".join(data for _, data in files))
    common = {"picture": picture, "split": output.split, "files": [path for path, _ in files], "crc": crc}
    return Written(picture, files, {**common, **row}, tuple(notes.rows))


def encoded(text: str) -> bytes:
    """Encode as UTF-8; bytes of file names that were not come back, other halves of characters are question marks."""
    return re.sub("[\ud800-\udc7f\udd00-\udfff]", "?", text).encode("utf-8", "surrogateescape")


def note_lost(output: Output, kind: str, notes: Notes, *, label: bool = True, mask: bool = True) -> None:
    """Note the class folder and the mask of a picture that its layout has no place for."""
    if label and output.label is not None:
        notes.add("lost", f"{kind} has no classes of whole pictures", dropped=True)
    if mask and output.mask is not None:
        notes.add("lost", f"{kind} has no masks", dropped=True)


def note_objects(output: Output, kind: str, what: str, count: int, notes: Notes) -> None:
    """Note that `count` objects lost something."""
    if count:
        notes.add("lost", f"{kind} has no {what}: of {counted(count, 'object')}", dropped=True, count=count)


def said(one: Object) -> dict[str, Any]:
    """Give what an object's extra says beyond the defaults that layouts fill in, and COCO's own."""
    plain: dict[str, tuple[str, ...]] = {
        "pose": ("Unspecified", ""),
        "truncated": ("0", ""),
        "difficult": ("0", ""),
        "occluded": ("0", ""),
    }
    return {key: value for key, value in one.extra.items() if key != "coco" and value not in plain.get(key, ())}


def objects_in(output: Output, kind: str, notes: Notes) -> Sequence[Object]:
    """Give the objects of a picture, those of its mask when it has no others."""
    if output.objects or output.mask is None:
        note_lost(output, kind, notes)
        return output.objects
    from edgekit.data import masks

    note_lost(output, kind, notes, mask=output.mask.colours is not None)
    found = masks.objects_of(output.mask)
    if not found and output.mask.colours is None and output.mask.values.any():
        notes.add("lost", f"a mask of {masks.VOID} alone, which means not labelled, has no objects", dropped=True)
    return found


def split_folder(key: str, split: str | None) -> str:
    """Give the key below a folder of its split, unless it is in one already."""
    return key if split is None or splits.of_folders(key) == split else f"{split}/{key}"


def without(key: str, folders: Sequence[str]) -> str:
    """Take the first folder that is called like one of `folders` (in small letters) out of a key."""
    parts = key.split("/")
    for place, part in enumerate(parts[:-1]):
        if part.lower() in folders:
            return "/".join(parts[:place] + parts[place + 1 :])
    return key


# ---- pictures in folders


class Folders:
    """Class folders, below split folders when there are splits."""

    kind = "folder"

    def __init__(self, schema: Schema) -> None:
        self._rows = Rows()

    def place(self, key: str, split: str | None = None, label: str | None = None) -> str:
        """Keep the key where it says the class already, else put the file's name below it; no folder of pictures."""
        folders, _, name = key.rpartition("/")
        if label is not None and f"/{folders}".endswith(f"/{label}"):
            above = folders.removesuffix(label)  # a class may be called like a split
            return key if split is None or splits.of_folders(above + name) == split else f"{split}/{key}"
        if label is None:
            return split_folder(without(key, PICTURES), split)
        return split_folder(f"{label}/{key.rpartition('/')[2]}", split)

    def label(self, output: Output) -> Written:
        """Say where the picture belongs; objects and masks are lost."""
        notes = Notes(output.key)
        note_lost(output, self.kind, notes, label=False)
        note_objects(output, self.kind, "objects", len(output.objects), notes)
        return finish(output, self.place(output.key, output.split, output.label), (), notes)

    def take(self, row: Mapping[str, Any]) -> None:
        """Take in a row."""
        self._rows.take(row)

    def close(self) -> Files:
        """Class folders describe themselves."""
        return ()


class Plain(Folders):
    """Pictures alone, where they are, below folders of their splits."""

    kind = "none"

    def place(self, key: str, split: str | None = None, label: str | None = None) -> str:
        """Keep the key where it tells the split."""
        return split_folder(key, split)

    def label(self, output: Output) -> Written:
        """Write nothing; whoever asks for pictures alone knows that labels are left out."""
        return finish(output, self.place(output.key, output.split), (), Notes(output.key))
