"""COCO labels: JSON files with `images`, `annotations` and `categories` (cocodataset.org/#format-data).

Boxes are [x, y, width, height] in pixels of the size the file states. Category ids may be any numbers; classes are
their positions in the order of the ids, as detectors number them. Keypoints are taken as they are written.
"""

from __future__ import annotations

import json
import zlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.data import rle, splits
from edgekit.data.dataset import Dataset, Entry
from edgekit.data.file_names import match
from edgekit.data.folder import Listing, Source
from edgekit.data.frame import place
from edgekit.data.headers import Header
from edgekit.data.mend import Mended, Notes, clean
from edgekit.data.points import flip_index
from edgekit.data.sample import Object
from edgekit.lazy import np
from edgekit.words import counted

if TYPE_CHECKING:
    from numpy import ndarray

    from edgekit.data.dataset import Maker

# What the bytes of such a file contain: asked before 400 MB of something else are parsed.
_MARKS = (b'"images"', b'"annotations"', b'"categories"')
_FOLDER = "annotations"
# What an annotation and a picture are made of; everything else is kept as it is.
_OF_OBJECT = frozenset(
    ("id", "image_id", "category_id", "bbox", "area", "segmentation", "keypoints", "num_keypoints", "iscrowd",
     "oriented", "coco")
)  # fmt: skip
# Where an object's extra keeps what means nothing to other layouts.
OWN = "coco"
_OF_PICTURE = frozenset(("id", "file_name", "width", "height"))
_LARGER = 16  # how many times the pixels of its picture an outline in run lengths may have
_LARGEST = 1 << 31  # bytes of a file that is read


@dataclass(frozen=True)
class Document:
    """A JSON file that describes pictures, as it was read, with the picture that each of its file names means."""

    path: Path
    content: Mapping[str, Any]
    sources: tuple[Source | None, ...]

    @property
    def split(self) -> str | None:
        """The split that the file's name or else its folder tells."""
        return splits.of_name(self.path.stem) or splits.of_word(self.path.parent.name)


def finder(listing: Listing, asked: bool) -> Maker | None:
    """Look for files of this layout; what is found reads them."""
    documents = find(listing)
    return partial(read, listing, documents) if documents else None


# ---- where the files are


def find(listing: Listing) -> tuple[Document, ...]:
    """Find the files that describe the pictures: the one that describes most, then those that describe others.

    Looked for in the folder, in `annotations` below it, in split folders, and in the first two one folder above.
    """
    found: list[Document] = []
    for path in _candidates(listing.root.absolute()):
        content = _load(path)
        if content is None:
            continue
        document = Document(path, content, tuple(match(_file_names(content), listing.sources, path)))
        if any(document.sources):
            found.append(document)
        if len(_keys(document)) == len(listing.sources):
            break
    chosen: list[Document] = []
    described: set[str] = set()
    while found:
        best = max(found, key=lambda document: len(_keys(document) - described))  # the first of equals
        if not _keys(best) - described:
            break
        chosen.append(best)
        described |= _keys(best)
        found.remove(best)
    return tuple(chosen)


def _keys(document: Document) -> set[str]:
    return {source.key for source in document.sources if source is not None}


def _candidates(root: Path) -> list[Path]:
    """List the JSON files there are, those named after the folder first (instances_val2017.json for val2017)."""
    folders = [place for place in sorted(root.glob("*")) if splits.of_word(place.name) and place.is_dir()]
    places = (root, root / _FOLDER, *folders, root.parent, root.parent / _FOLDER)
    found = [path for place in places for path in sorted(place.glob("*.json")) if path.is_file()]
    return sorted(found, key=lambda path: (root.name not in path.name, not path.name.startswith("instances")))


def _load(path: Path) -> Mapping[str, Any] | None:
    try:
        data = path.read_bytes() if path.stat().st_size <= _LARGEST else b""
        content = json.loads(data, object_hook=_packed) if all(mark in data for mark in _MARKS) else None
    except (OSError, ValueError, RecursionError):
        return None
    return content if is_coco(content) else None


def _packed(part: dict[str, Any]) -> dict[str, Any]:
    """Keep polygons as arrays of floats while a file is parsed: a quarter of the memory that lists of them take."""
    for holder, key in ((part, "segmentation"), (part, "counts")):
        value = holder.get(key)
        if isinstance(value, list):
            holder[key] = _array(value) if key == "counts" else [_array(one) for one in value]
    return part


