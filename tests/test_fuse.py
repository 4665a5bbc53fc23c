"""Fused chains against the same steps taken one after the other."""

from __future__ import annotations

import json
from collections.abc import Sequence

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_ops import labelled, partners, picture, same

from edgekit.augment import fuse, photometric, warp
from edgekit.augment.chain import Step, _Log, perform
from edgekit.augment.fuse import Pending
from edgekit.augment.labels import USUAL
from edgekit.augment.op import OPS, Op, apply
from edgekit.augment.variants import Recipe, draw, variants
from edgekit.data.sample import Sample

QUICK = settings(max_examples=40, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.one_of(st.sampled_from([(1, 1), (1, 9), (7, 5)]), st.tuples(st.integers(2, 90), st.integers(2, 90)))

Steps = list[tuple[Op, dict]]

COPIES = ["flip p=1", "vflip p=1", "rot90 p=1", "transpose p=1", "crop 0.5", "box-safe-crop 0.5"]
ALIGNED = [*COPIES, "pad 0.2 border=wrap", "translate 0.3", "resize 40", "random-resized-crop 0.3", "letterbox 50"]
TABLES = [cls.spec_name() for cls in OPS if cls.table is not Op.table]
WARPS = ["rotate 30", "shear 15", "scale 0.3", "translate 0.2", "flip p=1", "rot90 p=1"]
ALONE = [cls for cls in OPS if not cls.partners]


def chained(texts: Sequence[str], sample: Sample, seed: int) -> tuple[Steps, Sample]:
    """Draw ops as a run does; give what was drawn, and the result."""
    rng, steps = np.random.default_rng(seed), []
    pending = Pending(sample, USUAL, lambda applied, partners: None)
    for text in texts:
        one = OPS.parse(text)
        steps.append((one, one.sample(rng, pending.seen_by(one))))
        pending.add(*steps[-1])
    return steps, pending.finish()


def one_by_one(steps: Steps, sample: Sample) -> Sample:
    """Do the same without fusing anything."""
    for one, params in steps:
        sample = apply(one, params, sample).sample
    return sample


def tasks(steps: Steps, sample: Sample) -> int:
    """Count what is done to pixels."""
    pending = Pending(sample, USUAL, lambda applied, partners: None)
    for one in steps:
        pending.add(*one)
    return len(pending._queue)


def chains(texts: Sequence[str], most: int = 6) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(list(texts)), min_size=2, max_size=most)


@pytest.mark.parametrize("cls", list(OPS), ids=lambda cls: cls.spec_name())
def test_every_op_draws_by_size_alone_or_says_that_it_looks(cls):
    for size in ((64, 48), (7, 5)):
        sample = labelled(size)
        pending = Pending(sample, USUAL, lambda applied, partners: None)
        pending.add(OPS.parse("flip"), {})
        one = cls()
        seen = pending.seen_by(one)
        assert (seen.size, seen.image.dtype, seen.image.shape) == (size, sample.image.dtype, sample.image.shape)
        mirrored = apply(OPS.parse("flip"), {}, sample).sample
        others = partners(one, sample)
        for seed in range(5):
            drawn = one.sample(np.random.default_rng(seed), seen, others)
            assert drawn == one.sample(np.random.default_rng(seed), mirrored, others)


@QUICK
@given(chains(COPIES), SIZES, SEEDS)
def test_mirrors_turns_and_crops_are_one_copy_exactly(texts, size, seed):
    sample = labelled(size)
    steps, fused = chained(texts, sample, seed)
    assert tasks([step for step in steps if not step[0].looks], sample) <= 1
    expected = one_by_one(steps, sample)
    assert (fused.image == expected.image).all()
    assert (fused.mask == expected.mask).all()


@QUICK
@given(chains(ALIGNED), SIZES, SEEDS)
def test_what_keeps_axes_is_exact(texts, size, seed):
    assume(texts.count("translate 0.3") < 2)  # two of them bring back what left the frame: see below
    sample = labelled(size)
    steps, fused = chained(texts, sample, seed)
    expected = one_by_one(steps, sample)
    assert fused.image.shape == expected.image.shape
    assert (fused.image == expected.image).all()
    assert (fused.mask == expected.mask).all()


