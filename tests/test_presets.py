"""Presets: recipes under a name, read as if they had been typed."""

import json

import numpy as np
import pytest

from conftest import picture, save
from edgekit.augment.op import OPS
from edgekit.augment.presets import PRESETS
from edgekit.augment.variants import Recipe, variants
from edgekit.data.sample import Sample

MOVES = ("flip", "vflip", "rot90", "transpose")


def names(preset):
    return [OPS.read(entry).spec_name() for entry in PRESETS[preset]]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_makes_variants_and_mixes_nothing(preset):
    ops = tuple(map(OPS.read, PRESETS[preset]))
    assert ops and not any(op.partners for op in ops)
    made = list(variants(Recipe(ops, 4), Sample("a.png", picture(1, 48, 64))))
    assert len(made) == 4 and all(one is not None and one.ops for one in made)


def test_documents_are_not_mirrored_and_aerial_pictures_have_no_up():
    assert not set(names("document")) & set(MOVES)
    assert not any(OPS.read(entry).mirrors for entry in PRESETS["document"])
    assert {"flip", "vflip", "rot90"} <= set(names("aerial"))


def test_low_light_is_never_brighter():
    image = np.full((20, 20, 3), 200, np.uint8)
    op = OPS.read("underexpose 3")
    for seed in range(20):
        params = op.sample(np.random.default_rng(seed), Sample("a", image))
        assert op.pixels(image, params).mean() == pytest.approx(200 * 2 ** (-params["stops"] / 2.2), abs=0.5)


def test_a_preset_comes_first_and_typed_ops_follow_in_their_order(edgekit, tmp_path):
    save(tmp_path / "imgs" / "a.png", picture(1))
    typed = ("--rotate", "5", "--preset", "document", "--blur", "2")
    done = edgekit("augment", "imgs", *typed, "-n", "1")
    assert done.code == 0, done.err
    assert "rotate 3 border=constant fill=1, " in done.out and done.out.splitlines()[0].endswith("rotate 5, blur 2")
    recipe = json.loads((tmp_path / "imgs-augmented" / "run.json").read_text())["recipe"]
    assert [op["use"] for op in recipe["ops"]] == [*names("document"), "rotate", "blur"]
    assert recipe["ops"] == [*(OPS.read(entry).to_dict() for entry in PRESETS["document"]), *recipe["ops"][-2:]]
    assert "up to date" in edgekit("augment", "imgs", *typed, "-n", "1").out


def test_a_configuration_file_may_name_one(edgekit, tmp_path):
    save(tmp_path / "imgs" / "a.png", picture(1))
    (tmp_path / "edgekit.toml").write_text('[augment]\npreset = "light"\nops = ["invert"]\n')
    done = edgekit("augment", "imgs", "--dry-run", "--json")
    assert [op["use"] for op in done.json["recipe"]["ops"]] == [*names("light"), "invert"]


def test_an_unknown_preset_is_told_the_nearest(edgekit, tmp_path):
    done = edgekit("augment", "imgs", "--preset", "low-lihgt")
    assert done.code == 2 and "preset=low-lihgt is not one of light, medium" in done.err
    assert "did you mean preset=low-light?" in done.err


def test_presets_are_listed_as_the_ops_they_are(edgekit):
    assert "aerial     flip, vflip, rot90, scale 0.2" in edgekit("ops", "--presets").out
    assert edgekit("ops", "--presets", "--json").json["presets"] == {name: list(ops) for name, ops in PRESETS.items()}
