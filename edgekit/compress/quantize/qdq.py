"""From float to 8 bits: conversions put into a graph at given ranges, and matrix products quantised at run time.

The only module that imports onnxruntime.quantization, and that as an inserter alone: every scale is edgekit's own.
"""

from __future__ import annotations

import contextlib
import io
import logging
from typing import TYPE_CHECKING, Any

from edgekit import graph
from edgekit.compress.quantize import correct, scope, weights
from edgekit.compress.quantize import target as types
from edgekit.compress.quantize.stem import rearrange_stems
from edgekit.compress.quantize.target import Target, target
from edgekit.errors import EdgekitError
from edgekit.lazy import np, onnx

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from onnx import ModelProto, NodeProto

    from edgekit.compress.method import Workbench
    from edgekit.compress.quantize.plan import Plan

_INFERRED = "onnx.infer"


def quantize_dynamic(model: ModelProto, bench: Workbench, chosen: set[str]) -> ModelProto:
    """Give the model with the matrix products among `chosen` in 8 bits, their inputs quantised at every inference."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
    from onnxruntime.quantization.quant_utils import QuantizationMode

    nodes = [
        node.name
        for node in model.graph.node
        if node.name in chosen and node.op_type in ("MatMul", "Gemm") and scope.is_weighted(model, node)
    ]
    if not nodes:
        raise EdgekitError(
            "dynamic: the model has no MatMul or Gemm with constant float32 weights", "use --int8 or --int8-weights"
        )
    made = graph.copy(model)
    _gemm_to_matmul(made, set(nodes))
    graph.set_metadata(made, _INFERRED, "onnxruntime.quant")
    _declare(made, {name for node in made.graph.node if node.name in nodes for name in (node.input[0], node.output[0])})
    with _quiet():
        quantizer = ONNXQuantizer(
            made,
            per_channel=True,
            reduce_range=target(bench.int8).seven_bits,
            mode=QuantizationMode.IntegerOps,
            static=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=None,
            nodes_to_quantize=nodes,
            nodes_to_exclude=[],
            op_types_to_quantize=["MatMul"],
            extra_options={"MatMulConstBOnly": True},
        )
        quantizer.quantize_model()
    return _tidied(quantizer.model.model, model)


def _gemm_to_matmul(model: ModelProto, names: set[str]) -> None:
    """Write each of these Gemm nodes as MatMul and Add, in place: the former alone has a dynamic kernel."""
    taken = graph.tensor_names(model)
    tensors = graph.initializers(model)
    for node in [node for node in model.graph.node if node.op_type == "Gemm" and node.name in names]:
        if graph.attribute(node, "transA", 0):
            continue
        weight = graph.array(tensors[node.input[1]])
        weight = weight.T if graph.attribute(node, "transB", 0) else weight
        name = graph.fresh_name(f"{node.input[1]}_columns", taken)
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(weight), name))
        if len(node.input) > 2 and node.input[2]:
            product = graph.fresh_name(f"{node.output[0]}_product", taken)
            add = onnx.helper.make_node("Add", [product, node.input[2]], [node.output[0]], f"{node.name}_add")
            model.graph.node.append(add)
            node.output[0] = product
        source = node.input[0]
        del node.input[:], node.attribute[:]
        node.op_type = "MatMul"
        node.input.extend([source, name])
    graph.sort(model)


def quantize_static(model: ModelProto, nodes: Sequence[NodeProto], plan: Plan) -> ModelProto:
    """Give the model with `nodes` in 8-bit arithmetic."""
    made = graph.copy(model)
    if not nodes:
        return made
    names = {node.name for node in nodes}
    correct.take_off(made, {name: error for name, error in plan.errors.items() if name in names})
    used = set(activations(nodes))
    limits = {name: ends for name, ends in plan.limits.items() if name in used}
    _untie(made, names, plan)
    _make_room(made, plan)
    made = _inserted(made, [node for node in made.graph.node if node.name in names], limits, plan)
    _bypass(made, scope.float_results(model, nodes))
    _keep_floats(made, {name for node in nodes for name in node.output}, names)
    _keep_float_weights(made, names)
    _keep_products(made, names)
    _show_captured(made)
    rearrange_stems(made)
    return _tidied(made, model)


def _make_room(model: ModelProto, plan: Plan) -> None:
    """Rename, in place, constants that have the names which the quantiser gives to scales and the like."""
    taken = graph.tensor_names(model)
    for tensor in model.graph.initializer:
        for suffix in ("_scale", "_zero_point", "_quantized"):
            stem = tensor.name.removesuffix(suffix)
            if stem != tensor.name and stem in taken and tensor.name not in plan.rounded:
                old, tensor.name = tensor.name, graph.fresh_name(f"{tensor.name}_own", taken)
                graph.rename_reads(model, old, tensor.name)
                break


def _show_captured(model: ModelProto) -> None:
    """Let nested graphs read the rounded value of a node in 8 bits under the name they know, in place.

    Otherwise the exact value has two readers, and onnxruntime leaves its maker in float.
    """
    makers, taken = graph.producers(model), graph.tensor_names(model)
    held = {name for node in model.graph.node for name in graph.captured(node)}
    for node in [node for node in model.graph.node if node.op_type == "DequantizeLinear"]:
        convert = makers.get(node.input[0])
        if convert is None or convert.op_type != "QuantizeLinear" or convert.input[0] not in held & makers.keys():
            continue
        name = convert.input[0]
        if any(name in other.input for other in model.graph.node if other is not convert):
            continue
        exact = graph.fresh_name(f"{name}_exact", taken)
        graph.rename_made(makers[name], name, exact)
        convert.input[0] = exact
        graph.rename_reads(model, node.output[0], name)
        node.output[0] = name
    graph.sort(model)


def _untie(model: ModelProto, names: set[str], plan: Plan) -> None:
    """Copy each weight for those of its readers in 8 bits whose channels lie along another axis of it, in place.

    One tensor has its scales along one axis; onnxruntime would read them along the other just as well. The axis of
    integers that the plan has stays with them.
    """
    tensors, taken = graph.initializers(model), graph.tensor_names(model)
    axes: dict[str, int] = {}
    copies: dict[tuple[str, int], str] = {}
    for node in model.graph.node:
        tensor = tensors.get(node.input[1]) if node.name in names and len(node.input) > 1 else None
        axis = weights.channel_axis(node, tensor) if tensor is not None else None
        if tensor is None or axis is None:
            continue
        scales = plan.rounded[tensor.name][1].shape if tensor.name in plan.rounded else ()
        first = axes.setdefault(tensor.name, next((dim for dim, size in enumerate(scales) if size > 1), axis))
        if axis == first:
            continue
        if (tensor.name, axis) not in copies:
            copies[tensor.name, axis] = graph.fresh_name(f"{tensor.name}_axis{axis}", taken)
            values = onnx.numpy_helper.from_array(graph.array(tensor), copies[tensor.name, axis])
            model.graph.initializer.append(values)
        node.input[1] = copies[tensor.name, axis]


def activations(nodes: Sequence[NodeProto]) -> list[str]:
    """Give the names of the values that flow into and out of these nodes."""
    return list(dict.fromkeys(name for node in nodes for name in (*scope.data_inputs(node), *node.output) if name))


def scale_and_zero(low: float, high: float, kind: Target) -> tuple[np.ndarray, np.ndarray]:
    """Give the scale and the zero point that map `low`..`high`, zero included, to 8 bits."""
    least, dtype = (-128, np.int8) if kind.signed_activations else (0, np.uint8)
    scale = np.float32((high - low) / types.STEPS)
    if not scale > np.finfo(np.float32).tiny:
        return np.array(1.0, np.float32), np.array(0, dtype)
    zero = np.clip(np.rint(least - low / float(scale)), least, least + types.STEPS)
    return np.array(scale), np.array(zero, dtype)


def round_values(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Round to the 256 steps of a range."""
    scale = (high - low) / types.STEPS
    if scale < np.finfo(np.float32).tiny:
        return values
    zero = np.rint(-low / scale)
    rounded: np.ndarray = (np.clip(np.rint(values / scale) + zero, 0, types.STEPS) - zero) * scale
    return rounded


