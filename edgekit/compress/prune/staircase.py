"""Staircase: what the model takes at each number of channels kept, measured on this CPU.

Latency falls in steps. onnxruntime packs the channels of float convolutions in blocks (16 with AVX-512, 8 with AVX2):
of 64 channels 60 take as long as 64, and 33 half as long again as 32; a matrix product has other steps. So the nodes of
the pruned graph are timed at a few numbers, and those that save nothing over the next larger one are left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.compress.prune.surgery import remove
from edgekit.compress.prune.units import which_go
from edgekit.lazy import np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import ModelProto

    from edgekit.compress.method import Workbench
    from edgekit.compress.prune.groups import Group
    from edgekit.compress.prune.units import Unit

    Counts = Mapping[str, int]

# Numbers kept that are tried for a unit, besides all and none.
LEVELS = 7
# Up to so many channels every number is tried, multiples of eight; above, multiples of sixteen. Four fewer sometimes
# save float time too, but what is quantised after is slow at 12.
_STEPS = ((8, 1), (64, 8))
# A step down has to save this share of the time of all nodes; times of one node nearer than this are one time.
LEAST, SAME = 0.002, 0.03
# A number kept has to save this part of what as many channels save at best.
WORTH = 0.6


@dataclass(frozen=True)
class Staircase:
    """Time of the nodes, in any unit, and what becomes of it.

    `times`: of each node of the model as it is. `sizes`: channels of each unit. `factors`: by unit and number of
    channels kept, what the time of each node it touches is multiplied by. `added`: likewise, the time of nodes that
    appear. A node between two units takes its time times both factors.
    """

    times: Mapping[str, float]
    sizes: Mapping[str, int]
    factors: Mapping[str, Mapping[int, Mapping[str, float]]]
    added: Mapping[str, Mapping[int, float]]

    def total(self, kept: Counts) -> float:
        """Give the time of the model that keeps so many channels of these units, and all of the others."""
        times = dict(self.times)
        extra = 0.0
        for name, count in kept.items():
            for node, factor in self.factors.get(name, {}).get(count, {}).items():
                times[node] *= factor
            extra += self.added.get(name, {}).get(count, 0.0)
        return sum(times.values()) + extra

    def steps(self, name: str) -> tuple[int, ...]:
        """Give the numbers kept of a unit that pay, from large to small.

        Each saves over the one before most of what as many channels save at best.
        """
        whole = self.total({})
        saved = {count: whole - self.total({name: count}) for count in sorted(self.factors.get(name, ()), reverse=True)}
        size = self.sizes[name]
        rate = max((time / (size - count) for count, time in saved.items() if count), default=0.0)
        found, last = [], (size, 0.0)
        for count, time in saved.items():
            if time - last[1] > max(LEAST * whole, WORTH * rate * (last[0] - count) * (count > 0)):
                found.append(count)
                last = (count, time)
        return tuple(found)


def counts(unit: Unit) -> list[int]:
    """Give the numbers of channels worth timing, from large to small, without all of them."""
    step = next((step for most, step in _STEPS if unit.size <= most), 16)
    found = list(range((unit.size - 1) // step * step, 0, -step))
    if len(found) > LEVELS:
        # Evenly spread, the small ones left out: nobody goes there in one go.
        most = max(LEVELS, len(found) * 3 // 4)
        found = [found[round(place * (most - 1) / (LEVELS - 1))] for place in range(LEVELS)]
    return [*found, *([0] if unit.removable else [])]


def measure(model: ModelProto, units: Sequence[Unit], bench: Workbench) -> Staircase:
    """Time the nodes of the model and of what it becomes, units that touch no node in common at a time."""
    touched = {unit.name: region(model, unit.group) for unit in units}
    plan = _plan(units, touched)
    digest = hashlib.blake2b(model.SerializeToString(deterministic=True), digest_size=12).hexdigest()

    def time_all() -> dict[str, np.ndarray]:
        found = dict(_packed("", bench.node_times(model)))
        for number, kept in enumerate(plan):
            found |= _packed(f"{number} ", bench.node_times(remove(model, which_go(units, kept))))
        return found

    # The plan follows from the model and these units; what was timed once on this machine need not be again.
    plans = [sorted(kept.items()) for kept in plan]
    made = bench.remember(f"staircase {digest} {bench.form} {sorted(touched)} {plans}", time_all)
    times = _unpacked("", made)
    factors: dict[str, dict[int, dict[str, float]]] = {unit.name: {} for unit in units}
    added: dict[str, dict[int, float]] = {unit.name: {} for unit in units}
    for number, kept in enumerate(plan):
        now = _unpacked(f"{number} ", made)
        for name, count in kept.items():
            inside = touched[name]
            found = {node: now.get(node, 0.0) / times[node] for node in sorted(inside) if times.get(node, 0.0) > 0}
            factors[name][count] = {node: factor for node, factor in found.items() if abs(factor - 1) > SAME}
            added[name][count] = sum(time for node, time in now.items() if node in inside and node not in times)
    return Staircase(times, {unit.name: unit.size for unit in units}, factors, added)


def region(model: ModelProto, group: Group) -> set[str]:
    """Give the names of the nodes that do less when the group gets smaller: from its makers to its readers."""
    readers = graph.consumers(model)
    last = {reader.node for reader in group.readers}
    nodes = {node.name: node for node in model.graph.node}
    found = {name for name in group.makers if name in nodes}
    waiting = [nodes[name] for name in group.makers if name in nodes]
    while waiting:
        for value in waiting.pop().output:
            for node in readers.get(value, []):
                if node.name not in found:
                    found.add(node.name)
                    if node.name not in last:
                        waiting.append(node)
    return found | (last & set(nodes))


def _plan(units: Sequence[Unit], touched: Mapping[str, set[str]]) -> list[dict[str, int]]:
    """Give what is pruned together: units without a common node, each to its first number, to its second ..."""
    sets: list[tuple[set[str], list[Unit]]] = []
    for unit in units:
        inside = touched[unit.name]
        place = next((entry for entry in sets if not entry[0] & inside), None)
        if place is None:
            sets.append((set(inside), [unit]))
        else:
            place[0].update(inside)
            place[1].append(unit)
    plan = []
    for _, together in sets:
        tried = {unit.name: counts(unit) for unit in together}
        plan += [
            {name: each[level] for name, each in tried.items() if level < len(each)}
            for level in range(max(map(len, tried.values())))
        ]
    return plan


def _packed(prefix: str, times: Mapping[str, float]) -> dict[str, np.ndarray]:
    names = sorted(times)
    return {
        f"{prefix}names": np.frombuffer("\n".join(names).encode(), np.uint8),
        f"{prefix}times": np.array([times[name] for name in names], np.float64),
    }


def _unpacked(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
    names = arrays[f"{prefix}names"].tobytes().decode().split("\n")
    return dict(zip(names, arrays[f"{prefix}times"].tolist(), strict=False))
