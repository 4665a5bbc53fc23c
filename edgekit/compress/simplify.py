"""Fold, fuse and tidy a graph without changing what it computes: always proven equal in output, or left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress import fold
from edgekit.errors import EdgekitError
from edgekit.lazy import np, onnx
from edgekit.session import open_session, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from onnx import ModelProto, NodeProto

    Feed = Mapping[str, np.ndarray]
    Same = Callable[[ModelProto, ModelProto], bool]

# Below it, onnxruntime has no QuantizeLinear with one scale a channel.
LOWEST_OPSET = 13


def simplify(model: ModelProto, same: Same) -> tuple[ModelProto, list[str]]:
    """Give a simpler model with the same outputs, and a note on each thing that was left out.

    `same(before, after)` runs both. All steps are tried at once; only when that changes the outputs is each step tried
    alone. Models with nested graphs (If, Loop) only get names for their nodes.
    """
    start = graph.copy(model)
    graph.unique_names(start)
    if graph.has_subgraphs(start):
        return start, ["the model has If, Loop or Scan nodes: its graph was left as it is"]
    if graph.is_quantized(start):
        return start, ["the model is quantised already: its graph was left as it is"]
    simpler, notes = _all_steps(start)
    if _holds(same, start, simpler):
        return simpler, notes
    return _one_by_one(start, same)


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
    """Remove Identity and Dropout."""
    model = graph.copy(model)
    shown = graph.outputs(model)
    fed = {value.name for value in model.graph.input}
    makers = graph.producers(model)
    readers = graph.consumers(model)
    gone = []
    for node in model.graph.node:
        if not _passes_through(node) or any(name and readers.get(name) for name in node.output[1:]):
            continue
        source, result = node.input[0], node.output[0]
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


def _passes_through(node: NodeProto) -> bool:
    if node.op_type == "Identity":
        return True
    # The mask of a Dropout that trains is random; in inference its third input is absent or false.
    return node.op_type == "Dropout" and len(node.input) < 3 and not any(node.output[1:])


def norms_into_weights(model: ModelProto) -> ModelProto:
    """Fold batch normalisation into the convolution or matrix product before it."""
    return fold.batch_norms(graph.copy(model))


def plain_weights(model: ModelProto) -> ModelProto:
    """Turn weights that are stored in fewer bits into plain ones."""
    return fold.storage(model)


def constants_folded(model: ModelProto) -> ModelProto:
    """Compute what depends on constants alone."""
    return fold.constants(graph.copy(model))


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
    factors_into_weights,
    norms_into_weights,
    unused_removed,
)