def _array(value: Any) -> Any:
    try:
        return array("d", value) if isinstance(value, list) else value
    except (TypeError, OverflowError):
        return value


def is_coco(content: Any) -> bool:
    """Tell whether a JSON document describes objects with boxes, outlines or keypoints."""
    if not isinstance(content, Mapping):
        return False
    parts = [content.get(key) for key in ("images", "annotations", "categories")]
    if not all(isinstance(part, list) and all(isinstance(one, Mapping) for one in part[:1]) for part in parts):
        return False
    image, category = (part[0].keys() if part else {}.keys() for part in (parts[0], parts[2]))
    return {"id", "file_name"} <= image and "name" in category and (not parts[1] or any(map(_is_object, parts[1])))


def _is_object(annotation: Any) -> bool:
    keys = annotation.keys() if isinstance(annotation, Mapping) else {}.keys()
    return {"image_id", "category_id"} <= keys and bool({"bbox", "segmentation", "keypoints"} & keys)


def _file_names(content: Mapping[str, Any]) -> list[str]:
    return [str(image["file_name"]) for image in _dicts(content["images"]) if "file_name" in image]


# ---- reading


def read(listing: Listing, documents: Sequence[Document], frame: str = "auto") -> Dataset:
    """Read the labels of the pictures that `documents` describe; what is wrong in them is a note, never an error."""
    notes: list[Mended] = []
    classes = _Classes()
    entries: dict[str, Entry] = {}
    for document in documents:
        listing.leading_outside([document.path])  # raises: a whole file of labels is too much to do without
        position = classes.take(document.content["categories"])
        for entry in _entries(document, position, classes, frame, notes, listing.root):
            entries.setdefault(entry.key, entry)
    ordered = tuple(entries[key] for key in sorted(entries))
    folders = {entry.source.path.parent for entry in ordered}
    left = sum(source.path.parent in folders and source.key not in entries for source in listing.sources)
    if left:
        what = f"{counted(left, 'picture')} that no file describes: left out"
        notes.append(Mended(str(listing.root), "labels", what, dropped=True, count=left))
    first = documents[0]
    others = {key: part for key, part in first.content.items() if key not in ("images", "annotations", "categories")}
    points = classes.keypoints
    return Dataset(
        listing.root,
        "coco",
        ordered,
        tuple(classes.names),
        splits.ordered(one.split for one in ordered),
        (len(points), 3) if points else None,
        points,
        flip_index(points),
        {**others, "categories": classes.categories},
        origin=first.path,
        mended=tuple(notes),
        form=_form(documents),
    )


def _form(documents: Sequence[Document]) -> str:
    """Tell `Dataset.form`."""
    outlined = False
    for document in documents:
        for one in _dicts(document.content["annotations"]):
            if one.get("oriented") is True:
                return "oriented"
            outlined = outlined or bool(one.get("segmentation"))
    return "outline" if outlined else "box"


