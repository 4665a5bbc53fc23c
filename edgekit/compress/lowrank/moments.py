"""What the layers meet: mean and covariance of their inputs and outputs, summed over calibration inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.lazy import np
from edgekit.session import open_session, run

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto

    from edgekit.compress.lowrank.splits import Layer

    Feed = Mapping[str, np.ndarray]

# Solving takes some times as much as the matrix itself.
GRAMS_SHARE = 4
# Positions that a layer is read at, in times of what its kernel reads at one; fewer, where they are MANY already.
ENOUGH, LEAST_ENOUGH, MANY = 32, 8, 1 << 14
POSITIONS = 128  # of one input


@dataclass(frozen=True)
class Moments:
    """Of what a layer's kernel reads at one output position (K,), and of what the layer makes of it without its bias.

    mean (K,); gram (K, K), None where it takes too much memory; spread (O, O). Both are about the mean, or about zero
    for a layer without a place for a bias. float64.
    """

    mean: np.ndarray
    gram: np.ndarray | None
    spread: np.ndarray


def measure(
    model: ModelProto, layers: Sequence[Layer], feeds: Callable[[], Iterable[Feed]], samples: int, max_bytes: int
) -> Iterator[tuple[Layer, Moments]]:
    """Yield the moments of each layer over `samples` inputs; the model is run once for all that fit into memory.

    Whoever lets go of them before the next ones keeps to `max_bytes`. A layer that meets nothing finite, or that no
    input reaches, is left out. Layers are read at up to POSITIONS positions of each input, spread evenly.
    """
    for some in _passes(layers, max_bytes):
        sums = {layer: _Sums(layer, has_gram(layer, max_bytes)) for layer in some}
        names = list(dict.fromkeys(layer.read.source for layer in some))
        for number, read in enumerate(_values(model, names, islice(feeds(), samples))):
            if all(each.enough for each in sums.values()):
                break
            for layer in some:
                sums[layer].add(read[layer.read.source], number)
        while sums:
            layer = next(iter(sums))
            each = sums.pop(layer)
            if each.count:
                yield layer, each.moments()


def _values(model: ModelProto, names: Sequence[str], feeds: Iterable[Feed]) -> Iterator[dict[str, np.ndarray]]:
    fed = {entry.name for entry in graph.inputs(model)}
    computed = [name for name in names if name not in fed]
    session = open_session(graph.with_outputs(model, computed), memory_pattern=False)
    for feed in feeds:
        read = dict(zip(computed, run(session, feed, computed), strict=True)) if computed else {}
        yield {name: read[name] if name in read else np.asarray(feed[name]) for name in names}


def _passes(layers: Sequence[Layer], max_bytes: int) -> Iterator[list[Layer]]:
    """Give runs of layers whose sums fit together."""
    some: list[Layer] = []
    held = 0
    for layer in layers:
        size = 8 * (layer.inputs if has_gram(layer, max_bytes) else len(layer.weight)) ** 2
        if some and held + size > max_bytes // GRAMS_SHARE:
            yield some
            some, held = [], 0
        some.append(layer)
        held += size
    if some:
        yield some


def has_gram(layer: Layer, max_bytes: int) -> bool:
    """Tell whether the covariance of a layer's inputs is of use, and fits."""
    return len(layer.ways) > 1 and 8 * layer.inputs**2 <= max_bytes // GRAMS_SHARE


class _Sums:
    """Sums over positions of one layer."""

    def __init__(self, layer: Layer, with_gram: bool) -> None:
        self._read, self._centred, self._whole = layer.read, layer.centred, with_gram
        self._rows = layer.weight.reshape(len(layer.weight), -1)
        self._total = np.zeros(layer.inputs)
        self._squares = np.zeros((layer.inputs if with_gram else len(layer.weight),) * 2)
        self.count = 0

    @property
    def enough(self) -> bool:
        """Whether more would hardly change the split."""
        size = len(self._total)
        return self.count >= min(ENOUGH * size, max(LEAST_ENOUGH * size, MANY))

    def add(self, array: np.ndarray, number: int) -> None:
        """Take what the layer reads for input `number`, until it is enough."""
        if self.enough:
            return
        read = self._read.rows(array, number, POSITIONS)[:, 0].astype(np.float64)
        read = read[np.isfinite(read).all(1)]
        self._total += read.sum(0)
        self.count += len(read)
        values = read if self._whole else read @ self._rows.T
        self._squares += values.T @ values

    def moments(self) -> Moments:
        """Divide the sums."""
        mean, squares = self._total / self.count, self._squares / self.count
        if self._centred:
            centre = mean if self._whole else self._rows @ mean
            squares = squares - np.outer(centre, centre)
        if self._whole:
            return Moments(mean, squares, self._rows @ squares @ self._rows.T)
        return Moments(mean, None, squares)
