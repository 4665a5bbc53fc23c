"""Which of several 8-bit models to keep: measured on whole graphs, because costs of single layers mislead."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress.quantize import scope

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import ModelProto, NodeProto

    from edgekit.compress.method import Drift, Workbench

# What counts as near enough: the same top answer on this share of the held-back pictures, or this ratio.
LEAST_AGREEMENT = 0.95
LEAST_SQNR_DB = 20.0
MOST_FIRST_LAYERS = 3


@dataclass
class Contest:
    """Candidates against the float model: the fastest that is faster than it and near enough wins."""

    model: ModelProto
    bench: Workbench
    best: ModelProto | None = None
    winner: str = ""
    most: float = 0.0
    # The last candidate's outcome: its speed-up, or None when its outputs were too far off for its speed to matter.
    last: float | None = None
    tried: list[str] = field(default_factory=list)

    def enter(self, name: str, candidate: ModelProto) -> None:
        """Measure one candidate."""
        drift = self.bench.drift(self.model, candidate)
        if not near_enough(drift):
            self.last = None
            self.tried.append(f"{name} changed the outputs too much ({_shown(drift)})")
            return
        speed = self.bench.speed(self.model, candidate)
        self.last = speed.speedup
        self.tried.append(f"{name} ran at {speed.speedup:.2f}x")
        if speed.verdict == "faster" and speed.speedup > self.most:
            self.best, self.winner, self.most = candidate, name, speed.speedup

    def close(self) -> ModelProto | None:
        """Give the winner, if there is one, and note what was tried."""
        outcome = f"took {self.winner}" if self.best is not None else "stored in 8 bits instead"
        self.bench.note(f"{'; '.join(self.tried)}: {outcome}")
        return self.best


def near_enough(drift: Drift) -> bool:
    """Tell whether outputs are as near to the float ones as `int8` promises."""
    if drift.agreement is not None:
        return drift.agreement >= LEAST_AGREEMENT
    return drift.sqnr_db >= LEAST_SQNR_DB


def _shown(drift: Drift) -> str:
    if drift.agreement is not None:
        return f"the same top answer on {drift.agreement:.0%}"
    return f"{drift.sqnr_db:.0f} dB"


def mostly_products(model: ModelProto, nodes: list[NodeProto]) -> bool:
    """Tell whether matrix products hold most of the weights."""
    tensors = graph.initializers(model)
    sizes = {"Conv": 0, "Gemm": 0, "MatMul": 0}
    for node in nodes:
        if node.op_type in sizes:
            sizes[node.op_type] += math.prod(tensors[node.input[1]].dims)
    return sizes["Gemm"] + sizes["MatMul"] > sizes["Conv"]


def tries(model: ModelProto, nodes: list[NodeProto], contest: Contest) -> Iterator[tuple[str, set[str]]]:
    """Give what to leave in float, each as a phrase and the names of the nodes.

    First nothing; then one more of the first convolutions each time (few channels and large pictures are slow in 8
    bits, and their errors reach everything) for as long as that makes it faster; in the end the last layers too, when
    nothing was near enough.
    """
    yield "static int8", set()
    convolutions = [node.name for node in nodes if node.op_type == "Conv"]
    left_out: set[str] = set()
    before = contest.last
    for count in range(1, min(MOST_FIRST_LAYERS, len(convolutions) - 1) + 1):
        left_out = set(convolutions[:count])
        yield f"static int8 without the first {f'{count} layers' if count > 1 else 'layer'}", left_out
        if before is not None and (contest.last is None or contest.last < before):
            return
        before = contest.last
    if not any(" ran at " in outcome for outcome in contest.tried) and left_out:
        yield "static int8 without the first and the last layers", left_out | _last(model, nodes)


def _last(model: ModelProto, nodes: list[NodeProto]) -> set[str]:
    """Give the weighted nodes that no other weighted node depends on, and what follows them."""
    readers = graph.consumers(model)
    weighted = {node.name for node in nodes if node.op_type in scope.WEIGHTED}
    leads: dict[str, bool] = {}
    for node in reversed(model.graph.node):
        after = [reader for name in node.output for reader in readers.get(name, [])]
        leads[node.name] = any(reader.name in weighted or leads[reader.name] for reader in after)
    return {name for name, leading in leads.items() if not leading}
