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
from edgekit.augment.op import OPS, refuse_mirrors
from edgekit.augment.plan import evaluation, is_split
from edgekit.augment.plan import plan as make_plan
from edgekit.augment.pool import available_cores
from edgekit.augment.presets import PRESETS
from edgekit.augment.settings import augment
from edgekit.augment.tally import Counts
from edgekit.augment.text.op import refuse_text_ops
from edgekit.augment.variants import Recipe
from edgekit.cli import corruptions
from edgekit.cli.console import Console
from edgekit.data.dataset import UNLABELLED
from edgekit.data.folder import ALL, INSIDE, outside, passed_by, scan
from edgekit.errors import EdgekitError
from edgekit.words import counted, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from edgekit.augment.plan import Plan
    from edgekit.cli.signature import Typed

SHORT = 5  # classes that are named
EQUAL = ("equal to its source or to an earlier one", "equal to their source or to an earlier one")


def run_augment(source: str, typed: Typed) -> int:
    """Run `edgekit augment` and give its exit code."""
    console = Console(typed.common.json, typed.common.quiet, typed.common.verbose)
    settings, recipe = effective(source, typed, console.detail)
    if not source:
        raise EdgekitError("SRC is empty", "give a folder of pictures; . is the one you are in")
    for name in ("text_column", "label_column"):
        if typed.values[name] is not None:
            flag = name.replace("_", "-")
            raise EdgekitError(f"--{flag} is of text files, and {source} is none", f"leave --{flag} out")
    root = Path(source)
    line.check_source(root)
    started = time.monotonic()
    listing = scan(root, ALL if settings.follow_links else INSIDE)
    if listing.outside:
        console.say(outside(listing))
    keep = bool(settings.split or settings.group_by)
    plan = make_plan(listing, settings.labels, settings.labels_frame, settings.to, keep=keep)
    for text in (*idle(plan, settings, typed), *told(plan)):
        console.say(printable(text))
    console.detail(f"{_layout(plan)}, listed in {time.monotonic() - started:.1f} s")
    recipe = replace(recipe, rules=plan.rules(recipe.rules))
    suffix = line.CORRUPTED if recipe.suite else line.AUGMENTED
    out = Path(settings.out) if settings.out is not None else line.default_out(root, suffix)
    out = out.resolve() if out.name in ("", "..") else out
    line.check_out(root, out)
    if settings.preview is not None:
        line.check_preview(root, out, Path(settings.preview), force=settings.force)
    plan = evaluation(plan) if recipe.suite else plan
    with console.progress("look") as progress:
        plan = arrange(plan, settings, recipe, progress, lambda text: console.say(printable(text)))
    check_recipe(plan, recipe)
    line.stamp(recipe, "", Counts(), plan)  # fails now, not in a worker, when OpenCV cannot be imported
    done = line.up_to_date(plan, out, recipe)
    if done is None:
        line.refuse_existing(out, force=settings.force or settings.if_changed)
        line.check_space(plan, recipe, out)
    if done is None and not settings.dry_run:
        with console.progress("leaks") as progress:
            plan = with_leaks(plan, recipe, settings.workers, progress)
        for text in leak_lines(plan):
            console.say(printable(text))
    known = plan.known
    mirrors = any(op.mirrors for op in recipe.ops)
    if known is not None and known.keypoint_shape and not known.flip_index and mirrors:
        console.say("keypoints are mirrored without swapping left and right: the data set does not say which are pairs")
    if settings.preview is not None:
        draw_preview(plan, recipe, Path(settings.preview))
        console.say(f"drew {settings.preview}")
    if settings.dry_run:
        return _dry_run(plan, out, recipe, settings, console, fresh=done is not None)
    if done is not None:
        return _answer(line.Result(source, str(out), plan, recipe, done, 0.0, "up to date", settings.strict), console)
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
    watch = result.tally.watch
    if watch.busy:
        made = max(1, result.counts.originals + result.counts.variants)
        console.detail(
            f"files and codecs took {watch.codecs / watch.busy:.0%} of the workers' time: "
            f"{1000 * watch.codecs / made:.2f} of {1000 * watch.busy / made:.2f} ms an output"
        )
    if not result.counts.variants and result.counts.left_out:
        many = counted(result.counts.left_out, "variant", *EQUAL)
        console.say(f"no variant was written: {many}; choose a stronger op or a higher p")
    return _answer(result, console)


