"""Structured pruning: whole channels go, so many as save the latency asked for, those that are missed least."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress import fold
from edgekit.compress.method import STEPS, Method
from edgekit.compress.prune import pruner, score
from edgekit.compress.prune.groups import find_groups
from edgekit.compress.prune.pruner import Pruner
from edgekit.compress.prune.shortcuts import as_convolutions
from edgekit.compress.quantize.form import INT8
from edgekit.compress.search import Search, Trial, pareto
from edgekit.errors import EdgekitError
from edgekit.spec import option

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgekit.compress.method import Speed, Workbench
    from edgekit.compress.prune.groups import Group, Groups

    Gone = Mapping[str, Sequence[int]]
    Made = tuple[ModelProto, Gone, list[str]]

_HINT = "put --prune before --int8 and --fp16; what is pruned can be quantised after"
# What was saved may be this much less than what was asked for, and is near when it is off by this: latency is not known
# better.
SHORT_OF, NEAR_SHARE = 0.005, 0.015
# Candidates for one share, each with an aim corrected by what the one before saved; halvings of it under a budget.
ROUNDS, HALVINGS = 4, 4
# So many choices for one share are fitted, with this effort (more where the net is small: branches that go come back
# late), and the nearest one with all of it.
DRAFTS, DRAFT, LONG_DRAFT = 4, 1 / 12, 1 / 8
# Without --max-drop as much is pruned as was asked for, unless a quarter of the outputs' power would be noise.
USELESS_DB = 6.0
_NAMED = 12  # groups that a note names


@STEPS.add
class prune(Method):
    """Take out whole channels until a share of the latency is saved; those that stay make up for them.

    Channels that nodes share go together. How many of each group stay is what pays on this CPU and changes the outputs
    least; the whole graph is timed, and what is not faster is not taken. With --max-drop it goes only as far as the
    held-back pictures allow. With `channels` every group gets smaller by that share instead, whatever it saves. Raises
    EdgekitError when no channel can go, or the weights are in fewer bits already.
    """

    share: float = option(0.3, help="share of the latency to save", ge=0, le=0.95)
    channels: float = option(0.0, help="if not 0: share of every group's channels to take out instead", ge=0, le=0.95)
    samples: int = option(512, help="pictures that what stays is fitted to", ge=1, le=4096)
    rank: str = option("obs", help="by what channels are chosen", choices=score.RANKINGS)
    repair: str = option("auto", help="what makes up for lost channels: auto is all", choices=pruner.REPAIRS)

    def apply(self, model: ModelProto, bench: Workbench) -> ModelProto:
        """Give the model with fewer channels; in a replay, without those that the recipe names."""
        if graph.is_quantized(model) or _is_stored_small(model):
            raise EdgekitError("prune: the weights are in fewer bits already", _HINT)
        start, known = self._with_fast_shortcuts(model, bench)
        groups = _allowed(start, find_groups(start), bench)
        work = self._pruner(start, groups, bench)
        gone = bench.settled("gone")
        if gone is None:
            made, gone, repairs = _Choice(work, self, bench, model, known).taken()
        else:
            bench.decide("replayed")
            made, repairs = work.make(gone, bench.settled("repairs")) if gone else (graph.copy(start), [])
        bench.settle("gone", {name: list(channels) for name, channels in gone.items()})
        bench.settle("repairs", repairs)
        return made

    def _with_fast_shortcuts(self, model: ModelProto, bench: Workbench) -> tuple[ModelProto, Speed | None]:
        """Give the model with its shortcuts as convolutions, and how much faster it is, if it is."""
        settled = bench.settled("shortcuts")
        made = as_convolutions(model) if settled is not False and not bench.foreign else None
        speed = bench.speed(model, made) if made is not None and settled is None else None
        if made is None or (speed is not None and speed.verdict != "faster"):
            bench.settle("shortcuts", False)
            return model, None
        bench.settle("shortcuts", True)
        if speed is not None:
            bench.note(f"prune: shortcuts of Slice and Pad as convolutions, x{speed.speedup:.2f}: the same outputs")
        return made, speed

    def _pruner(self, model: ModelProto, groups: Sequence[Group], bench: Workbench) -> Pruner:
        """Give what is known of the model; another share needs nothing that is not known from the one before."""
        digest = hashlib.blake2b(model.SerializeToString(deterministic=True), digest_size=12).hexdigest()
        key = f"prune {digest} {bench.only} {bench.exclude} {self.samples} {self.rank} {self.repair}"
        work = bench.once(key, lambda: Pruner(model, groups, bench, self.samples, self.rank, self.repair))
        work.bench = bench
        return work


class _Choice:
    """Tries candidates and takes one.

    Time is measured on graphs of the right shapes, before anything is fitted: it does not depend on the weights.
    """

    def __init__(
        self, work: Pruner, step: prune, bench: Workbench, model: ModelProto, known: Speed | None = None
    ) -> None:
        """Prune what `work` knows; the share is of the latency of `model`, of which `known` tells what is saved."""
        self._work, self._bench, self._step = work, bench, step
        self._model, self._known = model, known
        self._search = Search(work.model, bench)
        self._speeds: list[tuple[Gone, Speed]] = []
        self._made: list[Made] = []  # of each trial

    def taken(self) -> Made:
        """Give a model, the channels it lacks and the repairs kept; the model as it is when none pays."""
        work, bench, share = self._work, self._bench, self._step.share
        if bench.foreign:
            bench.note("prune: all groups get smaller alike: this machine cannot time for another kind of CPU")
        if bench.form == INT8:
            bench.note("prune: timed in 8 bits, as the model will run after the steps that follow")
        if self._step.channels or bench.foreign:
            # Time goes with makers and readers both: with the square of the share kept.
            self._try(work.gone(work.alike(self._step.channels or 1 - (1 - share) ** 0.5)))
            return self._best(0.0)
        if not any(work.stairs.steps(unit.name) for unit in work.units):
            return self._nothing("no smaller number of channels is faster here")
        high = self._reach(share)
        if not any(map(self._is_near, self._search.trials)):
            self._halve(high)
        return self._best(share)

    def _reach(self, share: float) -> float:
        """Try what saves a share of the whole graph's latency; give the share of the nodes' time that is."""
        before = _saved(self._known)
        if before >= share - SHORT_OF:
            return 0.0
        aim, found = 1 - (1 - share) / (1 - before), []
        for _ in range(ROUNDS):
            gone = self._work.gone(self._work.by_latency(aim))
            saved = _saved(self._speed(gone))
            found.append((saved < share - SHORT_OF, abs(saved - share), aim, gone))
            if -SHORT_OF <= saved - share <= NEAR_SHARE or not self._bench.has_time():
                break
            # What the nodes' times do not show, conversions between them, makes whole graphs save more or less.
            aim = min(0.98, aim * min(2.0, (share - before) / max(saved - before, 1e-3)))
        *_, aim, _ = min(found, key=lambda each: each[:3])
        self._try(self._nearest(share, aim, [gone for is_short, _, _, gone in found if not is_short]))
        return aim

    def _nearest(self, share: float, aim: float, known: Sequence[Gone]) -> Gone:
        """Give the choice for this share whose outputs are nearest once they are fitted a little.

        `known`: choices that save as much or more.
        """
        work, bench = self._work, self._bench
        found: list[Gone] = []
        for gone in map(work.gone, work.variants(aim)):
            if gone and gone not in found and _saved(self._speed(gone)) >= share - SHORT_OF:
                found.append(gone)
            if len(found) == (DRAFTS if bench.effort == 1 else 1) or not bench.has_time():
                break
        found += [gone for gone in known if gone not in found and (bench.effort == 1 or not found)]
        if len(found) < 2:
            return found[0] if found else work.gone(work.by_latency(aim))
        effort = LONG_DRAFT if work.is_small else DRAFT
        reached = [bench.drift(work.model, work.make(gone, None, effort)[0]).sqnr_db for gone in found]
        bench.say(f"pruned in {len(found)} ways, outputs at {', '.join(f'{each:.1f}' for each in reached)} dB")
        return found[max(range(len(found)), key=lambda place: reached[place])]

    def _halve(self, high: float) -> None:
        """Try less until the outputs are as near as the budget wants, then more again."""
        low = 0.0
        for _ in range(HALVINGS):
            aim = (low + high) / 2
            trial = self._try(self._work.gone(self._work.variants(aim)[0]))
            if trial is not None and not self._is_near(trial):
                high = aim
            else:
                low = aim
            if not self._bench.has_time():
                return

    def _is_near(self, trial: Trial) -> bool:
        if self._bench.budget.max_drop is not None:
            return self._search.near(trial)
        as_told = bool(self._step.channels) or self._step.repair != pruner.AUTO
        return as_told or trial.drift.sqnr_db >= USELESS_DB

    def _speed(self, gone: Gone) -> Speed:
        for known, speed in self._speeds:
            if known == gone:
                return speed
        speed = self._bench.speed(self._model, self._work.bare(gone))
        self._speeds.append((gone, speed))
        return speed

    def _try(self, gone: Gone) -> Trial | None:
        """Make a candidate and measure it; None for one that takes nothing out, or was tried before."""
        tried = [trial.decision["gone"] for trial in self._search.trials]
        if not gone or gone in tried:
            return None
        made, repairs = self._work.make(gone)
        speed = None if self._bench.foreign else self._speed(gone)
        drift = self._bench.drift(self._work.model, made)
        name = f"without {_smaller(self._work, gone):.0%} of the channels of {_groups(gone)}"
        trial = Trial(name, {"kind": "pruned", "gone": gone}, drift, made.ByteSize(), speed)
        self._search.trials.append(trial)
        self._made.append((made, gone, repairs))
        return trial

    def _best(self, share: float) -> Made:
        """Take what saves the share with the nearest outputs, else what saves most; nothing that is not faster."""
        trials, bench = self._search.trials, self._bench
        fast = [trial for trial in trials if bench.foreign or (trial.speed and trial.speed.verdict == "faster")]
        inside = [trial for trial in fast if self._is_near(trial)]
        enough = [trial for trial in inside if _saved(trial.speed) >= share - SHORT_OF]
        taken = max(enough, key=lambda trial: trial.drift.sqnr_db) if enough else None
        taken = taken or max(inside, key=lambda trial: trial.speedup, default=None)
        front = pareto(trials)
        rows = sorted(trials, key=lambda trial: -trial.speedup)
        bench.searched([(trial, self._search.within(trial), trial in front, trial is taken) for trial in rows])
        if taken is None:
            given = "is over --max-drop" if bench.budget.max_drop is not None else "answers too differently"
            why = f"what is faster {given}" if fast else "no candidate is faster here"
            return self._nothing(why if trials else "shortcuts as convolutions save as much")
        self._tell(taken, share)
        return self._made[trials.index(taken)]

    def _nothing(self, reason: str) -> Made:
        self._bench.decide(f"nothing pruned: {reason}")
        return graph.copy(self._work.model), {}, []

    def _why_less(self) -> str:
        is_near = all(map(self._is_near, self._search.trials))
        return "no more can be saved" if is_near else "with more, too much of the outputs would be noise"

    def _tell(self, taken: Trial, share: float) -> None:
        bench, gone = self._bench, taken.decision["gone"]
        sizes = {group.name: group.size for group in self._work.groups}
        bench.decide(f"pruned {_smaller(self._work, gone):.0%} of the channels of {_groups(gone)}")
        shown = [f"{name} {sizes[name]} -> {sizes[name] - len(each)}" for name, each in list(gone.items())[:_NAMED]]
        more = f" and {len(gone) - _NAMED} more" if len(gone) > _NAMED else ""
        bench.note(f"prune: channels of {', '.join(shown)}{more}")
        saved = _saved(taken.speed)
        if share and saved < share - NEAR_SHARE:
            given = "as far as --max-drop allows" if bench.budget.max_drop is not None else self._why_less()
            bench.note(f"prune: {saved:.0%} of the latency saved, not {share:.0%}: {given}")


def _allowed(model: ModelProto, found: Groups, bench: Workbench) -> list[Group]:
    """Give the groups that may get smaller: made by nodes that --only names, untouched by those of --exclude."""
    chosen = graph.select(model, bench.only, bench.exclude)
    touched = graph.select(model, (), bench.exclude)
    groups = [
        group
        for group in found.groups
        if group.size > 1 and chosen.issuperset(group.makers) and touched.issuperset(r.node for r in group.readers)
    ]
    if groups:
        return groups
    reasons = list(dict.fromkeys(frozen.reason for frozen in found.frozen))[:3]
    why = "--only and --exclude leave none" if found.groups else "; ".join(reasons) or "it has no layers between others"
    raise EdgekitError(
        f"prune: no channels of the model can be taken out: {why}", "use --int8 or --int8-weights to make it smaller"
    )


def _is_stored_small(model: ModelProto) -> bool:
    """Tell whether weights are converted from fewer bits."""
    before, after = (
        sum(node.op_type in ("Cast", "DequantizeLinear") for node in each.graph.node)
        for each in (model, fold.storage(model))
    )
    return after < before


def _groups(gone: Gone) -> str:
    return f"{len(gone)} group{'' if len(gone) == 1 else 's'}"


def _smaller(work: Pruner, gone: Gone) -> float:
    return sum(map(len, gone.values())) / sum(group.size for group in work.groups if group.name in gone)


def _saved(speed: Speed | None) -> float:
    """Give the share of the latency that is saved."""
    return 1 - 1 / speed.speedup if speed is not None and speed.speedup > 0 else 0.0
