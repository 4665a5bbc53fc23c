"""A model made ready for finding and removing channels: the same function, with its constants where they can be cut."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress import fold
from edgekit.compress.prune.sides import dims, settle
from edgekit.compress.simplify import constants_out_of_nodes, weights_out_of_inputs
from edgekit.errors import EdgekitError
from edgekit.lazy import np, onnx

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from edgekit.compress.prune.sides import Dims

# Shapes that follow from others: each round settles those of one Reshape after another.
_ROUNDS = 8


def prepared(model: ModelProto) -> ModelProto:
    """Give a copy with unique node names, its constants folded, and vectors that several nodes read copied for each.

    Of a prepared model it gives an equal one.
    """
    return prepared_with_sides(model)[0]


def prepared_with_sides(model: ModelProto) -> tuple[ModelProto, dict[str, Dims]]:
    """Give the prepared model and the sides of its values."""
    made = graph.copy(model)
    graph.sort(made)
    graph.unique_names(made)
    made = constants_out_of_nodes(weights_out_of_inputs(made))
    del made.graph.value_info[:]
    if not graph.has_subgraphs(made):
        made = _folded(made)
        for _ in range(_ROUNDS):
            if not settle(made):
                break
            made = _folded(made)
    _shuffles_as_gathers(made)
    _unshare_vectors(made)
    sides = dims(made)
    del made.graph.value_info[:]
    return made, sides


def _folded(model: ModelProto) -> ModelProto:
    with contextlib.suppress(EdgekitError):  # onnxruntime refuses some constant node: it stays
        return fold.constants(graph.copy(model))
    return model


def _shuffles_as_gathers(model: ModelProto) -> None:
    """Write each shuffle of channels (Reshape, Transpose, Reshape) as Gather, in place.

    A Gather leaves each channel free to go. Measured after 1x1 convolutions of 48 to 464 channels: 0.95-0.99x the time.
    """
    if not any(node.op_type == "Transpose" for node in model.graph.node):
        return
    sides, makers, readers = dims(model), graph.producers(model), graph.consumers(model)
    shown = graph.outputs(model)
    for node in model.graph.node:
        before, after = makers.get(node.input[0]) if node.input else None, readers.get(node.output[0], [])
        if node.op_type != "Transpose" or before is None or len(after) != 1:
            continue
        chain = [before.op_type, after[0].op_type] == ["Reshape", "Reshape"] and after[0].input[0] == node.output[0]
        if not chain or len(readers[node.input[0]]) > 1 or {node.input[0], node.output[0]} & shown:
            continue
        found = _order([sides.get(name) for name in (before.input[0], node.input[0], after[0].output[0])], node)
        if found is not None:
            axis, order = found
            name = graph.fresh_name(f"{after[0].output[0]}_order", graph.tensor_names(model))
            model.graph.initializer.append(onnx.numpy_helper.from_array(order, name))
            inputs = [before.input[0], name]
            after[0].CopyFrom(onnx.helper.make_node("Gather", inputs, after[0].output, after[0].name, axis=axis))
    graph.remove_dead(model)


def _order(shapes: list[Dims | None], node: NodeProto) -> tuple[int, np.ndarray] | None:
    """Give the axis whose entries two changes of shape and a Transpose in between put into another order, and which."""
    first, middle, last = shapes
    if first is None or middle is None or first != last or None in (*first, *middle) or len(middle) <= len(first):
        return None
    count = len(middle) - len(first) + 1
    perm: list[int] = list(graph.attribute(node, "perm", range(len(middle))[::-1]))  # type: ignore[call-overload]
    for axis, size in enumerate(first):
        split, inner = middle[axis : axis + count], [place - axis for place in perm[axis : axis + count]]
        outer = (*middle[:axis], size, *middle[axis + count :]) == first and sorted(inner) == list(range(count))
        alike = perm[:axis] == list(range(axis)) and perm[axis + count :] == list(range(axis + count, len(middle)))
        whole = isinstance(size, int) and all(isinstance(side, int) for side in split)
        if outer and alike and whole and np.prod(split, dtype=np.int64) == size:  # type: ignore[arg-type]
            return axis, np.arange(size).reshape(split).transpose(inner).reshape(-1)  # type: ignore[arg-type]
    return None


def _unshare_vectors(model: ModelProto) -> None:
    """Copy each bias, factor or list of sides that several nodes read: that they are equal ties nothing together."""
    tensors, taken, seen = graph.initializers(model), graph.tensor_names(model), set()
    fed = {value.name for value in model.graph.input}
    inner = {name for node in model.graph.node for name in graph.captured(node)}
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            tensor = tensors.get(name)
            if tensor is None or name in fed | inner or sum(side > 1 for side in tensor.dims) > 1:
                continue
            if name in seen and int(np.prod(tensor.dims, dtype=np.int64)) > 1:
                copy = onnx.TensorProto()
                copy.CopyFrom(tensor)
                copy.name = graph.fresh_name(name, taken)
                model.graph.initializer.append(copy)
                node.input[place] = copy.name
            seen.add(name)
