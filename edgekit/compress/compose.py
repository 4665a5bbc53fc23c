"""The search over compositions of steps: pruned how far, in low rank or not, in 8 bits or stored so, under budgets."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgekit import graph
from edgekit.compress.front import Front, Nearness, Timing, record, trial_of
from edgekit.compress.method import STEPS, Method, T
from edgekit.compress.search import Budget, Trial
from edgekit.errors import EdgekitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from onnx import ModelProto

    from edgekit.compress.method import Drift, Feed, Speed, Workbench

Steps = tuple[str, ...]  # as they are typed

# Steps whose first field says how strong they are, 0..1: tried at several strengths, by bisection.
STRENGTHS = ("prune", "low-rank")
# How a composition ends, the likeliest first; the last two are for the size alone.
ENDS: tuple[Steps, ...] = ((), ("int8",), ("int8-weights",), ("fp16",))
WEAKEST, STRONGEST = 0.05, 0.8
FIRST = 0.2  # where nothing says how strong it has to be
PROBES = 5
ALIKE = 0.04  # strengths nearer than this are one
# Of the time that is left, a step inside may take this part for choices of its own.
INNER_SHARE = 0.4
MOST_KEPT = 4  # models held at a time
# The file holds its recipe too, and about so many bytes of preprocessing and marks.
METADATA = 1000


@STEPS.add
class search(Method):
    """Try compositions of prune, low-rank, int8 and storage, and take one that keeps the budgets.

    What --max-drop, --max-ms and --max-mb alone mean. The cheapest answers come first; strengths are found by
    bisection; every candidate is measured whole. With a time or a size given the search ends once all budgets are kept,
    with --max-drop alone it takes the fastest that it finds in the time. Raises EdgekitError when no budget is given,
    or none could be kept by any model.
    """

    def apply(self, model: ModelProto, bench: Workbench) -> ModelProto:
        """Give the best composition; in a replay, the one that the recipe names."""
        maker = Maker(model, bench)
        decision = bench.settled("composition")
        if decision is None:
            check_budget(model, bench)
            explorer = Explorer(maker, bench)
            explorer.explore()
            taken = explorer.front.close(bench)
            decision = dict(taken.decision)
        steps = _typed(decision)
        made = maker.make(steps, decision["decisions"])
        bench.decide(_said(steps, made))
        for note in made.notes:
            bench.note(note)
        bench.settle("composition", {"steps": [*decision["steps"]], "decisions": [*made.decisions]})
        return graph.copy(made.model)


def check_budget(model: ModelProto, bench: Workbench) -> None:
    """Raise EdgekitError when there is no budget, or one that no model keeps."""
    budget = bench.budget
    if (budget.max_drop, budget.max_ms, budget.max_mb) == (None, None, None):
        raise EdgekitError("search: no budget was given", "add one or more of --max-drop, --max-ms and --max-mb")
    if bench.foreign and budget.max_ms is not None:
        raise EdgekitError(
            f"--max-ms {budget.max_ms:g}: this machine cannot time what --isa says", "leave --isa or --max-ms out"
        )
    bare = graph.copy(model)
    del bare.graph.initializer[:]
    if budget.max_mb is not None and bare.ByteSize() > 1e6 * budget.max_mb:
        raise EdgekitError(
            f"--max-mb {budget.max_mb:g}: the graph alone, without any weights, has {bare.ByteSize() / 1e6:.3g} MB",
            "give more",
        )


def _typed(decision: Mapping[str, Any]) -> Steps:
    """Give the steps of a composition as they are typed."""
    return tuple(str(STEPS.read(step)) for step in decision["steps"])


def _said(steps: Steps, made: Made) -> str:
    """Say what was taken, with what its steps chose themselves."""
    parts = [f"{step} ({'; '.join(said)})" if said else step for step, said in zip(steps, made.said, strict=True)]
    return " + ".join(parts) or "simplified alone"


@dataclass
class Inner:
    """A Workbench for one step of a composition: what that decides, says and tries is kept apart."""

    outer: Workbench
    replay: Mapping[str, Any]
    until: float  # what has to be left of the outer one's time
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
        return self.outer.speed(before, after)

    def node_times(self, model: ModelProto) -> Mapping[str, float]:
        """As outside."""
        return self.outer.node_times(model)

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

    `effective`: its steps without those that found nothing worth doing.
    """

    model: ModelProto
    effective: Steps = ()
    decisions: tuple[Mapping[str, Any], ...] = ()
    said: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()


