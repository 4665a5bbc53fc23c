"""The sections of a report, filled: one model beside another, whoever made it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.measure import accuracy, detect, evaluate, latency, machine, memory
from edgekit.measure import size as sizes
from edgekit.measure.drift import Drift
from edgekit.report import report as plain
from edgekit.session import open_session, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from edgekit.measure.drift import DriftResult
    from edgekit.measure.material import Material
    from edgekit.session import Feed


@dataclass(frozen=True)
class Outputs:
    """What two models answer on the pictures of the report; `unreadable` of them were passed over."""

    accuracy: plain.Accuracy | None
    drift: plain.Drift
    unreadable: int = 0


def size(before: Path, after: Path) -> plain.Size:
    """Give the bytes of two model files."""
    old, new = sizes.file_bytes(before), sizes.file_bytes(after)
    zipped_old, zipped_new = sizes.zipped_bytes(before), sizes.zipped_bytes(after)
    return plain.Size(old, new, new / old, zipped_old, zipped_new, zipped_new / zipped_old)


def speed(
    before: Path, after: Path, feeds: Sequence[Feed], *, seconds: float, seed: int, threads: int
) -> plain.Latency:
    """Measure the latency of two models, interleaved."""
    openers = [latency.session_runner(path, feeds, threads) for path in (before, after)]
    return _latency(latency.compare(*openers, seconds=seconds, seed=seed, threads=threads))


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
        answers = evaluate.evaluate(old, new, material.pictures, material.decision, material.labelled, material.objects)
        return Outputs(_accuracy(answers), _drift(answers.drift, "pictures"), answers.unreadable)
    kind = "ready-made inputs" if material.report.origin == "feeds" else "synthetic pictures"
    return Outputs(None, _drift(compare_outputs(old, new, material.report), kind))


def compare_outputs(before: object, after: object, feeds: Iterable[Feed]) -> DriftResult:
    """Run two sessions over the same feeds and compare what they answer."""
    drift = Drift()
    for feed in feeds:
        drift.add(run(before, feed), run(after, feed))
    return drift.result()


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


def _accuracy(answers: evaluate.Evaluation) -> plain.Accuracy | None:
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


def machine_sentence(here: machine.Machine, threads: int) -> str:
    """Say in a line what was measured on."""
    versions = here.versions
    return (
        f"{here.cpu}, int8 instructions: {here.int8}, {threads} of {here.usable} threads, "
        f"onnxruntime {versions.get('onnxruntime', '?')}" + (f", load {here.load:.1f}" if here.load is not None else "")
    )
