"""Ops that bend the picture: each gives a displacement field, and `warp.py` moves the image and every label by it.

A field is a grid of displacements and, between its nodes, their smooth mean: piecewise polynomials along x times those
along y. Its slopes are kept below one, or it would fold the picture over.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgekit.augment.draws import new_seed, uniforms
from edgekit.augment.geometry import border_field, fill_field
from edgekit.augment.op import OPS, Op
from edgekit.lazy import cv2, np
from edgekit.spec import option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgekit.augment.op import Params
    from edgekit.data.sample import Sample

    Size = tuple[int, int]
    Maps = tuple[np.ndarray, np.ndarray]

# The steepest slope that a field may have, added up over both axes: below one, which is what finding where a label ends
# up needs (`field.py`), with room for what lies between the places where elastic looks at it.
STEEPEST = 0.9

DENSE = 16  # places between two nodes where a field is computed, where there are as many pixels; linear between them


@OPS.add
class elastic(Op):
    """Bend smoothly and at random, as rubber.

    Random displacements, uniform in both directions, are smoothed by a Gaussian (Simard et al. 2003, "Best practices
    for convolutional neural networks") of sigma times the shorter side, here as the cubic B-spline of that standard
    deviation on a grid. The largest displacement is drawn uniformly from 0 to alpha times the shorter side, and is
    smaller where that would be too steep for sigma.
    """

    alpha: float = option(0.05, help="largest displacement, as a share of the shorter side", ge=0, le=0.5)
    sigma: float = option(0.1, help="smoothness, as a share of the shorter side", ge=0.02, le=1)
    border: str = border_field()
    fill: float = fill_field()

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the largest displacement as a share, and the seed of the field."""
        return {"alpha": float(rng.uniform(0.0, self.alpha)), "seed": new_seed(rng)}

    def matrix(self, params: Params, size: Size) -> tuple[np.ndarray, Size] | None:
        """Give the identity when nothing bends: labels then stay to the last bit."""
        return None if params["alpha"] else (np.eye(3), size)

    def field(self, params: Params, size: Size) -> Maps:
        """Give the place in the source that each output pixel shows."""
        # A cubic B-spline has a variance of a third of its spacing squared.
        side = min(size)
        spacing = max(1.0, math.sqrt(3) * self.sigma * side)
        counts = [math.ceil(length / spacing) + 3 for length in size]
        nodes = 2.0 * uniforms(params["seed"], 2, counts[1], counts[0]) - 1.0
        every = max(1, int(spacing / DENSE))
        places = [_places(length, every) for length in size]
        across, down = (_spline(at / spacing, count) for at, count in zip(places, counts, strict=True))
        few = _between(nodes, across, down)
        strength = min(params["alpha"] * side / float(np.abs(few).max()), STEEPEST / _steepest(few, places))
        return _maps(few * np.float32(strength), size)


@OPS.add
class grid_distortion(Op):
    """Move the crossings of a grid, and bend the picture between them.

    The picture is divided into steps x steps cells; each crossing inside moves by up to amount of a cell's shorter
    side along both axes, drawn uniformly; the frame stays. In between, displacements are bilinear.
    """

    amount: float = option(0.15, help="largest move of a crossing, as a share of its cell", ge=0, le=STEEPEST / 4)
    steps: int = option(5, help="cells along each side", ge=2, le=50)
    border: str = border_field()
    fill: float = fill_field()

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the largest move as a share, and the seed of the moves."""
        return {"amount": float(rng.uniform(0.0, self.amount)), "seed": new_seed(rng)}

    def matrix(self, params: Params, size: Size) -> tuple[np.ndarray, Size] | None:
        """Give the identity when nothing bends: labels then stay to the last bit."""
        return None if params["amount"] else (np.eye(3), size)

    def field(self, params: Params, size: Size) -> Maps:
        """Give the place in the source that each output pixel shows."""
        nodes = np.zeros((2, self.steps + 1, self.steps + 1))
        nodes[:, 1:-1, 1:-1] = 2.0 * uniforms(params["seed"], 2, self.steps - 1, self.steps - 1) - 1.0
        cell = min(size) / self.steps
        every = max(1, int(cell / DENSE))
        across, down = (_tents(_places(length, every) / length * self.steps, self.steps) for length in size)
        return _maps(_between(params["amount"] * cell * nodes, across, down), size)


def _between(nodes: np.ndarray, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Interpolate 2xMxN nodes by the weights along x (WxN) and y (HxM): 2xHxW float32.

    OpenCV's product, because BLAS would start threads of its own in every worker process.
    """
    rows, columns = down.astype(np.float32), across.astype(np.float32)
    halves = (cv2.gemm(rows, one.astype(np.float32), 1.0, None, 0.0) for one in nodes)
    return np.stack([cv2.gemm(half, columns, 1.0, None, 0.0, flags=cv2.GEMM_2_T) for half in halves])


def _places(length: int, every: int) -> np.ndarray:
    """Give the middles of parts of about `every` pixels that a side of `length` pixels is divided into."""
    count = math.ceil(length / every)
    places: np.ndarray = (np.arange(count) + 0.5) * (length / count)
    return places


def _maps(few: np.ndarray, size: Size) -> Maps:
    """Interpolate displacements, 2xHxW float32 in the middles of parts, at every pixel, and add the pixels' places."""
    moves = [one if one.shape[::-1] == size else cv2.resize(one, size, interpolation=cv2.INTER_LINEAR) for one in few]
    columns, rows = (np.arange(length, dtype=np.float32) + np.float32(0.5) for length in size)
    moves[0] += columns
    moves[1] += rows[:, None]
    return moves[0], moves[1]


def _steepest(few: np.ndarray, places: Sequence[np.ndarray]) -> float:
    """Find the largest slope of either displacement, added up over both axes; above 0."""
    edged = np.pad(few, ((0, 0), (0, 1), (0, 1)), mode="edge")
    apart_x, apart_y = (float(at[1] - at[0]) if len(at) > 1 else 1.0 for at in places)
    down, across = np.diff(edged, axis=1)[:, :, :-1] / apart_y, np.diff(edged, axis=2)[:, :-1] / apart_x
    return max(1e-9, float((np.abs(down) + np.abs(across)).max()))


def _spline(places: np.ndarray, count: int) -> np.ndarray:
    """Give the weight of each of `count` nodes, at -1, 0, 1 ..., at places: a cubic B-spline."""
    first = places.astype(np.int64)
    t = places - first
    weights = np.zeros((len(places), count))
    parts = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    for node, part in enumerate(parts):
        weights[np.arange(len(places)), first + node] = part / 6
    return weights


def _tents(places: np.ndarray, steps: int) -> np.ndarray:
    """Give the weight of each of the nodes 0, 1 ... steps at places: linear."""
    weights: np.ndarray = np.maximum(0.0, 1.0 - np.abs(places[:, None] - np.arange(steps + 1)))
    return weights
