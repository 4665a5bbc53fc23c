"""Equalisation: the same function to the bit, ranges of the same size, nothing touched that may not be."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from edgekit import graph
from edgekit.compress import simplify
from edgekit.compress.quantize import channels, equalize, homogeneous
from edgekit.session import open_session, run
from nets import NETS, Net, feeds, info


def uneven(model, spread=2.0, seed=0):
    """Make the rows of every weight differ in size."""
    made = graph.copy(model)
    rng = np.random.default_rng(seed)
    for tensor in made.graph.initializer:
        values = graph.array(tensor)
        if values.ndim > 1 and values.dtype == np.float32:
            factors = np.exp2(rng.normal(0, spread, len(values))).astype(np.float32)
            tensor.CopyFrom(
                numpy_helper.from_array(values * factors.reshape(-1, *[1] * (values.ndim - 1)), tensor.name)
            )
    return made


def everything(model):
    return {node.name for node in model.graph.node}


def answers(model, count=3):
    session = open_session(model)
    return [value for feed in feeds(model, count) for value in run(session, feed)]


def assert_same(before, after):
    for old, new in zip(answers(before), answers(after), strict=True):
        assert np.array_equal(old, new, equal_nan=True)


def changed(before, after):
    """Names of the nodes that read another constant than before."""
    old, new = graph.initializers(before), graph.initializers(after)
    pairs = zip(before.graph.node, after.graph.node, strict=True)
    return {
        one.name
        for one, other in pairs
        for a, b in zip(one.input, other.input, strict=True)
        if a != b or (a in old and old[a] != new[b])
    }


def rescaled(model, allowed, rescale):
    """Rescale, and hold the result against what is promised of any such step: other constants in `allowed` alone."""
    kept = model.SerializeToString(deterministic=True)
    (made, count), (again, _) = rescale(), rescale()
    assert model.SerializeToString(deterministic=True) == kept
    assert made.SerializeToString(deterministic=True) == again.SerializeToString(deterministic=True)
    assert changed(model, made) <= allowed
    assert [node.op_type for node in made.graph.node] == [node.op_type for node in model.graph.node]
    assert bool(changed(model, made)) == bool(count)
    return made, count


def checked(model, allowed=None, maxima=None, same=True):
    """Equalise, and hold the result against all that is promised of it."""
    allowed = everything(model) if allowed is None else allowed
    made, count = rescaled(model, allowed, lambda: equalize.equalize(model, allowed, maxima))
    if same:
        assert_same(model, made)
    return made, count


def chain(net, x, kinds, width=6):
    """Convolutions of these kinds with an activation behind each."""
    for kind in kinds:
        x = net.conv(x, width, width, k=1 if kind == "point" else 3, group=width if kind == "depth" else 1, relu=False)
        x = net.add("LeakyRelu" if kind == "leaky" else "Relu", x)
    return x


def inverted():
    """An inverted residual with ReLU6, an addition, a pool and a Gemm."""
    net = Net(20)
    six = net.constant(np.float32(6)), net.constant(np.float32(0))
    x = net.conv("x", 3, 6, relu=False)
    y = net.add("Clip", net.conv(x, 6, 18, k=1, relu=False), six[1], six[0])
    y = net.add("Clip", net.conv(y, 18, 18, group=18, relu=False), six[1], six[0])
    y = net.add("Add", net.conv(y, 18, 6, k=1, relu=False), x)
    y = net.add("Flatten", net.add("GlobalAveragePool", net.conv(y, 6, 8, k=1)))
    net.add("Gemm", y, net.weight(5, 8), net.weight(5), transB=1, outputs=["y"])
    return net.model({"x": ["N", 3, 8, 8]}, {"y": ["N", 5]})


def concatenated():
    net = Net(21)
    x = net.conv("x", 3, 6)
    y = net.add("Concat", net.conv(x, 6, 4), net.add("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4), axis=1)
    parts = net.add("Split", y, net.constant(np.int64([5, 5])), axis=1, outputs=["p", "q"])
    z = net.add("Add", net.conv(parts, 5, 4, k=1), net.conv("q", 5, 4, k=1))
    net.conv(net.add("AveragePool", z, kernel_shape=[2, 2], strides=[2, 2]), 4, 3, relu=False)
    net.nodes[-1].output[0] = "y"
    return net.model({"x": [1, 3, 8, 8]}, {"y": [1, 3, 4, 4]})


def last_channel():
    """NHWC with Transposes, a gate, Resize, Pad, Slice, Gemm behind a Flatten of whole maps."""
    net = Net(22)
    x = net.conv(net.add("Transpose", "x", perm=[0, 3, 1, 2]), 3, 6)
    x = net.add("Mul", x, net.add("Sigmoid", net.conv("gate", 6, 6, k=1, relu=False)))
    x = net.add("Transpose", net.add("Transpose", x, perm=[0, 2, 3, 1]), perm=[0, 3, 1, 2])
    x = net.add("Resize", x, "", net.constant(np.float32([1, 1, 2, 2])), mode="linear")
    x = net.add("Pad", net.conv(x, 6, 4, k=1), net.constant(np.int64([0, 1, 1, 1, 0, 1, 0, 0])))
    x = net.add("Slice", x, *(net.constant(np.int64(n)) for n in ([0, 1], [4, 7], [1, 3])))
    x = net.add("Flatten", net.conv(x, 4, 3))
    x = net.add("LeakyRelu", net.add("Gemm", x, net.weight(7, 3 * 9 * 6), net.weight(7), transB=1))
    x = net.add("Add", net.add("MatMul", x, net.weight(7, 5)), net.weight(5))
    net.add("Gemm", net.add("Relu", x), net.weight(5, 4), outputs=["y"], alpha=0.5)
    return net.model({"x": [1, 4, 4, 3], "gate": [1, 6, 1, 1]}, {"y": [1, 4]})


def shared():
    """One weight and one bias read by two convolutions."""
    net = Net(23)
    x = net.conv("x", 3, 6)
    weight, bias = net.weight(6, 6, 1, 1), net.weight(6)
    x = net.add("Relu", net.add("Conv", x, weight, bias))
    x = net.add("Relu", net.add("Conv", x, net.weight(6, 6, 1, 1), bias))
    x = net.add("Relu", net.add("Conv", x, net.weight(6, 6, 1, 1), bias))
    net.add("Conv", x, weight, outputs=["y"])
    return net.model({"x": [1, 3, 6, 6]}, {"y": [1, 6, 6, 6]})


@pytest.mark.parametrize(("make", "least"), [(inverted, 2), (concatenated, 4), (last_channel, 3), (shared, 1)])
def test_answers_stay_the_same_to_the_bit(make, least):
    _, count = checked(uneven(make()))
    assert count >= least


@pytest.mark.parametrize("name", sorted(NETS))
def test_no_difficulty_changes_the_answers(name):
    model = NETS[name]()
    checked(uneven(model))
    maxima = equalize.maxima_of(model, equalize.read(model, everything(model)), feeds(model, 3))
    checked(model, maxima=maxima)


def test_a_residual_stream_is_scaled_as_a_whole():
    model = uneven(NETS["residual"]())
    made, count = checked(model)
    convolutions = {node.name for node in model.graph.node if node.op_type == "Conv"}
    assert convolutions <= changed(model, made)
    assert count >= 6


def test_shared_weights_are_left_alone_and_shared_biases_copied():
    model = uneven(shared())
    made, _ = checked(model)
    assert graph.initializers(made)["w2"] == graph.initializers(model)["w2"]
    biases = [node.input[2] for node in made.graph.node if node.op_type == "Conv" and len(node.input) > 2]
    assert len(set(biases)) == 3


@pytest.mark.parametrize("reader", ["Sigmoid", "HardSwish", "Softmax", "output", "captured", "Clip"])
def test_what_is_read_otherwise_is_left_alone(reader):
    net = Net(24)
    x = net.conv("x", 3, 6)
    outputs = {"y": [1, 6, 6, 6]}
    if reader == "output":
        outputs[x] = [1, 6, 6, 6]
    elif reader == "captured":
        branch = helper.make_graph([helper.make_node("Neg", [x], ["n"])], "b", [], [info("n", [1, 6, 6, 6])])
        net.add("If", net.constant(np.bool_(True)), then_branch=branch, else_branch=branch, outputs=["z"])
        outputs["z"] = [1, 6, 6, 6]
    else:
        bounds = [net.constant(np.float32(-1)), net.constant(np.float32(1))] if reader == "Clip" else []
        net.add(reader, x, *bounds, outputs=["z"])
        outputs["z"] = [1, 6, 6, 6]
    net.conv(x, 6, 6, relu=False)
    net.nodes[-1].output[0] = "y"
    assert checked(uneven(net.model({"x": [1, 3, 6, 6]}, outputs)))[1] == 0


@pytest.mark.parametrize("taken", ["conv0", "conv2"])
def test_only_allowed_nodes_change(taken):
    net = Net(25)
    net.conv(chain(net, net.conv("x", 3, 6), ["full"]), 6, 6, relu=False)
    net.nodes[-1].output[0] = "y"
    model = uneven(net.model({"x": [1, 3, 6, 6]}, {"y": [1, 6, 6, 6]}))
    made, count = checked(model, everything(model) - {taken})
    assert count == (1 if taken == "conv0" else 0)
    assert taken not in changed(model, made)


def test_dead_channels_keep_their_scale():
    net = Net(26)
    first, second = (net.rng.standard_normal((4, 4, 1, 1)).astype(np.float32) for _ in range(2))
    first[1], second[:, 2] = 0, 0
    x = net.add("Relu", net.add("Conv", "x", net.constant(first)))
    net.add("Conv", x, net.constant(second * 50), outputs=["y"])
    model = net.model({"x": [1, 4, 3, 3]}, {"y": [1, 4, 3, 3]})
    exponents = np.rint(equalize.settled(homogeneous.trace(model, everything(model))))[1:5]
    assert list(exponents != 0) == [True, False, False, True]


def twin(weights, biases, sweeps):
    """The formula of the paper, channel by channel, for a chain of matrices (out, in); gives log2 of all factors."""
    weights, biases = [w.astype(np.float64) for w in weights], [b.astype(np.float64) for b in biases]
    logs = [np.zeros(len(w)) for w in weights[:-1]]
    for _ in range(sweeps):
        for k in range(len(weights) - 1):
            for i in range(len(weights[k])):
                r1 = max(np.abs(weights[k][i]).max(), abs(biases[k][i]) / 4)
                r2 = np.abs(weights[k + 1][:, i]).max()
                s = np.sqrt(r1 * r2) / r2
                weights[k][i] /= s
                biases[k][i] /= s
                weights[k + 1][:, i] *= s
                logs[k][i] += np.log2(s)
    return np.concatenate(logs)


def test_factors_are_those_of_the_formula():
    net, x = Net(27), "x"
    weights = [net.rng.standard_normal((5, 5)).astype(np.float32) for _ in range(4)]
    biases = [net.rng.standard_normal(5).astype(np.float32) for _ in range(4)]
    for weight, bias in zip(weights, biases, strict=True):
        x = net.add("Relu", net.add("Gemm", x, net.constant(weight), net.constant(bias), transB=1))
    net.nodes[-1].output[0] = "y"
    model = net.model({"x": [1, 5]}, {"y": [1, 5]})
    found = homogeneous.trace(model, everything(model))
    assert np.allclose(equalize.settled(found, sweeps=40, tolerance=0)[1:16], twin(weights, biases, 40), atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["full", "point", "depth", "leaky"]), min_size=2, max_size=5), st.integers(0, 99))
def test_ranges_settle_at_the_same_size(kinds, seed):
    net = Net(seed)
    x = chain(net, "x", kinds, width=3)
    net.nodes[-1].output[0] = "y"
    model = uneven(net.model({"x": [1, 3, 5, 5]}, {"y": [1, 3, 5, 5]}), seed=seed)
    assert x
    made, _ = checked(model)
    assert np.allclose(answers(model)[0], answers(made)[0], rtol=1e-5)
    found = homogeneous.trace(model, everything(model))
    logs = equalize.settled(found, sweeps=3000, tolerance=1e-9)
    free = np.arange(found.count) > 0
    free[found.layers[-1].makes] = False
    made_by, read_by = (np.zeros(found.count) for _ in range(2))
    for layer, constant in zip(found.layers, found.constants, strict=True):
        groups, rows, columns, _ = layer.weight.shape
        scale = np.exp2(logs[layer.reads].reshape(groups, 1, columns) - logs[layer.makes].reshape(groups, rows, 1))
        sizes = np.abs(layer.weight).max(3) * scale
        bias = np.abs(constant.values) / np.exp2(logs[layer.makes]) / 4
        np.maximum.at(made_by, layer.makes, np.maximum(sizes.max(2).reshape(-1), bias))
        np.maximum.at(read_by, layer.reads, sizes.max(1).reshape(-1))
    free &= np.abs(logs) < channels.MOST
    assert np.allclose(made_by[free], read_by[free], rtol=1e-4)


def clipped(low=0.0):
    net = Net(28)
    weight = net.rng.standard_normal((4, 3, 1, 1)).astype(np.float32)
    weight *= np.float32([100, 1e-2, 1e-3, 1]).reshape(4, 1, 1, 1)
    x = net.add("Conv", "x", net.constant(weight), net.constant(np.float32([0, 0.01, 0, 0])))
    x = net.add("Clip", x, net.constant(np.float32(low)), net.constant(np.float32(6)))
    net.add("Conv", x, net.weight(5, 4, 1, 1), outputs=["y"])
    return net.model({"x": [1, 3, 8, 8]}, {"y": [1, 5, 8, 8]})


@pytest.mark.parametrize("low", [0.0, -6.0])
@pytest.mark.parametrize("where", ["t0", "t1"])
def test_channels_that_do_not_reach_the_bound_of_a_clip_are_scaled(low, where):
    model = clipped(low)
    allowed = everything(model)
    maxima = equalize.maxima_of(model, [where], feeds(model, 20))
    assert checked(model)[1] == 0
    made, count = checked(model, allowed, maxima)
    assert count == 1
    old, new = (graph.array(graph.initializers(m)["w0"]) for m in (model, made))
    assert np.array_equal(old[0], new[0])
    assert not np.array_equal(old[1], new[1])
    assert (equalize.maxima_of(made, ["t0"], feeds(model, 20))["t0"][1:3] <= 6 / homogeneous.MARGIN).all()


def test_channels_beside_fixed_ones_stay_in_proportion():
    net = Net(31)
    weight = np.ones((4, 3, 1, 1), np.float32) * np.float32([8, 8, 0.25, 0.5]).reshape(4, 1, 1, 1)
    x = net.add("Conv", "x", net.constant(weight), outputs=["t"])
    x = net.add("Clip", x, net.constant(np.float32(0)), net.constant(np.float32(6)))
    net.add("Conv", x, net.constant(np.ones((4, 1, 1, 1), np.float32)), group=4, outputs=["y"])
    model = net.model({"x": [1, 3, 8, 8]}, {"y": [1, 4, 8, 8]})
    made, _ = checked(model, maxima={"t": np.float32([24, 24, 0.75, 1.5]), x: np.float32([6, 6, 0.75, 1.5])})
    assert graph.array(graph.initializers(made)["w0"]).reshape(4, 3)[:, 0].tolist() == [8, 8, 1, 1]


def test_maxima_of_the_wrong_size_are_not_used():
    model = clipped()
    assert checked(model, maxima={"t0": np.ones(3, np.float32)})[1] == 0
    assert checked(model, maxima={"t0": np.full(4, np.nan)})[1] == 0


def test_a_channel_that_is_all_bias_does_not_grow():
    net = Net(29)
    weight = net.rng.standard_normal((4, 3, 1, 1)).astype(np.float32)
    weight[2] *= np.float32(1e-4)
    x = net.add("Conv", "x", net.constant(weight), net.constant(np.float32([0, 0, 3, 0])))
    net.add("Conv", net.add("Relu", x), net.weight(5, 4, 1, 1), outputs=["y"])
    model = net.model({"x": [1, 3, 8, 8]}, {"y": [1, 5, 8, 8]})
    made, _ = checked(model)
    assert 1 < graph.array(graph.initializers(made)["w1"])[2] < 6


def test_known_maxima_decide_instead_of_weights():
    model = uneven(concatenated())
    names = equalize.read(model, everything(model))
    maxima = equalize.maxima_of(model, names, feeds(model, 3))
    made, count = checked(model, maxima=maxima)
    found = homogeneous.trace(model, everything(model))
    spread = [
        np.ptp(np.log2(values)) for values in (maxima["t1"], equalize.maxima_of(made, ["t1"], feeds(model, 3))["t1"])
    ]
    assert count > 0
    assert spread[1] < spread[0]
    assert found.views["t1"].axis == -3


@pytest.mark.parametrize("known", [False, True])
def test_the_result_does_not_depend_on_the_scales_at_the_start(known):
    model = concatenated()
    allowed = everything(model)
    found = homogeneous.trace(model, allowed)
    free = equalize.settled(found) != 0
    exponents = np.random.default_rng(1).integers(-4, 5, found.count) * free
    logs = []
    for start in (model, channels.scaled(model, found, exponents)):
        maxima = equalize.maxima_of(start, equalize.read(start, allowed), feeds(model, 3)) if known else None
        logs.append(equalize.settled(homogeneous.trace(start, allowed), maxima, sweeps=500, tolerance=1e-9))
    assert free.any()
    assert np.allclose(logs[0], logs[1] + exponents, atol=1e-4)


def test_the_largest_values_of_each_channel():
    net = Net(30)
    net.add("Log", net.conv("x", 3, 4, relu=False), outputs=["y"])
    model = net.model({"x": [1, 3, 6, 6]}, {"y": [1, 4, 6, 6]})
    fed = list(feeds(model, 5))
    seen = [run(open_session(graph.with_outputs(model, ["t0"])), feed, ["t0"])[0] for feed in fed]
    found = equalize.maxima_of(model, ["t0", "x"], iter(fed))
    assert np.array_equal(found["t0"], np.abs(np.stack(seen)).max((0, 1, 3, 4)))
    assert found["x"].shape == (6,)
    assert np.array_equal(equalize.maxima_of(model, ["t0"], fed, signed=True)["t0"], np.stack(seen).max((0, 1, 3, 4)))
    assert np.isfinite(equalize.maxima_of(model, ["y"], fed)["y"]).all()


def test_scaling_is_exact_for_any_exponents():
    model = uneven(concatenated())
    found = homogeneous.trace(model, everything(model))
    exponents = np.random.default_rng(0).integers(-9, 9, found.count)
    exponents[0] = 0
    assert_same(model, channels.scaled(model, found, exponents))


@pytest.mark.parametrize("name", ["resnet20_cifar10", "mobilenetv1_025_vww96"])
def test_real_models_answer_the_same(assets, name):
    model, _ = simplify.simplify(graph.load(Path(assets) / "models" / f"{name}.onnx"), lambda before, after: True)
    made, count = equalize.equalize(model, everything(model))
    assert count >= 9
    assert simplify.same_outputs(model, made, feeds(model, 2), 1e-4)
