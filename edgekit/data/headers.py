"""Facts from a picture's header: pure Python, no pixels, no trust in the file's name.

Sources: ITU-T T.81 (JPEG), W3C PNG, GIF89a, TIFF 6.0, RFC 9649 (WebP), ISO 14496-12/23008-12 (AVIF), T.800 (JPEG 2000).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from struct import calcsize, error, unpack_from

from edgekit.errors import EdgekitError

# What OpenCV reads, then what people take for pictures and OpenCV cannot read: counted as rejected, not passed over.
PICTURE_SUFFIXES = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp", ".avif",
    ".avifs", ".jp2", ".j2k", ".j2c", ".jpc", ".jpx", ".jpf", ".pbm", ".pgm", ".ppm", ".pnm", ".pxm", ".pam", ".pfm",
    ".sr", ".ras", ".hdr", ".pic", ".exr",
    ".psd", ".ico", ".cur", ".mpo", ".svg", ".heic", ".heif", ".hif", ".jxl", ".jxr", ".tga", ".pcx", ".dds", ".qoi",
    ".xcf", ".icns", ".eps", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw",
))  # fmt: skip


class Unreadable(EdgekitError):  # noqa: N818 (a verdict on the file, not a failure of the program)
    """Refuse a file as a picture; the message is the reason in a short phrase, such as "truncated JPEG"."""


@dataclass(frozen=True)
class Header:
    """State what a file says of its picture before a pixel is decoded.

    `format` is decided by content ("jpeg", "png", "pnm", "psd", ...). `width` and `height` are pixels as stored, before
    orientation, and 0 in formats whose pixels edgekit never decodes. `orientation` is EXIF's 1..8, 1 when absent or
    invalid. `mode` is "grey", "rgb", "rgba", "grey-alpha", "palette", "cmyk", "lab", "bilevel", "float" or "unknown";
    `depth` counts bits a channel; `frames` exceeds 1 when animated, multi-page or MPO. Of JPEG only: `quality` (1..100
    on libjpeg's scale, the nearest for foreign tables) and `subsampling` ("4:2:0"; None for grey or an unusual one).
    """

    format: str
    width: int = 0
    height: int = 0
    orientation: int = 1
    mode: str = "unknown"
    depth: int = 8
    frames: int = 1
    quality: int | None = None
    subsampling: str | None = None
    lossless: bool = False


def read_header(data: bytes) -> Header:
    """Read the header of the picture in `data`.

    Raises Unreadable when `data` is empty, not a picture, or ends within its header.
    """
    name = _sniff(data)
    if name not in _READERS:
        return Header(name, mode="float", depth=32) if name in ("hdr", "exr", "pfm") else Header(name)
    try:
        return _READERS[name](data)
    except (error, IndexError):
        raise Unreadable(f"truncated {name.upper()}") from None
    except (KeyError, ValueError):
        raise Unreadable(f"corrupt {name.upper()} header") from None


_MAGIC = re.compile(
    rb"(?P<jpeg>\xff\xd8\xff)|(?P<png>\x89PNG\r\n\x1a\n)|(?P<gif>GIF8)|(?P<tiff>II[*+]\0|MM\0[*+])"
    rb"|(?P<webp>RIFF.{4}WEBP)|(?P<avif>.{4}ftyp.{0,240}?avi[fs])|(?P<heif>.{4}ftyp(?:he|mif1))"
    rb"|(?P<jp2>\0\0\0\x0cjP  )|(?P<j2k>\xff\x4f\xff\x51)|(?P<bmp>BM.{12}[\x0c(48@l|]\0\0\0)|(?P<pnm>P[1-6][\s#])"
    rb"|(?P<sunras>\x59\xa6\x6a\x95)|(?P<pfm>P[Ff]\s)|(?P<hdr>#\?RADIANCE|#\?RGBE)|(?P<exr>v/1\x01)|(?P<pam>P7\n)"
    rb"|(?P<psd>8BPS)|(?P<ico>\0\0[\1\2]\0[^\0])|(?P<jxl>\xff\x0a|\0\0\0\x0cJXL )|(?P<jxr>II\xbc)|(?P<dds>DDS )"
    rb"|(?P<qoi>qoif)|(?P<icns>icns)|(?P<eps>%!PS)|(?P<pdf>%PDF)|(?P<camera_raw>FUJIFILMCCD-RAW|IIRO|IIU\0|.{4}ftypcrx)"
    rb"|(?P<svg>\s*<(?:svg|(?:\?xml|!--|!doctype svg).{0,4000}?<svg))"
    rb"|(?P<HTML>\s*<(?i:!doctype html|html|head|body|!--))|(?P<video>.{4}ftyp)",
    re.DOTALL,
)


def _sniff(data: bytes) -> str:
    match = _MAGIC.match(data[:8192].removeprefix(b"\xef\xbb\xbf"))
    if not data:
        raise Unreadable("empty file")
    if match is None or match.lastgroup is None:
        raise Unreadable("not a picture" if data.strip(b"\0") else "not a picture (all zero bytes)")
    if match.lastgroup in ("HTML", "video"):
        raise Unreadable(f"not a picture ({match.lastgroup})")
    return match.lastgroup.replace("_", " ")


# ---- TIFF structure, shared by TIFF files, EXIF blocks and MPO's index

_TIFF_CODES = {1: "B", 2: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 13: "I", 16: "Q"}


def tiff_directory(data: bytes, offset: int = 0) -> tuple[dict[int, tuple[str, int, int]], int]:
    """Read one directory of a TIFF or BigTIFF block; `offset` 0 means the first.

    Returns the fields, tag -> (struct code with byte order, count, position of the values), and the offset of the next
    directory (0 after the last). A directory that runs past the end yields the fields before it. Raises struct.error.
    """
    order, big = ("<" if data[:2] == b"II" else ">"), b"+" in data[2:4]
    word, size, inline = ("Q", 20, 8) if big else ("I", 12, 4)
    start = offset or unpack_from(order + word, data, 8 if big else 4)[0]
    (count,) = unpack_from(order + ("Q" if big else "H"), data, start)
    start += 8 if big else 2
    end = start + count * size
    fields: dict[int, tuple[str, int, int]] = {}
    for position in range(start, min(end, len(data) - size + 1), size):
        tag, kind, number = unpack_from(f"{order}HH{word}", data, position)
        code, where = order + _TIFF_CODES.get(kind, "Q"), position + size - inline
        if calcsize(code) * number > inline:
            (where,) = unpack_from(order + word, data, where)
        fields.setdefault(tag, (code, number, where))
    return fields, int.from_bytes(data[end : end + inline], "little" if order == "<" else "big")


def tiff_values(data: bytes, fields: dict[int, tuple[str, int, int]], tag: int, default: int) -> tuple[int, ...]:
    """Read the values of one field, at most its first 16, or `(default,)` when it is absent. Raises struct.error."""
    code, number, where = fields.get(tag, ("", 0, 0))
    return unpack_from(f"{code[0]}{min(number, 16)}{code[1]}", data, where) if number else (default,)


def _orientation(data: bytes, fields: dict[int, tuple[str, int, int]]) -> int:
    value = tiff_values(data, fields, 274, 1)[0]
    return value if 1 <= value <= 8 else 1


def _exif_orientation(block: bytes) -> int:
    block = block.removeprefix(b"Exif\0\0")
    with suppress(error):
        return _orientation(block, tiff_directory(block)[0]) if block[:4] in (b"II*\0", b"MM\0*") else 1
    return 1


_TIFF_MODES = {0: "grey", 1: "grey", 2: "rgb", 3: "palette", 4: "bilevel", 5: "cmyk", 6: "rgb", 8: "lab", 9: "lab"}


def _tiff(data: bytes) -> Header:
    fields, following = tiff_directory(data)
    # Camera raw files are TIFFs whose first directory holds a thumbnail, a DNG version, or Canon's mark.
    thumbnail = 330 in fields and tiff_values(data, fields, 254, 0)[0] & 1
    if thumbnail or 50706 in fields or data[8:10] == b"CR":
        return Header("camera raw")
    offsets = {0}
    with suppress(error):
        while following not in offsets and len(offsets) < 10_000:
            offsets.add(following)
            _, following = tiff_directory(data, following)
    (width,), (height,) = tiff_values(data, fields, 256, 0), tiff_values(data, fields, 257, 0)
    depth, samples = max(tiff_values(data, fields, 258, 1)), tiff_values(data, fields, 277, 1)[0]
    mode = _TIFF_MODES.get(tiff_values(data, fields, 262, 1)[0], "unknown")
    mode = {("grey", 2): "grey-alpha", ("rgb", 4): "rgba"}.get((mode, samples), mode)
    real = tiff_values(data, fields, 339, 1)[0] == 3
    mode = "float" if real else "bilevel" if (mode, depth) == ("grey", 1) else mode
    lossless = tiff_values(data, fields, 259, 1)[0] in (1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 50000)
    return Header("tiff", width, height, _orientation(data, fields), mode, depth, len(offsets), lossless=lossless)


# ---- JPEG

# The tables of T.81 Annex K in zigzag order, as files carry them; libjpeg scales these two by its quality.
_LUMA = tuple(bytes.fromhex(
    "100b0c0e0c0a100e0d0e1211101318281a181616183123251d283a333d3c3933383740485c4e404457453738506d51575f626768673e4d71797064785c"
    "656763"))  # fmt: skip
_CHROMA = (17, 18, 18, 24, 21, 24, 47, 26, 26, 47, 99, 66, 56, 66, *[99] * 50)
# Sampling factors of luma and both chromas, one hexadecimal digit across, one down.
_SUBSAMPLING = {"111111": "4:4:4", "222222": "4:4:4", "211111": "4:2:2", "221212": "4:2:2", "221111": "4:2:0",
                "121111": "4:4:0", "222121": "4:4:0", "411111": "4:1:1"}  # fmt: skip


@lru_cache(maxsize=1024)
def _jpeg_quality(luma: bytes, chroma: bytes) -> int:
    def distance(quality: int) -> int:
        scale = 5000 // quality if quality < 50 else 200 - 2 * quality
        pairs = zip(_LUMA + _CHROMA, luma + chroma, strict=False)  # a grey JPEG has no chroma
        return sum(abs(min(max((base * scale + 50) // 100, 1), 255) - value) for base, value in pairs)

    return min(range(1, 101), key=distance)


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Walk the segments up to the first scan (SOS): marker, start and end of its body.

    Garbage between segments is skipped, as libjpeg does. Raises IndexError when the file ends before the scan.
    """
    position, marker = 2, 0
    while marker != 0xDA:
        position = data.find(b"\xff", position)
        if position < 0:
            raise IndexError
        marker = data[position + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:  # filling, or no segment
            position += 1 if marker == 0xFF else 2
            continue
        end = position + 2 + (data[position + 2] << 8 | data[position + 3])
        yield marker, position + 4, end
        position = max(end, position + 4)


def _jpeg(data: bytes) -> Header:
    tables: dict[int, bytes] = {}
    orientation, frames, frame, sof = 0, 1, b"", 0
    for marker, start, end in jpeg_segments(data):
        while marker == 0xDB and start < end:
            wide, table = data[start] >> 4, data[start + 1 : start + 65]
            words = unpack_from(">64H", data, start + 1) if wide else ()
            tables[data[start] & 15] = bytes(min(word, 255) for word in words) or table
            start += 129 if wide else 65
        if marker == 0xE1 and not orientation and data[start : start + 6] == b"Exif\0\0":
            orientation = _exif_orientation(data[start:end])
        elif marker == 0xE2 and data[start : start + 4] == b"MPF\0":
            with suppress(error):
                index = data[start + 4 : end]
                frames = max(1, tiff_values(index, tiff_directory(index)[0], 0xB001, 1)[0])
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and not sof:
            frame, sof = data[start:end], marker
    depth, height, width, count = unpack_from(">BHHB", frame)
    used = [tables[frame[8 + 3 * i]] for i in range(min(count, 2)) if frame[8 + 3 * i] in tables]
    mode = {1: "grey", 3: "rgb", 4: "cmyk"}.get(count, "unknown")
    quality = _jpeg_quality(used[0], used[1] if len(used) > 1 else b"") if used else None
    sampling = _SUBSAMPLING.get(frame[7:15:3].hex())
    return Header("jpeg", width, height, orientation or 1, mode, depth, frames, quality, sampling, sof in (0xC3, 0xCB))


_PNG_MODES = {0: "grey", 2: "rgb", 3: "palette", 4: "grey-alpha", 6: "rgba"}


def _png_raw_profile(kind: bytes, body: bytes) -> bytes:
    # ImageMagick's and exiftool's way of old: EXIF as hexadecimal digits in a text chunk.
    key, _, text = body.partition(b"\0")
    if key not in (b"Raw profile type exif", b"Raw profile type APP1"):
        return b""
    compressed = kind == b"zTXt" or (kind == b"iTXt" and text[:1] == b"\1")
    text = text[2:].split(b"\0", 2)[-1] if kind == b"iTXt" else text[1:] if compressed else text
    with suppress(zlib.error, ValueError):
        text = zlib.decompressobj().decompress(text, 1 << 20) if compressed else text
        return bytes.fromhex(b"".join(text.split()[2:]).decode("ascii"))
    return b""


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Walk the chunks up to the last (IEND) or the end of the file: kind, start and claimed length of the body."""
    position, kind = 8, b""
    while position + 8 <= len(data) and kind != b"IEND":
        size, kind = unpack_from(">I4s", data, position)
        yield kind, position + 8, size
        position += 12 + size


def _png(data: bytes) -> Header:
    width, height, depth, colour = unpack_from(">IIBB", data, 16)
    mode = "bilevel" if (colour, depth) == (0, 1) else _PNG_MODES[colour]
    orientation, text_orientation, frames = 0, 1, 1
    for kind, start, size in png_chunks(data):
        if kind == b"eXIf":
            orientation = _exif_orientation(data[start : start + size])
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            profile = _png_raw_profile(kind, data[start : start + size])
            text_orientation = _exif_orientation(profile) if profile else text_orientation
        elif kind == b"acTL":
            (frames,) = unpack_from(">I", data, start)
        elif kind == b"tRNS":
            mode = {"bilevel": "grey-alpha", "grey": "grey-alpha", "rgb": "rgba"}.get(mode, mode)
    return Header("png", width, height, orientation or text_orientation, mode, depth, max(1, frames), lossless=True)


def _gif(data: bytes) -> Header:
    width, height, flags = unpack_from("<HHB", data, 6)
    frames, position = 0, 13 + (3 << (flags & 7) + 1 if flags & 128 else 0)
    while position < len(data) and data[position] in b"\x21\x2c":
        if data[position] == 0x2C:
            frames += 1
            left, top, across, down, flags = unpack_from("<4HB", data, position + 1)
            width, height = max(width, left + across), max(height, top + down)
            position += 11 + (3 << (flags & 7) + 1 if flags & 128 else 0)
        else:
            position += 2
        while position < len(data) and data[position]:
            position += data[position] + 1
        position += 1
    return Header("gif", width, height, mode="palette", frames=max(1, frames), lossless=True)


def _webp(data: bytes) -> Header:
    sizes, frames, orientation, alpha, lossless, position = [], 0, 1, False, False, 12
    while position + 8 <= len(data):
        kind, size = unpack_from("<4sI", data, position)
        start, position = position + 8, position + 8 + size + (size & 1)
        if kind == b"VP8X":
            canvas, alpha = data[start + 4 : start + 10], bool(data[start] & 16)
            sizes.append((1 + int.from_bytes(canvas[:3], "little"), 1 + int.from_bytes(canvas[3:], "little")))
        elif kind == b"ANMF":
            frames, position = frames + 1, start + 16  # the picture's own chunks lie within
        elif kind == b"VP8 ":
            across, down = unpack_from("<HH", data, start + 6)
            sizes.append((across & 0x3FFF, down & 0x3FFF))
        elif kind == b"VP8L":
            (bits,) = unpack_from("<I", data, start + 1)
            sizes.append(((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1))
            alpha, lossless = alpha or bool(bits >> 28 & 1), True
        elif kind == b"EXIF":
            orientation = _exif_orientation(data[start : start + size])
    width, height = (max(side) for side in zip(*sizes, strict=True))
    mode = "rgba" if alpha else "rgb"
    return Header("webp", width, height, orientation, mode, frames=max(1, frames), lossless=lossless)


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    while start + 8 <= end:
        size, kind, wide = *unpack_from(">I4s", data, start), int.from_bytes(data[start + 8 : start + 16], "big")
        body, stop = (start + 16, start + wide) if size == 1 else (start + 8, start + size if size else end)
        if stop < body:
            return
        yield kind, body, min(stop, end)
        start = stop


def _box(data: bytes, path: bytes, start: int = 0, end: int = 1 << 62) -> tuple[int, int]:
    # The first box on the path ("metaiprpipco"); (0, 0) when there is none.
    for kind, body, stop in _boxes(data, start, min(end, len(data))):
        if kind == path[:4]:
            body += 4 if kind == b"meta" else 0  # a "full" box: version and flags come first
            return _box(data, path[4:], body, stop) if path[4:] else (body, stop)
    return 0, 0


# irot (quarter turns anticlockwise) then imir (0: top and bottom change places, 1: left and right), in EXIF's numbers.
_TURNS = [(turned, mirrored) for turned in range(4) for mirrored in (-1, 0, 1)]
_BMFF_ORIENTATIONS = dict(zip(_TURNS, (1, 4, 2, 8, 5, 7, 3, 2, 4, 6, 7, 5), strict=True))


def _avif(data: bytes) -> Header:
    # The biggest extent is the whole picture's: those of a grid's tiles and of thumbnails are smaller.
    properties = [*_boxes(data, *_box(data, b"metaiprpipco"))]
    first = {kind: start for kind, start, _ in reversed(properties)}
    extents = [unpack_from(">II", data, start + 4) for kind, start, _ in properties if kind == b"ispe"]
    width, height = max(extents, key=lambda extent: extent[0] * extent[1])
    turned = data[first[b"irot"]] & 3 if b"irot" in first else 0
    mirrored = data[first[b"imir"]] & 1 if b"imir" in first else -1
    channels, depth = unpack_from("BB", data, first[b"pixi"] + 4) if b"pixi" in first else (3, 8)
    alpha = any(kind == b"auxC" and b"alpha" in data[start:end] for kind, start, end in properties)
    mode = ("grey" if channels == 1 else "rgb") + ({1: "-alpha", 3: "a"}.get(channels, "") if alpha else "")
    samples, _ = _box(data, b"moovtrakmdiaminfstblstsz")
    frames = unpack_from(">I", data, samples + 8)[0] if samples else 1
    return Header("avif", width, height, _BMFF_ORIENTATIONS[turned, mirrored], mode, depth, max(1, frames))


def _jp2(data: bytes) -> Header:
    raw = data[:2] == b"\xff\x4f"
    start = 0 if raw else _box(data, b"jp2c")[0]
    # The codestream's own size (SIZ), for that is what gets allocated; the box around it may say something else.
    right, bottom, left, top = unpack_from(">4I", data, start + 8)
    channels, depth = unpack_from(">HB", data, start + 40)
    mode = {1: "grey", 2: "grey-alpha", 3: "rgb", 4: "rgba"}.get(channels, "unknown")
    return Header("j2k" if raw else "jp2", right - left, bottom - top, mode=mode, depth=(depth & 127) + 1)


def _bmp(data: bytes) -> Header:
    size, width, height = unpack_from("<Iii", data, 14) if data[14] != 12 else unpack_from("<IHH", data, 14)
    (depth,), packing = unpack_from("<H", data, 28 if size > 12 else 24), data[30] if size > 12 else 0
    mode = "rgb"
    if depth <= 8:
        start, step = 14 + size, 4 if size > 12 else 3
        colours = data[start : start + step * ((unpack_from("<I", data, 46)[0] if size > 12 else 0) or 1 << depth)]
        grey = colours[::step] == colours[1::step] == colours[2::step]
        mode = "palette" if not grey else "bilevel" if depth == 1 else "grey"
    elif packing in (3, 6) and (size >= 56 or packing == 6) and unpack_from("<I", data, 66)[0]:
        mode = "rgba"
    return Header("bmp", width, abs(height), mode=mode, depth=5 if depth == 16 else min(depth, 8), lossless=True)


_PNM_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"
_PNM = re.compile(rb"P([1-6])" + (_PNM_GAP + rb"(\d{1,9})") * 2 + rb"(?:" + _PNM_GAP + rb"(\d{1,5}))?")


def pnm_fields(data: bytes) -> tuple[int, int, int, int]:
    """Read kind (1..6), width, height and maximum value (1 for bitmaps) of a PBM, PGM or PPM. Raises ValueError."""
    match = _PNM.match(data[:4096])
    if match is None:
        raise ValueError
    kind, width, height, top = (int(part or 0) for part in match.groups())
    return kind, width, height, 1 if kind % 3 == 1 else top


def _pnm(data: bytes) -> Header:
    kind, width, height, top = pnm_fields(data)
    mode = ("rgb", "bilevel", "grey")[kind % 3]
    return Header("pnm", width, height, mode=mode, depth=1 if kind % 3 == 1 else 8 if top < 256 else 16, lossless=True)


def _sunras(data: bytes) -> Header:
    width, height, depth, _, _, _, size = unpack_from(">7I", data, 4)
    third = size // 3
    grey = len({data[start : start + third] for start in (32, 32 + third, 32 + 2 * third)}) == 1
    mode = {1: "bilevel", 8: "grey" if grey else "palette", 24: "rgb"}[depth]  # of 32 the order is in dispute
    return Header("sunras", width, height, mode=mode, depth=min(depth, 8), lossless=True)


_READERS: dict[str, Callable[[bytes], Header]] = {
    "jpeg": _jpeg, "png": _png, "gif": _gif, "tiff": _tiff, "webp": _webp, "avif": _avif, "jp2": _jp2, "j2k": _jp2,
    "bmp": _bmp, "pnm": _pnm, "sunras": _sunras
}  # fmt: skip
