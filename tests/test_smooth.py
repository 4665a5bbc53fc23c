"""SmoothQuant: the same function to the bit, the formula's factors, and nothing touched that is read otherwise."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from test_equalize import assert_same, everything, rescaled, uneven

from edgekit import graph
from edgekit.compress import simplify
from edgekit.compress.quantize import equalize, homogeneous, smooth
from nets import NETS, Net, feeds, info

K = 6


def checked(model, alpha=0.5, allowed=None, maxima=None):
    """Smooth, and hold the result against all that is promised of it."""
    allowed = everything(model) if allowed is None else allowed
    if maxima is None:
        maxima = equalize.maxima_of(model, smooth.read(model, allowed), feeds(model, 4))
    made, count = rescaled(model, allowed, lambda: smooth.smooth(model, allowed, maxima, alpha))
    assert_same(model, made)
    return made, count


def normalised(net, x, bias=True):
    """LayerNormalization with one channel far larger than the others."""
    scale = np.float32([1, 90, 0.02, 3, -1, 0.5])
    inputs = [net.constant(scale), *([net.weight(K)] if bias else [])]
    return net.add("LayerNormalization", x, *inputs, axis=-1)


def written_out(net, x):
    """The same in single operators, as old exporters have it."""
    centred = net.add("Sub", x, net.add("ReduceMean", x, axes=[-1]))
    squared = net.add("Pow", centred, net.constant(np.float32(2)))
    spread = net.add("Sqrt", net.add("Add", net.add("ReduceMean", squared, axes=[-1]), net.constant(np.float32(1e-5))))
    x = net.add("Mul", net.add("Div", centred, spread), net.constant(np.float32([1, 90, 0.02, 3, -1, 0.5])))
    return net.add("Add", x, net.weight(K))


def linear(net, x):
    return net.add("Relu", net.add("Add", net.add("MatMul", x, net.weight(K, K)), net.weight(K)))


def attention(make, seed=0, extra=lambda net, x: {}):
    """Three products that read one tensor, and the residual around them."""
    net = Net(seed)
    x = make(net, "x")
    q, k, v = (net.add("Add", net.add("MatMul", x, net.weight(K, K)), net.weight(K)) for _ in range(3))
    scores = net.add("Softmax", net.add("MatMul", q, net.add("Transpose", k, perm=[0, 2, 1])))
    net.add("Add", "x", net.add("MatMul", scores, v), outputs=["y"])
    shown = extra(net, x)
    return net.model({"x": ["N", 4, K]}, {"y": ["N", 4, K], **shown}), x


@pytest.mark.parametrize("make", [normalised, written_out, linear, lambda net, x: normalised(net, x, bias=False)])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_factors_are_folded_into_what_makes_the_tensor(make, alpha):
    model, x = attention(make)
    model = uneven(model)
    made, count = checked(model, alpha)
    assert count == 1
    if alpha == 1:
        sizes = equalize.maxima_of(made, [x], feeds(model, 4))[x]
        assert sizes.max() <= 2.01 * sizes[sizes > 0].min()


def test_factors_are_those_of_the_formula():
    model, x = attention(normalised)
    maxima = equalize.maxima_of(model, [x], feeds(model, 4))
    found = homogeneous.trace(model, everything(model))
    logs = smooth.factors(found, maxima, 0.3)
    values = graph.initializers(model)
    weights = [graph.array(values[node.input[1]]) for node in model.graph.node if node.input[0] == x]
    for channel in range(K):
        largest = max(abs(float(value)) for weight in weights for value in weight[channel])
        s = float(maxima[x][channel]) ** 0.3 / largest**0.7
        assert logs[found.views[x].numbers[channel]] == pytest.approx(np.log2(s), abs=1e-5)
    made, _ = checked(model, 0.3)
    old, new = (graph.array(graph.initializers(m)["w0"]) for m in (model, made))
    assert np.array_equal(new, np.ldexp(old, -np.rint(logs[found.views[x].numbers]).astype(int)))


def test_without_maxima_nothing_happens():
    model, x = attention(normalised)
    assert checked(model, maxima={})[1] == 0
    assert checked(model, maxima={x: np.ones(K + 1)})[1] == 0


def captured(net, x):
    branch = helper.make_graph([helper.make_node("Neg", [x], ["n"])], "b", [], [info("n", ["N", 4, K])])
    net.add("If", net.constant(np.bool_(True)), then_branch=branch, else_branch=branch, outputs=["z"])
    return {"z": ["N", 4, K]}


def added(net, x):
    return {net.add("Add", x, "x"): ["N", 4, K]}


def shared_weight(net, x):
    return {net.add("MatMul", "x", net.nodes[1].input[1]): ["N", 4, K]}


@pytest.mark.parametrize("extra", [captured, added, shared_weight, lambda net, x: {x: ["N", 4, K]}])
def test_what_is_read_otherwise_is_left_alone(extra):
    model, _ = attention(normalised, extra=extra)
    assert checked(model)[1] == 0


@pytest.mark.parametrize("kind", ["LayerNormalization", "MatMul"])
def test_a_maker_or_a_reader_that_is_not_allowed_holds_the_tensor(kind):
    model, _ = attention(normalised)
    taken = next(node.name for node in model.graph.node if node.op_type == kind)
    assert checked(model, allowed=everything(model) - {taken})[1] == 0


def test_constants_that_two_normalisations_read_are_copied():
    net = Net(4)
    scale, bias = net.constant(np.float32([1, 90, 0.02, 3, -1, 0.5])), net.weight(K)
    first = net.add("LayerNormalization", "x", scale, bias)
    second = net.add("LayerNormalization", net.add("MatMul", first, net.weight(K, K)), scale, bias)
    net.add("Sigmoid", second, outputs=["y"])
    model = net.model({"x": ["N", 4, K]}, {"y": ["N", 4, K]})
    made, count = checked(model)
    assert count == 1
    assert graph.initializers(made)[scale] == graph.initializers(model)[scale]


def test_a_token_may_be_picked_before_the_product():
    net = Net(5)
    x = net.add("Gather", normalised(net, "x"), net.constant(np.int64(0)), axis=1)
    net.add("Gemm", x, net.weight(3, K), transB=1, outputs=["y"])
    assert checked(net.model({"x": ["N", 4, K]}, {"y": ["N", 3]}))[1] == 1


@pytest.mark.parametrize("name", sorted(NETS))
def test_no_difficulty_changes_the_answers(name):
    checked(uneven(NETS[name]()))


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([normalised, written_out, linear]), st.integers(0, 999), st.floats(0, 1))
def test_any_net_answers_the_same(make, seed, alpha):
    model, _ = attention(make, seed)
    checked(uneven(model, seed=seed), alpha)


def test_the_vision_transformer_is_smoothed_at_every_normalisation(assets):
    model, _ = simplify.simplify(graph.load(Path(assets) / "models" / "vit_fmnist.onnx"), lambda before, after: True)
    norms = [node.output[0] for node in model.graph.node if node.op_type == "LayerNormalization"]
    assert set(norms[:-1]) <= set(smooth.read(model, everything(model)))
    made, count = checked(model)
    assert count >= len(norms)
    assert simplify.same_outputs(model, made, feeds(model, 2), 1e-4)
