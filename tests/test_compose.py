"""The search over compositions: a made-up world beside all it could have tried, small nets, and the command."""

import itertools
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nets
from conftest import SAMPLES
from edgekit import graph
from edgekit.compress import compose
from edgekit.compress import maker as making
from edgekit.compress.compose import Explorer, search
from edgekit.compress.front import MARGIN, Front, Nearness, Timing, record, trial_of
from edgekit.compress.maker import Made, Maker
from edgekit.compress.method import STEPS, Method
from edgekit.compress.search import Budget, Trial
from edgekit.errors import EdgekitError
from edgekit.measure import latency
from edgekit.report import charts, drawings
from edgekit.spec import option, spec

TRAIN, VAL = SAMPLES / "fashion" / "train", SAMPLES / "fashion" / "val"
SECONDS = 240.0


@dataclass
class Bench(nets.Bench):
    """A Workbench whose time passes by candidates, and which keeps what it is told to."""

    records: list = field(default_factory=list)
    said: list = field(default_factory=list)
    left: float = SECONDS

    def remaining(self):
        return self.left

    def kept(self):
        return self.records

    def keep(self, values):
        self.records.append(json.loads(json.dumps(values)))

    def say(self, text):
        self.said.append(text)


# ---- a world in which every candidate's figures are known


@dataclass(frozen=True)
class World:
    """What int8 gains, what it and pruning lose, how much pruning gives of what it is asked for."""

    ms: float = 10.0
    eight: float = 2.0
    lost: float = 0.004
    slope: float = 0.1
    gives: float = 1.0

    def trial(self, steps):
        speed, drop, size = 1.0, 0.0, 1_000_000
        for step in steps:
            name, _, value = step.partition(" ")
            if name == "sparsity":  # stands for a step of some strength
                share = float(value) * self.gives
                speed, drop, size = speed / (1 - share), drop + self.slope * share**2, size * (1 - share)
            elif name == "int8":
                speed, drop, size = speed * self.eight, drop + self.lost, size * 0.3
            else:
                size *= {"int8-weights": 0.28, "fp16": 0.5}[name]
        timing = Timing(speed, speed * 0.99, speed * 1.01, "faster" if speed > 1.02 else "slower", self.ms / speed)
        near = Nearness(30.0 - 1000 * drop, None, drop, drop, "agreement", 100)
        plain = [STEPS.parse(step).to_dict() for step in steps]
        decision = {"steps": plain, "decisions": [{}] * len(steps), "effort": 1.0}
        return Trial(" + ".join(steps), decision, near, round(size), timing)

    def all(self):
        """Every composition of every strength."""
        strengths = [None, *(number / 100 for number in range(5, 81))]
        for strength, rest in itertools.product(strengths, ((), ("int8",), ("int8-weights",), ("fp16",))):
            yield self.trial((*([] if strength is None else [f"sparsity {strength:g}"]), *rest))


def explored(world, budget, later_ms=None, **more):
    """Search in a world, whose times are others once the first answer was found; every candidate takes ten seconds."""
    bench = Bench(onnx.ModelProto(), budget=budget, **more)
    ms = [world.ms]

    def speed(before, after):
        ms[0] = later_ms or world.ms
        return Timing(1.0, 0.99, 1.01, "faster", ms[0])

    def make(self, steps, decisions=None, effort=1.0):
        return Made(bench.model, steps)

    def measured(self, steps, made):
        bench.left -= 10
        return replace(world, ms=ms[0]).trial(steps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compose, "STRENGTHS", ("sparsity",))
        patch.setattr(making, "STRENGTHS", ("sparsity",))
        patch.setattr(Maker, "make", make)
        patch.setattr(Explorer, "_measured", measured)
        patch.setattr(bench, "speed", speed)
        explorer = Explorer(Maker(bench.model, bench), bench)
        explorer.search()
    return explorer.front, bench


worlds = st.builds(
    World,
    eight=st.floats(0.7, 3),
    lost=st.floats(0, 0.02),
    slope=st.floats(0.01, 0.3),
    gives=st.floats(0.7, 1.1),
)


