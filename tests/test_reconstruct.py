"""Gradients against finite differences, operator by operator; reconstruction brings pruned nets nearer."""

import numpy as np
import pytest
from onnx import numpy_helper

from edgekit import graph
from edgekit.compress.prune import reconstruct as fitting
from edgekit.compress.prune.columns import layers
from edgekit.compress.prune.derivatives import RULES
from edgekit.compress.prune.gradient import differentiated
from edgekit.compress.prune.groups import find_groups
from edgekit.compress.prune.moments import moments
from edgekit.compress.prune.pruner import Pruner
from edgekit.compress.prune.reconstruct import _values, _Work, reconstruct
from edgekit.compress.prune.refit import added, changed, fitted, refit
from edgekit.compress.prune.repair import fold
from edgekit.compress.prune.surgery import remove
from edgekit.session import open_session, run
from nets import Answer, Bench, Net, feeds, residual, sqnr_db, swish, transformer


def through(kind, *extra, constants=(), shape=None, outputs=1, rank=4, **attributes):
    """A convolution, one operator, another convolution; the constants come before `extra` names."""

    def build():
        net = Net(7)
        x = net.conv("input", 2, 4, relu=False)
        made = [f"m{number}" for number in range(outputs)]
        names = [net.constant(values) for values in constants]
        net.add(kind, x, *extra, *names, outputs=made, **attributes)
        y = made[0] if outputs == 1 else net.add("Add", made[0], net.add("Mul", made[1], made[1]))
        if shape is not None:
            y = net.add("Reshape", y, net.constant(np.array(shape, np.int64)))
        net.add("Tanh", y, outputs=["out"])
        return net.model({"input": [2, 2, 6, 6]}, {"out": list("abcd"[:rank])}, 17)

    return build


