"""The report as Markdown: the verdict, one table, the details folded."""

from __future__ import annotations

from edgekit import files
from edgekit.report import text
from edgekit.report.report import Report


def render(report: Report) -> str:
    """Write the verdict first, then one table, then the details in a fold."""
    lines = [f"**{_cell(report.headline)}**", "", "| | before | after | change |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in text.measured(report)]
    if report.gates:
        lines += ["", "| gate | value | |", "|---|---|---|"]
        lines += [
            f"| `{g.rule}` | {text.number(g.value)} | {'pass' if g.passed else '**FAIL**'} |" for g in report.gates
        ]
    lines += ["", "<details><summary>What was done, assumed and measured</summary>", ""]
    lines += [f"- {line}" for line in (*report.done, *report.notes)]
    lines += [f"- pictures: {line}" for line in report.preprocess.get("sentences", ())]
    lines += [f"- calibrated: {report.calibration['sentence']}", f"- machine: {report.machine['sentence']}"]
    if report.python:
        lines += ["", "```python", report.python.strip(), "```"]
    lines += ["", "</details>", "", text.wrote(report), "", f"<!-- {files.MADE_BY} -->", ""]
    return "\n".join(lines)


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("\n", " ")
