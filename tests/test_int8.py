"""8-bit arithmetic: what is inserted, what runs, what is chosen, and that nothing leaks out."""

import hashlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper

from edgekit import graph
from edgekit.compress.method import STEPS
from edgekit.compress.quantize import saturation, scope, sensitivity
from edgekit.compress.quantize.qdq import scale_and_zero
from edgekit.compress.quantize.target import target
from edgekit.compress.search import Budget
from edgekit.errors import EdgekitError
from edgekit.measure.nodes import census
from edgekit.session import open_session, run
from nets import (
    Answer,
    Bench,
    Net,
    attention,
    branching,
    feeds,
    info,
    perceptron,
    residual,
    simple,
    sqnr_db,
    swish,
    transformer,
)


def applied(step, model, **options):
    bench = Bench(model, **options)
    return STEPS.parse(step).apply(model, bench), bench


def test_whole_chains_run_in_8_bits():
    made, _ = applied("static", simple(residual()))
    found = census(made)
    assert found.float == 0 and found.int8 == 8
    assert set(found.types) >= {"QLinearConv", "QLinearAdd", "QLinearGlobalAveragePool", "QGemm"}
    made, _ = applied("static", simple(swish()))
    assert census(made).types["QLinearMul"] == 2 and census(made).float == 0


def test_the_last_product_gives_floats_and_normalisations_stay():
    made, _ = applied("static", simple(attention()))
    types = census(made).types
    assert types["MatMulIntegerToFloat"] == 3 and types["Softmax"] == 1
    assert "DequantizeLinear" not in types


def test_products_with_biases_run_in_8_bits_where_shapes_are_known_too():
    model = transformer()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    assert census(model).types["Gemm"] == 7  # onnxruntime makes them of MatMul and Add
    made, _ = applied("static", simple(model))
    assert census(made).types["MatMulIntegerToFloat"] == 6 and census(made).float == 2
    assert sqnr_db(model, made) > 30


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("step", ["static", "dynamic"])
def test_gemm_either_way_round(step, transposed):
    model = simple(perceptron(transposed))
    made, _ = applied(step, model)
    assert sqnr_db(model, made) > 30
    assert census(made).float == 0


def test_types_follow_the_cpu():
    assert target("vnni") == target("vnni") and not target("vnni").seven_bits
    assert target("avx2").seven_bits and target("none").seven_bits and not target("none").signed_activations
    assert target("arm-dot").signed_activations and not target("arm").seven_bits
    model = simple(residual())
    for cpu, activations, clips in (("vnni", 2, True), ("avx2", 2, False), ("arm-dot", 3, True)):
        made, _ = applied("static", model, int8=cpu)
        assert any(layer.at_risk for layer in saturation.layers(made)) == clips
        zeros = {t.data_type for t in made.graph.initializer if t.name.endswith("_zero_point") and not t.dims}
        assert activations in zeros and sqnr_db(model, made) > 18


def test_scales_are_those_of_the_ranges():
    scale, zero = scale_and_zero(-1.0, 3.0, target("vnni"))
    assert scale == pytest.approx(4 / 255) and zero == 64 and zero.dtype == np.uint8
    scale, zero = scale_and_zero(0.0, 2.55, target("arm"))
    assert scale == pytest.approx(0.01) and zero == -128 and zero.dtype == np.int8
    assert scale_and_zero(0.0, 0.0, target("vnni")) == (1.0, 0)
    scale, zero = scale_and_zero(-1e-44, 0.0, target("vnni"))
    assert scale == 1.0


def test_weights_have_one_scale_a_channel():
    made, _ = applied("static", simple(residual()))
    tensors = graph.initializers(made)
    dequantised = [n for n in made.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in tensors]
    per_channel = [n for n in dequantised if len(tensors[n.input[1]].dims) == 1]
    assert {tensors[n.input[0]].dims[0] for n in per_channel} >= {10, 16, 32}


def test_only_and_exclude():
    model = simple(residual())
    made, _ = applied("static", model, exclude=("conv0",))
    assert census(made).float == 1
    made, _ = applied("static", model, only=("Gemm",))
    assert census(made).int8 == 1
    with pytest.raises(EdgekitError, match="'Konv'"):
        applied("static", model, only=("Konv",))


def test_a_clip_away_from_zero_is_not_lost():
    net = Net()
    x = net.conv("input", 3, 8, relu=False)
    x = net.add("Clip", x, net.constant(np.float32(0.5)), net.constant(np.float32(2)))
    net.add("Conv", x, net.weight(8, 8, 1, 1), outputs=["out"])
    model = net.model({"input": [1, 3, 8, 8]}, {"out": [1, 8, 8, 8]})
    assert "Clip" not in {n.op_type for n in scope.scope(model, {n.name for n in model.graph.node})}
    assert sqnr_db(model, applied("static", model)[0]) > 25


def test_outputs_that_are_read_inside_too():
    net = Net()
    x = net.conv("input", 3, 16)
    y = net.conv(x, 16, 16)
    net.add("Add", x, y, outputs=["sum"])
    shape = [1, 16, 8, 8]
    model = net.model({"input": [1, 3, 8, 8]}, {y: shape, "sum": shape, x: shape})
    assert sqnr_db(model, applied("static", model)[0]) > 30


