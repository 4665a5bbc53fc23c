"""Refit: layer after layer, weights by least squares from what the pruned net hands on to what the original makes.

`repair.fold` looks at one group in the original. Here every layer at or behind a change is fitted in turn, reading what
the layers before, pruned and fitted already, really make; moves are regularised towards the weights there are (He et
al., arXiv 1707.06168, without their channel selection). Where a layer's output is added to another value, the goal is
the original's sum less the other value as it is now: so a branch takes back what its stream has lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress.prune.columns import Layer, layers, write
from edgekit.compress.prune.score import RIDGE, damped
from edgekit.lazy import np
from edgekit.session import open_session, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from onnx import ModelProto

    from edgekit.compress.method import Workbench

    Feed = Mapping[str, np.ndarray]

# Places of one feed that are summed over.
PLACES = 256
# A layer's sums take this share of the memory at most.
SHARE = 8
# Layers are tried one by one, and each is judged; of deeper nets those that come last.
MOST_LAYERS = 64


def refit(
    original: ModelProto, pruned: ModelProto, bench: Workbench, samples: int = 256, ridge: float = RIDGE
) -> ModelProto:
    """Give the pruned model with layers fitted to the original; itself when no fit brings it nearer.

    Values of the two models with one name are taken for the same; a layer whose output has another shape than in the
    original, or whose sums do not fit into the memory, stays as it is, and so does one whose fit does not bring the
    answers on held-back pictures nearer. Weights that are zero stay zero where a whole column is.
    """
    current = pruned
    reached = bench.drift(original, current).sqnr_db
    for layer in changed(original, pruned)[-MOST_LAYERS:]:
        tried = fitted(original, current, layer, bench.feeds(samples), bench.max_bytes // SHARE, ridge)
        if tried is None:
            continue
        after = bench.drift(original, tried).sqnr_db
        if after > reached:
            current, reached = tried, after
    return current


def changed(original: ModelProto, pruned: ModelProto) -> list[Layer]:
    """Give the layers of the pruned model at or behind a constant that is another than in the original."""
    before, now = graph.initializers(original), graph.initializers(pruned)
    new = {
        name for name in now if name not in before or now[name].SerializeToString() != before[name].SerializeToString()
    }
    known = layers(pruned)
    found = []
    for node in pruned.graph.node:
        if graph.reads(node) & new:
            new.update(name for name in node.output if name)
            if node.name in known:
                found.append(known[node.name])
    return found


def fitted(
    original: ModelProto, current: ModelProto, layer: Layer, feeds: Iterable[Feed], most: int, ridge: float = RIDGE
) -> ModelProto | None:
    """Give the model with one layer fitted; None when there is nothing to fit it to, or too much."""
    weight, offset = layer.matrix(current), layer.offset(current)
    if weight.shape[0] * (weight.shape[2] + weight.shape[1]) * weight.shape[2] * 8 > most:
        return None
    sums = _summed(original, current, layer, feeds, weight)
    if sums is None or not sums.count:
        return None
    moved, shift = sums.solved(weight, ridge, has_bias=layer.bias is not None)
    made = graph.copy(current)
    write(made, layer, weight + moved, offset + shift)
    return made


@dataclass
class _Sums:
    """What least squares needs, of rows x and of what W x + b lacks: (G, K), (G, O), (G, K, K), (G, O, K)."""

    x: np.ndarray
    gap: np.ndarray
    square: np.ndarray
    cross: np.ndarray
    count: int = 0

    @classmethod
    def empty(cls, groups: int, outputs: int, width: int) -> _Sums:
        """Begin with nothing."""
        square, cross = np.zeros((groups, width, width)), np.zeros((groups, outputs, width))
        return cls(np.zeros((groups, width)), np.zeros((groups, outputs)), square, cross)

    def add(self, x: np.ndarray, gap: np.ndarray) -> None:
        """Take in rows (P, G, K) and (P, G, O)."""
        finite = np.isfinite(x).all((1, 2)) & np.isfinite(gap).all((1, 2))
        rows, lacks = (array[finite].transpose(1, 2, 0) for array in (x, gap))
        self.count += int(finite.sum())
        self.x += rows.sum(2)
        self.gap += lacks.sum(2)
        self.square += rows @ rows.swapaxes(1, 2)
        self.cross += lacks @ rows.swapaxes(1, 2)

    def solved(self, weight: np.ndarray, ridge: float, *, has_bias: bool) -> tuple[np.ndarray, np.ndarray]:
        """Give what is added to W (G, O, K) and b (G, O)."""
        moved, shift = np.zeros_like(weight), np.zeros(weight.shape[:2])
        for side in range(len(weight)):
            x, gap = self.x[side] / self.count, self.gap[side] / self.count
            means = (np.outer(x, x), np.outer(gap, x)) if has_bias else (0.0, 0.0)
            square, cross = self.square[side] / self.count - means[0], self.cross[side] / self.count - means[1]
            used = weight[side].any(0)
            if used.any():
                inside = damped(square[np.ix_(used, used)], ridge)
                moved[side][:, used] = np.linalg.solve(inside, cross[:, used].T).T
            shift[side] = gap - moved[side] @ x
        return moved, shift


def _summed(
    original: ModelProto,
    current: ModelProto,
    layer: Layer,
    feeds: Iterable[Feed],
    weight: np.ndarray,
) -> _Sums | None:
    there = graph.producers(original)
    if layer.output not in there:
        return None
    other = [name for name in added(current, layer) if name in there]
    before = _opened(original, [layer.output, *other])
    now = _opened(current, [layer.source, layer.output, *other])
    sums = _Sums.empty(*weight.shape)
    for number, feed in enumerate(feeds):
        goals, values = (dict(zip(names, run(session, feed, names), strict=True)) for session, names in (before, now))
        values = {**feed, **values}
        gap = goals[layer.output].astype(np.float64)
        if gap.shape != values[layer.output].shape:
            return None
        gap = gap - values[layer.output]
        for name in other:
            if goals[name].shape == gap.shape == values[name].shape:
                gap = gap + goals[name] - values[name]
        rows = layer.rows(values[layer.source], number, PLACES).astype(np.float64)
        sums.add(rows, layer.made(gap, number, PLACES))
    return sums


def added(model: ModelProto, layer: Layer) -> list[str]:
    """Give the other value where the layer's output goes into one sum and nowhere else; none otherwise."""
    after = graph.consumers(model).get(layer.output, [])
    if len(after) != 1 or after[0].op_type != "Add" or layer.output in graph.outputs(model):
        return []
    names = list(after[0].input)
    other = names[1 - names.index(layer.output)]
    return [other] if other != layer.output and other in graph.producers(model) else []


def _opened(model: ModelProto, names: Sequence[str]) -> tuple[object, list[str]]:
    """Open the part of a model that makes these values, inputs aside; give the session and their names."""
    fed = {entry.name for entry in graph.inputs(model)}
    part = graph.part_making(model, [name for name in names if name not in fed])
    return open_session(part), list(graph.output_names(part))
