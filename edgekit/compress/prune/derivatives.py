"""How the gradient of what an operator makes becomes that of what it reads: one rule an operator, as ONNX nodes.

The gradient of a convolution by its input is a transposed convolution; that by its kernel is a convolution of what it
read with the gradient of what it made, batch and channels swapped.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress.prune.columns import Window
from edgekit.compress.prune.tape import NoRuleError, Tape
from edgekit.lazy import np, onnx

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onnx import NodeProto

    Slopes = list[str | None]
    Rule = Callable[[Tape, NodeProto], Slopes]


def _number(node: NodeProto, name: str, default: float) -> float:
    return float(graph.attribute(node, name, default))  # type: ignore[arg-type]


def _passed(tape: Tape, node: NodeProto) -> Slopes:
    return [tape.of(node)]


def _relu(tape: Tape, node: NodeProto) -> Slopes:
    # 1 where it is above zero: Sign would be slow.
    steep = tape.times(node.output[0], 1e30)
    return [tape.add("Mul", tape.of(node), tape.add("Min", steep, tape.constant(1)))]


def _leaky_relu(tape: Tape, node: NodeProto) -> Slopes:
    above = tape.add("Greater", node.input[0], tape.constant(0))
    return [tape.add("Where", above, tape.of(node), tape.times(tape.of(node), _number(node, "alpha", 0.01)))]


def _where_same(tape: Tape, node: NodeProto) -> Slopes:
    """Clip."""
    same = tape.add("Cast", tape.add("Equal", node.input[0], node.output[0]), to=onnx.TensorProto.FLOAT)
    return [tape.add("Mul", tape.of(node), same)]


def _sigmoid(tape: Tape, node: NodeProto) -> Slopes:
    made = node.output[0]
    return [tape.add("Mul", tape.of(node), tape.add("Sub", made, tape.add("Mul", made, made)))]


def _hard_sigmoid(tape: Tape, node: NodeProto) -> Slopes:
    return [tape.add("Mul", tape.of(node), tape.times(_between(tape, node.output[0]), _number(node, "alpha", 0.2)))]


def _between(tape: Tape, value: str) -> str:
    """Give 1 where a value is between 0 and 1, else 0."""
    above = tape.add("Greater", value, tape.constant(0))
    below = tape.add("Less", value, tape.constant(1))
    return tape.add("Cast", tape.add("And", above, below), to=onnx.TensorProto.FLOAT)


def _hard_swish(tape: Tape, node: NodeProto) -> Slopes:
    # x h(x) with h(x) = clip(x / 6 + 1 / 2, 0, 1): h(x) + x h'(x), and x / 6 = h(x) - 1 / 2 inside.
    gate = tape.add("HardSigmoid", node.input[0], alpha=1 / 6, beta=0.5)
    rest = tape.add("Mul", tape.add("Sub", gate, tape.constant(0.5)), _between(tape, gate))
    return [tape.add("Mul", tape.of(node), tape.add("Add", gate, rest))]


def _tanh(tape: Tape, node: NodeProto) -> Slopes:
    square = tape.add("Mul", node.output[0], node.output[0])
    return [tape.add("Mul", tape.of(node), tape.add("Sub", tape.constant(1), square))]


def _erf(tape: Tape, node: NodeProto) -> Slopes:
    square = tape.add("Neg", tape.add("Mul", node.input[0], node.input[0]))
    return [tape.add("Mul", tape.of(node), tape.times(tape.add("Exp", square), 2 / math.sqrt(math.pi)))]


def _softmax(tape: Tape, node: NodeProto) -> Slopes:
    product = tape.add("Mul", tape.of(node), node.output[0])
    total = tape.summed(product, [int(_number(node, "axis", -1))], keep=True)
    return [tape.add("Sub", product, tape.add("Mul", node.output[0], total))]


def _add(tape: Tape, node: NodeProto) -> Slopes:
    made = tape.shapes[node.output[0]]
    signs = (1, -1 if node.op_type == "Sub" else 1)
    return [
        tape.like(tape.times(tape.of(node), sign), made, name) if name in tape.active else None
        for name, sign in zip(node.input, signs, strict=True)
    ]


def _mul(tape: Tape, node: NodeProto) -> Slopes:
    made = tape.shapes[node.output[0]]
    found: Slopes = []
    for place, name in enumerate(node.input):
        if name in tape.active:
            found.append(tape.like(tape.add("Mul", tape.of(node), node.input[1 - place]), made, name))
        else:
            found.append(None)
    return found


def _div(tape: Tape, node: NodeProto) -> Slopes:
    if node.input[1] in tape.active:
        raise NoRuleError(node)
    return [tape.like(tape.add("Div", tape.of(node), node.input[1]), tape.shapes[node.output[0]], node.input[0])]


def _back(tape: Tape, node: NodeProto) -> Slopes:
    """Flatten, Reshape, Squeeze, Unsqueeze."""
    return [tape.reshaped(tape.of(node), tape.shapes[node.input[0]])]


def _transpose(tape: Tape, node: NodeProto) -> Slopes:
    rank = len(tape.shapes[node.input[0]])
    order = list(graph.attribute(node, "perm", list(range(rank))[::-1]))  # type: ignore[call-overload]
    return [tape.add("Transpose", tape.of(node), perm=np.argsort(order).tolist())]


def _mean(tape: Tape, node: NodeProto) -> Slopes:
    """GlobalAveragePool, ReduceMean."""
    whole, made = tape.shapes[node.input[0]], tape.shapes[node.output[0]]
    gradient = tape.of(node)
    if len(made) < len(whole):
        given = tape.known(node, 1) if len(node.input) > 1 else graph.attribute(node, "axes", range(len(whole)))
        axes = {int(axis) % len(whole) for axis in given}  # type: ignore[attr-defined]
        made = tuple(1 if axis in axes else side for axis, side in enumerate(whole))
        gradient = tape.reshaped(gradient, made)
    return [tape.add("Mul", gradient, tape.constant(np.full(whole, math.prod(made) / math.prod(whole), np.float32)))]


def _average(tape: Tape, node: NodeProto) -> Slopes:
    kernel = list(graph.attribute(node, "kernel_shape"))  # type: ignore[call-overload]
    padded = any(graph.attribute(node, "pads", [])) or graph.attribute(node, "auto_pad", b"NOTSET") != b"NOTSET"  # type: ignore[arg-type]
    if graph.attribute(node, "ceil_mode", 0) or (padded and not graph.attribute(node, "count_include_pad", 0)):
        raise NoRuleError(node)
    channels = tape.shapes[node.input[0]][1]
    weight = tape.constant(np.full((channels, 1, *kernel), 1 / math.prod(kernel), np.float32))
    return [_unwound(tape, node, tape.of(node), weight, kernel, channels)]


def _largest(tape: Tape, node: NodeProto) -> Slopes:
    """MaxPool: back to wherever the largest value of a window stands."""
    kernel = list(graph.attribute(node, "kernel_shape"))  # type: ignore[call-overload]
    if graph.attribute(node, "ceil_mode", 0):
        raise NoRuleError(node)
    window, pads = _window(tape, node, kernel)
    rank = len(kernel)
    places = tape.shapes[node.output[0]][2:]
    channels = tape.shapes[node.input[0]][1]
    sides = tape.constant(np.array([0, 0, *(pad[0] for pad in pads), 0, 0, *(pad[1] for pad in pads)], np.int64))
    padded = tape.add("Pad", node.input[0], sides, tape.constant(-1e30))
    axes, steps = tape.constant(np.arange(2, rank + 2)), tape.constant(np.array(window.strides, np.int64))
    parts = []
    for tap in np.ndindex(*kernel):
        start = np.array(tap) * window.dilations
        stop = start + (np.array(places) - 1) * window.strides + 1
        read = tape.add("Slice", padded, tape.constant(start), tape.constant(stop), axes, steps)
        same = tape.add("Cast", tape.add("Equal", read, node.output[0]), to=onnx.TensorProto.FLOAT)
        parts.append(tape.reshaped(tape.add("Mul", tape.of(node), same), (-1, channels, 1, *places)))
    together = tape.reshaped(tape.add("Concat", *parts, axis=2), (-1, channels * len(parts), *places))
    weight = tape.constant(np.tile(np.eye(len(parts), dtype=np.float32), (channels, 1)).reshape(-1, 1, *kernel))
    return [_unwound(tape, node, together, weight, kernel, channels)]


def _window(tape: Tape, node: NodeProto, kernel: Sequence[int]) -> tuple[Window, list[tuple[int, int]]]:
    """Give how a node's window moves, and the padding before and after each axis."""
    window = Window.of(node, kernel)
    return window, window.padding(tape.shapes[node.input[0]][2:])


