"""Which nodes to run in 8 bits: the choice that costs least, found exactly from the times of nodes in both forms.

Every node has a time in float and a time in 8 bits, and every value that goes from one form to the other costs its
conversion. Choosing a form for each node so that the sum is least is a minimum cut (Greig, Porteous and Seheult 1989,
J. R. Stat. Soc. B 51:271): one side of the cut is 8 bits, the other float. A price on a node's noise, added to its time
in 8 bits, gives the choices that are fastest for their noise, price by price.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress.quantize import ranges

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from onnx import ModelProto

    from edgekit.compress.method import Feed, Workbench

# Nanoseconds a number, to 8 bits and back, with the change between onnxruntime's blocked and its NHWC layout (measured
# with AVX512; with half or double as much the model of the cut was as fast within 1 %).
INTO, OUT_OF = 0.52, 0.50
# They run in 8 bits only when all they read is.
JOINING = (
    *("Add", "Mul", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "Reshape", "Flatten"),
    *("Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Pad", "Sigmoid", "LeakyRelu", "HardSwish", "HardSigmoid"),
)
# Alone behind a node, they are of one form with it.
_FOLLOWING = ("Relu", "Clip", "LeakyRelu", "HardSwish", "HardSigmoid", "Sigmoid")
_ENDLESS = 1 << 60


@dataclass(frozen=True)
class Times:
    """What nodes cost: `plain` and `eight`, microseconds by name in float and in 8 bits, absent ones nothing.

    sizes: how many numbers each value holds, constants left out.
    """

    plain: Mapping[str, float]
    eight: Mapping[str, float]
    sizes: Mapping[str, int]

    @classmethod
    def measure(cls, model: ModelProto, quantized: ModelProto, bench: Workbench) -> Times:
        """Time the nodes of a float model, and of the same with everything in 8 bits that can be."""
        feed = next(iter(bench.feeds(1)))
        return cls.of(model, feed, bench.node_times(model), bench.node_times(quantized))

    @classmethod
    def of(cls, model: ModelProto, feed: Feed, plain: Mapping[str, float], eight: Mapping[str, float]) -> Times:
        """Give what the nodes of a float model cost, their values as large as for this input."""
        constant = graph.initializers(model)
        counts = {name: int(array.size) for name, array in feed.items()}
        counts |= {name: size // 4 for name, size in ranges.sizes(model, feed).items() if name not in constant}
        return cls(plain, eight, counts)

    def priced(self, noise: Mapping[str, float], price: float) -> Times:
        """Add the price of its noise (relative to the outputs' power) to each node's time in 8 bits.

        price: of noise as large as the output, in times of the whole float model.
        """
        unit = price * sum(self.plain.values())
        eight = {name: self.eight.get(name, 0.0) + unit * noise.get(name, 0.0) for name in {**self.eight, **noise}}
        return replace(self, eight=eight)


def cheapest(model: ModelProto, able: Iterable[str], times: Times) -> set[str]:
    """Give the names of the nodes, among those `able` to, whose running in 8 bits makes the whole cheapest."""
    able, plain, eight, sizes = set(able), times.plain, times.eight, times.sizes
    group = groups(model)
    makers, readers = graph.producers(model), graph.consumers(model)
    # What is cut off from "8 bits" runs in float, and the edges cut are what is paid.
    net = _Network()
    for name, root in group.items():
        net.edge("8 bits", ("node", root), _picoseconds(plain.get(name, 0.0)))
        net.edge(("node", root), "float", _picoseconds(eight.get(name, 0.0)) if name in able else _ENDLESS)
    for value, size in sizes.items():
        maker = ("node", group[makers[value].name]) if value in makers else None
        others = {("node", group[node.name]) for node in readers.get(value, [])} - {maker}
        net.edge(("into", value), maker or "float", round(1000 * INTO * size))
        if maker:
            net.edge(maker, ("out of", value), round(1000 * OUT_OF * size))
        for reader in sorted(others):
            net.edge(reader, ("into", value), _ENDLESS)
            net.edge(("out of", value), reader, _ENDLESS)
    for node in model.graph.node:
        for value in node.input if node.op_type in JOINING else ():
            if value in sizes and value in makers:
                net.edge(("node", group[node.name]), ("node", group[makers[value].name]), _ENDLESS)
    inside = net.side("8 bits", "float")
    return {name for name, root in group.items() if ("node", root) in inside}


def groups(model: ModelProto) -> dict[str, str]:
    """Give for each node, by name, the one whose form it shares: that before an activation, a SiLU included."""
    readers = graph.consumers(model)
    found = {node.name: node.name for node in model.graph.node}
    for node in model.graph.node:
        after = [reader for name in node.output for reader in readers.get(name, [])]
        silu = sorted(reader.op_type for reader in after) == ["Mul", "Sigmoid"]
        if silu or (len(after) == 1 and after[0].op_type in _FOLLOWING):
            for reader in after:
                found[reader.name] = found[node.name]
    return found


def _picoseconds(microseconds: float) -> int:
    return min(_ENDLESS, round(1e6 * min(microseconds, 1e9)))  # what is not finite makes endless noise


class _Network:
    """A flow network, its maximum flow by Dinic's algorithm (1970).

    Capacities are whole numbers (picoseconds), which make the cut the same everywhere.
    """

    def __init__(self) -> None:
        self._left: dict[object, dict[object, int]] = {}

    def edge(self, start: object, end: object, capacity: int) -> None:
        """Add capacity from `start` to `end`."""
        if start == end:
            return
        onwards = self._left.setdefault(start, {})
        onwards[end] = onwards.get(end, 0) + capacity
        self._left.setdefault(end, {}).setdefault(start, 0)

    def side(self, source: object, sink: object) -> set[object]:
        """Give what stays joined to `source` when it is cut from `sink` at the least cost."""
        while sink in (levels := self._levels(source)):
            ways = {place: iter(list(onwards)) for place, onwards in self._left.items()}
            while self._push(source, sink, levels, ways):
                pass
        return set(levels)

    def _levels(self, source: object) -> dict[object, int]:
        levels, waiting = {source: 0}, deque([source])
        while waiting:
            place = waiting.popleft()
            for end, left in self._left.get(place, {}).items():
                if left and end not in levels:
                    levels[end] = levels[place] + 1
                    waiting.append(end)
        return levels

    def _push(
        self, source: object, sink: object, levels: dict[object, int], ways: dict[object, Iterator[object]]
    ) -> bool:
        """Send as much as fits along one shortest way; tell whether there was one."""
        path = [source]
        while path[-1] != sink:
            place = path[-1]
            for end in ways[place]:
                if self._left[place][end] and levels.get(end) == levels[place] + 1:
                    path.append(end)
                    break
            else:
                if len(path) == 1:
                    return False
                # A dead end: nothing leads on from here at these levels.
                levels[path.pop()] = -1
        steps = list(pairwise(path))
        most = min(self._left[start][end] for start, end in steps)
        for start, end in steps:
            self._left[start][end] -= most
            self._left[end][start] += most
        # Edges that are not full may serve again.
        for start, _ in steps:
            ways[start] = iter(list(self._left[start]))
        return True