@settings(deadline=None, max_examples=150)
@given(worlds, st.integers(0, 10_000), st.sets(st.sampled_from(["max_drop", "max_ms", "max_mb"]), min_size=1))
def test_budgets_that_some_composition_keeps_are_kept(world, which, given_budgets):
    trials = list(world.all())
    goal = trials[which % len(trials)]
    whole = {
        "max_drop": goal.drift.drop * 1.15 + 0.001,
        "max_ms": goal.speed.after_ms * 1.15,
        "max_mb": goal.bytes * 1.15 / 1e6,
    }
    budget = Budget(**{name: whole[name] for name in given_budgets})
    assert any(Front(budget, trials=trials).within(one) for one in trials)
    front, bench = explored(world, budget)
    assert front.within(front.best()), [trial.name for trial in front.trials]
    assert bench.left > -10


@pytest.mark.parametrize(
    ("budget", "taken", "most"),
    [
        (Budget(max_mb=0.9), "int8", 2),
        (Budget(max_ms=6), "int8", 2),
        (Budget(max_mb=0.4, max_drop=0.001), "int8-weights", 3),
        (Budget(max_mb=0.6, max_drop=0.001), "int8-weights", 3),
        (Budget(max_ms=9, max_drop=0.003), "sparsity 0.14", 4),
        (Budget(max_drop=0.0), "simplified alone", 99),
    ],
    ids=str,
)
def test_the_cheapest_answers_come_first(budget, taken, most):
    front, _ = explored(World(), budget)
    assert front.best().name == (taken if taken != "simplified alone" else "")
    assert len(front.trials) <= most


def test_without_a_time_or_a_size_the_fastest_is_looked_for():
    front, _ = explored(World(), Budget(max_drop=0.01))
    best = front.best()
    assert best.drift.drop <= 0.01
    fastest = max(one.speedup for one in World().all() if one.drift.drop <= 0.01)
    assert best.speedup >= 0.95 * fastest


def test_when_the_machine_becomes_slower_the_search_goes_on():
    front, _ = explored(World(), Budget(max_ms=6, max_drop=0.1))
    assert front.best().name == "int8"
    front, _ = explored(World(), Budget(max_ms=6, max_drop=0.1), later_ms=16.0)
    assert front.within(front.best()) and front.best().name.startswith("sparsity")
    front, bench = explored(World(), Budget(max_ms=6), later_ms=16.0, left=15)
    assert front.best().name == "int8" and bench.left == -5


def test_only_the_latest_times_of_the_original_count():
    slow, now = trial("slow", 2.0, ms=20.0), trial("now", 2.0)
    assert Front(Budget(), trials=[*[slow] * 9, *[now] * 4]).milliseconds(now) == 5.0


def test_the_time_ends_it():
    front, bench = explored(World(), Budget(max_drop=0.02), left=45)
    assert len(front.trials) == 5 and bench.left == -5


@pytest.mark.parametrize(
    ("budget", "nearest"),
    [
        (Budget(max_ms=0.1), "sparsity 0.8 + int8"),
        (Budget(max_mb=0.01, max_drop=0.01), "int8"),
    ],
)
def test_what_cannot_be_kept_is_said_with_the_nearest(budget, nearest):
    front, bench = explored(World(lost=0.02), budget)
    taken = front.close(bench)
    assert not front.within(taken)
    assert any(f"no candidate keeps the budgets; the nearest, {taken.name}," in note for note in bench.notes)
    assert len(bench.trials) == len(front.trials) and sum(chosen for *_, chosen in bench.trials) == 1
    assert nearest.split()[0] in taken.name or front.costs(taken) > 1


# ---- judging


def trial(name, speedup, drop=0.0, size=1_000_000, low=None, sqnr_db=25.0, ms=10.0):
    timing = Timing(speedup, speedup, speedup, "faster", ms / speedup)
    drift = Nearness(sqnr_db, None, drop, drop if low is None else low, "top-1", 100)
    return Trial(name, {"steps": [], "decisions": [], "effort": 1.0}, drift, size, timing)


