"""The search: what is near enough, what no other beats, and which one is taken under a budget."""

import itertools

import pytest

from edgekit.compress.search import Budget, Search, Trial, pareto
from nets import Answer, Bench, residual


def trial(name, speedup, sqnr_db, size=1_000_000, kind="static", **more):
    answer = Answer(sqnr_db=sqnr_db, speedup=speedup, verdict="faster" if speedup > 1.02 else "slower", **more)
    return Trial(name, {"kind": kind}, answer, size, answer)


def search(*trials, **budget):
    model = residual()
    made = Search(model, Bench(model, budget=Budget(**budget)))
    made.trials += trials
    return made


def test_near_enough():
    plain = Budget()
    assert not plain.accepts(Answer(sqnr_db=float("nan")))
    assert plain.accepts(Answer(sqnr_db=25)) and not plain.accepts(Answer(sqnr_db=19))
    assert plain.accepts(Answer(sqnr_db=3, drop=0.01, low=0.01, metric="agreement"))
    assert plain.accepts(Answer(sqnr_db=25, drop=0.1, low=0.1, metric="agreement"))
    assert not plain.accepts(Answer(sqnr_db=12, drop=0.1, low=0.1, metric="agreement"))
    assert not Budget(max_drop=0.05).accepts(Answer(sqnr_db=25, drop=0.1, low=0.1, metric="agreement"))
    assert Budget(max_drop=0.2).accepts(Answer(sqnr_db=5, drop=0.1, low=0.1, metric="top-1"))


def test_labels_outweigh_the_outputs_as_far_as_they_are_sure():
    plain = Budget()
    assert plain.accepts(Answer(sqnr_db=5, drop=0.0, low=-0.02, metric="top-1"))
    assert not plain.accepts(Answer(sqnr_db=25, drop=0.05, low=0.02, metric="top-1"))
    assert plain.accepts(Answer(sqnr_db=25, drop=0.05, low=0.0, metric="top-1"))
    assert not plain.accepts(Answer(sqnr_db=15, drop=0.05, low=0.0, metric="top-1"))


def test_the_pareto_set_is_what_nothing_beats():
    trials = [
        trial(f"{speed} {db} {size}", speed, db, size)
        for speed, db, size in itertools.product((1.0, 1.5, 2.0), (10, 20, 30), (1, 2))
    ]
    front = pareto(trials)
    for one in trials:
        beaten = any(
            other.speedup >= one.speedup
            and other.drift.sqnr_db >= one.drift.sqnr_db
            and other.bytes <= one.bytes
            and (other.speedup, other.drift.sqnr_db, other.bytes) != (one.speedup, one.drift.sqnr_db, one.bytes)
            for other in trials
        )
        assert (one in front) != beaten
    assert [one.name for one in front] == ["2.0 30 1"]


def test_the_fastest_within_the_budget():
    stored = trial("stored", 1.0, 40, 400_000, "stored")
    fast, near = trial("fast", 2.0, 15), trial("near", 1.5, 25)
    assert search(stored, fast, near).best() is near
    assert search(stored, fast).best() is stored
    assert search(stored, trial("level", 1.5, 22), near).best() is near
    assert search(stored, fast, near, max_mb=0.5).best() is stored


def test_what_is_not_faster_is_not_taken():
    stored, slow = trial("stored", 0.99, 40, kind="stored"), trial("slow", 1.01, 45)
    assert search(slow, stored).best() is stored


@pytest.mark.parametrize("budget", [{"max_ms": 0.5}, {"max_mb": 0.1}])
def test_the_nearest_when_no_budget_can_be_met(budget):
    stored = trial("stored", 1.0, 40, 400_000, "stored", after_ms=1.0)
    quick = trial("quick", 1.9, 25, 900_000, after_ms=0.6)
    made = search(stored, quick, **budget)
    assert not any(made.within(each) for each in made.trials)
    assert made.best() is (quick if "max_ms" in budget else stored)


def test_the_first_are_always_timed_and_then_only_while_there_is_time():
    model = residual()
    bench = Bench(model)
    bench.has_time = lambda: False
    made = Search(model, bench)
    for name in "abc":
        assert made.enter(name, model, {"kind": "stored"}).speed is not None
    assert made.enter("d", model, {"kind": "static"}).speed is None
    assert made.best().name == "a"
