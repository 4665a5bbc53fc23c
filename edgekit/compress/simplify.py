"""Fold, fuse and tidy a graph without changing what it computes: always proven equal in output, or left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress import affine, fold, patterns, shapes, transposes
from edgekit.compress.rearrange import rearranged
from edgekit.errors import EdgekitError
from edgekit.lazy import np, onnx
from edgekit.session import open_session, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from onnx import ModelProto, NodeProto, TensorProto

    Feed = Mapping[str, np.ndarray]
    Same = Callable[[ModelProto, ModelProto], bool]

# Below it, onnxruntime has no QuantizeLinear with one scale a channel.
LOWEST_OPSET = 13


def simplify(model: ModelProto, same: Same) -> tuple[ModelProto, list[str]]:
    """Give a simpler model with the same outputs, and a note on each thing that was left out.

    `same(before, after)` runs both. All steps are tried at once; only when that changes the outputs is each step tried
    alone. Calls of the model's own functions are replaced by their nodes. Models with nested graphs (If, Loop) get
    nothing else but names for their nodes.
    """
    start = _inlined(model, same)
    graph.unique_names(start)
    if graph.has_subgraphs(start):
        return start, ["the model has If, Loop or Scan nodes: its graph was left as it is"]
    if graph.is_quantized(start):
        return start, ["the model is quantised already: its graph was left as it is"]
    simpler, notes = _all_steps(start)
    if _holds(same, start, simpler):
        return simpler, notes
    return _one_by_one(start, same)


def _inlined(model: ModelProto, same: Same) -> ModelProto:
    """Give a copy with the nodes of the model's own functions in place of their calls, or a plain copy."""
    if not model.functions:
        return graph.copy(model)
    from onnx import inliner

    made = _tried(inliner.inline_local_functions, model)
    return made if not isinstance(made, str) and _holds(same, model, made) else graph.copy(model)


def _all_steps(model: ModelProto) -> tuple[ModelProto, list[str]]:
    notes = []
    for step in STEPS:
        changed = _tried(step, model)
        if isinstance(changed, str):
            notes.append(changed)
        else:
            model = changed
    return model, notes


def _one_by_one(model: ModelProto, same: Same) -> tuple[ModelProto, list[str]]:
    notes = []
    for step in STEPS:
        changed = _tried(step, model)
        if isinstance(changed, str):
            notes.append(changed)
        elif _holds(same, model, changed):
            model = changed
        else:
            notes.append(f"left out, because it would change the outputs: {_purpose(step)}")
    return model, notes


def _tried(step: Callable[[ModelProto], ModelProto], model: ModelProto) -> ModelProto | str:
    try:
        return step(model)
    except (EdgekitError, onnx.version_converter.ConvertError, RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"left out, because it failed ({reason}): {_purpose(step)}"


def _purpose(step: Callable[[ModelProto], ModelProto]) -> str:
    text = (step.__doc__ or "").split("\n", 1)[0].rstrip(".")
    return text[0].lower() + text[1:]


def _holds(same: Same, before: ModelProto, after: ModelProto) -> bool:
    try:
        return same(before, after)
    except EdgekitError:  # the changed model does not load or run
        return False


def same_outputs(before: ModelProto, after: ModelProto, feeds: Iterable[Feed], rtol: float = 1e-3) -> bool:
    """Tell whether two models give the same outputs: no difference above `rtol` of the largest value of each output."""
    few = list(feeds)
    # One session at a time: each holds the weights two or three times over.
    old, new = (_answers(model, few) for model in (before, after))
    return old[0] == new[0] and all(_close(*pair, rtol) for pair in zip(old[1], new[1], strict=True))


def _answers(model: ModelProto, feeds: list[Feed]) -> tuple[list[tuple[str, str]], list[list[np.ndarray]]]:
    session = open_session(model)
    signature = [(value.name, value.type) for value in (*session.get_inputs(), *session.get_outputs())]
    return signature, [run(session, feed) for feed in feeds]


def _close(before: list[np.ndarray], after: list[np.ndarray], rtol: float) -> bool:
    for old, new in zip(before, after, strict=True):
        if not isinstance(old, np.ndarray) or old.dtype.kind != "f":
            if not np.array_equal(old, new):
                return False
            continue
        if old.shape != new.shape:
            return False
        finite = np.isfinite(old)
        largest = float(np.abs(old[finite]).max(initial=0.0))
        if not np.allclose(new, old, rtol=0, atol=rtol * largest + 1e-30, equal_nan=True):
            return False
    return True


def constants_out_of_nodes(model: ModelProto) -> ModelProto:
    """Turn Constant nodes into initializers."""
    model = graph.copy(model)
    shown = graph.outputs(model)
    gone = []
    for node in model.graph.node:
        tensor = fold.constant_tensor(node) if node.output[0] not in shown else None
        if tensor is not None:
            model.graph.initializer.append(tensor)
            gone.append(node)
    graph.remove_nodes(model, gone)
    return model


def weights_out_of_inputs(model: ModelProto) -> ModelProto:
    """Take the weights out of the list of inputs."""
    model = graph.copy(model)
    filled = set(graph.initializers(model))
    kept = [value for value in model.graph.input if value.name not in filled]
    if len(kept) < len(model.graph.input):
        copies = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in kept]
        del model.graph.input[:]
        model.graph.input.extend(copies)
    # Initializers that are no inputs exist since version 4 of the format.
    model.ir_version = max(model.ir_version, 4)
    return model


