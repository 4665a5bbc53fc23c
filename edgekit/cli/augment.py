"""`edgekit augment`: from what was typed to the straight line and its answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import config, files
from edgekit.augment import run as line
from edgekit.augment.labels import Rules
from edgekit.augment.op import OPS
from edgekit.augment.plan import plan as make_plan
from edgekit.augment.settings import augment
from edgekit.augment.variants import Recipe
from edgekit.cli.console import Console
from edgekit.data.folder import passed_by, scan
from edgekit.errors import EdgekitError
from edgekit.report.text import printable

if TYPE_CHECKING:
    from edgekit.augment.plan import Plan
    from edgekit.cli.signature import Typed


def run_augment(source: str, typed: Typed) -> int:
    """Run `edgekit augment` and give its exit code."""
    console = Console(typed.common.json, typed.common.quiet, typed.common.verbose)
    settings, recipe = effective(typed)
    if not source:
        raise EdgekitError("SRC is empty", "give a folder of pictures; . is the one you are in")
    root = Path(source)
    plan = make_plan(scan(root), settings.labels, settings.labels_frame, settings.to)
    recipe = replace(recipe, rules=plan.rules(recipe.rules))
    out = Path(settings.out) if settings.out is not None else line.default_out(root)
    out = out.resolve() if out.name in ("", "..") else out
    line.check_out(root, out)
    if settings.preview is not None:
        line.check_preview(root, out, Path(settings.preview), force=settings.force)
    check_recipe(plan, recipe)
    line.stamp(recipe, "", line.Counts(), plan)  # fails now, not in a worker, when OpenCV cannot be imported
    done = None if settings.dry_run else line.up_to_date(plan, out, recipe)
    if done is None and not settings.dry_run:
        line.refuse_existing(out, force=settings.force)
        line.check_space(plan, recipe, out)
    known = plan.known
    mirrors = any(op.spec_name() in ("flip", "vflip") for op in recipe.ops)
    if known is not None and known.keypoint_shape and not known.flip_index and mirrors:
        console.say("keypoints are mirrored without swapping left and right: the data set does not say which are pairs")
    if settings.preview is not None:
        draw_preview(plan, recipe, Path(settings.preview))
        console.say(f"drew {settings.preview}")
    if settings.dry_run:
        return _dry_run(plan, out, recipe, settings, console)
    if done is not None:
        old = line.Result(
            source, str(out), plan, recipe, done.counts, 0.0, "up to date", settings.strict, "", done.classes
        )
        return _answer(old, console)
    with console.progress("augment") as progress:
        result = line.run(
            plan,
            out,
            recipe,
            workers=settings.workers,
            strict=settings.strict,
            force=settings.force,
            progress=progress,
        )
    return _answer(result, console)


def effective(typed: Typed) -> tuple[augment, Recipe]:
    """Resolve the settings and read the ops; raise EdgekitError when there is none."""
    from edgekit.cli.listing import COMMANDS

    loaded = config.load(typed.common.config, search=not typed.common.no_config)
    config.check_keys(loaded, COMMANDS)
    resolved = config.resolve(augment, typed.values, loaded)
    settings = resolved.settings
    origin = "" if resolved.origins["ops"] == "command line" else f"{resolved.origins['ops']}: augment.ops"
    ops = tuple(OPS.read(entry, origin) for entry in settings.ops)
    if not ops and settings.copies:
        raise EdgekitError("no op was given", "add one, such as --flip; `edgekit ops` lists them")
    rules = Rules(settings.min_visibility, settings.box_method)
    copies, seed, limit = settings.copies, settings.seed, settings.max_pixels
    recipe = Recipe(ops, copies, seed, settings.originals, settings.quality, limit, rules)
    return settings, recipe


def check_recipe(plan: Plan, recipe: Recipe) -> None:
    """Raise EdgekitError when there is nothing to do, or not enough to mix."""
    root = plan.listing.root
    if not recipe.copies and not recipe.originals:
        raise EdgekitError("nothing to write: no variants and no originals", "leave -n 0 or --no-originals out")
    if recipe.copies and not plan.augmented:
        raise EdgekitError(
            f"{root}: no picture is of the split train, and only those are augmented",
            "give the folder of one split, or -n 0 to write it as it is",
        )
    if recipe.copies and recipe.partners >= len(plan.augmented):
        raise EdgekitError(
            f"{root}: the ops take {recipe.partners} other pictures, and there are {len(plan.augmented) - 1}",
            "give a folder with more pictures, or leave mixing out",
        )


def draw_preview(plan: Plan, recipe: Recipe, path: Path) -> None:
    """Draw the contact sheet of a few sources."""
    from edgekit.augment import preview

    files.write(path, preview.sheet(plan, recipe))


def _dry_run(plan: Plan, out: Path, recipe: Recipe, settings: augment, console: Console) -> int:
    guess = line.estimate(plan, recipe, settings.workers)
    if console.json:
        console.document(
            {
                "schema": line.SCHEMA,
                "status": "dry run",
                "out": str(out),
                "recipe": recipe.to_dict(),
                **({} if plan.known is None else {"labels": plan.to_dict()}),
                "sources": len(plan.sources),
                "other_files": plan.listing.others,
                "estimate": {
                    "files": guess.files,
                    "bytes": guess.bytes,
                    "seconds": round(guess.seconds, 1),
                    "sampled": guess.sampled,
                    "rejected": guess.rejected,
                },
                "exit_code": 0,
            }
        )
        return 0
    ops = ", ".join(str(op) for op in recipe.ops)
    tried = f", {guess.rejected} of which cannot be used" if guess.rejected else ""
    console.answer(
        f"{printable(str(plan.listing.root))}: {len(plan.sources):,} pictures, {plan.listing.others:,} other files\n"
        f"ops: {ops}; {recipe.copies} copies, seed {recipe.seed}\n"
        f"would write about {guess.files:,} files, {guess.bytes / 1e6:,.1f} MB, in {guess.seconds:,.1f} s "
        f"(from {guess.sampled} pictures{tried}) to {printable(str(out))}"
    )
    return 0


def _answer(result: line.Result, console: Console) -> int:
    if console.json:
        console.document(result.to_dict())
        return result.exit_code
    counts, plan = result.counts, result.plan
    out = printable(result.out)
    if result.status == "up to date":
        console.answer(f"{out}: up to date ({counts.originals + counts.variants:,} pictures)")
        return result.exit_code
    ops = ", ".join(str(op) for op in result.recipe.ops)
    console.answer(f"{printable(result.source)} -> {out}    {ops}")
    console.answer("")
    lines = [
        ("read", f"{counts.sources - counts.rejected:,} pictures"),
        ("wrote", f"{counts.originals:,} originals, {counts.variants:,} variants ({counts.bytes / 1e6:,.1f} MB)"),
    ]
    if plan.known is not None:
        lines.append(
            ("labels", plan.known.kind if plan.known.kind == plan.kind else f"{plan.known.kind} to {plan.kind}")
        )
    if counts.passed:
        lines.append(("passed on", f"{counts.passed:,} pictures untouched: only the split train is augmented"))
    if result.classes:
        low, high = min(result.classes.values()), max(result.classes.values())
        each = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        lines.append(("classes", f"{len(result.classes):,}, {each} pictures each"))
    if counts.left_out:
        lines.append(("left out", f"{counts.left_out:,} variants equal to their source or to an earlier one"))
    if counts.rejected:
        first = printable(result.first_rejected)
        lines.append(("rejected", f"{counts.rejected:,} pictures (first: {first}); see rejected.jsonl"))
    if counts.warnings:
        lines.append(("warnings", f"{counts.warnings:,} pictures; see manifest.jsonl"))
    if counts.mended:
        first = f" (first: {printable(str(plan.mended[0]))})" if plan.mended else ""
        lines.append(("mended", f"{counts.mended:,} labels{first}; see manifest.jsonl and run.json"))
    if plan.known is None and (counts.other_files or counts.other_folders):
        lines.append(("passed by", passed_by(counts.other_files, counts.other_folders)))
    for name, text in lines:
        console.answer(f"{name:<10}{text}")
    console.answer("")
    rate = counts.variants / result.seconds if result.seconds else 0.0
    console.answer(
        f"wrote {out}/manifest.jsonl (seed {result.recipe.seed}, {result.seconds:.1f} s, {rate:,.0f} variants/s)"
    )
    return result.exit_code
