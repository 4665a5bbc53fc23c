"""Shortcuts without weights: every other pixel of a narrow stream, padded with zero channels to the width of the next.

Slice and Pad (option A of He et al. 2015, for CIFAR) have no kernel for blocked channels, so onnxruntime unpacks and
packs the stream around every sum behind them. A 1x1 convolution that copies channels does the same exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress.shapes import inferred
from edgekit.lazy import np, onnx

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_ROWS, _COLUMNS = 2, 3


@dataclass(frozen=True)
class _Shortcut:
    """Nodes from the first Slice to the Pad, the value they read, and how they change it."""

    nodes: tuple[NodeProto, ...]
    source: str
    strides: tuple[int, int]
    pads: tuple[int, int]  # channels of zeros before and after


def as_convolutions(model: ModelProto) -> ModelProto | None:
    """Give the model with such shortcuts as convolutions; None when it has none.

    Float32, four axes, a fixed number of channels; slices from the first pixel to the last.
    """
    makers, readers, tensors = graph.producers(model), graph.consumers(model), graph.initializers(model)
    shown = graph.outputs(model)
    sides, types = inferred(model)

    def only(name: str) -> bool:
        return len(readers.get(name, [])) == 1 and name not in shown

    def numbers(node: NodeProto, place: int) -> list[float] | None:
        name = node.input[place] if len(node.input) > place else ""
        return graph.array(tensors[name]).reshape(-1).tolist() if name in tensors else None

    def found(pad: NodeProto) -> _Shortcut | None:
        widths, value = numbers(pad, 1), numbers(pad, 2)
        mode = graph.attribute(pad, "mode", b"constant")
        if widths is None or len(widths) != 8 or len(pad.input) > 3 or mode != b"constant" or (value or [0]) != [0]:
            return None
        if min(widths) < 0 or any(width for place, width in enumerate(widths) if place not in (1, 5)):
            return None
        nodes, strides, source = [pad], {_ROWS: 1, _COLUMNS: 1}, pad.input[0]
        while (maker := makers.get(source)) is not None and maker.op_type == "Slice" and only(source):
            bounds = [numbers(maker, place) for place in range(1, 5)]
            if any(each is None or len(each) != 1 for each in bounds):
                return None
            start, end, axis, step = (int(each[0]) for each in bounds if each)
            if start != 0 or end < 2**31 - 1 or axis % 4 not in strides or step < 1:
                return None
            strides[axis % 4] *= step
            nodes.append(maker)
            source = maker.input[0]
        shape = sides.get(source, ())
        if len(nodes) == 1 or len(shape) != 4 or not shape[1] or types.get(source) != onnx.TensorProto.FLOAT:
            return None
        pads = int(widths[1]), int(widths[5])
        return _Shortcut(tuple(nodes[::-1]), source, (strides[_ROWS], strides[_COLUMNS]), pads)

    shortcuts = [each for node in model.graph.node if node.op_type == "Pad" and (each := found(node)) is not None]
    if not shortcuts:
        return None
    made = graph.copy(model)
    taken = graph.tensor_names(made)
    for shortcut in shortcuts:
        _replace(made, shortcut, int(sides[shortcut.source][1] or 0), taken)
    graph.sort(made)
    graph.remove_dead(made)
    return made


def _replace(model: ModelProto, shortcut: _Shortcut, channels: int, taken: set[str]) -> None:
    before, after = shortcut.pads
    weight = np.zeros((before + channels + after, channels, 1, 1), np.float32)
    weight[before + np.arange(channels), np.arange(channels)] = 1
    pad = shortcut.nodes[-1]
    name = graph.fresh_name(f"{pad.name}_weight", taken)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    gone = {node.name for node in shortcut.nodes}
    graph.remove_nodes(model, [node for node in model.graph.node if node.name in gone])
    node = onnx.helper.make_node(
        "Conv", [shortcut.source, name], [pad.output[0]], pad.name, kernel_shape=[1, 1], strides=list(shortcut.strides)
    )
    model.graph.node.append(node)
