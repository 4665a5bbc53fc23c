"""Ops that change how bright things are but move nothing; alpha is never changed, and grey pictures stay grey.

Ops on single values are one lookup table (`table`), whatever they compute; ops on luma add its change to all three
channels, which keeps the colour differences Cr and Cb as they were (the round trip through YCrCb does the same with two
roundings more). Luma is Rec. 601.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

from edgekit.augment.op import OPS, Op, probability
from edgekit.lazy import cv2, np
from edgekit.spec import option

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgekit.augment.op import Params
    from edgekit.data.sample import Sample

GAMMA = 2.2  # of displays, near enough


def full_scale(image: np.ndarray) -> int:
    """Give the value of white: 255 or 65535."""
    return int((1 << 8 * image.itemsize) - 1)


BAND_PIXELS = 1 << 20


def on_colours(image: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Apply `change` to the grey or RGB part of an image, put alpha back, and keep HxWxC."""
    if image.shape[2] != 4:
        return change(image).reshape(image.shape)
    changed: np.ndarray = cv2.cvtColor(change(cv2.cvtColor(image, cv2.COLOR_RGBA2RGB)), cv2.COLOR_RGB2RGBA)
    changed[..., 3] = image[..., 3]
    return changed


def lookup(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Replace each value by the table's; the table has full_scale + 1 entries of the image's type."""
    return map_values(image, table, multiplies_by(table))


def map_values(image: np.ndarray, table: np.ndarray, share: float | None) -> np.ndarray:
    """Do what `lookup` does by a table of which it is known by what it multiplies."""
    if share is not None:  # half the time, and the same values
        return on_colours(image, lambda colours: cv2.convertScaleAbs(colours, alpha=share))
    return on_colours(image, lambda colours: cv2.LUT(colours, table))


def multiplies_by(table: np.ndarray) -> float | None:
    """Find the factor of an 8-bit table that is a product, rounded and saturated; None when it is none.

    Of all factors that give the table it is the middle one, and far enough from the others for float32.
    """
    if table.dtype != np.uint8 or table[0]:
        return None
    places, values = levels(255)[1:], table[1:]
    lowest = max(0.0, float(((values - 0.5) / places).max()))
    highest = float(np.where(values == 255, np.inf, (values + 0.5) / places).min())
    middle = (lowest + highest) / 2
    return middle if highest < np.inf and highest - middle > 1e-6 * middle else None


@OPS.add
class brightness(Op):
    """Make brighter or darker.

    Values are multiplied by a factor drawn uniformly from 1 - amount to 1 + amount.
    """

    amount: float = option(0.2, help="largest change of the factor, up or down", ge=0, le=1)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the factor; above 1 is brighter."""
        return {"factor": factor(rng, self.amount)}

    def table(self, params: Params, full: int) -> np.ndarray:
        """Multiply."""
        return as_table(params["factor"] * levels(full), full)

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Look the values up."""
        return lookup(image, self.table(params, full_scale(image)))


@OPS.add
class contrast(Op):
    """Raise or lower the contrast.

    The distance of each value from mid-grey is multiplied by a factor drawn uniformly from 1 - amount to 1 + amount.
    Mid-grey, not the picture's mean, so that it is one table and means the same for every picture.
    """

    amount: float = option(0.2, help="largest change of the factor, up or down", ge=0, le=1)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the factor; above 1 is more contrast."""
        return {"factor": factor(rng, self.amount)}

    def table(self, params: Params, full: int) -> np.ndarray:
        """Stretch about the middle."""
        return as_table((levels(full) - full / 2) * params["factor"] + full / 2, full)

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Look the values up."""
        return lookup(image, self.table(params, full_scale(image)))


@OPS.add
class gamma(Op):
    """Brighten or darken the middle tones; black and white stay.

    Values, as shares of full scale, are raised to an exponent drawn from 1 / (1 + amount) to 1 + amount, as often below
    1 (brighter) as above (darker): its logarithm is uniform.
    """

    amount: float = option(0.2, help="largest exponent is 1 + this, smallest its inverse", ge=0, le=4)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the exponent; above 1 is darker."""
        limit = math.log1p(self.amount)
        return {"exponent": math.exp(rng.uniform(-limit, limit))}

    def table(self, params: Params, full: int) -> np.ndarray:
        """Raise to the exponent."""
        return as_table(full * (levels(full) / full) ** params["exponent"], full)

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Look the values up."""
        return lookup(image, self.table(params, full_scale(image)))


@OPS.add
class underexpose(Op):
    """Take light away, as in the dark.

    The light is halved as many times as there are stops, drawn uniformly from 0 to stops. Values are taken to be its
    root of GAMMA, so that they are multiplied by 2^(-stops / GAMMA).
    """

    stops: float = option(2.0, help="most halvings of the light", ge=0, le=10)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the number of halvings."""
        return {"stops": float(rng.uniform(0.0, self.stops))}

    def table(self, params: Params, full: int) -> np.ndarray:
        """Multiply."""
        return as_table(2.0 ** (-params["stops"] / GAMMA) * levels(full), full)

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Look the values up."""
        return lookup(image, self.table(params, full_scale(image)))


@OPS.add
class invert(Op):
    """Make a negative."""

    p: float = probability(0.5)

    def table(self, params: Params, full: int) -> np.ndarray:
        """Subtract from white."""
        return as_table(full - levels(full), full)

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Look the values up."""
        return lookup(image, self.table(params, full_scale(image)))


@OPS.add
class equalize(Op):
    """Spread brightness evenly over the whole range.

    The histogram of luma is made flat (as `cv2.equalizeHist`, at 8 and at 16 bits); hues do not change as they would if
    each channel were equalized by itself.
    """

    p: float = probability(0.5)

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Equalize luma."""
        return _on_luma(image, _equalized)


@OPS.add
class autocontrast(Op):
    """Stretch each channel over the whole range.

    The darkest value of a channel becomes black and its brightest white (as `PIL.ImageOps.autocontrast`, but rounded,
    not cut off). Channels of one value stay.
    """

    p: float = probability(0.5)

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Look the values up, in a table a channel."""
        full = full_scale(image)
        before = levels(full)

        def stretch(colours: np.ndarray) -> np.ndarray:
            stretched = []
            for channel in cv2.split(colours):
                low, high = (float(value) for value in cv2.minMaxLoc(channel)[:2])
                table = as_table((before - low) * (full / (high - low)), full) if high > low else None
                stretched.append(channel if table is None else cv2.LUT(channel, table))
            merged: np.ndarray = cv2.merge(stretched)
            return merged

        return on_colours(image, stretch)


@OPS.add
class sharpen(Op):
    """Sharpen edges and fine detail.

    The distance of each pixel from the mean of its 3x3 neighbours (itself weighted 5) is multiplied by a factor drawn
    uniformly from 1 to 1 + amount (as `PIL.ImageEnhance.Sharpness`, but at the edges of the picture too).
    """

    amount: float = option(1.0, help="largest factor is 1 + this", ge=0, le=10)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the factor; below 1 would blur."""
        return {"factor": 1.0 + float(rng.uniform(0.0, self.amount))}

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Convolve once with both parts of the blend."""
        kernel = np.ones((3, 3))
        kernel[1, 1] = 5.0
        kernel *= (1.0 - params["factor"]) / kernel.sum()
        kernel[1, 1] += params["factor"]
        return on_colours(image, lambda colours: cv2.filter2D(colours, -1, kernel))


@OPS.add
class clahe(Op):
    """Raise the local contrast.

    Contrast-limited adaptive histogram equalization of luma on 8x8 tiles (`cv2.createCLAHE`), its clip limit drawn
    uniformly from 1 to clip. 16-bit pictures are equalized by their upper 8 bits and keep their lower ones: at 16 bits
    OpenCV counts so few pixels in each of 65536 bins that the limit would mean something else.
    """

    clip: float = option(2.0, help="largest clip limit; higher is stronger", ge=1, le=40)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the clip limit."""
        return {"clip": float(rng.uniform(1.0, self.clip))}

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Equalize luma tile by tile."""
        tiles = cv2.createCLAHE(clipLimit=params["clip"], tileGridSize=(8, 8))

        def change(luma: np.ndarray) -> np.ndarray:
            upper = luma if luma.dtype == np.uint8 else (luma >> 8).astype(np.uint8)
            changed: np.ndarray = tiles.apply(upper)
            if luma.dtype == np.uint16:
                changed = changed.astype(np.uint16) << 8 | luma & 255
            return changed

        return _on_luma(image, change)


@OPS.add
class posterize(Op):
    """Keep few levels per channel.

    Only the upper bits of each value are kept, their number drawn uniformly from bits to 7 (8 when bits is 8).
    """

    bits: int = option(4, help="fewest bits that are kept", ge=1, le=8)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the number of bits."""
        return {"bits": int(rng.integers(self.bits, max(self.bits, 7) + 1))}

    def table(self, params: Params, full: int) -> np.ndarray:
        """Clear the lower bits."""
        dropped = full.bit_length() - params["bits"]
        return as_table(np.arange(full + 1) >> dropped << dropped, full)

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Look the values up."""
        return lookup(image, self.table(params, full_scale(image)))


@OPS.add
class solarize(Op):
    """Invert the bright values.

    Values above a threshold, drawn uniformly from threshold to 1 as a share of full scale, are replaced by their
    negative.
    """

    threshold: float = option(0.5, help="lowest threshold, as a share of full scale; 1 changes nothing", ge=0, le=1)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the threshold."""
        return {"threshold": float(rng.uniform(self.threshold, 1.0))}

    def table(self, params: Params, full: int) -> np.ndarray:
        """Subtract bright values from white."""
        before = levels(full)
        return as_table(np.where(before > params["threshold"] * full, full - before, before), full)

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Look the values up."""
        return lookup(image, self.table(params, full_scale(image)))


def factor(rng: np.random.Generator, amount: float) -> float:
    """Draw a factor, uniform from 1 - amount to 1 + amount."""
    return 1.0 + float(rng.uniform(-amount, amount))


@functools.cache
def levels(full: int) -> np.ndarray:
    """Give every value that a channel can have, float64; not to be written to."""
    values = np.arange(full + 1, dtype=np.float64)
    values.flags.writeable = False
    return values


def as_table(values: np.ndarray, full: int) -> np.ndarray:
    """Round and saturate what becomes of each level, in the type of the image."""
    rounded: np.ndarray = np.clip(np.rint(values), 0, full)
    return rounded.astype(np.uint8 if full == 255 else np.uint16)


def _on_luma(image: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Change luma, and add its change to all channels."""
    if image.shape[2] == 1:
        return change(image[..., 0]).reshape(image.shape)

    def add_change(colours: np.ndarray) -> np.ndarray:
        luma = cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY)
        changed = change(luma)
        made = np.empty_like(colours)
        step = max(1, BAND_PIXELS // colours.shape[1])  # large pictures in bands of rows, or there are five of them
        for top in range(0, len(colours), step):
            rows = slice(top, top + step)
            # Saturating subtractions: of gain and loss, one is 0 at every pixel.
            gain = cv2.cvtColor(cv2.subtract(changed[rows], luma[rows]), cv2.COLOR_GRAY2RGB)
            loss = cv2.cvtColor(cv2.subtract(luma[rows], changed[rows]), cv2.COLOR_GRAY2RGB)
            cv2.subtract(cv2.add(colours[rows], gain, dst=gain), loss, dst=made[rows])
        return made

    return on_colours(image, add_change)


def _equalized(luma: np.ndarray) -> np.ndarray:
    """Do what `cv2.equalizeHist` does, which knows 8 bits only."""
    full = full_scale(luma)
    counts = cv2.calcHist([luma], [0], None, [full + 1], [0, full + 1]).ravel()
    below = np.cumsum(counts, dtype=np.float64)
    darkest = below[np.flatnonzero(counts)[0]]
    if darkest == luma.size:  # one value only: there is nothing to spread
        return luma
    spread: np.ndarray = cv2.LUT(luma, as_table(full * (below - darkest) / (luma.size - darkest), full))
    return spread
