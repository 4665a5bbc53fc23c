"""`edgekit augment --replay`: outputs made again from their rows, and whether they are the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.augment import record, replay
from edgekit.augment import run as line
from edgekit.augment.settings import augment
from edgekit.cli.console import Console
from edgekit.errors import EdgekitError
from edgekit.words import counted, printable

if TYPE_CHECKING:
    from edgekit.augment.replay import Rebuilt, Result
    from edgekit.cli.signature import Typed

FITTING = ("replay", "out", "force", "workers")
SHOWN = 20  # rows that differ


def run_replay(source: str | None, typed: Typed) -> int:
    """Run `edgekit augment --replay` and give its exit code; the recipe is the manifest's, whatever is configured."""
    console = Console(typed.common.json, typed.common.quiet, typed.common.verbose)
    given = {field.name: typed.values[field.name] for field in augment.options()}
    others = [f"--{field.flag}" for field in augment.options() if given[field.name] not in (None, (), [])]
    others = [flag for flag in others if flag.strip("-").replace("-", "_") not in FITTING]
    if typed.recipe:
        others = [*(f"--{text.split()[0]}" for text in typed.recipe), *(flag for flag in others if flag != "--ops")]
    if others:
        raise EdgekitError(
            f"{', '.join(dict.fromkeys(others))} and --replay exclude each other: the manifest has the recipe",
            f"--replay takes {', '.join(f'--{name}' for name in FITTING[1:])}",
        )
    settings = augment.from_dict({name: given[name] for name in FITTING if given[name] is not None})
    if not settings.replay:
        raise EdgekitError("--replay is empty", "give the manifest.jsonl of an output, and :17 for its row 17")
    if source == "":
        raise EdgekitError("SRC is empty", "give the folder that the output was made from")
    found = record.find(settings.replay)
    recipe = record.recipe_of(found)
    root = record.default_source(found) if source is None else Path(source)
    out = None if settings.out is None else Path(settings.out)
    if out is not None:
        record.check_out(found, root, out)
        line.refuse_existing(out, force=settings.force)
    plan = record.plan_of(found, root)
    with console.progress("replay") as progress:
        result = replay.run(
            found, root, plan, recipe, out, workers=settings.workers, force=settings.force, progress=progress
        )
    if console.json:
        console.document(result.to_dict())
    else:
        _answer(result, console)
    return result.exit_code


def _answer(result: Result, console: Console) -> None:
    for one in result.differences[:SHOWN]:
        console.answer(f"row {one.number:<6}{printable(_said(one))}")
    if result.differences[SHOWN:]:
        console.answer(f"and {counted(len(result.differences) - SHOWN, 'other row')}; --json has them all")
    for name in result.files:
        console.answer(f"file      {printable(name)} of the whole set differs")
    for why in result.why:
        console.answer(f"because   {printable(why)}")
    same, where = result.rows - len(result.differences), f" -> {printable(result.out)}" if result.out else ""
    if result.altered:
        they = "output differs from its row" if result.altered == 1 else "outputs differ from their rows"
        console.answer(f"{result.altered:,} {they}: edgekit verify says more")
    how = " bit-identical" if result.exit_code else " rebuilt: all bit-identical"
    console.answer(f"{same:,} of {counted(result.rows, 'row')}{how}{where}")


def _said(one: Rebuilt) -> str:
    return f"{one.name}: {one.what}{': ' if one.why else ''}{', '.join(one.why)}"
