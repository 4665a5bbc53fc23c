"""Sample: one labelled picture, and the one coordinate convention of the project.

Coordinates are in pixels, continuous, x to the right and y down, with the origin at the top left corner of the top left
pixel: the pixel in column i and row j covers [i, i+1) x [j, j+1) and its centre is (i + 0.5, j + 0.5). A mirror of an
image of width w is therefore x -> w - x. Labels live in the upright frame: EXIF orientation has been applied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture and what is known about it; replaced (`dataclasses.replace`), never changed.

    key: the path below the source folder, with `/`. image: HxWxC, uint8 or uint16, C = 1 (grey), 3 (RGB) or 4 (RGBA).
    label: the class path. boxes: Nx4 float64, x0 y0 x1 y1. polygons: each Mx2 float64. mask: HxW integer. points: Nx2
    float64. group, split: names, for keeping together and keeping apart.
    """

    key: str
    image: np.ndarray
    label: str | None = None
    boxes: np.ndarray | None = None
    polygons: tuple[np.ndarray, ...] = ()
    mask: np.ndarray | None = None
    points: np.ndarray | None = None
    group: str | None = None
    split: str | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return int(self.image.shape[1]), int(self.image.shape[0])
