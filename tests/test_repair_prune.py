"""Repair after pruning: moments, ranking and folding against their brute-force twins, on small nets."""

import numpy as np
import pytest
from onnx import numpy_helper

from edgekit import graph
from edgekit.compress.prune import columns, repair, score
from edgekit.compress.prune.groups import Group, Place, Reader
from edgekit.compress.prune.moments import moments
from edgekit.session import open_session, run
from nets import Net, feeds, sqnr_db


def chain(channels=6, k=3, stride=1, pads=None, kind="Conv", seed=0):
    """Two layers with a Relu between: a convolution of some kind, Flatten and Gemm, or two matrix products."""
    net = Net(seed)
    if kind == "MatMul":
        x = net.add("Add", net.add("MatMul", "input", net.weight(5, channels, name="first")), net.weight(channels))
        x = net.add("MatMul", net.add("Relu", x), net.weight(channels, 4, name="second"), name="reader")
        net.add("Add", net.constant(np.arange(4, dtype=np.float32), name="shift"), x, outputs=["out"])
        return net.model({"input": [1, 7, 5]}, {"out": [1, 7, 4]})
    x = net.conv("input", 3, channels)
    first = net.nodes[0]
    net.weights[0].name = first.input[1] = "first"
    if kind == "Gemm":
        x = net.add("Flatten", x)
        net.add(
            "Gemm",
            x,
            net.weight(4, channels * 36, name="second"),
            net.weight(4),
            name="reader",
            outputs=["out"],
            transB=1,
        )
        return net.model({"input": [1, 3, 6, 6]}, {"out": [1, 4]})
    weight = net.weight(4, channels, k, k, name="second")
    pads = [k // 2] * 4 if pads is None else pads
    net.add("Conv", x, weight, strides=[stride] * 2, pads=pads, name="reader", outputs=["out"])
    return net.model({"input": [1, 3, 6, 6]}, {"out": [1, 4, "h", "w"]})


def group_of(model, channels=6):
    node = next(node for node in model.graph.node if node.name == "reader")
    maker = model.graph.node[0]
    weight = graph.initializers(model)["second"]
    axis = 0 if node.op_type == "MatMul" else 1
    labels = np.repeat(np.arange(channels), weight.dims[axis] // channels)
    reader = Reader(
        "reader", node.input[0], -1 if node.op_type == "MatMul" else 1, labels, Place("second", axis, labels)
    )
    made = Place("first", 1 if maker.op_type == "MatMul" else 0, np.arange(channels))
    return Group(maker.name, channels, (maker.name,), (reader,), (made, reader.weight), False)


def values(model, name, samples):
    session = open_session(graph.with_outputs(model, [name]))
    return [run(session, feed, [name])[0] for feed in samples]


def rows_of(model, samples):
    """What the reader reads, place by place, written out."""
    node = next(node for node in model.graph.node if node.name == "reader")
    found = []
    for array in values(model, node.input[0], samples):
        if node.op_type != "Conv":
            found += list(array.reshape(-1, array.shape[-1]))
            continue
        k = graph.initializers(model)["second"].dims[2]
        stride = graph.attribute(node, "strides")[0]
        top, left, bottom, right = graph.attribute(node, "pads")
        padded = np.pad(array, [(0, 0), (0, 0), (top, bottom), (left, right)])
        for y in range(0, padded.shape[2] - k + 1, stride):
            found += [padded[0, :, y : y + k, x : x + k].ravel() for x in range(0, padded.shape[3] - k + 1, stride)]
    return np.array(found, np.float64)


KINDS = {
    "padded 3x3": {},
    "stride 2, one-sided": {"stride": 2, "pads": [0, 0, 1, 1]},
    "1x1": {"k": 1},
    "flattened": {"kind": "Gemm"},
    "product": {"kind": "MatMul"},
}


@pytest.fixture(params=KINDS, ids=str)
def case(request):
    model = chain(**KINDS[request.param])
    return model, group_of(model), list(feeds(model, 450 if request.param == "flattened" else 40))


def test_moments_are_those_of_the_rows(case):
    model, group, samples = case
    found = moments(model, [group], lambda: samples)[group.name]["reader"]
    rows = rows_of(model, samples)
    assert found.count == len(rows)
    np.testing.assert_allclose(found.mean, rows.mean(0), atol=1e-5)
    np.testing.assert_allclose(found.covariance, np.cov(rows.T, bias=True), atol=1e-4)


def brute(weight, covariance, gone, ridge):
    """Least (W - V) H (W - V)' over V that is zero in `gone`: row by row, by the normal equations."""
    h = score.damped(covariance, ridge)
    kept = np.setdiff1d(np.arange(len(h)), gone)
    best = np.zeros_like(weight)
    best[:, kept] = np.linalg.solve(h[np.ix_(kept, kept)], h[kept] @ weight.T).T
    return best, np.trace((weight - best) @ h @ (weight - best).T)


def test_backward_elimination_is_what_trying_all_gives(case):
    model, group, samples = case
    found = moments(model, [group], lambda: samples)[group.name]
    entry = found["reader"]
    weight = entry.columns(entry.layer.matrix(model))
    variance = np.trace(weight @ entry.covariance @ weight.T)
    ranking = score.rank(model, group, found)
    gone = []
    for step, channel in enumerate(ranking.order):
        tried = {}
        for other in set(range(6)) - set(gone):
            columns_ = np.flatnonzero(np.isin(entry.channels, [*gone, other]))
            tried[other] = brute(weight, entry.covariance, columns_, score.RIDGE)[1] / variance
        assert tried[channel] == pytest.approx(min(tried.values()), rel=1e-5)
        assert ranking.errors[step + 1] == pytest.approx(tried[channel], rel=1e-5)
        gone.append(channel)
    assert ranking.errors[0] == 0 and sorted(gone) == list(range(6))


def test_folding_is_least_squares(case):
    model, group, samples = case
    found = moments(model, [group], lambda: samples)[group.name]
    entry = found["reader"]
    before = model.SerializeToString()
    made = repair.fold(model, group, [1, 4], found, ridge=1e-9)
    assert model.SerializeToString() == before
    rows = rows_of(model, samples)
    layer = columns.layers(made)["reader"]
    old = rows @ layer.matrix(model)[0].T + layer.offset(model)
    kept = ~np.isin(entry.channels, [1, 4])
    full = np.hstack([rows[:, kept], np.ones((len(rows), 1))])
    best = full @ np.linalg.lstsq(full, old, rcond=None)[0]
    new = rows @ layer.matrix(made)[0].T + layer.offset(made)
    assert np.square(new - old).sum() <= np.square(best - old).sum() * 1.01 + 1e-6
    assert not layer.matrix(made)[0][:, ~kept].any()
    plain = repair.fold(model, group, [1, 4], found, how="none")
    bias = repair.fold(model, group, [1, 4], found, how="bias")
    assert sqnr_db(model, made) > sqnr_db(model, bias) > sqnr_db(model, plain)


@pytest.mark.parametrize("limit", [512_000_000, 12 * 300])
@pytest.mark.parametrize("kind", KINDS)
def test_a_channel_that_another_repeats_goes_for_nothing(kind, limit):
    model = chain(**KINDS[kind])
    for tensor in model.graph.initializer[:2]:
        array = numpy_helper.to_array(tensor).copy()
        axis = 1 if array.ndim == 2 else 0
        np.moveaxis(array, axis, 0)[4] = 2 * np.moveaxis(array, axis, 0)[2]
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    group = group_of(model)
    found = moments(model, [group], lambda: feeds(model, 20), limit)[group.name]
    assert (found["reader"].taps > 1) == (kind not in ("1x1", "product") and (limit < 4000 or kind == "flattened"))
    ranking = score.rank(model, group, found, ridge=1e-7)
    assert ranking.order[0] in (2, 4) and ranking.errors[1] < 1e-4
    made = repair.fold(model, group, [4], found, ridge=1e-7)
    assert sqnr_db(model, made) > 50


def test_what_does_not_fit_is_left_to_the_means():
    model = chain()
    group = group_of(model)
    found = moments(model, [group], lambda: feeds(model, 10), 100)[group.name]
    assert found["reader"].covariance is None
    made = repair.fold(model, group, [0, 3], found)
    bias = repair.fold(model, group, [0, 3], found, how="bias")
    assert made.SerializeToString() == bias.SerializeToString()
    assert sorted(score.rank(model, group, found).order) == list(range(6))


def test_several_passes_give_the_same():
    model = chain()
    group = group_of(model)
    again = [group, Group("again", 6, group.makers, group.readers, group.places, False)]
    width = 6 * 9
    passes = []

    def counted():
        passes.append(1)
        return feeds(model, 5)

    found = moments(model, again, counted, 12 * 8 * width**2)
    assert len(passes) == 1
    one = moments(model, again, counted)
    for name in found:
        np.testing.assert_array_equal(found[name]["reader"].covariance, one[name]["reader"].covariance)


@pytest.mark.parametrize("how", score.RANKINGS)
def test_every_ranking_is_an_order(how):
    model = chain()
    group = group_of(model)
    found = moments(model, [group], lambda: feeds(model, 10))[group.name]
    one, two = (score.rank(model, group, found, how, seed=3) for _ in range(2))
    assert sorted(one.order) == list(range(6)) and (one.order == two.order).all()
    assert (np.diff(one.errors) >= 0).all() and len(one.errors) == 7


def test_a_constant_channel_moves_into_the_bias():
    model = chain(pads=[0] * 4)
    for tensor in model.graph.initializer[:2]:
        array = numpy_helper.to_array(tensor).copy()
        array[3] = 0 if array.ndim > 1 else 1.5
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    group = group_of(model)
    found = moments(model, [group], lambda: feeds(model, 10))[group.name]
    assert score.rank(model, group, found).order[0] == 3
    assert sqnr_db(model, repair.fold(model, group, [3], found)) > 80
