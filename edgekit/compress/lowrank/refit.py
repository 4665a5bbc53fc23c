"""Sequential correction: the second factor of each split fitted to what the layers before it really give it.

In the order of the graph, the second factor and the bias are fitted by least squares to the outputs of the original
layer, read behind the layers that are split already (asymmetric reconstruction: Zhang et al., arXiv 1505.06798, 3.3). A
ridge draws what was hardly seen towards the factor as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress.lowrank.splits import rounded
from edgekit.compress.prune import columns
from edgekit.lazy import np
from edgekit.session import open_session, run

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto

    Feed = Mapping[str, np.ndarray]
    Feeds = Callable[[], Iterable[Feed]]

# Inputs that a layer is fitted on, and positions of one of them: as many as make so many rows for each unknown.
LEAST, MOST = 64, 128
POSITIONS = 128
ROWS = 48
RIDGE = 3e-3  # of the mean variance of what the second factor reads


def refit(model: ModelProto, split: ModelProto, names: Sequence[str], feeds: Feeds) -> ModelProto:
    """Give `split` with the layers of these names fitted to those of `model`, in the order of the graph.

    Both models run over at most MOST inputs once for each layer. A layer that meets nothing finite stays as it was.
    """
    made = graph.copy(split)
    for name in [node.name for node in made.graph.node if node.name in names]:
        layer = columns.layers(made)[name]
        fit = _Fit(layer.matrix(made)[0], layer.bias is not None)
        pairs = zip(_values(model, layer.output, feeds()), _values(made, layer.source, feeds()), strict=False)
        for number, (goal, met) in enumerate(pairs):
            if number >= LEAST and fit.enough:
                break
            fit.add(layer.made(goal, number, POSITIONS)[:, 0], layer.rows(met, number, POSITIONS)[:, 0])
        if fit.count:
            rows, bias = fit.solve()
            columns.write(made, layer, rounded(rows[None]), rounded(bias[None]) if layer.bias is not None else None)
    return made


def _values(model: ModelProto, name: str, feeds: Iterable[Feed]) -> Iterator[np.ndarray]:
    """Give a value of a model for each of some inputs."""
    session = open_session(graph.part_making(model, [name]))
    for feed in islice(feeds, MOST):
        yield run(session, feed, [name])[0]


class _Fit:
    """Ridge least squares of goals (P, O) by inputs (P, K), drawn towards rows (O, K); sums in float64."""

    def __init__(self, rows: np.ndarray, centred: bool) -> None:
        self._rows, self._centred = rows, centred
        o, k = rows.shape
        self._squares, self._products = np.zeros((k, k)), np.zeros((o, k))
        self._met, self._goal = np.zeros(k), np.zeros(o)
        self.count = 0

    @property
    def enough(self) -> bool:
        """Whether there are enough rows."""
        return self.count >= ROWS * len(self._met)

    def add(self, goal: np.ndarray, met: np.ndarray) -> None:
        """Take some positions; those with a value that is not finite are left out."""
        finite = np.isfinite(goal).all(1) & np.isfinite(met).all(1)
        y, z = (values[finite].astype(np.float64) for values in (goal, met))
        self._squares += z.T @ z
        self._products += y.T @ z
        self._met += z.sum(0)
        self._goal += y.sum(0)
        self.count += len(z)

    def solve(self) -> tuple[np.ndarray, np.ndarray]:
        """Give the rows (O, K) and the bias (O,)."""
        squares, products = self._squares / self.count, self._products / self.count
        met, goal = self._met / self.count, self._goal / self.count
        if self._centred:
            squares, products = squares - np.outer(met, met), products - np.outer(goal, met)
        ridge = RIDGE * max(float(np.trace(squares)) / len(squares), 1e-30)
        damped = squares + ridge * np.eye(len(squares))
        rows: np.ndarray = np.linalg.solve(damped, (products + ridge * self._rows).T).T
        return rows, goal - rows @ met
