"""Structured pruning as a step: numbers that pay, what is allocated, tried, taken, refused and replayed; no clock."""

import itertools
import math
from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest

from edgekit import graph
from edgekit.compress.method import STEPS
from edgekit.compress.prune import pruner, staircase
from edgekit.compress.prune.allocate import allocate
from edgekit.compress.prune.groups import find_groups
from edgekit.compress.prune.shortcuts import as_convolutions
from edgekit.compress.prune.staircase import Staircase
from edgekit.compress.prune.surgery import remove
from edgekit.compress.prune.units import units, which_go
from edgekit.compress.search import Budget
from edgekit.errors import EdgekitError
from edgekit.session import open_session, run
from nets import NETS, Answer, Bench, Net, feeds, perceptron, residual, simple, sqnr_db, weightless

BLOCK = 8


@dataclass
class Timed(Bench):
    """A Workbench whose CPU takes as long as the products are many, channels counted in blocks."""

    speeds: list = field(default_factory=list)
    timed: int = 0

    def node_times(self, model):
        self.timed += 1
        return times(model)

    def speed(self, before, after):
        if self.speeds:
            return super().speed(before, after)
        self.timed += 1
        speedup = sum(times(before).values()) / sum(times(after).values())
        verdict = "faster" if speedup > 1.02 else "slower" if speedup < 0.98 else "no difference shown"
        return Answer(speedup=speedup, low=speedup, high=speedup, verdict=verdict)


