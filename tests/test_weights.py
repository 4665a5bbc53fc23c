"""Weights stored in fewer bits come back when the session is created, and nothing else changes."""

import numpy as np
import onnx
import pytest

from edgekit import graph
from edgekit.compress import fold
from edgekit.compress.method import STEPS
from edgekit.compress.quantize.weights import channel_axis, rounded
from edgekit.compress.simplify import same_outputs, simplify
from edgekit.errors import EdgekitError
from edgekit.measure.nodes import census
from nets import NETS, Bench, Net, attention, feeds, perceptron, recurrent, residual, sqnr_db, upsampler


def applied(step, model, **options):
    bench = Bench(model, **options)
    return STEPS.parse(step).apply(model, bench), bench


@pytest.mark.parametrize("step", ["int8-weights", "fp16"])
@pytest.mark.parametrize("name", NETS)
def test_the_session_runs_the_same_nodes(step, name):
    model = NETS[name]()
    plain = simplify(model, lambda a, b: same_outputs(a, b, feeds(model, 2)))[0]
    try:
        made, _ = applied(step, plain)
    except EdgekitError:
        return
    assert census(made).types == census(plain).types


@pytest.mark.parametrize("build", [residual, upsampler, attention, recurrent])
def test_sizes(build):
    model = build()
    small = sum(np.prod(t.dims) for t in model.graph.initializer if np.prod(t.dims) < 128) * 4
    whole = sum(np.prod(t.dims) for t in model.graph.initializer) * 4
    for step, share in (("int8-weights", 0.25), ("fp16", 0.5)):
        made, _ = applied(step, model)
        stored = sum(len(t.raw_data) for t in made.graph.initializer)
        assert stored <= small + share * (whole - small) + 0.2 * whole


@pytest.mark.parametrize(
    ("kind", "inputs", "shape", "attributes", "axis"),
    [
        ("Conv", ["x", "w"], (8, 4, 3, 3), {}, 0),
        ("ConvTranspose", ["x", "w"], (8, 4, 3, 3), {}, 1),
        ("Gemm", ["x", "w"], (8, 4), {}, 1),
        ("Gemm", ["x", "w"], (8, 4), {"transB": 1}, 0),
        ("Gemm", ["w", "x"], (8, 4), {}, 0),
        ("Gemm", ["w", "x"], (8, 4), {"transA": 1}, 1),
        ("MatMul", ["x", "w"], (8, 4), {}, 1),
        ("MatMul", ["x", "w"], (2, 8, 4), {}, 2),
        ("MatMul", ["w", "x"], (8, 4), {}, 0),
        ("Gather", ["w", "x"], (8, 4), {}, 0),
        ("LSTM", ["x", "w", "r"], (1, 8, 4), {}, 1),
        ("Add", ["x", "w"], (8, 4), {}, None),
        ("Conv", ["w", "x"], (8, 4, 3, 3), {}, None),
        ("MatMul", ["x", "w"], (8,), {}, None),
    ],
)
def test_the_axis_of_the_outputs(kind, inputs, shape, attributes, axis):
    node = onnx.helper.make_node(kind, inputs, ["y"], **attributes)
    tensor = onnx.numpy_helper.from_array(np.zeros(shape, np.float32), "w")
    assert channel_axis(node, tensor) == axis


def test_rounding_has_one_scale_a_channel_and_keeps_zeros():
    values = np.random.default_rng(0).standard_normal((4, 50)).astype(np.float32) * np.float32([[1], [10], [0], [1e-3]])
    values[0, :7] = 0
    integers, scale = rounded(values, 0)
    assert scale.shape == (4, 1) and integers.dtype == np.int8 and np.abs(integers).max() == 127
    assert (integers[0, :7] == 0).all() and (integers[2] == 0).all()
    assert (np.abs(integers * scale - values) <= scale / 2 + 1e-9).all()
    assert np.abs(rounded(values, 0, largest=63)[0]).max() == 63


