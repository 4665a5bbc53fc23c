"""Ops that make a picture worse, as cameras and networks do: noise, blur, compression. Alpha is never changed."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

from edgekit.augment.op import OPS, Op
from edgekit.augment.photometric import full_scale, on_colours
from edgekit.lazy import cv2, np
from edgekit.spec import option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgekit.augment.op import Params
    from edgekit.data.sample import Sample

# Below this many pixels a Gaussian's neighbours weigh less than 1e-21: nothing at 16 bits.
SHARP = 0.1

BAND = 1 << 20  # values that noise is made for at a time


@OPS.add
class noise(Op):
    """Add Gaussian noise, to each channel by itself.

    The standard deviation, as a share of full scale, is drawn uniformly from 0 to sigma. The noise itself comes from a
    drawn seed, so that a replay gives the same bytes: 16 bits of PCG64 a value, looked up in 65536 quantiles of the
    normal distribution. numpy promises the raw bits of PCG64 for all its versions but not those of `standard_normal`
    (NEP 19), and the table is seven times as fast.
    """

    sigma: float = option(0.03, help="largest standard deviation, as a share of full scale", ge=0, le=1)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the standard deviation and the seed of the noise."""
        return {"sigma": float(rng.uniform(0.0, self.sigma)), "seed": int(rng.integers(2**32))}

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Add, round and saturate in one pass, band after band: the noise is far larger than the picture."""
        strength = params["sigma"] * full_scale(image)

        def add(colours: np.ndarray) -> np.ndarray:
            bits = np.random.PCG64(params["seed"])
            depth = cv2.CV_8U if colours.dtype == np.uint8 else cv2.CV_16U
            noisy = np.empty_like(colours)
            rows = 4 * max(
                1, BAND // (4 * colours[0].size)
            )  # by fours, so that no band ends within a word of four values
            for top in range(0, len(colours), rows):
                band = colours[top : top + rows]
                words = bits.random_raw(-(-band.size // 4))
                drawn = cv2.LUT(words.view(np.uint16)[: band.size].reshape(band.shape), _normal_quantiles())
                added = cv2.addWeighted(band, 1.0, drawn, strength, 0.0, dtype=depth)
                noisy[top : top + rows] = added.reshape(band.shape)
            return noisy

        return on_colours(image, add)


@OPS.add
class blur(Op):
    """Blur, as a lens out of focus does.

    A Gaussian whose standard deviation in pixels is drawn uniformly from 0 to sigma.
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


@functools.cache
def _normal_quantiles() -> np.ndarray:
    """Give the middles of 65536 equally likely slices of the normal distribution."""
    from statistics import NormalDist  # here, because it is slow to import and rarely wanted

    inverse = NormalDist().inv_cdf
    return np.array([inverse((slice + 0.5) / 65536) for slice in range(65536)], np.float32)


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
