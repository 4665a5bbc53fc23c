"""Adaptive rounding: between the optimum and the nearest integers, on Grams that are those of the layer itself."""

from itertools import product

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from edgekit import graph
from edgekit.compress.quantize import rounding, weights
from edgekit.compress.quantize.rounding import adaptive, round_weights
from edgekit.compress.simplify import same_outputs, simplify
from edgekit.session import open_session, run
from nets import Net, attention, awkward, broken_values, feeds, perceptron, residual, swish


def problem(seed, outputs=3, inputs=6, samples=40, mixed=0.8):
    """A weight, the Gram of correlated inputs, and scales."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((1, samples))
    read = np.maximum(rng.standard_normal((inputs, samples)) * (1 - mixed) + mixed * common, 0)
    weight = rng.standard_normal((outputs, inputs)).astype(np.float32)
    return weight, read @ read.T


def scales(weight, largest):
    return (np.abs(weight).max(1) / largest).astype(np.float32)


def nearest(weight, scale, largest):
    return np.clip(np.rint(weight / scale[:, None]), -largest, largest)


def cost(weight, integers, scale, gram):
    gap = weight.astype(np.float64) - integers * scale.astype(np.float64)[:, None]
    return np.einsum("ok,kl,ol->o", gap, gram, gap)


def best(weight, scale, gram, largest):
    """Try every way of rounding up or down."""
    down = np.floor(weight / scale[:, None])
    tries = [np.clip(down + np.array(up), -largest, largest) for up in product((0, 1), repeat=weight.shape[1])]
    return np.min([cost(weight, integers, scale, gram) for integers in tries], axis=0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 30), st.sampled_from([1, 3, 7, 31, 127]))
def test_between_the_optimum_and_the_nearest(seed, inputs, samples, largest):
    weight, gram = problem(seed, inputs=inputs, samples=samples)
    scale = scales(weight, largest)
    found = adaptive(weight, gram, scale, largest)
    assert found.dtype == np.int8 and np.abs(found.astype(int)).max() <= largest
    direct = cost(weight, nearest(weight, scale, largest), scale, gram)
    assert (cost(weight, found, scale, gram) <= direct * (1 + 1e-12)).all()


def test_near_the_optimum():
    ratios = []
    for seed in range(40):
        weight, gram = problem(seed, outputs=4)
        scale = scales(weight, 7)
        ways = nearest(weight, scale, 7), adaptive(weight, gram, scale, 7)
        direct, found = (cost(weight, integers, scale, gram) for integers in ways)
        optimum = best(weight, scale, gram, 7)
        ratios.append((found.sum() / optimum.sum(), direct.sum() / optimum.sum()))
    reached, plain = np.median(ratios, axis=0)
    assert reached < 1.4 and plain > 1.8


@pytest.mark.parametrize("inputs", [64, 65, 200])
def test_blocks_change_nothing(inputs, monkeypatch):
    weight, gram = problem(1, 5, inputs, 400)
    scale = scales(weight, 31)
    found = adaptive(weight, gram, scale, 31)
    monkeypatch.setattr(rounding, "_BLOCK", 10**6)
    assert np.array_equal(found, adaptive(weight, gram, scale, 31))
    direct = cost(weight, nearest(weight, scale, 31), scale, gram)
    assert cost(weight, found, scale, gram).sum() < 0.5 * direct.sum()


def test_inputs_without_correlation_or_without_life_get_the_nearest():
    weight, gram = problem(2, inputs=8)
    scale = scales(weight, 7)
    direct = nearest(weight, scale, 7)
    for useless in (np.zeros((8, 8)), np.full((8, 8), np.nan), np.full((8, 8), np.inf), np.diag(np.arange(8.0))):
        assert np.array_equal(adaptive(weight, useless, scale, 7), direct)
    gram[3], gram[:, 3] = 0, 0
    assert np.array_equal(adaptive(weight, gram, scale, 7)[:, 3], direct[:, 3])
    assert np.array_equal(adaptive(weight, gram * 1e30, scale, 7), adaptive(weight, gram, scale, 7))


def windows():
    """Convolutions whose windows differ in everything, and both kinds of matrix products."""
    net = Net(20)
    shown = {}

    def conv(name, source, channels, group=1, kernel=(3, 3), outputs=4, **attributes):
        weight = net.weight(outputs, channels // group, *kernel, name=name)
        net.add("Conv", source, weight, outputs=[f"{name}_out"], name=name, group=group, **attributes)
        shown[f"{name}_out"] = [None] * (2 + len(kernel))

    conv("plain", "image", 4)
    conv("point", "image", 4, kernel=(1, 1))
    conv("sided", "image", 4, pads=[0, 1, 2, 3], strides=[2, 1])
    conv("dilated", "image", 4, kernel=(3, 2), dilations=[2, 3], pads=[2, 1, 2, 2], strides=[1, 3])
    conv("upper", "image", 4, auto_pad="SAME_UPPER", kernel=(3, 4), strides=[2, 3])
    conv("lower", "image", 4, auto_pad="SAME_LOWER", kernel=(2, 4), strides=[1, 3])
    conv("valid", "image", 4, auto_pad="VALID", strides=[2, 2])
    conv("depthwise", "image", 4, group=4, outputs=8, pads=[1, 1, 1, 1])
    conv("grouped", "image", 4, group=2, pads=[1, 1, 1, 1])
    conv("line", "series", 3, kernel=(3,), pads=[1, 1])
    conv("cube", "volume", 2, kernel=(2, 3, 2), strides=[1, 2, 1], pads=[0, 1, 1, 1, 0, 0])
    for name, kind, dims, options in (
        ("rows", "Gemm", (5, 6), {"transB": 1}),
        ("columns", "Gemm", (6, 5), {}),
        ("product", "MatMul", (6, 5), {}),
    ):
        net.add(kind, "table", net.weight(*dims, name=name), outputs=[f"{name}_out"], name=name, **options)
        shown[f"{name}_out"] = [None, 5]
    fed = {"image": [2, 4, 9, 8], "series": [1, 3, 7], "volume": [1, 2, 5, 6, 4], "table": [7, 6]}
    return net.model(fed, shown)


def as_they_are(_, values):
    return values


def replaced(model, found, largest=None):
    """The model with the rounded weights, or (with `largest`) the same ones rounded to the nearest."""
    made = graph.copy(model)
    for tensor in made.graph.initializer:
        if tensor.name in found.weights:
            integers, scale = found.weights[tensor.name]
            if largest is not None:
                integers = np.clip(np.rint(graph.array(tensor) / scale), -largest, largest)
            assert integers.shape == tuple(tensor.dims) and scale.ndim == integers.ndim
            tensor.CopyFrom(numpy_helper.from_array((integers * scale).astype(np.float32), tensor.name))
    return made


def powers(model, layers, samples, other):
    """The squared error of each layer's output over the samples, where all layers read what the float model makes."""
    totals = dict.fromkeys(layers, 0.0)
    sessions = [open_session(some) for some in (model, other)]
    for feed in samples:
        for name, old, new in zip(layers, *(run(s, feed, [f"{n}_out" for n in layers]) for s in sessions), strict=True):
            totals[name] += float(np.square(old.astype(np.float64) - new).sum())
    return totals


