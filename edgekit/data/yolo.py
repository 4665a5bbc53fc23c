"""YOLO labels: a text file a picture, a line an object, coordinates as shares of the upright picture.

A line is `class cx cy w h`, a sixth value being a detector's confidence; `class x y x y x y ...` is a polygon, and a
turned box when every outline of the set has four corners; in pose data sets (`kpt_shape` in data.yaml) keypoints follow
the box. Where the label files lie and what their lines mean follows Ultralytics (docs.ultralytics.com/datasets).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.data import dataset_yaml, splits
from edgekit.data.dataset import Dataset, Entry
from edgekit.data.folder import Listing, Source
from edgekit.data.frame import is_raw, turned, upright_size
from edgekit.data.headers import Header
from edgekit.data.mend import Mended, Notes, clean
from edgekit.data.sample import Object
from edgekit.lazy import np

if TYPE_CHECKING:
    from edgekit.data.dataset import Maker

    Pair = tuple[Source, Path | None]

PICTURES = "images"
LABELS = ("labels", "labels_yolo")
_FAR = 0.5  # how far outside the picture, as a share of it, a corner is taken for sloppiness and not for another unit
_SAMPLE = 20  # label files with something in them that are tried before a folder is judged


def finder(listing: Listing, asked: bool) -> Maker | None:
    """Look for label files of this layout; what is found reads them."""
    pairs = find(listing)
    first = next((path for _, path in pairs if path is not None), None)
    if first is None:
        return None
    shape = dataset_yaml.read(listing.root, first.parent, []).keypoint_shape
    return partial(read, listing, pairs) if asked or is_labelled(pairs, shape) else None


# ---- where the files are


def find(listing: Listing) -> list[Pair]:
    """Pair each picture of a YOLO data set with its label file, None when it has none; no pairs without label files.

    A label file is found by putting `labels` (or `labels_yolo`) in the place of the last `images` in the picture's
    path, below the picture's own folder, or beside the picture. Pictures away from those that have one are passed over,
    such as masks.
    """
    pairs: list[Pair] = []
    homes: set[Path] = set()
    for source in listing.sources:
        folder = source.path.absolute().parent
        places = _places(folder)
        name = source.path.with_suffix(".txt").name
        home, path = next(((home, place / name) for home, place in places if (place / name).is_file()), (folder, None))
        pairs.append((source, path))
        if path is not None:
            homes.add(home)
    return [(source, path) for source, path in pairs if path is not None or _is_below(source.path, homes)]


def is_labelled(pairs: Sequence[Pair], keypoint_shape: tuple[int, int] | None = None) -> bool:
    """Tell whether the label files hold objects, by the first of them that are not empty."""
    tried = 0
    for _, path in pairs:
        text = _text(path) if path is not None else None
        if not text or text.isspace():
            continue
        if parse(text, keypoint_shape=keypoint_shape).shapes:
            return True
        tried += 1
        if tried == _SAMPLE:
            break
    return False


def _places(folder: Path) -> list[tuple[Path, Path]]:
    """List where the label files of a folder's pictures may be, each with the folder whose pictures then belong."""
    parts = folder.parts
    beside = [(folder, folder / label) for label in LABELS] + [(folder, folder)]
    if PICTURES not in parts:
        return beside
    last = len(parts) - 1 - parts[::-1].index(PICTURES)
    home = Path(*parts[: last + 1])
    return [(home, Path(*parts[:last], label, *parts[last + 1 :])) for label in LABELS] + beside


def _is_below(picture: Path, homes: set[Path]) -> bool:
    """Tell whether a picture lies in one of `homes`, at any depth below those that are called `images`."""
    folder, *above = picture.absolute().parents
    return folder in homes or any(place in homes and place.name == PICTURES for place in above)


# ---- reading


def read(listing: Listing, pairs: Sequence[Pair], frame: str = "auto") -> Dataset:
    """Read the label files that `find` gave, not none; what cannot be read is a note, never an error."""
    files = [path for _, path in pairs if path is not None]
    notes: list[Mended] = []
    settings = dataset_yaml.read(listing.root, files[0].parent, notes)
    kind = _Kind(len(settings.names), settings.keypoint_shape, _is_oriented(files), frame)
    entries = tuple(
        Entry(source, settings.split_of(source) or splits.of_folders(source.key), loader=_File(path, kind))
        for source, path in sorted(pairs, key=lambda pair: pair[0].key)
    )
    bare = len(pairs) - len(files)
    if bare:
        what = f"{bare} of {len(pairs)} pictures have no label file: taken as pictures without objects"
        notes.append(Mended("labels", "labels", what, count=bare))
    notes += _orphans(files)
    return Dataset(
        listing.root,
        "yolo",
        entries,
        settings.names,
        splits.ordered(one.split for one in entries),
        settings.keypoint_shape,
        settings.keypoint_names,
        settings.flip_index,
        origin=files[0].parent,
        mended=tuple(notes),
    )


def _orphans(files: Sequence[Path]) -> Iterator[Mended]:
    """Note label files without a picture, in folders that hold nothing else."""
    known = set(files)
    for folder in sorted({path.parent for path in files}):
        if not any(part in LABELS for part in folder.parts):
            continue
        for path in sorted(folder.glob("*.txt")):
            if path not in known and path.name not in dataset_yaml.LISTS:
                yield Mended(path.name, "picture", "a label file without a picture", dropped=True)


