"""The algebra: a layer's weight as the product of two smaller ones, nearest in what the layer puts out.

A layer y = W x + b meets inputs with mean m and covariance C = L L^T. Of all W' of rank r, with the bias free, the one
whose outputs are nearest in the mean square is U_r S_r V_r^T L^-1 with U S V^T = SVD(W L), and that is U_r U_r^T W:
the outputs projected on their r strongest directions (response reconstruction: Zhang et al., arXiv 1505.06798, 3.1).
The bias b + (W - W') m takes up the mean. So a channel split needs the covariance of the outputs alone.

A spatial split (Jaderberg et al., arXiv 1405.3866, scheme 2) writes W[o,c,i,j] as the sum over r of H[o,r,j] V[r,c,i].
It has no closed form for inputs that are related from column to column: it begins as if they were not, where the same
projection is best, and goes on by least squares, one factor at a time. A ridge keeps directions that were hardly seen
from being used as if they were free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.lazy import np

if TYPE_CHECKING:
    import numpy as np

RIDGE = 1e-3  # of the mean variance
SWEEPS = 2  # over both factors of a spatial split: eight more lose a fiftieth less
_STEPS = 12  # of conjugate gradients a sweep
_TINY = 1e-30


@dataclass(frozen=True)
class Factors:
    """Two weights in the place of one: `first` (r, C, kh, kw) is applied first, then `second` (O, r, kh, kw).

    `error`: share of the variance of the layer's outputs that is lost, 0..1.
    """

    first: np.ndarray
    second: np.ndarray
    error: float

    def product(self) -> np.ndarray:
        """Give the one weight (O, C, kh, kw) that the two make together; of their kernels, one side each is 1."""
        whole: np.ndarray = np.einsum("orij,rckl->ocikjl", self.second, self.first)
        o, c, *_ = whole.shape
        sides = [max(a, b) for a, b in zip(self.first.shape[2:], self.second.shape[2:], strict=True)]
        return whole.reshape(o, c, *sides)


def channel(weight: np.ndarray, spread: np.ndarray, rank: int) -> Factors:
    """Split (O, C, kh, kw) into (r, C, kh, kw) and (O, r, 1, 1) for outputs of the covariance `spread` (O, O).

    `spread` about zero instead of the mean gives the best split of a layer that has no bias. float64 throughout.
    """
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    basis = _principal(spread + _ridge(spread, rows @ rows.T), rank)
    error = 1 - np.trace(basis.T @ spread @ basis) / max(float(np.trace(spread)), _TINY)
    first = (basis.T @ rows).reshape(rank, *weight.shape[1:])
    return Factors(first, basis.reshape(*basis.shape, 1, 1), float(max(error, 0.0)))


def spatial(weight: np.ndarray, gram: np.ndarray, rank: int, *, down: bool = True, sweeps: int = SWEEPS) -> Factors:
    """Split (O, C, kh, kw) into (r, C, kh, 1) and (O, r, 1, kw); with `down` False the other way round.

    `gram` (K, K) is the covariance of what the kernel reads, K = C kh kw in that order.
    """
    _, c, kh, kw = weight.shape
    whole = weight.astype(np.float64)
    spread = gram.reshape(c, kh, kw, c, kh, kw)
    if not down:
        whole, spread = whole.transpose(0, 1, 3, 2), spread.transpose(0, 2, 1, 3, 5, 4)
    first, second = _columns(whole, spread, rank)
    problem = _Spatial.of(whole, spread)
    for _ in range(sweeps):
        second = problem.second(first)
        first = problem.first(first, second)
    second = problem.second(first)
    error = problem.error(first, second)
    first, second = _level(first, second)
    kernels = first[..., None], second[:, :, None, :]
    if not down:
        kernels = first[:, :, None, :], second[..., None]
    return Factors(*kernels, error)


@dataclass(frozen=True)
class _Spatial:
    """The least squares of a spatial split: columns of the kernel outermost, (c, i) within one."""

    goal: np.ndarray  # (O, kw, C kh)
    gram: np.ndarray  # (kw, C kh, kw, C kh), with the ridge
    energy: float  # of the outputs, without the ridge
    ridge: float

    @classmethod
    def of(cls, weight: np.ndarray, spread: np.ndarray) -> _Spatial:
        """Arrange a weight (O, C, kh, kw) and the covariance (C, kh, kw, C, kh, kw)."""
        o, c, kh, kw = weight.shape
        goal = np.ascontiguousarray(weight.transpose(0, 3, 1, 2)).reshape(o, kw * c * kh)
        gram = np.ascontiguousarray(spread.transpose(2, 0, 1, 5, 3, 4)).reshape(kw * c * kh, kw * c * kh)
        energy = float(np.sum((goal @ gram) * goal))
        ridge = _share(gram) / len(gram)
        damped = gram + ridge * np.eye(len(gram))
        return cls(goal.reshape(o, kw, c * kh), damped.reshape(kw, c * kh, kw, c * kh), energy, ridge)

    def second(self, first: np.ndarray) -> np.ndarray:
        """Give the best second factor (O, r, kw) for a first one (r, C, kh)."""
        rank, kw = len(first), self.goal.shape[1]
        rows = first.reshape(rank, -1)
        half = np.einsum("jakb,rb->jakr", self.gram, rows, optimize=True)
        inner = np.einsum("sa,jakr->jskr", rows, half, optimize=True).reshape(kw * rank, kw * rank)
        cross = np.einsum("oja,jakr->okr", self.goal, half, optimize=True).reshape(len(self.goal), kw * rank)
        inner = inner + 1e-9 * np.trace(inner) / len(inner) * np.eye(len(inner))
        found: np.ndarray = np.linalg.solve(inner, cross.T).T.reshape(-1, kw, rank).transpose(0, 2, 1)
        return found

    def first(self, start: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Better the first factor (r, C, kh) for a second one (O, r, kw) by conjugate gradients."""
        shape = start.shape
        rows = start.reshape(len(start), -1)
        mixing = np.einsum("orj,osk->rjsk", second, second, optimize=True)

        def bent(values: np.ndarray) -> np.ndarray:
            read = np.einsum("sb,jakb->sjak", values, self.gram, optimize=True)
            return np.einsum("rjsk,sjak->ra", mixing, read, optimize=True)

        pull = np.einsum("ork,oja,jakb->rb", second, self.goal, self.gram, optimize=True)
        left = pull - bent(rows)
        way, size = left, float(np.sum(left * left))
        for _ in range(_STEPS):
            if size <= _TINY:
                break
            bending = bent(way)
            step = size / max(float(np.sum(way * bending)), _TINY)
            rows, left = rows + step * way, left - step * bending
            size, before = float(np.sum(left * left)), size
            way = left + size / before * way
        return rows.reshape(shape)

    def error(self, first: np.ndarray, second: np.ndarray) -> float:
        """Give the share of the outputs' variance that these factors lose."""
        made = np.einsum("orj,ra->oja", second, first.reshape(len(first), -1), optimize=True)
        gap = (self.goal - made).reshape(len(made), -1)
        damped = self.gram.reshape(gap.shape[1], -1)
        lost = float(np.sum((gap @ damped) * gap)) - self.ridge * float(np.sum(gap * gap))
        return max(lost, 0.0) / max(self.energy, _TINY)


