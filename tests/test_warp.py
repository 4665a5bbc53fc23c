"""Coordinates: each way of moving pixels against a slow twin in plain numpy."""

from __future__ import annotations

import itertools
import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.augment import warp
from edgekit.augment.field import Field
from edgekit.augment.labels import Rules
from edgekit.augment.op import OPS, apply
from edgekit.data import outline
from edgekit.data.sample import Object, Sample
from edgekit.errors import EdgekitError

ROTATION = np.array([[0.96, 0.25, -7.3], [-0.25, 0.96, 10.2], [0, 0, 1]])
TILT = np.array([[0.96, 0.25, -7.3], [-0.25, 0.96, 10.2], [2e-3, 1e-3, 1]])
PAD_MODES = {"reflect": "reflect", "replicate": "edge", "wrap": "wrap", "constant": "constant"}


def noise(width: int, height: int, channels: int = 3, dtype: type = np.uint8) -> np.ndarray:
    rng = np.random.default_rng(width * 1000 + height)
    return rng.integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)


def smooth(width: int, height: int, channels: int, dtype: type) -> np.ndarray:
    soft = cv2.GaussianBlur(noise(width, height, channels).astype(np.float32), (0, 0), 2)
    soft = (soft - soft.min()) / np.ptp(soft) * np.iinfo(dtype).max
    return np.rint(soft).astype(dtype).reshape(height, width, channels)


def moved(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int], **how) -> np.ndarray:
    return warp.move(Sample("x", image), matrix, size, **how).sample.image


def index(position: np.ndarray, length: int, border: str) -> np.ndarray:
    """Find which pixel a border shows, and -1 where it shows the fill."""
    if border == "replicate":
        return np.clip(position, 0, length - 1)
    if border == "wrap":
        return position % length
    if border == "constant":
        return np.where((position >= 0) & (position < length), position, -1)
    if length == 1:
        return np.zeros_like(position)
    folded = np.abs(position) % (2 * (length - 1))
    return np.where(folded >= length, 2 * (length - 1) - folded, folded)


def bilinear(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int], border: str) -> np.ndarray:
    """Warp pixel by pixel: the centre of each output pixel, back to the source, between four pixel centres."""
    height, width = image.shape[:2]
    back = np.linalg.inv(matrix)
    out = np.zeros((size[1], size[0], image.shape[2]))
    for row, column in itertools.product(range(size[1]), range(size[0])):
        x, y, depth = back @ [column + 0.5, row + 0.5, 1.0]
        x, y = x / depth - 0.5, y / depth - 0.5
        left, top = math.floor(x), math.floor(y)
        for dy, dx in itertools.product((0, 1), (0, 1)):
            j, i = index(np.array(top + dy), height, border), index(np.array(left + dx), width, border)
            weight = (1 - abs(x - left - dx)) * (1 - abs(y - top - dy))
            out[row, column] += weight * (image[j, i] if min(i, j) >= 0 else 0.0)
    return out


@pytest.mark.parametrize("border", warp.BORDERS)
@pytest.mark.parametrize("matrix", [ROTATION, TILT], ids=["affine", "perspective"])
@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (3, np.uint8), (4, np.uint8), (3, np.uint16)])
def test_warp_is_bilinear_in_continuous_coordinates(border, matrix, channels, dtype):
    image = smooth(32, 24, channels, dtype)
    expected = bilinear(image, matrix, (30, 26), border)
    out = moved(image, matrix, (30, 26), border=border)
    # OpenCV knows 32 places between two pixels: a 64th of the step between neighbours, and rounding.
    step = max(np.abs(np.diff(image.astype(int), axis=axis)).max() for axis in (0, 1))
    if border == "constant":
        step = np.iinfo(dtype).max
    elif border == "wrap":
        step = max(
            step, np.abs(image[:, 0].astype(int) - image[:, -1]).max(), np.abs(image[0].astype(int) - image[-1]).max()
        )
    error = np.abs(out - expected)
    assert error.max() <= 2 * step / 64 + 1
    assert error.mean() <= 0.01 * step + 0.6


