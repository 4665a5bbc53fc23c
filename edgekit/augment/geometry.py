"""Ops that move pixels: each gives one 3x3 matrix, and `warp.py` moves the image and every label by it.

Matrices map source to output in the continuous coordinates of `sample.py`; y points down, so a positive angle turns
clockwise as seen.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from edgekit.augment.op import OPS, Op, probability
from edgekit.augment.warp import BORDERS
from edgekit.lazy import cv2, np
from edgekit.spec import option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgekit.augment.op import Params
    from edgekit.data.sample import Sample

    Size = tuple[int, int]
    Moved = tuple[np.ndarray, Size]


def border_field() -> Any:
    """Declare what an op sees outside the picture."""
    return option("reflect", help="what is outside the picture", choices=BORDERS)


def fill_field() -> Any:
    """Declare the grey of border=constant."""
    return option(0.0, help="grey of border=constant; 0 is black, 1 is white", ge=0, le=1)


@OPS.add
class flip(Op):
    """Mirror left and right."""

    mirrors: ClassVar[bool] = True

    p: float = probability(0.5)

    def matrix(self, params: Params, size: Size) -> Moved:
        """Map x to width - x."""
        return np.array([[-1.0, 0.0, size[0]], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), size


@OPS.add
class vflip(Op):
    """Mirror top and bottom."""

    mirrors: ClassVar[bool] = True

    p: float = probability(0.5)

    def matrix(self, params: Params, size: Size) -> Moved:
        """Map y to height - y."""
        return np.array([[1.0, 0.0, 0.0], [0.0, -1.0, size[1]], [0.0, 0.0, 1.0]]), size


@OPS.add
class rot90(Op):
    """Turn by one, two or three quarter turns.

    With the default p of 0.75 all four orientations, the original included, are equally likely. Pixels are copied,
    never interpolated; one and three turns swap width and height.
    """

    p: float = probability(0.75)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the number of clockwise quarter turns: 1, 2 or 3."""
        return {"turns": int(rng.integers(1, 4))}

    def matrix(self, params: Params, size: Size) -> Moved:
        """Turn clockwise about the origin and move back into the frame."""
        width, height = size
        rows, turned = {
            1: ([[0, -1, height], [1, 0, 0], [0, 0, 1]], (height, width)),
            2: ([[-1, 0, width], [0, -1, height], [0, 0, 1]], size),
            3: ([[0, 1, 0], [-1, 0, width], [0, 0, 1]], (height, width)),
        }[params["turns"]]
        return np.array(rows, np.float64), turned


@OPS.add
class transpose(Op):
    """Swap rows and columns.

    The mirror at the main diagonal: width and height are swapped, and pixels are copied, never interpolated.
    """

    mirrors: ClassVar[bool] = True

    p: float = probability(0.5)

    def matrix(self, params: Params, size: Size) -> Moved:
        """Swap x and y."""
        return np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), size[::-1]


@OPS.add
class rotate(Op):
    """Turn by a random angle about the centre.

    The angle is drawn uniformly from -degrees to degrees, so degrees itself is not negative: the sign is drawn. The
    size stays; corners that leave the frame are lost, and corners that come into it show the border.
    """

    degrees: float = option(15.0, help="largest angle either way; the sign is drawn", ge=0, le=180)
    border: str = border_field()
    fill: float = fill_field()

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the angle in degrees; positive is clockwise."""
        return {"degrees": _either_way(rng, self.degrees)}

    def matrix(self, params: Params, size: Size) -> Moved:
        """Rotate about the centre."""
        angle = math.radians(params["degrees"])
        cos, sin = math.cos(angle), math.sin(angle)
        return _about_centre([[cos, -sin], [sin, cos]], size), size


@OPS.add
class scale(Op):
    """Zoom in or out about the centre.

    The factor is drawn uniformly from 1 - amount to 1 + amount; the size stays. Zooming out shows the border.
    """

    amount: float = option(0.2, help="largest change of the zoom factor, up or down", ge=0, le=0.9)
    border: str = border_field()
    fill: float = fill_field()

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the zoom factor; above 1 things grow."""
        return {"factor": 1.0 + _either_way(rng, self.amount)}

    def matrix(self, params: Params, size: Size) -> Moved:
        """Scale about the centre."""
        return _about_centre([[params["factor"], 0.0], [0.0, params["factor"]]], size), size


@OPS.add
class translate(Op):
    """Move sideways and up or down.

    Each distance is drawn uniformly from -share to share of the width or height and rounded to whole pixels, so
    nothing is interpolated. The size stays; what comes in is the border.
    """

    share: float = option(0.1, help="largest move, as a share of width and height", ge=0, le=1)
    border: str = border_field()
    fill: float = fill_field()

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw both moves as shares; positive is right and down."""
        return {"x": _either_way(rng, self.share), "y": _either_way(rng, self.share)}

    def matrix(self, params: Params, size: Size) -> Moved:
        """Translate by whole pixels."""
        return translation(round(params["x"] * size[0]), round(params["y"] * size[1])), size


@OPS.add
class shear(Op):
    """Slant along both axes.

    Two angles are drawn uniformly from -degrees to degrees: rows slide along x by tan(angle) of their distance from the
    centre, then columns along y. The area of things stays, and so does the size of the picture.
    """

    degrees: float = option(10.0, help="largest slant either way; the sign is drawn", ge=0, le=60)
    border: str = border_field()
    fill: float = fill_field()

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the angles along x and y in degrees."""
        return {"x": _either_way(rng, self.degrees), "y": _either_way(rng, self.degrees)}

    def matrix(self, params: Params, size: Size) -> Moved:
        """Shear along x, then along y, about the centre."""
        # One after the other: both at once, [[1, x], [y, 1]], would flatten the picture at x * y = 1.
        x, y = math.tan(math.radians(params["x"])), math.tan(math.radians(params["y"]))
        return _about_centre([[1.0, x], [y, 1.0 + x * y]], size), size


@OPS.add
class perspective(Op):
    """Look at the picture from a slant: move its four corners.

    Each corner moves by up to share of the width and of the height, drawn uniformly, in any direction; the homography
    through the four pairs is `cv2.getPerspectiveTransform`. The size stays. Up to 0.15 the corners cannot cross and the
    horizon, beyond which there is nothing to see, cannot come into the frame.
    """

    share: float = option(0.1, help="largest move of a corner, as a share of width and height", ge=0, le=0.15)
    border: str = border_field()
    fill: float = fill_field()

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the moves of the corners, clockwise from the top left, as shares of width and height."""
        return {"corners": rng.uniform(-self.share, self.share, (4, 2)).tolist()}

    def matrix(self, params: Params, size: Size) -> Moved:
        """Map the frame's corners to the moved ones."""
        corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], np.float32)
        moves = np.array(params["corners"], np.float32)
        if not moves.any():
            return np.eye(3), size
        # Solved in shares, where OpenCV's float32 input is accurate for any size.
        shares = cv2.getPerspectiveTransform(corners, corners + moves)
        pixels = np.diag([float(size[0]), float(size[1]), 1.0])
        return pixels @ shares @ np.linalg.inv(pixels), size


def _either_way(rng: np.random.Generator, limit: float) -> float:
    return float(rng.uniform(-limit, limit))


def translation(x: float, y: float) -> np.ndarray:
    """Give the matrix that moves by (x, y)."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def _about_centre(linear: list[list[float]], size: Size) -> np.ndarray:
    x, y = size[0] / 2, size[1] / 2
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    centred: np.ndarray = translation(x, y) @ matrix @ translation(-x, -y)
    return centred
