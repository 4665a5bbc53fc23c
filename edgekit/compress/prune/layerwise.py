"""Sparse weights layer after layer: each fitted to what the layers before, sparse already, hand it.

The goal of a layer is its output in the original, W x; what it reads is y, the same value in the sparse model. With
means taken off, the dense weights nearest to that goal are W E[x y^T] E[y y^T]^-1; from there weights become zero
(`obs`), and the bias takes what is left of the mean. So a layer also takes back some of what the layers before lost.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress.prune import obs
from edgekit.compress.prune.columns import Layer, layers, write
from edgekit.lazy import np
from edgekit.session import open_session, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from onnx import ModelProto

    Feed = Mapping[str, np.ndarray]
    Read = tuple[str, object, int]

# Positions of one input that are summed over: more of them are like these.
POSITIONS = 128
# Added to the diagonal of E[y y^T], relative to its mean.
DAMPING = 3e-2
# Times that both models are run up to the layers in question: once a depth, in deeper nets once for several.
STAGES = 32
# Of so many inputs one is not fitted to at first: it tells whether fitting is good for this layer.
CHECKED = 4
# Arrays as large as the second moment that a layer takes: four are sums for fitting and for checking, the others solve.
HELD = 12


@dataclass
class Outcome:
    """The sparse model, in how many layers compensation was better than magnitude, and why others were left to that.

    `left` is by the name of the node.
    """

    model: ModelProto
    better: int = 0
    tried: int = 0
    left: dict[str, str] = field(default_factory=dict)


@dataclass
class Moments:
    """Sums over what a window reads: x (G, K, P) in the original, y in the sparse model."""

    x: np.ndarray
    y: np.ndarray
    cross: np.ndarray
    square: np.ndarray
    count: int = 0

    @classmethod
    def empty(cls, groups: int, inputs: int) -> Moments:
        """Begin with nothing."""
        means, squares = ((groups, inputs), (groups, inputs, inputs))
        return cls(np.zeros(means), np.zeros(means), np.zeros(squares), np.zeros(squares))

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Add some positions; those with a value that is not finite are left out."""
        finite = np.isfinite(x).all((0, 1)) & np.isfinite(y).all((0, 1))
        x, y = (values[..., finite].astype(np.float64) for values in (x, y))
        self.x += x.sum(2)
        self.y += y.sum(2)
        self.cross += x @ y.swapaxes(1, 2)
        self.square += y @ y.swapaxes(1, 2)
        self.count += int(finite.sum())

    def join(self, other: Moments) -> None:
        """Add the positions of `other`."""
        self.x, self.y = self.x + other.x, self.y + other.y
        self.cross, self.square = self.cross + other.cross, self.square + other.square
        self.count += other.count

    def error(self, weight: np.ndarray, made: np.ndarray, shift: np.ndarray) -> float:
        """Give the mean square of W x - (W' y + shift), summed over channels, but for what no W' can change."""
        gap = ((weight @ self.x[..., None]) - (made @ self.y[..., None]))[..., 0]
        squares = obs.cost(made, self.square).sum() - 2 * ((weight @ self.cross) * made).sum()
        return float((squares - 2 * (shift * gap).sum()) / max(self.count, 1) + (shift**2).sum())


def compensate(
    model: ModelProto,
    pruned: ModelProto,
    counts: Mapping[str, int],
    feeds: Callable[[], Iterable[Feed]],
    max_bytes: int,
) -> Outcome:
    """Give `pruned`, whose weights are those of `model` but for zeros, with zeros that are compensated for.

    `counts` has the number of zeros by the name of the node. A weight stays as it is in `pruned` when compensation
    brings its layer's output no nearer on inputs that it was not fitted to, and when `Outcome.left` says why it was not
    tried. Second moments are summed over all feeds, as many at a time as keep what is held below `max_bytes`.
    """
    result = Outcome(graph.copy(pruned))
    most = max_bytes // HELD
    usable = _usable(model, counts, most, result.left)
    # Layers of one stage may stand behind each other: what is not fitted yet makes what it made.
    for layer in usable:
        _take(result.model, model, layer)
    for stage in _stages(model, usable):
        for some in _passes(model, stage, most):
            moments = _moments(model, result.model, some, feeds())
            for layer in some:
                _take(result.model, pruned, layer)
                _fit(model, result, layer, counts[layer.node], *moments[_read(layer)])
    return result


def _take(model: ModelProto, other: ModelProto, layer: Layer) -> None:
    """Give `model` the weight that a layer has in `other`."""
    graph.initializers(model)[layer.weight].CopyFrom(graph.initializers(other)[layer.weight])


def _usable(model: ModelProto, counts: Mapping[str, int], most: int, left: dict[str, str]) -> list[Layer]:
    known = layers(model)
    found = []
    for node in counts:
        if node not in known:
            left[node] = "what it reads cannot be laid out as rows"
        elif (size := _bytes(known[node], model)) > most:
            left[node] = f"the second moment of its inputs takes {size / 1e6:.0f} MB, more memory than --max-memory has"
        else:
            found.append(known[node])
    return found


