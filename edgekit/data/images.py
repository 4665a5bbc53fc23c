"""Bytes to pixels and back: the only codec calls of edgekit.

OpenCV 4.14 does the work. Where it gets a format wrong, the bytes are mended before it sees them or the pixels after.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from dataclasses import dataclass
from struct import error, pack, pack_into
from typing import TYPE_CHECKING

from edgekit.data.headers import (
    Header,
    Unreadable,
    jpeg_segments,
    png_chunks,
    pnm_fields,
    read_header,
    tiff_directory,
    tiff_values,
)
from edgekit.errors import EdgekitError
from edgekit.lazy import cv2, np

if TYPE_CHECKING:
    import numpy

DEFAULT_QUALITY = 90


@dataclass(frozen=True, eq=False)
class Picture:
    """Hold a decoded picture.

    `pixels` is HxWxC, C-contiguous, uint8 or uint16 over the full range of its type, C = 1 (grey), 3 (RGB) or 4 (RGBA,
    alpha not multiplied in), upright: EXIF orientation is applied. `warnings` say what was changed on the way.
    `swapped`: it was asked for, and the colours are BGR.
    """

    pixels: numpy.ndarray
    header: Header
    warnings: tuple[str, ...] = ()
    swapped: bool = False


def decode(data: bytes, max_pixels: int = 100_000_000, *, swapped: bool = False) -> Picture:
    """Decode a picture: its first frame, upright.

    Grey, RGB, RGBA and 16 bits stay what they are; everything else becomes RGB or RGBA, with a warning. The number of
    pixels is judged by the header, before anything is allocated. Raises Unreadable with the reason: not a picture, over
    `max_pixels`, truncated, corrupt, float or otherwise unsupported pixels. Not for several threads at once: JPEGs and
    PNGs take turns. swapped: colours may come as BGR, which is how JPEGs are encoded faster; the picture says so.
    """
    header = read_header(data)
    _refuse(header, max_pixels)
    warnings: list[str] = []
    swapped = swapped and header.format == "jpeg" and header.mode != "grey"
    if header.format == "tiff":
        pixels = _decode_tiff(data, header)
    elif header.format == "jpeg":
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION if swapped else None
        pixels = _decode_jpeg(data, header, warnings, flags)
    elif header.format == "png":
        if _overruns(data):
            raise Unreadable(f"{_damage(data, header)} PNG")
        pixels, noise = _decode_captured(data, cv2.IMREAD_UNCHANGED)
        _judge(noise, "PNG", warnings)
    else:
        # The colours of BMP's oldest header (12 bytes) come out right only when colour is asked for.
        old = header.format == "bmp" and data[14] == 12
        bare = header.format == "sunras" and header.mode == "grey" and data[28:32] == bytes(4)
        mended = _with_grey_ramp(data) if bare else data
        pixels = _imdecode(mended, cv2.IMREAD_COLOR if old else cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise Unreadable(f"{_damage(data, header)} {_name(header.format)}")
    if pixels.dtype.char not in "BH":
        raise Unreadable(f"{pixels.dtype} pixels")
    pixels = _upright(_channels(_full_range(pixels, data, header), header), header.orientation)
    return Picture(pixels, header, (*warnings, *_conversions(pixels, header)), swapped)


def decode_grey(data: bytes, least: int, max_pixels: int = 100_000_000) -> tuple[Picture, int]:
    """Decode a picture to HxWx1 uint8, upright, and say how many of its pixels one of them is across: 1, 2, 4 or 8.

    JPEGs come reduced while both sides keep `least` pixels; in their last column and row as stored, a pixel then may
    stand for less. Alpha is laid over white. Refuses what `decode` refuses, and raises as it does.
    """
    header = read_header(data)
    if header.format != "jpeg":
        picture = decode(data, max_pixels)
        return Picture(grey(picture.pixels), picture.header, picture.warnings), 1
    _refuse(header, max_pixels)
    step = next((step for step in (8, 4, 2) if min(header.width, header.height) >= least * step), 1)
    warnings: list[str] = []
    pixels = _decode_jpeg(data, header, warnings, _REDUCED[step] | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise Unreadable(f"{_damage(data, header)} JPEG")
    return Picture(_upright(pixels, header.orientation), header, tuple(warnings)), step


# OpenCV's IMREAD_GRAYSCALE and IMREAD_REDUCED_GRAYSCALE_2, 4 and 8.
_REDUCED = {1: 0, 2: 16, 4: 32, 8: 64}


def grey(pixels: numpy.ndarray) -> numpy.ndarray:
    """Make any picture HxWx1 uint8; alpha is laid over white."""
    pixels = (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels
    if pixels.shape[2] == 4:
        colors, alpha = pixels[..., :3].astype(np.uint16), pixels[..., 3:].astype(np.uint16)
        pixels = ((colors * alpha + 255 * (255 - alpha)) // 255).astype(np.uint8)
    return pixels if pixels.shape[2] == 1 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None]


def encode(
    pixels: numpy.ndarray,
    format: str,
    *,
    quality: int | None = None,
    subsampling: str | None = None,
    lossless: bool = False,
    swapped: bool = False,
) -> bytes:
    """Encode HxWxC pixels (uint8 or uint16; C = 1, 3 RGB, 4 RGBA) as `format`, a `Header.format`.

    `quality` (1..100, by default 90) counts for JPEG, WebP and AVIF, `subsampling` ("4:2:0", ...) for JPEG of colour,
    `lossless` for WebP and AVIF; JPEG 2000 is always lossless. `swapped`: the three channels are BGR. Same pixels, same
    bytes; no metadata is written. Raises EdgekitError when the format cannot hold the pixels.
    """
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    bits = 8 * pixels.dtype.itemsize
    suffix, counts, depths = _WRITABLE.get(format, ("", (), ()))
    if channels not in counts or bits not in depths:
        raise EdgekitError(f"{_name(format)} cannot hold {channels} channels of {bits} bits", "use png")
    if channels > 1 and not swapped:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR if channels == 3 else cv2.COLOR_RGBA2BGRA)
    level = DEFAULT_QUALITY if quality is None else quality
    flags: list[int] = []
    if format == "jpeg":
        flags = [cv2.IMWRITE_JPEG_QUALITY, level]
        if channels == 3 and subsampling in _SAMPLING_FLAGS:
            flags += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, _SAMPLING_FLAGS[subsampling]]
    elif format == "webp":
        exact = [cv2.IMWRITE_WEBP_LOSSLESS_MODE, cv2.IMWRITE_WEBP_LOSSLESS_PRESERVE_COLOR]
        flags = [cv2.IMWRITE_WEBP_QUALITY, 101, *exact] if lossless else [cv2.IMWRITE_WEBP_QUALITY, level]
    elif format == "avif":
        flags = [cv2.IMWRITE_AVIF_QUALITY, 100 if lossless else level]
        if bits == 16:  # 12 bits are the most that AVIF has
            pixels, flags = pixels >> 4, [*flags, cv2.IMWRITE_AVIF_DEPTH, 12]
    elif format == "jp2":
        flags = [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000]
    try:
        done, data = cv2.imencode(suffix, pixels, flags)
    except cv2.error as problem:
        raise EdgekitError(f"{_name(format)} could not be written: {problem.err}") from problem
    if not done:
        height, width = pixels.shape[:2]
        raise EdgekitError(f"a picture of {width}x{height} pixels does not fit {_name(format)}", "use png")
    encoded: bytes = data.tobytes()
    if format == "sunras":
        encoded = _with_zero_padding(encoded, pixels.shape[1] * channels)
    return _with_grey_ramp(encoded) if (format, channels) == ("sunras", 1) else encoded


def _with_zero_padding(encoded: bytes, row: int) -> bytes:
    """Zero the byte that pads odd rows of a Sun raster: OpenCV writes whatever was in memory."""
    if row % 2 == 0:
        return encoded
    padded = bytearray(encoded)
    first = 32 + int.from_bytes(encoded[28:32], "big") + row
    padded[first :: row + 1] = bytes(len(range(first, len(padded), row + 1)))
    return bytes(padded)


def output_format(header: Header, suffix: str) -> tuple[str, str, str | None]:
    """Choose how a picture made from a source is written: `encode`'s format, its suffix, and a warning or None.

    That is the source's own format under its own suffix. When the bytes are not what `suffix` says, the suffix is a
    truthful one, to be appended to the name. What cannot be written becomes PNG.
    """
    channels = {"grey": 1, "rgba": 4, "grey-alpha": 4}.get(header.mode, 3)
    truthful, counts, depths = _WRITABLE.get(header.format, ("", (), ()))
    writable = channels in counts and (8 if header.depth <= 8 else 16) in depths
    if header.format == "jp2":  # the encoder refuses sides below 32 pixels
        writable = writable and min(header.width, header.height) >= 32
    if header.format == "pnm":
        truthful, writable = ".pgm" if channels == 1 else ".ppm", writable and header.mode != "bilevel"
    named = _SUFFIX_FORMATS.get(suffix.lower())
    if not writable or named == "mpo":
        return "png", ".png", f"{_name('mpo' if named == 'mpo' else header.format)} cannot be written: PNG instead"
    if named == header.format or suffix.lower() == truthful:
        return header.format, suffix, None
    return header.format, truthful, f"the content is {_name(header.format)}, the suffix {suffix or 'missing'}"


# Format -> suffix, channels and bits that OpenCV both writes and reads back.
_WRITABLE: dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]] = {
    "jpeg": (".jpg", (1, 3), (8,)),
    "png": (".png", (1, 3, 4), (8, 16)),
    "webp": (".webp", (1, 3, 4), (8,)),
    "avif": (".avif", (1, 3, 4), (8, 16)),
    "tiff": (".tiff", (1, 3, 4), (8, 16)),
    "bmp": (".bmp", (1, 3, 4), (8,)),
    "jp2": (".jp2", (1, 3, 4), (8, 16)),
    "pnm": (".pnm", (1, 3), (8, 16)),
    "sunras": (".sr", (1, 3), (8,)),
}
_SUFFIX_FORMATS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "jpeg"),
    **dict.fromkeys((".tif", ".tiff"), "tiff"),
    **dict.fromkeys((".png", ".apng"), "png"),
    **dict.fromkeys((".bmp", ".dib"), "bmp"),
    **dict.fromkeys((".sr", ".ras"), "sunras"),
    **{"." + name: name for name in ("webp", "avif", "jp2", "pnm", "mpo")},
}
_SAMPLING_FLAGS = {"4:4:4": 0x111111, "4:2:2": 0x211111, "4:2:0": 0x221111, "4:4:0": 0x121111, "4:1:1": 0x411111}
_DECODED = {*_WRITABLE, "gif", "j2k"}


def _name(format: str) -> str:
    return format if " " in format else format.upper()


def _refuse(header: Header, max_pixels: int) -> None:
    if header.mode == "float":
        raise Unreadable(f"{header.depth}-bit float pixels")
    if header.format not in _DECODED:
        raise Unreadable(f"{_name(header.format)}, a format that cannot be read")
    if header.depth > 16 or (header.format == "jpeg" and header.depth != 8):
        raise Unreadable(f"{header.depth}-bit pixels")
    if header.width < 1 or header.height < 1:
        raise Unreadable(f"no pixels: {header.width}x{header.height}")
    if header.width * header.height > max_pixels:
        raise Unreadable(f"{header.width * header.height / 1e6:.1f} megapixels, over the limit of {max_pixels / 1e6:g}")


# ---- the codec calls


def _imdecode(data: bytes | bytearray, flags: int) -> numpy.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None


_CAPTURE = threading.Lock()


def _memory_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("stderr")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _decode_captured(data: bytes, flags: int) -> tuple[numpy.ndarray | None, str]:
    """Decode with file descriptor 2 turned to memory, and return what was printed there.

    libjpeg and libpng print to it, past every log level; and libjpeg says nowhere else that it filled in missing data.
    It costs 4 microseconds. What other threads print meanwhile is lost: workers are processes.
    """
    with _CAPTURE:
        sink = _memory_file()
        stderr = os.dup(2)
        os.dup2(sink, 2)
        try:
            pixels = _imdecode(data, flags)
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            printed = os.lseek(sink, 0, os.SEEK_CUR)
            os.lseek(sink, 0, os.SEEK_SET)
            noise = os.read(sink, printed).decode("ascii", "replace") if printed else ""
            os.close(sink)
    return pixels, noise


_DAMAGED = re.compile("premature end|bad Huffman|instead of RST|Inconsistent progression|IDAT|PLTE")
_WORTH_TELLING = re.compile("extraneous bytes|tRNS")


def _judge(noise: str, name: str, warnings: list[str]) -> None:
    """Raise Unreadable when a codec's messages mean wrong pixels; keep those that may."""
    for line in noise.splitlines():
        text = line.removeprefix("Corrupt JPEG data: ").removeprefix("libpng warning: ").removeprefix("libpng error: ")
        if "incomplete" in text:
            raise Unreadable(f"truncated {name}")
        if _DAMAGED.search(text):
            raise Unreadable(f"corrupt {name} ({text})")
        if _WORTH_TELLING.search(text):
            warnings.append(f"damaged {name}: {text}")


