"""Sums that clip on x86 CPUs without VNNI: found, emulated bit for bit, and avoided."""

import itertools

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit import graph
from edgekit.compress.elsewhere import Emulated, elsewhere, sentence
from edgekit.compress.method import STEPS
from edgekit.compress.quantize import saturation
from edgekit.compress.quantize.saturation import fitted, pairs_at_risk, saturating
from edgekit.session import open_session, run
from nets import Bench, Net, feeds, perceptron

CONVOLUTIONS = {
    "odd-channels": {"cin": 3, "pads": [1, 1, 1, 1]},
    "even-channels": {"cin": 4, "pads": [1, 0, 0, 2], "strides": [2, 1]},
    "kernel-aligned": {"cin": 16, "cout": 16, "pads": [1, 1, 1, 1], "zero": 31},
    "pointwise": {"cin": 7, "kernel": [1, 1]},
    "pointwise-strided": {"cin": 6, "kernel": [1, 1], "strides": [2, 2]},
    "groups": {"cin": 6, "group": 2, "pads": [1, 1, 1, 1], "dilations": [2, 1]},
    "two-for-one": {"cin": 3, "cout": 6, "group": 3},
    "same-upper": {"cin": 5, "auto_pad": "SAME_UPPER", "strides": [2, 2]},
    "same-lower": {"cin": 5, "auto_pad": "SAME_LOWER", "kernel": [2, 4]},
    "one-axis": {"cin": 3, "kernel": [3], "pads": [2, 1], "strides": [2]},
    "negative": {"cin": 4, "sign": -1},
    "batch": {"cin": 4, "batch": 3, "pads": [1, 1, 1, 1]},
}


class Quantized(Net):
    """A net in Q/DQ form, written by hand."""

    def pair(self, x, scale, zero):
        ends = [self.constant(np.float32(scale)), self.constant(np.uint8(zero))]
        return self.add("DequantizeLinear", self.add("QuantizeLinear", x, *ends), *ends)

    def stored(self, integers, scale, axis):
        names = [
            self.constant(integers),
            self.constant(np.float32(scale)),
            self.constant(np.zeros_like(scale, np.int8)),
        ]
        return self.add("DequantizeLinear", *names, axis=axis)

    def bias(self, integers, scale):
        return self.add("DequantizeLinear", self.constant(integers), self.constant(np.float32(scale)), axis=0)


def full_range(rng, *shape, sign=0):
    """Weights that clip often: large, and often of one sign."""
    values = rng.choice([-127, -90, 30, 100, 127], shape).astype(np.int8)
    return (np.abs(values) * sign).astype(np.int8) if sign else values


