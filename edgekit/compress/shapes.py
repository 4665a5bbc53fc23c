"""Shapes and element types of a model's values, as far as onnx infers them, and what follows from fixed shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.lazy import np, onnx

if TYPE_CHECKING:
    from onnx import ModelProto

    Shape = tuple[int | None, ...]


# Constants of more bytes are weights: their values say nothing of shapes.
_LARGEST_SHAPE = 1024


def inferred(model: ModelProto) -> tuple[dict[str, Shape], dict[str, int]]:
    """Give the shape (None for an open side) and the element type (onnx's number) of the values where they are known.

    A model that onnx finds fault with gives what it declares itself.
    """
    bare = _without_weights(model)
    try:
        known = onnx.shape_inference.infer_shapes(bare, data_prop=True).graph
    except onnx.shape_inference.InferenceError:
        known = bare.graph
    sides: dict[str, Shape] = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for value in (*known.value_info, *known.output, *known.input):
        kind = value.type.tensor_type
        if kind.elem_type:
            types[value.name] = kind.elem_type
        if kind.HasField("shape"):
            sides[value.name] = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim)
    return sides, types


def _without_weights(model: ModelProto) -> ModelProto:
    """Give a copy whose weights are inputs, so that inference does not copy them."""
    bare = onnx.ModelProto(ir_version=max(model.ir_version, 4), opset_import=model.opset_import)
    bare.functions.extend(model.functions)
    bare.graph.name = model.graph.name
    bare.graph.node.extend(model.graph.node)
    fed = {value.name for value in model.graph.input}
    bare.graph.input.extend(model.graph.input)
    bare.graph.output.extend(model.graph.output)
    # Notes without a shape would stand in the way.
    bare.graph.value_info.extend(v for v in model.graph.value_info if v.type.tensor_type.HasField("shape"))
    for tensor in model.graph.initializer:
        if tensor.ByteSize() <= _LARGEST_SHAPE:
            bare.graph.initializer.append(tensor)
        elif tensor.name not in fed:
            weight = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            bare.graph.input.append(weight)
    return bare


def fold_fixed(model: ModelProto) -> None:
    """Turn each Shape of a value whose sides are all known into a constant, in place."""
    sides, _ = inferred(model)
    shown = graph.outputs(model)
    gone = []
    for node in model.graph.node:
        shape = sides.get(node.input[0]) if node.op_type == "Shape" and node.output[0] not in shown else None
        if shape is None or None in shape:
            continue
        start: int = graph.attribute(node, "start", 0)  # type: ignore[assignment]
        end: int = graph.attribute(node, "end", len(shape))  # type: ignore[assignment]
        held = np.array(shape[slice(start, end)], np.int64)
        model.graph.initializer.append(onnx.numpy_helper.from_array(held, node.output[0]))
        gone.append(node)
    graph.remove_nodes(model, gone)
