"""Pairs of Transposes around operators that work on each value by itself, taken away.

Models that were made for channels last come with them. onnxruntime moves and cancels Transposes too, but after the
conversions to 8 bits have been put between a convolution and its activation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress.shapes import inferred
from edgekit.lazy import np, onnx

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from onnx import ModelProto, NodeProto, TensorProto

    from edgekit.compress.shapes import Shape

    Perm = tuple[int, ...]

_UNARY = (
    "Relu",
    "Clip",
    "LeakyRelu",
    "Sigmoid",
    "Tanh",
    "HardSwish",
    "HardSigmoid",
    "Elu",
    "Exp",
    "Sqrt",
    "Abs",
    "Neg",
)
_JOINING = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Sum", "PRelu")


@dataclass(frozen=True)
class Wiring:
    """A graph as it stands, for one change."""

    model: ModelProto
    sides: Mapping[str, Shape]
    tensors: Mapping[str, TensorProto]
    makers: Mapping[str, NodeProto]
    readers: Mapping[str, list[NodeProto]]
    shown: set[str]

    @classmethod
    def of(cls, model: ModelProto, sides: Mapping[str, Shape]) -> Wiring:
        """Read the graph."""
        tensors, makers = graph.initializers(model), graph.producers(model)
        return cls(model, sides, tensors, makers, graph.consumers(model), graph.outputs(model))

    def rank(self, name: str) -> int:
        """Give the number of axes; -1 when it is not known."""
        return len(self.sides[name]) if name in self.sides else -1

    def values(self, node: NodeProto) -> list[str]:
        """Give the inputs that are no constants."""
        return [name for name in node.input if name and name not in self.tensors]

    def is_movable(self, node: NodeProto) -> bool:
        """Tell whether a node does the same to values in another layout (its constants and its axis in that too)."""
        if node.op_type not in (*_UNARY, *_JOINING, "Concat") or len(node.output) != 1:
            return False
        rank = self.rank(node.output[0])
        ranks = [self.rank(name) for name in self.values(node)]
        held = [len(self.tensors[name].dims) for name in node.input if name in self.tensors]
        if node.op_type == "Concat" and any(axes != rank for axes in held):
            return False
        return rank > 1 and bool(ranks) and set(ranks) == {rank} and max(held, default=0) <= rank


def cancel(model: ModelProto) -> None:
    """Join Transposes of Transposes, and move others through what lies between where that leaves fewer, in place."""
    if not any(node.op_type == "Transpose" for node in model.graph.node):
        return
    while _join(model) or _move(model):
        graph.sort(model)
        graph.remove_dead(model)


def _join(model: ModelProto) -> bool:
    makers, shown = graph.producers(model), graph.outputs(model)
    for node in model.graph.node:
        if node.op_type != "Transpose":
            continue
        perm, before = _perm(node), makers.get(node.input[0])
        inner = _perm(before) if before is not None and before.op_type == "Transpose" else None
        if perm is not None and list(perm) == sorted(perm) and node.output[0] not in shown:
            graph.rename_reads(model, node.output[0], node.input[0])
            graph.remove_nodes(model, [node])
            return True
        if perm is not None and inner is not None and before is not None and len(perm) == len(inner):
            node.input[0] = before.input[0]
            _set_perm(node, tuple(inner[axis] for axis in perm))
            return True
    return False


def _perm(node: NodeProto) -> Perm | None:
    held: list[int] | None = graph.attribute(node, "perm")  # type: ignore[assignment]
    return tuple(held) if held else None


def _set_perm(node: NodeProto, perm: Perm) -> None:
    next(entry for entry in node.attribute if entry.name == "perm").ints[:] = perm


def _inverse(perm: Perm) -> Perm:
    return tuple(int(axis) for axis in np.argsort(perm))


def _move(model: ModelProto) -> bool:
    wiring = Wiring.of(model, inferred(model)[0])
    for region in _regions(wiring):
        for perm in _perms(wiring, region):
            if _gain(wiring, region, perm) > 0:
                _rewrite(wiring, region, perm)
                return True
    return False


def _regions(wiring: Wiring) -> Iterator[list[NodeProto]]:
    """Give the movable nodes, those together that read each other."""
    movable = {node.name: node for node in wiring.model.graph.node if wiring.is_movable(node)}
    seen: set[str] = set()
    for first in movable:
        if first in seen:
            continue
        seen.add(first)
        found, waiting = {first}, [first]
        while waiting:
            node = movable[waiting.pop()]
            near = [wiring.makers[name] for name in wiring.values(node) if name in wiring.makers]
            near += wiring.readers.get(node.output[0], [])
            new = [other.name for other in near if other.name in movable and other.name not in seen]
            seen.update(new)
            found.update(new)
            waiting += new
        yield [node for node in wiring.model.graph.node if node.name in found]


def _fed(wiring: Wiring, region: list[NodeProto]) -> list[str]:
    """Give the values that a region reads and does not make."""
    made = {node.output[0] for node in region}
    return list(dict.fromkeys(name for node in region for name in wiring.values(node) if name not in made))


def _perms(wiring: Wiring, region: list[NodeProto]) -> list[Perm]:
    makers = [wiring.makers[name] for name in _fed(wiring, region) if name in wiring.makers]
    rank = wiring.rank(region[0].output[0])
    found = [_perm(maker) for maker in makers if maker.op_type == "Transpose"]
    return [perm for perm in dict.fromkeys(found) if perm is not None and len(perm) == rank]


def _moved_away(wiring: Wiring, name: str, perm: Perm) -> NodeProto | None:
    """Give the Transpose that makes a value, if it is this one."""
    maker = wiring.makers.get(name)
    return maker if maker is not None and maker.op_type == "Transpose" and _perm(maker) == perm else None


def _outside(wiring: Wiring, region: list[NodeProto], name: str) -> list[NodeProto]:
    names = {node.name for node in region}
    return [reader for reader in wiring.readers.get(name, []) if reader.name not in names]


def _undone(wiring: Wiring, region: list[NodeProto], name: str, perm: Perm) -> list[NodeProto]:
    """Give the Transposes behind a value of a region that undo `perm`, and that it does not read itself."""
    return [
        reader
        for reader in _outside(wiring, region, name)
        if reader.op_type == "Transpose"
        and _perm(reader) == _inverse(perm)
        and reader.output[0] not in wiring.shown
        and not any(reader.output[0] in node.input for node in region)
    ]


def _gain(wiring: Wiring, region: list[NodeProto], perm: Perm) -> int:
    """Count how many Transposes fewer there are when a region works on values before this one."""
    gain = 0
    for name in _fed(wiring, region):
        if _moved_away(wiring, name, perm) is None:
            gain -= 1
        elif not _outside(wiring, region, name) and name not in wiring.shown:
            gain += 1
    for node in region:
        outside = _outside(wiring, region, node.output[0])
        undone = _undone(wiring, region, node.output[0], perm)
        gain += len(undone) - (len(outside) > len(undone) or node.output[0] in wiring.shown)
    return gain


def _rewrite(wiring: Wiring, region: list[NodeProto], perm: Perm) -> None:
    model, back = wiring.model, _inverse(perm)
    taken, names = graph.tensor_names(model), {node.name for node in model.graph.node}
    moved: dict[str, str] = {}

    def transpose(source: str, made: str, order: Perm) -> NodeProto:
        name = graph.fresh_name(f"{made}_transpose", names)
        return onnx.helper.make_node("Transpose", [source], [made], name, perm=order)

    added, gone = [], []
    for name in _fed(wiring, region):
        maker = _moved_away(wiring, name, perm)
        moved[name] = maker.input[0] if maker is not None else graph.fresh_name(f"{name}_moved", taken)
        if maker is None:
            added.append(transpose(name, moved[name], back))
    for node in region:
        old = node.output[0]
        moved[old] = graph.fresh_name(f"{old}_moved", taken)
        outside = _outside(wiring, region, old)
        undone = _undone(wiring, region, old, perm)
        for reader in undone:
            graph.rename_reads(model, reader.output[0], moved[old])
        gone += undone
        if len(outside) > len(undone) or old in wiring.shown:
            added.append(transpose(moved[old], old, perm))
    rank = len(perm)
    for node in region:
        for place, name in enumerate(node.input):
            if name in wiring.tensors:
                node.input[place] = _moved_constant(wiring, name, back, taken)
            elif name:
                node.input[place] = moved.get(name, name)
        node.output[0] = moved[node.output[0]]
        for entry in node.attribute if node.op_type == "Concat" else ():
            entry.i = perm[entry.i % rank]
    graph.remove_nodes(model, gone)
    model.graph.node.extend(added)


def _moved_constant(wiring: Wiring, name: str, back: Perm, taken: set[str]) -> str:
    values = graph.array(wiring.tensors[name])
    if values.size == 1 and values.ndim < 2:
        return name
    wide = values.reshape((1,) * (len(back) - values.ndim) + values.shape)
    made = graph.fresh_name(f"{name}_moved", taken)
    turned = np.ascontiguousarray(wide.transpose(back))
    wiring.model.graph.initializer.append(onnx.numpy_helper.from_array(turned, made))
    return made
