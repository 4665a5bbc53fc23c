"""Data sets: labelled pictures whichever layout they are in; labels are parsed and read without decoding a pixel.

Objects are in `Sample`'s frame: continuous pixels of the upright picture, x to the right and y down from the top left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgekit.data import folder, splits
from edgekit.data.folder import Listing, Source, scan
from edgekit.data.frame import FRAMES, upright_size
from edgekit.data.headers import Header, Unreadable, read_header
from edgekit.data.mend import Mended, Notes
from edgekit.errors import EdgekitError
from edgekit.spec import nearest

if TYPE_CHECKING:
    from edgekit.data.masks import Mask
    from edgekit.data.sample import Object

# In the order in which they are looked for; `none`: pictures alone.
KINDS = ("coco", "yolo", "voc", "masks", "folder", "none")
UNLABELLED = ("folder", "none")  # of objects
LARGEST = 1 << 32  # bytes of a picture's file


class Loader(Protocol):
    """Where the objects of one picture come from."""

    def objects(self, header: Header, notes: Notes) -> tuple[Object, ...]:
        """Read them, mended, in the upright picture; what is wrong is a note, never an error."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """The labels of one picture: its objects, its upright size in pixels, and what was mended."""

    objects: tuple[Object, ...]
    width: int
    height: int
    mended: tuple[Mended, ...]


@dataclass(frozen=True, eq=False)
class Entry:
    """One picture of a data set; its header and its labels are read when they are asked for, and not kept.

    label: the class path, of class folders only. mask: its mask file. extra: what the layout says of the picture beyond
    labels, kept as it is. group: of the pictures that stay together; layouts say none.
    """

    source: Source
    split: str | None = None
    label: str | None = None
    mask: Path | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    loader: Loader | None = None
    group: str | None = None

    @property
    def key(self) -> str:
        """The path below the data set's root."""
        return self.source.key

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, upright, from the header; raises Unreadable or OSError."""
        return upright_size(self.header())

    @property
    def objects(self) -> tuple[Object, ...]:
        """The objects, read anew each time; raises Unreadable or OSError when the header cannot be read."""
        return self.read().objects

    def header(self) -> Header:
        """Read the header of the picture; raises Unreadable or OSError."""
        header = read_header(folder.read(self.source, LARGEST))
        if not header.width or not header.height:
            raise Unreadable(f"{header.format} pictures are not read")
        return header

    def read(self, header: Header | None = None) -> Labelled:
        """Read the labels; give the header when it is known, else it is read (raises Unreadable or OSError)."""
        header = self.header() if header is None else header
        notes = Notes(self.key)
        objects = self.loader.objects(header, notes) if self.loader is not None else ()
        width, height = upright_size(header)
        return Labelled(objects, width, height, tuple(notes.rows))

    def read_mask(self, header: Header | None = None) -> tuple[Mask | None, tuple[Mended, ...]]:
        """Decode the mask file, brought to the upright picture's size; None without one, or when it is unreadable."""
        from edgekit.data import masks

        if self.mask is None:
            return None, ()
        notes = Notes(self.key)
        mask = masks.load(self.mask, self.header() if header is None else header, notes)
        return mask, tuple(notes.rows)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled pictures, in the order of their keys.

    kind: one of KINDS. names: of the classes, in the order of their numbers; empty when nothing says them. splits: the
    names of those there are. keypoint_shape: how many points an object has, and 2 or 3 numbers a point. flip_index: for
    each point the one that takes its place in a mirrored picture; empty when that is not known. about: what the layout
    says of the whole set, for the writer of the same layout. origin: the labels' file or folder. mended: what was wrong
    with the set as a whole; each entry's own notes come when it is read. form: what its objects have: `box`, `outline`
    (some do), or `oriented` (turned boxes).
    """

    root: Path
    kind: str
    entries: tuple[Entry, ...]
    names: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    keypoint_shape: tuple[int, int] | None = None
    keypoint_names: tuple[str, ...] = ()
    flip_index: tuple[int, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    origin: Path = Path()
    mended: tuple[Mended, ...] = ()
    form: str = "box"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was wrong with the set as a whole, a sentence each."""
        return tuple(str(note) for note in self.mended)

    def notes(self) -> Iterator[Mended]:
        """Read every label once and give all that is wrong, the set's own first; unreadable pictures are notes too."""
        yield from self.mended
        for entry in self.entries:
            try:
                yield from entry.read().mended
            except (Unreadable, OSError) as error:
                yield unreadable(entry.key, error)


def unreadable(key: str, error: Unreadable | OSError) -> Mended:
    """Note a picture whose header cannot be read."""
    reason = error.message if isinstance(error, Unreadable) else error.strerror or "cannot be read"
    return Mended(key, "picture", f"left out: {reason}", dropped=True)


# ---- which layout