def test_outputs_that_float_nodes_make_are_not_rounded():
    net = Net()
    x = net.add("Tanh", "input", outputs=["feature"])
    net.conv(x, 3, 16, relu=False)
    net.add("Exp", x, outputs=["other"])
    shape = [1, 3, 8, 8]
    model = net.model({"input": shape}, {"feature": shape, "other": shape, "t1": [1, 16, 8, 8]})
    made, _ = applied("static", model)
    feed = next(feeds(model))
    before, after = (run(open_session(m), feed) for m in (model, made))
    assert np.allclose(before[0], after[0]) and np.allclose(before[1], after[1])
    assert not np.allclose(before[2], after[2]) and census(made).float == 0


def test_dynamic_never_touches_convolutions():
    net = Net()
    net.conv("input", 3, 8)
    net.nodes[-1].output[0] = "out"
    model = net.model({"input": [1, 3, 8, 8]}, {"out": [1, 8, 8, 8]})
    with pytest.raises(EdgekitError, match="no MatMul or Gemm"):
        applied("dynamic", model)
    assert census(applied("dynamic", simple(residual()))[0]).types["Conv"] == 5


def test_old_operators_are_refused_with_a_way_out():
    with pytest.raises(EdgekitError, match="version 11") as caught:
        applied("int8", swish())
    assert "int8-weights" in caught.value.hint


def chosen(bench):
    return next(trial.name for trial, _, _, taken in bench.trials if taken)


def test_int8_takes_the_fastest():
    model = simple(residual())
    made, bench = applied("int8", model, speeds=[1.0, 1.5, 2.5, 2.0])
    assert census(made).float == 1
    assert bench.decisions == ["static int8 without the first layer"] == [chosen(bench)]
    assert [trial.speedup for trial, *_ in bench.trials] == [2.5, 2.0, 1.5, 1.0]


def test_int8_leaves_out_more_for_as_long_as_it_helps():
    _, bench = applied("int8", simple(residual()), speeds=[1.0, 0.7, 0.8, 1.1, 1.05])
    assert chosen(bench) == "static int8 without the first 2 layers"
    _, bench = applied("int8", simple(residual()), speeds=[1.0, 2.0, 1.1, 9.0])
    assert bench.speeds == [9.0]


def test_int8_stores_what_does_not_pay():
    model = simple(residual())
    made, bench = applied("int8", model, speeds=[1.0, 0.78, 0.7])
    assert census(made).int8 == 0 and made.ByteSize() < 0.5 * model.ByteSize()
    assert bench.decisions == ["stored in 8 bits: int8 arithmetic is not faster here"]


def test_int8_does_not_call_slow_what_is_over_the_budget():
    _, bench = applied("int8", simple(residual()), speeds=[1.0, 2.0, 2.0], budget=Budget(max_mb=0.001))
    assert bench.decisions == ["stored in 8 bits: int8 arithmetic is faster, but over the budget"]


def test_for_another_architecture_int8_is_chosen_untimed():
    class Untimed(Bench):
        def speed(self, before, after):
            raise AssertionError("times of this machine say nothing")

    model = simple(residual())
    bench = Untimed(model, int8="arm-dot", foreign=True)
    made = STEPS.parse("int8").apply(model, bench)
    assert bench.decisions == ["static int8"] and any("another kind of CPU" in note for note in bench.notes)
    assert any(t.data_type == 3 and not t.dims for t in made.graph.initializer)


def test_int8_is_replayed_without_measuring():
    class Blind(Bench):
        def drift(self, before, after, most=None):
            raise AssertionError("a replay measures nothing")

        speed = drift

    model = simple(residual())
    made, bench = applied("int8", model, speeds=[1.0, 1.5, 2.5, 2.0])
    recipe = json.loads(json.dumps(bench.settlements))
    again = Blind(model, replay=recipe)
    assert STEPS.parse("int8").apply(model, again).SerializeToString() == made.SerializeToString()
    assert again.settlements == recipe and again.decisions == ["replayed"]


def test_int8_leaves_the_noisiest_out_of_what_differs_too_much():
    """A layer whose inputs nearly cancel does not bear 8 bits; the others do."""
    net = Net(3)
    x = net.conv("input", 3, 16)
    x = net.conv(net.add("Add", x, net.constant(np.float32(300))), 16, 16, k=1, relu=False)
    weight, bias = net.weights[-2:]
    bias.CopyFrom(numpy_helper.from_array(-300 * numpy_helper.to_array(weight).sum((1, 2, 3)), bias.name))
    for _ in range(6):
        x = net.conv(x, 16, 16)
    net.nodes[-1].output[0] = "out"
    model = net.model({"input": [1, 3, 16, 16]}, {"out": [1, 16, 16, 16]})
    assert sqnr_db(model, applied("static", model)[0]) < 15
    made, bench = applied("int8", model, speeds=[1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0])
    assert "where it pays" in bench.decisions[0] and "quiet" in bench.decisions[0]
    assert sqnr_db(model, made) > 20 and census(made).int8 >= 4


