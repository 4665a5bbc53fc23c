"""Scales and shifts of whole channels, folded into the convolution or matrix product before or after them.

Exact up to the rounding of float32: f(x) * s + t is again a convolution (or product) with other weights and biases, and
so is f(x * s + t), the shift only where no zeros are padded around x.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress.shapes import inferred
from edgekit.lazy import np, onnx

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from onnx import ModelProto, NodeProto, TensorProto

    from edgekit.compress.shapes import Shape

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_STEPS = ("BatchNormalization", "Add", "Sub", "Mul", "Div")
_NEIGHBOURS = ("Conv", "MaxPool", "AveragePool", "GlobalAveragePool")
_ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSwish", "HardSigmoid", "PRelu")


@dataclass
class Layer:
    """A convolution or matrix product with constant float32 weights: its node, weight and bias (one a channel made)."""

    node: NodeProto
    weight: np.ndarray
    bias: np.ndarray | None

    @classmethod
    def read(cls, node: NodeProto | None, tensors: dict[str, TensorProto]) -> Layer | None:
        """Give the layer of a node; None when it is none, or one that cannot be changed."""
        if node is None or node.op_type not in LAYERS or any(name and name not in tensors for name in node.input[1:]):
            return None
        weight = graph.array(tensors[node.input[1]])
        if weight.dtype != np.float32 or weight.ndim < 2 or (node.op_type in ("Gemm", "MatMul") and weight.ndim != 2):
            return None
        if node.op_type == "Gemm" and not _plain_gemm(node):
            return None
        layer = cls(node, weight, None)
        if len(node.input) > 2 and node.input[2]:
            bias = graph.array(tensors[node.input[2]])
            if bias.ndim > 2 or (bias.ndim == 2 and bias.shape[0] != 1) or bias.size not in (1, layer.made):
                return None
            layer.bias = np.broadcast_to(bias.reshape(-1), (layer.made,))
        return layer

    @property
    def axis(self) -> int:
        """Where the channels lie in what it reads and makes, counted from the end."""
        return 1 - self.weight.ndim if "Conv" in self.node.op_type else -1

    @property
    def groups(self) -> int:
        """Into how many parts its channels fall that do not mix."""
        return int(graph.attribute(self.node, "group", 1))  # type: ignore[call-overload]

    @property
    def made(self) -> int:
        """Channels that it makes."""
        if self.node.op_type == "ConvTranspose":
            return int(self.weight.shape[1]) * self.groups
        return int(self._matrix(self.weight).shape[0])

    @property
    def read_channels(self) -> int:
        """Channels that it reads."""
        if self.node.op_type == "ConvTranspose":
            return int(self.weight.shape[0])
        return int(self._matrix(self.weight).shape[1]) * self.groups

    def _matrix(self, weight: np.ndarray) -> np.ndarray:
        """Give a weight with the channels made first and those read second (Conv's own order)."""
        columns = self.node.op_type == "MatMul" or (
            self.node.op_type == "Gemm" and not graph.attribute(self.node, "transB", 0)
        )
        return weight.T if columns else weight

    def scale_made(self, factor: np.ndarray) -> np.ndarray | None:
        """Give the weight, float64, times one factor a channel made (or one for all); None for factors of 1."""
        if (factor == 1).all():
            return None
        weight = self.weight.astype(np.float64)
        factor = np.broadcast_to(factor, (self.made,))
        if self.node.op_type == "ConvTranspose":
            # (in, out / groups, ...); the groups split the inputs.
            rows = np.repeat(factor.reshape(self.groups, -1), weight.shape[0] // self.groups, axis=0)
            return weight * rows.reshape(*rows.shape, *[1] * (weight.ndim - 2))
        return self._matrix(self._matrix(weight) * factor.reshape(-1, *[1] * (weight.ndim - 1)))

    def scale_read(self, factor: np.ndarray) -> np.ndarray:
        """Give the weight, float64, times one factor a channel read (or one for all)."""
        weight = self.weight.astype(np.float64)
        factor = np.broadcast_to(factor, (self.read_channels,))
        if self.node.op_type == "ConvTranspose":
            return weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
        rows = np.repeat(factor.reshape(self.groups, -1), self.made // self.groups, axis=0)
        return self._matrix(self._matrix(weight) * rows.reshape(*rows.shape, *[1] * (weight.ndim - 2)))

    def answer_to(self, shift: np.ndarray) -> np.ndarray:
        """Give what it makes, without its bias, of an input that is `shift` everywhere."""
        scaled = self._matrix(self.scale_read(shift))
        total: np.ndarray = scaled.sum(axis=tuple(range(1, scaled.ndim)))
        return total

    def pads(self) -> bool:
        """Tell whether zeros stand in for some of what it reads."""
        if "Conv" not in self.node.op_type:
            return False
        automatic = graph.attribute(self.node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
        sides: list[int] = graph.attribute(self.node, "pads", [])  # type: ignore[assignment]
        return self.node.op_type == "ConvTranspose" or automatic or any(sides)

    def write(self, model: ModelProto, weight: np.ndarray | None, bias: np.ndarray | None) -> bool:
        """Give it this weight (None: its own) and bias, in place; not when float32 cannot hold them."""
        stems = (f"{self.node.input[1]}_folded", f"{self.node.output[0]}_bias")
        narrow = [None if value is None else value.astype(np.float32) for value in (weight, bias)]
        if not all(value is None or np.isfinite(value).all() for value in narrow):
            return False
        names = [*self.node.input[:2]]
        taken = graph.tensor_names(model)
        for place, (stem, value) in enumerate(zip(stems, narrow, strict=True), 1):
            if value is not None:
                names[place:] = [graph.fresh_name(stem, taken)]
                model.graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(value), names[place]))
        del self.node.input[:]
        self.node.input.extend(names)
        return True


def _plain_gemm(node: NodeProto) -> bool:
    return not graph.attribute(node, "transA", 0) and all(
        graph.attribute(node, factor, 1.0) == 1 for factor in ("alpha", "beta")
    )


@dataclass(frozen=True)
class Affine:
    """What a node does to its input: times `scale`, plus `shift`; float64, one number a channel or one for all."""

    scale: np.ndarray
    shift: np.ndarray

    @classmethod
    def read(
        cls, node: NodeProto, source: str, tensors: dict[str, TensorProto], layer: Layer, count: int
    ) -> Affine | None:
        """Tell what a node does to `source`, whose `count` channels lie where those of `layer` do; None if not that."""
        if node.op_type == "BatchNormalization":
            return cls.norm(node, tensors, count) if layer.node.op_type != "MatMul" else None
        if node.op_type not in _STEPS or list(node.input).count(source) != 1:
            return None
        place = list(node.input).index(source)
        tensor = tensors.get(node.input[1 - place])
        rank = layer.weight.ndim if layer.node.op_type != "MatMul" else 1
        value = channel_values(graph.array(tensor), layer.axis, rank, count) if tensor is not None else None
        if value is None or not np.isfinite(value).all():
            return None
        one, nothing = np.ones(1), np.zeros(1)
        if node.op_type == "Mul":
            return cls(value, nothing)
        if node.op_type == "Div":
            return cls(1 / value, nothing) if place == 0 and value.all() else None
        if node.op_type == "Add":
            return cls(one, value)
        return cls(one, -value) if place == 0 else cls(-one, value)

    @classmethod
    def norm(cls, node: NodeProto, tensors: dict[str, TensorProto], count: int) -> Affine | None:
        """Tell what a BatchNormalization over `count` channels does; None when its numbers are not constant."""
        if any(node.output[1:]) or any(name not in tensors for name in node.input[1:5]):
            return None
        if graph.attribute(node, "training_mode", 0):
            return None
        gamma, beta, mean, variance = (graph.array(tensors[name]).astype(np.float64) for name in node.input[1:5])
        scale = gamma / np.sqrt(variance + float(graph.attribute(node, "epsilon", 1e-5)))  # type: ignore[arg-type]
        return cls(scale, beta - mean * scale) if scale.shape == (count,) and np.isfinite(scale).all() else None


def channel_values(values: np.ndarray, axis: int, rank: int, count: int) -> np.ndarray | None:
    """Give a float32 constant as one number a channel (or one for all), float64; None when it varies otherwise.

    It is combined with a value of `rank` axes whose `count` channels lie on `axis`, counted from the end.
    """
    if values.dtype != np.float32 or values.ndim > rank or values.size not in (1, count):
        return None
    if values.size > 1 and (values.ndim < -axis or values.shape[axis] != count):
        return None
    return values.reshape(-1).astype(np.float64)


def fold_back(model: ModelProto) -> None:
    """Fold each scale and shift into the layer before it, in place."""
    _each(model, _into_layer_before)


def fold_forward(model: ModelProto) -> None:
    """Fold each scale and shift into the layer after it, in place."""
    sides, _ = inferred(model)
    # From the end on: of a scale before a scale, the second goes first.
    _each(model, lambda model, node: _into_layer_after(model, node, sides), backwards=True)


def _each(model: ModelProto, fold: Callable[[ModelProto, NodeProto], bool], backwards: bool = False) -> None:
    gone = []
    for node in list(model.graph.node)[:: -1 if backwards else 1]:
        if node.op_type in _STEPS and fold(model, node):
            # An empty shell until the list is rebuilt: two nodes must not make the same name.
            del node.input[:]
            node.output[0] = ""
            gone.append(node)
    graph.remove_nodes(model, gone)
    graph.remove_dead(model)


def _into_layer_before(model: ModelProto, node: NodeProto) -> bool:
    tensors, makers, readers = graph.initializers(model), graph.producers(model), graph.consumers(model)
    for source in node.input[:2]:
        layer = Layer.read(makers.get(source), tensors)
        if layer is None or len(readers[source]) != 1 or source in graph.outputs(model):
            continue
        change = Affine.read(node, source, tensors, layer, layer.made)
        if change is None or (layer.node.op_type == "MatMul" and change.shift.any()):
            continue
        bias = None
        if layer.bias is not None or change.shift.any():
            old = np.zeros(1) if layer.bias is None else layer.bias.astype(np.float64)
            bias = np.broadcast_to(old * change.scale + change.shift, (layer.made,))
        if layer.write(model, layer.scale_made(change.scale), bias):
            layer.node.output[0] = node.output[0]
            return True
    return False


def _into_layer_after(model: ModelProto, node: NodeProto, sides: Mapping[str, Shape]) -> bool:
    made = node.output[0]
    tensors, readers = graph.initializers(model), graph.consumers(model).get(made, [])
    layer = Layer.read(readers[0], tensors) if len(readers) == 1 and made not in graph.outputs(model) else None
    if layer is None or list(layer.node.input).count(made) != 1 or _ends_formula(model, node, tensors):
        return False
    for source in node.input[:1] if node.op_type == "BatchNormalization" else node.input[:2]:
        shape = sides.get(source, ())
        # What the constant spreads to more axes or channels cannot be read instead.
        alike = len(shape) == layer.weight.ndim or (layer.node.op_type == "MatMul" and len(shape) > 0)
        if source in tensors or not alike or shape[layer.axis] != layer.read_channels:
            continue
        change = Affine.read(node, source, tensors, layer, layer.read_channels)
        if change is None or (change.shift.any() and (layer.pads() or layer.node.op_type == "MatMul")):
            continue
        bias = layer.bias
        if change.shift.any():
            bias = layer.answer_to(change.shift) + (0 if bias is None else bias.astype(np.float64))
        if layer.write(model, None if (change.scale == 1).all() else layer.scale_read(change.scale), bias):
            layer.node.input[0] = source
            return True
    return False


def _ends_formula(model: ModelProto, node: NodeProto | None, tensors: Mapping[str, TensorProto]) -> bool:
    """Tell whether a step belongs to a product or quotient of values: to a Gelu or normalisation that is spelled out.

    onnxruntime runs those as one operator, but not without their last step.
    """
    makers = graph.producers(model)
    while node is not None and node.op_type in _STEPS:
        values = [name for name in node.input if name not in tensors]
        if node.op_type in ("Mul", "Div") and len(values) == 2:
            return True
        node = makers.get(values[0]) if len(values) == 1 else None
    return False


def products_with_sums(model: ModelProto) -> None:
    """Write each MatMul of a value of two axes with a constant, and the Add of a bias after it, as Gemm, in place."""
    sides, _ = inferred(model)
    tensors, makers = graph.initializers(model), graph.producers(model)
    gone = []
    for node in model.graph.node if any(node.op_type == "MatMul" for node in model.graph.node) else ():
        source = next((name for name in node.input if node.op_type == "Add" and name in makers), "")
        layer = Layer.read(makers.get(source), tensors)
        if layer is None or layer.node.op_type != "MatMul" or len(sides.get(layer.node.input[0], ())) != 2:
            continue
        if len(graph.consumers(model)[source]) != 1 or source in graph.outputs(model):
            continue
        held = tensors.get(node.input[1 - list(node.input).index(source)])
        bias = channel_values(graph.array(held), -1, 2, layer.made) if held is not None else None
        if bias is None or not layer.write(model, None, np.broadcast_to(bias, (layer.made,))):
            continue
        layer.node.op_type = "Gemm"
        layer.node.output[0] = node.output[0]
        node.output[0] = ""
        gone.append(node)
    graph.remove_nodes(model, gone)
    graph.remove_dead(model)


def norms_as_convolutions(model: ModelProto) -> None:
    """Write each BatchNormalization that is left as a convolution of each channel alone, in place.

    That has an 8-bit kernel and keeps its neighbours' layout (measured: 1.07x in float, 1.01-1.09x in 8 bits). Only
    where such neighbours are: a convolution or a pool reads it, at most through an activation.
    """
    sides, types = inferred(model)
    tensors, readers = graph.initializers(model), graph.consumers(model)
    for node in model.graph.node:
        shape = sides.get(node.input[0], ()) if node.op_type == "BatchNormalization" else ()
        if len(shape) != 4 or types.get(node.input[0]) != onnx.TensorProto.FLOAT:
            continue
        after = [reader for name in node.output[:1] for reader in readers.get(name, [])]
        after += [
            last for reader in after for last in readers.get(reader.output[0], []) if reader.op_type in _ACTIVATIONS
        ]
        size = int(np.prod(tensors[node.input[1]].dims, dtype=np.int64)) if node.input[1] in tensors else 0
        change = Affine.norm(node, tensors, size)
        if change is None or not any(reader.op_type in _NEIGHBOURS for reader in after):
            continue
        _as_convolution(model, node, change)
    graph.remove_dead(model)


def _as_convolution(model: ModelProto, node: NodeProto, change: Affine) -> None:
    taken = graph.tensor_names(model)
    source, made = node.input[0], node.output[0]
    names = [graph.fresh_name(f"{made}_{part}", taken) for part in ("weight", "bias")]
    weight, bias = change.scale.reshape(-1, 1, 1, 1), change.shift
    for name, value in zip(names, (weight, bias), strict=True):
        model.graph.initializer.append(onnx.numpy_helper.from_array(value.astype(np.float32), name))
    written = onnx.helper.make_node("Conv", [source, *names], [made], node.name, group=len(bias), kernel_shape=[1, 1])
    node.CopyFrom(written)
