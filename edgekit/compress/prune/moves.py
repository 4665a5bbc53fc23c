"""What each operator that only moves entries does to the labels of its inputs (see `trace`)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from edgekit import graph
from edgekit.compress.prune.labels import along, first_along, long_axes, shortest
from edgekit.lazy import np

if TYPE_CHECKING:
    from onnx import NodeProto

    from edgekit.compress.prune.sides import Dims
    from edgekit.compress.prune.trace import Rule, State, Tracer

_LARGEST = 1 << 22  # entries of a factor that are followed


def _transpose(tracer: Tracer, node: NodeProto) -> State | None:
    rank = tracer.rank(node.input[0])
    if rank is None:
        return None
    order = list(graph.attribute(node, "perm", range(rank)[::-1]))  # type: ignore[call-overload]
    return [factor.transpose(order) for factor in tracer.state(node.input[0])]


def _reshape(tracer: Tracer, node: NodeProto) -> State | None:
    before, after = (tracer.dims.get(name) for name in (node.input[0], node.output[0]))
    if before is None or after is None:
        return None
    return reshaped(tracer, tracer.state(node.input[0]), before, after)


def reshaped(tracer: Tracer, state: State, before: Dims, after: Dims) -> State:
    """Give the factors after a change of shape; those across sides that are open are frozen."""
    blocks = _blocks(before, after)
    made, used = [], [0] * len(blocks)
    for factor in state:
        fits, spread, shape = True, list[Any](factor.shape), list[Any]([1] * len(after))
        for place, (mine, theirs) in enumerate(blocks):
            if all(factor.shape[axis] == 1 for axis in mine):
                continue
            used[place] += 1
            sides = [*(before[axis] for axis in mine), *(after[axis] for axis in theirs)]
            fits = fits and used[place] == 1 and all(isinstance(side, int) for side in sides)
            for axis in mine:
                spread[axis] = before[axis]
            for axis in theirs:
                shape[axis] = after[axis]
        if not fits or math.prod(spread) > _LARGEST:
            tracer.freeze([factor], f"{tracer.node.op_type} of open or mixed sides")
        else:
            made.append(shortest(np.broadcast_to(factor, spread).reshape(shape)))
    # Of two factors that meet in one block neither can go.
    for place, (_, theirs) in enumerate(blocks):
        if used[place] > 1:
            tracer.freeze([f for f in made if set(long_axes(f)) & set(theirs)], f"{tracer.node.op_type} mixes axes")
    return _several(tracer, made)


def _blocks(before: Dims, after: Dims) -> list[tuple[list[int], list[int]]]:
    """Give the smallest runs of axes that hold the same entries before and after."""
    found, first, last = [], [0, 0], [len(before), len(after)]
    while run := _run(before[first[0] : last[0]], after[first[1] : last[1]]):
        found.append(([first[0] + k for k in range(run[0])], [first[1] + k for k in range(run[1])]))
        first = [first[0] + run[0], first[1] + run[1]]
    ends = []
    while run := _run(before[first[0] : last[0]][::-1], after[first[1] : last[1]][::-1]):
        last = [last[0] - run[0], last[1] - run[1]]
        ends.append(([last[0] + k for k in range(run[0])], [last[1] + k for k in range(run[1])]))
    middle = (list(range(first[0], last[0])), list(range(first[1], last[1])))
    return [*found, *([middle] if any(middle) else []), *ends[::-1]]


def _run(before: Dims, after: Dims) -> tuple[int, int] | None:
    """Give how many first axes on each side hold the same entries; None when open sides leave that unknown."""
    if before and after and before[0] == after[0] and before[0] is not None:
        return 1, 1
    if before and before[0] == 1:
        return 1, 0
    if after and after[0] == 1:
        return 0, 1
    if not before or not after or not isinstance(before[0], int) or not isinstance(after[0], int):
        return None
    sizes, counts = [before[0], after[0]], [1, 1]
    sides = (before, after)
    while sizes[0] != sizes[1]:
        short = 0 if sizes[0] < sizes[1] else 1
        if counts[short] >= len(sides[short]):
            return None
        side = sides[short][counts[short]]
        if not isinstance(side, int) or side == 0:
            return None
        sizes[short] *= side
        counts[short] += 1
    return counts[0], counts[1]


def _concat(tracer: Tracer, node: NodeProto) -> State | None:
    rank = tracer.rank(node.output[0])
    names = list(node.input)
    if rank is None or any(name not in tracer.dims for name in names):
        return None
    axis = int(graph.attribute(node, "axis", 1)) % rank  # type: ignore[call-overload]
    moving = [name for name in names if not tracer.is_constant(name)] or names
    along_it = [f for name in moving for f in tracer.state(name) if f.shape[axis] > 1]
    reason = "joined with what has no channels"
    if not along_it and not any(f.shape[axis] > 1 for name in names for f in tracer.state(name)):
        return _side_by_side(tracer, names, axis, rank)
    sizes = [tracer.size(name, axis) for name in names]
    axes = set().union(*(long_axes(f) for f in along_it)) if along_it else set()
    plain = all(set(long_axes(f)) == axes for f in along_it) and None not in sizes
    if not along_it or not plain:
        for name in names:
            tracer.freeze([f for f in tracer.state(name) if f.shape[axis] > 1], reason)
        return _side_by_side(tracer, names, axis, rank)
    shape = list(np.broadcast_shapes(*(first_along(f, [axis]).shape for f in along_it)))
    pieces = []
    for name, size in zip(names, sizes, strict=True):
        own = next((f for f in tracer.state(name) if set(long_axes(f)) & axes), None)
        if own is not None and long_axes(own) != sorted(axes) and size != 1:
            tracer.freeze([own], reason)
            own = None
        whole = [*shape[:axis], size, *shape[axis + 1 :]]
        pieces.append(np.zeros(whole, np.int64) if own is None else np.broadcast_to(own, whole))
    return [np.concatenate(pieces, axis), *_side_by_side(tracer, names, axis, rank, axes)]


def _side_by_side(tracer: Tracer, names: list[str], axis: int, rank: int, done: set[int] | None = None) -> State:
    """Unite the factors of the axes other than that along which values are joined."""
    operands = []
    for name in names:
        state = [f for f in tracer.state(name) if f.shape[axis] == 1 and not set(long_axes(f)) & (done or set())]
        sides = [1 if k == axis else side for k, side in enumerate(tracer.dims[name])]
        operands.append((name, state, tuple(sides)))
    return tracer.merge(operands, rank)


def _split(tracer: Tracer, node: NodeProto) -> list[State] | None:
    value, rank = node.input[0], tracer.rank(node.input[0])
    if rank is None:
        return None
    axis = int(graph.attribute(node, "axis", 0)) % rank  # type: ignore[call-overload]
    state = tracer.state(value)
    mine = [factor for factor in state if factor.shape[axis] > 1]
    others = [factor for factor in state if factor.shape[axis] == 1]
    if not mine:
        return [others for _ in node.output]
    sizes = [tracer.size(name, axis) for name in node.output]
    if None in sizes or sum(sizes) != tracer.size(value, axis):  # type: ignore[arg-type]
        return None
    ends = np.cumsum(np.array(sizes, np.int64))[:-1]
    parts = zip(*(np.split(factor, ends, axis) for factor in mine), strict=True)
    return [[*others, *_several(tracer, list(part))] for part in parts]


def _several(tracer: Tracer, state: State) -> State:
    """Give the factors of more than one entry; a single channel that is taken out stays."""
    tracer.freeze([factor for factor in state if factor.size == 1], "a single channel is taken out")
    return [factor for factor in state if factor.size > 1]


def _slice(tracer: Tracer, node: NodeProto) -> State | None:
    value, rank = node.input[0], tracer.rank(node.input[0])
    starts, ends, axes, steps = slices(tracer, node)
    if rank is None or axes is None:
        return None
    state = list(tracer.state(value))
    for place, axis in enumerate(axes):
        axis %= rank
        if all(factor.shape[axis] == 1 for factor in state):
            continue
        if starts is None or ends is None or steps is None:
            state = tracer.over(state, [axis], "a Slice of open bounds")
            continue
        chosen = chosen_by(starts[place], ends[place], steps[place], int(tracer.size(value, axis) or 0))
        if not chosen.size:
            return None
        state = [factor.take(chosen, axis) if factor.shape[axis] > 1 else factor for factor in state]
    return _several(tracer, state)


def chosen_by(start: int, end: int, step: int, size: int) -> np.ndarray:
    """Give the indices that a Slice takes, int64."""
    if end < -size and step < 0:
        return np.arange(size)[start::step]
    return np.arange(size)[start:end:step]


def slices(
    tracer: Tracer, node: NodeProto
) -> tuple[list[int] | None, list[int] | None, list[int] | None, list[int] | None]:
    """Give starts, ends, axes and steps of a Slice; None for what is computed."""
    starts, ends = tracer.setting("starts", 1), tracer.setting("ends", 2)
    axes = tracer.setting("axes", 3)
    count = len(starts or ends or [])
    if axes is None and (len(node.input) < 4 or not node.input[3]):
        axes = list(range(count)) if count else None
    steps = tracer.setting("steps", 4)
    if steps is None and (len(node.input) < 5 or not node.input[4]):
        steps = [1] * len(axes or [])
    return starts, ends, axes, steps


def _gather(tracer: Tracer, node: NodeProto) -> State | None:
    value, rank = node.input[0], tracer.rank(node.input[0])
    picked = tracer.rank(node.input[1])
    if rank is None or picked is None:
        return None
    axis = int(graph.attribute(node, "axis", 0)) % rank  # type: ignore[call-overload]
    indices = tracer.constant(1)
    state = tracer.state(value)
    made = []
    tracer.freeze(tracer.state(node.input[1]), "an index")
    if tracer.is_constant(value):
        # A table of vectors, looked up: its rows stay.
        state = tracer.over(state, [axis], "looked up by number")
    elif indices is None:
        state = tracer.over(state, [axis], "Gather of open indices")
    for factor in state:
        if factor.shape[axis] > 1 and indices is not None:
            made.append(factor.take(indices, axis))
        else:
            made.append(factor.reshape(*factor.shape[:axis], *[1] * picked, *factor.shape[axis + 1 :]))
    if tracer.is_constant(value) and indices is None:
        tracer.makers.extend((node.name, factor.reshape(-1)) for factor in made)
    return _several(tracer, made)


def _pad(tracer: Tracer, node: NodeProto) -> State | None:
    value, rank = node.input[0], tracer.rank(node.input[0])
    pads = tracer.setting("pads", 1)
    if rank is None or pads is None or any(node.input[3:]) or (len(node.input) > 2 and tracer.rank(node.input[2])):
        return None
    constant = graph.attribute(node, "mode", b"constant") == b"constant"
    state = []
    for factor in tracer.state(value):
        padded = [axis for axis in long_axes(factor) if pads[axis] or pads[rank + axis]]
        if not padded:
            state.append(factor)
        elif not constant or len(long_axes(factor)) > 1 or min(pads[padded[0]], pads[rank + padded[0]]) < 0:
            state += tracer.over([factor], padded, "a Pad of its channels")
        else:
            # What is put beside the channels may go with those that it is added to.
            axis = padded[0]
            ends = [tracer.labels.fresh(pads[end]) for end in (axis, rank + axis)]
            line = np.concatenate([ends[0], factor.reshape(-1), ends[1]])
            state.append(line.reshape([-1 if k == axis else 1 for k in range(rank)]))
    return state


def _resize(tracer: Tracer, node: NodeProto) -> State | None:
    value, made, rank = node.input[0], node.output[0], tracer.rank(node.input[0])
    plain = graph.attribute(node, "coordinate_transformation_mode", b"") != b"tf_crop_and_resize"
    if rank is None or not plain:
        return None
    changed = [k for k in range(rank) if tracer.size(value, k) is None or tracer.size(value, k) != tracer.size(made, k)]
    return tracer.over(tracer.state(value), changed, "resized over its channels")


def _shape(tracer: Tracer, node: NodeProto) -> State:
    """Let the channels go: arithmetic on shapes is given the sides as they were, and what it leads to is mended."""
    return []


def _expand(tracer: Tracer, node: NodeProto) -> State | None:
    made = tracer.dims.get(node.output[0])
    if made is None or tracer.rank(node.input[0]) is None or tracer.size(node.input[1], 0) is None:
        return None
    return [along(factor, len(made)) for factor in tracer.state(node.input[0])]


def _tile(tracer: Tracer, node: NodeProto) -> State | None:
    repeats = tracer.constant(1)
    if repeats is None:
        return None
    counts = [int(count) for count in repeats]
    return [
        np.tile(factor, [n if size > 1 else 1 for n, size in zip(counts, factor.shape, strict=True)])
        for factor in tracer.state(node.input[0])
    ]


def _space_to_depth(tracer: Tracer, node: NodeProto) -> State | None:
    block = int(graph.attribute(node, "blocksize", 1))  # type: ignore[call-overload]
    labels, rest = tracer.split(tracer.state(node.input[0]), 1, "space to depth over several axes")
    rest = tracer.over(rest, [2, 3], "space to depth over its channels")
    return rest if labels is None else [*rest, np.tile(labels, block * block).reshape(1, -1, 1, 1)]


def _depth_to_space(tracer: Tracer, node: NodeProto) -> State | None:
    square = int(graph.attribute(node, "blocksize", 1)) ** 2  # type: ignore[call-overload]
    labels, rest = tracer.split(tracer.state(node.input[0]), 1, "depth to space over several axes")
    rest = tracer.over(rest, [2, 3], "depth to space over its channels")
    if labels is None or labels.size == square:
        tracer.freeze([] if labels is None else [labels], "depth to space of one channel")
        return rest
    if graph.attribute(node, "mode", b"DCR") == b"DCR":
        grid = labels.reshape(square, -1)
    else:
        grid = labels.reshape(-1, square).T
    tracer.labels.unite(grid, np.broadcast_to(grid[:1], grid.shape), "depth to space")
    return [*rest, grid[0].reshape(1, -1, 1, 1)]


MOVING: dict[str, Rule] = {
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    "Shape": _shape,
    "Transpose": _transpose,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Pad": _pad,
    "Expand": _expand,
    "Tile": _tile,
    "SpaceToDepth": _space_to_depth,
    "DepthToSpace": _depth_to_space,
}
