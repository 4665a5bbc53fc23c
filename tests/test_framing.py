"""Crops, letterbox and random-resized-crop: what they say of sizes, shapes and objects."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edgekit.augment.op import OPS, apply
from edgekit.data.sample import Object, Sample


def noise(width: int, height: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels)).astype(np.uint8)


def test_transpose_swaps_rows_and_columns():
    image = noise(9, 5)
    keypoints = np.array([[2.5, 1.5, 2.0]])
    sample = Sample("x", image, objects=(Object(0, np.array([2.0, 1.0, 5.0, 2.0]), keypoints=keypoints),))
    out = apply(OPS.parse("transpose"), {}, sample).sample
    assert (out.image == image.transpose(1, 0, 2)).all()
    assert out.objects[0].box.tolist() == [1.0, 2.0, 2.0, 5.0]
    assert out.objects[0].keypoints.tolist() == [[1.5, 2.5, 2.0]]


@pytest.mark.parametrize("size", [(640, 427), (100, 900), (13, 7)])
@pytest.mark.parametrize("out", [(640, 640), (416, 256), (20, 5)])
def test_letterbox_is_resize_and_bars(size, out):
    image = noise(*size)
    made = apply(OPS.parse(f"letterbox {out[0]} height={out[1]}"), {}, Sample("x", image)).sample.image
    factor = min(out[0] / size[0], out[1] / size[1])
    width, height = max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    x, y = (out[0] - width) // 2, (out[1] - height) // 2
    expected = np.full((out[1], out[0], 3), 114, np.uint8)
    expected[y : y + height, x : x + width] = cv2.resize(image, (width, height), interpolation=way)
    assert (made == expected).all()


def test_letterbox_moves_labels_and_bars_are_no_object():
    objects = (Object(0, np.array([0.0, 0.0, 200.0, 100.0])),)
    mask = np.full((100, 200), 3, np.uint8)
    out = apply(OPS.parse("letterbox 100"), {}, Sample("x", noise(200, 100), mask=mask, objects=objects)).sample
    assert out.objects[0].box.tolist() == [0.0, 25.0, 100.0, 75.0]
    assert (out.mask[25:75] == 3).all()
    assert not out.mask[:25].any()
    assert not out.mask[75:].any()


@pytest.mark.parametrize("size", [(640, 427), (200, 600)])
def test_random_resized_crop_has_the_area_and_the_shape_it_says(size):
    op, sample, rng = (
        OPS.parse("random-resized-crop 0.2 ratio=0.5"),
        Sample("x", noise(*size)),
        np.random.default_rng(0),
    )
    draws = [op.sample(rng, sample) for _ in range(3000)]
    areas = np.array([one["width"] * one["height"] for one in draws])
    shapes = np.array([one["width"] / one["height"] for one in draws])
    assert areas.min() >= 0.2
    assert areas.max() <= 1
    assert np.median(areas) < 0.6  # large ones rarely fit
    assert shapes.min() >= 0.5 - 1e-9
    assert shapes.max() <= 2 + 1e-9
    assert abs((shapes > 1).mean() - 0.5) < 0.04
    assert apply(op, draws[0], sample).sample.size == size


@pytest.mark.parametrize(
    ("text", "size"),
    [("size=224", (224, 224)), ("size=320 height=200", (320, 200)), ("height=50", (64, 50)), ("", (64, 48))],
)
def test_random_resized_crop_makes_the_size_that_is_asked_for(text, size):
    op, sample = OPS.parse(f"random-resized-crop {text}"), Sample("x", noise(64, 48))
    params = op.sample(np.random.default_rng(0), sample)
    assert apply(op, params, sample).sample.size == size
    window = np.array([params["width"] * 64, params["height"] * 48])
    assert 0.74 < window[0] / window[1] / (size[0] / size[1]) < 1.35


def boxes(rng: np.random.Generator, count: int, size: tuple[int, int]) -> tuple[Object, ...]:
    corners = rng.random((count, 2)) * 0.8
    sides = 0.02 + rng.random((count, 2)) * 0.18
    placed = np.concatenate([corners, corners + sides], axis=1) * np.tile(size, 2)
    return tuple(Object(number, box) for number, box in enumerate(placed))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_box_safe_crop_keeps_objects_whole(count):
    op = OPS.parse(f"box-safe-crop 0.1 objects={count}")
    smallest = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        sample = Sample("x", noise(100, 80), objects=boxes(rng, 4, (100, 80)))
        params = op.sample(rng, sample)
        applied = apply(op, params, sample)
        whole = [one for one in applied.sample.objects if one.visible == 1]
        assert len(whole) >= min(count, 4)
        width, height = applied.sample.size
        assert abs(width / 100 - height / 80) < 0.3 / min(width / 100, height / 80) / 10
        x, y = params["x"], params["y"]
        assert (applied.sample.image == sample.image[y : y + height, x : x + width]).all()
        smallest.append(width)
    assert min(smallest) < {1: 25, 2: 50, 5: 90}[count]


def test_box_safe_crop_without_objects_crops_anywhere_and_crowds_are_none():
    op, places = OPS.parse("box-safe-crop 0.2"), []
    crowd = (Object(0, np.array([40.0, 40.0, 60.0, 60.0]), crowd=True),)
    for objects in ((), crowd):
        for seed in range(200):
            params = op.sample(np.random.default_rng(seed), Sample("x", noise(100, 100), objects=objects))
            places.append((params["x"], params["x"] + params["width"]))
            assert 20 <= params["width"] <= 100
    assert min(first for first, _ in places) == 0
    assert max(last for _, last in places) == 100
    assert sum(last < 50 for _, last in places) > 20


def test_box_safe_crop_holds_boxes_at_the_edge():
    op = OPS.parse("box-safe-crop 0.05")
    for box in ([0, 0, 1, 1], [99, 79, 100, 80], [0, 0, 100, 80], [10.4, 3.2, 10.6, 3.3]):
        for seed in range(50):
            sample = Sample("x", noise(100, 80), objects=(Object(0, np.array(box, np.float64)),))
            out = apply(op, op.sample(np.random.default_rng(seed), sample), sample).sample
            assert out.objects[0].visible == 1


def test_a_box_safe_crop_does_not_mind_how_its_boxes_were_rounded():
    image, op = noise(322, 243), OPS.parse("box-safe-crop 0.3")
    for seed in range(50):
        drawn = []
        for error in (0.0, 1e-4, -1e-4):
            held = Object(0, np.array([33.0, 40.0, 96.0, 110.0]) + error)
            drawn.append(op.sample(np.random.default_rng(seed), Sample("a", image, objects=(held,))))
        assert drawn[0] == drawn[1] == drawn[2]