@QUICK
@given(chains(TABLES), st.sampled_from([1, 3, 4]), st.sampled_from([np.uint8, np.uint16]), SEEDS)
def test_tables_are_one_exactly(names, channels, dtype, seed):
    sample = labelled((64, 48), channels, dtype)
    steps, fused = chained([f"{name} p=1" for name in names], sample, seed)
    assert tasks(steps, sample) == 1
    assert same(fused, one_by_one(steps, sample))


@QUICK
@given(chains(WARPS, most=4), SEEDS)
def test_warps_are_one_and_as_the_product_of_their_matrices(texts, seed):
    sample = labelled((90, 70))
    steps, fused = chained(texts, sample, seed)
    matrix, size = np.eye(3), sample.size
    for one, params in steps:
        following, size = one.matrix(params, size)
        matrix = following @ matrix
    assume(tasks(steps, sample) == 1)  # a zoom is not fused with a mirror that comes after it
    expected = warp.move(sample, matrix, size).sample
    # Summed in another order; a pixel's place is rounded to 1/32.
    assert np.abs(fused.image.astype(int) - expected.image).mean() < 0.1
    for one, other in zip(fused.objects, expected.objects, strict=True):
        assert np.abs(one.box - other.box).max() < 1e-6
        for part, twin in zip(one.polygons, other.polygons, strict=True):
            assert np.abs(part - twin).max() < 1e-6


def smooth(size: tuple[int, int]) -> Sample:
    """A picture that interpolating twice hardly blurs: what remains are mistakes of place."""
    blurred = cv2.GaussianBlur(picture(size, 3, np.uint8), (0, 0), 3)
    return Sample("a.png", blurred)


@QUICK
@given(chains(WARPS, most=4), SEEDS)
def test_fused_warps_differ_from_repeated_ones_by_blur_and_border_only(texts, seed):
    sample = smooth((120, 100))
    steps, fused = chained(texts, sample, seed)
    expected = one_by_one(steps, sample)
    inside = Sample("a.png", np.full_like(sample.image, 255))
    black = [(OPS.from_dict({"use": one.spec_name(), **_black(one)}), params) for one, params in steps]
    seen = one_by_one(black, inside).image.min(axis=2) == 255  # what no border reached, in any step
    seen = cv2.erode(seen.astype(np.uint8), np.ones((7, 7))) > 0
    assume(seen.sum() > 100)
    apart = np.abs(fused.image.astype(int) - expected.image)[seen]
    assert apart.mean() < 1.0
    assert apart.max() <= 8


def _black(one: Op) -> dict:
    fields = {key: value for key, value in one.to_dict().items() if key not in ("use", "border", "fill")}
    return fields | ({"border": "constant"} if hasattr(one, "border") else {})


@pytest.mark.parametrize(
    ("texts", "count"),
    [
        (["rotate 15", "shear 5"], 1),
        (["flip p=1", "rotate 15", "transpose p=1", "translate 0.2", "crop 0.7"], 1),
        (["crop 0.7", "resize 40"], 1),
        (["pad 0.2", "crop 0.5"], 1),
        (["rotate 15", "perspective 0.1"], 1),
        (["perspective 0.1", "rotate 15"], 2),  # what lies behind its horizon would come into the corners
        (["perspective 0.1", "flip p=1"], 1),
        (["pad 0.2", "resize 30"], 2),
        (["crop 0.7", "rotate 15"], 2),  # what was cut would be in the corners
        (["rotate 15", "crop 0.7", "rotate 15"], 2),
        (["pad 0.2", "rotate 15"], 2),
        (["resize 30", "rotate 15"], 2),  # averaged, then interpolated
        (["resize 30", "resize 60"], 2),  # detail that was lost stays lost
        (["rotate 15", "resize 30"], 2),
        (["rotate 15 border=constant", "shear 5"], 2),
        (["rotate 15 border=constant", "shear 5 border=constant fill=1"], 2),
        (["rotate 15 fill=0.5", "shear 5"], 1),  # no fill is shown
        (["brightness 0.2", "gamma 0.3", "invert p=1"], 1),
        (["brightness 0.2", "flip p=1", "gamma 0.3"], 3),  # in the order that was typed
        (["brightness 0.2", "saturation 0.2", "gamma 0.3"], 3),
        (["flip p=1", "elastic 0.05", "flip p=1"], 3),
    ],
)
def test_what_is_fused(texts, count):
    sample = labelled((64, 48))
    steps, _ = chained([text if "p=1" in text else f"{text} p=1" for text in texts], sample, seed=5)
    assert tasks(steps, sample) == count


