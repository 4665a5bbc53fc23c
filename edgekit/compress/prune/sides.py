"""Arithmetic on shapes, as exporters write it for models with an open side, worked out as far as it is fixed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit import graph
from edgekit.lazy import np, onnx

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx import ModelProto, NodeProto

    Dims = tuple[int | str | None, ...]
    # An array of objects: whole numbers, names of open sides, None for what is not known.
    Sides = np.ndarray
    Step = Callable[[NodeProto, list[Sides]], Sides | None]

_LARGEST = 64  # entries; what is longer is no shape
_INTEGERS = (6, 7)  # int32, int64
_WEIGHT = 1024  # bytes; larger constants say nothing of shapes


def dims(model: ModelProto) -> dict[str, Dims]:
    """Give the sides of each value whose rank is known: a number, the name of an open side, or None."""
    return _inferred(model)[0]


def _inferred(model: ModelProto) -> tuple[dict[str, Dims], dict[str, int]]:
    """Give the sides, and the element types as onnx numbers them."""
    bare = _without_weights(model)
    known = bare.graph
    for propagate in (True, False):
        try:
            known = onnx.shape_inference.infer_shapes(bare, data_prop=propagate).graph
            break
        except onnx.shape_inference.InferenceError:
            continue
    found: dict[str, Dims] = {}
    types: dict[str, int] = {}
    for value in (*known.value_info, *known.output, *known.input):
        types[value.name] = value.type.tensor_type.elem_type
        if value.type.tensor_type.HasField("shape"):
            sides = value.type.tensor_type.shape.dim
            found[value.name] = tuple(s.dim_value if s.HasField("dim_value") else s.dim_param or None for s in sides)
    for tensor in model.graph.initializer:
        found[tensor.name], types[tensor.name] = tuple(tensor.dims), tensor.data_type
    return found, types


def _without_weights(model: ModelProto) -> ModelProto:
    """Give a copy whose large constants are inputs."""
    bare = onnx.ModelProto(ir_version=max(model.ir_version, 4), opset_import=model.opset_import)
    bare.functions.extend(model.functions)
    bare.graph.name = model.graph.name
    bare.graph.node.extend(model.graph.node)
    bare.graph.input.extend(model.graph.input)
    bare.graph.output.extend(model.graph.output)
    bare.graph.value_info.extend(v for v in model.graph.value_info if v.type.tensor_type.HasField("shape"))
    for tensor in model.graph.initializer:
        # What the inference takes for numbers in half precision it refuses.
        if tensor.ByteSize() <= _WEIGHT and tensor.data_type != onnx.TensorProto.FLOAT16:
            bare.graph.initializer.append(tensor)
        else:
            shape = list(tensor.dims)
            bare.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, shape))
    return bare


def settle(model: ModelProto) -> bool:
    """Turn what is computed from fixed sides into constants, and note the shapes that follow, in place.

    Tell whether there was any.
    """
    (known, types), shown = _inferred(model), graph.outputs(model)
    held = {
        tensor.name: graph.array(tensor).astype(object)
        for tensor in model.graph.initializer
        if tensor.data_type in (*_INTEGERS, onnx.TensorProto.BOOL) and np.prod(tensor.dims, dtype=np.int64) <= _LARGEST
    }
    started, gone, noted = set(held), [], {value.name for value in model.graph.value_info}
    for node in model.graph.node:
        made = _worked_out(node, held, known)
        if made is not None and made.size <= _LARGEST:
            held[node.output[0]] = made
            reads = [name for name in node.input if name]
            fixed = all(isinstance(side, int) for side in made.reshape(-1)) and not set(reads) <= started
            if fixed and node.output[0] not in shown and not any(node.output[1:]):
                gone.append(node)
        shape = _result(node, held, known)
        if shape is not None and node.output[0] not in noted | shown and _says_more(shape, known.get(node.output[0])):
            kind = types.get(node.output[0]) or types.get(node.input[0], 0)
            model.graph.value_info.append(onnx.helper.make_tensor_value_info(node.output[0], kind, list(shape)))
    for node in gone:
        values = held[node.output[0]]
        dtype = "bool" if values.size and isinstance(values.flat[0], bool) else "int64"
        if node.op_type == "Cast" and graph.attribute(node, "to") == onnx.TensorProto.INT32:
            dtype = "int32"
        model.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(dtype), node.output[0]))
    changed = bool(gone) or len(model.graph.value_info) > len(noted)
    graph.remove_nodes(model, gone)
    graph.remove_dead(model)
    return changed


def _says_more(shape: Dims, known: Dims | None) -> bool:
    if known is None or len(known) != len(shape):
        return known is None
    return any(isinstance(a, int) > isinstance(b, int) for a, b in zip(shape, known, strict=True))


def _worked_out(node: NodeProto, held: dict[str, Sides], known: dict[str, Dims]) -> Sides | None:
    """Give the whole numbers that a node makes, as far as they are known."""
    if node.op_type == "Shape":
        sides = known.get(node.input[0])
        if sides is None:
            return None
        start: int = graph.attribute(node, "start", 0)  # type: ignore[assignment]
        end: int = graph.attribute(node, "end", len(sides))  # type: ignore[assignment]
        return _array(sides[start:end])
    step = _STEPS.get(node.op_type)
    if step is None or any(name and name not in held for name in node.input):
        return None
    try:
        return step(node, [held[name] for name in node.input if name])
    except (ValueError, IndexError, TypeError):
        return None


def _array(sides: Any) -> Sides:
    made = np.empty(len(sides), object)
    made[:] = sides
    return made


def _whole(values: Sides) -> list[int]:
    if not all(isinstance(value, int) for value in values.reshape(-1)):
        raise ValueError("not known")
    return [int(value) for value in values.reshape(-1)]


def _gather(node: NodeProto, read: list[Sides]) -> Sides:
    axis: int = graph.attribute(node, "axis", 0)  # type: ignore[assignment]
    indices = np.array(_whole(read[1]), np.int64).reshape(read[1].shape)
    return np.asarray(read[0].take(indices, axis), object)


def _slice(node: NodeProto, read: list[Sides]) -> Sides:
    if len(read) == 1:
        starts, ends = (list(graph.attribute(node, name, [])) for name in ("starts", "ends"))  # type: ignore
        return read[0][starts[0] : ends[0]]
    starts, ends, *rest = (_whole(values) for values in read[1:])
    step = rest[1][0] if len(rest) > 1 else 1
    if read[0].ndim != 1:
        raise ValueError("not a list")
    return read[0][starts[0] : ends[0] : step]


def _joined(node: NodeProto, read: list[Sides]) -> Sides:
    axis: int = graph.attribute(node, "axis", 0)  # type: ignore[assignment]
    return np.concatenate(read, axis)


def _shaped(node: NodeProto, read: list[Sides]) -> Sides:
    if node.op_type == "Reshape":
        return read[0].reshape(_whole(read[1]))
    axes = _whole(read[1]) if len(read) > 1 else list(graph.attribute(node, "axes", []))  # type: ignore[call-overload]
    if node.op_type == "Squeeze":
        return read[0].squeeze(tuple(axes)) if axes else read[0].squeeze()
    return np.expand_dims(read[0], tuple(axes))


def _cast(node: NodeProto, read: list[Sides]) -> Sides | None:
    to = graph.attribute(node, "to", onnx.TensorProto.INT64)
    return read[0] if to in _INTEGERS else None


def _pairs(node: NodeProto, read: list[Sides]) -> Sides:
    step = _PAIRS[node.op_type]
    spread = np.broadcast_arrays(*read)
    made = np.empty(spread[0].shape, object)
    for place in np.ndindex(made.shape):
        made[place] = step(*(values[place] for values in spread))
    return made


def _times(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    return b if a == 1 and a is not None else a if b == 1 else None


def _plus(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    return b if a == 0 and a is not None else a if b == 0 else None


def _minus(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        return a - b
    return a if b == 0 else None


def _over(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int) and b:
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    return a if b == 1 else None


def _equal(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    if a is not None and a == b:
        return True
    # A side is never negative.
    negative = any(isinstance(x, int) and x < 0 and isinstance(y, str) for x, y in ((a, b), (b, a)))
    return False if negative else None


def _where(condition: Any, a: Any, b: Any) -> Any:
    return None if condition is None else a if condition else b


def _filled(node: NodeProto, read: list[Sides]) -> Sides | None:
    value = graph.attribute(node, "value")
    filling = graph.array(value).item() if value is not None else 0.0  # type: ignore[arg-type]
    return np.full(_whole(read[0]), filling, object) if isinstance(filling, int) else None


_PAIRS: dict[str, Callable[..., Any]] = {
    "Mul": _times,
    "Add": _plus,
    "Sub": _minus,
    "Div": _over,
    "Equal": _equal,
    "Where": _where,
}
# Operators that the inference of some versions of onnx does not know.
_KEEPING = ("GroupNormalization", "RMSNormalization", "Gelu", "Mish", "HardSwish", "Swish")
_STEPS: dict[str, Step] = {
    **dict.fromkeys(_PAIRS, _pairs),
    **dict.fromkeys(("Reshape", "Squeeze", "Unsqueeze"), _shaped),
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _joined,
    "Cast": _cast,
    "Identity": lambda node, read: read[0],
    "ConstantOfShape": _filled,
}


def _result(node: NodeProto, held: dict[str, Sides], known: dict[str, Dims]) -> Dims | None:
    """Give the shape of what a Reshape, Expand or ConstantOfShape makes, or what keeps the shape."""
    if node.op_type in _KEEPING:
        return known.get(node.input[0])
    place = {"Reshape": 1, "Expand": 1, "ConstantOfShape": 0}.get(node.op_type)
    wanted = held.get(node.input[place]) if place is not None and len(node.input) > place else None
    if wanted is None or wanted.ndim != 1:
        return None
    sides: Dims = tuple(wanted.tolist())
    if node.op_type == "ConstantOfShape":
        return sides
    source = known.get(node.input[0])
    if source is None:
        return None
    if node.op_type == "Expand":
        rank = max(len(source), len(sides))
        mine, theirs = ((1,) * (rank - len(s)) + s for s in (source, sides))
        return tuple(b if a == 1 else a if b == 1 or a == b else None for a, b in zip(mine, theirs, strict=True))
    if 0 in sides or sides.count(-1) > 1:
        return None
    if -1 in sides:
        whole, rest = _product(source), _product(tuple(side for side in sides if side != -1))
        missing = None
        if whole is not None and rest is not None and whole[1] == rest[1] and rest[0]:
            missing = whole[0] // rest[0]
        return tuple(missing if side == -1 else side for side in sides)
    return sides


def _product(sides: Dims) -> tuple[int, list[str]] | None:
    """Give the product of the numbers among sides, and the names of the open ones, sorted."""
    if None in sides:
        return None
    numbers = [side for side in sides if isinstance(side, int)]
    return int(np.prod(numbers, dtype=np.int64)), sorted(side for side in sides if isinstance(side, str))