def _inserted(
    model: ModelProto, nodes: Sequence[NodeProto], limits: Mapping[str, tuple[float, float]], plan: Plan
) -> ModelProto:
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import TensorData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    graph.set_metadata(model, _INFERRED, "onnxruntime.quant")
    _declare(model, limits)
    overrides = _given_weights(model, nodes, plan)
    for name, (low, high) in limits.items():
        scale, zero = scale_and_zero(low, high, plan.kind)
        overrides[name] = [{"scale": scale, "zero_point": zero}]
    extremes = {
        name: TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))
        for name, (low, high) in limits.items()
    }
    with _quiet():
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=plan.kind.seven_bits,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8 if plan.kind.signed_activations else QuantType.QUInt8,
            tensors_range=extremes,
            nodes_to_quantize=[node.name for node in nodes],
            nodes_to_exclude=[],
            op_types_to_quantize=sorted({node.op_type for node in nodes}),
            extra_options={"TensorQuantOverrides": overrides, "ForceQuantizeNoInputCheck": True},
        )
        made: ModelProto = quantizer.quantize_model()
    return made


def _given_weights(model: ModelProto, nodes: Sequence[NodeProto], plan: Plan) -> dict[str, list[dict[str, Any]]]:
    """Put the weights that the plan has rounded into the graph, in place, and give the overrides that keep them."""
    from onnxruntime.quantization import QuantType

    tensors = graph.initializers(model)
    overrides: dict[str, list[dict[str, Any]]] = {}
    for node in nodes:
        name = node.input[1] if len(node.input) > 1 else ""
        if name not in plan.rounded or name not in tensors:
            continue
        integers, scales = plan.rounded[name]
        axis = weights.channel_axis(node, tensors[name])
        assert axis is not None
        shape = [-1 if dim == axis else 1 for dim in range(integers.ndim)]
        values = integers.astype(np.float32) * scales.astype(np.float32).reshape(shape)
        tensors[name].CopyFrom(onnx.numpy_helper.from_array(values, name))
        zero = np.array(0, np.int8)
        overrides[name] = [{"scale": np.array(scale, np.float32), "zero_point": zero} for scale in scales.reshape(-1)]
        overrides[name][0] |= {"axis": axis, "quant_type": QuantType.QInt8}
        for channel in overrides[name][1:]:
            channel["quant_type"] = QuantType.QInt8
    return overrides


