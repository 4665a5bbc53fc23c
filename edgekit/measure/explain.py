"""Why each node runs in what it runs in, what it costs, and how much noise reaches its output."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.measure import nodes, profile, work
from edgekit.measure.anatomy import owner_names
from edgekit.measure.noise import value_sqnr
from edgekit.report.report import Layer

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from edgekit.measure.profile import NodeTime
    from edgekit.session import Feed

MENDED = 3  # layers for which it is said what would make them cheaper
SLIGHT = 0.005  # share of the time below which nothing is worth mending
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_CONVERSIONS = {
    QUANTIZE: "float to 8 bits",
    "DynamicQuantizeLinear": "float to 8 bits",
    DEQUANTIZE: "8 bits to float",
    "Cast": "another type",
    "ReorderInput": "order in memory",
    "ReorderOutput": "order in memory",
}
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN")
# What onnxruntime's CPU provider has 8-bit kernels for, or lets 8-bit values pass through (docs/OperatorKernels.md).
_KERNELS = frozenset(
    (
        *("Conv", "Gemm", "MatMul", "Add", "Mul", "Concat", "Sigmoid", "LeakyRelu", "Softmax", "Where", "ReduceMean"),
        *("AveragePool", "GlobalAveragePool", "MaxPool", "Relu", "Clip", "Reshape", "Flatten", "Transpose", "Squeeze"),
        *("Unsqueeze", "Slice", "Split", "Pad", "Resize", "Gather", "Expand", "DepthToSpace", "Identity", "ArgMax"),
        *("Upsample", "SpaceToDepth", "Tile"),
    )
)
_EIGHT_BITS = ("int8", "uint8")
# Activations that one with an 8-bit kernel can take the place of, when the net is trained.
_ACTIVATIONS = frozenset(
    ("HardSwish", "HardSigmoid", "Elu", "Selu", "Celu", "PRelu", "Softplus", "Softsign", "Mish", "Gelu", "Tanh")
)
NO_KERNEL, NOT_CONSTANT, LOST = "no 8-bit kernel for", "weights are not constant", "its fusion was lost"
FED, TWO = f"{NOT_CONSTANT}: they are an input of the model", f"{NOT_CONSTANT}: it multiplies two activations"
STORED, LEFT, JOINS = "its weights are stored in 8 bits only", "left in float", "only joins float nodes"
COMPUTES, MOVES, PLAIN = "8-bit arithmetic", "moves 8-bit values", "computes no floats"


def explain(
    before: ModelProto,
    after: ModelProto,
    feeds: Sequence[Feed],
    threads: int = 1,
    *,
    reasons: Mapping[str, str] | None = None,
    seconds: float = 2.0,
) -> tuple[Layer, ...]:
    """Explain every node of `after` as onnxruntime runs it on this CPU, in the order in which they run.

    `reasons`: why a node of the file was left in float, by its name; they go before what is found out here. A layer has
    the name of the node of the file that it came from, where there is one. Raises EdgekitError when a model does not
    load or run.
    """
    named = graph.copy(after)
    graph.unique_names(named)
    running = nodes.as_run(named)
    times = profile.time_nodes(running, feeds, threads=threads, seconds=seconds)
    view = _View(named, running, owner_names(named, running), {time.name: time for time in times}, reasons or {})
    noise = value_sqnr(before, named, feeds)
    by_name = {node.name: node for node in running.graph.node}
    layers = {time.name: _layer(view, by_name[time.name], time, noise) for time in times}
    return _mended(view, layers)


@dataclass(frozen=True)
class _View:
    """The file's graph, the one that runs, and which node of the one is which of the other."""

    file: ModelProto
    running: ModelProto
    owners: Mapping[str, str]
    times: Mapping[str, NodeTime]
    reasons: Mapping[str, str]

    @cached_property
    def file_nodes(self) -> dict[str, NodeProto]:
        return {node.name: node for node in self.file.graph.node}

    @cached_property
    def file_makers(self) -> dict[str, NodeProto]:
        return graph.producers(self.file)

    @cached_property
    def file_readers(self) -> dict[str, list[NodeProto]]:
        return graph.consumers(self.file)

    @cached_property
    def makers(self) -> dict[str, NodeProto]:
        return graph.producers(self.running)

    @cached_property
    def readers(self) -> dict[str, list[NodeProto]]:
        return graph.consumers(self.running)

    @cached_property
    def constants(self) -> set[str]:
        """Values that follow from constants alone."""
        found = set(work.constants(self.file))
        for node in self.file.graph.node:
            if node.input and found.issuperset(name for name in node.input if name):
                found |= set(node.output)
        return found

    @cached_property
    def outputs(self) -> set[str]:
        return graph.outputs(self.file)

    def name(self, node: NodeProto) -> str:
        return self.owners.get(node.name, node.name)

    def is_conversion(self, node: NodeProto) -> bool:
        """Tell whether a node is only there for another: it changes the type, or the order in memory."""
        if node.op_type in _CONVERSIONS:
            return True
        owner = self.file_nodes.get(self.owners.get(node.name, ""))
        moved = node.op_type == "Transpose" and (owner is None or owner.op_type != "Transpose")
        return moved or (owner is None and not nodes.is_int8(node.op_type))

    def is_float(self, node: NodeProto) -> bool:
        """Tell whether a node computes in floats: neither a conversion, nor in 8 bits, nor of shapes and indices."""
        made = self.times[node.name].outputs if node.name in self.times else ()
        floats = not made or any(kind in ("float", "float16", "double") for kind, _ in made)
        return floats and not self.is_conversion(node) and not self.is_int8(node)

    def is_int8(self, node: NodeProto) -> bool:
        if self.is_conversion(node):
            return False
        made = self.times[node.name].outputs if node.name in self.times else ()
        return nodes.is_int8(node.op_type) or (bool(made) and made[0][0] in _EIGHT_BITS)


