"""YOLO labels: a text file a picture, a line an object, coordinates as shares of the upright picture.

A line is `class cx cy w h`, a sixth value being a detector's confidence; `class x y x y x y ...` is a polygon; in pose
data sets (`kpt_shape` in data.yaml) keypoints follow the box. Where the label files lie and what their lines mean
follows Ultralytics (docs.ultralytics.com/datasets).

Turned boxes look like polygons of four corners. A set is one of turned boxes when its data.yaml says `task: obb`, or,
when it names no task, when every line of every file has four corners and nine in ten of them are parallelograms.
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
from edgekit.data.folder import LEADS_OUTSIDE, Listing, Source
from edgekit.data.frame import is_raw, turned, upright_size
from edgekit.data.headers import Header
from edgekit.data.mend import Mended, Notes, clean
from edgekit.data.sample import Object
from edgekit.lazy import np
from edgekit.words import counted

if TYPE_CHECKING:
    from edgekit.data.dataset import Maker

    Pair = tuple[Source, Path | None]

PICTURES = "images"
_OTHERS = ("imgs", "img", "image")  # which Ultralytics does not know
LABELS = ("labels", "labels_yolo")
_FAR = 0.5  # how far outside the picture, as a share of it, a corner is taken for sloppiness and not for another unit
_SKEW = 0.1  # how far apart the middles of its diagonals may be, twice, in a turned box, as a share of one of them
_MOST = 0.9  # share of the outlines that have to be turned boxes: labels by hand are not exact
_LONGEST = 1 << 24  # bytes of a label file
_SAMPLE = 20  # label files with something in them that are tried before a folder is judged


def finder(listing: Listing, asked: bool) -> Maker | None:
    """Look for label files of this layout; what is found reads them."""
    pairs = find(listing)
    first = next((path for _, path in pairs if path is not None), None)
    if first is None:
        return None
    settings = dataset_yaml.read(listing.root, first.parent, [])
    return partial(read, listing, pairs) if asked or is_labelled(pairs, settings) else None


# ---- where the files are


def find(listing: Listing) -> list[Pair]:
    """Pair each picture of a YOLO data set with its label file, None when it has none; no pairs without label files.

    A label file is found by putting `labels` (or `labels_yolo`) in the place of the last `images` in the picture's
    path, below the picture's own folder, or beside the picture. Pictures away from those that have one are passed over,
    such as masks.
    """
    pairs: list[Pair] = []
    homes: set[Path] = set()
    known: dict[Path, list[tuple[Path, Path, frozenset[str]]]] = {}
    for source in listing.sources:
        folder = source.path.absolute().parent
        if folder not in known:
            known[folder] = [(home, place, names) for home, place in _places(folder) if (names := _names(place))]
        name = source.path.with_suffix(".txt").name
        there = ((home, place / name) for home, place, names in known[folder] if name in names)
        home, path = next(((home, path) for home, path in there if path.is_file()), (folder, None))
        pairs.append((source, path))
        if path is not None:
            homes.add(home)
    if not homes:
        return []
    return [(source, path) for source, path in pairs if path is not None or _is_below(source.path, homes)]


def _names(folder: Path) -> frozenset[str]:
    return frozenset(path.name for path in folder.glob("*.txt")) if folder.is_dir() else frozenset()


def is_labelled(pairs: Sequence[Pair], settings: dataset_yaml.Settings) -> bool:
    """Tell whether the label files hold objects, by the first of them that are not empty.

    When all are empty, those that have a folder of their own are taken for labels of pictures without objects.
    """
    tried = 0
    apart = False
    for _, path in pairs:
        text = _text(path) if path is not None else None
        if path is not None and text is not None and (not text or text.isspace()):
            apart = apart or any(part in LABELS for part in path.parts)
            continue
        if text is None:
            continue
        if parse(text, keypoint_shape=settings.keypoint_shape, names=settings.names).shapes:
            return True
        tried += 1
        if tried == _SAMPLE:
            break
    return apart and not tried


def _places(folder: Path) -> list[tuple[Path, Path]]:
    """List where the label files of a folder's pictures may be, each with the folder whose pictures then belong."""
    parts = folder.parts
    beside = [(folder, folder / label) for label in LABELS] + [(folder, folder)]
    known = PICTURES if PICTURES in parts else next((part for part in reversed(parts) if part in _OTHERS), None)
    if known is None:
        return beside
    last = len(parts) - 1 - parts[::-1].index(known)
    home = Path(*parts[: last + 1])
    return [(home, Path(*parts[:last], label, *parts[last + 1 :])) for label in LABELS] + beside


def _is_below(picture: Path, homes: set[Path]) -> bool:
    """Tell whether a picture lies in one of `homes`, at any depth below those that are called `images`."""
    folder, *above = picture.absolute().parents
    return folder in homes or any(place in homes and place.name in (PICTURES, *_OTHERS) for place in above)


# ---- reading


