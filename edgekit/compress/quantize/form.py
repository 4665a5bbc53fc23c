"""Form: what a model runs as once the steps that follow are applied, so that it is timed as that.

In 8 bits other numbers of channels pay than in float, and other splits: on resnet20 with AVX512-VNNI, eight of sixteen
channels fewer save 3% in float and cost 4% in 8 bits, and two steps chosen for float gain next to nothing together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress.quantize import cut, qdq, scope, weights
from edgekit.compress.quantize.cut import Times
from edgekit.compress.quantize.plan import Plan
from edgekit.compress.quantize.target import target

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgekit.compress.method import Feed, Workbench

# Steps after which a model runs in 8 bits.
EIGHT = ("int8", "static")
AS_IS, INT8 = "as it is", "int8"


@dataclass
class Form:
    """Gives a model as it will run, at ranges that are made up: they change no time.

    `time_nodes`: microseconds of each node of a model by name. `feed`: any input. Which nodes stay in float is found on
    the first model given, the original; what is made of it keeps to that.
    """

    int8: str
    only: Sequence[str]
    exclude: Sequence[str]
    time_nodes: Callable[[ModelProto], Mapping[str, float]]
    feed: Callable[[], Feed]
    _float: set[str] | None = None

    def __call__(self, model: ModelProto) -> ModelProto:
        """Give the model in 8 bits as far as that pays."""
        if graph.is_quantized(model):
            return model
        if self._float is None:
            self._float = {node.name for node in model.graph.node} - self._faster(model)
        return self._quantized(model, {node.name for node in model.graph.node} - self._float)

    def _faster(self, model: ModelProto) -> set[str]:
        able = {node.name for node in scope.scope(model, graph.select(model, self.only, self.exclude))}
        if not able:
            return able
        eight = self.time_nodes(self._quantized(model, able))
        return cut.cheapest(model, able, Times.of(model, self.feed(), self.time_nodes(model), eight))

    def _quantized(self, model: ModelProto, names: set[str]) -> ModelProto:
        nodes = scope.scope(model, names)
        tensors = graph.initializers(model)
        read = {node.input[1]: node for node in nodes if scope.is_weighted(model, node)}
        rounded = {
            name: weights.rounded(graph.array(tensors[name]), weights.channel_axis(node, tensors[name]))
            for name, node in read.items()
        }
        limits = dict.fromkeys(qdq.activations(nodes), (-1.0, 1.0))
        return qdq.quantize_static(model, nodes, Plan(model, limits, {}, target(self.int8), rounded))


def as_run(
    form: str, bench: Workbench, time_nodes: Callable[[ModelProto], Mapping[str, float]]
) -> Callable[[ModelProto], ModelProto]:
    """Give what makes of a model what it will run as; `time_nodes` times one as it is."""
    if form == AS_IS:
        return lambda model: model
    return Form(bench.int8, bench.only, bench.exclude, time_nodes, lambda: next(iter(bench.feeds(1))))


def after(following: Sequence[str]) -> str:
    """Give what a model runs as when steps of these names follow: `int8` or `as it is`."""
    return INT8 if any(name in EIGHT for name in following) else AS_IS
