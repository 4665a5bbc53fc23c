"""Cross-layer equalisation: the channels of one layer get ranges nearer to each other, the next layer makes up for it.

A tensor whose channels differ a hundredfold in size loses the small ones to its one scale. Dividing channel i by s_i
and multiplying the weights that read it by s_i changes no output. s_i = sqrt(r1_i r2_i) / r2_i, with r1_i the largest
weight that makes the channel and r2_i the largest that reads it, makes both sqrt(r1_i r2_i) (Nagel et al., arXiv
1906.04721, section 4.1). Here that holds for any number of layers that make and read a channel: through depthwise
convolutions, additions and concatenations too. Two things are not theirs: a quarter of the bias counts in r1, because a
channel that is little more than its bias would grow out of all proportion; and where a channel's largest value is
known, that is r1, because weights that have one scale a channel lose nothing by being small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress.quantize import channels, homogeneous
from edgekit.lazy import np
from edgekit.session import open_session, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from onnx import ModelProto

    from edgekit.compress.quantize.channels import Channels, Layer

    Feed = Mapping[str, np.ndarray]

_BIAS_SHARE = 0.25
_SWEEPS = 20
_SETTLED = 0.01  # of log2 s, which is rounded to a whole number in the end


def equalize(
    model: ModelProto, allowed: set[str], maxima: Mapping[str, np.ndarray] | None = None
) -> tuple[ModelProto, int]:
    """Give a model with equalised channels and the same outputs, and the number of pairs of layers that changed.

    `maxima`: the largest absolute value of each channel of the tensors that `read` names; without them the weights
    alone decide, and nothing is scaled across a Clip such as ReLU6. Only constants of the nodes in `allowed` change, by
    powers of two: results are the same to the bit, unless something underflows or reaches the bound of a Clip that it
    was not near to in the maxima.
    """
    found = homogeneous.trace(model, allowed, maxima)
    exponents = rounded(settled(found, maxima), found)
    return channels.scaled(model, found, exponents), len(_pairs(found, exponents))


def read(model: ModelProto, allowed: set[str]) -> list[str]:
    """Give the names of the tensors whose maxima `equalize` can use."""
    found = homogeneous.trace(model, allowed)
    layers = [layer.node.input[0] for layer in found.layers]
    clips = [node.output[0] for node in model.graph.node if node.op_type == "Clip"]
    return [name for name in dict.fromkeys([*layers, *clips]) if name in found.views]


def settled(
    found: Channels,
    maxima: Mapping[str, np.ndarray] | None = None,
    sweeps: int = _SWEEPS,
    tolerance: float = _SETTLED,
) -> np.ndarray:
    """Give log2 s for each number, unrounded: r1 = r2 for every one that nothing holds back."""
    sizes = [_sizes(layer) for layer in found.layers]
    seen = [_seen(layer, maxima or {}) for layer in found.layers]
    values, biases = _values(found, seen), _biases(found)
    # A depthwise convolution has a scale for each column anyway: what it reads alone counts.
    depthwise = _only_depthwise(found) & np.isfinite(values)
    logs = np.zeros(found.count)
    blocks = _blocks(found, _free(found, sizes))
    for _ in range(sweeps):
        moved = 0.0
        for numbers, makers, readers in blocks:
            made, read = biases - logs, np.full(found.count, -np.inf)
            for place in makers:
                np.maximum.at(made, found.layers[place].makes, _ranges(found.layers[place], sizes[place], logs, 2))
            for place in readers:
                np.maximum.at(read, found.layers[place].reads, _ranges(found.layers[place], sizes[place], logs, 1))
            known = values[numbers] - logs[numbers]
            size = np.where(np.isfinite(known), known, made[numbers])
            step = np.where(depthwise[numbers], size, (size - read[numbers]) / 2)
            step -= np.isfinite(known) * _held_back(found, sizes, logs, seen, readers)
            # A layer that reads what it makes would be corrected twice over.
            step *= 0.5 if set(makers) & set(readers) else 1.0
            new = np.clip(logs[numbers] + step, np.maximum(-channels.MOST, found.least[numbers]), channels.MOST)
            moved = max(moved, float(np.abs(new - logs[numbers]).max()))
            logs[numbers] = new
        if moved < tolerance:
            break
    return logs


def _seen(layer: Layer, maxima: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Give log2 of the largest value of each channel that a layer reads, if they are known."""
    seen = maxima.get(layer.node.input[0])
    if seen is None or seen.shape != layer.reads.shape:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        sizes: np.ndarray = np.log2(seen.astype(np.float64))
    return sizes


def _values(found: Channels, seen: list[np.ndarray | None]) -> np.ndarray:
    """Give log2 of the largest value of each number, where it is known for all layers that read it; else infinity."""
    values = np.full(found.count, -np.inf)
    unknown = np.zeros(found.count, bool)
    for layer, sizes in zip(found.layers, seen, strict=True):
        if sizes is None:
            unknown[layer.reads] = True
        else:
            np.maximum.at(values, layer.reads, sizes)
    values[unknown] = np.inf
    return values


def _held_back(
    found: Channels, sizes: list[np.ndarray], logs: np.ndarray, seen: list[np.ndarray | None], readers: list[int]
) -> float:
    """Give what the fixed channels of a tensor would have been scaled by: the others are to stay in proportion."""
    wanted = [np.zeros(0)]
    for place in readers:
        layer, values = found.layers[place], seen[place]
        fixed = layer.reads == 0
        if values is None or not fixed.any():
            continue
        alone = layer.weight.shape[2] == 1
        weights = _ranges(layer, sizes[place], logs, 1)[fixed]
        with np.errstate(invalid="ignore"):
            wanted.append(values[fixed] if alone else (values[fixed] - weights) / 2)
    together = np.concatenate(wanted)
    together = together[np.isfinite(together)]
    return float(np.median(together)) if together.size else 0.0