def test_times_have_a_margin_and_are_the_originals_over_the_speed_up():
    one = trial("one", 2.0)
    tight, wide = (Front(Budget(max_ms=5 * factor), trials=[one]) for factor in (1 + MARGIN / 2, 1 + 2 * MARGIN))
    assert not tight.within(one) and wide.within(one)
    # A neighbour made three runs slow: both medians, not the ratio.
    slow = [trial(name, 2.0, ms=20.0) for name in "abc"]
    assert Front(Budget(), trials=[one, *slow]).milliseconds(one) == 10.0
    assert Front(Budget(), trials=[*[one] * 9, slow[0]]).milliseconds(slow[0]) == 5.0


def test_what_may_be_luck_of_few_pictures_is_taken_before_what_costs_too_much():
    slow, unsure, lossy = trial("slow", 1.0), trial("unsure", 2.0, 0.02, low=-0.01), trial("lossy", 2.5, 0.05, low=0.04)
    front = Front(Budget(max_ms=6, max_drop=0.01), trials=[slow, unsure, lossy])
    unsure.drift.__dict__["sqnr_db"] = 10.0
    assert not front.within(unsure) and front.best() is unsure
    assert Front(Budget(max_ms=6), trials=[slow, unsure, lossy]).best() is unsure
    assert Front(Budget(max_ms=6, max_drop=0.01), trials=[slow, lossy]).best() is lossy
    assert Front(Budget(max_ms=9.9, max_drop=0.01), trials=[slow, lossy]).best() is slow


def test_what_few_pictures_show_is_drawn_towards_what_changed_answers_cost():
    def expected(**more):
        return Nearness.of(nets.Answer(**{"agreement": 0.9, "drop": 0.0, "low": 0.0, "metric": "top-1", **more})).drop

    assert expected(n=10**9) == pytest.approx(0.0, abs=1e-6)
    assert expected(n=0) == pytest.approx(0.03)
    assert 0.02 < expected(n=32) < 0.03 < expected(n=32, drop=0.1) < 0.1
    assert expected(n=100, agreement=1.0) == 0.0
    assert expected(n=4, metric="agreement", drop=0.1) == 0.1
    assert expected(n=4, agreement=None, metric="mAP", drop=0.1) == 0.1


def test_trials_survive_being_written_down():
    for one in (trial("a", 2.0, 0.01), World().trial(("sparsity 0.2", "int8"))):
        assert trial_of(json.loads(json.dumps(record(one)))) == one


# ---- small nets


def applied(model, budget, **more):
    bench = Bench(model, budget=budget, **more)
    return search().apply(model, bench), bench


@spec
class thin(Method):
    """Shrink the weights by a share that is decided by measuring."""

    share: float = option(0.5, help="by how much", ge=0, le=1)

    def apply(self, model, bench):
        measured = bench.settled("measured")
        if measured is None:
            measured = bench.speed(model, model).speedup
            bench.decide(f"measured {measured:g}")
        bench.settle("measured", measured)
        made = graph.copy(model)
        for tensor in made.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT:
                values = graph.array(tensor) * np.float32(1 - 0.01 * self.share)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        return made


@pytest.fixture
def strong(monkeypatch):
    """A quick step that has a strength, in place of those that prune."""
    monkeypatch.setitem(STEPS._load(), "thin", thin)
    for module in (compose, making):
        monkeypatch.setattr(module, "STRENGTHS", ("thin",))


