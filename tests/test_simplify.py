"""Simplified graphs compute the same, or what would change them is left out."""

import numpy as np
import pytest

from edgekit import graph
from edgekit.compress import simplify as subject
from edgekit.compress.simplify import same_outputs, simplify
from edgekit.measure.nodes import census
from edgekit.session import open_session, run
from nets import NETS, Net, awkward, branching, feeds, norm, perceptron, residual, upsampler


def kinds(model):
    return sorted(node.op_type for node in model.graph.node)


def simpler(model, **options):
    return simplify(model, lambda a, b: same_outputs(a, b, list(feeds(model, 3)), **options))


@pytest.mark.parametrize("name", NETS)
def test_outputs_stay_and_the_input_too(name):
    model = NETS[name]()
    before = model.SerializeToString(deterministic=True)
    made, _ = simpler(model)
    assert model.SerializeToString(deterministic=True) == before
    for feed in feeds(model, 3, seed=9):
        for old, new in zip(run(open_session(model), feed), run(open_session(made), feed), strict=True):
            np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-5)
    assert all(node.name for node in made.graph.node)
    assert len({node.name for node in made.graph.node}) == len(made.graph.node)
    assert graph.opset(made) >= 13
    assert made.SerializeToString(deterministic=True) == simpler(model)[0].SerializeToString(deterministic=True)


def test_batch_norms_are_folded_also_into_groups_and_transposed():
    made, notes = simpler(upsampler())
    assert "BatchNormalization" not in kinds(made) and not notes


@pytest.mark.parametrize("transposed", [0, 1])
def test_batch_norm_after_gemm(transposed):
    net = Net()
    x = net.add("Gemm", "input", net.weight(*((8, 16) if transposed else (16, 8))), transB=transposed)
    net.add("Relu", norm(net, x, 8), outputs=["out"])
    made, _ = simpler(net.model({"input": ["N", 16]}, {"out": ["N", 8]}))
    assert kinds(made) == ["Gemm", "Relu"]


def test_batch_norm_stays_where_its_input_has_another_reader():
    net = Net()
    x = net.conv("input", 3, 8, relu=False)
    net.add("Add", norm(net, x, 8), x, outputs=["out"])
    made, _ = simpler(net.model({"input": [1, 3, 8, 8]}, {"out": [1, 8, 8, 8]}))
    assert "BatchNormalization" in kinds(made)


def test_weights_leave_the_inputs_and_the_nodes():
    made, _ = simpler(residual(weights_as_inputs=True))
    assert [value.name for value in made.graph.input] == ["input"]
    made, _ = simpler(awkward())
    assert kinds(made) == ["Add", "Conv", "Conv", "Conv", "Relu"]


def test_shape_arithmetic_on_constants_is_computed():
    net = Net()
    net.constant(np.int64([2, 3]), "sizes")
    shape = net.add("Concat", "sizes", net.add("Mul", "sizes", "sizes"), axis=0)
    net.add("Add", "input", net.add("ConstantOfShape", shape), outputs=["out"])
    made, _ = simpler(net.model({"input": [2, 3, 4, 9]}, {"out": [2, 3, 4, 9]}))
    assert kinds(made) == ["Add"]


def test_large_constants_are_not_unpacked():
    net = Net()
    big = net.add("ConstantOfShape", net.constant(np.int64([1, 1 << 20])))
    net.add("Add", "input", big, outputs=["out"])
    model = net.model({"input": [1, 1 << 20]}, {"out": [1, 1 << 20]})
    made, _ = simpler(model)
    assert made.ByteSize() < 10_000


def test_gemm_factors_are_folded():
    made, _ = simpler(perceptron())
    gemm = next(node for node in made.graph.node if node.op_type == "Gemm")
    assert graph.attribute(gemm, "alpha", 1.0) == 1 and graph.attribute(gemm, "beta", 1.0) == 1


def test_nested_graphs_are_left_alone():
    made, notes = simpler(branching())
    assert len(notes) == 1 and "If" in notes[0] and kinds(made) == kinds(branching())


def test_a_step_that_changes_outputs_is_left_out_and_named(monkeypatch):
    def wrong(model):
        """Double the first weight."""
        model = graph.copy(model)
        tensor = model.graph.initializer[0]
        doubled = graph.array(tensor) * 2
        tensor.raw_data = doubled.tobytes()
        return model

    monkeypatch.setattr(subject, "STEPS", (wrong, *subject.STEPS))
    made, notes = simpler(upsampler())
    assert notes == ["left out, because it would change the outputs: double the first weight"]
    assert "BatchNormalization" not in kinds(made)


def test_a_step_that_fails_is_left_out_with_the_reason(monkeypatch):
    def failing(model):
        """Do something difficult."""
        raise ValueError("too hard")

    monkeypatch.setattr(subject, "STEPS", (failing, *subject.STEPS))
    made, notes = simpler(upsampler())
    assert notes == ["left out, because it failed (too hard): do something difficult"]
    assert "BatchNormalization" not in kinds(made)


def test_same_outputs_notices_small_differences():
    model = residual()
    other = graph.copy(model)
    bias = other.graph.initializer[-1]
    bias.CopyFrom(type(bias).FromString(bias.SerializeToString()))
    values = graph.array(bias).copy()
    values[0] += 0.05
    bias.raw_data = values.tobytes()
    assert same_outputs(model, graph.copy(model), feeds(model))
    assert not same_outputs(model, other, feeds(model))


def test_real_models(assets):
    for path in sorted((assets / "models").glob("*.onnx")):
        model = graph.load(path)
        made, notes = simpler(model)
        assert not notes and len(made.graph.node) <= len(model.graph.node)
        assert made.ByteSize() <= model.ByteSize() * 1.01
        assert census(made).int8 == 0
