"""Bias correction: the mean error is gone where it was measured, whatever the layer, and nothing else changes."""

from dataclasses import replace

import numpy as np
import pytest
from onnx import numpy_helper

from edgekit import graph
from edgekit.compress.quantize import correct, qdq, scope
from edgekit.compress.quantize.plan import Plan
from edgekit.session import open_session, run
from nets import Bench, Net, branching, feeds, perceptron, residual, swish


def coarse(model, steps=6):
    """Round every weight to a few steps, which shifts means; give a maker of corrected models."""

    def rounded(errors):
        made = graph.copy(model)
        for tensor in made.graph.initializer:
            if len(tensor.dims) > 1:
                tensor.CopyFrom(numpy_helper.from_array(crude(tensor.name, graph.array(tensor), steps), tensor.name))
        correct.take_off(made, errors)
        return made

    return rounded


def crude(_, values, steps=6):
    scale = np.abs(values).max() / steps
    return (np.floor(values / scale) * scale).astype(np.float32)


def weighted(model):
    return [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]


def gaps(before, after, layers, samples):
    """The mean error of each layer's output channels, in units of that output's spread, read node by node."""
    found = {}
    for layer in layers:
        values = []
        for model in (before, after):
            name = next(node.output[0] for node in model.graph.node if node.name == layer.name)
            session = open_session(graph.with_outputs(model, [name]))
            values.append(np.stack([np.asarray(run(session, feed, [name])[0], np.float64)[0] for feed in samples]))
        axes = tuple(axis for axis in range(values[0].ndim) if axis != 1)
        found[layer.name] = np.abs((values[1] - values[0]).mean(axes)).max() / values[0].std()
    return found


def deep(layers=20):
    net = Net(3)
    x = "input"
    for number in range(layers):
        x = net.conv(x, 4 if number else 3, 4)
    net.nodes[-1].output[0] = "map"
    return net.model({"input": [1, 3, 8, 8]}, {"map": [1, 4, 8, 8]})


def sided():
    """One input channel, dilated, padded on one side only, a 1x1 kernel, no bias."""
    net = Net(4)
    x = net.add("Conv", "input", net.weight(4, 1, 3, 2), pads=[2, 0, 0, 1], dilations=[2, 1], strides=[1, 2])
    x = net.add("Relu", x)
    net.add("Conv", x, net.weight(3, 4, 1, 1), outputs=["map"])
    return net.model({"input": [1, 1, 7, 6]}, {"map": ["n", 3, "h", "w"]})


@pytest.mark.parametrize("build", [residual, swish, perceptron, sided, branching])
def test_the_mean_error_of_every_corrected_layer_is_gone(build):
    model = build()
    before = model.SerializeToString()
    samples = list(feeds(model, 6))
    made = coarse(model)
    found = correct.sequential(model, made, weighted(model), lambda: iter(samples))
    assert model.SerializeToString() == before
    assert set(found) == {node.name for node in weighted(model)}
    left, first = (gaps(model, made(errors), weighted(model), samples) for errors in (found, {}))
    assert max(left.values()) < 1e-4 < max(first.values())


def test_beginning_from_the_one_shot_figures_ends_at_the_same_means():
    model = residual()
    samples = list(feeds(model, 6))
    start = correct.errors(model, weighted(model), samples, crude)
    kept = {name: error.copy() for name, error in start.items()}
    found = correct.sequential(model, coarse(model), weighted(model), lambda: iter(samples), start)
    again = correct.sequential(model, coarse(model), weighted(model), lambda: iter(samples), start)
    assert max(gaps(model, coarse(model)(found), weighted(model), samples).values()) < 1e-4
    assert all(np.array_equal(start[name], kept[name]) for name in kept)
    assert list(found) == list(again) and all(np.array_equal(found[name], again[name]) for name in found)


def test_a_deep_net_is_built_few_times_and_ends_right():
    model = deep()
    samples = list(feeds(model, 4))
    made = coarse(model, 20)
    built = []

    def counted(errors):
        built.append(len(errors))
        return made(errors)

    layers = weighted(model)
    start = correct.errors(model, layers, samples, lambda name, values: crude(name, values, 20))
    found = correct.sequential(model, counted, layers, lambda: iter(samples), start)
    assert len(built) == correct.WAVES < len(layers)
    changed = [node.name for node in layers if not np.array_equal(found[node.name], start[node.name])]
    assert 10 < len(changed) <= correct.WAVES and {layers[0].name, layers[-1].name} <= set(changed)
    left = gaps(model, made(found), layers, samples)
    assert max(left[name] for name in changed) < 1e-4


