"""Sample: one labelled picture, and the one coordinate convention of the project.

Coordinates are in pixels, continuous, x to the right and y down, with the origin at the top left corner of the top left
pixel: the pixel in column i and row j covers [i, i+1) x [j, j+1) and its centre is (i + 0.5, j + 0.5). A mirror of an
image of width w is therefore x -> w - x. Labels live in the upright frame: EXIF orientation has been applied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, eq=False)
class Object:
    """One labelled object in a picture.

    number: of its class, a position in the data set's names. box: float64 (4,), x0 y0 x1 y1. polygons: its outline in
    parts, each Mx2 float64. region: its outline as HxW bool, as large as the picture (COCO's run lengths). keypoints:
    Kx3 float64, x, y and 0 (not labelled), 1 (hidden) or 2 (visible). oriented: the one polygon is a turned rectangle.
    crowd: it stands for many that are not told apart. extra: what the layout says of it beyond that, kept as it is.

    Augmentation keeps three things of its own here. visible: the share of the source's object that is left. extent: the
    share that its label still spans: noise over it takes nothing from that. span: the 3x3 matrix from the square -1..1
    to what a box alone stood for before it was turned, so that turning it on, or back, starts from there and not from
    the looser box; None: the box itself.
    """

    number: int
    box: np.ndarray
    polygons: tuple[np.ndarray, ...] = ()
    region: np.ndarray | None = None
    keypoints: np.ndarray | None = None
    oriented: bool = False
    crowd: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)
    visible: float = 1.0
    extent: float = 1.0
    span: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture and what is known about it; replaced (`dataclasses.replace`), never changed.

    key: the path below the source folder, with `/`. image: HxWxC, uint8 or uint16, C = 1 (grey), 3 (RGB) or 4 (RGBA).
    label: the class path. mask: HxW integer. group, split: names, for keeping together and keeping apart. objects: what
    is labelled in it. weights: of each class path in a mixture, adding up to 1; empty when `label` says it all.
    """

    key: str
    image: np.ndarray
    label: str | None = None
    mask: np.ndarray | None = None
    group: str | None = None
    split: str | None = None
    objects: tuple[Object, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)

    def with_image(self, image: np.ndarray) -> Sample:
        """Give it with another picture: what `replace` does, in a tenth of the time."""
        made = object.__new__(Sample)
        made.__dict__.update(self.__dict__, image=image)
        return made

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return int(self.image.shape[1]), int(self.image.shape[0])
