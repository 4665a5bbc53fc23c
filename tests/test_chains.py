"""Labels through chains of every geometric op there is: there and back, inside the frame, and as their masks say."""

from __future__ import annotations

import itertools
from dataclasses import replace

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.augment import labels, warp
from edgekit.augment.labels import Rules
from edgekit.augment.op import OPS, Op, apply
from edgekit.data import outline
from edgekit.data.sample import Object, Sample

QUICK = settings(max_examples=40, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.one_of(
    st.sampled_from([(1, 1), (1, 9), (7, 5), (2, 2)]), st.tuples(st.integers(1, 150), st.integers(1, 110))
)
METHODS = st.sampled_from(labels.BOX_METHODS)

PICTURES = 10
FLIP = (0, 2, 1)
MATRIX = [cls.spec_name() for cls in OPS if cls.matrix is not Op.matrix]
FIELD = [cls.spec_name() for cls in OPS if cls.field is not Op.field]
ALONE = [cls.spec_name() for cls in OPS if not cls.partners]


def scene(rng: np.random.Generator, size: tuple[int, int]) -> Sample:
    """One object of each kind that there is, anywhere in the picture."""
    scale = np.array(size, np.float64)

    def box() -> np.ndarray:
        low = rng.uniform(0, 0.8, 2)
        return np.concatenate([low, low + rng.uniform(0.1, 0.2, 2)]) * np.tile(scale, 2)

    def shape(count: int = 9) -> np.ndarray:
        angles = np.sort(rng.uniform(0, 2 * np.pi, count))
        radii = rng.uniform(0.3, 1, (count, 1))
        around = outline.span(box())
        return outline.move_points(radii * np.column_stack([np.cos(angles), np.sin(angles)]), around)

    def with_hole() -> np.ndarray:
        outer = outline.corners(box())
        inner = outer.mean(axis=0) + 0.4 * (outer - outer.mean(axis=0))
        return outline.join([outer, inner[::-1]])

    def outlined(*parts: np.ndarray, **more) -> Object:
        return Object(1, outline.hull(parts), tuple(parts), **more)

    points = np.column_stack([rng.uniform(0, 1, (3, 2)) * scale, [2, 1, 2]])
    points[rng.integers(3)] = 0
    half, angle = rng.uniform(0.05, 0.1, 2) * scale.min(), rng.uniform(0, np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned = np.clip(scale / 2 + (np.array(outline.SQUARE) * half) @ turn.T, 0, scale)
    region = outline.paint([shape(20)], size)
    region[tuple(rng.integers(0, size[::-1]))] = True
    objects = (
        Object(0, box()),
        outlined(shape()),
        outlined(shape(), shape()),
        outlined(with_hole()),
        outlined(turned, oriented=True),
        outlined(shape(), keypoints=points),
        outlined(shape(), crowd=True),
        Object(2, outline.hull_of_pixels(region), region=region),
        Object(2, outline.hull_of_pixels(region), region=region, crowd=True),
    )
    values = rng.choice(np.array([0, 3, 7, 255], np.uint8), size[::-1])
    image = rng.integers(0, 256, (size[1], size[0], 1), np.uint8)
    return Sample("x.png", image, mask=values, objects=objects)


def chain(names: list[str], rng: np.random.Generator, length: int) -> list[Op]:
    return [OPS.parse(f"{name} p=1") for name in rng.choice(names, length)]


@QUICK
@given(SEEDS, SIZES, METHODS)
def test_a_chain_and_its_inverse_bring_labels_back(seed, size, method):
    """What stays whole comes back; of what is cut, the points that are left.

    Turned boxes come back from maps that keep right angles; others put the smallest rectangle around what they become.
    """
    rng = np.random.default_rng(seed)
    rules = Rules(min_visibility=0, box_method=method, flip_index=FLIP)
    before = now = scene(rng, size)
    places, back, rigid = list(range(len(before.objects))), [], True
    for op in chain(MATRIX, rng, 3):
        params = op.sample(rng, now)
        moved = op.matrix(params, now.size)
        if moved is None:
            continue
        matrix, _ = moved
        back.append((np.linalg.inv(matrix), now.size))
        stretch = np.linalg.svd(matrix[:2, :2])[1]
        rigid = rigid and not matrix[2, :2].any() and stretch[0] - stretch[1] < 1e-6 * stretch[0]
        applied = apply(op, params, now, rules=rules)
        now, places = applied.sample, [places[i] for i in applied.kept]
    for inverse, frame in reversed(back):
        applied = warp.move(now, inverse, frame, border="constant", rules=rules)
        now, places = applied.sample, [places[i] for i in applied.kept]
    assert now.size == size
    limit = 1e-3 * max(1, max(size) / 100)
    for one, place in zip(now.objects, places, strict=True):
        old = before.objects[place]
        if one.keypoints is not None:
            left = one.keypoints[:, 2] > 0
            assert np.abs(one.keypoints - old.keypoints)[left].max(initial=0) < limit
        if one.visible < 1:
            continue
        if old.region is None and (rigid or not one.oriented):
            assert np.abs(one.box - old.box).max() < limit
            for part, again in zip(old.polygons, one.polygons, strict=True):
                assert np.abs(part - again).max() < limit


@QUICK
@given(SEEDS, SIZES, METHODS)
def test_whatever_is_done_labels_fit_the_picture(seed, size, method):
    rng = np.random.default_rng(seed)
    rules = Rules(min_visibility=0, box_method=method, flip_index=FLIP)
    before = now = scene(rng, size)
    for op in chain(ALONE, rng, 3):
        params = op.sample(rng, now)
        applied = apply(op, params, now, rules=rules)
        assert list(applied.kept) == sorted(set(applied.kept))
        now = applied.sample
    limits = np.array(now.size, np.float64)
    assert set(np.unique(now.mask)) <= set(np.unique(before.mask)) | {0}
    assert now.mask.shape == now.image.shape[:2]
    for one in now.objects:
        assert 0 < one.visible <= 1
        assert (one.box >= 0).all()
        assert (one.box <= np.tile(limits, 2)).all()
        assert (one.box[:2] <= one.box[2:]).all()
        for part in one.polygons:
            assert np.isfinite(part).all()
            assert one.oriented or ((part >= 0) & (part <= limits)).all()
        if one.polygons and not one.oriented:
            assert np.abs(outline.hull(one.polygons) - one.box).max() < 1e-3
        if one.oriented:
            assert [part.shape for part in one.polygons] == [(4, 2)]
        if one.region is not None:
            assert one.region.shape == now.image.shape[:2]
            assert one.region.any()
        if one.keypoints is not None:
            assert ((one.keypoints[:, :2] >= 0) & (one.keypoints[:, :2] <= limits)).all()
            assert not one.keypoints[one.keypoints[:, 2] == 0].any()


def pieces(assets):
    """Real pictures with an object, as polygons and as a region, for each large connected piece of a mask."""
    folder = assets / "images" / "coco_val64" / "masks_semantic"
    for path in sorted(folder.iterdir()):
        mask = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
        objects = []
        for label in np.unique(mask):
            count, found, stats, _ = cv2.connectedComponentsWithStats((mask == label).astype(np.uint8))
            for piece in range(1, count):
                if stats[piece, cv2.CC_STAT_AREA] > 2500:
                    region = found == piece
                    doubled = np.kron(region, np.ones((2, 2), np.uint8))
                    contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
                    parts = tuple(one[:, 0].astype(np.float64) / 2 + 0.25 for one in contours if len(one) > 2)
                    tight = outline.hull_of_pixels(region)
                    objects += [Object(0, tight, polygons=parts), Object(1, tight, region=region)]
        if objects:
            yield Sample(path.name, np.zeros((*mask.shape, 1), np.uint8), mask=mask, objects=tuple(objects))


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    both = np.prod(np.maximum(high - low, 0))
    return float(both / (np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - both))


def test_boxes_agree_with_masks_over_chains_of_all_geometry_on_real_outlines(assets):
    worst, compared, used = 1.0, 0, set()
    for number, given_scene in enumerate(itertools.islice(pieces(assets), PICTURES)):
        rng = np.random.default_rng(number)
        names = rng.choice([*MATRIX, *FIELD], 3, replace=False).tolist()
        # Every object's mask of its own, moved by nearest pixels only.
        out, places = given_scene, list(range(len(given_scene.objects)))
        alone = [replace(out, objects=(), mask=one.region.astype(np.uint8)) for one in out.objects[1::2]]
        for name in names:
            op = OPS.parse(f"{name} p=1")
            params = op.sample(rng, out)
            applied = apply(op, params, out)
            out, places = applied.sample, [places[i] for i in applied.kept]
            if hasattr(op, "border") and op.border != "constant":
                op = replace(op, border="constant")
            alone = [apply(op, params, each).sample for each in alone]
        used |= set(names)
        assert set(np.unique(out.mask)) <= set(np.unique(given_scene.mask)) | {0}
        for one, place in zip(out.objects, places, strict=True):
            seen = outline.hull_of_pixels(alone[place // 2].mask > 0)
            if seen is None or (seen[2:] - seen[:2]).min() < 24:
                continue
            worst, compared = min(worst, overlap(one.box, seen)), compared + 1
    assert compared > 20
    assert len(used) > len(MATRIX) / 2
    assert worst >= 0.9, worst
