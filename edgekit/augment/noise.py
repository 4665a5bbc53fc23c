"""Ops that add the noise of sensors; it comes from a drawn seed, and alpha has none."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgekit.augment.draws import Grain, Normals, bands, new_seed, uniforms
from edgekit.augment.op import OPS, Op
from edgekit.augment.photometric import full_scale, on_colours
from edgekit.lazy import cv2, np
from edgekit.spec import option

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgekit.augment.op import Params
    from edgekit.data.sample import Sample

READ = 0.04  # of the variance of ISO noise at white, the part that darkness has too


@OPS.add
class noise(Op):
    """Add Gaussian noise, to each channel by itself.

    The standard deviation, as a share of full scale, is drawn uniformly from 0 to sigma.
    """

    sigma: float = option(0.03, help="largest standard deviation, as a share of full scale", ge=0, le=1)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the standard deviation and the seed of the noise."""
        return {"sigma": float(rng.uniform(0.0, self.sigma)), "seed": new_seed(rng)}

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Add, round and saturate."""
        strength = params["sigma"] * full_scale(image)
        return on_colours(image, lambda colours: _add_grain(colours, Grain(params["seed"]), strength))


@OPS.add
class shot_noise(Op):
    """Add the noise of light itself: Poisson, stronger where it is bright.

    The standard deviation at white, as a share of full scale, is drawn uniformly from 0 to sigma; it falls with the
    root of the value. It is that of 1 / sigma^2 photons at white, as Gaussian noise with Poisson's variance and, by the
    Cornish-Fisher expansion, its skewness: (n^2 - 1) / 6 photons are added to n standard deviations.
    """

    sigma: float = option(0.08, help="largest standard deviation at white, as a share of full scale", ge=0, le=1)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the standard deviation at white and the seed of the noise."""
        return {"sigma": float(rng.uniform(0.0, self.sigma)), "seed": new_seed(rng)}

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Scale by the root of each value, add, round and saturate."""
        full, sigma = full_scale(image), params["sigma"]
        roots = np.sqrt(np.arange(full + 1) / full).astype(np.float32)
        normals = Normals(params["seed"])

        def drawn(band: np.ndarray) -> np.ndarray:
            values = normals.next(*band.shape)
            skew = cv2.multiply(values, values, scale=sigma / 6).reshape(band.shape)
            spread = cv2.multiply(values, cv2.LUT(band, roots).reshape(band.shape)).reshape(band.shape)
            return cv2.add(spread, skew - np.float32(sigma / 6)).reshape(band.shape)

        return _add(image, drawn, sigma * full)


@OPS.add
class iso_noise(Op):
    """Add the noise of a camera at a high ISO: grain, and blotches of colour.

    Grain is the same in all channels; colour noise, coarser by two, is independent in each. Both have a variance that
    is READ of that at white in the dark and rises linearly with the value (shot and read noise, Foi et al. 2008). The
    standard deviation of grain at white is drawn uniformly from 0 to sigma. Grey pictures get grain alone.
    """

    sigma: float = option(0.06, help="largest standard deviation at white, as a share of full scale", ge=0, le=1)
    color: float = option(0.6, help="strength of colour noise against grain", ge=0, le=2)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the standard deviation of grain at white and the seed of the noise."""
        return {"sigma": float(rng.uniform(0.0, self.sigma)), "seed": new_seed(rng)}

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Add grain and colour, scaled by each value's standard deviation."""
        full = full_scale(image)
        spread = np.sqrt(READ + (1 - READ) * np.arange(full + 1) / full).astype(np.float32)
        grain, blotches = Normals(params["seed"]), Normals(params["seed"], 1)

        def drawn(band: np.ndarray) -> np.ndarray:
            height, width, channels = band.shape
            values = grain.next(height, width)
            if channels == 3:
                coarse = blotches.next(-(-height // 2), -(-width // 2), 3)
                fine = cv2.resize(coarse, (2 * coarse.shape[1], 2 * len(coarse)), interpolation=cv2.INTER_NEAREST)
                grey = cv2.cvtColor(values, cv2.COLOR_GRAY2RGB)
                values = cv2.addWeighted(grey, 1.0, fine[:height, :width], self.color, 0.0)
            return cv2.multiply(values.reshape(band.shape), cv2.LUT(band, spread).reshape(band.shape))

        return _add(image, drawn, params["sigma"] * full)


@OPS.add
class salt_pepper(Op):
    """Make single pixels white or black.

    The share of pixels is drawn uniformly from 0 to amount; half of them, on average, become white.
    """

    amount: float = option(0.02, help="largest share of pixels", ge=0, le=1)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the share of pixels, and the seed of their places."""
        return {"amount": float(rng.uniform(0.0, self.amount)), "seed": new_seed(rng)}

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Scatter them, band after band; places that come twice count once, which the number of draws makes up for."""
        out, full = image.copy(), full_scale(image)
        for number, rows in enumerate(bands(image, image.shape[1])):
            pixels = out[rows].reshape(-1, image.shape[2])[:, :3]
            chance = uniforms(params["seed"] + number, 1)[0]
            # Of n draws among k pixels, k (1 - exp(-n / k)) differ on average.
            share = min(params["amount"], 1.0 - 1.0 / (2.0 * len(pixels)))
            draws = uniforms(params["seed"] + number, int(chance - math.log1p(-share) * len(pixels)), 2)
            places = (draws[:, 0] * len(pixels)).astype(np.int64)
            pixels[places] = np.where(draws[:, 1:] < 0.5, 0, full).astype(image.dtype)
        return out


def _add_grain(colours: np.ndarray, grain: Grain, strength: float) -> np.ndarray:
    """Add `strength` levels of noise; of a place's two parts one is zero, so that adding saturates rightly."""
    noisy = colours.reshape(1, -1).copy()  # OpenCV takes one axis of up to four numbers for a scalar
    for start in range(0, noisy.size, Grain.POOL // 4):
        part = noisy[:, start : start + Grain.POOL // 4]
        above, below = (_scaled(values, strength / Grain.UNIT, part.dtype) for values in grain.next(part.size))
        noisy[:, start : start + part.size] = cv2.subtract(cv2.add(part, above), below)
    return noisy.reshape(colours.shape)


def _scaled(values: np.ndarray, factor: float, dtype: np.dtype) -> np.ndarray:
    if dtype == np.uint8:
        return cv2.convertScaleAbs(values[None], alpha=factor)
    return np.minimum(np.rint(values[None] * np.float32(factor)), np.iinfo(dtype).max).astype(dtype)


def _add(image: np.ndarray, drawn: Callable[[np.ndarray], np.ndarray], strength: float) -> np.ndarray:
    """Add `strength` times what is drawn for each band of rows (float32 of its shape); round and saturate."""
    depth = cv2.CV_8U if image.dtype == np.uint8 else cv2.CV_16U

    def add(colours: np.ndarray) -> np.ndarray:
        colours = colours.reshape(*colours.shape[:2], -1)
        noisy = np.empty_like(colours)
        for rows in bands(colours, colours[0].size):
            band = colours[rows]
            noisy[rows] = cv2.addWeighted(band, 1.0, drawn(band), strength, 0.0, dtype=depth).reshape(band.shape)
        return noisy

    return on_colours(image, add)
