"""Sparsity: between the optimum and magnitude, exact in count, fitted to what layers read, and lasting through int8."""

from itertools import combinations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit import graph
from edgekit.compress.method import STEPS
from edgekit.compress.prune import columns, layerwise, obs
from edgekit.compress.prune.sparsity import by_magnitude, without_smallest
from edgekit.compress.quantize import rounding
from edgekit.compress.simplify import same_outputs, simplify
from edgekit.errors import EdgekitError
from edgekit.session import open_session, run
from nets import (
    Bench,
    Net,
    attention,
    broken_values,
    channels_last,
    dense,
    feeds,
    perceptron,
    residual,
    sqnr_db,
    swish,
    tied,
    upsampler,
)


def problem(seed, outputs=1, inputs=7, groups=1):
    """A weight (G, O, K) and the second moment (G, K, K) of correlated inputs."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((groups, inputs, inputs)) + 1.5
    return rng.standard_normal((groups, outputs, inputs)), mixing @ mixing.swapaxes(1, 2) + 0.1 * np.eye(inputs)


def fitted(weight, hessian, stays):
    """Least squares as the textbook has it, on inputs with this second moment."""
    inputs = np.linalg.cholesky(hessian).swapaxes(1, 2)
    made = np.zeros_like(weight)
    for group, row in np.ndindex(weight.shape[:2]):
        kept = stays[group, row]
        made[group, row, kept] = np.linalg.lstsq(inputs[group][:, kept], inputs[group] @ weight[group, row])[0]
    return made


def lost(made, weight, hessian):
    return obs.cost(made - weight, hessian).sum()


def best(weight, hessian, count):
    """The least of all masks, each with the best values."""
    costs = []
    for gone in combinations(range(weight.size), count):
        stays = np.ones(weight.shape, bool)
        stays.reshape(-1)[list(gone)] = False
        costs.append(lost(fitted(weight, hessian, stays), weight, hessian))
    return min(costs)


def largest(weight, count):
    stays = np.ones(weight.size, bool)
    stays[np.argsort(np.abs(weight), axis=None, kind="stable")[:count]] = False
    return stays.reshape(weight.shape)


# ---- the algebra


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.floats(0, 1))
def test_exact_counts_and_exact_values(seed, groups, outputs, inputs, share):
    weight, hessian = problem(seed, outputs, inputs, groups)
    count = round(share * weight.size)
    order, losses = obs.eliminate(weight, hessian)
    assert (np.sort(order, -1) == np.arange(inputs)).all()
    stays = obs.chosen(order, losses, count)
    assert (~stays).sum() == count
    # What elimination says it costs is what the best values for those zeros cost.
    steps = (~stays).sum(-1)
    promised = sum(losses[row][: steps[row]].sum() for row in np.ndindex(weight.shape[:2]))
    made = obs.least_squares(weight, hessian, stays)
    assert np.allclose(made, fitted(weight, hessian, stays), atol=1e-6)
    assert lost(made, weight, hessian) == pytest.approx(promised, rel=1e-6, abs=1e-9)
    for pruned in (obs.prune(weight, hessian, count), obs.sweep(weight, hessian, count)):
        assert (pruned == 0).sum() == count


@pytest.mark.parametrize(("outputs", "inputs", "count"), [(1, 8, 4), (1, 7, 5), (2, 4, 4), (3, 2, 3)])
def test_near_the_best_of_all_masks(outputs, inputs, count):
    ratios = []
    for seed in range(20):
        weight, hessian = problem(seed, outputs, inputs)
        optimum = best(weight, hessian, count)
        ways = (
            obs.prune(weight, hessian, count),
            fitted(weight, hessian, largest(weight, count)),
            weight * largest(weight, count),
        )
        found = [lost(made, weight, hessian) for made in ways]
        assert found[0] >= optimum * (1 - 1e-9) and found[0] < found[2]
        ratios.append(np.array(found) / optimum)
    greedy, refitted, magnitude = np.median(ratios, axis=0)
    assert greedy < 1.2 and greedy < refitted and magnitude > 3


def test_the_sweep_is_between_greedy_and_magnitude(monkeypatch):
    weight, hessian = problem(3, 12, 150, 2)
    count = weight.size // 2
    greedy = lost(obs.prune(weight, hessian, count), weight, hessian)
    monkeypatch.setattr(obs, "MOST_STEPS", 0)
    swept = obs.prune(weight, hessian, count)
    assert (swept == 0).sum() == count
    monkeypatch.setattr(obs, "MOST_SOLVED", 0)
    raw = obs.prune(weight, hessian, count)
    assert (raw == 0).sum() == count and np.array_equal(raw == 0, swept == 0)
    costs = [lost(made, weight, hessian) for made in (swept, raw, weight * largest(weight, count))]
    assert [greedy, *costs] == sorted([greedy, *costs]) and costs[1] < costs[2] / 2


def test_a_sweep_in_one_column_a_block_is_what_it_says(monkeypatch):
    monkeypatch.setattr(obs, "BLOCK", 1)
    weight, hessian = problem(5, 4, 6)
    made = obs.sweep(weight, hessian, 12)
    assert ((made == 0).sum((0, 1)) == 2).all()
    # The last column hears of all errors before it and can correct none.
    stays = made != 0
    assert lost(made, weight, hessian) >= lost(fitted(weight, hessian, stays), weight, hessian)


def test_a_dear_step_is_paid_before_the_cheap_ones_behind_it():
    losses = np.array([[[5.0, 1.0, 1.0], [2.0, 3.0, 4.0]]])
    order = np.array([[[2, 0, 1], [0, 1, 2]]])
    assert (~obs.chosen(order, losses, 2)).tolist() == [[[False] * 3, [True, True, False]]]
    assert (~obs.chosen(order, losses, 4)).tolist() == [[[False, False, True], [True] * 3]]
    assert (~obs.chosen(order, losses, 5)).tolist() == [[[True, False, True], [True] * 3]]


def test_everything_and_nothing():
    weight, hessian = problem(6, 2, 5)
    assert not obs.prune(weight, hessian, weight.size).any()
    assert np.allclose(obs.prune(weight, hessian, 0), weight)


# ---- layers of a model


def outputs_error(before, after, node, samples):
    """The squared error of one node's output, as onnxruntime computes both models."""
    name = next(n.output[0] for n in before.graph.node if n.name == node)
    sessions = [open_session(graph.with_outputs(model, [name])) for model in (before, after)]
    pairs = [[run(session, feed, [name])[0].astype(np.float64) for session in sessions] for feed in samples]
    return sum(np.square(old - new).sum() for old, new in pairs)


