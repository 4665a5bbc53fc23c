"""The report on one screen of plain text."""

from __future__ import annotations

from edgekit.report import ranking
from edgekit.report.report import Accuracy, Candidate, Drift, Latency, Layer, Report, Size
from edgekit.words import printable

WIDTH, LABEL = 100, 11
FAR_DB = 20.0  # below this the outputs are called strongly different
SAME_DB = 150.0  # from here on two values are equal but for rounding
TRIED = 6  # candidates of the search that fit on the screen with the rest


def render(report: Report) -> str:
    """Lay the report out: the answer first, the numbers, what was done and assumed, the gates and the file last."""
    blocks = [
        [report.headline],
        table(report),
        _search(report),
        _facts(report),
        _python(report),
        [*_gates(report), wrote(report)],
    ]
    return printable("\n\n".join("\n".join(block) for block in blocks if block))


def wrote(report: Report) -> str:
    """Say what was written, or which gate failed: the last line."""
    if not report.passed:
        failed = ", ".join(f"{gate.rule} ({number(gate.value)})" for gate in report.gates if not gate.passed)
        return f"gate failed: {failed}; the model is kept as {report.out['path']}"
    return f"wrote {report.out['path']} (seed {report.recipe['seed']}, {report.seconds:.0f} s)"


def table(report: Report) -> list[str]:
    """Give the lines of before, after and change."""
    rows = [("", "before", "after", "change"), *measured(report)]
    return [f"{a:<{LABEL}}{b:<12}{c:<12}{d}".rstrip() for a, b, c, d in rows]


def measured(report: Report) -> list[tuple[str, str, str, str]]:
    """Give one row a quantity: name, before, after, change."""
    rows = [_size(report.size), _latency(report.latency)]
    load = report.load
    rows.append(("load", f"{load.before:.1f} ms", f"{load.after:.1f} ms", "time to open the model"))
    if report.memory is not None:
        memory = report.memory
        rows.append(("memory", megabytes(memory.before), megabytes(memory.after), "peak, above the bare runtime"))
    if report.accuracy is not None:
        rows += _accuracy(report.accuracy)
    return [*rows, *_drift(report.drift)]


def _size(size: Size) -> tuple[str, str, str, str]:
    zipped = f"zipped {megabytes(size.zipped_before)} -> {megabytes(size.zipped_after)}, x{size.zipped_ratio:.2f}"
    return "size", megabytes(size.before), megabytes(size.after), f"x{size.ratio:.2f}   ({zipped})"


def _latency(latency: Latency) -> tuple[str, str, str, str]:
    threads = f"{latency.threads} thread" + ("s" if latency.threads > 1 else "")
    interval = f"95% {latency.low:.2f}-{latency.high:.2f}" + (" of CPU time" if latency.ratio_of == "cpu" else "")
    p90 = f"p90 {milliseconds(latency.before_p90)} -> {milliseconds(latency.after_p90)}"
    change = f"x{latency.speedup:.2f} {latency.verdict}   ({interval}; {p90}; {threads})"
    return "latency", milliseconds(latency.before), milliseconds(latency.after), change


def _accuracy(accuracy: Accuracy) -> list[tuple[str, str, str, str]]:
    interval = f"95% {points(accuracy.high)} to {points(accuracy.low)}"
    if accuracy.own:
        values = f"{-accuracy.drop:+.4g}   (95% {-accuracy.high:+.4g} to {-accuracy.low:+.4g}; {accuracy.n:,} samples)"
        return [(accuracy.metric, f"{accuracy.before:.4g}", f"{accuracy.after:.4g}", values)]
    change = f"{points(accuracy.drop)} points   ({interval}; {accuracy.n:,} pictures)"
    rows = [(accuracy.metric, percent(accuracy.before), percent(accuracy.after), change)]
    companions = (
        ("top-5", accuracy.top5_before, accuracy.top5_after, accuracy.top5_drop),
        ("mAP50", accuracy.map50_before, accuracy.map50_after, accuracy.map50_drop),
    )
    for name, before, after, drop in companions:
        if before is not None and after is not None and drop is not None:
            rows.append((name, percent(before), percent(after), f"{points(drop)} points"))
    return rows


def _drift(drift: Drift) -> list[tuple[str, str, str, str]]:
    rows = []
    if drift.agreement is not None:
        rows.append(
            ("agreement", "", percent(drift.agreement), f"same top answer as the original   ({drift.n:,} {drift.on})")
        )
    far = "" if drift.sqnr_db >= FAR_DB else "   the outputs differ strongly"
    change = f"SQNR of the outputs, cosine {drift.cosine:.4f}   ({drift.n:,} {drift.on}){far}"
    rows.append(("drift", "", f"{drift.sqnr_db:.1f} dB", change))
    return rows


def worst(report: Report) -> list[str]:
    """Say in a sentence each which class lost most and which is weakest; nothing without labels."""
    return [words for words in (_most_lost(report), _weakest(report)) if words]


