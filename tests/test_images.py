"""Bytes to pixels and back: upright, whole or refused, quiet, the same every time."""

import csv
import os
import random
import resource
import struct
import subprocess
import sys
import threading
import time
import zlib
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_headers import chunk, exif, jpeg, noise, with_chunk, with_exif

from edgekit.data.headers import Header, Unreadable, read_header
from edgekit.data.images import decode, encode, output_format
from edgekit.errors import EdgekitError

# As edgekit.lazy has it when it is the first to import OpenCV; here pytest's conftest was.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

NASTY = Path(__file__).parents[2] / "shared" / "assets" / "nasty"
needs_assets = pytest.mark.skipif(not NASTY.is_dir(), reason="the shared assets are not on this machine")
FORMATS = ("jpeg", "png", "webp", "avif", "tiff", "bmp", "jp2", "pnm", "sunras")
HOLDS = {"jpeg": (1, 3), "webp": (1, 3, 4), "pnm": (1, 3), "sunras": (1, 3)}


def smooth(height=40, width=56, channels=3, dtype=np.uint8):
    coarse = np.random.default_rng(1).random((4, 5, channels))
    fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, channels)
    return (np.clip(fine, 0, 1) * np.iinfo(dtype).max).astype(dtype)


def refusal(data, **options):
    with pytest.raises(Unreadable) as caught:
        decode(data, **options)
    return caught.value.message


def tiff(pixels, entries=(), white=1, bits=8, order="<", planes=1):
    """Write a plain TIFF of one strip (one a plane), HxWxC; `entries` are further (tag, value) pairs of 16 bits."""
    height, width, channels = pixels.shape
    kind = f"{order}u{pixels.itemsize}"
    parts = [pixels[..., n] for n in range(channels)] if planes == 2 else [pixels]
    strips = [part.astype(kind).tobytes() for part in parts]
    fields = {256: [width], 257: [height], 258: [bits] * channels, 259: [1], 262: [white], 277: [channels]}
    fields |= {
        278: [height],
        284: [planes],
        **{tag: value if isinstance(value, list) else [value] for tag, value in entries},
    }
    fields[273], fields[279] = [0] * len(strips), [len(strip) for strip in strips]
    position = 8 + 2 + 12 * len(fields) + 4
    starts, extra = position + sum(4 * len(v) for v in fields.values()), b""
    fields[273] = [starts + sum(map(len, strips[:n])) for n in range(len(strips))]
    directory = struct.pack(order + "H", len(fields))
    for tag, values in sorted(fields.items()):
        code, number = ("I", 4) if tag in (273, 279) else ("H", 3)
        body = struct.pack(f"{order}{len(values)}{code}", *values)
        directory += struct.pack(order + "HHI", tag, number, len(values))
        if len(body) > 4:
            directory += struct.pack(order + "I", position + len(extra))
            extra += body
        else:
            directory += body.ljust(4, b"\0")
    mark = b"II*\0" if order == "<" else b"MM\0*"
    head = mark + struct.pack(order + "I", 8) + directory + bytes(4) + extra
    return head.ljust(starts, b"\0") + b"".join(strips)


# ---- orientation


UPRIGHT = np.zeros((24, 16, 3), np.uint8)
UPRIGHT[:, :8] = (250, 30, 30)
UPRIGHT[16:, :] = (30, 30, 250)


def stored(orientation):
    """Turn the upright L so that `orientation` brings it back."""
    turns = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: p[:, ::-1].swapaxes(0, 1),
        7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
        8: lambda p: p[::-1].swapaxes(0, 1),
    }
    return np.ascontiguousarray(turns[orientation](UPRIGHT))


def webp_with_exif(data, block, width, height):
    canvas = struct.pack("<I", 8) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    block += b"\0" * (len(block) % 2)
    body = b"WEBPVP8X" + struct.pack("<I", 10) + canvas + data[12:] + b"EXIF" + struct.pack("<I", len(block)) + block
    return b"RIFF" + struct.pack("<I", len(body)) + body


