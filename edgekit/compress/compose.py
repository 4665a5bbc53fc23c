"""The search over compositions of steps: pruned how far, in low rank or not, in 8 bits or stored so, under budgets."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgekit import graph
from edgekit.compress.front import Front, Nearness, Timing, lost, record, trial_of
from edgekit.compress.maker import STRENGTHS, Made, Maker, Steps
from edgekit.compress.method import STEPS, Method
from edgekit.compress.search import Trial
from edgekit.errors import EdgekitError

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgekit.compress.method import Workbench

# How a composition ends, the likeliest first; the last two are for the size alone.
ENDS: tuple[Steps, ...] = ((), ("int8",), ("int8-weights",), ("fp16",))
WEAKEST, STRONGEST = 0.05, 0.8
FIRST = 0.2  # where nothing says how strong it has to be
PROBES = 5
ALIKE = 0.04  # strengths nearer than this are one
# The effort of a candidate that is only to be compared; what it loses goes down to this part of it with all effort.
DRAFT = 1 / 8
HOPE = 0.5
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

    @property
    def samples(self) -> int:
        """Calibration inputs wanted: as many as the steps that it tries take at most."""
        wanted = (getattr(STEPS.get(name)(), "samples", 0) for name in STEPS.names() if name in STRENGTHS)
        return max(map(int, wanted), default=0)

    def apply(self, model: ModelProto, bench: Workbench) -> ModelProto:
        """Give the best composition; in a replay, the one that the recipe names."""
        maker = Maker(model, bench)
        decision = bench.settled("composition")
        if decision is None:
            check_budget(model, bench)
            explorer = Explorer(maker, bench)
            explorer.search()
            taken = explorer.front.close(bench)
            if not explorer.front.within(taken) and not explorer.may_go_on():
                bench.note("the time for trying was over: with more --search-seconds one may be found")
            decision = dict(taken.decision)
        steps = _typed(decision)
        made = maker.make(steps, decision["decisions"], decision.get("effort", 1.0))
        bench.decide(_said(steps, made))
        for note in made.notes:
            bench.note(note)
        settled = {"steps": [*decision["steps"]], "decisions": [*made.decisions], "effort": made.effort}
        bench.settle("composition", settled)
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


class Explorer:
    """Enters candidates, the promising ones first, each after what those before it showed."""

    def __init__(self, maker: Maker, bench: Workbench) -> None:
        self.front = Front(bench.budget, bench.foreign)
        self._maker, self._bench = maker, bench
        self._plain = maker.make(()).model
        self._tried: dict[Steps, Trial | None] = {}
        self._seconds: dict[Steps, float] = {}  # that making the draft took
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

    def search(self) -> None:
        """Explore, finish the best candidate and time it again, until that keeps its time too."""
        self.explore()
        self.finish()
        while not self._is_confirmed():
            self.explore()
            self.finish()

    def _is_confirmed(self) -> bool:
        """Time the best candidate twice more: tell whether it keeps the budgets as before, or there is no more time.

        The machine may have become slower, so that --max-ms takes more than it did; once alone may be chance.
        """
        best = self.front.best()
        if self._bench.budget.max_ms is None or not self.front.within(best) or not self.may_go_on():
            return True
        made = self._maker.make(_typed(best.decision), best.decision["decisions"], best.decision["effort"])
        for _ in range(2):
            self.front.time(Timing.of(self._bench.speed(self._plain, made.model)))
        return self.front.within(best)

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
        left = self._bench.remaining()
        try:
            made = self._maker.make(steps, effort=DRAFT)
            self._seconds[steps] = left - self._bench.remaining()
            trial = self._tried.get(made.effective) or self._measured(steps, made)
            if made.effective == steps and self._is_promising(trial):
                trial = self._measured(steps, self._maker.make(steps, effort=1.0))
        except EdgekitError as error:
            self._bench.say(f"{_name(steps)}: {error.message}")
            self._bench.keep({"typed": steps, "failed": error.message})
            return None
        said = made.said if made.effective == steps else ()
        self._bench.keep({"typed": steps, "said": said, **record(trial)})
        self._bench.say(_figures(trial))
        return trial

    def _is_promising(self, trial: Trial) -> bool:
        """Tell whether a draft loses too much, but would not with all effort, for which there is time."""
        if trial.decision["effort"] == 1 or self.front.keeps_outputs(trial) or not self._wants_less:
            return False
        limit = self._bench.budget.max_drop
        hoped = limit is not None and HOPE * lost(trial) <= limit and self._over(trial) <= 1
        return hoped and self._possible(_typed(trial.decision)) == 1

    def _possible(self, steps: Steps) -> float:
        """Give the effort that there is time for, in eighths."""
        whole = self._seconds.get(steps, 0.0) / DRAFT
        return min(1.0, math.floor(8 * self._bench.remaining() / max(whole, 1e-3)) / 8)

    def finish(self) -> None:
        """Make the best candidate again with all effort that there is time for, if it is a draft."""
        best = self.front.best()
        steps, effort = _typed(best.decision), self._possible(_typed(best.decision))
        if effort <= best.decision["effort"]:
            return
        self._bench.say(f"finishing {best.name}")
        made = self._maker.make(steps, best.decision["decisions"], effort)
        trial = self._measured(steps, made)
        if trial.drift.sqnr_db >= best.drift.sqnr_db:
            self.front.trials[self.front.trials.index(best)] = trial
            self.front.time(trial.speed)

    def _enter(self, steps: Steps, trial: Trial | None) -> None:
        self._tried[steps] = trial
        if trial is not None and trial not in self.front.trials:
            self.front.add(trial)

    def _measured(self, steps: Steps, made: Made) -> Trial:
        drift = Nearness.of(self._bench.drift(self._plain, made.model))
        speed = None if self._bench.foreign else Timing.of(self._bench.speed(self._plain, made.model))
        plain = [STEPS.parse(step).to_dict() for step in steps]
        decision = {"steps": plain, "decisions": [*made.decisions], "effort": made.effort}
        bytes_ = made.model.ByteSize() + len(json.dumps(decision)) + METADATA
        return Trial(_name(steps), decision, drift, bytes_, speed)


def _aim(over: float, power: float) -> float:
    """Give the strength whose rest, to this power, takes away what is over."""
    return float(1 - over ** (-1 / power))


def _rounded(strength: float) -> float:
    """Round up: what is just too weak was in vain."""
    return min(STRONGEST, max(WEAKEST, math.ceil(100 * strength) / 100))


def _name(steps: Steps) -> str:
    return " + ".join(steps) or "simplified alone"


def _figures(trial: Trial) -> str:
    """Say what was measured of a candidate in a line."""
    drop = trial.drift.drop
    lost = f"{trial.drift.sqnr_db:.0f} dB" if drop is None else f"{round(-100 * drop, 1) + 0.0:+.1f} points"
    speed = "" if trial.speed is None else f"x{trial.speedup:.2f}, "
    return f"{trial.name}: {speed}{trial.bytes / 1e6:.3g} MB, {lost}"