def times(model):
    shapes = {
        value.name: [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    tensors = graph.initializers(model)
    found = {}
    for node in model.graph.node:
        found[node.name] = 10.0
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in tensors:
            dims = list(tensors[node.input[1]].dims)
            dims[:2] = [math.ceil(dim / BLOCK) * BLOCK for dim in dims[:2]]
            found[node.name] += math.prod(dims) * math.prod(shapes.get(node.output[0], [1, 1])[2:]) / 1000
    return found


def chain(*channels, seed=70):
    """Convolutions in a row: a group behind each but the last."""
    net = Net(seed)
    x, last = "input", 3
    for count in channels:
        x, last = net.conv(x, last, count), count
    net.add("Conv", x, net.weight(3, last, 1, 1), outputs=["map"])
    return simple(net.model({"input": [1, 3, 12, 12]}, {"map": [1, 3, 12, 12]}))


def applied(step, model, **options):
    """Apply a step, without what takes long unless it is asked for."""
    bench = Timed(model, **options)
    step += "" if "repair=" in step else " repair=fold"
    return STEPS.parse(step).apply(model, bench), bench


def widths(model):
    return [graph.initializers(model)[n.input[1]].dims[0] for n in model.graph.node if n.op_type == "Conv"][:-1]


# ---- numbers that pay


def test_only_numbers_that_save_time_are_steps():
    model = chain(24, 16)
    groups = find_groups(model).groups
    stairs = staircase.measure(model, units(groups), Timed(model))
    assert [stairs.steps(group.name) for group in groups] == [(16, 8), (8,)]


def test_the_staircase_foretells_the_pruned_graph():
    model = chain(32, 24, 16)
    groups = find_groups(model).groups
    stairs = staircase.measure(model, units(groups), Timed(model))
    for counts in itertools.product((32, 24, 8), (24, 16), (16, 8)):
        kept = {group.name: count for group, count in zip(groups, counts, strict=True)}
        gone = {group.name: list(range(kept[group.name], group.size)) for group in groups}
        pruned = remove(model, {name: channels for name, channels in gone.items() if channels})
        found = stairs.total({name: count for name, count in kept.items() if gone[name]})
        assert found == pytest.approx(sum(times(pruned).values()), rel=0.05)  # the fixed 10 us of a node multiply too


def test_groups_without_a_common_node_are_timed_together():
    model = chain(16, 16, 16, 16)
    bench = Timed(model)
    staircase.measure(model, units(find_groups(model).groups), bench)
    assert bench.timed == 1 + 2 * 1  # every other one, to half its channels


@pytest.mark.parametrize(
    ("size", "numbers"),
    [(2, [1]), (6, [5, 4, 3, 2, 1]), (16, [8]), (24, [16, 8]), (64, [56, 48, 40, 32, 24, 16, 8])],
)
def test_numbers_tried_are_aligned(size, numbers):
    unit = units(find_groups(chain(size, 8)).groups)[0]
    assert staircase.counts(unit) == numbers


def test_of_large_groups_few_numbers_are_tried():
    found = staircase.counts(units(find_groups(chain(1024)).groups)[0])
    assert len(found) == staircase.LEVELS and all(count % 16 == 0 for count in found)
    assert found == sorted(found, reverse=True) and found[0] == 1008 and found[-1] <= 512


def test_what_must_stay_stays():
    group = find_groups(chain(8)).groups[0]
    parts = (np.array([0, 1]), np.array([1, 2]))
    group = type(group)(**{**vars(group), "parts": parts, "removable": True})
    for order in (range(8), [1, 0, 2, 3, 7, 6, 5, 4]):
        for kept in range(9):
            found = which_go(units([group]), {group.name: kept}, {group.name: order}).get(group.name, [])
            assert group.may_go(found) and (len(found) == 8 - kept or kept == 1)
    assert which_go(units([group]), {group.name: 5}, {group.name: range(8)}) == {group.name: [0, 2, 3]}


def padded_streams():
    """Two stages of which the second is wider: the shortcut pads with zero channels."""
    net = Net(71)
    x = net.conv("input", 3, 8)
    wide = net.add("Pad", x, net.constant(np.int64([0, 8, 0, 0, 0, 8, 0, 0])), net.constant(np.float32(0)))
    y = net.add("Add", wide, net.conv(net.conv(x, 8, 16), 16, 24, relu=False))
    net.add("Conv", net.add("Relu", y), net.weight(3, 24, 1, 1), outputs=["map"])
    return simple(net.model({"input": [1, 3, 12, 12]}, {"map": [1, 3, 12, 12]}))


def test_channels_of_several_kinds_are_units_of_their_own():
    model = padded_streams()
    found = find_groups(model).groups
    group = max(found, key=lambda group: group.size)
    parts = [unit for unit in units(found) if unit.group is group]
    assert sorted(unit.size for unit in parts) == [8, 16] and all(unit.removable for unit in parts)
    assert sorted(channel for unit in parts for channel in unit.channels) == list(range(24))
    both = which_go(parts, {unit.name: 0 for unit in parts})[group.name]
    assert len(both) == 23 or group.removable
    stairs = staircase.measure(model, units(found), Timed(model))
    assert any(stairs.steps(unit.name) for unit in parts)
    for unit in parts:
        for count in stairs.steps(unit.name):
            pruned = remove(model, which_go(parts, {unit.name: count}))
            assert stairs.total({unit.name: count}) == pytest.approx(sum(times(pruned).values()), rel=0.02)


# ---- allocation


def case(rng, groups=5, levels=3, nodes=8):
    times = {f"n{i}": float(rng.uniform(10, 100)) for i in range(nodes)}
    sizes = {f"g{i}": 16 * (levels + 1) for i in range(groups)}
    factors, costs = {}, {}
    for name in sizes:
        inside = rng.choice(nodes, rng.integers(1, 4), replace=False)
        counts = [16 * level for level in range(levels, 0 if rng.random() < 0.7 else -1, -1)]
        errors = np.cumsum(rng.exponential(0.05, len(counts)))
        costs[name] = dict(zip(counts, errors.tolist(), strict=True))
        factors[name] = {count: {f"n{i}": count / sizes[name] for i in inside} for count in counts}
    return Staircase(times, sizes, factors, {}), costs


def test_allocation_is_near_the_best_of_all():
    ratios = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        stairs, costs = case(rng)
        sizes = stairs.sizes
        limit = stairs.total({}) * rng.uniform(0.5, 0.95)
        kept = allocate(stairs, costs, limit)
        ways = [[(name, sizes[name]), *((name, count) for count in costs[name])] for name in sizes]
        errors = [
            sum(costs[name].get(count, 0.0) for name, count in way)
            for way in itertools.product(*ways)
            if stairs.total(dict(way)) <= limit
        ]
        if not errors:
            assert stairs.total(kept) == pytest.approx(stairs.total({n: min(c) for n, c in costs.items()}))
            continue
        assert stairs.total(kept) <= limit + 1e-9
        ratios.append(sum(costs[name][count] for name, count in kept.items()) / max(min(errors), 1e-9))
    assert len(ratios) > 40
    assert np.mean(ratios) < 1.05 and np.quantile(ratios, 0.95) < 1.2 and max(ratios) < 2.5


def test_nothing_goes_for_no_time():
    stairs, costs = case(np.random.default_rng(1))
    assert allocate(stairs, costs, stairs.total({})) == {}
    assert allocate(stairs, {name: {} for name in costs}, 0.0) == {}


# ---- the step


def test_a_share_of_the_latency_is_saved():
    model = chain(32, 32, 24)
    made, bench = applied("prune 0.3", model)
    saved = 1 - sum(times(made).values()) / sum(times(model).values())
    assert 0.28 < saved < 0.5
    assert all(width % BLOCK == 0 for width in widths(made)) and widths(made) != widths(model)
    assert bench.decisions[0].startswith("pruned ") and "% of the channels of " in bench.decisions[0]
    assert any("32 -> " in note for note in bench.notes)
    assert sum(taken for *_, taken in bench.trials) == 1
    assert sqnr_db(model, made) > 0


def test_less_is_pruned_for_less():
    model = chain(32, 32, 24)
    some, more = (applied(f"prune {share}", model)[0] for share in (0.15, 0.5))
    assert some.ByteSize() > more.ByteSize()
    assert sqnr_db(model, some) > sqnr_db(model, more)


def test_more_than_there_is_says_so():
    made, bench = applied("prune 0.95", chain(16, 16))
    assert widths(made) == [8, 8]
    assert any("not 95%" in note and "no more can be saved" in note for note in bench.notes)


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_a_share_of_the_channels_goes(share):
    model = chain(32, 16, 48)
    made, bench = applied(f"prune channels={share}", model)
    assert widths(made) == ([24, 12, 32] if share == 0.25 else [16, 8, 24])
    assert bench.decisions[0].startswith("pruned ")


def test_what_is_not_faster_is_not_taken():
    model = chain(16, 16)
    for step in ("prune 0.3", "prune channels=0.5"):
        made, bench = applied(step, model, speeds=[1.0] * 20)
        assert widths(made) == [16, 16] and "no candidate is faster" in bench.decisions[0]
    made, bench = applied("prune 0.3", chain(8, 8))
    assert widths(made) == [8, 8] and bench.decisions[0].startswith("nothing pruned: no smaller number")


def test_a_budget_for_the_outputs_is_kept():
    model = chain(32, 32, 24)
    free, bench = applied("prune 0.6", model)
    assert sqnr_db(model, free) < 20
    made, bench = applied("prune 0.6", model, budget=Budget(max_drop=0.01))
    near = [trial for trial, *_ in bench.trials if trial.drift.sqnr_db >= 20]
    if near:
        assert sqnr_db(model, made) >= 20 and any("as far as --max-drop allows" in note for note in bench.notes)
    else:
        assert widths(made) == [32, 32, 24] and "over --max-drop" in bench.decisions[0]


def test_a_replay_measures_nothing_and_gives_the_same_bytes():
    model = chain(32, 32, 24)
    for step in ("prune 0.3", "prune channels=0.5", "prune 0.3 repair=none rank=l1", "prune 0.5 repair=auto"):
        made, bench = applied(step, model)
        assert bench.settlements["gone"]
        again, replayed = applied(step, model, replay=bench.settlements)
        assert again.SerializeToString(deterministic=True) == made.SerializeToString(deterministic=True)
        assert replayed.timed == 0 and replayed.settlements == bench.settlements
        assert replayed.decisions == ["replayed"]


def test_for_another_cpu_nothing_is_timed():
    model = chain(32, 32)
    made, bench = applied("prune 0.3", model, foreign=True, int8="arm-dot")
    assert bench.timed == 0 and widths(made) == [28, 28]
    assert any("another kind of CPU" in note for note in bench.notes)


def test_only_and_exclude():
    model = chain(32, 32, 32)
    convs = [node.name for node in model.graph.node if node.op_type == "Conv"]
    made, _ = applied("prune channels=0.5", model, only=(convs[1],))
    assert widths(made) == [32, 16, 32]
    made, _ = applied("prune channels=0.5", model, exclude=(convs[1],))
    assert widths(made) == [32, 32, 16]
    with pytest.raises(EdgekitError, match="--only and --exclude leave none"):
        applied("prune", model, only=(convs[3],))


@pytest.mark.parametrize("before", ["static", "int8-weights", "fp16"])
def test_weights_in_fewer_bits_are_refused_with_the_right_order(before):
    model = simple(residual())
    made = STEPS.parse(before).apply(model, Bench(model))
    with pytest.raises(EdgekitError, match="in fewer bits already") as caught:
        STEPS.parse("prune").apply(made, Bench(made))
    assert "before --int8" in caught.value.hint


def test_a_model_without_groups_is_refused():
    with pytest.raises(EdgekitError, match="no channels of the model can be taken out"):
        applied("prune", simple(weightless()))


@pytest.mark.parametrize("rank", ["obs", "l1", "variance", "random"])
@pytest.mark.parametrize("repair", pruner.REPAIRS)
def test_ways_to_rank_and_to_repair(rank, repair):
    model = simple(perceptron())
    made, _ = applied(f"prune channels=0.5 rank={rank} repair={repair}", model)
    assert made.ByteSize() < model.ByteSize()


def test_making_up_for_what_goes_helps():
    model = chain(32, 32, 24)
    ways = ("auto", "refit", "fold", "none")
    found = [sqnr_db(model, applied(f"prune channels=0.5 repair={how}", model)[0]) for how in ways]
    assert found[0] > found[2] and found[1] > found[2] > found[3] + 1


def test_what_cannot_be_fitted_all_at_once_is_fitted_layer_by_layer(monkeypatch):
    model = chain(32, 32, 24)
    monkeypatch.setattr(pruner, "reconstruct", lambda original, pruned, *more: pruned)
    made, bench = applied("prune channels=0.5 repair=auto", model)
    assert bench.settlements["repairs"] == ["refit"]
    fitted, _ = applied("prune channels=0.5 repair=refit", model)
    assert made.SerializeToString(deterministic=True) == fitted.SerializeToString(deterministic=True)
    again, _ = applied("prune channels=0.5 repair=auto", model, replay=bench.settlements)
    assert again.SerializeToString(deterministic=True) == made.SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("step", ["prune 0.3", "prune channels=0.5"])
def test_contract_with_a_cpu_that_has_steps(step, name):
    model = simple(NETS[name]())
    try:
        made, bench = applied(step, model)
    except EdgekitError as error:
        assert error.message and error.hint
        return
    onnx.checker.check_model(made)
    assert made.ByteSize() <= model.ByteSize() or any("grew" in note for note in bench.notes)
    assert sum(times(made).values()) <= sum(times(model).values())
    again, _ = applied(step, model)
    assert again.SerializeToString(deterministic=True) == made.SerializeToString(deterministic=True)
    sqnr_db(model, made)  # finite wherever the model is


def test_what_is_pruned_can_be_quantised():
    model = chain(16, 16)
    made, _ = applied("prune channels=0.5", model)
    both = STEPS.parse("static").apply(made, Bench(made))
    assert sqnr_db(made, both) > 20
    assert any(node.op_type == "QuantizeLinear" for node in both.graph.node)


# ---- shortcuts


def sliced(end=2**62, value=0.0, mode="constant"):
    """A residual net whose shortcut takes every other pixel and pads with zero channels."""
    net = Net(72)
    x = net.conv("input", 3, 16)
    y = net.conv(net.conv(x, 16, 32, stride=2), 32, 32, relu=False)
    for axis in (2, 3):
        x = net.add("Slice", x, *(net.constant(np.int64([number])) for number in (0, end, axis, 2)))
    pads = net.constant(np.int64([0, 8, 0, 0, 0, 8, 0, 0]))
    x = net.add("Pad", x, pads, net.constant(np.float32(value)), mode=mode)
    net.add("Conv", net.add("Relu", net.add("Add", x, y)), net.weight(3, 32, 1, 1), outputs=["map"])
    return net.model({"input": ["N", 3, 13, 12]}, {"map": ["N", 3, None, None]})


def test_shortcuts_as_convolutions_are_exact():
    model = sliced()
    made = as_convolutions(model)
    assert not {"Slice", "Pad"} & {node.op_type for node in made.graph.node}
    onnx.checker.check_model(made)
    for feed in feeds(model, 3):
        old, new = (run(open_session(each), feed)[0] for each in (model, made))
        assert np.array_equal(old, new) or np.abs(old - new).max() < 1e-5


@pytest.mark.parametrize("other", [{"end": 12}, {"value": 0.5}, {"mode": "edge"}])
def test_other_shortcuts_stay(other):
    assert as_convolutions(sliced(**other)) is None
    assert as_convolutions(simple(residual())) is None


def test_faster_shortcuts_count_and_slower_ones_are_left():
    model = simple(sliced())
    made, bench = applied("prune 0.1", model, speeds=[1.12])
    assert bench.settlements["shortcuts"] is True and bench.settlements["gone"] == {}
    assert "save as much" in bench.decisions[0] and sqnr_db(model, made) > 80
    again, replayed = applied("prune 0.1", model, replay=bench.settlements)
    assert again.SerializeToString(deterministic=True) == made.SerializeToString(deterministic=True)
    assert replayed.timed == 0
    made, bench = applied("prune 0.3", model, speeds=[0.9])
    assert bench.settlements["shortcuts"] is False and any(node.op_type == "Slice" for node in made.graph.node)
