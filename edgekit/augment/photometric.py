"""Ops that change colours but move nothing; alpha is never changed, and grey pictures stay grey.

Ops on single values are one lookup table (`table`), whatever they compute; ops on colours are one 3x3 matrix; ops on
luma add its change to all three channels, which keeps the colour differences Cr and Cb as they were (the round trip
through YCrCb does the same with two roundings more). Luma is Rec. 601: 0.299 R + 0.587 G + 0.114 B.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgekit.augment.op import OPS, Op, probability
from edgekit.lazy import cv2, np
from edgekit.spec import option

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgekit.augment.op import Params
    from edgekit.data.sample import Sample

LUMA = (0.299, 0.587, 0.114)


def full_scale(image: np.ndarray) -> int:
    """Give the value of white: 255 or 65535."""
    return int(np.iinfo(image.dtype).max)


def on_colours(image: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Apply `change` to the grey or RGB part of an image, put alpha back, and keep HxWxC."""
    if image.shape[2] != 4:
        return change(image).reshape(image.shape)
    changed: np.ndarray = cv2.cvtColor(change(cv2.cvtColor(image, cv2.COLOR_RGBA2RGB)), cv2.COLOR_RGB2RGBA)
    changed[..., 3] = image[..., 3]
    return changed


def lookup(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Replace each value by the table's; the table has full_scale + 1 entries of the image's type."""
    return on_colours(image, lambda colours: cv2.LUT(colours, table))


@OPS.add
class brightness(Op):
    """Make brighter or darker.

    Values are multiplied by a factor drawn uniformly from 1 - amount to 1 + amount.
    """

    amount: float = option(0.2, help="largest change of the factor, up or down", ge=0, le=1)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the factor; above 1 is brighter."""
        return {"factor": _factor(rng, self.amount)}

    def table(self, params: Params, full: int) -> np.ndarray:
        """Multiply."""
        return _table(params["factor"] * _levels(full), full)

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
        return {"factor": _factor(rng, self.amount)}

    def table(self, params: Params, full: int) -> np.ndarray:
        """Stretch about the middle."""
        return _table((_levels(full) - full / 2) * params["factor"] + full / 2, full)

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Look the values up."""
        return lookup(image, self.table(params, full_scale(image)))


@OPS.add
class saturation(Op):
    """Make colours stronger or weaker.

    The distance of each colour from its own luma is multiplied by a factor drawn uniformly from 1 - amount to
    1 + amount; 0 is grey. Grey pictures stay as they are.
    """

    amount: float = option(0.3, help="largest change of the factor, up or down", ge=0, le=1)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the factor; above 1 is more colour."""
        return {"factor": _factor(rng, self.amount)}

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Blend with luma."""
        return _mix_channels(image, _saturation_matrix(params["factor"]))


@OPS.add
class hue(Op):
    """Shift all hues round the colour circle.

    The angle is drawn uniformly from -degrees to degrees, so degrees itself is not negative. It rotates the chroma
    plane of YUV (the same as that of YIQ; SVG 1.1 `feColorMatrix type="hueRotate"`, with Rec. 601 luma), which keeps
    luma where HSV's hue would not, and is one matrix; angles in HSV differ from it by some degrees. Colours that leave
    the gamut are clipped. Grey pictures stay as they are.
    """

    degrees: float = option(10.0, help="largest shift either way; the sign is drawn", ge=0, le=180)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the angle; positive is from red to yellow to green."""
        return {"degrees": float(rng.uniform(-self.degrees, self.degrees))}

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Rotate chroma."""
        return _mix_channels(image, _hue_matrix(params["degrees"]))


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
        return _table(full * (_levels(full) / full) ** params["exponent"], full)

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Look the values up."""
        return lookup(image, self.table(params, full_scale(image)))


@OPS.add
class grayscale(Op):
    """Take the colour away; RGB stays three channels.

    Each pixel becomes its Rec. 601 luma.
    """

    p: float = probability(0.2)

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Replace by luma."""
        return _mix_channels(image, _saturation_matrix(0.0))


@OPS.add
class invert(Op):
    """Make a negative."""

    p: float = probability(0.5)

    def table(self, params: Params, full: int) -> np.ndarray:
        """Subtract from white."""
        return _table(full - _levels(full), full)

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
        return _table(np.arange(full + 1) >> dropped << dropped, full)

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
        levels = _levels(full)
        return _table(np.where(levels > params["threshold"] * full, full - levels, levels), full)

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Look the values up."""
        return lookup(image, self.table(params, full_scale(image)))


def _factor(rng: np.random.Generator, amount: float) -> float:
    return 1.0 + float(rng.uniform(-amount, amount))


def _levels(full: int) -> np.ndarray:
    return np.arange(full + 1, dtype=np.float64)


def _table(values: np.ndarray, full: int) -> np.ndarray:
    rounded: np.ndarray = np.clip(np.rint(values), 0, full)
    return rounded.astype(np.uint8 if full == 255 else np.uint16)


def _saturation_matrix(factor: float) -> np.ndarray:
    weights: np.ndarray = factor * np.eye(3) + (1.0 - factor) * np.array([LUMA] * 3)
    return weights


def _hue_matrix(degrees: float) -> np.ndarray:
    """Rotate U and V: to YUV (U = 0.492 (B - Y), V = 0.877 (R - Y)), turn, and back."""
    y = np.array(LUMA)
    yuv = np.stack([y, 0.492111 * (np.eye(3)[2] - y), 0.877283 * (np.eye(3)[0] - y)])
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = np.array([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])
    weights: np.ndarray = np.linalg.inv(yuv) @ turn @ yuv
    return weights


def _mix_channels(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Multiply each RGB colour by a 3x3 matrix; grey pictures, which have no colour to mix, stay."""
    if image.shape[2] == 1:
        return image
    return on_colours(image, lambda colours: cv2.transform(colours, matrix))


def _on_luma(image: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Change luma, and add its change to all channels."""
    if image.shape[2] == 1:
        return change(image[..., 0]).reshape(image.shape)

    def add_change(colours: np.ndarray) -> np.ndarray:
        luma = cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY)
        changed = change(luma)
        # Saturating subtractions: of gain and loss, one is 0 at every pixel.
        gain: np.ndarray = cv2.cvtColor(cv2.subtract(changed, luma), cv2.COLOR_GRAY2RGB)
        loss = cv2.cvtColor(cv2.subtract(luma, changed), cv2.COLOR_GRAY2RGB)
        cv2.subtract(cv2.add(colours, gain, dst=gain), loss, dst=gain)
        return gain

    return on_colours(image, add_change)


def _equalized(luma: np.ndarray) -> np.ndarray:
    """Do what `cv2.equalizeHist` does, which knows 8 bits only."""
    full = full_scale(luma)
    counts = cv2.calcHist([luma], [0], None, [full + 1], [0, full + 1]).ravel()
    below = np.cumsum(counts, dtype=np.float64)
    darkest = below[np.flatnonzero(counts)[0]]
    if darkest == luma.size:  # one value only: there is nothing to spread
        return luma
    spread: np.ndarray = cv2.LUT(luma, _table(full * (below - darkest) / (luma.size - darkest), full))
    return spread
