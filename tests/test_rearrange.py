"""Rearranged graphs answer the same with fewer nodes; what does not fit the pattern is left alone."""

from itertools import permutations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.compress import rearrange
from edgekit.session import open_session, run
from nets import Net

HUGE = 2**63 - 1
ANY = ["a", "b", "c", "d"]


def kinds(model):
    return sorted(node.op_type for node in model.graph.node)


def same(model, made, shape, atol=1e-5):
    onnx.checker.check_model(made)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    old, new = (run(open_session(each), {"x": x}) for each in (model, made))
    for before, after in zip(old, new, strict=True):
        np.testing.assert_allclose(after, before, rtol=0, atol=atol)


# ---- pixels sorted into channels


def picked(net, x, starts, steps, axes, end=HUGE):
    constants = [net.constant(np.array(values, np.int64)) for values in (starts, [end] * len(axes), axes, steps)]
    return net.add("Slice", x, *constants)


def cells(net, x, offsets, side, chained):
    parts = []
    for row, column in offsets:
        if chained:
            parts.append(picked(net, picked(net, x, [row], [side], [2]), [column], [side], [-1]))
        else:
            parts.append(picked(net, x, [column, row], [side, side], [3, 2]))
    return net.add("Concat", *parts, axis=1)


@pytest.mark.parametrize("chained", [True, False])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("order", [0, 5, 23])
def test_pixels_sorted_into_channels(chained, k, stride, order):
    net = Net(seed=k)
    offsets = list(permutations([(0, 0), (1, 0), (0, 1), (1, 1)]))[order]
    y = net.conv(cells(net, "x", offsets, 2, chained), 12, 5, k=k, stride=stride)
    model = net.model({"x": [1, 3, 16, 20]}, {y: ANY})
    made = rearrange.rearranged(model)
    assert kinds(made) == ["Conv", "Relu"]
    same(model, made, (1, 3, 16, 20))


def test_pixels_sorted_by_one_node_into_cells_of_three():
    net = Net()
    y = net.conv(net.add("SpaceToDepth", "x", blocksize=3), 18, 4, k=3)
    model = net.model({"x": [1, 2, 9, "w"]}, {y: ANY})
    made = rearrange.rearranged(model)
    assert kinds(made) == ["Conv", "Relu"]
    same(model, made, (1, 2, 9, 12))


def without_a_pixel(net):
    return net.conv(cells(net, "x", [(0, 0), (1, 0), (0, 1), (0, 0)], 2, True), 12, 4)


def in_groups(net):
    return net.conv(cells(net, "x", [(0, 0), (1, 0), (0, 1), (1, 1)], 2, True), 12, 4, group=2)


def up_to_an_end(net):
    parts = [picked(net, "x", [a, b], [2, 2], [2, 3], end=10) for a in (0, 1) for b in (0, 1)]
    return net.conv(net.add("Concat", *parts, axis=1), 12, 4)


def of_two_pictures(net):
    other = net.add("Neg", "x")
    parts = [picked(net, "x" if a else other, [a, b], [2, 2], [2, 3]) for a in (0, 1) for b in (0, 1)]
    return net.conv(net.add("Concat", *parts, axis=1), 12, 4)


def read_twice(net):
    sorted_pixels = cells(net, "x", [(0, 0), (1, 0), (0, 1), (1, 1)], 2, False)
    return net.add("Add", net.conv(sorted_pixels, 12, 12), sorted_pixels)


@pytest.mark.parametrize("build", [without_a_pixel, in_groups, up_to_an_end, of_two_pictures, read_twice])
def test_other_slices_are_left_alone(build):
    net = Net()
    y = build(net)
    model = net.model({"x": [1, 3, 12, 12]}, {y: ANY})
    made = rearrange.rearranged(model)
    assert kinds(made) == kinds(model)
    same(model, made, (1, 3, 12, 12))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2), st.randoms(use_true_random=False))
