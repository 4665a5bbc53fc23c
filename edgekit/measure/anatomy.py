"""Anatomy: what a model is made of, what it computes, and where its time goes, layer by layer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import files, graph
from edgekit.lazy import np, onnx
from edgekit.measure import nodes, profile, size, work

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto

    from edgekit.measure.profile import NodeTime
    from edgekit.session import Feed

SCHEMA = "edgekit.inspect/1"
# What onnxruntime appends to the name of a node, or of a value, when it makes a node of its own out of it.
_SUFFIX = re.compile(r"(_nchwc|_nhwc|/\w+Fusion/?|_(?:Add|Mul|Relu)?Fusion\w*|_transpose_optimizer\w*)$")
_PREFIX = "InsertedPrecisionFreeCast_"
# What onnxruntime puts between other nodes; such a node often gets the name of a value that is another node's.
_BETWEEN = ("Cast", "ReorderInput", "ReorderOutput", "Transpose", "QuantizeLinear", "DequantizeLinear")
# The operator of the file behind one of onnxruntime's own.
_BEHIND = {
    "FusedConv": "Conv",
    "QLinearConv": "Conv",
    "ConvInteger": "Conv",
    "FusedGemm": "Gemm",
    "QGemm": "Gemm",
    "FusedMatMul": "MatMul",
    "QLinearMatMul": "MatMul",
    "DynamicQuantizeMatMul": "MatMul",
    "MatMulIntegerToFloat": "MatMul",
}


@dataclass(frozen=True)
class Value:
    """An input or output: numpy's name of the type, and one number, name or None for each axis."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True)
class Part:
    """One layer of the file, or a node that onnxruntime added (`added`).

    `macs` of one inference, None where shapes are not known; `bytes` of the constants it reads; `ms` and `share` (0..1)
    of the time of all nodes, None where the model could not be run. `runs_as`: the operator that does its work. What is
    fused into another layer has 0 ms.
    """

    name: str
    type: str
    macs: int | None
    bytes: int
    ms: float | None
    share: float | None
    runs_as: str = ""
    added: bool = False