def test_shared_weights_and_several_readers():
    net = Net()
    shared = net.weight(16, 16, 3, 3)
    x = net.add("Conv", "input", shared, pads=[1, 1, 1, 1])
    y = net.add("Conv", net.add("Relu", x), shared, pads=[1, 1, 1, 1])
    net.add("Add", y, net.add("ReduceSum", shared, keepdims=0), outputs=["out"])
    model = net.model({"input": [1, 16, 8, 8]}, {"out": [1, 16, 8, 8]})
    with pytest.raises(EdgekitError):  # ReduceSum is no reader of weights
        applied("int8-weights", model)
    assert sqnr_db(model, applied("fp16", model)[0]) > 55
    model.graph.node[-1].input[1] = x
    graph.remove_dead(model)
    made, _ = applied("int8-weights", model)
    assert sum(t.data_type == onnx.TensorProto.INT8 for t in made.graph.initializer) == 1
    assert sqnr_db(model, made) > 30


def test_values_that_float16_cannot_hold_stay_with_a_note():
    model = perceptron()
    tensor = model.graph.initializer[0]
    values = graph.array(tensor).copy()
    values[0, 0] = 70000
    tensor.raw_data = values.tobytes()
    made, bench = applied("fp16", model)
    assert graph.initializers(made)["w0"].data_type == onnx.TensorProto.FLOAT
    assert any("w0" in note and "65504" in note for note in bench.notes)


def test_values_that_are_not_finite_stay_with_a_note():
    model = residual()
    tensor = graph.initializers(model)["w2"]
    values = graph.array(tensor).copy()
    values.flat[0] = np.nan
    tensor.raw_data = values.tobytes()
    made, bench = applied("int8-weights", model)
    assert graph.initializers(made)["w2"].data_type == onnx.TensorProto.FLOAT
    assert any("w2" in note for note in bench.notes)


def test_storage_is_undone_exactly():
    model = residual()
    made, _ = applied("fp16", model)
    back = fold.storage(made)
    assert sorted(n.op_type for n in back.graph.node) == sorted(n.op_type for n in model.graph.node)
    for tensor in model.graph.initializer:
        if np.prod(tensor.dims) >= 128:
            expected = graph.array(tensor).astype(np.float16).astype(np.float32)
            assert np.array_equal(graph.array(graph.initializers(back)[tensor.name]), expected)


def test_dequantize_linear_storage_is_undone_too():
    net = Net()
    stored = net.constant(np.arange(-96, 96, dtype=np.int8).reshape(16, 3, 2, 2))
    scale = net.constant(np.linspace(0.01, 0.1, 16, dtype=np.float32))
    weight = net.add("DequantizeLinear", stored, scale, net.constant(np.zeros(16, np.int8)), axis=0)
    net.add("Conv", "input", weight, outputs=["out"])
    model = net.model({"input": [1, 3, 6, 6]}, {"out": [1, 16, 5, 5]})
    made, notes = simplify(model, lambda a, b: same_outputs(a, b, feeds(model, 2)))
    assert [n.op_type for n in made.graph.node] == ["Conv"] and not notes
    assert sqnr_db(model, applied("static", made)[0]) > 25


def test_bias_correction_brings_the_mean_back():
    net = Net()
    weight = net.constant((net.rng.standard_normal((8, 16, 1, 1)) * 3).astype(np.float32))
    # Inputs far from zero, which the bias cancels.
    x = net.add("Add", "input", net.constant(np.float32(40)))
    net.add("Conv", x, weight, net.constant(-40 * graph.array(net.weights[0]).sum((1, 2, 3))), outputs=["out"])
    model = net.model({"input": [1, 16, 8, 8]}, {"out": [1, 8, 8, 8]})
    made, _ = applied("int8-weights", model)
    integers, scale = rounded(graph.array(model.graph.initializer[0]), 0)
    naive = graph.copy(model)
    naive.graph.initializer[0].raw_data = (integers * scale).astype(np.float32).tobytes()
    assert sqnr_db(model, made) > sqnr_db(model, naive) + 10


def test_nothing_left_says_so():
    model = residual()
    made, _ = applied("int8-weights", model)
    with pytest.raises(EdgekitError, match="no float32 weights left"):
        applied("fp16", applied("fp16", model)[0])
    again, _ = applied("int8-weights", made)
    assert again.ByteSize() <= made.ByteSize() * 1.01
