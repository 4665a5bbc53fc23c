"""Histograms that neither grow nor depend on the order, and the ranges chosen from them."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit import graph
from edgekit.compress.quantize import ranges
from edgekit.compress.quantize.histogram import packed, unpacked
from edgekit.compress.quantize.ranges import BINS, Histogram, collect, squared_errors
from edgekit.errors import EdgekitError
from edgekit.session import open_session, run
from nets import NETS, Net, feeds, residual, swish

SHAPES = {
    "normal": lambda rng: rng.standard_normal(60_000),
    "relu": lambda rng: np.maximum(rng.standard_normal(60_000), 0),
    "outlier": lambda rng: np.append(rng.standard_normal(60_000), 300),
    "skewed": lambda rng: rng.exponential(2, 60_000) - 0.3,
    "heavy": lambda rng: rng.standard_t(2, 60_000),
    "negative": lambda rng: -rng.exponential(1, 60_000),
    "tiny": lambda rng: 1e-20 * rng.standard_normal(60_000),
    "huge": lambda rng: 1e30 * rng.standard_normal(60_000),
}


def histogram(*parts):
    made = Histogram()
    for part in parts:
        made.add(np.asarray(part, np.float32))
    return made


def state(made):
    return (made.counts.tolist(), made.exponent, made.low, made.high, made.zeros, made.ignored)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(
            st.floats(-(2.0**100), 2.0**100, width=32) | st.sampled_from([0.0, np.nan, np.inf, -1e-30]), max_size=20
        ),
        max_size=6,
    ),
    st.randoms(),
)
def test_the_order_does_not_matter(parts, random):
    shuffled = list(parts)
    random.shuffle(shuffled)
    assert state(histogram(*parts)) == state(histogram(*shuffled))


@pytest.mark.parametrize("name", SHAPES)
def test_every_value_is_counted_where_it_lies(name):
    values = SHAPES[name](np.random.default_rng(0)).astype(np.float32)
    parts = np.array_split(values, 7)
    made = histogram(*parts)
    assert made.low == values.min() and made.high == values.max()
    assert made.counts.sum() + made.zeros == len(values)
    edges = np.arange(BINS + 1) * made.width
    above, _ = np.histogram(values[values > 0].astype(np.float64), edges)
    below, _ = np.histogram(-values[values < 0].astype(np.float64), edges)
    assert np.array_equal(np.concatenate([below[::-1], above]), made.counts)
    assert np.flatnonzero(made.counts).size > BINS / 8 or name == "outlier" or name == "heavy"


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("symmetric", [False, True])
def test_mse_is_as_good_as_brute_force(name, symmetric):
    values = SHAPES[name](np.random.default_rng(1)).astype(np.float32)[-4000:]
    low, high = histogram(values).limits("mse", symmetric=symmetric)
    assert low <= 0 <= high and (not symmetric or low == -high)
    shares = np.geomspace(1, 1 / 32, 40)
    lows, highs = (np.unique([extreme * shares]) for extreme in (min(values.min(), 0), max(values.max(), 0)))
    pairs = np.array([(a, b) for a in lows for b in highs if b > a])
    if symmetric:
        reach = np.abs(values).max() * shares
        pairs = np.stack([-reach, reach], 1)
    some = values.astype(np.float64)
    best = min(squared_errors(some, np.ones(len(some)), *part.T).min() for part in np.array_split(pairs, 20))
    ours = squared_errors(some, np.ones(len(some)), np.array([low]), np.array([high]))[0]
    assert ours <= 1.05 * best


def test_mse_clips_a_rare_outlier_and_minmax_keeps_it():
    values = np.append(np.random.default_rng(0).standard_normal(1_000_000), 8)
    made = histogram(*np.array_split(values, 40))
    assert made.limits("minmax")[1] == 8
    assert made.limits("mse")[1] < 6
    assert made.limits("percentile")[1] < 4


def test_percentile_gives_up_a_ten_thousandth_on_each_side():
    values = np.random.default_rng(0).uniform(-2, 6, 1_000_000).astype(np.float32)
    made = histogram(*np.array_split(values, 40))
    low, high = made.limits("percentile")
    assert np.quantile(values, 1e-4) == pytest.approx(low, abs=2 * made.width)
    assert np.quantile(values, 1 - 1e-4) == pytest.approx(high, abs=2 * made.width)


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
def test_zero_is_always_inside(method):
    for values, expected in (([1, 2, 3], (0, 3)), ([-3, -1], (-3, 0)), ([0, 0], (0, 0)), ([], (0, 0))):
        low, high = histogram(values).limits(method)
        assert low <= 0 <= high and expected[0] <= low and high <= expected[1]
    assert histogram([np.nan, np.inf, -np.inf]).limits(method) == (0, 0)
    assert histogram([np.nan, 1, np.inf]).limits("minmax") == (0, 1)


def test_the_flat_side_of_an_activation_is_not_paid_for():
    values = np.concatenate([-np.random.default_rng(0).exponential(10, 50_000), np.linspace(0, 4, 10_000)])
    made = histogram(values.astype(np.float32))
    plain = made.limits("mse")
    through = made.limits("mse", through=lambda x: x / (1 + np.exp(-np.clip(x, -50, 50))))
    assert through[0] > plain[0] and through[1] == pytest.approx(4, abs=0.5)


def test_large_tensors_are_sampled_but_their_extremes_are_exact():
    values = np.random.default_rng(0).standard_normal((1, 16, 300, 300)).astype(np.float32)
    values[0, 3, 7, 11] = 77
    made = histogram(values)
    assert made.high == 77 and made.counts.sum() < 40_000


def test_collected_values_are_those_of_the_plain_graph():
    model = residual()
    names = [name for node in model.graph.node for name in (*node.input, *node.output)]
    found = collect(model, names, feeds(model, 5))
    assert "input" in found and "w0" not in found
    computed = [name for name in found if name != "input"]
    plain = open_session(graph.with_outputs(model, computed), optimized=False)
    for name in computed:
        arrays = [run(plain, feed, [name])[0] for feed in feeds(model, 5)]
        assert found[name].low == pytest.approx(min(a.min() for a in arrays), abs=1e-4)
        assert found[name].high == pytest.approx(max(a.max() for a in arrays), abs=1e-4)


def test_only_floats_are_collected():
    net = Net()
    net.add("ArgMax", net.add("Relu", "input"), outputs=["best"])
    model = net.model({"input": [4]}, {"best": (7, [1])})
    assert sorted(collect(model, ["input", "t0", "best"], feeds(model, 2))) == ["input", "t0"]


def test_memory_does_not_grow_with_samples():
    model = residual()
    names = [name for node in model.graph.node for name in node.output]

    def peak(count):
        tracemalloc.start()
        collect(model, names, feeds(model, count))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(2)
    # Samples wait up to a fixed size before they are counted, which this net reaches after some 100 inputs.
    assert peak(900) < 1.05 * peak(300) + 100_000


def test_feeds_that_do_not_fit_are_one_sentence():
    with pytest.raises(EdgekitError, match="cannot run"):
        collect(residual(), ["t0"], [{"input": np.zeros((1, 2, 3, 4), np.float32)}])


def brute(model, names, fed):
    """Every value of every tensor, from the graph as it is written, without any optimisation."""
    fed = list(fed)
    own = [name for name in names if name not in fed[0]]
    session = open_session(graph.with_outputs(model, own), optimized=False)
    kinds = {value.name: value.type for value in session.get_outputs()}
    own = [name for name in own if kinds[name] in ("tensor(float)", "tensor(float16)")]
    answers = [run(session, feed, own) for feed in fed]
    found = {
        name: np.concatenate([a.ravel() for a in arrays])
        for name, arrays in zip(own, zip(*answers, strict=True), strict=True)
    }
    return found | {name: np.concatenate([feed[name].ravel() for feed in fed]) for name in names if name in fed[0]}


@pytest.mark.parametrize("name", [name for name in NETS if name != "weightless"])
def test_what_follows_from_another_value_is_what_it_would_have_been(name):
    model = NETS[name]()
    constant = graph.initializers(model)
    names = [n for node in model.graph.node for n in (*node.input, *node.output) if n and n not in constant]
    fed = list(feeds(model, 3))
    found = collect(model, names, fed)
    for key, values in brute(model, list(dict.fromkeys(names)), fed).items():
        seen, finite = found[key], values[np.isfinite(values)].astype(np.float64)
        if not finite.size:
            continue
        close = 1e-4 * max(1.0, np.abs(finite).max())
        assert seen.low == pytest.approx(finite.min(), abs=close), key
        assert seen.high == pytest.approx(finite.max(), abs=close), key


def large():
    """Tensors that are only sampled, with every activation whose values follow from another's."""
    net = Net(3)
    x = net.conv("input", 3, 16, relu=False)
    a, b = net.add("Relu", x), net.add("Clip", x, net.constant(np.float32(-1)), net.constant(np.float32(0.5)))
    gate = net.add("Sigmoid", x)
    c, d = net.add("Mul", gate, x), net.add("HardSwish", x)
    e = net.add("Relu", net.add("Reshape", x, net.constant(np.int64([1, -1]))))
    for number, name in enumerate((a, b, c, d, e)):
        net.add("ReduceMean", name, outputs=[f"y{number}"], keepdims=0)
    return net.model({"input": [1, 3, 96, 96]}, {f"y{number}": [] for number in range(5)})


