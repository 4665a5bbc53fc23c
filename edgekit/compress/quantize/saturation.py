"""Saturation: what x86 CPUs without VNNI lose in 8-bit layers, and which layers lose it on real pictures.

There onnxruntime multiplies raw unsigned activations (zero point not taken off, padding holding it) by int8 weights
with VPMADDUBSW, which adds the products at places 2i and 2i + 1 of the sum (kernel rows, columns, then the channels of
the group; plain order for products of matrices) in 16 bits and clips them to -32768..32767: MLAS, QgemmU8X8KernelAvx2,
QgemvU8S8KernelAvx2, ConvSymKernelAvx2 and their Avx512Core twins, after ReorderFilter of qlinearconv.cc. Depthwise
convolutions (VPMADDWD, PMULLW and PMULHW) and every CPU with VNNI, AMX or NEON are exact, and signed activations are
turned into unsigned ones first (qdq_s8_to_u8.cc), so that the type in the file changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.lazy import np, onnx
from edgekit.session import open_session, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from onnx import ModelProto, NodeProto, TensorProto

    Feed = Mapping[str, np.ndarray]

HIGHEST, LOWEST = 32767, -32768
LARGEST_VALUE = 255
LARGEST_PAIR = HIGHEST // LARGEST_VALUE  # 128: what two weights of one sign may add up to
FEEDS = 8
# Of each picture, this many places of a layer's output are looked at.
PLACES = 512
# Numbers held at once while sums are taken apart; bounds the memory whatever the picture's size.
BLOCK = 1 << 21
_DYNAMIC_SUFFIX = "_quant"  # what onnxruntime's quantiser appends to the name of a dynamic product


@dataclass(frozen=True)
class Pairs:
    """Neighbouring weights of one sign that full activations take out of 16 bits, in the order of their places.

    One entry a pair: its number (places 2i and 2i + 1 of the sum), its output channel, the magnitudes of the two
    weights and their sign, +1 or -1.
    """

    number: np.ndarray
    channel: np.ndarray
    first: np.ndarray
    second: np.ndarray
    sign: np.ndarray

    def __len__(self) -> int:
        return len(self.number)

    @cached_property
    def _groups(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The numbers, each once; where its pairs begin, how many there are; sums of activations that clip none."""
        numbers, start, count = np.unique(self.number, return_index=True, return_counts=True)
        # a x + b y <= max(a, b) (x + y)
        safe = HIGHEST // np.maximum.reduceat(np.maximum(self.first, self.second), start)
        return numbers, start, count, safe.astype(np.uint16)

    def clipped(self, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the pairs that clip: their places, their channels, and what clipping adds to the sum; exact.

        `columns`: uint8, (places, length of the sum).
        """
        if not len(self):
            return (np.zeros(0, np.int64),) * 3
        numbers, start, count, safe = self._groups
        left, right = columns[:, 2 * numbers], columns[:, 2 * numbers + 1]
        place, group = np.nonzero(np.add(left, right, dtype=np.uint16) > safe)
        left, right = left[place, group].astype(np.int32), right[place, group].astype(np.int32)
        repeats = count[group]
        meeting = np.repeat(np.arange(len(place)), repeats)
        pair = np.arange(len(meeting)) + np.repeat(start[group] - np.cumsum(repeats) + repeats, repeats)
        over = left[meeting] * self.first[pair] + right[meeting] * self.second[pair]
        over -= np.where(self.sign[pair] > 0, HIGHEST, -LOWEST)
        kept = over > 0
        pair = pair[kept]
        return place[meeting[kept]], self.channel[pair], -over[kept].astype(np.int64) * self.sign[pair]


def pairs_at_risk(weights: np.ndarray) -> Pairs:
    """Find the pairs of an int8 matrix (channels, length of the sum) that can leave 16 bits at all.

    They have one sign and add up to 129 or more: 255 * 128 = 32640 fits, 255 * 129 does not.
    """
    even = weights[:, : weights.shape[1] // 2 * 2].astype(np.int32)
    first, second = even[:, 0::2], even[:, 1::2]
    risky = (np.abs(first + second) > LARGEST_PAIR) & (first * second > 0)
    number, channel = np.nonzero(risky.T)
    first, second = first[channel, number], second[channel, number]
    return Pairs(number, channel, np.abs(first), np.abs(second), np.sign(first))


def fitted(node: NodeProto, values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Round a layer's float weights to int8 as finely as lets no pair clip, whatever the activations.

    `values`: finite; `axis`: of the output channels. Each has a scale of its own, coarser than for -127..127 only where
    neighbours of one sign add up to more than 128, so that errors are smaller than those of 7 bits for all. Gives the
    integers and the scales (float32, broadcast to them).
    """
    others = tuple(dim for dim in range(values.ndim) if dim != axis)
    scale = np.abs(values).max(axis=others, keepdims=True).astype(np.float32) / np.float32(127)
    scale = np.where(scale > np.finfo(np.float32).tiny, scale, np.float32(1))
    while True:
        numbers = np.clip(np.rint(values / scale), -127, 127).astype(np.int8)
        worst = _worst_pair(node, numbers, axis)
        if (worst <= LARGEST_PAIR).all():
            return numbers, scale
        growth = np.where(worst > LARGEST_PAIR, worst / LARGEST_PAIR, 1).astype(np.float32)
        scale = scale * growth.reshape(scale.shape)


def _worst_pair(node: NodeProto, numbers: np.ndarray, axis: int) -> np.ndarray:
    """Give for each output channel the largest sum of neighbouring magnitudes of one sign."""
    rows = np.moveaxis(numbers, axis, 0).astype(np.int32)
    step = 2
    if node.op_type == "Conv":
        channels = rows.shape[1]
        if channels == 1 and graph.attribute(node, "group", 1) == len(rows):
            return np.zeros(len(rows), np.int32)
        # Stems over so few channels may be rearranged, after which other neighbours meet.
        step = 1 if channels in (1, 3) else 2
        rows = np.moveaxis(rows, 1, -1)
    rows = rows.reshape(len(rows), -1)
    first, second = rows[:, 0:-1:step], rows[:, 1::step]
    worst: np.ndarray = np.where(first * second > 0, np.abs(first + second), 0).max(axis=1, initial=0)
    return worst


@dataclass(frozen=True)
class Layer:
    """A convolution or matrix product in 8 bits, as a finished model has it.

    `value`: the name of the 8-bit activations it reads; `zero`: their zero point, or its name when it is computed.
    `weight`: int8 (groups, output channels of a group, length of the sum), in the order in which the kernel adds.
    `kernel`: its sides, none for a matrix product. `after`: the conversion to 8 bits that alone reads the result.
    """

    node: NodeProto
    value: str
    zero: int | str
    weight: np.ndarray
    kernel: tuple[int, ...]
    after: NodeProto | None = None

    @property
    def name(self) -> str:
        """The name of the node in the float model."""
        return self.node.name.removesuffix(_DYNAMIC_SUFFIX)

    @property
    def channels(self) -> int:
        """The number of output channels."""
        return int(self.weight.shape[0] * self.weight.shape[1])

    @property
    def pairs_of_a_place(self) -> int:
        """How many pairs are added up for one place of the output, all channels together."""
        return self.channels * (self.weight.shape[2] // 2)

    @cached_property
    def pairs(self) -> tuple[Pairs, ...]:
        """The pairs at risk in each group; depthwise convolutions, one channel in and out, have exact kernels."""
        depthwise = self.kernel and self.weight.shape[1:] == (1, math.prod(self.kernel))
        return () if depthwise else tuple(pairs_at_risk(group) for group in self.weight)

    @property
    def at_risk(self) -> bool:
        """Whether some pair can leave 16 bits."""
        return any(len(pairs) for pairs in self.pairs)

    def windows(self, values: np.ndarray, zero: int) -> list[np.ndarray]:
        """Give for each group what each place is summed over, as views: (pictures, places..., kernel..., channels)."""
        if not self.kernel:
            return [unsigned(values)]
        sides = len(self.kernel)
        strides, dilations = (_numbers(self.node, name, [1] * sides) for name in ("strides", "dilations"))
        reach = [(side - 1) * step + 1 for side, step in zip(self.kernel, dilations, strict=True)]
        padding = _padding(self.node, values.shape[2:], reach, strides)
        padded = np.pad(unsigned(values), [(0, 0), (0, 0), *padding], constant_values=zero)
        last = np.ascontiguousarray(np.moveaxis(padded, 1, -1))
        steps = [slice(None, None, step) for step in (*strides, 1, *dilations)]
        seen = np.lib.stride_tricks.sliding_window_view(last, reach, axis=tuple(range(1, 1 + sides)))
        seen = np.moveaxis(seen[(slice(None), *steps)], 1 + sides, -1)
        return np.split(seen, len(self.weight), axis=-1)

    def columns(self, window: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Copy what these places are summed over: uint8 (places, length of the sum)."""
        inner = len(self.kernel) + 1
        where = np.unravel_index(places, window.shape[:-inner])
        columns: np.ndarray = window[where].reshape(len(places), -1)
        return columns


def layers(model: ModelProto) -> list[Layer]:
    """Find the layers of a finished model, in Q/DQ form or dynamic, that run in 8 bits with int8 weights.

    A convolution does only when its result is converted to 8 bits at once.
    """
    makers, tensors, readers = graph.producers(model), graph.initializers(model), graph.consumers(model)
    shown = graph.outputs(model)
    found = []
    for node in model.graph.node:
        if node.op_type == "MatMulInteger":
            made = _dynamic(node, tensors)
        elif node.op_type in ("Conv", "Gemm", "MatMul"):
            after = readers.get(node.output[0], [])
            alone = len(after) == 1 and after[0].op_type == "QuantizeLinear" and node.output[0] not in shown
            made = _static(node, after[0] if alone else None, makers, tensors)
        else:
            continue
        if made is not None:
            found.append(made)
    return found


def _dynamic(node: NodeProto, tensors: Mapping[str, TensorProto]) -> Layer | None:
    weight = tensors.get(node.input[1])
    if weight is None or weight.data_type != onnx.TensorProto.INT8 or len(weight.dims) != 2:
        return None
    zero: int | str = node.input[2] if len(node.input) > 2 and node.input[2] else 0
    if isinstance(zero, str) and zero in tensors:
        zero = int(unsigned(graph.array(tensors[zero])).item())
    return Layer(node, node.input[0], zero, graph.array(weight).T[None], ())


def _static(
    node: NodeProto,
    after: NodeProto | None,
    makers: Mapping[str, NodeProto],
    tensors: Mapping[str, TensorProto],
) -> Layer | None:
    scaled = [makers.get(name) for name in node.input[:2]]
    if any(maker is None or maker.op_type != "DequantizeLinear" for maker in scaled):
        return None
    value, weight = scaled
    assert value is not None and weight is not None
    stored = tensors.get(weight.input[0])
    if stored is None or stored.data_type != onnx.TensorProto.INT8 or value.input[0] in tensors:
        return None
    zero = unsigned(graph.array(tensors[value.input[2]])).item() if len(value.input) > 2 else 0
    numbers = graph.array(stored)
    if node.op_type == "Conv":
        if after is None:
            return None
        groups = int(graph.attribute(node, "group", 1))  # type: ignore[call-overload]
        ordered = np.moveaxis(numbers, 1, -1).reshape(groups, numbers.shape[0] // groups, -1)
        return Layer(node, value.input[0], int(zero), ordered, numbers.shape[2:], after)
    if numbers.ndim != 2 or graph.attribute(node, "transA", 0):
        return None
    rows = numbers if graph.attribute(node, "transB", 0) else numbers.T
    return Layer(node, value.input[0], int(zero), rows[None], (), after)


def unsigned(values: np.ndarray) -> np.ndarray:
    """Give activations as the kernel has them: int8 moved up by 128."""
    if values.dtype != np.int8:
        return values
    moved: np.ndarray = values.view(np.uint8) ^ np.uint8(128)
    return moved


def saturating(quantized: ModelProto, feeds: Iterable[Feed]) -> dict[str, float]:
    """Give for each 8-bit layer the share of its pair sums, 0..1, that clip on a CPU without VNNI.

    `quantized`: a finished model. Layers are named as in the float model. Counts are exact at PLACES places of each
    layer's output, spread evenly, on the first FEEDS feeds; a layer whose weights cannot clip has 0 whatever it reads.
    """
    found = layers(quantized)
    risky = [layer for layer in found if layer.at_risk]
    clipped = {layer.name: 0 for layer in found}
    seen = dict(clipped)
    names = list(dict.fromkeys(name for layer in risky for name in needs(layer)))
    session = open_session(graph.with_outputs(quantized, names)) if names else None
    for feed in islice(feeds, FEEDS if risky else 0):
        values = dict(zip(names, run(session, feed, names), strict=True))
        for layer in risky:
            added, total = _count(layer, values)
            clipped[layer.name] += added
            seen[layer.name] += total
    return {name: clipped[name] / max(seen[name], 1) for name in clipped}


def needs(layer: Layer) -> list[str]:
    """Give the names of the values that a layer's sums are computed from."""
    return [layer.value, layer.zero] if isinstance(layer.zero, str) else [layer.value]


def zero_of(layer: Layer, values: Mapping[str, np.ndarray]) -> int:
    """Give the zero point of what a layer reads, 0..255."""
    zero = layer.zero
    return zero if isinstance(zero, int) else int(unsigned(values[zero]).item())


def _count(layer: Layer, values: Mapping[str, np.ndarray]) -> tuple[int, int]:
    clipped = places = 0
    for window, pairs in zip(layer.windows(values[layer.value], zero_of(layer, values)), layer.pairs, strict=True):
        count = math.prod(window.shape[: -len(layer.kernel) - 1])
        chosen = np.unique(np.linspace(0, count - 1, min(count, PLACES)).astype(np.int64))
        for block in blocks(chosen, layer):
            clipped += len(pairs.clipped(layer.columns(window, block))[0])
        places = len(chosen)
    return clipped, places * layer.pairs_of_a_place


def blocks(places: np.ndarray, layer: Layer) -> list[np.ndarray]:
    """Divide places so that what is held for a part of them stays small."""
    each = max(layer.weight.shape[1:] + tuple(len(pairs) for pairs in layer.pairs))
    size = max(1, BLOCK // each)
    return [places[start : start + size] for start in range(0, len(places), size)]


def _numbers(node: NodeProto, name: str, default: list[int]) -> list[int]:
    return list(graph.attribute(node, name, default))  # type: ignore[call-overload]


def _padding(
    node: NodeProto, sides: Sequence[int], reach: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int]]:
    """Give how many values are added before and behind each spatial axis."""
    mode = graph.attribute(node, "auto_pad", b"NOTSET")
    if mode not in (b"SAME_UPPER", b"SAME_LOWER"):
        pads = _numbers(node, "pads", [0] * 2 * len(sides))
        return list(zip(pads[: len(sides)], pads[len(sides) :], strict=True))
    found = []
    for side, length, stride in zip(sides, reach, strides, strict=True):
        total = max((-(-side // stride) - 1) * stride + length - side, 0)
        small, large = total // 2, total - total // 2
        found.append((small, large) if mode == b"SAME_UPPER" else (large, small))
    return found
