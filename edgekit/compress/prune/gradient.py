"""Gradients in ONNX: a graph that gives how a loss changes with each weight of a model.

Reverse accumulation (Griewank & Walther, Evaluating Derivatives, ch. 3) over the operators that `derivatives` knows,
written as nodes that onnxruntime runs. Weights that reach the loss through any other operator are left out, with all
that lies before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress.prune.columns import layers
from edgekit.compress.prune.derivatives import RULES
from edgekit.compress.prune.tape import NoRuleError, Tape
from edgekit.lazy import onnx

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnx import ModelProto, NodeProto

    from edgekit.compress.prune.tape import Shapes

LOWEST_OPSET = 13
# They make whole numbers of floats: nothing flows back through them.
_FLAT = ("Shape", "Size", "ConstantOfShape")


def differentiated(model: ModelProto, factors: Mapping[str, float], shapes: Shapes) -> tuple[ModelProto, list[str]]:
    """Give a graph of the gradient of sum factor * (value - goal)^2 / 2 over the values in `factors`.

    It reads the model's inputs, `goal_NAME` for each of these values, and each constant that the loss can be made less
    by under its own name: weights and biases of `columns.layers`; their names come second. It gives `gradient_of_NAME`
    for each. `shapes` are those of every value and constant, batch included: the graph is for this batch alone. Without
    any such constant, or below operators of version 13, the names are empty.
    """
    if graph.opset(model) < LOWEST_OPSET:
        return graph.copy(model), []
    stuck: set[str] = set()
    while True:
        try:
            return _differentiated(model, factors, shapes, stuck)
        except NoRuleError as found:
            stuck.add(found.node)


def _differentiated(
    model: ModelProto, factors: Mapping[str, float], shapes: Shapes, stuck: set[str]
) -> tuple[ModelProto, list[str]]:
    made = graph.copy(model)
    nodes = list(made.graph.node)
    constants = {layer.weight for layer in layers(model).values()}
    constants |= {layer.bias_name(model) for layer in layers(model).values()} - {""}
    constants -= _blocked(nodes, set(factors), stuck)
    tape = Tape(made, shapes, _behind(nodes, constants))
    for value, factor in factors.items():
        made.graph.input.append(_typed(f"goal_{value}", shapes[value]))
        error = tape.add("Sub", value, f"goal_{value}")
        tape.give(value, tape.add("Mul", error, tape.constant(factor)))
    for node in reversed(nodes):
        if tape.active.intersection(graph.reads(node)) and any(name in tape.gradients for name in node.output):
            for name, part in zip(node.input, RULES[node.op_type](tape, node), strict=False):
                if part is not None and name in tape.active:
                    tape.give(name, part)
    trained = [name for name in sorted(constants) if name in tape.gradients]
    _close(made, tape, trained)
    return made, trained


def _close(made: ModelProto, tape: Tape, trained: Sequence[str]) -> None:
    """Turn trained constants into inputs and give out their gradients."""
    tensors = graph.initializers(made)
    fed = {value.name for value in made.graph.input}
    for name in trained:
        if name not in fed:
            made.graph.input.append(_typed(name, tape.shapes[name]))
        made.graph.initializer.remove(tensors[name])
        last = f"gradient_of_{name}"
        made.graph.node.append(onnx.helper.make_node("Identity", [tape.gradients[name]], [last], last))
    del made.graph.output[:]
    made.graph.output.extend(_typed(f"gradient_of_{name}", tape.shapes[name]) for name in trained)
    graph.remove_dead(made)


def _typed(name: str, shape: Sequence[int]) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(shape))


def _behind(nodes: Sequence[NodeProto], constants: set[str]) -> set[str]:
    """Give these constants and what is computed from them."""
    found = set(constants)
    for node in nodes:
        if graph.reads(node) & found and node.op_type not in _FLAT:
            found.update(name for name in node.output if name)
    return found


def _blocked(nodes: Sequence[NodeProto], watched: set[str], stuck: set[str]) -> set[str]:
    """Give what the loss depends on through an operator without a rule, or through one of the nodes in `stuck`."""
    wanted, blocked = set(watched), set[str]()
    for node in reversed(nodes):
        made = set(node.output)
        if not made & wanted or node.op_type in _FLAT:
            continue
        wanted |= graph.reads(node)
        known = node.op_type in RULES and node.domain in ("", "ai.onnx") and node.name not in stuck
        if made & blocked or not known or graph.captured(node):
            blocked |= graph.reads(node)
    return blocked