def _unwound(tape: Tape, node: NodeProto, gradient: str, weight: str, kernel: Sequence[int], groups: int) -> str:
    """Give the transposed convolution that puts a gradient back to where a node's window was."""
    window, pads = _window(tape, node, kernel)
    sides, places = tape.shapes[node.input[0]][2:], tape.shapes[node.output[0]][2:]
    left = [
        side + sum(pad) - (place - 1) * stride - (size - 1) * dilation - 1
        for side, place, pad, stride, size, dilation in zip(
            sides, places, pads, window.strides, kernel, window.dilations, strict=True
        )
    ]
    if any(more >= stride for more, stride in zip(left, window.strides, strict=True)):
        raise NoRuleError(node)
    return tape.add(
        "ConvTranspose",
        gradient,
        weight,
        strides=window.strides,
        dilations=window.dilations,
        pads=[pad[0] for pad in pads] + [pad[1] for pad in pads],
        output_padding=left,
        group=groups,
        kernel_shape=list(kernel),
    )


def _conv(tape: Tape, node: NodeProto) -> Slopes:
    weight = tape.shapes[node.input[1]]
    groups = int(_number(node, "group", 1))
    found: Slopes = [None, None, None]
    if node.input[0] in tape.active:
        found[0] = _unwound(tape, node, tape.of(node), node.input[1], weight[2:], groups)
    if node.input[1] in tape.active:
        found[1] = _by_kernel(tape, node, groups)
    if len(node.input) > 2 and node.input[2] in tape.active:
        found[2] = tape.summed(tape.of(node), [0, *range(2, len(weight))])
    return found