def _decode_jpeg(data: bytes, header: Header, warnings: list[str], flags: int | None = None) -> numpy.ndarray | None:
    if flags is None:
        flags = cv2.IMREAD_UNCHANGED if header.mode == "grey" else cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    pixels, noise = _decode_captured(data, flags)
    if pixels is None and data[-2:] != b"\xff\xd9" and _has_one_scan(data):
        # Only the end marker may be missing: with one put there, libjpeg says when pixels are missing too.
        whole, noise = _decode_captured(data + b"\xff\xd9", flags)
        if whole is not None and not noise:
            warnings.append("JPEG without an end marker")
            pixels = whole
    if pixels is not None:
        _judge(noise, "JPEG", warnings)
    return pixels


def _overruns(data: bytes) -> bool:
    """Tell whether a PNG ends within a chunk of its first picture: OpenCV would make room for all that it claims."""
    later = 0  # frames after the first picture; it is whole when the second of them begins
    pixels = False
    for kind, start, size in png_chunks(data):
        if start + size + 4 > len(data):
            return True
        pixels |= kind == b"IDAT"
        later += pixels and kind == b"fcTL"
        if later == 2:
            break
    return False


def _has_one_scan(data: bytes) -> bool:
    channels = 0
    for marker, start, _ in jpeg_segments(data):
        if marker in (0xC0, 0xC1):
            channels = data[start + 5]
        elif marker == 0xDA:
            return data[start : start + 1] == bytes([channels])
    return False


