"""Layers as matrices: what a Conv, Gemm or MatMul with constant weights reads, makes and holds, as rows and columns.

y = W x + b: a row of inputs is all that the layer reads at one place of its output, zeros where a border is padded. A
grouped convolution is several such products side by side: every array has an axis for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit import graph
from edgekit.lazy import np, onnx

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import ModelProto, NodeProto

_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Window:
    """What a convolution reads around one place: its kernel and how it moves."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str

    def view(self, array: np.ndarray) -> np.ndarray:
        """Give (N, C, places..., kernel...) without copying more than the padded array (N, C, sides...)."""
        rank = len(self.kernel)
        reach = [(size - 1) * step + 1 for size, step in zip(self.kernel, self.dilations, strict=True)]
        padded = np.pad(array, [(0, 0), (0, 0), *self.padding(array.shape[2:])])
        windows = np.lib.stride_tricks.sliding_window_view(padded, reach, tuple(range(2, 2 + rank)))
        steps = tuple(slice(None, None, step) for step in (1, 1, *self.strides, *self.dilations))
        view: np.ndarray = windows[steps]
        return view

    @classmethod
    def of(cls, node: NodeProto, kernel: Sequence[int]) -> Window:
        """Read it from a node's attributes."""
        rank = len(kernel)

        def axes(name: str, default: int, count: int) -> tuple[int, ...]:
            return tuple(graph.attribute(node, name, [default] * count))  # type: ignore[arg-type]

        pad = graph.attribute(node, "auto_pad", b"NOTSET")
        auto = pad.decode() if isinstance(pad, bytes) else str(pad)
        return cls(tuple(kernel), axes("strides", 1, rank), axes("dilations", 1, rank), axes("pads", 0, 2 * rank), auto)

    def padding(self, sides: Sequence[int]) -> list[tuple[int, int]]:
        """Give the zeros before and after each axis of an input of these sides."""
        return [self._padding(axis, side) for axis, side in enumerate(sides)]

    def _padding(self, axis: int, side: int) -> tuple[int, int]:
        reach = (self.kernel[axis] - 1) * self.dilations[axis] + 1
        if self.auto_pad == "NOTSET":
            return self.pads[axis], self.pads[axis + len(self.kernel)]
        if self.auto_pad == "VALID":
            return 0, 0
        stride = self.strides[axis]
        total = max((-(-side // stride) - 1) * stride + reach - side, 0)
        before = total // 2 if self.auto_pad == "SAME_UPPER" else total - total // 2
        return before, total - before


@dataclass(frozen=True)
class Layer:
    """One layer of a model. `groups` (G) is 1 but for grouped convolutions.

    `output` is the value with the bias added, `bias` the node that holds the bias and the place of it among the node's
    inputs; None for a MatMul that no constant is added to.
    """

    node: str
    source: str
    output: str
    weight: str
    bias: tuple[str, int] | None
    window: Window | None
    groups: int
    axis: int  # of the weight: its outputs
    scale: float = 1.0  # alpha of a Gemm
    bias_scale: float = 1.0  # and its beta

    def matrix(self, model: ModelProto) -> np.ndarray:
        """Give W as float64 (G, outputs, columns)."""
        values = graph.array(graph.initializers(model)[self.weight]).astype(np.float64)
        moved = np.moveaxis(values, self.axis, 0)
        return self.scale * moved.reshape(self.groups, moved.shape[0] // self.groups, -1)

    def offset(self, model: ModelProto) -> np.ndarray:
        """Give b as float64 (G, outputs); zeros where there is none yet."""
        tensors = graph.initializers(model)
        shape = tensors[self.weight].dims
        count = shape[self.axis]
        name = self.bias_name(model)
        if not name:
            return np.zeros((self.groups, count // self.groups))
        values = graph.array(tensors[name]).astype(np.float64).reshape(-1)
        return self.bias_scale * np.broadcast_to(values, count).reshape(self.groups, -1)

    def bias_name(self, model: ModelProto) -> str:
        """Give the name of the constant that holds the bias; nothing when there is none yet."""
        if self.bias is None:
            return ""
        holder = next(node for node in model.graph.node if node.name == self.bias[0])
        return holder.input[self.bias[1]] if len(holder.input) > self.bias[1] else ""

    def rows(self, array: np.ndarray, number: int, most: int) -> np.ndarray:
        """Give what is read at up to `most` places of feed `number`, always the same ones: (P, G, columns)."""
        if self.window is None:
            flat = array.reshape(-1, array.shape[-1])
            return flat[spread(len(flat), number, most)][:, None]
        view = self.window.view(array)
        rank = len(self.window.kernel)
        places = (view.shape[0], *view.shape[2 : 2 + rank])
        image, *corner = np.unravel_index(spread(int(np.prod(places)), number, most), places)
        where: tuple[Any, ...] = (image, slice(None), *corner)
        picked: np.ndarray = view[where]
        return picked.reshape(len(image), self.groups, -1)

    def made(self, array: np.ndarray, number: int, most: int) -> np.ndarray:
        """Give what is made at the same places, from the layer's output: (P, G, outputs)."""
        rows = array if self.window is None else np.moveaxis(array, 1, -1)
        flat = rows.reshape(-1, rows.shape[-1])
        return flat[spread(len(flat), number, most)].reshape(-1, self.groups, flat.shape[1] // self.groups)


def spread(total: int, number: int, most: int) -> np.ndarray:
    """Give up to `most` of `total` places, spread evenly; over the feeds they cover all."""
    if total <= most:
        return np.arange(total)
    turns = (number * most + np.arange(most)) * _GOLDEN
    places: np.ndarray = np.unique((turns % 1.0 * total).astype(np.int64))
    return places


def layers(model: ModelProto) -> dict[str, Layer]:
    """Give the layers of a model by the name of their node, in its order: float weights that no other node reads."""
    tensors, readers = graph.initializers(model), graph.consumers(model)
    shown = graph.outputs(model)
    found = {}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or len(node.input) < 2 or node.input[1] not in tensors:
            continue
        weight = tensors[node.input[1]]
        alone = len(readers[weight.name]) == 1 and list(node.input).count(weight.name) == 1
        if not alone or weight.data_type != onnx.TensorProto.FLOAT or weight.name in shown:
            continue
        layer = _convolution(node, list(weight.dims)) if node.op_type == "Conv" else _product(model, node)
        if layer is not None and _has_known_bias(model, layer):
            found[node.name] = layer
    return found


def _convolution(node: NodeProto, dims: Sequence[int]) -> Layer:
    groups = int(graph.attribute(node, "group", 1))  # type: ignore[call-overload]
    window = Window.of(node, dims[2:])
    return Layer(node.name, node.input[0], node.output[0], node.input[1], (node.name, 2), window, groups, 0)


def _product(model: ModelProto, node: NodeProto) -> Layer | None:
    if len(graph.initializers(model)[node.input[1]].dims) != 2:
        return None
    if node.op_type == "MatMul":
        output, bias = _added(model, node)
        return Layer(node.name, node.input[0], output, node.input[1], bias, None, 1, 1)
    alpha, beta = (float(graph.attribute(node, name, 1.0)) for name in ("alpha", "beta"))  # type: ignore[arg-type]
    if graph.attribute(node, "transA", 0) or alpha == 0 or beta == 0:
        return None
    axis = 0 if graph.attribute(node, "transB", 0) else 1
    return Layer(node.name, node.input[0], node.output[0], node.input[1], (node.name, 2), None, 1, axis, alpha, beta)


def _added(model: ModelProto, node: NodeProto) -> tuple[str, tuple[str, int] | None]:
    """Find the constant that is added to what a MatMul makes, and to nothing else."""
    tensors = graph.initializers(model)
    after = graph.consumers(model).get(node.output[0], [])
    if len(after) == 1 and after[0].op_type == "Add" and node.output[0] not in graph.outputs(model):
        place = 1 - list(after[0].input).index(node.output[0])
        tensor = tensors.get(after[0].input[place])
        outputs = tensors[node.input[1]].dims[1]
        if tensor is not None and list(tensor.dims[-1:]) == [outputs] and int(np.prod(tensor.dims)) == outputs:
            return after[0].output[0], (after[0].name, place)
    return node.output[0], None


def _has_known_bias(model: ModelProto, layer: Layer) -> bool:
    name = layer.bias_name(model)
    tensors = graph.initializers(model)
    if not name:
        return True
    outputs = tensors[layer.weight].dims[layer.axis]
    return name in tensors and int(np.prod(tensors[name].dims)) in (1, outputs)


def write(model: ModelProto, layer: Layer, matrix: np.ndarray, offset: np.ndarray | None) -> None:
    """Put W (G, outputs, columns) and b (G, outputs) into the model, in place.

    A bias that other nodes read too is left to them, under its name. Without a place for a bias `offset` is ignored.
    """
    tensors = graph.initializers(model)
    weight = tensors[layer.weight]
    like = np.moveaxis(graph.array(weight), layer.axis, 0)
    values = np.moveaxis((matrix / layer.scale).reshape(like.shape), 0, layer.axis)
    weight.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values, np.float32), layer.weight))
    if layer.bias is None or offset is None:
        return
    holder = next(node for node in model.graph.node if node.name == layer.bias[0])
    name = layer.bias_name(model)
    if not name and not offset.any():
        return
    shape = tuple(tensors[name].dims) if name and np.prod(tensors[name].dims) == offset.size else (offset.size,)
    made = (offset.reshape(shape) / layer.bias_scale).astype(np.float32)
    alone = name and len(graph.consumers(model)[name]) == 1 and list(holder.input).count(name) == 1
    if alone and name not in graph.outputs(model):
        tensors[name].CopyFrom(onnx.numpy_helper.from_array(made, name))
        return
    fresh = graph.fresh_name(f"{layer.weight}_bias", graph.tensor_names(model))
    model.graph.initializer.append(onnx.numpy_helper.from_array(made, fresh))
    kept = list(holder.input)
    place = layer.bias[1]
    renewed = [*kept[:place], fresh, *kept[place + 1 :]]
    del holder.input[:]
    holder.input.extend(renewed)
