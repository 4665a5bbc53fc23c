"""Policies: the spaces of the papers, labels that follow, parameters that say all."""

from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
import pytest

from edgekit.augment.op import OPS, Op, apply
from edgekit.augment.policy import GEOMETRIC, RAND, TRIVIAL
from edgekit.augment.variants import Recipe, draw
from edgekit.data.sample import Object, Sample

MOVING = {"rotate", "shear", "translate"}


def photo(width: int = 60, height: int = 40, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels)).astype(np.uint8)


def chosen(op: Op, sample: Sample, count: int) -> list[dict]:
    rng = np.random.default_rng(0)
    return [row for _ in range(count) for row in op.sample(rng, sample)["ops"]]


def kind(row: dict) -> str:
    """Name a row as the spaces do."""
    along = "x" if row["params"].get("x") else "y"
    return {"shear": f"shear-{along}", "translate": f"move-{along}"}.get(row["name"], row["name"])


@pytest.mark.parametrize(("text", "space"), [("trivial-augment", TRIVIAL), ("rand-augment 9 count=1", RAND)])
def test_every_op_of_the_space_is_as_likely(text, space):
    rows = chosen(OPS.parse(text), Sample("x", photo(600, 400)), 7000)
    counts = Counter(kind(row) for row in rows)
    assert counts.keys() == space.keys() - {"identity"}
    # At magnitude 0 a shear or a move along x looks like one along y.
    assert all(400 < count < 600 for count in counts.values())
    assert 6300 < len(rows) < 6700  # the rest did nothing


# What torchvision's TrivialAugmentWide and RandAugment reach: largest absolute value of a parameter.
REACH = [
    ("trivial-augment", {"shear": ("x", math.degrees(math.atan(0.99))), "translate": ("x", 32 / 300),
                         "rotate": ("degrees", 135), "posterize": ("bits", 8)}),
    ("rand-augment 30", {"shear": ("x", math.degrees(math.atan(0.3))), "translate": ("y", 150 / 331),
                         "rotate": ("degrees", 30), "posterize": ("bits", 4)}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "reach"), REACH, ids=[text for text, _ in REACH])
def test_magnitudes_reach_as_far_as_in_the_paper(text, reach):
    rows = chosen(OPS.parse(text), Sample("x", photo(300, 200)), 4000)
    for name, (key, value) in reach.items():
        found = [row["params"][key] for row in rows if row["name"] == name]
        assert abs(max(abs(one) for one in found) - value) < 1e-9
        if name != "posterize":
            assert min(found) < 0 < max(found)
    factors = [row["params"]["factor"] for row in rows if "factor" in row["params"]]
    limit = 0.99 if text == "trivial-augment" else 0.9
    assert (min(factors), max(factors)) == pytest.approx((1 - limit, 1 + limit))
    thresholds = [row["params"]["threshold"] for row in rows if row["name"] == "solarize"]
    assert min(thresholds) == pytest.approx(0)
    if text == "trivial-augment":
        assert max(thresholds) == 1
        assert {row["params"]["bits"] for row in rows if row["name"] == "posterize"} == set(range(2, 9))


def test_rand_augment_has_one_strength_and_as_many_ops_as_it_is_told():
    op, sample, rng = OPS.parse("rand-augment 15 count=3"), Sample("x", photo()), np.random.default_rng(0)
    draws = [op.sample(rng, sample)["ops"] for _ in range(500)]
    assert {len(one) for one in draws} <= {0, 1, 2, 3}
    rotations = {abs(row["params"]["degrees"]) for one in draws for row in one if row["name"] == "rotate"}
    assert rotations == {15.0}


