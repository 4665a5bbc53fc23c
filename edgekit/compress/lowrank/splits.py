"""Which layers can be split in two, into what, and the edit of the graph that does it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress import shapes
from edgekit.compress.prune import columns
from edgekit.lazy import np, onnx

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto, NodeProto

    from edgekit.compress.lowrank.factor import Factors

# Ranks are multiples of it: onnxruntime computes channels in blocks of 8 or 16.
STEP = 8
# How a layer is split: all of the kernel first, then across the channels; columns of the kernel first; rows first.
CHANNEL, DOWN, ACROSS = "channel", "down", "across"
# What the first of the two nodes is called, after the layer's own name.
SUFFIX = "_low_rank"


@dataclass(frozen=True, eq=False)
class Layer:
    """A Conv, Gemm or MatMul with a constant weight, as float64 (O, C, kh, kw); the kernel of a product is 1 x 1.

    read: where its inputs, outputs and bias are. strides: down and across. shape: all that its time depends on.
    """

    node: str
    weight: np.ndarray
    read: columns.Layer
    strides: tuple[int, int]
    shape: tuple[object, ...]

    @property
    def centred(self) -> bool:
        """Whether it has a place for a bias."""
        return self.read.bias is not None

    @property
    def inputs(self) -> int:
        """What its kernel reads at one position: C kh kw."""
        return int(np.prod(self.weight.shape[1:]))

    @property
    def ways(self) -> tuple[str, ...]:
        """How it can be split."""
        return (CHANNEL, DOWN, ACROSS) if min(self.weight.shape[2:]) > 1 else (CHANNEL,)

    def cost(self, way: str, rank: int) -> float:
        """Give the multiply-adds of a split as a share of the layer's own."""
        o, c, kh, kw = self.weight.shape
        down, right = self.strides
        # Between the two, a stride has been taken on the first one's side of the kernel alone.
        each = {CHANNEL: c * kh * kw + o, DOWN: c * kh * right + o * kw, ACROSS: c * kw * down + o * kh}[way]
        return rank * each / (o * c * kh * kw)

    def ranks(self, way: str) -> list[int]:
        """Give the ranks, multiples of STEP, that save multiply-adds, the smallest first."""
        most = int(1 / self.cost(way, 1))
        return [rank for rank in range(STEP, most + 1, STEP) if self.cost(way, rank) < 1]


@dataclass(frozen=True)
class Split:
    """What takes a layer's place: two weights, and what is added to its bias (O,); None where there is no place."""

    way: str
    factors: Factors
    bias: np.ndarray | None


def layers(model: ModelProto, chosen: Iterable[str]) -> list[Layer]:
    """Give the layers among `chosen` (names of nodes) that can be split, in the order of the graph."""
    allowed, fed = set(chosen), {value.name for value in model.graph.input}
    sides, _ = shapes.inferred(model)
    nodes = {node.name: node for node in model.graph.node}
    found = []
    for name, read in columns.layers(model).items():
        weight = _whole(model, nodes[name], read)
        if name not in allowed or read.weight in fed or weight is None or not np.isfinite(weight).all():
            continue
        strides = read.window.strides if read.window is not None else ()
        across = strides[1] if len(strides) == 2 else 1
        shape = (nodes[name].op_type, *weight.shape, *strides, *sides.get(read.source, ()))
        found.append(Layer(name, weight, read, (strides[0] if strides else 1, across), shape))
    return found


def _whole(model: ModelProto, node: NodeProto, read: columns.Layer) -> np.ndarray | None:
    """Give a weight as (O, C, kh, kw), or None when it cannot be split."""
    kernel = read.window.kernel if read.window is not None else ()
    if read.groups > 1 or len(kernel) > 2 or (node.domain not in ("", "ai.onnx")):
        return None
    rows = read.matrix(model)[0]
    whole: np.ndarray = rows.reshape(len(rows), -1, *kernel, *[1] * (2 - len(kernel)))
    return whole


