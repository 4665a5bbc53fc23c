"""Histograms of single runs: what a median hides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.lazy import np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy import ndarray

BINS = 60
_TAIL = 0.5  # percent left out at either end: a neighbour's burst would squeeze all the rest into one bin


@dataclass(frozen=True)
class Histogram:
    """Counts of values between `edges`, which are one more than the counts, each the same factor above the last."""

    edges: tuple[float, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]


def histogram(before: ndarray | Sequence[float], after: ndarray | Sequence[float]) -> Histogram:
    """Count two lists of times in the same BINS bins, from the lower 0.5% point to the upper 99.5% point.

    Values beyond are left out. The bins are equal in the logarithm: models may be far apart, and a busy machine gives
    runs many times the median. Times of 0 or less count as a billionth.
    """
    times = [np.maximum(np.asarray(values, np.float64), 1e-9) for values in (before, after)]
    ends = [np.percentile(values, (_TAIL, 100 - _TAIL)) for values in times]
    low, high = float(min(ends[0][0], ends[1][0])), float(max(ends[0][1], ends[1][1]))
    if high < low * 1.01:
        low, high = low / 1.01, high * 1.01
    edges = np.geomspace(low, high, BINS + 1)
    counts = [np.histogram(values, edges)[0] for values in times]
    return Histogram(tuple(edges.tolist()), *(tuple(each.tolist()) for each in counts))
