"""`edgekit bench`: from what was typed to the measurements, and their tables."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import config, files
from edgekit.bench import against, disagree
from edgekit.bench import run as line
from edgekit.bench.settings import bench
from edgekit.cli.console import WIDTH, Console
from edgekit.errors import EdgekitError
from edgekit.report import text
from edgekit.report.report import parse_gate
from edgekit.words import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgekit.cli.signature import Typed
    from edgekit.report.report import Report

SUFFIXES = (".json", ".md")
LABEL = 11  # columns of the first column
LONGEST_NAME = 20


def run_bench(models: Sequence[str], typed: Typed) -> int:
    """Run `edgekit bench` and give its exit code."""
    console = Console(typed.common.json, typed.common.quiet, typed.common.verbose)
    job = effective(models, typed)
    check_outputs(job)
    results = line.run(job, console.detail if console.verbose else console.say)
    answer = render(results)
    for name in job.settings.report:
        document = json.dumps(results.to_dict(), ensure_ascii=True, allow_nan=False, indent=2) + "\n"
        fenced = f"```\n{answer}\n```\n\n<!-- {files.MADE_BY} -->\n"
        files.write(Path(name), document if Path(name).suffix == ".json" else fenced)
    if console.json:
        console.document(results.to_dict())
    console.answer(answer)
    return results.exit_code


def effective(models: Sequence[str], typed: Typed) -> line.Job:
    """Resolve the settings, read the gates and the other machine's report; raise EdgekitError for what cannot be."""
    from edgekit.cli.listing import COMMANDS

    loaded = config.load(typed.common.config, search=not typed.common.no_config)
    config.check_keys(loaded, COMMANDS)
    settings = config.resolve(bench, typed.values, loaded).settings
    rules = tuple(parse_gate(gate) for gate in settings.gate)  # [gate] of the file is what compress promises
    for rule in rules:
        if rule.needs_labels and settings.data is None and settings.metric is None:
            raise EdgekitError(f"gate {rule.text!r} needs labelled pictures", "give them with --data DIR")
        if len(models) == 1 and not rule.key.startswith("after"):
            raise EdgekitError(
                f"gate {rule.text!r} compares two models, and one was given", "gate one such as latency.after<=20"
            )
    if settings.feeds is not None and settings.data is not None:
        raise EdgekitError("--feeds and pictures (--data) exclude each other", "give one or the other")
    that = against.read(Path(settings.against)) if settings.against is not None else None
    return line.Job(tuple(Path(model) for model in models), rules, settings, that)


def check_outputs(job: line.Job) -> None:
    """Raise EdgekitError, before the work starts, when a file or folder cannot be made."""
    settings = job.settings
    for name in settings.report:
        path = Path(name)
        if path.suffix not in SUFFIXES:
            kind = path.suffix or "a name without suffix"
            raise EdgekitError(f"--report {name}: no renderer for {kind}", f"use {' or '.join(SUFFIXES)}")
        files.require_writable(path.parent)
        files.refuse_existing(path, force=settings.force, what="report")
    if settings.disagreements is not None:
        disagree.refusal(Path(settings.disagreements), None, force=settings.force)()


def render(results: line.Results) -> str:
    """Lay everything out in 100 columns: a table for each model beside the first, the facts, the other machine."""
    blocks = []
    for pair in results.pairs:
        title = textwrap.wrap(_title(pair, alone=results.alone), WIDTH, drop_whitespace=False, subsequent_indent="    ")
        blocks += [title, _table(pair, alone=results.alone)]
        for gate in pair.gates:
            blocks[-1] += _filled("gate", f"{gate.rule}   {text.number(gate.value)}   {_word(passed=gate.passed)}")
    facts = [] if len(results.pairs) > 1 else [("did", word) for word in results.pairs[0].done]
    facts += [("note", note) for pair in results.pairs for note in pair.notes]
    facts += [("pictures", sentence) for sentence in results.pictures]
    facts.append(("machine", str(results.machine["sentence"])))
    blocks.append([row for name, said in _merged(facts) for row in _filled(name, said)])
    if results.that is not None:
        blocks.append(_beside(results.rows, results.that.path))
    if (made := results.disagreements) is not None:
        said = f"of {made.pictures:,} pictures are answered differently by"
        blocks.append([f"{count:,} {said} {Path(model).name}: {made.folder}" for model, count in made.counts.items()])
    return printable("\n\n".join("\n".join(block) for block in blocks))