def _is_oriented(files: Sequence[Path]) -> bool:
    """Tell whether the outlines are turned boxes: all lines of the first files have four corners."""
    outlines = 0
    for path in files[:_SAMPLE]:
        for line in (_text(path) or "").splitlines():
            words = len(line.split())
            if words not in (0, 9):
                return False
            outlines += words == 9
    return outlines > 0


@dataclass(frozen=True)
class _Kind:
    """What the lines of a data set are: how many classes, the shape of keypoints, turned boxes, in which frame."""

    classes: int
    keypoint_shape: tuple[int, int] | None
    oriented: bool
    frame: str


@dataclass(frozen=True)
class _File:
    """Reads a label file; without one there are no objects."""

    path: Path | None
    kind: _Kind

    def objects(self, header: Header, notes: Notes) -> tuple[Object, ...]:
        """Read the objects, in pixels of the upright picture."""
        text = _text(self.path) if self.path is not None else ""
        if text is None:
            notes.add("file", "its label file cannot be read", dropped=True)
            return ()
        parsed = parse(text, self.kind.classes, self.kind.keypoint_shape)
        for kind, problem in parsed.problems:
            notes.add(kind, problem, dropped=True)
        raw = is_raw((0, 0), header, self.kind.frame)
        stored, upright = (header.width, header.height), upright_size(header)
        objects = [_placed(shape, stored if raw else upright, self.kind.oriented) for shape in parsed.shapes]
        if raw:
            objects = [turned(one, stored, header.orientation) for one in objects]
        return clean(objects, upright, self.kind.classes, notes)


def _placed(shape: Shape, size: tuple[int, int], oriented: bool) -> Object:
    scale = np.array(size, np.float64)
    polygons = (np.array(shape.outline, np.float64) * scale,) if shape.outline else ()
    keypoints = np.array(shape.points, np.float64) if shape.points else None
    if keypoints is not None:
        keypoints[:, :2] *= scale
    return Object(
        shape.number,
        np.array(shape.box, np.float64) * np.concatenate([scale, scale]),
        polygons,
        keypoints=keypoints,
        oriented=oriented and bool(polygons),
    )


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8-sig", errors="replace")
    except OSError:
        return None


# ---- lines of a label file


@dataclass(frozen=True)
class Shape:
    """One line: its class, its box x0 y0 x1 y1, its outline, its keypoints (x, y, 0..2), in shares of the picture."""

    number: int
    box: tuple[float, float, float, float]
    outline: tuple[tuple[float, float], ...] = ()
    points: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True)
class Parsed:
    """The objects of a label file, and what was wrong with other lines: a kind of `mend.KINDS` and a phrase each."""

    shapes: tuple[Shape, ...]
    problems: tuple[tuple[str, str], ...] = ()


def parse(text: str, classes: int = 0, keypoint_shape: tuple[int, int] | None = None) -> Parsed:
    """Parse a label file; a line that is no object is a problem and left out.

    classes: their number, 0 when it is not known. keypoint_shape: points an object and numbers a point, in a pose set.
    """
    shapes, problems = [], []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            shapes.append(_shape(words, classes, keypoint_shape))
        except _Problem as problem:
            problems.append((problem.kind, f"line {number} skipped: {problem}"))
    return Parsed(tuple(shapes), tuple(problems))


class _Problem(ValueError):  # noqa: N818 (what is wrong with a line; it goes into a note)
    def __init__(self, what: str, kind: str = "line") -> None:
        super().__init__(what)
        self.kind = kind


def _shape(words: Sequence[str], classes: int, keypoint_shape: tuple[int, int] | None) -> Shape:
    number, values = _class(words[0], classes), [_number(word) for word in words[1:]]
    points = keypoint_shape[0] * keypoint_shape[1] if keypoint_shape is not None else 0
    if keypoint_shape is not None and points and len(values) == 4 + points:
        return Shape(number, _box(values), points=_points(values[4:], keypoint_shape[1]))
    if len(values) in (4, 5):
        return Shape(number, _box(values))
    if len(values) >= 6 and len(values) % 2 == 0:
        across, down = values[::2], values[1::2]
        box = _near((min(across), min(down), max(across), max(down)))
        return Shape(number, box, tuple(zip(across, down, strict=True)))
    raise _Problem(f"{len(words)} values, not class cx cy w h")


def _class(word: str, classes: int) -> int:
    value = _number(word)
    if not 0 <= value < dataset_yaml.MOST_CLASSES or value != int(value):
        raise _Problem(f"{word} is not a class number", "class")
    if classes and value >= classes:
        raise _Problem(f"class {word}, but there are names for {classes}", "class")
    return int(value)


def _box(values: Sequence[float]) -> tuple[float, float, float, float]:
    cx, cy, w, h = values[:4]
    return _near((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2))


def _near(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    if min(box) < -_FAR or max(box) > 1 + _FAR:
        raise _Problem("coordinates are not shares (0..1) of the picture")
    return box


def _points(values: Sequence[float], numbers: int) -> tuple[tuple[float, float, float], ...]:
    """Gather keypoints; those of two numbers are visible unless both are 0."""
    if numbers == 2:
        return tuple((x, y, 2.0 if x or y else 0.0) for x, y in zip(values[::2], values[1::2], strict=True))
    return tuple(zip(values[::3], values[1::3], values[2::3], strict=True))


def _number(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        raise _Problem(f"{word[:20]} is not a number") from None
    if not math.isfinite(value):
        raise _Problem(f"{word} is not finite", "number")
    return value
