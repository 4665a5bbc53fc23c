"""Pruner: makes the models that pruning chooses from, each from plain values: which channels of which group go."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from edgekit.compress.prune import repair, score, staircase
from edgekit.compress.prune.allocate import allocate
from edgekit.compress.prune.moments import moments
from edgekit.compress.prune.reconstruct import EPOCHS, MOST_PRODUCTS, products, reconstruct
from edgekit.compress.prune.refit import refit
from edgekit.compress.prune.surgery import remove
from edgekit.compress.prune.units import Unit, units, which_go
from edgekit.lazy import np

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgekit.compress.method import Drift, Workbench
    from edgekit.compress.prune.groups import Group
    from edgekit.compress.prune.moments import Moments
    from edgekit.compress.prune.score import Ranking
    from edgekit.compress.prune.staircase import Staircase

Gone = Mapping[str, Sequence[int]]

AUTO = "auto"
RECONSTRUCT, REFIT = "reconstruct", "refit"
REPAIRS = (AUTO, REFIT, *reversed(repair.FOLDS))
# Held-back pictures on which the error of one group alone is judged, and how many such errors are judged; of more
# groups one each, the others follow the group's ranking.
JUDGED, MOST_JUDGED = 48, 96
# Pictures that the statistics of what readers read are taken from; each has many places.
MEASURED = 64
# What reconstruction leaves of the error of a branch taken out whole, relative to what it leaves of others': on a net
# of twenty layers blocks that made twice the error ended up at the same. Where the net is small, such branches are
# judged after so many epochs of it, whose error is then taken for this part: one block of a resnet8 went from 1.6 times
# the outputs' power to 0.23 and, with all epochs, 0.1.
EASE = 0.5
BRIEF, LEFT = 16, 0.85
# Errors of units do not just add up: so many other choices are made as if each were larger or smaller, by this factor
# in one of three cases, and looked at whole.
VARIANTS, SPREAD = 15, 2.2
_WORST = 1e6  # an error that is not a number, relative to the outputs' power
# A step of the staircase this near to what is wanted (share of all channels) is taken instead.
NEAR_STEP = 0.15


@dataclass
class Pruner:
    """What is known of the groups of a model; measured at first use.

    `rank`: by what channels are chosen (score.RANKINGS); `repair`: what makes up for them (REPAIRS).
    """

    model: ModelProto
    groups: Sequence[Group]
    bench: Workbench
    samples: int = 256
    rank: str = "obs"
    repair: str = AUTO
    _stairs: dict[str, Staircase] = field(default_factory=dict)  # by what is timed
    _known: dict[tuple[tuple[str, int], ...], float] = field(default_factory=dict)
    _fitted: dict[str, float] = field(default_factory=dict)

    @cached_property
    def units(self) -> list[Unit]:
        """What a number is chosen for."""
        return units(self.groups)

    @cached_property
    def moments(self) -> Mapping[str, Mapping[str, Moments]]:
        """What the readers of each group read."""
        few = min(self.samples, MEASURED)
        return moments(self.model, self.groups, lambda: self.bench.feeds(few), self.bench.max_bytes)

    @cached_property
    def rankings(self) -> Mapping[str, Ranking]:
        """In what order the channels of each group go."""
        return {
            group.name: score.rank(self.model, group, self.moments[group.name], self.rank, self.bench.seed)
            for group in self.groups
        }

    @property
    def stairs(self) -> Staircase:
        """What the nodes take, in the form that they will run in."""
        if self.bench.form not in self._stairs:
            self._stairs[self.bench.form] = staircase.measure(self.model, self.units, self.bench)
        return self._stairs[self.bench.form]

    @property
    def errors(self) -> Mapping[str, Mapping[int, float]]:
        """By unit and number kept, of those that pay: the outputs' error when that unit alone gets smaller.

        Relative to the outputs' power, on held-back pictures.
        """
        steps = {unit.name: self.stairs.steps(unit.name) for unit in self.units}
        total = sum(map(len, steps.values()))
        return {unit.name: self._errors(unit, steps[unit.name], singly=total <= MOST_JUDGED) for unit in self.units}

    def _errors(self, unit: Unit, counts: Sequence[int], *, singly: bool) -> dict[int, float]:
        if singly or len(counts) < 2:
            return {count: self._expected(unit.name, count) for count in counts}
        middle = counts[len(counts) // 2]
        foreseen = self.rankings[unit.group.name].errors
        scale = self._expected(unit.name, middle) / max(float(foreseen[unit.size - middle]), 1e-12)
        return {count: scale * float(foreseen[unit.size - count]) for count in counts}

    def gone(self, kept: Mapping[str, int]) -> dict[str, list[int]]:
        """Give the channels that go, by group, in rising order, when so many of these units are kept."""
        return which_go(self.units, kept, {name: ranking.order.tolist() for name, ranking in self.rankings.items()})

    def by_latency(self, share: float) -> dict[str, int]:
        """Give the numbers to keep that save `share` of the nodes' time at the least error."""
        return allocate(self.stairs, self.errors, (1 - share) * self.stairs.total({}))

    def variants(self, share: float) -> list[dict[str, int]]:
        """Give several choices that save `share` of the nodes' time, those of the least error together first."""
        rng = np.random.default_rng(self.bench.seed)
        stairs, errors = self.stairs, self.errors
        found = [self.by_latency(share)]
        for _ in range(VARIANTS):
            if self.bench.remaining() <= 0:
                break
            factors = np.exp(rng.normal(0, math.log(SPREAD), len(self.units))).tolist()
            costs = {
                unit.name: {count: factor * error for count, error in errors[unit.name].items()}
                for unit, factor in zip(self.units, factors, strict=True)
            }
            kept = allocate(stairs, costs, (1 - share) * stairs.total({}))
            found += [kept] if kept not in found else []
        return sorted(found, key=self.error)

    def error(self, kept: Mapping[str, int]) -> float:
        """Give the error to be expected with all these units smaller, relative to the outputs' power."""
        together = self._bare(kept)
        if all(kept.values()):
            return together
        errors = self.errors
        expected = {name: errors[name][count] for name, count in kept.items()}
        alone = {name: expected[name] if count else self._bare({name: 0}) for name, count in kept.items()}
        return together * sum(expected.values()) / max(sum(alone.values()), 1e-12)

    def _expected(self, name: str, count: int) -> float:
        """Give the error of one smaller unit, less for a branch that is gone than the closed form leaves."""
        bare = self._bare({name: count})
        if count or self.repair != AUTO:
            return bare
        if not self.is_small:
            return EASE * bare
        if name not in self._fitted:
            gone = self.gone({name: 0})
            made = reconstruct(self.model, remove(self.folded(gone), gone), self.bench, self.samples, BRIEF)
            self._fitted[name] = noise(self.bench.drift(self.model, made, JUDGED)) / LEFT
        return min(EASE * bare, self._fitted[name])

    @cached_property
    def is_small(self) -> bool:
        """Whether judging all branches takes no longer than one reconstruction may."""
        feed = next(iter(self.bench.feeds(1)), None)
        branches = sum(unit.removable for unit in self.units)
        return feed is not None and products(self.model, feed) * self.samples * BRIEF * branches <= MOST_PRODUCTS

    def _bare(self, kept: Mapping[str, int]) -> float:
        """Give the error with these units smaller, made up for in closed form, as far as it is judged."""
        key = tuple(sorted(kept.items()))
        if key not in self._known:
            made = self.folded(self.gone(kept))
            self._known[key] = noise(self.bench.drift(self.model, made, JUDGED))
        return self._known[key]

    def alike(self, share: float) -> dict[str, int]:
        """Give the numbers to keep when every unit loses this share: a step of the staircase where one is near."""
        found = {}
        for unit in self.units:
            wanted = (1 - share) * unit.size
            multiple = 4 if unit.size >= 16 else 1
            count = min(unit.size, max(1, multiple * round(wanted / multiple)))
            if not self.bench.foreign:
                off = {step: abs(step - wanted) for step in self.stairs.steps(unit.name)}
                near = [step for step in off if step and off[step] <= NEAR_STEP * unit.size]
                count = min(near, key=lambda step: (off[step], step), default=count)
            found[unit.name] = count
        return found

    def folded(self, gone: Gone) -> ModelProto:
        """Give the model with zeros where these channels are read, the others making up for them."""
        made = self.model
        how = self.repair if self.repair in repair.FOLDS else "fold"
        for group in self.groups:
            if group.name in gone:
                made = repair.fold(made, group, gone[group.name], self.moments[group.name], how=how)
        return made

    def bare(self, gone: Gone) -> ModelProto:
        """Give the model without these channels, nothing made up for: it takes the same time."""
        return remove(self.model, gone)

    def narrowed(self, gone: Gone) -> dict[str, tuple[int, np.ndarray]]:
        """Give the values that lack channels, along which axis, and the places (int64) that are left of it."""
        stays: dict[tuple[str, int], np.ndarray] = {}
        for group in self.groups:
            for reader in group.readers if group.name in gone else ():
                lost = np.isin(reader.channels, gone[group.name])
                key = reader.value, reader.axis
                stays[key] = stays.get(key, np.ones(lost.shape, bool)) & ~lost
        return {value: (axis, np.flatnonzero(kept)) for (value, axis), kept in stays.items() if kept.any()}

    def make(
        self, gone: Gone, repairs: Sequence[str] | None = None, effort: float = 1.0
    ) -> tuple[ModelProto, list[str]]:
        """Give the model without these channels, and the repairs after it that were kept.

        `repairs`: those that an earlier run kept; None for the first of those that `repair` says by which the outputs
        get nearer: layer by layer where nothing is to be had all at once.
        `effort`: how long is worked at them, 0..1.
        """
        made = remove(self.folded(gone), gone)
        effort *= self.bench.effort
        ways = {
            RECONSTRUCT: lambda: reconstruct(
                self.model, made, self.bench, self.samples, effort * EPOCHS, self.narrowed(gone)
            ),
            REFIT: lambda: refit(self.model, made, self.bench, min(self.samples, MEASURED)) if effort == 1 else made,
        }
        for name in {AUTO: (RECONSTRUCT, REFIT), REFIT: (REFIT,)}.get(self.repair, ()):
            if repairs is None or name in repairs or self.repair == name:
                fitted = ways[name]()
                if fitted is not made:
                    return fitted, [name]
        return made, []


def noise(drift: Drift) -> float:
    """Give the error of the outputs relative to their power."""
    found = 10 ** (-drift.sqnr_db / 10)
    return found if found < _WORST else _WORST  # also for what is not a number
