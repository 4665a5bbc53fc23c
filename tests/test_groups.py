"""Groups of channels that go together: single rules, and the surgery that takes them out."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import nets
from edgekit import graph
from edgekit.compress.prune.groups import find_groups
from edgekit.compress.prune.labels import Labels, shortest
from edgekit.compress.prune.moves import _blocks
from edgekit.compress.prune.prepare import prepared
from edgekit.compress.prune.sides import dims, settle
from edgekit.compress.prune.surgery import mask, remove
from edgekit.errors import EdgekitError
from edgekit.session import open_session, run
from nets import Net

MAP = {"input": [1, 3, 8, 8]}


def ended(net, x, channels, inputs=None):
    """Close a net with a convolution whose channels are the output."""
    net.conv(x, channels, 4, relu=False)
    net.nodes[-1].output[0] = "out"
    return net.model(inputs or MAP, {"out": [1, 4, None, None]})


def group(model, name):
    return next(found for found in find_groups(model).groups if found.name == name)


def frozen(model, name):
    return next(found.reason for found in find_groups(model).frozen if found.name == name)


def answers(model, feed):
    return run(open_session(model, optimized=False), feed)


def assert_exact(model, gone, seed=0):
    """Hold what is removed against what is masked; give the smaller model."""
    rng = np.random.default_rng(seed)
    feed = {
        entry.name: rng.standard_normal([side if isinstance(side, int) else 2 for side in entry.shape]).astype("f")
        for entry in graph.inputs(model)
    }
    smaller = remove(model, gone)
    onnx.checker.check_model(smaller, full_check=True)
    assert graph.inputs(smaller) == graph.inputs(model)
    for one, other in zip(answers(mask(model, gone), feed), answers(smaller, feed), strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5 * max(np.ptp(one), 1e-3))
    return smaller


def shape(model, name):
    return tuple(graph.initializers(model)[name].dims)


# ---- labels


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=12), st.lists(st.integers(1, 12), max_size=3)
)
def test_union_find_against_sets(pairs, fixed):
    """Label 0 joins nothing: what is paired with it is frozen."""
    labels = Labels()
    labels.fresh(12)
    sets, kept = [{n} for n in range(13)], set(fixed)
    labels.freeze(np.array(fixed, np.int64), "first")
    labels.unite(*np.array(pairs, np.int64).reshape(-1, 2).T, "second")
    for a, b in pairs:
        if 0 in (a, b):
            kept |= {a, b}
        else:
            whole = sets[a] | sets[b]
            for member in whole:
                sets[member] = whole
    kept = {n for n in range(13) if sets[n] & (kept | {0})}
    assert labels.roots(np.arange(13)).tolist() == [min(members) for members in sets]
    assert set(np.flatnonzero(labels.kept(np.arange(13))).tolist()) == kept
    for n in kept - {0}:
        assert labels.reason(n) == ("first" if sets[n] & set(fixed) else "second")


def test_an_array_of_labels_is_as_short_as_what_changes():
    grid = np.broadcast_to(np.arange(3).reshape(1, 3, 1), (2, 3, 4))
    assert shortest(grid).shape == (1, 3, 1)
    assert shortest(np.arange(6).reshape(2, 3)).shape == (2, 3)


@pytest.mark.parametrize(
    "before, after, blocks",
    [
        (("n", 6, 4), ("n", 2, 3, 4), [([0], [0]), ([1], [1, 2]), ([2], [3])]),
        (("n", 6, 4, 5), ("n", 120), [([0], [0]), ([1, 2, 3], [1])]),
        ((None, 6, None), (None, 6, None), [([0, 1, 2], [0, 1, 2])]),
        ((None, 5, 6), (None, 5, 2, 3), [([0], [0]), ([1], [1]), ([2], [2, 3])]),
        ((4, 1, 6), (4, 6), [([0], [0]), ([1], []), ([2], [1])]),
        ((2, 3, 4), (4, 3, 2), [([0, 1, 2], [0, 1, 2])]),
    ],
)
def test_runs_of_axes_that_hold_the_same(before, after, blocks):
    assert _blocks(before, after) == blocks


# ---- single rules


def test_a_chain():
    net = Net()
    model = ended(net, net.conv(net.conv("input", 3, 6), 6, 5), 5)
    found = find_groups(model)
    assert [(one.name, one.size, one.makers, one.removable) for one in found.groups] == [
        ("conv0", 6, ("conv0",), False),
        ("conv2", 5, ("conv2",), False),
    ]
    assert [(one.name, one.size, one.reason) for one in found.frozen] == [("conv4", 4, "the model's output")]
    first = found.groups[0]
    assert [(place.constant, place.axis) for place in first.places] == [("w0", 0), ("w1", 0), ("w2", 1)]
    (reader,) = first.readers
    assert (reader.node, reader.value, reader.axis) == ("conv2", "t1", 1)
    assert (reader.weight.constant, reader.weight.axis) == ("w2", 1)
    np.testing.assert_array_equal(reader.channels, np.arange(6))
    smaller = assert_exact(model, {"conv0": [0, 3], "conv2": [4]})
    assert shape(smaller, "w2") == (4, 4, 3, 3)


def test_after_flatten_each_channel_stands_for_many_entries():
    net = Net()
    x = net.add("Flatten", net.conv("input", 3, 6))
    net.add("Gemm", x, net.weight(5, 384), net.weight(5), transB=1, outputs=["out"])
    model = net.model(MAP, {"out": [1, 5]})
    (reader,) = group(model, "conv0").readers
    np.testing.assert_array_equal(reader.channels, np.repeat(np.arange(6), 64))
    assert shape(assert_exact(model, {"conv0": [1, 2]}), "w2") == (5, 256)


def test_a_sum_ties_and_a_bias_beside_it_goes_along():
    net = Net()
    x = net.conv("input", 3, 6)
    y = net.add("Add", net.conv(x, 6, 6, relu=False), net.constant(np.ones((6, 1, 1), np.float32)))
    model = ended(net, net.add("Add", x, y), 6)
    only = group(model, "conv0")
    assert only.makers == ("conv0", "conv2")
    assert ("w4", 0) in [(place.constant, place.axis) for place in only.places]
    assert_exact(model, {"conv0": [5, 0]})


def test_parts_of_which_one_must_stay():
    net = Net()
    x = net.conv("input", 3, 6)
    a, b = "a", "b"
    net.add("Split", x, net.constant(np.int64([2, 4])), axis=1, outputs=[a, b])
    y = net.add("Concat", net.conv(a, 2, 3), b, axis=1)
    model = ended(net, y, 7)
    only = group(model, "conv0")
    assert [part.tolist() for part in only.parts] == [[0, 1], [2, 3, 4, 5]]
    assert only.may_go([0, 2, 3]) and not only.may_go([0, 1]) and not only.may_go(range(6))
    assert_exact(model, {"conv0": [0, 3, 5]})
    with pytest.raises(EdgekitError, match="without channels"):
        remove(model, {"conv0": [0, 1]})


@pytest.mark.parametrize(
    "kind, groups, size", [("Conv", 4, 4), ("Conv", 2, 4), ("ConvTranspose", 4, 4), ("ConvTranspose", 2, 4)]
)
def test_groups_of_a_convolution(kind, groups, size):
    """Many groups go whole; of few, the same places of each go."""
    net = Net()
    x = net.conv("input", 3, 8)
    held = net.weight(8, 8 // groups, 3, 3)
    x = net.add("Relu", net.add(kind, x, held, net.weight(8), group=groups, pads=[1] * 4, name="grouped"))
    model = ended(net, x, 8)
    first = group(model, "conv0")
    assert first.size == 4
    smaller = assert_exact(model, {"conv0": [1]} | ({} if groups == 4 else {"grouped": [0, 2]}))
    left = next(node for node in smaller.graph.node if node.name == "grouped")
    assert graph.attribute(left, "group") == (3 if groups == 4 else 2)


def test_shuffles_become_gathers_that_leave_every_channel_free():
    net = Net()
    x = net.add("Reshape", net.conv("input", 3, 6), net.constant(np.int64([1, 2, 3, 8, 8])))
    x = net.add("Transpose", x, perm=[0, 2, 1, 3, 4])
    x = net.add("Reshape", x, net.constant(np.int64([1, 6, 8, 8])))
    model = ended(net, x, 6)
    assert "Gather" in [node.op_type for node in prepared(model).graph.node]
    np.testing.assert_array_equal(group(model, "conv0").readers[0].channels, [0, 3, 1, 4, 2, 5])
    assert_exact(model, {"conv0": [0, 4, 5]})


def test_a_slice_with_steps_takes_what_is_left():
    net = Net()
    x = net.conv("input", 3, 8)
    bounds = [net.constant(np.int64([value])) for value in (1, 8, 1, 3)]
    y = net.conv(net.add("Slice", x, *bounds), 3, 8)
    model = ended(net, net.add("Add", x, y), 8)
    only = group(model, "conv0")
    assert [part.tolist() for part in only.parts] == [[1, 4, 7]]
    for gone in ([0, 2, 3], [1, 2, 5], [4], [0, 5, 6], [3, 4, 7]):
        assert_exact(model, {"conv0": gone})


def attention(heads=3, width=4, fused=True, sides=(1, 5, 12)):
    net = Net()
    inner = heads * width
    if fused:
        x = net.add("Add", net.add("MatMul", "input", net.weight(12, 3 * inner, name="qkv")), net.weight(3 * inner))
        x = net.add("Reshape", x, net.constant(np.int64([0, 0, 3, heads, width])))
        x = net.add("Transpose", x, perm=[2, 0, 3, 1, 4])
        q, k, v = (net.add("Gather", x, net.constant(np.int64(number)), axis=0) for number in range(3))
    else:
        q, k, v = (
            net.add(
                "Transpose",
                net.add(
                    "Reshape",
                    net.add("MatMul", "input", net.weight(12, inner)),
                    net.constant(np.int64([0, -1, heads, width])),
                ),
                perm=[0, 2, 1, 3],
            )
            for _ in range(3)
        )
    scores = net.add("MatMul", q, net.add("Transpose", k, perm=[0, 1, 3, 2]))
    x = net.add("MatMul", net.add("Softmax", net.add("Mul", scores, net.constant(np.float32(0.5))), axis=-1), v)
    x = net.add("Reshape", net.add("Transpose", x, perm=[0, 2, 1, 3]), net.constant(np.int64([0, 0, inner])))
    x = net.add("MatMul", x, net.weight(inner, 12, name="proj"), name="proj")
    x = net.add("Add", "input", net.add("Add", x, net.weight(12)))
    net.add("MatMul", x, net.weight(12, 4), outputs=["out"])
    return net.model({"input": list(sides)}, {"out": [*sides[:2], 4]})


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("sides", [(1, 5, 12), ("N", 5, 12), ("N", "T", 12)])
def test_heads(fused, sides):
    model = attention(fused=fused, sides=sides)
    (only,) = find_groups(model).groups[:1]
    assert (only.size, len(only.makers)) == (3, 1 if fused else 3)
    # Of two names of open sides nothing says that they are equal.
    assert only.removable == (fused or "T" not in sides)
    np.testing.assert_array_equal(only.readers[0].channels, np.repeat(np.arange(3), 4))
    smaller = assert_exact(model, {only.name: [1]})
    assert shape(smaller, "proj") == (8, 12)
    if fused:
        assert shape(smaller, "qkv") == (12, 24)
    if only.removable:
        assert len(assert_exact(model, {only.name: [0, 1, 2]}).graph.node) == 2


def test_a_constant_on_the_left_and_tokens_beside_channels():
    """Along each of two axes lie channels of another group."""
    net = Net()
    x = net.add("MatMul", "input", net.weight(4, 6))
    x = net.add("Relu", net.add("MatMul", net.weight(7, 5), x))
    x = net.add("MatMul", net.weight(5, 7), x)
    net.add("MatMul", x, net.weight(6, 2), outputs=["out"])
    model = net.model({"input": ["N", 5, 4]}, {"out": ["N", 5, 2]})
    assert [(one.name, one.size) for one in find_groups(model).groups] == [("matmul0", 6), ("matmul1", 7)]
    assert_exact(model, {"matmul0": [1, 5], "matmul1": [0, 3, 4]})


def test_norms_over_groups_of_channels_take_whole_ones():
    """GroupNorm as torch exports it, with InstanceNormalization."""
    net = Net()
    x = net.add("Reshape", net.conv("input", 3, 8, relu=False), net.constant(np.int64([0, 4, -1])))
    x = net.add("InstanceNormalization", x, net.constant(np.ones(4, "f")), net.constant(np.zeros(4, "f")))
    x = net.add("Reshape", x, net.constant(np.int64([1, 8, 8, 8])))
    model = ended(net, net.add("Mul", x, net.weight(8, 1, 1)), 8)
    assert group(model, "conv0").size == 4
    assert_exact(model, {"conv0": [2]})


def test_sides_that_are_computed_from_channels_stay_what_they_were():
    net = Net()
    x = net.conv("input", 3, 6)
    size = net.add("Cast", net.add("Size", net.add("Shape", x)), to=TensorProto.FLOAT)
    sides = net.add("ReduceSum", net.add("Cast", net.add("Shape", x), to=TensorProto.FLOAT), keepdims=0)
    model = ended(net, net.add("Mul", x, net.add("Div", size, sides)), 6, {"input": ["N", 3, 8, 8]})
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "N"
    assert_exact(model, {"conv0": [0, 1]})


@pytest.mark.parametrize("wide", [6, 4])
def test_resized_to_computed_sizes(wide):
    net = Net()
    x = net.conv("input", 3, wide)
    rows = net.add("Slice", net.add("Shape", x), *(net.constant(np.int64([value])) for value in (0, 2, 0)))
    sizes = net.add("Concat", rows, net.constant(np.int64([16, 16])), axis=0)
    model = ended(net, net.add("Resize", x, "", "", sizes, mode="nearest"), wide, {"input": ["N", 3, 8, 8]})
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "N"
    assert_exact(model, {"conv0": [2]})


@pytest.mark.parametrize(
    "build, name, reason",
    [
        (lambda net, x: net.add("LpNormalization", x, axis=1), "conv0", "LpNormalization over the channels"),
        (lambda net, x: net.add("Softmax", x, axis=1), "conv0", "Softmax over the channels"),
        (lambda net, x: net.add("Add", x, net.add("Concat", "input", "input", axis=1)), "conv0", "has no channels"),
        (lambda net, x: net.add("LRN", x, size=3), "conv0", "LRN is not understood here"),
    ],
)
def test_what_stays_and_why(build, name, reason):
    net = Net()
    model = ended(net, build(net, net.conv("input", 3, 6)), 6)
    assert reason in frozen(model, name)
    assert find_groups(model).groups == ()


def test_what_graphs_inside_nodes_read_stays():
    model = nets.looping()
    assert find_groups(model).groups == ()
    assert frozen(model, "conv0") == "Loop is not understood here"


def test_equal_biases_that_are_shared_tie_nothing():
    net = Net()
    bias = net.constant(np.zeros(6, np.float32))
    x = net.add("Relu", net.add("Conv", "input", net.weight(6, 3, 3, 3), bias, pads=[1] * 4))
    x = net.add("Relu", net.add("Conv", x, net.weight(6, 6, 3, 3), bias, pads=[1] * 4))
    model = ended(net, x, 6)
    assert [one.size for one in find_groups(model).groups] == [6, 6]
    assert_exact(model, {"conv0": [0, 1, 2], "conv2": [5]})


def test_shared_weights_tie():
    assert_exact(nets.tied_transposed(), {"gemm0": [0, 7]})
    net = Net()
    both = net.weight(6, 6, 3, 3)
    x = net.conv("input", 3, 6)
    for _ in range(2):
        x = net.add("Relu", net.add("Conv", x, both, pads=[1] * 4))
    model = ended(net, x, 6)
    assert [one.makers for one in find_groups(model).groups] == [("conv0", "conv2", "conv4")]
    assert_exact(model, {"conv0": [0, 4]})


# ---- whole branches


def branch(relu_after=False):
    net = Net()
    x = net.conv("input", 3, 6)
    y = net.conv(net.conv(x, 6, 5), 5, 6, relu=relu_after)
    return ended(net, net.add("Add", x, y), 6)


@pytest.mark.parametrize("relu_after", [False, True])
def test_a_branch_goes_and_leaves_its_bias(relu_after):
    model = branch(relu_after)
    only = group(model, "conv2")
    assert only.removable and not group(model, "conv0").removable
    smaller = assert_exact(model, {"conv2": range(5)})
    assert [node.op_type for node in smaller.graph.node] == ["Conv", "Relu", "Conv", "Conv"]
    assert graph.attribute(smaller.graph.node[2], "group") == 6
    assert_exact(model, {"conv2": range(5), "conv0": [0, 1]})


def test_of_two_branches_that_only_have_each_other_one_keeps_a_channel():
    net = Net()
    ends = []
    for _ in range(2):
        x = net.conv("input", 3, 5)
        ends.append(net.conv(x, 5, 6, relu=False))
    model = ended(net, net.add("Add", *ends), 6)
    names = [one.name for one in find_groups(model).groups if one.removable]
    assert len(names) == 2
    smaller = assert_exact(model, {name: range(5) for name in names})
    assert [node.op_type for node in smaller.graph.node].count("Conv") == 4  # one for the sum


def test_weights_too_large_to_fold_stay_behind_their_transposes():
    """Where the constant itself is not at hand, a branch is no candidate to go as a whole."""
    net = Net()
    x = net.add("MatMul", "input", net.add("Transpose", net.weight(600, 500)))
    x = net.add("MatMul", net.add("Relu", x), net.add("Transpose", net.weight(500, 600)))
    net.add("MatMul", net.add("Add", "input", x), net.weight(500, 2), outputs=["out"])
    model = net.model({"input": [3, 500]}, {"out": [3, 2]})
    only = group(model, "matmul1")
    assert [(place.constant, place.axis) for place in only.places] == [("w0", 0), ("w1", 1)]
    assert not only.removable
    assert_exact(model, {"matmul1": range(0, 600, 2)})


# ---- the surgery


def test_names_and_channels_that_are_not_there():
    model = branch()
    with pytest.raises(EdgekitError, match="no group of channels 'conv9'"):
        remove(model, {"conv9": [0]})
    with pytest.raises(EdgekitError, match="conv0 has no channel 6"):
        mask(model, {"conv0": [6]})
    with pytest.raises(EdgekitError, match="without channels"):
        mask(model, {"conv0": range(6)})


def test_weights_that_are_inputs_too_and_notes_on_shapes():
    net = Net()
    x = net.conv(net.conv("input", 3, 6), 6, 5)
    net.conv(x, 5, 4, relu=False)
    net.nodes[-1].output[0] = "out"
    model = net.model(MAP, {"out": [1, 4, 8, 8]}, weights_as_inputs=True)
    model.graph.value_info.append(helper.make_tensor_value_info("t1", TensorProto.FLOAT, [1, 6, 8, 8]))
    smaller = remove(model, {"conv0": [0]})
    onnx.checker.check_model(smaller, full_check=True)
    assert all(value.type.tensor_type.shape.dim[1].dim_value != 6 for value in smaller.graph.value_info)
    assert_exact(model, {"conv0": [0]})


def test_nothing_of_a_quantised_model():
    net = Net()
    scale, zero = net.constant(np.float32(0.05)), net.constant(np.int8(0))
    x = net.add("DequantizeLinear", net.add("QuantizeLinear", net.conv("input", 3, 6), scale, zero), scale, zero)
    model = ended(net, x, 6)
    assert find_groups(model).groups == ()
    assert all("quantised" in one.reason for one in find_groups(model).frozen)


@pytest.mark.parametrize("build", [branch, attention, nets.shuffled, nets.computed_shape, nets.transformer])
def test_a_prepared_model_is_prepared(build):
    once = prepared(build())
    assert prepared(once).SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)
    assert [one.name for one in find_groups(once).groups] == [one.name for one in find_groups(build()).groups]


def test_arithmetic_on_shapes_as_far_as_it_is_fixed():
    """A Reshape to (N, channels / 2, 2, -1), computed from an input of open height, as exporters write it."""
    net = Net()

    def number(value):
        return net.constant(np.int64(value))

    sides = net.add("Shape", "input")
    batch, channels = (net.add("Gather", sides, number(place)) for place in (0, 1))
    half = net.add("Div", channels, number(2))
    parts = [net.add("Unsqueeze", value, number([0])) for value in (batch, half)]
    wanted = net.add("Concat", *parts, number([2]), number([-1]), axis=0)
    net.add("Reshape", "input", wanted, outputs=["out"])
    model = net.model({"input": ["N", 6, "H"]}, {"out": [None, None, None, None]})
    assert settle(model)
    assert dims(model)["out"][:3] == ("N", 3, 2)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_removed_is_masked_whatever_goes(data):
    model = {"branch": branch, "heads": attention, "shuffled": nets.shuffled, "gates": nets.squeeze_excite}[
        data.draw(st.sampled_from(["branch", "heads", "shuffled", "gates"]))
    ]()
    gone = {}
    for one in find_groups(model).groups:
        channels = data.draw(st.lists(st.integers(0, one.size - 1), unique=True, max_size=one.size - 1))
        if one.may_go(channels):
            gone[one.name] = channels
    assert_exact(model, gone)
