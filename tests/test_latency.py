from __future__ import annotations

import itertools
import json
import math
import random
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.errors import EdgekitError
from edgekit.measure.latency import Comparison, compare, interval, load_times, session_runner


class Bench:
    """A machine with a clock of its own: runners advance it by their time, with seeded noise, drift and outliers."""

    def __init__(
        self, seed, *, run=1e-3, slower=1.0, sessions=0.005, noise=0.02, outliers=0.1, drift=0.0, opening=0.02
    ):
        self.random, self.now = random.Random(seed), 0.0
        self.run, self.slower, self.opening = run, slower, opening
        self.sessions, self.noise, self.outliers, self.drift = sessions, noise, outliers, drift
        self.open_sessions = 0

    def clock(self):
        return self.now

    def opener(self, seconds):
        def open_session():
            self.now += self.opening
            own = seconds * math.exp(self.random.gauss(0, self.sessions))

            def run():
                took = own * math.exp(abs(self.random.gauss(0, self.noise))) * (1 + self.drift * self.now)
                if self.random.random() < self.outliers:
                    took += self.random.expovariate(1 / 3e-3)  # another process got the CPU
                self.now += took

            return run

        return open_session

    def compare(self, **options) -> Comparison:
        before, after = self.opener(self.run), self.opener(self.run * self.slower)
        return compare(before, after, clock=self.clock, **options)


MACHINES = [
    pytest.param({}, id="usual"),
    pytest.param({"noise": 0.05, "outliers": 0.4}, id="loaded"),
    pytest.param({"sessions": 0.01}, id="unequal sessions"),
    pytest.param({"drift": 0.05}, id="drift"),
    pytest.param({"run": 2e-4}, id="quick model"),
    pytest.param({"run": 1.5e-2}, id="slow model"),
]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("seconds", [2.0, 8.0])
def test_a_model_against_itself_is_never_called_different(machine, seconds):
    verdicts = [Bench(seed, **machine).compare(seconds=seconds, seed=seed).verdict for seed in range(20)]
    assert verdicts == ["no difference shown"] * 20


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("slower", "expected"), [(1.10, "slower"), (1 / 1.10, "faster")])
def test_ten_percent_is_called(machine, slower, expected):
    verdicts = [Bench(seed, slower=slower, **machine).compare(seed=seed).verdict for seed in range(10)]
    assert verdicts.count(expected) >= 9


def test_five_percent_is_called_on_a_usual_machine():
    verdicts = [Bench(seed, slower=1.05).compare(seed=seed).verdict for seed in range(20)]
    assert verdicts.count("slower") >= 18


@pytest.mark.parametrize("machine", MACHINES)
def test_interval_holds_the_truth_in_nine_of_ten(machine):
    slower = 1.3
    results = [Bench(seed, slower=slower, **machine).compare(seconds=4.0, seed=seed) for seed in range(120)]
    held = sum(result.low <= 1 / slower <= result.high for result in results)
    assert held >= 0.9 * 120
    assert all(result.low <= result.speedup <= result.high for result in results)


def test_drift_cancels():
    # The machine gets 80% slower within the measurement; without noise only the drift is left.
    result = Bench(0, drift=0.1, noise=0.0, outliers=0.0, sessions=0.0, slower=1.2).compare()
    assert result.speedup == pytest.approx(1 / 1.2, rel=1e-3)
    assert result.after.median_ms > 1.2


@pytest.mark.parametrize("seconds", [0.5, 2.0, 8.0])
@pytest.mark.parametrize("run", [1e-4, 1e-3, 2e-2])
def test_budget_is_respected(seconds, run):
    result = Bench(1, run=run, noise=0.3, outliers=0.5).compare(seconds=seconds, half_width=0.0)
    assert result.seconds <= seconds + 0.1
    assert result.seconds >= 0.5 * seconds


def test_a_model_slower_than_the_budget_is_still_measured_in_few_runs():
    result = Bench(1, run=3.0, slower=2.0).compare(seconds=2.0)
    assert (result.pairs, result.blocks, result.before.runs) == (1, 3, 6)
    assert result.verdict == "slower"


def test_it_ends_early_when_the_interval_is_narrow():
    result = Bench(1, noise=0.005, outliers=0.0, sessions=0.001).compare(seconds=60.0)
    assert result.seconds < 30
    assert result.pairs >= 6
    assert result.half_width < 0.02


