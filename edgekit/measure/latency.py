"""Latency of two models compared so that the machine's own noise is not mistaken for a difference.

Both models run in one process on the same inputs. Single runs are timed in blocks ABBA or BAAB, in seeded random order,
so that drift hits both alike. Two fresh sessions of one model differ by a steady 0-1%, now and then by 6%, which no
number of runs averages out; so both sessions are opened anew many times, and the interval is taken over those session
pairs. A neighbour on the machine makes runs slower, never faster: a block is summed up by the lower quartile of its
runs, a pair by the median of its blocks, all pairs by their interquartile mean. And sessions of one thread are compared
by that thread's CPU time, which leaves out the time they wait for a busy processor: on a machine with twice as many
tasks as CPUs the ratio of a 13 ms model scattered by 2% a block instead of 13%.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from edgekit.errors import EdgekitError
from edgekit.lazy import np, onnx, ort
from edgekit.measure.histogram import Histogram, histogram
from edgekit.session import open_session, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import numpy as np

    from edgekit.session import Feed

    Runner = Callable[[], object]
    Opener = Callable[[], Runner]
    Clock = Callable[[], float]

DEFAULT_SECONDS = 8.0
FASTER_ABOVE, SLOWER_BELOW = 1.02, 0.98
"""The whole interval of the speed-up must lie above or below for a verdict."""

_MIN_PAIRS = 6  # session pairs before the interval's width may end the measurement
_PAIRS_PLANNED = 16  # the budget is cut into this many session pairs
_MIN_BLOCKS = 3  # in a session pair; in the first one budget or not
_SLOT_SECONDS = 2e-3  # runs of one model in a row take about this long: long enough to refill the caches
_WARM_RUNS, _WARM_SPREAD = 10, 0.05
_WARM_SECONDS, _WARM_SHARE = 1.5, 0.15  # longest warm-up: in seconds, and as a share of the time it prepares
_FEW_PAIRS, _SESSION_SPREAD = 4, 0.02  # below so many pairs the interval is widened by the spread over their number
_RESAMPLES = 2000
_Z = 1.959963984540054  # 97.5% point of the normal distribution, then of Student's t with 1, 2, ... degrees of freedom
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)

Verdict = Literal["faster", "slower", "no difference shown"]


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one inference over `runs` single runs, disturbed ones included."""

    median_ms: float
    p90_ms: float
    p99_ms: float
    min_ms: float
    runs: int


@dataclass(frozen=True)
class Comparison:
    """Latency of two models on the same inputs.

    `speedup`: time before over time after, above 1 when `after` is faster, with its interval `low`..`high`; taken from
    interleaved blocks, so on a busy machine it is more exact than the ratio of the medians. `ratio_of`: what was
    divided, "cpu" time for sessions of one thread. `seconds`: time it took. `pairs`: fresh pairs of sessions; `blocks`:
    ABBA blocks over all of them.
    """

    before: Latency
    after: Latency
    speedup: float
    low: float
    high: float
    verdict: Verdict
    seconds: float
    threads: int
    pairs: int
    blocks: int
    seed: int
    ratio_of: Literal["cpu", "wall"] = "wall"
    confidence: float = 0.95
    distribution: Histogram | None = None  # of single runs, in milliseconds

    @property
    def after_ms(self) -> float:
        """Median milliseconds of one inference, after."""
        return self.after.median_ms

    @property
    def half_width(self) -> float:
        """Half the width of the interval, relative to the speed-up: 0.02 means plus or minus 2%."""
        return math.sqrt(self.high / self.low) - 1

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class LoadTimes:
    """Median milliseconds to create a session, over `openings` of each model."""

    before_ms: float
    after_ms: float
    openings: int


@dataclass(frozen=True)
class SessionRunner:
    """Opener for `compare`: each call opens a session of `model` and returns a function that runs the next feed."""

    model: bytes | str | Path
    feeds: Sequence[Feed]
    threads: int

    def __call__(self) -> Runner:
        """Open a session. Raises EdgekitError when the model does not load."""
        return _runs(open_session(self.model, threads=self.threads), self.feeds).__next__