def effective(source: str, typed: Typed, detail: Callable[[str], None] = lambda text: None) -> tuple[augment, Recipe]:
    """Resolve the settings, tell where they come from, and read the ops; raise EdgekitError when there is none."""
    settings, origin = resolved_settings(typed, detail)
    rules = Rules(settings.min_visibility, settings.box_method)
    if settings.corruptions or typed.values["severity"] is not None:
        return corruptions.effective(settings, typed, rules)
    refuse_text_ops(settings.ops, source, origin)
    preset = PRESETS[settings.preset] if settings.preset is not None else ()
    ready, chosen = tuple(map(OPS.read, preset)), tuple(OPS.read(entry, origin) for entry in settings.ops)
    if settings.text:
        refuse_mirrors(ready, f"preset {settings.preset}")
        refuse_mirrors(chosen, origin)
    ops = (*ready, *chosen)
    if not ops and (settings.copies or settings.balance or settings.per_class):
        raise EdgekitError("no op was given", "add one, such as --flip (`edgekit ops` lists them), or -n 0")
    copies, seed, limit = settings.copies, settings.seed, settings.max_pixels
    recipe = Recipe(ops, copies, seed, settings.originals, settings.quality, limit, rules)
    return settings, recipe


def resolved_settings(typed: Typed, detail: Callable[[str], None] = lambda text: None) -> tuple[augment, str]:
    """Resolve the settings and tell where they come from; give what errors say of where the ops do, too."""
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
    return settings, origin


def idle(plan: Plan, settings: augment, typed: Typed) -> Iterator[str]:
    """Say which of the flags that were typed do nothing to this set, a sentence each."""
    known = plan.known
    if typed.values["max_copies"] is not None and not (settings.balance or settings.per_class):
        yield "--max-copies does nothing without --balance or --per-class"
    if typed.values["labels_frame"] is not None and (known is None or known.kind in UNLABELLED):
        yield "--labels-frame does nothing: there are no labels of objects"
    if typed.values["group_by"] is not None and not settings.split and (known is None or not is_split(known)):
        yield "--group-by keeps nothing together without --split: the set has no splits"


def told(plan: Plan) -> Iterator[str]:
    """Say which labels cannot be read, and what is lost where there are none of objects, a sentence each."""
    known = plan.known
    if known is None or known.kind in UNLABELLED:
        yield from map(str, plan.mended)
    if known is not None and plan.kind not in UNLABELLED and known.kind in UNLABELLED:
        if known.kind == "none":
            yield f"there are no labels to convert to {plan.kind}: every picture will be background"
        else:
            yield f"{plan.kind} has no classes of whole pictures: they are lost, and every picture will be background"


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


