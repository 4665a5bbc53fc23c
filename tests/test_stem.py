"""Stems: the rearranged 8-bit convolution answers exactly what the plain one does."""

import numpy as np
import pytest

from edgekit.compress.method import STEPS
from edgekit.compress.quantize import qdq, stem
from edgekit.session import open_session, run
from nets import Bench, Net


def convolved(row, kernel, step, left, right):
    """A one-dimensional convolution, written out: row (C, W), kernel (O, C, k) -> (O, width)."""
    padded = np.pad(row, ((0, 0), (left, right)))
    taps = kernel.shape[2]
    starts = range(0, padded.shape[1] - taps + 1, step)
    return np.stack([(padded[:, s : s + taps] * kernel).sum((1, 2)) for s in starts], axis=1)


@pytest.mark.parametrize("taps", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("channels", [1, 3])
def test_grouped_pixels_give_the_same_products(taps, step, channels):
    rng = np.random.default_rng(taps)
    kernel = rng.integers(-9, 9, (5, channels, 1, taps))
    row = rng.integers(-9, 9, (channels, 16))
    left = (taps - 1) // 2
    right = taps - 1 - left if step == 1 else taps - 2 - left if taps > 1 else 0
    if right < 0:
        return
    expected = convolved(row, kernel[:, :, 0], step, left, right)
    wide, before, after = stem.grouped(kernel, step, left)
    groups = row.reshape(channels, 4, 4).transpose(2, 0, 1).reshape(4 * channels, 4)
    assert expected.shape[1] == 16 // step
    found = convolved(groups, wide[:, :, 0], 1, before, after)  # (O * pixels, groups)
    pixels = 4 // step
    assert np.array_equal(found.reshape(pixels, 5, 4).transpose(1, 2, 0).reshape(5, -1), expected)


@pytest.mark.parametrize(
    ("channels", "size", "taps", "stride", "expected"),
    [
        (3, (8, 16), 3, 1, "Reshape"),
        (3, (8, 16), 3, 2, "Reshape"),
        (3, (9, 16), 5, 1, "Reshape"),
        (3, (12, 20), 7, 2, "Reshape"),
        (1, (8, 16), 3, 1, "Reshape"),
        (3, (8, 15), 3, 1, "Gather"),
        (3, (8, "w"), 3, 1, "Gather"),
        (3, (16, 16), 3, 3, "Gather"),
        (1, (8, 15), 3, 1, None),
    ],
)
@pytest.mark.parametrize("nhwc", [False, True])
def test_the_model_answers_the_same_to_the_bit(monkeypatch, channels, size, taps, stride, expected, nhwc):
    net = Net(seed=taps)
    x = net.add("Transpose", "x", perm=[0, 3, 1, 2]) if nhwc else "x"
    y = net.conv(x, channels, 8, k=taps, stride=stride)
    z = net.add("Add", net.conv(y, 8, 8), y)
    net.add("GlobalAveragePool", net.conv(z, 8, 8, relu=False), outputs=["y"])
    shape = ["n", *size, channels] if nhwc else ["n", channels, *size]
    model = net.model({"x": shape}, {"y": ["n", 8, 1, 1]})
    sample = [side if isinstance(side, int) else 16 for side in shape[1:]]
    fed = [{"x": np.random.default_rng(i).standard_normal((1, *sample)).astype(np.float32)} for i in range(4)]
    bench = Bench(model)
    monkeypatch.setattr(bench, "feeds", lambda samples: iter(fed))
    made = STEPS.parse("static").apply(model, bench)
    monkeypatch.setattr(qdq, "rearrange_stems", lambda model: None)
    plain = STEPS.parse("static").apply(model, bench)
    kinds = {node.op_type for node in made.graph.node} - {node.op_type for node in plain.graph.node}
    assert (expected in kinds) if expected else not kinds
    old, new = open_session(plain), open_session(made)
    two = {"x": np.concatenate([fed[0]["x"], fed[1]["x"]])}
    for feed in (*fed, two):
        assert np.array_equal(run(old, feed)[0], run(new, feed)[0])


def test_a_graph_without_stems_is_not_looked_at_any_further(monkeypatch):
    net = Net(1)
    net.add("Relu", net.conv(net.conv("input", 8, 8, group=8), 8, 4), outputs=["y"])
    model = net.model({"input": [1, 8, 16, 16]}, {"y": [1, 4, 16, 16]})
    monkeypatch.setattr(stem, "_shapes", None)
    made = STEPS.parse("static").apply(model, Bench(model))
    assert {node.op_type for node in made.graph.node} >= {"Conv", "QuantizeLinear"}
