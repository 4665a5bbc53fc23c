"""Allocation: how many channels of which unit stay, so that a given time is saved at the least error.

The error of a choice is taken as the sum of what each unit's own costs, its time as the staircase says. A choice is
built greedily, by time saved for error made, then improved by exchanges: one unit goes further down so that another
can come up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.lazy import np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np

    from edgekit.compress.prune.staircase import Staircase

    Costs = Mapping[str, Mapping[int, float]]

_NOTHING = 1e-12  # errors are at least this: of two without any, the one that saves more goes first
EXCHANGES = 50


def allocate(stairs: Staircase, costs: Costs, time: float) -> dict[str, int]:
    """Give the number of channels to keep of each unit that gets smaller, so that all nodes take at most `time`.

    `costs`: the error that a unit's number makes alone, for the numbers that may be taken. Where `time` cannot be
    reached, as near to it as these numbers come.
    """
    state = _State(stairs, costs)
    while state.time > time and (move := state.cheapest()) is not None:
        state.go(*move)
    if state.time <= time:
        state.rise(time)
        for _ in range(EXCHANGES):
            if not state.exchange(time):
                break
    return {name: count for name, count in state.kept.items() if count < stairs.sizes[name]}


class _State:
    """Where every unit stands, and what every node takes there."""

    def __init__(self, stairs: Staircase, costs: Costs) -> None:
        sizes = stairs.sizes
        names = sorted(name for name, found in costs.items() if found)
        self.kept = {name: sizes[name] for name in names}
        self.costs = {name: {sizes[name]: 0.0, **costs[name]} for name in names}
        place = {node: number for number, node in enumerate(stairs.times)}
        self._base = np.array(list(stairs.times.values()), np.float64)
        self._nodes: dict[str, np.ndarray] = {}
        self._factors: dict[str, dict[int, np.ndarray]] = {}
        self._added: dict[str, dict[int, float]] = {}
        for name in names:
            found = stairs.factors.get(name, {})
            nodes = sorted({node for factors in found.values() for node in factors})
            self._nodes[name] = np.array([place[node] for node in nodes], np.int64)
            self._factors[name] = {
                count: np.array([found.get(count, {}).get(node, 1.0) for node in nodes]) for count in self.costs[name]
            }
            self._added[name] = {count: stairs.added.get(name, {}).get(count, 0.0) for count in self.costs[name]}
        self._times = self._base.copy()
        self.time = float(self._times.sum())

    @property
    def error(self) -> float:
        """The error of where the units stand."""
        return sum(self.costs[name][count] for name, count in self.kept.items())

    def saved(self, name: str, count: int) -> float:
        """Give the time that a unit's going to `count` saves; below 0 for what it costs."""
        now = self._factors[name][self.kept[name]]
        added = self._added[name][self.kept[name]] - self._added[name][count]
        return float((self._without(name) * (now - self._factors[name][count])).sum()) + added

    def go(self, name: str, count: int) -> None:
        """Take a unit to `count` channels."""
        saved = self.saved(name, count)
        self._times[self._nodes[name]] = self._without(name) * self._factors[name][count]
        self.kept[name] = count
        self.time -= saved

    def _without(self, name: str) -> np.ndarray:
        """Give the times of a unit's nodes as if it had all its channels."""
        factors = self._factors[name][self.kept[name]]
        nodes = self._nodes[name]
        if factors.all():
            whole: np.ndarray = self._times[nodes] / factors
            return whole
        times = self._base.copy()
        for other, count in self.kept.items():
            if other != name:
                times[self._nodes[other]] *= self._factors[other][count]
        return times[nodes]

    def _below(self) -> Iterator[tuple[str, int]]:
        for name, count in list(self.kept.items()):
            yield from ((name, lower) for lower in sorted(self.costs[name], reverse=True) if lower < count)

    def cheapest(self) -> tuple[str, int] | None:
        """Give the way down that saves most time for the error it adds; None when none saves any."""
        best, found = 0.0, None
        for name, count in self._below():
            saved = self.saved(name, count)
            rate = saved / max(self.costs[name][count] - self.costs[name][self.kept[name]], _NOTHING)
            if saved > 0 and rate > best:
                best, found = rate, (name, count)
        return found

    def rise(self, time: float) -> None:
        """Take units up again for as long as the time is kept, what takes back most error first."""
        while True:
            ways = [
                (self.costs[name][count] - self.costs[name][now], name, count)
                for name, now in self.kept.items()
                for count in self.costs[name]
                if count > now and self.time - self.saved(name, count) <= time
            ]
            if not ways or min(ways)[0] >= 0:
                return
            self.go(*min(ways)[1:])

    def exchange(self, time: float) -> bool:
        """Take a unit further down, and others up instead, where that makes less error; tell whether it was done."""
        before, start = self.error, dict(self.kept)
        for name, count in self._below():
            self.go(name, count)
            self.rise(time)
            if self.time <= time and self.error < before - _NOTHING:
                return True
            for other, kept in start.items():
                if self.kept[other] != kept:
                    self.go(other, kept)
        return False
