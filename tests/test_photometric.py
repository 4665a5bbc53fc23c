"""Colours, degradations and erasing against plain formulas."""

from __future__ import annotations

import colorsys
import math

import cv2
import numpy as np
import pytest

from edgekit.augment.degrade import _normal_quantiles
from edgekit.augment.op import OPS
from edgekit.data.sample import Sample

EVERY_VALUE = {255: np.arange(256, dtype=np.uint8), 65535: np.arange(65536, dtype=np.uint16)}
both_depths = pytest.mark.parametrize("full", [255, 65535])


def after(text: str, image: np.ndarray, **params) -> np.ndarray:
    """Apply an op with given parameters to an image, or to a row of grey values."""
    grey = image.reshape(1, -1, 1) if image.ndim == 1 else image
    return OPS.parse(text).pixels(grey, params).reshape(image.shape)


def photo(seed: int = 0, size: tuple[int, int] = (96, 64)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    soft = cv2.GaussianBlur(rng.normal(size=(size[1], size[0], 3)), (0, 0), 4)
    soft = (soft - soft.mean()) / soft.std() * 45 + 110
    return np.clip(soft + rng.normal(0, 4, soft.shape), 0, 255).astype(np.uint8)


@both_depths
def test_values_follow_their_formulas(full):
    values = EVERY_VALUE[full]
    v = values.astype(np.float64)
    bits = full.bit_length()
    for text, params, expected in [
        ("brightness", {"factor": 1.17}, np.clip(1.17 * v, 0, full)),
        ("contrast", {"factor": 1.3}, np.clip(full / 2 + 1.3 * (v - full / 2), 0, full)),
        ("contrast", {"factor": 0.0}, np.full(full + 1, full / 2)),
        ("gamma", {"exponent": 0.8}, full * (v / full) ** 0.8),
        ("invert", {}, full - v),
        ("solarize", {"threshold": 0.4}, np.where(v > 0.4 * full, full - v, v)),
        ("posterize", {"bits": 3}, values & (0b111 << (bits - 3))),
        ("posterize", {"bits": 1}, values & (1 << (bits - 1))),
    ]:
        assert np.abs(after(text, values, **params) - expected).max() <= 0.5, text


@both_depths
def test_tables_are_what_the_pixels_get(full):
    values = EVERY_VALUE[full]
    for text, params in [("gamma", {"exponent": 1.3}), ("invert", {}), ("posterize", {"bits": 2})]:
        table = OPS.parse(text).table(params, full)
        assert (table.dtype, table.shape) == (values.dtype, (full + 1,))
        assert (after(text, values, **params) == table).all()


def yiq_turned(rgb: np.ndarray, degrees: float) -> np.ndarray:
    """Turn the chroma plane, with the standard library's YIQ."""
    y, i, q = colorsys.rgb_to_yiq(*(float(value) / 255 for value in rgb))
    # From red to yellow is clockwise in the I-Q plane.
    turned = complex(i, q) * complex(math.cos(math.radians(degrees)), -math.sin(math.radians(degrees)))
    r, g, b = colorsys.yiq_to_rgb(y, turned.real, turned.imag)
    return np.array([r, g, b]) * 255


@pytest.mark.parametrize("degrees", [-150, -30, -10, 10, 45, 180])
def test_hue_turns_the_chroma_plane(degrees):
    colours = np.random.default_rng(0).integers(0, 256, (200, 1, 3)).astype(np.uint8)
    out = after("hue", colours, degrees=float(degrees))
    expected = np.array([yiq_turned(rgb, degrees) for rgb in colours[:, 0]])
    # colorsys rounds its luma weights to two places, which is up to 2 of 255 here.
    assert np.abs(out[:, 0] - expected).max() <= 3


def test_hue_keeps_luma_and_greys_and_goes_the_way_hsv_goes():
    colours = np.random.default_rng(1).integers(60, 196, (500, 1, 3)).astype(np.uint8)
    out = after("hue", colours, degrees=10.0)
    luma = np.array([0.299, 0.587, 0.114])
    assert np.abs(out @ luma - colours @ luma).max() <= 1.5
    greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    assert (after("hue", greys, degrees=73.0) == greys).all()
    shifts = []
    for before, moved in zip(colours[:, 0] / 255, out[:, 0] / 255, strict=True):
        if before.max() - before.min() > 0.15:
            turn = colorsys.rgb_to_hsv(*moved)[0] - colorsys.rgb_to_hsv(*before)[0]
            shifts.append(360 * ((turn + 0.5) % 1 - 0.5))
    # The stated tolerance: HSV's circle is a hexagon seen from elsewhere, so 10 degrees are 3 to 22 of its degrees.
    assert min(shifts) > 3
    assert max(shifts) < 22
    assert 8 < np.mean(shifts) < 12


def test_saturation_is_a_blend_with_luma():
    image = photo()
    luma = image @ np.array([0.299, 0.587, 0.114])
    for factor in (0.0, 0.5, 1.5):
        expected = np.clip(factor * image + (1 - factor) * luma[..., None], 0, 255)
        assert np.abs(after("saturation", image, factor=factor) - expected).max() <= 1.5
    grey = after("grayscale", image)
    assert (grey[..., 0] == grey[..., 1]).all()
    assert (grey[..., 0] == grey[..., 2]).all()
    assert np.abs(grey[..., 0] - luma).max() <= 1.01


@pytest.mark.parametrize("name", ["saturation 0.5", "hue 90", "grayscale"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colour_ops_leave_grey_pictures_alone(name, dtype):
    image = photo()[..., :1].astype(dtype)
    op = OPS.parse(name)
    assert (op.pixels(image, op.sample(np.random.default_rng(0), Sample("x", image)) or {}) == image).all()


def test_equalize_does_what_opencv_does_and_at_16_bits_too():
    grey = (photo()[..., :1] // 2 + 30).astype(np.uint8)
    expected = cv2.equalizeHist(grey)[..., None]
    assert np.abs(after("equalize", grey).astype(int) - expected).max() <= 1
    assert np.abs(after("equalize", grey * np.uint16(257)) / 257 - expected).max() <= 1
    deep = np.random.default_rng(0).normal(30000, 2000, (300, 400, 1)).astype(np.uint16)
    flat = after("equalize", deep)
    assert (flat.min(), flat.max()) == (0, 65535)
    assert np.histogram(flat, 16, (0, 65536))[0].std() < 0.05 * deep.size / 16
    single = np.full((5, 7, 3), 77, np.uint8)
    assert (after("equalize", single) == single).all()


def test_clahe_does_what_opencv_does_on_grey_and_means_the_same_at_16_bits():
    grey = photo()[..., :1]
    expected = cv2.createCLAHE(2.0, (8, 8)).apply(grey)
    assert (after("clahe", grey, clip=2.0)[..., 0] == expected).all()
    deep = after("clahe", grey * np.uint16(257), clip=2.0)[..., 0]
    assert np.abs(deep / 257 - expected).max() <= 1
    fine = grey * np.uint16(257) ^ np.arange(grey.size, dtype=np.uint16).reshape(grey.shape) % 256
    assert (after("clahe", fine, clip=2.0) & 255 == fine & 255).all()


@pytest.mark.parametrize(("name", "params"), [("equalize", {}), ("clahe", {"clip": 4.0})])
def test_luma_ops_keep_colour_differences_where_nothing_clips(name, params):
    image = (photo() // 3 + 80).astype(np.uint8)
    change = after(name, image, **params).astype(int) - image
    inside = (after(name, image, **params) > 0).all(axis=2) & (after(name, image, **params) < 255).all(axis=2)
    assert np.ptp(change[inside], axis=1).max() == 0
    assert inside.mean() > 0.5


DEPTH_FREE = [
    ("brightness", {"factor": 1.2}),
    ("contrast", {"factor": 0.7}),
    ("saturation", {"factor": 1.4}),
    ("hue", {"degrees": 25.0}),
    ("gamma", {"exponent": 1.2}),
    ("grayscale", {}),
    ("invert", {}),
    ("equalize", {}),
    ("clahe", {"clip": 3.0}),
    ("posterize", {"bits": 4}),
    ("solarize", {"threshold": 0.6}),
    ("noise", {"sigma": 0.03, "seed": 5}),
    ("blur", {"sigma": 1.5}),
    ("motionblur", {"length": 6.5, "degrees": 30.0}),
    ("jpeg", {"quality": 60}),
    ("cutout", {"places": [[0.3, 0.7]]}),
]


@pytest.mark.parametrize(("name", "params"), DEPTH_FREE, ids=[name for name, _ in DEPTH_FREE])
def test_16_bits_look_like_8(name, params):
    image = photo()
    shallow = after(name, image, **params)
    deep = after(name, image * np.uint16(257), **params)
    error = np.abs(deep / 257 - shallow)
    if name in ("equalize", "clahe"):  # luma is rounded to 8 bits before it is counted in one, after in the other
        assert error.mean() < 2
    else:
        assert error.max() <= 1.6


@pytest.mark.parametrize(("name", "params"), DEPTH_FREE, ids=[name for name, _ in DEPTH_FREE])
def test_alpha_changes_nothing_about_the_colours(name, params):
    image = photo()
    alpha = np.random.default_rng(0).integers(0, 256, image.shape[:2]).astype(np.uint8)
    both = after(name, np.dstack([image, alpha]), **params)
    assert (both[..., :3] == after(name, image, **params)).all()
    assert (both[..., 3] == alpha).all()


def test_noise_is_gaussian_of_the_stated_strength_and_independent_everywhere():
    image = np.full((200, 300, 3), 30000, np.uint16)
    out = after("noise", image, sigma=0.02, seed=1).astype(float) - 30000
    assert abs(out.mean()) < 15
    assert abs(out.std() / (0.02 * 65535) - 1) < 0.01
    assert abs((np.abs(out) < 0.02 * 65535).mean() - 0.6827) < 0.005
    other = after("noise", image, sigma=0.02, seed=2).astype(float) - 30000
    for a, b in [(out, other), (out[..., 0], out[..., 1]), (out[:, 1:], out[:, :-1])]:
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.01


def test_noise_is_symmetric():
    quantiles = _normal_quantiles()
    assert (quantiles + quantiles[::-1] == 0).all()
    assert (np.diff(quantiles) > 0).all()
    assert abs(quantiles.std() - 1) < 1e-4


def test_noise_saturates_and_does_not_wrap():
    for value in (0, 255):
        out = after("noise", np.full((50, 50, 1), value, np.uint8), sigma=0.1, seed=1)
        assert np.abs(out.astype(int) - value).max() < 150


def test_blur_is_a_gaussian():
    dot = np.zeros((41, 41, 1), np.uint16)
    dot[20, 20] = 60000
    rows, columns = np.mgrid[-20:21, -20:21]
    for sigma in (0.5, 1.0, 3.0):
        bell = np.exp(-(rows**2 + columns**2) / (2 * sigma**2))
        assert np.abs(after("blur", dot, sigma=sigma)[..., 0] - 60000 * bell / bell.sum()).max() < 60
    assert (after("blur", dot, sigma=0.05) == dot).all()


def test_motion_blur_smears_along_its_direction_only():
    dot = np.zeros((41, 41, 1), np.uint16)
    dot[20, 20] = 60000
    for length, degrees in [(1.0, 20.0), (7.0, 0.0), (7.0, 90.0), (12.5, 30.0), (30.0, 135.0)]:
        out = after("motionblur", dot, length=length, degrees=degrees)[..., 0].astype(float)
        assert abs(out.sum() - 60000) < 200
        rows, columns = np.mgrid[-20:21, -20:21]
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        along, across = columns * cos + rows * sin, columns * sin - rows * cos
        assert np.abs(across[out > 300]).max() <= 1.5
        assert abs(np.abs(along[out > 300]).max() - (length - 1) / 2) <= 1
        assert abs((out * along).sum() / out.sum()) < 0.02
    box = after("motionblur", dot, length=7.0, degrees=0.0)[20, 17:24, 0]
    assert np.abs(box[1:-1] - 60000 / 7).max() < 0.15 * 60000 / 7


def test_jpeg_gets_worse_with_lower_quality():
    image = photo()
    errors = [np.abs(after("jpeg", image, quality=q).astype(int) - image).mean() for q in (95, 70, 40, 10)]
    assert 0 < errors[0] < errors[1] < errors[2] < errors[3]


def test_jpeg_keeps_black_and_white():
    for white in (np.uint8(255), np.uint16(65535)):
        for channels in (1, 3, 4):
            halves = np.zeros((32, 32, channels), white.dtype)
            halves[16:] = white
            assert (after("jpeg", halves, quality=95) == halves).all()


def test_jpeg_quality_above_95_is_itself():
    op, rng = OPS.parse("jpeg 98"), np.random.default_rng(0)
    assert {op.sample(rng, Sample("x", photo()))["quality"] for _ in range(50)} == {98}
    op = OPS.parse("posterize 8")
    assert {op.sample(rng, Sample("x", photo()))["bits"] for _ in range(50)} == {8}


def test_cutout_covers_squares_inside_the_frame():
    image = np.zeros((40, 60, 3), np.uint8)
    op, rng = OPS.parse("cutout 0.25 count=1 fill=1"), np.random.default_rng(0)
    corners = set()
    for _ in range(300):
        out = op.pixels(image, op.sample(rng, Sample("x", image)))
        rows, columns = np.nonzero(out[..., 0])
        assert (out == 255).sum() == 10 * 10 * 3
        assert (np.ptp(rows), np.ptp(columns)) == (9, 9)
        corners.add((rows.min() == 0, columns.min() == 0, rows.max() == 39, columns.max() == 59))
    assert any(c[0] for c in corners)
    assert any(c[3] for c in corners)
    everything = OPS.parse("cutout 1 count=3")
    square = everything.pixels(image[:, :40], everything.sample(rng, Sample("x", image)))
    assert (square == 128).all()
