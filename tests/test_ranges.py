"""Histograms that neither grow nor depend on the order, and the ranges chosen from them."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.compress.quantize.ranges import BINS, Histogram, collect, squared_errors
from edgekit.errors import EdgekitError
from edgekit.session import open_session, run
from nets import Net, feeds, residual

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
    from edgekit import graph

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
    assert peak(400) < 1.05 * peak(16) + 100_000


def test_feeds_that_do_not_fit_are_one_sentence():
    with pytest.raises(EdgekitError, match="cannot run"):
        collect(residual(), ["t0"], [{"input": np.zeros((1, 2, 3, 4), np.float32)}])