class Maker:
    """Applies steps one after the other; the last few results are held, so that what begins alike is made once."""

    def __init__(self, model: ModelProto, bench: Workbench) -> None:
        self._plain, self._bench = Made(model), bench
        self._made: dict[Steps, Made] = {}
        self._known: dict[Steps, Mapping[str, Any]] = {}  # what the last of these steps decided
        self._said: dict[str, tuple[str, ...]] = {}

    def learn(self, steps: Steps, decisions: Sequence[Mapping[str, Any]], said: Sequence[Sequence[str]] = ()) -> None:
        """Take over what was decided and said before, so that it is not measured again."""
        for count, decision in enumerate(decisions, 1):
            self._known[steps[:count]] = decision
        for step, words in zip(steps, said, strict=False):
            self._said.setdefault(step, tuple(words))

    def make(self, steps: Steps, decisions: Sequence[Mapping[str, Any]] | None = None) -> Made:
        """Give the model of some steps; with `decisions`, as they were decided before.

        Raises EdgekitError when a step finds nothing that it could do.
        """
        if decisions is not None:
            self.learn(steps, decisions)
        if not steps:
            return self._plain
        if steps not in self._made:
            before = self.make(steps[:-1])
            self._made[steps] = self._applied(before, steps)
            while len(self._made) > MOST_KEPT:
                del self._made[next(iter(self._made))]
        return self._made[steps]

    def _applied(self, before: Made, steps: Steps) -> Made:
        step, left = steps[-1], self._bench.remaining()
        known = self._known.get(steps)
        replay = self._hint(step) if known is None else known
        # How far to go is searched here for what has a strength: it shall give what it is asked for.
        is_strong = step.split()[0] in STRENGTHS
        budget = Budget() if is_strong else Budget(max_drop=self._bench.budget.max_drop)
        inner = Inner(self._bench, replay, (1 - INNER_SHARE) * left, budget)
        model = STEPS.parse(step).apply(before.model, inner)
        said = tuple(inner.decisions)
        self._known[steps] = inner.decided
        self._said.setdefault(step, said)
        if said == ("replayed",):
            said = self._said[step]
        notes = tuple(note for note in inner.notes if note not in before.notes)
        is_same = is_strong and _bytes(model) == _bytes(before.model)
        effective = before.effective if is_same else (*before.effective, step)
        decisions = (*before.decisions, inner.decided)
        return Made(model, effective, decisions, (*before.said, said), (*before.notes, *notes))

    def _hint(self, step: str) -> Mapping[str, Any]:
        """Give what a step chose for the whole model: what runs in 8 bits is not searched for each strength anew."""
        known = self._known.get((step,), {})
        return {"choice": known["choice"]} if "choice" in known else {}