def test_what_left_the_frame_and_came_back_is_there_with_its_label():
    sample = labelled((64, 48))
    there, back = ((OPS.parse("translate 0.5"), {"x": x, "y": 0.0}) for x in (0.5, -0.5))
    pending = Pending(sample, USUAL, lambda applied, partners: None)
    for step in (there, back):
        pending.add(*step)
    fused = pending.finish()
    assert same(fused, sample)
    assert len(one_by_one([there, back], sample).objects) == len(sample.objects)
    assert not same(one_by_one([there, back], sample), sample)


def test_changes_are_told_once_and_of_the_right_objects():
    sample = labelled((64, 48))
    log = _Log(sample)
    pending = Pending(sample, USUAL, log.add)
    pending.add(OPS.parse("flip"), {})
    pending.add(OPS.parse("crop 0.5"), {"factor": 0.5, "x": 0.0, "y": 0.0})
    pending.finish()
    said = {row["object"]: row["what"] for row in log.rows()}
    assert said[0] == "clipped 0.25"


@QUICK
@given(st.lists(st.sampled_from([cls.spec_name() for cls in ALONE]), min_size=1, max_size=5), SEEDS)
def test_replay_is_exact_for_any_chain(names, seed):
    assert_replays([f"{name} p=0.8" for name in names], seed)


def test_replay_stops_where_an_op_looked():
    assert_replays(["rotate 15", "box-safe-crop 0.3", "flip p=1"], seed=1)


def assert_replays(texts: Sequence[str], seed: int) -> None:
    sample = labelled((40, 30))
    recipe = Recipe(tuple(OPS.parse(text) for text in texts), seed=seed)
    variant = draw(recipe, sample, 1)
    rows = json.loads(json.dumps(list(variant.ops)))
    steps = [Step(OPS.get(row["name"]).from_dict(row["fields"]), row["params"]) for row in rows]
    again = perform(steps, sample, 1, recipe.rules)
    assert same(variant.sample, again.sample)
    assert (variant.ops, variant.changes) == (again.ops, again.changes)


@QUICK
@given(st.lists(st.sampled_from([cls.spec_name() for cls in ALONE if not cls.looks]), min_size=1, max_size=6), SEEDS)
def test_fusing_changes_no_draw(names, seed):
    sample = labelled((40, 30))
    recipe = Recipe(tuple(OPS.parse(name) for name in names), seed=seed)
    fused = draw(recipe, sample, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fuse, "Pending", _Eager)
        assert draw(recipe, sample, 1).ops == fused.ops


class _Eager:
    """What `fuse.Pending` replaces: every step is taken at once."""

    def __init__(self, sample: Sample, rules, log, margin) -> None:
        self.sample = sample

    def seen_by(self, one: Op) -> Sample:
        return self.sample

    def add(self, one: Op, params: dict, partners: Sequence[Sample] = ()) -> None:
        self.sample = apply(one, params, self.sample, partners).sample

    def finish(self) -> Sample:
        return self.sample


def test_policies_are_fused_with_what_is_around_them():
    sample = labelled((64, 48))
    pending = Pending(sample, USUAL, lambda applied, partners: None)
    outside = {"border": "reflect", "fill": 0.0}
    chosen = [
        {"name": "rotate", "fields": outside, "params": {"degrees": 9.0}},
        {"name": "shear", "fields": outside, "params": {"x": 4.0, "y": 0.0}},
    ]
    pending.add(OPS.parse("flip"), {})
    pending.add(OPS.parse("rand-augment"), {"ops": chosen})
    assert len(pending._queue) == 1


