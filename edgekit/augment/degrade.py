"""Ops that make a picture worse, as lenses and networks do: blur, few pixels, compression. Alpha is never changed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgekit.augment.op import OPS, Op
from edgekit.augment.photometric import on_colours
from edgekit.lazy import cv2, np
from edgekit.spec import option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgekit.augment.op import Params
    from edgekit.data.sample import Sample

# Below this many pixels a Gaussian's neighbours weigh less than 1e-21: nothing at 16 bits.
SHARP = 0.1

WIDE = 3.5  # pixels; a disc of a larger radius is drawn on a smaller picture


@OPS.add
class blur(Op):
    """Blur with a Gaussian.

    Its standard deviation in pixels is drawn uniformly from 0 to sigma.
    """

    sigma: float = option(1.0, help="largest standard deviation, in pixels", ge=0, le=50)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the standard deviation."""
        return {"sigma": float(rng.uniform(0.0, self.sigma))}

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Convolve with a Gaussian."""
        if params["sigma"] < SHARP:
            return image
        return on_colours(image, lambda colours: cv2.GaussianBlur(colours, (0, 0), params["sigma"]))


@OPS.add
class motionblur(Op):
    """Blur along a line, as a moving camera does.

    The line's length in pixels is drawn uniformly from 1 to length, its direction uniformly from all.
    """

    length: float = option(7.0, help="longest line, in pixels; 1 changes nothing", ge=1, le=101)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the length, and the direction in degrees clockwise from the x axis."""
        return {"length": float(rng.uniform(1.0, self.length)), "degrees": float(rng.uniform(0.0, 180.0))}

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Convolve with the line."""
        kernel = _line(params["length"], params["degrees"])
        return on_colours(image, lambda colours: cv2.filter2D(colours, -1, kernel))


@OPS.add
class defocus(Op):
    """Blur as a lens out of focus does.

    Every point becomes a disc, whose radius in pixels is drawn uniformly from 0 to radius. Large discs
    are laid over a picture made smaller by a whole number, with a radius that makes up for the blur of the way there
    and back (equal variance).
    """

    radius: float = option(3.0, help="largest radius, in pixels", ge=0, le=50)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the radius."""
        return {"radius": float(rng.uniform(0.0, self.radius))}

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Convolve with the disc."""
        radius = params["radius"]
        factor = max(1, math.ceil(radius / WIDE))
        if factor == 1:
            return on_colours(image, lambda colours: cv2.filter2D(colours, -1, _disc(radius)))
        # A disc has a variance of radius^2 / 4 an axis, averaging (factor^2 - 1) / 12, linear growing twice that.
        small = math.sqrt(radius**2 - (factor**2 - 1)) / factor

        def change(colours: np.ndarray) -> np.ndarray:
            height, width = colours.shape[:2]
            shrunk = cv2.resize(colours, (-(-width // factor), -(-height // factor)), interpolation=cv2.INTER_AREA)
            return cv2.resize(cv2.filter2D(shrunk, -1, _disc(small)), (width, height), interpolation=cv2.INTER_LINEAR)

        return on_colours(image, change)


@OPS.add
class zoomblur(Op):
    """Blur towards the edges, as a camera that zooms does.

    The mean of zooms about the centre, from 1 - a/2 to 1 + a/2 with a drawn uniformly from 0 to amount, so that what is
    labelled stays in its place. The mean of 2^k zooms takes k + 1 steps: each averages the picture with itself zoomed
    twice as far as in the step before.
    """

    amount: float = option(0.1, help="largest range of the zoom factor", ge=0, le=1)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the range of the zoom factor."""
        return {"amount": float(rng.uniform(0.0, self.amount))}

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Average."""
        amount, (height, width) = params["amount"], image.shape[:2]
        # Zooms a pixel apart at the corners are as good as all.
        steps = min(5, math.ceil(math.log2(max(1.0, amount * math.hypot(width, height) / 2))))
        if steps == 0:
            return image
        apart = math.log((1 + amount / 2) / (1 - amount / 2)) / 2**steps

        def zoom(colours: np.ndarray, logarithm: float) -> np.ndarray:
            factor = math.exp(logarithm)
            x, y = (1 - factor) * (width - 1) / 2, (1 - factor) * (height - 1) / 2
            matrix = np.array([[factor, 0.0, x], [0.0, factor, y]])
            zoomed: np.ndarray = cv2.warpAffine(colours, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
            return zoomed

        def change(colours: np.ndarray) -> np.ndarray:
            colours = zoom(colours, -apart * (2**steps - 1) / 2)
            for step in range(steps):
                colours = cv2.addWeighted(colours, 0.5, zoom(colours, apart * 2**step), 0.5, 0.0)
            return colours

        return on_colours(image, change)


@OPS.add
class downscale(Op):
    """Lose detail: make smaller, and large again.

    Width and height are divided by a factor drawn uniformly from 1 to factor; shrinking averages over the area, growing
    is bilinear or repeats the pixels.
    """

    factor: float = option(3.0, help="largest factor", ge=1, le=32)
    back: str = option("smooth", help="how it is made large again", choices=("smooth", "blocks"))

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the factor."""
        return {"factor": float(rng.uniform(1.0, self.factor))}

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Resize twice."""
        height, width = image.shape[:2]
        small = (max(1, round(width / params["factor"])), max(1, round(height / params["factor"])))
        if small == (width, height):
            return image
        way = cv2.INTER_LINEAR if self.back == "smooth" else cv2.INTER_NEAREST_EXACT

        def change(colours: np.ndarray) -> np.ndarray:
            shrunk = cv2.resize(colours, small, interpolation=cv2.INTER_AREA)
            return cv2.resize(shrunk, (width, height), interpolation=way)

        return on_colours(image, change)


@OPS.add
class jpeg(Op):
    """Compress as JPEG and unpack again.

    The quality is drawn uniformly from quality to 95 (only quality itself when that is above 95). 16-bit pictures come
    back with the 256 levels that JPEG can hold.
    """

    quality: int = option(50, help="lowest quality", ge=1, le=100)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the quality."""
        return {"quality": int(rng.integers(self.quality, max(self.quality, 95) + 1))}

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Go through the codec in memory."""
        from edgekit.data import images  # here, because `edgekit --help` needs this module and no codecs

        def recode(colours: np.ndarray) -> np.ndarray:
            if colours.dtype == np.uint16:  # 65535 / 255 is 257
                return recode(cv2.convertScaleAbs(colours, alpha=1 / 257)).astype(np.uint16) * 257
            height, width = colours.shape[:2]
            data = images.encode(colours.reshape(height, width, -1), "jpeg", quality=params["quality"])
            return images.decode(data, max_pixels=height * width).pixels

        return on_colours(image, recode)


def _line(length: float, degrees: float) -> np.ndarray:
    """Draw a line through the middle of a kernel: points along it, each shared among the four pixels round it."""
    reach = (length - 1.0) / 2.0
    along = np.linspace(-reach, reach, 8 * math.ceil(length) + 1)
    middle = math.ceil(reach)
    kernel = np.zeros((2 * middle + 2, 2 * middle + 2), np.float64)
    x = along * math.cos(math.radians(degrees)) + middle
    y = along * math.sin(math.radians(degrees)) + middle
    column, row = np.floor(x).astype(int), np.floor(y).astype(int)
    right, down = x - column, y - row
    np.add.at(kernel, (row, column), (1 - right) * (1 - down))
    np.add.at(kernel, (row, column + 1), right * (1 - down))
    np.add.at(kernel, (row + 1, column), (1 - right) * down)
    np.add.at(kernel, (row + 1, column + 1), right * down)
    # The last row and column only caught points of weight 0; without them the middle is the middle.
    shares: np.ndarray = kernel[:-1, :-1] / along.size
    return shares


def _disc(radius: float) -> np.ndarray:
    """Draw a disc: each pixel has the share of its 8x8 points that lie in it; the middle has all when none do."""
    reach = math.ceil(radius - 0.5) if radius > 0.5 else 0
    axis = (np.arange((2 * reach + 1) * 8) + 0.5) / 8 - (reach + 0.5)
    inside = (axis[:, None] ** 2 + axis[None, :] ** 2 <= radius**2).astype(np.float64)
    shares = inside.reshape(2 * reach + 1, 8, 2 * reach + 1, 8).sum(axis=(1, 3))
    if not shares.any():
        shares[reach, reach] = 1.0
    kernel: np.ndarray = shares / shares.sum()
    return kernel
