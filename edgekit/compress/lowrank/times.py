"""What splits of a layer cost on this CPU: all of them beside the layer itself, in one graph, timed together.

Each form of layer (weight, strides, sides of its input) is timed once, where it stands: on the values it meets there,
in the layout that onnxruntime keeps them in. What a recipe or the cache knows is not measured again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress.lowrank import splits
from edgekit.compress.lowrank.factor import Factors
from edgekit.compress.lowrank.splits import CHANNEL, DOWN, Layer, Split
from edgekit.lazy import np, onnx

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgekit.compress.method import Workbench

    Way = tuple[str, int]

# Splits in one graph: more would crowd one another out of the processor's caches.
MOST_TOGETHER = 120
# Of the memory, what the weights of one such graph may take.
WEIGHTS_SHARE = 4
# A split has to take less than this share of the layer's time to be worth trying: what runs between nodes costs too.
PAYS = 0.9


class Times:
    """Shares of a layer's own time that its splits take, by the layer's shape, then by (way, rank).

    `found` None: no time can be known here, and multiply-adds stand for it. `own`: microseconds of each node.
    """

    def __init__(
        self, found: Mapping[tuple[object, ...], Mapping[Way, float]] | None, own: Mapping[str, float]
    ) -> None:
        self._found, self._own = found, own

    @classmethod
    def measure(cls, model: ModelProto, wanted: Mapping[Layer, Sequence[Way]], bench: Workbench) -> Times:
        """Time these splits, as long as there is time; nothing on a machine that the model is not for."""
        if bench.foreign:
            return cls(None, {})
        shapes: dict[tuple[object, ...], tuple[Layer, list[Way]]] = {}
        for layer, ways in wanted.items():
            known = shapes.setdefault(layer.shape, (layer, []))[1]
            known += [way for way in ways if way not in known]
        found: dict[tuple[object, ...], dict[Way, float]] = {}
        timed = [entry for entry in shapes.values() if entry[1]]
        for some in _together(timed, bench.max_bytes // WEIGHTS_SHARE):
            if found and not bench.has_time():
                break
            for (layer, ways), shares in zip(some, _shares(model, some, bench), strict=True):
                found[layer.shape] = dict(zip(ways, shares, strict=True))
        return cls(found, bench.node_times(model) if found else {})

    def share(self, layer: Layer, way: Way) -> float:
        """Give what a split takes, as a share of the layer's own time; all of it where it was not timed."""
        return layer.cost(*way) if self._found is None else self._found.get(layer.shape, {}).get(way, 1.0)

    def saved(self, layer: Layer, way: Way) -> float:
        """Give what a split saves, in microseconds; where no time can be known, in multiply-adds of one position."""
        return (1 - self.share(layer, way)) * self._of(layer)

    def whole(self, layers: Sequence[Layer]) -> float:
        """Give what all nodes take, in microseconds; where no time can be known, the multiply-adds of these layers."""
        return max(sum(self._of(layer) for layer in layers) if self._found is None else sum(self._own.values()), 1e-9)

    def _of(self, layer: Layer) -> float:
        return layer.weight.size if self._found is None else self._own.get(layer.node, 0.0)

    def pays(self, layer: Layer, way: Way) -> bool:
        """Tell whether a split is worth trying."""
        return self.share(layer, way) < PAYS


def _together(wanted: Sequence[tuple[Layer, list[Way]]], max_bytes: int) -> list[list[tuple[Layer, list[Way]]]]:
    rows: list[list[tuple[Layer, list[Way]]]] = []
    for entry in wanted:
        both = [*(rows[-1] if rows else []), entry]
        held = sum(4 * layer.weight.size * len(ways) for layer, ways in both)
        if rows and sum(len(ways) for _, ways in both) <= MOST_TOGETHER and held <= max_bytes:
            rows[-1].append(entry)
        else:
            rows.append([entry])
    return rows


def _shares(model: ModelProto, wanted: Sequence[tuple[Layer, list[Way]]], bench: Workbench) -> list[list[float]]:
    """Time splits of some layers beside the layers themselves, or take the shares from the cache."""

    def measured() -> dict[str, np.ndarray]:
        beside, names = _beside(model, wanted)
        times = bench.node_times(beside)
        rows = [[sum(times.get(name, 0.0) for name in each) for each in row] for row in names]
        # A node that was not seen to run tells nothing: such a split is taken to cost what the layer does.
        shares = [[each / row[0] if row[0] > 0 and each > 0 else 1.0 for each in row[1:]] for row in rows]
        return {"shares": np.array([share for row in shares for share in row])}

    key = json.dumps(["low rank", bench.form, [(layer.shape, ways) for layer, ways in wanted]])
    flat = iter(bench.remember(key, measured)["shares"].tolist())
    return [[next(flat) for _ in ways] for _, ways in wanted]


def _beside(
    model: ModelProto, wanted: Sequence[tuple[Layer, list[Way]]]
) -> tuple[ModelProto, list[list[tuple[str, ...]]]]:
    """Give the model with a copy of each layer and all its splits beside it; and the names of each one's nodes."""
    made = graph.copy(model)
    nodes, tensors = {node.name: node for node in made.graph.node}, graph.initializers(model)
    taken, values = set(nodes), graph.tensor_names(made)
    names: list[list[tuple[str, ...]]] = []
    halves: dict[str, Split] = {}
    for layer, ways in wanted:
        row: list[tuple[str, ...]] = []
        for way in (None, *ways):
            copy = onnx.NodeProto.FromString(nodes[layer.node].SerializeToString())
            copy.name = graph.fresh_name(f"{layer.node}_timed", taken)
            copy.input[1] = graph.fresh_name(f"{layer.read.weight}_timed", values)
            copy.output[0] = graph.fresh_name(f"{layer.node}_timed", values)
            made.graph.node.append(copy)
            tensor = made.graph.initializer.add()
            tensor.CopyFrom(tensors[layer.read.weight])
            tensor.name = copy.input[1]
            made.graph.output.append(onnx.ValueInfoProto(name=copy.output[0]))
            row.append((copy.name, f"{copy.name}{splits.SUFFIX}") if way else (copy.name,))
            if way:
                halves[copy.name] = Split(way[0], _any_factors(layer, *way), None)
        names.append(row)
    return splits.apply(made, halves), names


def _any_factors(layer: Layer, way: str, rank: int) -> Factors:
    o, c, kh, kw = layer.weight.shape
    first, second = {CHANNEL: ((kh, kw), (1, 1)), DOWN: ((kh, 1), (1, kw))}.get(way, ((1, kw), (kh, 1)))
    rng = np.random.default_rng(0)
    shapes = (rank, c, *first), (o, rank, *second)
    return Factors(rng.standard_normal(shapes[0]) / c, rng.standard_normal(shapes[1]) / c, 0.0)
