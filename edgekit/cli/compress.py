"""`edgekit compress`: from what was typed to the straight line and its report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import config, files
from edgekit.cli.console import Console
from edgekit.compress import run as line
from edgekit.compress.method import STEPS, Method
from edgekit.compress.recipe import SETTINGS, Recipe, parse
from edgekit.compress.settings import compress
from edgekit.compress.verdict import has_budget
from edgekit.errors import EdgekitError
from edgekit.report import explain, html, markdown, text
from edgekit.report import json as as_json
from edgekit.report.report import parse_gate
from edgekit.words import printable

if TYPE_CHECKING:
    from edgekit.cli.signature import Typed
    from edgekit.measure.material import Material


RENDERERS = {".json": as_json.render, ".md": markdown.render, ".html": html.render}


def run_compress(model: str, typed: Typed) -> int:
    """Run `edgekit compress` and give its exit code."""
    console = Console(typed.common.json, typed.common.quiet, typed.common.verbose)
    job = effective(Path(model), typed)
    settings = job.settings
    check_reports(job)
    if settings.preview is not None or settings.dry_run:
        material = line.prepare(job, console.detail)[1]
        if settings.preview is not None:
            draw_preview(material, Path(settings.preview), force=settings.force)
            console.say(f"drew {settings.preview}")
        if settings.dry_run:
            return _dry_run(job, material.sentences, console)
    with console.stages("calibrating") as (say, progress):
        result = line.run(job, say, progress)
    if result.report is None:
        if console.json:
            console.document({"schema": "edgekit.report/1", "status": "up to date", "out": {"path": str(result.out)}})
        console.answer(f"{printable(str(result.out))}: up to date")
        return 0
    for name in settings.report:
        files.write(Path(name), RENDERERS[Path(name).suffix](result.report))
    if console.json:
        console.document(result.report.to_dict())
    if settings.explain:
        console.answer(explain.render(result.report.layers) + "\n")
    console.answer(text.render(result.report))
    return result.report.exit_code


def effective(model: Path, typed: Typed) -> line.Job:
    """Resolve the settings, read the steps and the gates, and name the output."""
    from edgekit.cli.listing import COMMANDS

    loaded = config.load(typed.common.config, search=not typed.common.no_config)
    config.check_keys(loaded, COMMANDS)
    resolved = config.resolve(compress, typed.values, loaded)
    settings = resolved.settings
    origin = "" if resolved.origins["steps"] == "command line" else f"{resolved.origins['steps']}: compress.steps"
    steps: tuple[Method, ...] = tuple(STEPS.read(entry, origin) for entry in settings.steps)
    replay: tuple[Mapping[str, Any], ...] = ()
    if settings.recipe is not None:
        recipe = _recipe(settings.recipe, typed)
        steps, replay, settings = recipe.steps, recipe.decisions, replace(settings, **recipe.settings)
    if not model.is_file():
        what = "is a folder" if model.is_dir() else "no such file"
        raise EdgekitError(f"{model}: {what}", "give an ONNX model, such as model.onnx")
    if not steps and has_budget(settings):
        steps = (STEPS.parse("search"),)
    if not steps:
        raise EdgekitError(
            "no step was given", "add one, such as --int8 (`edgekit steps` lists them), or a budget, such as --max-mb 3"
        )
    rules = tuple(parse_gate(gate) for gate in (*config.gates(loaded), *settings.gate))
    labelled = [rule.text for rule in rules if rule.needs_labels]
    if labelled and settings.data is None and settings.metric is None:
        raise EdgekitError(f"gate {labelled[0]!r} needs labelled pictures", "give them with --data DIR")
    if settings.feeds is not None and (settings.data or settings.calib):
        raise EdgekitError("--feeds and pictures (--data, --calib) exclude each other", "give one or the other")
    out = Path(settings.out) if settings.out is not None else line.default_out(model, steps)
    return line.Job(model, out, steps, rules, settings, replay)


def _recipe(name: str, typed: Typed) -> Recipe:
    """Read the recipe to replay; raise EdgekitError when there is none, or something else was typed beside it."""
    if typed.recipe:
        raise EdgekitError(f"--recipe {name}: has steps of its own", "leave the steps out, or the recipe")
    given = [key for key in SETTINGS if typed.values.get(key) not in (None, (), [])]
    if given:
        raise EdgekitError(f"--recipe {name}: has --{given[0]} of its own", f"leave --{given[0]} out, or the recipe")
    try:
        return parse(Path(name).read_text("utf-8"), name)
    except OSError as error:
        raise EdgekitError(f"--recipe {name}: {error.strerror}", "give what --report x.json wrote") from None
    except UnicodeDecodeError:
        raise EdgekitError(
            f"--recipe {name}: not a report of edgekit compress", "give what --report x.json wrote"
        ) from None


def check_reports(job: line.Job) -> None:
    """Raise EdgekitError, before the work starts, when a report cannot be written, or would replace something."""
    settings = job.settings
    taken = [job.out, line.rejected(job.out), *(Path(name) for name in (settings.preview,) if name is not None)]
    for name in settings.report:
        if Path(name).resolve() in [other.resolve() for other in taken]:
            raise EdgekitError(f"--report {name}: something else is to be written there", "give it another name")
        path = Path(name)
        if path.suffix not in RENDERERS:
            raise EdgekitError(
                f"--report {name}: no renderer for {path.suffix or 'a name without suffix'}", _suffixes(path.suffix)
            )
        files.require_writable(path.parent)
        files.refuse_existing(path, force=settings.force, what="report")


def _suffixes(suffix: str) -> str:
    """Say which suffixes there are, and which was probably meant."""
    near = next((kind for kind in RENDERERS if kind[:3] == suffix.lower()[:3]), None)
    kinds = f"use {' or '.join(RENDERERS)}"
    return f"did you mean {near}? {kinds}" if near else kinds


def draw_preview(material: Material, path: Path, *, force: bool) -> None:
    """Draw what the model sees."""
    from edgekit.measure import preview

    files.refuse_existing(path, force=force, what="preview")
    files.require_writable(path.parent)
    files.write(path, preview.sheet(material))


def _dry_run(job: line.Job, sentences: tuple[str, ...], console: Console) -> int:
    steps = [str(step) for step in job.steps]
    if console.json:
        console.document(
            {
                "schema": "edgekit.report/1",
                "status": "dry run",
                "steps": steps,
                "out": {"path": str(job.out)},
                "pictures": list(sentences),
            }
        )
        return 0
    console.answer(f"{printable(str(job.model))}: would apply {', '.join(steps)} and write {printable(str(job.out))}")
    for sentence in sentences:
        console.answer(f"pictures   {sentence}")
    return 0