def read(listing: Listing, pairs: Sequence[Pair], frame: str = "auto") -> Dataset:
    """Read the label files that `find` gave, not none; what cannot be read is a note, never an error."""
    every = [path for _, path in pairs if path is not None]
    far = listing.leading_outside(every)
    files = [path for path in every if path not in far]
    notes: list[Mended] = []
    settings = dataset_yaml.read(listing.root, files[0].parent, notes)
    form = _form(files, settings)
    kind = _Kind(settings.names, settings.keypoint_shape, form == "oriented", frame)
    entries = tuple(
        Entry(source, settings.split_of(source) or splits.of_folders(source.key), loader=_File(path, kind, path in far))
        for source, path in sorted(pairs, key=lambda pair: pair[0].key)
    )
    bare = len(pairs) - len(every)
    if bare:
        what = f"{bare} of {counted(len(pairs), 'picture')} without a label file: taken as without objects"
        notes.append(Mended("labels", "labels", what, count=bare))
    notes += _orphans(every)
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
        form=form,
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


def _form(files: Sequence[Path], settings: dataset_yaml.Settings) -> str:
    """Tell `Dataset.form`: of turned boxes by the task or all lines, else by the first files that say something."""
    if settings.keypoint_shape is not None:
        return "box"
    if settings.task == "obb" or (not settings.task and _is_oriented(files)):
        return "oriented"
    tried = 0
    for path in files:
        lines = parse(_text(path) or "", names=settings.names).shapes
        if any(shape.outline for shape in lines):
            return "outline"
        tried += bool(lines)
        if tried == _SAMPLE:
            break
    return "box"


def _is_oriented(files: Sequence[Path]) -> bool:
    """Tell whether all lines have four corners, and nearly all are parallelograms: boxes turned, then scaled."""
    corners = turned = 0
    for path in files:
        for line in (_text(path) or "").splitlines():
            words = line.split()
            if not words:
                continue
            try:
                x0, y0, x1, y1, x2, y2, x3, y3 = (float(word) for word in words[1:])
            except ValueError:
                return False
            corners += 1
            # In a parallelogram both diagonals have the same middle.
            across, down = x2 - x0, y2 - y0
            turned += math.hypot(x0 + x2 - x1 - x3, y0 + y2 - y1 - y3) <= _SKEW * math.hypot(across, down)
    return corners > 0 and turned >= _MOST * corners


@dataclass(frozen=True)
class _Kind:
    """What the lines of a data set are: the names of classes, the shape of keypoints, turned boxes, in which frame."""

    names: tuple[str, ...]
    keypoint_shape: tuple[int, int] | None
    oriented: bool
    frame: str


@dataclass(frozen=True)
class _File:
    """Reads a label file; without one, or when it is refused, there are no objects."""

    path: Path | None
    kind: _Kind
    refused: bool = False

    def objects(self, header: Header, notes: Notes) -> tuple[Object, ...]:
        """Read the objects, in pixels of the upright picture."""
        if self.refused:
            notes.add("file", f"its label file is {LEADS_OUTSIDE}", dropped=True)
            return ()
        text = _text(self.path) if self.path is not None else ""
        if text is None:
            notes.add("file", "its label file cannot be read", dropped=True)
            return ()
        parsed = parse(text, len(self.kind.names), self.kind.keypoint_shape, self.kind.names)
        if parsed.named:
            what = f"{counted(parsed.named, 'line')} with the name of a class, not its number"
            notes.add("class", what, count=parsed.named)
        for kind, problem in parsed.problems:
            notes.add(kind, problem, dropped=True)
        raw = is_raw((0, 0), header, self.kind.frame)
        stored, upright = (header.width, header.height), upright_size(header)
        objects = [_placed(shape, stored if raw else upright, self.kind.oriented) for shape in parsed.shapes]
        if raw:
            objects = [turned(one, stored, header.orientation) for one in objects]
        return clean(objects, upright, len(self.kind.names), notes)


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
        oriented=oriented and len(shape.outline) == 4,
    )


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8-sig", errors="replace") if path.stat().st_size <= _LONGEST else None
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
    """The objects of a label file, and what was wrong with other lines: a kind of `mend.KINDS` and a phrase each.

    named: how many objects are of a class that is named, not numbered.
    """

    shapes: tuple[Shape, ...]
    problems: tuple[tuple[str, str], ...] = ()
    named: int = 0


def parse(
    text: str, classes: int = 0, keypoint_shape: tuple[int, int] | None = None, names: Sequence[str] = ()
) -> Parsed:
    """Parse a label file; a line that is no object is a problem and left out.

    classes: their number, 0 when it is not known. keypoint_shape: points an object and numbers a point, in a pose set.
    names: of the classes, for lines that have one in the place of a number.
    """
    shapes, problems, named = [], [], 0
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        known = not _is_number(words[0]) and words[0] in names
        try:
            first = str(names.index(words[0])) if known else words[0]
            shapes.append(_shape([first, *words[1:]], classes, keypoint_shape))
            named += known
        except _Problem as problem:
            problems.append((problem.kind, f"line {number} skipped: {problem}"))
    return Parsed(tuple(shapes), tuple(problems), named)


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
    if points:
        raise _Problem(f"{len(words)} values, not class cx cy w h and {points} of its keypoints")
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


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _number(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        raise _Problem(f"{word[:20]} is not a number") from None
    if not math.isfinite(value):
        raise _Problem(f"{word} is not finite", "number")
    return value
