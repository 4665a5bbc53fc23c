"""Generators, and random values in numbers too large for a manifest: drawn again from a seed, alike on every machine.

numpy promises the raw bits of PCG64 for all its versions but not the numbers that its generators make of them (NEP 19),
so nothing but the bits is used for those.
"""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING, Any

from edgekit.lazy import cv2, np

if TYPE_CHECKING:
    from collections.abc import Iterator

BAND = 1 << 15  # values that are made at a time: more leave the caches, and take four times as long


def generator(seed: int, key: str, variant: int, attempt: int) -> np.random.Generator:
    """Give the generator of one draw: a function of the seed, the source's path and the variant alone."""
    text = f"{seed}\0{variant}\0{attempt}\0".encode() + key.encode("utf-8", "surrogateescape")
    digest = hashlib.blake2b(text, digest_size=32).digest()
    return np.random.Generator(np.random.PCG64(_digest_seed()(digest)))


@functools.cache
def _digest_seed() -> Any:
    """Give the class of seeds that are a digest: mixed well already, where numpy's own would take 40 microseconds."""

    class Digest(np.random.bit_generator.ISeedSequence):  # type: ignore[misc,name-defined]
        def __init__(self, digest: bytes) -> None:
            self._words = np.frombuffer(digest, "<u8")

        def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
            """Give the words that PCG64 asks for: four of 64 bits."""
            return self._words[:n_words].astype(dtype, copy=False)

    return Digest


def new_seed(rng: np.random.Generator) -> int:
    """Draw a seed that survives JSON."""
    return int(rng.integers(2**32))


def uniforms(seed: int, *shape: int) -> np.ndarray:
    """Give float64 values, uniform in 0..1 (1 excluded)."""
    raw = np.random.PCG64(seed).random_raw(int(np.prod(shape)))
    values: np.ndarray = (raw >> np.uint64(11)) * 2.0**-53
    return values.reshape(shape)


class Normals:
    """A stream of standard normal values: 16 bits of PCG64 each, looked up in the quantiles of the distribution."""

    def __init__(self, seed: int, stream: int = 0) -> None:
        self._bits = np.random.PCG64([seed, stream] if stream else seed)

    def next(self, *shape: int) -> np.ndarray:
        """Give the next values, float32; a count that is no multiple of four leaves the rest of a word unused."""
        count = int(np.prod(shape))
        values: np.ndarray = cv2.LUT(self._bits.random_raw(-(-count // 4)).view(np.uint16)[:count], _quantiles())
        return values.reshape(shape)


class Grain:
    """Normal values to add to pixels: windows of one pool, which costs a tenth of drawing them anew.

    Two arrays of POOL bytes, of which one holds the positive values and the other the negative ones, in units of a
    standard deviation / UNIT. A window begins anywhere and may be negated, so that two of them hardly ever line up.
    """

    POOL = 1 << 22
    UNIT = 60  # the farthest of `_quantiles` is 4.27 standard deviations, and a byte holds 4.25

    def __init__(self, seed: int) -> None:
        self._places = np.random.PCG64(seed)

    def next(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Give a window of at most POOL values: what is above zero, what is below, both uint8."""
        above, below = _pool()
        place, sign = (int(word) for word in self._places.random_raw(2))
        start = place % (self.POOL - count + 1)
        window = slice(start, start + count)
        return (above[window], below[window]) if sign & 1 else (below[window], above[window])


@functools.cache
def _pool() -> tuple[np.ndarray, np.ndarray]:
    words = np.random.PCG64(0).random_raw(Grain.POOL // 4).view(np.uint16)
    levels = np.rint(Grain.UNIT * _quantiles())
    above, below = (cv2.LUT(words, np.clip(sign * levels, 0, 255).astype(np.uint8)).reshape(-1) for sign in (1.0, -1.0))
    return above, below


def bands(image: np.ndarray, values: int) -> Iterator[slice]:
    """Divide the rows of an image, which has so many `values` a row, by eights: no band ends within a word of four."""
    rows = 8 * max(1, BAND // (8 * values))
    for top in range(0, len(image), rows):
        yield slice(top, min(top + rows, len(image)))


@functools.cache
def _quantiles() -> np.ndarray:
    """Give the middles of 65536 equally likely slices of the normal distribution."""
    from statistics import NormalDist  # here, because it is slow to import and rarely wanted

    inverse = NormalDist().inv_cdf
    return np.array([inverse((slice + 0.5) / 65536) for slice in range(65536)], np.float32)
