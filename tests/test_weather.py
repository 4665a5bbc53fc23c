"""Fog, rain and snow: towards a grey, by as much as is said, the same at every size."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest

from edgekit.augment.op import OPS
from edgekit.augment.weather import SNOWY

WEATHER = [("fog", {}), ("rain", {"degrees": 10.0}), ("snow", {"degrees": 10.0})]
each = pytest.mark.parametrize(("name", "params"), WEATHER, ids=[name for name, _ in WEATHER])


def light(name: str, image: np.ndarray) -> float:
    """Give the grey that a picture is blended with: that of snow, or halfway from its mean to white."""
    return SNOWY if name == "snow" else (image.mean() / 65535 + 1) / 2


def weights(name: str, size: tuple[int, int] = (320, 240), **params) -> np.ndarray:
    """Give by how much each pixel was blended, from what becomes of black."""
    black = np.zeros((size[1], size[0], 1), np.uint16)
    return OPS.parse(name).pixels(black, params)[..., 0] / (light(name, black) * 65535)


@each
def test_it_is_a_blend_with_a_grey(name, params):
    image = np.random.default_rng(0).integers(0, 65536, (240, 320, 3)).astype(np.uint16)
    given = {"amount": 0.7, "seed": 4, **params}
    share = weights(name, **given)[..., None]
    expected = image * (1 - share) + light(name, image) * 65535 * share
    assert np.abs(OPS.parse(name).pixels(image, given) - expected).max() <= 2
    assert share.min() >= 0
    assert share.max() <= 1


@each
def test_more_is_more_and_seeds_differ(name, params):
    means = [weights(name, amount=amount, seed=1, **params).mean() for amount in (0.0, 0.1, 0.4, 0.7, 1.0)]
    assert means[0] == 0
    assert all(a < b for a, b in itertools.pairwise(means))
    one, other = (weights(name, amount=0.5, seed=seed, **params) for seed in (1, 2))
    assert (one != other).mean() > 0.05


@each
def test_it_looks_alike_at_every_size(name, params):
    small, large = (weights(name, size=size, amount=0.6, seed=1, **params) for size in ((320, 240), (1280, 960)))
    assert abs(small.mean() / large.mean() - 1) < 0.15
    shrunk = cv2.resize(large, (320, 240), interpolation=cv2.INTER_AREA)
    assert np.corrcoef(small.ravel(), shrunk.ravel())[0, 1] > 0.6


def test_fog_is_thicker_above_and_uneven():
    share = np.mean([weights("fog", amount=1.0, seed=seed) for seed in range(20)], axis=0)
    rows = share.mean(axis=1)
    assert rows[:40].mean() > 1.5 * rows[-40:].mean()
    assert weights("fog", amount=1.0, seed=3)[:20].std() > 0.03


@pytest.mark.parametrize("degrees", [-20.0, 0.0, 20.0])
def test_rain_falls_the_way_it_says(degrees):
    share = weights("rain", amount=0.3, degrees=degrees, seed=1)
    best = []
    for lean in range(-40, 41, 10):
        step = np.tan(np.radians(lean))
        matrix = np.array([[1.0, -step, step * 120], [0.0, 1.0, 0.0]])
        best.append((cv2.warpAffine(share, matrix, (320, 240))[20:220, 60:260].mean(axis=0).std(), lean))
    assert max(best)[1] == degrees