def _layer(view: _View, node: NodeProto, time: NodeTime, noise: Mapping[str, float]) -> Layer:
    int8 = view.is_int8(node)
    if view.is_conversion(node):
        why = _conversion(view, node)
    elif int8:
        why = COMPUTES if nodes.is_int8(node.op_type) else MOVES
    else:
        why = _why_float(view, node)
    reached = None if why.startswith("a conversion") else _noise(view, node, noise)
    return Layer(view.name(node), node.op_type, int8, time.ms, time.share, reached, why)


def _conversion(view: _View, node: NodeProto) -> str:
    what = _CONVERSIONS.get(node.op_type, "order in memory")
    around = _around(view, node)
    return f"a conversion: {what}" + (f", for {view.name(around)}" if around is not None else "")


def _around(view: _View, node: NodeProto) -> NodeProto | None:
    """Give the node that a conversion is there for: the float one among those beside it."""
    behind = [reader for name in node.output for reader in view.readers.get(name, ())]
    ahead = [view.makers[name] for name in node.input if name in view.makers]
    behind_it = node.op_type in (QUANTIZE, "ReorderOutput")
    beside = [*ahead, *behind] if behind_it else [*behind, *ahead]
    if node.op_type == "DynamicQuantizeLinear":
        return beside[0] if beside else None
    return next((other for other in beside if view.is_float(other)), None)


def _why_float(view: _View, node: NodeProto) -> str:
    owner = view.file_nodes[view.owners[node.name]]
    for name in (owner.name, node.name):
        if name in view.reasons:
            return view.reasons[name]
    if not view.is_float(node):
        return PLAIN
    if owner.op_type not in _KERNELS:
        return f"{NO_KERNEL} {owner.op_type}"
    if owner.op_type in _WEIGHTED:
        return _why_weighted(view, owner)
    values = [name for name in owner.input if name and name not in view.constants]
    readers = view.file_readers.get(owner.output[0], [])
    is_between = bool(values) and all(_is_dequantized(view, name) for name in values)
    if not is_between:
        return JOINS
    return _why_lost(view, owner) if any(reader.op_type == QUANTIZE for reader in readers) else LEFT


