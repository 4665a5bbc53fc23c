"""Ops that change the frame: what is cut out, what is added round it, and how large it is.

Each gives one 3x3 matrix, as those of `geometry.py` do.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from edgekit.augment.geometry import border_field, fill_field, translation
from edgekit.augment.op import OPS, Op
from edgekit.errors import EdgekitError
from edgekit.lazy import np
from edgekit.spec import option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgekit.augment.op import Params
    from edgekit.data.sample import Sample

    Size = tuple[int, int]
    Moved = tuple[np.ndarray, Size]

# The longest side that is made: no format but TIFF holds more.
MAX_SIDE = 65535

TRIES = 10  # windows that random-resized-crop draws until one fits, as torchvision does


@OPS.add
class crop(Op):
    """Cut out a random window with the picture's aspect ratio.

    The sides of the window are a factor, drawn uniformly from keep to 1, of the picture's, rounded to whole pixels (at
    least one); its place is drawn uniformly. Pixels are copied, never interpolated; the output is smaller.
    """

    keep: float = option(0.8, help="smallest part of each side that is kept", ge=0.05, le=1)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the factor, and the place as a share of the room there is."""
        factor = float(rng.uniform(self.keep, 1.0))
        return {"factor": factor, "x": float(rng.random()), "y": float(rng.random())}

    def matrix(self, params: Params, size: Size) -> Moved:
        """Move the window's corner to the origin."""
        width, height = (max(1, round(params["factor"] * side)) for side in size)
        x, y = _place(params, size, (width, height))
        return translation(-x, -y), (width, height)


@OPS.add
class random_resized_crop(Op):
    """Cut out a window of random area and shape, and stretch it to full size.

    Its area is drawn uniformly from scale to 1 of the picture's; its aspect ratio differs from the output's by a factor
    whose logarithm is uniform between those of ratio and 1 / ratio (Szegedy et al. 2014, arXiv 1409.4842, with 0.08 and
    0.75). Windows that do not fit are drawn again, TRIES times in all, then cut.
    """

    scale: float = option(0.3, help="smallest share of the area that is kept", ge=0.01, le=1)
    ratio: float = option(0.75, help="narrowest shape against the output's; the widest is its inverse", ge=0.1, le=1)
    size: int = option(0, help="width of the output in pixels; 0 is the picture's size", ge=0, le=16384)
    height: int = option(0, help="height of the output; 0 is the same as size", ge=0, le=16384)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the window's sides as shares of the picture's, and its place as a share of the room there is."""
        (width, height), (wide, tall) = sample.size, self._output(sample.size)
        limit = math.log(1 / self.ratio)
        for _ in range(TRIES):
            area, shape = rng.uniform(self.scale, 1.0), math.exp(rng.uniform(-limit, limit))
            aspect = shape * (wide / tall) / (width / height)
            x, y = math.sqrt(area * aspect), math.sqrt(area / aspect)
            if max(x, y) <= 1:
                break
        place = {"x": float(rng.random()), "y": float(rng.random())}
        return {"width": min(1.0, float(x)), "height": min(1.0, float(y))} | place

    def _output(self, size: Size) -> Size:
        return self.size or size[0], self.height or self.size or size[1]

    def matrix(self, params: Params, size: Size) -> Moved:
        """Move the window's corner to the origin, and scale it to the output."""
        wide, tall = (
            max(1, round(params[side] * whole)) for side, whole in zip(("width", "height"), size, strict=True)
        )
        x, y = _place(params, size, (wide, tall))
        out = self._output(size)
        return np.diag([out[0] / wide, out[1] / tall, 1.0]) @ translation(-x, -y), out


