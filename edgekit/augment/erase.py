"""Ops that take parts of the picture away; alpha stays, and so do masks and the labels of what can still be seen."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgekit.augment.draws import new_seed
from edgekit.augment.op import OPS, Op, probability
from edgekit.augment.photometric import full_scale
from edgekit.lazy import np
from edgekit.spec import option

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from edgekit.augment.op import Params
    from edgekit.data.sample import Sample

LEAST = 0.02  # the smallest area that random-erasing covers, as a share of the picture's
TRIES = 10  # rectangles that it draws until one fits
GREYS = {"black": 0.0, "gray": 0.5, "white": 1.0}


@OPS.add
class cutout(Op):
    """Cover random squares with grey.

    The squares' side is size times the shorter side of the picture, in whole pixels; their places are drawn uniformly,
    inside the frame (after DeVries and Taylor 2017, arXiv 1708.04552).
    """

    size: float = option(0.25, help="side of a square, as a share of the picture's shorter side", ge=0, le=1)
    count: int = option(1, help="how many squares", ge=1, le=100)
    fill: float = option(0.5, help="grey of the squares; 0 is black, 1 is white", ge=0, le=1)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw each square's place (x, y) as a share of the room there is."""
        return {"places": rng.random((self.count, 2)).tolist()}

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Fill the squares."""
        return _filled(image, self._squares(params, (image.shape[1], image.shape[0])), self.fill)

    def covered(self, params: Params, size: tuple[int, int]) -> np.ndarray:
        """Give the squares: an object hardly seen any more is dropped, and keypoints under one are hidden."""
        return _hidden(self._squares(params, size), size)

    def _squares(self, params: Params, size: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
        width, height = size
        side = round(self.size * min(width, height))
        for place_x, place_y in params["places"]:
            x = math.floor(place_x * (width - side + 1))
            y = math.floor(place_y * (height - side + 1))
            yield slice(y, y + side), slice(x, x + side)


@OPS.add
class random_erasing(Op):
    """Cover a random rectangle with noise.

    Its area is drawn uniformly from 0.02 (from area, when that is less) to area times the picture's, the logarithm of
    its aspect ratio uniformly between those of ratio and 1 / ratio, and its place from all inside the frame (Zhong et
    al. 2017, arXiv 1708.04896). Rectangles that do not fit are drawn again, TRIES times in all, then cut.
    """

    area: float = option(0.33, help="largest area, as a share of the picture's", ge=0, le=1)
    ratio: float = option(0.3, help="narrowest aspect ratio; the widest is its inverse", ge=0.05, le=1)
    fill: str = option("noise", help="what it is covered with", choices=("noise", "black", "gray", "white"))
    p: float = probability(0.5)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the sides in pixels, the place as a share of the room there is, and the seed of the noise."""
        (width, height), limit = sample.size, math.log(1 / self.ratio)
        for _ in range(TRIES):
            area = rng.uniform(min(LEAST, self.area), self.area) * width * height
            shape = math.exp(rng.uniform(-limit, limit))
            wide, tall = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
            if wide <= width and tall <= height:
                break
        size = {"width": min(wide, width), "height": min(tall, height)}
        return size | {"x": float(rng.random()), "y": float(rng.random()), "seed": new_seed(rng)}

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Fill the rectangle."""
        erased, full = image.copy(), full_scale(image)
        place = self._place(params, (image.shape[1], image.shape[0]))
        colours = erased[place][..., :3]
        if self.fill == "noise":
            colours[:] = _noise(params["seed"], colours.shape, image.dtype)
        else:
            colours[:] = round(full * GREYS[self.fill])
        return erased

    def covered(self, params: Params, size: tuple[int, int]) -> np.ndarray:
        """Give the rectangle."""
        hidden = np.zeros(size[::-1], np.bool_)
        hidden[self._place(params, size)] = True
        return hidden

    def _place(self, params: Params, size: tuple[int, int]) -> tuple[slice, slice]:
        x = math.floor(params["x"] * (size[0] - params["width"] + 1))
        y = math.floor(params["y"] * (size[1] - params["height"] + 1))
        return slice(y, y + params["height"]), slice(x, x + params["width"])


@OPS.add
class grid_mask(Op):
    """Cover the picture with a grid of squares.

    The grid's unit is drawn uniformly from unit to 1 times the shorter side, and its offsets uniformly; in each unit a
    square of hole times its side is covered (Chen et al. 2020, arXiv 2001.04086, where 1 - hole is r).
    """

    hole: float = option(0.4, help="side of the squares, as a share of the grid's unit", ge=0, le=0.9)
    unit: float = option(0.4, help="smallest unit, as a share of the shorter side", ge=0.02, le=1)
    fill: float = option(0.0, help="grey of the squares; 0 is black, 1 is white", ge=0, le=1)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the unit as a share of the shorter side, and both offsets as shares of the unit."""
        unit = float(rng.uniform(self.unit, 1.0))
        return {"unit": unit, "x": float(rng.random()), "y": float(rng.random())}

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Fill the squares."""
        return _filled(image, self._squares(params, (image.shape[1], image.shape[0])), self.fill)

    def covered(self, params: Params, size: tuple[int, int]) -> np.ndarray:
        """Give the squares."""
        return _hidden(self._squares(params, size), size)

    def _squares(self, params: Params, size: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
        unit = max(1, round(params["unit"] * min(size)))
        side = round(self.hole * unit)
        columns, rows = (
            [
                slice(max(0, start), max(0, start + side))
                for start in range(math.floor(share * unit) - unit, length, unit)
            ]
            for share, length in zip((params["x"], params["y"]), size, strict=True)
        )
        for row in rows:
            for column in columns:
                yield row, column


def _filled(image: np.ndarray, squares: Iterable[tuple[slice, slice]], grey: float) -> np.ndarray:
    """Fill squares with a grey, 0..1; alpha stays."""
    filled = image.copy()
    for square in squares:
        filled[(*square, slice(3))] = round(grey * full_scale(image))
    return filled


def _hidden(squares: Iterable[tuple[slice, slice]], size: tuple[int, int]) -> np.ndarray:
    """Mark squares in a picture of `size` (width, height)."""
    hidden = np.zeros(size[::-1], np.bool_)
    for square in squares:
        hidden[square] = True
    return hidden


def _noise(seed: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Give uniform values over the whole range of a type: the raw bits of PCG64."""
    count = math.prod(shape)
    words = np.random.PCG64(seed).random_raw(-(-count * dtype.itemsize // 8))
    return words.view(dtype)[:count].reshape(shape)