class _Classes:
    """The classes of several files, one numbering: as the first has them, those that only others have behind."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.categories: list[Mapping[str, Any]] = []
        self.keypoints: tuple[str, ...] = ()

    def take(self, part: Any) -> dict[Any, int]:
        """Take in the categories of a file; give the position of each of its ids."""
        categories = {one["id"]: one for one in _dicts(part) if _is_id(one.get("id"))}
        known = {name: number for number, name in enumerate(self.names)}
        position = {}
        for number in sorted(categories, key=lambda number: (isinstance(number, str), number)):
            one = categories[number]
            name = str(one.get("name", number))
            if name not in known:
                self.names.append(name)
                self.categories.append(one)
            position[number] = known.get(name, len(self.names) - 1)
            points = one.get("keypoints")
            if not self.keypoints and isinstance(points, list) and points:
                self.keypoints = tuple(str(point) for point in points)
        return position


def _entries(
    document: Document,
    position: Mapping[Any, int],
    classes: _Classes,
    frame: str,
    notes: list[Mended],
    root: Path,
) -> Iterator[Entry]:
    images = [image for image in _dicts(document.content["images"]) if "file_name" in image]
    known = {str(image.get("id")) for image in images}
    annotations: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    strays = 0
    for annotation in _dicts(document.content["annotations"]):
        picture = str(annotation.get("image_id"))
        if picture in known:
            annotations[picture].append(annotation)
        else:
            strays += 1
    name = document.path.name
    # One picture may be described several times over, as in files that were put together.
    together: dict[str, list[str]] = defaultdict(list)
    for image in images:
        together[str(image["file_name"])].append(str(image.get("id")))
    again = {file: len(ids) for file, ids in together.items() if len(ids) > 1}
    if again:
        first, times = next(iter(again.items()))
        what = f"{first} is described {times} times: all its annotations are taken"
        notes.append(Mended(name, "picture", what, count=len(again)))
    often = Counter(number for ids in together.values() for number in set(ids))
    shared = [number for number, times in often.items() if times > 1]
    if shared:
        what = f"{often[shared[0]]} pictures have the id {shared[0]}: each is given its annotations"
        notes.append(Mended(name, "picture", what, count=len(shared)))
    missing = sum(source is None for source in document.sources) - sum(again.values()) + len(again)
    if missing > 0:
        what = f"{missing} of its {counted(len(images), 'picture')} not found in {root}"
        notes.append(Mended(name, "picture", what, dropped=True, count=missing))
    if strays:
        what = f"{counted(strays, 'annotation')} skipped: of no picture in the file"
        notes.append(Mended(name, "picture", what, dropped=True, count=strays))
    for source, image in zip(document.sources, images, strict=True):
        if source is None:
            continue
        stated = (_side(image, "width"), _side(image, "height"))
        own = tuple(one for number in dict.fromkeys(together[str(image["file_name"])]) for one in annotations[number])
        loader = _Annotations(own, stated if all(stated) else (0, 0), position, len(classes.keypoints), frame)
        extra = {key: value for key, value in image.items() if key not in _OF_PICTURE}
        split = document.split or splits.of_folders(source.key)
        yield Entry(source, split, extra=extra, loader=loader)


# ---- annotations


@dataclass(frozen=True, eq=False)
class _Annotations:
    """Reads the annotations of one picture, on a frame of `stated` pixels; (0, 0) when that is not known."""

    annotations: tuple[Mapping[str, Any], ...]
    stated: tuple[int, int]
    position: Mapping[Any, int]
    keypoints: int
    frame: str

    def objects(self, header: Header, notes: Notes) -> tuple[Object, ...]:
        """Read the objects, in pixels of the upright picture."""
        size = self.stated if all(self.stated) else (header.width, header.height)
        most = max(_LARGER * header.width * header.height, 1 << 20)
        size = size if size[0] * size[1] <= most else (0, 0)
        made = [self._object(annotation, size, notes) for annotation in self.annotations]
        objects = [one for one in made if one is not None]
        placed = place(objects, self.stated, header, self.frame, notes)
        upright = (header.height, header.width) if header.orientation >= 5 else (header.width, header.height)
        return clean(placed, upright, 0, notes)

    def _object(self, annotation: Mapping[str, Any], size: tuple[int, int], notes: Notes) -> Object | None:
        category = annotation.get("category_id")
        if not _is_id(category) or category not in self.position:
            notes.add("class", "an annotation of no category in the file", dropped=True)
            return None
        polygons, region = _segmentation(annotation.get("segmentation"), size, notes)
        points = self._points(annotation.get("keypoints"), notes)
        try:
            x, y, width, height = (float(side) for side in annotation["bbox"])
        except (KeyError, TypeError, ValueError, OverflowError):
            around = None if points is None else _around(points)
            if not polygons and region is None and around is None:
                notes.add("number", "an annotation without a box of four numbers", dropped=True)
                return None
            x = y = width = height = np.nan  # taken from the outline when it is mended
            if not polygons and region is None and around is not None:
                notes.add("number", "a box taken from its keypoints")
                x, y, width, height = around
        made = Object(
            self.position[category],
            np.array([x, y, x + width, y + height], np.float64),
            polygons,
            region,
            points,
            oriented=annotation.get("oriented") is True and [len(one) for one in polygons] == [4],
            crowd=str(annotation.get("iscrowd")).lower() in ("1", "true", "1.0"),
            extra=_extra(annotation, notes),
        )
        return with_own(made, annotation)

    def _points(self, value: Any, notes: Notes) -> ndarray | None:
        if not isinstance(value, list) or not value:
            return None
        try:
            points = np.array(value, np.float64).reshape(-1, 3)
        except (TypeError, ValueError, OverflowError):
            points = np.zeros((0, 3))
        if len(points) != self.keypoints:
            notes.add("keypoints", f"not {self.keypoints} points of three numbers", dropped=True)
            return None
        return points


def _around(points: ndarray) -> tuple[float, float, float, float] | None:
    """Give the box x, y, width, height of labelled keypoints; None when they span no area."""
    places = points[points[:, 2] > 0, :2]
    sides = np.ptp(places, axis=0) if len(places) > 1 else np.zeros(2)
    return (*places.min(axis=0).tolist(), *sides.tolist()) if sides.all() else None


def with_own(one: Object, annotation: Mapping[str, Any]) -> Object:
    """Note what COCO says of the outline itself, for the writer of COCO alone: its area, and the form of run lengths.

    The area holds as long as the object is what it was: `outline_digest` says so.
    """
    own: dict[str, Any] = {}
    area, segmentation = annotation.get("area"), annotation.get("segmentation")
    if isinstance(area, (int, float)) and 0 <= area < float("inf"):
        own |= {"area": area, "digest": outline_digest(one)}
    if one.region is not None and isinstance(segmentation, Mapping):
        own["plain"] = not isinstance(segmentation["counts"], str)
    return replace(one, extra={**one.extra, OWN: own}) if own else one


def outline_digest(one: Object) -> int:
    """Digest where an object is, to a hundredth of a pixel: clipping takes rounding errors off."""
    digest = zlib.crc32(b"" if one.region is None else np.packbits(one.region).tobytes())
    for part in (one.box, *one.polygons):
        digest = zlib.crc32((np.round(part, 2) + 0.0).tobytes(), digest)  # no -0
    return digest


def _extra(annotation: Mapping[str, Any], notes: Notes) -> dict[str, Any]:
    """Give what an annotation says beyond its label; boxes of parts, as our own writer has them, become objects."""
    extra = {key: value for key, value in annotation.items() if key not in _OF_OBJECT}
    found = extra.pop("parts", ())
    parts = []
    for part in _dicts(found):
        try:
            x, y, width, height = (float(side) for side in part["bbox"])
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
        box = np.array([x, y, x + width, y + height], np.float64)
        parts.append(Object(0, box, extra={"name": str(part.get("name", ""))}))
    if found and not parts:
        notes.add("lost", "parts that have no names and boxes", dropped=True)
    return extra | {"parts": tuple(parts)} if parts else extra


def _segmentation(value: Any, size: tuple[int, int], notes: Notes) -> tuple[tuple[ndarray, ...], ndarray | None]:
    """Read polygons ([[x, y, x, y, ...], ...]) or run lengths ({size, counts}); neither when there is no outline."""
    if isinstance(value, list):
        whole = [one for one in value if isinstance(one, array) and len(one) >= 6 and len(one) % 2 == 0]
        if len(whole) < len(value):
            bad = len(value) - len(whole)
            notes.add("outline", "a polygon that is not three or more points", dropped=True, count=bad)
        return tuple(np.array(one, np.float64).reshape(-1, 2) for one in whole), None
    if not isinstance(value, Mapping):
        return (), None
    try:
        height, width = (int(side) for side in value["size"])
        if (width, height) != size:
            raise ValueError(f"run lengths of {width}x{height}, which the picture is not")
        counts = value["counts"]
        lengths = counts if isinstance(counts, str) else [int(one) for one in counts]
        return (), rle.decode(lengths, height, width)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        notes.add("outline", str(error) or "run lengths that cannot be read", dropped=True)
        return (), None


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str))


def _side(image: Mapping[str, Any], key: str) -> int:
    value = image.get(key)
    return int(value) if isinstance(value, (int, float)) and 0 < value < float("inf") else 0


def _dicts(part: Any) -> Iterator[Mapping[str, Any]]:
    return (one for one in part if isinstance(one, Mapping)) if isinstance(part, list) else iter(())
