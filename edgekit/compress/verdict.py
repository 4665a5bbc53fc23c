"""Measure the finished model against the original and put the report together."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import files, graph
from edgekit.compress import elsewhere
from edgekit.errors import EdgekitError
from edgekit.measure import accuracy, evaluate, explain, figures, machine, nodes
from edgekit.report import report as plain

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgekit.compress.bench import Bench
    from edgekit.compress.run import Job
    from edgekit.compress.settings import compress
    from edgekit.measure.material import Material

FAR_DB = 20.0
STORED = "stored in 8 bits"  # how the decision of `int8` for storage begins
SIGNIFICANT_DROP = 0.01


def check_rule(rule: plain.Rule, material: Material) -> None:
    """Raise EdgekitError, before the work, for a gate on a number that will not be measured."""
    labelled, detector = material.labelled, material.objects is not None
    if rule.needs_labels and labelled is None and not detector and material.metric is None:
        raise EdgekitError(
            f"gate {rule.text!r} needs labelled pictures, and those of --data are not labelled for this model",
            "give one folder a class, or --task detect; or gate drift.sqnr_db or drift.agreement instead",
        )
    if rule.key.startswith("map50_") and not detector:
        raise EdgekitError(f"gate {rule.text!r} is for detectors", "use accuracy.drop, or give --task detect")
    if rule.key.startswith("top5_") and (labelled is None or labelled.outputs < accuracy.TOP5_CLASSES):
        few = f"classifiers with {accuracy.TOP5_CLASSES} classes or more"
        raise EdgekitError(f"gate {rule.text!r} is for {few}", "use accuracy.drop")


def has_budget(settings: compress) -> bool:
    """Tell whether a budget was given."""
    return any(value is not None for value in (settings.max_drop, settings.max_ms, settings.max_mb))


def budget_rules(settings: compress, material: Material) -> tuple[plain.Rule, ...]:
    """Give the gates that the budgets are: what is promised is judged on the material of the report."""
    rules = []
    if settings.max_drop is not None:
        rules.append(
            f"accuracy.drop<={settings.max_drop:g}"
            if _is_scored(material)
            else f"drift.agreement>={1 - settings.max_drop:g}"
        )
    if settings.max_ms is not None:
        rules.append(f"latency.after<={settings.max_ms:g}")
    if settings.max_mb is not None:
        rules.append(f"size.after<={1e6 * settings.max_mb:.0f}")
    return tuple(plain.parse_gate(rule) for rule in rules)


def _is_scored(material: Material) -> bool:
    return any(part is not None for part in (material.labelled, material.objects, material.metric))


def stand_in(settings: compress, material: Material) -> str:
    """Say what --max-drop is held against where there are no labels; nothing where there are."""
    if settings.max_drop is None or _is_scored(material):
        return ""
    return f"--max-drop is held against agreement with the original on {material.report}: there are no labels"


def measure(
    job: Job, candidate: Path, material: Material, bench: Bench, say: Callable[[str], None], started: float
) -> plain.Report:
    """Measure `candidate` against the original, judge the gates, and give the report."""
    settings = job.settings
    feeds = bench.latency_feeds()
    say("measuring latency")
    speed, distribution = figures.speed(
        job.model, candidate, feeds, seconds=settings.seconds, seed=settings.seed, threads=settings.threads
    )
    load = figures.load(job.model, candidate, settings.threads)
    say("measuring memory")
    peaks = figures.peaks(job.model, candidate, feeds[:2], settings.threads)
    say("comparing outputs")
    answers = figures.outputs(job.model, candidate, material, bench.cores)
    if answers.unreadable:
        bench.note(f"{answers.unreadable} of the pictures to report on cannot be read and were passed over")
    sections: dict[str, Any] = {
        "size": figures.size(job.model, candidate),
        "latency": speed,
        "accuracy": answers.accuracy,
        "drift": answers.drift,
        "load": load,
        "memory": peaks,
    }
    there = _elsewhere(candidate, material, bench, speed)
    layers = _layers(job, candidate, bench)
    gates = tuple(plain.judge(rule, sections, strict=settings.strict) for rule in job.rules)
    passed = all(gate.passed for gate in gates)
    from edgekit.compress.run import recipe_of, rejected

    out = job.out if passed else rejected(job.out)
    census, here = nodes.census(graph.load(candidate)), machine.describe()
    return plain.Report(
        headline=headline(job, out, bench, sections),
        model={
            "path": str(job.model),
            "sha256": files.sha256(job.model.read_bytes()),
            "opset": graph.opset(graph.load(job.model)),
        },
        out={"path": str(out), "sha256": files.sha256(candidate.read_bytes())},
        recipe=recipe_of(job, bench),
        done=(_did(census),),
        notes=tuple(bench.notes),
        nodes=asdict(census),
        preprocess=_preprocess(material),
        calibration={
            "sentence": _calibrated(material),
            "digest": material.calibrate.digest,
            "origin": material.calibrate.origin,
        },
        machine={"sentence": figures.machine_sentence(here, settings.threads), **here.to_dict()},
        python=_python(graph.load(job.model), out, material),
        gates=gates,
        seconds=round(time.monotonic() - started, 3),
        classes=answers.classes,
        confusion=answers.confusion,
        distribution=distribution,
        search=tuple(bench.trials),
        elsewhere=there,
        layers=layers,
        **sections,
    )


def _layers(job: Job, candidate: Path, bench: Bench) -> tuple[plain.Layer, ...]:
    """Explain every node, where somebody will read it."""
    pages = any(name.endswith(".html") for name in job.settings.report)
    if not (job.settings.explain or pages):
        return ()
    inner = [one for step in bench.settlements for one in step.get("composition", {}).get("decisions", ())]
    left = [name for one in (*bench.settlements, *inner) for name in (one.get("choice") or {}).get("float", ())]
    reasons = dict.fromkeys(left, "left in float by the search")
    models = (graph.load(job.model), graph.load(candidate))
    return explain.explain(*models, bench.latency_feeds(), job.settings.threads, reasons=reasons)


# Emulation takes this many times as long as the model; pictures are as many as keep it short.
EMULATION, EMULATED_MS, EMULATED = 40, 4000.0, (8, 64)


def _elsewhere(candidate: Path, material: Material, bench: Bench, speed: plain.Latency) -> plain.Elsewhere | None:
    """Score the model as on an x86 CPU without VNNI, where this one is another."""
    if bench.here in ("avx2", "none"):
        return None
    least, most = EMULATED
    count = max(least, min(most, int(EMULATED_MS / (EMULATION * speed.after))))

    def compare(here: Any, there: Any) -> tuple[str, float, float, int]:
        return figures.nearness(here, there, material, count)

    return elsewhere.elsewhere(graph.load(candidate), compare, bench.cores)


def headline(job: Job, out: Path, bench: Bench, sections: dict[str, Any]) -> str:
    """Say in one line what came out: decisions, then speed, size, accuracy, and whether the outputs are far off."""
    speed, bytes_, score, drift = (sections[name] for name in ("latency", "size", "accuracy", "drift"))
    parts = list(bench.decisions) or [", ".join(str(step) for step in job.steps)]
    parts += [_speed_in_words(speed, bench), f"x{bytes_.ratio:.2f} the size"]
    if score is not None:
        change = f"{-score.drop:+.4g}" if score.own else f"{round(-100 * score.drop, 2) + 0.0:+.2f} points"
        parts.append(f"{change} {score.metric}")
    elif drift.agreement is not None:
        far = f", outputs at {drift.sqnr_db:.0f} dB" if drift.sqnr_db < FAR_DB else ""
        parts.append(f"{100 * drift.agreement:.1f} % same answers{far}")
    elif drift.sqnr_db < FAR_DB:
        parts.append(f"THE OUTPUTS DIFFER STRONGLY ({drift.sqnr_db:.1f} dB)")
    else:
        parts.append(f"outputs at {drift.sqnr_db:.0f} dB")
    return f"{job.model.name} -> {out.name}    {'; '.join(parts)}"


def _speed_in_words(speed: plain.Latency, bench: Bench) -> str:
    if speed.verdict == "no difference shown":
        return "no difference in speed shown"
    # Storage adds no speed: what a stored model gains, it owes to folded norms and weights out of the inputs.
    stored = any(decision.startswith(STORED) for decision in bench.decisions)
    why = " by simplification alone" if stored and speed.verdict == "faster" else ""
    return f"x{speed.speedup:.2f} {speed.verdict}{why}"


def _preprocess(material: Material) -> dict[str, Any]:
    values = material.decision.preprocess.to_dict() if material.decision is not None else {}
    return {**values, "classes": list(material.class_names), "sentences": list(material.sentences)}


def _calibrated(material: Material) -> str:
    return f"on {material.calibrate}; choices were made on {material.choose}"


def _did(census: nodes.Census) -> str:
    """Say in a line what runs in int8 and what in float, after onnxruntime's own optimisation."""
    total = census.int8 + census.float
    text = f"{census.int8} of {total} computing nodes run in int8"
    if census.float:
        kinds = ", ".join(f"{len(names)} {kind}" for kind, names in census.float_names.items())
        text += f", {census.float} in float ({kinds})"
    return text


def _python(model: ModelProto, out: Path, material: Material) -> str:
    if material.decision is None:
        return ""
    wanted, batch = material.decision.preprocess, material.decision.batch
    count = evaluate.score_count(model)
    if count is None:
        return wanted.python(out.name, (), batch, "scores.shape")
    names = material.class_names if len(material.class_names) == max(2, count) else ()
    if count > 1:
        return wanted.python(out.name, names, batch)
    last = graph.producers(model).get(model.graph.output[0].name)
    is_share = last is not None and last.op_type == "Sigmoid"
    return wanted.python(out.name, names, batch, f"int(scores[0].item() > {0.5 if is_share else 0})")