def _most_lost(report: Report) -> str:
    if not any(one.n for one in report.classes):
        return ""
    one = ranking.most_lost(report.classes)
    if one is None:
        return "no class lost"
    if one.before.ap is not None and one.after.ap is not None:
        precision = f"{percent(one.before.ap)} -> {percent(one.after.ap)}"
        return f"lost most: {one.name}, AP {precision} ({_counted(one.n, 'object')})"
    chance = "; no more than chance does" if ranking.within_chance(one, report.classes) else ""
    recall = f"{share(one.before.recall)} -> {share(one.after.recall)}"
    counts = f"lost {one.lost or 0:,}, gained {one.gained or 0:,} of {_counted(one.n, 'picture')}"
    return f"lost most: {one.name}, recall {recall} ({counts}{chance})"


def _weakest(report: Report) -> str:
    one = ranking.weakest(report.classes)
    if one is None:
        return ""
    name = ranking.figure_name(report.classes)
    counted = _counted(one.n, "object" if name == "AP" else "picture")
    return f"weakest: {one.name}, {name} {share(one.after.figure)} (before {share(one.before.figure)}; {counted})"


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("" if n == 1 else "s")


def _search(report: Report) -> list[str]:
    if not report.search:
        return []
    shown, left = ranking.candidates(report.search, TRIED)
    cells = [("", "speed-up", "size", "SQNR", "change", ""), *(tried(one) for one in shown)]
    widths = [max(len(row[column]) for row in cells) for column in range(5)]
    lines = []
    for number, (name, *figures, standing) in enumerate(cells):
        right = "  ".join(f"{cell:>{width}}" for cell, width in zip(figures, widths[1:], strict=True))
        label = "" if number else "tried"
        lines.append(f"{label:<{LABEL}}{name:<{widths[0]}}  {right}  {standing}".rstrip())
    return lines + ([f"{'':<{LABEL}}and {left} more"] if left else [])


def tried(one: Candidate) -> tuple[str, str, str, str, str, str]:
    """Give a candidate's cells: name, speed-up, size, SQNR, change in points, what became of it."""
    speed = "not timed" if one.speedup is None else f"x{one.speedup:.2f}"
    change = "" if one.drop is None else points(one.drop)
    return one.name, speed, megabytes(one.bytes), decibels(one.sqnr_db), change, ranking.standing(one)


def _facts(report: Report) -> list[str]:
    facts = [("classes", line) for line in worst(report)]
    facts += [("elsewhere", report.elsewhere.sentence)] if report.elsewhere is not None else []
    facts += [("did", line) for line in report.done]
    facts += [("note", line) for line in report.notes]
    facts += [("pictures", line) for line in report.preprocess.get("sentences", ())]
    facts.append(("calibrated", str(report.calibration["sentence"])))
    facts.append(("machine", str(report.machine["sentence"])))
    lines: list[str] = []
    last = ""
    for name, text in facts:
        lines += _wrapped("" if name == last else name, text)
        last = name
    return lines


def _wrapped(name: str, text: str) -> list[str]:
    import textwrap

    body = textwrap.wrap(text, WIDTH - LABEL, break_long_words=False, break_on_hyphens=False) or [""]
    return [f"{name if i == 0 else '':<{LABEL}}{line}".rstrip() for i, line in enumerate(body)]


def _python(report: Report) -> list[str]:
    if not report.python:
        return []
    return ["to run it:", "", *(f"    {line}".rstrip() for line in report.python.strip().splitlines())]


def _gates(report: Report) -> list[str]:
    width = max((len(gate.rule) for gate in report.gates), default=0)
    return [
        f"gate       {gate.rule:<{width}}   {number(gate.value)}   {'pass' if gate.passed else 'FAIL'}"
        for gate in report.gates
    ]


def megabytes(count: float) -> str:
    """Show bytes with three digits."""
    if abs(count) >= 1e8:
        return f"{count / 1e6:,.0f} MB"
    return f"{count / 1e6:.2f} MB" if abs(count) >= 1e6 else f"{count / 1e3:.1f} kB"


def milliseconds(value: float) -> str:
    """Show a latency with three digits or so."""
    return f"{value:.3f} ms" if value < 1 else f"{value:.2f} ms" if value < 100 else f"{value:,.0f} ms"


def percent(share: float) -> str:
    """Show a share as percent."""
    return f"{100 * share:.2f} %"


def share(value: float | None) -> str:
    """Show a share as percent, with a dash where there is none."""
    return "-" if value is None else percent(value)


def decibels(value: float | None) -> str:
    """Show a signal-to-noise ratio, with a dash where there is none."""
    return "-" if value is None else "equal" if value >= SAME_DB else f"{value:.1f} dB"


def runs_in(layer: Layer) -> str:
    """Say what a node runs in: int8, float, or - for one that only converts between the two."""
    return "int8" if layer.int8 else "-" if layer.why.startswith("a conversion") else "float"


def points(drop: float) -> str:
    """Show a drop as the change in percentage points: 0.01 is `-1.00`; never `-0.00`."""
    return f"{round(-100 * drop, 2) + 0.0:+.2f}"


def number(value: float) -> str:
    """Show a gate's value."""
    return f"{value:.4g}"
