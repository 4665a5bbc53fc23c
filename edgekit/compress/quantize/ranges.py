"""Which values of each activation 8 bits have to hold: histograms, streamed over the calibration inputs.

Giving out every value is what costs: onnxruntime can then fuse little. So of what follows from another value that is
looked at only the other is given out, samples are counted many at a time, and extremes take one pass.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress.quantize.histogram import (
    BINS,
    METHODS,
    Histogram,
    packed,
    squared_errors,
    stride,
    unpacked,
)
from edgekit.lazy import np, onnx
from edgekit.session import open_session, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from onnx import ModelProto, NodeProto, TensorProto

    from edgekit.compress.method import Workbench

    Feed = Mapping[str, np.ndarray]
    Through = Callable[[np.ndarray], np.ndarray]

__all__ = ["BINS", "METHODS", "Histogram", "collect", "flat_sides", "measured", "squared_errors"]

# Of one tensor and one feed a sixteenth of the values enters its histogram, within these bounds; its extremes are taken
# from all of them.
SHARE = 16
LEAST, MOST = 1 << 9, 1 << 13
MEMORY = 512 << 20
# Sampled values, in bytes, that wait to be counted together: counting few at a time is mostly overhead.
_WAITING = 3 << 20
# Operators that only move values.
_MOVES = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity")


def collect(
    model: ModelProto,
    names: Sequence[str],
    feeds: Iterable[Feed],
    *,
    max_bytes: int = MEMORY,
    progress: Callable[[int, int], None] | None = None,
    total: int = 0,
) -> dict[str, Histogram]:
    """Run the model over the feeds and give a histogram for each tensor of `names` that holds floats.

    Memory does not grow with the number of feeds. `max_bytes` bounds the values that one run holds: the model is run
    several times on a feed, for a part of the tensors each, when all are more. The result depends neither on it nor on
    the order of the feeds. `progress` is told how many feeds are done, and `total`. Raises EdgekitError when a feed
    does not fit the model.
    """
    stream = iter(feeds)
    first = next(stream, None)
    seen = _Seen(model, names)
    parts = [_Part(model, group) for group in _groups(model, seen.computed, first or {}, max_bytes - _WAITING)]
    seen.keep_floats(kind for part in parts for kind in part.kinds.items())
    for done, feed in enumerate(chain(() if first is None else (first,), stream), 1):
        seen.add(seen.fed, [np.asarray(feed[name]) for name in seen.fed])
        for part in parts:
            part.feed(feed, seen)
        seen.make_room(_WAITING)
        if progress is not None:
            progress(done, total)
    seen.count()
    seen.finish()
    return {name: seen.histograms[name] for name in seen.histograms}


@lru_cache(maxsize=4096)
def _step(size: int) -> int:
    return stride(size, min(MOST, max(LEAST, size // SHARE)))


class _Part:
    """A session that gives out some of the model's values."""

    def __init__(self, model: ModelProto, names: Sequence[str]) -> None:
        # Most of its memory goes to what it gives out, so planning the rest by a pattern only costs time.
        part = graph.part_making(model, names) if names else model
        self._session = open_session(part, memory_pattern=False)
        self.kinds = {value.name: value.type for value in (*self._session.get_inputs(), *self._session.get_outputs())}
        self._names = names

    def feed(self, feed: Feed, seen: _Seen) -> None:
        names = [name for name in self._names if name in seen.readers]
        if names:
            seen.add(names, run(self._session, feed, names))


