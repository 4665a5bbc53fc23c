"""COCO labels: one JSON file with `images`, `annotations` and `categories` (cocodataset.org/#format-data).

Boxes are [x, y, width, height] in pixels of the size the file states. Category ids may be any numbers; classes are
their positions in the order of the ids, as detectors number them.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from edgekit.data.folder import Listing, Source
from edgekit.data.headers import Header
from edgekit.data.layout import Detections, Labels, annotate, make_labels, upright_size

# What the bytes of such a file contain: asked before 400 MB of something else are parsed.
_MARKS = (b'"images"', b'"annotations"', b'"categories"')
_FOLDER = "annotations"

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Document:
    """A JSON file that describes pictures, as it was read."""

    path: Path
    content: Mapping[str, Any]


# ---- where the file is


def find(listing: Listing) -> Document | None:
    """Find the file that describes most of the pictures; None when none describes any.

    Looked for in the folder, in `annotations` below it, and in both places one folder above.
    """
    best: tuple[int, Document] | None = None
    for path in _candidates(listing.root.absolute()):
        content = _load(path)
        if content is None:
            continue
        count = sum(source is not None for source in match(_file_names(content), listing.sources))
        if count and (best is None or count > best[0]):
            best = count, Document(path, content)
        if count == len(listing.sources):
            break
    return best[1] if best is not None else None


def _candidates(root: Path) -> list[Path]:
    """List the JSON files there are, those named after the folder first (instances_val2017.json for val2017)."""
    places = (root, root / _FOLDER, root.parent, root.parent / _FOLDER)
    found = [path for place in places for path in sorted(place.glob("*.json")) if path.is_file()]
    return sorted(found, key=lambda path: (root.name not in path.name, not path.name.startswith("instances")))


def _load(path: Path) -> Mapping[str, Any] | None:
    try:
        data = path.read_bytes()
        content = json.loads(data) if all(mark in data for mark in _MARKS) else None
    except (OSError, ValueError, RecursionError):
        return None
    return content if is_coco(content) else None


def is_coco(content: Any) -> bool:
    """Tell whether a JSON document describes objects with boxes."""
    if not isinstance(content, Mapping):
        return False
    parts = [content.get(key) for key in ("images", "annotations", "categories")]
    firsts = [part[0] for part in parts if isinstance(part, list) and part and isinstance(part[0], Mapping)]
    wanted = [{"id", "file_name"}, {"image_id", "category_id", "bbox"}, {"id", "name"}]
    return len(firsts) == 3 and all(keys <= first.keys() for keys, first in zip(wanted, firsts, strict=True))


def match(names: Sequence[str], sources: Sequence[Source]) -> list[Source | None]:
    """Find the picture of each file name: the one whose path ends with most of it; None when there is none.

    Names may have folders in front, of another machine too, in either kind of slashes. Of several pictures that fit
    alike one below a folder called `images` is taken, else the first; of several names that mean one picture
    (train/1.jpg and val/1.jpg in the folder val) the one that fits it best.
    """
    by_name: dict[str, list[Source]] = defaultdict(list)
    for source in sources:
        by_name[source.path.name].append(source)
    claims: dict[str, list[tuple[tuple[int, bool], int, Source]]] = defaultdict(list)
    for number, name in enumerate(names):
        wanted = PurePosixPath(name.replace("\\", "/"))
        fitting = by_name.get(wanted.name)
        if fitting:
            nearest = max(fitting, key=partial(_likeness, wanted))
            claims[nearest.key].append((_likeness(wanted, nearest), -number, nearest))
    chosen: list[Source | None] = [None] * len(names)
    for rivals in claims.values():
        _, negated, winner = max(rivals, key=lambda claim: claim[:2])
        chosen[-negated] = winner
    return chosen


def _likeness(wanted: PurePosixPath, source: Source) -> tuple[int, bool]:
    parts = source.path.absolute().parts
    pairs = zip(reversed(wanted.parts), reversed(parts), strict=False)
    alike = 0
    for one, other in pairs:
        if one != other:
            break
        alike += 1
    return alike, "images" in source.key.split("/")


def _file_names(content: Mapping[str, Any]) -> list[str]:
    return [str(image["file_name"]) for image in _dicts(content["images"]) if "file_name" in image]


# ---- reading


def read(listing: Listing, document: Document) -> Detections:
    """Read the labels of the pictures that `document` describes; what is wrong in it is a warning, never an error."""
    parsed = parse(document.content)
    warnings = [f"{document.path.name}: {problem}" for problem in parsed.problems]
    sources = match([image.name for image in parsed.images], listing.sources)
    pairs = [(source, image) for source, image in zip(sources, parsed.images, strict=True) if source is not None]
    missing = sum(source is None for source in sources)
    if missing:
        warnings.append(f"{document.path.name}: {missing} of its {len(sources)} pictures are not in {listing.root}")
    pictures = annotate(_entries(pairs, warnings), warnings)
    return Detections(pictures, parsed.names, tuple(warnings), "coco", document.path)


def _entries(
    pairs: Iterable[tuple[Source, Image]], warnings: list[str]
) -> Iterator[tuple[Source, Callable[[Header], Labels]]]:
    for source, image in pairs:
        yield source, partial(_placed, source.key, image, warnings)


def _placed(key: str, image: Image, warnings: list[str], header: Header) -> Labels:
    """Bring boxes from the frame that the file states into the upright picture's."""
    upright, stored = upright_size(header), (header.width, header.height)
    stated = (image.width, image.height)
    if stated not in (upright, (0, 0)) and stated == stored:
        # Labelled on the picture as it is stored, by a tool that does not know orientation.
        return make_labels((one.number, turned(one.box, header), one.crowd) for one in image.objects)
    across, down = 1.0, 1.0
    if stated not in (upright, (0, 0)):
        across, down = upright[0] / stated[0], upright[1] / stated[1]
        shown = f"{stated[0]}x{stated[1]}, the picture is {upright[0]}x{upright[1]}"
        warnings.append(f"{key}: labelled at {shown}: boxes scaled")
    scale = (across, down, across, down)
    return make_labels(
        (one.number, tuple(side * factor for side, factor in zip(one.box, scale, strict=True)), one.crowd)
        for one in image.objects
    )


