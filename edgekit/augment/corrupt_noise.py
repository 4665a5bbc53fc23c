"""The three corruptions by noise of ImageNet-C; each works on HxWxC float32 of 0..1, and gives the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.augment.draws import Normals, uniforms
from edgekit.lazy import np

if TYPE_CHECKING:
    from edgekit.augment.op import Params

CHUNK = 1 << 18  # values that photons are counted of at a time


def gaussian_noise(image: np.ndarray, sigma: float, params: Params) -> np.ndarray:
    """Add normal noise of a standard deviation, to each value by itself."""
    noise = Normals(params["seed"]).next(*image.shape)
    noise *= np.float32(sigma)
    noise += image
    return noise


def shot_noise(image: np.ndarray, photons: float, params: Params) -> np.ndarray:
    """Count photons: Poisson, with as many expected at white.

    The expectation is taken at the 256 levels of 8 bits. Values of a level are drawn together, by inverting the
    distribution, because numpy does not promise that its own draws stay the same.
    """
    counts = np.empty(image.size, np.float32)
    levels = np.rint(image.reshape(-1) * np.float32(255)).astype(np.uint8)
    tables = [_cumulated(photons * level / 255) for level in range(256)]
    drawn = _Chunks(params["seed"], image.size)
    for number, start in enumerate(range(0, image.size, CHUNK)):
        part = levels[start : start + CHUNK]
        order = np.argsort(part, kind="stable")
        ends = np.searchsorted(part[order], np.arange(257))
        chances, found = drawn.get(number, len(part))[order], np.empty(len(part), np.float32)
        for level, table in enumerate(tables):
            same = slice(ends[level], ends[level + 1])
            found[same] = np.searchsorted(table, chances[same], side="right")
        counts[start : start + CHUNK][order] = found
    return counts.reshape(image.shape) / np.float32(photons)


def impulse_noise(image: np.ndarray, amount: float, params: Params) -> np.ndarray:
    """Make a share of all values, each channel by itself, 0 or 1."""
    out = image.reshape(-1).copy()
    drawn = _Chunks(params["seed"], image.size)
    for number, start in enumerate(range(0, image.size, CHUNK)):
        part = out[start : start + CHUNK]
        chances = drawn.get(number, len(part))
        part[chances < amount / 2] = 1.0
        part[chances >= 1 - amount / 2] = 0.0
    return out.reshape(image.shape)


class _Chunks:
    """Uniform values in chunks, each from a seed of its own: all of a large picture's at once would be a lot."""

    def __init__(self, seed: int, count: int) -> None:
        self._seeds = np.random.PCG64(seed).random_raw(-(-count // CHUNK))

    def get(self, number: int, count: int) -> np.ndarray:
        """Give float64 values, uniform in 0..1 (1 excluded)."""
        return uniforms(int(self._seeds[number]), count)


def _cumulated(mean: float) -> np.ndarray:
    """Give the chances of at most 0, 1, 2 ... of a Poisson distribution, until nothing is left that counts."""
    if mean == 0:
        return np.ones(1)
    most = int(mean + 12 * mean**0.5 + 16)
    numbers = np.arange(1, most)
    logarithms = np.concatenate([[0.0], np.cumsum(np.log(mean) - np.log(numbers))]) - mean
    cumulated: np.ndarray = np.cumsum(np.exp(logarithms))
    return cumulated
