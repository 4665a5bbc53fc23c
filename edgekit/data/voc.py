"""Pascal VOC labels: an XML file a picture (host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc, section 6).

VOC counts pixels from 1 and means both ends: a box covers xmin - 1 .. xmax in `sample.py`'s coordinates. Tools that
write fractions, or 0 for the picture's edge, mean those coordinates themselves; the whole set decides which it is.

Beyond VOC, objects may have a turned box (roLabelImg's `robndbox`: cx, cy, w, h, and the angle in radians, clockwise)
or outlines (`polygon`: x1, y1, x2, ..., or LabelMe's `pt` with x and y), in those coordinates.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from edgekit.data import dataset_yaml, outline, splits
from edgekit.data.dataset import Dataset, Entry
from edgekit.data.folder import LEADS_OUTSIDE, Listing, Source
from edgekit.data.frame import place, upright_size
from edgekit.data.headers import Header
from edgekit.data.masks import of_single_objects
from edgekit.data.mend import Mended, Notes, clean
from edgekit.data.sample import Object
from edgekit.lazy import np
from edgekit.words import counted

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from numpy import ndarray

    from edgekit.data.dataset import Maker

    Pair = tuple[Source, Path | None]

PICTURES = ("JPEGImages", "images")
LABELS = ("Annotations", "annotations", "labels_voc", "labels", "xml", "xmls")
SETS = "ImageSets"
MASKS = "SegmentationClass"
FLAGS = ("pose", "truncated", "difficult", "occluded")  # what VOC says of an object beyond its class and box
OF_OBJECT = ("name", "bndbox", "robndbox", "polygon", "part")
_OF_PICTURE = ("filename", "path", "size", "object")
_SAMPLE = 20  # files that are tried before a folder is judged
_LONGEST = 1 << 24  # bytes of a label file


def finder(listing: Listing, asked: bool) -> Maker | None:
    """Look for label files of this layout; what is found reads them."""
    pairs = find(listing)
    files = [path for _, path in pairs if path is not None]
    if not files or not (asked or any(_tree(path) is not None for path in files[:_SAMPLE])):
        return None
    return partial(read, listing, pairs)


# ---- where the files are


def find(listing: Listing) -> list[Pair]:
    """Pair each picture with its XML file, None when it has none; no pairs without such files.

    A file is found by putting `Annotations` (or a like word) in the place of the last `JPEGImages` or `images` in the
    picture's path, below the picture's own folder, or beside the picture. Pictures away from those that have one are
    passed over, such as masks.
    """
    pairs: list[Pair] = []
    homes: set[Path] = set()
    known: dict[Path, list[tuple[Path, frozenset[str]]]] = {}
    for source in listing.sources:
        path = source.path.absolute()
        home = path.parent
        if home not in known:
            known[home] = [(folder, names) for folder in _places(home) if (names := _names(folder))]
        name = path.stem + ".xml"
        found = next((folder / name for folder, names in known[home] if name in names), None)
        pairs.append((source, found))
        if found is not None:
            homes.add(home)
    if not homes:
        return []
    return [(source, file) for source, file in pairs if file is not None or source.path.absolute().parent in homes]


def _names(folder: Path) -> frozenset[str]:
    return frozenset(path.name for path in folder.glob("*.xml")) if folder.is_dir() else frozenset()


def _places(home: Path) -> Iterator[Path]:
    """List the folders that the label files of a folder's pictures may be in."""
    parts = home.parts
    last = max((place for place, part in enumerate(parts) if part in PICTURES), default=None)
    if last is not None:
        yield from (Path(*parts[:last], label, *parts[last + 1 :]) for label in LABELS)
    yield from (home / label for label in LABELS)
    yield home


# ---- reading


