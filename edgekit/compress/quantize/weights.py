"""Weights stored in fewer bits, arithmetic left in float: smaller files at the old speed.

The stored tensor is turned back by Cast (and Mul) under its old name. onnxruntime computes that once, when it opens the
model; a DequantizeLinear it would compute at every inference (measured on its 1.31).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress import fold
from edgekit.compress.method import STEPS, Method
from edgekit.compress.quantize import correct, target
from edgekit.errors import EdgekitError
from edgekit.lazy import np, onnx

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from onnx import ModelProto, NodeProto, TensorProto

    from edgekit.compress.method import Workbench

# Below it, the two nodes and the scales take more bytes than they save.
SMALLEST = 128
# Nor is a tensor stored that holds a smaller share of all weights: it saves nothing, and first layers are delicate.
# Storing them too, yolox_nano has 0.05 MB less of 1.1 and up to a point less mAP.
SMALLEST_SHARE = 1 / 500
# Which inputs of an operator are weights.
WEIGHT_INPUTS: dict[str, tuple[int, ...]] = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "Gather": (0,),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
}
_LARGEST_HALF = 65504.0
_OLDEST_OPSET = 7
_FLOAT = 1  # onnx.TensorProto.FLOAT, which is not to be imported yet


@STEPS.add
class int8_weights(Method):
    """Store weights in 8 bits, run in float: about 0.3x the bytes at the old speed.

    One scale for each output channel, symmetric, so zeros stay zeros. Tensors of fewer than 128 values, or of less than
    0.2 % of all, are left alone.
    Raises EdgekitError when no float weights are left to store.
    """

    def apply(self, model: ModelProto, bench: Workbench) -> ModelProto:
        """Give the model with its weights stored as int8."""
        made = fold.storage(model)
        chosen = graph.select(made, bench.only, bench.exclude)
        if not store_int8(made, chosen, bench, mean_errors(made, chosen, bench)):
            raise nothing_left(model)
        return made


@STEPS.add
class fp16(Method):
    """Store weights as float16, run in float32: half the bytes at the old speed.

    onnxruntime's CPU build has no float16 kernels for convolutions and matrix products, so the arithmetic stays in
    float32. A tensor with values above 65504 is left alone. Raises EdgekitError when no float32 weights are left.
    """

    def apply(self, model: ModelProto, bench: Workbench) -> ModelProto:
        """Give the model with its weights stored as float16."""
        made = graph.copy(model)
        chosen = graph.select(made, bench.only, bench.exclude)
        tensors = [
            tensor
            for tensor in _plain_floats(made, (onnx.TensorProto.FLOAT,))
            if all(node.name in chosen for node in graph.consumers(made).get(tensor.name, []))
        ]
        stored = [tensor.name for tensor in tensors if _store_half(made, tensor, bench)]
        if not stored:
            raise nothing_left(model)
        graph.sort(made)
        return made


def nothing_left(model: ModelProto) -> EdgekitError:
    """Say why there is nothing to store or to prune."""
    types = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT16}
    if any(tensor.data_type in types for tensor in model.graph.initializer):
        return EdgekitError("the model has no float32 weights left", "leave this step out, or put it first")
    return EdgekitError(
        f"the model has no float32 weights of at least {SMALLEST} values", "there is nothing that this step could do"
    )


def mean_errors(model: ModelProto, chosen: set[str], bench: Workbench) -> dict[str, np.ndarray]:
    """Give what rounding its weights alone does to the mean outputs of each chosen Conv."""
    layers = [node for node in model.graph.node if node.name in chosen and node.op_type == "Conv"]
    return correct.errors(model, layers, bench.feeds(correct.ENOUGH_SAMPLES), _first_axis)


def store_int8(model: ModelProto, chosen: set[str], bench: Workbench, errors: Mapping[str, np.ndarray]) -> list[str]:
    """Store the weights that only `chosen` nodes read in 8 bits, in place; give their names.

    `errors` are taken off the biases of the nodes whose weights were stored.
    """
    _require_opset(model)
    readers = graph.consumers(model)
    stored = []
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    whole = sum(int(np.prod(tensor.dims, dtype=np.int64)) for tensor in model.graph.initializer)
    for tensor in list(_plain_floats(model, kinds, int(SMALLEST_SHARE * whole))):
        axes = [channel_axis(node, tensor) for node in readers.get(tensor.name, [])]
        wanted = all(node.name in chosen for node in readers.get(tensor.name, []))
        if not axes or None in axes or not wanted:
            continue
        values = graph.array(tensor)
        if not np.isfinite(values).all():
            bench.note(f"{tensor.name}: has values that are not finite, left as it is")
            continue
        stored.append(tensor.name)
        # Any axis is right for any reader: the values come back under the old name.
        _replace(model, tensor, *rounded(values, axes[0]))
    changed = {node.name for node in model.graph.node if node.op_type == "Conv" and node.input[1] in stored}
    correct.take_off(model, {name: error for name, error in errors.items() if name in changed})
    graph.sort(model)
    graph.remove_dead(model)
    return stored


def _first_axis(_: str, values: np.ndarray) -> np.ndarray:
    integers, scale = rounded(values, 0)
    back: np.ndarray = integers * scale
    return back


def rounded(values: np.ndarray, axis: int | None, largest: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Round to -`largest`..`largest` with one scale for each index along `axis`; give the integers and the scales."""
    largest = target.LARGEST if largest is None else largest
    others = tuple(dim for dim in range(values.ndim) if dim != axis)
    extreme = np.abs(values.astype(np.float32)).max(axis=others, keepdims=True)
    scale = np.where(extreme > 0, extreme / np.float32(largest), np.float32(1)).astype(np.float32)
    scale = np.maximum(scale, np.finfo(np.float32).tiny)
    return np.clip(np.rint(values / scale), -largest, largest).astype(np.int8), scale


