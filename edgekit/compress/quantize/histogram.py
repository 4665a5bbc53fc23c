"""Histogram: where the values of a tensor lie, and which of them 8 bits should hold.

It has a fixed size whatever the number of samples, and does not depend on their order: its bins are anchored at zero
and as wide as a power of two, so that widening them is merging pairs, which is exact.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from edgekit.compress.quantize import target
from edgekit.lazy import np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Through = Callable[[np.ndarray], np.ndarray]

# Bins on each side of zero: eight and more to each of 256 steps.
BINS = 2048
# The share of values on each side that `percentile` gives up.
TAIL = 1e-4
METHODS = ("mse", "percentile", "minmax")
# Values that `add` counts at most.
SAMPLED = 1 << 15
_SMALLEST_EXPONENT = -100
_AT_ONCE = 1 << 14
_RANGES_AT_ONCE = 8


class Histogram:
    """Where the values of one tensor lie.

    `low` and `high` are the exact extremes of the finite values, `zeros` the number of exact zeros (they are in no bin,
    because every range represents them exactly), `ignored` the number of NaN and infinite values.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(2 * BINS, np.int64)
        self.exponent: int | None = None
        self.low = math.inf
        self.high = -math.inf
        self.zeros = 0
        self.ignored = 0

    def add(self, values: np.ndarray) -> None:
        """Take in an array of any shape and float type."""
        flat = values.reshape(-1).astype(np.float32, copy=False)
        if flat.size:
            finite = self._finite(flat, float(flat.min()), float(flat.max()))
            if finite is not None:
                self.take(float(finite.min()), float(finite.max()), finite[:: stride(finite.size, SAMPLED)])

    def _finite(self, flat: np.ndarray, low: float, high: float) -> np.ndarray | None:
        if math.isfinite(low) and math.isfinite(high):
            return flat
        finite: np.ndarray = flat[np.isfinite(flat)]
        self.ignored += flat.size - finite.size
        return finite if finite.size else None

    def take(self, low: float, high: float, sampled: np.ndarray) -> None:
        """Take in the extremes of some finite values, and a sample of them: float32 (n,), all within the extremes."""
        self.low, self.high = min(self.low, low), max(self.high, high)
        largest = max(-low, high)
        if largest > 0:
            self._widen(max(math.frexp(largest)[1] - int(math.log2(BINS)), _SMALLEST_EXPONENT))
        for start in range(0, sampled.size, _AT_ONCE):
            self._count(sampled[start : start + _AT_ONCE], low)

    def _count(self, values: np.ndarray, low: float) -> None:
        filled = values != 0
        count = int(np.count_nonzero(filled))
        self.zeros += values.size - count
        if count == 0:
            return
        if count < values.size:
            values = values[filled]
        index = (values * np.float32(math.ldexp(1.0, -(self.exponent or 0)))).astype(np.int32)
        if low < 0:
            # By their sign: tiny values underflow to zero, and count as negative still.
            index += values.view(np.int32) >> 31
        index += BINS
        self.counts += np.bincount(index, minlength=2 * BINS)

    def _widen(self, exponent: int) -> None:
        if self.exponent is None:
            self.exponent = exponent
        while self.exponent < exponent:
            pairs = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.zeros_like(self.counts)
            self.counts[BINS // 2 : BINS // 2 + BINS] = pairs
            self.exponent += 1

    @property
    def width(self) -> float:
        """How wide a bin is."""
        return math.ldexp(1.0, self.exponent or 0)

    def limits(self, method: str, *, symmetric: bool = False, through: Through | None = None) -> tuple[float, float]:
        """Choose the range of values to represent; zero is always inside it.

        `minmax` takes the extremes, `percentile` leaves out 0.01 % on either side, `mse` is where the expected squared
        error of 256 steps is least. With `through`, an elementwise function, the error of `mse` is that of the
        function's result: the negative side of what enters a SiLU needs no fine steps.
        """
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        if self.exponent is None or not math.isfinite(low) or not math.isfinite(high):
            return 0.0, 0.0
        if method == "percentile":
            low, high = self._percentile(low, high)
        elif method == "mse":
            return self._least_error(low, high, symmetric, through)
        return (-max(-low, high), max(-low, high)) if symmetric else (low, high)

    def _percentile(self, low: float, high: float) -> tuple[float, float]:
        counts = self.counts.astype(np.float64)
        total = counts.sum() + self.zeros
        below, above = np.cumsum(counts[:BINS]), np.cumsum(counts[BINS:][::-1])
        # The first bin, counted from the outside, that holds more than what is given up.
        cut_low = int(np.searchsorted(below, TAIL * total, side="right"))
        cut_high = int(np.searchsorted(above, TAIL * total, side="right"))
        return max(low, (cut_low - BINS) * self.width), min(high, (BINS - cut_high) * self.width)

    def _least_error(self, low: float, high: float, symmetric: bool, through: Through | None) -> tuple[float, float]:
        filled = np.flatnonzero(self.counts)
        weights = self.counts[filled].astype(np.float64)
        centres = np.clip((filled - BINS + 0.5) * self.width, low, high)
        shares = np.geomspace(1.0, 1 / 32, 48)
        if symmetric:
            reach = max(-low, high) * shares
            best = float(reach[_best(centres, weights, -reach, reach, through)])
            return -best, best
        chosen_low, chosen_high = low, high
        # One end at a time, twice: each end's best place hardly depends on the other's, and not at all when that stays.
        tried: tuple[float | None, float | None] = None, None
        for _ in range(2):
            if high > 0 and tried[0] != chosen_low:
                highs = high * shares
                tried = chosen_low, tried[1]
                chosen_high = float(highs[_best(centres, weights, np.full_like(highs, chosen_low), highs, through)])
            if low < 0 and tried[1] != chosen_high:
                lows = low * shares
                tried = tried[0], chosen_high
                chosen_low = float(lows[_best(centres, weights, lows, np.full_like(lows, chosen_high), through)])
        return chosen_low, chosen_high


def _best(values: np.ndarray, weights: np.ndarray, lows: np.ndarray, highs: np.ndarray, through: Through | None) -> int:
    """Give the number of the range with the least error: of every fourth, then of the neighbours of the best."""
    rough = np.arange(0, len(lows), 4)
    middle = int(rough[np.argmin(squared_errors(values, weights, lows[rough], highs[rough], through))])
    near = np.arange(max(0, middle - 3), min(len(lows), middle + 4))
    return int(near[np.argmin(squared_errors(values, weights, lows[near], highs[near], through))])


def squared_errors(
    values: np.ndarray, weights: np.ndarray, lows: np.ndarray, highs: np.ndarray, through: Through | None = None
) -> np.ndarray:
    """Give, for each range lows[k]..highs[k], the weighted squared error of rounding `values` to its 256 steps."""
    scale = ((highs - lows) / target.STEPS)[:, None]
    zero = np.rint(-lows[:, None] / scale)
    right = values if through is None else through(values)
    errors = np.empty(len(lows))
    # A few ranges at a time, and in place, so that all of it stays in the cache.
    for start in range(0, len(lows), _RANGES_AT_ONCE):
        rows = slice(start, start + _RANGES_AT_ONCE)
        steps = values / scale[rows]
        np.rint(steps, out=steps)
        steps += zero[rows]
        np.minimum(np.maximum(steps, 0, out=steps), target.STEPS, out=steps)
        steps -= zero[rows]
        steps *= scale[rows]
        gaps = steps if through is None else through(steps)
        gaps -= right
        gaps *= gaps
        errors[rows] = gaps @ weights
    return errors


def stride(size: int, most: int) -> int:
    """Give the step at which to take at most `most` of `size` values."""
    step = -(-size // most) if size else 1
    # Coprime to the size, so that no row, column or channel is left out or preferred.
    while math.gcd(step, size) > 1:
        step += 1
    return step


def packed(histograms: Mapping[str, Histogram]) -> dict[str, np.ndarray]:
    """Write histograms as plain arrays, one row each."""
    seen = list(histograms.values())
    exponents = [one.exponent if one.exponent is not None else _SMALLEST_EXPONENT - 1 for one in seen]
    return {
        "names": np.frombuffer(json.dumps(list(histograms)).encode(), np.uint8),
        "counts": np.array([one.counts for one in seen], np.int64).reshape(-1, 2 * BINS),
        "whole": np.array([exponents, [one.zeros for one in seen], [one.ignored for one in seen]], np.int64),
        "extremes": np.array([[one.low for one in seen], [one.high for one in seen]], np.float64),
    }


def unpacked(arrays: Mapping[str, np.ndarray]) -> dict[str, Histogram]:
    """Read what `packed` wrote."""
    found = {}
    for row, name in enumerate(json.loads(arrays["names"].tobytes())):
        made = found[name] = Histogram()
        made.counts = arrays["counts"][row].copy()
        exponent, made.zeros, made.ignored = (int(number) for number in arrays["whole"][:, row])
        made.exponent = exponent if exponent >= _SMALLEST_EXPONENT else None
        made.low, made.high = (float(number) for number in arrays["extremes"][:, row])
    return found
