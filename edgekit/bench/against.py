"""The report of another machine beside this one's: figure by figure, and whether it is of the same models."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError
from edgekit.report.text import megabytes, milliseconds

REPORT, BENCH = "edgekit.report/1", "edgekit.bench/1"
HINT = f"give what --report x.json of `edgekit compress` or `edgekit bench` wrote ({REPORT}, {BENCH})"


@dataclass(frozen=True)
class One:
    """One model on one machine; None for what was not measured. Milliseconds, bytes, score 0..1."""

    name: str
    sha256: str
    bytes: float
    latency: float
    p90: float
    load: float
    memory: float | None
    metric: str | None
    score: float | None
    n: int | None


@dataclass(frozen=True)
class Two:
    """A model beside the one it is compared with."""

    before: One
    after: One
    speedup: float
    low: float
    high: float
    drop: float | None
    agreement: float | None
    sqnr_db: float
    on: str


@dataclass(frozen=True)
class Standing:
    """What a document says: the machine, its models, and the pairs that were compared."""

    path: str
    cpu: str
    int8: str
    runtime: str
    threads: int
    models: tuple[One, ...]
    pairs: tuple[Two, ...]


@dataclass(frozen=True)
class Row:
    """One figure here and there, as it is shown; `differs` marks what makes the figures incomparable."""

    name: str
    here: str
    there: str
    differs: bool = False


def read(path: Path) -> Standing:
    """Read a report; raise EdgekitError when it is not there, not JSON, or of another schema."""
    if path.is_dir():
        raise EdgekitError(f"--against {path}: is a folder", HINT)
    if not path.is_file():
        raise EdgekitError(f"--against {path}: no such file", HINT)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise EdgekitError(f"--against {path}: not a JSON document: {error}", HINT) from None
    except OSError as error:
        raise EdgekitError(f"--against {path}: cannot be read: {error.strerror}", "mend its permissions") from None
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema not in (REPORT, BENCH):
        raise EdgekitError(f"--against {path}: its schema is {schema or 'missing'}, not {REPORT} or {BENCH}", HINT)
    try:
        return standing(document, str(path))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise EdgekitError(f"--against {path}: is no whole report: {reason}", HINT) from None


def standing(document: Mapping[str, Any], path: str) -> Standing:
    """Take from a document of either schema what can be compared."""
    reports = [document] if document["schema"] == REPORT else document["pairs"]
    pairs = tuple(_two(report) for report in reports)
    if document["schema"] == REPORT:
        models: tuple[One, ...] = (pairs[0].before, pairs[0].after)
        threads = document["latency"]["threads"]
    else:
        models = tuple(_listed(model) for model in document["models"])
        threads = document["models"][0]["threads"]
    here = document["machine"]
    return Standing(path, here["cpu"], here["int8"], here["versions"].get("onnxruntime", "?"), threads, models, pairs)


def _two(report: Mapping[str, Any]) -> Two:
    speed, score, drift = report["latency"], report["accuracy"], report["drift"]
    return Two(
        _side(report, "before", report["model"]),
        _side(report, "after", report["out"]),
        float(speed["speedup"]),
        float(speed["low"]),
        float(speed["high"]),
        None if score is None else float(score["drop"]),
        drift["agreement"],
        float(drift["sqnr_db"]),
        f"{drift['n']:,} {drift['on']}",
    )


def _side(report: Mapping[str, Any], which: str, model: Mapping[str, Any]) -> One:
    speed, score, memory = report["latency"], report["accuracy"], report["memory"]
    return One(
        Path(model["path"]).name,
        model["sha256"],
        float(report["size"][which]),
        float(speed[which]),
        float(speed[f"{which}_p90"]),
        float(report["load"][which]),
        None if memory is None else float(memory[which]),
        None if score is None else score["metric"],
        None if score is None else float(score[which]),
        None if score is None else score["n"],
    )


def _listed(model: Mapping[str, Any]) -> One:
    memory, score = model["memory_bytes"], model["score"]
    return One(
        Path(model["path"]).name,
        model["sha256"],
        float(model["bytes"]),
        float(model["latency_ms"]),
        float(model["latency_p90_ms"]),
        float(model["load_ms"]),
        None if memory is None else float(memory),
        model["metric"],
        None if score is None else float(score),
        model["n"],
    )


def rows(here: Standing, there: Standing) -> tuple[Row, ...]:
    """Set two machines side by side: who they are, then each model of `here` by its likeness, then the pairs.

    A model's likeness is the one with the same digest, else with the same name, else at the same place.
    """
    found = [
        Row("CPU", here.cpu, there.cpu),
        Row("int8", here.int8, there.int8),
        Row("runtime", f"onnxruntime {here.runtime}", f"onnxruntime {there.runtime}"),
        Row("threads", str(here.threads), str(there.threads), here.threads != there.threads),
    ]
    partners = {}
    for position, model in enumerate(here.models):
        partner = _partner(model, position, len(here.models), there.models)
        partners[model.sha256] = partner.sha256
        found += _model_rows(model, partner)
    for pair in here.pairs:
        wanted = (partners[pair.before.sha256], partners[pair.after.sha256])
        other = next((two for two in there.pairs if (two.before.sha256, two.after.sha256) == wanted), None)
        if other is not None:
            found += _pair_rows(pair, other)
    return tuple(found)


def _partner(model: One, position: int, count: int, models: Sequence[One]) -> One:
    same = [other for other in models if other.sha256 == model.sha256]
    named = [other for other in models if other.name == model.name]
    # One model here and two there: a report of compress, whose second is what it made.
    place = -1 if count == 1 else min(position, len(models) - 1)
    return (same or named or [models[place]])[0]


def _model_rows(here: One, there: One) -> list[Row]:
    differs = here.sha256 != there.sha256
    found = [
        Row("model", f"{here.name} ({here.sha256[:12]})", f"{there.name} ({there.sha256[:12]})", differs),
        Row("size", _megabytes(here.bytes), _megabytes(there.bytes)),
        Row(
            "latency",
            f"{milliseconds(here.latency)}, p90 {milliseconds(here.p90)}",
            f"{milliseconds(there.latency)}, p90 {milliseconds(there.p90)}",
        ),
        Row("load", milliseconds(here.load), milliseconds(there.load)),
    ]
    if here.memory is not None or there.memory is not None:
        found.append(Row("memory", _megabytes(here.memory), _megabytes(there.memory)))
    if here.score is not None or there.score is not None:
        differs = None not in (here.n, there.n) and here.n != there.n
        found.append(Row(here.metric or there.metric or "", _score(here), _score(there), differs))
    return found


def _pair_rows(here: Two, there: Two) -> list[Row]:
    shown: list[tuple[str, Callable[[Two], str | None]]] = [
        ("speed-up", lambda two: f"x{two.speedup:.2f} (95% {two.low:.2f}-{two.high:.2f})"),
        ("points", lambda two: None if two.drop is None else f"{round(-100 * two.drop, 2) + 0.0:+.2f}"),
        ("agreement", lambda two: None if two.agreement is None else f"{100 * two.agreement:.2f} %"),
        ("drift", lambda two: f"{two.sqnr_db:.1f} dB on {two.on}"),
    ]
    both = [(name, show(here), show(there)) for name, show in shown]
    return [
        Row(name, left or "-", right or "-", name == "drift" and here.on != there.on)
        for name, left, right in both
        if left or right
    ]


def _score(model: One) -> str:
    return "-" if model.score is None else f"{100 * model.score:.2f} % of {model.n:,}"


def _megabytes(count: float | None) -> str:
    return "-" if count is None else megabytes(count)