def channel_axis(node: NodeProto, tensor: TensorProto) -> int | None:
    """Give the axis of a weight along which a reader's outputs lie; None when it is no weight of that reader."""
    place = list(node.input).index(tensor.name) if tensor.name in node.input else -1
    rank = len(tensor.dims)
    if place not in WEIGHT_INPUTS.get(node.op_type, ()) or rank < 2:
        return None
    if node.op_type in ("Conv", "Gather"):
        return 0
    if node.op_type in ("ConvTranspose", "LSTM", "GRU", "RNN"):
        return 1
    if node.op_type == "Gemm":
        transposed = graph.attribute(node, "transB" if place == 1 else "transA", 0)
        return 0 if bool(transposed) == (place == 1) else 1
    return rank - 1 if place == 1 else rank - 2


def _require_opset(model: ModelProto) -> None:
    if graph.opset(model) < _OLDEST_OPSET:
        raise EdgekitError(
            f"the model's operators are of version {graph.opset(model)}, older than {_OLDEST_OPSET}",
            "export it again with a newer opset",
        )


def _plain_floats(model: ModelProto, types: Iterable[int], least: int = 0) -> Iterable[TensorProto]:
    # onnxruntime folds nothing that could still be fed.
    kept = {value.name for value in (*model.graph.input, *model.graph.output)}
    for tensor in list(model.graph.initializer):
        size = int(np.prod(tensor.dims, dtype=np.int64))
        if tensor.data_type in types and size >= max(SMALLEST, least) and tensor.name not in kept:
            yield tensor


def _replace(model: ModelProto, tensor: TensorProto, integers: np.ndarray, scale: np.ndarray) -> None:
    name, data_type = tensor.name, tensor.data_type
    taken = graph.tensor_names(model)
    small, factor, wide = (graph.fresh_name(f"{name}{suffix}", taken) for suffix in ("_int8", "_scale", "_wide"))
    tensor.CopyFrom(onnx.numpy_helper.from_array(integers, small))
    model.graph.initializer.append(onnx.numpy_helper.from_array(scale, factor))
    nodes = {node.name for node in model.graph.node}
    cast = onnx.helper.make_node("Cast", [small], [wide], graph.fresh_name(f"{name}_cast", nodes), to=_FLOAT)
    # onnxruntime's CPU build multiplies in float32 alone, and folds only what it can multiply.
    product = name if data_type == _FLOAT else graph.fresh_name(f"{name}_product", taken)
    scaled = onnx.helper.make_node("Mul", [wide, factor], [product], graph.fresh_name(f"{name}_unscale", nodes))
    model.graph.node.extend([cast, scaled])
    if product != name:
        narrow = graph.fresh_name(f"{name}_narrow", nodes)
        model.graph.node.append(onnx.helper.make_node("Cast", [product], [name], narrow, to=data_type))


def _store_half(model: ModelProto, tensor: TensorProto, bench: Workbench) -> bool:
    values = graph.array(tensor)
    if not (np.abs(values) <= _LARGEST_HALF).all():
        bench.note(f"{tensor.name}: has values above {_LARGEST_HALF:g}, which float16 cannot hold; left as it is")
        return False
    name = tensor.name
    half = graph.fresh_name(f"{name}_half", graph.tensor_names(model))
    tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), half))
    cast = graph.fresh_name(f"{name}_cast", {node.name for node in model.graph.node})
    model.graph.node.append(onnx.helper.make_node("Cast", [half], [name], cast, to=onnx.TensorProto.FLOAT))
    return True
