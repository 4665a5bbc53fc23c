"""Moments: mean and covariance of what the readers of a group read, streamed over calibration inputs.

Where it fits, the covariance is that of whole rows: every channel at every tap of the kernel, so that what is known at
one tap predicts another, and padded borders count as they are. Else it is that of the channels alone, shared by all
taps, and where even that does not fit only the means are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress.prune.columns import Layer, layers, spread
from edgekit.lazy import np
from edgekit.session import open_session, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from onnx import ModelProto

    from edgekit.compress.prune.groups import Group, Reader

    Feed = Mapping[str, np.ndarray]

# A covariance takes this share of the memory at most: solving needs several times its size.
SHARE = 12
# Places of one feed that are summed over: those of a small map all, of a large one enough to cover it over the feeds.
PLACES = 256


# Rows a column; with fewer, taps and positions are taken for samples of one variable where they can be.
ENOUGH_ROWS = 2


@dataclass(frozen=True)
class Moments:
    """What one layer reads: rows of K columns, each belonging to a channel of the group.

    `mean` (K,), `covariance` (K, K), float64; the covariance is None where it did not fit. `channels` (K,): the group's
    channel of each column, -1 for none. `order`: where each column of W, taps inner, stands in the layer's matrix.
    `taps`: how many columns of W share one column here; 1: each has its own. `count`: rows summed.
    """

    layer: Layer
    mean: np.ndarray
    covariance: np.ndarray | None
    channels: np.ndarray
    order: np.ndarray
    taps: int
    count: int

    def columns(self, matrix: np.ndarray) -> np.ndarray:
        """Give W (G, outputs, columns) of the layer as (outputs * taps, K); taps count as outputs of their own."""
        rows = _side_by_side(matrix)[:, self.order]
        split = rows.reshape(len(rows), len(self.channels), self.taps)
        return split.transpose(0, 2, 1).reshape(-1, len(self.channels))

    def matrix(self, columns: np.ndarray, like: np.ndarray) -> np.ndarray:
        """Undo `columns`; `like` is a matrix of the layer."""
        outputs = like.shape[0] * like.shape[1]
        rows = np.empty((outputs, self.order.size))
        rows[:, self.order] = columns.reshape(outputs, self.taps, -1).transpose(0, 2, 1).reshape(outputs, -1)
        groups, each, width = like.shape
        blocks = rows.reshape(groups, each, groups, width)
        found: np.ndarray = blocks[np.arange(groups), :, np.arange(groups)]
        return found


def _side_by_side(matrix: np.ndarray) -> np.ndarray:
    """Give the block-diagonal (G * outputs, G * columns)."""
    groups, outputs, width = matrix.shape
    rows = np.zeros((groups, outputs, groups, width))
    rows[np.arange(groups), :, np.arange(groups)] = matrix
    return rows.reshape(groups * outputs, groups * width)


def moments(
    model: ModelProto,
    groups: Sequence[Group],
    feeds: Callable[[], Iterable[Feed]],
    max_bytes: int = 512_000_000,
) -> dict[str, dict[str, Moments]]:
    """Give what the readers of each group read, by the names of group and reader.

    `feeds` is gone through once for all covariances that fit into half of `max_bytes` together. Rows with a value that
    is not finite are left out. Readers that are no layer of `columns.layers` (ConvTranspose) have no moments. Raises
    EdgekitError when a feed does not fit the model.
    """
    known = layers(model)
    sums = [
        (group.name, _sum(known[reader.node], reader, max_bytes // SHARE, model))
        for group in groups
        for reader in group.readers
        if reader.node in known
    ]
    for some in _passes([entry for _, entry in sums], max_bytes // 2):
        _stream(model, some, feeds())
    scarce = [entry for _, entry in sums if entry.count < ENOUGH_ROWS * len(entry.channels) and entry.share()]
    for some in _passes(scarce, max_bytes // 2):
        _stream(model, some, feeds())
    found: dict[str, dict[str, Moments]] = {group.name: {} for group in groups}
    for name, entry in sums:
        found[name][entry.layer.node] = entry.closed()
    return found


@dataclass
class _Sum:
    """Moments in the making."""

    layer: Layer
    indices: np.ndarray  # the channel of each index of the axis that is read
    channels: np.ndarray
    order: np.ndarray
    taps: int
    whole: bool  # whether products are summed, or only the values
    count: int = 0
    total: np.ndarray = field(default_factory=lambda: np.zeros(0))
    products: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    @property
    def bytes(self) -> int:
        return 8 * len(self.channels) ** 2 if self.whole else 0

    def share(self) -> bool:
        """Begin anew with one column for all taps of a channel, or say that there is none."""
        layer, indices = self.layer, self.indices
        inside = len(self.order) // len(indices)
        if layer.groups > 1:
            return False
        if inside > 1:  # a convolution
            self.channels, self.order, self.taps = indices, np.arange(len(self.order)), inside
        else:
            # After Flatten a channel stands several times in a row.
            channels, counts = np.unique(indices, return_counts=True)
            if counts[0] == 1 or (counts != counts[0]).any():
                return False
            self.channels, self.order, self.taps = channels, np.argsort(indices, kind="stable"), int(counts[0])
        self.whole, self.count, self.total = True, 0, np.zeros(0)
        return True

    def add(self, array: np.ndarray, number: int) -> None:
        rows = self._rows(array, number).astype(np.float64)
        rows = rows[np.isfinite(rows).all(1)]
        if not self.total.size:
            self.total = np.zeros(len(self.channels))
            self.products = np.zeros((len(self.channels),) * 2 if self.whole else (0, 0))
        self.count += len(rows)
        self.total += rows.sum(0)
        if self.whole:
            self.products += rows.T @ rows

    def _rows(self, array: np.ndarray, number: int) -> np.ndarray:
        if self.taps == 1:
            rows = self.layer.rows(array, number, PLACES)
            return rows.reshape(len(rows), -1)
        if self.layer.window is not None:
            flat = np.moveaxis(array, 1, -1).reshape(-1, array.shape[1])
            return flat[spread(len(flat), number, PLACES)]
        flat = array.reshape(-1, array.shape[-1])[:, self.order]
        return flat.reshape(len(flat), -1, self.taps).swapaxes(1, 2).reshape(-1, flat.shape[1] // self.taps)

    def closed(self) -> Moments:
        mean = self.total / max(self.count, 1) if self.total.size else np.zeros(len(self.channels))
        covariance = None
        if self.whole and self.count:
            covariance = self.products / self.count - np.outer(mean, mean)
            if self.layer.groups > 1:
                # A grouped convolution cannot use what its other groups read.
                side = np.arange(len(mean)) * self.layer.groups // len(mean)
                covariance = np.where(side[:, None] == side, covariance, 0.0)
        return Moments(self.layer, mean, covariance, self.channels, self.order, self.taps, self.count)


def _sum(layer: Layer, reader: Reader, most: int, model: ModelProto) -> _Sum:
    """Choose what is summed: the covariance of whole rows, of channels, or none, whichever fits into `most` bytes."""
    width = layer.matrix(model).shape[2] * layer.groups
    indices = np.asarray(reader.channels, np.int64)
    channels, order = np.repeat(indices, width // len(indices)), np.arange(width)
    made = _Sum(layer, indices, channels, order, 1, whole=True)
    if made.bytes > most and not (made.share() and made.bytes <= most):
        return _Sum(layer, indices, channels, order, 1, whole=False)
    return made


def _passes(sums: Sequence[_Sum], most: int) -> Iterator[list[_Sum]]:
    some: list[_Sum] = []
    for entry in sums:
        if some and sum(other.bytes for other in some) + entry.bytes > most:
            yield some
            some = []
        some.append(entry)
    if some:
        yield some


def _stream(model: ModelProto, sums: Sequence[_Sum], feeds: Iterable[Feed]) -> None:
    fed = {entry.name for entry in graph.inputs(model)}
    computed = list(dict.fromkeys(entry.layer.source for entry in sums if entry.layer.source not in fed))
    session = open_session(graph.with_outputs(model, computed))
    for number, feed in enumerate(feeds):
        read = dict(zip(computed, run(session, feed, computed), strict=True)) if computed else {}
        for entry in sums:
            source = entry.layer.source
            entry.add(np.asarray(read[source] if source in read else feed[source]), number)
