"""Which of several 8-bit models to keep: measured on whole graphs, because costs of single layers mislead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress.quantize import scope

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from onnx import ModelProto, NodeProto

    from edgekit.compress.method import Drift, Workbench

# What counts as near enough: the same top answer on this share of the held-back pictures, or this ratio.
LEAST_AGREEMENT = 0.97
LEAST_SQNR_DB = 20.0


@dataclass(frozen=True)
class Candidate:
    """One way to quantise, and its result."""

    name: str
    model: ModelProto


def near_enough(drift: Drift) -> bool:
    """Tell whether outputs are as near to the float ones as `int8` promises."""
    if drift.agreement is not None:
        return drift.agreement >= LEAST_AGREEMENT
    return drift.sqnr_db >= LEAST_SQNR_DB


def fastest(model: ModelProto, candidates: Iterable[Candidate], bench: Workbench) -> ModelProto | None:
    """Give the fastest candidate that is faster than `model` and near enough; note what was tried when none is."""
    best, most, tried = None, 0.0, []
    for candidate in candidates:
        drift = bench.drift(model, candidate.model)
        if not near_enough(drift):
            tried.append(f"{candidate.name} changed the outputs ({_shown(drift)})")
            continue
        speed = bench.speed(model, candidate.model)
        tried.append(f"{candidate.name} ran at {speed.speedup:.2f}x")
        if speed.verdict == "faster" and speed.speedup > most:
            best, most = candidate, speed.speedup
    if tried and best is None:
        bench.note(f"{'; '.join(tried)}: stored in 8 bits instead")
    elif best is not None:
        bench.note(f"{'; '.join(tried)}: took {best.name}")
    return None if best is None else best.model


def _shown(drift: Drift) -> str:
    if drift.agreement is not None:
        return f"the same top answer on {drift.agreement:.0%}"
    return f"{drift.sqnr_db:.0f} dB"


def tries(model: ModelProto, nodes: list[NodeProto]) -> Iterator[tuple[str, set[str]]]:
    """Give what to leave in float, mildest last: nothing, the first layers (slow in 8 bits with three channels), the last.

    Each is a name and the names of the nodes.
    """
    yield "static int8", set()
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    if len(convolutions) < 4:
        return
    first = {node.name for node in convolutions[:1]}
    two = {node.name for node in convolutions[:2]}
    yield "static int8 without the first layer", first
    yield "static int8 without the first two layers", two
    yield "static int8 without the first two and the last layers", two | _last(model, nodes)


def _last(model: ModelProto, nodes: list[NodeProto]) -> set[str]:
    """Give the weighted nodes that no other weighted node depends on, and what follows them."""
    readers = graph.consumers(model)
    weighted = {node.name for node in nodes if node.op_type in scope.WEIGHTED}
    leads: dict[str, bool] = {}
    for node in reversed(model.graph.node):
        after = [reader for name in node.output for reader in readers.get(name, [])]
        leads[node.name] = any(reader.name in weighted or leads[reader.name] for reader in after)
    return {name for name, leading in leads.items() if not leading}