def newer_operators(model: ModelProto) -> ModelProto:
    """Raise the opset to 13, the first with 8-bit weights that have one scale a channel."""
    if graph.opset(model) >= LOWEST_OPSET:
        return model
    domains = {entry.domain for entry in model.opset_import}
    raised: ModelProto = onnx.version_converter.convert_version(model, LOWEST_OPSET)
    # The converter drops what it does not know.
    for domain in sorted(domains - {entry.domain for entry in raised.opset_import} - {"ai.onnx"}):
        raised.opset_import.add(domain=domain, version=1)
    raised.ir_version = max(raised.ir_version, 7)
    graph.unique_names(raised)
    return constants_out_of_nodes(raised)


def no_operations_gone(model: ModelProto) -> ModelProto:
    """Remove Identity, Dropout, casts to the same type, products with 1 and sums with 0."""
    model = graph.copy(model)
    shown = graph.outputs(model)
    fed = {value.name for value in model.graph.input}
    tensors, (sides, types) = graph.initializers(model), shapes.inferred(model)
    makers = graph.producers(model)
    readers = graph.consumers(model)
    gone = []
    for node in model.graph.node:
        source, result = _passed(node, tensors, sides, types), node.output[0]
        if not source or any(name and readers.get(name) for name in node.output[1:]):
            continue
        if result not in shown:
            graph.rename_reads(model, result, source)
        elif source in makers and source not in shown | fed and len(readers[source]) == 1:
            maker = makers[source]
            maker.output[list(maker.output).index(source)] = result
        else:
            continue
        gone.append(node)
        makers, readers = graph.producers(model), graph.consumers(model)
    graph.remove_nodes(model, gone)
    return model


def _passed(
    node: NodeProto,
    tensors: Mapping[str, TensorProto],
    sides: Mapping[str, tuple[int | None, ...]],
    types: Mapping[str, int],
) -> str:
    """Give the input that a node gives out as it is, or nothing."""
    first = node.input[0] if node.input else ""
    if node.op_type == "Identity":
        return first
    if node.op_type == "Dropout":
        # The mask of a Dropout that trains is random; in inference its third input is absent or false.
        return first if len(node.input) < 3 and not any(node.output[1:]) else ""
    if node.op_type == "Cast":
        return first if types.get(first) == graph.attribute(node, "to") else ""
    neutral = {"Mul": 1, "Div": 1, "Add": 0, "Sub": 0}.get(node.op_type)
    for place in (0, 1) if node.op_type in ("Mul", "Add") else (1,) if neutral is not None else ():
        held, other = tensors.get(node.input[place]), node.input[1 - place]
        # A constant of several values or more axes could spread what it meets.
        narrow = held is not None and int(np.prod(held.dims, dtype=np.int64)) == 1 and other in sides
        if held is not None and narrow and len(held.dims) <= len(sides[other]) and graph.array(held).item() == neutral:
            return other
    return ""


def scales_into_weights(model: ModelProto) -> ModelProto:
    """Fold batch normalisation, scales and shifts into the convolution or matrix product before or after them."""
    model = graph.copy(model)
    affine.fold_back(model)
    affine.fold_forward(model)
    return model


def sums_into_products(model: ModelProto) -> ModelProto:
    """Write a matrix product and the sum with a bias after it as Gemm."""
    model = graph.copy(model)
    affine.products_with_sums(model)
    return model


def norms_as_convolutions(model: ModelProto) -> ModelProto:
    """Write the batch normalisations that are left as convolutions of one channel each."""
    model = graph.copy(model)
    affine.norms_as_convolutions(model)
    return model


def fewer_transposes(model: ModelProto) -> ModelProto:
    """Cancel Transposes."""
    model = graph.copy(model)
    transposes.cancel(model)
    return model


def plain_operators(model: ModelProto) -> ModelProto:
    """Write sums as Add, bounds as Relu or Clip, and hard sigmoids as such."""
    model = graph.copy(model)
    patterns.sums(model)
    patterns.clips(model)
    patterns.hard_sigmoids(model)
    patterns.hard_swishes(model)
    return model


def plain_windows(model: ModelProto) -> ModelProto:
    """Let convolutions and pools pad for themselves, and write means over a map as pools."""
    model = graph.copy(model)
    patterns.pads_into_windows(model)
    patterns.means_as_pools(model)
    return model


def plain_weights(model: ModelProto) -> ModelProto:
    """Turn weights that are stored in fewer bits into plain ones."""
    return fold.storage(model)


def constants_folded(model: ModelProto) -> ModelProto:
    """Compute what depends on constants and fixed shapes alone."""
    model = fold.constants(graph.copy(model))
    shapes.fold_fixed(model)
    return fold.constants(model)


def factors_into_weights(model: ModelProto) -> ModelProto:
    """Fold alpha and beta of Gemm into its constants."""
    return fold.gemm_factors(graph.copy(model))


def unused_removed(model: ModelProto) -> ModelProto:
    """Merge equal constants and remove what nothing uses."""
    model = graph.copy(model)
    fold.equal_initializers(model)
    graph.remove_dead(model)
    return model


STEPS: tuple[Callable[[ModelProto], ModelProto], ...] = (
    weights_out_of_inputs,
    constants_out_of_nodes,
    newer_operators,
    no_operations_gone,
    plain_weights,
    constants_folded,
    fewer_transposes,
    plain_operators,
    plain_windows,
    factors_into_weights,
    sums_into_products,
    scales_into_weights,
    norms_as_convolutions,
    rearranged,
    unused_removed,
)
