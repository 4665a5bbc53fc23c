"""Which splits of which layers: those of one strength, or the cheapest steps down, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from edgekit.compress.lowrank import factor, moments, refit, splits
from edgekit.compress.lowrank.splits import CHANNEL, DOWN, Layer, Split
from edgekit.compress.lowrank.times import Times
from edgekit.lazy import np

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgekit.compress.lowrank.moments import Moments
    from edgekit.compress.method import Workbench

    Way = tuple[str, int]
    Decision = Mapping[str, Any]

# Ranks of one way of splitting a layer that a search looks at.
MOST_RANKS = 8
# Of two ranks that take as long, the larger one is nearer.
LEVEL = 0.01
# Held-back pictures that single layers are judged on.
JUDGED = 32


@dataclass
class Maker:
    """Makes split models of one model, each from a decision: plain values that a recipe can hold."""

    model: ModelProto
    layers: Sequence[Layer]
    samples: int
    bench: Workbench
    _known: dict[tuple[Layer, Way], Split | None] = field(default_factory=dict)
    _last: tuple[Decision, ModelProto] | None = None  # it is timed, then given out

    @cached_property
    def steps(self) -> list[Step]:
        """The steps down from the whole model; measured at first use."""
        return stairs(self)

    def ways(self, layer: Layer) -> tuple[str, ...]:
        """Give how a layer can be split with what there is room to know of it."""
        has_gram = moments.has_gram(layer, self.bench.max_bytes)
        return tuple(way for way in layer.ways if way == CHANNEL or has_gram)

    def prepare(self, wanted: Mapping[Layer, Sequence[Way]]) -> None:
        """Make the splits that are not known yet; the model is run once for all that fit into memory."""
        missing = {layer: [way for way in ways if (layer, way) not in self._known] for layer, ways in wanted.items()}
        missing = {layer: ways for layer, ways in missing.items() if ways}
        self._known.update({(layer, way): None for layer, ways in missing.items() for way in ways})
        for layer, met in moments.measure(self.model, list(missing), self._feeds, self.samples, self.bench.max_bytes):
            for way in missing[layer]:
                self._known[layer, way] = _split(layer, met, *way)

    def split(self, layer: Layer, way: Way) -> Split | None:
        """Split a layer; None when nothing is known of what it meets."""
        self.prepare({layer: [way]})
        return self._known[layer, way]

    def error(self, layer: Layer, way: Way) -> float:
        """Give the share of the layer's outputs that a split loses."""
        split = self.split(layer, way)
        return split.factors.error if split is not None else 1.0

    def make(self, decision: Decision) -> ModelProto:
        """Give the model of a decision; nobody is to change it."""
        if self._last is None or self._last[0] != decision:
            self._last = decision, self._made(decision)
        return self._last[1]

    def _made(self, decision: Decision) -> ModelProto:
        named = {name: (str(way), int(rank)) for name, (way, rank) in decision["layers"].items()}
        chosen = {layer: named[layer.node] for layer in self.layers if layer.node in named}
        self.prepare({layer: [way] for layer, way in chosen.items()})
        found = {layer.node: self.split(layer, way) for layer, way in chosen.items()}
        halves = {name: split for name, split in found.items() if split is not None}
        made = splits.apply(self.model, halves)
        return refit.refit(self.model, made, list(halves), self._feeds) if decision["refit"] else made

    def _feeds(self) -> Any:
        return self.bench.feeds(self.samples)


def _split(layer: Layer, met: Moments, way: str, rank: int) -> Split:
    if way == CHANNEL or met.gram is None:
        factors = factor.channel(layer.weight, met.spread, rank)
    else:
        factors = factor.spatial(layer.weight, met.gram, rank, down=way == DOWN)
    if not layer.centred:
        return Split(way, factors, None)
    gap = (layer.weight - factors.product()).reshape(len(layer.weight), -1)
    return Split(way, factors, gap @ met.mean)


def decision(ways: Mapping[str, Way], *, refitted: bool = False) -> dict[str, Any]:
    """Put a choice into plain values: the way and the rank of each split layer."""
    return {"layers": {name: list(way) for name, way in ways.items()}, "refit": refitted}


def strong(layer: Layer, ways: Sequence[str], share: float) -> list[Way]:
    """Give for each way of splitting the largest rank that saves `share` of the layer's multiply-adds."""
    found = []
    for way in ways:
        ranks = [rank for rank in layer.ranks(way) if layer.cost(way, rank) <= 1 - share + 1e-9]
        found += [(way, max(ranks))] if ranks else []
    return found


def graded(layer: Layer, ways: Sequence[str]) -> list[Way]:
    """Give for each way of splitting a few ranks, from the smallest to the largest that saves multiply-adds."""
    found: list[Way] = []
    for way in ways:
        ranks = layer.ranks(way)
        places = np.unique(np.linspace(0, len(ranks) - 1, MOST_RANKS).round().astype(int)) if ranks else ()
        found += [(way, ranks[place]) for place in places]
    return found


