"""Facts read out of headers: JPEG quality and sampling, EXIF in its hiding places, sniffing by content."""

import pickle
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgekit.data.headers import PICTURE_SUFFIXES, Header, Unreadable, read_header
from edgekit.data.images import encode

ASSETS = Path(__file__).parents[2] / "shared" / "assets"
SAMPLINGS = {
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "4:4:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
    "4:1:1": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
}


def noise(height=16, width=24, channels=3, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (height, width, channels), dtype, endpoint=True)


def jpeg(pixels=None, *flags):
    return cv2.imencode(".jpg", noise() if pixels is None else pixels, list(flags))[1].tobytes()


def exif(orientation, order="<", kind=3):
    """Build the smallest EXIF block."""
    value = struct.pack(order + ("HH" if kind == 3 else "I"), *((orientation, 0) if kind == 3 else (orientation,)))
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(order + "IHHHI", 8, 1, 274, kind, 1) + value + bytes(4)


def with_exif(data, block):
    """Put an EXIF segment behind a JPEG's start marker."""
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block + data[2:]


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunk(data, kind, body):
    """Put a chunk behind a PNG's IHDR."""
    return data[:33] + chunk(kind, body) + data[33:]


@pytest.mark.parametrize("quality", [1, 10, 25, 50, 60, 75, 85, 90, 95, 99, 100])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_jpeg_quality_and_sampling_are_read_back_exactly(quality, sampling):
    flags = (cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS[sampling])
    header = read_header(jpeg(None, *flags))
    assert (header.quality, header.subsampling) == (quality, sampling)
    assert read_header(jpeg(None, *flags, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)) == header


def test_every_jpeg_quality_is_its_own():
    grey = noise(channels=1)
    assert [read_header(jpeg(grey, cv2.IMWRITE_JPEG_QUALITY, q)).quality for q in range(1, 101)] == [*range(1, 101)]


@pytest.mark.parametrize("quality", [5, 30, 75, 92])
def test_foreign_tables_get_the_nearest_quality(quality):
    data = bytearray(jpeg(None, cv2.IMWRITE_JPEG_QUALITY, quality))
    table = data.find(b"\xff\xdb") + 5
    data[table + 1] ^= 1
    data[table + 3] ^= 1
    assert read_header(bytes(data)).quality == quality


def test_tables_of_16_bits_count_like_those_of_8():
    data = jpeg(None, cv2.IMWRITE_JPEG_QUALITY, 40)
    start = data.find(b"\xff\xdb")
    table = data[start + 5 : start + 69]
    wide = b"\xff\xdb" + struct.pack(">HB", 131, 0x10) + struct.pack(">64H", *table)
    assert read_header(data[:start] + wide + data[start + 69 :]).quality == 40


def test_a_grey_jpeg_has_quality_but_no_sampling():
    header = read_header(jpeg(noise(channels=1), cv2.IMWRITE_JPEG_QUALITY, 83))
    assert (header.mode, header.quality, header.subsampling) == ("grey", 83, None)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_a_jpeg(orientation, order):
    assert read_header(with_exif(jpeg(), exif(orientation, order))).orientation == orientation


@pytest.mark.parametrize(
    "block",
    [exif(99), exif(0), exif(2**31, kind=4), b"", b"II*\0", b"XX*\0" + bytes(20), exif(6)[:11],
     b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff" + bytes(30)],
)  # fmt: skip
def test_malformed_exif_is_upright(block):
    header = read_header(with_exif(jpeg(), block))
    assert (header.orientation, header.width) == (1, 24)


def test_a_lost_length_does_not_lose_the_picture():
    data = with_exif(jpeg(), exif(6))
    assert read_header(data[:4] + b"\0\x10" + data[6:]).width == 24


def raw_profile(block):
    return b"\nexif\n%8d\n" % len(block) + block.hex().encode() + b"\n"


@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
@pytest.mark.parametrize("form", ["eXIf", "tEXt", "zTXt", "iTXt", "iTXt compressed"])
def test_orientation_of_a_png_wherever_it_hides(form, prefix):
    block = prefix + exif(6)
    text, key = raw_profile(block), b"Raw profile type exif\0"
    body = {
        "eXIf": block,
        "tEXt": key + text,
        "zTXt": key + b"\0" + zlib.compress(text),
        "iTXt": key + b"\0\0\0\0" + text,
        "iTXt compressed": key + b"\1\0\0\0" + zlib.compress(text),
    }[form]
    assert read_header(with_chunk(encode(noise(), "png"), form[:4].encode(), body)).orientation == 6


def test_the_exif_chunk_counts_more_than_text():
    data = with_chunk(encode(noise(), "png"), b"tEXt", b"Raw profile type exif\0" + raw_profile(exif(6)))
    assert read_header(with_chunk(data, b"eXIf", exif(3))).orientation == 3


@pytest.mark.parametrize("text", [b"", b"nonsense", b"\nexif\n 8\nzz", zlib.compress(b"x" * 100)])
def test_a_malformed_text_profile_is_upright(text):
    for kind in (b"tEXt", b"zTXt", b"iTXt"):
        data = with_chunk(encode(noise(), "png"), kind, b"Raw profile type exif\0" + text)
        assert read_header(data).orientation == 1


def test_a_text_bomb_is_not_unpacked():
    bomb = b"Raw profile type exif\0\0" + zlib.compress(bytes(50_000_000))
    assert read_header(with_chunk(encode(noise(), "png"), b"zTXt", bomb)).orientation == 1


@pytest.mark.parametrize("format", ["jpeg", "png", "webp", "avif", "tiff", "bmp", "pnm", "sunras"])
@pytest.mark.parametrize("channels", [1, 3])
def test_size_and_mode_of_what_opencv_writes(format, channels):
    header = read_header(encode(noise(channels=channels), format))
    mode = "rgb" if format == "webp" or channels == 3 else "grey"
    expected = (format, 24, 16, mode, 8, 1, 1)
    got = (header.format, header.width, header.height, header.mode, header.depth, header.frames, header.orientation)
    assert got == expected


@pytest.mark.parametrize("format", ["png", "webp", "avif", "tiff", "bmp"])
def test_alpha_is_seen(format):
    assert read_header(encode(noise(channels=4), format, lossless=True)).mode == "rgba"


def test_jpeg_2000_is_read_from_its_codestream():
    data = encode(noise(40, 50, dtype=np.uint16), "jp2")
    assert (read_header(data).width, read_header(data).height, read_header(data).depth) == (50, 40, 16)
    raw = data[data.find(b"\xff\x4f\xff\x51") :]
    assert (read_header(raw).format, read_header(raw).width) == ("j2k", 50)


def test_lossless_webp_is_told_from_lossy():
    assert read_header(encode(noise(), "webp", lossless=True)).lossless
    assert not read_header(encode(noise(), "webp", quality=80)).lossless


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (bytes(500), "not a picture (all zero bytes)"),
        (b"hello", "not a picture"),
        (b"<!DOCTYPE html><html>404</html>", "not a picture (HTML)"),
        (b"\n<HTML><body>", "not a picture (HTML)"),
        (b"BM, said the text, is not a bitmap", "not a picture"),
        (b"\0\0\0\x18ftypmp42" + bytes(40), "not a picture (video)"),
        (b"\x89PNG\r\n\x1a\n", "truncated PNG"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "truncated JPEG"),
        (b"P5\n# only a comment", "corrupt PNM header"),
    ],
)
def test_what_is_not_a_picture_says_so(data, reason):
    with pytest.raises(Unreadable) as refusal:
        read_header(data)
    assert refusal.value.message == reason


