"""What is kept, and drawn, for several variants changes none: margins for warps, and draws ahead."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgekit.augment import margin as margins
from edgekit.augment import variants as many
from edgekit.augment import warp
from edgekit.augment.margin import Margin
from edgekit.augment.op import OPS
from edgekit.augment.variants import Recipe, draw, variants
from edgekit.data.sample import Sample

SIZES = [(1, 1), (1, 40), (40, 1), (2, 3), (7, 5), (33, 20), (64, 64), (150, 31), (201, 160)]
BORDERS = ["reflect", "replicate", "wrap", "constant"]


def noise(size: tuple[int, int], channels: int, dtype: type) -> np.ndarray:
    rng = np.random.default_rng(size[0] * 1000 + size[1])
    return rng.integers(0, np.iinfo(dtype).max + 1, (size[1], size[0], channels)).astype(dtype)


def matrices(size: tuple[int, int], count: int) -> list[np.ndarray]:
    """Turn about the centre, zoom, shear and shift, some by round numbers; the last are all but singular."""
    rng = np.random.default_rng(size[0] * 7 + size[1])
    made = []
    for number in range(count):
        angle = np.radians(rng.uniform(-25, 25) if number % 3 else rng.choice([-30, -15, 0, 45, 90, 180]))
        zoom = rng.uniform(0.7, 1.5) if number % 4 else rng.choice([0.75, 1, 1.25])
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        slant = np.array([[1, rng.choice([0, 0.125, rng.normal(0, 0.1)]), 0], [0, rng.choice([1, -1]), 0], [0, 0, 1]])
        there, back = np.eye(3), np.eye(3)
        there[:2, 2] = np.array(size) / 2
        back[:2, 2] = -there[:2, 2] + (rng.normal(0, 0.02 * max(size), 2) if number % 2 else (0.5, 0.25))
        made.append(there @ turn @ slant @ np.diag([zoom, zoom, 1]) @ back)
    return [*made, np.diag([1e-9, 1, 1]), np.array([[1.0, 1, 0], [1, 1 + 1e-9, 0], [0, 0, 1]])]


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (3, np.uint8), (4, np.uint8), (3, np.uint16)])
@pytest.mark.parametrize("size", SIZES)
def test_the_pixels_are_the_same(size, channels, dtype):
    image = noise(size, channels, dtype)
    shared = Margin(image)
    rng = np.random.default_rng(0)
    for matrix, border in itertools.product(matrices(size, 24), BORDERS):
        out = size if rng.random() < 0.7 else (size[0] + int(rng.integers(5)), max(1, size[1] - int(rng.integers(5))))
        plain, wide = (
            warp.move(Sample("x", image), matrix, out, border=border, margin=margin).sample.image
            for margin in (None, shared)
        )
        assert np.array_equal(plain, wide)
    assert shared._wide is not image or min(size) <= margins.SHARE


def test_another_picture_is_not_shown():
    image, other = noise((60, 40), 3, np.uint8), noise((40, 60), 3, np.uint8)
    matrix = matrices((60, 40), 2)[1]
    plain, given = (
        warp.move(Sample("x", image), matrix, (60, 40), margin=margin).sample.image for margin in (None, Margin(other))
    )
    assert np.array_equal(plain, given)


def test_of_a_mask_the_nearest_pixel_is_shown():
    image, mask = noise((60, 40), 1, np.uint8), noise((60, 40), 1, np.uint8)[..., 0] % 5
    matrix = matrices((60, 40), 2)[1]
    plain, given = (
        warp.move(Sample("x", image, mask=mask), matrix, (60, 40), margin=margin).sample
        for margin in (None, Margin(image))
    )
    assert np.array_equal(plain.image, given.image)
    assert np.array_equal(plain.mask, given.mask)
    assert set(np.unique(given.mask)) <= set(range(5))


def test_large_pictures_have_none(monkeypatch):
    image = noise((60, 40), 3, np.uint8)
    monkeypatch.setattr(margins, "MOST_BYTES", image.nbytes)
    margin = Margin(image)
    warp.move(Sample("x", image), matrices((60, 40), 2)[1], (60, 40), margin=margin)
    assert margin._wide is image


def test_variants_are_those_that_are_drawn_one_by_one(monkeypatch):
    recipe = Recipe(tuple(OPS.parse(text) for text in ("flip", "rotate degrees=15", "brightness")), copies=6)
    source = Sample("a.png", noise((90, 70), 3, np.uint8))
    made = [one.sample.image for one in variants(recipe, source)]
    monkeypatch.setattr(margins, "MOST_BYTES", 0)
    for number, image in enumerate(made, 1):
        assert np.array_equal(image, draw(recipe, source, number).sample.image)


@pytest.mark.parametrize("texts", [("flip", "vflip", "rot90"), ("flip", "crop 0.5 p=0.5"), ("rot90", "augmix p=0.3")])
def test_how_many_are_drawn_ahead_changes_nothing(monkeypatch, texts):
    """Pictures that are alike when mirrored, too: some draws are turned down by their pixels alone."""
    recipe = Recipe(tuple(OPS.parse(text) for text in texts), copies=11)
    image = noise((12, 12), 3, np.uint8)
    for pixels in (image, np.maximum(image, image[:, ::-1]), np.full_like(image, 7)):
        found = []
        for ahead in (1, 3, 8, 50):
            monkeypatch.setattr(many, "AHEAD", ahead)
            made = list(variants(recipe, Sample("a.png", pixels)))
            found.append([one and (one.number, one.ops, one.sample.image.tobytes()) for one in made])
        assert found[1:] == found[:1] * 3
