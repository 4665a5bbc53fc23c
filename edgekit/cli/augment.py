"""`edgekit augment`: from what was typed to the straight line and its answer."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import config, files
from edgekit.augment import run as line
from edgekit.augment.arrange import arrange, leak_lines, with_leaks
from edgekit.augment.labels import Rules
from edgekit.augment.op import OPS
from edgekit.augment.plan import plan as make_plan
from edgekit.augment.pool import available_cores
from edgekit.augment.settings import augment
from edgekit.augment.variants import Recipe
from edgekit.cli.console import Console
from edgekit.data.folder import ALL, INSIDE, passed_by, scan
from edgekit.errors import EdgekitError
from edgekit.words import counted, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgekit.augment.plan import Plan
    from edgekit.cli.signature import Typed

EQUAL = ("equal to its source or to an earlier one", "equal to their source or to an earlier one")


def run_augment(source: str, typed: Typed) -> int:
    """Run `edgekit augment` and give its exit code."""
    console = Console(typed.common.json, typed.common.quiet, typed.common.verbose)
    settings, recipe = effective(typed, console.detail)
    if not source:
        raise EdgekitError("SRC is empty", "give a folder of pictures; . is the one you are in")
    root = Path(source)
    started = time.monotonic()
    listing = scan(root, ALL if settings.follow_links else INSIDE)
    if listing.outside:
        links = counted(len(listing.outside), "link", "to a folder", "to folders")
        said = f"passed by {links} outside of {root} (first: {listing.outside[0]})"
        console.say(f"{said}; --follow-links enters such folders")
    keep = bool(settings.split or settings.group_by)
    plan = make_plan(listing, settings.labels, settings.labels_frame, settings.to, keep=keep)
    console.detail(f"{_layout(plan)}, listed in {time.monotonic() - started:.1f} s")
    recipe = replace(recipe, rules=plan.rules(recipe.rules))
    out = Path(settings.out) if settings.out is not None else line.default_out(root)
    out = out.resolve() if out.name in ("", "..") else out
    line.check_out(root, out)
    if settings.preview is not None:
        line.check_preview(root, out, Path(settings.preview), force=settings.force)
    with console.progress("look") as progress:
        plan = arrange(plan, settings, recipe, progress, lambda text: console.say(printable(text)))
    check_recipe(plan, recipe)
    line.stamp(recipe, "", line.Counts(), plan)  # fails now, not in a worker, when OpenCV cannot be imported
    done = None if settings.dry_run else line.up_to_date(plan, out, recipe)
    if done is None and not settings.dry_run:
        line.refuse_existing(out, force=settings.force or settings.if_changed)
        line.check_space(plan, recipe, out)
        with console.progress("leaks") as progress:
            plan = with_leaks(plan, recipe, settings.workers, progress)
        for text in leak_lines(plan):
            console.say(printable(text))
    known = plan.known
    mirrors = any(op.spec_name() in ("flip", "vflip", "transpose") for op in recipe.ops)
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
    console.detail(f"workers: {settings.workers or available_cores()}")
    with console.progress("augment") as progress:
        result = line.run(
            plan,
            out,
            recipe,
            workers=settings.workers,
            strict=settings.strict,
            force=settings.force,
            if_changed=settings.if_changed,
            progress=progress,
            say=console.say,
        )
    return _answer(result, console)


def effective(typed: Typed, detail: Callable[[str], None] = lambda text: None) -> tuple[augment, Recipe]:
    """Resolve the settings, tell where they come from, and read the ops; raise EdgekitError when there is none."""
    from edgekit.cli.listing import COMMANDS

    loaded = config.load(typed.common.config, search=not typed.common.no_config)
    config.check_keys(loaded, COMMANDS)
    resolved = config.resolve(augment, typed.values, loaded)
    settings = resolved.settings
    if settings.replay is not None:
        raise EdgekitError(f"{resolved.origins['replay']}: replay is no setting", "type it: --replay ROWS")
    detail(f"configuration file: {loaded.path or 'none'}")
    for origin in sorted(set(resolved.origins.values()) - {"default"}):
        names = (name for name, one in resolved.origins.items() if one == origin)
        detail(f"from {origin}: {', '.join(f'{name}={getattr(settings, name)!r}' for name in names)}")
    origin = "" if resolved.origins["ops"] == "command line" else f"{resolved.origins['ops']}: augment.ops"
    ops = tuple(OPS.read(entry, origin) for entry in settings.ops)
    if not ops and (settings.copies or settings.balance or settings.per_class):
        raise EdgekitError("no op was given", "add one, such as --flip; `edgekit ops` lists them")
    rules = Rules(settings.min_visibility, settings.box_method)
    copies, seed, limit = settings.copies, settings.seed, settings.max_pixels
    recipe = Recipe(ops, copies, seed, settings.originals, settings.quality, limit, rules)
    return settings, recipe


def _layout(plan: Plan) -> str:
    """Say which layout was recognised."""
    known, found = plan.known, counted(len(plan.sources), "picture")
    if known is None:
        classes = len(plan.listing.labels)
        return f"layout: {counted(classes, 'class folder') if classes else 'pictures alone'}, {found}"
    parts = [f"labels: {known.kind} in {known.origin}", found]
    parts += [f"{len(known.names):,} classes"] if known.names else []
    parts += [f"splits {', '.join(known.splits)}"] if known.splits else []
    return ", ".join(parts)


def check_recipe(plan: Plan, recipe: Recipe) -> None:
    """Raise EdgekitError when there is nothing to do, or not enough to mix."""
    root = plan.listing.root
    variants = plan.variants(recipe)
    if not variants and not recipe.originals:
        raise EdgekitError("nothing to write: no variants and no originals", "leave -n 0 or --no-originals out")
    if recipe.copies and not plan.augmented:
        raise EdgekitError(
            f"{root}: no picture is of the split train, and only those are augmented",
            "give the folder of one split, or -n 0 to write it as it is",
        )
    if variants and recipe.partners >= len(plan.augmented):
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
                **line.arranged(plan),
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
    ops = ", ".join(str(op) for op in recipe.ops) or "none"
    numbers = sorted({plan.copies(source.key, recipe) for source in plan.augmented}) or [0]
    copies = f"{numbers[-1]:,} {'copy' if numbers[-1] == 1 else 'copies'}"
    copies = copies if len(numbers) == 1 else f"{numbers[0]:,} to {copies}"
    tried = f", {guess.rejected} of which cannot be used" if guess.rejected else ""
    console.answer(
        f"{printable(str(plan.listing.root))}: {counted(len(plan.sources), 'picture')}, "
        f"{counted(plan.listing.others, 'other file')}\n"
        f"ops: {ops}; {copies}, seed {recipe.seed}\n"
        f"{''.join(f'{name}: {text}{chr(10)}' for name, text in _arranged(plan))}"
        f"would write about {counted(guess.files, 'file')}, {guess.bytes / 1e6:,.1f} MB, in {guess.seconds:,.1f} s "
        f"(from {counted(guess.sampled, 'picture')}{tried}) to {printable(str(out))}"
    )
    return 0


def _arranged(plan: Plan) -> list[tuple[str, str]]:
    """Say the splits that were made, and what the classes were raised to."""
    lines = []
    if "split" in plan.choices:
        pictures = plan.choices["split"]["pictures"]
        lines.append(("split", f"{', '.join(f'{split} {count:,}' for split, count in pictures.items())} pictures"))
    if "balance" in plan.choices:
        of = " of train" if len(plan.known.splits if plan.known is not None else ()) > 1 else ""
        target, short = plan.choices["balance"]["target"], len(plan.choices["balance"]["short"])
        below = f", {short:,} below" if short else ""
        lines.append(("balance", f"{counted(target, 'picture')}{of} a class{below}"))
    return lines


def _answer(result: line.Result, console: Console) -> int:
    if console.json:
        console.document(result.to_dict())
        return result.exit_code
    counts, plan = result.counts, result.plan
    out = printable(result.out)
    if result.status == "up to date":
        console.answer(f"{out}: up to date ({counted(counts.originals + counts.variants, 'picture')})")
        return result.exit_code
    ops = ", ".join(str(op) for op in result.recipe.ops)
    console.answer(f"{printable(result.source)} -> {out}    {ops}")
    console.answer("")
    originals = counted(counts.originals, "original")
    lines = [
        ("read", counted(counts.sources - counts.rejected, "picture")),
        ("wrote", f"{originals}, {counted(counts.variants, 'variant')} ({counts.bytes / 1e6:,.1f} MB)"),
    ]
    if plan.known is not None:
        lines.append(
            ("labels", plan.known.kind if plan.known.kind == plan.kind else f"{plan.known.kind} to {plan.kind}")
        )
    lines += _arranged(plan)
    if counts.passed:
        lines.append(("passed on", f"{counted(counts.passed, 'picture')} untouched: only the split train is augmented"))
    if result.classes:
        low, high = min(result.classes.values()), max(result.classes.values())
        each = counted(high, "picture") if low == high else f"{low:,} to {counted(high, 'picture')}"
        lines.append(("classes", f"{len(result.classes):,}, {each}{' each' if len(result.classes) > 1 else ''}"))
    if counts.left_out:
        lines.append(("left out", counted(counts.left_out, "variant", *EQUAL)))
    if counts.rejected:
        first = printable(result.first_rejected)
        lines.append(("rejected", f"{counted(counts.rejected, 'picture')} (first: {first}); see rejected.jsonl"))
    if counts.warnings:
        lines.append(("warnings", f"{counted(counts.warnings, 'picture')}; see manifest.jsonl"))
    if counts.mended:
        first = f" (first: {printable(str(plan.mended[0]))})" if plan.mended else ""
        lines.append(("mended", f"{counted(counts.mended, 'label')}{first}; see manifest.jsonl and run.json"))
    if plan.known is None and (counts.other_files or counts.other_folders):
        lines.append(("passed by", passed_by(counts.other_files, counts.other_folders)))
    if result.reused:
        all_made = counted(counts.originals + counts.variants, "picture")
        lines.append(("reused", f"{result.reused:,} of {all_made} that were there already"))
    for name, text in lines:
        console.answer(f"{name:<10}{text}")
    console.answer("")
    whole = result.seconds and not result.resumed and not result.reused
    rate = f", {counts.variants / result.seconds:,.0f} variants/s" if whole else ""
    console.answer(f"wrote {out}/manifest.jsonl (seed {result.recipe.seed}, {result.seconds:.1f} s{rate})")
    return result.exit_code
