"""Ops that take parts of the picture away; alpha stays, and so do masks and the labels of what can still be seen."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgekit.augment.op import OPS, Op
from edgekit.augment.photometric import full_scale
from edgekit.lazy import np
from edgekit.spec import option

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgekit.augment.op import Params
    from edgekit.data.sample import Sample


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
        covered = image.copy()
        for square in self._squares(params, (image.shape[1], image.shape[0])):
            covered[(*square, slice(3))] = round(self.fill * full_scale(image))
        return covered

    def covered(self, params: Params, size: tuple[int, int]) -> np.ndarray:
        """Give the squares: an object hardly seen any more is dropped, and keypoints under one are hidden."""
        hidden = np.zeros(size[::-1], np.bool_)
        for square in self._squares(params, size):
            hidden[square] = True
        return hidden

    def _squares(self, params: Params, size: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
        width, height = size
        side = round(self.size * min(width, height))
        for place_x, place_y in params["places"]:
            x = math.floor(place_x * (width - side + 1))
            y = math.floor(place_y * (height - side + 1))
            yield slice(y, y + side), slice(x, x + side)