def test_int8_does_not_take_what_differs_too_much():
    class Strict(Bench):
        def drift(self, before, after, most=None):
            return Answer(sqnr_db=12.0)

    model = simple(residual())
    bench = Strict(model, speeds=[1.0] + [2.0] * 9)
    made = STEPS.parse("int8").apply(model, bench)
    assert census(made).int8 == 0
    assert bench.decisions == ["stored in 8 bits: int8 arithmetic is too far off"]


def test_noise_adds_up_over_the_parts():
    parts = [sensitivity.Part(frozenset({name}), noise) for name, noise in (("a", 1e-3), ("b", 0.5), ("c", np.inf))]
    assert sensitivity.too_noisy(parts, 20) == {"b", "c"}
    assert sensitivity.too_noisy(parts, 40) == {"a", "b", "c"}
    assert sensitivity.too_noisy(parts[:1], 20) == set()


def test_int8_tries_dynamic_where_products_carry_the_weights():
    made, bench = applied("int8", simple(attention()), speeds=[1.0, 3.0, 2.0])
    assert bench.decisions == ["dynamic int8"]
    assert "DynamicQuantizeMatMul" in census(made).types or "MatMulIntegerToFloat" in census(made).types


def test_nothing_is_printed_logged_or_written(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    root = logging.getLogger()
    handlers = list(root.handlers)
    for step in ("static", "dynamic", "int8"):
        applied(step, simple(residual()))
    assert capfd.readouterr() == ("", "")
    assert root.handlers == handlers
    assert list(tmp_path.iterdir()) == []


CODE = """
import hashlib, sys
sys.path.insert(0, {tests!r})
from nets import *
from edgekit.compress.method import STEPS
from edgekit.compress.simplify import simplify
for build in (residual, attention):
    model = simplify(build(), lambda a, b: True)[0]
    for step in STEPS.names():
        if step == "search" or (build, step) == (attention, "prune"):  # wants budgets; finds nothing to take out
            continue
        made = STEPS.parse(step).apply(model, Bench(model))
        print(step, hashlib.sha256(made.SerializeToString(deterministic=True)).hexdigest())
"""


def test_the_same_bytes_for_every_hash_seed():
    code = CODE.format(tests=str(Path(__file__).parent))
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            cwd=Path(__file__).parents[1],
        ).stdout
        for seed in ("0", "1", "12345")
    }
    assert len(outputs) == 1 and hashlib.sha256(outputs.pop()).digest()


def test_calibration_reads_no_more_than_it_is_told():
    class Counting(Bench):
        asked = ()

        def feeds(self, samples):
            self.asked += (samples,)
            return super().feeds(samples)

    bench = Counting(residual())
    STEPS.parse("static samples=3").apply(simple(residual()), bench)
    assert set(bench.asked) == {3}


def test_ranges_are_a_choice():
    model = simple(residual())
    made = {method: applied(f"static ranges={method}", model)[0] for method in ("mse", "percentile", "minmax")}
    assert len({m.SerializeToString(deterministic=True) for m in made.values()}) == 3
    with pytest.raises(EdgekitError, match="ranges"):
        STEPS.parse("static ranges=entropy")


def test_real_models_run_in_8_bits(assets):
    for name in ("resnet20_cifar10", "vit_fmnist", "mobilenetv1_025_vww96"):
        model = simple(graph.load(assets / "models" / f"{name}.onnx"))
        made, _ = applied("static", model)
        assert census(made).int8 >= 25 and made.ByteSize() < 0.4 * model.ByteSize()


def test_an_activation_that_only_nested_graphs_read_is_kept():
    net = Net(3)
    kept = net.conv("input", 3, 16)
    branches = [
        helper.make_graph([helper.make_node(kind, [kept], [kind])], kind, [], [info(kind, [1, 16, 8, 8])])
        for kind in ("Neg", "Identity")
    ]
    flag = net.add("Greater", net.add("ReduceMax", "input", keepdims=0), net.constant(np.float32(0)))
    net.add("If", flag, then_branch=branches[0], else_branch=branches[1], outputs=["map"])
    model = net.model({"input": [1, 3, 8, 8]}, {"map": [1, 16, 8, 8]})
    made, _ = applied("static", model)
    assert sqnr_db(model, made) > 30


def test_constants_named_like_a_scale_are_not_in_the_way():
    net = Net(1)
    x = net.add("Sigmoid", net.conv("input", 3, 16, relu=False))
    factor = net.constant(np.linspace(0.5, 2, 16, dtype=np.float32).reshape(1, 16, 1, 1), f"{x}_scale")
    x = net.add("Mul", x, factor)
    net.conv(net.add("Relu", x), 16, 4, relu=False)
    net.nodes[-1].output[0] = "out"
    model = net.model({"input": [1, 3, 8, 8]}, {"out": [1, 4, 8, 8]})
    assert sqnr_db(model, applied("static", model)[0]) > 25


def test_what_a_nested_graph_reads_does_not_keep_its_maker_in_float():
    model = simple(branching())
    made, _ = applied("static", model)
    assert census(made).float == 0 and sqnr_db(model, made) > 25
