"""Masks: a picture of class numbers for each picture, in a folder of its own or beside it.

`masks/a.png` belongs to `images/a.jpg`, `a_mask.png` to `a.jpg`, `gtFine/x_gtFine_labelIds.png` to
`leftImg8bit/x_leftImg8bit.png`. Value 0 is background, 255 of 8 bits means not labelled, and value v is class v - 1.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from struct import pack, unpack_from
from typing import TYPE_CHECKING

from edgekit.data import images, outline, splits
from edgekit.data.dataset import LARGEST, Dataset, Entry
from edgekit.data.folder import Listing, Source, scan
from edgekit.data.folder import read as read_file
from edgekit.data.frame import turned_pixels, upright_size
from edgekit.data.headers import Header, Unreadable, read_header
from edgekit.data.mend import Mended, Notes
from edgekit.data.sample import Object
from edgekit.errors import EdgekitError
from edgekit.lazy import cv2, np
from edgekit.words import counted

if TYPE_CHECKING:
    from numpy import ndarray

    from edgekit.data.dataset import Maker

NAMES = "mask_classes.txt"  # the class of value v is its line v, counted from 0
VOID = 255
_LARGER = 16  # how many times the pixels of its picture a mask may have
PICTURES = ("images", "imgs", "image", "img", "jpegimages", "leftimg8bit")
_MASKS = (
    "masks", "mask", "masks_semantic", "labels", "labels_mask", "label", "annotations", "segmentationclass", "gtfine",
    "gtcoarse", "gt", "segmentation", "segmentations", "semantic",
)  # fmt: skip
# What a mask's name may end with, the most wanted first; those beside their pictures need one of the plain ones.
_BESIDE = ("_mask", "-mask", "_masks", "_label", "-label", "_labels", "_seg", "_segmentation")
_ENDINGS = (
    "_gtfine_labeltrainids", "_gtfine_labelids", "_gtcoarse_labelids", "_labeltrainids", "_labelids",
    *_BESIDE, "_semantic", "_gt", "_l",
)  # fmt: skip
_OF_OBJECTS = "segmentationobject"  # VOC's masks of single objects, which are not read
_OTHERS = ("_color", "_instanceids", "_instancetrainids", "_instances", "_overlay", "_viz")
_PICTURE_ENDINGS = ("_leftimg8bit", "_sat", "_image", "_img")
_SUFFIXES = ("png", "bmp", "gif", "tif", "tiff", "pgm")
_LOSSLESS = ("png", "bmp", "gif", "tiff", "pnm", "sunras")


# ---- which mask belongs to which picture


def finder(listing: Listing, asked: bool) -> Maker | None:
    """Look for masks: at least half of the pictures have one, or some when they were asked for."""
    pairs, others = find(listing)
    found = sum(path is not None for path in pairs.values())
    if not found or not (asked or 2 * found >= len(pairs)):
        return None
    return partial(read, listing, pairs, others)


def find(listing: Listing) -> tuple[dict[Source, Path | None], tuple[Source, ...]]:
    """Pair each picture with its mask, None when it has none; and the masks of no picture, or refused."""
    masks: dict[_Identity, list[tuple[int, str, Source]]] = {}
    pictures: list[Source] = []
    owned: list[tuple[Source, list[_Identity]]] = []
    for source in [*listing.sources, *_beside(listing)]:
        claims = _claims(source)
        if claims is None:
            pictures.append(source)
            continue
        for rank, identity in claims:
            masks.setdefault(identity, []).append((rank, source.key, source))
        owned.append((source, [identity for _, identity in claims]))
    known = {_identity(source) for source in pictures}
    for source, claimed in owned:
        # What only its name makes a mask is a picture when there is none that it could belong to.
        if claimed and not _in_folder(source) and not known & set(claimed):
            pictures.append(source)
    pairs: dict[Source, Path | None] = {}
    for source in pictures:
        fitting = [one for one in masks.get(_identity(source), []) if one[2] is not source and not one[2].refused]
        pairs[source] = min(fitting)[2].path if fitting else None
    left = [
        source
        for source, claimed in owned
        if _in_folder(source) and claimed and (source.refused or not known & set(claimed))
    ]
    return pairs, tuple(sorted(left, key=lambda source: source.key))


def _beside(listing: Listing) -> tuple[Source, ...]:
    """Give the masks beside a folder of pictures that was given itself."""
    above = listing.root.absolute()
    if above.name.lower() not in PICTURES:
        return ()
    found: list[Source] = []
    for folder in sorted(above.parent.iterdir()):
        if folder.name.lower() in _MASKS and folder.is_dir() and not folder.name.startswith("."):
            try:
                inner = scan(folder, listing.links).sources
            except EdgekitError:
                continue
            found += [replace(one, key=f"{folder.name}/{one.key}") for one in inner]
    return tuple(found)


_Identity = tuple[str, ...]


def _in_folder(source: Source) -> bool:
    return any(folder in _MASKS for folder in source.key.lower().split("/")[:-1])


def _claims(source: Source) -> list[tuple[int, _Identity]] | None:
    """Give which pictures a mask may belong to, each with how unlikely its name makes it; None for what is no mask."""
    *folders, name = source.key.lower().split("/")
    stem, _, suffix = name.rpartition(".")
    places = tuple(folder for folder in folders if folder not in (*_MASKS, *PICTURES))
    if _OF_OBJECTS in folders:
        return []
    inside = _in_folder(source)
    endings = [ending for ending in _ENDINGS if stem.endswith(ending) and (inside or ending in _BESIDE)]
    if not inside and (not endings or suffix not in _SUFFIXES):
        return None
    if stem.endswith(_OTHERS):
        return []
    found = [(_ENDINGS.index(ending) + 1, (*places, stem.removesuffix(ending))) for ending in endings]
    return [(0, (*places, _bare(stem))), *found] if inside else found


def _bare(stem: str) -> str:
    """Take off what marks a picture as one."""
    for ending in _PICTURE_ENDINGS:
        stem = stem.removesuffix(ending)
    return stem


def _identity(source: Source) -> _Identity:
    *folders, name = source.key.lower().split("/")
    return (*(folder for folder in folders if folder not in PICTURES), _bare(name.rpartition(".")[0]))


# ---- reading


def read(
    listing: Listing, pairs: Mapping[Source, Path | None], others: Sequence[Source], frame: str = "auto"
) -> Dataset:
    """Read pictures and the masks that `find` gave; what is missing is a note, never an error."""
    notes = of_single_objects(listing)
    for source in others:
        what = f"a mask is left out: {source.refused}" if source.refused else "a mask without a picture"
        notes.append(Mended(source.key, "picture", what, dropped=True))
    bare = sum(path is None for path in pairs.values())
    if bare:
        what = f"{bare} of {counted(len(pairs), 'picture')} without a mask"
        notes.append(Mended(str(listing.root), "labels", what, count=bare))
    entries = tuple(
        Entry(source, splits.of_folders(source.key), mask=path)
        for source, path in sorted(pairs.items(), key=lambda pair: pair[0].key)
    )
    origin = next(path for path in pairs.values() if path is not None).parent
    return Dataset(
        listing.root,
        "masks",
        entries,
        _names(listing.root),
        splits.ordered(one.split for one in entries),
        origin=origin,
        mended=tuple(notes),
        form="outline",
    )


def of_single_objects(listing: Listing) -> list[Mended]:
    """Note masks that tell single objects apart, which are not read."""
    count = sum(_OF_OBJECTS in source.key.lower().split("/")[:-1] for source in listing.sources)
    what = f"{counted(count, 'mask')} of single objects left out"
    return [Mended(str(listing.root), "picture", what, dropped=True, count=count)] if count else []


def _names(root: Path) -> tuple[str, ...]:
    """Read the names of the classes, background left out; () when no file says them."""
    for folder in (root.absolute(), root.absolute().parent):
        try:
            lines = (folder / NAMES).read_text("utf-8-sig", errors="replace").rstrip().splitlines()
        except OSError:
            continue
        return tuple(line.strip() for line in lines[1:])
    return ()


@dataclass(frozen=True, eq=False)
class Mask:
    """A mask as it is moved and written again: HxW uint8 or uint16.

    palette, alpha: of a palette PNG (its PLTE and tRNS), whose values are kept. colours: Nx3 or Nx4 of a mask in true
    colour; its values are then positions in it.
    """

    values: ndarray
    palette: bytes = b""
    alpha: bytes = b""
    colours: ndarray | None = None


def load(path: Path, header: Header, notes: Notes) -> Mask | None:
    """Read a mask for the picture with this header, brought upright and to its size; None when it cannot be read."""
    try:
        data = read_file(Source(path, path.name, 0), LARGEST)
        stored = read_header(data)
        mask = decode(data, max(_LARGER * header.width * header.height, 1 << 20))
    except (Unreadable, OSError) as error:
        reason = error.message if isinstance(error, Unreadable) else error.strerror or "cannot be read"
        notes.add("file", f"its mask is left out: {reason}", dropped=True)
        return None
    if stored.format not in _LOSSLESS:
        notes.add("file", f"its mask is a {stored.format.upper()}, which may have changed the values")
    values, size = mask.values, upright_size(header)
    if values.shape[::-1] != size and values.shape[::-1] == (header.width, header.height):
        notes.add("turned", f"its mask is of the picture as stored: turned by its orientation {header.orientation}")
        values = turned_pixels(values, header.orientation)
    if values.shape[::-1] != size:
        shown = f"{values.shape[1]}x{values.shape[0]}, the picture is {size[0]}x{size[1]}"
        notes.add("size", f"its mask is {shown}: scaled")
        values = cv2.resize(values, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return Mask(values, mask.palette, mask.alpha, mask.colours)


def decode(data: bytes, max_pixels: int = 100_000_000) -> Mask:
    """Decode a mask: palette positions, 8 and 16 bits stay what they are; raises Unreadable."""
    header = read_header(data)
    if header.format == "png" and header.mode == "palette":
        return _decode_palette(data, header, max_pixels)
    pixels = images.decode(data, max_pixels).pixels
    if pixels.shape[2] == 1:
        return Mask(np.ascontiguousarray(pixels[..., 0]))
    colours, values = np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0, return_inverse=True)
    if len(colours) > 65_536:
        raise Unreadable(f"{len(colours)} colours, which is no mask")
    kind = np.uint8 if len(colours) <= 256 else np.uint16
    return Mask(values.astype(kind).reshape(pixels.shape[:2]), colours=colours)


def _decode_palette(data: bytes, header: Header, max_pixels: int) -> Mask:
    """Decode a palette PNG as if it were grey: its pixels are stored alike, and the codec leaves them alone."""
    palette = alpha = b""
    kept = [data[:8]]
    for kind, body in _chunks(data):
        if kind == b"IHDR":
            kept.append(_chunk(kind, body[:9] + b"\0" + body[10:]))
        elif kind == b"IDAT":
            kept.append(_chunk(kind, body))
        elif kind == b"PLTE":
            palette = body
        elif kind == b"tRNS":
            alpha = body
    pixels = images.decode(b"".join([*kept, _chunk(b"IEND", b"")]), max_pixels).pixels[..., 0]
    # Fewer bits are spread over 0..255.
    return Mask(np.ascontiguousarray(pixels // (255 // ((1 << header.depth) - 1))), palette, alpha)


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, position = [], 8
    while position + 12 <= len(data):
        size, kind = unpack_from(">I4s", data, position)
        found.append((kind, data[position + 8 : position + 8 + size]))
        position += 12 + size
    return found


def _chunk(kind: bytes, body: bytes) -> bytes:
    return pack(">I", len(body)) + kind + body + pack(">I", zlib.crc32(kind + body))


def encode(mask: Mask) -> bytes:
    """Encode a mask as PNG, in the form it came in: palette, grey of 8 or 16 bits, or true colour."""
    if mask.colours is not None:
        return images.encode(np.ascontiguousarray(mask.colours[mask.values]), "png")
    if not mask.palette or mask.values.dtype != np.uint8:
        return images.encode(np.ascontiguousarray(mask.values[..., None]), "png")
    height, width = mask.values.shape
    entries = max(int(mask.values.max(initial=0)) + 1, len(mask.palette) // 3)
    rows = np.zeros((height, width + 1), np.uint8)  # each begins with its filter: none
    rows[:, 1:] = mask.values
    chunks = [
        _chunk(b"IHDR", pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        _chunk(b"PLTE", mask.palette.ljust(3 * entries, b"\0")),
        *([_chunk(b"tRNS", mask.alpha)] if mask.alpha else []),
        _chunk(b"IDAT", zlib.compress(rows.tobytes(), 6)),
        _chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


# ---- objects and masks, each from the other


def objects_of(mask: Mask) -> tuple[Object, ...]:
    """Give an object for each class in a mask, with its region; background and 255 of 8 bits are none."""
    if mask.colours is not None:
        return ()
    found = []
    for value in np.unique(mask.values).tolist():
        if value == 0 or (value == VOID and mask.values.dtype == np.uint8):
            continue
        region = mask.values == value
        box = outline.bounds((), region)
        if box is not None:
            found.append(Object(value - 1, box, region=region))
    return tuple(found)


def paint(objects: Sequence[Object], size: tuple[int, int]) -> Mask:
    """Paint objects of a picture of `size` (width, height), larger ones first; those without an outline as their box.

    16 bits are used when there are more than 254 classes.
    """
    width, height = size
    regions = [(one.number + 1, region_of(one, size)) for one in objects]
    most = max((value for value, _ in regions), default=0)
    values = np.zeros((height, width), np.uint8 if most < VOID else np.uint16)
    for value, region in sorted(regions, key=lambda one: -int(one[1].sum())):
        values[region] = value
    return Mask(values)


def region_of(one: Object, size: tuple[int, int]) -> ndarray:
    """Give the pixels of an object in a picture of `size` (width, height): HxW bool."""
    if one.region is not None:
        return one.region
    x0, y0, x1, y1 = one.box
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    return outline.paint(one.polygons or (corners,), size)