@pytest.mark.parametrize("build", [residual, swish, perceptron, attention, upsampler, channels_last, dense])
def test_layers_get_nearer_than_by_magnitude(build):
    model, _ = simplify(build(), lambda a, b: same_outputs(a, b, list(feeds(build(), 2))))
    plain, counts = by_magnitude(model, list(model.graph.node), 0.6)
    found = layerwise.compensate(model, plain, counts, lambda: feeds(model, 80), 10**9)
    # Over inputs without correlation, as those of matrix products here, magnitude is as good as anything.
    assert found.better and found.tried + len(found.left) == len(counts)
    assert sqnr_db(model, found.model) > sqnr_db(model, plain)
    samples = list(feeds(model, 8, seed=9))
    errors = [[outputs_error(model, one, node, samples) for node in counts] for one in (found.model, plain)]
    assert np.sum(errors[0]) < np.sum(errors[1])


def test_what_is_foretold_is_what_onnxruntime_makes(monkeypatch):
    monkeypatch.setattr(layerwise, "POSITIONS", 10**6)
    model = residual()
    plain, counts = by_magnitude(model, list(model.graph.node), 0.5)
    known = columns.layers(model)
    samples = list(feeds(model, 3))
    for node in counts:
        layer = known[node]
        _, moments = layerwise._moments(model, plain, [layer], iter(samples[:1] * 4))[layerwise._read(layer)]
        weight, made = layer.matrix(model), layer.matrix(plain)
        none = np.zeros(weight.shape[:2])
        # From the weights as they are to those by magnitude; what no weight can change falls out.
        gained = moments.error(weight, made, none) - moments.error(weight, weight, none)
        there = graph.copy(plain)
        columns.write(there, layer, weight, None)
        rows = weight.shape[0] * weight.shape[1]
        outputs = np.prod(
            run(open_session(graph.with_outputs(model, [layer.output])), samples[0], [layer.output])[0].shape
        )
        errors = [outputs_error(model, one, node, samples[:1]) for one in (plain, there)]
        assert gained == pytest.approx((errors[0] - errors[1]) / (outputs / rows), rel=1e-4, abs=1e-7)


