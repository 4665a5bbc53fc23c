"""Unstructured pruning: exact, stable, and lasting through int8."""

import numpy as np
import pytest

from edgekit import graph
from edgekit.compress.method import STEPS
from edgekit.compress.prune.sparsity import without_smallest
from edgekit.errors import EdgekitError
from nets import Bench, attention, perceptron, residual


def zeros(model):
    return {t.name: (graph.array(t) == 0).sum() for t in model.graph.initializer if len(t.dims) >= 2}


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.77, 0.99])
def test_exactly_the_share_becomes_zero(share):
    model = residual()
    made = STEPS.parse(f"sparsity {share}").apply(model, Bench(model))
    for tensor in model.graph.initializer:
        if len(tensor.dims) >= 2:
            size = int(np.prod(tensor.dims))
            pruned = graph.array(graph.initializers(made)[tensor.name])
            assert (pruned == 0).sum() == round(share * size)
            kept = graph.array(tensor)[pruned != 0]
            gone = graph.array(tensor)[pruned == 0]
            assert not gone.size or not kept.size or np.abs(gone).max() <= np.abs(kept).min()
            assert np.array_equal(kept, pruned[pruned != 0])


def test_ties_go_in_order():
    assert without_smallest(np.float32([[1, 1], [1, 1]]), 0.5).tolist() == [[0, 0], [1, 1]]
    assert without_smallest(np.float32([[-1, 1], [1, -1]]), 0.25).tolist() == [[0, 1], [1, -1]]


@pytest.mark.parametrize("after", ["int8-weights", "static", "fp16"])
def test_zeros_survive(after):
    model = residual()
    pruned = STEPS.parse("sparsity 0.6").apply(model, Bench(model))
    made = STEPS.parse(after).apply(pruned, Bench(pruned))
    weights = [
        t for t in made.graph.initializer if len(t.dims) == 4 and t.data_type in (3, 10) and np.prod(t.dims) > 200
    ]
    assert weights
    for tensor in weights:
        assert (graph.array(tensor) == 0).mean() >= 0.59


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
