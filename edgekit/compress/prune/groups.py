"""Groups of channels that can only be pruned together, found on the graph alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress.prune.branches import Branches
from edgekit.compress.prune.labels import Labels
from edgekit.compress.prune.moves import MOVING
from edgekit.compress.prune.prepare import prepared_with_sides
from edgekit.compress.prune.rules import COMPUTING
from edgekit.compress.prune.trace import Reading, Tracer
from edgekit.lazy import np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import ModelProto

    from edgekit.compress.prune.sides import Dims


@dataclass(frozen=True)
class Place:
    """An axis of a constant along which channels of a group lie.

    `channels`: int64, one entry per index of the axis: the group's channel there, -1 where it is none of this group.
    """

    constant: str
    axis: int
    channels: np.ndarray


@dataclass(frozen=True)
class Reader:
    """A node that sums over the channels: Conv, ConvTranspose, Gemm, MatMul, with constant weights.

    `channels`: int64, per index of that axis of the value (C*H*W entries after Flatten): the channel, -1: none of this
    group. `weight`: the input axis of its weight.
    """

    node: str
    value: str
    axis: int
    channels: np.ndarray
    weight: Place


@dataclass(frozen=True)
class Group:
    """Channels that are made, carried and read together.

    `name`: of the node that makes them first. `size`: channels, the smallest units that can go singly; a head of
    attention or a whole group of a convolution is one. `makers`: nodes whose weights' output axis they are, in graph
    order. `places`: all constants that get shorter. `removable`: whether all channels may go, because what reads them
    then only adds a constant. `parts`: sets of channels (int64) of which one each must stay, unless the whole
    group goes.
    """

    name: str
    size: int
    makers: tuple[str, ...]
    readers: tuple[Reader, ...]
    places: tuple[Place, ...]
    removable: bool
    parts: tuple[np.ndarray, ...] = ()

    def may_go(self, gone: Sequence[int] | np.ndarray) -> bool:
        """Tell whether these channels may go at once."""
        if np.unique(np.asarray(gone, np.int64)).size == self.size:
            return self.removable
        return not any(np.isin(part, gone).all() for part in self.parts)


@dataclass(frozen=True)
class Frozen:
    """Channels that have to stay, and why: a few plain words."""

    name: str
    size: int
    reason: str


@dataclass(frozen=True)
class Groups:
    """What was found in a model."""

    groups: tuple[Group, ...]
    frozen: tuple[Frozen, ...]


@dataclass(frozen=True)
class Traced:
    """A prepared model, its groups, and the labels that each of its values and constants has along each axis.

    `channels`: the label of each channel of each group. Labels are int64, 0 for what stays.
    """

    model: ModelProto
    groups: Groups
    axes: dict[str, dict[int, np.ndarray]]
    channels: dict[str, np.ndarray]
    dims: dict[str, Dims]
    readings: tuple[Reading, ...]


def find_groups(model: ModelProto) -> Groups:
    """Find the groups of channels of a model that can be pruned, and those that cannot.

    The names of constants and nodes are those of `prepare.prepared(model)`, which leaves a simplified model's names as
    they are. What is not understood, or leads to the model's outputs, is frozen; so is all of a quantised model.
    """
    return trace(model).groups


def trace(model: ModelProto) -> Traced:
    """Find the groups, with what `surgery` needs to prune them."""
    model, sides = prepared_with_sides(model)
    tracer = Tracer(model, sides, {**COMPUTING, **MOVING})
    for node in model.graph.node:
        tracer.visit(node)
    if graph.is_quantized(model):
        tracer.labels.freeze(np.concatenate([np.zeros(0, np.int64), *(labels for _, labels in tracer.makers)]), "")
        tracer.labels.reasons = ["the model is quantised already"] * len(tracer.labels.reasons)
    axes = tracer.close()
    return _grouped(model, tracer, axes)


def _grouped(model: ModelProto, tracer: Tracer, axes: dict[str, dict[int, np.ndarray]]) -> Traced:
    """Gather the labels that lie along one axis of some weights into groups."""
    makers = [(name, tracer.labels.free(labels)) for name, labels in tracer.makers]
    families = _families(len(tracer.labels.parents), [(name, free[free > 0]) for name, free in makers])
    # Of each label: its group, and its channel there; the channels are in the order in which the makers have them.
    homes, numbers = (np.full(len(tracer.labels.parents), -1, np.int64) for _ in range(2))
    names, channels, taken = [], [], set()  # type: tuple[list[str], list[np.ndarray], set[str]]
    for home, family in enumerate(families):
        order = _in_order(np.concatenate([labels for _, labels in family]))
        homes[order], numbers[order] = home, np.arange(order.size)
        names.append(graph.fresh_name(family[0][0], taken))
        channels.append(order)
    readers, places = _readers(tracer, axes, homes, numbers), _places(tracer, axes, homes, numbers)
    parts = _parts(axes, channels, homes, numbers)
    groups, frozen = [], _frozen(tracer)
    for home, family in enumerate(families):
        name, size = names[home], channels[home].size
        if size < 2 or home not in readers:
            frozen.append(Frozen(name, size, "a single channel" if home in readers else "nothing sums over them"))
            continue
        made = tuple(dict.fromkeys(maker for maker, _ in family))
        groups.append(
            Group(name, size, made, tuple(readers[home]), tuple(places[home]), False, tuple(parts.get(home, ())))
        )
    lost = _lost(tracer, axes, homes)
    branches = Branches(model, tracer.dims)
    groups = [
        replace(group, removable=_may_go(tracer, branches, lost.get(names.index(group.name)))) for group in groups
    ]
    known = dict(zip(names, channels, strict=True))
    known = {g.name: known[g.name] for g in groups}
    return Traced(model, Groups(tuple(groups), tuple(frozen)), axes, known, tracer.dims, tuple(tracer.readings))


def _may_go(tracer: Tracer, branches: Branches, lost: set[str] | None) -> bool:
    return lost is not None and branches.may_go(
        lost, {reading.node for reading in tracer.readings if reading.value in lost}
    )


def _lost(tracer: Tracer, axes: dict[str, dict[int, np.ndarray]], homes: np.ndarray) -> dict[int, set[str]]:
    """Give, for each group whose channels meet those of no other, the values that consist of them alone."""
    found: dict[int, set[str]] = {}
    mixed: set[int] = set()
    for name, lines in axes.items():
        for labels in lines.values() if name not in tracer.tensors else ():
            owners = np.unique(homes[labels]).tolist()
            if len(owners) == 1:
                found.setdefault(owners[0], set()).add(name)
            else:
                mixed.update(owners)
    return {home: names for home, names in found.items() if home not in mixed}


def _families(count: int, makers: list[tuple[str, np.ndarray]]) -> list[list[tuple[str, np.ndarray]]]:
    """Put makers together that share labels, in the order of their first nodes."""
    linked = Labels()
    linked.fresh(count - 1)
    makers = [(name, labels) for name, labels in makers if labels.size]
    for _, labels in makers:
        linked.unite(labels, np.broadcast_to(labels[:1], labels.shape), "")
    found: dict[int, list[tuple[str, np.ndarray]]] = {}
    for name, labels in makers:
        found.setdefault(int(linked.roots(labels[:1])[0]), []).append((name, labels))
    return list(found.values())


def _in_order(labels: np.ndarray) -> np.ndarray:
    """Give each label once, in the order of first appearance."""
    values, first = np.unique(labels, return_index=True)
    return values[np.argsort(first)]


def _frozen(tracer: Tracer) -> list[Frozen]:
    kept = []
    for name, labels in tracer.makers:
        roots = tracer.labels.roots(labels)
        kept.append((name, roots[tracer.labels.kept(roots)]))
    return [
        Frozen(family[0][0], family[0][1].size, tracer.labels.reason(int(family[0][1][0])))
        for family in _families(len(tracer.labels.parents), kept)
    ]


def _readers(
    tracer: Tracer, axes: dict[str, dict[int, np.ndarray]], homes: np.ndarray, numbers: np.ndarray
) -> dict[int, list[Reader]]:
    found: dict[int, list[Reader]] = {}
    for reading in tracer.readings:
        labels = tracer.labels.free(reading.labels)
        columns = axes[reading.weight].get(reading.weight_axis, np.zeros(1, np.int64))
        for home in _present(homes[labels]):
            place = Place(reading.weight, reading.weight_axis, _of(columns, home, homes, numbers))
            channels = _of(labels, home, homes, numbers)
            found.setdefault(home, []).append(Reader(reading.node, reading.value, reading.axis, channels, place))
    return found


def _places(
    tracer: Tracer, axes: dict[str, dict[int, np.ndarray]], homes: np.ndarray, numbers: np.ndarray
) -> dict[int, list[Place]]:
    found: dict[int, list[Place]] = {}
    for name in tracer.tensors:
        for axis, labels in sorted(axes.get(name, {}).items()):
            for home in _present(homes[labels]):
                found.setdefault(home, []).append(Place(name, axis, _of(labels, home, homes, numbers)))
    return found


def _present(homes: np.ndarray) -> list[int]:
    return [int(home) for home in np.unique(homes) if home >= 0]


def _of(labels: np.ndarray, home: int, homes: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    return np.where(homes[labels] == home, numbers[labels], -1)


def _parts(
    axes: dict[str, dict[int, np.ndarray]], channels: list[np.ndarray], homes: np.ndarray, numbers: np.ndarray
) -> dict[int, list[np.ndarray]]:
    """Give the sets of channels that some value consists of: were they all to go, it would be empty."""
    found: dict[int, dict[bytes, np.ndarray]] = {}
    for labels in (labels for lines in axes.values() for labels in lines.values()):
        if (homes[labels] < 0).any():
            continue
        labels = np.unique(labels)
        own, counts = np.unique(homes[labels], return_counts=True)
        if any(count == channels[home].size for home, count in zip(own, counts, strict=True)):
            continue
        most = int(own[np.argmax(counts)])
        part = np.sort(numbers[labels[homes[labels] == most]])
        found.setdefault(most, {})[part.tobytes()] = part
    return {home: list(parts.values()) for home, parts in found.items()}