def _declare(model: ModelProto, names: Iterable[str]) -> None:
    """Say that these values are floats, so that nothing has to be inferred (onnxruntime would use a file for it)."""
    known = {value.name for value in (*model.graph.input, *model.graph.output, *model.graph.value_info)}
    for name in sorted(set(names) - known):
        model.graph.value_info.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep onnxruntime's prints and its use of the root logger to itself."""
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, [logging.NullHandler()]
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        root.handlers = handlers


def _bypass(model: ModelProto, names: set[str]) -> None:
    """Take the pair of conversions behind each of these values away again."""
    makers = graph.producers(model)
    shown = graph.outputs(model)
    gone = []
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear":
            continue
        convert = makers.get(node.input[0])
        if convert is None or convert.op_type != "QuantizeLinear":
            continue
        if node.output[0] in names & shown:
            # The value was renamed so that the conversion could take its name.
            graph.rename_made(makers[convert.input[0]], convert.input[0], node.output[0])
        elif convert.input[0] in names:
            graph.rename_reads(model, node.output[0], convert.input[0])
        else:
            continue
        gone += [node, convert]
    graph.remove_nodes(model, gone)


def _keep_floats(model: ModelProto, made_in_8_bits: set[str], names: set[str]) -> None:
    """Let float nodes and outputs have what a float node made as it is, not rounded for a neighbour's sake."""
    makers = graph.producers(model)
    shown = graph.outputs(model)
    taken = graph.tensor_names(model)
    for node in [node for node in model.graph.node if node.op_type == "DequantizeLinear"]:
        convert = makers.get(node.input[0])
        if convert is None or convert.op_type != "QuantizeLinear":
            continue
        # An output was renamed so that its rounded version could take its name.
        renamed = node.output[0] in shown
        value = node.output[0] if renamed else convert.input[0]
        if value in made_in_8_bits:
            continue
        if renamed:
            graph.rename_made(makers[convert.input[0]], convert.input[0], value)
            convert.input[0] = value
            node.output[0] = graph.fresh_name(f"{value}_rounded", taken)
        old, new = (value, node.output[0]) if renamed else (node.output[0], value)
        for reader in model.graph.node:
            if (reader.name in names) == renamed and reader.op_type != "QuantizeLinear":
                graph.rename_in(reader, old, new)


