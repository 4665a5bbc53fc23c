"""Ops that take parts of the picture away; labels stay, and so does alpha."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgekit.augment.op import OPS, Op
from edgekit.augment.photometric import full_scale
from edgekit.lazy import np
from edgekit.spec import option

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        height, width = image.shape[:2]
        side = round(self.size * min(width, height))
        covered = image.copy()
        for place_x, place_y in params["places"]:
            x = math.floor(place_x * (width - side + 1))
            y = math.floor(place_y * (height - side + 1))
            covered[y : y + side, x : x + side, :3] = round(self.fill * full_scale(image))
        return covered