def test_spread_weights_meet_the_same_pixels(rows, columns, k, pad, rng):
    """Against a convolution written out, over pixels sorted by hand."""
    values = np.random.default_rng(rng.randrange(99))
    offsets = [(row, column) for row in range(rows) for column in range(columns)]
    rng.shuffle(offsets)
    picture = values.integers(-9, 9, (2, 4 * rows, 5 * columns))
    weight = values.integers(-9, 9, (3, 2 * len(offsets), k, k))
    sorted_pixels = np.concatenate([picture[:, row::rows, column::columns] for row, column in offsets])
    expected = convolved(sorted_pixels, weight, (1, 1), (pad, pad))
    found = convolved(picture, rearrange.spread(weight, offsets), (rows, columns), (pad * rows, pad * columns))
    assert np.array_equal(found, expected)


def convolved(picture, weight, steps, pads):
    padded = np.pad(picture, ((0, 0), (pads[0],) * 2, (pads[1],) * 2))
    height, width = weight.shape[2:]
    rows = range(0, padded.shape[1] - height + 1, steps[0])
    columns = range(0, padded.shape[2] - width + 1, steps[1])
    parts = [[(padded[:, r : r + height, c : c + width] * weight).sum((1, 2, 3)) for c in columns] for r in rows]
    return np.array(parts)


# ---- max pools


