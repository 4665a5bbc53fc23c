"""ONNX files in and out, producers and consumers, small edits: what compress, measure and inspect share.

Functions that edit do it in place; a step copies its model first (`copy`).
"""

from __future__ import annotations

import contextlib
import fnmatch
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import files, foreign
from edgekit.errors import EdgekitError
from edgekit.lazy import np, onnx
from edgekit.spec import nearest
from edgekit.wiring import (
    all_graphs,
    all_tensors,
    captured,
    consumers,
    depths,
    fresh_name,
    has_subgraphs,
    initializers,
    outputs,
    producers,
    reads,
    remove_dead,
    remove_nodes,
    rename_in,
    rename_made,
    rename_reads,
    sort,
    tensor_names,
    unique_names,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from onnx import ModelProto, NodeProto, TensorProto

__all__ = [
    "LARGEST_FILE",
    "Input",
    "all_graphs",
    "all_tensors",
    "array",
    "attribute",
    "captured",
    "consumers",
    "copy",
    "depths",
    "fresh_name",
    "has_subgraphs",
    "initializers",
    "inputs",
    "is_quantized",
    "load",
    "metadata",
    "opset",
    "outputs",
    "part_making",
    "producers",
    "reads",
    "remove_dead",
    "remove_nodes",
    "rename_in",
    "rename_made",
    "rename_reads",
    "save",
    "select",
    "set_metadata",
    "sort",
    "tensor_names",
    "unique_names",
    "with_outputs",
]

# protobuf refuses to serialise from 2 GiB on; the rest of the model needs room too.
LARGEST_FILE = 1_900_000_000
# Operators that run in, or convert to, integers: what a quantised model is told by. A DequantizeLinear over constants
# alone is only a way to store weights.
_INTEGER_PREFIXES = ("QLinear", "QGemm", "QAttention", "DynamicQuantize", "MatMulInteger", "MatMulNBits", "ConvInteger")
_EXPORT_HINT = "export it again from the framework it was trained in"


@dataclass(frozen=True)
class Input:
    """What a model wants to be fed: name, numpy dtype, and one number, name or None for each dimension."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


def load(path: Path) -> ModelProto:
    """Read an ONNX file, with its external data, and check it; raise EdgekitError saying what it is instead."""
    data = _read(path)
    model = _parse(path, data)
    _load_external(path, model)
    _require_whole(path, model)
    _check(path, model)
    return model


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise EdgekitError(f"{path}: is a folder, not an ONNX file", "give the .onnx file in it")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        near = nearest(path.name, [other.name for other in path.parent.glob("*.onnx")])
        raise EdgekitError(
            f"{path}: no such file",
            f"did you mean {path.with_name(near)}?" if near else "give the path of a model",
        ) from None
    except OSError as error:
        raise EdgekitError(f"{path}: cannot be read: {error.strerror}", "mend its permissions") from error


def _parse(path: Path, data: bytes) -> ModelProto:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if not data:
        raise EdgekitError(f"{path}: is an empty file", "copy or download it again")
    if (kind := foreign.kind(data)) is not None:
        raise EdgekitError(f"{path}: is {kind}, not an ONNX model", "export it to ONNX first")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        # Field 1 of every ONNX file is the version of the format.
        if data[0] == 0x08:
            raise EdgekitError(f"{path}: is a damaged or cut-off ONNX file", "copy or download it again") from error
        raise EdgekitError(f"{path}: is not an ONNX model", "give a .onnx file") from error
    if not model.ir_version or not model.HasField("graph"):
        raise EdgekitError(f"{path}: is not an ONNX model, or was cut off", "copy or download it again")
    return model


def _load_external(path: Path, model: ModelProto) -> None:
    external = [tensor for tensor in all_tensors(model) if tensor.data_location == onnx.TensorProto.EXTERNAL]
    for tensor in external:
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        if not (path.parent / location).is_file():
            raise EdgekitError(
                f"{path}: its weights are in {location or 'another file'}, which is not beside it",
                f"put {location or 'that file'} into {path.parent}",
            )
        try:
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
        except (onnx.checker.ValidationError, ValueError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise EdgekitError(
                f"{path}: its weights in {location} cannot be read: {reason}", "copy or download both files again"
            ) from error
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _require_whole(path: Path, model: ModelProto) -> None:
    for tensor in all_tensors(model):
        if tensor.data_type == onnx.TensorProto.STRING or not tensor.HasField("raw_data"):
            continue
        bits = int(np.prod(tensor.dims, dtype=np.int64)) * _bits(tensor.data_type)
        if len(tensor.raw_data) * 8 < bits:
            raise EdgekitError(
                f"{path}: is damaged: the tensor {tensor.name!r} is shorter than its shape says",
                "copy or download it again",
            )


def _bits(data_type: int) -> int:
    name = onnx.TensorProto.DataType.Name(data_type)
    if name.endswith("INT4") or name.startswith("FLOAT4"):
        return 4
    if name.endswith("INT2"):
        return 2
    return 8 * int(onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize)


def _check(path: Path, model: ModelProto) -> None:
    # Three harmless faults that onnxruntime forgives and exporters make.
    if not model.graph.name:
        model.graph.name = "graph"
    sort(model)
    _shape_outputs(model)
    try:
        onnx.checker.check_model(model if model.ByteSize() < LARGEST_FILE else str(path))
    except onnx.checker.ValidationError as error:
        reason = str(error).strip().splitlines()[0]
        raise EdgekitError(f"{path}: is not a valid ONNX model: {reason}", _EXPORT_HINT) from error


def _shape_outputs(model: ModelProto) -> None:
    """Give the outputs that are declared without a shape the one that follows from the graph, where one does."""
    shapeless = [output for output in model.graph.output if not output.type.tensor_type.HasField("shape")]
    if not any(output.type.HasField("tensor_type") for output in shapeless) or model.ByteSize() >= LARGEST_FILE:
        return
    with contextlib.suppress(onnx.shape_inference.InferenceError):
        known = {output.name: output for output in onnx.shape_inference.infer_shapes(model).graph.output}
        for output in shapeless:
            if known[output.name].type.tensor_type.HasField("shape"):
                output.CopyFrom(known[output.name])


def save(model: ModelProto, path: Path, largest: int = LARGEST_FILE) -> None:
    """Write `path` atomically, the same bytes every time; above `largest` bytes with its weights in `NAME.data`."""
    if model.ByteSize() > largest:
        _save_external(model, path)
        return
    files.write(path, model.SerializeToString(deterministic=True))


def _save_external(model: ModelProto, path: Path) -> None:
    data_path = path.with_name(path.name + ".data")
    outer = _without_initializers(model)
    with files.atomic(data_path) as temporary:
        with temporary.open("wb") as stream:
            for tensor in model.graph.initializer:
                outer.graph.initializer.append(_moved_out(tensor, data_path.name, stream.tell()))
                if outer.graph.initializer[-1].data_location == onnx.TensorProto.EXTERNAL:
                    stream.write(tensor.raw_data)
        files.write(path, outer.SerializeToString(deterministic=True))


def _without_initializers(model: ModelProto) -> ModelProto:
    # Field by field, because a whole copy would double the memory of a model that is already large.
    outer = onnx.ModelProto()
    for part, source in ((outer, model), (outer.graph, model.graph)):
        for field, value in source.ListFields():
            if field.name in ("graph", "initializer"):
                continue
            if isinstance(value, (str, bytes, int)):
                setattr(part, field.name, value)
            else:
                getattr(part, field.name).MergeFrom(value)
    return outer


def _moved_out(tensor: TensorProto, location: str, offset: int) -> TensorProto:
    if len(tensor.raw_data) < 1024:
        return tensor
    moved = onnx.TensorProto(
        name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, data_location=onnx.TensorProto.EXTERNAL
    )
    for key, value in (("location", location), ("offset", offset), ("length", len(tensor.raw_data))):
        moved.external_data.add(key=key, value=str(value))
    return moved


def copy(model: ModelProto) -> ModelProto:
    """Give a deep copy."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    return made


def is_quantized(model: ModelProto) -> bool:
    """Tell whether the model computes in integers already (weights that are merely stored in 8 bits do not count)."""
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    return any(
        node.op_type.startswith(_INTEGER_PREFIXES)
        or (node.op_type == "QuantizeLinear" and node.input[0] not in constants)
        for node in model.graph.node
    )


def array(tensor: TensorProto) -> np.ndarray:
    """Give the values of a tensor."""
    values: np.ndarray = onnx.numpy_helper.to_array(tensor)
    return values


def attribute(node: NodeProto, name: str, default: object = None) -> object:
    """Give the value of a node's attribute, or `default`."""
    found = next((entry for entry in node.attribute if entry.name == name), None)
    return default if found is None else onnx.helper.get_attribute_value(found)


def with_outputs(model: ModelProto, names: Iterable[str]) -> ModelProto:
    """Give a copy that also gives out these values; onnxruntime infers their types."""
    opened = copy(model)
    shown = outputs(model)
    opened.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in shown)
    return opened


