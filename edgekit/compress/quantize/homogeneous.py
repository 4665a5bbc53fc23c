"""Which operators let the scale of a channel through: f(x / s) = f(x) / s for every s above 0, channel by channel.

One function an operator: it gives the channels of what the node makes, or None when they are not known to scale.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress.quantize.channels import Channels, Layer, Tracer, View, is_columns
from edgekit.lazy import np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto, NodeProto

    from edgekit.compress.quantize.channels import Handler

# A channel counts as never clipped when this times the largest value seen in it is still inside the bounds.
MARGIN = 1.5
_ELEMENTWISE = ("Relu", "LeakyRelu", "PRelu", "Identity", "Dropout", "Abs", "Neg")
_POOLS = ("MaxPool", "AveragePool", "LpPool")
_REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin")


def trace(model: ModelProto, allowed: set[str], maxima: Mapping[str, np.ndarray] | None = None) -> Channels:
    """Find the channels that can be scaled by changing constants of the nodes in `allowed` alone.

    `maxima`, by the name of what a Clip reads or makes: the largest absolute value of each channel there (of what it
    reads, the largest value will do where its lower bound is 0). Channels that come near a bound are fixed, as are all
    channels of a Clip without maxima.
    """
    tracer = Tracer(model, allowed, maxima or {}, _HANDLERS)
    for node in model.graph.node:
        tracer.visit(node)
    return tracer.closed()


def _layer(tracer: Tracer, node: NodeProto) -> View | None:
    weight = tracer.constant(node, 1)
    name = node.input[1]
    private = len(tracer.readers.get(name, ())) == 1 and list(node.input).count(name) == 1 and name not in tracer.shown
    if weight is None or not private or node.name not in tracer.allowed:
        return None
    if weight.dtype != np.float32 or weight.ndim < 2 or not np.isfinite(weight).all():
        return None
    if node.op_type == "Conv":
        groups = int(graph.attribute(node, "group", 1))  # type: ignore[call-overload]
        split = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        axis = 1 - weight.ndim
    else:
        if weight.ndim != 2 or (node.op_type == "Gemm" and graph.attribute(node, "transA", 0)):
            return None
        split = (weight.T if is_columns(node) else weight)[None, :, :, None]
        axis = -1
    made, read = split.shape[0] * split.shape[1], split.shape[0] * split.shape[2]
    if not tracer.may_scale(node, 2, made):
        return None
    numbers = tracer.fresh(made)
    tracer.found.layers.append(Layer(node, split, _read(tracer, node.input[0], axis, read), numbers))
    tracer.divide(node, 2, -1, numbers)
    return View(axis, numbers)


def _read(tracer: Tracer, name: str, axis: int, count: int) -> np.ndarray:
    """Give the numbers of the channels a layer reads; 0 where it reads what cannot be scaled."""
    view = tracer.views.get(name)
    if view is not None and view.axis == axis:
        if len(view.numbers) == count:
            return view.numbers
        if view.spread and count % len(view.numbers) == 0:
            return view.numbers.repeat(count // len(view.numbers))
    tracer.fix(name)
    return np.zeros(count, np.int64)


def _normalisation(tracer: Tracer, node: NodeProto) -> View | None:
    size = len(scale) if (scale := tracer.constant(node, 1)) is not None and scale.ndim == 1 else 0
    axis = tracer.from_end([int(graph.attribute(node, "axis", -1))], node.input[0])  # type: ignore[call-overload]
    if not size or axis != [-1] or node.name not in tracer.allowed:
        return None
    if not all(tracer.may_scale(node, place, size) for place in (1, 2)):
        return None
    tracer.fix(node.input[0])
    numbers = tracer.fresh(size)
    for place in (1, 2):
        tracer.divide(node, place, -1, numbers)
    tracer.found.weightless.append(numbers)
    return View(-1, numbers)


def _elementwise(tracer: Tracer, node: NodeProto) -> View | None:
    return tracer.only_view(node, spread=node.op_type != "PRelu")


def _pool(tracer: Tracer, node: NodeProto) -> View | None:
    view = tracer.only_view(node)
    kernel: list[int] = graph.attribute(node, "kernel_shape", [])  # type: ignore[assignment]
    return view if view and view.axis == -1 - len(kernel) else None


def _global_pool(tracer: Tracer, node: NodeProto) -> View | None:
    view, rank = tracer.only_view(node), tracer.rank(node.input[0])
    return view if view and rank is not None and view.axis == 1 - rank else None


def _sum(tracer: Tracer, node: NodeProto) -> View | None:
    held = [place for place, name in enumerate(node.input) if name in tracer.tensors]
    views = [tracer.views.get(name) for name in node.input if name not in tracer.tensors]
    view = views[0] if views else None
    if view is None or view.spread:
        return None
    for other in views[1:]:
        if other is None or other.spread or (other.axis, other.numbers.size) != (view.axis, view.numbers.size):
            return None
    for place in held:
        shape = tracer.tensors[node.input[place]].dims
        fits = len(shape) >= -view.axis and shape[view.axis] == view.numbers.size
        if not fits or node.op_type not in ("Add", "Sub") or node.name not in tracer.allowed:
            return None
        tracer.divide(node, place, view.axis, view.numbers)
    for other in views[1:]:
        tracer.join(view.numbers, other.numbers)  # type: ignore[union-attr]
    return view


def _product(tracer: Tracer, node: NodeProto) -> View | None:
    views = [tracer.views.get(name) for name in node.input]
    if views[0] is None and views[1] is None:
        return _scaled_by_constant(tracer, node)
    place = 0 if views[0] is not None else 1
    view = views[place]
    if view is None or views[1 - place] is not None or view.spread or (node.op_type == "Div" and place == 1):
        return None
    factor = tracer.constant(node, 1 - place)
    one = factor is not None and (factor.ndim < -view.axis or factor.shape[view.axis] == 1)
    # With a single channel, the other factor could bring more of them.
    return view if one or view.numbers.size > 1 else None


def _scaled_by_constant(tracer: Tracer, node: NodeProto) -> View | None:
    places = [place for place in (0, 1) if node.input[place] in tracer.tensors]
    if node.op_type != "Mul" or len(places) != 1 or node.name not in tracer.allowed:
        return None
    factor = graph.array(tracer.tensors[node.input[places[0]]])
    long = [axis for axis in range(factor.ndim) if factor.shape[axis] > 1]
    if len(long) != 1 or factor.dtype != np.float32:
        return None
    numbers, axis = tracer.fresh(factor.size), long[0] - factor.ndim
    tracer.divide(node, places[0], axis, numbers)
    tracer.found.weightless.append(numbers)
    return View(axis, numbers)


def _clip(tracer: Tracer, node: NodeProto) -> View | None:
    view = tracer.only_view(node)
    bounds = [_bound(tracer, node, place, name) for place, name in ((1, "min"), (2, "max"))]
    if view is None or bounds[0] is None or bounds[1] is None:
        return None
    low, high = bounds[0], bounds[1]
    if low in (0, -math.inf) and high == math.inf:
        return view
    if low > 0 or high <= 0:
        return None
    # What comes out has the same maxima as what goes in, if no bound is reached.
    seen = tracer.maxima.get(node.input[0], tracer.maxima.get(node.output[0]))
    if seen is None or seen.shape != view.numbers.shape:
        tracer.fix(node.input[0])
        return view
    nearest = high if low in (0, -math.inf) else min(high, -low)
    with np.errstate(divide="ignore", invalid="ignore"):
        least = np.log2(np.maximum(seen.astype(np.float64), 0) * MARGIN / nearest)
    reaching = ~(least <= 0)
    tracer.join(view.numbers[reaching], np.zeros_like(view.numbers[reaching]))
    tracer.least.append((view.numbers, np.where(reaching, 0, least)))
    return view


def _bound(tracer: Tracer, node: NodeProto, place: int, name: str) -> float | None:
    nowhere = -math.inf if name == "min" else math.inf
    if tracer.opset < 11:
        return float(graph.attribute(node, name, nowhere))  # type: ignore[arg-type]
    if len(node.input) <= place or not node.input[place]:
        return nowhere
    value = tracer.constant(node, place)
    return None if value is None else float(value.reshape(-1)[0])


def _transpose(tracer: Tracer, node: NodeProto) -> View | None:
    view = tracer.only_view(node)
    order: list[int] = graph.attribute(node, "perm", [])  # type: ignore[assignment]
    if view is None or len(order) < -view.axis:
        return None
    return View(list(order).index(len(order) + view.axis) - len(order), view.numbers)


def _flatten(tracer: Tracer, node: NodeProto) -> View | None:
    view, shape = tracer.only_view(node), tracer.shapes.get(node.input[0])
    if view is None or shape is None or view.axis != 1 - len(shape):
        return None
    if node.op_type == "Flatten":
        kept = graph.attribute(node, "axis", 1) in (1, 1 - len(shape))
    else:
        kept = _keeps_rows(tracer.constant(node, 1), shape) and not graph.attribute(node, "allowzero", 0)
    return View(-1, view.numbers, spread=len(shape) > 2) if kept else None


def _keeps_rows(wanted: np.ndarray | None, shape: list[int | None]) -> bool:
    """Tell whether a Reshape to `wanted` keeps the first axis and makes one of all the others."""
    if wanted is None or len(wanted) != 2:
        return False
    rows, columns = (int(size) for size in wanted)
    inner = shape[1:]
    return (
        rows == 0
        or (rows == 1 and shape[0] == 1)
        or (None not in inner and columns == math.prod(size for size in inner if size is not None))
    )


def _reduce(tracer: Tracer, node: NodeProto) -> View | None:
    view, axes = tracer.only_view(node), tracer.setting(node, "axes", 1)
    squeezes = node.op_type == "Squeeze" or not graph.attribute(node, "keepdims", 1)
    axes = tracer.from_end(axes, node.input[0]) if axes else None
    if view is None or axes is None or view.axis in axes:
        return None
    return View(view.axis + squeezes * sum(axis > view.axis for axis in axes), view.numbers)


def _gather(tracer: Tracer, node: NodeProto) -> View | None:
    view = tracer.only_view(node)
    axis = tracer.from_end([int(graph.attribute(node, "axis", 0))], node.input[0])  # type: ignore[call-overload]
    return view if view and axis and axis[0] < view.axis else None


def _concat(tracer: Tracer, node: NodeProto) -> View | None:
    views = [tracer.views.get(name) for name in node.input]
    axis = tracer.from_end([int(graph.attribute(node, "axis", 1))], node.input[0])  # type: ignore[call-overload]
    known = [view for view in views if view is not None and not view.spread]
    if axis is None or len(known) < len(views) or len({view.axis for view in known}) > 1:
        return None
    if axis[0] == known[0].axis:
        return View(axis[0], np.concatenate([view.numbers for view in known]))
    for view in known[1:]:
        tracer.join(known[0].numbers, view.numbers)
    return known[0]


def _split(tracer: Tracer, node: NodeProto) -> list[View] | None:
    view = tracer.only_view(node)
    axis = tracer.from_end([int(graph.attribute(node, "axis", 0))], node.input[0])  # type: ignore[call-overload]
    if view is None or axis is None:
        return None
    if axis[0] != view.axis:
        return [view] * len(node.output)
    sizes = [tracer.shapes[name][axis[0]] if name in tracer.shapes else None for name in node.output]
    if None in sizes or sum(size for size in sizes if size) != view.numbers.size:
        return None
    ends = np.cumsum([size for size in sizes if size is not None])[:-1]
    return [View(view.axis, part) for part in np.split(view.numbers, ends)]


def _slice(tracer: Tracer, node: NodeProto) -> View | None:
    view = tracer.only_view(node)
    starts, ends = (tracer.setting(node, *where) for where in (("starts", 1), ("ends", 2)))
    if view is None or starts is None or ends is None:
        return None
    axes = tracer.from_end(tracer.setting(node, "axes", 3) or list(range(len(starts))), node.input[0])
    steps = tracer.setting(node, "steps", 4) or [1] * len(starts)
    if axes is None or any(len(node.input) > place and node.input[place] not in tracer.tensors for place in (3, 4)):
        return None
    if view.axis not in axes:
        return view
    place = axes.index(view.axis)
    if steps[place] < 0:
        return None
    return View(view.axis, view.numbers[starts[place] : ends[place] : steps[place]])


def _pad(tracer: Tracer, node: NodeProto) -> View | None:
    view, pads = tracer.only_view(node), tracer.setting(node, "pads", 1)
    mode, value = graph.attribute(node, "mode", b"constant"), tracer.constant(node, 2)
    filled = len(node.input) > 2 and bool(node.input[2]) and (value is None or bool(value.any()))
    if view is None or pads is None or any(node.input[3:]):
        return None
    if mode == b"constant" and (filled or graph.attribute(node, "value", 0.0) != 0):
        return None
    rank = len(pads) // 2
    before, after = pads[rank + view.axis], pads[2 * rank + view.axis]
    if before == after == 0:
        return view
    if mode != b"constant" or min(before, after) < 0:
        return None
    # Zeros may have any scale.
    return View(view.axis, np.concatenate([tracer.fresh(before), view.numbers, tracer.fresh(after)]))


def _resize(tracer: Tracer, node: NodeProto) -> View | None:
    view, factors = tracer.only_view(node), tracer.constant(node, 2 if tracer.opset > 10 else 1)
    if view is None or factors is None or factors.size < -view.axis or factors[view.axis] != 1:
        return None
    plain = graph.attribute(node, "coordinate_transformation_mode", b"") != b"tf_crop_and_resize"
    return view if plain and graph.attribute(node, "axes") is None else None


_HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(("Conv", "Gemm", "MatMul"), _layer),
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _global_pool),
    **dict.fromkeys(("Add", "Sub", "Sum", "Max", "Min"), _sum),
    **dict.fromkeys(("Mul", "Div"), _product),
    **dict.fromkeys((*_REDUCTIONS, "Squeeze"), _reduce),
    **dict.fromkeys(("Flatten", "Reshape"), _flatten),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    "LayerNormalization": _normalisation,
    "Clip": _clip,
    "Transpose": _transpose,
    "Gather": _gather,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Pad": _pad,
}