def test_every_window_is_exact_and_no_layer_gets_worse(monkeypatch):
    monkeypatch.setattr(rounding, "POSITIONS", 10**6)
    model = windows()
    before = model.SerializeToString()
    names = [node.name for node in model.graph.node]
    samples = list(feeds(model, 5))
    found = round_weights(model, list(model.graph.node), lambda: iter(samples), as_they_are, largest=7)
    assert set(found.weights) == set(names) and not found.left and model.SerializeToString() == before
    tensors = graph.initializers(model)
    # The error that the Gram foretells is the error onnxruntime makes, so windows and borders are right.
    layers = rounding._layers(model, list(model.graph.node), 10**9, {})
    grams = rounding._grams(model, layers, iter(samples), as_they_are)
    adaptively = powers(model, names, samples, replaced(model, found))
    directly = powers(model, names, samples, replaced(model, found, 7))
    for layer in layers:
        integers, scale = found.weights[layer.weight]
        gap = layer.rows(graph.array(tensors[layer.weight]) - integers * scale).astype(np.float64)
        foretold = rounding.squared_errors(gap, grams[layer.window]).sum()
        assert adaptively[layer.weight] == pytest.approx(foretold, rel=1e-4)
        assert adaptively[layer.weight] <= directly[layer.weight] * 1.0001
    assert sum(adaptively.values()) < sum(directly.values())


@pytest.mark.parametrize("build", [residual, swish, attention, perceptron, awkward])
def test_whole_nets(build):
    model = build()
    nodes = list(model.graph.node)
    first, second = (round_weights(model, nodes, lambda: feeds(model, 4), as_they_are, 31) for _ in range(2))
    assert first.weights and list(first.weights) == list(second.weights) and first.peak_bytes == second.peak_bytes
    for name, (integers, scale) in first.weights.items():
        assert np.array_equal(integers, second.weights[name][0]) and integers.dtype == np.int8
        # Stored as floats and quantised again with the same scale they are the same integers.
        assert np.array_equal(np.rint((integers * scale).astype(np.float32) / scale), integers)
        axis = int(np.argmax(scale.shape)) if max(scale.shape) > 1 else 0
        assert np.array_equal(scale, weights.rounded(graph.array(graph.initializers(model)[name]), axis, 31)[1])


