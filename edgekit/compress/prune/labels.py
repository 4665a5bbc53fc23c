"""Labels of the slices that can go together: union-find over arrays of numbers.

Every index along an axis of a constant gets a label; operators unite those that have to go or stay together. A label
can be frozen with a reason; what is united with it is frozen too. Label 0 is that of what stays in any case.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.lazy import np

if TYPE_CHECKING:
    from collections.abc import Iterable

_FREE = 1 << 60


class Labels:
    """A union-find; all operations take whole arrays of labels."""

    def __init__(self) -> None:
        self.parents = np.zeros(1, np.int64)
        # Of each root: the number of the reason it is frozen for; the earliest wins.
        self.causes = np.zeros(1, np.int64)
        self.reasons = ["it is not made of channels"]

    def fresh(self, count: int) -> np.ndarray:
        """Give `count` new labels, int64."""
        first = len(self.parents)
        made = np.arange(first, first + count)
        self.parents = np.concatenate([self.parents, made])
        self.causes = np.concatenate([self.causes, np.full(count, _FREE)])
        return made

    def roots(self, labels: np.ndarray) -> np.ndarray:
        """Give the label that stands for each one's set: the lowest of it."""
        found = self.parents[labels]
        while (higher := self.parents[found] != found).any():
            found = np.where(higher, self.parents[found], found)
        self.parents[labels] = found
        return found

    def unite(self, some: np.ndarray, others: np.ndarray, reason: str) -> None:
        """Join labels pair by pair; one that is paired with 0 is frozen for `reason`. Arrays of equal shape."""
        some, others = some.reshape(-1), others.reshape(-1)
        self.freeze(np.where(some == 0, others, np.where(others == 0, some, 0)), reason)
        both = (some != 0) & (others != 0)
        some, others = self.roots(some[both]), self.roots(others[both])
        while (apart := some != others).any():
            low, high = np.minimum(some, others)[apart], np.maximum(some, others)[apart]
            # The lowest partner wins; pairs that lost meet again in the next turn.
            np.minimum.at(self.parents, high, low)
            np.minimum.at(self.causes, low, self.causes[high])
            some, others = self.roots(low), self.roots(high)
            np.minimum.at(self.causes, some, self.causes[high])

    def freeze(self, labels: np.ndarray, reason: str) -> None:
        """Let these labels stay."""
        roots = np.unique(self.roots(labels.reshape(-1)))
        roots = roots[self.causes[roots] == _FREE]
        if roots.size:
            self.reasons.append(reason)
            self.causes[roots] = len(self.reasons) - 1

    def kept(self, labels: np.ndarray) -> np.ndarray:
        """Tell, for each label, whether it is frozen (bool, of the same shape)."""
        frozen: np.ndarray = self.causes[self.roots(labels)] != _FREE
        return frozen

    def free(self, labels: np.ndarray) -> np.ndarray:
        """Give the roots, 0 where frozen."""
        roots = self.roots(labels)
        return np.where(self.causes[roots] == _FREE, roots, 0)

    def reason(self, label: int) -> str:
        """Give why a label is frozen."""
        return self.reasons[int(self.causes[self.roots(np.array([label]))][0])]


def long_axes(factor: np.ndarray) -> list[int]:
    """Give the axes along which an array has more than one entry."""
    return [axis for axis, size in enumerate(factor.shape) if size > 1]


def along(factor: np.ndarray, rank: int) -> np.ndarray:
    """Give the array with axes of one entry in front, up to `rank` axes."""
    return factor.reshape((1,) * (rank - factor.ndim) + factor.shape)


def first_along(factor: np.ndarray, axes: Iterable[int]) -> np.ndarray:
    """Give the first slice along each of `axes`, as axes of one entry."""
    chosen = [slice(None)] * factor.ndim
    for axis in axes:
        chosen[axis] = slice(0, 1)
    return factor[tuple(chosen)]


def shortest(factor: np.ndarray) -> np.ndarray:
    """Give the array with one entry along each axis along which it does not change."""
    for axis in long_axes(factor):
        first = first_along(factor, [axis])
        if (factor == first).all():
            factor = first
    return factor
