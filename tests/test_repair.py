"""Repairs: kept when they help, left out when they do not, and what a step may ask for."""

import numpy as np
import pytest
from onnx import numpy_helper

from edgekit.compress.method import STEPS
from edgekit.compress.quantize import repair
from edgekit.errors import EdgekitError
from nets import Answer, Bench, Net, residual, simple, sqnr_db


def lopsided(seed=0):
    """The same function as a plain chain, with channels scaled by powers of two up to 256: one range fits none."""
    rng = np.random.default_rng(seed)
    net = Net(seed)
    x = net.conv("input", 3, 16)
    net.conv(x, 16, 8, relu=False)
    net.nodes[-1].output[0] = "out"
    model = net.model({"input": [1, 3, 12, 12]}, {"out": [1, 8, 12, 12]})
    scale = (2.0 ** rng.integers(-8, 9, 16)).astype(np.float32)
    first, bias, second = model.graph.initializer[0], model.graph.initializer[1], model.graph.initializer[2]
    for tensor, factor in ((first, scale[:, None, None, None]), (bias, scale), (second, 1 / scale[:, None, None])):
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * factor, tensor.name))
    return model


def test_what_helps_is_kept():
    model = lopsided()
    bench = Bench(model)
    made = STEPS.parse("static").apply(model, bench)
    assert "equalize" in bench.settlements["repairs"]
    plain = STEPS.parse("static repair=none").apply(model, Bench(model))
    assert sqnr_db(model, made) > sqnr_db(model, plain) + 10


def test_what_does_not_help_is_left_out():
    class Indifferent(Bench):
        def drift(self, before, after, most=None):
            return Answer(sqnr_db=20.0)

    model = simple(residual())
    bench = Indifferent(model)
    made = STEPS.parse("static").apply(model, bench)
    assert bench.settlements["repairs"] == []
    assert all("left out" in note for note in bench.notes if note.startswith("repair"))
    plain = STEPS.parse("static repair=none").apply(model, Bench(model))
    assert made.SerializeToString() == plain.SerializeToString()


def test_what_is_near_already_is_not_repaired():
    class Near(Bench):
        def drift(self, before, after, most=None):
            return Answer(sqnr_db=60.0)

    bench = Near(simple(residual()))
    STEPS.parse("static").apply(bench.model, bench)
    assert bench.settlements["repairs"] == [] and not bench.notes


def test_no_repair_changes_the_input():
    model = lopsided()
    before = model.SerializeToString()
    STEPS.parse("static").apply(model, Bench(model))
    assert model.SerializeToString() == before


def test_repairs_are_named():
    assert repair.parse("auto") == tuple(repair.REPAIRS) and repair.parse("none") == ()
    assert repair.parse("round + equalize") == ("equalize", "round")
    with pytest.raises(EdgekitError, match="no such repair: rond") as caught:
        repair.parse("rond")
    assert "round" in caught.value.hint
    with pytest.raises(EdgekitError, match="no such repair"):
        STEPS.parse("static repair=what").apply(residual(), Bench(residual()))


@pytest.mark.parametrize("name", sorted(repair.REPAIRS))
def test_each_repair_alone(name):
    model = lopsided(3)
    made = STEPS.parse(f"static repair={name}").apply(model, Bench(model))
    plain = STEPS.parse("static repair=none").apply(model, Bench(model))
    assert sqnr_db(model, made) > sqnr_db(model, plain) - 0.5


def test_a_float_convolution_between_8_bit_ones_keeps_its_weights():
    """onnxruntime would quantise them behind our back, with one scale for all channels."""
    from edgekit.measure.nodes import as_run

    net = Net(5)
    x = net.conv("input", 8, 16)
    x = net.conv(x, 16, 16, relu=False)
    left = net.nodes[-1].name
    net.conv(net.conv(x, 16, 16), 16, 8, relu=False)
    net.nodes[-1].output[0] = "out"
    model = net.model({"input": [1, 8, 10, 10]}, {"out": [1, 8, 10, 10]})
    made = STEPS.parse("static repair=none").apply(model, Bench(model, exclude=(left,)))
    kinds = [node.op_type for node in as_run(made).graph.node]
    assert kinds.count("QLinearConv") == 3 and kinds.count("Conv") + kinds.count("FusedConv") == 1
