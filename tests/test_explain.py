"""Why each node runs in what: reasons, conversions, noise, what would make it cheaper, and the text."""

import numpy as np
import pytest
from onnx import numpy_helper

from conftest import SAMPLES
from edgekit import graph
from edgekit.measure import explain, invented, noise
from edgekit.report import explain as text
from edgekit.report.report import Layer
from edgekit.session import open_session, run
from nets import NETS, Net, feeds, residual

MODEL = SAMPLES / "fashion_resnet.onnx"
SECONDS = 0.05


def told(before, after, **options):
    return explain.explain(before, after, list(feeds(before, 2)), seconds=SECONDS, **options)


def quantised(net, x, name, scale=0.05):
    """Put a value between QuantizeLinear and DequantizeLinear."""
    scale, zero = net.constant(np.float32(scale)), net.constant(np.uint8(128))
    return net.add("DequantizeLinear", net.add("QuantizeLinear", x, scale, zero, name=f"q_{name}"), scale, zero)


def weight8(net, *shape):
    values = net.rng.integers(-127, 128, shape).astype(np.int8)
    scale, zero = net.constant(np.float32(0.01)), net.constant(np.int8(0))
    return net.add("DequantizeLinear", net.constant(values), scale, zero)


def chain(middle, *, quantise=True, extra=False):
    """Two 8-bit convolutions with something between them; with `extra` the first one's value has a second reader."""
    net = Net(3)
    x = quantised(net, "input", "in")
    a = net.add("Conv", x, weight8(net, 8, 3, 3, 3), pads=[1] * 4, name="first")
    b = quantised(net, a, "a")
    b = middle(net, b)
    b = quantised(net, b, "b") if quantise else b
    y = net.add("Conv", b, weight8(net, 8, 8, 3, 3), pads=[1] * 4, name="last")
    y = quantised(net, y, "y")
    y = net.add("Add", y, net.add("Neg", a)) if extra else y
    net.add("Identity", y, outputs=["map"])
    return net.model({"input": [1, 3, 8, 8]}, {"map": [1, 8, 8, 8]})


def layer(layers, name):
    return next(one for one in layers if one.name == name)


@pytest.mark.parametrize("name", list(NETS))
def test_every_node_of_a_float_model_is_float_or_a_conversion_and_without_noise(name):
    model = NETS[name]()
    layers = told(model, model)
    assert layers
    assert sum(one.share for one in layers) == pytest.approx(1)
    assert not any(one.int8 for one in layers)
    assert all(one.why for one in layers)
    assert all(one.sqnr_db in (None, 200.0) for one in layers)


def test_what_runs_in_8_bits_says_so():
    model = chain(lambda net, x: net.add("MaxPool", x, kernel_shape=[1, 1], name="pool"))
    layers = told(model, model)
    assert layer(layers, "first").int8
    assert layer(layers, "first").type == "QLinearConv"
    assert layer(layers, "first").why == "8-bit arithmetic"
    assert sum(one.why.startswith("a conversion") for one in layers) >= 2


def test_an_operator_without_8_bit_kernel_and_the_conversions_around_it():
    model = chain(lambda net, x: net.add("Elu", x, name="elu"))
    layers = told(model, model)
    assert layer(layers, "elu").why == "no 8-bit kernel for Elu"
    around = [one for one in layers if one.why.startswith("a conversion") and one.why.endswith("for elu")]
    assert {one.type for one in around} >= {"QuantizeLinear", "DequantizeLinear"}
    assert "in the place of Elu" in layer(layers, "elu").mend


def test_a_fusion_lost_to_a_second_reader():
    layers = told(model := chain(lambda net, x: net.add("Elu", x), extra=True), model)
    first = layer(layers, "first")
    assert not first.int8
    assert first.why == "its fusion was lost: the value has two readers"
    assert "only one node reads its value" in first.mend


def test_a_fusion_lost_because_nothing_quantises_the_result():
    layers = told(model := chain(lambda net, x: net.add("Elu", x, name="elu")), model)
    assert layer(layers, "last").int8
    net = Net()
    x = quantised(net, "input", "in")
    x = net.add("Conv", x, weight8(net, 8, 3, 3, 3), name="conv")
    net.add("Elu", x, outputs=["map"])
    model = net.model({"input": [1, 3, 8, 8]}, {"map": [1, 8, 6, 6]})
    assert layer(told(model, model), "conv").why == "its fusion was lost: Elu reads its value in float"


def test_reasons_of_the_caller_come_first():
    model = residual()
    layers = told(model, model, reasons={"conv0": "left in float: it makes much noise"})
    assert layer(layers, "conv0").why == "left in float: it makes much noise"


def test_weights_that_are_not_constant_and_weights_that_are_only_stored():
    model = NETS["attention"]()
    whys = {one.why for one in told(model, model)}
    assert "weights are not constant: it multiplies two activations" in whys
    net = Net()
    stored = net.constant(np.ones((8, 3, 3, 3), np.int8))
    weight = net.add("Mul", net.add("Cast", stored, to=1), net.constant(np.float32([0.5])))
    net.add("Conv", "input", weight, outputs=["map"], name="conv")
    model = net.model({"input": [1, 3, 8, 8]}, {"map": [1, 8, 6, 6]})
    assert layer(told(model, model), "conv").why == "its weights are stored in 8 bits only"
    net = Net()
    net.add("MatMul", "a", "b", outputs=["map"], name="product")
    model = net.model({"a": [4, 4], "b": [4, 4]}, {"map": [4, 4]})
    fed = layer(told(model, model), "product")
    assert fed.why == "weights are not constant: they are an input of the model"
    assert fed.mend == "100 % of the time: make its weights constants of the model"


