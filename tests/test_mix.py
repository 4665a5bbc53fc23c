"""Ops that take other pictures: labels come along, what is covered goes, and partners change as little as they can."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.augment.labels import USUAL, Rules
from edgekit.augment.mix import copy_paste, cutmix, mixup, mosaic
from edgekit.augment.op import Op, apply
from edgekit.augment.partners import choose, conform, conform_mask, digests, fit
from edgekit.augment.variants import Recipe, draw, variants
from edgekit.data import outline
from edgekit.data.sample import Object, Sample
from edgekit.errors import EdgekitError

MIXES = [mixup, cutmix, mosaic, copy_paste]
every_mix = pytest.mark.parametrize("cls", MIXES, ids=lambda cls: cls.spec_name())
KINDS = [(channels, dtype) for channels in (1, 3, 4) for dtype in (np.uint8, np.uint16)]
COLOURS = (40, 90, 140, 190)


def scene(number: int, size: tuple[int, int] = (64, 48), channels: int = 3, dtype: type = np.uint8) -> Sample:
    """A picture of one value with two brighter outlined objects, and a mask that says the same."""
    width, height = size
    full = np.iinfo(dtype).max // 255
    image = np.full((height, width, channels), COLOURS[number] * full, dtype)
    if channels == 4:
        image[..., 3] = np.iinfo(dtype).max
    mask = np.full((height, width), number + 1, np.uint8)
    diamond = np.array([[0.25, 0.1], [0.45, 0.4], [0.25, 0.7], [0.05, 0.4]]) * size
    ellipse = outline.paint([(outline.disc() * 0.2 + [0.7, 0.6]) * size], size)
    drawn = outline.paint([diamond], size)
    for pixels, value in ((drawn, 20), (ellipse, 40)):
        image[pixels, : min(3, channels)] += dtype(value * full)
        mask[pixels] = 100 + 10 * number + value // 20
    keypoints = np.array([[0.25 * width, 0.4 * height, 2], [0, 0, 0]])
    objects = [
        Object(10 * number, outline.hull([diamond]), polygons=(diamond,), keypoints=keypoints),
        Object(10 * number + 1, np.array([0.1, 0.1, 0.9, 0.9]) * [width, height, width, height]),
    ]
    if ellipse.any():
        objects.append(Object(10 * number + 2, outline.hull_of_pixels(ellipse), region=ellipse))
    sample = Sample(f"{number}.png", image, label="abcd"[number], mask=mask, objects=tuple(objects))
    for array in (image, mask, diamond, ellipse, keypoints, *(one.box for one in objects)):
        array.flags.writeable = False
    return sample


def partners(op: Op, **how) -> list[Sample]:
    sizes = [(90, 40), (30, 70), (64, 48)]
    return [scene(number + 1, sizes[number], **how) for number in range(op.partners)]


def mixed(op: Op, sample: Sample, others: list[Sample], seed: int = 0, rules: Rules = USUAL):
    params = op.sample(np.random.default_rng(seed), sample, others)
    return params, apply(op, params, sample, others, rules)


def arrays(sample: Sample) -> list[np.ndarray]:
    found = [sample.image, sample.mask]
    for one in sample.objects:
        found += [one.box, *one.polygons, *(a for a in (one.region, one.keypoints) if a is not None)]
    return found


# ---- the contract of every op, with partners


@every_mix
@pytest.mark.parametrize(("channels", "dtype"), KINDS)
def test_same_generator_gives_same_bytes_and_replay_is_exact(cls, channels, dtype):
    op = cls()
    for size in ((1, 1), (7, 5), (64, 48)):
        for seed in range(4):
            sample = scene(0, size, channels, dtype)
            params, once = mixed(op, sample, partners(op), seed)
            written = json.loads(json.dumps(params, allow_nan=False))
            assert written == params
            again = apply(cls.from_dict(json.loads(json.dumps(op.to_dict()))), written, sample, partners(op))
            assert (once.kept, once.changes) == (again.kept, again.changes)
            for one, other in zip(arrays(once.sample), arrays(again.sample), strict=True):
                assert one.tobytes() == other.tobytes()
            out = once.sample
            assert (out.image.shape, out.image.dtype) == (sample.image.shape, dtype)
            assert (out.mask.shape, out.mask.dtype) == (sample.mask.shape, np.uint8)
            assert (out.key, out.label) == ("0.png", "a")


@every_mix
def test_labels_fit_and_positions_count_through_all_pictures(cls):
    op = cls()
    for seed in range(40):
        sample, others = scene(0), partners(op)
        _, applied = mixed(op, sample, others, seed)
        every = [one for each in (sample, *others) for one in each.objects]
        assert len(set(applied.kept)) == len(applied.kept) == len(applied.sample.objects)
        for one, position in zip(applied.sample.objects, applied.kept, strict=True):
            assert one.number == every[position].number
            assert (one.box >= 0).all()
            assert (one.box <= [64, 48, 64, 48]).all()
            assert one.visible >= 0.1
            assert one.region is None or one.region.shape == (48, 64)
        dropped = {change.index for change in applied.changes if change.what.startswith("dropped")}
        assert not dropped & set(applied.kept)
        allowed = set(np.unique(np.concatenate([each.mask.ravel() for each in (sample, *others)])))
        assert set(np.unique(applied.sample.mask)) <= allowed


@every_mix
def test_without_enough_partners_it_says_so(cls):
    op = cls()
    with pytest.raises(EdgekitError, match=f"{cls.spec_name()} takes {op.partners} other picture"):
        apply(op, {}, scene(0))


@every_mix
@pytest.mark.parametrize(("channels", "dtype"), KINDS)
def test_partners_of_every_kind_take_part(cls, channels, dtype):
    op = cls()
    for kind, depth in KINDS:
        sample = scene(0, channels=kind, dtype=depth)
        _, applied = mixed(op, sample, partners(op, channels=channels, dtype=dtype), 1)
        assert (applied.sample.image.dtype, applied.sample.image.shape[2]) == (depth, kind)


@every_mix
def test_pictures_without_labels_or_masks(cls):
    op = cls()
    bare = [replace(each, objects=(), mask=None, label=None) for each in (scene(0), *partners(op))]
    _, applied = mixed(op, bare[0], bare[1:])
    assert (applied.sample.objects, applied.sample.mask, applied.sample.weights) == ((), None, {})
    _, applied = mixed(op, scene(0), bare[1:], rules=Rules(outside=255))
    assert set(np.unique(applied.sample.mask)) <= set(np.unique(scene(0).mask)) | {255}


@every_mix
def test_what_the_mask_shows_is_what_the_picture_shows(cls):
    """But for mixup, whose picture shows two things; and for the edges, which a scaled picture blends."""
    if cls is mixup:
        return
    values = {number + 1: COLOURS[number] for number in range(4)}
    values |= {100 + 10 * number + k: COLOURS[number] + 20 * k for number in range(4) for k in (1, 2)}
    table = np.zeros(256)
    for label, value in values.items():
        table[label] = value
    for seed in range(20):
        _, applied = mixed(cls(), scene(0), partners(cls()), seed)
        agree = np.abs(table[applied.sample.mask] - applied.sample.image[..., 0]) <= 1
        assert agree.mean() > 0.85
        # And every outlined object lies on pixels of its own label, wherever it was put.
        for one in applied.sample.objects:
            if one.polygons or one.region is not None:
                pixels = one.region if one.region is not None else outline.paint(one.polygons, (64, 48))
                label = 100 + one.number // 10 * 10 + (1 if one.number % 10 == 0 else 2)
                assert (applied.sample.mask[pixels] == label).mean() > 0.8


# ---- each op


def test_mixup_blends_pixels_objects_and_classes():
    params = {"weight": 0.75, "place": [0.5, 0.5]}
    applied = apply(mixup(), params, scene(0), [scene(1)])
    assert applied.sample.weights == {"a": 0.75, "b": 0.25}
    expected = 0.75 * scene(0).image + 0.25 * scene(1).image
    assert np.abs(applied.sample.image - expected).max() <= 0.5 + 1e-6
    assert applied.kept == (0, 1, 2, 3, 4, 5)
    assert (applied.sample.mask == scene(0).mask).all()
    faint = apply(mixup(), params | {"weight": 0.95}, scene(0), [scene(1)])
    assert faint.kept == (0, 1, 2)
    assert [change.what for change in faint.changes] == ["dropped: 0.05 visible"] * 3


def test_mixup_keeps_at_least_half_of_its_own():
    op, sample, rng = mixup(alpha=1.0), scene(0), np.random.default_rng(0)
    weights = np.array([op.sample(rng, sample)["weight"] for _ in range(2000)])
    assert weights.min() >= 0.5
    assert abs(weights.mean() - 0.75) < 0.01  # of the uniform distribution, folded


def test_mixtures_of_mixtures_add_up():
    one = apply(mixup(), {"weight": 0.75, "place": [0, 0]}, scene(0), [scene(1)]).sample
    two = apply(mixup(), {"weight": 0.5, "place": [0, 0]}, one, [scene(1)]).sample
    assert two.weights == {"a": 0.375, "b": 0.625}
    same = apply(mixup(), {"weight": 0.75, "place": [0, 0]}, scene(0), [replace(scene(1), label="a")]).sample
    assert same.weights == {}


def test_cutmix_pastes_a_rectangle_and_cuts_what_it_covers():
    params = {"share": 0.25, "at": [0.0, 0.0], "place": [0.0, 0.0]}
    applied = apply(cutmix(), params, scene(0), [scene(1)])
    out = applied.sample
    assert (out.image[:24, :32] == scene(1).image[:24, :32]).all()
    assert (out.image[24:] == scene(0).image[24:]).all()
    assert out.weights == {"a": 0.75, "b": 0.25}
    found = dict(zip(applied.kept, out.objects, strict=True))
    assert (found[0].region == (outline.paint(scene(0).objects[0].polygons, (64, 48)) & (out.mask < 110))).all()
    assert found[0].keypoints[0, 2] == 1
    assert found[1].box == pytest.approx([6.4, 4.8, 57.6, 43.2])  # still seen on every side
    assert found[3].box[3] == 24
    assert 5 not in found


def test_mosaic_puts_every_picture_in_its_tile():
    params = {"at": [0.5, 0.25], "order": [2, 0, 3, 1], "places": [[0.5, 0.5]] * 4}
    applied = apply(mosaic(), params, scene(0), [scene(1), scene(2), scene(3)])
    out = applied.sample
    for (y, x), number in {(0, 0): 2, (0, 63): 0, (47, 0): 3, (47, 63): 1}.items():
        assert out.image[y, x, 0] == COLOURS[number]
        assert out.mask[y, x] == number + 1
    assert out.weights == {"c": 0.125, "a": 0.125, "d": 0.375, "b": 0.375}
    for one, position in zip(out.objects, applied.kept, strict=True):
        x, y = ((0, 0), (32, 0), (0, 12), (32, 12))[params["order"].index(position // 3)]
        assert one.box[0] >= x
        assert one.box[1] >= y


def test_copy_paste_covers_what_lies_under_it():
    op = copy_paste()
    sample = scene(0)
    hidden = Object(7, np.array([10.0, 10, 14, 14]))
    params = {"objects": [[0, 0.0, 0.0]]}
    diamond = scene(1).objects[0]
    wide, tall = (math.ceil(v) for v in diamond.box[2:] - np.floor(diamond.box[:2]))
    applied = apply(op, params, replace(sample, objects=(hidden, *sample.objects)), [scene(1)])
    assert (applied.changes[0].index, applied.changes[0].what) == (0, "dropped: 0.00 visible")
    pasted = applied.sample.objects[-1]
    assert applied.kept[-1] == 4
    assert pasted.box[:2].max() < 1
    assert np.abs(pasted.polygons[0] - diamond.polygons[0] + np.floor(diamond.box[:2])).max() < 1e-9
    assert (applied.sample.image[tall:] == sample.image[tall:]).all()
    assert (applied.sample.image[:, wide:] == sample.image[:, wide:]).all()
    changed = outline.paint(pasted.polygons, (64, 48))
    assert (applied.sample.image[changed, 0] == COLOURS[1] + 20).all()
    assert (applied.sample.mask[changed] == 111).all()
    assert (applied.sample.image[~changed] == sample.image[~changed]).all()


def test_copy_paste_takes_outlines_only():
    op, rng = copy_paste(share=1.0), np.random.default_rng(0)
    crowd = replace(scene(1), objects=(*scene(1).objects, replace(scene(1).objects[2], crowd=True)))
    assert [index for index, _, _ in op.sample(rng, scene(0), [crowd])["objects"]] == [0, 2]
    assert copy_paste(share=0.0).sample(rng, scene(0), [crowd]) == {"objects": []}


# ---- sizes and kinds


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (7, 90), (1, 1), (200, 3)])
@pytest.mark.parametrize("place", [(0.0, 0.0), (0.99, 0.99), (0.5, 0.2)])
def test_fit_covers_the_size_and_keeps_the_aspect_ratio(size, place):
    sample = scene(0, (120, 80))
    out = fit(sample, size, place, Rules(min_visibility=0)).sample
    assert out.size == size
    factor = min(120 / size[0], 80 / size[1])
    for one in out.objects:
        if one.visible == 1 and one.polygons:
            before = sample.objects[0].box
            assert np.abs((before[2:] - before[:2]) / (one.box[2:] - one.box[:2]) / factor - 1).max() < 0.5 / min(size)


def test_depths_and_channels():
    deep, grey = np.array([[[0], [257], [65535]]], np.uint16), np.array([[[0], [1], [255]]], np.uint8)
    assert (conform(grey, deep) == deep).all()
    assert (conform(deep, grey) == grey).all()
    everything = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    back = conform(everything, grey)
    assert np.abs(back.astype(float) - everything / 257).max() <= 0.5
    colour = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    glass = np.concatenate([colour, np.full((4, 5, 1), 128, np.uint8)], axis=2)
    assert np.abs(conform(glass, colour) - colour * (128 / 255)).max() <= 0.5
    assert (conform(colour, glass)[..., 3] == 255).all()
    assert (conform(grey, colour) == grey).all()
    luma = colour @ np.array([0.299, 0.587, 0.114])
    assert np.abs(conform(colour, grey)[..., 0] - luma).max() <= 1
    for one in (colour, glass, grey, deep):
        assert conform(one, one) is one


def test_masks_of_another_depth():
    like = np.zeros((2, 2), np.uint8)
    other = Sample("b.png", np.zeros((2, 2, 1), np.uint8), mask=np.array([[1, 2], [3, 255]], np.uint16))
    assert conform_mask(other, like, Rules()).dtype == np.uint8
    with pytest.raises(EdgekitError, match=r"b\.png: its mask has labels up to 300"):
        conform_mask(replace(other, mask=other.mask + np.uint16(45)), like, Rules())


# ---- partners


KEYS = [f"class/{number}.jpg" for number in range(60)]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.text(max_size=8), min_size=5, max_size=20, unique=True),
    st.integers(0, 99),
    st.integers(1, 4),
    st.randoms(),
)
def test_partners_are_others_and_depend_on_nothing_but_the_arguments(keys, seed, count, random):
    chosen = choose(keys, seed, keys[0], 1, count)
    assert len(set(chosen)) == count
    assert set(chosen) <= set(keys[1:])
    shuffled = list(keys)
    random.shuffle(shuffled)
    assert choose(shuffled, seed, keys[0], 1, count, digests(shuffled)) == chosen
    assert choose(keys[1:], seed, keys[0], 1, count) == chosen  # whether or not it is among them itself
    assert choose(keys, seed, keys[0], 1, 1) == chosen[:1]


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.text(min_size=1, max_size=12), st.integers(0, 2**31))
def test_a_key_more_changes_one_choice_in_n_and_only_to_itself(added, seed):
    if added in KEYS:
        return
    before, after = digests(KEYS), digests([*KEYS, added])
    changed = 0
    for key in KEYS:
        for variant in range(5):
            (one,) = choose(KEYS, seed, key, variant, 1, before)
            (other,) = choose([*KEYS, added], seed, key, variant, 1, after)
            assert other in (one, added)
            changed += one != other
    assert changed <= 5 + 5 * math.sqrt(5)  # 300 choices among 60: 5 are expected, and this is five sigma


def test_of_several_partners_at_most_one_gives_way():
    for variant in range(200):
        before = choose(KEYS, 0, KEYS[0], variant, 3)
        after = choose([*KEYS, "new.jpg"], 0, KEYS[0], variant, 3)
        assert len(set(before) - set(after)) <= 1
        assert [key for key in after if key != "new.jpg"] == [key for key in before if key in after]


def test_everybody_is_chosen_as_often():
    counts = dict.fromkeys(KEYS, 0)
    for key in KEYS:
        for variant in range(100):
            counts[choose(KEYS, 3, key, variant, 1, digests(KEYS))[0]] += 1
    assert all(abs(count - 100) < 50 for count in counts.values())
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 105  # chi-square, 59 degrees, p = 0.0002


def test_too_few_partners():
    with pytest.raises(EdgekitError, match="a: is to be mixed with 3 others, and there are 2"):
        choose(["a", "b", "c"], 0, "a", 1, 3)
    with pytest.raises(EdgekitError, match="mixed with 1 other, and there are 0"):
        choose(["a"], 0, "a", 1, 1)
    assert choose(["a"], 0, "a", 1, 0) == []


# ---- in a chain


def test_rows_name_partners_objects_and_weights():
    recipe = Recipe((mosaic(), cutmix(p=0.5), mixup()), copies=6)
    assert recipe.partners == 5
    sources = {f"{number}.png": scene(number) for number in range(4)} | {
        f"more{number}.png": replace(scene(number), key=f"more{number}.png") for number in range(4)
    }
    asked = []

    def fetch(number: int, count: int) -> list[Sample]:
        asked.append(number)
        return [sources[key] for key in choose(list(sources), recipe.seed, "0.png", number, count)]

    first = list(variants(recipe, scene(0), fetch))
    assert asked == [1, 2, 3, 4, 5, 6]
    for number, variant in enumerate(first, 1):
        names = {op["name"]: op["partners"] for op in variant.ops}
        chosen = choose(list(sources), 0, "0.png", number, 5)
        assert names["mosaic"] == chosen[:3]
        assert names["mixup"] == chosen[4:]  # its own, whether or not cutmix was applied
        assert sum(variant.sample.weights.values()) == pytest.approx(1)
        for row in variant.changes:
            assert row.get("of", "0.png") in {"0.png", *chosen}
            assert row["object"] < 3
    with pytest.raises(EdgekitError, match="mosaic takes 3 other pictures, not 0"):
        draw(recipe, scene(0), 1)