def convolution(name):
    """One convolution: the model, its feed, what is needed to compute it by hand."""
    what = {"cout": 6, "kernel": [3, 3], "group": 1, "zero": 3, "batch": 1, "sign": 0} | CONVOLUTIONS[name]
    rng = np.random.default_rng(len(name))
    net = Quantized()
    weight = full_range(rng, what["cout"], what["cin"] // what["group"], *what["kernel"], sign=what["sign"])
    scales = rng.uniform(0.001, 0.002, what["cout"]).astype(np.float32)
    bias = rng.integers(-9000, 9000, what["cout"]).astype(np.int32)
    inputs = [net.pair("input", 0.01, what["zero"]), net.stored(weight, scales, 0)]
    inputs.append(net.bias(bias, np.float32(0.01) * scales))
    kept = ("pads", "strides", "dilations", "auto_pad")
    attributes = {key: what[key] for key in kept if key in what}
    y = net.add("Conv", *inputs, kernel_shape=what["kernel"], group=what["group"], name="layer", **attributes)
    net.weights.append(numpy_helper.from_array(np.float32(0.05), "y_scale"))
    net.weights.append(numpy_helper.from_array(np.uint8(120), "y_zero"))
    net.nodes.append(helper.make_node("QuantizeLinear", [y, "y_scale", "y_zero"], ["eight"], "to_eight"))
    net.nodes.append(helper.make_node("DequantizeLinear", ["eight", "y_scale", "y_zero"], ["out"], "back"))
    spatial = [9, 8][: len(what["kernel"])]
    model = net.model(
        {"input": [what["batch"], what["cin"], *spatial]}, {"out": ["N", "M", "H", "W"][: 2 + len(spatial)]}
    )
    values = rng.choice([0, 3, 128, 250, 255], (what["batch"], what["cin"], *spatial)).astype(np.uint8)
    feed = {"input": ((values.astype(np.float32) - what["zero"]) * np.float32(0.01))}
    return model, feed, what, values, weight, scales, bias


def by_hand(what, values, weight, scales, bias):
    """Compute a convolution pair by pair, in plain loops; give its 8-bit results and how many pairs clip."""
    sides, kernel = values.shape[2:], weight.shape[2:]
    strides, dilations = what.get("strides", [1] * len(sides)), what.get("dilations", [1] * len(sides))
    pads = what.get("pads", [0] * 2 * len(sides))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    begin, size = pads[: len(sides)], []
    if "auto_pad" in what:
        size = [-(-s // t) for s, t in zip(sides, strides, strict=True)]
        extra = [max((n - 1) * t + r - s, 0) for n, t, r, s in zip(size, strides, reach, sides, strict=True)]
        begin = [(e + (what["auto_pad"] == "SAME_LOWER")) // 2 for e in extra]
    else:
        ends = pads[len(sides) :]
        size = [(s + b + e - r) // t + 1 for s, b, e, r, t in zip(sides, begin, ends, reach, strides, strict=True)]
    result = np.zeros((len(values), len(weight), *size), np.uint8)
    each, taps, clips = len(weight) // what["group"], list(itertools.product(*map(range, kernel))), 0
    for n, m, *place in itertools.product(range(len(values)), range(len(weight)), *map(range, size)):
        first = m // each * weight.shape[1]
        numbers, factors = [], []
        for tap in taps:
            at = [p * t + k * d - b for p, t, k, d, b in zip(place, strides, tap, dilations, begin, strict=True)]
            inside = all(0 <= a < s for a, s in zip(at, sides, strict=True))
            for c in range(weight.shape[1]):
                numbers.append(int(values[(n, first + c, *at)]) if inside else what["zero"])
                factors.append(int(weight[(m, c, *tap)]))
        total, clipped = clipped_sum(numbers, factors)
        clips += clipped
        total += int(bias[m]) - what["zero"] * sum(factors)
        scaled = np.float32(total) * (np.float32(0.01) * scales[m] / np.float32(0.05))
        result[(n, m, *place)] = np.clip(np.rint(scaled), -120, 135) + 120
    return result, clips


def clipped_sum(numbers, factors):
    total = clips = 0
    for k in range(0, len(numbers), 2):
        pair = sum(a * w for a, w in zip(numbers[k : k + 2], factors[k : k + 2], strict=True))
        clips += not -32768 <= pair <= 32767
        total += min(max(pair, -32768), 32767)
    return total, clips


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_is_emulated_pair_by_pair(name):
    model, feed, *rest = convolution(name)
    wanted, clips = by_hand(*rest)
    made = Emulated(model).run(None, feed)[0]
    assert clips > 0
    assert np.array_equal(made, (wanted.astype(np.float32) - 120) * np.float32(0.05))
    (layer,) = saturation.layers(model)
    count = wanted.size // layer.channels * layer.pairs_of_a_place
    assert saturating(model, [feed]) == {"layer": clips / count}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_the_emulation_is_what_the_kernels_of_such_a_cpu_give(name, clipping_cpu):
    model, feed, *_ = convolution(name)
    assert np.array_equal(run(open_session(model), feed)[0], Emulated(model).run(None, feed)[0])


@pytest.fixture
def clipping_cpu():
    """Let a test run only where onnxruntime clips: on x86 without VNNI."""
    if not clips_here():
        pytest.skip("this CPU computes 8-bit sums exactly, so there is nothing to compare the emulation with")


def clips_here():
    net = Net()
    net.add("MatMulInteger", "input", net.constant(np.full((2, 1), 127, np.int8)), outputs=["out"])
    probe = net.model({"input": (TensorProto.UINT8, [1, 2])}, {"out": (TensorProto.INT32, [1, 1])})
    return run(open_session(probe), {"input": np.full((1, 2), 255, np.uint8)})[0].item() == 32767


def product(kind, *, converted=False, transposed=False):
    """One product of matrices with 5 columns over 7 values, and what it is made of."""
    rng = np.random.default_rng(7)
    net = Quantized()
    weight, scales = full_range(rng, 7, 5), rng.uniform(0.001, 0.002, 5).astype(np.float32)
    values = rng.choice([0, 200, 255], (4, 7)).astype(np.uint8)
    x = net.pair("input", 0.01, 3)
    attributes = {"transB": 1} if transposed else {}
    stored = np.ascontiguousarray(weight.T) if transposed else weight
    y = net.add(kind, x, net.stored(stored, scales, 0 if transposed else 1), name="layer", **attributes)
    y = net.pair(y, 0.05, 120) if converted else y
    net.nodes[-1].output[0] = "out"
    model = net.model({"input": [4, 7]}, {"out": [4, 5]})
    sums = np.array([[clipped_sum(row.tolist(), column.tolist())[0] for column in weight.T] for row in values])
    sums -= 3 * weight.sum(axis=0, dtype=int)
    return model, {"input": (values.astype(np.float32) - 3) * np.float32(0.01)}, sums, scales


@pytest.mark.parametrize("options", [{"kind": "MatMul"}, {"kind": "Gemm"}, {"kind": "Gemm", "transposed": True}])
def test_products_of_matrices_that_give_floats(options):
    model, feed, sums, scales = product(**options)
    wanted = sums.astype(np.float32) * (np.float32(0.01) * scales)
    assert np.allclose(Emulated(model).run(None, feed)[0], wanted, rtol=1e-6)
    assert not np.allclose(run(open_session(model), feed)[0], wanted, rtol=1e-2) or clips_here()


@pytest.mark.parametrize("kind", ["MatMul", "Gemm"])
def test_products_of_matrices_that_give_8_bits(kind):
    model, feed, sums, scales = product(kind, converted=True)
    eight = np.rint(sums.astype(np.float32) * (np.float32(0.01) * scales / np.float32(0.05)))
    wanted = np.clip(eight, -120, 135).astype(np.float32) * np.float32(0.05)
    assert np.array_equal(Emulated(model).run(None, feed)[0], wanted)


@pytest.mark.parametrize("kind", ["MatMul", "Gemm"])
@pytest.mark.parametrize("converted", [False, True])
def test_products_are_what_the_kernels_of_such_a_cpu_give(kind, converted, clipping_cpu):
    model, feed, *_ = product(kind, converted=converted)
    assert np.array_equal(run(open_session(model), feed)[0], Emulated(model).run(None, feed)[0])


def test_dynamic_products():
    model = perceptron(0)
    made = STEPS.parse("dynamic").apply(model, Bench(model))
    found = saturation.layers(made)
    assert [layer.name for layer in found] == ["gemm2"]
    feed = next(feeds(model, 1))
    names = saturation.needs(found[0])
    values, zero = run(open_session(graph.with_outputs(made, names)), feed, names)
    sums = [[clipped_sum(row.tolist(), column.tolist())[0] for column in found[0].weight[0]] for row in values]
    wanted = np.array(sums) - int(zero) * found[0].weight[0].sum(axis=1, dtype=int)
    seen = Emulated(graph.with_outputs(made, [found[0].node.output[0]])).run([found[0].node.output[0]], feed)[0]
    assert np.array_equal(seen, wanted)


@pytest.mark.parametrize("seed", range(20))
def test_clipped_pairs_against_plain_loops(seed):
    rng = np.random.default_rng(seed)
    channels, length, places = rng.integers(1, 6), rng.integers(1, 12), rng.integers(1, 5)
    weights = rng.integers(-128, 128, (channels, length)).astype(np.int8)
    columns = rng.integers(200, 256, (places, length)).astype(np.uint8)
    added, count = np.zeros((places, channels), int), 0
    pairs = pairs_at_risk(weights)
    for place, channel, change in zip(*pairs.clipped(columns), strict=True):
        added[place, channel] += change
        count += 1
    exact = columns.astype(int) @ weights.T.astype(int)
    wanted = [[clipped_sum(row.tolist(), factors.tolist()) for factors in weights] for row in columns]
    assert (exact + added).tolist() == [[total for total, _ in row] for row in wanted]
    assert count == sum(clips for row in wanted for _, clips in row) <= len(pairs) * places


def test_pairs_at_risk_are_those_that_full_activations_clip():
    sides = np.arange(-128, 128).astype(np.int8)
    weights = np.stack(np.meshgrid(sides, sides), axis=-1).reshape(-1, 2)
    first, second = weights.T.astype(int) * 255
    extremes = [first, second, first + second]
    wanted = np.flatnonzero((np.max(extremes, axis=0) > 32767) | (np.min(extremes, axis=0) < -32768))
    assert np.array_equal(pairs_at_risk(weights).channel, wanted)


def test_only_what_runs_in_8_bits_and_adds_neighbours_can_clip():
    net = Net()
    x = net.conv("input", 4, 16, relu=False)
    x = net.conv(x, 16, 16, group=16, relu=False)
    net.add("Conv", x, net.weight(4, 16, 1, 1), kernel_shape=[1, 1], outputs=["map"], name="last")
    model = net.model({"input": [1, 4, 8, 8]}, {"map": [1, 4, 8, 8]})
    made = STEPS.parse("static").apply(model, Bench(model))
    risks = {layer.name: layer.at_risk for layer in saturation.layers(made)}
    assert risks == {"conv0": True, "conv1": False, "last": True}
    seven = STEPS.parse("static").apply(model, Bench(model, int8="avx2"))
    assert saturating(seven, feeds(model)) == {"conv0": 0, "conv1": 0, "last": 0}
    assert saturating(model, feeds(model)) == {}


def templates():
    """A classifier whose dense templates fill the range: its true class is the one that clips most."""
    rng = np.random.default_rng(0)
    net = Net()
    dense = np.zeros((10, 64), np.float32)
    for number in range(10):
        dense[number, rng.permutation(32)[: 3 + 2 * number] * 2] = 1 - 0.03 * number
        dense[number, 1::2] = dense[number, 0::2] * (number > 4)
    net.add("Gemm", "input", net.constant(dense), net.constant(np.zeros(10, np.float32)), outputs=["logits"], transB=1)
    model = net.model({"input": ["N", 64]}, {"logits": ["N", 10]})
    noise = rng.uniform(0, 0.4, (40, 64))
    pictures = [np.maximum(noise[n], dense[n % 10] > 0)[None].astype(np.float32) for n in range(40)]
    return model, [{"input": picture} for picture in pictures]


class Pictures(Bench):
    """A Workbench that calibrates on given inputs."""

    def __init__(self, model, fed, **options):
        super().__init__(model, **options)
        self.fed = fed

    def feeds(self, samples):
        return iter(self.fed[:samples])


def test_a_net_that_loses_answers_elsewhere_and_what_mends_it():
    model, fed = templates()
    truth = [run(open_session(model), feed)[0].argmax() for feed in fed]

    def compare(*sessions):
        tops = [np.array([run(session, feed)[0].argmax() for feed in fed]) for session in sessions]
        return "agreement", *(float(np.mean(top == truth)) for top in tops), len(fed)

    assert elsewhere(model, compare) is None
    full = STEPS.parse("static").apply(model, Pictures(model, fed))
    found = elsewhere(full, compare)
    assert (found.isa, found.metric, found.n) == ("avx2", "agreement", 40)
    assert found.there < 0.9 and (found.here > 0.95 or clips_here())
    assert "--isa portable" in found.sentence and ("% of the pictures" in found.sentence or clips_here())
    assert max(saturating(full, fed).values()) > 0
    portable = STEPS.parse("static").apply(model, Pictures(model, fed, int8="none"))
    found = elsewhere(portable, compare)
    assert (
        found.here == found.there == 1
        and found.n == 0
        and found.sentence.startswith("every kind of CPU computes the same")
    )


def test_sentences():
    assert "scores 3.1 points top-1 lower" in sentence("top-1", 0.9, 0.869, risky=True)
    assert "answers 3.1 % of the pictures differently" in sentence("agreement", 1.0, 0.969, risky=True)
    assert "emulated on 8 inputs, it scores the same" in sentence("mAP", 0.5, 0.5, risky=True, n=8)
    assert "outputs are at cosine 0.997 of what" in sentence("cosine", 1.0, 0.9971, risky=True)
    assert "outputs are as here" in sentence("cosine", 1.0, 0.9996, risky=True)
    assert "scores 1.0 points mAP higher, by chance" in sentence("mAP", 0.5, 0.51, risky=True)


@pytest.mark.parametrize("shape", [(8, 3, 3, 3), (8, 4, 3, 3), (8, 5, 1, 1), (8, 1, 3, 3)])
def test_weights_fitted_to_16_bits(shape):
    rng = np.random.default_rng(sum(shape))
    values = rng.standard_normal(shape).astype(np.float32)
    values[0] = 1.0
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=1)
    integers, scale = fitted(node, values, 0)
    rows = np.moveaxis(integers, 1, -1).reshape(len(integers), -1)
    assert not len(pairs_at_risk(rows)) and not (shape[1] == 3 and len(pairs_at_risk(rows[:, 1:])))
    assert np.abs(integers * scale - values).max(axis=(1, 2, 3)) == pytest.approx(0, abs=float(scale.max()) / 2 * 1.01)
    most = np.abs(integers).max(axis=(1, 2, 3))
    assert most[0] == most.min() == 64 and most.max() > 64
    assert fitted(node, values[:, :1, :1, :1], 0)[0].max() == 127


def test_fitted_weights_of_depthwise_layers_and_products():
    rng = np.random.default_rng(1)
    depthwise = helper.make_node("Conv", ["x", "w"], ["y"], group=8)
    assert np.abs(fitted(depthwise, np.ones((8, 1, 3, 3), np.float32), 0)[0]).min() == 127
    values = rng.standard_normal((9, 6)).astype(np.float32)
    integers, scale = fitted(helper.make_node("MatMul", ["x", "w"], ["y"]), values, 1)
    assert scale.shape == (1, 6) and not len(pairs_at_risk(integers.T))
    assert np.array_equal(fitted(helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), values.T, 0)[0], integers.T)
