"""What models are timed as: in 8 bits where a later step makes them that."""

import nets
from edgekit import graph
from edgekit.compress.maker import Maker
from edgekit.compress.method import STEPS
from edgekit.compress.prune.groups import find_groups
from edgekit.compress.prune.surgery import remove
from edgekit.compress.quantize import form
from edgekit.compress.quantize.form import AS_IS, INT8, after, as_run


def run_as(model, quick=2.0):
    """What a model runs as on a CPU whose nodes are so many times faster in 8 bits."""

    def time_nodes(timed):
        share = 1 / quick if graph.is_quantized(timed) else 1.0
        return {node.name: 1e6 * share for node in timed.graph.node}

    return as_run(INT8, nets.Bench(model), time_nodes)


def convolutions(model, op_type):
    return [node.name for node in model.graph.node if node.op_type == op_type]


def in_eight_bits(model):
    given = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    return {node.name for node in model.graph.node if node.op_type == "Conv" and node.input[0] in given}


def test_only_steps_that_compute_in_8_bits_change_what_is_timed():
    assert set(form.EIGHT) < set(STEPS.names())
    assert after(["int8"]) == after(["prune", "static"]) == INT8
    assert after([]) == after(["fp16", "int8-weights", "prune"]) == AS_IS
    model = nets.residual()
    assert as_run(AS_IS, nets.Bench(model), dict)(model) is model


def test_everything_that_can_runs_in_8_bits_where_that_is_faster():
    model = nets.residual()
    before = model.SerializeToString(deterministic=True)
    assert in_eight_bits(run_as(model)(model)) == set(convolutions(model, "Conv"))
    assert model.SerializeToString(deterministic=True) == before


def test_nothing_does_where_it_is_slower():
    model = nets.residual()
    assert not graph.is_quantized(run_as(model, quick=0.5)(model))


def test_what_is_in_8_bits_already_stays_as_it_is():
    model = nets.residual()
    eight = run_as(model)(model)
    assert run_as(model)(eight) is eight


def test_what_is_made_of_the_model_keeps_to_what_stays_in_float():
    model = nets.residual()
    stays = convolutions(model, "Conv")[0]

    def time_nodes(timed):
        fast = graph.is_quantized(timed)
        return {node.name: 1.0 if fast and node.name != stays else 1e6 for node in timed.graph.node}

    run = as_run(INT8, nets.Bench(model, exclude=(stays,)), time_nodes)
    assert stays not in in_eight_bits(run(model))
    group = find_groups(model).groups[0]
    smaller = remove(model, {group.name: [0]})
    assert in_eight_bits(run(smaller)) == set(convolutions(smaller, "Conv")) - {stays}


def test_a_step_within_a_composition_is_timed_as_what_follows(monkeypatch):
    seen = []

    class Timing(nets.Bench):
        def speed(self, before, after):
            seen.append((graph.is_quantized(before), graph.is_quantized(after)))
            return super().speed(before, after)

    model = nets.residual()
    bench = Timing(model, speeds=[1.5] * 20)
    Maker(model, bench).make(("prune 0.2", "fp16"))
    assert seen and not any(map(any, seen))
    seen.clear()
    Maker(model, bench)._make(("prune 0.2",), INT8, 1.0)
    assert seen and all(map(all, seen))