def _by_kernel(tape: Tape, node: NodeProto, groups: int) -> str | None:
    shape, weight, made = (tape.shapes[name] for name in (*node.input[:2], node.output[0]))
    rank = len(weight) - 2
    window, pads = _window(tape, node, weight[2:])
    sides = [pad[0] for pad in pads] + [pad[1] for pad in pads]
    moves = {"strides": window.dilations, "dilations": window.strides, "pads": sides}
    if groups == 1:
        swap = [1, 0, *range(2, rank + 2)]
        read, given = (tape.add("Transpose", name, perm=swap) for name in (node.input[0], tape.of(node)))
        found = tape.add("Transpose", tape.add("Conv", read, given, **moves), perm=swap)
    elif groups == shape[1] == made[1]:
        each = shape[0] * shape[1]
        read, given = tape.reshaped(node.input[0], (1, each, *shape[2:])), tape.of(node)
        found = tape.add("Conv", read, tape.reshaped(given, (each, 1, *made[2:])), group=each, **moves)
    else:
        return None
    # Rows and columns that no window reached lie behind the kernel's own.
    stops, axes = tape.constant(np.array(weight[2:], np.int64)), tape.constant(np.arange(2, rank + 2))
    found = tape.add("Slice", found, tape.constant(np.zeros(rank, np.int64)), stops, axes)
    if groups > 1:
        found = tape.summed(tape.reshaped(found, (shape[0], *weight)), [0])
    return found


def _conv_transpose(tape: Tape, node: NodeProto) -> Slopes:
    names = ("strides", "dilations", "pads", "group", "auto_pad")
    attributes = {name: value for name in names if (value := graph.attribute(node, name)) is not None}
    if graph.attribute(node, "output_shape") or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise NoRuleError(node)
    return [tape.add("Conv", tape.of(node), node.input[1], **attributes)]


def _product(tape: Tape, node: NodeProto) -> Slopes:
    """Gemm, and MatMul of any two values."""
    shapes = [tape.shapes[name] for name in (*node.input[:2], node.output[0])]
    flat = len(shapes[1]) == 2
    if graph.attribute(node, "transA", 0) or len(shapes[0]) < 2 or not (flat or shapes[0][:-2] == shapes[1][:-2]):
        raise NoRuleError(node)
    found: Slopes = [None, None, None]
    if len(node.input) > 2 and node.input[2] in tape.active:
        found[2] = tape.like(tape.times(tape.of(node), _number(node, "beta", 1.0)), shapes[2], node.input[2])
    gradient = tape.times(tape.of(node), _number(node, "alpha", 1.0))
    turned = bool(graph.attribute(node, "transB", 0))
    left, right = node.input[:2]
    if left in tape.active:
        found[0] = tape.add("MatMul", gradient, right if turned else _turned(tape, right, len(shapes[1])))
    if right in tape.active:
        if flat:
            left, gradient = tape.reshaped(left, (-1, shapes[0][-1])), tape.reshaped(gradient, (-1, shapes[2][-1]))
        pair = (gradient, left) if turned else (left, gradient)
        found[1] = tape.add("MatMul", _turned(tape, pair[0], len(shapes[1])), pair[1])
    return found


def _turned(tape: Tape, value: str, rank: int) -> str:
    return tape.add("Transpose", value, perm=[*range(rank - 2), rank - 1, rank - 2])


def _layer_norm(tape: Tape, node: NodeProto) -> Slopes:
    rank = len(tape.shapes[node.input[0]])
    if _number(node, "axis", -1) % rank != rank - 1:
        raise NoRuleError(node)
    count = tape.shapes[node.input[0]][-1]

    def mean(value: str) -> str:
        return tape.times(tape.summed(value, [rank - 1], keep=True), 1 / count)

    centred = tape.add("Sub", node.input[0], mean(node.input[0]))
    variance = mean(tape.add("Mul", centred, centred))
    epsilon = tape.constant(_number(node, "epsilon", 1e-5))
    deviation = tape.add("Sqrt", tape.add("Add", variance, epsilon))
    unit = tape.add("Div", centred, deviation)
    given = tape.add("Mul", tape.of(node), node.input[1])
    along = tape.add("Mul", unit, mean(tape.add("Mul", given, unit)))
    return [tape.add("Div", tape.add("Sub", tape.add("Sub", given, mean(given)), along), deviation)]