def _dry_run(plan: Plan, out: Path, recipe: Recipe, settings: augment, console: Console, *, fresh: bool) -> int:
    guess = line.estimate(plan, recipe, settings.workers)
    if console.json:
        console.document(
            {
                "schema": line.SCHEMA,
                "status": "dry run",
                "out": str(out),
                "up_to_date": fresh,
                "layout": plan.layout,
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
    ops = corruptions.said(recipe) or ", ".join(str(op) for op in recipe.ops) or "none"
    numbers = sorted({plan.copies(source.key, recipe) for source in plan.augmented}) or [0]
    copies = f"{numbers[-1]:,} {'copy' if numbers[-1] == 1 else 'copies'}"
    copies = copies if len(numbers) == 1 else f"{numbers[0]:,} to {copies}"
    tried = f", {guess.rejected} of which cannot be used" if guess.rejected else ""
    if fresh:
        console.answer(f"{printable(str(out))}: up to date, so nothing would be written")
        return 0
    console.answer(
        f"{printable(str(plan.listing.root))}: {plan.layout} layout, {counted(len(plan.sources), 'picture')}, "
        f"{counted(plan.listing.others, 'other file')}\n"
        f"ops: {ops}; {copies}, seed {recipe.seed}\n"
        f"{''.join(f'{name}: {text}{chr(10)}' for name, text in _arranged(plan, planned=True))}"
        f"would write about {counted(guess.files, 'file')}, {_size(guess.bytes)}, in {guess.seconds:,.1f} s "
        f"(from {counted(guess.sampled, 'picture')}{tried}) to {printable(str(out))}"
    )
    return 0


def _arranged(plan: Plan, *, planned: bool) -> list[tuple[str, str]]:
    """Say the splits that were made, and what the classes were raised to."""
    lines = []
    if "split" in plan.choices:
        pictures = plan.choices["split"]["pictures"]
        lines.append(("split", f"{', '.join(f'{split} {count:,}' for split, count in pictures.items())} pictures"))
    if "balance" in plan.choices:
        of = " of train" if len(plan.known.splits if plan.known is not None else ()) > 1 else ""
        target, short = plan.choices["balance"]["target"], len(plan.choices["balance"]["short"])
        below = f", {short:,} below" if short and planned else ""
        lines.append(("balance", f"{counted(target, 'picture')}{of} a class{below}"))
    return lines


def _short(plan: Plan, short: Mapping[str, int]) -> str:
    target = plan.choices["balance"]["target"]
    first = ", ".join(f"{printable(name)}: {count:,}" for name, count in list(short.items())[:SHORT])
    more = f" and {len(short) - SHORT:,} more" if len(short) > SHORT else ""
    return f"of {counted(target, 'picture')}: {first}{more}"


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"


def _answer(result: line.Result, console: Console) -> int:
    if console.json:
        console.document(result.to_dict())
        return result.exit_code
    counts, plan, tally = result.counts, result.plan, result.tally
    out = printable(result.out)
    if result.status == "up to date":
        console.answer(f"{out}: up to date ({counted(counts.originals + counts.variants, 'picture')})")
        return result.exit_code
    ops = corruptions.said(result.recipe) or ", ".join(str(op) for op in result.recipe.ops)
    console.answer(f"{printable(result.source)} -> {out}    {ops}")
    console.answer("")
    originals = counted(counts.originals, "original")
    lines = [
        ("read", counted(counts.sources - counts.rejected, "picture")),
        ("wrote", f"{originals}, {counted(counts.variants, 'variant')} ({_size(counts.bytes)})"),
    ]
    if plan.known is not None:
        lines.append(
            ("labels", plan.known.kind if plan.known.kind == plan.kind else f"{plan.known.kind} to {plan.kind}")
        )
    lines += _arranged(plan, planned=False)
    if result.short:
        lines.append(("short", _short(plan, result.short)))
    lines += corruptions.lines(plan)
    if counts.passed:
        lines.append(("passed on", f"{counted(counts.passed, 'picture')} untouched: only the split train is augmented"))
    if tally.classes:
        low, high = min(tally.classes.values()), max(tally.classes.values())
        each = counted(high, "picture") if low == high else f"{low:,} to {counted(high, 'picture')}"
        lines.append(("classes", f"{len(tally.classes):,}, {each}{' each' if len(tally.classes) > 1 else ''}"))
    if counts.clipped or counts.dropped:
        lines.append(("objects", f"{counts.clipped:,} clipped, {counts.dropped:,} dropped; see manifest.jsonl"))
    if counts.left_out:
        lines.append(("left out", counted(counts.left_out, "variant", *EQUAL)))
    if counts.rejected:
        first = printable(tally.first_rejected)
        lines.append(("rejected", f"{counted(counts.rejected, 'picture')} (first: {first}); see rejected.jsonl"))
    if counts.warnings:
        lines.append(("warnings", f"{counted(counts.warnings, 'picture')}; see manifest.jsonl"))
    if counts.mended:
        first = f" (first: {printable(str(plan.mended[0]))})" if plan.mended else ""
        lines.append(
            ("mended", f"{counted(counts.mended, 'label')} mended or left out{first}; see manifest.jsonl and run.json")
        )
    if counts.lost:
        first = printable(tally.first_lost)
        lines.append(("lost", f"of {counted(counts.lost, 'picture')} (first: {first}); see manifest.jsonl"))
    if plan.known is None and (counts.other_files or counts.other_folders):
        lines.append(("passed by", passed_by(counts.other_files, counts.other_folders)))
    if tally.reused:
        all_made = counted(counts.originals + counts.variants, "picture")
        lines.append(("reused", f"{tally.reused:,} of {all_made} that were there already"))
    for name, text in lines:
        console.answer(f"{name:<10}{text}")
    console.answer("")
    whole = result.seconds and not tally.resumed and not tally.reused
    rate = f", {counts.variants / result.seconds:,.0f} variants/s" if whole else ""
    console.answer(f"wrote {out}/manifest.jsonl (seed {result.recipe.seed}, {result.seconds:.1f} s{rate})")
    return result.exit_code
