"""The report as one HTML page: no scripts, nothing from elsewhere, charts as SVG, for screens and paper."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from edgekit import files
from edgekit.report import drawings, ranking, style, text
from edgekit.report.charts import clip, escape
from edgekit.report.report import ClassFigures, Counts, Gate, Layer, Report

NAME_LENGTH, FOLDED_LENGTH = 48, 30  # letters of a name; the second in the long tables of a fold
LONG = 100
WHY = "why, and what would mend it"
# A browser that keeps to it loads and runs nothing, whatever the page holds.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def render(report: Report) -> str:
    """Write the verdict, one table, the charts, then the tables; sections without numbers are left out."""
    title, _, verdict = report.headline.rpartition("    ")
    body = "".join(
        (
            _verdict(report, title.strip(), verdict.strip()),
            _summary(report),
            _charts(report),
            _classes(report),
            _layers(report),
            _search(report),
            _facts(report),
            _gates(report),
            _python(report),
            f"<footer><p>{escape(text.wrote(report))}<p>{escape(files.MADE_BY)}</footer>",
        )
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<meta name="generator" content="{escape(files.MADE_BY)}">\n'
        f"<title>{escape(title.strip() or verdict)}</title>\n<style>\n{style.sheet()}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _verdict(report: Report, title: str, verdict: str) -> str:
    parts = [f"<h1>{_arrows(title)}</h1>" if title else "", f'<p class="verdict">{escape(verdict)}</p>']
    if report.gates:
        rows = "".join(f"<li{_passed(gate)} {escape(gate.rule)}</li>" for gate in report.gates)
        parts.append(f'<ul class="gates" aria-label="gates">{rows}</ul>')
    return "".join(parts)


def _summary(report: Report) -> str:
    rows = [
        f'<tr><th scope="row">{escape(name)}<td>{escape(before)}<td>{escape(after)}<td>{_with_note(change)}'
        for name, before, after, change in text.measured(report)
    ]
    head = '<tr><th scope="col">quantity<th scope="col">before<th scope="col">after<th scope="col" class="l">change'
    said = [*text.worst(report), *([report.elsewhere.sentence] if report.elsewhere is not None else [])]
    return (
        _scroll("Before and after", f'<table class="summary"><caption>Original and finished model</caption>'
                f"<thead>{head}<tbody>{''.join(rows)}</table>")
        + "".join(f"<p>{_arrows(line[:1].upper() + line[1:])}</p>" for line in said)
    )  # fmt: skip


def _with_note(change: str) -> str:
    value, gap, note = change.partition("   ")
    return escape(value) + (f"<small>{_arrows(note.strip())}</small>" if gap else "")


def _arrows(words: str) -> str:
    return escape(words.replace(" -> ", " → "))


def _charts(report: Report) -> str:
    parts = []
    for one in drawings.drawings(report):
        drawn = _scroll(one.title, one.svg) if one.wide else one.svg
        caption = f"<figcaption>{escape(one.title)}<small>{escape(one.note)}</small></figcaption>"
        wide = ' class="wide"' if one.wide else ""
        parts.append(f"<figure{wide}>{caption}{drawn}</figure>\n")
    return f'<h2>Measured</h2><div class="charts">{"".join(parts)}</div>'


def _classes(report: Report) -> str:
    if not report.classes:
        return ""
    order = ranking.worst_first(report.classes)
    shown, rest = order[: ranking.SHOWN], order[ranking.SHOWN :]
    is_detector = ranking.figure_name(report.classes) == "AP"
    note = (
        "Boxes of score 0.3 and above count, at IoU 0.5; AP is the mean over IoU 0.50 to 0.95."
        if is_detector
        else "Each class against the rest: TP right, FP wrongly called it, FN missed, TN rightly called another."
    )
    caption = "What lost most comes first" + (f"; {len(shown)} of {len(order):,} classes" if rest else "")
    parts = ["<h2>Classes</h2>", f'<p class="soft">{note}</p>', _class_table(caption, shown, is_detector)]
    if rest:
        table = _class_table("All other classes, in the same order", rest, is_detector)
        parts.append(f"<details><summary>The other {len(rest):,} classes</summary>{table}</details>")
    return "".join(parts)


def _class_table(caption: str, classes: Sequence[ClassFigures], is_detector: bool) -> str:
    names = ("TP", "FP", "FN", "AP" if is_detector else "TN", "precision", "recall", "F1")
    columns = "".join(f'<th scope="col">{one}' for one in names)
    what = "objects" if is_detector else "pictures"
    head = (
        f'<tr><th rowspan="2" scope="col" class="first">class<th rowspan="2" scope="col">{what}'
        '<th colspan="7" scope="colgroup">before<th colspan="7" scope="colgroup">after'
        f"<tr>{columns}{columns}"
    )
    length = FOLDED_LENGTH if len(classes) > LONG else NAME_LENGTH
    rows = (f"<tr><th>{_name(one.name, length)}<td>{one.n}{_counts(one.before)}{_counts(one.after)}" for one in classes)
    return _table(caption, head, rows, "classes")


def _counts(counts: Counts) -> str:
    extra = _percent(counts.ap) if counts.tn is None else str(counts.tn)
    shares = "".join(f"<td>{_percent(one)}" for one in (counts.precision, counts.recall, counts.f1))
    return f"<td>{counts.tp}<td>{counts.fp}<td>{counts.fn}<td>{extra}{shares}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _layers(report: Report) -> str:
    if not report.layers:
        return ""
    order = sorted(report.layers, key=lambda layer: -layer.share)
    shown, rest = order[: ranking.SHOWN], order[ranking.SHOWN :]
    parts = ["<h2>Layers</h2>", _layer_table("Nodes as onnxruntime runs them, the costliest first", shown)]
    if rest:
        table = _layer_table("All other nodes, in the same order", rest)
        parts.append(f"<details><summary>The other {len(rest):,} nodes</summary>{table}</details>")
    return "".join(parts)


def _layer_table(caption: str, layers: Sequence[Layer]) -> str:
    length = FOLDED_LENGTH if len(layers) > LONG else NAME_LENGTH
    head = _head("node", "type", "runs in", "ms", "% of time", "SQNR, dB", WHY)
    rows = (
        f"<tr><th>{_name(layer.name, length)}<td>{_name(layer.type)}<td>{text.runs_in(layer)}"
        f"<td>{layer.ms:.3f}<td>{100 * layer.share:.1f}<td>{text.decibels(layer.sqnr_db).removesuffix(' dB')}"
        f"<td>{escape('; '.join(word for word in (layer.why, layer.mend) if word))}"
        for layer in layers
    )
    return _table(caption, head, rows, "layers")


def _search(report: Report) -> str:
    if not report.search:
        return ""
    head = _head("model", "speed-up", "95%", "size", "SQNR", "change", "")
    rows = []
    for one in report.search:
        name, speed, size, sqnr, change, standing = text.tried(one)
        interval = "" if one.low is None or one.high is None else f"{one.low:.2f}-{one.high:.2f}"
        start = "<tr class=chosen>" if one.chosen else "<tr>"
        cells = "".join(f"<td>{escape(cell)}" for cell in (speed, interval, size, sqnr, change, standing))
        rows.append(f"{start}<th>{escape(name)}{cells}")
    caption = "In the order they were tried, on the pictures to choose by; change in percentage points"
    return "<h2>What was tried</h2>" + _table(caption, head, rows)


def _facts(report: Report) -> str:
    parts = ["<h2>How it was made</h2>", _list((*report.done, *report.notes))]
    pictures = tuple(report.preprocess.get("sentences", ()))
    if pictures:
        parts.append(f"<h2>What the model is fed with</h2>{_list(pictures)}")
    rows = [
        ("calibrated", report.calibration.get("sentence", "")),
        ("machine", report.machine.get("sentence", "")),
        ("steps", ", ".join(report.recipe.get("typed", ()))),
        ("seed", report.recipe.get("seed", "")),
        ("model", _digest(report.model)),
        ("written", _digest(report.out)),
    ]
    pairs = "".join(f"<dt>{name}<dd>{escape(str(value))}" for name, value in rows if value != "")
    return "".join(parts) + f"<h2>Calibration and machine</h2><dl>{pairs}</dl>"


def _digest(entry: Any) -> str:
    digest = f" (sha256 {entry['sha256'][:16]}…)" if entry.get("sha256") else ""
    return f"{entry.get('path', '')}{digest}"


def _gates(report: Report) -> str:
    if not report.gates:
        return ""
    rows = (
        f"<tr><th><code>{escape(gate.rule)}</code><td>{text.number(gate.value)}<td{_passed(gate)}"
        for gate in report.gates
    )
    return "<h2>Gates</h2>" + _table("Rules that the figures were held against", _head("rule", "value", ""), rows)


def _passed(gate: Gate) -> str:
    """Give the end of a tag and its word."""
    return ' class="pass">pass' if gate.passed else ' class="fail">FAIL'


def _python(report: Report) -> str:
    if not report.python:
        return ""
    lines = "\n".join(escape(line) for line in report.python.strip().splitlines())
    return f"<h2>To run it</h2><pre><code>{lines}</code></pre>"


def _list(lines: Iterable[str]) -> str:
    return f'<ul class="plain">{"".join(f"<li>{escape(line)}" for line in lines)}</ul>'


def _head(*names: str) -> str:
    words = ("type", WHY)
    cells = (f'<th scope="col"{" class=l" if name in words else ""}>{name}' for name in names)
    return f"<tr>{''.join(cells)}"


def _table(caption: str, head: str, rows: Iterable[str], kind: str = "plain") -> str:
    body = "\n".join(rows)
    start = f'<table class="{kind}"><caption>{escape(caption)}</caption>'
    return _scroll(caption, f"{start}<thead>{head}<tbody>\n{body}</table>")


def _scroll(name: str, inside: str) -> str:
    """Let what is wider than the screen be moved sideways, by keyboard too."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}">{inside}</div>'


def _name(name: str, length: int = NAME_LENGTH) -> str:
    return escape(clip(name, length))
