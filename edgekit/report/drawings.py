"""The charts of a report: what of it is drawn, and what each chart says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from edgekit.report import charts, ranking, text
from edgekit.report.report import Candidate, Distribution, Report, parse_gate

MATRIX_CLASSES = 30  # more do not fit into a readable matrix
CLASS_BARS = 30
COSTLIEST = 3


@dataclass(frozen=True)
class Drawing:
    """A chart with its heading and a sentence; a wide one takes the whole width of the page."""

    title: str
    note: str
    svg: str
    wide: bool = False


def drawings(report: Report) -> Iterator[Drawing]:
    """Draw all that the report has numbers for."""
    yield _size(report)
    for draw in (_latency, _search, _layers, _confusion, _classes):
        made = draw(report)
        if made is not None:
            yield made


def _size(report: Report) -> Drawing:
    size = report.size
    rows = [
        charts.Bar("file before", size.before, text.megabytes(size.before), "before"),
        charts.Bar("file after", size.after, text.megabytes(size.after)),
        charts.Bar("zipped before", size.zipped_before, text.megabytes(size.zipped_before), "before"),
        charts.Bar("zipped after", size.zipped_after, text.megabytes(size.zipped_after)),
    ]
    desc = "; ".join(f"{row.label}: {row.text}" for row in rows)
    note = f"x{size.ratio:.2f} on disk, x{size.zipped_ratio:.2f} zipped"
    return Drawing("Size", note, charts.bars("Size of the model file before and after", desc, rows))


def _latency(report: Report) -> Drawing | None:
    spread, latency = report.distribution, report.latency
    if spread is None or len(spread.edges) < 2:
        return None
    before, after = (
        (value, f"{name}: median {text.milliseconds(value)}")
        for name, value in (("before", latency.before), ("after", latency.after))
    )
    note = f"{latency.runs:,} single runs, wall time; slowest and fastest 0.5 % left out"
    edges, counts = _merged(spread)
    drawn = charts.histograms(
        "Latency of single runs before and after",
        f"{before[1]}, dashed; {after[1]}, solid",
        edges,
        counts,
        (before, after),
        "milliseconds of one inference",
    )
    return Drawing("Latency", note, drawn)


def _merged(spread: Distribution) -> tuple[list[float], tuple[list[int], list[int]]]:
    """Give fewer, wider bins where runs are few: about twice the root of their number."""
    bins = len(spread.before)
    wanted = 2 * math.sqrt(min(sum(spread.before), sum(spread.after)))
    step = next((size for size in range(1, bins + 1) if bins % size == 0 and bins / size <= max(8, wanted)), 1)
    before, after = ([sum(each[i : i + step]) for i in range(0, bins, step)] for each in (spread.before, spread.after))
    return list(spread.edges[::step]), (before, after)


def _search(report: Report) -> Drawing | None:
    # Where all lose the same, nothing at all as a rule, the noise still tells them apart.
    by_drop = len({one.drop for one in report.search if one.drop is not None and one.speedup is not None}) > 1
    largest = max((one.bytes for one in (report.size, *report.search) if isinstance(one, Candidate)), default=0)
    largest = max(largest, report.size.before, 1)
    points = []
    for one in report.search:
        x = one.sqnr_db if not by_drop else None if one.drop is None else -100 * one.drop
        if x is None or one.speedup is None:
            continue
        kind = "chosen" if one.chosen else "front" if one.pareto else "faint"
        near = x if by_drop else min(max(x, -20.0), 100.0)
        points.append(charts.Point(near, one.speedup, one.bytes / largest, one.name, kind, one.low, one.high))
    if not points:
        return None
    if by_drop:
        points.append(charts.Point(0.0, 1.0, 1.0, "original", "original"))
    desc = "; ".join(
        f"{one.name}: speed-up {one.speedup:.2f}, {text.megabytes(one.bytes)}, {text.decibels(one.sqnr_db)}"
        + (" (chosen)" if one.chosen else "")
        for one in report.search
        if one.speedup is not None
    )
    name = "change in points, on the pictures to choose by" if by_drop else "SQNR of the outputs, dB"
    limits = _limits(report, by_drop=by_drop)
    names = (name, "speed-up")
    drawn = charts.scatter("What was tried: speed-up against nearness", desc, points, names, (1.0,), limits)
    note = "up is faster, right is nearer, larger is more bytes; ringed: chosen; filled: nothing is better in all three"
    note += "; shaded: beyond a gate or budget" if any(limits) else ""
    return Drawing("What was tried", note, drawn)


def _limits(report: Report, *, by_drop: bool) -> tuple[list[float], list[float]]:
    """Give what gates and budgets leave: the lowest change in points, the lowest speed-up."""
    lost, slow = [], []
    for gate in report.gates:
        rule = parse_gate(gate.rule)
        name, most = f"{rule.section}.{rule.key}", rule.operator.startswith("<")
        if by_drop and name == "accuracy.drop" and most and report.accuracy is not None and not report.accuracy.own:
            lost.append(-100 * rule.limit)
        elif by_drop and name == "drift.agreement" and not most:
            lost.append(-100 * (1 - rule.limit))
        elif name == "latency.after" and most and rule.limit > 0:
            slow.append(report.latency.before / rule.limit)
    return lost, slow


def _layers(report: Report) -> Drawing | None:
    layers = report.layers
    if not layers:
        return None
    costly = sorted(range(len(layers)), key=lambda place: (-layers[place].share, place))[:COSTLIEST]
    notes = [
        (place, f"{layers[place].name} ({layers[place].type}): {_share(layers[place].share)} of the time, "
         f"{text.runs_in(layers[place])}, {text.decibels(layers[place].sqnr_db)}")
        for place in costly
    ]  # fmt: skip
    kinds = [text.runs_in(layer) for layer in layers]
    counts = (
        f"{len(layers)} nodes in the order they run: {kinds.count('int8')} in int8, {kinds.count('float')} in float"
    )
    if "-" in kinds:
        counts += f", {kinds.count('-')} convert between the two"
    desc = f"{counts}; the costliest: " + "; ".join(words for _, words in notes)
    drawn = charts.profile(
        "Layers: nearness to the original and share of the time",
        desc,
        [layer.sqnr_db for layer in layers],
        kinds,
        [layer.share for layer in layers],
        notes,
    )
    return Drawing("Layers", f"{counts}; 1-{len(notes)}: costliest", drawn, wide=True)


def _confusion(report: Report) -> Drawing | None:
    if not report.confusion:
        return None
    if len(report.classes) > MATRIX_CLASSES:
        return _pairs(report)
    names = [one.name for one in report.classes]
    unanswered = len(names)
    is_mute = any(one.answer is None and one.after for one in report.confusion)
    cells = {
        (one.label, unanswered if one.answer is None else one.answer): one.after
        for one in report.confusion
        if one.after
    }
    answers = [*names, "no answer"] if is_mute else names
    desc = "; ".join(_pair(report, one.label, one.answer, one.after) for one in ranking.most_confused(report)[:5])
    drawn = charts.matrix("Confusion matrix of the finished model", desc, names, answers, cells)
    return Drawing(
        "Confusions", "finished model; a row a label, a column an answer", drawn, len(names) > charts.MATRIX_WIDE
    )


def _pairs(report: Report) -> Drawing | None:
    worst = [one for one in ranking.most_confused(report) if one.after][: ranking.SHOWN]
    if not worst:
        return None
    rows = [
        charts.Bar(
            f"{charts.clip(_name(report, one.label), 11)} → {charts.clip(_name(report, one.answer), 11)}",
            one.after,
            f"{one.after:,} (before {one.before:,})",
            "bad",
            one.before,
        )
        for one in worst
    ]
    high = max(max(one.before, one.after) for one in worst)
    desc = "; ".join(f"{row.label}: {row.text}" for row in rows)
    drawn = charts.bars("The most confused classes", desc, rows, high=high)
    return Drawing("Confusions", "label → answer, pictures; the line marks the original model", drawn)


def _classes(report: Report) -> Drawing | None:
    order = ranking.weakest_first(report.classes)
    if not order:
        return None
    is_few = len(order) <= CLASS_BARS
    shown = order if is_few else ranking.worst_first(order)[: ranking.SHOWN]
    lost = ranking.most_lost(report.classes)
    rows = []
    for one in shown:
        figure, before = one.after.figure or 0.0, one.before.figure
        words = f"{100 * figure:.1f} %" + (" lost most" if one is lost else "")
        is_bad = one is lost and not ranking.within_chance(one, report.classes)
        rows.append(charts.Bar(one.name, figure, words, "bad" if is_bad else "after", before))
    name = ranking.figure_name(report.classes)
    desc = "; ".join(f"{row.label}: {row.text}" for row in rows)
    those = "weakest first" if is_few else f"the {len(shown)} of {len(order):,} that lost most"
    note = f"{those}; the line marks the original model"
    return Drawing(f"{name} by class", note, charts.bars(f"{name} by class", desc, rows, high=1.0))


def _name(report: Report, place: int | None) -> str:
    return "no answer" if place is None else report.classes[place].name


def _pair(report: Report, label: int, answer: int | None, count: int) -> str:
    return f"{_name(report, label)} taken for {_name(report, answer)}: {count}"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %" if math.isfinite(value) else "-"