def test_a_sample_gives_nearly_the_ranges_of_all_values():
    model = large()
    names = [name for node in model.graph.node for name in node.output if not name.startswith("y")]
    fed = list(feeds(model, 6))
    found = collect(model, names, fed)
    for name, values in brute(model, names, fed).items():
        whole = histogram(*np.array_split(values, 200))
        assert found[name].counts.sum() + found[name].zeros < values.size / 8
        assert found[name].limits("minmax") == pytest.approx(whole.limits("minmax"), abs=1e-5)
        close = 0.06 * (whole.high - whole.low)
        assert found[name].limits("percentile") == pytest.approx(whole.limits("percentile"), abs=close), name
        ends = np.array([found[name].limits("mse"), whole.limits("mse")])
        some = values.astype(np.float64)
        ours, best = squared_errors(some, np.ones(len(some)), *ends.T)
        assert ours < 1.25 * best, name


@pytest.mark.parametrize("bound", [1, 20_000])
def test_a_small_bound_runs_in_parts_and_changes_nothing(bound, monkeypatch):
    opened = []
    real = ranges._Part.__init__
    monkeypatch.setattr(
        ranges._Part, "__init__", lambda self, m, names: (opened.append(list(names)), real(self, m, names))[1]
    )
    for model in (residual(), swish(), large()):
        names = [name for node in model.graph.node for name in node.output]
        del opened[:]
        whole = collect(model, names, feeds(model, 4))
        assert len(opened) == 1
        del opened[:]
        parts = collect(model, names, feeds(model, 4), max_bytes=bound)
        given = [name for part in opened for name in part]
        assert len(opened) > 1 and len(given) == len(set(given))
        assert bound > 1 or all(len(part) == 1 for part in opened)
        assert list(parts) == list(whole)
        for name in whole:
            # A part is another graph to onnxruntime, which may round its last bit otherwise.
            assert parts[name].low == pytest.approx(whole[name].low, abs=1e-5)
            assert parts[name].high == pytest.approx(whole[name].high, abs=1e-5)
            assert parts[name].counts.sum() == whole[name].counts.sum()


