"""The contract of every compression step, over small networks with one difficulty each; no clock."""

import numpy as np
import onnx
import pytest

from edgekit import graph
from edgekit.compress.method import STEPS
from edgekit.errors import EdgekitError
from edgekit.session import open_session, run
from nets import NETS, Bench, feeds, simple, sqnr_db

# dB below which a step's outputs may not fall, on these untrained networks.
FLOORS = {"int8": 14, "static": 14, "dynamic": 20, "int8-weights": 25, "fp16": 55}
FLOORS |= dict.fromkeys(["sparsity", "prune", "low-rank"], 0)


@pytest.fixture(scope="module")
def prepared():
    """Every network, simplified."""
    return {name: simple(build()) for name, build in NETS.items()}


def applied(step, model, **options):
    bench = Bench(model, **options)
    try:
        return STEPS.parse(step).apply(model, bench), bench
    except EdgekitError as error:
        assert error.message and error.hint
        return None, bench


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("step", STEPS.names())
def test_contract(step, name, prepared):
    model = prepared[name]
    bytes_before = model.SerializeToString(deterministic=True)
    made, bench = applied(step, model)
    assert model.SerializeToString(deterministic=True) == bytes_before, "the input was changed"
    if made is None:
        return
    onnx.checker.check_model(made)
    assert [i.name for i in graph.inputs(made)] == [i.name for i in graph.inputs(model)]
    assert [o.name for o in made.graph.output] == [o.name for o in model.graph.output]
    old, new = (open_session(m) for m in (model, made))
    assert [o.type for o in old.get_outputs()] == [o.type for o in new.get_outputs()]
    for feed in feeds(model, 2, seed=5):
        assert all(np.isfinite(value).all() for value in run(new, feed))
    assert sqnr_db(model, made) > FLOORS[step]
    again, _ = applied(step, model)
    assert again.SerializeToString(deterministic=True) == made.SerializeToString(deterministic=True)
    grown = made.ByteSize() > model.ByteSize()
    assert not grown or step == "sparsity" or any("grew" in note for note in bench.notes)


def test_steps_that_find_nothing_say_so(prepared):
    for step in STEPS.names():
        made, _ = applied(step, prepared["weightless"])
        assert made is None


@pytest.mark.parametrize("first", ["fp16", "int8-weights", "sparsity"])
@pytest.mark.parametrize("second", ["int8", "static", "int8-weights"])
def test_steps_compose(first, second, prepared):
    model = prepared["residual"]
    made, _ = applied(first, model)
    both, _ = applied(second, made)
    assert both is not None
    assert sqnr_db(made, both) > FLOORS[second]
    assert both.ByteSize() < 0.95 * model.ByteSize()  # a net this small is half scales and rearranged stem


@pytest.mark.parametrize("step", ["int8", "static", "dynamic"])
def test_quantised_models_are_refused(step, prepared):
    once, _ = applied("static", prepared["residual"])
    with pytest.raises(EdgekitError, match="quantised already"):
        STEPS.parse(step).apply(once, Bench(once))


def test_steps_take_no_value_but_shares(prepared):
    shares = {"prune", "low-rank", "sparsity"} & set(STEPS.names())
    assert {cls.spec_name() for cls in STEPS if cls.flag_field() is not None} == shares
