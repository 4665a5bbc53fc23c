"""`edgekit augment` of a text file: from what was typed to the straight line and its answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.augment import run as pictures
from edgekit.augment.settings import augment
from edgekit.augment.text import run as line
from edgekit.augment.text.op import read_ops
from edgekit.augment.text.rows import look
from edgekit.cli.augment import EQUAL, resolved_settings
from edgekit.cli.console import Console
from edgekit.data import splits
from edgekit.errors import EdgekitError
from edgekit.words import counted, printable

if TYPE_CHECKING:
    from edgekit.augment.text.rows import TextFile
    from edgekit.cli.signature import Typed

FITTING = (
    "ops", "copies", "seed", "originals", "text_column", "label_column", "out", "workers", "force", "if_changed",
    "dry_run", "strict",
)  # fmt: skip
PATIENCE = 3.0  # seconds of a dry run
# Columns that say something of places in the text, which are others in its variants.
PLACES = ("spans", "entities", "ner_tags", "tokens", "answers", "answer_start", "start", "end", "offset", "offsets")


def run_text(source: str, typed: Typed) -> int:
    """Run `edgekit augment` for a text file and give its exit code."""
    console = Console(typed.common.json, typed.common.quiet, typed.common.verbose)
    _refuse_others(source, typed)
    settings, origin = resolved_settings(typed, console.detail)
    ops = read_ops(settings.ops, source, origin)
    if not ops and settings.copies:
        raise EdgekitError("no op was given", "add one, such as --flip; `edgekit ops` lists them")
    if not settings.copies and not settings.originals:
        raise EdgekitError("nothing to write: no variants and no originals", "leave -n 0 or --no-originals out")
    recipe = line.Recipe(ops, settings.copies, settings.seed, settings.originals)
    found = look(Path(source), settings.text_column, settings.label_column)
    console.detail(_layout(found))
    out = Path(settings.out) if settings.out is not None else line.default_out(found.path)
    line.check_out(found.path, out)
    for note in _notes(found):
        console.say(printable(note))
    if settings.dry_run:
        return _dry_run(line.rehearse(found, out, recipe, strict=False, patience=PATIENCE), console)
    done = line.up_to_date(found, out, recipe)
    if done is not None:
        return _answer(line.Result(found, out, recipe, done, 0.0, "up to date", settings.strict), console)
    force = settings.force or settings.if_changed
    pictures.refuse_existing(out, force=force)
    line.check_space(found.path, recipe, out)
    with console.progress("augment") as progress:
        result = line.run(found, out, recipe, strict=settings.strict, force=force, progress=progress)
    return _answer(result, console)


def _refuse_others(source: str, typed: Typed) -> None:
    """Raise EdgekitError when a flag was typed that says something of pictures alone."""
    names = [field.name for field in augment.options() if typed.values[field.name] not in (None, (), [])]
    others = [f"--{name.replace('_', '-')}" for name in names if name not in FITTING]
    if others:
        raise EdgekitError(f"{', '.join(others)}: of pictures, and {source} is a text file", "leave it out")


def _layout(found: TextFile) -> str:
    columns = found.columns
    named = [f"{what} {name}" for what, name in (("text", columns.text), ("label", columns.label)) if name is not None]
    form = "" if found.form is None else f", fields end with {found.form.style['delimiter']!r}"
    return f"layout: {found.kind}{form}{', ' if named else ''}{', '.join(named)}"


def _notes(found: TextFile) -> list[str]:
    """Say what somebody should know before the rows are trained on."""
    notes = []
    moved = [name for name in found.columns.names if name in PLACES and name != found.columns.text]
    if moved:
        notes.append(f"{', '.join(moved)}: copied as they are, though the words of variants are at other places")
    split = splits.of_name(found.path.stem) if found.columns.split is None else None
    if split in (splits.VAL, splits.TEST):
        notes.append(f"{found.path}: is called like a {split} split, which is not to be augmented")
    return notes


def _dry_run(result: line.Result, console: Console) -> int:
    if console.json:
        console.document(result.to_dict())
        return 0
    counts, share = result.tally.counts, result.share
    about = "" if share == 1 else "about "
    rows, texts = (round(number / share) for number in (counts.sources, counts.originals + counts.variants))
    seconds = max(result.seconds / share, 0.1)
    console.answer(
        f"{_source(result)}: {about}{counted(rows, 'row')}\n"
        f"ops: {_ops(result) or 'none'}; {counted(result.recipe.copies, 'variant')} each at most, "
        f"seed {result.recipe.seed}\n"
        f"would write {about}{counted(texts, 'text')}, {counts.bytes / share / 1e6:,.1f} MB, in {seconds:,.1f} s "
        f"to {printable(str(result.out))}"
    )
    return 0


def _source(result: line.Result) -> str:
    return printable(str(result.source.path))


def _ops(result: line.Result) -> str:
    return ", ".join(str(op) for op in result.recipe.ops)


def _answer(result: line.Result, console: Console) -> int:
    if console.json:
        console.document(result.to_dict())
        return result.exit_code
    counts, tally, columns = result.tally.counts, result.tally, result.source.columns
    out = printable(str(result.out))
    if result.status == "up to date":
        console.answer(f"{out}: up to date ({counted(counts.originals + counts.variants, 'text')})")
        return result.exit_code
    console.answer(f"{_source(result)} -> {out}    {_ops(result)}")
    console.answer("")
    text = "" if columns.text is None else f" (text: {columns.text})"
    wrote = f"{counted(counts.originals, 'original')}, {counted(counts.variants, 'variant')}"
    lines = [
        ("read", f"{counted(counts.sources - counts.rejected, 'row')}{text}"),
        ("wrote", f"{wrote} ({counts.bytes / 1e6:,.1f} MB)"),
    ]
    if counts.passed:
        lines.append(("passed on", f"{counted(counts.passed, 'row')} untouched: only the split train is augmented"))
    if counts.empty:
        lines.append(("empty", counted(counts.empty, "row", "without a text", "without a text")))
    if tally.classes:
        low, high = min(tally.classes.values()), max(tally.classes.values())
        each = counted(high, "text") if low == high else f"{low:,} to {counted(high, 'text')}"
        lines.append(("classes", f"{len(tally.classes):,}, {each}{' each' if len(tally.classes) > 1 else ''}"))
    if counts.left_out:
        lines.append(("left out", counted(counts.left_out, "variant", *EQUAL)))
    if counts.rejected:
        first = printable(tally.first_rejected)
        lines.append(("rejected", f"{counted(counts.rejected, 'row')} (first: {first}); see rejected.jsonl"))
    for name, said in lines:
        console.answer(f"{name:<10}{printable(said)}")
    console.answer("")
    rate = f", {counts.variants / result.seconds:,.0f} variants/s" if result.seconds else ""
    made = f"{out}/{printable(result.source.path.name)} and its manifest.jsonl"
    console.answer(f"wrote {made} (seed {result.recipe.seed}, {result.seconds:.1f} s{rate})")
    return result.exit_code
