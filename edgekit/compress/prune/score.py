"""Which channels of a group can go, and what it costs: backward elimination with compensation, and plain baselines.

What a reader makes of its rows is W x. Taking away the columns q of a channel and moving the others so that the mean
squared error of W x over the calibration inputs is least costs trace(W_q [H^-1]_qq^-1 W_q^T); H is the covariance of x
with a little added to its diagonal. W becomes W - W_q [H^-1]_qq^-1 [H^-1]_q:, and H^-1 loses the rows and columns q by
a downdate of that rank (Hassibi & Stork 1992; Frantar & Alistarh, OBC, arXiv 2208.11580, for whole columns). So one
pass that takes away the cheapest channel again and again gives an order and the error after each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress.prune.columns import layers
from edgekit.lazy import np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto

    from edgekit.compress.prune.groups import Group
    from edgekit.compress.prune.moments import Moments

RANKINGS = ("obs", "l1", "variance", "random")
# Added to the covariance's diagonal, relative to its mean.
RIDGE = 1e-3


@dataclass(frozen=True)
class Ranking:
    """In what order channels go, and the error after each.

    `order` (size,): channels, the first to go first. `errors` (size + 1,): the mean squared error of what the readers
    make over its variance, summed over the readers, after the first n have gone; errors[0] is 0. Under compensation for
    `obs`; the other rankings count what is lost without it.
    """

    order: np.ndarray
    errors: np.ndarray


def rank(
    model: ModelProto,
    group: Group,
    moments: Mapping[str, Moments],
    how: str = "obs",
    seed: int = 0,
    ridge: float = RIDGE,
) -> Ranking:
    """Rank the channels of a group by `how`: one of RANKINGS.

    `moments` are those of this group. `obs`: as above. `l1`: the mean size of the weights of makers and readers.
    `variance`: that of the channel's values. `random`: any order, for comparison.
    """
    parts = [_Part.of(model, entry, ridge) for _, entry in sorted(moments.items())]
    if how == "obs":
        return _eliminated(group.size, parts)
    scores = _plain_scores(model, group, parts, how, seed)
    order = np.argsort(scores, kind="stable")
    return Ranking(order, np.concatenate([[0.0], np.cumsum(_alone(group.size, parts)[order])]))


@dataclass
class _Part:
    """One reader: W (outputs, K) as it becomes, H^-1 (K, K), the columns of each channel (size, n), and what to weigh.

    `columns` holds one list a channel; channels without a column here cost nothing here.
    """

    weight: np.ndarray
    covariance: np.ndarray
    inverse: np.ndarray
    columns: dict[int, np.ndarray]
    scale: float

    @classmethod
    def of(cls, model: ModelProto, moments: Moments, ridge: float) -> _Part:
        weight = moments.columns(moments.layer.matrix(model))
        covariance = moments.covariance
        if covariance is None:
            covariance = np.diag(np.square(moments.mean))
        inverse = np.linalg.inv(damped(covariance, ridge))
        variance = float(np.einsum("ok,kl,ol->", weight, covariance, weight, optimize=True))
        channels = moments.channels
        columns = {
            channel: np.flatnonzero(channels == channel) for channel in np.unique(channels[channels >= 0]).tolist()
        }
        return cls(weight, covariance, inverse, columns, 1 / variance if variance > 0 else 0.0)

    def costs(self, left: np.ndarray) -> np.ndarray:
        """Give what taking each of these channels away costs now."""
        found = np.zeros(len(left))
        for width, places in self._by_width(left).items():
            columns = np.stack([self.columns[int(left[place])] for place in places])
            blocks = self.inverse[columns[:, :, None], columns[:, None, :]]
            weights = self.weight[:, columns]  # (O, n, width)
            if width == 1:
                found[places] = np.square(weights[:, :, 0]).sum(0) / blocks[:, 0, 0]
            else:
                solved = np.linalg.solve(blocks, weights.transpose(1, 2, 0))
                found[places] = (weights.transpose(1, 2, 0) * solved).sum((1, 2))
        return self.scale * found

    def _by_width(self, left: np.ndarray) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for place, channel in enumerate(left.tolist()):
            if channel in self.columns:
                found.setdefault(len(self.columns[channel]), []).append(place)
        return found

    def take(self, channel: int) -> None:
        """Take a channel away: the others make up for it as far as they can."""
        gone = self.columns.get(channel)
        if gone is None:
            return
        block = self.inverse[np.ix_(gone, gone)]
        push = np.linalg.solve(block, self.inverse[gone])
        self.weight -= self.weight[:, gone] @ push
        self.inverse -= self.inverse[:, gone] @ push
        self.weight[:, gone] = 0.0
        self.inverse[gone] = 0.0
        self.inverse[:, gone] = 0.0


def damped(covariance: np.ndarray, ridge: float) -> np.ndarray:
    """Give the covariance with `ridge` times the mean of its diagonal added to that; the identity for all zeros."""
    mean = float(np.trace(covariance)) / max(len(covariance), 1)
    if not mean > 0:
        return np.eye(len(covariance))
    return covariance + ridge * mean * np.eye(len(covariance))


def _eliminated(size: int, parts: list[_Part]) -> Ranking:
    left = np.arange(size)
    order, errors = [], [0.0]
    while left.size:
        costs = np.zeros(left.size)
        for part in parts:
            costs += part.costs(left)
        place = int(np.argmin(costs))
        order.append(int(left[place]))
        errors.append(errors[-1] + max(float(costs[place]), 0.0))
        for part in parts:
            part.take(order[-1])
        left = np.delete(left, place)
    return Ranking(np.array(order, np.int64), np.array(errors))


def _alone(size: int, parts: list[_Part]) -> np.ndarray:
    """Give what the loss of each channel alone costs, nothing making up for it but the bias."""
    found = np.zeros(size)
    for part in parts:
        for channel, gone in part.columns.items():
            weights = part.weight[:, gone]
            found[channel] += part.scale * float((weights @ part.covariance[np.ix_(gone, gone)] * weights).sum())
    return found


def _plain_scores(model: ModelProto, group: Group, parts: list[_Part], how: str, seed: int) -> np.ndarray:
    if how == "random":
        return np.random.default_rng(seed).permutation(group.size).astype(np.float64)
    found = np.zeros(group.size)
    if how == "variance":
        for part in parts:
            for channel, gone in part.columns.items():
                found[channel] += float(np.diagonal(part.covariance)[gone].sum())
        return found
    known = layers(model)
    tensors = graph.initializers(model)
    read = {reader.weight.constant for reader in group.readers}
    made = {known[name].weight for name in group.makers if name in known}
    places = [*group.places, *(reader.weight for reader in group.readers)]
    seen: set[tuple[str, int]] = set()
    for place in places:
        if place.constant not in read | made or (place.constant, place.axis) in seen:
            continue
        seen.add((place.constant, place.axis))
        values = np.abs(graph.array(tensors[place.constant]).astype(np.float64))
        others = tuple(axis for axis in range(values.ndim) if axis != place.axis)
        sums = values.mean(axis=others) / max(values.mean(), 1e-30)
        inside = place.channels >= 0
        np.add.at(found, place.channels[inside], sums[inside])
    return found
