"""Search: candidates measured on whole graphs, the Pareto set among them, and the one that is taken.

Costs of single layers mislead (a slow 8-bit layer may save two conversions), so only whole graphs are timed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnx import ModelProto

    from edgekit.compress.method import Drift, Speed, Workbench

# Without a budget: what may be lost of the score, or of the agreement with the original, on the choosing pictures.
MAX_DROP = 0.01
# Answers of a classifier that are near ties turn over at any noise; outputs this near are near enough.
NEAR_DB = 20.0
LEAST_TIMED, MOST_TIMED = 3, 30
# Speeds nearer than this are one speed: then the outputs decide.
SAME_SPEED = 0.02


@dataclass(frozen=True)
class Budget:
    """What the model may lose (share of the score, 0..1) and cost (milliseconds, megabytes); None: no matter."""

    max_drop: float | None = None
    max_ms: float | None = None
    max_mb: float | None = None

    def costs(self, trial: Trial) -> float:
        """Give how far over time and size budgets a trial is, as a factor; 1 and below is within."""
        over = [0.0]
        if self.max_mb is not None:
            over.append(trial.bytes / (1e6 * self.max_mb))
        if self.max_ms is not None:
            over.append(trial.speed.after_ms / self.max_ms if trial.speed is not None else float("inf"))
        return max(over)

    def accepts(self, drift: Drift) -> bool:
        """Tell whether outputs are near enough."""
        limit = (MAX_DROP if self.max_drop is None else self.max_drop) + 1e-9  # differences of shares are not exact
        near = drift.sqnr_db >= NEAR_DB
        if drift.drop is None or drift.low is None:
            return near
        if drift.metric == "agreement":
            return drift.drop <= limit or (near and self.max_drop is None)
        # A small set cannot tell a point: of outputs that are near, only what is certainly worse is refused.
        return drift.drop <= limit or (near and drift.low <= limit)


@dataclass(frozen=True)
class Trial:
    """One candidate and what was measured of it; `decision` is how to make it again."""

    name: str
    decision: Mapping[str, Any]
    drift: Drift
    bytes: int
    speed: Speed | None = None

    @property
    def speedup(self) -> float:
        """Its speed-up; 0 when it was not timed."""
        return self.speed.speedup if self.speed is not None else 0.0


class Search:
    """Measures candidates against the float model and keeps them all."""

    def __init__(self, model: ModelProto, bench: Workbench) -> None:
        self._model, self._bench = model, bench
        self.trials: list[Trial] = []

    def enter(self, name: str, candidate: ModelProto, decision: Mapping[str, Any]) -> Trial:
        """Measure one candidate: its outputs, and its speed as long as there is time."""
        drift = self._bench.drift(self._model, candidate)
        timed = self.may_go_on() and not self._bench.foreign
        speed = self._bench.speed(self._model, candidate) if timed else None
        trial = Trial(name, decision, drift, candidate.ByteSize(), speed)
        self.trials.append(trial)
        return trial

    def may_go_on(self) -> bool:
        """Tell whether there is time for another measurement."""
        if self._bench.foreign:
            return len(self.trials) < MOST_TIMED
        timed = sum(trial.speed is not None for trial in self.trials)
        return timed < LEAST_TIMED or (timed < MOST_TIMED and self._bench.has_time())

    def near(self, trial: Trial) -> bool:
        """Tell whether a trial's outputs are near enough."""
        return self._bench.budget.accepts(trial.drift)

    def within(self, trial: Trial) -> bool:
        """Tell whether a trial keeps every budget."""
        return self.near(trial) and self._bench.budget.costs(trial) <= 1

    def best(self) -> Trial:
        """Give the fastest within the budgets, the nearer one of two that are as fast; else the nearest to them."""
        inside = [trial for trial in self.trials if self.within(trial) and self._pays(trial)]
        if not inside:
            near = [trial for trial in self.trials if self.near(trial)]
            return min(near or self.trials, key=lambda t: (self._bench.budget.costs(t), -t.drift.sqnr_db))
        if self._bench.foreign:  # times of this machine say nothing: the most 8-bit arithmetic that is near enough
            return next((trial for trial in inside if trial.decision["kind"] != "stored"), inside[0])
        fastest = max(trial.speedup for trial in inside)
        level = [trial for trial in inside if trial.speedup >= fastest * (1 - SAME_SPEED)]
        return max(level, key=lambda trial: trial.drift.sqnr_db)

    def _pays(self, trial: Trial) -> bool:
        """Tell whether a trial may be taken: arithmetic in 8 bits has to be faster, or to keep a given time."""
        if trial.decision["kind"] == "stored" or trial.speed is None:
            return True
        return trial.speed.verdict == "faster" or self._bench.budget.max_ms is not None

    def close(self) -> Trial:
        """Take the best, and leave the table of all for the report."""
        taken = self.best()
        if not self.within(taken):
            ms = taken.speed.after_ms if taken.speed is not None else 0.0
            self._bench.note(missed(self._bench.budget, taken, ms, near=self.near(taken)))
        front = pareto(self.trials)
        self._bench.searched(
            [
                (trial, self.within(trial), trial in front, trial is taken)
                for trial in sorted(self.trials, key=lambda t: -t.speedup)
            ]
        )
        return taken


def missed(budget: Budget, taken: Trial, ms: float, *, near: bool) -> str:
    """Say which budgets the nearest candidate misses, and by how much; it takes `ms` milliseconds."""
    parts = []
    if not near:
        loss = "" if taken.drift.drop is None else f"loses {100 * taken.drift.drop:.1f} points, "
        parts.append(f"{loss}outputs at {taken.drift.sqnr_db:.0f} dB")
    if budget.max_ms is not None and taken.speed is not None and ms > budget.max_ms:
        parts.append(f"takes {ms:.3g} ms, not {budget.max_ms:g}")
    if budget.max_mb is not None and taken.bytes > 1e6 * budget.max_mb:
        parts.append(f"has {taken.bytes / 1e6:.3g} MB, not {budget.max_mb:g}")
    return f"no candidate keeps the budgets; the nearest, {taken.name}, {' and '.join(parts)}"


def pareto(trials: Sequence[Trial]) -> list[Trial]:
    """Give the trials that no other is at least as good as in speed, nearness and size, and better in one."""
    return [trial for trial in trials if not any(_dominates(other, trial) for other in trials)]


def _dominates(one: Trial, other: Trial) -> bool:
    gains = [
        (one.speedup, other.speedup),
        (-one.bytes, -other.bytes),
        (one.drift.sqnr_db, other.drift.sqnr_db),
    ]
    return all(a >= b for a, b in gains) and any(a > b for a, b in gains)
