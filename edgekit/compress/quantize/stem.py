"""Stems: 8-bit convolutions over one or three channels, rearranged so that they do not waste half their time.

onnxruntime's 8-bit convolution gathers its input pixel by pixel and tap by tap; with three channels the copies cost
more than the arithmetic (measured on a CPU with AVX512-VNNI, 3x3 to 16 channels over 32x32: 36 us). Two exact cures,
whose new weights are all zeros:

- grouped pixels: four pixels of a row are one of four times the channels, which in NHWC is the same memory, and the
  convolution gives the output pixels of a group side by side: 13 us, and 6 us for the two reshapes.
- a fourth channel, by repeating one: 20 us, and 3 us to repeat it. For what cannot be grouped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.lazy import np, onnx

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

GROUP = 4  # pixels; int8 kernels multiply four values at a time
MOST_OUTPUTS = 32  # channels; above it the added multiplications cost more than the copies saved
TO_NHWC, TO_NCHW = [0, 2, 3, 1], [0, 3, 1, 2]


@dataclass(frozen=True)
class Stem:
    """A convolution over few channels in a Q/DQ graph: what scales its input, its weight (O, C, kh, kw), its shapes."""

    node: NodeProto
    scaled: NodeProto
    weight: NodeProto
    values: np.ndarray
    height: int | None
    width: int | None

    @property
    def stride(self) -> list[int]:
        """Rows and columns that the kernel moves by."""
        return list(graph.attribute(self.node, "strides", [1, 1]))  # type: ignore[call-overload, no-any-return]

    @property
    def pads(self) -> list[int]:
        """Top, left, bottom, right."""
        return list(graph.attribute(self.node, "pads", [0, 0, 0, 0]))  # type: ignore[call-overload, no-any-return]


def rearrange_stems(model: ModelProto) -> None:
    """Rearrange every 8-bit convolution over one or three channels, in place; `model` is in Q/DQ form."""
    narrow = _narrow(model)
    shapes = _shapes(model) if narrow else {}
    for node in narrow:
        stem = _stem(model, node, shapes)
        if stem is None:
            continue
        if not _group(model, stem) and stem.values.shape[1] == 3:
            _repeat_channel(model, stem)
    graph.sort(model)


def _narrow(model: ModelProto) -> list[NodeProto]:
    """Give the convolutions over one or three channels: few of a large graph are worth a closer look."""
    makers, tensors = graph.producers(model), graph.initializers(model)
    found = []
    for node in [
        node for node in model.graph.node if node.op_type == "Conv" and graph.attribute(node, "group", 1) == 1
    ]:
        weight = makers.get(node.input[1])
        stored = tensors.get(weight.input[0]) if weight is not None else None
        if stored is not None and len(stored.dims) == 4 and stored.dims[1] in (1, 3):
            found.append(node)
    return found


def _stem(model: ModelProto, node: NodeProto, shapes: dict[str, tuple[int | None, ...]]) -> Stem | None:
    makers, readers, tensors = graph.producers(model), graph.consumers(model), graph.initializers(model)
    weight, scaled = makers.get(node.input[1]), makers.get(node.input[0])
    while scaled is not None and scaled.op_type == "Transpose":
        scaled = makers.get(scaled.input[0])
    if weight is None or scaled is None or {weight.op_type, scaled.op_type} != {"DequantizeLinear"}:
        return None
    stored = tensors.get(weight.input[0])
    if stored is None or len(stored.dims) != 4 or stored.dims[1] not in (1, 3) or len(readers[weight.output[0]]) > 1:
        return None
    plain = graph.attribute(node, "auto_pad", b"NOTSET") in (b"NOTSET", "NOTSET")
    dilated = any(step != 1 for step in graph.attribute(node, "dilations", [1, 1]))  # type: ignore[attr-defined]
    if graph.attribute(node, "group", 1) != 1 or not plain or dilated:
        return None
    shape = shapes.get(node.input[0], ())
    height, width = (shape[2], shape[3]) if len(shape) == 4 else (None, None)
    return Stem(node, scaled, weight, graph.array(stored), height, width)


def _group(model: ModelProto, stem: Stem) -> bool:
    """Make four pixels of a row one; tell whether that was possible."""
    outputs, _, _, taps = stem.values.shape
    step, left, right = stem.stride[1], stem.pads[1], stem.pads[3]
    if stem.height is None or stem.width is None or stem.width % GROUP or outputs > MOST_OUTPUTS or step not in (1, 2):
        return False
    if (stem.width + left + right - taps) // step + 1 != stem.width // step:
        return False
    quantize = _quantizer(model, stem.node)
    if quantize is None:
        return False
    rows = (stem.height + stem.pads[0] + stem.pads[2] - stem.values.shape[2]) // stem.stride[0] + 1
    values, before, after = grouped(stem.values, step, left)
    per_group = GROUP // step
    builder = _Builder(model)
    _regroup_input(builder, stem)
    stem.node.input[1] = builder.tiled(stem.weight, per_group, values)
    if len(stem.node.input) > 2 and stem.node.input[2]:
        bias = graph.producers(model).get(stem.node.input[2])
        if bias is None:
            return False
        stem.node.input[2] = builder.tiled(bias, per_group)
    _set(stem.node, kernel_shape=list(values.shape[2:]), strides=[stem.stride[0], 1])
    _set(stem.node, pads=[stem.pads[0], before, stem.pads[2], after])
    _ungroup_output(builder, quantize, [0, rows, stem.width // step, outputs])
    return True


def grouped(values: np.ndarray, step: int, left: int) -> tuple[np.ndarray, int, int]:
    """Give the weight over groups of pixels, and how many groups of padding it wants on the left and on the right.

    values: (O, C, kh, kw), with the stride `step` and the padding `left`. Output pixel p of a group meets input pixel
    p * step + k - left in tap k, counted from the start of the group. Gives (O * GROUP / step, C * GROUP, kh, groups).
    """
    outputs, channels, rows, taps = values.shape
    meets = [(p, k, *divmod(p * step + k - left, GROUP)) for p in range(GROUP // step) for k in range(taps)]
    first, last = min(0, *(group for _, _, group, _ in meets)), max(0, *(group for _, _, group, _ in meets))
    wide = np.zeros((outputs * (GROUP // step), channels * GROUP, rows, last - first + 1), values.dtype)
    for pixel, tap, group, offset in meets:
        target = wide[pixel * outputs : (pixel + 1) * outputs, offset * channels : (offset + 1) * channels]
        target[:, :, :, group - first] = values[:, :, :, tap]
    return wide, -first, last


def _quantizer(model: ModelProto, node: NodeProto) -> NodeProto | None:
    """Find the QuantizeLinear that alone reads a convolution, behind a Relu or Clip or directly."""
    readers = graph.consumers(model)
    shown = graph.outputs(model)
    current = node
    while True:
        after = readers.get(current.output[0], [])
        if len(after) != 1 or current.output[0] in shown:
            return None
        current = after[0]
        if current.op_type == "QuantizeLinear":
            return current
        if current.op_type not in ("Relu", "Clip"):
            return None


def _regroup_input(builder: _Builder, stem: Stem) -> None:
    assert stem.height is not None and stem.width is not None
    shape = [0, stem.height, stem.width // GROUP, stem.values.shape[1] * GROUP]
    parameters = stem.scaled.input[1:]
    value = stem.node.input[0]
    maker = graph.producers(builder.model).get(value)
    if maker is not None and maker.op_type == "Transpose" and graph.attribute(maker, "perm") == TO_NCHW:
        value = maker.input[0]  # it comes from NHWC already
    else:
        value = builder.node("Transpose", builder.converted(value, parameters), parameters, perm=TO_NHWC)
    value = builder.node("Reshape", value, parameters, extra=builder.constant("groups", shape))
    stem.node.input[0] = builder.node("Transpose", value, parameters, perm=TO_NCHW)
    builder.finish()


def _ungroup_output(builder: _Builder, quantize: NodeProto, shape: list[int]) -> None:
    parameters = quantize.input[1:]
    eight = quantize.output[0]
    readers = graph.consumers(builder.model).get(eight, [])
    value = builder.add("DequantizeLinear", [eight, *parameters])
    value = builder.node("Transpose", value, parameters, perm=TO_NHWC)
    value = builder.node("Reshape", value, parameters, extra=builder.constant("pixels", shape))
    value = builder.add("Transpose", [value], perm=TO_NCHW)
    plain = builder.add("QuantizeLinear", [value, *parameters])
    for reader in readers:
        for position, name in enumerate(reader.input):
            if name == eight:
                reader.input[position] = plain
    builder.finish()


def _repeat_channel(model: ModelProto, stem: Stem) -> None:
    """Give a convolution over three channels a fourth, which meets weights of zero."""
    builder = _Builder(model)
    parameters = stem.scaled.input[1:]
    padded = np.pad(stem.values, ((0, 0), (0, 1), (0, 0), (0, 0)))
    stem.node.input[1] = builder.tiled(stem.weight, 1, padded)
    value = stem.node.input[0]
    if value != stem.scaled.output[0]:
        value = builder.converted(value, parameters)
    order = builder.constant("four_of_three", [0, 1, 2, 2])
    stem.node.input[0] = builder.node("Gather", value, parameters, extra=order, axis=1)
    builder.finish()


class _Builder:
    """Adds nodes and constants with fresh names; every value passes through conversions, so that it stays in 8 bits."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self._taken = graph.tensor_names(model) | {node.name for node in model.graph.node}
        self._made: list[NodeProto] = []

    def add(self, kind: str, inputs: list[str], **attributes: object) -> str:
        """Add a node; give the name of its output."""
        name = graph.fresh_name(f"stem_{kind.lower()}", self._taken)
        self._made.append(onnx.helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def converted(self, value: str, parameters: list[str]) -> str:
        """Pass a value through 8 bits."""
        return self.add("DequantizeLinear", [self.add("QuantizeLinear", [value, *parameters]), *parameters])

    def node(self, kind: str, value: str, parameters: list[str], extra: str = "", **attributes: object) -> str:
        """Add a node that moves 8-bit values."""
        return self.converted(self.add(kind, [value, extra] if extra else [value], **attributes), parameters)

    def constant(self, stem: str, values: list[int]) -> str:
        """Add a constant of whole numbers."""
        return self._store(f"stem_{stem}", np.array(values, np.int64))

    def tiled(self, dequantize: NodeProto, times: int, values: np.ndarray | None = None) -> str:
        """Add a copy of a constant's DequantizeLinear with its channels (and their scales) repeated, or new values."""
        tensors = graph.initializers(self.model)
        arrays = [graph.array(tensors[name]) for name in dequantize.input]
        repeated = [np.tile(array, times) if array.ndim == 1 and array.size > 1 else array for array in arrays]
        if values is not None:
            repeated[0] = values
        names = [self._store(name, array) for name, array in zip(dequantize.input, repeated, strict=True)]
        axis = graph.attribute(dequantize, "axis")
        return self.add("DequantizeLinear", names, **({} if axis is None else {"axis": axis}))

    def _store(self, stem: str, array: np.ndarray) -> str:
        name = graph.fresh_name(stem, self._taken)
        self.model.graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def finish(self) -> None:
        """Put the nodes into the graph."""
        self.model.graph.node.extend(self._made)
        self._made = []


def _set(node: NodeProto, **attributes: list[int]) -> None:
    for name, value in attributes.items():
        for old in [old for old in node.attribute if old.name == name]:
            node.attribute.remove(old)
        node.attribute.append(onnx.helper.make_attribute(name, value))


def _shapes(model: ModelProto) -> dict[str, tuple[int | None, ...]]:
    """Give the shapes that inference finds, None for what is open."""
    bare = graph.copy(model)
    graph.sort(bare)
    del bare.graph.value_info[:]  # notes without a shape would stand in the way
    known = onnx.shape_inference.infer_shapes(bare).graph
    found = {}
    for value in (*known.input, *known.value_info, *known.output):
        if value.type.tensor_type.HasField("shape"):
            sides = value.type.tensor_type.shape.dim
            found[value.name] = tuple(side.dim_value if side.HasField("dim_value") else None for side in sides)
    return found