def uniform(maker: Maker, share: float) -> dict[str, Way]:
    """Give the nearest split of each layer that saves `share` of its multiply-adds and that is faster here."""
    wanted = {layer: strong(layer, maker.ways(layer), share) for layer in maker.layers}
    times = Times.measure(maker.model, wanted, maker.bench)
    paying = {layer: [way for way in ways if times.pays(layer, way)] for layer, ways in wanted.items()}
    maker.prepare(paying)
    return {layer.node: min(ways, key=lambda way: maker.error(layer, way)) for layer, ways in paying.items() if ways}


@dataclass(frozen=True)
class Step:
    """One step down: a layer goes from one split (or none) to a cheaper one.

    saved: the share of the model's time that it saves. gain: that by the noise that it adds.
    """

    layer: Layer
    way: Way
    saved: float
    gain: float


def stairs(maker: Maker) -> list[Step]:
    """Give the steps down from the whole model, those that save most for what they cost first.

    What a split costs is the noise in the model's outputs: that of one split of the layer is measured, and taken to
    grow as the share of the layer's own outputs that is lost.
    """
    wanted = {layer: graded(layer, maker.ways(layer)) for layer in maker.layers}
    times = Times.measure(maker.model, wanted, maker.bench)
    whole = times.whole(maker.layers)
    paying = {
        layer: [way for way in _on_stairs(layer, ways, times) if times.pays(layer, way)]
        for layer, ways in wanted.items()
    }
    maker.prepare(paying)
    found: list[Step] = []
    for layer, ways in paying.items():
        if ways:
            points = [(times.saved(layer, way) / whole, way) for way in ways]
            found += _hull(layer, points, _noises(maker, layer, ways))
    return sorted(found, key=lambda step: -step.gain)


def _on_stairs(layer: Layer, ways: Sequence[Way], times: Times) -> list[Way]:
    """Leave out ranks when a larger one of the same way takes no longer."""

    def beaten(way: str, rank: int) -> bool:
        most = times.share(layer, (way, rank)) + LEVEL
        return any(way == other and more > rank and times.share(layer, (way, more)) <= most for other, more in ways)

    return [each for each in ways if not beaten(*each)]


def _noises(maker: Maker, layer: Layer, ways: Sequence[Way]) -> list[float]:
    """Give the noise in the model's outputs, as a share of them, that each split of a layer makes."""
    errors = [maker.error(layer, way) for way in ways]
    middle = sorted(range(len(ways)), key=lambda place: errors[place])[len(ways) // 2]
    made = maker.make(decision({layer.node: ways[middle]}))
    measured = 10 ** (-maker.bench.drift(maker.model, made, JUDGED).sqnr_db / 10)
    return [measured * error / max(errors[middle], 1e-12) for error in errors]


def _hull(layer: Layer, points: Sequence[tuple[float, Way]], noises: Sequence[float]) -> list[Step]:
    """Give the steps along the convex hull of time saved over noise, so that each gains less than the one before."""
    rest = [(saved, noise, way) for (saved, way), noise in zip(points, noises, strict=True)]
    steps, reached, noise = [], 0.0, 0.0
    while further := [point for point in rest if point[0] > reached]:
        gains = [(more - reached) / max(louder - noise, 1e-12) for more, louder, _ in further]
        best = max(range(len(further)), key=lambda place: gains[place])
        steps.append(Step(layer, further[best][2], further[best][0] - reached, gains[best]))
        reached, noise, _ = further[best]
    return steps


def taken(steps: Sequence[Step]) -> dict[str, Way]:
    """Give the splits after these steps, in the order in which layers were first split."""
    return {step.layer.node: step.way for step in steps}


def reaching(steps: Sequence[Step], share: float) -> int:
    """Give how many of the steps save this share of the time; all of them when they do not."""
    saved = 0.0
    for count, step in enumerate(steps, 1):
        saved += step.saved
        if saved >= share:
            return count
    return len(steps)


def furthest(count: int, accepted: Callable[[int], bool], first: int = 0) -> int:
    """Give the largest number from `first` (known to be accepted) to `count` that is, taken that more costs more."""
    low, high = first, count
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if accepted(middle) else (low, middle - 1)
    return low


def saved(layers: Sequence[Layer], ways: Mapping[str, Way]) -> float:
    """Give the share of the multiply-adds that split layers save, positions of all layers counted alike."""
    split = [layer for layer in layers if layer.node in ways]
    whole = sum(layer.weight.size for layer in split)
    return float(sum(layer.weight.size * (1 - layer.cost(*ways[layer.node])) for layer in split) / max(1, whole))