def recognise(root: Path | Listing) -> str:
    """Tell which of KINDS a folder of pictures is; when it is several, the first in their order.

    Raises EdgekitError when there is no such folder or no picture in it.
    """
    listing = scan(root) if isinstance(root, Path) else root
    finders = _finders()
    return next(kind for kind in KINDS if finders[kind](listing, False) is not None)


def read(root: Path | Listing, kind: str | None = None, frame: str = "auto") -> Dataset:
    """Read a labelled data set; `kind` is one of KINDS, None to recognise it.

    frame: `upright` or `raw` (the picture as stored, before EXIF orientation) say what coordinates are of; `auto` goes
    by the size that a label file states, upright when it states none. What is wrong in label files is mended or set
    aside with a note. Raises EdgekitError when there is no such folder, no picture in it, or no labels of that kind.
    """
    if kind is not None and kind not in KINDS:
        near = nearest(kind, KINDS)
        raise EdgekitError(f"{kind}: no such form of labels", f"did you mean {near}?" if near else f"use {KINDS}")
    if frame not in FRAMES:
        raise EdgekitError(f"{frame}: no such frame of labels", f"use one of {', '.join(FRAMES)}")
    listing = scan(root) if isinstance(root, Path) else root
    for one in KINDS if kind is None else (kind,):
        made = _finders()[one](listing, kind is not None)
        if made is not None:
            found = made(frame)
            return replace(found, mended=_unread(listing)) if kind is None and one in UNLABELLED else found
    raise EdgekitError(f"{listing.root}: no {f'{kind} ' if kind else ''}labels found", HINTS[kind or "none"])


HINTS = {
    "coco": "give a .json with images, annotations and categories in the folder or the one above",
    "yolo": "give labels/NAME.txt for images/NAME.jpg, or NAME.txt beside NAME.jpg",
    "voc": "give Annotations/NAME.xml for JPEGImages/NAME.jpg, or NAME.xml beside NAME.jpg",
    "masks": "give masks/NAME.png for images/NAME.jpg, or NAME_mask.png beside NAME.jpg",
    "folder": "give one folder a class",
    "none": "give COCO, YOLO, Pascal VOC, masks or class folders",
}

if TYPE_CHECKING:
    Maker = Callable[[str], Dataset]
    Finder = Callable[[Listing, bool], Maker | None]


def _finders() -> Mapping[str, Finder]:
    """Give what looks for each kind: from a listing, and whether it was asked for, to what reads it, or None."""
    # The layouts are tenants of this module: they make its types.
    from edgekit.data import coco, masks, voc, yolo

    return {
        "coco": coco.finder,
        "yolo": yolo.finder,
        "voc": voc.finder,
        "masks": masks.finder,
        "folder": _class_folders,
        "none": _pictures,
    }


def _unread(listing: Listing) -> tuple[Mended, ...]:
    from edgekit.data.unread import unread

    return unread(listing)


def _class_folders(listing: Listing, asked: bool) -> Maker | None:
    """Read class folders, in split folders or not; the folders at the top are splits when all of them are called so.

    Pictures beside split folders are in no split; a single folder called `test` with all pictures in it is a class.
    """
    inside = [source.key for source in listing.sources if "/" in source.key]
    tops = {key.split("/")[0] for key in inside}
    loose = len(inside) < len(listing.sources)
    deeper = all(key.count("/") > 1 for key in inside)
    split = bool(tops) and all(splits.of_word(top) is not None for top in tops)
    split = split and (deeper or loose or len(tops) > 1)
    unlabelled = all(_tells_no_class(key) for key in inside)
    if not tops or ((unlabelled or (split and not deeper)) and not asked):
        return None

    def entry(source: Source) -> Entry:
        if not split or "/" not in source.key:
            return Entry(source, None, source.label)
        top, _, rest = source.key.partition("/")
        return Entry(source, splits.of_word(top), rest.rpartition("/")[0] or None)

    def make(frame: str) -> Dataset:
        entries = tuple(entry(source) for source in listing.sources)
        names = tuple(sorted({one.label for one in entries if one.label is not None}))
        found = splits.ordered(one.split for one in entries)
        return Dataset(listing.root, "folder", entries, names, found, origin=listing.root)

    return make


def _tells_no_class(key: str) -> bool:
    """Tell whether a picture lies in a folder of pictures and split folders alone (images/train/1.jpg)."""
    top, *others, _ = key.split("/")
    pictures = top.lower() in ("images", "imgs", "image", "img", "jpegimages")
    return pictures and all(splits.of_word(folder) is not None for folder in others)


def _pictures(listing: Listing, asked: bool) -> Maker:
    """Take pictures alone, with the splits that their folders tell."""

    def make(frame: str) -> Dataset:
        entries = tuple(Entry(source, splits.of_folders(source.key)) for source in listing.sources)
        found = splits.ordered(one.split for one in entries)
        return Dataset(listing.root, "none", entries, (), found, origin=listing.root)

    return make