@pytest.mark.parametrize("text", ["trivial-augment border=constant", "rand-augment 9 count=3 border=constant"])
def test_labels_follow_what_moves(text):
    """A dot is where its keypoint says, after whatever moved it."""
    op, checked = OPS.parse(text), 0
    width, height = 300, 200
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    for seed in range(150):
        rng = np.random.default_rng(seed)
        x, y = rng.uniform(0.35, 0.65) * width, rng.uniform(0.35, 0.65) * height
        blob = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 18)
        dot = Object(0, np.array([x - 6, y - 6, x + 6, y + 6]), keypoints=np.array([[x, y, 2]]))
        sample = Sample("x", np.rint(60000 * blob).astype(np.uint16)[..., None], objects=(dot,))
        params = op.sample(rng, sample)
        names = {row["name"] for row in params["ops"]}
        out = apply(op, json.loads(json.dumps(params)), sample).sample
        if not names or names - MOVING or not out.objects:
            continue
        found_x, found_y, seen = out.objects[0].keypoints[0]
        if seen == 0 or not (15 < found_x < width - 15 and 15 < found_y < height - 15):
            continue
        weights = out.image[..., 0].astype(np.float64)
        assert abs((weights * columns).sum() / weights.sum() - found_x) < 0.3
        assert abs((weights * rows).sum() / weights.sum() - found_y) < 0.3
        checked += 1
    assert checked >= 8


def test_positions_and_changes_count_through_the_source():
    boxes = [np.array([x, 10.0, x + 10, 30.0]) for x in (0.0, 20.0, 40.0)]
    sample = Sample("x", photo(), objects=tuple(Object(number, box) for number, box in enumerate(boxes)))
    fields = {"border": "constant", "fill": 0.0}
    left = {"name": "translate", "fields": fields, "params": {"x": -20 / 60, "y": 0.0}}
    params = {"ops": [left, {"name": "invert", "fields": {}, "params": {}}, left]}
    applied = apply(OPS.parse("rand-augment"), params, sample)
    assert applied.kept == (2,)
    assert [one.number for one in applied.sample.objects] == [2]
    assert [(change.index, change.what.split()[0]) for change in applied.changes] == [(0, "dropped:"), (1, "dropped:")]
    twice = apply(OPS.parse("translate border=constant"), left["params"], sample).sample
    twice = apply(OPS.parse("translate border=constant"), left["params"], twice).sample
    assert (applied.sample.image == 255 - np.where(np.arange(60)[:, None] < 20, twice.image, 255)).sum() > 0
    assert applied.sample.objects[0].box.tolist() == twice.objects[0].box.tolist()


def test_a_manifest_row_says_what_was_done():
    recipe = Recipe((OPS.parse("rand-augment 9 count=2"), OPS.parse("augmix")))
    variant = draw(recipe, Sample("x", photo()), 1)
    rows = json.loads(json.dumps(variant.ops))
    again = Sample("x", photo())
    for row in rows:
        again = apply(OPS.from_dict({"use": row["name"], **row["fields"]}), row["params"], again).sample
    assert (again.image == variant.sample.image).all()
    assert {row["name"] for row in rows[0]["params"]["ops"]} <= {cls.spec_name() for cls in OPS}


def test_augmix_moves_nothing_that_is_labelled():
    op = OPS.parse("augmix 10")
    bare, mask = Sample("x", photo()), Sample("x", photo(), mask=np.zeros((40, 60), np.uint8))
    boxed = Sample("x", photo(), objects=(Object(0, np.array([1.0, 1.0, 9.0, 9.0])),))
    names = {}
    for which, sample in (("bare", bare), ("mask", mask), ("boxed", boxed)):
        rng = np.random.default_rng(0)
        draws = [op.sample(rng, sample) for _ in range(100)]
        names[which] = {row["name"] for one in draws for chain in one["chains"] for row in chain}
        assert all(1 <= len(chain) <= 3 for one in draws for chain in one["chains"])
        assert all(sum(one["weights"]) == pytest.approx(1) for one in draws)
    assert names["bare"] >= MOVING
    assert not names["mask"] & MOVING
    assert not names["boxed"] & MOVING
    assert names["boxed"] == {"posterize", "solarize", "autocontrast", "equalize"}
    assert len(GEOMETRIC) == 5


def test_augmix_is_the_mean_that_it_says():
    image = photo(channels=4)
    chains = [
        [{"name": "invert", "fields": {}, "params": {}}],
        [{"name": "posterize", "fields": {}, "params": {"bits": 1}}],
    ]
    params = {"chains": chains, "weights": [0.25, 0.75], "share": 0.6}
    out = OPS.parse("augmix").pixels(image, params)
    colours = image[..., :3].astype(np.float64)
    expected = 0.4 * colours + 0.6 * (0.25 * (255 - colours) + 0.75 * (image[..., :3] & 128))
    assert np.abs(out[..., :3] - expected).max() <= 0.51
    assert (out[..., 3] == image[..., 3]).all()