# ---- variants that are equal


def test_equal_steps_are_taken_once(monkeypatch):
    taken = []
    finish = Pending.finish
    monkeypatch.setattr(Pending, "finish", lambda self: taken.append(len(self._queue)) or finish(self))
    made = list(variants(Recipe((OPS.parse("flip p=0.5"),), copies=6), Sample("a", picture((9, 7), 3, np.uint8))))
    assert sum(one is not None for one in made) == 1
    assert sum(count > 0 for count in taken) == 1


def test_equal_pixels_are_found_whatever_the_steps():
    grey = Sample("a", np.full((8, 8, 3), 128, np.uint8))
    made = list(
        variants(Recipe((OPS.parse("rotate 15"), OPS.parse("crop 0.5"), OPS.parse("resize 8")), copies=3), grey)
    )
    assert made == [None] * 3


def test_pictures_of_equal_checksums_are_compared(monkeypatch):
    monkeypatch.setattr("edgekit.augment.variants._checksum", lambda sample: 0)
    sample = Sample("a", picture((9, 7), 3, np.uint8))
    made = list(variants(Recipe((OPS.parse("rot90 p=1"),), copies=4), sample))
    assert sum(one is not None for one in made) == 3
    monkeypatch.undo()
    expected = list(variants(Recipe((OPS.parse("rot90 p=1"),), copies=4), sample))
    assert [one and one.ops for one in made] == [one and one.ops for one in expected]


# ---- tables that are products


def test_a_product_is_multiplied_and_gives_the_same_values():
    full, levels = 255, np.arange(256, dtype=np.uint8)
    image = picture((37, 29), 3, np.uint8)
    found = 0
    for factor in [*np.random.default_rng(0).uniform(0, 2, 200), *np.arange(0, 513, 8) / 256]:
        table = photometric.as_table(factor * photometric.levels(full), full)
        found += photometric.multiplies_by(table) is not None
        assert (photometric.lookup(levels.reshape(16, 16, 1), table).ravel() == table).all()
        assert (photometric.lookup(image, table) == table[image]).all()
    assert found > 200


def test_other_tables_are_looked_up():
    table = photometric.as_table(1.2 * photometric.levels(255), 255)
    for place in (0, 1, 100):
        changed = table.copy()
        changed[place] += 3
        assert photometric.multiplies_by(changed) is None
    assert photometric.multiplies_by(table.astype(np.uint16)) is None


@QUICK
@given(SIZES, st.lists(st.sampled_from(["flip p=1", "vflip p=1", "rot90 p=1", "transpose p=1"]), max_size=5), SEEDS)
def test_a_turn_is_known_before_pixels_are(size, texts, seed):
    """Chains of mirrors and quarter turns have equal turns exactly when they turn a picture alike."""
    rng, turns = np.random.default_rng(seed), {}
    image = np.arange(size[0] * size[1], dtype=np.uint16).reshape(size[1], size[0], 1)
    for _ in range(3):
        pending = Pending(Sample("a.png", image), USUAL, lambda applied, partners: None)
        for text in texts:
            one = OPS.parse(text)
            pending.add(one, one.sample(rng, pending.seen_by(one)))
        turn = pending.turn
        assert turn is not None
        made = pending.finish().image
        assert np.array_equal(turns.setdefault(turn, made), made)
        if texts:
            assert pending.turn is None  # what is made already is not known by what is still to be done
    if min(size) > 1:
        assert len({(made.shape, made.tobytes()) for made in turns.values()}) == len(turns)


def test_no_turn_is_known_of_anything_else():
    image = np.random.default_rng(1).integers(0, 256, (8, 6, 3), np.uint8)
    for text in ("crop 0.5", "rotate 10", "brightness 0.2", "noise 0.1", "translate 0.2"):
        one = OPS.parse(text)
        pending = Pending(Sample("a.png", image), USUAL, lambda applied, partners: None)
        pending.add(one, one.sample(np.random.default_rng(0), pending.seen_by(one)))
        assert pending.turn is None, text
