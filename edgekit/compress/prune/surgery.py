"""Take channels out of a model, or set them to zero where they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress.prune.branches import Branches, drop
from edgekit.compress.prune.groups import Traced, trace
from edgekit.compress.prune.moves import chosen_by
from edgekit.errors import EdgekitError
from edgekit.lazy import np, onnx

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onnx import ModelProto, NodeProto

    Mend = Callable[["_Cut", NodeProto], None]


def remove(model: ModelProto, gone: Mapping[str, Sequence[int]]) -> ModelProto:
    """Give a physically smaller model without some channels of some groups, by the names of the groups.

    It computes what `mask(model, gone)` does. Of groups that can go as a whole, but not all of them at once, some keep
    one channel, which is read with zeros. Raises EdgekitError for a group that is not there, a channel out of range, or
    when a layer would be left without channels.
    """
    traced = trace(model)
    labels, zeroed = _possible(traced, gone)
    lost, replaced = _lost(traced, labels)
    cut = _Cut(traced, labels)
    made = cut.model
    for node in made.graph.node:
        mend = _MENDS.get(node.op_type)
        if mend is not None and node.domain in ("", "ai.onnx") and cut.touches(node):
            mend(cut, node)
    cut.shorten_constants(zeroed)
    made.graph.node.extend(cut.added)
    graph.sort(made)
    graph.remove_dead(made)
    if lost:
        drop(made, traced.dims, lost, replaced)
    return made


def mask(model: ModelProto, gone: Mapping[str, Sequence[int]]) -> ModelProto:
    """Give the model, of the same shapes, in which what reads those channels reads zeros.

    Raises EdgekitError as `remove` does.
    """
    traced = trace(model)
    chosen = _labels(traced, gone)
    made = graph.copy(traced.model)
    nodes = {node.name: node for node in made.graph.node}
    taken, names = graph.tensor_names(made), {node.name for node in made.graph.node}
    added = []
    for group in traced.groups.groups:
        lost = traced.channels[group.name][np.asarray(gone.get(group.name, ()), np.int64)]
        for reader in group.readers if lost.size else ():
            node = nodes[reader.node]
            if reader.value not in node.input:  # another group's channels lie along the same axis
                continue
            labels = traced.axes[reader.value][reader.axis]
            rank = len(traced.dims[reader.value])
            factor = np.where(np.isin(labels, chosen), 0, 1).astype(_dtype(traced, reader.weight.constant))
            shape = [-1 if axis == reader.axis else 1 for axis in range(rank)]
            held = graph.fresh_name(f"{reader.value}_mask", taken)
            masked = graph.fresh_name(f"{reader.value}_masked", taken)
            made.graph.initializer.append(onnx.numpy_helper.from_array(factor.reshape(shape), held))
            name = graph.fresh_name(f"{reader.node}_mask", names)
            added.append(onnx.helper.make_node("Mul", [reader.value, held], [masked], name))
            graph.rename_in(node, reader.value, masked)
    made.graph.node.extend(added)
    graph.sort(made)
    return made


def _possible(traced: Traced, gone: Mapping[str, Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Give the labels that can go at once, and those of the channels that have to stay, read with zeros."""
    labels, branches = _labels(traced, gone), Branches(traced.model, traced.dims)
    if branches.may_go(*_lost(traced, labels)):
        return labels, np.zeros(0, np.int64)
    wholes = [own for name, own in traced.channels.items() if np.isin(own, labels).all()]
    kept = np.array([own[0] for own in wholes], np.int64)
    for label in kept.tolist():
        fewer = np.setdiff1d(kept, [label])
        if branches.may_go(*_lost(traced, np.setdiff1d(labels, fewer))):
            kept = fewer
    left = np.setdiff1d(labels, kept)
    if not branches.may_go(*_lost(traced, left)):
        raise EdgekitError("these channels would leave a layer without any", "let more of them stay")
    return left, kept


def _lost(traced: Traced, gone: np.ndarray) -> tuple[set[str], set[str]]:
    """Give the values of which nothing is left, and the nodes that would read them."""
    constants = graph.initializers(traced.model)
    lost = {
        name
        for name, lines in traced.axes.items()
        if name not in constants and any(np.isin(labels, gone).all() for labels in lines.values())
    }
    return lost, {reading.node for reading in traced.readings if reading.value in lost}


def _dtype(traced: Traced, constant: str) -> np.dtype:
    return graph.array(graph.initializers(traced.model)[constant]).dtype


