"""The minimum cut: as cheap as the best of all choices, on small graphs."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit import graph
from edgekit.compress.quantize import cut
from edgekit.compress.quantize.cut import Times, cheapest
from nets import Bench, Net, residual


def random_graph(rng):
    net = Net()
    values = [net.conv("x", 4, 4, k=1, relu=False)]

    def pick():
        return values[rng.integers(len(values))]

    for _ in range(rng.integers(2, 7)):
        kind = rng.integers(4)
        if kind == 0:
            values.append(net.add("Add", pick(), pick()))
        elif kind == 1:
            values.append(net.conv(pick(), 4, 4, k=1))
        elif kind == 2:
            product = net.conv(pick(), 4, 4, k=1, relu=False)
            values.append(net.add("Mul", product, net.add("Sigmoid", product)))
        else:
            values.append(net.conv(pick(), 4, 4, k=1, relu=False))
    return net.model({"x": [1, 4, 2, 2]}, {values[-1]: ["a", "b", "c", "d"]})


def price(model, chosen, times):
    makers, readers = graph.producers(model), graph.consumers(model)
    total = sum((times.eight if n.name in chosen else times.plain)[n.name] for n in model.graph.node)
    for value, size in times.sizes.items():
        maker = makers.get(value)
        inside = maker is not None and maker.name in chosen
        to = [reader.name in chosen for reader in readers.get(value, [])]
        if inside and not all(to):
            total += cut.OUT_OF * size / 1000
        if not inside and any(to):
            total += cut.INTO * size / 1000
    return total


def is_allowed(model, chosen, able, sizes):
    group, makers = cut.groups(model), graph.producers(model)
    for node in model.graph.node:
        if node.name in chosen and node.name not in able:
            return False
        if (node.name in chosen) != (group[node.name] in chosen):
            return False
        made = [makers[value].name for value in node.input if value in makers and value in sizes]
        if node.name in chosen and node.op_type in cut.JOINING and any(name not in chosen for name in made):
            return False
    return True


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6))
def test_nothing_is_cheaper(seed):
    rng = np.random.default_rng(seed)
    model = random_graph(rng)
    names = [node.name for node in model.graph.node]
    plain, eight = ({name: float(rng.integers(0, 50)) for name in names} for _ in range(2))
    values = {value for n in model.graph.node for value in (*n.input, *n.output)} - set(graph.initializers(model))
    times = Times(plain, eight, {value: int(rng.integers(0, 60000)) for value in sorted(values)})
    able = {name for name in names if rng.random() < 0.85}
    found = cheapest(model, able, times)
    assert is_allowed(model, found, able, times.sizes)
    group = cut.groups(model)
    roots = sorted(set(group.values()))
    choices = (
        {name for name in names if group[name] in some}
        for count in range(len(roots) + 1)
        for some in itertools.combinations(roots, count)
    )
    best = min(price(model, some, times) for some in choices if is_allowed(model, some, able, times.sizes))
    assert price(model, found, times) == pytest.approx(best, abs=1e-2)


def test_noise_has_its_price():
    times = Times({"a": 100.0, "b": 300.0}, {"a": 10.0}, {})
    priced = times.priced({"a": 0.5, "b": 0.25}, 2.0)
    assert priced.eight == {"a": 10 + 2 * 400 * 0.5, "b": 2 * 400 * 0.25}
    assert times.priced({}, 0.0).eight == times.eight


def test_endless_noise_stays_in_float():
    model = residual()
    names = [node.name for node in model.graph.node]
    times = Times(dict.fromkeys(names, 100.0), dict.fromkeys(names, 1.0), {})
    assert cheapest(model, names, times) == set(names)
    noisy = times.priced({"conv2": float("inf")}, 1.0)
    assert "conv2" not in cheapest(model, names, noisy)


def test_times_are_measured_on_a_feed():
    model = residual()
    times = Times.measure(model, model, Bench(model))
    assert times.sizes["input"] == np.prod(model_input(model))
    assert set(times.plain) == {node.name for node in model.graph.node}
    assert not set(times.sizes) & set(graph.initializers(model))


def model_input(model):
    return [dim if isinstance(dim, int) else 1 for dim in graph.inputs(model)[0].shape]
