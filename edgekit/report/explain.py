"""The nodes of a model, one a line: what each runs in, its share of the time, its noise, and why."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from edgekit.report import text
from edgekit.report.report import Layer

WIDTH = 100
LONGEST_NAME, LONGEST_TYPE = 24, 16


def render(layers: Sequence[Layer]) -> str:
    """Lay out every node in the order in which it runs; what would make the costliest cheaper comes last."""
    rows = [("node", "type", "runs in", "time", "SQNR", "why"), *(_row(layer) for layer in layers)]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    left = sum(widths) + 2 * len(widths)
    lines = []
    for row in rows:
        cells = [f"{row[column]:<{widths[column]}}" for column in range(3)]
        cells += [f"{row[column]:>{widths[column]}}" for column in (3, 4)]
        why = textwrap.wrap(row[5], max(24, WIDTH - left)) or [""]
        lines.append("  ".join([*cells, why[0]]).rstrip())
        lines += [" " * left + more for more in why[1:]]
    mended = sorted((layer for layer in layers if layer.mend), key=lambda layer: -layer.share)
    if mended:
        lines += ["", "what would make it cheaper:"]
        for layer in mended:
            lines += textwrap.wrap(f"{layer.name}: {layer.mend}", WIDTH, subsequent_indent="  ")
    return "\n".join(lines)


def _row(layer: Layer) -> tuple[str, ...]:
    noise = "" if layer.sqnr_db is None else text.decibels(layer.sqnr_db)
    share = f"{100 * layer.share:.1f} %"
    return _cut(layer.name, LONGEST_NAME), layer.type[:LONGEST_TYPE], text.runs_in(layer), share, noise, layer.why


def _cut(name: str, longest: int) -> str:
    return name if len(name) <= longest else f"...{name[3 - longest :]}"