def test_layers_of_one_wave_never_follow_each_other():
    # Layers that took off each other's errors would make them grow from wave to wave.
    model = deep(70)
    waves = correct._waves(model, weighted(model))
    assert [len(wave) for wave in waves] == [1] * correct.WAVES
    branches = correct._waves(swish(), weighted(swish()))
    assert [len(wave) for wave in branches] == [1] * len(weighted(swish()))
    assert len(correct._waves(side_by_side(), weighted(side_by_side()))) == 1


def side_by_side():
    net = Net(5)
    for number in range(3):
        net.add("Conv", "input", net.weight(2, 3, 1, 1), outputs=[f"out{number}"])
    return net.model({"input": [1, 3, 4, 4]}, {f"out{number}": [1, 2, 4, 4] for number in range(3)})


def test_a_layer_that_cannot_be_read_keeps_the_figure_it_came_with():
    model = residual()
    layers = weighted(model)

    def renamed(errors):
        made = coarse(model)(errors)
        next(node for node in made.graph.node if node.name == layers[1].name).name = "somebody else"
        return made

    start = {node.name: np.full(1, 0.5, np.float32) for node in layers[1:2]}
    found = correct.sequential(model, renamed, layers, lambda: feeds(model, 3), start)
    assert found[layers[1].name] == start[layers[1].name] and len(found) == len(layers)


def test_a_real_8_bit_graph_with_a_rearranged_stem():
    model = residual()
    bench = Bench(model)
    nodes = scope.scope(model, {node.name for node in model.graph.node})
    plan = Plan.make(model, nodes, 6, "minmax", bench)
    samples = list(feeds(model, 6))

    def quantized(errors):
        return qdq.quantize_static(model, nodes, replace(plan, errors=errors))

    assert any(node.name.startswith("stem_") for node in quantized({}).graph.node)
    layers = weighted(model)
    found = correct.sequential(model, quantized, layers, lambda: iter(samples), plan.errors)
    assert set(found) == {node.name for node in layers}
    goal = correct._output_means(model, layers, samples)
    largest = []
    for errors in ({}, found):
        seen = correct._output_means(quantized(errors), layers, samples)
        largest.append(max(np.abs(correct._mean_gap(goal[name], seen[name])).max() for name in goal))
    # What is left is a step of the 32-bit bias.
    assert largest[1] < 2e-3 and largest[1] < largest[0] / 4


def test_channels_of_several_pixels_are_averaged():
    goal = np.array([[1.0, 2.0]])
    assert correct._mean_gap(goal, np.array([[2.0, 3.0, 4.0, 3.0]])).tolist() == [2.0, 1.0]
    assert correct._mean_gap(goal, np.array([[2.0, 3.0, 4.0]])) is None
    assert correct._mean_gap(goal, None) is None


def test_a_sample_that_is_not_finite_is_left_out():
    model = residual()
    clean = list(feeds(model, 4))
    broken = [*clean[:2], {"input": np.full_like(clean[0]["input"], np.nan)}, *clean[2:]]
    found = [
        correct.sequential(model, coarse(model), weighted(model), lambda some=some: iter(some))
        for some in (clean, broken)
    ]
    for name in found[0]:
        assert np.allclose(found[0][name], found[1][name], atol=1e-6)
    assert correct.sequential(model, coarse(model), weighted(model), lambda: broken[2:3]) == {}


def test_nothing_to_correct():
    model = residual()
    assert correct.sequential(model, coarse(model), [], lambda: feeds(model, 2)) == {}
    assert correct.sequential(model, coarse(model), weighted(model), lambda: iter([])) == {}
    still = [{"input": np.zeros((1, 3, 16, 16), np.float32)}]
    found = correct.sequential(model, coarse(model), weighted(model), lambda: still)
    assert all(np.isfinite(error).all() for error in found.values())


def test_samples_are_held_up_to_a_bound(monkeypatch):
    model = residual()
    monkeypatch.setattr(correct, "MOST_BYTES", 2 * 3 * 16 * 16 * 4)
    assert len(correct._few(feeds(model, 5))) == 2
    monkeypatch.setattr(correct, "MOST_BYTES", 1)
    assert len(correct._few(feeds(model, 5))) == 1
