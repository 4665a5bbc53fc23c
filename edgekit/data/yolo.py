"""YOLO labels: a text file a picture, a line an object, coordinates as shares of the upright picture.

A line is `class cx cy w h`, a sixth value being a detector's confidence; `class x y x y x y ...` is a polygon, of which
the bounds are taken; in pose data sets (`kpt_shape` in data.yaml) keypoints follow the box. Where the label files lie
and what their lines mean follows Ultralytics (docs.ultralytics.com/datasets/detect).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.data.folder import Listing, Source
from edgekit.data.headers import Header
from edgekit.data.layout import Detections, Labels, annotate, make_labels, upright_size

if TYPE_CHECKING:
    Pair = tuple[Source, Path | None]

PICTURES = "images"
LABELS = ("labels", "labels_yolo")
# Folders inside a data set, above which its names may lie.
_INNER = {PICTURES, *LABELS, "train", "val", "valid", "test", "train2017", "val2017"}
_YAMLS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_LISTS = ("classes.txt", "obj.names", "classes.names")
_FAR = 0.5  # how far outside the picture, as a share of it, a corner is taken for sloppiness and not for another unit
_SAMPLE = 20  # label files with something in them that are tried before a folder is judged


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


def is_labelled(pairs: Sequence[Pair]) -> bool:
    """Tell whether the label files hold objects, by the first of them that are not empty."""
    tried = 0
    for _, path in pairs:
        text = _text(path) if path is not None else None
        if not text or text.isspace():
            continue
        if parse(text).objects:
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


def read(listing: Listing, pairs: Sequence[Pair]) -> Detections:
    """Read the label files that `find` gave, not none; what cannot be read is a warning, never an error."""
    warnings: list[str] = []
    files = [path for _, path in pairs if path is not None]
    places = _name_places(listing.root, files[0].parent)
    names, keypoints = _named(places), _keypoints(places)
    pictures = annotate(_entries(listing, pairs, len(names), keypoints, warnings), warnings)
    bare = len(pairs) - len(files)
    if bare:
        warnings.append(f"{bare} of {len(pairs)} pictures have no label file: taken as pictures without objects")
    return Detections(pictures, names, tuple(warnings), "yolo", files[0].parent)


def _entries(
    listing: Listing, pairs: Sequence[Pair], classes: int, keypoints: int, warnings: list[str]
) -> Iterator[tuple[Source, Callable[[Header], Labels]]]:
    root = listing.root.absolute()
    for source, path in pairs:
        text = _text(path) if path is not None else ""
        parsed = parse(text, classes, keypoints) if text is not None else Parsed((), ("cannot be read",))
        if parsed.problems and path is not None:
            shown = path.relative_to(root) if path.is_relative_to(root) else path
            more = f" (and {len(parsed.problems) - 1} more)" if len(parsed.problems) > 1 else ""
            warnings.append(f"{shown}: {parsed.problems[0]}{more}")
        yield source, partial(_placed, parsed)


def _placed(parsed: Parsed, header: Header) -> Labels:
    width, height = upright_size(header)
    return make_labels(
        (number, (x0 * width, y0 * height, x1 * width, y1 * height), False)
        for number, (x0, y0, x1, y1) in parsed.objects
    )


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8-sig", errors="replace")
    except OSError:
        return None


# ---- lines of a label file


@dataclass(frozen=True)
class Parsed:
    """The objects of a label file, (class, (x0, y0, x1, y1) as shares 0..1), and what was wrong with other lines."""

    objects: tuple[tuple[int, tuple[float, float, float, float]], ...]
    problems: tuple[str, ...] = ()


def parse(text: str, classes: int = 0, keypoints: int = 0) -> Parsed:
    """Parse a label file; boxes that reach outside the picture are clipped to it.

    classes: their number, 0 when it is not known. keypoints: values that follow each box in a pose data set. A line
    that is no object, or repeats one, is a problem and left out.
    """
    objects: dict[tuple[int, tuple[float, float, float, float]], None] = {}
    problems = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            found = _class(words[0], classes), _box(words[1:], keypoints)
        except ValueError as error:
            problems.append(f"line {number} skipped: {error}")
            continue
        if found in objects:
            problems.append(f"line {number} skipped: repeats another")
        objects[found] = None
    return Parsed(tuple(objects), tuple(problems))


def _class(word: str, classes: int) -> int:
    value = _number(word)
    if value < 0 or value != int(value):
        raise ValueError(f"{word} is not a class number")
    if classes and value >= classes:
        raise ValueError(f"class {word}, but there are names for {classes}")
    return int(value)


def _box(words: Sequence[str], keypoints: int) -> tuple[float, float, float, float]:
    values = [_number(word) for word in words]
    if len(values) in (4, 5) or (keypoints and len(values) == 4 + keypoints):
        cx, cy, w, h = values[:4]
        x0, y0, x1, y1 = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    elif len(values) >= 6 and len(values) % 2 == 0:
        x0, y0, x1, y1 = min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
    else:
        raise ValueError(f"{len(values) + 1} values, not class cx cy w h")
    if min(x0, y0) < -_FAR or max(x1, y1) > 1 + _FAR:
        raise ValueError("coordinates are not shares (0..1) of the picture")
    x0, y0, x1, y1 = (min(max(side, 0.0), 1.0) for side in (x0, y0, x1, y1))
    if x0 >= x1 or y0 >= y1:
        raise ValueError("an empty box")
    return x0, y0, x1, y1


def _number(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        raise ValueError(f"{word[:20]} is not a number") from None
    if not math.isfinite(value):
        raise ValueError(f"{word} is not finite")
    return value


# ---- names and shapes of the classes


def _name_places(root: Path, labels: Path) -> list[Path]:
    """List the folders in which names may lie: the root, those above while it is an inner folder, the labels' own."""
    folder = root.absolute()
    places = [folder]
    while folder.name.lower() in _INNER and folder != folder.parent:
        folder = folder.parent
        places.append(folder)
    return [*places, labels]