class _Clocks(NamedTuple):
    wall: Clock
    busy: Clock  # what the ratio is taken of


@dataclass(frozen=True)
class _Plan:
    """How long one session pair may take, in seconds of the clock."""

    warm: float  # longest warm-up
    wanted: float  # time for blocks
    deadline: float
    least_blocks: int  # measured even past the deadline


@dataclass
class _Pair:
    """What one pair of fresh sessions was measured to take: wall seconds of single runs, log ratios of blocks."""

    before: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    log_ratios: list[float] = field(default_factory=list)  # log(before / after), one a block


def compare(
    open_before: Opener,
    open_after: Opener,
    *,
    seconds: float = DEFAULT_SECONDS,
    seed: int = 0,
    clock: Clock = time.perf_counter,
    half_width: float = 0.02,
    threads: int | None = None,
) -> Comparison:
    """Measure how much faster `after` is than `before`.

    Each opener opens a fresh session and returns a function that runs one inference. `seconds` bounds openings, warm-up
    and runs together, except that one pair of sessions and three blocks are always measured; it ends sooner, after at
    least six pairs, once the interval (see `interval`) is within +-`half_width`, a fraction. `seed` fixes every order;
    `clock` gives seconds. `threads` is only recorded; None takes the number from openers made by `session_runner`.
    """
    of_sessions = [opener.threads for opener in (open_before, open_after) if isinstance(opener, SessionRunner)]
    by_cpu = of_sessions == [1, 1] and clock is time.perf_counter and _ticks_finely(time.thread_time)
    clocks = _Clocks(clock, time.thread_time if by_cpu else clock)
    rng = random.Random(seed)
    opening_orders, block_orders = _balanced_coin(rng), _balanced_coin(rng)
    start = clock()
    deadline = start + seconds
    share = seconds / _PAIRS_PLANNED
    plan = _Plan(min(_WARM_SECONDS, _WARM_SHARE * seconds), share, deadline, _MIN_BLOCKS)
    pairs: list[_Pair] = []
    cheapest = math.inf
    while True:
        opened = clock()
        runners = _open_pair(open_before, open_after, before_first=next(opening_orders))
        pairs.append(_measure_pair(*runners, block_orders, clocks, plan))
        del runners  # closes the sessions, so that the next pair finds the memory free
        plan = _Plan(_WARM_SHARE * share, share, deadline, 1)
        cheapest = min(cheapest, clock() - opened)
        if clock() + cheapest > deadline or _is_narrow(pairs, seed, half_width):
            break
    low, middle, high = (math.exp(value) for value in interval([pair.log_ratios for pair in pairs], seed))
    runs = [1e3 * np.concatenate(one) for one in zip(*((pair.before, pair.after) for pair in pairs), strict=True)]
    return Comparison(
        before=_latency(runs[0]),
        after=_latency(runs[1]),
        speedup=middle,
        low=low,
        high=high,
        verdict="faster" if low > FASTER_ABOVE else "slower" if high < SLOWER_BELOW else "no difference shown",
        seconds=clock() - start,
        threads=threads or max(of_sessions, default=1),
        pairs=len(pairs),
        blocks=sum(len(pair.log_ratios) for pair in pairs),
        seed=seed,
        ratio_of="cpu" if by_cpu else "wall",
        distribution=histogram(*runs),
    )


def session_runner(
    model: onnx.ModelProto | bytes | str | Path, feeds: Sequence[Feed], threads: int = 1
) -> SessionRunner:
    """Return an opener for `compare` that runs sessions of `model` on `feeds` in turn, for ever.

    Inputs are bound once (IOBinding), which takes 1-5% less than `session.run` on a 0.2 ms model and jitters less.
    Raises EdgekitError without feeds; so does the opener when the model does not load, and the first run when the feeds
    do not fit.
    """
    if not feeds:
        raise EdgekitError("there are no inputs to time the model with", "give pictures, or inputs with --feeds")
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    return SessionRunner(source, feeds, threads)