def test_a_layer_takes_back_what_the_one_before_lost():
    net = Net(3)
    x = net.conv("input", 3, 8)
    net.add("Conv", x, net.weight(4, 8, 1, 1), outputs=["map"], name="last")
    model = net.model({"input": [1, 3, 12, 12]}, {"map": [1, 4, 12, 12]})
    first = next(node.name for node in model.graph.node)
    plain, counts = by_magnitude(model, [model.graph.node[0]], 0.7)
    found = layerwise.compensate(model, plain, {**counts, "last": 0}, lambda: feeds(model, 12), 10**9)
    assert set(counts) == {first} and found.better == 2
    kept = graph.copy(found.model)
    columns.write(kept, columns.layers(model)["last"], columns.layers(model)["last"].matrix(model), None)
    assert sqnr_db(model, found.model) > sqnr_db(model, kept) + 0.3


def test_several_passes_give_the_same_and_what_does_not_fit_is_named():
    model = residual()
    plain, counts = by_magnitude(model, list(model.graph.node), 0.5)
    whole = layerwise.compensate(model, plain, counts, lambda: feeds(model, 6), 10**9)
    largest_bytes = 144 * 144 * 8 * layerwise.HELD
    parts = layerwise.compensate(model, plain, counts, lambda: feeds(model, 6), largest_bytes)
    assert parts.model == whole.model and not parts.left
    small = layerwise.compensate(model, plain, counts, lambda: feeds(model, 6), largest_bytes - 1)
    assert len(small.left) == 2 and all("more memory than --max-memory" in reason for reason in small.left.values())
    bench = Bench(model, max_bytes=largest_bytes - 1)
    STEPS.parse("sparsity").apply(model, bench)
    assert any("the smallest go in" in note and "--max-memory" in note for note in bench.notes)


@pytest.mark.parametrize("build", [upsampler, tied, broken_values])
def test_what_is_left_to_magnitude_is_named(build):
    model = build()
    plain, counts = by_magnitude(model, list(model.graph.node), 0.5)
    found = layerwise.compensate(model, plain, counts, lambda: feeds(model, 4), 10**9)
    assert found.left and found.tried + len(found.left) == len(counts)
    for node in model.graph.node:
        if node.name in found.left:
            both = [graph.array(graph.initializers(one)[node.input[1]]) for one in (plain, found.model)]
            assert np.array_equal(*both)


def test_deep_nets_go_through_in_stages(monkeypatch):
    model = dense()
    monkeypatch.setattr(layerwise, "STAGES", 2)
    plain, counts = by_magnitude(model, list(model.graph.node), 0.5)
    passes = []

    def counted():
        passes.append(1)
        return feeds(model, 4)

    found = layerwise.compensate(model, plain, counts, counted, 10**9)
    assert len(passes) == 2 and found.better


# ---- the step


def zeros(model):
    return {t.name: int((graph.array(t) == 0).sum()) for t in model.graph.initializer if len(t.dims) >= 2}


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.77, 0.99])
@pytest.mark.parametrize("samples", [0, 6])
def test_exactly_the_share_becomes_zero(share, samples):
    model = residual()
    made = STEPS.parse(f"sparsity {share} samples={samples}").apply(model, Bench(model))
    for tensor in model.graph.initializer:
        if len(tensor.dims) >= 2:
            size = int(np.prod(tensor.dims))
            pruned = graph.array(graph.initializers(made)[tensor.name])
            assert (pruned == 0).sum() == round(share * size)
            kept = graph.array(tensor)[pruned != 0]
            gone = graph.array(tensor)[pruned == 0]
            if not samples:
                assert not gone.size or not kept.size or np.abs(gone).max() <= np.abs(kept).min()
                assert np.array_equal(kept, pruned[pruned != 0])


def test_ties_go_in_order():
    assert without_smallest(np.float32([[1, 1], [1, 1]]), 0.5).tolist() == [[0, 0], [1, 1]]
    assert without_smallest(np.float32([[-1, 1], [1, -1]]), 0.25).tolist() == [[0, 1], [1, -1]]


def test_what_has_the_zeros_already_stays_as_it_is():
    model = residual()
    once = STEPS.parse("sparsity 0.6").apply(model, Bench(model))
    assert STEPS.parse("sparsity 0.5").apply(once, Bench(once)) == once
    more = STEPS.parse("sparsity 0.7").apply(once, Bench(once))
    assert sum(zeros(more).values()) > sum(zeros(once).values())