def _bytes(layer: Layer, model: ModelProto) -> int:
    groups, _, inputs = layer.matrix(model).shape
    return 8 * groups * inputs**2


def _read(layer: Layer) -> Read:
    """Tell layers apart by what they read."""
    return layer.source, layer.window, layer.groups


def _stages(model: ModelProto, some: Sequence[Layer]) -> list[list[Layer]]:
    """Group layers by how many of them lie before them on the longest way from an input; STAGES groups at most."""
    depths = graph.depths(model, {layer.node for layer in some})
    deepest = max(depths.values(), default=0) + 1
    stages: dict[int, list[Layer]] = {}
    for layer in some:
        stages.setdefault(depths[layer.node] * min(deepest, STAGES) // deepest, []).append(layer)
    return [stages[depth] for depth in sorted(stages)]


def _passes(model: ModelProto, stage: Sequence[Layer], most: int) -> Iterator[list[Layer]]:
    """Give runs of layers whose second moments fit together."""
    some: list[Layer] = []
    held: dict[Read, int] = {}
    for layer in stage:
        size = _bytes(layer, model)
        if some and sum({**held, _read(layer): size}.values()) > most:
            yield some
            some, held = [], {}
        some.append(layer)
        held[_read(layer)] = size
    if some:
        yield some


def _moments(
    model: ModelProto, pruned: ModelProto, some: Sequence[Layer], feeds: Iterable[Feed]
) -> dict[Read, tuple[Moments, Moments]]:
    """Sum over what the layers read, apart for fitting and for checking."""
    readers = {_read(layer): layer for layer in some}
    shapes = {key: layer.matrix(model).shape[::2] for key, layer in readers.items()}
    found = {key: (Moments.empty(*shape), Moments.empty(*shape)) for key, shape in shapes.items()}
    fed = {entry.name for entry in graph.inputs(model)}
    names = list(dict.fromkeys(layer.source for layer in some if layer.source not in fed))
    sessions = [open_session(graph.part_making(one, names)) for one in (model, pruned)] if names else []
    for number, feed in enumerate(feeds):
        values = [dict(zip(names, run(session, feed, names), strict=True)) for session in sessions] or [{}, {}]
        for key, layer in readers.items():
            arrays = (np.asarray(made.get(layer.source, feed.get(layer.source))) for made in values)
            x, y = (layer.rows(array, number, POSITIONS).transpose(1, 2, 0) for array in arrays)
            found[key][number % CHECKED == CHECKED - 1].add(x, y)
    return found


def _fit(model: ModelProto, result: Outcome, layer: Layer, count: int, fitting: Moments, checking: Moments) -> None:
    """Prune one layer of `result.model` and keep it if its output gets nearer than by magnitude."""
    weight, magnitude, offset = layer.matrix(model), layer.matrix(result.model), layer.offset(model)
    if not np.isfinite(weight).all() or not fitting.square.any():
        result.left[layer.node] = "it or all that it meets is zero or not finite"
        return
    biased = layer.bias is not None
    made, shift = fitted(weight, count, fitting, biased=biased)
    check = checking if checking.count else fitting
    result.tried += 1
    if check.error(weight, made, shift) < check.error(weight, magnitude, np.zeros_like(shift)):
        result.better += 1
        if checking.count:
            fitting.join(checking)
            made, shift = fitted(weight, count, fitting, biased=biased)
        write(result.model, layer, made, offset + shift)


def fitted(weight: np.ndarray, count: int, moments: Moments, *, biased: bool) -> tuple[np.ndarray, np.ndarray]:
    """Give the weight (G, O, K) with `count` zeros that makes W x of y best, and what to add to its output (G, O).

    Without a bias to add it to that is zero. DAMPING keeps near the old weights what the inputs do not tell.
    """
    cross, square = moments.cross / moments.count, moments.square / moments.count
    x, y = moments.x / moments.count, moments.y / moments.count
    strengths = [np.diagonal(square, axis1=1, axis2=2).mean(1)]
    if biased:
        cross = cross - x[:, :, None] * y[:, None, :]
        square = square - y[:, :, None] * y[:, None, :]
        strengths.append(np.diagonal(square, axis1=1, axis2=2).mean(1))
    # Of inputs that never change, as behind channels that are all zero, some is left too.
    strength = np.maximum(strengths[-1], 1e-6 * strengths[0].mean())
    damping = DAMPING * strength[:, None, None] * np.eye(weight.shape[2])
    hessian = square + damping
    dense = np.linalg.solve(hessian, (weight @ (cross + damping)).swapaxes(1, 2)).swapaxes(1, 2)
    made = obs.prune(dense, hessian, count)
    shift = (weight @ x[..., None] - made @ y[..., None])[..., 0] if biased else np.zeros(weight.shape[:2])
    return made, shift