def _keep_float_weights(model: ModelProto, names: set[str]) -> None:
    """Give each Conv that is to stay in float a conversion of its own, with as many equal scales as it has channels.

    Between plain conversions onnxruntime (1.22 and later, its WeightBiasQuantization) quantises the weights of a float
    Conv too, with one scale for all channels: yolox_nano falls from 30.1 to 2.3 mAP by it.
    """
    makers, tensors = graph.producers(model), graph.initializers(model)
    taken = graph.tensor_names(model) | {node.name for node in model.graph.node}
    for node in [node for node in model.graph.node if node.op_type == "Conv" and node.name not in names]:
        source, weight = makers.get(node.input[0]), tensors.get(node.input[1])
        if source is None or source.op_type != "DequantizeLinear" or weight is None:
            continue
        channels = weight.dims[1] * int(graph.attribute(node, "group", 1))  # type: ignore[call-overload]
        own = [graph.fresh_name(f"{node.name}{what}", taken) for what in ("_scales", "_zeros", "_float")]
        for name, known in zip(own, source.input[1:], strict=False):
            values = np.full(channels, graph.array(tensors[known]))
            model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
        inputs = [source.input[0], *own[:2]]
        model.graph.node.append(onnx.helper.make_node("DequantizeLinear", inputs, own[2:], own[2], axis=1))
        node.input[0] = own[2]


def _keep_products(model: ModelProto, names: set[str]) -> None:
    """Subtract the negative of the bias that is added behind a MatMul of these names, in place: the sums are the same.

    Where onnxruntime (1.31, its MatMulAddFusion) knows the shapes, it makes a Gemm of MatMul and Add before it looks
    for 8-bit arithmetic, and that Gemm runs in float: a DeiT-tiny at 0.36 of its float speed instead of 1.75.
    """
    tensors, readers = graph.initializers(model), graph.consumers(model)
    taken, negatives = graph.tensor_names(model), dict[str, str]()
    for product in [node for node in model.graph.node if node.op_type == "MatMul" and node.name in names]:
        after = readers.get(product.output[0], [])
        bias = next((name for name in after[0].input if name in tensors), "") if len(after) == 1 else ""
        if not bias or after[0].op_type != "Add" or after[0].name in names:
            continue
        if bias not in negatives:
            negatives[bias] = graph.fresh_name(f"{bias}_negative", taken)
            values = onnx.numpy_helper.from_array(-graph.array(tensors[bias]), negatives[bias])
            model.graph.initializer.append(values)
        after[0].op_type = "Sub"
        del after[0].input[:]
        after[0].input.extend([product.output[0], negatives[bias]])


def _tidied(made: ModelProto, original: ModelProto) -> ModelProto:
    made.producer_name, made.producer_version = original.producer_name, original.producer_version
    graph.set_metadata(made, _INFERRED, None)
    graph.unique_names(made)
    graph.sort(made)
    graph.remove_dead(made)
    del made.graph.value_info[:]
    made.graph.value_info.extend(original.graph.value_info)
    graph.remove_dead(made)
    tensors = sorted(graph.initializers(graph.copy(made)).items())
    del made.graph.initializer[:]
    made.graph.initializer.extend(tensor for _, tensor in tensors)
    return made