def test_warp_of_a_picture_of_one_pixel():
    for border in warp.BORDERS[:3]:
        assert (moved(np.full((1, 1, 3), 9, np.uint8), ROTATION, (20, 20), border=border) == 9).all()


ORIENTATIONS = [
    (np.array([[sx, 0], [0, sy]]) if not swap else np.array([[0, sx], [sy, 0]]), (swap, sx, sy))
    for swap, sx, sy in itertools.product((False, True), (1, -1), (1, -1))
]


@pytest.mark.parametrize(("linear", "how"), ORIENTATIONS, ids=[str(how) for _, how in ORIENTATIONS])
@pytest.mark.parametrize("border", warp.BORDERS)
@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (3, np.uint8), (4, np.uint16)])
def test_whole_pixel_moves_are_exact(linear, how, border, channels, dtype):
    swap, sx, sy = how
    image = noise(7, 5, channels, dtype)
    turned = image.transpose(1, 0, 2) if swap else image
    turned = turned[:: int(sy), :: int(sx)]
    height, width = turned.shape[:2]
    for x, y, size in [(0, 0, (width, height)), (2, -1, (4, 3)), (-3, 4, (20, 1)), (17, -9, (6, 30))]:
        matrix = np.eye(3)
        matrix[:2, :2] = linear
        matrix[:2, 2] = (x + (width if sx < 0 else 0), y + (height if sy < 0 else 0))
        far = 40
        extra = {} if border != "constant" else {"constant_values": 0}
        wide = np.pad(turned, ((far, far), (far, far), (0, 0)), mode=PAD_MODES[border], **extra)
        expected = wide[far - y : far - y + size[1], far - x : far - x + size[0]]
        assert (moved(image, matrix, size, border=border) == expected).all(), (x, y, size)


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.uint8, np.uint16, np.int32, np.uint32, np.int64])
def test_masks_of_any_type_survive_every_way(dtype):
    values = [0, 1] if dtype == np.bool_ else [1, np.iinfo(dtype).max, 3, np.iinfo(dtype).min]
    mask = np.resize(np.array(values, dtype), (24, 32))
    sample = Sample("x", noise(32, 24), mask=mask)
    for matrix, size in [
        (np.eye(3), (32, 24)),
        (np.array([[0, -1, 24], [1, 0, 0], [0, 0, 1.0]]), (24, 32)),
        (np.diag([0.5, 0.25, 1]), (16, 6)),
        (np.diag([3.0, 2.0, 1]), (96, 48)),
        (ROTATION, (32, 24)),
        (TILT, (32, 24)),
    ]:
        out = warp.move(sample, matrix, size).sample.mask
        assert (out.dtype, out.shape) == (mask.dtype, size[::-1])
        assert set(out.ravel().tolist()) <= set(mask.ravel().tolist())


def test_resized_masks_read_the_pixel_under_the_centre():
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4)
    out = warp.move(Sample("x", noise(4, 3), mask=mask), np.diag([2.0, 2.0, 1.0]), (8, 6)).sample.mask
    assert (out == np.kron(mask, np.ones((2, 2), np.uint8))).all()
    small = warp.move(
        Sample("x", noise(9, 9), mask=np.arange(81).reshape(9, 9)), np.diag([1 / 3, 1 / 3, 1]), (3, 3)
    ).sample.mask
    assert (small == np.arange(81).reshape(9, 9)[1::3, 1::3]).all()


def test_shrinking_averages():
    image = noise(64, 48)
    out = moved(image, np.diag([0.25, 0.25, 1]), (16, 12))
    blocks = image.reshape(12, 4, 16, 4, 3).mean(axis=(1, 3))
    assert np.abs(out - blocks).max() <= 0.51


def test_one_axis_may_shrink_while_the_other_grows():
    image = noise(64, 8)
    out = moved(image, np.diag([0.25, 2.0, 1]), (16, 16))
    rows = image.reshape(8, 16, 4, 3).mean(axis=2)
    expected = bilinear(rows, np.diag([1.0, 2.0, 1]), (16, 16), "replicate")
    assert np.abs(out - expected).max() <= 1.5


