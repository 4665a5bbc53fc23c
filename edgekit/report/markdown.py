"""The report as Markdown: the verdict, one table, the details folded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from edgekit import files
from edgekit.report import ranking, text
from edgekit.report.report import ClassFigures, Report
from edgekit.words import printable

LAYERS = 30


def render(report: Report) -> str:
    """Write the verdict first, then one table, then the details in folds."""
    lines = [f"**{_cell(report.headline)}**", "", *_table(("", "before", "after", "change"), text.measured(report))]
    if report.gates:
        rows = ((f"`{g.rule}`", text.number(g.value), "pass" if g.passed else "**FAIL**") for g in report.gates)
        lines += ["", *_rows(("gate", "value", ""), rows)]
    said = [*text.worst(report), *([report.elsewhere.sentence] if report.elsewhere is not None else [])]
    if said:
        lines += ["", *(f"- {_cell(line)}" for line in said)]
    lines += [*_classes(report), *_search(report), *_layers(report), *_facts(report)]
    lines += ["", _cell(text.wrote(report)), "", f"<!-- {files.MADE_BY} -->", ""]
    return printable("\n".join(lines))


def _classes(report: Report) -> list[str]:
    if not report.classes:
        return []
    name = ranking.figure_name(report.classes)
    head = ("class", "n", "TP", "FP", "FN", "precision", "recall", name, f"{name} before")
    shown = ranking.worst_first(report.classes)[: ranking.SHOWN]
    title = (
        "Classes" if len(shown) == len(report.classes) else f"Classes: the worst {len(shown)} of {len(report.classes)}"
    )
    return _fold(title, _table(head, (_class(one) for one in shown)))


def _class(one: ClassFigures) -> tuple[str, ...]:
    after = one.after
    counts = (str(count) for count in (one.n, after.tp, after.fp, after.fn))
    shares = (text.share(value) for value in (after.precision, after.recall, after.figure, one.before.figure))
    return (one.name, *counts, *shares)


def _search(report: Report) -> list[str]:
    if not report.search:
        return []
    head = ("model", "speed-up", "size", "SQNR", "change", "")
    return _fold("What was tried", _table(head, (text.tried(one) for one in report.search)))


def _layers(report: Report) -> list[str]:
    if not report.layers:
        return []
    shown = sorted(report.layers, key=lambda layer: -layer.share)[:LAYERS]
    head = ("node", "type", "runs in", "time", "share", "SQNR", "why", "what would mend it")
    rows = (
        (
            layer.name,
            layer.type,
            text.runs_in(layer),
            text.milliseconds(layer.ms),
            f"{100 * layer.share:.1f} %",
            text.decibels(layer.sqnr_db),
            layer.why,
            layer.mend,
        )
        for layer in shown
    )
    few = len(shown) < len(report.layers)
    title = f"Nodes: the costliest {len(shown)} of {len(report.layers)}" if few else "Nodes, the costliest first"
    return _fold(title, _table(head, rows))


def _facts(report: Report) -> list[str]:
    lines = [f"- {_cell(line)}" for line in (*report.done, *report.notes)]
    lines += [f"- pictures: {_cell(line)}" for line in report.preprocess.get("sentences", ())]
    lines += [
        f"- calibrated: {_cell(report.calibration['sentence'])}",
        f"- machine: {_cell(report.machine['sentence'])}",
    ]
    if report.python:
        # A fence longer than any in the code, which holds the names of classes.
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", report.python)), default=0))
        lines += ["", f"{fence}python", report.python.strip(), fence]
    return _fold("What was done, assumed and measured", lines)


def _fold(title: str, lines: Sequence[str]) -> list[str]:
    return ["", f"<details><summary>{title}</summary>", "", *lines, "", "</details>"]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return _rows(head, ([_cell(cell) for cell in row] for row in rows))


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lay out cells that are Markdown already."""
    lines = [f"| {' | '.join(head)} |".replace("|  |", "| |"), f"|{'---|' * len(head)}"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def _cell(value: str) -> str:
    """Keep what a file or a class may be called from being read as markup."""
    safe = value.replace("\n", " ").replace("<", "&lt;")
    return re.sub(r"([|*`\[\]\\])", r"\\\1", safe)
