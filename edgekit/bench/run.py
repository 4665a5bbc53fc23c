"""The straight line of `edgekit bench`: load -> gather -> measure each model beside the first -> gates -> results."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import files, graph
from edgekit.bench import against, disagree, fed
from edgekit.bench.settings import bench
from edgekit.compress.verdict import check_rule
from edgekit.errors import EdgekitError
from edgekit.measure import figures, machine, nodes
from edgekit.report import report as plain
from edgekit.session import open_session

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgekit.measure.material import Material

Say = Callable[[str], None]
SCHEMA = "edgekit.bench/1"
LATENCY_FEEDS = 8
MEMORY_FEEDS = 2


@dataclass(frozen=True)
class Job:
    """Everything one run needs: what was typed, read and checked. `that` is the report of another machine."""

    models: tuple[Path, ...]
    rules: tuple[plain.Rule, ...]
    settings: bench
    that: against.Standing | None = None


@dataclass(frozen=True)
class Results:
    """What was measured: one report for each model beside the first; of one model, a report of it beside itself."""

    pairs: tuple[plain.Report, ...]
    alone: bool
    machine: dict[str, Any]
    pictures: tuple[str, ...]
    rows: tuple[against.Row, ...] = ()
    that: against.Standing | None = None
    disagreements: disagree.Made | None = None
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether every gate holds for every model."""
        return all(pair.passed for pair in self.pairs)

    @property
    def exit_code(self) -> int:
        """0 when every gate holds, else 1."""
        return 0 if self.passed else 1

    def to_dict(self) -> dict[str, Any]:
        """Give the versioned document of --json and --report x.json."""
        first = self.pairs[0]
        models = [] if self.alone else [_one(first, "before", first.model)]
        models += [_one(pair, "after", pair.out) for pair in self.pairs]
        that = self.that
        return {
            "schema": SCHEMA,
            "generator": files.MADE_BY,
            "models": models,
            "pairs": [] if self.alone else [pair.to_dict() for pair in self.pairs],
            "gates": [asdict(gate) for pair in self.pairs for gate in pair.gates],
            "pictures": list(self.pictures),
            "machine": self.machine,
            "against": None if that is None else {"path": that.path, "rows": [asdict(row) for row in self.rows]},
            "disagreements": None if self.disagreements is None else asdict(self.disagreements),
            "seconds": self.seconds,
            "passed": self.passed,
            "exit_code": self.exit_code,
        }


def _one(report: plain.Report, which: str, model: Any) -> dict[str, Any]:
    """Give the figures of one of the two models of a report."""
    score = report.accuracy
    return {
        **model,
        "bytes": getattr(report.size, which),
        "zipped_bytes": getattr(report.size, f"zipped_{which}"),
        "latency_ms": getattr(report.latency, which),
        "latency_p90_ms": getattr(report.latency, f"{which}_p90"),
        "load_ms": getattr(report.load, which),
        "memory_bytes": None if report.memory is None else getattr(report.memory, which),
        "metric": None if score is None else score.metric,
        "score": None if score is None else getattr(score, which),
        "n": None if score is None else score.n,
        "threads": report.latency.threads,
    }


def run(job: Job, say: Say) -> Results:
    """Measure everything, judge the gates and write the disagreements; raise EdgekitError when it cannot be done."""
    started = time.monotonic()
    models = [load(path) for path in job.models]
    fed.check_alike(models, job.models)
    say("reading pictures and finding out what the models expect")
    material = fed.material(models, job.models, job.settings)
    for rule in job.rules:
        check_rule(rule, material)
    if job.settings.disagreements is not None:
        disagree.check(models, material)
        disagree.refusal(Path(job.settings.disagreements), material, force=job.settings.force)()
    alone = len(models) == 1
    others = range(1) if alone else range(1, len(models))
    pairs = tuple(_pair(job, models, other, material, say) for other in others)
    made = None
    if job.settings.disagreements is not None:
        say("looking for pictures that are answered differently")
        folder = Path(job.settings.disagreements)
        made = disagree.write(folder, job.models, material, force=job.settings.force)
    here = machine.describe()
    sentence = figures.machine_sentence(here, job.settings.threads)
    results = Results(
        pairs,
        alone,
        {"sentence": sentence, **here.to_dict()},
        material.sentences,
        that=job.that,
        disagreements=made,
        seconds=round(time.monotonic() - started, 3),
    )
    if job.that is None:
        return results
    return replace(results, rows=against.rows(against.standing(results.to_dict(), "this run"), job.that))