def test_a_composition_is_replayed_to_the_same_bytes_without_measuring(strong):
    model = nets.residual()
    before = model.SerializeToString(deterministic=True)
    # Simplified alone, int8's own four, int8, then what is sparse.
    speeds = [1.0, *[2.0] * 5, 2.0, *[4.0] * 9]
    made, bench = applied(model, Budget(max_ms=0.3), speeds=speeds)
    assert model.SerializeToString(deterministic=True) == before
    decision = bench.settlements["composition"]
    assert [step["use"] for step in decision["steps"]] == ["thin", "int8"]
    assert bench.decisions[0].startswith("thin 0.") and "+ int8 (" in bench.decisions[0]
    onnx.checker.check_model(made)
    again, second = applied(model, Budget(), replay=json.loads(json.dumps(bench.settlements)), speeds=None)
    assert again.SerializeToString(deterministic=True) == made.SerializeToString(deterministic=True)
    assert json.loads(json.dumps(second.settlements)) == json.loads(json.dumps(bench.settlements))
    assert not second.trials and "replayed" in second.decisions[0]


def test_only_whole_compositions_are_in_the_table(strong):
    _, bench = applied(nets.residual(), Budget(max_drop=0.5))
    names = [one.name for one, *_ in bench.trials]
    assert "simplified alone" in names and "int8" in names
    assert not any("static" in name for name in names)


def test_a_step_that_can_do_nothing_is_passed_over():
    made, bench = applied(nets.weightless(), Budget(max_mb=1))
    assert bench.decisions == ["simplified alone"]
    assert made == nets.weightless()
    assert any(text.startswith("int8: ") for text in bench.said)


@pytest.mark.parametrize(
    ("budget", "more", "what"),
    [
        (Budget(), {}, "no budget was given"),
        (Budget(max_mb=0.0001), {}, "--max-mb 0.0001: the graph alone, without any weights"),
        (Budget(max_ms=5), {"foreign": True}, "--max-ms 5: this machine cannot time"),
    ],
)
def test_budgets_that_are_refused_before_the_work(budget, more, what):
    with pytest.raises(EdgekitError, match=r"search|--max") as caught:
        applied(nets.residual(), budget, **more)
    assert what in caught.value.message and caught.value.hint


def test_it_is_said_when_the_time_was_over(strong):
    for left, said in ((1e9, False), (-1.0, True)):
        _, bench = applied(nets.residual(), Budget(max_ms=0.0001), left=left)
        assert any("no candidate keeps the budgets" in note for note in bench.notes)
        assert any("--search-seconds" in note for note in bench.notes) == said


def test_for_another_cpu_the_smallest_is_taken():
    made, bench = applied(nets.residual(), Budget(max_mb=1), foreign=True)
    assert all(one.speed is None for one, *_ in bench.trials)
    smallest = min(one.bytes for one, *_ in bench.trials)
    assert made.ByteSize() + compose.METADATA <= smallest <= made.ByteSize() + 2 * compose.METADATA


def test_a_search_that_was_cut_off_goes_on(strong):
    model, budget = nets.residual(), Budget(max_drop=0.0)
    whole, bench = applied(model, budget, left=1e9)
    tried = [values["typed"] for values in bench.records]
    assert len(tried) > 4
    for count in (1, 3, len(tried)):
        resumed, again = applied(model, budget, left=1e9, records=bench.records[:count], speeds=[])
        assert [values["typed"] for values in again.records][:count] == tried[:count]
        assert len(again.records) == len({tuple(values["typed"]) for values in again.records})
        assert any(f"{count} candidates are known" in text for text in again.said)
    assert resumed.SerializeToString(deterministic=True) == whole.SerializeToString(deterministic=True)
    assert again.decisions == bench.decisions


def test_what_was_refused_is_not_tried_again():
    model = nets.weightless()
    _, bench = applied(model, Budget(max_mb=1))
    _, again = applied(model, Budget(max_mb=1), records=list(bench.records))
    assert again.records == bench.records


def test_a_step_that_changes_nothing_is_no_candidate_of_its_own(strong):
    bench = Bench(nets.residual(), budget=Budget(max_drop=0.5))
    explorer = Explorer(Maker(bench.model, bench), bench)
    alone = explorer.enter(("fp16",))
    assert explorer.enter(("thin 0", "fp16")) is alone and explorer.front.trials == [alone]
    resumed = Explorer(Maker(bench.model, bench), bench)
    assert resumed.front.trials == [alone]


