"""Ops that change colours and leave grey pictures as they are; alpha is never changed.

Most are one 3x3 matrix. Luma is Rec. 601: 0.299 R + 0.587 G + 0.114 B.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgekit.augment.op import OPS, Op, probability
from edgekit.augment.photometric import as_table, brightness, contrast, factor, full_scale, levels, on_colours
from edgekit.lazy import cv2, np
from edgekit.spec import option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgekit.augment.op import Params
    from edgekit.data.sample import Sample

LUMA = (0.299, 0.587, 0.114)

DAYLIGHT = 6504.0  # kelvin; the white of sRGB


@OPS.add
class saturation(Op):
    """Make colours stronger or weaker.

    The distance of each colour from its own luma is multiplied by a factor drawn uniformly from 1 - amount to
    1 + amount; 0 is grey. Grey pictures stay as they are.
    """

    amount: float = option(0.3, help="largest change of the factor, up or down", ge=0, le=1)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the factor; above 1 is more colour."""
        return {"factor": factor(rng, self.amount)}

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
class grayscale(Op):
    """Take the colour away; RGB stays three channels.

    Each pixel becomes its Rec. 601 luma.
    """

    p: float = probability(0.2)

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Replace by luma."""
        return _mix_channels(image, _saturation_matrix(0.0))


@OPS.add
class color_jitter(Op):
    """Change brightness, contrast, saturation and hue, in random order.

    What the four ops of these names do, each drawn by itself, one after the other; as in torchvision's ColorJitter the
    order is drawn too. amount is that of the first three. Grey pictures change in brightness and contrast.
    """

    amount: float = option(0.2, help="largest change of brightness, contrast and saturation", ge=0, le=1)
    hue: float = option(10.0, help="largest shift of the hues, in degrees; the sign is drawn", ge=0, le=180)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the order, the factors and the angle."""
        return {
            "order": rng.permutation(4).tolist(),
            "brightness": factor(rng, self.amount),
            "contrast": factor(rng, self.amount),
            "saturation": factor(rng, self.amount),
            "degrees": float(rng.uniform(-self.hue, self.hue)),
        }

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Change one after the other."""
        steps = (
            (brightness(), {"factor": params["brightness"]}),
            (contrast(), {"factor": params["contrast"]}),
            (saturation(), {"factor": params["saturation"]}),
            (hue(), {"degrees": params["degrees"]}),
        )
        for index in params["order"]:
            op, drawn = steps[index]
            image = op.pixels(image, drawn)
        return image


@OPS.add
class temperature(Op):
    """Change the colour of the light, from candle to blue sky.

    White that was daylight becomes that of a black body of some temperature (its place in the CIE 1931 diagram: Kim et
    al. 2002, US patent 7024034), as if nothing had adapted to it: channels are multiplied in linear light (von Kries on
    the primaries of sRGB), keeping the luminance of white. Drawn uniformly in mireds (10^6 / K), as eyes see it, from
    that of kelvin to as many on the cool side of daylight, at most to 25,000 K.
    """

    kelvin: float = option(4500.0, help="warmest light; 6504 is daylight and changes nothing", ge=1700, le=DAYLIGHT)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the temperature in kelvin; below 6504 is warmer."""
        warm, neutral = 1e6 / self.kelvin, 1e6 / DAYLIGHT
        return {"kelvin": 1e6 / float(rng.uniform(max(1e6 / 25_000, 2 * neutral - warm), warm))}

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Look each channel up in a table of its own; grey pictures have no colour to change."""
        if image.shape[2] == 1 or params["kelvin"] == DAYLIGHT:
            return image
        full = full_scale(image)
        linear = _linear(levels(full) / full)
        tables = [as_table(full * _encoded(gain * linear), full) for gain in _gains(params["kelvin"]).tolist()]

        def change(colours: np.ndarray) -> np.ndarray:
            channels = zip(cv2.split(colours), tables, strict=True)
            changed: np.ndarray = cv2.merge([cv2.LUT(channel, table) for channel, table in channels])
            return changed

        return on_colours(image, change)


@OPS.add
class channel_shuffle(Op):
    """Swap the colour channels.

    One of the five other orders of red, green and blue is drawn.
    """

    p: float = probability(0.2)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the order."""
        orders = ([0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0])
        return {"order": list(orders[int(rng.integers(len(orders)))])}

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Reorder."""
        if image.shape[2] == 1:
            return image
        channels = cv2.split(image)
        shuffled: np.ndarray = cv2.merge([*(channels[index] for index in params["order"]), *channels[3:]])
        return shuffled


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


def _gains(kelvin: float) -> np.ndarray:
    """Give the factors of linear red, green and blue under a light, against daylight; white keeps its luminance."""
    gains = _black_body(kelvin) / _black_body(DAYLIGHT)
    scaled: np.ndarray = gains / (np.array([0.2126, 0.7152, 0.0722]) @ gains)
    return scaled


def _black_body(kelvin: float) -> np.ndarray:
    """Give the linear sRGB of a black body of 1667 to 25,000 K, of luminance 1."""
    x, y = chromaticity(kelvin)
    xyz = np.array([x / y, 1.0, (1 - x - y) / y])
    to_rgb = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])
    # Candles lie outside sRGB: their blue would be negative.
    rgb: np.ndarray = np.maximum(to_rgb @ xyz, 0.0)
    return rgb


def chromaticity(kelvin: float) -> tuple[float, float]:
    """Give the CIE 1931 (x, y) of a black body of 1667 to 25,000 K: the cubic splines of Kim et al. 2002."""
    t = 1000.0 / kelvin
    if kelvin <= 4000:
        x = -0.2661239 * t**3 - 0.2343589 * t**2 + 0.8776956 * t + 0.179910
    else:
        x = -3.0258469 * t**3 + 2.1070379 * t**2 + 0.2226347 * t + 0.240390
    if kelvin <= 2222:
        y = -1.1063814 * x**3 - 1.34811020 * x**2 + 2.18555832 * x - 0.20219683
    elif kelvin <= 4000:
        y = -0.9549476 * x**3 - 1.37418593 * x**2 + 2.09137015 * x - 0.16748867
    else:
        y = 3.0817580 * x**3 - 5.87338670 * x**2 + 3.75112997 * x - 0.37001483
    return x, y


def _linear(values: np.ndarray) -> np.ndarray:
    """Decode sRGB (IEC 61966-2-1)."""
    linear: np.ndarray = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return linear


def _encoded(values: np.ndarray) -> np.ndarray:
    """Encode as sRGB."""
    encoded: np.ndarray = np.where(values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055)
    return encoded
