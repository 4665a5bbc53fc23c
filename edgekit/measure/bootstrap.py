"""The percentile bootstrap over pictures, for scores that are means or are computed from weights of pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.lazy import np

if TYPE_CHECKING:
    from numpy import ndarray

RESAMPLES = 400


def draws(n: int, resamples: int = RESAMPLES, seed: int = 0) -> ndarray:
    """Draw n of n pictures with replacement, `resamples` times: how often each was drawn, int64 (resamples, n)."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)


def interval(drop: float, drops: ndarray) -> tuple[float, float, float]:
    """Give the drop with its 95% interval, the quantiles of the drops of the draws, which holds it (Efron 1979)."""
    drops = drops[np.isfinite(drops)]
    low, high = np.quantile(drops, (0.025, 0.975)) if len(drops) else (drop, drop)
    return drop, min(float(low), drop), max(float(high), drop)