@dataclass
class _Survey:
    """What all files together tell: the classes, whether coordinates are VOC's own, plain texts about each picture."""

    names: set[str] = field(default_factory=set)
    extra: dict[Path, Mapping[str, str]] = field(default_factory=dict)
    boxes: int = 0
    fractions: int = 0
    edges: Counter[float] = field(default_factory=Counter)
    outlined: bool = False
    oriented: bool = False
    _shared: dict[tuple[tuple[str, str], ...], Mapping[str, str]] = field(default_factory=dict)

    def add(self, path: Path, tree: Element) -> None:
        """Take in one file."""
        texts = {child.tag: _text(tree, child.tag) for child in tree if child.tag not in _OF_PICTURE and not len(child)}
        self.extra[path] = self._shared.setdefault(tuple(texts.items()), texts)
        for one in tree.findall("object"):
            self.names |= {_text(one, "name")} - {""}
            self.outlined = self.outlined or one.find("polygon") is not None
            self.oriented = self.oriented or one.find("robndbox") is not None
            box = _corners(one)
            if box is None:
                continue
            self.boxes += 1
            self.fractions += any(side != int(side) for side in box if math.isfinite(side))
            self.edges.update(box[:2])

    @property
    def form(self) -> str:
        """Tell `Dataset.form`."""
        return "oriented" if self.oriented else "outline" if self.outlined else "box"

    @property
    def offset(self) -> float:
        """What is taken off xmin and ymin: 1 when pixels are counted from 1."""
        # VOC2012 itself has a few boxes with fractions.
        return 0.0 if self.fractions > self.boxes / 10 or self.edges[0.0] > self.edges[1.0] else 1.0


def read(listing: Listing, pairs: Sequence[Pair], frame: str = "auto") -> Dataset:
    """Read the label files that `find` gave, not none; what cannot be read is a note, never an error."""
    notes = of_single_objects(listing)
    survey = _Survey()
    files = [path for _, path in pairs if path is not None]
    paired = _adopt(pairs, files, notes)
    every = [path for _, path in paired if path is not None]
    outside = listing.leading_outside(every)
    for file in (file for file in every if file not in outside):
        tree = _tree(file)
        if tree is not None:
            survey.add(file, tree)
    bare = sum(path is None for _, path in paired)
    if bare:
        what = f"{bare} of {counted(len(paired), 'picture')} without a label file: taken as without objects"
        notes.append(Mended(files[0].parent.name, "labels", what, count=bare))
    if survey.boxes and not survey.offset:
        what = "coordinates are fractions or begin at 0: taken as they are, not as VOC's, which begin at 1"
        notes.append(Mended(files[0].parent.name, "frame", what))
    names = _class_names(listing.root, files[0].parent, survey.names)
    position = {name: number for number, name in enumerate(names)}
    sets = _image_sets(listing)
    masks = _masks(listing)
    entries = []
    for source, path in sorted(paired, key=lambda pair: pair[0].key):
        stem = _stem(source)
        split = sets.get(stem) or sets.get(stem.rpartition("/")[2]) or splits.of_folders(source.key)
        extra = survey.extra.get(path, {}) if path is not None else {}
        loader = _File(path, position, survey.offset, frame, path in outside)
        entries.append(Entry(source, split, mask=masks.get(stem), extra=extra, loader=loader))
    found = splits.ordered(one.split for one in entries)
    return Dataset(
        listing.root,
        "voc",
        tuple(entries),
        names,
        found,
        origin=files[0].parent,
        mended=tuple(notes),
        form=survey.form,
    )


def _adopt(pairs: Sequence[Pair], files: Sequence[Path], notes: list[Mended]) -> list[Pair]:
    """Give files without a picture of their name to the picture they state; note those that state none."""
    known = set(files)
    others = [path for folder in sorted({path.parent for path in files}) for path in sorted(folder.glob("*.xml"))]
    stated: dict[str, Path] = {}
    for path in (path for path in others if path not in known):
        tree = _tree(path)
        name = _text(tree, "filename").replace("\\", "/").rpartition("/")[2] if tree is not None else ""
        if tree is not None and any(source.path.name == name and file is None for source, file in pairs):
            stated[name] = path
        else:
            notes.append(Mended(path.name, "picture", "a label file without a picture", dropped=True))
    return [(source, path or stated.get(source.path.name)) for source, path in pairs]


