"""Adaptive rounding: weights rounded together, so that the errors of one output channel cancel over real inputs.

Rounding each weight to its nearest integer makes the weights' error least; what counts is the layer's output. Its error
over the calibration inputs is dW G dW^T with the Gram matrix G = X X^T, and making that least over integers is finding
the closest point of a lattice. One Cholesky factor of G gives a good one: weight by weight, each error pushed into the
weights still to come (Frantar et al., OBQ arXiv 2208.11580 and GPTQ 2210.17323; it is Babai's nearest plane, Chen et
al., 2507.18553).

Measured on small nets and left out, because the outputs got no nearer: coordinate descent afterwards, scales refitted
or shrunk, Grams without the mean (which a bias correction takes off), and the outputs over float inputs as the goal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress.quantize import weights
from edgekit.lazy import np
from edgekit.session import open_session, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from onnx import ModelProto, NodeProto

    Feed = Mapping[str, np.ndarray]
    Values = Callable[[str, np.ndarray], np.ndarray]

# Inputs, and positions of each, that a Gram is summed over: more than the 4608 weights of a usual large kernel.
ENOUGH_SAMPLES = 64
POSITIONS = 128
# Grams held at one time.
MOST_BYTES = 1 << 28
# Added to G's diagonal, relative to its mean: keeps unseen directions from being used as if they were free.
DAMPING = 3e-2
_BLOCK = 64  # weights handled one by one before the rest hears of them in one product
_GOLDEN = 0.6180339887498949


def adaptive(
    weight: np.ndarray, gram: np.ndarray, scale: np.ndarray, largest: int = 127, damping: float = DAMPING
) -> np.ndarray:
    """Round a weight (O, K) to integers -`largest`..`largest` (int8) for inputs with the Gram matrix (K, K).

    `scale` (O,) is what one step of each output channel is worth. For no output channel is dW G dW^T larger than with
    each weight rounded to the nearest. An input that is always zero gets that; so does everything when the Gram is all
    zeros or not finite. `damping` is relative to the mean of the Gram's diagonal.
    """
    known = gram if np.isfinite(gram).all() else np.zeros_like(gram)
    whole = _batched(weight[None], known[None], scale[None, :, None], largest, damping)
    return whole[0].astype(np.int8)


def _batched(
    weight: np.ndarray, gram: np.ndarray, scale: np.ndarray, largest: int, damping: float = DAMPING
) -> np.ndarray:
    """Round (G, O, K) for Grams (G, K, K) and scales (G, O, 1): one Gram a group."""
    direct = np.clip(np.rint(weight / scale), -largest, largest).astype(np.float64)
    target = weight.astype(np.float64) / scale
    unit, order = _prepared(gram, damping)
    goal = np.take_along_axis(target, order[:, None, :], 2).swapaxes(1, 2)
    found = _nearest_plane(goal, np.linalg.cholesky(unit), largest)
    moved = np.empty_like(direct)
    np.put_along_axis(moved, order[:, None, :], found.swapaxes(1, 2), 2)
    better = squared_errors(target - moved, gram) < squared_errors(target - direct, gram)
    chosen: np.ndarray = np.where(better[..., None], moved, direct)
    return chosen


def squared_errors(error: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """Give dW G dW^T of each output channel: (G, O, K) and (G, K, K) to (G, O)."""
    squares: np.ndarray = ((error @ gram) * error).sum(2)
    return squares


def _prepared(gram: np.ndarray, damping: float) -> tuple[np.ndarray, np.ndarray]:
    """Give the Grams scaled to a mean diagonal of one, damped, in an order whose last input is the strongest."""
    strength = np.diagonal(gram, axis1=1, axis2=2)
    mean = strength.mean(1)
    usable = mean > np.finfo(np.float64).tiny
    # The identity leaves every weight where it is.
    unit = np.where(usable[:, None, None], gram / np.where(usable, mean, 1.0)[:, None, None], 0.0)
    order = np.argsort(strength, axis=1, kind="stable")
    unit = np.take_along_axis(np.take_along_axis(unit, order[:, :, None], 1), order[:, None, :], 2)
    places = np.arange(unit.shape[1])
    unit[:, places, places] += np.where(usable, damping, 1.0)[:, None]
    return unit, order


def _nearest_plane(target: np.ndarray, lower: np.ndarray, largest: int) -> np.ndarray:
    """Round `target` (G, K, O) from the last weight to the first; `lower` (G, K, K) is the Cholesky factor."""
    push = lower / np.diagonal(lower, axis1=1, axis2=2)[:, None, :]
    moved = target.copy()
    found = np.empty_like(target)
    for stop in range(target.shape[1], 0, -_BLOCK):
        start = max(stop - _BLOCK, 0)
        for place in range(stop - 1, start - 1, -1):
            rounded = np.clip(np.rint(moved[:, place]), -largest, largest)
            found[:, place] = np.where(target[:, place] == 0, 0.0, rounded)  # what was pruned stays so
            error = target[:, place] - found[:, place]
            moved[:, start:place] += push[:, place, start:place, None] * error[:, None]
        left = target[:, start:stop] - found[:, start:stop]
        moved[:, :start] += push[:, start:stop, :start].swapaxes(1, 2) @ left
    return found


@dataclass
class Rounded:
    """What `round_weights` found.

    `weights` holds, by the name of the initializer, integers (int8, in its shape) and scales (float32, one an output
    channel, the other axes 1): their product is the new weight. `left` says why other weights keep direct rounding.
    `peak_bytes` is the most that Grams took at one time.
    """

    weights: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    peak_bytes: int = 0


def round_weights(
    model: ModelProto,
    nodes: Sequence[NodeProto],
    feeds: Callable[[], Iterable[Feed]],
    values: Values,
    largest: Mapping[str, int] | int = 127,
    max_bytes: int = MOST_BYTES,
) -> Rounded:
    """Round the constant weights of these Conv, Gemm and MatMul nodes adaptively, to -`largest`..`largest`.

    `values(name, array)` rounds values of an activation, element by element, as the new model will. The scales are
    those of direct rounding. The float model is run over up to ENOUGH_SAMPLES feeds, once for all Grams that fit into
    `max_bytes` together; solving needs three times the largest one besides. A weight stays with direct rounding when
    several nodes read it, when its Gram alone is larger, and when it or all that it meets is not finite.
    """
    result = Rounded()
    tensors = graph.initializers(model)
    for layers in _passes(_layers(model, nodes, max_bytes, result.left), max_bytes):
        grams = _grams(model, layers, feeds(), values)
        result.peak_bytes = max(result.peak_bytes, sum(gram.nbytes for gram in grams.values()))
        for layer in layers:
            weight, gram = graph.array(tensors[layer.weight]), grams[layer.window]
            if not gram.any() or not np.isfinite(weight).all():
                result.left[layer.weight] = "it or all that it meets is zero or not finite"
                continue
            most = largest if isinstance(largest, int) else largest[layer.weight]
            _, scale = weights.rounded(weight, layer.axis, most)
            found = _batched(layer.rows(weight), gram, layer.rows(scale), most)
            result.weights[layer.weight] = layer.shaped(found, weight).astype(np.int8), scale
    return result


@dataclass(frozen=True)
class _Window:
    """What a layer reads at one output position: the axes of its kernel, none for a matrix product."""

    source: str
    groups: int
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    auto_pad: str = "NOTSET"

    def samples(self, array: np.ndarray, number: int) -> np.ndarray:
        """Give what the layer reads (G, K, P) at up to POSITIONS positions of feed `number`, always the same ones."""
        if not self.kernel:
            rows = array.reshape(-1, array.shape[-1])
            return rows[_spread(len(rows), number)].T[None]
        sides = array.shape[2:]
        begins, places = self._placed(sides)
        chosen = _spread(array.shape[0] * int(np.prod(places)), number)
        image, *corner = np.unravel_index(chosen, (array.shape[0], *places))
        taps = np.indices(self.kernel).reshape(len(self.kernel), -1)
        index = np.zeros((len(chosen), taps.shape[1]), np.int64)
        inside = np.ones(index.shape, bool)
        for axis, side in enumerate(sides):
            place = (corner[axis] * self.strides[axis] - begins[axis])[:, None] + taps[axis] * self.dilations[axis]
            inside &= (place >= 0) & (place < side)
            index = index * side + np.clip(place, 0, side - 1)
        flat = array.reshape(*array.shape[:2], -1)
        # (P, T, C): what is outside reads zero.
        read = np.where(inside[..., None], flat[image[:, None], :, index], array.dtype.type(0))
        return read.transpose(2, 1, 0).reshape(self.groups, -1, len(chosen))

    def _placed(self, sides: Sequence[int]) -> tuple[list[int], list[int]]:
        """Give the padding before each axis, and how many positions the kernel has along it."""
        begins, places = [], []
        for axis, side in enumerate(sides):
            reach = (self.kernel[axis] - 1) * self.dilations[axis] + 1
            stride = self.strides[axis]
            if self.auto_pad.startswith("SAME"):
                count = -(-side // stride)
                total = max((count - 1) * stride + reach - side, 0)
                before = total // 2 if self.auto_pad == "SAME_UPPER" else total - total // 2
            else:
                explicit = self.pads if self.auto_pad == "NOTSET" else (0,) * (2 * len(sides))
                before, after = explicit[axis], explicit[axis + len(sides)]
                count = (side + before + after - reach) // stride + 1
            begins.append(before)
            places.append(count)
        return begins, places


def _spread(total: int, number: int) -> np.ndarray:
    """Give up to POSITIONS of `total` positions, spread evenly; over the feeds they cover all."""
    if total <= POSITIONS:
        return np.arange(total)
    turns = (number * POSITIONS + np.arange(POSITIONS)) * _GOLDEN
    places: np.ndarray = np.unique((turns % 1.0 * total).astype(np.int64))
    return places


@dataclass(frozen=True)
class _Layer:
    """A weight that one node reads: its window, and the way between its shape and (G, O, K)."""

    weight: str
    window: _Window
    axis: int
    inputs: int  # K

    @property
    def bytes(self) -> int:
        """Bytes of its Grams."""
        return self.window.groups * self.inputs**2 * 8

    def rows(self, values: np.ndarray) -> np.ndarray:
        """Give the weight, or its scales, as (G, O, K or 1)."""
        return np.moveaxis(values, self.axis, 0).reshape(self.window.groups, -1, values.size // values.shape[self.axis])

    def shaped(self, rows: np.ndarray, like: np.ndarray) -> np.ndarray:
        """Undo `rows`."""
        moved = np.moveaxis(like, self.axis, 0)
        return np.ascontiguousarray(np.moveaxis(rows.reshape(moved.shape), 0, self.axis))


def _layers(model: ModelProto, nodes: Sequence[NodeProto], max_bytes: int, left: dict[str, str]) -> list[_Layer]:
    readers = graph.consumers(model)
    tensors = graph.initializers(model)
    found = []
    for node in nodes:
        weight = tensors.get(node.input[1]) if node.op_type in ("Conv", "Gemm", "MatMul") else None
        if weight is None:
            continue
        layer = _layer(node, list(weight.dims))
        if len(readers[weight.name]) > 1 or list(node.input).count(weight.name) > 1:
            left[weight.name] = "several nodes read it"
        elif layer is None:
            left[weight.name] = f"a {node.op_type} of this form has no Gram"
        elif layer.bytes > max_bytes:
            left[weight.name] = f"its Gram takes {layer.bytes / 2**20:.0f} MB"
        else:
            found.append(layer)
    return found


def _layer(node: NodeProto, dims: list[int]) -> _Layer | None:
    source = node.input[0]
    if node.op_type == "Conv":
        rank = len(dims) - 2

        def axes(name: str, default: int, count: int = rank) -> tuple[int, ...]:
            return tuple(graph.attribute(node, name, [default] * count))  # type: ignore[arg-type]

        pad = graph.attribute(node, "auto_pad", b"NOTSET")
        auto = pad.decode() if isinstance(pad, bytes) else str(pad)
        groups = int(graph.attribute(node, "group", 1))  # type: ignore[call-overload]
        window = _Window(
            source, groups, tuple(dims[2:]), axes("strides", 1), axes("dilations", 1), axes("pads", 0, 2 * rank), auto
        )
        return _Layer(node.input[1], window, 0, int(np.prod(dims[1:])))
    if len(dims) != 2 or (node.op_type == "Gemm" and graph.attribute(node, "transA", 0)):
        return None
    axis = 0 if node.op_type == "Gemm" and graph.attribute(node, "transB", 0) else 1
    return _Layer(node.input[1], _Window(source, 1), axis, dims[1 - axis])


def _passes(layers: Sequence[_Layer], max_bytes: int) -> Iterator[list[_Layer]]:
    """Give runs of layers whose Grams fit together."""
    some: list[_Layer] = []
    held: dict[_Window, int] = {}
    for layer in layers:
        if some and sum({**held, layer.window: layer.bytes}.values()) > max_bytes:
            yield some
            some, held = [], {}
        some.append(layer)
        held[layer.window] = layer.bytes
    if some:
        yield some


def _grams(
    model: ModelProto, layers: Sequence[_Layer], feeds: Iterable[Feed], values: Values
) -> dict[_Window, np.ndarray]:
    """Sum the products (G, K, K) of what the layers read; samples with a value that is not finite are left out."""
    fed = {entry.name for entry in graph.inputs(model)}
    grams = {layer.window: np.zeros((layer.window.groups, layer.inputs, layer.inputs)) for layer in layers}
    computed = list(dict.fromkeys(window.source for window in grams if window.source not in fed))
    session = open_session(graph.with_outputs(model, computed))
    for number, feed in enumerate(islice(feeds, ENOUGH_SAMPLES)):
        read = dict(zip(computed, run(session, feed, computed), strict=True)) if computed else {}
        for window, gram in grams.items():
            array = read[window.source] if window.source in read else np.asarray(feed[window.source])
            samples = window.samples(array, number)
            finite = np.isfinite(samples).all((0, 1))
            rounded = values(window.source, samples[..., finite]).astype(np.float64)
            gram += rounded @ rounded.swapaxes(1, 2)
    return grams