def changed(model):
    """A copy with noise on its weights."""
    made = graph.copy(model)
    rng = np.random.default_rng(0)
    for tensor in made.graph.initializer:
        if len(tensor.dims) > 1:
            values = graph.array(tensor)
            noisy = values + 0.05 * rng.standard_normal(values.shape).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(noisy.astype(np.float32), tensor.name))
    return made


def test_noise_of_every_value_is_that_of_a_plain_comparison():
    before = residual()
    after = changed(before)
    given = list(feeds(before, 3))
    found = noise.value_sqnr(before, after, given)
    assert found["logits"] == pytest.approx(sqnr_db_of(before, after, "logits", given))
    for name in ("t1", "t4", "t8"):
        assert found[name] == pytest.approx(sqnr_db_of(before, after, name, given), abs=1e-3)
    assert set(found) == {name for node in before.graph.node for name in node.output}


def sqnr_db_of(before, after, name, given):
    signal = error = 0.0
    sessions = [open_session(graph.with_outputs(model, [name]), optimized=False) for model in (before, after)]
    for feed in given:
        x, y = (run(session, feed, [name])[0].astype(np.float64) for session in sessions)
        signal += (x**2).sum()
        error += ((x - y) ** 2).sum()
    return 10 * np.log10(signal / error)


def test_noise_is_the_same_in_small_portions(monkeypatch):
    before = residual()
    after, given = changed(before), list(feeds(before, 2))
    whole = noise.value_sqnr(before, after, given)
    monkeypatch.setattr(noise, "AT_ONCE", 2)
    assert noise.value_sqnr(before, after, given) == whole


def test_noise_of_a_quantised_value_is_that_after_dequantising():
    before, after = Net(1), Net(1)
    before.add("Relu", "input", outputs=["v"])
    after.add("Relu", "input", outputs=["v"])
    step = 0.5
    scale, zero = after.constant(np.float32(step)), after.constant(np.uint8(0))
    after.add("QuantizeLinear", "v", scale, zero, outputs=["q"])
    after.add("DequantizeLinear", "q", scale, zero, outputs=["d"])
    before.add("Neg", "v", outputs=["y"])
    after.add("Neg", "d", outputs=["y"])
    models = [net.model({"input": [1, 64]}, {"y": [1, 64]}) for net in (before, after)]
    feed = next(feeds(models[0], 1))
    values = np.maximum(feed["input"], 0).astype(np.float64)
    rounded = np.round(values / step) * step
    expected = 10 * np.log10((values**2).sum() / ((values - rounded) ** 2).sum())
    found = noise.value_sqnr(*models, [feed])
    assert found["v"] == pytest.approx(expected)
    assert found["y"] == pytest.approx(expected)


def test_a_clipper_that_quantising_does_is_compared_after_clipping():
    before, after = Net(1), Net(1)
    before.add("Relu", before.add("Neg", "input", outputs=["v"]), outputs=["r"])
    before.add("Neg", "r", outputs=["y"])
    after.add("Neg", "input", outputs=["v"])
    scale, zero = after.constant(np.float32(0.02)), after.constant(np.uint8(0))
    after.add("QuantizeLinear", "v", scale, zero, outputs=["q"])
    after.add("Neg", after.add("DequantizeLinear", "q", scale, zero), outputs=["y"])
    models = [net.model({"input": [1, 64]}, {"y": [1, 64]}) for net in (before, after)]
    assert noise.value_sqnr(*models, feeds(models[0], 2))["v"] > 20


def test_the_sample_model_quantised(edgekit, tmp_path):
    out = tmp_path / "q.onnx"
    assert edgekit("compress", MODEL, "--static", "--seconds", "0.5", "--no-config", "--out", out).code == 0
    before, after = graph.load(MODEL), graph.load(out)
    given = list(invented.invent(before)[0])[:2]
    first, again = (explain.explain(before, after, given, seconds=SECONDS) for _ in range(2))
    assert [(one.name, one.type, one.why, one.sqnr_db) for one in first] == [
        (one.name, one.type, one.why, one.sqnr_db) for one in again
    ]
    convolutions = [one for one in first if one.type == "QLinearConv"]
    assert {one.name for one in convolutions} == {n.name for n in before.graph.node if n.op_type == "Conv"}
    assert all(15 < one.sqnr_db < 80 for one in convolutions)
    said = text.render(first)
    assert all(one.name[-12:] in said for one in first)
    assert max(map(len, said.splitlines())) <= 100


def test_the_text_names_the_costliest_last():
    layers = [
        Layer("a" * 40, "Conv", False, 1.0, 0.7, 12.34, "left in float: it makes much noise", "mend a"),
        Layer("b", "QLinearConv", True, 0.5, 0.2, 200.0, "8-bit arithmetic"),
        Layer("c", "Cast", False, 0.1, 0.1, None, "a conversion: another type", "mend c"),
    ]
    lines = text.render(layers).splitlines()
    assert lines[0].split() == ["node", "type", "runs", "in", "time", "SQNR", "why"]
    assert "12.3 dB" in lines[1]
    assert "equal" in text.render(layers)
    start = lines.index("what would make it cheaper:")
    assert [line.rsplit(": ", 1)[1] for line in lines[start + 1 :]] == ["mend a", "mend c"]
    assert "cheaper" not in text.render(layers[1:2])