def _class_names(root: Path, labels: Path, found: set[str]) -> tuple[str, ...]:
    """Give the names in the order of a list that has them all, else sorted."""
    listed = dataset_yaml.read(root, labels, []).names
    return listed if found <= set(listed) else tuple(sorted(found))


def _image_sets(listing: Listing) -> dict[str, str]:
    """Read ImageSets: split by name without suffix; `trainval` alone means train."""
    split: dict[str, str] = {}
    base = listing.root.absolute()
    folders = {source.path.absolute().parent for source in listing.sources}
    homes = {above.parent for folder in folders for above in (folder, *folder.parents) if above.name in PICTURES}
    inner = sorted(home for home in homes if home.is_relative_to(base))
    places = [above / SETS / part for above in (base, base.parent, *inner) for part in ("Main", "Segmentation", "")]
    for name in ("train", "val", "valid", "test", "trainval"):
        for path in (folder / f"{name}.txt" for folder in places):
            try:
                lines = path.read_text("utf-8-sig", errors="replace").splitlines() if path.is_file() else []
            except OSError:
                lines = []
            for line in lines:
                if line.strip():
                    meant = splits.of_word(name) or splits.TRAIN
                    split.setdefault(line.strip().removesuffix(".jpg").removesuffix(".png"), meant)
    return split


def _stem(source: Source) -> str:
    """Give a picture's path without suffix, below its folder of pictures."""
    parts = source.key.rpartition(".")[0].split("/")
    last = max((place for place, part in enumerate(parts[:-1]) if part in PICTURES), default=-1)
    return "/".join(parts[last + 1 :])


def _masks(listing: Listing) -> dict[str, Path]:
    """Give the class masks by the path below their folder, without suffix."""
    found = {}
    for source in listing.sources:
        parts = source.key.rpartition(".")[0].split("/")
        if MASKS in parts[:-1]:
            found["/".join(parts[parts.index(MASKS) + 1 :])] = source.path
    return found


@dataclass(frozen=True)
class _File:
    """Reads a label file; without one, or when it is refused, there are no objects."""

    path: Path | None
    position: Mapping[str, int]
    offset: float
    frame: str
    refused: bool = False

    def objects(self, header: Header, notes: Notes) -> tuple[Object, ...]:
        """Read the objects, in pixels of the upright picture."""
        if self.refused:
            notes.add("file", f"its label file is {LEADS_OUTSIDE}", dropped=True)
            return ()
        tree = _tree(self.path) if self.path is not None else None
        if tree is None:
            if self.path is not None:
                notes.add("file", "its label file cannot be read", dropped=True)
            return ()
        found = [(one, self.position.get(_text(one, "name"))) for one in tree.findall("object")]
        unnamed = sum(number is None for _, number in found)
        if unnamed:
            notes.add("class", "an object without a name", dropped=True, count=unnamed)
        made = [self._object(one, number, notes) for one, number in found if number is not None]
        stated = (_side(tree, "width"), _side(tree, "height"))
        objects = [one for one in made if one is not None]
        placed = place(objects, stated if all(stated) else (0, 0), header, self.frame, notes)
        return clean(placed, upright_size(header), len(self.position), notes)

    def _object(self, one: Element, number: int, notes: Notes) -> Object | None:
        corners = _corners(one)
        turned = _turned(one)
        polygons = (turned,) if turned is not None else tuple(filter(len, map(_polygon, one.findall("polygon"))))
        around = outline.bounds(polygons)
        if corners is None and around is None:
            notes.add("number", f"{_text(one, 'name')[:40] or 'an object'} without a box of four numbers", dropped=True)
            return None
        for tag, read in (("robndbox", int(turned is not None)), ("polygon", len(polygons))):
            if len(one.findall(tag)) > read:
                notes.add("outline", f"a {tag} that cannot be read", dropped=True)
        box = around if corners is None else self._box(corners, notes)
        assert box is not None
        extra: dict[str, Any] = {
            child.tag: (child.text or "").strip() for child in one if child.tag not in OF_OBJECT and not len(child)
        }
        nested = [child.tag for child in one if child.tag not in OF_OBJECT and len(child)]
        if nested:
            notes.add("lost", f"<{nested[0]}> of an object is not read", dropped=True, count=len(nested))
        parts = [self._object(part, 0, notes) for part in one.findall("part")]
        named = [
            Object(part.number, part.box, extra={"name": _text(found, "name")})
            for part, found in zip(parts, one.findall("part"), strict=True)
            if part is not None
        ]
        if named:
            extra["parts"] = tuple(named)
        return Object(number, box, polygons, oriented=turned is not None, extra=extra)

    def _box(self, corners: Sequence[float], notes: Notes) -> ndarray:
        x0, y0, x1, y1 = corners
        if x0 > x1 or y0 > y1:
            notes.add("reversed", "corners of a box swapped")
        x0, x1, y0, y1 = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
        return np.array([x0 - self.offset, y0 - self.offset, x1, y1], np.float64)