def _biases(found: Channels) -> np.ndarray:
    biases = np.full(found.count, -np.inf)
    for constant in found.constants:
        others = tuple(axis for axis in range(constant.values.ndim) if axis != constant.values.ndim + constant.axis)
        with np.errstate(divide="ignore", invalid="ignore"):
            sizes = np.log2(np.abs(constant.values).max(axis=others).astype(np.float64) * _BIAS_SHARE)
        np.maximum.at(biases, constant.numbers, np.where(np.isfinite(sizes), sizes, -np.inf))
    return biases


def _only_depthwise(found: Channels) -> np.ndarray:
    only = np.ones(found.count, bool)
    for layer in found.layers:
        if layer.weight.shape[2] > 1:
            only[layer.reads] = False
    return only


def rounded(logs: np.ndarray, found: Channels) -> np.ndarray:
    """Give the nearest whole exponents that are not below the least ones."""
    least = np.where(np.isfinite(found.least), found.least, -channels.MOST)
    return np.maximum(np.rint(logs), np.ceil(least)).astype(np.int64)


def _sizes(layer: Layer) -> np.ndarray:
    """Give log2 of the largest weight between each pair of channels: (groups, outputs, inputs)."""
    with np.errstate(divide="ignore"):
        sizes: np.ndarray = np.log2(np.abs(layer.weight).max(axis=3).astype(np.float64))
    return sizes


def _ranges(layer: Layer, sizes: np.ndarray, logs: np.ndarray, axis: int) -> np.ndarray:
    """Give log2 of the largest scaled weight of each channel that the layer makes (axis 2) or reads (axis 1)."""
    groups, rows, columns = sizes.shape
    shifted = sizes + logs[layer.reads].reshape(groups, 1, columns) - logs[layer.makes].reshape(groups, rows, 1)
    ranges: np.ndarray = shifted.max(axis=axis).reshape(-1)
    return ranges


def _free(found: Channels, sizes: list[np.ndarray]) -> np.ndarray:
    """Tell which numbers may get a factor: made and read by layers alone, and dead in neither."""
    made, read = np.full((2, found.count), -np.inf)
    nothing = np.zeros(found.count)
    for layer, size in zip(found.layers, sizes, strict=True):
        np.maximum.at(made, layer.makes, _ranges(layer, size, nothing, 2))
        np.maximum.at(read, layer.reads, _ranges(layer, size, nothing, 1))
    free: np.ndarray = np.isfinite(made) & np.isfinite(read)
    free[0] = False
    for numbers in found.weightless:
        free[numbers] = False
    return free


def _blocks(found: Channels, free: np.ndarray) -> list[tuple[np.ndarray, list[int], list[int]]]:
    """Give the free numbers in the order in which they are made, each with the places of its makers and readers."""
    seen = ~free
    blocks = []
    for layer in found.layers:
        numbers = np.unique(layer.makes[~seen[layer.makes]])
        if numbers.size:
            seen[numbers] = True
            inside = np.zeros(found.count, bool)
            inside[numbers] = True
            makers = [place for place, other in enumerate(found.layers) if inside[other.makes].any()]
            readers = [place for place, other in enumerate(found.layers) if inside[other.reads].any()]
            blocks.append((numbers, makers, readers))
    return blocks


def _pairs(found: Channels, exponents: np.ndarray) -> set[tuple[str, str]]:
    makers: dict[int, set[str]] = {}
    for layer in found.layers:
        for number in set(layer.makes[exponents[layer.makes] != 0].tolist()):
            makers.setdefault(number, set()).add(layer.node.output[0])
    return {
        (maker, layer.node.output[0])
        for layer in found.layers
        for number in set(layer.reads[exponents[layer.reads] != 0].tolist())
        for maker in makers.get(number, ())
    }


def maxima_of(
    model: ModelProto, names: Iterable[str], feeds: Iterable[Feed], *, signed: bool = False
) -> dict[str, np.ndarray]:
    """Give the largest absolute (`signed`: the largest) value of each channel of these tensors over the feeds.

    Channels lie along the axis that `homogeneous.trace` finds; tensors without are taken along their last axis. Values
    that are not finite are ignored. Memory does not grow with the number of feeds. Raises EdgekitError when a feed does
    not fit the model.
    """
    views = homogeneous.trace(model, {node.name for node in model.graph.node}).views
    fed = {entry.name for entry in graph.inputs(model)}
    wanted = list(dict.fromkeys(names))
    computed = [name for name in wanted if name not in fed]
    session = open_session(graph.with_outputs(model, computed))
    maxima: dict[str, np.ndarray] = {}
    for feed in feeds:
        values = dict(zip(computed, run(session, feed, computed), strict=True)) if computed else {}
        for name in wanted:
            array = values[name] if name in values else np.asarray(feed[name])
            axis = views[name].axis if name in views else -1
            largest = _largest(array, axis, signed=signed)
            maxima[name] = np.maximum(maxima[name], largest) if name in maxima else largest
    return maxima


def _largest(array: np.ndarray, axis: int, *, signed: bool) -> np.ndarray:
    others = tuple(other for other in range(array.ndim) if other != array.ndim + axis)
    sizes = array if signed else np.abs(array)
    largest: np.ndarray = sizes.max(axis=others, initial=-np.inf, where=np.isfinite(array))
    return largest
