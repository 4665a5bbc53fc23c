"""Optimal brain surgery: which weights of a layer become zero, and what the others become, so that its output stays.

With the inputs' second moment H, changing one output channel's weights by d costs d H d^T. Zeroing weight q costs at
least w_q^2 / [H^-1]_qq, with d = -w_q / [H^-1]_qq * [H^-1]_q (Hassibi & Stork 1992). `eliminate` takes the cheapest
weight of a row away again and again (Frantar & Alistarh, OBC, arXiv 2208.11580), which is K^3 a row; `sweep` decides
block of columns by block for all rows at once (Frantar & Alistarh, SparseGPT, arXiv 2301.00774), which is K^3 in all.
`least_squares` gives the best values for the zeros that are chosen.

Weights are (G, O, K): groups, output channels of each, inputs of each; H is (G, K, K), positive definite; float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.lazy import np

if TYPE_CHECKING:
    from collections.abc import Iterator

# Multiplications that greedy elimination may take: some seconds.
MOST_STEPS = 1.5e9
# The same for the values of each row; they are matrix products, thirty times as fast.
MOST_SOLVED = 1e12
BLOCK = 128
_CHUNK = 1 << 17  # numbers that fit into the CPU's cache together


def prune(weight: np.ndarray, hessian: np.ndarray, count: int) -> np.ndarray:
    """Give the weight (G, O, K) with exactly `count` zeros, the others moved so that d H d^T is small.

    Greedy elimination where it takes at most MOST_STEPS, which may give channels unequal shares; else the sweep.
    """
    groups, rows, inputs = weight.shape
    if count >= weight.size:
        return np.zeros_like(weight)
    steps = float(groups * rows) * float(inputs) ** 3
    if steps <= MOST_STEPS:
        return least_squares(weight, hessian, chosen(*eliminate(weight, hessian), count))
    swept = sweep(weight, hessian, count)
    return least_squares(weight, hessian, swept != 0) if steps <= MOST_SOLVED else swept


def eliminate(weight: np.ndarray, hessian: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take the weights of each row away one by one, the cheapest first, the others moved each time.

    Gives the order (G, O, K) as places in the row, and by how much d H d^T grows at each step (G, O, K).
    """
    groups, rows, inputs = weight.shape
    order = np.empty((groups * rows, inputs), np.int64)
    losses = np.empty((groups * rows, inputs))
    inverse = np.linalg.inv(hessian)
    some = max(1, _CHUNK // inputs**2)
    flat = weight.reshape(-1, inputs)
    for start in range(0, len(flat), some):
        part = slice(start, start + some)
        which = np.arange(len(flat))[part] // rows
        order[part], losses[part] = _eliminate(flat[part], inverse[which])
    return order.reshape(weight.shape), losses.reshape(weight.shape)


def _eliminate(weight: np.ndarray, inverse: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Do it for some rows (R, K), each with the inverse (R, K, K) of its own."""
    rows, inputs = weight.shape
    values, left = weight.copy(), np.tile(np.arange(inputs), (rows, 1))
    gone = np.zeros((rows, inputs), bool)
    order, losses = np.empty((rows, inputs), np.int64), np.empty((rows, inputs))
    every = np.arange(rows)
    for step in range(inputs):
        pivots = np.diagonal(inverse, axis1=1, axis2=2)
        cost = np.where(gone, np.inf, values**2 / np.where(gone, 1.0, pivots))
        place = cost.argmin(1)
        order[:, step], losses[:, step] = left[every, place], cost[every, place]
        column = inverse[every, place]
        scaled = column / column[every, place][:, None]
        values -= values[every, place][:, None] * scaled
        inverse -= column[:, :, None] * scaled[:, None, :]
        gone[every, place] = True
        # Now and then what is gone leaves the arrays too: a third of the work in all instead of the whole.
        if step % 16 == 15:
            kept = np.nonzero(~gone)[1].reshape(rows, -1)
            values, left = np.take_along_axis(values, kept, 1), np.take_along_axis(left, kept, 1)
            inverse = inverse[every[:, None, None], kept[:, :, None], kept[:, None, :]]
            gone = np.zeros(kept.shape, bool)
    return order, losses


def chosen(order: np.ndarray, losses: np.ndarray, count: int) -> np.ndarray:
    """Tell which weights stay (G, O, K) when `count` steps are taken, over all rows those that cost least."""
    # A row's cheap step behind a dear one is to be had at the price of the dear one.
    price = np.maximum.accumulate(losses, axis=-1)
    taken = np.zeros(losses.size, bool)
    taken[np.argsort(price, axis=None, kind="stable")[:count]] = True
    stays = np.empty(losses.shape, bool)
    np.put_along_axis(stays, order, ~taken.reshape(losses.shape), -1)
    return stays


def sweep(weight: np.ndarray, hessian: np.ndarray, count: int) -> np.ndarray:
    """Give the weight with exactly `count` zeros, chosen block of columns by block, each error pushed to the right."""
    inputs = weight.shape[2]
    # H^-1 = U^T U with U upper: U_jj^2 is [H^-1]_jj once the columns before j are fixed.
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).swapaxes(1, 2)
    pivots = np.diagonal(upper, axis1=1, axis2=2)[:, None, :]
    moved = weight.copy()
    for start, stop in _blocks(inputs):
        share = count * stop // inputs - count * start // inputs
        cost = (moved[:, :, start:stop] / pivots[:, :, start:stop]) ** 2
        zero = np.zeros(cost.shape, bool)
        zero.reshape(-1)[np.argsort(cost, axis=None, kind="stable")[:share]] = True
        errors = np.zeros(cost.shape)
        for place in range(start, stop):
            error = np.where(zero[:, :, place - start], moved[:, :, place] / pivots[:, :, place], 0.0)
            moved[:, :, place:stop] -= error[:, :, None] * upper[:, None, place, place:stop]
            errors[:, :, place - start] = error
        moved[:, :, stop:] -= errors @ upper[:, start:stop, stop:]
        moved[:, :, start:stop][zero] = 0.0
    return moved


def _blocks(inputs: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + BLOCK, inputs)) for start in range(0, inputs, BLOCK))


def least_squares(weight: np.ndarray, hessian: np.ndarray, stays: np.ndarray) -> np.ndarray:
    """Give what the weights that stay have to be for d H d^T to be least, the others zero."""
    found = np.zeros_like(weight)
    for group, gram in enumerate(hessian):
        wanted = weight[group] @ gram
        for row, kept in enumerate(stays[group]):
            places = np.nonzero(kept)[0]
            found[group, row, places] = np.linalg.solve(gram[np.ix_(places, places)], wanted[row, places])
    return found


def cost(change: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """Give d H d^T of each row: (G, O, K) and (G, K, K) to (G, O)."""
    squares: np.ndarray = ((change @ hessian) * change).sum(2)
    return squares
