"""Contact sheets: rows of small pictures with a line of text below each."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit import files
from edgekit.data import images
from edgekit.lazy import cv2, np

if TYPE_CHECKING:
    import numpy

CELL = 160  # side of a picture's cell, pixels
LINE = 13  # height of a line of text, pixels
GAP = 8
PAPER, INK, FAINT = 250, (30, 30, 30), (110, 110, 110)
CHARACTERS = 26  # of the small font across a cell


@dataclass(frozen=True)
class Tile:
    """One picture of a sheet: HxWxC uint8 or uint16 (C = 1, 3 or 4), and its lines of text."""

    image: numpy.ndarray
    lines: tuple[str, ...] = ()


def contact_sheet(rows: Sequence[Sequence[Tile]]) -> numpy.ndarray:
    """Draw rows of tiles; give HxWx3 uint8. Pictures are fitted into cells, small ones without smoothing."""
    wrapped = [[(tile, _wrap(tile.lines)) for tile in row] for row in rows]
    heights = [CELL + LINE * max(len(lines) for _, lines in row) + GAP for row in wrapped]
    columns = max(len(row) for row in wrapped)
    sheet = np.full((sum(heights) + GAP, columns * (CELL + GAP) + GAP, 3), PAPER, np.uint8)
    top = GAP
    for row, height in zip(wrapped, heights, strict=True):
        for column, (tile, lines) in enumerate(row):
            left = GAP + column * (CELL + GAP)
            _place(sheet, thumbnail(tile.image), left, top)
            for number, line in enumerate(lines):
                origin = (left, top + CELL + LINE * (number + 1) - 2)
                color = INK if number == 0 else FAINT
                cv2.putText(sheet, line, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.34, color, 1, cv2.LINE_AA)
        top += height
    return sheet


def thumbnail(image: numpy.ndarray) -> numpy.ndarray:
    """Make any picture 8-bit RGB and fit it into a cell; alpha is shown over a chequered ground."""
    pixels = (image >> 8).astype(np.uint8) if image.dtype == np.uint16 else image
    if pixels.shape[2] == 4:
        pixels = _over_chequers(pixels)
    elif pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    height, width = pixels.shape[:2]
    scale = CELL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    return cv2.resize(np.ascontiguousarray(pixels), size, interpolation=way)


def _over_chequers(pixels: numpy.ndarray) -> numpy.ndarray:
    rows, columns = np.indices(pixels.shape[:2]) // 8
    ground = np.where((rows + columns) % 2, 200, 240).astype(np.float32)[..., None]
    alpha = pixels[..., 3:].astype(np.float32) / 255
    return np.round(pixels[..., :3] * alpha + ground * (1 - alpha)).astype(np.uint8)


def _place(sheet: numpy.ndarray, small: numpy.ndarray, left: int, top: int) -> None:
    height, width = small.shape[:2]
    y, x = top + (CELL - height) // 2, left + (CELL - width) // 2
    sheet[y : y + height, x : x + width] = small


def _wrap(lines: Sequence[str]) -> list[str]:
    wrapped: list[str] = []
    for line in lines:
        plain = line.encode("ascii", "replace").decode()
        wrapped += [plain[i : i + CHARACTERS] for i in range(0, len(plain), CHARACTERS)] or [""]
    return wrapped


def png(sheet: numpy.ndarray) -> bytes:
    """Encode a sheet as PNG with edgekit's mark in a text chunk, so that --force may replace it."""
    data = images.encode(sheet, "png")
    body = b"tEXtSoftware\0" + files.MADE_BY.encode()
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    after_header = 8 + 25  # the signature and IHDR
    return data[:after_header] + chunk + data[after_header:]
