"""Adaptive rounding: weights rounded together, so that the errors of one output channel cancel over real inputs.

Rounding each weight to its nearest integer makes the weights' error least; what counts is the layer's output. Its error
over the calibration inputs is dW G dW^T with the Gram matrix G = X X^T, and making that least over integers is finding
the closest point of a lattice. One Cholesky factor of G gives a good one: weight by weight, each error pushed into the
weights still to come (Frantar et al., OBQ arXiv 2208.11580 and GPTQ 2210.17323; it is Babai's nearest plane, Chen et
al., 2507.18553). Coordinate descent and a refitted scale then only lower the error further.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress.quantize import weights
from edgekit.lazy import np
from edgekit.session import open_session, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from onnx import ModelProto, NodeProto

    Feed = Mapping[str, np.ndarray]
    Values = Callable[[str, np.ndarray], np.ndarray]

# Inputs, and positions of each, that a Gram is summed over: with 64 * 256 samples it has settled for any kernel.
ENOUGH_SAMPLES = 64
POSITIONS = 256
# Added to G's diagonal, relative to its mean: keeps unseen directions from being used as if they were free.
DAMPING = 1e-2
SWEEPS = 4
_BLOCK = 64  # weights handled one by one before the rest hears of them in one product
_GOLDEN = 0.6180339887498949


def adaptive(
    weight: np.ndarray, gram: np.ndarray, scale: np.ndarray, largest: int = 127, damping: float = DAMPING
) -> np.ndarray:
    """Round a weight (O, K) to integers -`largest`..`largest` (int8) for inputs with the Gram matrix (K, K).

    `scale` (O,) is what one step of each output channel is worth. For no output channel is dW G dW^T larger than with
    each weight rounded to the nearest. An input that is always zero gets that; so does everything when the Gram is all
    zeros or not finite. `damping` is relative to the mean of the Gram's diagonal.
    """
    whole = _batched(weight[None], gram[None], scale[None, :, None], largest, damping)
    return whole[0].astype(np.int8)


def _batched(
    weight: np.ndarray, gram: np.ndarray, scale: np.ndarray, largest: int, damping: float = DAMPING
) -> np.ndarray:
    """Round (G, O, K) for Grams (G, K, K) and scales (G, O, 1): one Gram a group."""
    direct = np.clip(np.rint(weight / scale), -largest, largest).astype(np.float64)
    target = weight.astype(np.float64) / scale
    unit, order = _prepared(gram, damping)
    goal = np.take_along_axis(target, order[:, None, :], 2).swapaxes(1, 2)
    found = _descended(goal, _nearest_plane(goal, np.linalg.cholesky(unit), largest), unit, largest)
    moved = np.empty_like(direct)
    np.put_along_axis(moved, order[:, None, :], found.swapaxes(1, 2), 2)
    better = squared_errors(target - moved, gram) < squared_errors(target - direct, gram)
    chosen: np.ndarray = np.where(better[..., None], moved, direct)
    return chosen


def squared_errors(error: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """Give dW G dW^T of each output channel: (G, O, K) and (G, K, K) to (G, O)."""
    squares: np.ndarray = ((error @ gram) * error).sum(2)
    return squares


def _prepared(gram: np.ndarray, damping: float) -> tuple[np.ndarray, np.ndarray]:
    """Give the Grams scaled to a mean diagonal of one, damped, in an order whose last input is the strongest."""
    strength = np.diagonal(gram, axis1=1, axis2=2)
    mean = strength.mean(1)
    usable = np.isfinite(gram).all((1, 2)) & (mean > np.finfo(np.float32).tiny)
    # The identity leaves every weight where it is.
    unit = np.where(usable[:, None, None], gram / np.where(usable, mean, 1)[:, None, None], 0.0)
    order = np.argsort(np.where(usable[:, None], strength, 0), axis=1, kind="stable")
    unit = np.take_along_axis(np.take_along_axis(unit, order[:, :, None], 1), order[:, None, :], 2)
    places = np.arange(unit.shape[1])
    unit[:, places, places] += np.where(usable, damping, 1.0)[:, None]
    return unit, order


def _nearest_plane(target: np.ndarray, lower: np.ndarray, largest: int) -> np.ndarray:
    """Round `target` (G, K, O) from the last weight to the first; `lower` (G, K, K) is the Cholesky factor."""
    push = lower / np.diagonal(lower, axis1=1, axis2=2)[:, None, :]
    moved = target.copy()
    found = np.empty_like(target)
    for stop in range(target.shape[1], 0, -_BLOCK):
        start = max(stop - _BLOCK, 0)
        for place in range(stop - 1, start - 1, -1):
            found[:, place] = np.clip(np.rint(moved[:, place]), -largest, largest)
            error = target[:, place] - found[:, place]
            moved[:, start:place] += push[:, place, start:place, None] * error[:, None]
        left = target[:, start:stop] - found[:, start:stop]
        moved[:, :start] += push[:, start:stop, :start].swapaxes(1, 2) @ left
    return found


def _descended(target: np.ndarray, found: np.ndarray, gram: np.ndarray, largest: int) -> np.ndarray:
    """Move one weight at a time to where it is best while the others stay, until nothing moves or a few sweeps."""
    found = found.copy()
    slope = gram @ (target - found)
    steepness = np.diagonal(gram, axis1=1, axis2=2)
    size = target.shape[1]
    for _ in range(SWEEPS):
        moved = False
        for start in range(0, size, _BLOCK):
            stop = min(start + _BLOCK, size)
            near = slope[:, start:stop].copy()
            before = found[:, start:stop].copy()
            for place in range(start, stop):
                wanted = found[:, place] + np.rint(near[:, place - start] / steepness[:, place, None])
                step = np.clip(wanted, -largest, largest) - found[:, place]
                if step.any():
                    found[:, place] += step
                    near -= gram[:, start:stop, place, None] * step[:, None]
            change = found[:, start:stop] - before
            if change.any():
                slope -= gram[:, :, start:stop] @ change
                moved = True
        if not moved:
            break
    return found
