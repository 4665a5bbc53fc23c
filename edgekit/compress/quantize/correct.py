"""Bias correction: the mean error that rounding adds to each output channel is taken off the bias.

Weights that add up large values to a small one (the bias cancels the rest) round to a large constant error. With the
mean of every input channel it is known: E[W' x'] - E[W x], W' and x' rounded (Nagel et al., arXiv 1906.04721, 4.2).
That is `errors`, one run of the float model. `sequential` reads the means in the 8-bit model itself, layer after layer,
so that it also takes off what the layers before leave over, clipped ranges and borders.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.lazy import np, onnx
from edgekit.session import open_session, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from onnx import ModelProto, NodeProto

    Feed = Mapping[str, np.ndarray]
    Round = Callable[[str, np.ndarray], np.ndarray]

# Means settle long before ranges do.
ENOUGH_SAMPLES = 32
# Of the samples that `sequential` holds, because it runs them again and again.
MOST_BYTES = 1 << 27
# Times that `sequential` builds the 8-bit model and runs a part of it.
WAVES = 16


def errors(
    model: ModelProto, nodes: list[NodeProto], feeds: Iterable[Feed], weights: Round, values: Round | None = None
) -> dict[str, np.ndarray]:
    """Give the mean error of each output channel, by the name of the Conv or Gemm node.

    `weights(name, array)` and `values(name, array)` round a weight and an activation the way the new model will.
    """
    layers = [node for node in nodes if _has_channels(model, node)]
    if not layers:
        return {}
    plain, changed = _means(model, layers, islice(feeds, ENOUGH_SAMPLES), values or (lambda _, array: array))
    tensors = graph.initializers(model)
    found = {}
    for node in layers:
        before, after = plain.get(node.input[0]), changed.get(node.input[0])
        if before is None or after is None:
            continue
        weight = graph.array(tensors[node.input[1]])
        if not np.isfinite(weight).all():
            continue
        rounded = weights(node.input[1], weight)
        error = _mean_output(node, rounded, after) - _mean_output(node, weight, before)
        if np.isfinite(error).all():
            found[node.name] = error.astype(weight.dtype)
    return found


def sequential(
    plain: ModelProto,
    quantized: Callable[[Mapping[str, np.ndarray]], ModelProto],
    layers: Sequence[NodeProto],
    feeds: Callable[[], Iterable[Feed]],
    start: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Give the mean error of each output channel behind a corrected 8-bit graph, by the name of the Conv or Gemm node.

    `quantized(errors)` gives the 8-bit model with these errors taken off its biases, the nodes under their names.
    `start` are the figures to begin with (those of `errors`). Layers are corrected in the order of their depth; of a
    net deeper than WAVES layers only those at WAVES depths evenly spread, which take off what has gathered since the
    last; the others keep their figures, as does a layer that cannot be read. For each depth the 8-bit model is built
    once and run up to there on at most ENOUGH_SAMPLES samples: besides WAVES times building it, as long as running each
    sample WAVES / 2 times. A sample in which a layer's float output is not finite is left out for that layer.
    """
    found = dict(start or {})
    layers = [node for node in layers if _has_channels(plain, node)]
    few = _few(feeds())
    if not layers or not few:
        return found
    waves = _waves(plain, layers)
    goals = _output_means(plain, [node for wave in waves for node in wave], few)
    for wave in waves:
        seen = _output_means(quantized(found), wave, few)
        for node in wave:
            error = _mean_gap(goals.get(node.name), seen.get(node.name))
            if error is not None:
                old = found.get(node.name, 0.0)
                found[node.name] = (old + error).astype(np.float32)
    return found


def _few(feeds: Iterable[Feed]) -> list[Feed]:
    few: list[Feed] = []
    held = 0
    for feed in islice(feeds, ENOUGH_SAMPLES):
        held += sum(np.asarray(array).nbytes for array in feed.values())
        if few and held > MOST_BYTES:
            break
        few.append(feed)
    return few