def test_grams_are_those_of_rounded_values_and_bounds_by_name():
    model = perceptron()
    seen = []

    def coarse(name, values):
        seen.append(name)
        return np.rint(values)

    names = [node.input[1] for node in model.graph.node if node.op_type == "Gemm"]
    found = round_weights(model, list(model.graph.node), lambda: feeds(model, 3), coarse, {names[0]: 3, names[1]: 7})
    assert seen == [node.input[0] for node in model.graph.node if node.op_type == "Gemm"] * 3
    assert [int(np.abs(found.weights[name][0]).max()) for name in names] == [3, 7]


def test_several_passes_give_the_same_and_hold_less():
    model = residual()
    nodes = list(model.graph.node)
    passes = []

    def counted():
        passes.append(1)
        return feeds(model, 3)

    whole = round_weights(model, nodes, counted, as_they_are)
    assert len(passes) == 1
    largest = 144 * 144 * 8
    parts = round_weights(model, nodes, counted, as_they_are, max_bytes=largest)
    assert len(passes) > 2 and parts.peak_bytes <= largest < whole.peak_bytes
    assert all(np.array_equal(parts.weights[name][0], whole.weights[name][0]) for name in whole.weights)
    small = round_weights(model, nodes, counted, as_they_are, max_bytes=largest - 1)
    assert len(small.left) == 2 and all("its Gram takes" in reason for reason in small.left.values())
    assert set(small.left) | set(small.weights) == set(whole.weights)


def test_what_stays_with_the_nearest_is_named():
    net = Net(22)
    shared = net.weight(8, 8, name="shared")
    x = net.add("MatMul", net.add("MatMul", "input", shared), shared)
    x = net.add("Gemm", x, net.weight(4, 8, name="turned"), transA=1)
    net.add("MatMul", x, net.weight(1, 8, 2, name="deep"), outputs=["out"])
    model = net.model({"input": [4, 8]}, {"out": [1, 8, 2]})
    found = round_weights(model, list(model.graph.node), lambda: feeds(model, 2), as_they_are)
    assert set(found.left) == {"shared", "turned", "deep"} and not found.weights


def test_values_that_are_always_zero_or_not_numbers():
    model = broken_values()
    found = round_weights(model, list(model.graph.node), lambda: feeds(model, 3), as_they_are)
    assert len(found.left) == 2 and len(found.weights) == 1
    clean = list(feeds(residual(), 3))
    broken = [*clean, {"input": np.full_like(clean[0]["input"], np.nan)}]
    model = residual()
    results = [
        round_weights(model, list(model.graph.node), lambda some=some: iter(some), as_they_are)
        for some in (clean, broken)
    ]
    for name, (integers, _) in results[0].weights.items():
        assert np.array_equal(integers, results[1].weights[name][0])
    nothing = round_weights(model, list(model.graph.node), lambda: iter(broken[3:]), as_they_are)
    assert not nothing.weights and set(nothing.left) == set(results[0].weights)


def test_positions_are_spread_over_large_inputs():
    assert rounding._spread(5, 3).tolist() == [0, 1, 2, 3, 4]
    total = 10 * rounding.POSITIONS
    seen = np.concatenate([rounding._spread(total, number) for number in range(40)])
    assert len(np.unique(seen)) > 0.95 * total and seen.min() >= 0 and seen.max() < total
    assert len(rounding._spread(total, 7)) >= 0.95 * rounding.POSITIONS


def test_a_trained_net_bears_six_bits(assets):
    model = graph.load(assets / "models" / "resnet8_cifar10_jpegft.onnx")
    files = sorted((assets / "images" / "cifar10_jpeg").glob("*/*/000[01].jpg"))
    pictures = [cv2.imread(str(file))[None, ..., ::-1].astype(np.float32) for file in files]
    name = graph.inputs(model)[0].name
    samples = [{name: picture} for picture in pictures]
    made, _ = simplify(model, lambda a, b: same_outputs(a, b, samples[:2]))
    found = round_weights(made, list(made.graph.node), lambda: iter(samples[::2]), as_they_are, 31)
    assert len(found.weights) == 10 and not found.left
    noise = []
    sessions = [open_session(some) for some in (made, replaced(made, found, 31), replaced(made, found))]
    for feed in samples[1::2]:
        plain, direct, adaptively = (np.log(run(session, feed)[0] + 1e-6) for session in sessions)
        noise.append([np.square(direct - plain).sum(), np.square(adaptively - plain).sum()])
    direct, adaptively = np.sum(noise, axis=0)
    assert adaptively < direct / 4
