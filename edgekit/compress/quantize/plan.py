"""Plan: everything 8-bit arithmetic needs to know of a model before any of it is quantised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress.quantize import correct, qdq, ranges, saturation, scope, weights
from edgekit.compress.quantize.target import Target, target
from edgekit.lazy import np

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from edgekit.compress.method import Workbench

    Integers = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Plan:
    """How a model is quantised.

    model: the float model, its weights rescaled by the repairs. limits: the range of each value. errors: what is taken
    off the bias of a node, by channel. rounded: the integers and the scales (one an output channel) of weights that are
    not just rounded to the nearest. kind: the types. kept: the repairs that it holds, by name.
    """

    model: ModelProto
    limits: Mapping[str, tuple[float, float]]
    errors: Mapping[str, np.ndarray]
    kind: Target
    rounded: Mapping[str, Integers] = field(default_factory=dict)
    kept: tuple[str, ...] = ()

    def value(self, name: str, values: np.ndarray) -> np.ndarray:
        """Round a value as the 8-bit model will."""
        return qdq.round_values(values, *self.limits[name]) if name in self.limits else values

    @classmethod
    def make(cls, model: ModelProto, nodes: Sequence[NodeProto], samples: int, method: str, bench: Workbench) -> Plan:
        """Measure what these nodes need: ranges by `method`, and the mean errors of rounding to the nearest."""
        histograms = ranges.measured(model, qdq.activations(nodes), bench, samples)
        sides = ranges.flat_sides(model)
        limits = {name: seen.limits(method, through=sides.get(name)) for name, seen in histograms.items()}
        kind = target(bench.int8)
        plan = cls(model, limits, {}, kind, _rounded(model, nodes, kind))
        return plan.with_errors(nodes, samples, bench)

    def with_errors(self, nodes: Sequence[NodeProto], samples: int, bench: Workbench) -> Plan:
        """Measure what rounding does to the mean outputs of the convolutions among `nodes`, each by itself."""

        def rounded_weights(name: str, values: np.ndarray) -> np.ndarray:
            integers, scale = self.rounded[name] if name in self.rounded else weights.rounded(values, 0)
            back: np.ndarray = integers * scale
            return back

        layers = [node for node in nodes if node.op_type == "Conv"]
        return replace(
            self, errors=correct.errors(self.model, layers, bench.feeds(samples), rounded_weights, self.value)
        )


def _rounded(model: ModelProto, nodes: Sequence[NodeProto], kind: Target) -> dict[str, Integers]:
    """Round the weights to the nearest; where a CPU needs that, so that no sum can leave 16 bits."""
    tensors = graph.initializers(model)
    found: dict[str, Integers] = {}
    for node in nodes:
        tensor = tensors.get(node.input[1]) if scope.is_weighted(model, node) else None
        axis = weights.channel_axis(node, tensor) if tensor is not None else None
        if tensor is not None and axis is not None and np.isfinite(graph.array(tensor)).all():
            values = graph.array(tensor)
            found[tensor.name] = (
                saturation.fitted(node, values, axis) if kind.seven_bits else weights.rounded(values, axis)
            )
    return found
