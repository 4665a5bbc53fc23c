"""Which 8-bit models are worth measuring, in what order: a few guesses, each after what the ones before it showed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from edgekit import graph
from edgekit.compress.quantize import cut, qdq, repair, scope, sensitivity, weights

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onnx import ModelProto, NodeProto

    from edgekit.compress.method import Workbench
    from edgekit.compress.quantize.plan import Plan
    from edgekit.compress.quantize.repair import Wanted
    from edgekit.compress.search import Search, Trial

MOST_FIRST_LAYERS = 3
# What the noise of the parts that stay in 8 bits may add up to.
TARGETS_DB = (12.0, 15.0, 18.0, 22.0, 27.0)
# What noise as large as the output itself costs, in times of the whole float model; and that in words.
PRICES = (1.0, 10.0, 100.0)
_PRICED = ("quiet", "quieter", "quietest")
STORED = "stored in 8 bits"


@dataclass
class Maker:
    """Makes the 8-bit models of one float model, each from a decision: plain values that a recipe can hold."""

    model: ModelProto
    chosen: set[str]
    wanted: Wanted
    bench: Workbench

    @cached_property
    def nodes(self) -> list[NodeProto]:
        """The nodes that can run in 8 bits."""
        return scope.scope(self.model, self.chosen)

    @cached_property
    def plan(self) -> Plan:
        """How they are quantised; measured at first use."""
        return repair.plan(self.model, [node.name for node in self.nodes], self.wanted.without(repair.LAST), self.bench)

    @cached_property
    def _errors(self) -> Mapping[str, Any]:
        return weights.mean_errors(self.model, self.chosen, self.bench)

    @cached_property
    def _repaired_errors(self) -> Mapping[str, Any]:
        # Equalised channels have other errors.
        same = self.plan.model is self.model
        return self._errors if same else weights.mean_errors(self.plan.model, self.chosen, self.bench)

    @cached_property
    def parts(self) -> list[sensitivity.Part]:
        """The noise of each part of the graph; measured at first use."""
        few = self.bench.feeds(sensitivity.FEEDS)
        return sensitivity.measured_parts(self.plan.model, self.nodes, self.quantized, few)

    def quantized(self, names: set[str], plan: Plan | None = None) -> ModelProto:
        """Give the model with these nodes in 8 bits, as far as they are worth it together."""
        plan = plan or self.plan
        return qdq.quantize_static(plan.model, scope.scope(plan.model, names), plan)

    def make(self, decision: Mapping[str, Any]) -> ModelProto:
        """Give the model of a decision. What stays in float is stored in 8 bits."""
        kind = decision["kind"]
        if kind == "stored":
            return weights.int8_weights().apply(self.model, self.bench)
        if kind == "dynamic":
            made, errors = qdq.quantize_dynamic(self.model, self.bench, self.chosen), self._errors
        else:
            names = self.chosen - set(decision["float"])
            last = decision["last"] and repair.corrected(self.plan, sorted(names), self.wanted, self.bench)
            made, errors = self.quantized(names, last or None), self._repaired_errors
        weights.store_int8(made, self.chosen, self.bench, errors)
        return made

    def static(self, left_out: Iterable[str]) -> dict[str, Any]:
        """Give the decision to leave these nodes in float."""
        gone = set(left_out)
        return {
            "kind": "static",
            "float": [node.name for node in self.nodes if node.name in gone],
            "last": False,
        }

    def finished(self, taken: Trial) -> Mapping[str, Any]:
        """Give the decision of the trial that was taken, with the last repair when that helps it."""
        if taken.decision["kind"] != "static" or repair.LAST not in self.wanted.repairs:
            return taken.decision
        decision = {**taken.decision, "last": True}
        reached = self.bench.drift(self.model, self.make(decision)).sqnr_db
        return decision if repair.helps(repair.LAST, taken.drift.sqnr_db, reached, self.bench) else taken.decision


def explore(maker: Maker, search: Search) -> None:
    """Enter candidates into the search, the promising ones first."""
    enter(search, maker, STORED, {"kind": "stored"})
    if not maker.nodes:
        return
    if mostly_products(maker.model, maker.nodes):
        enter(search, maker, "dynamic int8", {"kind": "dynamic"})
    whole = enter(search, maker, "static int8", maker.static(()))
    if not maker.bench.foreign:
        _where_it_pays(maker, search)
    if not any(search.near(trial) for trial in search.trials if trial.decision["kind"] == "static"):
        _quieter(maker, search)
    elif search.near(whole) and not maker.bench.foreign:
        _without_first_layers(maker, search, whole)


def enter(search: Search, maker: Maker, name: str, decision: Mapping[str, Any]) -> Trial:
    """Make and measure one candidate."""
    return search.enter(name, maker.make(decision), decision)


def mostly_products(model: ModelProto, nodes: list[NodeProto]) -> bool:
    """Tell whether matrix products hold most of the weights."""
    tensors = graph.initializers(model)
    sizes = {"Conv": 0, "Gemm": 0, "MatMul": 0}
    for node in nodes:
        if node.op_type in sizes:
            sizes[node.op_type] += math.prod(tensors[node.input[1]].dims)
    return sizes["Gemm"] + sizes["MatMul"] > sizes["Conv"]


def _without_first_layers(maker: Maker, search: Search, last: Trial) -> None:
    """Leave out one more of the first convolutions each time, for as long as that makes it faster.

    Few channels and large pictures are slow in 8 bits.
    """
    convolutions = [node.name for node in maker.nodes if node.op_type == "Conv"]
    for count in range(1, min(MOST_FIRST_LAYERS, len(convolutions) - 1) + 1):
        if not search.may_go_on():
            return
        name = f"static int8 without the first {f'{count} layers' if count > 1 else 'layer'}"
        trial = enter(search, maker, name, maker.static(convolutions[:count]))
        if not search.near(trial) or trial.speedup < last.speedup:
            return
        last = trial


def _where_it_pays(maker: Maker, search: Search) -> None:
    """Enter the cheapest choice of nodes by their own times, and as long as none is near enough, quieter ones."""
    if not search.may_go_on():
        return
    times = cut.Times.measure(maker.plan.model, maker.quantized(maker.chosen), maker.bench)
    seen: list[set[str]] = []
    noise: Mapping[str, float] = {}
    for price in (0.0, *PRICES):
        if price and not noise:
            noise = sensitivity.by_node(maker.parts)
        inside = cut.cheapest(maker.plan.model, {node.name for node in maker.nodes}, times.priced(noise, price))
        gone = {node.name for node in maker.nodes} - inside
        if not gone or gone in seen or len(gone) == len(maker.nodes) or not search.may_go_on():
            continue
        seen.append(gone)
        share = len(inside) / len(maker.nodes)
        how = f", {_PRICED[PRICES.index(price)]}" if price else ""
        trial = enter(search, maker, f"static int8 where it pays ({share:.0%} of the nodes{how})", maker.static(gone))
        if search.near(trial):
            return


def _quieter(maker: Maker, search: Search) -> None:
    """Leave out the parts that make the most noise, more of them each time, until the outputs are near enough."""
    seen: list[set[str]] = [set()]
    for target in TARGETS_DB:
        gone = sensitivity.too_noisy(maker.parts, target)
        if len(gone) == len(maker.nodes) or not search.may_go_on():
            return
        if gone in seen:
            continue
        seen.append(gone)
        share = len(gone) / len(maker.nodes)
        trial = enter(search, maker, f"static int8 without the noisiest {share:.0%}", maker.static(gone))
        if search.near(trial):
            return
