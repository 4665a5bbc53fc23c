"""Maker: applies steps one after the other to one model, as often as a search likes, and knows what each decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgekit.compress.method import STEPS, T
from edgekit.compress.quantize.form import AS_IS, after, as_run
from edgekit.compress.search import Budget, Trial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from onnx import ModelProto

    from edgekit.compress.method import Drift, Feed, Speed, Workbench

Steps = tuple[str, ...]  # as they are typed

# Steps whose first field says how strong they are, 0..1.
STRENGTHS = ("prune", "low-rank")
# Of the time that is left, a step inside may take this part for choices of its own.
INNER_SHARE = 0.4
MOST_KEPT = 4  # models held at a time


@dataclass
class Inner:
    """A Workbench for one step of a composition: what that decides, says and tries is kept apart."""

    outer: Workbench
    replay: Mapping[str, Any]
    until: float  # what has to be left of the outer one's time
    as_run: Callable[[ModelProto], ModelProto]  # what a model will run as
    form: str = AS_IS
    effort: float = 1.0
    # Time and size are of whole compositions: a step of one chooses by the outputs, if by anything.
    budget: Budget = field(default_factory=Budget)
    decided: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    decisions: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Take over what does not change."""
        self.seed: int = self.outer.seed
        self.int8: str = self.outer.int8
        self.only: tuple[str, ...] = self.outer.only
        self.exclude: tuple[str, ...] = self.outer.exclude
        self.max_bytes: int = self.outer.max_bytes

    @property
    def foreign(self) -> bool:
        """As outside."""
        return self.outer.foreign

    def feeds(self, samples: int) -> Iterator[Feed]:
        """As outside."""
        return self.outer.feeds(samples)

    def remember(self, key: str, make: Callable[[], Mapping[str, np.ndarray]]) -> Mapping[str, np.ndarray]:
        """As outside."""
        return self.outer.remember(key, make)

    def once(self, key: str, make: Callable[[], T]) -> T:
        """As outside."""
        return self.outer.once(key, make)

    def drift(self, before: ModelProto, after: ModelProto, most: int | None = None) -> Drift:
        """As outside."""
        return self.outer.drift(before, after, most)

    def speed(self, before: ModelProto, after: ModelProto) -> Speed:
        """As outside."""
        return self.outer.speed(self.as_run(before), self.as_run(after))

    def node_times(self, model: ModelProto) -> Mapping[str, float]:
        """As outside."""
        return self.outer.node_times(self.as_run(model))

    def has_time(self) -> bool:
        """Whether the time outside is not over, nor this step's part of it."""
        return self.outer.has_time() and self.remaining() > 0

    def remaining(self) -> float:
        """Seconds of this step's part."""
        return self.outer.remaining() - self.until

    def settled(self, name: str) -> Any:
        """What is to be decided again."""
        return self.replay.get(name)

    def settle(self, name: str, value: Any) -> None:
        """Record a decision of this step."""
        self.decided[name] = value

    def searched(self, trials: Sequence[tuple[Trial, bool, bool, bool]]) -> None:
        """Pass over: the report's table is of compositions."""

    def kept(self) -> Sequence[Mapping[str, Any]]:
        """Nothing: only whole candidates are kept."""
        return ()

    def keep(self, record: Mapping[str, Any]) -> None:
        """Pass over, likewise."""

    def say(self, text: str, /) -> None:
        """As outside."""
        self.outer.say(text)

    def note(self, text: str) -> None:
        """Leave a sentence, for when this step is taken."""
        self.notes.append(text)

    def decide(self, text: str) -> None:
        """Say what this step chose."""
        self.decisions.append(text)


@dataclass(frozen=True)
class Made:
    """A model, and for each of its steps what it decided and what it said of that; the notes of all steps.

    `effective`: its steps without those that found nothing worth doing. `effort`: that it was made with, 0..1.
    """

    model: ModelProto
    effective: Steps = ()
    decisions: tuple[Mapping[str, Any], ...] = ()
    said: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
    effort: float = 1.0