@pytest.mark.parametrize("windows", [(5, 9, 13), (13, 5, 9), (3, 3, 7), (3, 15)])
def test_pools_pool_each_other(windows):
    net = Net()
    pools = [net.add("MaxPool", "x", kernel_shape=[k, k], pads=[k // 2] * 4, strides=[1, 1]) for k in windows]
    y = net.add("Concat", "x", *pools, axis=1)
    model = net.model({"x": [1, 2, 8, 11]}, {y: ANY})
    made = rearrange.rearranged(model)
    windows = [n.attribute for n in made.graph.node if n.op_type == "MaxPool"]
    total = sum(next(a.ints[0] for a in each if a.name == "kernel_shape") ** 2 for each in windows)
    assert total < sum(
        next(a.ints[0] for a in n.attribute if a.name == "kernel_shape") ** 2 for n in model.graph.node[:-1]
    )
    same(model, made, (1, 2, 8, 11), atol=0)


@pytest.mark.parametrize(
    "other",
    [
        {"strides": [2, 2], "kernel_shape": [5, 5], "pads": [2] * 4},
        {"kernel_shape": [4, 4], "pads": [1, 1, 2, 2]},
        {"kernel_shape": [5, 5], "pads": [0] * 4},
        {"kernel_shape": [3, 3], "pads": [2] * 4, "dilations": [2, 2]},
        {"kernel_shape": [5, 1], "pads": [2, 0, 2, 0]},
    ],
)
def test_other_pools_are_left_alone(other):
    net = Net()
    first = net.add("MaxPool", "x", kernel_shape=[3, 3], pads=[1] * 4)
    second = net.add("MaxPool", "x", **other)
    model = net.model({"x": [1, 2, 9, 9]}, {first: ANY, second: ANY})
    made = rearrange.rearranged(model)
    assert all(node.input[0] == "x" for node in made.graph.node)
    same(model, made, (1, 2, 9, 9), atol=0)


# ---- enlarged values


def enlarged(net, x, scale=2.0, **attributes):
    scales = net.constant(np.array([1, 1, scale, scale], np.float32))
    return net.add("Resize", x, "", scales, **{"mode": "nearest", **attributes})


def order(model):
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("scale", [2.0, 3.0, 1.5])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mode", ["asymmetric", "half_pixel"])
def test_a_convolution_comes_before_the_resize(scale, bias, mode):
    net = Net()
    large = enlarged(net, net.conv("x", 3, 8), scale, coordinate_transformation_mode=mode)
    y = net.conv(large, 8, 4, k=1, bias=bias, relu=False)
    model = net.model({"x": [1, 3, 6, 8]}, {y: ANY})
    made = rearrange.rearranged(model)
    assert order(made) == ["Conv", "Relu", "Conv", "Resize"]
    same(model, made, (1, 3, 6, 8))


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("readers", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_of_joined_values_is_split(place, readers, bias):
    net = Net(seed=place)
    small = net.conv("x", 3, 8, stride=2)
    parts = [net.conv("x", 3, 5), net.conv("x", 3, 4)]
    parts.insert(place, enlarged(net, small))
    joined = net.add("Concat", *parts, axis=1)
    results = [net.conv(joined, 17, 4, k=1, bias=bias) for _ in range(readers)]
    model = net.model({"x": [1, 3, 8, 8]}, dict.fromkeys(results, ANY))
    made = rearrange.rearranged(model)
    assert order(made).count("Resize") == readers and order(made).count("Add") == readers
    same(model, made, (1, 3, 8, 8))


def test_two_enlarged_values_in_one_concat():
    net = Net()
    half, quarter = net.conv("x", 3, 8, stride=2), net.conv("x", 3, 8, stride=4)
    joined = net.add("Concat", enlarged(net, quarter, 4.0), net.conv("x", 3, 2), enlarged(net, half), axis=1)
    y = net.conv(joined, 18, 4, k=1)
    model = net.model({"x": [1, 3, 8, 8]}, {y: ANY})
    made = rearrange.rearranged(model)
    assert "Concat" not in order(made) and order(made).count("Add") == 2
    same(model, made, (1, 3, 8, 8))


def wider(net, small):
    return net.conv(enlarged(net, small), 8, 9, k=1)


def larger_window(net, small):
    return net.conv(enlarged(net, small), 8, 4, k=3)


def smooth(net, small):
    return net.conv(enlarged(net, small, mode="linear"), 8, 4, k=1)


def shrunk(net, small):
    return net.conv(enlarged(net, small, 0.5), 8, 4, k=1)


def read_by_another(net, small):
    large = enlarged(net, small)
    return net.add("Add", net.conv(large, 8, 8, k=1), large)


def joined_twice(net, small):
    large = enlarged(net, small)
    return net.conv(net.add("Concat", large, large, axis=1), 16, 4, k=1)


@pytest.mark.parametrize("build", [wider, larger_window, smooth, shrunk, read_by_another, joined_twice])
def test_other_enlargements_are_left_alone(build):
    net = Net()
    y = build(net, net.conv("x", 3, 8))
    model = net.model({"x": [1, 3, 8, 8]}, {y: ANY})
    made = rearrange.rearranged(model)
    assert order(made) == order(model)
    same(model, made, (1, 3, 8, 8))


# ---- all of it


def test_the_input_stays_and_the_bytes_are_the_same_every_time():
    net = Net()
    y = net.conv(enlarged(net, net.conv(net.add("SpaceToDepth", "x", blocksize=2), 12, 8)), 8, 4, k=1)
    model = net.model({"x": [1, 3, 8, 8]}, {y: ANY})
    before = model.SerializeToString(deterministic=True)
    made = rearrange.rearranged(model)
    assert model.SerializeToString(deterministic=True) == before
    again = rearrange.rearranged(model)
    assert made.SerializeToString(deterministic=True) == again.SerializeToString(deterministic=True)
    assert rearrange.rearranged(made).SerializeToString() == made.SerializeToString()
    assert len({node.name for node in made.graph.node}) == len(made.graph.node)


def test_a_real_detector(assets):
    model = onnx.load(assets / "models" / "yolox_nano_416.onnx")
    made = rearrange.rearranged(model)
    assert "Slice" not in kinds(made) and len(made.graph.node) <= len(model.graph.node)
    x = {"images": np.random.default_rng(0).uniform(0, 255, (1, 3, 416, 416)).astype(np.float32)}
    old, new = (run(open_session(each), x)[0] for each in (model, made))
    np.testing.assert_allclose(new, old, rtol=0, atol=1e-3)