def test_a_draft_that_loses_too_much_is_made_with_all_effort_when_that_may_do(strong, monkeypatch):
    bench = Bench(nets.residual(), budget=Budget(max_drop=0.01, max_ms=100))
    efforts = []

    def measured(self, steps, made):
        efforts.append((steps, made.effort))
        drop = 0.015 if made.effort < 1 else 0.008
        near = Nearness(20.0, None, drop, drop, "agreement", 100)
        plain = [STEPS.parse(step).to_dict() for step in steps]
        decision = {"steps": plain, "decisions": [*made.decisions], "effort": made.effort}
        return Trial(" + ".join(steps), decision, near, 1000, Timing(2.0, 1.9, 2.1, "faster", 1.0))

    monkeypatch.setattr(Explorer, "_measured", measured)
    explorer = Explorer(Maker(bench.model, bench), bench)
    assert explorer.enter(("int8",)).decision["effort"] == 1  # nothing to be drafted
    assert explorer.enter(("thin 0.2", "int8")).decision["effort"] == 1
    assert [effort for _, effort in efforts] == [1, compose.DRAFT, 1]
    bench.budget = explorer.front.budget = Budget(max_drop=0.007, max_ms=100)  # half of what it loses is too much
    assert explorer.enter(("thin 0.3", "int8")).decision["effort"] == compose.DRAFT


def test_the_best_draft_is_finished_as_far_as_there_is_time(strong):
    bench = Bench(nets.residual(), budget=Budget(max_drop=0.5))
    explorer = Explorer(Maker(bench.model, bench), bench)
    draft = explorer.enter(("thin 0.2", "fp16"))
    assert draft.decision["effort"] == compose.DRAFT and explorer.front.best() is draft
    explorer._seconds["thin 0.2", "fp16"] = bench.left
    explorer.finish()
    assert explorer.front.trials == [draft]
    explorer._seconds["thin 0.2", "fp16"] = bench.left / 4
    explorer.finish()
    assert [trial.decision["effort"] for trial in explorer.front.trials] == [0.5]


def test_few_models_are_held(strong):
    bench = Bench(nets.residual())
    maker = Maker(bench.model, bench)
    first = maker.make(("thin 0.1",)).model.SerializeToString(deterministic=True)
    for share in range(2, 9):
        maker.make((f"thin 0.{share}", "fp16"))
    assert len(maker._made) <= making.MOST_KEPT
    assert maker.make(("thin 0.1",)).model.SerializeToString(deterministic=True) == first


@pytest.mark.parametrize("step", [name for name in compose.STRENGTHS if name in STEPS.names()])
def test_the_steps_that_have_a_strength(step):
    assert STEPS.get(step).flag_field().base is float
    model = nets.residual()
    _, bench = applied(model, Budget(max_ms=0.01), left=1e9)
    assert any(step in " ".join(values["typed"]) for values in bench.records)


# ---- the plot


def test_limits_are_drawn_where_gates_are():
    def gate(rule):
        return SimpleNamespace(rule=rule)

    report = SimpleNamespace(
        gates=(
            gate("latency.after<=2"),
            gate("accuracy.drop<=0.01"),
            gate("drift.agreement>=0.98"),
            gate("size.after<=9"),
        ),
        accuracy=SimpleNamespace(own=False),
        latency=SimpleNamespace(before=5.0),
    )
    assert drawings._limits(report, by_drop=True) == ([-1.0, pytest.approx(-2.0)], [2.5])
    assert drawings._limits(report, by_drop=False) == ([], [2.5])
    points = [charts.Point(-1.0, 2.0, 0.5, "a"), charts.Point(0.0, 1.0, 0.5, "b")]
    drawn = charts.scatter("t", "d", points, ("x", "y"), (1.0,), ([-0.5, -50.0], [2.5, 1e300]))
    assert drawn.count('class="limit"') == 4 and drawn.count('class="beyond"') == 4


# ---- the command

QUICK = ("--seconds", "0.5", "--search-seconds", "2", "--no-config")


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes((SAMPLES / "fashion_resnet.onnx").read_bytes())
    return path