def test_the_notes_say_what_it_gains_and_what_not():
    model = residual()
    bench = Bench(model, speeds=[1.0])
    made = STEPS.parse("sparsity 0.5").apply(model, bench)
    text = "\n".join(bench.notes)
    assert "compensated in 6 of 6 layers" in text or "compensated in 5 of 6 layers" in text
    assert "0.6" in text and "once packed" in text and "keeps its size" in text
    assert "latency 1.00x" in text and "no difference shown" in text
    assert abs(made.ByteSize() - model.ByteSize()) < 64
    assert not any("latency" in note for note in noted(model, foreign=True))


def noted(model, **options):
    bench = Bench(model, **options)
    STEPS.parse("sparsity 0.5").apply(model, bench)
    return bench.notes


def test_outputs_that_get_no_nearer_are_left_to_magnitude():
    class Contrary(Bench):
        def drift(self, before, after, most=None):
            answer = super().drift(before, after, most)
            answer.sqnr_db *= -1
            return answer

    model = residual()
    bench = Contrary(model)
    made = STEPS.parse("sparsity 0.5").apply(model, bench)
    assert made == STEPS.parse("sparsity 0.5 samples=0").apply(model, Bench(model))
    assert any("left out" in note for note in bench.notes)


@pytest.mark.parametrize("after", ["int8-weights", "static", "static repair=round", "int8", "fp16"])
@pytest.mark.parametrize("build", [residual, attention])
def test_zeros_survive(after, build):
    model = build()
    pruned = STEPS.parse("sparsity 0.6").apply(model, Bench(model))
    made = STEPS.parse(after).apply(pruned, Bench(pruned))
    weights = [
        t for t in made.graph.initializer if len(t.dims) >= 2 and t.data_type in (3, 10) and np.prod(t.dims) > 200
    ]
    assert weights
    for tensor in weights:
        assert (graph.array(tensor) == 0).mean() >= 0.59


def test_adaptive_rounding_leaves_zeros():
    weight, gram = problem(4, 5, 40)
    weight[0, :, ::3] = 0
    scale = np.abs(weight[0]).max(1) / 7
    found = rounding.adaptive(weight[0], gram[0], scale, 7)
    assert not found[:, ::3].any()
    direct = np.rint(weight[0] / scale[:, None])
    errors = [obs.cost((weight[0] - whole * scale[:, None])[None], gram).sum() for whole in (found, direct)]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("before", ["static", "int8-weights", "fp16"])
def test_stored_or_quantised_weights_are_refused_with_the_right_order(before):
    model = residual()
    made = STEPS.parse(before).apply(model, Bench(model))
    with pytest.raises(EdgekitError) as caught:
        STEPS.parse("sparsity").apply(made, Bench(made))
    assert "before --int8" in caught.value.hint


def test_only_and_exclude():
    model = residual()
    made = STEPS.parse("sparsity").apply(model, Bench(model, only=("Gemm",)))
    assert sum(count > 0 for count in zeros(made).values()) == 1
    model = attention()
    made = STEPS.parse("sparsity").apply(model, Bench(model, exclude=("matmul0",)))
    untouched = next(node.input[1] for node in model.graph.node if node.name == "matmul0")
    assert zeros(made)[untouched] == 0 and sum(zeros(made).values()) > 0
    with pytest.raises(EdgekitError, match="'Cnov'"):
        STEPS.parse("sparsity").apply(perceptron(), Bench(perceptron(), only=("Cnov",)))


@pytest.mark.long
def test_a_trained_net_bears_half(assets):
    model = graph.load(assets / "models" / "resnet8_cifar10_jpegft.onnx")
    files = sorted((assets / "images" / "cifar10_jpeg").glob("*/*/00[01]*.jpg"))
    name = graph.inputs(model)[0].name
    samples = [{name: cv2.imread(str(file))[None, ..., ::-1].astype(np.float32)} for file in files]
    model, _ = simplify(model, lambda a, b: same_outputs(a, b, samples[:2]))
    plain, counts = by_magnitude(model, list(model.graph.node), 0.5)
    found = layerwise.compensate(model, plain, counts, lambda: iter(samples[::2]), 10**9)
    assert found.better == found.tried == len(counts)
    answers = [
        np.array([run(session, feed)[0].argmax() for feed in samples[1::2]])
        for session in (open_session(one) for one in (model, found.model, plain))
    ]
    agreed = [(answers[0] == other).mean() for other in answers[1:]]
    assert agreed[0] > 0.75 and agreed[1] < 0.5
