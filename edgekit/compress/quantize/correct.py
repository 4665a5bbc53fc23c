"""Bias correction: the mean error that rounding adds to each output channel is taken off the bias.

Weights that add up large values to a small one (the bias cancels the rest) round to a large constant error. With the
mean of every input channel it is known: E[W' x'] - E[W x], W' and x' rounded (Nagel et al., arXiv 1906.04721, 4.2).
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.lazy import np, onnx
from edgekit.session import open_session, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from onnx import ModelProto, NodeProto

    Feed = Mapping[str, np.ndarray]
    Round = Callable[[str, np.ndarray], np.ndarray]

# Means settle long before ranges do.
ENOUGH_SAMPLES = 32


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