def load_times(
    open_before: Callable[[], object],
    open_after: Callable[[], object],
    *,
    openings: int = 5,
    clock: Clock = time.perf_counter,
) -> LoadTimes:
    """Return the median time to create a session of each model, from `openings` > 0 interleaved ones of each."""
    times: tuple[list[float], list[float]] = ([], [])
    for index in range(openings):
        for which in (0, 1) if index % 2 else (1, 0):
            start = clock()
            session = (open_before, open_after)[which]()
            times[which].append(clock() - start)
            del session  # the next opening shall find the memory free
    before_ms, after_ms = (1e3 * statistics.median(each) for each in times)
    return LoadTimes(before_ms, after_ms, openings)


def interval(log_ratios: Sequence[Sequence[float]], seed: int = 0) -> tuple[float, float, float]:
    """Return (low, estimate, high) of the log ratio, with 95% confidence, from those of blocks grouped by session pair.

    The estimate is the interquartile mean of the pairs' medians. The interval is a cluster bootstrap over pairs, blocks
    kept together (Davison and Hinkley 1997, Bootstrap Methods, 3.8), with percentiles expanded for their small number
    (Hesterberg 2015, Am. Stat. 69:371): on A/A runs recorded here, quiet and loaded, it held the truth in 91-99% with
    six to twelve pairs. Fewer show too little of their spread: then blocks are resampled too, which errs on the wide
    side. Three pairs, two and one also get 0.7%, 1% and 2% added, and the blocks of a single one stand for pairs.
    """
    groups = [np.sort(np.asarray(group, np.float64)) for group in log_ratios]
    widen = _SESSION_SPREAD / len(groups) if len(groups) < _FEW_PAIRS else 0.0
    if len(groups) == 1:
        groups = [groups[0][i : i + 1] for i in range(len(groups[0]))]
    n = len(groups)
    medians = np.array([[np.median(group)] for group in groups])
    estimate = float(_interquartile_mean(medians)[0])
    rng = np.random.default_rng(seed)
    if n < _MIN_PAIRS:
        medians = np.stack([_resampled_medians(group, rng) for group in groups])
    pick = rng.integers(n, size=(n, _RESAMPLES))
    resampled = _interquartile_mean(medians[pick, rng.integers(medians.shape[1], size=(n, _RESAMPLES))])
    tail = statistics.NormalDist().cdf(-_student(n - 1) * math.sqrt(n / (n - 1))) if n > 1 else 0.0
    low, high = (float(value) for value in np.quantile(resampled, [tail, 1 - tail]))
    # The estimate lies outside only when next to nothing was measured.
    return min(low, estimate) - widen, estimate, max(high, estimate) + widen