def _tree(path: Path) -> Element | None:
    """Parse a file; None when it is not XML, not an annotation, or declares entities."""
    try:
        if path.stat().st_size > _LONGEST:
            return None
        data = path.read_bytes()
        tree = ElementTree.fromstring(data) if b"<!ENTITY" not in data else None
    except (OSError, ElementTree.ParseError, ValueError, LookupError):
        return None
    return tree if tree is not None and tree.tag == "annotation" else None


def _text(element: Element, tag: str) -> str:
    return (element.findtext(tag) or "").strip()


def _corners(one: Element) -> tuple[float, float, float, float] | None:
    box = one.find("bndbox")
    if box is None:
        return None
    try:
        x0, y0, x1, y1 = (float(_text(box, tag)) for tag in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError:
        return None
    return x0, y0, x1, y1


def _turned(one: Element) -> ndarray | None:
    """Give the corners of a turned box, 4x2; None when there is none, or its numbers are not."""
    box = one.find("robndbox")
    if box is None:
        return None
    try:
        cx, cy, width, height, angle = (float(_text(box, tag)) for tag in TURNED)
    except ValueError:
        return None
    if not all(map(math.isfinite, (cx, cy, width, height, angle))):
        return None
    cos, sin = math.cos(angle), math.sin(angle)
    half = np.array(outline.SQUARE) * (width / 2, height / 2)
    corners: ndarray = half @ np.array([[cos, sin], [-sin, cos]]) + (cx, cy)
    return corners


TURNED = ("cx", "cy", "w", "h", "angle")


def _polygon(element: Element) -> ndarray:
    """Read an outline, Mx2; 0x2 when it is none of three or more points."""
    texts = {child.tag: child.text for child in element}
    points = element.findall("pt")
    try:
        if points:
            rows = [(float(_text(point, "x")), float(_text(point, "y"))) for point in points]
        else:
            count = sum(tag[:1] == "x" for tag in texts)
            rows = [(float(texts[f"x{n}"] or ""), float(texts[f"y{n}"] or "")) for n in range(1, count + 1)]
    except (KeyError, ValueError):
        rows = []
    return np.array(rows if len(rows) >= 3 else (), np.float64).reshape(-1, 2)


def _side(tree: Element, tag: str) -> int:
    try:
        value = float(tree.findtext(f"size/{tag}") or 0)
    except ValueError:
        return 0
    return int(value) if 0 < value < 1e6 else 0
