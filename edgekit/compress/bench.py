"""The Workbench that `run.py` gives to the steps: what they may ask, answered by `measure`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from edgekit import __version__
from edgekit.cache import Cache
from edgekit.compress.quantize.form import AS_IS, after, as_run
from edgekit.compress.search import Budget
from edgekit.lazy import np
from edgekit.measure import anatomy, latency, machine, nodes, profile
from edgekit.measure.calibration import Calibration
from edgekit.measure.judge import Judge, Judged
from edgekit.report.report import Candidate

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto

    from edgekit.compress.search import Trial
    from edgekit.data.folder import Source
    from edgekit.measure.classes import Classes
    from edgekit.measure.evaluate import Objects
    from edgekit.measure.infer import Decision
    from edgekit.session import Feed

LATENCY_FEEDS = 8
_UNREADABLE = "unreadable pictures"
_RECORDS = "records"
# A comparison that only helps to choose takes this share of the time for choosing, within these bounds.
SHORT_SHARE, SHORTEST, LONGEST = 1 / 24, 0.8, 3.0
# Candidates are begun, made and tried, for this many times the time for trying them.
WHOLE = 3.5
MOST_ONCE = 2  # they hold whole models and their statistics
T = TypeVar("T")


@dataclass
class Bench:
    """Calibration feeds, held-back drift, whole-graph latency, and the notes that steps leave.

    `calibrate` and `choose` share no picture with each other or with the report. `pictures` are those of `choose`, with
    `classes` or `objects` where they have labels. `seconds` is for trying candidates, all steps together. `replay`
    holds what an earlier run decided, by step. `run` is a digest of all that this run was told: what it keeps in the
    cache is for the same one, begun again.
    """

    calibrate: Calibration
    choose: Calibration
    int8: str
    here: str = ""  # the int8 instructions of this machine; `int8` are those that the model is for
    pictures: tuple[Source, ...] = ()
    decision: Decision | None = None
    classes: Classes | None = None
    objects: Objects | None = None
    seed: int = 0
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    threads: int = 1
    cores: int = 1
    seconds: float = 60.0
    budget: Budget = field(default_factory=Budget)
    replay: Sequence[Mapping[str, Any]] = ()
    max_bytes: int = 512_000_000
    form: str = AS_IS
    effort: float = 1.0
    cache: Cache = field(default_factory=Cache)
    run: str = ""
    say: Callable[[str], None] = lambda text: None
    progress: Callable[[int, int], None] = lambda done, total: None
    notes: list[str] = field(default_factory=list)
    decisions: list[str] = field(default_factory=list)
    settlements: list[dict[str, Any]] = field(default_factory=list)
    trials: list[Candidate] = field(default_factory=list)
    _as_run: Callable[[ModelProto], ModelProto] = lambda model: model
    _judge: tuple[ModelProto, Judge] | None = None
    _spent: float = 0.0
    _begun: float = field(default_factory=time.monotonic)
    _kept: list[Mapping[str, Any]] | None = None
    _once: dict[str, Any] = field(default_factory=dict)

    @property
    def foreign(self) -> bool:
        """Whether the model is for another architecture than this machine's: ARM on x86, or the other way round."""
        return bool(self.here) and self.int8.startswith("arm") != self.here.startswith("arm")

    def begin(self, following: Sequence[str] = ()) -> None:
        """Begin the next step, behind which those of these names come; what it decides has a place of its own."""
        self.settlements.append({})
        self.form = after(following)
        self._as_run = as_run(self.form, self, self._node_times)

    def feeds(self, samples: int) -> Iterator[Feed]:
        """Give at most `samples` calibration inputs, always the same ones in the same order."""
        total = min(samples, self.calibrate.count)
        for done, feed in enumerate(islice(iter(self.calibrate), samples), 1):
            yield feed
            self.progress(done, total)

    def remember(self, key: str, make: Callable[[], Mapping[str, np.ndarray]]) -> Mapping[str, np.ndarray]:
        """Give what `make` makes of the calibration inputs, from the cache where an earlier run left it."""
        here = machine.describe()
        facts = [key, self.calibrate.digest, __version__, here.cpu, here.int8, here.versions, self.threads]

        def made() -> dict[str, np.ndarray]:
            arrays = make()
            unreadable = json.dumps(self.calibrate.unreadable).encode()
            return {**arrays, _UNREADABLE: np.frombuffer(unreadable, np.uint8)}

        found = dict(self.cache.remember(json.dumps(facts, sort_keys=True), made))
        self.calibrate.unreadable.update(json.loads(found.pop(_UNREADABLE).tobytes()))
        return found

    def once(self, key: str, make: Callable[[], T]) -> T:
        """Give what `make` gives, or gave under the same key, if that was one of the last few."""
        found: T = self._once.pop(key) if key in self._once else make()
        self._once[key] = found
        while len(self._once) > MOST_ONCE:
            del self._once[next(iter(self._once))]
        return found

    def latency_feeds(self) -> Sequence[Feed]:
        """Give the few inputs that latency is measured on."""
        return list(islice(iter(self.choose), LATENCY_FEEDS))

    def drift(self, before: ModelProto, after: ModelProto, most: int | None = None) -> Judged:
        """Compare outputs on the held-back inputs, at most `most` of them."""
        if self._judge is None or self._judge[0] is not before:
            facts = (self.pictures, self.decision, self.classes, self.objects, self.cores)
            self._judge = (before, Judge(before, self.choose, *facts))
        return self._judge[1].judge(after, most)

    def speed(self, before: ModelProto, after: ModelProto) -> latency.Comparison:
        """Compare latency, shortly."""
        started = time.monotonic()
        feeds = self.latency_feeds()
        openers = [latency.session_runner(self._as_run(model), feeds, self.threads) for model in (before, after)]
        found = latency.compare(*openers, seconds=self._short(), seed=self.seed, threads=self.threads)
        self._spent += time.monotonic() - started
        return found

    def node_times(self, model: ModelProto) -> Mapping[str, float]:
        """Time the nodes of a model; what onnxruntime put between them is left out."""
        return self._node_times(self._as_run(model))

    def _node_times(self, model: ModelProto) -> Mapping[str, float]:
        running = nodes.as_run(model)
        owners = anatomy.owner_names(model, running)
        found: dict[str, float] = {}
        seconds = self._short()
        for node in profile.time_nodes(running, self.latency_feeds(), threads=self.threads, seconds=seconds):
            if node.name in owners:
                found[owners[node.name]] = found.get(owners[node.name], 0.0) + 1000 * node.ms
        return found

    def has_time(self) -> bool:
        """Tell whether the time to measure candidates is not over yet; making them does not count."""
        return self._spent < self.seconds

    def remaining(self) -> float:
        """Give the seconds for which candidates may still be begun."""
        return self._begun + WHOLE * self.seconds - time.monotonic()

    def _short(self) -> float:
        return min(LONGEST, max(SHORTEST, SHORT_SHARE * self.seconds))

    def settled(self, name: str) -> Any:
        """Give what the recipe that is replayed decided in this step."""
        step = len(self.settlements) - 1
        return self.replay[step].get(name) if 0 <= step < len(self.replay) else None

    def settle(self, name: str, value: Any) -> None:
        """Record a decision of this step."""
        if self.settlements:
            self.settlements[-1][name] = value

    def searched(self, trials: Sequence[tuple[Trial, bool, bool, bool]]) -> None:
        """Keep what was tried, for the report."""
        for trial, within, pareto, chosen in trials:
            speed, drift = trial.speed, trial.drift
            self.trials.append(
                Candidate(
                    name=trial.name,
                    speedup=speed.speedup if speed is not None else None,
                    low=speed.low if speed is not None else None,
                    high=speed.high if speed is not None else None,
                    bytes=trial.bytes,
                    sqnr_db=drift.sqnr_db,
                    drop=drift.drop,
                    within=within,
                    pareto=pareto,
                    chosen=chosen,
                )
            )

    def kept(self) -> Sequence[Mapping[str, Any]]:
        """Give what was kept of this run, and of the same one when it was cut off."""
        if self._kept is None:
            found = self.cache.find(self._journal) or {}
            self._kept = json.loads(found[_RECORDS].tobytes()) if _RECORDS in found else []
        return self._kept

    def keep(self, record: Mapping[str, Any]) -> None:
        """Keep plain values, should the run be cut off and begun again."""
        self._kept = [*self.kept(), record]
        records = json.dumps(self._kept).encode()
        self.cache.keep(self._journal, {_RECORDS: np.frombuffer(records, np.uint8)})

    def forget(self) -> None:
        """Keep nothing any more: the run is finished."""
        self._kept = []
        self.cache.forget(self._journal)

    @property
    def _journal(self) -> str:
        return f"journal {self.run} {self.threads}"

    def note(self, text: str) -> None:
        """Keep a sentence for the report."""
        self.notes.append(text)

    def decide(self, text: str) -> None:
        """Keep what an automatic step chose, in a few words, for the report's first line."""
        self.decisions.append(text)
