"""Which 8-bit types suit which CPU, and what --isa asks for."""

import pytest

from edgekit.compress.quantize.target import Target, instructions, target
from edgekit.compress.settings import compress


def test_auto_is_this_machine_and_the_others_are_meant_literally():
    assert instructions("auto", "vnni") == "vnni" and instructions("auto", "arm") == "arm"
    found = {isa: instructions(isa, "vnni") for isa in ("vnni", "avx2", "arm", "portable")}
    assert found == {"vnni": "vnni", "avx2": "avx2", "arm": "arm-dot", "portable": "none"}


def test_every_choice_of_the_option_gives_types():
    choices = next(field for field in compress.options() if field.name == "isa").bounds.choices
    assert {target(instructions(isa, "vnni")) for isa in choices} == {
        Target(signed_activations=False, seven_bits=False),
        Target(signed_activations=False, seven_bits=True),
        Target(signed_activations=True, seven_bits=False),
    }


@pytest.mark.parametrize(("cpu", "signed", "seven"), [("vnni", 0, 0), ("avx2", 0, 1), ("none", 0, 1), ("arm", 1, 0)])
def test_types_of_each_cpu(cpu, signed, seven):
    assert target(cpu) == Target(bool(signed), bool(seven))
