"""Unstructured pruning: single weights become zero, the others take over what they did."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress.method import STEPS, Method
from edgekit.compress.prune import layerwise
from edgekit.errors import EdgekitError
from edgekit.lazy import np, onnx
from edgekit.spec import option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import ModelProto, NodeProto, TensorProto

    from edgekit.compress.method import Workbench

_PRUNED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_HINT = "put --sparsity before --int8 and --fp16; zeros survive both"
JUDGED = 64  # held-back pictures that compensation is judged on
_NAMED = 3  # layers that a note names


@STEPS.add
class sparsity(Method):
    """Set single weights of each layer to zero, and the others so that its output stays: packs better, no faster.

    `share` of each weight tensor of Conv, ConvTranspose, Gemm and MatMul. What goes and what stays how is told by the
    inputs the layer meets (`obs`), layer after layer; where that brings its output no nearer, and where it cannot be
    told, the smallest in magnitude go; of equal ones the first in memory. Raises EdgekitError when no float weights are
    left, as after --int8.
    """

    share: float = option(0.5, help="share of each layer's weights that become zero", ge=0, le=0.99)
    samples: int = option(256, help="pictures that the weights left are fitted to; 0: the smallest go", ge=0, le=4096)

    def apply(self, model: ModelProto, bench: Workbench) -> ModelProto:
        """Give the model with zeros."""
        if graph.is_quantized(model) or _is_stored_small(model):
            raise EdgekitError("sparsity: the weights are in fewer bits already", _HINT)
        chosen = graph.select(model, bench.only, bench.exclude)
        nodes = [node for node in model.graph.node if node.name in chosen]
        made, counts = by_magnitude(model, nodes, self.share)
        if self.samples and counts:
            made = self._compensated(model, made, counts, bench)
        _tell(model, made, bench)
        return made

    def _compensated(
        self, model: ModelProto, plain: ModelProto, counts: dict[str, int], bench: Workbench
    ) -> ModelProto:
        """Give the model with the others moved, if its outputs are nearer than by magnitude alone."""
        found = layerwise.compensate(model, plain, counts, lambda: bench.feeds(self.samples), bench.max_bytes)
        for reason, names in _by_reason(found.left).items():
            bench.note(f"sparsity: the smallest go in {names}: {reason}")
        if not found.better:
            return plain
        before, after = (bench.drift(model, one, JUDGED).sqnr_db for one in (plain, found.model))
        kept = after > before
        bench.note(
            f"sparsity: compensated in {found.better} of {found.tried} layers: "
            f"{before:.1f} -> {after:.1f} dB, {'kept' if kept else 'left out'}"
        )
        return found.model if kept else plain


def by_magnitude(model: ModelProto, nodes: Sequence[NodeProto], share: float) -> tuple[ModelProto, dict[str, int]]:
    """Give the model with the smallest `share` of each weight of these nodes at zero, and how many that are, by node.

    A weight that has as many zeros already is left as it is.
    """
    made = graph.copy(model)
    tensors = graph.initializers(made)
    weights = {node.input[1]: node.name for node in nodes if node.op_type in _PRUNED}
    pruned = {name: node for name, node in weights.items() if name in tensors and _is_float_matrix(tensors[name])}
    counts = {}
    for name, node in pruned.items():
        values = graph.array(tensors[name])
        count = round(share * values.size)
        if count > (values == 0).sum():
            counts[node] = count
            tensors[name].CopyFrom(onnx.numpy_helper.from_array(without_smallest(values, share), name))
    if not pruned:
        raise EdgekitError("sparsity: the model has no float32 weights of Conv, Gemm or MatMul", _HINT)
    return made, counts


def _by_reason(left: dict[str, str]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for name, reason in left.items():
        found.setdefault(reason, []).append(name)
    return {
        reason: ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
        for reason, names in found.items()
    }


def _tell(model: ModelProto, made: ModelProto, bench: Workbench) -> None:
    """Note what zeros give: bytes once packed, and no speed."""
    packed = [len(zlib.compress(one.SerializeToString(deterministic=True))) for one in (model, made)]
    bench.note(
        f"sparsity: {packed[1] / packed[0]:.2f}x the bytes once packed (zip, gzip), from {packed[0]} to {packed[1]}; "
        "the file itself keeps its size"
    )
    if not bench.foreign:
        speed = bench.speed(model, made)
        bench.note(
            f"sparsity: latency {speed.speedup:.2f}x ({speed.low:.2f}-{speed.high:.2f}), {speed.verdict}: "
            "onnxruntime multiplies by zeros like by any number"
        )


def _is_stored_small(model: ModelProto) -> bool:
    tensors = graph.initializers(model)
    small = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT16}
    return any(
        node.op_type in ("Cast", "DequantizeLinear")
        and node.input[0] in tensors
        and tensors[node.input[0]].data_type in small
        for node in model.graph.node
    )


def _is_float_matrix(tensor: TensorProto) -> bool:
    return tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) >= 2


def without_smallest(values: np.ndarray, share: float) -> np.ndarray:
    """Give a copy in which exactly round(share * size) of the values are zero (more only when more were before)."""
    flat = values.reshape(-1).copy()
    count = round(share * flat.size)
    # A stable order, so that equal magnitudes are not chosen by chance.
    flat[np.argsort(np.abs(flat), kind="stable")[:count]] = 0
    pruned: np.ndarray = flat.reshape(values.shape)
    return pruned