def _norm(tape: Tape, node: NodeProto) -> Slopes:
    """BatchNormalization with its constants, as in inference."""
    scale, _, _, variance = (tape.known(node, place) for place in range(1, 5))
    assert scale is not None and variance is not None
    factor = scale / np.sqrt(variance + _number(node, "epsilon", 1e-5))
    shape = (-1, *[1] * (len(tape.shapes[node.input[0]]) - 2))
    return [tape.add("Mul", tape.of(node), tape.constant(factor.astype(np.float32).reshape(shape)))]


def _pad(tape: Tape, node: NodeProto) -> Slopes:
    pads = tape.known(node, 1)
    if graph.attribute(node, "mode", b"constant") != b"constant" or len(node.input) > 3 or pads is None:
        raise NoRuleError(node)
    return [tape.add("Pad", tape.of(node), tape.constant(-pads))]


def _slice(tape: Tape, node: NodeProto) -> Slopes:
    """Put what was cut out back in its place, axis by axis, zeros around and between."""
    whole = tape.shapes[node.input[0]]
    given = [tape.known(node, place) for place in range(1, 5)]
    if given[0] is None or given[1] is None:
        raise NoRuleError(node)
    axes = range(len(given[0])) if given[2] is None else given[2].tolist()
    steps = [1] * len(given[0]) if given[3] is None else given[3].tolist()
    gradient = tape.of(node)
    for start, stop, axis, step in zip(given[0].tolist(), given[1].tolist(), axes, steps, strict=True):
        axis %= len(whole)
        places = np.arange(whole[axis])[slice(start, stop, step)]
        back = np.zeros((len(places), whole[axis]), np.float32)
        back[np.arange(len(places)), places] = 1
        order = [other for other in range(len(whole)) if other != axis] + [axis]
        last = tape.add("MatMul", tape.add("Transpose", gradient, perm=order), tape.constant(back))
        gradient = tape.add("Transpose", last, perm=np.argsort(order).tolist())
    return [gradient]


def _concat(tape: Tape, node: NodeProto) -> Slopes:
    axis = int(_number(node, "axis", 0))
    begin = 0
    found: Slopes = []
    for name in node.input:
        end = begin + tape.shapes[name][axis]
        bounds = [tape.constant(np.array([at], np.int64)) for at in (begin, end, axis)]
        found.append(tape.add("Slice", tape.of(node), *bounds) if name in tape.active else None)
        begin = end
    return found


def _split(tape: Tape, node: NodeProto) -> Slopes:
    parts = [tape.gradients.get(name) or tape.constant(np.zeros(tape.shapes[name], np.float32)) for name in node.output]
    return [tape.add("Concat", *parts, axis=int(_number(node, "axis", 0)))]


def _resize(tape: Tape, node: NodeProto) -> Slopes:
    """Nearest neighbours, enlarged by whole numbers: each value was copied that many times."""
    whole, made = tape.shapes[node.input[0]], tape.shapes[node.output[0]]
    times = [big // small for big, small in zip(made, whole, strict=True)]
    plain = graph.attribute(node, "mode", b"nearest") == b"nearest" and len(whole) == 4 and times[:2] == [1, 1]
    if not plain or any(small * many != big for small, many, big in zip(whole, times, made, strict=True)):
        raise NoRuleError(node)
    mean = tape.add("AveragePool", tape.of(node), kernel_shape=times[2:], strides=times[2:])
    return [tape.times(mean, times[2] * times[3])]


RULES: dict[str, Rule] = {
    "Add": _add,
    "AveragePool": _average,
    "BatchNormalization": _norm,
    "Clip": _where_same,
    "Concat": _concat,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Div": _div,
    "Erf": _erf,
    "Flatten": _back,
    "Gemm": _product,
    "GlobalAveragePool": _mean,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Identity": _passed,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _leaky_relu,
    "MatMul": _product,
    "MaxPool": _largest,
    "Mul": _mul,
    "Pad": _pad,
    "ReduceMean": _mean,
    "Relu": _relu,
    "Reshape": _back,
    "Resize": _resize,
    "Sigmoid": _sigmoid,
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Squeeze": _back,
    "Sub": _add,
    "Tanh": _tanh,
    "Transpose": _transpose,
    "Unsqueeze": _back,
}
