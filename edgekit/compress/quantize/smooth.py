"""SmoothQuant: the channels of what a matrix product reads get ranges nearer to each other, its weights pay for it.

s_j = max|X_j|^a / max|W_j|^(1 - a), X / s, W * s (Xiao et al., arXiv 2211.10438, equation 4). 1 / s goes into the
constants that make X: a normalisation's scale and bias, or the layer before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.compress.quantize import channels, homogeneous
from edgekit.lazy import np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto

    from edgekit.compress.quantize.channels import Channels


def smooth(
    model: ModelProto, allowed: set[str], maxima: Mapping[str, np.ndarray], alpha: float = 0.5
) -> tuple[ModelProto, int]:
    """Give a model with smoothed inputs of matrix products and the same outputs, and the number of these inputs.

    `maxima`: the largest absolute value of each channel (K) of the tensors that `read` names; without them a tensor is
    left alone. `alpha`, 0..1: how much of the difference between channels goes over to the weights. Only constants of
    the nodes in `allowed` change, by powers of two. What cannot be folded into them is left alone.
    """
    found = homogeneous.trace(model, allowed)
    exponents = np.rint(np.clip(factors(found, maxima, alpha), -channels.MOST, channels.MOST)).astype(np.int64)
    changed = {layer.node.input[0] for layer in found.layers if exponents[layer.reads].any()}
    return channels.scaled(model, found, exponents), len(changed)


def read(model: ModelProto, allowed: set[str]) -> list[str]:
    """Give the names of the tensors that `smooth` needs the maxima of."""
    found = homogeneous.trace(model, allowed)
    return list(dict.fromkeys(layer.node.input[0] for layer in found.layers if layer.reads.all() and _product(layer)))


def factors(found: Channels, maxima: Mapping[str, np.ndarray], alpha: float) -> np.ndarray:
    """Give log2 s for each number, unrounded; 0 for those that are read by anything but matrix products, or dead."""
    values, weights = np.full((2, found.count), -np.inf)
    barred = np.zeros(found.count, bool)
    for layer in found.layers:
        seen = maxima.get(layer.node.input[0])
        # Beside channels that are fixed, the others would lose their proportion.
        whole = bool(layer.reads.all())
        if not _product(layer) or not whole or seen is None or seen.shape != layer.reads.shape:
            barred[layer.reads] = True
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            np.maximum.at(values, layer.reads, np.log2(seen.astype(np.float64)))
            sizes = np.abs(layer.weight).max(axis=(0, 1, 3)).astype(np.float64)
            np.maximum.at(weights, layer.reads, np.log2(sizes))
    free = np.isfinite(values) & np.isfinite(weights) & ~barred
    free[0] = False
    logs = np.zeros(found.count)
    logs[free] = alpha * values[free] - (1 - alpha) * weights[free]
    return logs


def _product(layer: channels.Layer) -> bool:
    return layer.node.op_type in ("MatMul", "Gemm")