class Maker:
    """Applies steps one after the other; the last few results are held, so that what begins alike is made once."""

    def __init__(self, model: ModelProto, bench: Workbench) -> None:
        self._plain, self._bench = Made(model), bench
        self._made: dict[tuple[Steps, str, float], Made] = {}
        self._forms: dict[Steps, Callable[[ModelProto], ModelProto]] = {}
        # What the last of these steps decided, for a model that runs in that form.
        self._known: dict[tuple[Steps, str], Mapping[str, Any]] = {}
        self._said: dict[str, tuple[str, ...]] = {}

    def learn(self, steps: Steps, decisions: Sequence[Mapping[str, Any]], said: Sequence[Sequence[str]] = ()) -> None:
        """Take over what was decided and said before, so that it is not measured again."""
        for count, decision in enumerate(decisions, 1):
            self._known[steps[:count], after(_names(steps[count:]))] = decision
        for step, words in zip(steps, said, strict=False):
            self._said.setdefault(step, tuple(words))

    def make(self, steps: Steps, decisions: Sequence[Mapping[str, Any]] | None = None, effort: float = 1.0) -> Made:
        """Give the model of some steps; with `decisions`, as they were decided before.

        Raises EdgekitError when a step finds nothing that it could do.
        """
        if decisions is not None:
            self.learn(steps, decisions)
        return self._make(steps, AS_IS, effort)

    def _make(self, steps: Steps, form: str, effort: float) -> Made:
        if not steps:
            return self._plain
        effort = effort if is_strong(steps) else 1.0
        key = steps, form, effort
        if key not in self._made:
            within = after(_names(steps[-1:])) if form == AS_IS else form
            before = self._make(steps[:-1], within, effort)
            self._made[key] = self._applied(before, steps, form, effort)
            while len(self._made) > MOST_KEPT:
                del self._made[next(iter(self._made))]
        return self._made[key]

    def _applied(self, before: Made, steps: Steps, form: str, effort: float) -> Made:
        step, left = steps[-1], self._bench.remaining()
        known = self._known.get((steps, form))
        replay = self._hint(step) if known is None else known
        # How far to go is searched here for what has a strength: it shall give what it is asked for.
        budget = Budget() if is_strong([step]) else Budget(max_drop=self._bench.budget.max_drop)
        inner = Inner(self._bench, replay, (1 - INNER_SHARE) * left, self._as_run(steps, form), form, effort, budget)
        model = STEPS.parse(step).apply(before.model, inner)
        said = tuple(inner.decisions)
        self._known[steps, form] = inner.decided
        self._said.setdefault(step, said)
        if said == ("replayed",):
            said = self._said[step]
        notes = tuple(note for note in inner.notes if note not in before.notes)
        is_same = is_strong([step]) and _bytes(model) == _bytes(before.model)
        effective = before.effective if is_same else (*before.effective, step)
        decisions = (*before.decisions, inner.decided)
        return Made(model, effective, decisions, (*before.said, said), (*before.notes, *notes), effort)

    def _as_run(self, steps: Steps, form: str) -> Callable[[ModelProto], ModelProto]:
        """Give what makes of a model what it will run as, the same one for the last step at all strengths."""
        if form == AS_IS:
            return as_run(form, self._bench, self._bench.node_times)
        if steps[:-1] not in self._forms:
            self._forms[steps[:-1]] = as_run(form, self._bench, self._bench.node_times)
        return self._forms[steps[:-1]]

    def _hint(self, step: str) -> Mapping[str, Any]:
        """Give what a step chose for the whole model: what runs in 8 bits is not searched for each strength anew."""
        known = self._known.get(((step,), AS_IS), {})
        return {"choice": known["choice"]} if "choice" in known else {}


def is_strong(steps: Sequence[str]) -> bool:
    """Tell whether one of these steps has a strength: how far to go is searched, and it computes for long."""
    return any(name in STRENGTHS for name in _names(steps))


def _names(steps: Sequence[str]) -> list[str]:
    return [step.split()[0] for step in steps]


def _bytes(model: ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)
