"""Which nodes of a graph are worth running in 8 bits together, so that values are converted seldom."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.lazy import onnx

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import ModelProto, NodeProto

# They carry the work; the others only join them.
WEIGHTED = ("Conv", "Gemm", "MatMul")
# They have 8-bit kernels, or (the hard ones) cost less between two conversions than breaking the chain does.
ELEMENTWISE = ("Add", "Mul", "Concat")
ACTIVATIONS = ("Relu", "Clip", "Sigmoid", "LeakyRelu", "HardSwish", "HardSigmoid")
POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool")
MOVES = ("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Pad", "Resize")
# What they read stays in float: 8 bits of the values around a normalisation or a softmax cost accuracy and win no time.
DELICATE = ("LayerNormalization", "InstanceNormalization", "Softmax", "LogSoftmax", "Erf", "Gelu", "Pow", "ReduceMean")


def scope(model: ModelProto, allowed: set[str]) -> list[NodeProto]:
    """Give the nodes among `allowed` to run in 8 bits, in the order of the graph.

    Convolutions and matrix products with constant weights are the core; other operators join them when everything they
    read is in 8 bits already and somebody who reads them is too.
    """
    nodes = [node for node in model.graph.node if node.name in allowed]
    core = {node.name for node in nodes if is_weighted(model, node)}
    chosen = core | {node.name for node in nodes if _can_join(model, node)}
    if not core:
        return []
    size = -1
    while size != len(chosen):
        size = len(chosen)
        chosen = core | _fed(model, chosen)
        chosen = core | _read(model, chosen)
    return [node for node in nodes if node.name in chosen]


def is_weighted(model: ModelProto, node: NodeProto) -> bool:
    """Tell whether a node multiplies by constant float weights in a way that has an 8-bit kernel."""
    if node.op_type not in WEIGHTED or len(node.input) < 2:
        return False
    weight = graph.initializers(model).get(node.input[1])
    if weight is None or weight.data_type != onnx.TensorProto.FLOAT:
        return False
    if node.op_type == "Gemm" and len(node.input) > 2 and node.input[2]:
        bias = graph.initializers(model).get(node.input[2])
        # A bias is quantised one value a channel.
        columns = weight.dims[0 if graph.attribute(node, "transB", 0) else 1]
        if bias is None or list(bias.dims) != [columns]:
            return False
    if node.op_type == "Gemm" and not all(graph.attribute(node, name, 1.0) == 1 for name in ("alpha", "beta")):
        # onnxruntime's quantiser forgets beta (1.31); `simplify` has folded both where it could.
        return False
    if node.op_type == "Conv":
        return all(not name or name in graph.initializers(model) for name in node.input[2:])
    return len(weight.dims) == 2


def _can_join(model: ModelProto, node: NodeProto) -> bool:
    if node.op_type in ("Relu", "Clip") and any(_is_captured(model, name) for name in (node.input[0], node.output[0])):
        # It would be merged into the node before it: its result is then clipped by the conversion alone, which a nested
        # graph does not read, and what it reads loses the name under which a nested graph knows it.
        return False
    if node.op_type == "Clip":
        return _clips_around_zero(model, node)
    if node.op_type == "Pad":
        return _pads_with_zero(model, node)
    return node.op_type in (*ELEMENTWISE, *ACTIVATIONS, *POOLS, *MOVES)


def _is_captured(model: ModelProto, name: str) -> bool:
    return any(name in graph.captured(node) for node in model.graph.node)


def _pads_with_zero(model: ModelProto, node: NodeProto) -> bool:
    if graph.attribute(node, "mode", b"constant") != b"constant":
        return False
    if len(node.input) < 3 or not node.input[2]:
        return True
    value = graph.initializers(model).get(node.input[2])
    return value is not None and not graph.array(value).any()


def _clips_around_zero(model: ModelProto, node: NodeProto) -> bool:
    # An 8-bit range always has zero inside; a Clip that has not would be lost in it.
    bounds = [graph.initializers(model).get(name) if name else None for name in node.input[1:3]]
    if any(name and bound is None for name, bound in zip(node.input[1:3], bounds, strict=True)):
        return False
    low = float(graph.array(bounds[0])) if bounds and bounds[0] is not None else -1.0
    high = float(graph.array(bounds[1])) if len(bounds) > 1 and bounds[1] is not None else 1.0
    return low <= 0 <= high


def _fed(model: ModelProto, chosen: set[str]) -> set[str]:
    """Keep those of which every value they read is in 8 bits anyway; moves may read the model's inputs."""
    constant = set(graph.initializers(model))
    inside = [node for node in model.graph.node if node.name in chosen]
    # What a weighted node reads is converted for it, whoever made it.
    eight = {name for node in inside for name in node.output}
    eight |= {node.input[0] for node in inside if node.op_type in WEIGHTED}
    fed = {value.name for value in model.graph.input} - constant
    kept = set()
    for node in inside:
        values = data_inputs(node)
        ready = eight | constant | (fed if node.op_type in MOVES else set())
        if all(name in ready for name in values) and any(name not in constant for name in values):
            kept.add(node.name)
    return kept


def _read(model: ModelProto, chosen: set[str]) -> set[str]:
    """Keep those that a kept one reads, those that shrink their input, and the activation of a weighted node."""
    readers = graph.consumers(model)
    makers = graph.producers(model)
    kept = set()
    for node in model.graph.node:
        if node.name not in chosen:
            continue
        after = [reader for name in node.output for reader in readers.get(name, [])]
        if node.op_type in ELEMENTWISE and any(reader.op_type in DELICATE for reader in after):
            continue
        maker = makers.get(node.input[0])
        merged = node.op_type in ("Relu", "Clip") and maker is not None and maker.op_type == "Conv"
        if merged or node.op_type in POOLS or any(reader.name in chosen for reader in after):
            kept.add(node.name)
    return kept


def data_inputs(node: NodeProto) -> list[str]:
    """Give the inputs of a node that hold values rather than shapes, bounds or weights."""
    if node.op_type in ELEMENTWISE:
        return [name for name in node.input if name]
    return [node.input[0]]


def float_results(model: ModelProto, nodes: Sequence[NodeProto]) -> set[str]:
    """Give the outputs of matrix products that nothing in 8 bits reads: they are better left in float."""
    readers = graph.consumers(model)
    names = {node.name for node in nodes}
    return {
        node.output[0]
        for node in nodes
        if node.op_type in ("Gemm", "MatMul") and all(r.name not in names for r in readers.get(node.output[0], []))
    }
