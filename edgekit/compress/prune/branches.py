"""Groups that can go as a whole: what reads them then gives a constant, which is spread over what it is added to."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress import fold
from edgekit.compress.prune.labels import along
from edgekit.compress.prune.rules import ELEMENTWISE, UNARY
from edgekit.compress.prune.sides import dims
from edgekit.errors import EdgekitError
from edgekit.lazy import np, onnx

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from onnx import ModelProto, NodeProto

    from edgekit.compress.prune.sides import Dims

# What makes a small constant of a small constant; BatchNormalization only reads constants beside its value.
_LETS_THROUGH = (*UNARY, "Transpose", "Unsqueeze", "Squeeze", "BatchNormalization")


class Branches:
    """Tells which values of a prepared model it can do without."""

    def __init__(self, model: ModelProto, sides: dict[str, Dims]) -> None:
        self.nodes = [(node, frozenset(graph.reads(node))) for node in model.graph.node]
        self.dims = sides
        self.constants = set(graph.initializers(model))
        self.shown = graph.outputs(model)

    def may_go(self, lost: set[str], replaced: set[str]) -> bool:
        """Tell whether a model is left when the values `lost` are not, and the nodes `replaced` give constants."""
        needed, alive = set(self.shown), []
        for node, read in reversed(self.nodes):
            if needed.isdisjoint(node.output):
                continue
            alive.append((node, read))
            if node.name in replaced:
                continue
            if node.op_type == "Concat":
                read = read.difference(lost)
            if not read or not read.isdisjoint(lost) or not lost.isdisjoint(node.output):
                return False
            needed |= read
        return self._is_spread(alive[::-1], replaced)

    def _is_spread(self, alive: list[tuple[NodeProto, frozenset[str]]], replaced: set[str]) -> bool:
        """Tell whether all that reads the constants takes them with shorter axes."""
        small: set[str] = set()
        for node, read in alive:
            if node.name in replaced:
                if not self._has_plain_weights(node):
                    return False
                small.update(node.output)
            elif small.isdisjoint(read):
                continue
            elif self._lets_through(node, small):
                small.update(node.output)
            elif not self._spreads(node, small):
                return False
        return small.isdisjoint(self.shown)

    def _has_plain_weights(self, node: NodeProto) -> bool:
        places = (0, 1) if node.op_type == "MatMul" else (1,)
        held = any(node.input[place] in self.constants for place in places)
        return held and all(name in self.constants for name in node.input[2:] if name)

    def _lets_through(self, node: NodeProto, small: set[str]) -> bool:
        if graph.captured(node) or any(node.output[1:]):
            return False
        constant = all(not name or name in small or name in self.constants for name in node.input)
        return constant and node.op_type in (*_LETS_THROUGH, *ELEMENTWISE)

    def _spreads(self, node: NodeProto, small: set[str]) -> bool:
        """Tell whether another operand has the shape of the result already."""
        made = self.dims.get(node.output[0])
        if node.op_type not in ELEMENTWISE or made is None or None in made:
            return False
        others = [name for name in node.input if name not in small and name not in self.constants]
        return any(self.dims.get(name) == made for name in others)


def drop(model: ModelProto, sides: Mapping[str, Dims], lost: Collection[str], replaced: Collection[str]) -> None:
    """Take the values `lost` out of a model, in place, the nodes `replaced` giving constants (`Branches.may_go`)."""
    tensors, gone = graph.initializers(model), []
    known = set(tensors)
    for node in model.graph.node:
        if node.op_type == "Concat":
            kept = [name for name in node.input if name not in lost]
            node.input[:] = kept
        if node.name in replaced:
            held = {name: graph.array(tensors[name]) for name in node.input if name in tensors}
            value = along(_constant(node, held), len(sides[node.output[0]]))
            model.graph.initializer.append(onnx.numpy_helper.from_array(value, node.output[0]))
            gone.append(node)
    graph.remove_nodes(model, gone)
    graph.remove_dead(model)
    with contextlib.suppress(EdgekitError):  # onnxruntime refuses some constant node: it stays
        fold.constants(model)
    _without_zeros(model)
    _sums_to_convolutions(model, known)


def _constant(node: NodeProto, held: dict[str, np.ndarray]) -> np.ndarray:
    """Give what a node makes of zeros, one entry long along the axes that its bias does not have."""
    weight = next(held[name] for name in node.input[:2] if name in held)
    bias = held.get(node.input[2]) if len(node.input) > 2 else None
    if node.op_type == "Gemm":
        columns = weight.shape[0 if graph.attribute(node, "transB", 0) else 1]
        beta = graph.attribute(node, "beta", 1.0)
        return np.zeros((1, columns), weight.dtype) if bias is None else np.atleast_2d(bias) * weight.dtype.type(beta)
    if node.op_type == "MatMul":
        axis = -1 if node.input[1] in held else -2
        shape = [1] * weight.ndim
        shape[axis] = weight.shape[axis]
        return np.zeros(shape, weight.dtype)
    groups: int = graph.attribute(node, "group", 1)  # type: ignore[assignment]
    outputs = weight.shape[1] * groups if node.op_type == "ConvTranspose" else weight.shape[0]
    line = np.zeros(outputs, weight.dtype) if bias is None else bias
    return line.reshape(1, -1, *[1] * (weight.ndim - 2))


def _without_zeros(model: ModelProto) -> None:
    """Remove sums of a value and zeros, in place."""
    sides, tensors, shown = dims(model), graph.initializers(model), graph.outputs(model)
    gone = []
    for node in model.graph.node:
        if node.op_type != "Add" or node.output[0] in shown:
            continue
        for place in (0, 1):
            zeros, other = tensors.get(node.input[place]), node.input[1 - place]
            if zeros is None or graph.array(zeros).any() or other in tensors:
                continue
            if other in sides and sides[other] == sides.get(node.output[0]) and None not in sides[other]:
                graph.rename_reads(model, node.output[0], other)
                gone.append(node)
                break
    graph.remove_nodes(model, gone)
    graph.remove_dead(model)


def _sums_to_convolutions(model: ModelProto, known: Collection[str]) -> None:
    """Write sums of pictures and a new constant per channel as depthwise convolutions by 1, in place.

    onnxruntime merges them with the activation behind (a resnet20 without three of its blocks takes 0.92 of the time),
    and has no fast 8-bit sum whose operands differ in shape: 35 microseconds where the convolutions took 24.
    """
    sides, tensors, taken = dims(model), graph.initializers(model), graph.tensor_names(model)
    for node in model.graph.node:
        new = [name for name in node.input if name in tensors and name not in known]
        if node.op_type != "Add" or len(new) != 1:
            continue
        values, made = graph.array(tensors[new[0]]), sides.get(node.output[0])
        other = next(name for name in node.input if name != new[0])
        if made is None or len(made) != 4 or sides.get(other) != made or values.dtype != np.float32:
            continue
        if values.shape != (1, made[1], 1, 1):
            continue
        weight, bias = (graph.fresh_name(f"{node.output[0]}_{part}", taken) for part in ("weight", "bias"))
        ones = np.ones((values.size, 1, 1, 1), np.float32)
        for name, array in ((weight, ones), (bias, values.reshape(-1))):
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        node.op_type = "Conv"
        node.input[:] = [other, weight, bias]
        settings = {"group": values.size, "kernel_shape": [1, 1]}
        node.attribute.extend(onnx.helper.make_attribute(name, value) for name, value in settings.items())
    graph.remove_dead(model)
