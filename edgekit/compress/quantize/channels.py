"""Which channels of a graph can be given another scale without changing what it computes.

A layer with constant weights can make a channel of its output smaller by a factor, and the layers that read it make up
for that, as long as everything in between is positively homogeneous in each channel: f(x / s) = f(x) / s. Channels that
must have one factor in common carry one number; 0 is that of the channels that have to stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.lazy import np, onnx

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from onnx import ModelProto, NodeProto

    Handler = Callable[["Tracer", NodeProto], "View | list[View] | None"]

# No channel is made larger or smaller than by 2 ** this.
MOST = 12


@dataclass(frozen=True)
class View:
    """The channels of a tensor: the axis they lie along, counted from the end, and the number of each.

    `spread`: along that axis each channel stands several times in a row, as after Flatten.
    """

    axis: int
    numbers: np.ndarray
    spread: bool = False


@dataclass(frozen=True)
class Layer:
    """A Conv, Gemm or MatMul whose weight may be changed: the numbers of the channels it reads and makes."""

    node: NodeProto
    weight: np.ndarray  # float32, (groups, outputs, inputs, taps): the last three of one group
    reads: np.ndarray  # (groups * inputs)
    makes: np.ndarray  # (groups * outputs)


@dataclass(frozen=True)
class Constant:
    """A constant divided along with the channels it belongs to: a bias, or the factor of a normalisation."""

    node: NodeProto
    place: int  # among the node's inputs
    values: np.ndarray
    axis: int
    numbers: np.ndarray


@dataclass
class Channels:
    """What `homogeneous.trace` found: channels that belong together have the same number, fixed ones have 0."""

    count: int = 1  # of numbers
    layers: list[Layer] = field(default_factory=list)
    constants: list[Constant] = field(default_factory=list)
    # Channels that come from a normalisation or a product with a constant rather than from a layer.
    weightless: list[np.ndarray] = field(default_factory=list)
    # The least log2 of the factor by which each number may be divided: from bounds that must not be reached.
    least: np.ndarray = field(default_factory=lambda: np.full(1, -np.inf))
    views: dict[str, View] = field(default_factory=dict)


def scaled(model: ModelProto, channels: Channels, exponents: np.ndarray) -> ModelProto:
    """Give a model in which the channels of number n are 2 ** exponents[n] times smaller: the same function, exactly.

    `exponents` are whole numbers, that of number 0 is 0. A constant that only one node reads is changed under its name;
    one that several read is copied.
    """
    made = graph.copy(model)
    tensors, nodes = graph.initializers(made), graph.producers(made)
    for layer in channels.layers:
        groups, rows, columns, _ = layer.weight.shape
        shift = exponents[layer.reads].reshape(groups, 1, columns, 1)
        shift = shift - exponents[layer.makes].reshape(groups, rows, 1, 1)
        if shift.any():
            values = np.ldexp(layer.weight, shift.astype(np.int32))
            values = values[0, :, :, 0].T if is_columns(layer.node) else values
            shape = tuple(tensors[layer.node.input[1]].dims)
            _write(made, nodes[layer.node.output[0]], 1, np.ascontiguousarray(values.reshape(shape)))
    for constant in channels.constants:
        if (shift := exponents[constant.numbers]).any():
            spread = shift.reshape(-1, *[1] * (-1 - constant.axis)).astype(np.int32)
            _write(made, nodes[constant.node.output[0]], constant.place, np.ldexp(constant.values, -spread))
    return made


def _write(model: ModelProto, node: NodeProto, place: int, values: np.ndarray) -> None:
    name = node.input[place]
    reads = sum(list(other.input).count(name) + (name in graph.captured(other)) for other in model.graph.node)
    if reads == 1 and name not in graph.outputs(model):
        graph.initializers(model)[name].CopyFrom(onnx.numpy_helper.from_array(values, name))
        return
    node.input[place] = graph.fresh_name(f"{name}_scaled", graph.tensor_names(model))
    model.graph.initializer.append(onnx.numpy_helper.from_array(values, node.input[place]))


def is_columns(node: NodeProto) -> bool:
    """Tell whether the weight of a Gemm or MatMul has its outputs along the second axis."""
    return node.op_type == "MatMul" or (node.op_type == "Gemm" and not graph.attribute(node, "transB", 0))


class Tracer:
    """Walks the nodes in order; a tensor without a view is one that no scaling changes."""

    def __init__(
        self,
        model: ModelProto,
        allowed: set[str],
        maxima: Mapping[str, np.ndarray],
        handlers: Mapping[str, Handler],
    ) -> None:
        self.allowed, self.maxima, self.handlers = allowed, maxima, handlers
        fed = {value.name for value in model.graph.input}
        self.tensors = {name: tensor for name, tensor in graph.initializers(model).items() if name not in fed}
        self.readers = graph.consumers(model)
        self.shown = graph.outputs(model)
        self.opset = graph.opset(model)
        self.shapes = _shapes(model)
        self.parents = [0]
        self.least: list[tuple[np.ndarray, np.ndarray]] = []
        self.found = Channels()
        self.views = self.found.views

    def visit(self, node: NodeProto) -> None:
        """Give the node's results their channels; what it reads is fixed when it is not understood."""
        handler = self.handlers.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        plain = not graph.captured(node) and (node.op_type == "Split" or not any(node.output[1:]))
        results = handler(self, node) if handler and plain else None
        if results is None:
            if node.op_type not in ("Shape", "Size"):
                for name in sorted(graph.reads(node)):
                    self.fix(name)
            return
        for name, view in zip(node.output, results if isinstance(results, list) else [results], strict=True):
            self.views[name] = view

    def closed(self) -> Channels:
        """Fix what the model gives out, and make the numbers final."""
        for name in sorted(self.shown):
            self.fix(name)
        roots = np.array([self.root(number) for number in range(len(self.parents))])
        found = self.found
        found.count = len(roots)
        found.layers = [replace(x, reads=roots[x.reads], makes=roots[x.makes]) for x in found.layers]
        found.constants = [replace(x, numbers=roots[x.numbers]) for x in found.constants]
        found.weightless = [roots[numbers] for numbers in found.weightless]
        found.views = {name: replace(x, numbers=roots[x.numbers]) for name, x in self.views.items()}
        found.least = np.full(len(roots), -np.inf)
        for numbers, bounds in self.least:
            np.maximum.at(found.least, roots[numbers], bounds)
        return found

    def fresh(self, count: int) -> np.ndarray:
        """Give `count` new numbers."""
        first = len(self.parents)
        self.parents.extend(range(first, first + count))
        return np.arange(first, first + count)

    def root(self, number: int) -> int:
        """Give the number that stands for all those joined with this one."""
        while self.parents[number] != number:
            self.parents[number] = self.parents[self.parents[number]]
            number = self.parents[number]
        return number

    def join(self, some: np.ndarray, others: np.ndarray) -> None:
        """Let these channels have one factor in common, pair by pair."""
        for one, other in zip(some.tolist(), others.tolist(), strict=True):
            low, high = sorted((self.root(one), self.root(other)))
            self.parents[high] = low

    def fix(self, name: str) -> None:
        """Keep the channels of a tensor as they are."""
        if name in self.views:
            numbers = self.views[name].numbers
            self.join(numbers, np.zeros_like(numbers))

    def only_view(self, node: NodeProto, *, spread: bool = False) -> View | None:
        """Give the view of the first input when no other input has one."""
        view = self.views.get(node.input[0])
        alone = all(name not in self.views for name in node.input[1:])
        return view if alone and view is not None and (spread or not view.spread) else None

    def divide(self, node: NodeProto, place: int, axis: int, numbers: np.ndarray) -> None:
        """Divide a constant of the node, if it is there, along with these channels."""
        if (values := self.constant(node, place)) is not None:
            self.found.constants.append(Constant(node, place, values, axis, numbers))

    def constant(self, node: NodeProto, place: int) -> np.ndarray | None:
        """Give the values of an input that nothing can replace; None when it is computed or absent."""
        name = node.input[place] if len(node.input) > place else ""
        return graph.array(self.tensors[name]) if name in self.tensors else None

    def setting(self, node: NodeProto, name: str, place: int) -> list[int] | None:
        """Give whole numbers that are an attribute in old versions of an operator and a constant input in new ones."""
        held = graph.attribute(node, name)
        values = self.constant(node, place) if held is None else np.asarray(held)
        return None if values is None else [int(value) for value in values.reshape(-1)]

    def rank(self, name: str) -> int | None:
        """Give how many axes a tensor has, if that is known."""
        return len(self.shapes[name]) if name in self.shapes else None

    def from_end(self, axes: list[int], name: str) -> list[int] | None:
        """Count axes of a tensor from its end; None when its rank would have to be known."""
        rank = self.rank(name)
        if rank is None and any(axis >= 0 for axis in axes):
            return None
        return [axis if axis < 0 else axis - int(rank or 0) for axis in axes]

    def may_scale(self, node: NodeProto, place: int, size: int) -> bool:
        """Tell whether this constant of the node has one value for each of `size` outputs, or is absent."""
        if len(node.input) <= place or not node.input[place]:
            return True
        values = self.constant(node, place)
        return values is not None and values.dtype == np.float32 and values.shape[-1:] == (size,) == (values.size,)


def _shapes(model: ModelProto) -> dict[str, list[int | None]]:
    if model.ByteSize() >= graph.LARGEST_FILE:
        return {}
    try:
        inferred = onnx.shape_inference.infer_shapes(model).graph
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return {}
    return {
        value.name: [dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
        if value.type.tensor_type.HasField("shape")
    }