def _labels(traced: Traced, gone: Mapping[str, Sequence[int]]) -> np.ndarray:
    """Give the labels of the channels that go, sorted."""
    groups = {group.name: group for group in traced.groups.groups}
    found = [np.zeros(0, np.int64)]
    for name, channels in gone.items():
        if name not in groups:
            raise EdgekitError(f"the model has no group of channels {name!r}", "edgekit inspect --groups shows them")
        group, numbers = groups[name], np.asarray(channels, np.int64).reshape(-1)
        if numbers.size and (numbers.min() < 0 or numbers.max() >= group.size):
            raise EdgekitError(f"group {name} has no channel {numbers.max()}", f"it has 0 to {group.size - 1}")
        if not group.may_go(numbers):
            raise EdgekitError(f"group {name} would leave a layer without channels", "let more of them stay")
        found.append(traced.channels[name][numbers])
    return np.unique(np.concatenate(found))


class _Cut:
    """A copy of the model from which labels go, and what is left along each axis."""

    def __init__(self, traced: Traced, gone: np.ndarray) -> None:
        self.model = graph.copy(traced.model)
        self.traced, self.gone = traced, gone
        self.tensors = graph.initializers(self.model)
        self.taken = graph.tensor_names(self.model)
        self.names = {node.name for node in self.model.graph.node}
        self.opset = graph.opset(self.model)
        self.added: list[NodeProto] = []

    def stays(self, name: str, axis: int) -> np.ndarray | None:
        """Tell which entries along an axis stay (bool); None when all do."""
        labels = self.traced.axes.get(name, {}).get(axis)
        if labels is None:
            return None
        kept = ~np.isin(labels, self.gone)
        return None if kept.all() else kept

    def changed(self, name: str) -> dict[int, np.ndarray]:
        """Give, for each axis of a value that gets shorter, which entries stay."""
        lines = {axis: self.stays(name, axis) for axis in sorted(self.traced.axes.get(name, {}))}
        return {axis: line for axis, line in lines.items() if line is not None}

    def touches(self, node: NodeProto) -> bool:
        """Tell whether something the node reads or makes gets shorter."""
        return any(self.changed(name) for name in (*node.input, *node.output))

    def constant(self, node: NodeProto, place: int) -> np.ndarray | None:
        """Give the values of a constant input."""
        name = node.input[place] if len(node.input) > place else ""
        return graph.array(self.tensors[name]) if name in self.tensors else None

    def set(self, node: NodeProto, name: str, place: int, values: Sequence[int] | np.ndarray) -> None:
        """Write whole numbers where they were: as the attribute `name` or the input at `place`."""
        entry = next((entry for entry in node.attribute if entry.name == name), None)
        if entry is not None:
            entry.CopyFrom(onnx.helper.make_attribute(name, [int(value) for value in values]))
            return
        while len(node.input) <= place:
            node.input.append("")
        held = self.constant(node, place)
        dtype = np.int64 if held is None else held.dtype
        fresh = graph.fresh_name(f"{node.output[0]}_{name}", self.taken)
        self.model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values, dtype), fresh))
        node.input[place] = fresh

    def patch(self, name: str, entries: Mapping[int, int], length: int, made: str = "") -> str:
        """Replace some entries of a computed list of whole numbers; give the name of the result, `made` if given."""
        factor, term = np.ones(length, np.int64), np.zeros(length, np.int64)
        for place, value in entries.items():
            factor[place], term[place] = 0, value
        for kind, values in (("Mul", factor), ("Add", term)):
            held = graph.fresh_name(f"{name}_{kind.lower()}_held", self.taken)
            result = made if made and kind == "Add" else graph.fresh_name(f"{name}_{kind.lower()}", self.taken)
            self.model.graph.initializer.append(onnx.numpy_helper.from_array(values, held))
            self.added.append(onnx.helper.make_node(kind, [name, held], [result], graph.fresh_name(result, self.names)))
            name = result
        return name

    def pick(self, node: NodeProto, axis: int, indices: np.ndarray) -> None:
        """Let a node be followed by a Gather of some entries along an axis."""
        whole, held = (graph.fresh_name(f"{node.output[0]}_{part}", self.taken) for part in ("whole", "picked"))
        self.model.graph.initializer.append(onnx.numpy_helper.from_array(indices.astype(np.int64), held))
        name = graph.fresh_name(f"{node.name}_pick", self.names)
        self.added.append(onnx.helper.make_node("Gather", [whole, held], [node.output[0]], name, axis=axis))
        node.output[0] = whole

    def shorten_constants(self, zeroed: np.ndarray) -> None:
        """Take the entries that go out of every constant; set weights that read the labels `zeroed` to zero."""
        for reading in self.traced.readings if zeroed.size else ():
            line = np.isin(self.traced.axes[reading.weight].get(reading.weight_axis, 0), zeroed)
            values = graph.array(self.tensors[reading.weight]).copy()
            if line.any():
                np.moveaxis(values, reading.weight_axis, 0)[line] = 0
                self.tensors[reading.weight].CopyFrom(onnx.numpy_helper.from_array(values, reading.weight))
        fed = {value.name: value for value in self.model.graph.input}
        for name, tensor in self.tensors.items():
            lines = self.changed(name)
            if not lines:
                continue
            values = graph.array(tensor)
            for axis, line in lines.items():
                values = np.compress(line, values, axis)
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))
            if name in fed:
                fed[name].CopyFrom(onnx.helper.make_tensor_value_info(name, tensor.data_type, values.shape))