def _named(places: Sequence[Path]) -> tuple[str, ...]:
    for place in places:
        for path in _files(place, _YAMLS):
            if names := parse_names(_text(path) or ""):
                return names
        for path in _files(place, _LISTS):
            if lines := (_text(path) or "").rstrip().splitlines():
                return tuple(line.strip() for line in lines)
    return ()


def _keypoints(places: Sequence[Path]) -> int:
    for place in places:
        for path in _files(place, _YAMLS):
            shape = re.search(r"^kpt_shape\s*:\s*\[\s*(\d+)\s*,\s*(\d+)", _text(path) or "", re.MULTILINE)
            if shape:
                return int(shape[1]) * int(shape[2])
    return 0


def _files(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    return (folder / name for name in names if (folder / name).is_file())


# A quote opens a scalar at its beginning only: `man's hat` has none.
_QUOTED = r"(?<!\w)'(?:[^'\n]|'')*'|(?<!\w)\"(?:[^\"\\\n]|\\.)*\""
_HEAD = re.compile(r"^names\s*:[ \t]*(?P<rest>[^\n]*)", re.MULTILINE)
_FLOW = re.compile(rf"[\[{{](?P<body>(?:{_QUOTED}|[^\]}}])*)")
_COMMENT = re.compile(rf"(?P<quoted>{_QUOTED})|(?:^|(?<=\s))#[^\n]*", re.MULTILINE)
_ITEM = re.compile(rf"\s*(?:(?P<key>\d+)\s*:\s+)?(?P<name>{_QUOTED}|[^,'\"\s][^,]*)\s*(?:,|$)")
_LINE = re.compile(rf"\s*(?:-\s+|(?P<key>\d+)\s*:\s+)(?P<name>{_QUOTED}|\S.*?)\s*$")


def parse_names(text: str) -> tuple[str, ...]:
    """Read `names` of a data.yaml, a list or a mapping by number, in either of YAML's styles; () when there is none.

    That much of YAML is read here, so that edgekit needs no library for it.
    """
    text = _COMMENT.sub(lambda match: match["quoted"] or "", text)
    head = _HEAD.search(text)
    if head is None:
        return ()
    if head["rest"].strip():
        flow = _FLOW.match(text, head.start("rest"))
        found = [*_ITEM.finditer(flow["body"])] if flow else []
    else:
        found = [*_block(text[head.end() :])]
    pairs = [(int(match["key"] or position), _unquoted(match["name"])) for position, match in enumerate(found)]
    by_number = dict(pairs)
    if not pairs or max(by_number) > 100_000:
        return ()
    return tuple(by_number.get(number, str(number)) for number in range(max(by_number) + 1))


def _block(text: str) -> Iterator[re.Match[str]]:
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is not None:
            yield match
        elif line.strip():
            return


def _unquoted(name: str) -> str:
    name = name.strip()
    if name[:1] == "'":
        return name[1:-1].replace("''", "'")
    return re.sub(r"\\(.)", r"\1", name[1:-1]) if name[:1] == '"' else name