@pytest.mark.parametrize(
    ("data", "format"),
    [
        (b"8BPS\0\1" + bytes(40), "psd"),
        (b"\0\0\1\0\1\0" + bytes(40), "ico"),
        (b"<?xml version='1.0'?>\n<!-- made by hand -->\n<svg xmlns=''/>", "svg"),
        (b"\xef\xbb\xbf<svg/>", "svg"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "heif"),
        (b"\xff\x0a\0\0", "jxl"),
        (b"\0\0\0\x18ftypcrx " + bytes(40), "camera raw"),
        (b"%PDF-1.7", "pdf"),
    ],
)
def test_formats_that_cannot_be_read_are_named(data, format):
    assert read_header(data) == Header(format)


def test_a_tiff_with_a_thumbnail_first_is_camera_raw():
    entries = struct.pack("<HHII", 254, 4, 1, 1) + struct.pack("<HHII", 330, 4, 1, 8)
    assert read_header(b"II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4)).format == "camera raw"


def test_directories_in_a_circle_come_to_an_end():
    data = bytearray(encode(noise(), "tiff"))
    (directory,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, directory)
    struct.pack_into("<I", data, directory + 2 + 12 * count, directory)
    assert read_header(bytes(data)).frames <= 2


def test_a_header_is_plain_and_its_refusal_survives_a_pickle():
    refusal = pickle.loads(pickle.dumps(Unreadable("truncated JPEG")))
    assert (type(refusal), refusal.message) == (Unreadable, "truncated JPEG")
    assert pickle.loads(pickle.dumps(Header("jpeg", 3, 2))) == Header("jpeg", 3, 2)


def test_suffixes_are_lower_case_with_a_dot():
    assert {".jpg", ".jpeg", ".png", ".webp", ".avif", ".tif", ".psd", ".heic", ".svg", ".nef"} <= PICTURE_SUFFIXES
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in PICTURE_SUFFIXES)


@pytest.mark.skipif(not ASSETS.is_dir(), reason="the shared assets are not on this machine")
def test_facts_of_real_files():
    nasty = ASSETS / "nasty"
    frames = {"dispose_bgnd.gif": 5, "chi.gif": 31, "multipage.tiff": 3, "frozenpond.mpo": 2, "made/animated.webp": 3}
    assert {name: read_header((nasty / name).read_bytes()).frames for name in frames} == frames
    turned = {"exif_orientation_png.png": 3, "made/exif6.png": 6, "made/exif6.webp": 6, "made/exif99.jpg": 1}
    turned |= {f"exif/Portrait_{n}.jpg": n for n in range(1, 9)}
    assert {name: read_header((nasty / name).read_bytes()).orientation for name in turned} == turned
    # Files written by Pillow: its quality 75 and 90 are libjpeg's.
    assert read_header((nasty / "made/progressive_444.jpg").read_bytes()).subsampling == "4:4:4"
    assert read_header((nasty / "made/UPPER CASE & ünïcode (1).JPEG").read_bytes()).quality == 90
    modes = {"pil_cmyk_hopper.jpg": "cmyk", "hopper.Lab.tif": "lab", "bw_500.png": "bilevel", "hopper.gif": "palette"}
    modes |= {"made/grey_alpha.png": "grey-alpha", "bmp_rgba32.bmp": "rgba", "hopper_16bit.pgm": "grey"}
    assert {name: read_header((nasty / name).read_bytes()).mode for name in modes} == modes
