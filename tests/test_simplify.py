"""Simplified graphs compute the same, or what would change them is left out."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings, strategies

from edgekit import graph
from edgekit.compress import simplify as subject
from edgekit.compress import transposes
from edgekit.compress.simplify import same_outputs, simplify
from edgekit.measure.nodes import census
from edgekit.session import open_session, run
from nets import NETS, Net, awkward, branching, feeds, norm, own_functions, padded, perceptron, residual, upsampler


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


def conv_of(channels, out, groups=1, kind="Conv", pads=0):
    def build(net, x):
        weight = (channels, out // groups, 3, 3) if kind == "ConvTranspose" else (out, channels // groups, 3, 3)
        return net.add(kind, x, net.weight(*weight), net.weight(out), group=groups, pads=[pads] * 4)

    return build


def product_of(channels, out, kind="MatMul", **options):
    def build(net, x):
        weight = net.weight(*((out, channels) if options.get("transB") else (channels, out)))
        return net.add(kind, x, weight, **options)

    return build


def same(before, after, rtol=1e-5, seed=9):
    """Hold a model to the same answers up to the rounding of float32."""
    for feed in feeds(before, 3, seed):
        for old, new in zip(run(open_session(before), feed), run(open_session(after), feed), strict=True):
            assert old.shape == new.shape and old.dtype == new.dtype
            np.testing.assert_allclose(new, old, rtol=0, atol=rtol * np.abs(old).max())
    return kinds(after)


FOUR, TWO = [2, 4, 7, 7], [5, 4]
LAYERS = {
    "conv": (conv_of(4, 6), FOUR, (6, 1, 1)),
    "grouped": (conv_of(4, 6, 2), FOUR, (1, 6, 1, 1)),
    "depthwise": (conv_of(4, 4, 4), FOUR, (4, 1, 1)),
    "transposed": (conv_of(4, 6, 2, "ConvTranspose"), FOUR, (6, 1, 1)),
    "gemm": (product_of(4, 6, "Gemm"), TWO, (6,)),
    "gemm, transB": (product_of(4, 6, "Gemm", transB=1), TWO, (1, 6)),
    "matmul": (product_of(4, 6), [2, 3, 4], (6,)),
}


@pytest.mark.parametrize("step", ["Mul", "Add", "Div", "Sub", "from", "scalar"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_step_after_a_layer_is_folded_back(name, step):
    build, shape, channels = LAYERS[name]
    net = Net(1)
    kind = {"from": "Sub", "scalar": "Mul"}.get(step, step)
    constant = net.constant((net.rng.random(() if step == "scalar" else channels) + 0.5).astype(np.float32))
    x = build(net, "input")
    net.add(kind, *((constant, x) if step == "from" else (x, constant)), outputs=["out"])
    model = net.model({"input": shape}, {"out": [None] * len(shape)})
    left = same(model, simpler(model)[0])
    assert len(left) == (2 if name == "matmul" and kind in ("Add", "Sub") else 1)


@pytest.mark.parametrize("step", ["Mul", "Add", "Div", "Sub", "norm"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_step_before_a_layer_is_folded_forward(name, step):
    build, shape, channels = LAYERS[name]
    net = Net(2)
    read = (4,) if len(channels) == 1 or len(shape) == 2 else (4, 1, 1)
    if step == "norm" and name == "matmul":
        pytest.skip("a norm has its channels on the second axis, a product on the last")
    constant = net.constant((net.rng.random(read) + 0.5).astype(np.float32))
    x = norm(net, "input", 4) if step == "norm" else net.add(step, "input", constant)
    net.add("Identity", build(net, x), outputs=["out"])
    model = net.model({"input": shape}, {"out": [None] * len(shape)})
    left = same(model, simpler(model)[0])
    shifts = step in ("Add", "Sub", "norm")
    assert len(left) == (2 if shifts and name in ("matmul", "transposed") else 1)


def test_shifts_stay_before_padding_and_scales_go():
    for step, count in (("Mul", 1), ("Add", 2)):
        net = Net(3)
        x = net.add(step, "input", net.weight(4, 1, 1))
        net.add("Identity", conv_of(4, 6, pads=1)(net, x), outputs=["out"])
        model = net.model({"input": FOUR}, {"out": [None] * 4})
        assert len(same(model, simpler(model)[0])) == count


def test_constants_that_spread_a_value_stay():
    """One grey channel times three factors: the convolution reads three channels, not one."""
    net = Net(4)
    x = net.add("Mul", "input", net.weight(3, 1, 1))
    net.add("Identity", conv_of(3, 6)(net, x), outputs=["out"])
    model = net.model({"input": [1, 1, 7, 7]}, {"out": [None] * 4})
    assert same(model, simpler(model)[0]) == ["Conv", "Mul"]
    net = Net(5)
    net.add("Add", conv_of(4, 6)(net, "input"), net.weight(1, 1, 6, 1, 1), outputs=["out"])
    model = net.model({"input": FOUR}, {"out": [None] * 5})
    assert same(model, simpler(model)[0]) == ["Add", "Conv"]


def test_the_last_step_of_a_gelu_stays():
    net = Net(6)
    c = [net.constant(np.float32(value)) for value in (2**0.5, 1, 0.5)]
    x = net.add("Mul", "input", net.add("Add", net.add("Erf", net.add("Div", "input", c[0])), c[1]))
    net.add("MatMul", net.add("Mul", x, c[2]), net.weight(4, 6), outputs=["out"])
    model = net.model({"input": [2, 3, 4]}, {"out": [None] * 3})
    assert same(model, simpler(model)[0]) == ["Add", "Div", "Erf", "MatMul", "Mul", "Mul"]


def test_products_with_a_bias_become_gemm_only_over_two_axes():
    for shape, wanted in ((["N", 4], ["Gemm"]), (["N", 3, 4], ["Add", "MatMul"])):
        net = Net(7)
        net.add("Add", net.weight(6), product_of(4, 6)(net, "input"), outputs=["out"])
        model = net.model({"input": shape}, {"out": [None] * len(shape)})
        assert same(model, simpler(model)[0]) == wanted


def test_functions_are_inlined():
    made, notes = simpler(own_functions())
    assert not notes and kinds(made) == ["Conv", "Conv", "Conv", "Relu", "Relu", "Relu"] and not made.functions


BOUNDS = {
    "relu": ([("Max", 0.0)], ["Relu"]),
    "relu6": ([("Max", 0.0), ("Min", [6.0])], ["Clip"]),
    "relu and min": ([("Relu", None), ("Min", 6.0)], ["Clip"]),
    "min and max": ([("Min", 0.5), ("Max", -0.5)], ["Clip"]),
    "crossed": ([("Max", 0.5), ("Min", -0.5)], ["Clip"]),
    "relu of relu": ([("Relu", None), ("Relu", None)], ["Relu"]),
    "more axes": ([("Max", [[[[[0.0]]]]])], ["Max"]),
    "one a channel": ([("Max", [[[0.0]], [[0.1]], [[0.2]]])], ["Max"]),
    "from zero on": ([("Clip", 0.0)], ["Relu"]),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds(name):
    steps, wanted = BOUNDS[name]
    net, x = Net(8), "input"
    for kind, bound in steps:
        x = net.add(kind, x, *([] if bound is None else [net.constant(np.float32(bound))]))
    net.nodes[-1].output[0] = "out"
    model = net.model({"input": [2, 3, 4, 4]}, {"out": [None] * (5 if name == "more axes" else 4)})
    assert same(model, simpler(model)[0], 0) == wanted


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("order", ["product first", "gate first", "gate alone"])
def test_hard_swish_spelled_out(order, opset):
    net = Net(9)
    six = net.constant(np.float32(6))
    clip = net.add("Clip", net.add("Add", "input", net.constant(np.float32(3))), net.constant(np.float32(0)), six)
    if order == "product first":
        net.add("Div", net.add("Mul", "input", clip), six, outputs=["out"])
    elif order == "gate first":
        gate = net.add("Mul", clip, net.constant(np.float32(1 / 6)))
        net.add("Mul", gate, "input", outputs=["out"])
    else:
        net.add("Div", clip, six, outputs=["out"])
    model = net.model({"input": [2, 3, 8, 8]}, {"out": [None] * 4}, opset)
    swish = ["HardSwish"] if opset > 13 else ["HardSigmoid", "Mul"]
    assert same(model, simpler(model)[0]) == (["HardSigmoid"] if order == "gate alone" else swish)


def test_sums_of_two_become_additions():
    net = Net(17)
    net.add("Sum", "input", net.add("Sum", "input", net.weight(4), "input"), outputs=["out"])
    model = net.model({"input": [2, 4]}, {"out": [2, 4]})
    assert same(model, simpler(model)[0]) == ["Add", "Sum"]


def test_pads_and_means():
    made, _ = simpler(padded())
    assert same(padded(), made) == sorted(
        ["Conv", "Conv", "Relu", "Relu", "MaxPool", "GlobalAveragePool", "Flatten", "Gemm"]
    )


def test_zeros_stay_around_a_pool_of_negatives():
    net = Net(10)
    x = net.add("Pad", "input", net.constant(np.int64([0, 0, 1, 1, 0, 0, 1, 1])))
    net.add("MaxPool", x, kernel_shape=[3, 3], outputs=["out"])
    model = net.model({"input": FOUR}, {"out": [None] * 4})
    assert same(model, simpler(model)[0]) == ["MaxPool", "Pad"]


def test_means_of_a_normalisation_stay():
    net = Net(11)
    net.add("Sub", "input", net.add("ReduceMean", "input", axes=[2, 3]), outputs=["out"])
    model = net.model({"input": FOUR}, {"out": [None] * 4})
    assert same(model, simpler(model)[0]) == ["ReduceMean", "Sub"]


def test_what_does_nothing_goes():
    net, x = Net(12), "input"
    one, zeros = net.constant(np.float32(1)), net.constant(np.zeros((1, 1), np.float32))
    for kind, inputs in (("Mul", [one]), ("Add", [zeros]), ("Div", [one]), ("Sub", [zeros])):
        x = net.add(kind, x, *inputs)
    net.add("Relu", net.add("Cast", x, to=1), outputs=["out"])
    model = net.model({"input": [2, 3]}, {"out": [2, 3]})
    assert same(model, simpler(model)[0], 0) == ["Relu"]
    net = Net(13)
    net.add("Mul", "input", net.constant(np.ones((1, 1, 1), np.float32)), outputs=["out"])
    model = net.model({"input": [2, 3]}, {"out": [1, 2, 3]})
    assert same(model, simpler(model)[0], 0) == ["Mul"]


def test_shapes_that_are_fixed_are_computed():
    made, _ = simpler(fixed_shape("N"))
    assert "Shape" in kinds(made)
    made, _ = simpler(fixed_shape(2))
    assert kinds(made) == ["Reshape"]


def fixed_shape(batch):
    net = Net(14)
    size = net.add("Gather", net.add("Shape", "input"), net.constant(np.int64([0])), axis=0)
    shape = net.add("Concat", size, net.constant(np.int64([-1])), axis=0)
    net.add("Reshape", "input", shape, outputs=["out"])
    return net.model({"input": [batch, 3, 4]}, {"out": [batch, 12]})


TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


def test_transposes_cancel_across_what_lies_between():
    """Channels last: scale, activation, residual sum and concatenation between the convolutions."""
    net = Net(15)
    x = net.add("Transpose", conv_of(4, 4, pads=1)(net, "input"), perm=TO_LAST)
    x = net.add("Clip", net.add("Sigmoid", x), net.constant(np.float32(0.1)))
    y = net.add("Transpose", conv_of(4, 4, pads=1)(net, net.add("Transpose", x, perm=TO_FIRST)), perm=TO_LAST)
    z = net.add("Concat", net.add("Mul", net.add("Add", x, y), net.weight(4)), x, net.weight(2, 7, 7, 2), axis=-1)
    z = net.add("Tanh", z)
    net.add("Identity", conv_of(10, 4)(net, net.add("Transpose", z, perm=TO_FIRST)), outputs=["out"])
    model = net.model({"input": FOUR}, {"out": [None] * 4})
    assert "Transpose" not in same(model, simpler(model)[0])


def test_transposes_stay_where_moving_them_wins_nothing():
    net = Net(16)
    x = net.add("Transpose", "input", perm=TO_LAST)
    net.add("Add", net.add("Relu", x), "other", outputs=["out"])
    model = net.model({"input": FOUR, "other": [2, 7, 7, 4]}, {"out": [None] * 4})
    assert same(model, simpler(model)[0]) == ["Add", "Relu", "Transpose"]


@settings(max_examples=25, deadline=None)
@given(seed=strategies.integers(0, 2**20))
def test_transposes_in_random_graphs(seed):
    """Whatever is moved, shapes and values of all outputs stay, and there are never more Transposes."""
    rng = np.random.default_rng(seed)
    net = Net(seed)
    made = {"input": (2, 3, 4, 5)}
    for _ in range(8):
        name = list(made)[rng.integers(len(made))]
        shape = made[name]
        kind = rng.choice(["Transpose", "Transpose", "Relu", "Add", "Mul", "Concat"])
        alike = [other for other in made if made[other] == shape]
        other = alike[rng.integers(len(alike))]
        if kind == "Transpose":
            perm = [int(axis) for axis in (TO_LAST, TO_FIRST, rng.permutation(4))[rng.integers(3)]]
            made[net.add(kind, name, perm=perm)] = tuple(shape[axis] for axis in perm)
        elif kind == "Concat":
            axis = int(rng.integers(-4, 4))
            wide = tuple(2 * side if place == axis % 4 else side for place, side in enumerate(shape))
            made[net.add(kind, name, other, axis=axis)] = wide
        elif kind == "Mul":
            made[net.add(kind, name, net.weight(*shape[int(rng.integers(4)) :]))] = shape
        else:
            made[net.add(kind, *((name,) if kind == "Relu" else (name, other)))] = shape
    shown = [name for name in made if name != "input" and not any(name in node.input for node in net.nodes)]
    model = net.model({"input": [2, 3, 4, 5]}, {name: list(made[name]) for name in shown})
    after = transposes_only(model)
    assert same(model, after, 0).count("Transpose") <= kinds(model).count("Transpose")


def transposes_only(model):
    made = graph.copy(model)
    transposes.cancel(made)
    onnx.checker.check_model(made)
    return made


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