def _resampled_medians(group: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the medians of resamples of the sorted `group`: (n,) -> (resamples,).

    The median of n draws is the value at the median of n uniform ranks, and that is Beta((n + 1) / 2, (n + 1) / 2).
    """
    n = len(group)
    ranks = rng.beta((n + 1) / 2, (n + 1) / 2, _RESAMPLES) * n
    return np.asarray(group[np.minimum(ranks.astype(int), n - 1)])


def _is_narrow(pairs: Sequence[_Pair], seed: int, half_width: float) -> bool:
    if len(pairs) < _MIN_PAIRS:
        return False
    low, _, high = interval([pair.log_ratios for pair in pairs], seed)
    return (high - low) / 2 < half_width


def _open_pair(open_before: Opener, open_after: Opener, *, before_first: bool) -> tuple[Runner, Runner]:
    # Which one is opened first decides where it lies in memory.
    if before_first:
        before = open_before()
        return before, open_after()
    after = open_after()
    return open_before(), after


def _measure_pair(before: Runner, after: Runner, block_orders: Iterator[bool], clocks: _Clocks, plan: _Plan) -> _Pair:
    pair = _Pair()
    runs = _warm_up(before, after, clocks, plan.warm)
    start = clocks.wall()
    while True:
        _time_block(pair, before, after, runs, clocks, before_outside=next(block_orders))
        done, now = len(pair.log_ratios), clocks.wall()
        in_time = done >= _MIN_BLOCKS and now - start >= plan.wanted
        too_late = done >= plan.least_blocks and now >= plan.deadline
        if in_time or too_late:
            return pair


def _warm_up(before: Runner, after: Runner, clocks: _Clocks, longest: float) -> int:
    """Run both in turn until steady or `longest` seconds are over; return how many runs make a slot."""
    times: tuple[list[float], list[float]] = ([], [])
    end = clocks.wall() + longest
    while not times[0] or (clocks.wall() < end and not all(_steady(each) for each in times)):
        for runner, each in zip((before, after), times, strict=True):
            each.append(_timed(runner, clocks)[1])
    fast, slow = sorted(max(statistics.median(each[-_WARM_RUNS:]), 1e-9) for each in times)
    # Both get the same number of runs, so that they see the same inputs; of very unequal models the slower one counts.
    return max(1, round(_SLOT_SECONDS / slow), round(_SLOT_SECONDS / 10 / fast))


def _steady(times: list[float]) -> bool:
    last = times[-_WARM_RUNS:]
    middle = statistics.median(last)
    return len(last) == _WARM_RUNS and all(abs(each - middle) <= _WARM_SPREAD * middle for each in last)


def _time_block(
    pair: _Pair, before: Runner, after: Runner, runs: int, clocks: _Clocks, *, before_outside: bool
) -> None:
    """Time slots of `runs` runs in the order ABBA, or BAAB, and add them to `pair`."""
    busy: tuple[list[float], list[float]] = ([], [])
    for inside in (False, True, True, False):
        which = int(inside == before_outside)
        runner, walls = (after, pair.after) if which else (before, pair.before)
        for _ in range(runs):
            wall_seconds, busy_seconds = _timed(runner, clocks)
            walls.append(wall_seconds)
            busy[which].append(busy_seconds)
    lower_quartiles = [max(sorted(each)[(len(each) - 1) // 4], 1e-9) for each in busy]
    pair.log_ratios.append(math.log(lower_quartiles[0] / lower_quartiles[1]))


def _timed(runner: Runner, clocks: _Clocks) -> tuple[float, float]:
    """Run once; return (wall, busy) seconds."""
    wall, busy = clocks.wall(), clocks.busy()
    runner()
    busy_end = clocks.busy()
    return clocks.wall() - wall, busy_end - busy


def _ticks_finely(clock: Clock) -> bool:
    """Tell whether `clock` moves in steps of 20 us or less; CPU time does not on Windows and in some sandboxes."""
    first = second = third = clock()
    while second == first:
        second = third = clock()
    while third == second:
        third = clock()
    return third - second <= 20e-6


def _interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean of the middle half of each column: (n, columns) -> (columns,)."""
    cut = len(values) // 4
    middle: np.ndarray = np.sort(values, axis=0)[cut : len(values) - cut]
    return np.asarray(middle.mean(axis=0))


def _student(freedom: int) -> float:
    """Return the 97.5% point of Student's t; beyond the table by its Cornish-Fisher series, exact to 0.001."""
    if freedom <= len(_STUDENT):
        return _STUDENT[freedom - 1]
    return _Z + (_Z**3 + _Z) / (4 * freedom) + (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / (96 * freedom**2)


def _latency(times: np.ndarray) -> Latency:
    median, p90, p99 = (float(value) for value in np.percentile(times, [50, 90, 99]))
    return Latency(median_ms=median, p90_ms=p90, p99_ms=p99, min_ms=float(times.min()), runs=len(times))


def _balanced_coin(rng: random.Random) -> Iterator[bool]:
    """Yield random booleans, of which every two in a row hold one True."""
    while True:
        side = rng.random() < 0.5
        yield side
        yield not side


def _runs(session: Any, feeds: Sequence[Feed]) -> Iterator[None]:
    """Run one inference a step. The first goes the plain way, which says what is wrong with a feed."""
    run(session, feeds[0])
    yield
    bindings = [_bind(session, feed) for feed in feeds]
    while True:
        for binding in bindings:
            session.run_with_iobinding(binding)
            yield


def _bind(session: Any, feed: Feed) -> Any:
    binding = session.io_binding()
    for name, value in feed.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value)))
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return binding
