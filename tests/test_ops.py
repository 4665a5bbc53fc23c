"""The contract of every op, one battery over the whole registry."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

from edgekit.augment.op import OPS, Op, apply
from edgekit.data.sample import Object, Sample
from edgekit.errors import EdgekitError

ALL = list(OPS)
KINDS = [(channels, dtype) for channels in (1, 3, 4) for dtype in (np.uint8, np.uint16)]
SIZES = [(1, 1), (7, 5), (64, 48)]
MASK_TYPES = {(1, np.uint8): np.uint8, (3, np.uint8): np.int32, (4, np.uint8): np.int64, (1, np.uint16): np.uint16}

# The value of an op's flag at which it changes nothing.
NEUTRAL = {
    "rotate": 0, "crop": 1, "scale": 0, "translate": 0, "shear": 0, "perspective": 0, "pad": 0, "brightness": 0,
    "contrast": 0, "saturation": 0, "hue": 0, "gamma": 0, "solarize": 1, "noise": 0, "blur": 0, "motionblur": 1,
    "cutout": 0, "copy-paste": 0, "elastic": 0, "grid-distortion": 0, "box-safe-crop": 1, "sharpen": 0,
    "temperature": 6504, "shot-noise": 0, "iso-noise": 0, "salt-pepper": 0, "defocus": 0, "zoomblur": 0, "downscale": 1,
    "fog": 0, "rain": 0, "snow": 0, "random-erasing": 0, "grid-mask": 0, "underexpose": 0,
}  # fmt: skip
# posterize keeps at most 8 bits, of 16 too
NEVER_NEUTRAL = {
    "resize", "clahe", "jpeg", "posterize", "mixup", "cutmix", "random-resized-crop", "letterbox", "color-jitter",
    "rand-augment", "augmix",
}  # fmt: skip

every_op = pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.spec_name())
every_kind = pytest.mark.parametrize(
    ("channels", "dtype"),
    KINDS,
    ids=[f"{ {1: 'grey', 3: 'rgb', 4: 'rgba'}[c] }{np.dtype(d).itemsize * 8}" for c, d in KINDS],
)


def picture(size: tuple[int, int], channels: int, dtype: type, seed: int = 1) -> np.ndarray:
    """Make smooth colours with some noise, over the whole range."""
    rng = np.random.default_rng(seed)
    width, height = size
    coarse = rng.random((4, 4, channels)).astype(np.float32)
    smooth = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC).reshape(height, width, channels)
    values = np.clip(smooth + rng.normal(0, 0.02, smooth.shape), 0, 1) * np.iinfo(dtype).max
    return np.rint(values).astype(dtype)


@functools.cache
def labelled(size: tuple[int, int], channels: int = 3, dtype: type = np.uint8) -> Sample:
    """Make a picture with every kind of label; its arrays refuse to be written to."""
    width, height = size
    triangle = np.array([[0, 0], [width, 0], [width / 2, height]], np.float64)
    turned = np.array([[0.3, 0.4], [0.5, 0.2], [0.7, 0.4], [0.5, 0.6]]) * [width, height]
    keypoints = np.array([[width / 2, height / 2, 2], [0.0, 0.0, 1], [0.0, 0.0, 0]], np.float64)
    region = np.indices((height, width)).sum(axis=0) <= (width + height) // 2
    objects = (
        Object(0, np.array([0, 0, width, height], np.float64)),
        Object(1, np.array([0.2, 0.3, 0.7, 0.6]) * [width, height, width, height], extra={"id": 7}),
        Object(2, np.array([0, 0, width, height], np.float64), polygons=(triangle,), keypoints=keypoints),
        Object(3, np.array([0.3, 0.2, 0.7, 0.6]) * [width, height, width, height], polygons=(turned,), oriented=True),
        Object(4, np.array([0, 0, width, height], np.float64), region=region, crowd=True),
    )
    mask = (np.arange(width * height).reshape(height, width) // 5 % 4 + 1).astype(
        MASK_TYPES.get((channels, dtype), np.uint8)
    )
    sample = Sample(
        "a/b.png",
        picture(size, channels, dtype),
        label="a",
        mask=mask,
        group="g",
        split="train",
        objects=objects,
    )
    for array in arrays(sample):
        array.flags.writeable = False
    return sample


def arrays(sample: Sample) -> list[np.ndarray]:
    """All arrays of a sample."""
    found = [sample.image] + ([] if sample.mask is None else [sample.mask])
    for one in sample.objects:
        found += [one.box, *one.polygons]
        found += [array for array in (one.region, one.keypoints) if array is not None]
    return found


def same(one: Sample, other: Sample) -> bool:
    """Compare type, shape and every byte."""
    if len(arrays(one)) != len(arrays(other)):
        return False
    pairs = zip(arrays(one), arrays(other), strict=True)
    return all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)


def alike(one: Sample, other: Sample) -> bool:
    """Compare pixels exactly, and coordinates but for rounding."""
    pixels = (one.image == other.image).all() and (one.mask == other.mask).all()
    return pixels and all(np.allclose(a, b, atol=1e-9) for a, b in zip(arrays(one), arrays(other), strict=True))


def drawn(op: Op, sample: Sample, seed: int = 0) -> tuple[dict, Sample]:
    """Draw once and apply."""
    params = op.sample(np.random.default_rng(seed), sample, partners(op, sample))
    return params, applied(op, params, sample)


def partners(op: Op, sample: Sample) -> list[Sample]:
    """As many other pictures as the op takes."""
    return [replace(sample, key=f"{number}.png", image=~sample.image) for number in range(op.partners)]


def applied(op: Op, params: dict, sample: Sample) -> Sample:
    return apply(op, params, sample, partners(op, sample)).sample


def is_geometric(op: Op) -> bool:
    sample = labelled((7, 5))
    params = op.sample(np.random.default_rng(0), sample, partners(op, sample))
    return op.matrix(params, sample.size) is not None or op.field(params, sample.size) is not None


GEOMETRIC = [cls for cls in ALL if is_geometric(cls())]
POLICIES = [cls for cls in ALL if cls.members is not Op.members]  # some of what they choose moves
LETTERBOX = OPS.get("letterbox")
STILL = [cls for cls in ALL if cls not in GEOMETRIC and cls not in POLICIES and not cls.partners]
BORDERED = [cls for cls in ALL if any(field.name == "border" for field in cls.options())]


def samples(channels: int, dtype: type) -> list[Sample]:
    sizes = [*SIZES, (640, 480)] if (channels, dtype) in ((3, np.uint8), (4, np.uint16)) else SIZES
    return [labelled(size, channels, dtype) for size in sizes]


@every_op
@every_kind
def test_same_generator_gives_same_bytes_and_replay_is_exact(cls, channels, dtype):
    for sample in samples(channels, dtype):
        params, once = drawn(cls(), sample)
        again, twice = drawn(cls(), sample)
        assert params == again
        assert same(once, twice)
        written = json.loads(json.dumps(params, allow_nan=False))
        assert written == params
        op = OPS.from_dict(json.loads(json.dumps(cls().to_dict())))
        assert same(once, applied(op, written, sample)), sample.size


@pytest.mark.parametrize("cls", [cls for cls in ALL if cls.treats_alike()], ids=lambda cls: cls.spec_name())
def test_the_order_of_channels_does_not_matter_to_ops_that_say_so(cls):
    op = cls()
    sample = replace(labelled((64, 48)), objects=(), mask=None)
    params, forth = drawn(op, sample)
    swapped, back = drawn(op, replace(sample, image=np.ascontiguousarray(sample.image[..., ::-1])))
    assert params == swapped
    assert np.array_equal(forth.image, back.image[..., ::-1])


def test_most_that_look_at_colours_do_not_say_so():
    names = {cls.spec_name() for cls in ALL if cls.treats_alike()}
    assert names >= {"flip", "rot90", "rotate", "crop", "elastic", "brightness", "gamma"}
    assert not names & {"hue", "saturation", "noise", "cutout", "mosaic", "augmix", "jpeg", "equalize"}


def assert_fits(one: Object, size: tuple[int, int]) -> None:
    """Everything of an object lies inside the frame, but the corners of a rectangle that was cut."""
    limits = np.array(size, np.float64)
    assert one.box.dtype == np.float64
    assert (one.box >= 0).all()
    assert (one.box <= [*limits, *limits]).all()
    assert (one.box[:2] < one.box[2:]).all()
    for polygon in one.polygons:
        assert polygon.dtype == np.float64
        assert one.oriented or ((polygon >= 0) & (polygon <= limits)).all()
        assert not one.oriented or polygon.shape == (4, 2)
    if one.region is not None:
        assert (one.region.dtype, one.region.shape) == (np.bool_, size[::-1])
        assert one.region.any()
    if one.keypoints is not None:
        assert ((one.keypoints[:, :2] >= 0) & (one.keypoints[:, :2] <= limits)).all()


@every_op
@every_kind
def test_kind_is_kept_and_labels_fit(cls, channels, dtype):
    for sample in samples(channels, dtype):
        for seed in range(3):
            _, out = drawn(cls(), sample, seed)
            width, height = out.size
            assert (out.image.dtype, out.image.ndim, out.image.shape[2]) == (dtype, 3, channels)
            assert out.image.flags.c_contiguous
            assert out.mask.flags.c_contiguous
            assert out.mask.shape == (height, width)
            assert out.mask.dtype == sample.mask.dtype
            bars = {0} if getattr(cls, "border", None) == "constant" else set()
            assert set(np.unique(out.mask)) <= set(np.unique(sample.mask)) | bars
            for one in out.objects:
                assert_fits(one, (width, height))
                before = sample.objects[one.number]
                assert (one.crowd, one.oriented, one.extra) == (before.crowd, before.oriented, before.extra)
            assert (out.key, out.label, out.group, out.split) == ("a/b.png", "a", "g", "train")


@pytest.mark.parametrize("cls", STILL, ids=lambda cls: cls.spec_name())
@every_kind
def test_only_geometry_moves_anything_and_only_geometry_touches_alpha(cls, channels, dtype):
    for sample in samples(channels, dtype):
        for seed in range(3):
            _, out = drawn(cls(), sample, seed)
            assert out.size == sample.size
            if cls().covered(cls().sample(np.random.default_rng(seed), sample), sample.size) is None:
                assert same(out, replace(sample, image=out.image))
            assert out.mask is sample.mask
            if channels == 4:
                assert (out.image[..., 3] == sample.image[..., 3]).all()


@every_op
def test_pictures_without_labels(cls):
    bare = Sample("x", picture((7, 5), 3, np.uint8))
    _, out = drawn(cls(), bare)
    assert (out.mask, out.objects) == (None, ())


def ends() -> list:
    """Every numeric field at both of its bounds."""
    return [
        pytest.param(cls, field.name, value, id=f"{cls.spec_name()}-{field.name}={value:g}")
        for cls in ALL
        for field in cls.options()
        if field.numeric and (field.name != "p" or cls is ALL[0])  # p is the same in all, and nothing here asks for it
        for value in (field.bounds.ge, field.bounds.le)
        if value is not None
    ]


@pytest.mark.parametrize(("cls", "field", "value"), ends())
def test_bounds_work(cls, field, value):
    op = cls.from_dict({field: value})
    for channels, dtype in ((1, np.uint8), (3, np.uint16), (4, np.uint8)):
        for sample in (labelled(size, channels, dtype) for size in SIZES):
            for seed in range(3):
                params = op.sample(np.random.default_rng(seed), sample, partners(op, sample))
                moved = op.matrix(params, sample.size)
                if moved is not None and math.prod(moved[1]) > 2**22:
                    continue  # resize to 16384 is legal and takes a gigabyte
                out = applied(op, params, sample)
                assert out.image.dtype == dtype
                for one in out.objects:
                    assert_fits(one, out.size)


@pytest.mark.parametrize(("cls", "field", "value"), ends())
def test_outside_the_bounds_is_refused(cls, field, value):
    bounds = next(f.bounds for f in cls.options() if f.name == field)
    outside = value - 1 if value == bounds.ge else value + 1
    with pytest.raises(EdgekitError, match="below" if outside < value else "above"):
        cls.from_dict({field: outside})


@every_op
def test_every_number_has_two_bounds(cls):
    for field in cls.options():
        assert not field.numeric or None not in (field.bounds.ge, field.bounds.le), field.name


def test_neutral_table_is_complete():
    assert {cls.spec_name() for cls in ALL if cls.flag_field()} == NEUTRAL.keys() | NEVER_NEUTRAL


@pytest.mark.parametrize("name", NEUTRAL)
@every_kind
def test_neutral_strength_is_identity(name, channels, dtype):
    op = OPS.parse(f"{name} {NEUTRAL[name]}")
    for sample in samples(channels, dtype):
        for seed in range(3):
            _, out = drawn(op, sample, seed)
            assert same(out, sample), (sample.size, seed)


@every_op
def test_help(cls):
    assert cls.help().endswith(".")
    assert cls.help()[0].isupper()
    assert len(cls.help()) < 80
    for field in cls.options():
        assert field.bounds.help
        assert not field.bounds.help.endswith(".")


@every_op
def test_defaults_are_legal_and_text_form_round_trips(cls):
    op = cls()
    assert 0 < op.p <= 1
    assert cls.from_dict(op.to_dict()) == op
    assert OPS.parse(str(op)) == op
    assert OPS.parse(cls.spec_name()) == op


@pytest.mark.parametrize("cls", BORDERED, ids=lambda cls: cls.spec_name())
@every_kind
def test_borders_and_fills(cls, channels, dtype):
    border = next(field for field in cls.options() if field.name == "border")
    for choice in border.bounds.choices:
        for fill in (0.0, 0.5, 1.0):
            for sample in (labelled(size, channels, dtype) for size in SIZES):
                _, out = drawn(cls(border=choice, fill=fill), sample, seed=3)
                allowed = set(np.unique(sample.mask)) | ({0} if choice == "constant" else set())
                assert set(np.unique(out.mask)) <= allowed


def test_bordered_ops_are_those_that_can_look_outside():
    names = {cls.spec_name() for cls in BORDERED}
    free = {cls.spec_name() for cls in GEOMETRIC} - names
    assert free == {
        "flip", "vflip", "rot90", "transpose", "crop", "random-resized-crop", "box-safe-crop", "resize", "letterbox",
    }  # fmt: skip


@pytest.mark.parametrize("cls", GEOMETRIC, ids=lambda cls: cls.spec_name())
def test_a_bright_dot_lands_where_its_point_says(cls):
    black = {"border": "constant", "fill": 0.0} if cls in BORDERED else {"fill": 0.0} if cls is LETTERBOX else {}
    op = cls(**black)
    width, height, checked = 300, 200, 0
    for seed in range(12):
        rng = np.random.default_rng(1000 + seed)
        x, y = rng.uniform(0.3, 0.7) * width, rng.uniform(0.3, 0.7) * height
        columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        blob = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 3.0**2))
        dot = Object(0, np.array([x - 6, y - 6, x + 6, y + 6]), keypoints=np.array([[x, y, 2]]))
        sample = Sample("x", np.rint(60000 * blob).astype(np.uint16)[..., None], objects=(dot,))
        params, out = drawn(op, sample, seed)
        if not out.objects:
            continue
        found_x, found_y, visibility = out.objects[0].keypoints[0]
        if visibility == 0 or not (12 < found_x < out.size[0] - 12 and 12 < found_y < out.size[1] - 12):
            continue
        weights = out.image[..., 0].astype(np.float64)
        columns, rows = np.meshgrid(np.arange(out.size[0]) + 0.5, np.arange(out.size[1]) + 0.5)
        error = math.hypot(
            (weights * columns).sum() / weights.sum() - found_x, (weights * rows).sum() / weights.sum() - found_y
        )
        assert error < 0.3, (params, error)
        checked += 1
    assert checked >= 6


@pytest.mark.parametrize("cls", GEOMETRIC, ids=lambda cls: cls.spec_name())
def test_mask_moves_with_the_image(cls):
    """A picture painted from its mask still agrees with it, but for the pixels that the edges run through."""
    mask = np.kron(np.arange(12).reshape(3, 4) + 1, np.ones((20, 20))).astype(np.uint8)
    sample = Sample("x", mask[..., None] * 20, mask=mask)
    op = cls(size=160) if cls is LETTERBOX else cls()  # at 640, edges are eight pixels wide
    for seed in range(6):
        _, out = drawn(op, sample, seed)
        agree = np.abs(out.image[..., 0].astype(int) - out.mask.astype(int) * 20)[out.mask > 0] <= 1
        assert agree.mean() > 0.85
        inside = cv2.erode((out.mask == 6).astype(np.uint8), np.ones((5, 5))) > 0
        assert agree[inside[out.mask > 0]].all()


def test_two_flips_are_nothing():
    sample = labelled((64, 48), 4, np.uint16)
    for name in ("flip", "vflip"):
        op = OPS.parse(name)
        assert alike(apply(op, {}, apply(op, {}, sample).sample).sample, sample)
    assert not same(apply(OPS.parse("flip"), {}, sample).sample, apply(OPS.parse("vflip"), {}, sample).sample)


def test_four_quarter_turns_are_nothing_and_all_are_equally_likely():
    op, sample = OPS.parse("rot90"), labelled((64, 48))
    out = sample
    for _ in range(4):
        out = apply(op, {"turns": 1}, out).sample
    assert alike(out, sample)
    assert alike(apply(op, {"turns": 3}, apply(op, {"turns": 1}, sample).sample).sample, sample)
    rng = np.random.default_rng(0)
    turns = [op.sample(rng, sample)["turns"] for _ in range(3000)]
    assert all(900 < turns.count(k) < 1100 for k in (1, 2, 3))


SYMMETRIC = [
    ("rotate 40", "degrees", -40, 40),
    ("translate 0.3", "x", -0.3, 0.3),
    ("translate 0.3", "y", -0.3, 0.3),
    ("shear 20", "x", -20, 20),
    ("scale 0.4", "factor", 0.6, 1.4),
    ("brightness 0.4", "factor", 0.6, 1.4),
    ("contrast 0.4", "factor", 0.6, 1.4),
    ("saturation 0.4", "factor", 0.6, 1.4),
    ("hue 30", "degrees", -30, 30),
    ("crop 0.5", "factor", 0.5, 1),
    ("noise 0.2", "sigma", 0, 0.2),
    ("blur 3", "sigma", 0, 3),
    ("motionblur 11", "length", 1, 11),
    ("motionblur 11", "degrees", 0, 180),
    ("clahe 5", "clip", 1, 5),
    ("solarize 0.2", "threshold", 0.2, 1),
    ("jpeg 30", "quality", 30, 95),
    ("posterize 2", "bits", 2, 7),
    ("elastic 0.1", "alpha", 0, 0.1),
    ("grid-distortion 0.2", "amount", 0, 0.2),
    ("sharpen 2", "factor", 1, 3),
    ("color-jitter 0.4", "brightness", 0.6, 1.4),
    ("color-jitter 0.4", "contrast", 0.6, 1.4),
    ("color-jitter 0.4", "saturation", 0.6, 1.4),
    ("color-jitter hue=30", "degrees", -30, 30),
    ("shot-noise 0.2", "sigma", 0, 0.2),
    ("iso-noise 0.2", "sigma", 0, 0.2),
    ("salt-pepper 0.2", "amount", 0, 0.2),
    ("defocus 5", "radius", 0, 5),
    ("zoomblur 0.2", "amount", 0, 0.2),
    ("downscale 4", "factor", 1, 4),
    ("fog 0.8", "amount", 0, 0.8),
    ("rain 0.8", "amount", 0, 0.8),
    ("rain 0.8", "degrees", -20, 20),
    ("snow 0.8", "amount", 0, 0.8),
    ("snow 0.8", "degrees", -40, 40),
    ("grid-mask unit=0.3", "unit", 0.3, 1),
]


@pytest.mark.parametrize(("text", "name", "low", "high"), SYMMETRIC, ids=[f"{t} {n}" for t, n, _, _ in SYMMETRIC])
def test_draws_are_uniform_over_what_the_help_says(text, name, low, high):
    op, sample, rng = OPS.parse(text), labelled((7, 5)), np.random.default_rng(0)
    values = np.sort([op.sample(rng, sample)[name] for _ in range(4000)])
    assert low <= values[0] <= low + 0.01 * (high - low)
    assert high - 0.01 * (high - low) <= values[-1] <= high
    # Kolmogorov-Smirnov; whole numbers have steps, which the mean of both sides of a step allows for.
    if isinstance(op.sample(rng, sample)[name], float):
        distance = np.abs((values - low) / (high - low) - np.arange(4000) / 4000).max()
        assert distance < 1.95 / math.sqrt(4000)
    else:
        assert abs(values.mean() - (low + high) / 2) < 0.03 * (high - low)


def test_gamma_brightens_as_often_as_it_darkens():
    op, sample, rng = OPS.parse("gamma 0.5"), labelled((7, 5)), np.random.default_rng(0)
    exponents = np.array([op.sample(rng, sample)["exponent"] for _ in range(4000)])
    assert exponents.min() >= 1 / 1.5
    assert exponents.max() <= 1.5
    assert abs((exponents > 1).mean() - 0.5) < 0.03