def apply(model: ModelProto, splits: Mapping[str, Split]) -> ModelProto:
    """Give a copy in which the named nodes are split; the second of the two keeps the name, the output and the bias."""
    made = graph.copy(model)
    values, names = graph.tensor_names(made), {node.name for node in made.graph.node}
    tensors = graph.initializers(made)
    for node in list(made.graph.node):
        if node.name in splits:
            before = _before(node, splits[node.name].way, len(splits[node.name].factors.first), tensors)
            before.name = graph.fresh_name(before.name, names)
            node.input[0] = before.output[0] = graph.fresh_name(before.output[0], values)
            weight = _shaped(splits[node.name].factors.first, tensors[node.input[1]].dims, before.op_type)
            before.input[1] = graph.fresh_name(f"{node.input[1]}{SUFFIX}", values)
            made.graph.initializer.append(onnx.numpy_helper.from_array(weight, before.input[1]))
            made.graph.node.append(before)
    graph.sort(made)
    _write(made, splits)
    return made


def _before(node: NodeProto, way: str, rank: int, tensors: Mapping[str, onnx.TensorProto]) -> NodeProto:
    """Give the first of the two nodes, without its weight, and make of `node` the second."""
    before = onnx.NodeProto.FromString(node.SerializeToString())
    del before.input[2:]
    before.name, before.output[0] = f"{node.name}{SUFFIX}", f"{node.output[0]}{SUFFIX}"
    weight = tensors[node.input[1]]
    dims = list(weight.dims)
    if node.op_type == "Conv":
        window = onnx.NodeProto.FromString(node.SerializeToString())
        own = [{CHANNEL: True, DOWN: axis == 0, ACROSS: axis == 1}[way] for axis in range(len(dims) - 2)]
        for part, keeps in ((before, own), (node, [not kept for kept in own])):
            _set_window(part, window, keeps, dims[2:])
        dims[1:] = [rank, *(1 if kept else side for kept, side in zip(own, dims[2:], strict=True))]
    else:
        turned = node.op_type == "Gemm" and graph.attribute(node, "transB", 0)
        dims[1 if turned else 0] = rank
        before.op_type = "MatMul"
        del before.attribute[:]
    empty = onnx.numpy_helper.from_array(np.zeros(dims, np.float32), weight.name)
    weight.CopyFrom(empty)  # no other node reads it
    return before


def _set_window(node: NodeProto, window: NodeProto, keeps: list[bool], kernel: list[int]) -> None:
    """Give `node` the window of another node on the axes that it keeps, and none on the others."""
    del node.attribute[:]
    given: dict[str, object] = {"kernel_shape": [s if kept else 1 for s, kept in zip(kernel, keeps, strict=True)]}
    for name in ("strides", "dilations", "pads"):
        none = int(name != "pads")
        default = [none] * (len(keeps) * (1 if none else 2))
        sides: list[int] = graph.attribute(window, name, default)  # type: ignore[assignment]
        given[name] = [side if keeps[place % len(keeps)] else none for place, side in enumerate(sides)]
    auto = graph.attribute(window, "auto_pad", b"NOTSET")
    if auto != b"NOTSET":
        del given["pads"]  # a kernel of 1 at a stride of 1 gets none
        given["auto_pad"] = auto
    node.attribute.extend(onnx.helper.make_attribute(name, value) for name, value in given.items())


def _shaped(first: np.ndarray, dims: Iterable[int], kind: str) -> np.ndarray:
    """Give the first weight as its node reads it, float32."""
    values = rounded(first)
    shaped = values[..., 0, 0].T if kind == "MatMul" else values.reshape(*values.shape[: len(list(dims))])
    return np.ascontiguousarray(shaped, np.float32)


def _write(model: ModelProto, splits: Mapping[str, Split]) -> None:
    """Put in the second factors and the biases."""
    known = columns.layers(model)
    for name, split in splits.items():
        layer, second = known[name], split.factors.second
        offset = None if split.bias is None else rounded(layer.offset(model) + split.bias)
        columns.write(model, layer, rounded(second.reshape(1, len(second), -1)), offset)


def rounded(values: np.ndarray) -> np.ndarray:
    """Keep 17 bits of each value: the last ones of a sum depend on BLAS's threads, and are not to reach the file."""
    small, power = np.frexp(np.asarray(values, np.float64))
    kept: np.ndarray = np.ldexp(np.rint(small * 2.0**17), power - 17)
    return kept
