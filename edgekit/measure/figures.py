"""The sections of a report, filled: one model beside another, whoever made it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.measure import accuracy, detect, evaluate, latency, machine, memory, metric
from edgekit.measure import size as sizes
from edgekit.measure.drift import Drift
from edgekit.report import report as plain
from edgekit.session import open_session, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgekit.measure.material import Material
    from edgekit.measure.metric import Metric
    from edgekit.session import Feed


@dataclass(frozen=True)
class Outputs:
    """What two models answer on the pictures of the report; `unreadable` of them were passed over."""

    accuracy: plain.Accuracy | None
    drift: plain.Drift
    unreadable: int = 0
    classes: tuple[plain.ClassFigures, ...] = ()
    confusion: tuple[plain.Answered, ...] = ()


def size(before: Path, after: Path) -> plain.Size:
    """Give the bytes of two model files."""
    old, new = sizes.file_bytes(before), sizes.file_bytes(after)
    zipped_old, zipped_new = sizes.zipped_bytes(before), sizes.zipped_bytes(after)
    return plain.Size(old, new, new / old, zipped_old, zipped_new, zipped_new / zipped_old)


def speed(
    before: Path, after: Path, feeds: Sequence[Feed], *, seconds: float, seed: int, threads: int
) -> tuple[plain.Latency, plain.Distribution | None]:
    """Measure the latency of two models, interleaved, and how single runs spread."""
    openers = [latency.session_runner(path, feeds, threads) for path in (before, after)]
    found = latency.compare(*openers, seconds=seconds, seed=seed, threads=threads)
    spread = found.distribution
    return _latency(found), plain.Distribution(spread.edges, spread.before, spread.after) if spread else None


def load(before: Path, after: Path, threads: int) -> plain.Pair:
    """Measure the time to open two models, interleaved, in milliseconds."""
    loads = latency.load_times(
        lambda: open_session(before, threads=threads), lambda: open_session(after, threads=threads)
    )
    return plain.Pair(loads.before_ms, loads.after_ms)


def peaks(before: Path, after: Path, feeds: Sequence[Feed], threads: int) -> plain.Pair | None:
    """Measure the peak memory of two models above the bare runtime, in bytes; None where the system does not tell."""
    found = [memory.peak_memory(path, feeds, threads) for path in (before, after)]
    return plain.Pair(found[0].above_runtime, found[1].above_runtime) if found[0] and found[1] else None


def outputs(before: Path, after: Path, material: Material, cores: int) -> Outputs:
    """Compare what two models answer on the material of the report."""
    old, new = (open_session(path, threads=cores) for path in (before, after))
    if material.pictures and material.decision is not None:
        judged_by = (material.labelled, material.objects, material.metric)
        answers = evaluate.evaluate(old, new, material.pictures, material.decision, *judged_by)
        classes, confusion = _classes(answers, material)
        drift = _drift(answers.drift, "pictures")
        return Outputs(_accuracy(answers, material.metric), drift, answers.unreadable, classes, confusion)
    kinds = {"feeds": "ready-made inputs", "random": "random inputs"}
    kind = kinds.get(material.report.origin, "synthetic pictures")
    answers = evaluate.evaluate_feeds(old, new, material.report, material.metric)
    return Outputs(_accuracy(answers, material.metric), _drift(answers.drift, kind))


def nearness(before: Any, after: Any, material: Material, count: int) -> tuple[str, float, float, int]:
    """Compare two sessions on the first `count` inputs of the report: what was measured, both scores, how many inputs.

    `agreement` of the top answers for a classifier, `cosine` of the outputs for anything else; `before` has 1.
    """
    drift = Drift()
    for feed in islice(material.report, count):
        drift.add(run(before, feed), run(after, feed))
    found = drift.result()
    if found.agreement is not None:
        return "agreement", 1.0, found.agreement, found.n
    return "cosine", 1.0, found.cosine, found.n


def _latency(speed: latency.Comparison) -> plain.Latency:
    return plain.Latency(
        before=speed.before.median_ms,
        after=speed.after.median_ms,
        before_p90=speed.before.p90_ms,
        after_p90=speed.after.p90_ms,
        speedup=speed.speedup,
        low=speed.low,
        high=speed.high,
        verdict=speed.verdict,
        runs=speed.before.runs + speed.after.runs,
        threads=speed.threads,
        ratio_of=speed.ratio_of,
    )


def _drift(drift: Any, on: str) -> plain.Drift:
    return plain.Drift(drift.sqnr_db, drift.cosine, drift.agreement, drift.n, on)


def _accuracy(answers: evaluate.Evaluation, own: Metric | None = None) -> plain.Accuracy | None:
    if answers.scored is not None and own is not None:
        gap = metric.paired(*answers.scored)
        return plain.Accuracy(own.name, gap.before, gap.after, gap.drop, gap.low, gap.high, gap.n)
    if answers.classified is not None:
        before, after = (tally.result() for tally in answers.classified)
        delta = accuracy.paired(answers.classified[0].correct, answers.classified[1].correct)
        values = plain.Accuracy("top-1", before.top1, after.top1, delta.drop, delta.low, delta.high, delta.n)
        if before.top5 is None or after.top5 is None:
            return values
        drop5 = before.top5 - after.top5
        return replace(values, top5_before=before.top5, top5_after=after.top5, top5_drop=drop5)
    if answers.detected is not None:
        old, new = (tally.result() for tally in answers.detected)
        found = detect.paired(*answers.detected)
        return plain.Accuracy(
            "mAP",
            old.map,
            new.map,
            found.drop,
            found.low,
            found.high,
            found.n,
            map50_before=old.map50,
            map50_after=new.map50,
            map50_drop=found.drop50,
        )
    return None


def _classes(
    answers: evaluate.Evaluation, material: Material
) -> tuple[tuple[plain.ClassFigures, ...], tuple[plain.Answered, ...]]:
    """Give the figures of every class and the confusions; detectors have none of the latter."""
    if answers.classified is not None:
        before, after = answers.classified
        return accuracy.by_class(before, after, material.class_names), accuracy.confusions(before, after)
    if answers.detected is not None:
        return detect.by_class(*answers.detected, material.class_names), ()
    return (), ()


def machine_sentence(here: machine.Machine, threads: int) -> str:
    """Say in a line what was measured on."""
    versions = here.versions
    return (
        f"{here.cpu}, int8 instructions: {here.int8}, {threads} of {here.usable} threads, "
        f"onnxruntime {versions.get('onnxruntime', '?')}" + (f", load {here.load:.1f}" if here.load is not None else "")
    )