def avif_turned(data, orientation):
    """Add irot and imir, as HEIF says orientation, to the properties of an AVIF's only picture."""
    turn, mirror = {2: (0, 1), 3: (2, None), 4: (0, 0), 5: (1, 0), 6: (3, None), 7: (3, 0), 8: (1, None)}[orientation]
    boxes = (struct.pack(">I4sB", 9, b"irot", turn) if turn else b"") + (
        b"" if mirror is None else struct.pack(">I4sB", 9, b"imir", mirror)
    )
    out = bytearray(data)
    place = out.find(b"ipma") - 4
    out[place:place] = boxes
    for kind in (b"ipco", b"iprp", b"meta"):
        start = out.find(kind) - 4
        struct.pack_into(">I", out, start, struct.unpack_from(">I", out, start)[0] + len(boxes))
    location = out.find(b"iloc")
    old = struct.pack(">I", bytes(data).find(b"mdat") + 4)
    assert out.find(old, location) > 0
    place = out.find(old, location)
    struct.pack_into(">I", out, place, struct.unpack(">I", old)[0] + len(boxes))
    return bytes(out)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["jpeg", "png", "webp", "tiff", "tiff16", "tiff grey", "avif"])
def test_orientation_is_applied_once(format, orientation):
    pixels, expected = stored(orientation), UPRIGHT
    height, width = pixels.shape[:2]
    if format == "jpeg":
        data = with_exif(encode(pixels, "jpeg", quality=100, subsampling="4:4:4"), exif(orientation))
    elif format == "png":
        data = with_chunk(encode(pixels, "png"), b"eXIf", exif(orientation, ">"))
    elif format == "webp":
        data = webp_with_exif(encode(pixels, "webp", lossless=True), exif(orientation), width, height)
    elif format == "tiff":
        data = tiff(pixels, [(274, orientation)], white=2)
    elif format == "tiff16":
        data, expected = tiff(pixels.astype(np.uint16) * 257, [(274, orientation)], 2, 16), UPRIGHT.astype("u2") * 257
    elif format == "tiff grey":
        data, expected = tiff(pixels[..., :1], [(274, orientation)]), UPRIGHT[..., :1]
    else:
        data = encode(pixels, "avif", lossless=True)
        data = data if orientation == 1 else avif_turned(data, orientation)
    picture = decode(data)
    assert (picture.header.orientation, picture.header.width, picture.header.height) == (orientation, width, height)
    assert picture.pixels.shape == expected.shape
    assert picture.pixels.flags.c_contiguous
    assert np.abs(picture.pixels.astype(int) - expected).max() <= (6 if format == "jpeg" else 0)
    again = encode(picture.pixels, "png" if format.startswith("tiff") else format)
    assert read_header(again).orientation == 1


# ---- channels and depth


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_come_back(format, channels):
    pixels = smooth(channels=channels)
    if channels not in HOLDS.get(format, (1, 3, 4)):
        with pytest.raises(EdgekitError, match="cannot hold"):
            encode(pixels, format)
        return
    data = encode(pixels, format, quality=95, lossless=format == "webp")
    assert data == encode(pixels, format, quality=95, lossless=format == "webp")
    back = decode(data)
    assert back.warnings == ()
    assert back.pixels.shape == (*pixels.shape[:2], 3 if (format, channels) == ("webp", 1) else channels)
    difference = np.abs(back.pixels.astype(int) - pixels)
    assert difference.max() == 0 if format not in ("jpeg", "avif") else difference.mean() < 4