def test_crop_and_resize_in_one_matrix_is_a_resize_of_the_window():
    image = noise(64, 48)
    matrix = np.diag([0.5, 0.5, 1.0]) @ np.array([[1, 0, -8], [0, 1, -6], [0, 0, 1.0]])
    out = moved(image, matrix, (20, 18))
    assert (out == cv2.resize(image[6:42, 8:48], (20, 18), interpolation=cv2.INTER_AREA)).all()
    flipped = np.array([[-1, 0, 20], [0, 1, 0], [0, 0, 1.0]]) @ matrix
    assert (
        moved(image, flipped, (20, 18)) == cv2.resize(image[6:42, 47:7:-1], (20, 18), interpolation=cv2.INTER_AREA)
    ).all()


@pytest.mark.parametrize("tilt", [0.0, 1e-5])
def test_a_warp_that_shrinks_does_not_alias(tilt):
    checks = np.kron(np.indices((80, 80)).sum(axis=0) % 2, np.ones((3, 3)))[..., None].astype(np.uint8) * 255
    angle = math.radians(10)
    matrix = np.diag([1 / 6, 1 / 6, 1]) @ np.array(
        [[math.cos(angle), -math.sin(angle), 40], [math.sin(angle), math.cos(angle), 0], [tilt, 0, 1]]
    )
    out = moved(checks, matrix, (40, 40)).astype(float)
    assert abs(out.mean() - 127.5) < 3
    assert out.std() < 25  # plain bilinear gives about 100


def test_shrinking_first_does_not_move_anything():
    width, height = 403, 301
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    blob = np.exp(-((columns - 251.3) ** 2 + (rows - 140.8) ** 2) / (2 * 9.0**2))
    sample = Sample("x", np.rint(60000 * blob).astype(np.uint16)[..., None])
    angle = math.radians(20)
    matrix = 0.22 * np.array(
        [[math.cos(angle), -math.sin(angle), 150], [math.sin(angle), math.cos(angle), 10], [0, 0, 1 / 0.22]]
    )
    out = warp.move(sample, matrix, (120, 110), border="constant").sample
    place = warp.move_points(np.array([[251.3, 140.8]]), matrix)[0]
    weights = out.image[..., 0].astype(float)
    columns, rows = np.meshgrid(np.arange(120) + 0.5, np.arange(110) + 0.5)
    found = [(weights * columns).sum() / weights.sum(), (weights * rows).sum() / weights.sum()]
    assert np.abs(np.array(found) - place).max() < 0.05


def test_long_pictures_are_refused_where_opencv_cannot_and_moved_where_it_can():
    image = np.zeros((2, 40000, 1), np.uint8)
    image[:, -1] = 200
    with pytest.raises(EdgekitError, match="40000 pixels is too long"):
        moved(image, ROTATION, (40000, 2))
    assert moved(image, np.array([[-1, 0, 40000], [0, 1, 0], [0, 0, 1.0]]), (40000, 2))[0, 0, 0] == 200
    assert moved(image, np.array([[1, 0, -39999], [0, 1, 0], [0, 0, 1.0]]), (1, 2))[0, 0, 0] == 200
    assert moved(image, np.diag([100 / 40000, 1, 1]), (100, 2)).shape == (2, 100, 1)


def test_constant_border_fills_the_image_and_leaves_alpha_and_mask_at_nothing():
    for channels, dtype, fill in [(1, np.uint8, 1.0), (3, np.uint16, 0.5), (4, np.uint8, 0.5), (4, np.uint16, 1.0)]:
        full = np.iinfo(dtype).max
        sample = Sample("x", np.full((6, 8, channels), full, dtype), mask=np.full((6, 8), 5, np.uint8))
        for matrix in (
            np.array([[1, 0, 9], [0, 1, 9], [0, 0, 1.0]]),
            np.array([[1, 0.1, 20.5], [0, 1, 9], [0, 0, 1.0]]),
        ):
            out = warp.move(sample, matrix, (9, 9), border="constant", fill=fill).sample
            assert np.abs(out.image[0, 0, : min(channels, 3)].astype(int) - fill * full).max() <= 0.5
            assert channels < 4 or out.image[0, 0, 3] == 0
            assert out.mask[0, 0] == 0


