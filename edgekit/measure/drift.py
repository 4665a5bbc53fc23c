"""Drift: how far a model's outputs moved from the original's, on the same inputs, without labels."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError
from edgekit.lazy import np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

SQNR_CAP_DB = 200.0
"""Stands for an infinite ratio (equal outputs), and negated for noise without signal, so that JSON stays plain."""


@dataclass(frozen=True)
class DriftResult:
    """Distance between the outputs of two models on the same inputs.

    `sqnr_db`: 10 log10(sum x^2 / sum (x - y)^2) over all outputs and samples, x before, y after; in
    -SQNR_CAP_DB..SQNR_CAP_DB, higher is closer. `outputs_db`: the same for each output, in the model's order.
    `cosine`: x.y / (|x| |y|), -1..1. `agreement`: share of samples with the same top answer, 0..1; None for anything
    but a classifier. `n`: number of samples. `finite`: False when `after` has a NaN or an infinity where `before` has
    another value; sqnr_db is then -SQNR_CAP_DB.
    """

    sqnr_db: float
    cosine: float
    agreement: float | None
    n: int
    finite: bool
    outputs_db: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, ready for JSON."""
        return asdict(self)


class Drift:
    """Compare two models' outputs batch by batch; memory does not grow with the number of samples."""

    def __init__(self) -> None:
        self._sums: list[_Sums] = []
        self._agreement: _Agreement | None = None
        self._n = 0

    def add(self, before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> None:
        """Take the outputs of both models for one batch: lists of numeric arrays of any shape, in the same order.

        The first axis counts samples. An output whose shape differs between the models (detections after suppression)
        counts as wholly noise, as if `after` had answered zeros. Raises EdgekitError when the output counts differ.
        """
        if len(before) != len(after) or (self._sums and len(before) != len(self._sums)):
            raise EdgekitError(
                f"the models have {len(before)} and {len(after)} outputs",
                "compare models with the same outputs",
            )
        if not self._sums:
            self._sums = [_Sums() for _ in before]
            self._agreement = _Agreement() if len(before) == 1 else None
        for sums, x, y in zip(self._sums, before, after, strict=True):
            sums.add(np.asarray(x, np.float64), np.asarray(y, np.float64))
        if before:
            self._n += before[0].shape[0] if np.ndim(before[0]) else 1
        if self._agreement is not None:
            self._agreement.add(before[0], after[0])

    def result(self) -> DriftResult:
        """Return the drift over everything added so far; without samples, that of equal outputs."""
        total = _Sums()
        for sums in self._sums:
            total.merge(sums)
        return DriftResult(
            sqnr_db=total.sqnr_db(),
            cosine=total.cosine(),
            agreement=self._agreement.share() if self._agreement is not None else None,
            n=self._n,
            finite=total.broken == 0,
            outputs_db=tuple(sums.sqnr_db() for sums in self._sums),
        )


class _Sums:
    """float64 sums over one output: everything that SQNR and cosine need."""

    def __init__(self) -> None:
        self.signal = 0.0  # sum x^2
        self.energy = 0.0  # sum y^2
        self.product = 0.0  # sum x y
        self.noise = 0.0  # sum (x - y)^2
        self.broken = 0  # values that are not finite after, and were something else before

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        if x.shape != y.shape:
            y = np.zeros_like(x)
        both = np.isfinite(x) & np.isfinite(y)
        if not both.all():
            # A mask of -inf that both models answer is no drift; a value that became NaN is.
            equal = (x == y) | (np.isnan(x) & np.isnan(y))
            self.broken += int(np.count_nonzero(~both & ~equal))
            x, y = x[both], y[both]
        # np.sum adds pairwise in a fixed order; a BLAS dot may split by threads.
        self.signal += float(np.sum(x * x))
        self.energy += float(np.sum(y * y))
        self.product += float(np.sum(x * y))
        self.noise += float(np.sum(np.square(x - y)))

    def merge(self, other: _Sums) -> None:
        self.signal += other.signal
        self.energy += other.energy
        self.product += other.product
        self.noise += other.noise
        self.broken += other.broken

    def sqnr_db(self) -> float:
        if self.broken:
            return -SQNR_CAP_DB
        if self.noise == 0:
            return SQNR_CAP_DB
        if self.signal == 0:
            return -SQNR_CAP_DB
        decibel = 10 * (math.log10(self.signal) - math.log10(self.noise))
        return max(-SQNR_CAP_DB, min(SQNR_CAP_DB, decibel))

    def cosine(self) -> float:
        if self.broken:
            return 0.0
        if self.signal == 0 or self.energy == 0:
            return 1.0 if self.signal == self.energy else 0.0
        return max(-1.0, min(1.0, self.product / (math.sqrt(self.signal) * math.sqrt(self.energy))))


class _Agreement:
    """Counts of equal top answers; share() is None once a batch was not that of a classifier."""

    def __init__(self) -> None:
        self._applies = True
        self._n = 0
        self._equal = 0
        self._binary = False
        self._unit = True  # every `before` value so far within 0..1: probabilities, cut at 0.5; else logits, cut at 0
        self._equal_as_logits = 0

    def add(self, before: np.ndarray, after: np.ndarray) -> None:
        self._applies = self._applies and before.shape == after.shape and is_scores(before.shape)
        if not self._applies:
            return
        x, y = (values.reshape(values.shape[0], -1) for values in (before, after))
        # A NaN answers nothing, so it agrees with nothing.
        known = ~(np.isnan(x) | np.isnan(y)).any(axis=1)
        self._n += len(x)
        self._binary = x.shape[1] == 1
        if self._binary:
            self._unit = self._unit and bool(((x >= 0) & (x <= 1)).all())
            self._equal += int(np.count_nonzero(known & ((x > 0.5) == (y > 0.5))[:, 0]))
            self._equal_as_logits += int(np.count_nonzero(known & ((x > 0) == (y > 0))[:, 0]))
        else:
            self._equal += int(np.count_nonzero(known & (x.argmax(axis=1) == y.argmax(axis=1))))

    def share(self) -> float | None:
        if not self._applies or self._n == 0:
            return None
        return (self._equal_as_logits if self._binary and not self._unit else self._equal) / self._n


def is_scores(shape: Sequence[int]) -> bool:
    """Tell whether `shape` is that of class scores: (N, classes) or (N, classes, 1, 1), one class being binary."""
    return len(shape) in (2, 4) and all(side == 1 for side in shape[2:]) and shape[1] >= 1
