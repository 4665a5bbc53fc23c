"""Compute beforehand what depends on constants alone: stored weights, shape arithmetic, factors of a Gemm."""

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