def test_points_there_and_back():
    points = np.random.default_rng(0).uniform(-20, 80, (50, 2))
    for matrix in (ROTATION, TILT):
        back = warp.move_points(warp.move_points(points, matrix), np.linalg.inv(matrix))
        assert np.allclose(back, points, atol=1e-9)
    assert np.isfinite(warp.move_points(np.array([[-1e6, 0.0]]), TILT)).all()


def test_there_and_back_gives_the_picture():
    image = smooth(64, 48, 3, np.uint8)
    there = moved(image, ROTATION, (64, 48), border="constant")
    back = moved(there, np.linalg.inv(ROTATION), (64, 48), border="constant")
    middle = np.s_[16:32, 22:42]
    assert np.abs(back[middle].astype(int) - image[middle]).mean() < 2


def test_half_turn_by_rotate_is_exact():
    image = noise(64, 48)
    op = OPS.parse("rotate 180")
    assert (apply(op, {"degrees": 180.0}, Sample("x", image)).sample.image == image[::-1, ::-1]).all()


def test_shear_keeps_areas_and_slides_rows_then_columns():
    matrix, size = OPS.parse("shear 60").matrix({"x": 45.0, "y": 45.0}, (60, 40))
    assert size == (60, 40)
    assert abs(np.linalg.det(matrix) - 1) < 1e-12
    corners = warp.move_points(np.array([(30, 20), (30, 30), (40, 20.0)]), matrix)
    assert np.allclose(corners, [(30, 20), (40, 40), (40, 30)])


def test_crop_copies_pixels_and_reaches_every_place():
    image, op, rng = noise(10, 8), OPS.parse("crop 0.5"), np.random.default_rng(0)
    places = set()
    for _ in range(600):
        params = op.sample(rng, Sample("x", image)) | {"factor": 0.5}
        out = apply(op, params, Sample("x", image)).sample.image
        assert out.shape == (4, 5, 3)
        here = [(x, y) for x in range(6) for y in range(5) if (image[y : y + 4, x : x + 5] == out).all()]
        places.update(here)
        assert len(here) == 1
    assert len(places) == 30


@pytest.mark.parametrize(
    ("text", "source", "output"),
    [
        ("resize", (64, 48), (224, 224)),
        ("resize 10 height=20", (64, 48), (10, 20)),
        ("resize 24 mode=short", (64, 48), (32, 24)),
        ("resize 32 mode=long", (48, 64), (24, 32)),
        ("resize 8 mode=long", (500, 3), (8, 1)),
        ("pad 0.25", (64, 48), (96, 72)),
        ("crop 1", (7, 5), (7, 5)),
    ],
)
def test_output_sizes(text, source, output):
    _, size = OPS.parse(text).matrix({"factor": 1.0, "x": 0.0, "y": 0.0}, source)
    assert size == output


def test_resize_refuses_what_it_cannot_mean():
    with pytest.raises(EdgekitError, match="height=100 with mode=short"):
        OPS.parse("resize 50 height=100 mode=short")
    with pytest.raises(EdgekitError, match="would become 2240000x224"):
        OPS.parse("resize mode=short").matrix({}, (10000, 1))


def test_strongest_perspective_never_looks_past_the_horizon():
    op, rng, frame = (
        OPS.parse("perspective 0.15"),
        np.random.default_rng(0),
        np.array([(0, 0), (1, 0), (1, 1), (0, 1.0)]),
    )
    extremes = [
        {"corners": (0.15 * np.array(signs).reshape(4, 2)).tolist()} for signs in itertools.product((1, -1), repeat=8)
    ]
    for params in extremes + [op.sample(rng, None) for _ in range(200)]:
        matrix, size = op.matrix(params, (640, 480))
        corners = warp.move_points(frame * size, matrix)
        assert np.allclose(corners / size, frame + params["corners"], atol=1e-5)
        back = np.linalg.inv(matrix)
        assert ((frame * size) @ back[2, :2] + back[2, 2]).min() / back[2, 2] > 0


