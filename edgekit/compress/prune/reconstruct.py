"""Reconstruction: a pruned net is brought back near its original by descent on what its layers read.

The loss is the squared error of the outputs (before a last Softmax or Sigmoid) and of all that layers or pools read in
both nets in the same shape, each over its variance in the original: no labels, some hundred pictures. Whole blocks
taken out of a residual net can be made up for this way, where fitting layer by layer falls short (Wang & Wu, Practical
network acceleration with tiny sets, arXiv 2202.07861). Pictures are mirrored and shifted at random, and most hold a
part of another one (as in CutMix, arXiv 1905.04899); the original answers for them anew. Adam's steps (arXiv 1412.6980)
are relative to the size of each tensor, since nets whose normalisation was folded have weights of all sizes.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit import graph
from edgekit.compress.prune.columns import layers
from edgekit.compress.prune.gradient import differentiated
from edgekit.lazy import np, onnx
from edgekit.session import open_session, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from onnx import ModelProto

    from edgekit.compress.method import Drift, Workbench

    Feed = Mapping[str, np.ndarray]
    Arrays = dict[str, np.ndarray]
    Narrowed = Mapping[str, tuple[int, np.ndarray]]  # by value: an axis, and the places along it that are kept

# How often each picture is seen: a resnet8 without its first block lost 4.0 points with 96 times and whole pictures,
# 2.6 with 192 times and parts pasted in, 2.1 with 384.
EPOCHS = 256
BATCH = 16
# Parts of a batch whose gradients are worked out at the same time: always so many, so that sums do not change.
PARTS = 2
# The first steps' size relative to that of the tensor; it falls to nothing along half a cosine. Each but the first is
# for nets that the one before leads astray: deep ones, whose layers were all pruned. That shows after this part of the
# epochs.
RATES = (0.02, 0.005, 0.00125)
PROBE = 1 / 8
WARM_UP = 10
_DECAY, _SQUARE_DECAY = 0.9, 0.99
# Pixels that pictures are shifted by at most, relative to their side.
SHIFT = 1 / 16
# How many pictures get a part of another one, and its sides relative to theirs.
PASTED, PASTED_SIDE = 0.75, (0.25, 0.75)
# Products that the net's layers may take over all: some minutes. What reads few inputs is no faster than so many.
MOST_PRODUCTS = 8e11
LEAST_INPUTS = 64
# What they read has many places where what they make has one: it says far more of each picture.
_POOLS = ("AveragePool", "GlobalAveragePool", "ReduceMean")
# How much the score counts against the noise, both relative.
_POINT = 5.0
# What a step holds, in times of the values of a picture.
HELD = 4


def reconstruct(
    original: ModelProto,
    pruned: ModelProto,
    bench: Workbench,
    samples: int = 256,
    epochs: float = EPOCHS,
    narrowed: Narrowed | None = None,
) -> ModelProto:
    """Give the pruned model with weights by which it answers nearer to the original, or as it is when none are found.

    Values of the two models with one name are taken for the same, but for the channels that those in `narrowed` lack;
    these are compared too where most are such. `epochs` is how often each of at most `samples` calibration inputs is
    seen; in proportion fewer for nets so large that EPOCHS would take more than some minutes. Kept only when the
    answers on held-back pictures get nearer. The same bytes every time.
    """
    feeds = _held(bench.feeds(samples), bench.max_bytes // 4)
    work = _Work.of(original, pruned, feeds, bench, narrowed or {})
    if work is None:
        return pruned
    within = min(1.0, MOST_PRODUCTS * work.workers / PARTS / max(1.0, work.products * len(feeds) * EPOCHS))
    before = bench.drift(original, pruned)
    for rate in RATES:
        probe = round(PROBE * within * epochs)
        if probe and not _is_nearer(bench.drift(original, work.descend(feeds, probe, rate, bench.seed)), before):
            continue
        made = work.descend(feeds, max(1, round(within * epochs)), rate, bench.seed)
        if _is_nearer(bench.drift(original, made), before):
            return made
    return pruned


def _is_nearer(after: Drift, before: Drift) -> bool:
    """Compare noise, and the score as far as some dozens of pictures tell: a point of it for 5% of the noise."""
    noise = 10 ** ((before.sqnr_db - after.sqnr_db) / 10)
    lost = (after.drop or 0.0) - (before.drop or 0.0)
    return noise + _POINT * lost < 1


def _held(feeds: Iterable[Feed], most: int) -> list[Feed]:
    """Give the first inputs that fit into so many bytes."""
    found: list[Feed] = []
    for feed in feeds:
        arrays = {name: np.asarray(array) for name, array in feed.items()}
        most -= sum(array.nbytes for array in arrays.values())
        if most < 0:
            break
        found.append(arrays)
    return found


@dataclass
class _Work:
    """The two nets, ready to run: the original gives the goals, `slopes` the gradient of each trained constant."""

    pruned: ModelProto
    watched: tuple[str, ...]
    goals: tuple[str, ...]  # what they are compared with, in the original
    original: Any
    slopes: Any
    trained: list[str]
    batch: int
    workers: int
    products: float

    @classmethod
    def of(
        cls, original: ModelProto, pruned: ModelProto, feeds: Sequence[Feed], bench: Workbench, narrowed: Narrowed
    ) -> _Work | None:
        if not feeds:
            return None
        single = _values(pruned, feeds[0])
        held = HELD * sum(array.nbytes for array in single.values())
        if held > bench.max_bytes:
            return None
        batch = max(1, min(BATCH // PARTS, len(feeds) // PARTS, bench.max_bytes // PARTS // max(held, 1)))
        workers = min(PARTS, bench.max_bytes // max(held, 1))
        if batch > 1 and not _takes_batches(pruned, feeds[0]):
            batch = 1
        watched = _watched(original, pruned, single, _values(original, feeds[0]), narrowed)
        if not watched:
            return None
        wide, places = _with_goals(original, {name: narrowed[name] for name in watched if name in narrowed})
        names = [places.get(name, name) for name in watched]
        goals = open_session(graph.part_making(wide, names))
        some = [run(goals, feed, names) for feed in feeds[: 2 * BATCH]]
        first = _stacked(feeds[:batch])
        shapes = {name: array.shape for name, array in _values(pruned, first).items()}
        factors = {}
        for name, arrays in zip(watched, zip(*some, strict=True), strict=True):
            variance = float(np.var(np.stack(arrays), dtype=np.float64))
            if variance > 0 and math.isfinite(variance):
                factors[name] = 1 / (variance * math.prod(shapes[name]))
        made, trained = differentiated(pruned, factors, shapes)
        if not trained:
            return None
        names = [places.get(name, name) for name in factors]
        goals = open_session(graph.part_making(wide, names))
        amount = _products(pruned, single)
        return cls(pruned, tuple(factors), tuple(names), goals, open_session(made), trained, batch, workers, amount)

    def descend(self, feeds: Sequence[Feed], epochs: int, first_rate: float, seed: int) -> ModelProto:
        tensors = graph.initializers(self.pruned)
        weights = {name: graph.array(tensors[name]).copy() for name in self.trained}
        sizes = {name: float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))) for name, values in weights.items()}
        typical = {name: size or 1e-3 for name, size in sizes.items()}
        first = {name: np.zeros_like(values) for name, values in weights.items()}
        second = {name: np.zeros_like(values) for name, values in weights.items()}
        rng = np.random.default_rng(seed)
        size = min(BATCH, len(feeds)) // self.batch * self.batch
        total = epochs * (len(feeds) // size)
        with ThreadPoolExecutor(self.workers) as pool:
            for step, some in enumerate(_batches(feeds, epochs, size, rng), 1):
                slopes = self._slopes(some, weights, pool)
                rate = first_rate * 0.5 * (1 + math.cos(math.pi * step / total)) * min(1.0, step / WARM_UP)
                for name in self.trained:
                    slope = slopes[name]
                    first[name] = _DECAY * first[name] + (1 - _DECAY) * slope
                    second[name] = _SQUARE_DECAY * second[name] + (1 - _SQUARE_DECAY) * np.square(slope)
                    steep = np.sqrt(second[name] / (1 - _SQUARE_DECAY**step)) + 1e-12
                    move = first[name] / (1 - _DECAY**step) / steep
                    weights[name] = weights[name] - np.float32(rate * typical[name]) * move
        made = graph.copy(self.pruned)
        for tensor in made.graph.initializer:
            if tensor.name in weights and np.isfinite(weights[tensor.name]).all():
                tensor.CopyFrom(onnx.numpy_helper.from_array(weights[tensor.name], tensor.name))
        return made

    def _slopes(self, some: Sequence[Feed], weights: Arrays, pool: ThreadPoolExecutor) -> Arrays:
        """Give the gradient over a batch, part by part."""
        parts = [some[start : start + self.batch] for start in range(0, len(some), self.batch)]
        found: Arrays = {}
        for slopes in pool.map(lambda part: self._part(part, weights), parts):
            for name, slope in zip(self.trained, slopes, strict=True):
                found[name] = found[name] + slope if name in found else slope
        return found

    def _part(self, some: Sequence[Feed], weights: Arrays) -> list[np.ndarray]:
        feed = _stacked(some)
        goals = run(self.original, feed, self.goals)
        given = {f"goal_{name}": goal for name, goal in zip(self.watched, goals, strict=True)}
        return run(self.slopes, {**feed, **given, **weights}, [f"gradient_of_{name}" for name in self.trained])


def _batches(feeds: Sequence[Feed], epochs: int, size: int, rng: np.random.Generator) -> Iterator[list[Feed]]:
    """Give the inputs in batches, in another order each time, varied at random."""
    for _ in range(epochs):
        order = rng.permutation(len(feeds))
        for start in range(0, len(feeds) - size + 1, size):
            some = [_varied(feeds[number], rng) for number in order[start : start + size]]
            yield [_pasted(feed, some, rng) for feed in some]


def _varied(feed: Feed, rng: np.random.Generator) -> Feed:
    """Mirror a picture or not, and shift it by some pixels, its border repeated; other inputs stay."""
    if len(feed) > 1:
        return feed
    (name, array), *_ = feed.items()
    axes = _sides(array.shape)
    if axes is None:
        return feed
    if rng.random() < 0.5:
        array = np.flip(array, axes[1])
    for axis in axes:
        most = int(array.shape[axis] * SHIFT)
        shift = int(rng.integers(-most, most + 1))
        places = np.clip(np.arange(array.shape[axis]) + shift, 0, array.shape[axis] - 1)
        array = np.take(array, places, axis)
    return {name: np.ascontiguousarray(array)}


def _pasted(feed: Feed, others: Sequence[Feed], rng: np.random.Generator) -> Feed:
    """Put a part of another picture, or of itself, into a picture at the same place, or not; other inputs stay."""
    if len(feed) > 1 or rng.random() >= PASTED:
        return feed
    (name, array), *_ = feed.items()
    axes, other = _sides(array.shape), others[int(rng.integers(len(others)))][name]
    if axes is None or other.shape != array.shape:
        return feed
    places, share = [slice(None)] * array.ndim, rng.uniform(*PASTED_SIDE)
    for axis in axes:
        side = round(share * array.shape[axis])
        start = int(rng.integers(array.shape[axis] - side + 1))
        places[axis] = slice(start, start + side)
    made = array.copy()
    made[tuple(places)] = other[tuple(places)]
    return {name: made}


def _sides(shape: Sequence[int]) -> tuple[int, int] | None:
    """Find height and width of a picture."""
    if len(shape) != 4 or min(shape) < 1:
        return None
    if shape[1] <= 4:
        return 2, 3
    return (1, 2) if shape[3] <= 4 else None


def _stacked(feeds: Sequence[Feed]) -> Arrays:
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


def _values(model: ModelProto, feed: Feed) -> Arrays:
    """Give every value of a model, by name: inputs, constants, and what its nodes make."""
    names = [name for node in model.graph.node for name in node.output if name]
    session = open_session(graph.with_outputs(model, names), memory_pattern=False)
    found = dict(zip(names, run(session, feed, names), strict=True))
    constants = {tensor.name: graph.array(tensor) for tensor in model.graph.initializer}
    return {**constants, **feed, **found}


def _takes_batches(model: ModelProto, feed: Feed) -> bool:
    """Tell whether two inputs at once are answered like one after the other."""
    if any(isinstance(entry.shape[0], int) if entry.shape else True for entry in graph.inputs(model)):
        return False
    session = open_session(model)
    one, two = run(session, feed), run(session, _stacked([feed, feed]))
    return all(
        x.ndim and y.shape == (2 * x.shape[0], *x.shape[1:]) and np.allclose(x, y[: len(x)], atol=1e-3)
        for x, y in zip(one, two, strict=True)
    )


def _watched(original: ModelProto, pruned: ModelProto, now: Arrays, before: Arrays, narrowed: Narrowed) -> list[str]:
    """Give the values to compare: outputs, before a last Softmax or Sigmoid, and what layers and pools read in both.

    What lacks channels is among them where it is more than what does not.
    """
    makers = graph.producers(pruned)
    outputs = []
    for name in graph.output_names(pruned):
        maker = makers.get(name)
        last = maker is not None and maker.op_type in ("Softmax", "Sigmoid", "LogSoftmax")
        outputs.append(maker.input[0] if maker is not None and last else name)
    reads = [layer.source for layer in layers(pruned).values()]
    maps = [node.input[0] for node in pruned.graph.node if node.op_type in _POOLS]
    names = [name for name in dict.fromkeys([*reads, *maps, *outputs]) if name in makers and name in before]
    names = [name for name in names if now[name].dtype == np.float32]
    same = [name for name in names if before[name].shape == now[name].shape]
    less = [name for name in names if name in narrowed and _narrow(before[name], *narrowed[name]) == now[name].shape]
    return [*less, *same] if len(less) > len(same) else same


def _narrow(array: np.ndarray, axis: int, kept: np.ndarray) -> tuple[int, ...]:
    """Give the shape of what is kept of an array."""
    shape = list(array.shape)
    shape[axis] = len(kept)
    return tuple(shape)


def _with_goals(model: ModelProto, narrowed: Narrowed) -> tuple[ModelProto, dict[str, str]]:
    """Give a copy that also makes what is kept of these values, and their new names."""
    made, names = graph.copy(model), {}
    for name, (axis, kept) in narrowed.items():
        names[name], places = f"kept_{name}", f"kept_places_of_{name}"
        made.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(kept, np.int64), places))
        made.graph.node.append(onnx.helper.make_node("Gather", [name, places], [names[name]], axis=axis))
    return made, names


def products(model: ModelProto, feed: Feed) -> float:
    """Count the products that the layers take for one input."""
    return _products(model, _values(model, feed))


def _products(model: ModelProto, values: Arrays) -> float:
    tensors = graph.initializers(model)
    total = 0.0
    for layer in layers(model).values():
        dims = tensors[layer.weight].dims
        total += values[layer.output].size * max(LEAST_INPUTS, math.prod(dims) / dims[layer.axis])
    return total
