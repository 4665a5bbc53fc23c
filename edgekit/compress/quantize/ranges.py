"""Which values of each activation 8 bits have to hold: streamed histograms, and the choice of a range from them.

A histogram has a fixed size whatever the number of samples, and does not depend on their order: its bins are anchored
at zero and as wide as a power of two, so that widening them is merging pairs, which is exact.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.lazy import np
from edgekit.session import open_session, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from onnx import ModelProto

    Feed = Mapping[str, np.ndarray]
    Through = Callable[[np.ndarray], np.ndarray]

# Bins on each side of zero: eight and more to each of 256 steps.
BINS = 2048
# Values of one tensor and one feed that enter its histogram; its extremes are taken from all of them.
SAMPLED = 1 << 15
# The share of values on each side that `percentile` gives up.
TAIL = 1e-4
_SMALLEST_EXPONENT = -100
METHODS = ("mse", "percentile", "minmax")


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
        if flat.size == 0:
            return
        low, high = float(flat.min()), float(flat.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            finite = flat[np.isfinite(flat)]
            self.ignored += flat.size - finite.size
            if finite.size == 0:
                return
            flat, low, high = finite, float(finite.min()), float(finite.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._count(flat[:: _stride(flat.size)], max(-low, high))

    def _count(self, values: np.ndarray, largest: float) -> None:
        nonzero = values[values != 0]
        self.zeros += values.size - nonzero.size
        if largest > 0:
            self._widen(max(math.frexp(largest)[1] - int(math.log2(BINS)), _SMALLEST_EXPONENT))
        if nonzero.size:
            assert self.exponent is not None
            steps = np.ldexp(np.abs(nonzero), -self.exponent).astype(np.int32)
            # Not floor: a tiny negative value may underflow to zero, and must still count as negative.
            index = np.where(nonzero < 0, -1 - steps, steps)
            self.counts += np.bincount(index + BINS, minlength=2 * BINS)

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
            best = int(np.argmin(squared_errors(centres, weights, -reach, reach, through)))
            return -float(reach[best]), float(reach[best])
        chosen_low, chosen_high = low, high
        # One end at a time, twice: each end's best place hardly depends on the other's.
        for _ in range(2):
            if high > 0:
                highs = high * shares
                errors = squared_errors(centres, weights, np.full_like(highs, chosen_low), highs, through)
                chosen_high = float(highs[int(np.argmin(errors))])
            if low < 0:
                lows = low * shares
                errors = squared_errors(centres, weights, lows, np.full_like(lows, chosen_high), through)
                chosen_low = float(lows[int(np.argmin(errors))])
        return chosen_low, chosen_high


def squared_errors(
    values: np.ndarray, weights: np.ndarray, lows: np.ndarray, highs: np.ndarray, through: Through | None = None
) -> np.ndarray:
    """Give, for each range lows[k]..highs[k], the weighted squared error of rounding `values` to its 256 steps."""
    scale = ((highs - lows) / 255)[:, None]
    zero = np.rint(-lows[:, None] / scale)
    steps = np.clip(np.rint(values / scale) + zero, 0, 255)
    rounded = (steps - zero) * scale
    gaps = rounded - values if through is None else through(rounded) - through(values)
    errors: np.ndarray = (gaps * gaps) @ weights
    return errors


def _stride(size: int) -> int:
    if size <= SAMPLED:
        return 1
    stride = -(-size // SAMPLED)
    # Coprime to the size, so that no row, column or channel is left out or preferred.
    while math.gcd(stride, size) > 1:
        stride += 1
    return stride


def collect(model: ModelProto, names: Sequence[str], feeds: Iterable[Feed]) -> dict[str, Histogram]:
    """Run the model over the feeds and give a histogram for each tensor of `names` that holds floats.

    Memory does not grow with the number of feeds. Raises EdgekitError when a feed does not fit the model.
    """
    fed = {entry.name for entry in graph.inputs(model)}
    constant = graph.initializers(model)
    wanted = [name for name in dict.fromkeys(names) if name and name not in constant]
    session = open_session(graph.with_outputs(model, [name for name in wanted if name not in fed]))
    kinds = {value.name: value.type for value in (*session.get_inputs(), *session.get_outputs())}
    floats = [name for name in wanted if kinds.get(name) in ("tensor(float)", "tensor(float16)")]
    histograms = {name: Histogram() for name in floats}
    computed = [name for name in floats if name not in fed]
    for feed in feeds:
        for name in floats:
            if name in fed:
                histograms[name].add(np.asarray(feed[name]))
        if computed:
            for name, values in zip(computed, run(session, feed, computed), strict=True):
                histograms[name].add(values)
    return histograms


def flat_sided(model: ModelProto, name: str) -> Through | None:
    """Give the function that alone reads a value, when it has a flat side: Sigmoid, HardSigmoid, SiLU, HardSwish."""
    readers = graph.consumers(model).get(name, [])
    kinds = sorted(reader.op_type for reader in readers)
    if name in graph.outputs(model):
        return None
    if kinds == ["Mul", "Sigmoid"]:
        gate = next(reader for reader in readers if reader.op_type == "Sigmoid")
        product = next(reader for reader in readers if reader.op_type == "Mul")
        return _silu if set(product.input) == {name, gate.output[0]} else None
    return {("Sigmoid",): _sigmoid, ("HardSwish",): _hard_swish}.get(tuple(kinds))


def _sigmoid(values: np.ndarray) -> np.ndarray:
    gates: np.ndarray = 1 / (1 + np.exp(-np.clip(values, -60, 60)))
    return gates


def _silu(values: np.ndarray) -> np.ndarray:
    results: np.ndarray = values * _sigmoid(values)
    return results


def _hard_swish(values: np.ndarray) -> np.ndarray:
    results: np.ndarray = values * np.clip(values / 6 + 0.5, 0, 1)
    return results
