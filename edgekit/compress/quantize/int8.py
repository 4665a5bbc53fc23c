"""8-bit arithmetic: static (calibrated) and dynamic quantisation, and the choice of what pays on this CPU.

The only module that imports onnxruntime.quantization, and that as an inserter alone: every scale is edgekit's own.
"""

from __future__ import annotations

import contextlib
import io
import logging
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress import fold
from edgekit.compress.method import STEPS, Method
from edgekit.compress.quantize import ranges, scope
from edgekit.compress.quantize.target import Target, target
from edgekit.errors import EdgekitError
from edgekit.lazy import np, onnx
from edgekit.spec import option

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from onnx import ModelProto, NodeProto

    from edgekit.compress.method import Workbench

_INFERRED = "onnx.infer"


def quantize_static(
    model: ModelProto, bench: Workbench, nodes: list[NodeProto], histograms: Mapping[str, ranges.Histogram], method: str
) -> ModelProto:
    """Give the model with `nodes` in 8-bit arithmetic, the ranges of their values chosen by `method`."""
    kind = target(bench.int8)
    limits = _limits(model, nodes, histograms, method, kind)
    made = _inserted(graph.copy(model), nodes, limits, kind)
    _bypass(made, scope.float_results(model, nodes))
    return _tidied(made, model)


def _limits(
    model: ModelProto, nodes: list[NodeProto], histograms: Mapping[str, ranges.Histogram], method: str, kind: Target
) -> dict[str, tuple[float, float]]:
    return {
        name: histograms[name].limits(method, through=_through(model, name))
        for name in activations(nodes)
        if name in histograms
    }


def activations(nodes: list[NodeProto]) -> list[str]:
    """Give the names of the values that flow into and out of these nodes."""
    return list(dict.fromkeys(name for node in nodes for name in (*scope.data_inputs(node), *node.output) if name))


def _through(model: ModelProto, name: str) -> ranges.Through | None:
    """Give the function that alone reads a value, when it is one with a flat side."""
    return None


def scale_and_zero(low: float, high: float, kind: Target) -> tuple[np.ndarray, np.ndarray]:
    """Give the scale and the zero point that map `low`..`high`, zero included, to 8 bits."""
    least, dtype = (-128, np.int8) if kind.signed_activations else (0, np.uint8)
    scale = np.float32((high - low) / 255)
    if not scale > np.finfo(np.float32).tiny:
        return np.array(1.0, np.float32), np.array(0, dtype)
    zero = np.clip(np.rint(least - low / float(scale)), least, least + 255)
    return np.array(scale), np.array(zero, dtype)


def _inserted(
    model: ModelProto, nodes: list[NodeProto], limits: Mapping[str, tuple[float, float]], kind: Target
) -> ModelProto:
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import TensorData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    graph.set_metadata(model, _INFERRED, "onnxruntime.quant")
    known = {value.name for value in (*model.graph.input, *model.graph.output, *model.graph.value_info)}
    for name in limits:
        if name not in known:
            model.graph.value_info.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    overrides = {}
    for name, (low, high) in limits.items():
        scale, zero = scale_and_zero(low, high, kind)
        overrides[name] = [{"scale": scale, "zero_point": zero}]
    extremes = {
        name: TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))
        for name, (low, high) in limits.items()
    }
    with _quiet():
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=kind.seven_bits,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8 if kind.signed_activations else QuantType.QUInt8,
            tensors_range=extremes,
            nodes_to_quantize=[node.name for node in nodes],
            nodes_to_exclude=[],
            op_types_to_quantize=sorted({node.op_type for node in nodes}),
            extra_options={"TensorQuantOverrides": overrides, "ForceQuantizeNoInputCheck": True},
        )
        made: ModelProto = quantizer.quantize_model()
    return made


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
            makers[convert.input[0]].output[0] = node.output[0]
        elif convert.input[0] in names:
            graph.rename_reads(model, node.output[0], convert.input[0])
        else:
            continue
        gone += [node, convert]
    graph.remove_nodes(model, gone)


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
