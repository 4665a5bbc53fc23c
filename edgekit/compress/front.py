"""What the search over compositions measured: which candidates keep the budgets, which one is taken, what is missed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgekit.compress.search import MAX_DROP, SAME_SPEED, Budget, Trial, missed, pareto

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgekit.compress.method import Drift, Speed, Workbench

# A time counts as kept when it is shorter by this: the next measurement may be so much longer.
MARGIN = 0.04
# So many of the latest timings of the original tell what it takes now.
LATEST = 5
# What cannot keep all budgets: a point lost counts as much as this many percent too many of time or bytes.
POINT = 10
# A changed answer costs so much of the score on average, give or take so much: pruned nets measured here, 0.2-0.4.
CHANGE, SCATTER = 0.3, 0.2


@dataclass(frozen=True)
class Nearness:
    """A Drift that can be written down."""

    sqnr_db: float
    agreement: float | None
    drop: float | None
    low: float | None
    metric: str
    n: int

    @classmethod
    def of(cls, drift: Drift) -> Nearness:
        """Write one down, `drop` being what is to be expected on other pictures.

        Few pictures tell a loss badly, and of many candidates the luckiest would be taken. So what they show is drawn
        towards what as many changed answers cost on average: the mean of both, weighted by their variances, d / n for
        the share d of n answers that changed (each right or wrong by one), (SCATTER d)^2 for the average.
        """
        drop = drift.drop
        if drop is not None and drift.agreement is not None and drift.metric != "agreement":
            changed = 1 - drift.agreement
            known = SCATTER**2 * changed * drift.n
            drop = (known * drop + CHANGE * changed) / (known + 1)
        return cls(drift.sqnr_db, drift.agreement, drop, drift.low, drift.metric, drift.n)


@dataclass(frozen=True)
class Timing:
    """A Speed that can be written down."""

    speedup: float
    low: float
    high: float
    verdict: str
    after_ms: float

    @classmethod
    def of(cls, speed: Speed) -> Timing:
        """Write one down."""
        return cls(speed.speedup, speed.low, speed.high, speed.verdict, speed.after_ms)


@dataclass
class Front:
    """All candidates of a search and the budgets they are held against.

    Milliseconds are those of the original, at the upper quartile of its latest timings, divided by the speed-up: single
    medians on a busy machine scatter far more than the ratio of two models timed in turn. Only the latest, since a
    machine may be slow for some minutes: what was pruned for those would have been pruned too far.
    """

    budget: Budget
    foreign: bool = False
    trials: list[Trial] = field(default_factory=list)
    originals: list[float] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        """Take in the trials given."""
        for trial in self.trials:
            self.time(trial.speed)

    def add(self, trial: Trial) -> None:
        """Take in a candidate that was just measured."""
        self.trials.append(trial)
        self.time(trial.speed)

    def time(self, speed: Speed | None) -> None:
        """Take in what the original took beside a candidate, in milliseconds."""
        if speed is not None:
            self.originals.append(speed.after_ms * speed.speedup)

    def milliseconds(self, trial: Trial) -> float:
        """Give the time of one inference; infinite for what was not timed."""
        known = sorted(self.originals[-LATEST:])
        return known[3 * (len(known) - 1) // 4] / trial.speedup if known and trial.speedup > 0 else float("inf")

    def costs(self, trial: Trial) -> float:
        """Give how far over time (with its margin) and size budgets a trial is, as a factor; 1 and below is within."""
        return max(self._costs(trial))

    def is_large(self, trial: Trial) -> bool:
        """Tell whether its bytes are further over their budget than its time."""
        time, size = self._costs(trial)
        return size > time

    def _costs(self, trial: Trial) -> tuple[float, float]:
        budget = self.budget
        time = (1 + MARGIN) * self.milliseconds(trial) / budget.max_ms if budget.max_ms is not None else 0.0
        return time, trial.bytes / (1e6 * budget.max_mb) if budget.max_mb is not None else 0.0

    def keeps_outputs(self, trial: Trial) -> bool:
        """Tell whether a trial loses no more than was given; anything where nothing was given."""
        return self.budget.max_drop is None or self.budget.accepts(trial.drift)

    def within(self, trial: Trial) -> bool:
        """Tell whether a trial keeps every budget."""
        return self.costs(trial) <= 1 and self.keeps_outputs(trial)

    def best(self) -> Trial:
        """Give the fastest within the budgets, the nearer one of two that are as fast; else the nearest to them.

        With a time or a size to be kept there is no more to be gained by losing more than int8 may: what loses less
        comes first.
        """
        inside = [trial for trial in self.trials if self.within(trial)]
        if not inside:
            return self._nearest()
        near = [trial for trial in inside if self._no_matter.accepts(trial.drift)]
        if not near:
            return min(inside, key=lambda trial: (lost(trial), -trial.drift.sqnr_db))
        if self.foreign:  # times of this machine say nothing
            return min(near, key=lambda trial: trial.bytes)
        fastest = max(trial.speedup for trial in near)
        level = [trial for trial in near if trial.speedup >= fastest * (1 - SAME_SPEED)]
        return max(level, key=lambda trial: trial.drift.sqnr_db)

    @property
    def _no_matter(self) -> Budget:
        """What may be lost for nothing but more speed."""
        given = self.budget.max_drop
        if given is None or (self.budget.max_ms, self.budget.max_mb) == (None, None):
            return Budget(max_drop=given)
        return Budget(max_drop=min(MAX_DROP, given))

    def _nearest(self) -> Trial:
        limit = self.budget.max_drop
        cheap = [trial for trial in self.trials if self.costs(trial) <= 1]
        # What loses too much for few pictures, but not for certain, may well keep its budget on those of the report.
        unsure = [t for t in cheap if limit is not None and t.drift.low is not None and t.drift.low <= limit]
        if unsure:
            return min(unsure, key=lambda trial: (lost(trial), -trial.drift.sqnr_db))

        def over(trial: Trial) -> float:
            more = 0.0 if limit is None or self.keeps_outputs(trial) else max(lost(trial) - limit, 0.01)
            return max(self.costs(trial) - 1, 0.0) + POINT * more

        return min(self.trials, key=lambda trial: (over(trial), -trial.drift.sqnr_db))

    def close(self, bench: Workbench) -> Trial:
        """Take the best, say what it misses, and leave the table of all for the report."""
        taken = self.best()
        if not self.within(taken):
            bench.note(
                missed(self.budget, taken, (1 + MARGIN) * self.milliseconds(taken), near=self.keeps_outputs(taken))
            )
        if self.budget.max_ms is not None:
            bench.note(
                f"times were held against --max-ms with a margin of {100 * MARGIN:.0f} %, for the machine's noise"
            )
        if taken.drift.drop is not None and taken.drift.metric != "agreement":
            pictures = "what is to be expected, from the scores and the changed answers on"
            bench.note(f"losses of candidates are {pictures} {taken.drift.n} pictures")
        front = pareto(self.trials)
        bench.searched(
            [
                (trial, self.within(trial), trial in front, trial is taken)
                for trial in sorted(self.trials, key=lambda t: -t.speedup)
            ]
        )
        return taken


def lost(trial: Trial) -> float:
    """Give what a trial loses; where there is no score, what its noise makes of it: a point at 20 dB, ten at 10."""
    return trial.drift.drop if trial.drift.drop is not None else 10 ** (-trial.drift.sqnr_db / 10)


def record(trial: Trial) -> dict[str, Any]:
    """Write a trial down in plain values."""
    speed = None if trial.speed is None else vars(Timing.of(trial.speed))
    drift = vars(Nearness.of(trial.drift))
    return {**trial.decision, "name": trial.name, "bytes": trial.bytes, "speed": speed, "drift": drift}


def trial_of(values: Mapping[str, Any]) -> Trial:
    """Read what `record` wrote."""
    speed = None if values["speed"] is None else Timing(**values["speed"])
    decision = {name: values[name] for name in ("steps", "decisions", "effort")}
    return Trial(values["name"], decision, Nearness(**values["drift"]), values["bytes"], speed)
