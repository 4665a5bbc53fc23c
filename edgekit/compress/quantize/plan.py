"""Plan: everything 8-bit arithmetic needs to know of a model before any of it is quantised."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgekit.compress.quantize import correct, qdq, ranges, weights
from edgekit.compress.quantize.target import Target, target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from onnx import ModelProto, NodeProto

    from edgekit.compress.method import Workbench

    Integers = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Plan:
    """How a model is quantised.

    limits: the range of each value. errors: what is taken off the bias of a node, by channel. rounded: the integers and
    the scales (one an output channel) of weights that are not just rounded to the nearest. kind: the types.
    """

    limits: Mapping[str, tuple[float, float]]
    errors: Mapping[str, np.ndarray]
    kind: Target
    rounded: Mapping[str, Integers] = field(default_factory=dict)

    @classmethod
    def make(cls, model: ModelProto, nodes: Sequence[NodeProto], samples: int, method: str, bench: Workbench) -> Plan:
        """Measure what these nodes need: ranges by `method`, and the mean errors of rounding to the nearest."""
        kind = target(bench.int8)
        histograms = ranges.collect(model, qdq.activations(nodes), bench.feeds(samples))
        limits = {
            name: seen.limits(method, through=ranges.flat_sided(model, name)) for name, seen in histograms.items()
        }

        def rounded_values(name: str, values: np.ndarray) -> np.ndarray:
            return qdq.round_values(values, *limits[name]) if name in limits else values

        def rounded_weights(_: str, values: np.ndarray) -> np.ndarray:
            integers, scale = weights.rounded(values, 0, largest=63 if kind.seven_bits else 127)
            back: np.ndarray = integers * scale
            return back

        layers = [node for node in nodes if node.op_type == "Conv"]
        errors = correct.errors(model, layers, bench.feeds(samples), rounded_weights, rounded_values)
        return cls(limits, errors, kind)