def part_making(model: ModelProto, names: Collection[str]) -> ModelProto:
    """Give a copy that makes these values and nothing else: first what is an output already, as it was declared."""
    part = with_outputs(model, names)
    kept = [value for value in part.graph.output if value.name in names]
    del part.graph.output[:]
    part.graph.output.extend(kept)
    remove_dead(part)
    return part


def output_names(model: ModelProto) -> tuple[str, ...]:
    """Give the names of the model's outputs, in their order."""
    return tuple(output.name for output in model.graph.output)


def inputs(model: ModelProto) -> list[Input]:
    """Give what has to be fed: the graph's inputs that no initializer fills."""
    filled = set(initializers(model))
    found = []
    for value in model.graph.input:
        if value.name in filled:
            continue
        kind = value.type.tensor_type
        dims = tuple((dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None) for dim in kind.shape.dim)
        dtype = str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)) if kind.elem_type else "unknown"
        found.append(Input(value.name, dtype, dims))
    return found


def opset(model: ModelProto) -> int:
    """Give the version of the standard operators."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)


def select(model: ModelProto, only: Iterable[str], exclude: Iterable[str]) -> set[str]:
    """Give the names of the nodes that some glob of `only` (none: all nodes) and no glob of `exclude` matches.

    A glob is held against the node's name and against its operator type; case matters. Raises EdgekitError for a glob
    that matches nothing.
    """
    only, exclude = tuple(only), tuple(exclude)
    matches = {pattern: _matching(model, pattern) for pattern in (*only, *exclude)}
    chosen = set().union(*(matches[pattern] for pattern in only)) if only else {node.name for node in model.graph.node}
    return chosen.difference(*(matches[pattern] for pattern in exclude))


def _matching(model: ModelProto, pattern: str) -> set[str]:
    found = {
        node.name
        for node in model.graph.node
        if pattern in (node.name, node.op_type)
        or fnmatch.fnmatchcase(node.name, pattern)
        or fnmatch.fnmatchcase(node.op_type, pattern)
    }
    if not found:
        types = sorted({node.op_type for node in model.graph.node})
        names = {word.lower(): word for node in model.graph.node for word in (node.name, node.op_type)}
        near = nearest(pattern, names)
        raise EdgekitError(
            f"no node and no operator type of the model matches {pattern!r}",
            f"did you mean {names[near]}?" if near else f"its operator types are {', '.join(types)}",
        )
    return found


def metadata(model: ModelProto) -> dict[str, str]:
    """Give the model's own key-value pairs."""
    return {entry.key: entry.value for entry in model.metadata_props}


def set_metadata(model: ModelProto, key: str, value: str | None) -> None:
    """Set one key-value pair; None removes it."""
    kept = [(entry.key, entry.value) for entry in model.metadata_props if entry.key != key]
    if value is not None:
        kept.append((key, value))
    del model.metadata_props[:]
    for name, text in kept:
        model.metadata_props.add(key=name, value=text)