def _conv(cut: _Cut, node: NodeProto) -> None:
    """Count the groups that are left where whole ones went; where the same places of each did, their number stays."""
    read = cut.stays(node.input[0], 1)
    entry = next((entry for entry in node.attribute if entry.name == "group" and entry.i > 1), None)
    if read is None or entry is None:
        return
    blocks = read.reshape(entry.i, -1)
    if (blocks == blocks[:, :1]).all():
        entry.i = int(blocks[:, 0].sum())


def _reshape(cut: _Cut, node: NodeProto) -> None:
    before, after = cut.changed(node.input[0]), cut.changed(node.output[0])
    sides = cut.traced.dims[node.output[0]]
    wanted = graph.attribute(node, "shape") or cut.constant(node, 1)
    entries = {axis: int(line.sum()) for axis, line in after.items()}
    for axis in before:
        # An entry of 0 copies the side of the input, which is not the same any more.
        if axis < len(sides) and axis not in after and isinstance(sides[axis], int):
            entries[axis] = int(sides[axis])  # type: ignore[arg-type]
    if wanted is None:
        if entries:
            node.input[1] = cut.patch(node.input[1], entries, len(sides))
        return
    target = [int(side) for side in wanted]  # type: ignore[attr-defined]
    cut.set(node, "shape", 1, [entries.get(k, side) if side != -1 else -1 for k, side in enumerate(target)])


def _expand(cut: _Cut, node: NodeProto) -> None:
    """Let the axes of what is spread be as long as they are."""
    wanted, rank = cut.constant(node, 1), len(cut.traced.dims[node.output[0]])
    length = wanted.size if wanted is not None else int(cut.traced.dims[node.input[1]][0])  # type: ignore[arg-type]
    entries = {axis - rank + length: 1 for axis in cut.changed(node.output[0])}
    entries = {place: 1 for place in entries if place >= 0}
    if wanted is not None:
        cut.set(node, "shape", 1, [entries.get(place, int(side)) for place, side in enumerate(wanted)])
    elif entries:
        node.input[1] = cut.patch(node.input[1], entries, length)


def _shape(cut: _Cut, node: NodeProto) -> None:
    """Give the sides as they were to what is computed from them."""
    sides = cut.traced.dims[node.input[0]]
    start: int = graph.attribute(node, "start", 0)  # type: ignore[assignment]
    end: int = graph.attribute(node, "end", len(sides))  # type: ignore[assignment]
    shown = list(range(len(sides)))[start:end]
    entries = {shown.index(axis): int(sides[axis]) for axis in cut.changed(node.input[0]) if axis in shown}  # type: ignore[arg-type]
    if entries:
        name, node.output[0] = node.output[0], graph.fresh_name(f"{node.output[0]}_cut", cut.taken)
        cut.patch(node.output[0], entries, len(shown), name)


def _squeeze(cut: _Cut, node: NodeProto) -> None:
    """Name the axes of one entry, where those that are now of one entry must stay."""
    sides = cut.traced.dims[node.input[0]]
    if graph.attribute(node, "axes") is not None or (len(node.input) > 1 and node.input[1]):
        return
    axes = [axis for axis, side in enumerate(sides) if side == 1]
    if cut.opset < 13:
        node.attribute.append(onnx.helper.make_attribute("axes", axes))
    else:
        cut.set(node, "axes", 1, axes)


