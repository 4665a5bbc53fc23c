"""Unstructured pruning: the smallest weights become zero."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress.method import STEPS, Method
from edgekit.errors import EdgekitError
from edgekit.lazy import np, onnx
from edgekit.spec import option

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

    from edgekit.compress.method import Workbench

_PRUNED = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}
_HINT = "put --sparsity before --int8 and --fp16; zeros survive both"


@STEPS.add
class sparsity(Method):
    """Set the smallest weights of each layer to zero: the file packs better, the speed stays.

    `share` of each weight tensor of Conv, ConvTranspose, Gemm and MatMul, the smallest in magnitude; of equal ones the
    first in memory. Raises EdgekitError when no float weights are left, as after --int8.
    """

    share: float = option(0.5, help="share of each layer's weights that become zero", ge=0, le=0.99)

    def apply(self, model: ModelProto, bench: Workbench) -> ModelProto:
        """Give the model with its smallest weights at zero."""
        made = graph.copy(model)
        if graph.is_quantized(made) or _is_stored_small(made):
            raise EdgekitError("sparsity: the weights are in fewer bits already", _HINT)
        chosen = graph.select(made, bench.only, bench.exclude)
        weights = {
            node.input[place]: None
            for node in made.graph.node
            if node.name in chosen and (place := _PRUNED.get(node.op_type)) is not None
        }
        tensors = graph.initializers(made)
        pruned = [tensors[name] for name in weights if name in tensors and _is_float_matrix(tensors[name])]
        if not pruned:
            raise EdgekitError("sparsity: the model has no float32 weights of Conv, Gemm or MatMul", _HINT)
        for tensor in pruned:
            kept = without_smallest(graph.array(tensor), self.share)
            tensor.CopyFrom(onnx.numpy_helper.from_array(kept, tensor.name))
        return made


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
