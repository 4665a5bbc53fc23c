"""Which nodes run in 8 bits and which in float, once onnxruntime has rewritten the graph for this CPU."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.lazy import onnx
from edgekit.session import open_session

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onnx import ModelProto, NodeProto

# The operators that carry the work, in float and in integers; what only moves or converts values is in `other`.
_FLOAT = ("Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "LSTM", "GRU", "RNN")
_TOKEN = re.compile(r"_token_\d+")
_NUMBERED = re.compile(r"_token_\d+|^reorder$")  # a value named so is named otherwise the next time
_INT8_PREFIXES = ("QLinear", "QGemm", "QAttention")
_INT8 = (
    "ConvInteger",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "DynamicQuantizeLSTM",
    "MatMulNBits",
)


@dataclass(frozen=True)
class Census:
    """How many nodes run in what, and the names of those that compute, by operator type."""

    int8: int
    float: int
    other: int
    int8_names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    float_names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)


def census(model: ModelProto) -> Census:
    """Count the nodes of the graph that onnxruntime really runs; raise EdgekitError when it cannot load the model."""
    nodes = optimized(model).graph.node
    eight, wide = _by_type(nodes, in_int8=True), _by_type(nodes, in_int8=False)
    counts = [sum(len(names) for names in group.values()) for group in (eight, wide)]
    types = dict(sorted(Counter(node.op_type for node in nodes).items()))
    return Census(counts[0], counts[1], len(nodes) - sum(counts), eight, wide, types)


def _by_type(nodes: Iterable[NodeProto], *, in_int8: bool) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for node in nodes:
        integer = is_int8(node.op_type)
        if (integer and in_int8) or (not in_int8 and node.op_type in _FLOAT):
            found.setdefault(node.op_type, []).append(node.name)
    return {kind: tuple(names) for kind, names in sorted(found.items())}


def optimized(model: ModelProto) -> ModelProto:
    """Give the graph as onnxruntime runs it on this CPU."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "optimized.onnx")
        open_session(model, optimized_to=path)
        return onnx.ModelProto.FromString(path.read_bytes())


def as_run(model: ModelProto) -> ModelProto:
    """Give the graph as onnxruntime runs it on this CPU, every node with a name of its own, the same every time.

    onnxruntime numbers what it adds (`ReorderOutput_token_16`) in an order that changes from run to run: such a node is
    named after the value that it reads or makes instead.
    """
    made = optimized(model)
    stems = [_TOKEN.sub("", node.name) for node in made.graph.node]
    counts = Counter(stems)
    for stem, node in zip(stems, made.graph.node, strict=True):
        values = [name for name in (*node.output, *node.input) if name and not _NUMBERED.search(name)]
        node.name = f"{stem}/{values[0]}" if counts[stem] > 1 and values else stem
    graph.unique_names(made)
    return made


def is_int8(kind: str) -> bool:
    """Tell whether an operator type computes in 8-bit integers."""
    return kind.startswith(_INT8_PREFIXES) or kind in _INT8