def _title(pair: Report, *, alone: bool) -> str:
    if not alone:
        return pair.headline
    threads = f"{pair.latency.threads} thread" + ("s" if pair.latency.threads > 1 else "")
    said = [f"{text.milliseconds(pair.latency.after)} ({threads})", text.megabytes(pair.size.after)]
    if pair.accuracy is not None:
        said.append(f"{text.percent(pair.accuracy.after)} {pair.accuracy.metric}")
    return f"{Path(pair.out['path']).name}    {'; '.join(said)}"


def _word(*, passed: bool) -> str:
    return "pass" if passed else "FAIL"


def _table(pair: Report, *, alone: bool) -> list[str]:
    """Give a pair's lines, a column a model and what changed; of a model alone its own column."""
    if alone:
        return [row for name, said in _own(pair) for row in _filled(name, said)]
    names = [_cut(Path(pair.model["path"]).name), _cut(Path(pair.out["path"]).name)]
    table = [("", *names, "change"), *text.measured(pair)]
    widths = [max(len(row[column]) for row in table) + 2 for column in (1, 2)]
    left = LABEL + sum(widths)
    lines = []
    for name, before, after, change in table:
        body = textwrap.wrap(change, max(20, WIDTH - left), break_on_hyphens=False) or [""]
        lines.append(f"{name:<{LABEL}}{before:<{widths[0]}}{after:<{widths[1]}}{body[0]}".rstrip())
        lines += [" " * left + more for more in body[1:]]
    return lines


def _own(pair: Report) -> list[tuple[str, str]]:
    """Give the figures of a model that was measured alone."""
    speed, score = pair.latency, pair.accuracy
    p90 = f"p90 {text.milliseconds(speed.after_p90)}"
    rows = [
        ("size", f"{text.megabytes(pair.size.after)}   (zipped {text.megabytes(pair.size.zipped_after)})"),
        ("latency", f"{text.milliseconds(speed.after)}   (median of {speed.runs:,} runs; {p90})"),
        ("load", f"{text.milliseconds(pair.load.after)}   time to open the model"),
    ]
    if pair.memory is not None:
        rows.append(("memory", f"{text.megabytes(pair.memory.after)}   peak, above the bare runtime"))
    if score is not None:
        rows.append((score.metric, f"{text.percent(score.after)}   ({score.n:,} pictures)"))
        for name, value in (("top-5", score.top5_after), ("mAP50", score.map50_after)):
            if value is not None:
                rows.append((name, text.percent(value)))
    return rows


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"...{name[3 - LONGEST_NAME :]}"


def _merged(facts: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Leave the name out where it is that of the line above."""
    names = ["", *(name for name, _ in facts)]
    return [("" if name == last else name, said) for (name, said), last in zip(facts, names, strict=False)]


def _filled(name: str, said: str) -> list[str]:
    body = textwrap.wrap(said, WIDTH - LABEL, break_on_hyphens=False, break_long_words=False) or [""]
    return [f"{name:<{LABEL}}{body[0]}", *(" " * LABEL + more for more in body[1:])]


def _beside(rows: Sequence[against.Row], path: str) -> list[str]:
    """Give the lines of this machine beside the other; what makes figures incomparable is marked and said below."""
    table = [("", "this machine", _cut(Path(path).name)), *((row.name, row.here, row.there) for row in rows)]
    width = (WIDTH - LABEL - 2) // 2
    lines = []
    for (name, here, there), differs in zip(table, (False, *(row.differs for row in rows)), strict=True):
        left = textwrap.wrap(here, width - 2) or [""]
        right = textwrap.wrap(there, width - 2) or [""]
        right[0] += " !" if differs else ""
        for number in range(max(len(left), len(right))):
            cells = (each[number] if number < len(each) else "" for each in (left, right))
            shown = name if number == 0 else ""
            lines.append("{:<{}}{:<{}}{}".format(shown, LABEL, next(cells), width, next(cells)).rstrip())
    changed = list(dict.fromkeys(row.name for row in rows if row.differs))
    if "model" in changed:
        lines.append("! another model file there (its SHA-256 differs): the figures are not of the same model")
    if others := [name for name in changed if name != "model"]:
        lines.append(f"! measured otherwise there: {', '.join(others)}")
    return lines