@pytest.mark.parametrize(
    "matrix",
    [
        np.array([[-1, 0, 64], [0, 1, 0], [0, 0, 1.0]]),
        np.array([[0, -1, 48], [1, 0, 0], [0, 0, 1.0]]),
        np.array([[1, 0, -20], [0, 1, 13], [0, 0, 1.0]]),
        np.diag([0.5, 0.25, 1]),
        np.diag([1.5, 2.0, 1]),
        ROTATION,
        TILT,
    ],
)
def test_an_outline_moves_as_a_mask_of_it(matrix):
    region = cv2.GaussianBlur(noise(64, 48, 1).astype(np.float32), (0, 0), 4) > 127
    region[:, :9] = region[30:] = False
    one = Object(0, outline.hull_of_pixels(region), region=region)
    sample = Sample("x", noise(64, 48), mask=region.astype(np.uint8), objects=(one,))
    out = warp.move(sample, matrix, (64, 64), rules=Rules(outside=0)).sample
    different = (out.objects[0].region != (out.mask > 0)).sum()
    # Only a warp rounds, at places that lie between two pixels.
    assert different == 0 if matrix is not ROTATION and matrix is not TILT else different <= 3
    assert out.objects[0].region.sum() > 50


def ripple(width: int, height: int, amount: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    """A field whose displacement changes by less than a pixel from one pixel to the next."""
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return columns + amount * np.sin(rows / 9), rows + amount * np.cos(columns / 11)


def test_a_field_of_an_affine_map_moves_as_its_matrix():
    matrix = np.array([[0.95, 0.12, 3.0], [-0.1, 1.05, -2.0], [0, 0, 1]])
    columns, rows = np.meshgrid(np.arange(80) + 0.5, np.arange(60) + 0.5)
    back = warp.move_points(np.stack([columns.ravel(), rows.ravel()], axis=1), np.linalg.inv(matrix))
    region = np.zeros((60, 80), bool)
    region[20:45, 30:50] = True
    square = outline.corners(np.array([30, 20, 50, 45.0]))
    objects = (
        Object(0, np.array([30, 20, 50, 45.0])),
        Object(1, np.array([30, 20, 50, 45.0]), polygons=(square,), keypoints=np.array([[33, 22, 2.0]])),
        Object(2, np.array([30, 20, 50, 45.0]), region=region),
        Object(3, np.array([70, 20, 95, 45.0]), polygons=(square + np.array([40, 0]),)),
    )
    mask = np.kron(np.arange(48).reshape(6, 8), np.ones((10, 10))).astype(np.uint8)
    sample = Sample("x", smooth(80, 60, 3, np.uint8), mask=mask, objects=objects)
    one = warp.move(sample, matrix, (80, 60))
    other = warp.move_by_field(sample, back[:, 0].reshape(60, 80), back[:, 1].reshape(60, 80))
    assert np.abs(one.sample.image.astype(int) - other.sample.image).max() <= 3
    assert (one.sample.mask == other.sample.mask).mean() > 0.99
    assert one.kept == other.kept
    assert [change.index for change in one.changes] == [change.index for change in other.changes] == [3]
    for first, second in zip(one.sample.objects, other.sample.objects, strict=True):
        # Regions are whole pixels, and the field knows nothing of what lies beyond the picture, as the last one does.
        assert np.abs(first.box - second.box).max() < (0.05 if first.number < 2 else 1)
        assert first.visible == pytest.approx(second.visible, abs=0.02)
    assert np.abs(one.sample.objects[1].keypoints - other.sample.objects[1].keypoints).max() < 1e-3
    area = outline.area(one.sample.objects[1].polygons)
    assert outline.area(other.sample.objects[1].polygons) == pytest.approx(area, abs=0.1)


def test_a_field_shows_a_place_where_its_inverse_says():
    map_x, map_y = ripple(120, 90)
    places = np.random.default_rng(0).uniform([15, 15], [105, 75], (40, 2))
    found = Field(map_x, map_y).points(places)
    seen_x = 4.0 * np.sin(found[:, 1] / 9) + found[:, 0]
    seen_y = 4.0 * np.cos(found[:, 0] / 11) + found[:, 1]
    assert np.abs(np.stack([seen_x, seen_y], axis=1) - places).max() < 0.02  # the field is read between its pixels
    for x, y in places[:6]:
        columns, rows = np.meshgrid(np.arange(120) + 0.5, np.arange(90) + 0.5)
        blob = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 2.0**2))
        dot = Object(0, np.array([x - 1, y - 1, x + 1, y + 1]), keypoints=np.array([[x, y, 2.0]]))
        sample = Sample("x", np.rint(60000 * blob).astype(np.uint16)[..., None], objects=(dot,))
        out = warp.move_by_field(sample, map_x, map_y, border="constant").sample
        weights = np.where(out.image[..., 0] > 6000, out.image[..., 0], 0).astype(np.float64)
        lands = np.array([(weights * columns).sum(), (weights * rows).sum()]) / weights.sum()
        assert np.abs(lands - out.objects[0].keypoints[0, :2]).max() < 0.35