def test_budgets_alone_are_a_search(edgekit, model, tmp_path):
    pictures = ("--calib", TRAIN, "--data", VAL, "--max-mb", "0.3", *QUICK)
    done = edgekit("compress", "m.onnx", *pictures, "--report", "r.json", "--report", "r.html", "--json")
    assert done.code == 0, done.err
    assert done.json["out"]["path"] == "m.search.onnx" and done.json["size"]["after"] <= 300_000
    assert [one["name"] for one in done.json["search"] if one["chosen"]] == ["int8"]
    assert any("what was tried" in line.lower() for line in (tmp_path / "r.html").read_text().splitlines())
    again = edgekit("compress", "m.onnx", "--recipe", "r.json", "--out", "b.onnx", *pictures)
    assert again.code == 0, again.err
    assert (tmp_path / "b.onnx").read_bytes() == (tmp_path / "m.search.onnx").read_bytes()
    assert graph.metadata(graph.load(tmp_path / "b.onnx"))["edgekit.recipe"]


@pytest.fixture
def toy(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(nets.residual().SerializeToString())
    return path


def test_without_pictures_agreement_is_what_is_kept(edgekit, toy):
    done = edgekit("compress", "m.onnx", "--max-drop", "0.02", *QUICK, "--json")
    assert done.code in (0, 1), done.err
    assert [gate["rule"] for gate in done.json["gates"]] == ["drift.agreement>=0.98"]
    assert any("--max-drop is held against agreement" in note and "synthetic" in note for note in done.json["notes"])


def test_a_budget_no_model_can_meet(edgekit, model, tmp_path):
    done = edgekit("compress", "m.onnx", "--max-mb", "0.001", *QUICK)
    assert (done.code, "--max-mb 0.001" in done.err) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx"]


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.long)])
def test_an_interrupted_search_goes_on_where_it_was(edgekit, toy, tmp_path, how):
    cache = {"EDGEKIT_CACHE": str(tmp_path / "cache")}
    arguments = ("compress", "m.onnx", "--max-mb", "0.03", *QUICK)
    command = [sys.executable, "-m", "edgekit", *map(str, arguments)]
    first = subprocess.Popen(command, cwd=tmp_path, env=os.environ | cache, stderr=subprocess.PIPE, text=True)
    for line in first.stderr:
        if line.startswith("simplified alone: "):
            first.send_signal(how)
            break
    rest = first.stderr.read()
    assert first.wait() != 0
    if how == signal.SIGINT:
        assert first.returncode == 130 and "1 candidates are kept" in rest and "goes on" in rest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "m.onnx"]
    done = edgekit(*arguments, "--json", env=cache)
    assert done.code == 0, done.err
    assert any("1 candidates are known" in note for note in done.json["notes"])
    assert "simplified alone: " not in done.err
    again = edgekit(*arguments, "--json", "--force", env=cache)
    assert not any("are known" in note for note in again.json["notes"])


@pytest.mark.long
def test_a_real_net_keeps_three_budgets(edgekit, assets, tmp_path):
    path = assets / "models/mobilenetv1_025_vww96.onnx"
    opener = latency.session_runner(path, list(nets.feeds(graph.load(path), 4)))
    ms = latency.compare(opener, opener, seconds=3).before.median_ms
    budgets = ("--max-drop", "0.03", "--max-mb", "0.2", "--max-ms", f"{0.95 * ms:g}")
    pictures = ("--calib", assets / "images/vww96/calib", "--data", assets / "images/vww96/test", "--preset", "unit")
    done = edgekit(
        "compress", path, *budgets, *pictures, "--out", "out.onnx", "--no-config", "--report", "r.json", timeout=400
    )
    assert done.code == 0, done.out + done.err
    report = json.loads((tmp_path / "r.json").read_text())
    assert all(gate["passed"] for gate in report["gates"]) and len(report["gates"]) == 3
    composition = report["recipe"]["decisions"][0]["composition"]
    assert composition["steps"] and len(composition["steps"]) == len(composition["decisions"])