def load(path: Path) -> ModelProto:
    """Read a model and make sure that onnxruntime takes it; the errors name the file."""
    model = graph.load(path)
    try:
        open_session(path)
    except EdgekitError as error:
        raise EdgekitError(f"{path}: {error.message}", error.hint) from error
    return model


def _pair(job: Job, models: Sequence[ModelProto], other: int, material: Material, say: Say) -> plain.Report:
    """Measure one model beside the first."""
    settings, before, after = job.settings, job.models[0], job.models[other]
    started = time.monotonic()
    feeds = list(islice(iter(material.choose), LATENCY_FEEDS))
    say(f"measuring {after.name}")
    here = machine.describe()
    answers = figures.outputs(before, after, material, here.usable)
    speed, distribution = figures.speed(
        before, after, feeds, seconds=settings.seconds, seed=settings.seed, threads=settings.threads
    )
    sections: dict[str, Any] = {
        "size": figures.size(before, after),
        "latency": speed,
        "load": figures.load(before, after, settings.threads),
        "memory": figures.peaks(before, after, feeds[:MEMORY_FEEDS], settings.threads),
        "accuracy": answers.accuracy,
        "drift": answers.drift,
    }
    lost = answers.unreadable
    notes = (f"{lost} of the pictures cannot be read and were passed over",) if lost else ()
    census = nodes.census(models[other])
    return plain.Report(
        headline=_headline(before, after, sections),
        model=_model(before, models[0]),
        out=_model(after, models[other]),
        recipe={"steps": [], "typed": [], "seed": settings.seed},
        done=(_runs_in(census),),
        notes=notes,
        nodes=asdict(census),
        preprocess={
            **(material.decision.preprocess.to_dict() if material.decision is not None else {}),
            "classes": list(material.class_names),
            "sentences": list(material.sentences),
        },
        calibration={"sentence": "nothing: the models were measured as they are", "digest": "", "origin": "none"},
        machine={"sentence": figures.machine_sentence(here, settings.threads), **here.to_dict()},
        python="",
        gates=tuple(plain.judge(rule, sections, strict=settings.strict) for rule in job.rules),
        seconds=round(time.monotonic() - started, 3),
        classes=answers.classes,
        confusion=answers.confusion,
        distribution=distribution,
        **sections,
    )


def _model(path: Path, model: ModelProto) -> dict[str, Any]:
    return {"path": str(path), "sha256": files.sha256(path.read_bytes()), "opset": graph.opset(model)}


def _headline(before: Path, after: Path, sections: dict[str, Any]) -> str:
    """Say in one line how the second model stands to the first."""
    speed, bytes_, score, drift = (sections[name] for name in ("latency", "size", "accuracy", "drift"))
    plain_words = speed.verdict == "no difference shown"
    parts = ["no difference in speed" if plain_words else f"x{speed.speedup:.2f} {speed.verdict}"]
    parts.append(f"x{bytes_.ratio:.2f} the size")
    if score is not None:
        parts.append(f"{round(-100 * score.drop, 2) + 0.0:+.2f} points {score.metric}")
    elif drift.agreement is not None:
        parts.append(f"{100 * drift.agreement:.1f} % same answers")
    else:
        parts.append(f"{drift.sqnr_db:.1f} dB")
    return f"{before.name} -> {after.name}    {'; '.join(parts)}"


def _runs_in(census: nodes.Census) -> str:
    total = census.int8 + census.float
    return f"{census.int8} of {total} computing nodes run in int8" if total else "no node multiplies matrices"