@dataclass(frozen=True)
class Anatomy:
    """Everything `edgekit inspect` has to say; layers in the order of the file.

    `bytes`: of all files of the model; `external`: those beside the first. `fed`: what it was run on.
    """

    path: str
    bytes: int
    sha256: str
    external: tuple[str, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    opsets: Mapping[str, int]
    ir_version: int
    producer: str
    operators: Mapping[str, int]
    parameters: int
    macs: int | None
    quantized: str
    metadata: Mapping[str, str]
    layers: tuple[Part, ...]
    ms: float | None
    threads: int
    fed: str
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Give the versioned document of --json."""
        return {"schema": SCHEMA, "generator": files.MADE_BY, **asdict(self)}


def dissect(
    path: Path,
    model: ModelProto,
    feeds: Sequence[Feed],
    fed: str,
    *,
    threads: int,
    seconds: float,
    notes: Sequence[str] = (),
) -> Anatomy:
    """Take a model apart. Without feeds, times and MACs are None; raises EdgekitError when it does not run on them.

    `fed` says what the feeds are; `notes` are sentences of the caller's.
    """
    named = graph.copy(model)
    graph.unique_names(named)
    shapes: dict[str, tuple[int, ...]] = {}
    times: tuple[NodeTime, ...] = ()
    quantized = _quantized(model, None)
    if feeds:
        shapes = work.value_shapes(named, feeds[0])
        running = nodes.as_run(named)
        times = profile.time_nodes(running, feeds, threads=threads, seconds=seconds)
        quantized = _quantized(model, nodes.census(model))
    parts = _parts(named, shapes, times, running if times else named)
    counted = [part.macs for part in parts if part.macs is not None]
    all_files = size.model_files(path)
    return Anatomy(
        path=str(path),
        bytes=sum(file.stat().st_size for file in all_files),
        sha256=files.sha256(path.read_bytes()),
        external=tuple(str(file) for file in all_files[1:]),
        inputs=tuple(Value(entry.name, entry.dtype, entry.shape) for entry in graph.inputs(model)),
        outputs=tuple(_value(output) for output in model.graph.output),
        opsets={entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        ir_version=model.ir_version,
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        operators=dict(sorted(_operators(model).items(), key=lambda each: (-each[1], each[0]))),
        parameters=work.parameters(model),
        macs=sum(counted) if shapes else None,
        quantized=quantized,
        metadata=graph.metadata(model),
        layers=parts,
        ms=sum(time.ms for time in times) if times else None,
        threads=threads,
        fed=fed,
        notes=tuple(notes),
    )


def _operators(model: ModelProto) -> Counter[str]:
    return Counter(node.op_type for inner in graph.all_graphs(model.graph) for node in inner.node)


def _value(value: ValueInfoProto) -> Value:
    kind = value.type.tensor_type
    dims = tuple((dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None) for dim in kind.shape.dim)
    dtype = str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)) if kind.elem_type else "unknown"
    return Value(value.name, dtype, dims)


def _quantized(model: ModelProto, census: nodes.Census | None) -> str:
    """Say what it computes and stores in, in a few words."""
    kinds = {tensor.data_type for tensor in graph.all_tensors(model) if np.prod(tensor.dims) > 1}
    if graph.is_quantized(model):
        counted = f": {census.int8} of {census.int8 + census.float} computing nodes" if census else ""
        return f"8-bit arithmetic{counted}"
    if kinds & {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}:
        return "weights stored in 8 bits, float arithmetic"
    if onnx.TensorProto.FLOAT16 in kinds:
        return "weights in float16"
    return "no"


def _parts(
    model: ModelProto, shapes: Mapping[str, tuple[int, ...]], times: Sequence[NodeTime], running: ModelProto
) -> tuple[Part, ...]:
    """Give a part for each node of the file, then one for each node that belongs to none of them."""
    owners = owner_names(model, running)
    spent: dict[str, list[NodeTime]] = {}
    strangers = []
    for time in times:
        owner = owners.get(time.name)
        if owner is None:
            strangers.append(time)
        else:
            spent.setdefault(owner, []).append(time)
    found = []
    for node, held in zip(model.graph.node, work.layer_bytes(model), strict=True):
        own = sorted(spent.get(node.name, ()), key=lambda time: -time.ms)
        found.append(
            Part(
                node.name,
                node.op_type,
                work.macs(node, shapes) if shapes else None,
                held,
                sum(time.ms for time in own) if times else None,
                sum(time.share for time in own) if times else None,
                own[0].type if own else "",
            )
        )
    found += [Part(time.name, time.type, 0, 0, time.ms, time.share, time.type, added=True) for time in strangers]
    return tuple(found)


def owner_names(model: ModelProto, running: ModelProto) -> dict[str, str]:
    """Give for each node of `running`, onnxruntime's own graph of `model`, the name of the node that it came from.

    By its name, else by the value it makes, else by both without what onnxruntime appends. A fused node belongs to the
    one that does the work: the convolution, not the activation behind it. Nodes that onnxruntime added are left out.
    """
    by_name = {node.name: node for node in model.graph.node}
    by_output = graph.producers(model)
    found = {}
    for node in running.graph.node:
        owner = _owner(node, by_name, by_output)
        if owner is not None and (node.op_type not in _BETWEEN or node.op_type == owner.op_type):
            found[node.name] = _worker(owner, _BEHIND.get(node.op_type, node.op_type), by_output).name
    return found


def _owner(node: NodeProto, by_name: Mapping[str, NodeProto], by_output: Mapping[str, NodeProto]) -> NodeProto | None:
    if node.name in by_name:
        return by_name[node.name]
    made = next((name for name in node.output if name in by_output), None)
    if made is not None:
        return by_output[made]
    name, longer = node.name, ""
    for value in (*node.output, *node.input):  # as `nodes.as_run` tells namesakes apart
        name = name.removesuffix(f"/{value}") if value else name
    while name != longer:
        if name in by_name or name in by_output:
            return by_name.get(name) or by_output[name]
        name, longer = _SUFFIX.sub("", name).removeprefix(_PREFIX), name
    return None


def _worker(node: NodeProto, wanted: str, by_output: Mapping[str, NodeProto]) -> NodeProto:
    """Go back from an activation or normalisation to the node of the wanted operator that it was fused into."""
    kinds = ("Gemm", "MatMul") if wanted == "Gemm" else (wanted,)  # onnxruntime makes a Gemm of MatMul and Add
    current: NodeProto | None = node
    for _ in range(4):
        if current is None or current.op_type in kinds:
            break
        current = next((by_output[name] for name in current.input if name in by_output), None)
    return current if current is not None and current.op_type in kinds else node
