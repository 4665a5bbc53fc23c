"""TextOp: draws its parameters, then applies them to a text; and the registry of all ops of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.augment.op import OPS, probability
from edgekit.augment.settings import TEXT_FILES
from edgekit.errors import EdgekitError
from edgekit.spec import Registry, Spec, spec

if TYPE_CHECKING:
    import numpy as np

    Params = dict[str, Any]

TEXT_OPS: Registry[TextOp] = Registry("op", "edgekit.augment.text.words")


@spec
class TextOp(Spec):
    """One augmentation of a text: pure, without files, clock, environment or global randomness.

    `sample` draws; its result is plain JSON, so that a manifest row is enough to replay. One that draws nothing gives
    no parameters: drawing it again cannot change anything.
    """

    p: float = probability(1.0)

    @classmethod
    def panel(cls) -> str:
        """The help panel of all of them."""
        return TEXT_FILES

    def sample(self, rng: np.random.Generator, text: str) -> Params:
        """Draw the parameters of one application: numbers, strings, lists, nothing else."""
        return {}

    def change(self, text: str, params: Params) -> str:
        """Give the changed text."""
        raise NotImplementedError


def read_ops(entries: Sequence[str | Mapping[str, Any]], source: str, origin: str = "") -> tuple[TextOp, ...]:
    """Read the ops that a text file is given; raises EdgekitError for any other, and says so of those of pictures."""
    for entry in entries:
        name = op_name(entry)
        if name in OPS.names() and name not in TEXT_OPS.names():
            where = f"{origin}: " if origin else ""
            raise EdgekitError(
                f"{where}{name} is an op of pictures, and {source} is a text file",
                f"the ops of text are {', '.join(TEXT_OPS.names())}",
            )
    return tuple(TEXT_OPS.read(entry, origin) for entry in entries)


def refuse_text_ops(entries: Sequence[str | Mapping[str, Any]], source: str, origin: str = "") -> None:
    """Raise EdgekitError when one of the ops that a folder of pictures is given is one of text alone."""
    for entry in entries:
        name = op_name(entry)
        if name in TEXT_OPS.names() and name not in OPS.names():
            where = f"{origin}: " if origin else ""
            raise EdgekitError(
                f"{where}{name} is an op of text files, and {source} is none",
                "give a .csv, .tsv, .jsonl or .txt file, or an op of pictures: `edgekit ops` lists them",
            )


def op_name(entry: str | Mapping[str, Any]) -> str:
    """Give the name of an op, as it was typed in either form."""
    said = str(entry.get("use", "")) if isinstance(entry, Mapping) else entry
    return (said.split() or [""])[0].replace("_", "-")
