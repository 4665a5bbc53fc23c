"""Fields against plain formulas: how far, how smooth, never folded, and labels where the pixels are."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.augment.deform import STEEPEST, _spline, _tents
from edgekit.augment.draws import uniforms
from edgekit.augment.field import Field
from edgekit.augment.op import OPS, apply
from edgekit.data.sample import Object, Sample

SIZES = [(1, 1), (7, 5), (5, 300), (64, 48), (640, 427)]


def shifts(text: str, size: tuple[int, int], **params) -> np.ndarray:
    """Give the displacement at each pixel, 2xHxW."""
    map_x, map_y = OPS.parse(text).field(params, size)
    return np.stack([map_x - (np.arange(size[0]) + 0.5), map_y - (np.arange(size[1]) + 0.5)[:, None]])


def test_weights_are_those_of_the_textbook():
    places = np.linspace(0, 6.999, 200)
    distance = np.abs(places[:, None] - (np.arange(10) - 1))
    cubic = np.where(
        distance < 1, 2 / 3 - distance**2 + distance**3 / 2, np.where(distance < 2, (2 - distance) ** 3 / 6, 0)
    )
    assert np.allclose(_spline(places, 10), cubic)
    assert np.allclose(_tents(places, 7).sum(axis=1), 1)
    assert np.allclose(_tents(places, 7) @ np.arange(8), places)


@pytest.mark.parametrize("alpha", [0.005, 0.02])
def test_elastic_moves_as_far_as_it_says(alpha):
    for seed in range(5):
        moved = shifts("elastic sigma=0.15", (640, 427), alpha=alpha, seed=seed)
        assert abs(np.abs(moved).max() / (alpha * 427) - 1) < 0.02


def test_elastic_is_as_smooth_as_a_gaussian_of_sigma():
    """White noise smoothed by a Gaussian of sigma has the correlation exp(-d^2 / 4 sigma^2)."""
    sigma, lag, products, squares = 0.05 * 400, 30, [], []
    for seed in range(20):
        moved = shifts("elastic sigma=0.05", (400, 400), alpha=0.003, seed=seed)
        products.append((moved[:, :, lag:] * moved[:, :, :-lag]).mean())
        squares.append((moved**2).mean())
    assert abs(np.mean(products) / np.mean(squares) - np.exp(-(lag**2) / (4 * sigma**2))) < 0.06


def test_grid_distortion_moves_its_crossings_and_not_the_frame():
    size, amount = (600, 400), 0.2
    moved = shifts("grid-distortion steps=4", size, amount=amount, seed=9)
    nodes = 2 * uniforms(9, 2, 3, 3) - 1
    for row in range(1, 4):
        for column in range(1, 4):
            found = moved[:, row * 100 - 1 : row * 100 + 1, column * 150 - 1 : column * 150 + 1].mean(axis=(1, 2))
            expected = amount * nodes[:, row - 1, column - 1] * 100
            assert np.abs(found - expected).max() < 2.5  # the crossing is a peak, and lies between pixels
    edges = [moved[:, 0], moved[:, -1], moved[:, :, 0], moved[:, :, -1]]
    assert max(np.abs(edge).max() for edge in edges) < 3


@pytest.mark.parametrize(
    "text", ["elastic 0.5", "elastic 0.5 sigma=0.02", "grid-distortion 0.225", "grid-distortion 0.225 steps=50"]
)
@pytest.mark.parametrize("size", SIZES)
def test_the_strongest_field_does_not_fold_and_every_label_is_found(text, size):
    op = OPS.parse(text)
    name = op.flag_field().name
    for seed in range(3):
        params = {name: getattr(op, name), "seed": seed}
        moved = shifts(text, size, **params)
        slopes = [np.abs(np.diff(moved, axis=axis)).max(initial=0) for axis in (1, 2)]
        assert sum(slopes) < 2 * STEEPEST
        rng = np.random.default_rng(seed)
        places = rng.random((50, 2)) * size
        found = Field(*op.field(params, size)).points(places)  # raises where there is no single answer
        back = found + Field(*op.field(params, size))._shift(found)
        assert np.abs(back - places).max() < 0.01


@pytest.mark.parametrize("name", ["elastic", "grid-distortion"])
def test_what_is_labelled_comes_along(name):
    """A disc of another colour still fills its polygon, its region, its mask and its box."""
    rows, columns = np.mgrid[:200, :300] + 0.5
    disc = np.hypot(columns - 140, rows - 90) < 45
    turn = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    outline = np.stack([140 + 45 * np.cos(turn), 90 + 45 * np.sin(turn)], axis=1)
    box = np.array([95.0, 45.0, 185.0, 135.0])
    objects = (Object(0, box, polygons=(outline,)), Object(1, box, region=disc))
    sample = Sample("x", disc[..., None].astype(np.uint8) * 255, mask=disc.astype(np.uint8), objects=objects)
    op = OPS.parse(name)
    for seed in range(4):
        out = apply(op, op.sample(np.random.default_rng(seed), sample), sample).sample
        seen = out.image[..., 0] > 127
        ys, xs = np.nonzero(seen)
        hull = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        for one in out.objects:
            assert np.abs(one.box - hull).max() <= 1.5
        assert (out.mask > 0)[seen].mean() > 0.98
        assert out.objects[1].region[seen].mean() > 0.98
        assert (out.objects[1].region & ~seen).mean() < 0.002
