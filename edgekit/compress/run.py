"""The straight line of `edgekit compress`: load -> simplify -> each step -> measure -> gates -> save."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import __version__, config, files, graph
from edgekit.cache import Cache
from edgekit.compress import simplify
from edgekit.compress.bench import Bench
from edgekit.compress.method import Method
from edgekit.compress.quantize.target import instructions
from edgekit.compress.recipe import Recipe
from edgekit.compress.search import Budget
from edgekit.compress.settings import compress
from edgekit.compress.verdict import budget_rules, check_rule, has_budget, measure, stand_in
from edgekit.errors import EdgekitError, StoppedError
from edgekit.lazy import np, onnx
from edgekit.measure import machine, size
from edgekit.measure.material import Material, gather
from edgekit.report.report import Report, Rule
from edgekit.session import open_session
from edgekit.session import run as run_session

if TYPE_CHECKING:
    from onnx import ModelProto

Say = Callable[[str], None]
Progress = Callable[[int, int], None]
STAMP_KEY = "edgekit.stamp"


@dataclass(frozen=True)
class Job:
    """Everything one run needs: what was typed, read and checked."""

    model: Path
    out: Path
    steps: tuple[Method, ...]
    rules: tuple[Rule, ...]
    settings: compress
    replay: tuple[Mapping[str, Any], ...] = ()  # what the steps decided in the run that is replayed


@dataclass(frozen=True)
class Result:
    """What the command hands to its caller: a report, or the news that there is nothing to do."""

    out: Path
    report: Report | None


def default_out(model: Path, steps: Sequence[Method]) -> Path:
    """Name the output beside the model: `m.onnx` with `--int8` is `m.int8.onnx`."""
    return model.with_name(".".join([model.stem, *(step.spec_name() for step in steps)]) + ".onnx")


def rejected(out: Path) -> Path:
    """Name the model that failed a gate."""
    return out.with_name(f"{out.stem}.rejected.onnx")


def check_out(model: Path, out: Path, *, force: bool) -> None:
    """Raise EdgekitError when the output is the model itself, exists, or cannot be written."""
    if out.exists() and out.samefile(model):
        raise EdgekitError(f"{out}: is the model itself", "choose another --out")
    if out.is_dir():
        raise EdgekitError(f"{out}: is a folder", f"give a file: --out {out}/{model.stem}.int8.onnx")
    files.require_writable(out.parent)
    files.refuse_existing(out, force=force)


def check_rejected(job: Job) -> None:
    """Raise EdgekitError when a failed gate would replace a file that edgekit did not make."""
    if job.rules or has_budget(job.settings):
        files.refuse_existing(rejected(job.out), force=True)


def prepare(job: Job, say: Say) -> tuple[ModelProto, Material]:
    """Load the model and gather what it is fed with: pictures by role, preprocessing, classes."""
    model = graph.load(job.model)
    open_session(job.model)  # a model that does not load is not worth looking at any further
    say("reading pictures and finding out what the model expects")
    material = gather(model, job.model, job.settings, samples(job.steps))
    for rule in job.rules:
        check_rule(rule, material)
    return model, material


def samples(steps: Sequence[Method]) -> int:
    """Give the largest number of calibration samples that a step asks for."""
    return max((int(getattr(step, "samples", 0)) for step in steps), default=0) or 256


def run(job: Job, say: Say, progress: Progress = lambda done, total: None) -> Result:
    """Compress, measure, judge and write. Raises EdgekitError with nothing written when any part cannot be done."""
    started = time.monotonic()
    if not job.settings.force and not job.out.exists():
        check_out(job.model, job.out, force=False)
    check_rejected(job)
    model, material = prepare(job, say)
    job = replace(job, rules=(*job.rules, *budget_rules(job.settings, material)))
    stamp = stamp_of(job, material)
    if job.out.exists():
        wants_report = job.settings.force or job.rules or job.settings.report
        if not wants_report and is_up_to_date(job, stamp):
            return Result(job.out, None)
        check_out(job.model, job.out, force=job.settings.force)
    bench = make_bench(job, material, say, progress, stamp)
    if words := stand_in(job.settings, material):
        bench.note(words)
    with _resumable(bench), tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        made = apply_steps(model, job.steps, bench, say)
        describe(made, job, material, bench, stamp)
        candidate = Path(folder) / job.out.name
        try:
            graph.save(made, candidate)
        except files.WriteError as error:  # not the disk that --out is on
            raise files.WriteError(error.message, "set TMPDIR to a folder on a disk with more room") from error
        report = measure(job, candidate, material, bench, say, started)
        out = job.out if report.passed else rejected(job.out)
        graph.save(made, out)
    return Result(out, report)


@contextmanager
def _resumable(bench: Bench) -> Iterator[None]:
    """Forget what was kept of a run once it is through; after Ctrl-C, say that it was kept."""
    try:
        yield
    except KeyboardInterrupt as error:
        if not bench.kept() or bench.cache.folder is None:
            raise
        raise StoppedError(
            f"interrupted; {len(bench.kept())} candidates are kept", "the same command goes on where it stopped"
        ) from error
    bench.forget()


def make_bench(
    job: Job, material: Material, say: Say, progress: Progress = lambda done, total: None, stamp: str = ""
) -> Bench:
    """Make the Workbench of this run."""
    settings = job.settings
    here = machine.describe()
    return Bench(
        material.calibrate,
        material.choose,
        instructions(settings.isa, here.int8),
        here=here.int8,
        pictures=material.choosers,
        decision=material.decision,
        classes=material.labelled,
        objects=material.sought,
        seed=settings.seed,
        only=settings.only,
        exclude=settings.exclude,
        threads=settings.threads,
        cores=here.usable,
        seconds=settings.search_seconds,
        budget=Budget(settings.max_drop, settings.max_ms, settings.max_mb),
        replay=job.replay,
        max_bytes=int(1e6 * settings.max_memory),
        cache=Cache(config.cache_folder()),
        run=stamp,
        say=say,
        progress=progress,
    )


def apply_steps(model: ModelProto, steps: Sequence[Method], bench: Bench, say: Say) -> ModelProto:
    """Simplify, then apply each step in the order typed, its contract checked."""
    probe = list(bench.feeds(2))
    say("simplifying")
    current, notes = simplify.simplify(model, lambda a, b: simplify.same_outputs(a, b, probe))
    for note in notes:
        bench.note(note)
    if broken := _not_finite(model, probe):
        bench.note(f"the original itself answers NaN or infinity in {', '.join(broken)}: the figures say little")
    if bench.only or bench.exclude:
        graph.select(current, bench.only, bench.exclude)  # a pattern that matches nothing is the user's mistake
    for number, step in enumerate(steps, 1):
        say(f"applying {step}")
        bench.begin([later.spec_name() for later in steps[number:]])
        result = step.apply(current, bench)
        check_contract(current, result, step, probe)
        current = result
    return current


def _not_finite(model: ModelProto, feeds: Sequence[Any]) -> list[str]:
    """Give the outputs that hold a NaN or an infinity for some feed."""
    session = open_session(model)
    answers = [run_session(session, feed) for feed in feeds]
    named = zip(graph.output_names(model), zip(*answers, strict=True), strict=True)
    return [name for name, found in named if not all(np.isfinite(y).all() for y in found if y.dtype.kind == "f")]


def check_contract(before: ModelProto, after: ModelProto, step: Method, feeds: Sequence[Any]) -> None:
    """Hold a step to its contract: a valid model, the same inputs and outputs, that loads and gives finite numbers."""
    name = step.spec_name()

    def broken(reason: str) -> EdgekitError:
        return EdgekitError(
            f"step {name} made an unusable model: {reason}", f"leave {name} out, or --exclude the node it names"
        )

    if [i.name for i in graph.inputs(before)] != [i.name for i in graph.inputs(after)]:
        raise broken("its inputs changed")
    if [o.name for o in before.graph.output] != [o.name for o in after.graph.output]:
        raise broken("its outputs changed")
    try:
        onnx.checker.check_model(after)
    except onnx.checker.ValidationError as error:
        raise broken(str(error).strip().splitlines()[0]) from error
    old, new = open_session(before), open_session(after)
    for feed in feeds:
        for x, y in zip(run_session(old, feed), run_session(new, feed), strict=True):
            if np.issubdtype(y.dtype, np.floating) and np.isfinite(x).all() and not np.isfinite(y).all():
                raise broken("it answers NaN or infinity")


def describe(model: ModelProto, job: Job, material: Material, bench: Bench, stamp: str) -> None:
    """Write preprocessing, class names, the recipe and edgekit's mark into the model's metadata."""
    if material.decision is not None:
        graph.set_metadata(model, "edgekit.preprocess", material.decision.preprocess.to_json())
    if material.class_names:
        graph.set_metadata(model, "edgekit.classes", json.dumps(list(material.class_names)))
    graph.set_metadata(model, "edgekit.recipe", json.dumps(recipe_of(job, bench), sort_keys=True))
    graph.set_metadata(model, "edgekit.generator", files.MADE_BY)
    graph.set_metadata(model, STAMP_KEY, stamp)


def recipe_of(job: Job, bench: Bench) -> dict[str, Any]:
    """Give what `--recipe` needs to make the same model again."""
    return Recipe.of(job.steps, job.settings, bench.settlements).to_dict()


def stamp_of(job: Job, material: Material) -> str:
    """Digest what the output's bytes follow from: model, recipe, data, versions, and the CPU's int8 instructions."""
    here = machine.describe()
    facts = {
        "edgekit": __version__,
        "versions": here.versions,
        "int8": [here.int8, instructions(job.settings.isa, here.int8)],
        "model": [files.sha256(file.read_bytes()) for file in size.model_files(job.model)],
        "steps": [step.to_dict() for step in job.steps],
        "seed": job.settings.seed,
        "only": job.settings.only,
        "exclude": job.settings.exclude,
        "budget": [job.settings.max_drop, job.settings.max_ms, job.settings.max_mb],
        "calibrate": material.calibrate.digest,
        "choose": material.choose.digest,
        "preprocess": material.decision.preprocess.to_dict() if material.decision is not None else None,
        "classes": list(material.class_names),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def is_up_to_date(job: Job, stamp: str) -> bool:
    """Tell whether the output is what an identical run wrote; a replay's has to come from the same decisions."""
    try:
        known = graph.metadata(graph.load(job.out))
    except EdgekitError:
        return False
    if job.replay and json.loads(known.get("edgekit.recipe", "{}")).get("decisions") != list(job.replay):
        return False
    return known.get(STAMP_KEY) == stamp
