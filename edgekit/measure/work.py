"""Work: multiply-accumulates of each node, from the shapes of a real run; parameters and bytes from the file."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.lazy import onnx
from edgekit.measure import profile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto, NodeProto, TensorProto

    from edgekit.session import Feed

    Shape = tuple[int, ...]

# Where each operator has its weights among its inputs; A and B of a matrix product are the first two, or 0 and 3.
_CONVOLUTIONS = {"Conv": 1, "FusedConv": 1, "ConvInteger": 1, "QLinearConv": 3}
_TRANSPOSED = {"ConvTranspose": 1}
_PRODUCTS = ("MatMul", "FusedMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul")
_GEMMS = ("Gemm", "FusedGemm", "QGemm")
_RECURRENT = ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM")


def value_shapes(model: ModelProto, feed: Feed) -> dict[str, Shape]:
    """Give the shape of every value of the outer graph, from one run of it as the file has it.

    Raises EdgekitError when the model does not load or run.
    """
    named = graph.copy(model)
    graph.unique_names(named)
    found = {name: tuple(array.shape) for name, array in feed.items()}
    found |= {name: tuple(tensor.dims) for name, tensor in constants(model).items()}
    ran = {node.name: node for node in profile.time_nodes(named, [feed], seconds=0.0)}
    for node in named.graph.node:
        if node.name in ran:
            made = [name for name in node.output if name]
            found |= {name: shape for name, (_, shape) in zip(made, ran[node.name].outputs, strict=False)}
    return found


def constants(model: ModelProto) -> dict[str, TensorProto]:
    """Give the constant tensors of the outer graph by name: initializers, and what Constant nodes hold."""
    found = graph.initializers(model)
    for node in model.graph.node:
        value = graph.attribute(node, "value") if node.op_type == "Constant" else None
        if isinstance(value, onnx.TensorProto):
            found[node.output[0]] = value
    return found


def macs(node: NodeProto, shapes: Mapping[str, Shape]) -> int | None:
    """Count the multiply-accumulates of one node; 0 for what multiplies no matrices, None where a shape is missing.

    Convolutions, transposed ones, Gemm, MatMul (batch included), LSTM, GRU and RNN, and their 8-bit forms. Biases,
    activations and element-wise products count nothing, as is usual.
    """
    kind = node.op_type
    try:
        if kind in _CONVOLUTIONS:
            return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[_CONVOLUTIONS[kind]]][1:])
        if kind in _TRANSPOSED:
            return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[_TRANSPOSED[kind]]][1:])
        if kind in _PRODUCTS:
            return math.prod(shapes[node.output[0]]) * (shapes[node.input[0]] or (1,))[-1]
        if kind in _GEMMS:
            return (
                math.prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if graph.attribute(node, "transA") else 1]
            )
        if kind in _RECURRENT:
            steps_and_batch = math.prod(shapes[node.input[0]][:2])
            return steps_and_batch * sum(math.prod(shapes[name]) for name in node.input[1:3])
    except KeyError:
        return None
    return 0


def parameters(model: ModelProto) -> int:
    """Count the numbers that the file holds: elements of every floating-point or 8-bit tensor with an axis.

    Shapes, axes and the like (int64, scalars) are no parameters; neither are scales and zero points of one number.
    """
    return sum(math.prod(tensor.dims) for tensor in graph.all_tensors(model) if tensor.dims and _is_weight(tensor))


def _is_weight(tensor: TensorProto) -> bool:
    kinds = onnx.TensorProto
    floats = (kinds.FLOAT, kinds.FLOAT16, kinds.BFLOAT16, kinds.DOUBLE)
    return tensor.data_type in (*floats, kinds.INT8, kinds.UINT8)


def tensor_bytes(tensor: TensorProto) -> int:
    """Give the bytes of a tensor's values, external data included."""
    if tensor.data_type == onnx.TensorProto.STRING:
        return sum(len(text) for text in tensor.string_data)
    count = math.prod(tensor.dims)
    if tensor.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4):
        return (count + 1) // 2
    return count * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def layer_bytes(model: ModelProto) -> list[int]:
    """Give for each node of the outer graph the bytes of the constants that it reads, through nodes of constants too.

    A weight stored in 8 bits reaches its layer by way of DequantizeLinear, or Cast and Mul: it counts at the layer. A
    tensor that several nodes read counts at the first.
    """
    held: dict[str, int] = {name: tensor_bytes(tensor) for name, tensor in constants(model).items()}
    constant = set(held)
    found = []
    for node in model.graph.node:
        names = list(dict.fromkeys(name for name in node.input if name))
        own = sum(held.pop(name, 0) for name in names)
        if names and constant.issuperset(names):
            constant |= set(node.output)
            held[node.output[0]], own = own, 0
        found.append(own)
    return found