def _decode_tiff(data: bytes, header: Header) -> numpy.ndarray | None:
    fields, _ = tiff_directory(data)
    asked = ((262, 1), (277, 1), (284, 1), (322, 0), (323, 0), (338, 0), (339, 1))
    try:
        values = [tiff_values(data, fields, tag, default)[0] for tag, default in asked]
    except error:
        raise Unreadable("corrupt TIFF header") from None
    photometric, samples, planes, tile_width, tile_height, extra, kind = values
    deep = header.depth > 8
    if kind == 2:
        raise Unreadable("signed integer pixels")
    modes = {1: ("grey", "palette", "bilevel"), 2: ("grey-alpha",), 3: ("rgb", "lab"), 4: ("rgba", "cmyk")}
    if header.mode not in modes.get(samples, ()) or (deep and header.mode not in ("grey", "rgb", "rgba")):
        raise Unreadable(f"TIFF of {samples} channels of {header.depth} bits, {header.mode}")
    if deep and planes == 2 and samples > 1:
        raise Unreadable(f"{header.depth}-bit TIFF stored plane by plane")  # OpenCV mixes up the planes
    if tile_width * tile_height > max(4 * header.width * header.height, 1 << 20):
        raise Unreadable(f"absurd TIFF tiles of {tile_width}x{tile_height}")
    if header.mode == "palette" and fields.get(320, ("", 0, 0))[2] + (6 << header.depth) > len(data):
        raise Unreadable("truncated TIFF")  # OpenCV would show the indices
    # OpenCV turns TIFFs upright even when told not to, multiplies alpha into colour, and gets Lab's white wrong.
    mended = {tag: value for tag, value, wrong in ((274, 1, header.orientation > 1), (338, 1, extra == 2)) if wrong}
    if header.mode == "lab":
        mended[262] = 2
    copy = bytearray(data) if mended else data
    for tag, value in mended.items():
        pack_into(fields[tag][0], copy, fields[tag][2], value)
    # Asked for unchanged pixels, OpenCV makes a palette of two colours grey.
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION if header.mode == "palette" else cv2.IMREAD_UNCHANGED
    pixels = _imdecode(copy, flags)
    if pixels is not None and header.mode == "lab":
        # CIELab has signed a and b, ICCLab (9) unsigned ones, as OpenCV.
        signs = np.array([128, 128, 0] if photometric == 8 else [0, 0, 0], np.uint8)
        pixels = cv2.cvtColor(np.ascontiguousarray((pixels ^ signs)[..., ::-1]), cv2.COLOR_LAB2BGR)
    return ~pixels if pixels is not None and deep and photometric == 0 else pixels