def test_outlines_bend_with_the_field_and_stop_at_the_frame():
    map_x, map_y = ripple(120, 90)
    square = outline.corners(np.array([60, 30, 140, 70.0]))
    region = outline.paint([square], (120, 90))
    both = (
        Object(0, np.array([60, 30, 140, 70.0]), polygons=(square,)),
        Object(1, np.array([60, 30, 120, 70.0]), region=region),
    )
    out = warp.move_by_field(Sample("x", noise(120, 90), objects=both), map_x, map_y)
    polygon, moved = out.sample.objects
    drawn = outline.paint(polygon.polygons, (120, 90))
    away = drawn ^ moved.region
    away[:, 112:] = False  # the region ends at the frame of the source, the polygon does not
    assert cv2.erode(away.astype(np.uint8), np.ones((3, 3))).sum() == 0
    assert polygon.visible == pytest.approx(0.75, abs=0.03)
    assert moved.visible == pytest.approx(1, abs=0.05)


def test_a_field_that_folds_or_does_not_fit_is_refused():
    map_x, map_y = ripple(60, 40, 30.0)
    one = Sample("x", noise(60, 40), objects=(Object(0, np.array([10, 10, 50, 30.0])),))
    with pytest.raises(EdgekitError, match="folds the picture over"):
        warp.move_by_field(one, map_x, map_y)
    with pytest.raises(EdgekitError, match="differ in size"):
        warp.move_by_field(one, map_x, map_y[:-1])
    with pytest.raises(EdgekitError, match="40000 pixels is too long"):
        warp.move_by_field(one, np.zeros((1, 40000)), np.zeros((1, 40000)))


def test_masks_move_by_a_field_to_the_nearest_pixel():
    mask = np.arange(40 * 60).reshape(40, 60)
    columns, rows = np.meshgrid(np.arange(60) + 0.5, np.arange(40) + 0.5)
    out = warp.move_by_field(Sample("x", noise(60, 40), mask=mask), columns + 3.3, rows - 2.2).sample
    assert (out.mask[5:, :50] == mask[3:-2, 3:53]).all()
    away = warp.move_by_field(
        Sample("x", noise(60, 40), mask=mask), columns + 3.3, rows, rules=Rules(outside=-1)
    ).sample
    assert (away.mask[:, 57:] == -1).all()
    assert set(np.unique(out.mask)) <= set(range(2400))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.floats(-3, 3), min_size=4, max_size=4))
def test_stretch_is_the_larger_singular_value(values):
    found = warp._largest_stretch(*values)
    assert found == pytest.approx(np.linalg.norm(np.array(values).reshape(2, 2), ord=2), rel=1e-9, abs=1e-7)