class Explorer:
    """Enters candidates, the promising ones first, each after what those before it showed."""

    def __init__(self, maker: Maker, bench: Workbench) -> None:
        self.front = Front(bench.budget, bench.foreign)
        self._maker, self._bench = maker, bench
        self._plain = maker.make(()).model
        self._tried: dict[Steps, Trial | None] = {}
        self._resume()

    @property
    def _wants_less(self) -> bool:
        """Whether a time or a size is to be reached, rather than the fastest to be found."""
        return self._bench.budget.max_ms is not None or self._bench.budget.max_mb is not None

    def _resume(self) -> None:
        for values in self._bench.kept():
            steps = tuple(values["typed"])
            trial = None if "failed" in values else trial_of(values)
            self._enter(steps, trial)
            if trial is not None:
                self._maker.learn(_typed(trial.decision), trial.decision["decisions"], values["said"])
        if self._tried:
            text = f"going on where an earlier run was cut off: {len(self._tried)} candidates are known"
            self._bench.say(text)
            self._bench.note(text)

    def explore(self) -> None:
        """Go through the families of candidates until the budgets are kept or the time is over."""
        for steps in ENDS if self._bench.budget.max_mb is not None else ENDS[:2]:
            self.enter(steps)
            if len(self._tried) > 1 and self._is_done():
                return
        known = [(steps, trial) for steps, trial in self._tried.items() if trial is not None and steps in ENDS]
        ends = [(steps, trial) for steps, trial in known if self.front.keeps_outputs(trial)]
        for tail, _ in sorted(ends, key=lambda one: (self._over(one[1]), -one[1].speedup)):
            if self._strengthen(tail):
                return

    def _strengthen(self, tail: Steps) -> bool:
        """Try each step of some strength before `tail`, then all of them; tell whether the budgets are kept."""
        added: Steps = ()
        for name in STRENGTHS:
            if name not in STEPS.names():
                continue
            reached = self._bisect(name, tail)
            if not self._is_done() and added and reached:
                reached = self._bisect(name, tail, added)
            if self._is_done():
                return True
            if reached:
                added = (*added, f"{name} {reached:g}")
        return False

    def _bisect(self, name: str, tail: Steps, first: Steps = ()) -> float:
        """Find the weakest strength that keeps time and size, or without those the strongest that keeps the outputs.

        Gives the strongest that kept the outputs; 0 for none.
        """
        low, high, kept = 0.0, STRONGEST, 0.0
        alone = self._over(self._tried.get((*first, *tail)))
        strength = _rounded(_aim(alone, self._power((*first, *tail))) if alone > 1 else FIRST)
        for _ in range(PROBES):
            if not self.may_go_on():
                break
            trial = self.enter((*first, f"{name} {strength:g}", *tail))
            if trial is None:
                break
            over, near = self._over(trial), self.front.keeps_outputs(trial)
            kept = max(kept, strength) if near else kept
            if over > 1 and not near:  # out of reach
                break
            is_low = over > 1 if self._wants_less else near
            low, high = (strength, high) if is_low else (low, strength)
            power = math.log(over / alone) / math.log(1 - strength) if over > 0 and alone > 1 else 0.0
            aim = _aim(alone, power) if power > 0 else 0.0
            # Where the aim is met already, anything weaker would be in vain.
            if high - low < ALIKE or (aim > high - ALIKE and over <= 1 and self._wants_less):
                break
            strength = _rounded(aim) if low < _rounded(aim) < high else _rounded((low + high) / 2)
        return kept

    def _power(self, steps: Steps) -> float:
        """Guess how cost goes with what is left: time as it does, bytes with its square, as makers and readers go."""
        trial = self._tried.get(steps)
        return 2.0 if trial is not None and self.front.is_large(trial) else 1.0

    def _over(self, trial: Trial | None) -> float:
        return self.front.costs(trial) if trial is not None and self._wants_less else 0.0

    def _is_done(self) -> bool:
        """Tell whether there is nothing left to look for, or no time."""
        kept = self._wants_less and any(self.front.within(trial) for trial in self.front.trials)
        return kept or not self.may_go_on()

    def may_go_on(self) -> bool:
        """Tell whether another candidate may be begun."""
        return self._bench.remaining() > 0

    def enter(self, steps: Steps) -> Trial | None:
        """Make and measure one candidate; None when one of its steps can do nothing."""
        if steps in self._tried:
            return self._tried[steps]
        trial = self._trial(steps)
        self._enter(steps, trial)
        return trial

    def _trial(self, steps: Steps) -> Trial | None:
        try:
            made = self._maker.make(steps)
            trial = self._tried.get(made.effective) or self._measured(steps, made)
        except EdgekitError as error:
            self._bench.say(f"{_name(steps)}: {error.message}")
            self._bench.keep({"typed": steps, "failed": error.message})
            return None
        said = made.said if made.effective == steps else ()
        self._bench.keep({"typed": steps, "said": said, **record(trial)})
        self._bench.say(_figures(trial))
        return trial

    def _enter(self, steps: Steps, trial: Trial | None) -> None:
        self._tried[steps] = trial
        if trial is not None and trial not in self.front.trials:
            self.front.trials.append(trial)

    def _measured(self, steps: Steps, made: Made) -> Trial:
        drift = Nearness.of(self._bench.drift(self._plain, made.model))
        speed = None if self._bench.foreign else Timing.of(self._bench.speed(self._plain, made.model))
        plain = [STEPS.parse(step).to_dict() for step in steps]
        decision = {"steps": plain, "decisions": [*made.decisions]}
        bytes_ = made.model.ByteSize() + len(json.dumps(decision)) + METADATA
        return Trial(_name(steps), decision, drift, bytes_, speed)


def _aim(over: float, power: float) -> float:
    """Give the strength whose rest, to this power, takes away what is over."""
    return float(1 - over ** (-1 / power))


def _rounded(strength: float) -> float:
    """Round up: what is just too weak was in vain."""
    return min(STRONGEST, max(WEAKEST, math.ceil(100 * strength) / 100))


def _bytes(model: ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)


def _name(steps: Steps) -> str:
    return " + ".join(steps) or "simplified alone"


def _figures(trial: Trial) -> str:
    """Say what was measured of a candidate in a line."""
    drop = trial.drift.drop
    lost = f"{trial.drift.sqnr_db:.0f} dB" if drop is None else f"{round(-100 * drop, 1) + 0.0:+.1f} points"
    speed = "" if trial.speed is None else f"x{trial.speedup:.2f}, "
    return f"{trial.name}: {speed}{trial.bytes / 1e6:.3g} MB, {lost}"
