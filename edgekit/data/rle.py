"""Run lengths of COCO: a region column by column, first how many pixels are outside, then inside, and so on.

The compressed form is a text in which each length is the difference to the one two before it, five bits a character
from `0` on, the sixth bit saying that more follow (cocodataset/cocoapi, common/maskApi.h).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit.lazy import np

if TYPE_CHECKING:
    from numpy import ndarray

_FIRST = 48  # the character that stands for 0


def decode(counts: str | bytes | Sequence[int], height: int, width: int) -> ndarray:
    """Decode run lengths, compressed (text) or not (numbers): HxW bool.

    Raises ValueError when they are no lengths or do not add up to the picture.
    """
    lengths = _unpack(counts) if isinstance(counts, (str, bytes)) else list(counts)
    if not all(isinstance(one, int) and one >= 0 for one in lengths) or sum(lengths) != height * width:
        raise ValueError("run lengths that do not add up to the picture")
    inside = np.arange(len(lengths)) % 2 == 1
    flat: ndarray = np.repeat(inside, lengths)
    return np.ascontiguousarray(flat.reshape(width, height).T)


def encode(region: ndarray, *, plain: bool = False) -> str | list[int]:
    """Encode an HxW bool region, in the compressed form or as plain numbers."""
    lengths = runs(region)
    return lengths if plain else _pack(lengths)


def runs(region: ndarray) -> list[int]:
    """Give the run lengths of an HxW bool region, the first outside it (0 when its first pixel is inside)."""
    flat = np.asarray(region, bool).T.reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0] if flat.size and flat[0] else [], [0], changes, [flat.size]])
    lengths: list[int] = np.diff(edges).astype(np.int64).tolist()
    return lengths


def _pack(lengths: Sequence[int]) -> str:
    letters = bytearray()
    for number, length in enumerate(lengths):
        value = length - lengths[number - 2] if number > 2 else length
        more = True
        while more:
            bits = value & 31
            value >>= 5
            # Done when the rest is only the sign that the fifth bit shows.
            more = value != (-1 if bits & 16 else 0)
            letters.append((bits | 32 if more else bits) + _FIRST)
    return letters.decode("ascii")


def _unpack(text: str | bytes) -> list[int]:
    lengths: list[int] = []
    value = shift = 0
    for letter in text.encode("ascii", "replace") if isinstance(text, str) else text:
        bits = letter - _FIRST
        if not 0 <= bits < 64:
            raise ValueError("a text that is no run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            if shift > 60:
                raise ValueError("a text that is no run lengths")
            continue
        if bits & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("run lengths that end too soon")
    return lengths