def turned(box: Box, header: Header) -> Box:
    """Turn a box from the picture as stored to the upright one, for EXIF orientations 5..8, which swap the sides."""
    x0, y0, x1, y1 = box
    width, height = header.width, header.height
    left, right = (height - y1, height - y0) if header.orientation in (6, 7) else (y0, y1)
    top, bottom = (width - x1, width - x0) if header.orientation in (7, 8) else (x0, x1)
    return left, top, right, bottom


# ---- the document


@dataclass(frozen=True)
class Object:
    """One annotation: its class (a position in the names), its box x0 y0 x1 y1 in pixels, and whether it is a crowd."""

    number: int
    box: Box
    crowd: bool


@dataclass(frozen=True)
class Image:
    """One picture of the document; width and height are 0 when it does not state them."""

    name: str
    width: int
    height: int
    objects: tuple[Object, ...]


@dataclass(frozen=True)
class Parsed:
    """A whole document: its pictures in its order, class names by position, and what was wrong, each kind counted."""

    images: tuple[Image, ...]
    names: tuple[str, ...]
    problems: tuple[str, ...] = ()


def parse(content: Mapping[str, Any]) -> Parsed:
    """Parse a document; boxes stay as they are, those without an area or a known class or picture are problems."""
    categories = {one["id"]: str(one.get("name", one["id"])) for one in _dicts(content["categories"]) if "id" in one}
    order = sorted(categories, key=lambda number: (isinstance(number, str), number))
    position = {category: index for index, category in enumerate(order)}
    known = {str(image.get("id")) for image in _dicts(content["images"])}
    objects: dict[str, list[Object]] = defaultdict(list)
    problems: Counter[str] = Counter()
    for annotation in _dicts(content["annotations"]):
        try:
            picture = str(annotation.get("image_id"))
            if picture not in known:
                raise ValueError("of no picture in the file")
            objects[picture].append(_object(annotation, position))
        except ValueError as error:
            problems[str(error)] += 1
    images = tuple(
        Image(str(one["file_name"]), _side(one, "width"), _side(one, "height"), tuple(objects[str(one.get("id"))]))
        for one in _dicts(content["images"])
        if "file_name" in one
    )
    told = tuple(f"{count} annotation(s) skipped: {problem}" for problem, count in problems.items())
    return Parsed(images, tuple(categories[category] for category in order), told)


def _object(annotation: Mapping[str, Any], position: Mapping[Any, int]) -> Object:
    category = annotation.get("category_id")
    if not isinstance(category, (int, str)) or category not in position:
        raise ValueError("of no category in the file")
    try:
        x, y, width, height = (float(side) for side in annotation.get("bbox", ()))
    except (TypeError, ValueError):
        raise ValueError("without a box of four numbers") from None
    if not all(map(math.isfinite, (x, y, width, height))) or width <= 0 or height <= 0:
        raise ValueError("an empty box")
    return Object(position[category], (x, y, x + width, y + height), bool(annotation.get("iscrowd")))


def _side(image: Mapping[str, Any], key: str) -> int:
    value = image.get(key)
    return int(value) if isinstance(value, (int, float)) and value > 0 else 0


def _dicts(part: Any) -> Iterator[Mapping[str, Any]]:
    return (one for one in part if isinstance(one, Mapping))