@pytest.mark.parametrize("format", ["png", "tiff", "jp2", "pnm", "avif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_come_back(format, channels):
    pixels = smooth(channels=channels, dtype=np.uint16)
    back = decode(encode(pixels, format, lossless=True)).pixels
    assert back.dtype == np.uint16
    assert np.abs(back.astype(int) - pixels).max() <= (16 if format == "avif" else 0)  # AVIF holds 12 bits


@pytest.mark.parametrize("format", ["jpeg", "webp", "bmp", "sunras"])
def test_16_bits_are_not_silently_cut(format):
    with pytest.raises(EdgekitError, match="16 bits"):
        encode(smooth(dtype=np.uint16), format)


def test_lossless_webp_keeps_colour_below_full_transparency():
    pixels = noise(channels=4)
    pixels[..., 3] = np.where(np.arange(24) < 12, 0, pixels[..., 3])
    assert (decode(encode(pixels, "webp", lossless=True)).pixels == pixels).all()


def test_a_picture_too_big_for_its_format_says_so():
    with pytest.raises(EdgekitError, match="16384x2 pixels does not fit WEBP"):
        encode(np.zeros((2, 16384, 3), np.uint8), "webp")
    with pytest.raises(EdgekitError, match="does not fit JP2"):
        encode(np.zeros((8, 8, 3), np.uint8), "jp2")


def test_quality_and_sampling_reach_the_file():
    for quality, sampling in ((37, "4:4:4"), (81, "4:2:2"), (92, "4:2:0")):
        header = read_header(encode(smooth(), "jpeg", quality=quality, subsampling=sampling))
        assert (header.quality, header.subsampling) == (quality, sampling)
    assert read_header(encode(smooth(), "jpeg")).quality == 90
    assert read_header(encode(smooth(channels=1), "jpeg", subsampling="4:2:0")).subsampling is None
    assert len(encode(noise(), "webp", quality=30)) < len(encode(noise(), "webp"))
    assert encode(noise(), "webp", quality=90) == encode(noise(), "webp")


def test_png_is_written_the_fast_way():
    assert encode(smooth(), "png") == cv2.imencode(".png", smooth()[..., ::-1])[1].tobytes()


def test_views_are_encoded_as_they_look():
    pixels = smooth()[::-1, ::-1]
    assert (decode(encode(pixels, "png")).pixels == pixels).all()
    assert (decode(encode(pixels[..., :1], "png")).pixels == pixels[..., :1]).all()


def png(width, height, depth, colour, rows, *chunks):
    body = b"".join(chunk(kind, data) for kind, data in chunks) + chunk(b"IDAT", zlib.compress(rows))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


def test_odd_kinds_of_png():
    bilevel = decode(png(8, 1, 1, 0, b"\0\xaa"))
    assert bilevel.pixels[0, :2].tolist() == [[255] * 3, [0] * 3]
    assert bilevel.warnings == ("1-bit became RGB",)
    grey = decode(png(2, 1, 4, 0, b"\0\x3f"))
    assert (grey.pixels[0, :, 0].tolist(), grey.warnings) == ([51, 255], ("4-bit grey became 8-bit grey",))
    colours = (b"PLTE", bytes((10, 20, 30, 40, 50, 60)))
    palette = decode(png(2, 1, 8, 3, b"\0\0\1", colours))
    assert (palette.pixels[0].tolist(), palette.warnings) == ([[10, 20, 30], [40, 50, 60]], ("palette became RGB",))
    glass = decode(png(2, 1, 8, 3, b"\0\0\1", colours, (b"tRNS", b"\x07")))
    assert glass.pixels[0].tolist() == [[10, 20, 30, 7], [40, 50, 60, 255]]
    both = decode(png(1, 1, 8, 4, b"\0\x50\x60"))
    assert (both.pixels[0].tolist(), both.warnings) == ([[80, 80, 80, 96]], ("grey with alpha became RGBA",))


def ink_jpeg(inks, adobe):
    """Write an 8x8 JPEG of four flat channels by hand: DC alone, codes of 4 bits for its size, of 1 bit for "no AC"."""
    bits = ""
    for value in inks:
        level = (value - 128) * 8
        size = abs(level).bit_length()
        bits += f"{size:04b}" + (f"{level if level > 0 else level + (1 << size) - 1:0{size}b}" if size else "") + "0"
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")

    def segment(marker, body):
        return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body

    frame = struct.pack(">BHHB", 8, 8, 8, 4) + b"".join(bytes((n, 0x11, 0)) for n in range(1, 5))
    dc = b"\0" + bytes((0, 0, 0, 12)) + bytes(12) + bytes(range(12))
    ac = b"\x10" + bytes((1,)) + bytes(15) + b"\0"
    start = b"\4" + b"".join(bytes((n, 0)) for n in range(1, 5)) + b"\0\x3f\0"
    marks = segment(0xEE, b"Adobe\0\x64" + bytes(5)) if adobe else b""
    tables = segment(0xDB, b"\0" + b"\1" * 64) + segment(0xC0, frame) + segment(0xC4, dc + ac)
    return b"\xff\xd8" + marks + tables + segment(0xDA, start) + scan + b"\xff\xd9"


@pytest.mark.parametrize("mode", ["grey", "rgb", "cmyk"])
def test_swapped_colours_give_the_same_pixels_and_bytes(mode):
    data = encode(smooth()[..., :1] if mode == "grey" else smooth(), "jpeg")
    if mode == "cmyk":
        data = ink_jpeg((200, 100, 50, 255), adobe=True)
    usual, swapped = decode(data), decode(data, swapped=True)
    assert (usual.swapped, swapped.swapped) == (False, mode != "grey")
    assert np.array_equal(usual.pixels, swapped.pixels[..., ::-1] if swapped.swapped else swapped.pixels)
    assert encode(usual.pixels, "jpeg") == encode(swapped.pixels, "jpeg", swapped=swapped.swapped)
    assert not decode(encode(smooth(), "png"), swapped=True).swapped


@pytest.mark.parametrize("adobe", [True, False])
@pytest.mark.parametrize("inks", [(255, 255, 255, 255), (200, 100, 50, 255), (255, 30, 90, 128), (0, 0, 0, 0)])
def test_cmyk_jpeg_becomes_rgb(inks, adobe):
    """Inks are stored inverted, as Adobe does and everybody after it; the formula is Pillow's."""
    picture = decode(ink_jpeg(inks, adobe))
    expected = [value * inks[3] / 255 for value in inks[:3]]
    assert (picture.header.mode, picture.warnings) == ("cmyk", ("CMYK became RGB",))
    assert np.abs(picture.pixels.astype(int) - expected).max() <= 2


@pytest.mark.parametrize(("top", "kind"), [(100, "u1"), (1000, ">u2"), (4095, ">u2")])
def test_pnm_is_stretched_to_full_range(top, kind):
    values = np.array([[0, top // 2, top]])
    picture = decode(b"P5 # made by hand\n3 1\n%d\n" % top + values.astype(kind).tobytes())
    full = np.iinfo(picture.pixels.dtype).max
    assert picture.pixels[0, :, 0].tolist() == [0, round(top // 2 * full / top), full]


def test_bitmaps_in_text():
    assert decode(b"P1\n2 1\n1 0\n").pixels[0].tolist() == [[0] * 3, [255] * 3]
    assert decode(b"P2\n2 1\n15\n0 15\n").pixels[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("order", ["<", ">"])
def test_alpha_of_tiff_is_not_multiplied_in(order):
    pixels = noise(channels=4)
    assert (decode(tiff(pixels, [(338, 2)], 2, order=order)).pixels == pixels).all()


def test_white_is_zero_tiffs_are_inverted():
    for dtype, bits in ((np.uint8, 8), (np.uint16, 16)):
        pixels = noise(channels=1, dtype=dtype)
        assert (decode(tiff(pixels, white=0, bits=bits)).pixels == np.iinfo(dtype).max - pixels).all()


def test_a_tiff_palette_of_two_colours():
    pixels = np.array([[[0xA0]]], np.uint8)
    data = bytearray(tiff(pixels, [(320, [0x1000, 0xFF00, 0, 0, 0, 0x8000])], white=3, bits=1))
    struct.pack_into("<H", data, data.find(struct.pack("<HHI", 256, 3, 1)) + 8, 3)
    assert decode(bytes(data)).pixels[0].tolist() == [[255, 0, 128], [16, 0, 0], [255, 0, 128]]


def test_planes_and_lab_of_tiff():
    pixels = noise()
    assert (decode(tiff(pixels, white=2, planes=2)).pixels == pixels).all()
    assert "plane by plane" in refusal(tiff(noise(dtype=np.uint16), white=2, bits=16, planes=2))
    neutral = np.array([[[0, 0, 0], [128, 0, 0], [255, 0, 0]]], np.uint8)
    lab = decode(tiff(neutral, white=8))
    assert lab.warnings == ("Lab became RGB",)
    assert np.abs(lab.pixels[0].astype(int) - [[0] * 3, [119] * 3, [255] * 3]).max() <= 2


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff(np.zeros((2, 2, 1), np.float32), [(339, 3)], bits=32), "32-bit float pixels"),
        (tiff(np.zeros((2, 2, 1), np.int32), [(339, 2)], bits=32), "32-bit pixels"),
        (tiff(np.zeros((2, 2, 1), np.int8), [(339, 2)]), "signed integer pixels"),
        (tiff(np.zeros((2, 2, 6), np.uint8)), "6 channels"),
        (tiff(np.zeros((2, 2, 4), np.uint16), white=5, bits=16), "cmyk"),
        (b"PF\n2 2\n-1.0\n" + bytes(48), "32-bit float pixels"),
        (b"#?RADIANCE\n", "32-bit float pixels"),
        (b"v/1\x01" + bytes(40), "32-bit float pixels"),
        (b"8BPS" + bytes(40), "PSD, a format that cannot be read"),
    ],
)
def test_what_cannot_be_pixels_says_why(data, reason):
    assert reason in refusal(data)


def test_a_bmp_without_alpha_mask_has_no_alpha():
    pixels = noise(channels=4)
    data = bytearray(encode(pixels, "bmp"))
    assert (decode(bytes(data)).pixels == pixels).all()
    struct.pack_into("<I", data, 66, 0)
    assert (decode(bytes(data)).pixels == pixels[..., :3]).all()


def test_white_of_a_16_bit_bmp_is_white():
    head = struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 16, 0, 4, 0, 0, 0, 0)
    data = b"BM" + struct.pack("<IHHI", 58, 0, 0, 54) + head + struct.pack("<HH", 0x7FFF, 0)
    assert decode(data).pixels[0].tolist() == [[255] * 3, [0] * 3]


def test_gif_and_its_first_frame():
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255
    picture = decode(cv2.imencode(".gif", pixels)[1].tobytes())
    assert np.abs(picture.pixels.astype(int) - pixels).max() < 40  # OpenCV's palette is coarse
    assert picture.warnings == ("palette became RGB",)
    done, moving = cv2.imencodeanimation(".gif", animation([pixels, 255 - pixels]))
    assert done
    picture = decode(moving.tobytes())
    assert np.abs(picture.pixels.astype(int) - pixels).max() < 40
    assert "the first of 2 pictures in the file is used" in picture.warnings


def animation(frames):
    moving = cv2.Animation()
    moving.frames, moving.durations = frames, [100] * len(frames)
    return moving


# ---- truncated, corrupt, absurd


def whole(kind):
    """One file of every kind that can be cut."""
    pixels = smooth()
    flags = {"progressive": (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), "restarts": (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)}
    if kind in flags:
        return jpeg(pixels, *flags[kind])
    if kind == "lzw":
        return cv2.imencode(".tiff", pixels, [cv2.IMWRITE_TIFF_COMPRESSION, cv2.IMWRITE_TIFF_COMPRESSION_LZW])[
            1
        ].tobytes()
    if kind == "gif":
        return cv2.imencode(".gif", pixels)[1].tobytes()
    if kind == "palette tiff":
        ramp = [257 * n for n in range(256)]
        return tiff(pixels[..., :1], [(320, ramp * 3)], white=3)
    return encode(pixels, kind, lossless=False)


@pytest.mark.parametrize("kind", [*FORMATS, "progressive", "restarts", "lzw", "gif", "palette tiff"])
def test_a_cut_file_is_refused_or_whole(kind, capfd):
    data = whole(kind)
    pixels = decode(data).pixels
    size = len(data)
    for cut in sorted({*range(0, size, max(1, size // 120)), *range(max(0, size - 12), size)}):
        try:
            picture = decode(data[:cut])
        except Unreadable:
            continue
        assert picture.pixels.shape == pixels.shape, cut
        assert (picture.pixels == pixels).all(), cut
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("format", FORMATS)
def test_what_follows_the_picture_does_not_matter(format):
    data = encode(smooth(), format)
    assert (decode(data + b"\xff\0garbage" * 9).pixels == decode(data).pixels).all()


def test_a_jpeg_without_its_end_marker_is_whole():
    data = jpeg(smooth())
    picture = decode(data[:-2])
    assert picture.warnings == ("JPEG without an end marker",)
    assert (picture.pixels == decode(data).pixels).all()
    assert refusal(data[:-12]) == "truncated JPEG"
    assert refusal(whole("progressive")[:-2]) == "truncated JPEG"


def test_a_jpeg_whose_rest_is_zeros_is_refused():
    data = jpeg(smooth(200, 300))
    for part in (0.3, 0.6, 0.9):
        cut = int(part * len(data))
        assert "JPEG" in refusal(data[:cut] + bytes(len(data) - cut))


def test_reasons_are_short_phrases():
    assert refusal(encode(smooth(), "png")[:-30]) == "truncated PNG"
    assert refusal(encode(smooth(), "webp")[:-30]) == "truncated WEBP"
    assert refusal(b"") == "empty file"
    data = bytearray(encode(smooth(), "png"))
    data[len(data) // 2] ^= 0x55
    assert refusal(bytes(data)).startswith("corrupt PNG")


def claim(format, width, height):
    """Change the size that a small file claims."""
    data = bytearray(encode(smooth(), format))
    position, code = {
        "jpeg": (data.find(b"\xff\xc0") + 5, ">HH"),
        "png": (16, ">II"),
        "bmp": (18, "<ii"),
        "avif": (data.find(b"ispe") + 8, ">II"),
        "jp2": (data.find(b"\xff\x51") + 6, ">II"),
        "sunras": (4, ">II"),
    }[format]
    struct.pack_into(code, data, position, *((height, width) if format == "jpeg" else (width, height)))
    if format == "png":
        struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    return bytes(data)


def big_tiff(width, height):
    return tiff(noise(), [(256, width), (257, height)], white=2)


BOMBS = {
    **{format: claim(format, 60000, 50000) for format in ("jpeg", "png", "bmp", "avif", "jp2", "sunras")},
    "pnm": b"P6 60000 50000 255\n",
    "tiff": big_tiff(60000, 50000),
    "gif": b"GIF89a" + struct.pack("<HHBBB", 60000, 50000, 0, 0, 0) + b";",
    "gif frame": b"GIF89a\1\0\1\0\0\0\0," + struct.pack("<HHHHB", 59999, 49999, 1, 1, 0) + b"\2\1\0\0;",
    "webp": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + (59999).to_bytes(3, "little") + (49999).to_bytes(3, "little"),
}


@contextmanager
def cheap():
    """Check that what is done inside takes next to no memory and time."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB
    assert time.process_time() - started < 0.25


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_are_refused_by_their_header(kind):
    with cheap():
        assert refusal(BOMBS[kind]) == "3000.0 megapixels, over the limit of 100"


def test_more_bombs():
    canvas = b"RIFF\x2e\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0\1\0\0\1\0\0ANMF\x18\0\0\0" + bytes(16) + b"VP8L\x05\0\0\0\x2f"
    with cheap():
        assert refusal(claim("jpeg", 65500, 65500)) == "4290.2 megapixels, over the limit of 100"
        assert refusal(claim("avif", 17000, 17000)) == "289.0 megapixels, over the limit of 100"
        assert refusal(canvas + struct.pack("<I", 0x0FFFFFFF)) == "268.4 megapixels, over the limit of 100"  # a frame
        assert refusal(b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 50000 +X 60000\n") == "32-bit float pixels"
        assert refusal(b"P7\nWIDTH 60000\nHEIGHT 50000\n") == "PAM, a format that cannot be read"


@needs_assets
def test_a_real_bomb_of_1340_bytes():
    data = (NASTY / "huge_17000x17000.avif").read_bytes()
    with cheap():
        assert (len(data), refusal(data)) == (1340, "289.0 megapixels, over the limit of 100")


@pytest.mark.parametrize("kind", [b"IDAT", b"tEXt", b"PLTE", b"eXIf"])
@pytest.mark.parametrize("claimed", [100_000, 0x40000000, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_chunk_that_claims_more_than_the_file_has_is_refused_at_once(kind, claimed):
    """OpenCV makes room for all that a chunk claims: 2 GB and 3 s for 133 bytes."""
    data = bytearray(with_chunk(png(4, 4, 8, 0, b"\0\1\2\3\4" * 4), kind, b"abc") if kind != b"IDAT" else whole("png"))
    struct.pack_into(">I", data, data.find(kind) - 4, claimed)
    with cheap():
        assert refusal(bytes(data)) == "corrupt PNG"


@needs_assets
def test_an_animated_png_may_be_cut_after_its_first_picture():
    data = (NASTY / "apng_16bit.png").read_bytes()
    expected = decode(data).pixels
    for cut in (700, 902, 914):
        assert (decode(data[:cut]).pixels == expected).all()
    for cut in (300, 400):
        assert refusal(data[:cut]) == "truncated PNG"


def test_the_limit_is_the_callers():
    data = encode(smooth(40, 50), "png")
    assert decode(data, max_pixels=2000).pixels.shape == (40, 50, 3)
    assert refusal(data, max_pixels=1999).startswith("0.0 megapixels, over the limit of 0.001999")
    assert refusal(claim("png", 0, 5)) == "no pixels: 0x5"


def test_absurd_tiles_are_refused():
    assert "absurd" in refusal(tiff(noise(), [(322, 32768), (323, 32768)], white=2))


FUZZED = [*FORMATS, "progressive", "restarts", "lzw", "gif", "palette tiff"]


def test_flipped_bytes_raise_nothing_but_unreadable(capfd):
    chance = random.Random(0)
    for kind in FUZZED:
        original = whole(kind)
        for _ in range(40):
            data = bytearray(original)
            for _ in range(chance.choice((1, 1, 2, 4, 16))):
                reach = chance.choice((len(data), min(len(data), 200)))
                data[chance.randrange(reach)] = chance.choice((0, 255, chance.randrange(256)))
            try:
                picture = decode(bytes(data))
            except Unreadable as problem:
                assert problem.message
            else:
                assert picture.pixels.shape[2] in (1, 3, 4)
                assert picture.pixels.dtype in (np.uint8, np.uint16)
    assert capfd.readouterr() == ("", "")


# ---- quiet


def test_codecs_print_nothing_and_stderr_stays_itself():
    """In a process of its own: pytest's capture would hide what goes to file descriptor 2."""
    script = """
import os, sys
from edgekit.data.images import decode
from edgekit.data.headers import Unreadable
data = sys.stdin.buffer.read()
before = os.fstat(2), len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
for cut in range(100, len(data), 37):
    for damaged in (data[:cut] + data[cut + 3:], data[:cut]):
        try:
            decode(damaged)
        except Unreadable:
            pass
assert (os.fstat(2), len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0) == before
os.write(2, b"still here")
"""
    for data in (jpeg(smooth()), whole("progressive"), encode(smooth(), "png")):
        done = subprocess.run([sys.executable, "-c", script], input=data, capture_output=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"still here")


def test_harmless_damage_is_a_warning():
    data = jpeg(smooth())
    scan = data.find(b"\xff\xda")
    picture = decode(data[:scan] + b"junk" + data[scan:])
    assert picture.warnings == ("damaged JPEG: 4 extraneous bytes before marker 0xda",)
    assert (picture.pixels == decode(data).pixels).all()


def test_threads_take_turns():
    data = jpeg(smooth())
    expected, wrong, stderr = decode(data).pixels, [], os.fstat(2)

    def work():
        wrong.extend(n for n in range(50) if not (decode(data).pixels == expected).all())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert os.fstat(2) == stderr


# ---- what a variant is written as


@pytest.mark.parametrize(
    ("header", "suffix", "expected"),
    [
        (Header("jpeg", mode="rgb"), ".JPG", ("jpeg", ".JPG")),
        (Header("jpeg", mode="cmyk"), ".jpeg", ("jpeg", ".jpeg")),
        (Header("png", mode="rgb"), ".jpg", ("png", ".png")),
        (Header("tiff", mode="grey", depth=16), ".png", ("tiff", ".tiff")),
        (Header("tiff", mode="palette"), ".tif", ("tiff", ".tif")),
        (Header("jpeg", mode="rgb", frames=2), ".jpg", ("jpeg", ".jpg")),
        (Header("jpeg", mode="rgb", frames=2), ".mpo", ("png", ".png")),
        (Header("jpeg", mode="rgb"), "", ("jpeg", ".jpg")),
        (Header("gif", mode="palette"), ".gif", ("png", ".png")),
        (Header("psd"), ".psd", ("png", ".png")),
        (Header("pnm", mode="grey", depth=16), ".pgm", ("pnm", ".pgm")),
        (Header("pnm", mode="rgb"), ".pgm", ("pnm", ".ppm")),
        (Header("pnm", mode="rgb"), ".PNM", ("pnm", ".PNM")),
        (Header("pnm", mode="bilevel", depth=1), ".pbm", ("png", ".png")),
        (Header("jp2", 64, 64, mode="rgb"), ".jp2", ("jp2", ".jp2")),
        (Header("jp2", 64, 16, mode="rgb"), ".jp2", ("png", ".png")),
        (Header("j2k", 64, 64, mode="rgb"), ".j2k", ("png", ".png")),
        (Header("avif", mode="rgb", depth=10), ".avif", ("avif", ".avif")),
        (Header("sunras", mode="palette"), ".ras", ("sunras", ".ras")),
    ],
)
def test_output_format(header, suffix, expected):
    format, written, warning = output_format(header, suffix)
    assert (format, written) == expected
    assert (warning is None) == (written == suffix)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (3, np.uint8), (4, np.uint8), (3, np.uint16)])
def test_what_is_promised_can_be_written(format, channels, dtype):
    mode = {1: "grey", 3: "rgb", 4: "rgba"}[channels]
    header = Header(format, 56, 40, mode=mode, depth=8 * np.dtype(dtype).itemsize)
    chosen, _, _ = output_format(header, "." + format)
    assert decode(encode(smooth(channels=channels, dtype=dtype), chosen)).pixels.dtype == dtype


# ---- the difficult files


def wanted(row):
    """Tell from the index whether a file should decode."""
    expected = row["expected"]
    refused = "error" in expected or "skip" in expected or "must be refused" in expected or "refuse or" in expected
    return "refused" if refused else "decoded"


@needs_assets
def test_every_difficult_file_ends_as_expected(capfd):
    with (NASTY / "INDEX.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 200
    wrong = []
    for row in rows:
        try:
            decode((NASTY / row["file"]).read_bytes())
            outcome = "decoded"
        except Unreadable as problem:
            outcome = "refused"
            assert problem.message
        if outcome != wanted(row):
            wrong.append((row["file"], row["expected"], outcome))
    assert wrong == []
    assert capfd.readouterr() == ("", "")


@needs_assets
def test_the_eight_orientations_look_the_same():
    pictures = [decode((NASTY / f"exif/Portrait_{n}.jpg").read_bytes()).pixels for n in range(1, 9)]
    assert {picture.shape for picture in pictures} == {(1800, 1200, 3)}
    small = [cv2.resize(picture, (60, 90), interpolation=cv2.INTER_AREA).astype(int) for picture in pictures]
    assert max(np.abs(picture - small[0]).mean() for picture in small) < 8


@needs_assets
def test_difficult_files_get_the_right_channels():
    expected = {
        "hopper_16bit.pgm": ((128, 128, 1), "uint16"),
        "16bit_grey.png": ((32, 32, 1), "uint16"),
        "apng_16bit.png": ((64, 128, 4), "uint16"),
        "bw_500.png": ((500, 500, 3), "uint8"),
        "made/cmyk.jpg": ((240, 160, 3), "uint8"),
        "made/palette_transparency.png": ((240, 160, 4), "uint8"),
        "made/grey_alpha.png": ((240, 160, 4), "uint8"),
        "made/grey16.png": ((240, 160, 1), "uint16"),
        "made/exif6.webp": ((160, 240, 3), "uint8"),
        "chi.gif": ((240, 320, 3), "uint8"),
        "hopper.Lab.tif": ((128, 128, 3), "uint8"),
    }
    found = {name: decode((NASTY / name).read_bytes()).pixels for name in expected}
    assert {name: (pixels.shape, str(pixels.dtype)) for name, pixels in found.items()} == expected


@needs_assets
def test_interlaced_png_holds_the_same_pixels():
    plain = sorted((NASTY / "pngsuite").glob("basn*.png"))
    assert len(plain) > 10
    for path in plain:
        interlaced = path.with_name(path.name.replace("basn", "basi"))
        assert (decode(path.read_bytes()).pixels == decode(interlaced.read_bytes()).pixels).all(), path.name


@needs_assets
def test_cmyk_looks_like_its_original():
    # Both were made from the same photograph, the second by way of ink.
    cmyk = decode((NASTY / "made/cmyk.jpg").read_bytes()).pixels.astype(int)
    colour = decode((NASTY / "made/progressive_444.jpg").read_bytes()).pixels.astype(int)
    assert np.abs(cmyk - colour).mean() < 8


@needs_assets
def test_a_lab_tiff_looks_like_its_original():
    lab = decode((NASTY / "hopper.Lab.tif").read_bytes()).pixels.astype(int)
    colour = decode((NASTY / "hopper.tif").read_bytes()).pixels.astype(int)
    assert np.abs(lab - colour).mean() < 8


@pytest.mark.parametrize("channels", [1, 3])
def test_odd_rows_of_a_sun_raster_are_padded_with_zeros(channels):
    pixels = np.full((4, 5, channels), 200, np.uint8)
    data = encode(pixels, "sunras")
    row = 5 * channels
    body = np.frombuffer(data[-4 * (row + 1) :], np.uint8).reshape(4, row + 1)
    assert not body[:, -1].any() and (body[:, :-1] == 200).all()