def test_neither_order_nor_when_samples_are_counted_matters(monkeypatch):
    model = large()
    names = [name for node in model.graph.node for name in node.output]
    fed = list(feeds(model, 7))
    whole = collect(model, names, fed)
    monkeypatch.setattr(ranges, "_WAITING", 1)
    again = collect(model, names, fed[::-1])
    assert {name: state(seen) for name, seen in whole.items()} == {name: state(seen) for name, seen in again.items()}


def test_inputs_of_different_sizes():
    net = Net()
    net.add("Relu", net.add("Neg", "input"), outputs=["y"])
    model = net.model({"input": ["N", "L"]}, {"y": ["N", "L"]})
    rng = np.random.default_rng(0)
    fed = [{"input": rng.standard_normal((1, size)).astype(np.float32)} for size in (3, 70_000, 1, 500)]
    found = collect(model, ["input", "t0", "y"], fed)
    everything = np.concatenate([feed["input"].ravel() for feed in fed])
    assert (found["t0"].low, found["t0"].high) == (-everything.max(), -everything.min())
    assert (found["y"].low, found["y"].high) == (0, -everything.min())
    backwards = collect(model, ["input", "t0", "y"], fed[::-1])
    assert all(state(found[name]) == state(backwards[name]) for name in found)


def test_values_that_are_not_finite_are_left_out_of_large_tensors():
    net = Net()
    net.add("Relu", net.add("Neg", "input"), outputs=["y"])
    model = net.model({"input": [1, 90_000]}, {"y": [1, 90_000]})
    values = np.random.default_rng(0).standard_normal((1, 90_000)).astype(np.float32)
    values[0, [5, 77, 80_000]] = np.nan, np.inf, -np.inf
    found = collect(model, ["input", "t0"], [{"input": values}])
    finite = values[np.isfinite(values)]
    assert (found["input"].low, found["input"].high, found["input"].ignored) == (finite.min(), finite.max(), 3)
    assert (found["t0"].low, found["t0"].high) == (-finite.max(), -finite.min())


def test_progress_is_told():
    told = []
    collect(residual(), ["t0"], feeds(residual(), 3), progress=lambda *both: told.append(both), total=3)
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_histograms_survive_as_arrays():
    model = swish()
    names = [name for node in model.graph.node for name in node.output]
    found = collect(model, names, feeds(model, 3)) | {"empty": Histogram()}
    again = unpacked(packed(found))
    assert list(again) == list(found)
    for name, seen in found.items():
        assert state(again[name]) == state(seen)
        assert all(again[name].limits(method) == seen.limits(method) for method in ranges.METHODS)
    assert unpacked(packed({})) == {}


def test_few_inputs_are_counted_in_full_and_many_by_a_part(monkeypatch):
    model = residual()
    names = [name for node in model.graph.node for name in node.output]
    dense = collect(model, names, feeds(model, 6))
    assert dense["t0"].counts.sum() + dense["t0"].zeros == 6 * 16 * 16 * 16
    monkeypatch.setattr(ranges, "_WAITING", 300_000)
    sparse = collect(model, names, feeds(model, 6))
    assert sparse["t0"].counts.sum() + sparse["t0"].zeros < 6 * 600
    assert {name: (seen.low, seen.high) for name, seen in sparse.items()} == {
        name: (seen.low, seen.high) for name, seen in dense.items()
    }
    backwards = collect(model, names, list(feeds(model, 6))[::-1])
    assert {name: state(seen) for name, seen in sparse.items()} == {n: state(seen) for n, seen in backwards.items()}
