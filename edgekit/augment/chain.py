"""From a source to one variant: steps that are drawn, or that were, taken one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from edgekit.augment import fuse
from edgekit.augment.labels import Rules
from edgekit.augment.margin import Margin
from edgekit.augment.op import Op
from edgekit.data.sample import Sample

if TYPE_CHECKING:
    from edgekit.augment.labels import Applied


@dataclass(frozen=True)
class Variant:
    """One finished variant: its pixels, its number and what was done, as the manifest has it.

    changes: what became of labelled objects, each {"object": its position in its source, "what": in words} and, for one
    of another picture, "of": that one's key.
    """

    number: int
    sample: Sample
    ops: tuple[dict[str, Any], ...]
    changes: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Step:
    """One op of a variant: its parameters, drawn or recorded, and the pictures that take part."""

    op: Op
    params: dict[str, Any]
    partners: Sequence[Sample] = ()

    def row(self) -> dict[str, Any]:
        """Give what the manifest says of it; replaying needs no more."""
        row = {"name": self.op.spec_name(), "fields": self.op.fields, "params": self.params}
        return row | ({"partners": [other.key for other in self.partners]} if self.partners else {})


class Chain:
    """Takes steps one after the other: the one path from a source to a variant, drawn or replayed.

    margin: of the source's picture, when its chains share it. rows: what the manifest says of the steps so far.
    """

    def __init__(self, source: Sample, rules: Rules, margin: Margin | None = None) -> None:
        self.rows: list[dict[str, Any]] = []
        self._log = _Log(source)
        self._pending = fuse.Pending(source, rules, self._log.add, margin)

    def seen_by(self, op: Op) -> Sample:
        """Give the sample after the steps so far, as far as an op draws by it."""
        return self._pending.seen_by(op)

    def add(self, step: Step) -> None:
        """Take one step; pixels may be made later."""
        self._pending.add(step.op, step.params, step.partners)
        self.rows.append(step.row())

    @cached_property
    def mark(self) -> Any:
        """What chains of one source share that give the same pixels for certain: others may, too. Of all its steps."""
        turn = self._pending.turn
        return repr(self.rows) if turn is None else turn

    def variant(self, number: int) -> Variant:
        """Give what comes out; raises EdgekitError when an op cannot be applied."""
        return Variant(number, self._pending.finish(), tuple(self.rows), self._log.rows())


def perform(steps: Iterable[Step], source: Sample, number: int, rules: Rules) -> Variant:
    """Apply steps that were drawn before; raises EdgekitError when an op cannot be applied."""
    chain = Chain(source, rules)
    for step in steps:
        chain.add(step)
    return chain.variant(number)


class _Log:
    """Follows objects through a chain of ops: where each comes from, and what became of it."""

    def __init__(self, source: Sample) -> None:
        self._places: list[tuple[str | None, int]] = [(None, index) for index in range(len(source.objects))]
        self._changes: dict[tuple[str | None, int], list[str]] = {}

    def add(self, applied: Applied, partners: Sequence[Sample]) -> None:
        """Take in one op."""
        places = list(self._places)
        for other in partners:
            places += [(other.key, index) for index in range(len(other.objects))]
        for change in applied.changes:
            self._changes.setdefault(places[change.index], []).append(change.what)
        self._places = [places[index] for index in applied.kept]

    def rows(self) -> tuple[dict[str, Any], ...]:
        """Give the changes in the order in which the objects were first changed."""
        return tuple(
            {"object": index, **({} if key is None else {"of": key}), "what": "; ".join(said)}
            for (key, index), said in self._changes.items()
        )
