"""Which 8-bit types suit which CPU."""

from __future__ import annotations

from dataclasses import dataclass

# Steps of an activation's range, and the largest integer of a weight: those of 8 bits.
STEPS, LARGEST = 255, 127
# What --isa says, in the words of the machine's description; what is missing is meant literally.
_INSTRUCTIONS = {"arm": "arm-dot", "portable": "none"}


@dataclass(frozen=True)
class Target:
    """The types of a quantised model.

    `signed_activations`: int8 instead of uint8. `seven_bits`: weights that would saturate keep within -64..64, because
    without VNNI an x86 CPU adds two products of 8-bit numbers in 16 bits: 255 * 127 * 2 > 32767, 255 * 64 * 2 is not.
    """

    signed_activations: bool
    seven_bits: bool


def instructions(isa: str, here: str) -> str:
    """Give the int8 instructions that `--isa` asks for; `auto` are those of this machine, `here`."""
    return here if isa == "auto" else _INSTRUCTIONS.get(isa, isa)


def target(int8: str) -> Target:
    """Give the types for a CPU's int8 instructions: `vnni`, `avx2`, `arm-dot`, `arm` or `none`.

    x86 wants unsigned activations: onnxruntime loses the fusion of signed ones that have several readers, and runs them
    slower than float (measured on its 1.31 with residual and SiLU nets). ARM wants both signed. A CPU that is neither
    gets what is right everywhere.
    """
    arm = int8.startswith("arm")
    return Target(signed_activations=arm, seven_bits=not arm and int8 != "vnni")