def convolution(cin=4, cout=6, k=3, group=1, transpose=False, **attributes):
    def build():
        net = Net(8)
        x = net.conv("input", 2, cin, relu=False)
        weight = net.weight(cout, cin // group, k, k)
        net.add("Conv", x, weight, net.weight(cout), group=group, outputs=["out"], **attributes)
        return net.model({"input": [2, 2, 7, 7]}, {"out": list("abcd")})

    return build


ONES = np.ones(4, np.float32)
CASES = {
    "Relu": through("Relu"),
    "LeakyRelu": through("LeakyRelu", alpha=0.2),
    "Clip": through("Clip", constants=[np.float32(-0.3), np.float32(0.5)]),
    "Sigmoid": through("Sigmoid"),
    "HardSigmoid": through("HardSigmoid"),
    "HardSwish": through("HardSwish"),
    "Tanh": through("Tanh"),
    "Erf": through("Erf"),
    "Softmax": through("Softmax", axis=1),
    "Mul": through("Mul", constants=[np.arange(4, dtype=np.float32).reshape(4, 1, 1)]),
    "Sub": through("Sub", constants=[np.float32(0.5)]),
    "Div": through("Div", constants=[np.float32(1.5)]),
    "Transpose": through("Transpose", perm=[0, 2, 3, 1]),
    "GlobalAveragePool": through("GlobalAveragePool"),
    "ReduceMean": through("ReduceMean", axes=[2], keepdims=0, rank=3),
    "AveragePool": through("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1),
    "MaxPool": through("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 0]),
    "MaxPool stride 1": through("MaxPool", kernel_shape=[2, 3]),
    "LayerNormalization": through(
        "LayerNormalization", constants=[np.linspace(0.5, 2, 6, dtype=np.float32), np.zeros(6, np.float32)], axis=-1
    ),
    "BatchNormalization": through("BatchNormalization", constants=[2 * ONES, ONES, 0 * ONES, 3 * ONES]),
    "Pad": through("Pad", constants=[np.array([0, 1, 2, 0, 0, 3, 0, 1])]),
    "Slice": through("Slice", constants=[np.array(a) for a in ([0, 1], [99, 6], [2, -1], [2, 3])]),
    "Split": through("Split", constants=[np.array([2, 2])], outputs=2, axis=1),
    "Resize": through("Resize", "", constants=[np.float32([1, 1, 2, 3])], mode="nearest"),
    "Reshape": through("Identity", shape=[2, 8, 18], rank=3),
    "convolution 1x1": convolution(k=1),
    "convolution with steps": convolution(strides=[2, 3], dilations=[2, 1], pads=[2, 0, 1, 1]),
    "convolution SAME": convolution(strides=[2, 2], auto_pad="SAME_UPPER"),
    "ConvTranspose": through(
        "ConvTranspose", constants=[np.ones((4, 3, 3, 2), np.float32)], strides=[2, 3], pads=[1, 0, 1, 0]
    ),
    "grouped": convolution(cin=4, cout=6, group=2),
    "depthwise": convolution(cin=4, cout=4, group=4, strides=[2, 1], pads=[1, 1, 1, 1]),
    "residual": residual,
    "squeeze and excite": lambda: swish(opset=17),
    "transformer": transformer,
}


def batch(model, seed=0):
    found = {}
    rng = np.random.default_rng(seed)
    for entry in graph.inputs(model):
        found[entry.name] = rng.standard_normal([d if isinstance(d, int) else 2 for d in entry.shape]).astype(
            np.float32
        )
    return found


def with_weights(model, weights):
    made = graph.copy(model)
    for tensor in made.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    return made


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_finite_differences(name):
    model = CASES[name]()
    feed = batch(model)
    output = graph.output_names(model)[0]
    values = _values(model, feed)
    shapes = {key: array.shape for key, array in values.items()}
    goal = values[output] + np.random.default_rng(1).standard_normal(shapes[output]).astype(np.float32)
    made, trained = differentiated(model, {output: 1.0}, shapes)
    assert trained
    weights = {key: values[key] for key in trained}
    session = open_session(made)
    wanted = [f"gradient_of_{key}" for key in trained]
    found = run(session, {**{k: feed[k] for k in feed}, f"goal_{output}": goal, **weights}, wanted)

    def loss(moved):
        answer = run(open_session(with_weights(model, moved)), feed)[0]
        return 0.5 * float(np.square(answer.astype(np.float64) - goal).sum())

    rng = np.random.default_rng(2)
    for key, slope in zip(trained, found, strict=True):
        assert slope.shape == shapes[key]
        direction = np.sign(slope) * rng.random(slope.shape).astype(np.float32) * np.abs(weights[key]).mean()
        step = 2e-3
        up, down = (loss({**weights, key: weights[key] + side * step * direction}) for side in (1, -1))
        assert (up - down) / (2 * step) == pytest.approx(float((slope * direction).sum()), rel=0.03, abs=1e-3)


def test_every_rule_is_tried():
    used = {node.op_type for build in CASES.values() for node in build().graph.node}
    assert set(RULES) - used <= {"Squeeze", "Unsqueeze", "Concat"}


# ---- reconstruction


class Held(Bench):
    """A Workbench whose held-back inputs are like those that calibrate, and whose drop is the noise."""

    def drift(self, before, after, most=None):
        return Answer(sqnr_db=sqnr_db(before, after, 8, seed=5))


def without(model, *names):
    """Take every second channel of these groups out, the others making up for them."""
    groups = {group.name: group for group in find_groups(model).groups}
    gone = {name: list(range(0, groups[name].size, 2)) for name in names}
    made = model
    found = moments(model, [groups[name] for name in names], lambda: feeds(model, 20))
    for name in names:
        made = fold(made, groups[name], gone[name], found[name])
    return remove(made, gone)


def wide():
    """A residual classifier with more channels than it needs."""
    net = Net(9)
    x = net.conv("input", 3, 12)
    y = net.conv(net.conv(x, 12, 24), 24, 12, relu=False)
    x = net.add("Relu", net.add("Add", x, y))
    y = net.conv(net.conv(x, 12, 24), 24, 12, relu=False)
    x = net.add("Relu", net.add("Add", x, y))
    x = net.add("Flatten", net.add("GlobalAveragePool", x))
    net.add("Softmax", net.add("Gemm", x, net.weight(10, 12), net.weight(10), transB=1), outputs=["p"], axis=1)
    return net.model({"input": ["N", 3, 8, 8]}, {"p": ["N", 10]})


def names_of(model):
    return [group.name for group in find_groups(model).groups if group.removable]


def test_a_pruned_net_comes_nearer():
    model = wide()
    small = without(model, *names_of(model))
    bench = Held(model, count=48)
    before = model.SerializeToString(), small.SerializeToString()
    made = reconstruct(model, small, bench, epochs=12)
    assert (model.SerializeToString(), small.SerializeToString()) == before
    assert sqnr_db(model, made, 8, seed=5) > sqnr_db(model, small, 8, seed=5) + 1
    assert made.SerializeToString() == reconstruct(model, small, bench, epochs=12).SerializeToString()
    assert [tuple(t.dims) for t in made.graph.initializer] == [tuple(t.dims) for t in small.graph.initializer]


def test_one_picture_at_a_time_where_the_batch_is_fixed():
    model = wide()
    small = without(model, *names_of(model))
    for each in (model, small):
        each.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    made = reconstruct(model, small, Held(model, count=32), epochs=8)
    assert sqnr_db(model, made, 8, seed=5) > sqnr_db(model, small, 8, seed=5) + 0.5


def test_where_all_lack_channels_they_are_compared_with_those_that_stay():
    net = Net(4)
    x, last = "input", 3
    for count in (12, 16, 12):
        x, last = net.conv(x, last, count), count
    net.conv(x, last, 4, relu=False)
    net.nodes[-1].output[0] = "out"
    model = net.model({"input": ["N", 3, 8, 8]}, {"out": ["N", 4, 8, 8]})
    groups = find_groups(model).groups
    gone = {group.name: list(range(0, group.size, 2)) for group in groups}
    bench = Held(model, count=48)
    narrowed = Pruner(model, groups, bench).narrowed(gone)
    assert {len(kept) for _, kept in narrowed.values()} == {6, 8}
    small = without(model, *gone)
    work = _Work.of(model, small, list(bench.feeds(48)), bench, narrowed)
    assert set(work.watched) == {*narrowed, "out"}
    old, new = (_values(each, batch(model)) for each in (model, small))
    goals = run(work.original, batch(model), work.goals)
    for name, goal in zip(work.watched, goals, strict=True):
        assert goal.shape == new[name].shape
        np.testing.assert_array_equal(goal, old[name].take(narrowed[name][1], 1) if name in narrowed else old[name])
    alone, beside = (reconstruct(model, small, bench, epochs=24, narrowed=each) for each in (None, narrowed))
    assert sqnr_db(model, beside, 8, seed=5) > sqnr_db(model, small, 8, seed=5) + 0.5
    assert alone.SerializeToString() != beside.SerializeToString()


def test_steps_that_lead_astray_are_passed_over_for_smaller_ones(monkeypatch):
    model = wide()
    small = without(model, *names_of(model))
    bench = Held(model, count=32)
    monkeypatch.setattr(fitting, "RATES", (0.02,))
    alone = reconstruct(model, small, bench, epochs=8)
    monkeypatch.setattr(fitting, "RATES", (100.0, 0.02))
    assert alone is not small and reconstruct(model, small, bench, epochs=8) == alone


@pytest.mark.parametrize("shape", [(1, 3, 8, 12), (1, 8, 12, 3)])
def test_a_part_of_another_picture_is_pasted_at_its_place(shape):
    feeds = [{"x": np.full(shape, value, np.float32)} for value in (0, 1)]
    rng = np.random.default_rng(0)
    shares = set()
    for _ in range(200):
        made = fitting._pasted(feeds[0], feeds, rng)["x"]
        assert made.shape == shape and not feeds[0]["x"].any()
        mask = made[0].any(0 if shape[1] == 3 else 2)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask.sum() == rows.size * columns.size  # one rectangle
        assert rows.size in (0, *range(2, 7)) and columns.size in (0, *range(3, 10))
        shares.add(mask.mean())
    assert 0 in shares and len(shares) > 5
    flat = {"x": np.zeros((1, 5), np.float32)}
    assert fitting._pasted(flat, [flat], rng) is flat


def test_what_lacks_few_channels_is_not_compared():
    model = wide()
    groups, bench = find_groups(model).groups, Held(model, count=16)
    gone = {name: [0, 1] for name in names_of(model)[:1]}
    narrowed = Pruner(model, groups, bench).narrowed(gone)
    work = _Work.of(model, remove(model, gone), list(bench.feeds(16)), bench, narrowed)
    assert narrowed and not set(narrowed) & set(work.watched) and work.watched == work.goals


def test_what_does_not_help_is_not_kept():
    class Worse(Held):
        def drift(self, before, after, most=None):
            return Answer(sqnr_db=10.0)

    model = wide()
    small = without(model, *names_of(model))
    assert reconstruct(model, small, Worse(model, count=16), epochs=1) is small
    assert refit(model, small, Worse(model, count=16)) is small


def test_too_little_memory_leaves_it():
    model = wide()
    small = without(model, *names_of(model))
    bench = Held(model, count=16, max_bytes=1000)
    assert reconstruct(model, small, bench) is small
    assert refit(model, small, bench) is small


def test_an_operator_without_a_rule_keeps_what_is_before_it():
    net = Net(3)
    x = net.conv("input", 3, 8)
    before = net.nodes[0].input[1]
    x = net.add("Selu", x)
    net.conv(x, 8, 4, relu=False)
    after = net.nodes[-1].input[1]
    net.nodes[-1].output[0] = "out"
    model = net.model({"input": ["N", 3, 6, 6]}, {"out": ["N", 4, 6, 6]})
    shapes = {name: array.shape for name, array in _values(model, batch(model)).items()}
    _, trained = differentiated(model, {"out": 1.0}, shapes)
    assert after in trained and before not in trained


# ---- layer by layer


def test_refit_brings_a_pruned_net_nearer():
    model = wide()
    small = without(model, *names_of(model))
    made = refit(model, small, Held(model, count=30))
    assert sqnr_db(model, made, 8, seed=5) > sqnr_db(model, small, 8, seed=5) + 0.3


def test_a_layer_is_fitted_by_least_squares():
    """Against the normal equations, written out over all rows."""
    model = wide()
    small = without(model, names_of(model)[1])
    layer = next(layer for layer in changed(model, small) if layer.node != names_of(model)[1])
    samples = list(feeds(model, 15))
    made = fitted(model, small, layer, samples, 10**9, ridge=1e-9)
    other = added(small, layer)
    assert other
    rows, gaps = [], []
    for feed in samples:
        old, new = _values(model, feed), _values(small, feed)
        goal = old[layer.output] + old[other[0]] - new[other[0]]
        padded = np.pad(new[layer.source], [(0, 0), (0, 0), (1, 1), (1, 1)]).astype(np.float64)
        for y in range(8):
            for x in range(8):
                rows.append([*padded[0, :, y : y + 3, x : x + 3].ravel(), 1.0])
                gaps.append(goal[0, :, y, x])
    best = np.linalg.lstsq(np.array(rows), np.array(gaps, np.float64), rcond=None)[0]
    found = next(entry for name, entry in layers(made).items() if name == layer.node)
    np.testing.assert_allclose(found.matrix(made)[0], best[:-1].T, atol=2e-3)
    np.testing.assert_allclose(found.offset(made)[0], best[-1], atol=2e-3)
