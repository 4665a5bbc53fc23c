"""Noise: how far every value inside a model is from the original's value of the same name."""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.lazy import np
from edgekit.measure.drift import SQNR_CAP_DB
from edgekit.session import open_session, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy import ndarray
    from onnx import ModelProto, NodeProto

    from edgekit.session import Feed

FEW = 4  # pictures
AT_ONCE = 64  # values given out by one session, so that memory does not grow with the depth of the model
_CLIPPERS = ("Relu", "Clip")


def value_sqnr(before: ModelProto, after: ModelProto, feeds: Iterable[Feed]) -> dict[str, float]:
    """Give the signal to quantisation noise, in dB, of every float value that both models have, over a few feeds.

    10 log10(sum x^2 / sum (x - y)^2), x of `before`, y of `after` as it goes on there: what is quantised is taken after
    its DequantizeLinear. Where `after` clips by quantising alone, x is the clipped value. Both run node by node as the
    files have them, sums are in float64. Within -SQNR_CAP_DB..SQNR_CAP_DB. Raises EdgekitError when a model does not
    run.
    """
    pairs = _same_values(before, after)
    few = list(islice(iter(feeds), FEW))
    found: dict[str, float] = {}
    for start in range(0, len(pairs), AT_ONCE):
        found |= _measured(before, after, pairs[start : start + AT_ONCE], few)
    return found


def _same_values(before: ModelProto, after: ModelProto) -> list[tuple[str, str, str]]:
    """Give (name, the value of `before`, the value of `after`), in the order in which `after` makes them."""
    made_before = {name for node in before.graph.node for name in node.output if name}
    made_after = {name for node in after.graph.node for name in node.output if name}
    old, new = graph.consumers(before), graph.consumers(after)
    shared = [name for node in after.graph.node for name in node.output if name in made_before]
    return [(name, _clipped(name, old, made_after), _dequantized(name, new)) for name in shared]


def _clipped(name: str, readers: dict[str, list[NodeProto]], made_after: set[str]) -> str:
    """Follow a value through clippers that the new model does without."""
    while len(found := readers.get(name, [])) == 1 and found[0].op_type in _CLIPPERS:
        if found[0].output[0] in made_after:
            break
        name = found[0].output[0]
    return name


def _dequantized(name: str, readers: dict[str, list[NodeProto]]) -> str:
    for reader in readers.get(name, []):
        if reader.op_type == "QuantizeLinear":
            back = [node for node in readers.get(reader.output[0], []) if node.op_type == "DequantizeLinear"]
            if back:
                return back[0].output[0]
    return name


def _measured(
    before: ModelProto, after: ModelProto, pairs: Sequence[tuple[str, str, str]], feeds: Sequence[Feed]
) -> dict[str, float]:
    shown = [list(dict.fromkeys(pair[which] for pair in pairs)) for which in (1, 2)]
    sessions = [
        open_session(graph.with_outputs(model, names), optimized=False)
        for model, names in zip((before, after), shown, strict=True)
    ]
    sums: dict[str, tuple[float, float]] = {}
    for feed in feeds:
        old, new = (
            dict(zip(names, run(session, feed, names), strict=True))
            for session, names in zip(sessions, shown, strict=True)
        )
        for name, x, y in pairs:
            if old[x].dtype.kind == new[y].dtype.kind == "f" and old[x].shape == new[y].shape:
                signal, noise = _sums(old[x], new[y])
                total = sums.get(name, (0.0, 0.0))
                sums[name] = (total[0] + signal, total[1] + noise)
    return {name: _decibel(*both) for name, both in sums.items()}


def _sums(x: ndarray, y: ndarray) -> tuple[float, float]:
    a, b = x.astype(np.float64), y.astype(np.float64)
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    return float(np.sum(a * a)), float(np.sum(np.square(a - b)))


def _decibel(signal: float, noise: float) -> float:
    if noise == 0:
        return SQNR_CAP_DB
    if signal == 0:
        return -SQNR_CAP_DB
    return max(-SQNR_CAP_DB, min(SQNR_CAP_DB, 10 * (math.log10(signal) - math.log10(noise))))
