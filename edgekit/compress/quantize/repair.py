"""Repairs: what brings the outputs of an 8-bit model nearer without training; each is kept only when it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgekit.compress.quantize import correct, equalize, qdq, rounding, scope, smooth, target
from edgekit.compress.quantize.plan import Plan
from edgekit.errors import EdgekitError
from edgekit.spec import nearest

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto

    from edgekit.compress.method import Workbench

# A repair is kept when the outputs of the held-back pictures get nearer by more than this: less is luck of rounding.
GAIN_DB = 0.2
# Nobody can tell outputs apart that are this near.
ENOUGH_DB = 45.0
LAST = "correct"  # the repair that is for a graph as it will be
# Held-back pictures that a repair is judged on.
JUDGED = 64
# Correcting a graph takes as long as building it sixteen times: more layers than this are corrected one by one alone.
MOST_CORRECTED = 64
# Part of the memory for calibration that the second moments of inputs may take; solving takes three times as much.
GRAMS_SHARE = 4


@dataclass(frozen=True)
class Wanted:
    """What a step asks for: how ranges are chosen, on how many pictures, and which repairs may be tried."""

    samples: int = 256
    ranges: str = "mse"
    repairs: tuple[str, ...] = ()

    def without(self, name: str) -> Wanted:
        """Leave one repair out."""
        return replace(self, repairs=tuple(each for each in self.repairs if each != name))


Repair = Callable[[Plan, Sequence[str], Wanted, "Workbench"], "Plan | None"]


def parse(text: str) -> tuple[str, ...]:
    """Read what a step says: `auto` for all, `none`, or names joined by `+`; raise EdgekitError for another name."""
    if text in ("auto", "none"):
        return tuple(REPAIRS) if text == "auto" else ()
    names = tuple(part.strip() for part in text.split("+"))
    for name in names:
        if name not in REPAIRS:
            near = nearest(name, [*REPAIRS, "auto", "none"])
            there = f"auto, none, or some of {'+'.join(REPAIRS)}"
            raise EdgekitError(f"repair={text}: no such repair: {name}", f"did you mean {near}?" if near else there)
    return tuple(name for name in REPAIRS if name in names)


def plan(model: ModelProto, names: Sequence[str], wanted: Wanted, bench: Workbench) -> Plan:
    """Give a plan for 8-bit arithmetic in these nodes, with every repair that is measured to help.

    In a replay, with those that the recipe names, unmeasured.
    """
    found = _measured(model, names, wanted, bench)
    settled = bench.settled("repairs")
    reached = _nearness(model, found, names, bench) if settled is None and wanted.repairs else 0.0
    for name in wanted.repairs if settled is None else settled:
        if settled is None and reached >= ENOUGH_DB:
            break
        tried = REPAIRS[name](found, names, wanted, bench)
        if tried is None:
            continue
        if settled is None:
            before, after = reached, _nearness(model, tried, names, bench)
            if not helps(name, before, after, bench):
                continue
            reached = after
        found = replace(tried, kept=(*found.kept, name))
    bench.settle("repairs", list(found.kept))
    return found


def helps(name: str, before_db: float, after_db: float, bench: Workbench) -> bool:
    """Tell whether a repair brings the outputs nearer, and note it."""
    better = after_db > before_db + GAIN_DB
    bench.note(f"repair {name}: {before_db:.1f} -> {after_db:.1f} dB, {'kept' if better else 'left out'}")
    return better


def _measured(model: ModelProto, names: Sequence[str], wanted: Wanted, bench: Workbench) -> Plan:
    return Plan.make(model, scope.scope(model, set(names)), wanted.samples, wanted.ranges, bench)


def _nearness(model: ModelProto, plan: Plan, names: Sequence[str], bench: Workbench) -> float:
    made = qdq.quantize_static(plan.model, scope.scope(plan.model, set(names)), plan)
    return bench.drift(model, made, JUDGED).sqnr_db


def _equalized(plan: Plan, names: Sequence[str], wanted: Wanted, bench: Workbench) -> Plan | None:
    allowed = set(names)
    maxima = equalize.maxima_of(plan.model, equalize.read(plan.model, allowed), bench.feeds(wanted.samples))
    model, pairs = equalize.equalize(plan.model, allowed, maxima)
    return _measured(model, names, wanted, bench) if pairs else None


def _smoothed(plan: Plan, names: Sequence[str], wanted: Wanted, bench: Workbench) -> Plan | None:
    allowed = set(names)
    maxima = equalize.maxima_of(plan.model, smooth.read(plan.model, allowed), bench.feeds(wanted.samples))
    model, values = smooth.smooth(plan.model, allowed, maxima)
    return _measured(model, names, wanted, bench) if values else None


def _rounded(plan: Plan, names: Sequence[str], wanted: Wanted, bench: Workbench) -> Plan | None:
    if plan.kind.seven_bits:  # those are rounded so that no sum can clip, which compensating for errors would undo
        return None
    nodes = scope.scope(plan.model, set(names))
    found = rounding.round_weights(
        plan.model,
        nodes,
        lambda: bench.feeds(wanted.samples),
        plan.value,
        target.LARGEST,
        max_bytes=bench.max_bytes // GRAMS_SHARE,
    )
    if not found.weights:
        return None
    return replace(plan, rounded={**plan.rounded, **found.weights}).with_errors(nodes, wanted.samples, bench)


def corrected(plan: Plan, names: Sequence[str], wanted: Wanted, bench: Workbench) -> Plan | None:
    """Give the plan with the biases corrected behind an 8-bit graph of these nodes; None when that is not worth it."""
    nodes = scope.scope(plan.model, set(names))
    layers = [node for node in nodes if node.op_type in ("Conv", "Gemm")]
    if not layers or len(layers) > MOST_CORRECTED:
        return None

    def quantized(errors: Mapping[str, np.ndarray]) -> ModelProto:
        return qdq.quantize_static(plan.model, nodes, replace(plan, errors=errors))

    errors = correct.sequential(plan.model, quantized, layers, lambda: bench.feeds(wanted.samples), plan.errors)
    return replace(plan, errors=errors)


# In the order in which they are tried: those that move ranges come before those that fit weights to them. The last is
# for a graph as it will be: it takes off what has gathered in all of it.
REPAIRS: dict[str, Repair] = {
    "equalize": _equalized,
    "smooth": _smoothed,
    "round": _rounded,
    LAST: corrected,
}
