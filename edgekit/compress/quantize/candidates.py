"""Which of several 8-bit models to keep: measured on whole graphs, because costs of single layers mislead."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress.quantize import sensitivity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from onnx import ModelProto, NodeProto

    from edgekit.compress.method import Drift, Workbench

# What counts as near enough: the same top answer on this share of the held-back pictures, or this ratio.
LEAST_AGREEMENT = 0.95
LEAST_SQNR_DB = 20.0
MOST_FIRST_LAYERS = 3
# What the noise of the parts that stay in 8 bits may add up to; the second when the first did not help.
TARGETS_DB = (22.0, 27.0)


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
        if self.best is not None:
            outcome = f"took {self.winner}"
            self.bench.decide(self.winner)
        else:
            outcome = "stored in 8 bits instead"
            ran = any(" ran at " in attempt for attempt in self.tried)
            self.bench.decide(f"stored in 8 bits: int8 arithmetic {'is not faster here' if ran else 'is too far off'}")
        self.bench.note(f"{'; '.join(self.tried)}: {outcome}")
        return self.best


def near_enough(drift: Drift) -> bool:
    """Tell whether outputs are as near to the float ones as `int8` promises.

    Either figure will do for a classifier: on pictures that look like none of its classes (synthetic ones) its top
    answers are near ties, which turn over at any ratio of signal to noise.
    """
    if drift.agreement is not None and drift.agreement >= LEAST_AGREEMENT:
        return True
    return drift.sqnr_db >= LEAST_SQNR_DB


def _shown(drift: Drift) -> str:
    if drift.agreement is not None:
        return f"the same top answer on {drift.agreement:.0%}, {drift.sqnr_db:.0f} dB"
    return f"{drift.sqnr_db:.0f} dB"


def mostly_products(model: ModelProto, nodes: list[NodeProto]) -> bool:
    """Tell whether matrix products hold most of the weights."""
    tensors = graph.initializers(model)
    sizes = {"Conv": 0, "Gemm": 0, "MatMul": 0}
    for node in nodes:
        if node.op_type in sizes:
            sizes[node.op_type] += math.prod(tensors[node.input[1]].dims)
    return sizes["Gemm"] + sizes["MatMul"] > sizes["Conv"]


def tries(
    nodes: list[NodeProto], contest: Contest, parts: Callable[[], list[sensitivity.Part]]
) -> Iterator[tuple[str, set[str]]]:
    """Give what to leave in float, each as a phrase and the names of the nodes.

    First nothing. When that is near enough, one more of the first convolutions each time, for as long as that makes it
    faster: few channels and large pictures are slow in 8 bits. When it is not, the parts that make the most noise.
    """
    yield "static int8", set()
    if contest.last is None:
        yield from _quieter(nodes, contest, parts())
        return
    convolutions = [node.name for node in nodes if node.op_type == "Conv"]
    for count in range(1, min(MOST_FIRST_LAYERS, len(convolutions) - 1) + 1):
        before = contest.last
        yield f"static int8 without the first {f'{count} layers' if count > 1 else 'layer'}", set(convolutions[:count])
        if contest.last is None or contest.last < before:
            return


def _quieter(nodes: list[NodeProto], contest: Contest, parts: list[sensitivity.Part]) -> Iterator[tuple[str, set[str]]]:
    for target in TARGETS_DB:
        gone = sensitivity.too_noisy(parts, target)
        if len(gone) == len(nodes):
            return
        share = len(gone) / len(nodes)
        yield f"static int8 without the noisiest {share:.0%}", gone
        if contest.best is not None:
            return