class _Seen:
    """The histograms of a run in the making, and the samples that wait to be counted.

    readers: for each value that is looked at, the tensors whose histograms follow from it, each with the rule that
    gives it (None: the same values). computed, fed: those values, by where they come from.
    """

    def __init__(self, model: ModelProto, names: Sequence[str]) -> None:
        constant = graph.initializers(model)
        inputs = {entry.name for entry in graph.inputs(model)}
        wanted = [name for name in dict.fromkeys(names) if name and name not in constant]
        origins = _Origins(graph.producers(model), constant, inputs.union(wanted))
        self.readers: dict[str, list[tuple[str, _Rule | None]]] = {}
        for name in wanted:
            source, rule = origins.of(name)
            self.readers.setdefault(source, []).append((name, rule))
        self.fed = [name for name in self.readers if name in inputs]
        self.computed = [name for name in self.readers if name not in inputs]
        self.histograms: dict[str, Histogram] = {}
        self._wanted = wanted
        self._waiting = 0
        # Of a few inputs, all values of all but large tensors are counted; with many, a part of them is enough.
        self._dense = True
        self._row = {name: row for row, name in enumerate(self.readers)}
        self._lows = np.full(len(self._row), np.inf, np.float32)
        self._highs = np.full(len(self._row), -np.inf, np.float32)
        # Samples of each input one after another, and of each: whose, how many, and the step to thin them by.
        self._rows: list[tuple[np.ndarray, list[tuple[str, int, int]]]] = []

    def keep_floats(self, kinds: Iterable[tuple[str, str]]) -> None:
        """Forget the values that are no floats."""
        floats = {name for name, kind in kinds if kind in ("tensor(float)", "tensor(float16)")}
        self.readers = {source: found for source, found in self.readers.items() if source in floats}
        self.fed = [name for name in self.fed if name in floats]
        known = {name for found in self.readers.values() for name, _ in found}
        self.histograms = {name: Histogram() for name in self._wanted if name in known}

    def add(self, names: Sequence[str], arrays: Sequence[np.ndarray]) -> None:
        """Take in values of one feed: the extremes of each at once, and a sample of it to be counted later."""
        flats = [
            array.reshape(-1) if array.dtype == np.float32 else array.reshape(-1).astype(np.float32) for array in arrays
        ]
        steps = [_step(flat.size) for flat in flats]
        large = [place for place, step in enumerate(steps) if step > 1]
        if large:
            lows = np.array([np.minimum.reduce(flats[place]) for place in large])
            highs = np.array([np.maximum.reduce(flats[place]) for place in large])
            for odd in np.flatnonzero(~(np.isfinite(lows) & np.isfinite(highs))):
                self._add_odd(names[large[odd]], flats[large[odd]])
                lows[odd], highs[odd] = np.inf, -np.inf
                flats[large[odd]] = flats[large[odd]][:0]
            rows = [self._row[names[place]] for place in large]
            self._lows[rows] = np.minimum(self._lows[rows], lows)
            self._highs[rows] = np.maximum(self._highs[rows], highs)
        if flats:
            # What is taken in full now may be thinned later.
            taken = [1 if self._dense and flat.size <= MOST else step for flat, step in zip(flats, steps, strict=True)]
            row = np.concatenate([flat[::step] for flat, step in zip(flats, taken, strict=True)])
            pieces = zip(names, flats, taken, steps, strict=True)
            self._rows.append((row, [(name, -(-flat.size // one), step // one) for name, flat, one, step in pieces]))
            self._waiting += row.nbytes

    def _add_odd(self, name: str, flat: np.ndarray) -> None:
        for reader, rule in self.readers[name]:
            self.histograms[reader].add(flat if rule is None else rule.function(flat))

    def make_room(self, most: int) -> None:
        """Count what waits when it is over `most` bytes; the first time, sparse samples are made of the dense ones.

        So whether samples are dense depends on how much there is in all, not on what comes first.
        """
        if self._waiting > most and self._dense:
            self._dense = False
            self._rows = [_thinned(row, layout) for row, layout in self._rows]
            self._waiting = sum(row.nbytes for row, _ in self._rows)
        if self._waiting > most:
            self.count()

    def count(self) -> None:
        """Count what waits."""
        pieces: dict[str, list[np.ndarray]] = {}
        for row, layout in self._rows:
            start = 0
            for name, size, _ in layout:
                pieces.setdefault(name, []).append(row[start : start + size])
                start += size
        for name, found in pieces.items():
            self._count_one(name, np.concatenate(found))
        self._rows, self._waiting = [], 0

    def _count_one(self, name: str, sampled: np.ndarray) -> None:
        total = sampled.size
        if total and not math.isfinite(float(sampled.max()) - float(sampled.min())):
            sampled = sampled[np.isfinite(sampled)]
        for reader, rule in self.readers[name]:
            self.histograms[reader].ignored += total - sampled.size
            values = sampled if rule is None else rule.function(sampled)
            if values.size:
                self.histograms[reader].take(float(values.min()), float(values.max()), values)

    def finish(self) -> None:
        """Take in the extremes of what was only sampled."""
        for name, found in self.readers.items():
            ends = np.array([self._lows[self._row[name]], self._highs[self._row[name]]])
            if ends[0] > ends[1]:
                continue
            for reader, rule in found:
                last = ends if rule is None else rule.ends(ends)
                self.histograms[reader].take(float(last.min()), float(last.max()), last[:0])


def _thinned(row: np.ndarray, layout: Sequence[tuple[str, int, int]]) -> tuple[np.ndarray, list[tuple[str, int, int]]]:
    pieces, start = [], 0
    for _, size, step in layout:
        pieces.append(row[start : start + size : step])
        start += size
    kept = [(name, piece.size, 1) for (name, _, _), piece in zip(layout, pieces, strict=True)]
    return np.concatenate(pieces), kept


@dataclass(frozen=True)
class _Rule:
    """An elementwise function that falls up to `lowest` (None: nowhere) and rises from there."""

    function: Through
    lowest: float | None = None

    def ends(self, ends: np.ndarray) -> np.ndarray:
        """Give values that hold all results between those of `ends`, two arguments."""
        if self.lowest is not None and ends[0] < self.lowest < ends[1]:
            ends = np.append(ends, np.float32(self.lowest))
        return self.function(ends)


@dataclass(frozen=True)
class _Origins:
    """Where values come from, past nodes that move them, and past activations of what is looked at anyway."""

    producers: Mapping[str, NodeProto]
    constants: Mapping[str, TensorProto]
    looked_at: set[str]

    def of(self, name: str) -> tuple[str, _Rule | None]:
        """Give the value that `name` follows from, and how."""
        node = self.producers.get(name)
        if node is None or name != node.output[0]:
            return name, None
        if node.op_type in _MOVES and node.input[0] not in self.constants:
            return self.of(node.input[0])
        source, rule = self._activation(node)
        if rule is None or source not in self.looked_at:
            return name, None
        origin, earlier = self.of(source)
        return (origin, rule) if earlier is None else (name, None)

    def _activation(self, node: NodeProto) -> tuple[str, _Rule | None]:
        if node.op_type == "Mul":
            for source, gate in (tuple(node.input), tuple(reversed(node.input))):
                made = self.producers.get(gate)
                if made is not None and made.op_type == "Sigmoid" and made.input[0] == source:
                    return source, _Rule(_silu, -1.2784645)
        if node.op_type == "Clip" and all(not bound or bound in self.constants for bound in node.input[1:]):
            bounds = [float(graph.array(self.constants[bound]).item()) if bound else None for bound in node.input[1:]]
            low, high = (*bounds, None, None)[:2]
            if not node.attribute:
                return node.input[0], _Rule(lambda values: np.clip(values, low, high))
        return node.input[0] if node.input else "", _RULES.get(node.op_type)


def _groups(model: ModelProto, names: Sequence[str], feed: Feed, most: int) -> Iterator[list[str]]:
    """Cut the values, in the order they are computed, into groups of at most `most` bytes; at least one group."""
    places = {name: place for place, name in enumerate(name for node in model.graph.node for name in node.output)}
    bytes_of = sizes(model, feed)
    largest = max(bytes_of.values(), default=0)
    group: list[str] = []
    held = 0
    for name in sorted(names, key=lambda name: places.get(name, -1)):
        size = bytes_of.get(name, largest)
        if group and held + size > most:
            yield group
            group, held = [], 0
        group.append(name)
        held += size
    yield group


def sizes(model: ModelProto, feed: Feed) -> dict[str, int]:
    """Give the bytes of each value whose shape follows from that of a feed."""
    # Weights need not be copied for this: their shapes do.
    opened = graph.copy(model)
    for value in opened.graph.input:
        if value.name in feed:
            del value.type.tensor_type.shape.dim[:]
            for side in np.shape(feed[value.name]):
                value.type.tensor_type.shape.dim.add(dim_value=side)
    try:
        opened = onnx.shape_inference.infer_shapes(opened)
    except (onnx.shape_inference.InferenceError, ValueError):  # ValueError: over 2 GB
        return {}
    sizes = {}
    for value in (*opened.graph.value_info, *opened.graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            sizes[value.name] = 4 * math.prod(dim.dim_value for dim in kind.shape.dim)
    return sizes


def measured(model: ModelProto, names: Sequence[str], bench: Workbench, samples: int) -> dict[str, Histogram]:
    """Give what `collect` finds on the Workbench's inputs, remembered from an earlier run where it can be."""
    wanted = list(dict.fromkeys(names))
    settings = [wanted, samples, bench.max_bytes, BINS, SHARE, LEAST, MOST]
    digest = hashlib.blake2b(json.dumps(settings).encode(), digest_size=16)
    digest.update(model.SerializeToString(deterministic=True))

    def make() -> dict[str, np.ndarray]:
        return packed(collect(model, wanted, bench.feeds(samples), max_bytes=bench.max_bytes))

    return unpacked(bench.remember(f"histograms {digest.hexdigest()}", make))


def flat_sides(model: ModelProto) -> dict[str, Through]:
    """Give, by the value they read, the functions with a flat side that alone read it: Sigmoid, SiLU, HardSwish."""
    shown = graph.outputs(model)
    found = {}
    for name, readers in graph.consumers(model).items():
        function = _flat_side(name, readers)
        if function is not None and name not in shown:
            found[name] = function
    return found


def _flat_side(name: str, readers: Sequence[NodeProto]) -> Through | None:
    kinds = sorted(reader.op_type for reader in readers)
    if kinds == ["Mul", "Sigmoid"]:
        gate = next(reader for reader in readers if reader.op_type == "Sigmoid")
        product = next(reader for reader in readers if reader.op_type == "Mul")
        return _silu if set(product.input) == {name, gate.output[0]} else None
    return {("Sigmoid",): _sigmoid, ("HardSwish",): _hard_swish}.get(tuple(kinds))


def _relu(values: np.ndarray) -> np.ndarray:
    results: np.ndarray = np.maximum(values, 0)
    return results


def _sigmoid(values: np.ndarray) -> np.ndarray:
    gates: np.ndarray = 1 / (1 + np.exp(-np.clip(values, -60, 60)))
    return gates


def _silu(values: np.ndarray) -> np.ndarray:
    results: np.ndarray = values * _sigmoid(values)
    return results


def _hard_swish(values: np.ndarray) -> np.ndarray:
    results: np.ndarray = values * np.clip(values / 6 + 0.5, 0, 1)
    return results


_RULES = {"Relu": _Rule(_relu), "Sigmoid": _Rule(_sigmoid), "HardSwish": _Rule(_hard_swish, -1.5)}
