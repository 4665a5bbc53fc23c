"""Compute beforehand what depends on constants alone: stored weights, shape arithmetic, batch normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.lazy import np, onnx
from edgekit.session import open_session, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx import ModelProto, NodeProto, TensorProto

# What `storage` undoes: the ways in which float weights are stored in fewer bits.
_STORAGE = ("Cast", "Mul", "DequantizeLinear", "Identity", "Constant")
# Constants that folding would make larger than this stay computed.
_LARGEST_FOLDED = 1 << 20
_WORTH_MERGING = 256
_RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli")


def constant_tensor(node: NodeProto) -> TensorProto | None:
    """Give the tensor that a Constant node holds, under the name of its output; None for any other node."""
    if node.op_type != "Constant" or len(node.attribute) != 1:
        return None
    held = node.attribute[0]
    if held.name == "value":
        tensor = onnx.TensorProto()
        tensor.CopyFrom(held.t)
        tensor.name = node.output[0]
        return tensor
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if held.name not in kinds:
        return None
    values = np.array(onnx.helper.get_attribute_value(held), kinds[held.name])
    made: TensorProto = onnx.numpy_helper.from_array(values, node.output[0])
    return made


def storage(model: ModelProto) -> ModelProto:
    """Give a model whose float weights are plain initializers again, whatever fewer bits they were stored in."""
    model = graph.copy(model)
    _fold(model, lambda node: node.op_type in _STORAGE, largest=None)
    graph.remove_dead(model)
    return model


def constants(model: ModelProto) -> ModelProto:
    """Replace every node of `model` that reads only constants by its result, in place; weights stay within 1 MiB."""
    _fold(model, lambda node: node.op_type not in _RANDOM, largest=_LARGEST_FOLDED)
    graph.remove_dead(model)
    return model


def _fold(model: ModelProto, foldable: Callable[[NodeProto], bool], largest: int | None) -> None:
    known = set(graph.initializers(model)) - {value.name for value in model.graph.input}
    chain: list[NodeProto] = []
    for node in model.graph.node:
        reads = [name for name in node.input if name]
        if foldable(node) and all(name in known for name in reads) and not graph.captured(node):
            chain.append(node)
            known.update(node.output)
    folded = {
        name: value for name, value in _evaluated(model, chain).items() if largest is None or value.nbytes <= largest
    }
    # What led to them dies with them.
    graph.remove_nodes(model, [node for node in chain if folded.keys() & set(node.output)])
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in folded.items())


def _evaluated(model: ModelProto, chain: list[NodeProto]) -> dict[str, np.ndarray]:
    """Run the nodes of `chain`; give those of their results that other nodes read."""
    inside = {id(node) for node in chain}
    read = {name for node in model.graph.node if id(node) not in inside for name in graph.reads(node)}
    ends = [node for node in chain if read.intersection(node.output) and not graph.outputs(model) & set(node.output)]
    wanted = [name for node in ends for name in node.output if name]
    if not wanted:
        return {}
    part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    part.graph.name = "constants"
    part.graph.node.extend(chain)
    needed = {name for node in chain for name in node.input}
    part.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in needed)
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    values = run(open_session(part, optimized=False), {})
    return {name: value for name, value in zip(wanted, values, strict=True) if isinstance(value, np.ndarray)}


def gemm_factors(model: ModelProto) -> ModelProto:
    """Multiply alpha and beta of each Gemm of `model` into its constant weight and bias, in place."""
    values = graph.initializers(model)
    taken = graph.tensor_names(model)
    for node in model.graph.node:
        for place, factor in ((1, "alpha"), (2, "beta")) if node.op_type == "Gemm" else ():
            scale = float(graph.attribute(node, factor, 1.0))  # type: ignore[arg-type]
            tensor = values.get(node.input[place]) if len(node.input) > place else None
            if scale == 1 or tensor is None or tensor.data_type != onnx.TensorProto.FLOAT:
                continue
            name = graph.fresh_name(f"{tensor.name}_{factor}", taken)
            scaled = graph.array(tensor) * np.float32(scale)
            model.graph.initializer.append(onnx.numpy_helper.from_array(scaled, name))
            node.input[place] = name
            next(attribute for attribute in node.attribute if attribute.name == factor).f = 1.0
    return model


def batch_norms(model: ModelProto) -> ModelProto:
    """Fold each BatchNormalization of `model` into the Conv, ConvTranspose or Gemm before it, in place."""
    shown = graph.outputs(model)
    gone = []
    for node in list(model.graph.node):
        if node.op_type != "BatchNormalization" or any(node.output[1:]):
            continue
        layer = graph.producers(model).get(node.input[0])
        read = graph.consumers(model).get(node.input[0], [])
        if layer is None or len(read) != 1 or node.input[0] in shown or not _fold_norm(model, layer, node):
            continue
        layer.output[0] = node.output[0]
        # An empty shell until the list is rebuilt: two nodes must not make the same name.
        node.output[0] = ""
        gone.append(node)
    graph.remove_nodes(model, gone)
    graph.remove_dead(model)
    return model


def _fold_norm(model: ModelProto, layer: NodeProto, norm: NodeProto) -> bool:
    values = graph.initializers(model)
    wanted = (*norm.input[1:5], *layer.input[1:3])
    if layer.op_type not in ("Conv", "ConvTranspose", "Gemm") or any(name and name not in values for name in wanted):
        return False
    gamma, beta, mean, variance = (graph.array(values[name]).astype(np.float64) for name in norm.input[1:5])
    epsilon = float(graph.attribute(norm, "epsilon", 1e-5))  # type: ignore[arg-type]
    factor = gamma / np.sqrt(variance + epsilon)
    weight = graph.array(values[layer.input[1]])
    has_bias = len(layer.input) > 2 and bool(layer.input[2])
    bias = graph.array(values[layer.input[2]]).astype(np.float64) if has_bias else np.zeros(1)
    if layer.op_type == "Gemm":
        # Gemm is alpha * A @ B + beta * C.
        bias = bias * float(graph.attribute(layer, "beta", 1.0))  # type: ignore[arg-type]
    if weight.dtype != np.float32 or bias.ndim != 1:
        return False
    scaled = weight * _spread(layer, weight, factor)
    moved = (bias - mean) * factor + beta
    taken = graph.tensor_names(model)
    names = [graph.fresh_name(f"{layer.input[1]}_folded", taken), graph.fresh_name(f"{layer.output[0]}_bias", taken)]
    for name, value in zip(names, (scaled, moved), strict=True):
        model.graph.initializer.append(onnx.numpy_helper.from_array(value.astype(np.float32), name))
    kept_input = layer.input[0]
    del layer.input[:]
    layer.input.extend([kept_input, *names])
    for attribute in layer.attribute:
        if layer.op_type == "Gemm" and attribute.name == "beta":
            attribute.f = 1.0
    return True


def _spread(layer: NodeProto, weight: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Shape one factor an output channel so that it multiplies the weight."""
    if layer.op_type == "Conv":
        return factor.reshape(-1, *[1] * (weight.ndim - 1))
    if layer.op_type == "Gemm":
        return factor.reshape(-1, 1) if graph.attribute(layer, "transB", 0) else factor.reshape(1, -1)
    # ConvTranspose: (in, out / groups, ...); the groups split the inputs.
    groups = int(graph.attribute(layer, "group", 1))  # type: ignore[call-overload]
    rows = np.repeat(factor.reshape(groups, -1), weight.shape[0] // groups, axis=0)
    return rows.reshape(*rows.shape, *[1] * (weight.ndim - 2))


def equal_initializers(model: ModelProto) -> None:
    """Make nodes that read equal constants read the same one, in place."""
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    for tensor in model.graph.initializer:
        if tensor.ByteSize() < _WORTH_MERGING or tensor.data_type == onnx.TensorProto.STRING:
            continue
        key = (tensor.data_type, tuple(tensor.dims), graph.array(tensor).tobytes())
        same = first.setdefault(key, tensor.name)
        if same != tensor.name:
            graph.rename_reads(model, tensor.name, same)