def _split(cut: _Cut, node: NodeProto) -> None:
    sides = cut.traced.dims[node.input[0]]
    axis = int(graph.attribute(node, "axis", 0)) % len(sides)  # type: ignore[call-overload]
    if axis not in cut.changed(node.input[0]):
        return
    sizes = []
    for name in node.output:
        line = cut.stays(name, axis)
        sizes.append(int(line.sum()) if line is not None else int(cut.traced.dims[name][axis]))  # type: ignore[arg-type]
    if cut.opset < 13 and graph.attribute(node, "split") is None:
        node.attribute.append(onnx.helper.make_attribute("split", sizes))
        return
    for entry in [entry for entry in node.attribute if entry.name == "num_outputs"]:
        node.attribute.remove(entry)
    cut.set(node, "split", 1, sizes)


def _slice(cut: _Cut, node: NodeProto) -> None:
    """Take what is left of the entries: from the first of them to the last."""
    lines, sides = cut.changed(node.input[0]), cut.traced.dims[node.input[0]]

    def held(name: str, place: int) -> list[int] | None:
        values = graph.attribute(node, name)
        values = cut.constant(node, place) if values is None else values
        return None if values is None else [int(value) for value in values]  # type: ignore[attr-defined]

    starts, ends = held("starts", 1), held("ends", 2)
    if starts is None or ends is None:
        return
    axes = [axis % len(sides) for axis in held("axes", 3) or range(len(starts))]
    steps = held("steps", 4) or [1] * len(starts)
    for place, axis in enumerate(axes):
        if axis not in lines:
            continue
        size = int(sides[axis])  # type: ignore[arg-type]
        chosen = chosen_by(starts[place], ends[place], steps[place], size)
        chosen = chosen[lines[axis][chosen]]
        new = np.cumsum(lines[axis])[chosen] - 1
        if new.size == 0:
            continue
        step = int(new[1] - new[0]) if new.size > 1 else 1
        if (np.diff(new) != step).any():
            starts[place], ends[place], steps[place] = 0, int(lines[axis].sum()), 1
            cut.pick(node, axis, new)
            continue
        last = int(new[-1]) + (1 if step > 0 else -1)
        starts[place], ends[place], steps[place] = int(new[0]), last if last >= 0 else -(1 << 40), step
    cut.set(node, "starts", 1, starts)
    cut.set(node, "ends", 2, ends)
    if any(step != 1 for step in steps) or held("steps", 4):
        if len(node.input) < 4 or not node.input[3]:
            cut.set(node, "axes", 3, axes)
        cut.set(node, "steps", 4, steps)


def _gather(cut: _Cut, node: NodeProto) -> None:
    sides = cut.traced.dims[node.input[0]]
    axis = int(graph.attribute(node, "axis", 0)) % len(sides)  # type: ignore[call-overload]
    line, indices = cut.stays(node.input[0], axis), cut.constant(node, 1)
    if line is None or indices is None:
        return
    size = int(sides[axis])  # type: ignore[arg-type]
    for place in range(indices.ndim):
        kept = cut.stays(node.output[0], axis + place)
        if kept is not None:
            indices = np.compress(kept, indices, place)
    cut.set(node, "indices", 1, (np.cumsum(line) - 1)[indices % size])


def _pad(cut: _Cut, node: NodeProto) -> None:
    sides = cut.traced.dims[node.input[0]]
    name = "pads" if graph.attribute(node, "paddings") is None else "paddings"
    held = graph.attribute(node, name)
    pads = [int(side) for side in (cut.constant(node, 1) if held is None else held)]  # type: ignore
    for axis, line in cut.changed(node.output[0]).items():
        before, after = pads[axis], pads[len(sides) + axis]
        pads[axis] = int(line[:before].sum())
        pads[len(sides) + axis] = int(line[line.size - after :].sum()) if after else 0
    cut.set(node, name, 1, pads)


def _resize(cut: _Cut, node: NodeProto) -> None:
    if len(node.input) < 4 or not node.input[3]:
        return
    sizes, rank = cut.constant(node, 3), len(cut.traced.dims[node.input[0]])
    axes = [axis % rank for axis in graph.attribute(node, "axes", range(rank))]  # type: ignore[attr-defined]
    lines = cut.changed(node.output[0])
    entries = {place: int(lines[axis].sum()) for place, axis in enumerate(axes) if axis in lines}
    if sizes is None and entries:
        node.input[3] = cut.patch(node.input[3], entries, len(axes))
    elif sizes is not None and sizes.size:
        cut.set(node, "sizes", 3, [entries.get(place, int(side)) for place, side in enumerate(sizes)])


_MENDS: dict[str, Mend] = {
    **dict.fromkeys(("Conv", "ConvTranspose"), _conv),
    "Reshape": _reshape,
    "Expand": _expand,
    "Shape": _shape,
    "Squeeze": _squeeze,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Pad": _pad,
    "Resize": _resize,
}
