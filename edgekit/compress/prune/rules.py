"""What each operator that computes something does to the labels of its inputs (see `trace`).

One function an operator: it gives the factors of what the node makes, or None when it is not understood.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress.prune.labels import along, long_axes
from edgekit.lazy import np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onnx import NodeProto

    from edgekit.compress.prune.sides import Dims
    from edgekit.compress.prune.trace import Rule, State, Tracer

UNARY = (
    *("Relu", "LeakyRelu", "Elu", "Selu", "Celu", "ThresholdedRelu", "Sigmoid", "HardSigmoid", "Tanh", "Softplus"),
    *("Softsign", "HardSwish", "Swish", "Mish", "Gelu", "Erf", "Identity", "Dropout", "Cast", "Abs", "Neg", "Exp"),
    *("Log", "Sqrt", "Reciprocal", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Tan", "Atan", "Sinh", "Cosh"),
    *("Not", "IsNaN", "IsInf", "Shrink", "Clip"),
)
ELEMENTWISE = (
    *("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean", "PRelu", "Where", "Mod", "And", "Or", "Xor"),
    *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "BitwiseAnd", "BitwiseOr"),
)
_POOLS = ("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
_REDUCTIONS = tuple(
    f"Reduce{kind}" for kind in ("Mean", "Sum", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp")
)


def _unary(tracer: Tracer, node: NodeProto) -> State | None:
    if _is_read(tracer, node.output[1:]):
        return None
    for place in range(1, len(node.input)):
        held = tracer.constant(place)
        if node.input[place] and (held is None or held.size != 1):
            return None
    return tracer.state(node.input[0])


def _is_read(tracer: Tracer, names: Iterable[str]) -> bool:
    return any(name in tracer.read or name in tracer.shown for name in names)


def _elementwise(tracer: Tracer, node: NodeProto) -> State | None:
    operands = _operands(tracer, list(node.input))
    # Before opset 7 an attribute said how operands of unequal shapes met.
    if operands is None or graph.attribute(node, "broadcast", 0):
        return None
    return tracer.merge(operands, max(len(sides) for _, _, sides in operands))


def _operands(tracer: Tracer, names: list[str]) -> list[tuple[str, State, Dims]] | None:
    if any(name not in tracer.dims for name in names):
        return None
    return [(name, tracer.state(name), tracer.dims[name]) for name in names]


def _pool(tracer: Tracer, node: NodeProto) -> State | None:
    if _is_read(tracer, node.output[1:]):
        return None
    rank = tracer.rank(node.input[0])
    return None if rank is None else tracer.over(tracer.state(node.input[0]), range(2, rank), "pools over its channels")


def _norm(tracer: Tracer, node: NodeProto) -> State | None:
    """Handle BatchNormalization and InstanceNormalization: constants of one value for each channel."""
    if _is_read(tracer, node.output[1:]):
        return None
    value, rank = node.input[0], tracer.rank(node.input[0])
    if rank is None or rank < 2:
        return None
    state = tracer.state(value)
    if node.op_type == "InstanceNormalization":
        state = tracer.over(state, range(2, rank), f"{node.op_type} over its channels")
    operands = [(value, state, tracer.dims[value])]
    for name in node.input[1:]:
        spread = [factor.reshape(1, -1, *[1] * (rank - 2)) for factor in tracer.state(name)]
        operands.append((name, spread, (1, tracer.size(name, 0), *[1] * (rank - 2))))
    return tracer.merge(operands, rank)


def _layer_norm(tracer: Tracer, node: NodeProto) -> State | None:
    value, rank = node.input[0], tracer.rank(node.input[0])
    if rank is None or _is_read(tracer, node.output[1:]):
        return None
    first = int(graph.attribute(node, "axis", -1)) % rank  # type: ignore[call-overload]
    state = tracer.over(tracer.state(value), range(first, rank), f"{node.op_type} over the channels")
    operands = _operands(tracer, [name for name in node.input[1:] if name])
    return None if operands is None else tracer.merge([(value, state, tracer.dims[value]), *operands], rank)


def _group_norm(tracer: Tracer, node: NodeProto) -> State:
    tracer.freeze(tracer.state(node.input[0]), f"{node.op_type} over the channels")
    tracer.freeze([f for name in node.input[1:] for f in tracer.state(name)], f"{node.op_type} over the channels")
    return []


def _softmax(tracer: Tracer, node: NodeProto) -> State | None:
    rank = tracer.rank(node.input[0])
    if rank is None:
        return None
    old = tracer.opset < 13
    axis = int(graph.attribute(node, "axis", 1 if old else -1)) % rank  # type: ignore[call-overload]
    axes = range(axis, rank) if old else [axis]
    return tracer.over(tracer.state(node.input[0]), axes, f"{node.op_type} over the channels")


def _along_axis(tracer: Tracer, node: NodeProto) -> State | None:
    """Handle what mixes the entries along one axis and keeps the shape."""
    rank = tracer.rank(node.input[0])
    axes = tracer.setting("axis", 1)
    if rank is None:
        return None
    axis = axes[0] if axes else -1
    return tracer.over(tracer.state(node.input[0]), [axis % rank], f"{node.op_type} over the channels")


def _reduce(tracer: Tracer, node: NodeProto) -> State | None:
    value, rank = node.input[0], tracer.rank(node.input[0])
    axes = tracer.setting("axes", 1)
    if rank is None or (axes is None and len(node.input) > 1 and node.input[1]):
        return None
    if node.op_type in ("ArgMax", "ArgMin"):
        axes = [int(graph.attribute(node, "axis", 0))]  # type: ignore[call-overload]
    if not axes:
        axes = [] if graph.attribute(node, "noop_with_empty_axes", 0) else list(range(rank))
    gone = sorted({axis % rank for axis in axes})
    state = tracer.over(tracer.state(value), gone, f"{node.op_type} over the channels")
    if graph.attribute(node, "keepdims", 1):
        return state
    return [np.squeeze(factor, tuple(gone)) for factor in state]


def _conv(tracer: Tracer, node: NodeProto) -> State | None:
    value, held, rank = node.input[0], node.input[1], tracer.rank(node.input[1])
    groups = int(graph.attribute(node, "group", 1))  # type: ignore[call-overload]
    if rank is None or rank < 3 or tracer.is_constant(value):
        return None
    if not tracer.base(held)[0]:
        tracer.freeze([f for name in node.input for f in tracer.state(name)], "weights that are computed")
        return []
    for name in (value, node.output[0]):
        tracer.dims.setdefault(name, (None,) * rank)
    tracer.freeze([f for f in tracer.state(held) if max(long_axes(f)) > 1], "the taps of a convolution")
    state = tracer.over(tracer.state(value), range(2, rank), f"{node.op_type} over its channels")
    tracer.states.setdefault(value, [])
    if groups > 1:
        made = _grouped(tracer, node, state, groups)
    else:
        inner, outer = (0, 1) if node.op_type == "ConvTranspose" else (1, 0)
        rest = tracer.reads_channels(0, 1, 1, inner)
        made, _ = tracer.split(tracer.state(held), outer, "weights over several axes")
        state = [factor for factor in rest if max(long_axes(factor)) < 2]
        if made is not None:
            tracer.makers.append((node.name, made))
    return _with_bias(tracer, node, made, [f for f in state if long_axes(f) == [0]], rank)


def _with_bias(tracer: Tracer, node: NodeProto, made: np.ndarray | None, state: State, rank: int) -> State:
    if made is None:
        if len(node.input) > 2:
            tracer.freeze(tracer.state(node.input[2]), "the bias of what has no channels")
        return state
    if len(node.input) > 2 and node.input[2]:
        bias = tracer.state(node.input[2])
        if len(bias) == 1:
            tracer.labels.unite(made, bias[0].reshape(-1), "a shared bias")
        else:
            tracer.labels.freeze(made, "a bias that is computed")
    return [*state, made.reshape(1, -1, *[1] * (rank - 2))]


def _grouped(tracer: Tracer, node: NodeProto, state: State, groups: int) -> np.ndarray | None:
    """Take whole groups where there are many, else the same places of each group."""
    labels = tracer.labels
    turned = node.op_type == "ConvTranspose"
    held = node.input[1]
    shape = tracer.tensors[tracer.base(held)[0]].dims
    sides = tracer.dims.get(held, tuple(shape))
    size, taken = (int(sides[0]), 0) if turned else (int(sides[1]) * groups, 1)  # type: ignore[arg-type]
    width = size // groups
    given = int(sides[1]) if turned else int(sides[0]) // groups  # type: ignore[arg-type]
    read, _ = tracer.split(state, 1, f"{node.op_type} over several axes")
    rows, columns = (_line(tracer.state(held), axis, int(sides[axis])) for axis in (0, 1))  # type: ignore[arg-type]
    reason = "a convolution of groups that reads what has no channels"
    free = read is not None and read.size == size and not labels.kept(read).all()
    if free and read is not None and groups >= max(width, given):
        blocks = read.reshape(groups, width)
        labels.unite(blocks, np.broadcast_to(blocks[:, :1], blocks.shape), reason)
        labels.unite(rows.reshape(groups, -1), np.broadcast_to(blocks[:, :1], (groups, rows.size // groups)), reason)
        labels.freeze(columns, "inside a group")
        return blocks[:, :1].repeat(given, axis=1).reshape(-1) if turned else rows
    inner, outer = (rows, columns) if turned else (columns, rows)
    if turned:
        _alike(tracer, inner, groups)
    else:
        _alike(tracer, outer, groups)
    if read is None or read.size != size:
        labels.freeze(inner, reason)
    else:
        _alike(tracer, read, groups)
        tiled = inner if turned else np.tile(inner, groups)
        labels.unite(read, tiled, reason)
        tracer.note_reading(0, 1, read, 1, taken)
    made = np.tile(outer, groups) if turned else outer
    if given > 1:
        tracer.makers.append((node.name, made))
    else:
        labels.freeze(made, "a convolution of groups that reads what has no channels")
    return made


def _line(state: State, axis: int, size: int) -> np.ndarray:
    """Give the labels of a constant along an axis; 0 where it has none, being of one entry there."""
    found = next((factor.reshape(-1) for factor in state if long_axes(factor) == [axis]), None)
    return np.zeros(size, np.int64) if found is None else found


def _alike(tracer: Tracer, labels: np.ndarray, groups: int) -> None:
    """Let the same places of each group go together."""
    grid = labels.reshape(groups, -1)
    tracer.labels.unite(grid, np.broadcast_to(grid[:1], grid.shape), "a convolution of groups")


def _gemm(tracer: Tracer, node: NodeProto) -> State | None:
    turned = [int(graph.attribute(node, name, 0)) for name in ("transA", "transB")]  # type: ignore[call-overload]
    inner, outer = (0 if turned[0] else 1, 1 if turned[1] else 0), (1 if turned[0] else 0, 0 if turned[1] else 1)
    made = _product(tracer, node, inner, outer, 2)
    if made is None or len(node.input) < 3 or not node.input[2]:
        return made
    operands = _operands(tracer, [node.input[2]])
    shown = tracer.dims.get(node.output[0])
    if operands is None or shown is None:
        tracer.freeze(made, "Gemm of open shape")
        return None
    return tracer.merge([(node.output[0], made, shown), *operands], 2)


def _matmul(tracer: Tracer, node: NodeProto) -> State | None:
    ranks = [tracer.rank(name) for name in node.input]
    if ranks[0] is None or ranks[1] is None or min(ranks[0], ranks[1]) < 2:
        return None
    return _product(tracer, node, (ranks[0] - 1, ranks[1] - 2), (ranks[0] - 2, ranks[1] - 1), max(ranks[0], ranks[1]))


def _product(
    tracer: Tracer, node: NodeProto, inner: tuple[int, int], outer: tuple[int, int], rank: int
) -> State | None:
    """Handle a product of two values: the axes that are summed over, and those that are left, of each."""
    names = list(node.input[:2])
    if any(name not in tracer.dims for name in names):
        return None
    held = [tracer.is_constant(name) for name in names]
    if held == [True, True]:
        return None
    if any(held):
        weight = held.index(True)
        other = 1 - weight
        rest = tracer.reads_channels(other, inner[other], weight, inner[weight])
        own = [f for f in tracer.state(names[weight]) if long_axes(f) != [inner[weight]]]
        made = [f for f in own if long_axes(f) == [outer[weight]]]
        tracer.makers.extend((node.name, factor.reshape(-1)) for factor in made)
        left = {weight: own, other: rest}
    else:
        reason = "a product of two values over the channels"
        left = {place: tracer.over(tracer.state(names[place]), [inner[place]], reason) for place in (0, 1)}
    operands = []
    for place in (0, 1):
        sides = tracer.dims[names[place]]
        order = [*range(len(sides) - 2), *((outer[0], inner[0]) if place == 0 else (inner[1], outer[1]))]
        factors = [factor.transpose(order) for factor in left[place]]
        shape = [sides[axis] for axis in order]
        shape[-1 if place == 0 else -2] = 1
        operands.append((f"{node.name}:{place}", [along(f, rank) for f in factors], tuple(shape)))
    return tracer.merge(operands, rank)


COMPUTING: dict[str, Rule] = {
    **dict.fromkeys(UNARY, _unary),
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), _norm),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _layer_norm),
    "GroupNormalization": _group_norm,
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _softmax),
    **dict.fromkeys(("CumSum", "LpNormalization"), _along_axis),
    **dict.fromkeys((*_REDUCTIONS, "ArgMax", "ArgMin"), _reduce),
    **dict.fromkeys(("Conv", "ConvTranspose"), _conv),
    "Gemm": _gemm,
    "MatMul": _matmul,
}
