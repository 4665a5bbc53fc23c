"""Labels that move with the pixels: each formula against a slow twin on dense pixels or points."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.augment import labels, warp
from edgekit.augment.labels import Rules
from edgekit.augment.op import OPS, apply
from edgekit.augment.variants import Recipe, draw
from edgekit.data import outline
from edgekit.data.sample import Object, Sample
from edgekit.errors import EdgekitError

FRAME = (40, 30)
QUICK = settings(max_examples=60, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**32 - 1)


def star(rng: np.random.Generator, points: int = 12, reach: float = 25.0) -> np.ndarray:
    """A simple polygon, mostly concave, wound at random."""
    angles = np.sort(rng.uniform(0, 2 * math.pi, points))
    radii = rng.uniform(0.1, 1.0, points) * reach
    centre = rng.uniform(-5, 45, 2)
    polygon = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return polygon[::-1] if rng.random() < 0.5 else polygon


def random_affine(rng: np.random.Generator) -> np.ndarray:
    angle, stretch = rng.uniform(-math.pi, math.pi), rng.uniform(0.6, 1.6, 2)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = np.eye(3)
    matrix[:2, :2] = turn @ np.array([[1, rng.uniform(-0.5, 0.5)], [0, 1]]) @ np.diag(stretch)
    matrix[:2, 2] = np.array([20, 15]) - matrix[:2, :2] @ [20, 15] + rng.uniform(-15, 15, 2)
    if rng.random() < 0.5:
        matrix = matrix @ np.diag([-1.0, 1, 1]) @ np.array([[1, 0, -40], [0, 1, 0], [0, 0, 1.0]])
    return matrix


def random_perspective(rng: np.random.Generator) -> np.ndarray:
    tilt = np.eye(3)
    tilt[2, :2] = rng.uniform(-0.008, 0.008, 2)
    matrix = random_affine(rng) @ tilt
    return matrix / matrix[2, 2]


def either(rng: np.random.Generator) -> np.ndarray:
    return random_affine(rng) if rng.random() < 0.5 else random_perspective(rng)


def sample(*objects: Object, size: tuple[int, int] = FRAME, **more) -> Sample:
    return Sample("a.png", np.zeros((size[1], size[0], 3), np.uint8), objects=objects, **more)


def boxed(*polygons: np.ndarray, **more) -> Object:
    return Object(0, outline.hull(polygons), polygons=polygons, **more)


def box(*corners: float, **more) -> Object:
    return Object(0, np.array(corners, np.float64), **more)


def at(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def turn(degrees: float, x: float, y: float) -> np.ndarray:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return at(x, y) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ at(-x, -y)


def assert_around(found: np.ndarray, pixels: np.ndarray, slack: float = 0.13) -> None:
    """A hull of pixels lies in that of their outline, and only tips between two centres stick out of it."""
    assert (found[:2] <= pixels[:2] + slack).all()
    assert (found[2:] >= pixels[2:] - slack).all()
    assert np.abs(found - pixels).max() < 6


# ---- outlines


def even_odd(x: float, y: float, polygon: np.ndarray) -> bool:
    inside = False
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
            inside = not inside
    return inside


@QUICK
@given(SEEDS)
def test_paint_asks_for_every_pixel_centre(seed):
    polygon = star(np.random.default_rng(seed), 7, 12) / 3
    expected = [[even_odd(x + 0.5, y + 0.5, polygon) for x in range(14)] for y in range(11)]
    assert (outline.paint([polygon], (14, 11)) == np.array(expected)).all()


@QUICK
@given(SEEDS)
def test_clipping_takes_nothing_from_the_inside_and_leaves_nothing_outside(seed):
    polygon = star(np.random.default_rng(seed))
    parts = outline.clip(polygon, FRAME)
    assert (outline.paint(parts, FRAME) == outline.paint([polygon], FRAME)).all()
    fine = outline.paint([polygon * 8], (FRAME[0] * 8, FRAME[1] * 8))
    assert abs(outline.area(parts) - fine.sum() / 64) < 2.5
    for part in parts:
        assert ((part >= 0) & (part <= FRAME)).all()
        assert (outline.signed_area(part) > 0) == (outline.signed_area(polygon) > 0)


def test_a_comb_falls_into_its_teeth():
    teeth = [(x + dx, y) for x in (22, 12, 2) for dx, y in ((4, -5), (4, 20), (0, 20), (0, -5))]
    comb = np.array([(0, -10), (30, -10), *teeth], np.float64)  # its back is above the frame
    parts = outline.clip(comb, FRAME)
    assert sorted(outline.hull([part]).tolist() for part in parts) == [[x, 0, x + 4, 20] for x in (2, 12, 22)]
    assert (outline.paint(parts, FRAME) == outline.paint([comb], FRAME)).all()


def test_polygons_that_cross_or_touch_themselves_keep_their_area():
    eight = np.array([(-5, 5), (15, 25), (15, 5), (-5, 25)], np.float64)
    parts = outline.clip(eight, FRAME)
    assert (outline.paint(parts, FRAME) == outline.paint([eight], FRAME)).all()
    bridge = np.array(
        [(-5, 5), (8, 5), (8, 9), (8, 20), (20, 20), (20, 28), (-5, 28), (-5, 20), (8, 20), (8, 9), (-5, 9)]
    )
    parts = outline.clip(bridge.astype(np.float64), FRAME)
    assert outline.area(parts) == pytest.approx(8 * 4 + 20 * 8)


@pytest.mark.parametrize("polygon", [[(-5, -5), (-1, -9), (-2, 3)], [(-5, 5), (50, 5)], [(-3, 2)]])
def test_what_has_no_area_inside_vanishes(polygon):
    assert outline.clip(np.array(polygon, np.float64), FRAME) == ()


def test_what_touches_the_edge_from_inside_stays_to_the_last_bit():
    polygon = np.array([(0, 0), (40, 0), (40, 30), (17, 30), (0, 12.3)], np.float64)
    assert outline.clip(polygon, FRAME)[0] is polygon


@QUICK
@given(SEEDS)
def test_hull_of_an_ellipse_is_that_of_its_points(seed):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 20, 2)
    matrix = either(rng) @ outline.span(np.concatenate([corner, corner + rng.uniform(0.5, 15, 2)]))
    points = outline.move_points(outline.disc(20000), matrix)
    assert outline.hull_of_circle(matrix) == pytest.approx(outline.hull([points]), abs=1e-3)


def test_an_ellipse_far_from_the_origin_keeps_its_digits():
    matrix = at(1e6, 2e6) @ turn(30, 0, 0) @ np.diag([0.01, 0.01, 1])
    found = outline.hull_of_circle(matrix)
    assert found[2:] - found[:2] == pytest.approx([0.02, 0.02], rel=1e-6)


def test_an_ellipse_that_reaches_the_horizon_has_no_hull():
    assert outline.hull_of_circle(np.array([[1, 0, 0], [0, 1, 0], [0.8, 0.8, 1.0]])) is None


@QUICK
@given(SEEDS)
def test_smallest_rectangle_is_the_smallest_of_all_angles(seed):
    rng = np.random.default_rng(seed)
    points = cv2.convexHull(rng.uniform(0, 30, (9, 2)).astype(np.float32))[:, 0].astype(np.float64)
    like = outline.corners(np.array([0, 0, 30, 30.0]))[:: int(rng.choice([1, -1]))]
    found = outline.smallest_rectangle(points, like)
    best = min(
        np.prod(np.ptp(points @ np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]), axis=0))
        for a in np.linspace(0, math.pi / 2, 2000)
    )
    assert outline.area([found]) == pytest.approx(best, rel=0.01)
    assert outline.area([found]) <= best + 1e-6
    sides = np.roll(found, -1, axis=0) - found
    assert abs((sides * np.roll(sides, -1, axis=0)).sum(axis=1)).max() < 1e-6
    assert (outline.signed_area(found) > 0) == (outline.signed_area(like) > 0)
    for point in points:  # on the right side of every edge
        cross = sides[:, 0] * (point[1] - found[:, 1]) - sides[:, 1] * (point[0] - found[:, 0])
        assert (cross * np.sign(outline.signed_area(found)) > -1e-6).all()


def test_a_polygon_behind_the_horizon_loses_what_is_behind():
    matrix = np.array([[1, 0, 0], [0, 1, 0], [-0.1, 0, 1.0]])  # nothing is seen from x = 10 on
    (part,) = outline.move_polygon(np.array([(0, 0), (20, 0), (20, 8), (0, 8.0)]), matrix)
    assert outline.hull([part])[0] == 0
    assert part[:, 0].max() > 1e5
    assert outline.move_polygon(np.array([(12, 0), (20, 0), (20, 8.0)]), matrix) == ()


# ---- moving


@pytest.mark.parametrize("method", labels.BOX_METHODS)
@pytest.mark.parametrize("maker", [random_affine, random_perspective])
@QUICK
@given(SEEDS)
def test_there_and_back_is_within_half_a_pixel(method, maker, seed):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(2, 15, 2)
    shape = (star(rng, 8, 6) - [20, 15]) * 0.4 + [20, 15]
    shape = np.clip(shape, 1, [39, 29])
    points = np.column_stack([rng.uniform(1, 28, (5, 2)), [2, 1, 2, 2, 1]])
    before = sample(Object(0, np.concatenate([corner, corner + rng.uniform(2, 14, 2)])), boxed(shape, keypoints=points))
    there = at(300, 300) @ maker(rng)
    there = there / there[2, 2]
    rules = Rules(box_method=method)
    moved = warp.move(before, there, (640, 640), border="constant", rules=rules)
    assert (moved.kept, moved.changes) == ((0, 1), ())
    after = warp.move(moved.sample, np.linalg.inv(there), FRAME, border="constant", rules=rules).sample
    for old, new in zip(before.objects, after.objects, strict=True):
        assert np.abs(old.box - new.box).max() < 1e-4
        assert new.visible == 1
    assert np.abs(after.objects[1].polygons[0] - shape).max() < 1e-4
    assert np.abs(after.objects[1].keypoints - points).max() < 1e-4


CHAINED = [
    "rotate 25",
    "shear 15",
    "perspective 0.1",
    "scale 0.3",
    "flip p=1",
    "rot90 p=1",
    "resize 90 height=70",
    "pad 0.3",
]


@QUICK
@given(SEEDS)
def test_a_box_after_a_chain_is_that_of_the_one_matrix(seed):
    """As long as nothing is cut: a box alone does not grow from op to op."""
    rng = np.random.default_rng(seed)
    one = box(60, 50, 60 + rng.uniform(5, 30), 50 + rng.uniform(5, 30))
    chain = [OPS.parse(CHAINED[i]) for i in rng.permutation(len(CHAINED))[:4]]
    out, whole = sample(one, size=(160, 120)), np.eye(3)
    for op in chain:
        params = op.sample(rng, out)
        matrix, _ = op.matrix(params, out.size)
        applied = apply(op, params, out)
        out, whole = applied.sample, matrix @ whole
        if applied.changes:
            return
    at_once = warp.move(sample(one, size=(160, 120)), whole, out.size, border="constant").sample
    assert out.objects[0].box == pytest.approx(at_once.objects[0].box, abs=1e-3)


@QUICK
@given(SEEDS)
def test_share_and_box_of_a_polygon_are_those_of_its_pixels(seed):
    rng = np.random.default_rng(seed)
    shape = star(rng, 9, 14)
    matrix = either(rng)
    applied = warp.move(sample(boxed(shape)), matrix, FRAME, rules=Rules(min_visibility=0))
    wide = at(200, 200) @ matrix
    (seen,) = outline.move_polygon(shape, wide)
    dense = outline.paint([seen * 4], (440 * 4, 430 * 4))
    frame = dense[200 * 4 : 230 * 4, 200 * 4 : 240 * 4]
    if dense.sum() < 400 or not frame.any():
        return
    share = frame.sum() / dense.sum()
    (one,) = applied.sample.objects
    assert one.visible == pytest.approx(share, abs=0.02)
    assert_around(one.box, outline.hull_of_pixels(frame) / 4)
    assert applied.changes == () if share > 0.999 else one.visible < 1


@QUICK
@given(SEEDS)
def test_share_of_a_region_is_that_of_its_polygon(seed):
    rng = np.random.default_rng(seed)
    shape = np.clip(star(rng, 9, 14), 0, FRAME)
    region = outline.paint([shape], FRAME)
    if region.sum() < 60:
        return
    matrix = random_affine(rng)
    both = sample(boxed(shape), Object(1, outline.hull([shape]), region=region))
    found = {one.number: one for one in warp.move(both, matrix, FRAME, rules=Rules(min_visibility=0)).sample.objects}
    share = found[0].visible if 0 in found else 0.0
    assert (found[1].visible if 1 in found else 0.0) == pytest.approx(share, abs=0.12)
    if 1 in found:
        assert (found[1].box == outline.hull_of_pixels(found[1].region)).all() or found[1].visible == 1
        # What a reflecting border shows again is no object.
        places = np.argwhere(found[1].region)[:, ::-1] + 0.5
        back = outline.move_points(places, np.linalg.inv(matrix))
        assert ((back > -0.6) & (back < np.array(FRAME) + 0.6)).all()


def test_boxes_alone():
    one = box(10, 10, 20, 14)
    quarter = warp.move(sample(one), np.array([[0, -1, 30], [1, 0, 0], [0, 0, 1.0]]), (30, 40)).sample.objects[0]
    assert quarter.box.tolist() == [16, 10, 20, 20]
    half = turn(45, 15, 12)
    for method, wide in (("ellipse", math.hypot(5, 2)), ("corners", 7)):
        found = warp.move(sample(one), half, FRAME, rules=Rules(box_method=method)).sample.objects[0].box
        side = wide * math.sqrt(0.5)
        assert found == pytest.approx([15 - side, 12 - side, 15 + side, 12 + side])


def test_a_box_from_its_polygon_is_tighter_than_one_from_its_corners():
    diamond = np.array([(20, 5), (30, 15), (20, 25), (10, 15)], np.float64)
    turned = warp.move(sample(boxed(diamond)), turn(45, 20, 15), FRAME).sample.objects[0]
    side = 10 * math.sqrt(0.5)
    assert turned.box == pytest.approx([20 - side, 15 - side, 20 + side, 15 + side])


def test_little_is_dropped_and_reported():
    objects = (box(0, 0, 10, 10), box(0, 0, 10, 10, crowd=True), box(20, 10, 30, 20), box(-6, 0, 4, 10))
    left = warp.move(sample(*objects), at(-9.5, 0), FRAME)
    assert [(change.index, change.what) for change in left.changes] == [
        (0, "dropped: 0.05 visible"),
        (1, "clipped 0.05"),
        (3, "dropped: 0.00 visible"),
    ]
    assert left.kept == (1, 2)
    assert left.sample.objects[0].box.tolist() == [0, 0, 0.5, 10]
    assert left.sample.objects[0].crowd
    gone = warp.move(sample(*objects), at(-10, 0), FRAME)
    assert gone.kept == (2,)
    assert len(warp.move(sample(*objects), at(-9.5, 0), FRAME, rules=Rules(min_visibility=0)).kept) == 3


def test_visibility_counts_from_the_source_through_a_chain():
    one = sample(box(0, 0, 40, 20))
    for expected in (0.5, 0.25, 0.125):
        one = warp.move(one, at(-one.objects[0].box[2] / 2, 0), FRAME).sample
        assert one.objects[0].visible == expected
    assert warp.move(one, at(-2.5, 0), FRAME).changes[0].what == "dropped: 0.06 visible"


def test_a_box_without_area_goes_with_its_middle():
    point = box(10, 10, 10, 10, keypoints=np.array([[10, 10, 2.0]]))
    assert warp.move(sample(point), at(5, 5), FRAME).sample.objects[0].box.tolist() == [15, 15, 15, 15]
    assert warp.move(sample(point), at(-11, 0), FRAME).kept == ()


def test_what_is_lost_between_two_pixels_is_dropped():
    region = np.zeros((30, 40), bool)
    region[10, 10] = True
    out = warp.move(sample(Object(0, np.array([10, 10, 11, 11.0]), region=region)), np.diag([1 / 8, 1 / 8, 1]), (5, 4))
    assert out.kept == ()


def test_parts_of_an_object_go_with_it():
    person = box(0, 0, 20, 20, extra={"pose": "Left", "parts": (box(2, 2, 6, 6), box(14, 2, 18, 6))})
    moved = warp.move(sample(person), at(-10, 5), FRAME).sample.objects[0]
    assert moved.extra["pose"] == "Left"
    assert [part.box.tolist() for part in moved.extra["parts"]] == [[4, 7, 8, 11]]
    (placed,) = labels.shift([person], 5, 3, FRAME)
    assert placed.extra["parts"][1].box.tolist() == [19, 5, 23, 9]
    covered = np.zeros((30, 40), bool)
    covered[:, :10] = True
    left = labels.cover([person], covered, Rules(), trim=True).objects[0]
    assert [part.box.tolist() for part in left.extra["parts"]] == [[14, 2, 18, 6]]


def test_keypoints_outside_are_zeroed_and_sides_swap_in_a_mirror():
    points = np.array([[5, 5, 2], [35, 5, 2], [20, 20, 1], [0, 0, 0.0]])
    one = box(2, 2, 38, 28, keypoints=points)
    rules = Rules(flip_index=(1, 0, 2, 3), min_visibility=0)
    moved = warp.move(sample(one), at(-10, 0), FRAME, rules=rules)
    assert moved.sample.objects[0].keypoints.tolist() == [[0, 0, 0], [25, 5, 2], [10, 20, 1], [0, 0, 0]]
    assert moved.changes[0].what == "clipped 0.78, 1 keypoint outside"
    flipped = apply(OPS.parse("flip"), {}, sample(one), rules=rules).sample.objects[0]
    assert flipped.keypoints.tolist() == [[5, 5, 2], [35, 5, 2], [20, 20, 1], [0, 0, 0]]
    upside = apply(OPS.parse("vflip"), {}, sample(one), rules=rules).sample.objects[0]
    assert upside.keypoints.tolist() == [[35, 25, 2], [5, 25, 2], [20, 10, 1], [0, 0, 0]]
    turned = apply(OPS.parse("rot90"), {"turns": 2}, sample(one), rules=rules).sample.objects[0]
    assert turned.keypoints[0].tolist() == [35, 25, 2]
    plain = apply(OPS.parse("flip"), {}, sample(one)).sample.objects[0]
    assert plain.keypoints[0].tolist() == [35, 5, 2]


def test_rules_that_cannot_be_are_refused():
    one = sample(box(2, 2, 38, 28, keypoints=np.zeros((3, 3))))
    with pytest.raises(EdgekitError, match="an object has 3 keypoints and the flip index 2 entries"):
        apply(OPS.parse("flip"), {}, one, rules=Rules(flip_index=(1, 0)))
    with pytest.raises(EdgekitError, match="does not swap keypoints in pairs"):
        Rules(flip_index=(1, 2, 0))
    with pytest.raises(EdgekitError, match="hull is not one of"):
        Rules(box_method="hull")
    with pytest.raises(EdgekitError, match="not a share"):
        Rules(min_visibility=2)
    masked = sample(mask=np.zeros((30, 40), np.uint8))
    with pytest.raises(EdgekitError, match="300, the value of what is outside"):
        warp.move(masked, at(1, 1), FRAME, rules=Rules(outside=300))


TURNED = np.array([(12, 10), (24, 4), (28, 12), (16, 18)], np.float64)


@QUICK
@given(SEEDS)
def test_oriented_boxes_stay_rectangles(seed):
    rng = np.random.default_rng(seed)
    matrix = either(rng)
    out = warp.move(sample(boxed(TURNED, oriented=True)), matrix, FRAME).sample.objects
    if not out:
        return
    (found,) = out[0].polygons
    sides = np.roll(found, -1, axis=0) - found
    assert abs((sides * np.roll(sides, -1, axis=0)).sum(axis=1)).max() < 1e-6
    whole = outline.move_points(TURNED, matrix)
    assert (outline.signed_area(found) > 0) == (outline.signed_area(whole) > 0)
    inside = outline.paint([whole], FRAME)
    assert not (inside & ~outline.paint([found], FRAME)).sum() > 2


STICKING_OUT = np.array([[30.0, 2], [44, 10], [36, 24], [22, 16]])


@pytest.mark.parametrize("turn", [((-1, 0, 40), (0, 1, 0)), ((0, 1, 0), (-1, 0, 40)), ((2, 0, 0), (0, 2, 0))])
def test_a_turned_box_that_sticks_out_of_its_source_is_not_cut_by_a_move_that_keeps_the_frame(turn):
    matrix = np.array([*turn, (0, 0, 1)], np.float64)
    size = tuple(int(side) for side in np.abs(matrix[:2, :2]) @ np.array(FRAME))
    source = sample(boxed(STICKING_OUT, oriented=True))
    out = warp.move(source, matrix, size)
    (one,) = out.sample.objects
    assert (one.visible, out.changes) == (1, ())
    assert one.polygons[0] == pytest.approx(STICKING_OUT @ matrix[:2, :2].T + matrix[:2, 2])
    back = warp.move(out.sample, np.linalg.inv(matrix), FRAME).sample.objects[0]
    assert back.polygons[0] == pytest.approx(STICKING_OUT)


def test_a_turned_box_that_sticks_out_is_cut_by_the_share_of_what_was_shown():
    shown = outline.area(outline.clip(STICKING_OUT, FRAME))
    left = outline.area(outline.clip(STICKING_OUT - [0, 12], FRAME))
    cut = warp.move(sample(boxed(STICKING_OUT, oriented=True)), at(0, -12), FRAME).sample.objects[0]
    assert cut.visible == pytest.approx(left / shown)


def test_oriented_boxes_are_moved_exactly_by_similarities():
    matrix = turn(33, 20, 15) @ np.diag([0.7, 0.7, 1])
    out = warp.move(sample(boxed(TURNED, oriented=True)), matrix, FRAME).sample.objects[0]
    assert np.allclose(out.polygons[0], outline.move_points(TURNED, matrix))
    cut = warp.move(sample(boxed(TURNED, oriented=True)), at(-20, 0), FRAME).sample.objects[0]
    assert cut.polygons[0].shape == (4, 2)
    assert cut.box.tolist() == [0, 4, 8, 16]


def test_masks_follow_the_picture_or_show_what_is_outside():
    mask = np.full((30, 40), 3, np.int64)
    for border in warp.BORDERS:
        shown = warp.move(sample(mask=mask), turn(30, 20, 15), FRAME, border=border).sample.mask
        assert set(np.unique(shown)) == ({0, 3} if border == "constant" else {3})
        ignored = warp.move(sample(mask=mask), turn(30, 20, 15), FRAME, border=border, rules=Rules(outside=-7))
        assert set(np.unique(ignored.sample.mask)) == {-7, 3}
    padded = apply(OPS.parse("pad 0.5"), {}, sample(mask=mask), rules=Rules(outside=255)).sample.mask
    assert (padded == 255).sum() == padded.size - mask.size


# ---- covering


@QUICK
@given(SEEDS)
def test_covered_objects_shrink_to_what_is_seen(seed):
    rng = np.random.default_rng(seed)
    shape = np.clip(star(rng, 9, 14), 0, FRAME)
    one = boxed(shape, keypoints=np.array([[20, 15, 2], [3, 3, 1.0]]))
    covered = np.zeros((30, 40), bool)
    x, y = rng.integers(0, 30), rng.integers(0, 20)
    covered[y : y + 10, x : x + 15] = True
    pixels = outline.paint([shape], FRAME)
    if pixels.sum() < 60:
        return
    share = (pixels & ~covered).sum() / pixels.sum()
    for trim in (False, True):
        out = labels.cover([one], covered, Rules(), trim=trim)
        if share < 0.1:
            assert out.kept == ()
            continue
        (seen,) = out.objects
        assert seen.visible == pytest.approx(share)
        assert seen.keypoints[:, 2].tolist() == [1 if covered[15, 20] else 2, 1]
        if trim and share < 1:
            assert (seen.region == (pixels & ~covered)).all()
            assert_around(seen.box, outline.hull_of_pixels(seen.region), 0.5)
            assert seen.polygons == ()
        else:
            assert seen.polygons == (shape,)
            assert (seen.box == one.box).all()


def test_covered_boxes_end_where_the_cover_begins():
    covered = np.zeros((30, 40), bool)
    covered[:, 20:] = True
    cut = labels.cover([box(10.3, 5.2, 30.7, 15.6), box(25, 5, 35, 10)], covered, Rules(), trim=True)
    assert cut.objects[0].box.tolist() == [10.3, 5.2, 20, 15.6]
    assert [change.what for change in cut.changes] == ["covered 0.48", "dropped: 0.00 visible"]
    speck = labels.cover([box(10.6, 5.6, 10.8, 5.9), box(22.6, 5.6, 22.8, 5.9)], covered, Rules(), trim=True)
    assert speck.kept == (0,)


def test_cutout_drops_what_it_hides_and_hides_keypoints():
    op = OPS.parse("cutout 0.5")
    hidden = box(0, 0, 14, 14, keypoints=np.array([[5, 5, 2.0]]))
    seen = box(0, 0, 30, 15, keypoints=np.array([[5, 5, 2], [20, 5, 2.0]]))
    out = apply(op, {"places": [[0.0, 0.0]]}, sample(hidden, seen))
    assert out.kept == (1,)
    assert out.sample.objects[0].keypoints[:, 2].tolist() == [1, 2]
    assert out.sample.objects[0].box.tolist() == [0, 0, 30, 15]
    assert [change.what for change in out.changes] == ["dropped: 0.00 visible", "covered 0.50, 1 keypoint hidden"]


def test_an_extent_is_what_the_label_spans():
    covered = np.zeros((30, 40), bool)
    covered[:, 20:] = True
    one = box(10, 5, 30, 15)
    (noisy,) = labels.cover([one], covered, Rules(), trim=False).objects
    (behind,) = labels.cover([one], covered, Rules(), trim=True).objects
    cut = warp.move(sample(one), at(-20, 0), FRAME).sample.objects[0]
    assert [(found.visible, found.extent) for found in (noisy, behind, cut)] == [(0.5, 1), (0.5, 0.5), (0.5, 0.5)]


# ---- the whole chain


def test_rows_say_what_became_of_the_objects_of_the_source():
    ops = tuple(OPS.parse(text) for text in ("translate 1", "cutout 1 p=0", "flip p=1"))
    one = sample(box(0, 0, 4, 4), box(0, 0, 40, 30), box(36, 26, 40, 30))
    variant = next(v for v in (draw(Recipe(ops), one, n) for n in range(1, 50)) if 0 < len(v.changes) < 3)
    rows = {row["object"]: row["what"] for row in variant.changes}
    kept = [index for index in range(3) if not rows.get(index, "").startswith("dropped")]
    assert len(variant.sample.objects) == len(kept)
    assert all(set(row) == {"object", "what"} for row in variant.changes)
    strict = draw(Recipe((OPS.parse("translate 1"),), rules=Rules(min_visibility=1)), one, 1).sample
    assert all(one.visible == 1 for one in strict.objects)


def test_rules_stand_in_the_stamp_when_they_are_not_the_usual_ones():
    assert "labels" not in Recipe(()).to_dict()
    rules = Rules(min_visibility=0.3, flip_index=(1, 0))
    assert Recipe((), rules=rules).to_dict()["labels"]["flip_index"] == [1, 0]