def _columns(weight: np.ndarray, spread: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Give factors (r, C, kh), (O, r, kw) that are best if columns of the input had nothing to do with one another."""
    o, c, kh, kw = weight.shape
    column = np.einsum("aijbkj->aibk", spread).reshape(c * kh, c * kh) / kw
    rows = weight.transpose(0, 3, 1, 2).reshape(o * kw, c * kh)
    made = rows @ (column + _ridge(column, np.eye(len(column)))) @ rows.T
    basis = _principal(made, rank)
    return (basis.T @ rows).reshape(rank, c, kh), basis.reshape(o, kw, rank).transpose(0, 2, 1)


def _level(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share the scale of each of the r channels between the two factors; the first row of each is positive."""
    sizes = [np.sqrt(np.sum(first**2, (1, 2))), np.sqrt(np.sum(second**2, (0, 2)))]
    scale = np.sqrt(np.maximum(sizes[1], _TINY) / np.maximum(sizes[0], _TINY))
    return first * scale[:, None, None], second / scale[None, :, None]


def _ridge(spread: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Give `shape`, scaled to a share of RIDGE of the spread."""
    ridge: np.ndarray = shape * (_share(spread) / max(float(np.trace(shape)), _TINY))
    return ridge


def _share(spread: np.ndarray) -> float:
    """Give what all of a ridge adds up to; for inputs that are all alike anything does."""
    trace = float(np.trace(spread))
    return RIDGE * trace if trace > 0 else 1.0


def _principal(spread: np.ndarray, rank: int) -> np.ndarray:
    """Give the strongest directions (O, rank) of a covariance, the largest entry of each positive."""
    basis = np.linalg.eigh(spread)[1][:, ::-1][:, :rank]
    largest = np.abs(basis).argmax(0)
    signs = np.where(basis[largest, np.arange(basis.shape[1])] < 0, -1.0, 1.0)
    found: np.ndarray = basis * signs
    return found