@OPS.add
class box_safe_crop(Op):
    """Cut out a random window round labelled objects.

    Of the objects (no crowds) some are drawn that stay whole, `objects` of them or all there are. The window has the
    picture's aspect ratio; its sides are a factor, drawn uniformly from keep, or from what those objects need, to 1 of
    the picture's; of the places where it holds them one is drawn. Pictures without objects are cropped anywhere. Pixels
    are copied, never interpolated; the output is smaller.
    """

    looks: ClassVar[bool] = True

    keep: float = option(0.5, help="smallest part of each side that is kept", ge=0.05, le=1)
    objects: int = option(1, help="how many objects stay whole", ge=1, le=1000)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the window: its corner and its sides, in whole pixels."""
        boxes = [one.box for one in sample.objects if not one.crowd]
        order = rng.permutation(len(boxes))[: self.objects].tolist()
        # To hundredths: layouts that store shares of the sides put 33 at 32.9999 or 33.0001, which is one box.
        held = np.round(np.array([boxes[index] for index in order]).reshape(-1, 4), 2)
        size, window = sample.size, {}
        low, high = ([0, 0], [0, 0])
        if len(held):
            low = np.floor(held[:, :2].min(axis=0)).astype(int).tolist()
            high = np.ceil(held[:, 2:].max(axis=0)).astype(int).tolist()
        needed = max((end - start) / side for start, end, side in zip(low, high, size, strict=True))
        factor = rng.uniform(min(1.0, max(self.keep, needed)), 1.0)
        for name, length, start, end, side in zip(("x", "y"), ("width", "height"), low, high, size, strict=True):
            window[length] = min(side, max(1, end - start, round(factor * side)))
            first, last = (max(0, end - window[length]), min(start, side - window[length]))
            if not len(held):
                first, last = 0, side - window[length]
            window[name] = int(rng.integers(first, last + 1))
        return window

    def matrix(self, params: Params, size: Size) -> Moved:
        """Move the window's corner to the origin."""
        return translation(-params["x"], -params["y"]), (params["width"], params["height"])


@OPS.add
class pad(Op):
    """Add a border on all four sides.

    The left and right borders are share of the width, the others share of the height, in whole pixels; nothing is
    drawn. The output is larger.
    """

    share: float = option(0.1, help="border, as a share of width and height", ge=0, le=1)
    border: str = border_field()
    fill: float = fill_field()

    def matrix(self, params: Params, size: Size) -> Moved:
        """Move by the border."""
        x, y = round(self.share * size[0]), round(self.share * size[1])
        return translation(x, y), (size[0] + 2 * x, size[1] + 2 * y)


@OPS.add
class resize(Op):
    """Change the size in pixels.

    mode `squash` stretches to size x height (height 0 is size), `short` and `long` keep the aspect ratio and make the
    shorter or the longer side size. Shrinking averages over the area, so it does not alias; growing is bilinear.
    """

    size: int = option(224, help="width, or the side that mode names, in pixels", ge=1, le=16384)
    height: int = option(0, help="height for mode=squash; 0 is the same as size", ge=0, le=16384)
    mode: str = option("squash", help="stretch, or the side that becomes size", choices=("squash", "short", "long"))

    def __post_init__(self) -> None:
        if self.height and self.mode != "squash":
            raise EdgekitError(
                f"resize: height={self.height} with mode={self.mode}, which keeps the aspect ratio",
                "leave height out, or use mode=squash",
            )

    def matrix(self, params: Params, size: Size) -> Moved:
        """Scale each axis by exactly output / source."""
        if self.mode == "squash":
            width, height = self.size, self.height or self.size
        else:
            side = min(size) if self.mode == "short" else max(size)
            width, height = (max(1, round(length * self.size / side)) for length in size)
        if max(width, height) > MAX_SIDE:
            raise EdgekitError(
                f"resize: {size[0]}x{size[1]} would become {width}x{height}; the limit is {MAX_SIDE} a side",
                "use mode=long or mode=squash",
            )
        return np.diag([width / size[0], height / size[1], 1.0]), (width, height)


@OPS.add
class letterbox(Op):
    """Fit into a size without changing the shape, and fill the rest.

    The picture is scaled, up or down, until it just fits into size x height (height 0 is size) and put in the middle.
    The bars are 114 of 255, as detectors of the YOLO family have it.
    """

    border: ClassVar[str] = "constant"

    size: int = option(640, help="width in pixels", ge=1, le=16384)
    height: int = option(0, help="height in pixels; 0 is the same as size", ge=0, le=16384)
    fill: float = option(114 / 255, help="grey of the bars; 0 is black, 1 is white", ge=0, le=1)

    def matrix(self, params: Params, size: Size) -> Moved:
        """Scale to whole pixels, and move into the middle."""
        out = (self.size, self.height or self.size)
        factor = min(out[0] / size[0], out[1] / size[1])
        width, height = (max(1, round(side * factor)) for side in size)
        x, y = (out[0] - width) // 2, (out[1] - height) // 2
        return translation(x, y) @ np.diag([width / size[0], height / size[1], 1.0]), out


def _place(params: Params, size: Size, window: Size) -> tuple[int, int]:
    """Turn shares of the room that a window has into the place of its corner."""
    # floor(share * (n + 1)) makes all n + 1 places equally likely.
    x, y = (math.floor(params[name] * (side - taken + 1)) for name, side, taken in zip("xy", size, window, strict=True))
    return x, y
