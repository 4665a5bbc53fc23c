"""Spec: parsing, bounds, round trips, did-you-mean."""

from dataclasses import FrozenInstanceError, replace

import pytest

from edgekit.errors import EdgekitError
from edgekit.spec import Registry, Spec, nearest, option, spec

TOYS: Registry = Registry("toy")


@spec
class Toy(Spec):
    """A toy."""

    p: float = option(1.0, help="how often", ge=0, le=1)


@TOYS.add
class spin(Toy):
    """Spin it."""

    degrees: float = option(15.0, help="largest angle", ge=0, le=180)
    edge: str = option("reflect", help="edge", choices=("reflect", "wrap"))
    times: int = option(1, help="how many", ge=1)


@TOYS.add
class turn_over(Toy):
    """Turn it over."""

    p: float = option(0.5, help="how often", ge=0, le=1)


def test_fields_come_own_first_and_p_last():
    assert [f.name for f in spin.options()] == ["degrees", "edge", "times", "p"]
    assert turn_over.options()[0].default == 0.5


def test_flag_takes_the_first_field_when_it_is_a_number():
    assert spin.flag_field().name == "degrees"
    assert turn_over.flag_field() is None
    assert TOYS.parse("spin 30").degrees == 30


def test_names_are_typed_with_dashes():
    assert TOYS.names() == ["spin", "turn-over"]
    assert TOYS.parse("turn-over").spec_name() == "turn-over"
    assert TOYS.parse("turn_over p=0.25").p == 0.25


@pytest.mark.parametrize("text", ["spin 30 p=0.3 edge=wrap", "spin", "turn-over", "spin times=3"])
def test_text_and_dict_round_trip(text):
    made = TOYS.parse(text)
    assert TOYS.from_dict(made.to_dict()) == made
    assert TOYS.parse(str(made)) == made
    assert TOYS.read(made.to_dict()) == made


@pytest.mark.parametrize(
    ("text", "what", "how"),
    [
        ("spin 999", "spin: degrees=999 is above 180", "from 0 to 180"),
        ("spin -1", "spin: degrees=-1 is below 0", "from 0 to 180"),
        ("spin nan", "not a finite number", "number"),
        ("spin x", "degrees=x is not a number", "number"),
        ("spin times=1.5", "not a whole number", "whole number of at least 1"),
        ("spin edge=wrapp", "edge=wrapp is not one of", "did you mean edge=wrap?"),
        ("spin degres=1 q=2", "no such field: degres, q", "degres -> degrees"),
        ("spni", "no such toy: spni", "did you mean spin?"),
        ("spin 1 2", "'2' is not key=value", "degrees"),
        ("turn-over 3", "'3' is not key=value", "p"),
        ("", "an empty toy", "name"),
        ("spin 'x", "cannot be read", "quotes"),
        ("spin p=1 p=0", "p is given twice", "leave"),
        ("spin 5 degrees=6", "degrees is given twice", "leave"),
    ],
)
def test_every_mistake_has_one_sentence_and_a_way_out(text, what, how):
    with pytest.raises(EdgekitError) as error:
        TOYS.parse(text)
    assert what in error.value.message
    assert how in error.value.hint


def test_a_table_without_use_says_so():
    with pytest.raises(EdgekitError, match="without use"):
        TOYS.from_dict({"degrees": 3}, "edgekit.toml: augment.ops")


def test_booleans_are_not_numbers():
    with pytest.raises(EdgekitError, match="not a number"):
        TOYS.from_dict({"use": "spin", "degrees": True})


def test_nearest_finds_typos_and_nothing_for_strangers():
    assert nearest("rotat", ["rotate", "flip"]) == "rotate"
    assert nearest("zzz", ["rotate", "flip"]) is None
    assert nearest("--copy", ["--crop", "--copies"]) == "--copies"
    assert nearest("--num", ["--hue", "--blur"]) is None


def test_a_spec_is_a_frozen_value():
    made = spin(degrees=30.0)
    assert repr(made) == "spin(p=1.0, degrees=30.0, edge='reflect', times=1)"
    assert made == replace(spin(), degrees=30.0) != spin() != turn_over()
    assert len({made, spin(degrees=30.0), spin()}) == 2
    with pytest.raises(FrozenInstanceError, match="degrees"):
        made.degrees = 5
    with pytest.raises(FrozenInstanceError, match="degrees"):
        del made.degrees
    with pytest.raises(TypeError, match="spin has no angle"):
        spin(angle=3)