def test_sessions_that_differ_widen_the_interval():
    steady, unequal = (Bench(3, sessions=spread).compare(half_width=0.0) for spread in (0.001, 0.03))
    assert unequal.half_width > 3 * steady.half_width


def test_same_seed_same_result():
    assert Bench(5).compare(seed=9) == Bench(5).compare(seed=9)
    assert Bench(5).compare(seed=9) != Bench(5).compare(seed=10)


def test_only_one_pair_of_sessions_is_open():
    alive = []

    class Session:
        def __init__(self, bench):
            self.bench = bench
            alive.append(1)

        def __call__(self):
            self.bench.now += 1e-3

        def __del__(self):
            alive.pop()

    bench, most = Bench(0), []

    def open_session():
        bench.now += 0.01
        session = Session(bench)
        most.append(len(alive))
        return session

    compare(open_session, open_session, clock=bench.clock)
    assert max(most) == 2
    assert not alive


def test_result_is_plain_numbers():
    result = Bench(0).compare()
    assert json.loads(json.dumps(result.to_dict()))["before"]["runs"] == result.before.runs
    assert result.before.min_ms <= result.before.median_ms <= result.before.p90_ms <= result.before.p99_ms
    assert result.confidence == 0.95
    assert result.ratio_of == "wall"


def test_very_unequal_models():
    result = Bench(0, run=2e-2, slower=1 / 200).compare()
    assert result.speedup == pytest.approx(200, rel=0.02)


def test_interval_of_few_pairs_is_wide():
    # One pair: its blocks stand for pairs, and what sessions differ by is added.
    low, middle, high = interval([[0.1, 0.1, 0.1]])
    assert (low, middle, high) == pytest.approx((0.08, 0.1, 0.12))
    two = interval([[0.0, 0.01], [0.05, 0.06]])
    assert two[0] <= -0.01 + 1e-9
    assert two[2] >= 0.07 - 1e-9


def test_load_times_are_medians_and_alternate():
    bench, order = Bench(0), []

    def opener(name, seconds):
        def open_session():
            order.append(name)
            bench.now += seconds * (10 if len(order) == 1 else 1)  # the very first opening pays for the cold disk

        return open_session

    result = load_times(opener("before", 0.02), opener("after", 0.01), clock=bench.clock)
    assert (result.before_ms, result.after_ms, result.openings) == (pytest.approx(20), pytest.approx(10), 5)
    assert order[:4] == ["after", "before", "before", "after"]


def _chain(length: int) -> onnx.ModelProto:
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(64, 64)))[0].astype(np.float32)
    names = ["x", *(f"h{i}" for i in range(length - 1)), "y"]
    nodes = [helper.make_node("MatMul", [a, "turn"], [b]) for a, b in itertools.pairwise(names)]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 64]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "chain", value[:1], value[1:], [numpy_helper.from_array(turn, "turn")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


FEEDS = [{"x": np.random.default_rng(seed).normal(size=(32, 64)).astype(np.float32)} for seed in range(3)]


def test_real_sessions():
    start = time.perf_counter()
    result = compare(session_runner(_chain(40), FEEDS), session_runner(_chain(20), FEEDS), seconds=1.0)
    assert time.perf_counter() - start < 5
    assert result.verdict == "faster"
    assert result.speedup == pytest.approx(2, rel=0.3)
    assert result.threads == 1


def test_session_runner_takes_bytes_and_paths_and_counts_threads(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(_chain(2), path)
    before, after = session_runner(path, FEEDS, threads=2), session_runner(path.read_bytes(), FEEDS, threads=2)
    result = compare(before, after, seconds=0.1)
    assert result.threads == 2
    assert result.ratio_of == "wall"  # CPU time of the calling thread would be a part only


def test_session_runner_says_what_does_not_fit():
    with pytest.raises(EdgekitError, match="no inputs"):
        session_runner(_chain(1), [])
    with pytest.raises(EdgekitError, match="cannot run on the inputs"):
        session_runner(_chain(1), [{"x": np.zeros((1, 5), np.float32)}])()()
    with pytest.raises(EdgekitError, match="cannot load"):
        session_runner(b"no model", FEEDS)()