def _waves(model: ModelProto, layers: Sequence[NodeProto]) -> list[list[NodeProto]]:
    """Group layers by how many of them lie before them on the longest way from an input, and choose among the groups.

    A wave never holds two layers one behind the other: both would take off the same error, which in a deep net grows
    from wave to wave.
    """
    depths = graph.depths(model, {node.name for node in layers})
    deepest = max(depths.values())
    count = min(deepest + 1, WAVES)
    chosen = [deepest * number // max(count - 1, 1) for number in range(count)]
    return [[node for node in layers if depths[node.name] == depth] for depth in chosen]


def _output_means(model: ModelProto, layers: Sequence[NodeProto], feeds: Sequence[Feed]) -> dict[str, np.ndarray]:
    """Give what the layers of these names make (before any activation), its mean a sample and channel: (F, O)."""
    wanted = {node.name: node.op_type for node in layers}
    made = {node.name: node.output[0] for node in model.graph.node if wanted.get(node.name) == node.op_type}
    names = list(dict.fromkeys(made.values()))
    if not names:
        return {}
    session = open_session(graph.part_making(model, names))
    rows: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for feed in feeds:
        for name, array in zip(names, run(session, feed, names), strict=True):
            rows[name].append(_channel_mean(array))
    return {node: np.stack(rows[name]) for node, name in made.items()}


def _mean_gap(goal: np.ndarray | None, seen: np.ndarray | None) -> np.ndarray | None:
    """Give how far the means (F, O) of one layer are from the goal's on average, from the samples that are finite."""
    if goal is None or seen is None or seen.shape[1] % goal.shape[1]:
        return None
    finite = np.isfinite(goal).all(1) & np.isfinite(seen).all(1)
    if not finite.any():
        return None
    # A rearranged stem makes the channels of several pixels, pixel by pixel.
    gaps = seen[finite].reshape(int(finite.sum()), -1, goal.shape[1]).mean(1) - goal[finite]
    mean: np.ndarray = gaps.mean(0)
    return mean


def take_off(model: ModelProto, found: Mapping[str, np.ndarray]) -> None:
    """Take the errors off the biases of the nodes they are known for, in place."""
    for node in model.graph.node:
        if node.name in found:
            _take_off(model, node, found[node.name])


def _has_channels(model: ModelProto, node: NodeProto) -> bool:
    if node.op_type not in ("Conv", "Gemm") or (node.op_type == "Gemm" and graph.attribute(node, "transA", 0)):
        return False
    tensors = graph.initializers(model)
    return node.input[1] in tensors and all(not name or name in tensors for name in node.input[2:3])


def _means(
    model: ModelProto, layers: list[NodeProto], feeds: Iterable[Feed], values: Round
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Give the mean of each channel of what the layers read, as it is and rounded."""
    names = list(dict.fromkeys(node.input[0] for node in layers))
    fed = {entry.name for entry in graph.inputs(model)}
    computed = [name for name in names if name not in fed]
    session = open_session(graph.with_outputs(model, computed))
    sums: dict[str, list[np.ndarray]] = {}
    count = 0
    for feed in feeds:
        read = dict(zip(computed, run(session, feed, computed), strict=True)) if computed else {}
        for name in names:
            array = read[name] if name in read else np.asarray(feed[name])
            pair = [_channel_mean(array), _channel_mean(values(name, array))]
            sums[name] = [old + new for old, new in zip(sums[name], pair, strict=True)] if name in sums else pair
        count += 1
    means = [{name: pair[place] / max(count, 1) for name, pair in sums.items()} for place in (0, 1)]
    return means[0], means[1]


def _channel_mean(array: np.ndarray) -> np.ndarray:
    others = tuple(axis for axis in range(array.ndim) if axis != 1)
    with np.errstate(invalid="ignore"):
        means: np.ndarray = array.mean(axis=others, dtype=np.float64)
    return means


def _mean_output(node: NodeProto, weight: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Give the mean of each output channel without its bias, as if no pixel were at a border."""
    if node.op_type == "Gemm":
        columns = weight if graph.attribute(node, "transB", 0) else weight.T
        product: np.ndarray = columns.astype(np.float64) @ means * float(graph.attribute(node, "alpha", 1.0))  # type: ignore[arg-type]
        return product
    taps = weight.astype(np.float64).sum(axis=tuple(range(2, weight.ndim)))
    groups = int(graph.attribute(node, "group", 1))  # type: ignore[call-overload]
    split = taps.reshape(groups, -1, taps.shape[1])
    summed: np.ndarray = np.einsum("goc,gc->go", split, means.reshape(groups, -1)).reshape(-1)
    return summed


def _take_off(model: ModelProto, node: NodeProto, error: np.ndarray) -> None:
    tensors = graph.initializers(model)
    name = node.input[2] if len(node.input) > 2 else ""
    bias = graph.array(tensors[name]) if name else np.zeros_like(error)
    beta = float(graph.attribute(node, "beta", 1.0)) if node.op_type == "Gemm" and name else 1.0  # type: ignore[arg-type]
    if beta == 0 or bias.size != error.size:
        return
    moved = (bias - error.reshape(bias.shape) / beta).astype(bias.dtype)
    # A name of its own: the old bias may have other readers.
    fresh = graph.fresh_name(f"{node.input[1]}_bias", graph.tensor_names(model))
    model.graph.initializer.append(onnx.numpy_helper.from_array(moved, fresh))
    kept = list(node.input[:2])
    del node.input[:]
    node.input.extend([*kept, fresh])