def _why_weighted(view: _View, node: NodeProto) -> str:
    weight = node.input[1] if len(node.input) > 1 else ""
    if weight not in view.constants and not _is_dequantized(view, weight):
        return FED if weight in {value.name for value in view.file.graph.input} else TWO
    if weight in work.constants(view.file):
        return LEFT
    if not _is_dequantized(view, weight) or not _is_dequantized(view, node.input[0]):
        return STORED
    return _why_lost(view, node)


def _is_dequantized(view: _View, name: str) -> bool:
    maker = view.file_makers.get(name)
    return maker is not None and maker.op_type == DEQUANTIZE


def _why_lost(view: _View, node: NodeProto) -> str:
    """Say why a node between conversions was not fused with them."""
    made = node.output[0]
    readers = view.file_readers.get(made, [])
    if made in view.outputs:
        return f"{LOST}: its value is an output of the model"
    if len(readers) > 1:
        numbers = {2: "two", 3: "three"}
        return f"{LOST}: the value has {numbers.get(len(readers), len(readers))} readers"
    if readers and readers[0].op_type != QUANTIZE:
        return f"{LOST}: {readers[0].op_type} reads its value in float"
    return f"{LOST}: onnxruntime has no 8-bit kernel for it in this form"


def _noise(view: _View, node: NodeProto, noise: Mapping[str, float]) -> float | None:
    """Find the signal to noise of what a node makes, under one of the names that the value has."""
    names = [name for name in node.output if name]
    for name in tuple(names):
        maker = view.file_makers.get(name)
        if maker is not None and maker.op_type == QUANTIZE:
            names.append(maker.input[0])
    owner = view.file_nodes.get(view.owners.get(node.name, ""))
    names += list(owner.output) if owner is not None else []
    return next((noise[name] for name in names if name in noise), None)


def _mended(view: _View, layers: Mapping[str, Layer]) -> tuple[Layer, ...]:
    """Say of the costliest layers what would make them cheaper, the conversions around them included in their cost."""
    by_name = {node.name: node for node in view.running.graph.node}
    cost = {name: layer.share for name, layer in layers.items() if not layer.why.startswith("a conversion")}
    around: dict[str, float] = {}
    for name, layer in layers.items():
        if layer.why.startswith("a conversion") and by_name[name].op_type != "DynamicQuantizeLinear":
            other = _around(view, by_name[name])
            if other is not None and other.name in cost:
                around[other.name] = around.get(other.name, 0.0) + layer.share
    cost = {name: share + around.get(name, 0.0) for name, share in cost.items()}
    if not any(layer.int8 for layer in layers.values()):
        around = {}  # nothing is in 8 bits: the conversions are of another kind
    made = dict(layers)
    left = MENDED
    for name in sorted(cost, key=lambda name: -cost[name]):
        if cost[name] < SLIGHT or left == 0:
            break
        mend = _mend(layers[name], cost[name], around.get(name, 0.0))
        if mend:
            made[name] = replace(layers[name], mend=mend)
            left -= 1
    return tuple(made.values())


def _mend(layer: Layer, share: float, around: float) -> str:
    """Say in a line what would make a layer cheaper; "" for nothing."""
    percent = f"{_percent(share)} of the time"
    if layer.int8:
        return ""
    kind = layer.why.removeprefix(NO_KERNEL).strip()
    if kind in _ACTIVATIONS:
        return f"{percent}: train with an activation that has an 8-bit kernel (Relu, Sigmoid) in the place of {kind}"
    if layer.why == FED:
        return f"{percent}: make its weights constants of the model"
    if layer.why.startswith(LOST):
        return f"{percent}: it is fused when only one node reads its value: export it without the others"
    if around >= SLIGHT:
        both = f"{percent}, {_percent(around)} in conversions around it"
        return f"{both}: let it run in 8 bits too, or leave its neighbours in float (--exclude)"
    return ""


def _percent(share: float) -> str:
    value = 100 * share
    return f"{value:.0f} %" if value >= 10 or math.isclose(value, round(value)) else f"{value:.1f} %"