def _with_grey_ramp(data: bytes) -> bytes:
    # OpenCV takes a grey Sun raster without a palette for one whose palette is black.
    return data[:24] + pack(">II", 1, 768) + bytes(range(256)) * 3 + data[32:]


def _damage(data: bytes, header: Header) -> str:
    end = {"jpeg": b"\xff\xd9", "png": b"IEND", "gif": b";"}.get(header.format)
    if end:
        return "corrupt" if end in data[-32:] else "truncated"
    if header.format == "webp":
        return "corrupt" if int.from_bytes(data[4:8], "little") + 8 <= len(data) else "truncated"
    return "corrupt, truncated or unsupported"


# ---- decoded pixels -> edgekit's pixels


def _full_range(pixels: numpy.ndarray, data: bytes, header: Header) -> numpy.ndarray:
    full = white = 255 if pixels.itemsize == 1 else 65535
    if header.format == "pnm" and header.mode != "bilevel":
        white = max(1, pnm_fields(data)[3])
    elif 8 < header.depth < 16:
        white = (1 << header.depth) - 1 << (16 - header.depth if header.format == "tiff" else 0)
    elif (header.format, header.depth) == ("bmp", 5):
        white = 0xF8
    if white == full:
        return pixels
    scaled = (pixels.astype(np.uint32) * np.uint32(full) + white // 2) // white
    filled: numpy.ndarray = np.minimum(scaled, full).astype(pixels.dtype)
    return filled


def _channels(pixels: numpy.ndarray, header: Header) -> numpy.ndarray:
    conversion = None
    if pixels.ndim == 2:
        conversion = cv2.COLOR_GRAY2RGB if header.mode in ("bilevel", "palette") else None
    elif pixels.shape[2] == 4:
        # Alpha that the file does not have: CMYK of TIFF, masks of BMP, the unused transparency of animated GIF.
        opaque = header.mode in ("rgb", "cmyk") or (header.format == "gif" and pixels[..., 3].min() == 255)
        conversion = cv2.COLOR_BGRA2RGB if opaque else cv2.COLOR_BGRA2RGBA
    elif header.format != "jpeg":
        conversion = cv2.COLOR_BGR2RGB
    return pixels if conversion is None else cv2.cvtColor(pixels, conversion)


_FLIPS = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}


def _upright(pixels: numpy.ndarray, orientation: int) -> numpy.ndarray:
    if orientation >= 5:
        pixels = cv2.transpose(pixels)
    if orientation in _FLIPS:
        pixels = cv2.flip(pixels, _FLIPS[orientation])
    return pixels[..., None] if pixels.ndim == 2 else pixels


_MODE_NAMES = {"palette": "palette", "cmyk": "CMYK", "lab": "Lab", "bilevel": "1-bit", "grey-alpha": "grey with alpha"}


def _conversions(pixels: numpy.ndarray, header: Header) -> list[str]:
    became = {1: "grey", 3: "RGB", 4: "RGBA"}[pixels.shape[2]]
    warnings = []
    if header.mode in _MODE_NAMES:
        warnings.append(f"{_MODE_NAMES[header.mode]} became {became}")
    elif header.depth not in (8, 16):
        warnings.append(f"{header.depth}-bit {became} became {8 * pixels.itemsize}-bit {became}")
    if header.frames > 1:
        warnings.append(f"the first of {header.frames} pictures in the file is used")
    return warnings
