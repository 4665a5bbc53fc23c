"""Ops that put weather before the picture: each blends it towards a grey light, by a weight at every pixel.

Nothing is known of distances, so that fog is thicker towards the top, where pictures are usually further away. Fog
and rain are as bright as the scene lets them be: halfway from its mean to white. Sizes follow the shorter side of the
picture. Alpha is never changed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgekit.augment.draws import bands, new_seed, uniforms
from edgekit.augment.op import OPS, Op
from edgekit.augment.photometric import full_scale, on_colours
from edgekit.lazy import cv2, np
from edgekit.spec import option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgekit.augment.op import Params
    from edgekit.data.sample import Sample

    Size = tuple[int, int]

SNOWY = 0.97  # the grey of snow, as a share of full scale

OCTAVES = 5  # of the clouds in fog, each with half the size and half the weight of the one before
COARSE = 8  # pixels of the picture to one that clouds are made on

FRACTION = 4  # bits of a pixel that places of drops and flakes are drawn to


@OPS.add
class fog(Op):
    """Put fog before the picture.

    The picture is blended with grey (Koschmieder's law: transmission and airlight) by up to a density drawn
    uniformly from 0 to amount; clouds of noise make it uneven, and it is thinner towards the bottom.
    """

    amount: float = option(0.6, help="largest density; 1 hides what is furthest", ge=0, le=1)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the density, and the seed of the clouds."""
        return {"amount": float(rng.uniform(0.0, self.amount)), "seed": new_seed(rng)}

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Blend."""
        height, width = image.shape[:2]
        clouds = _clouds(params["seed"], (width, height))
        downwards = 1.0 - 0.5 * (np.arange(height, dtype=np.float32) / height)[:, None]
        return _blend(image, params["amount"] * (downwards * (0.5 + 0.5 * clouds)))


@OPS.add
class rain(Op):
    """Put rain before the picture.

    Slanted streaks, most of them far away, short and faint, some near; and a little mist. Their density is drawn
    uniformly from 0 to amount, their slant from -20 to 20 degrees.
    """

    amount: float = option(0.5, help="largest density", ge=0, le=1)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the density, the slant in degrees, and the seed of the drops."""
        return _fall(rng, self.amount, 20.0)

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Draw the streaks, and blend."""
        # Of each layer: how many in a square picture, their length and width as shares of its side, their weight.
        layers = ((1200, 0.035, 0.003, 0.4), (350, 0.08, 0.004, 0.45), (60, 0.16, 0.007, 0.35))
        weights = _strokes(image, params, layers)
        return _blend(image, np.maximum(weights, np.float32(0.2 * params["amount"])))


@OPS.add
class snow(Op):
    """Put falling snow before the picture.

    Flakes, most of them far away and small, some near and out of focus; and a little mist. Their density is drawn
    uniformly from 0 to amount, the slant of their fall from -40 to 40 degrees.
    """

    amount: float = option(0.5, help="largest density", ge=0, le=1)

    def sample(self, rng: np.random.Generator, sample: Sample, partners: Sequence[Sample] = ()) -> Params:
        """Draw the density, the slant in degrees, and the seed of the flakes."""
        return _fall(rng, self.amount, 40.0)

    def pixels(self, image: np.ndarray, params: Params) -> np.ndarray:
        """Draw the flakes, and blend."""
        layers = ((1600, 0.003, 0.004, 0.6), (450, 0.006, 0.009, 0.75), (60, 0.012, 0.022, 0.6))
        weights = _strokes(image, params, layers)
        return _blend(image, np.maximum(weights, np.float32(0.25 * params["amount"])), SNOWY)


def _fall(rng: np.random.Generator, amount: float, slant: float) -> Params:
    """Draw what falls: its density up to `amount`, its slant in degrees to either side, and a seed."""
    density, degrees = float(rng.uniform(0.0, amount)), float(rng.uniform(-slant, slant))
    return {"amount": density, "degrees": degrees, "seed": new_seed(rng)}


def _blend(image: np.ndarray, weights: np.ndarray, light: float | None = None) -> np.ndarray:
    """Blend an image with a grey (0..1 of full scale; None: halfway to white) by HxW float32 weights, by bands."""
    depth = cv2.CV_8U if image.dtype == np.uint8 else cv2.CV_16U
    full = full_scale(image)

    def blend(colours: np.ndarray) -> np.ndarray:
        colours = colours.reshape(*colours.shape[:2], -1)
        mean = sum(cv2.mean(colours)[: colours.shape[2]]) / colours.shape[2]
        level = (mean + full) / 2 if light is None else light * full
        blended = np.empty_like(colours)
        for rows in bands(colours, colours[0].size):
            band, share = colours[rows], weights[rows]
            if band.shape[2] == 3:
                share = cv2.cvtColor(share, cv2.COLOR_GRAY2RGB)
            kept = cv2.multiply(band, 1.0 - share.reshape(band.shape), dtype=cv2.CV_32F).reshape(band.shape)
            added = cv2.addWeighted(kept, 1.0, share.reshape(band.shape), level, 0.0, dtype=depth)
            blended[rows] = added.reshape(band.shape)
        return blended

    return on_colours(image, blend)


def _clouds(seed: int, size: Size) -> np.ndarray:
    """Make HxW float32 fractal noise, 0..1: random grids, each finer and weaker than the one before."""
    small = (math.ceil(size[0] / COARSE), math.ceil(size[1] / COARSE))
    clouds = np.zeros(small[::-1], np.float32)
    for octave in range(OCTAVES):
        side = 2 + 2**octave
        grid = uniforms(seed + octave, side, side).astype(np.float32)
        clouds += 0.5**octave * cv2.resize(grid, small, interpolation=cv2.INTER_CUBIC)
    low, high = float(clouds.min()), float(clouds.max())
    even = (clouds - low) / (high - low) if high > low else np.zeros_like(clouds)
    grown: np.ndarray = cv2.resize(even, size, interpolation=cv2.INTER_LINEAR)
    return grown


def _strokes(image: np.ndarray, params: Params, layers: Sequence[tuple[int, float, float, float]]) -> np.ndarray:
    """Draw short lines in one direction, HxW float32; those of nearer layers are blurred more.

    layers: of each, the number in a square picture at amount 1, length and width as shares of the side, and weight.
    """
    height, width = image.shape[:2]
    side = min(width, height)
    drawn = np.zeros((height, width), np.uint8)
    slant = math.radians(params["degrees"])
    for number, (count, length, thickness, weight) in enumerate(layers):
        total = round(params["amount"] * count * max(width, height) / side)
        draws = uniforms(params["seed"] + number, total, 4)
        reach = length * side * (0.5 + draws[:, 2])
        start = draws[:, :2] * (width, height)
        lines = np.stack([start, start + reach[:, None] * (math.sin(slant), math.cos(slant))], axis=1)
        layer = np.zeros((height, width), np.uint8)
        wide = thickness * side
        ink = 255.0 * weight * min(1.0, wide)  # a line thinner than a pixel covers but a part of it
        points = np.rint(lines * 2**FRACTION).astype(np.int32)
        cv2.polylines(layer, list(points), False, ink, max(1, round(wide)), cv2.LINE_AA, FRACTION)
        if wide > 1:
            layer = cv2.GaussianBlur(layer, (0, 0), 0.3 * wide)
        cv2.max(drawn, layer, dst=drawn)
    weights: np.ndarray = drawn.astype(np.float32) * np.float32(1 / 255)
    return weights
