"""`edgekit verify`: whether an output of `edgekit augment` is still what was written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import config
from edgekit.augment import record, run
from edgekit.augment.pool import available_cores
from edgekit.augment.text.run import SCHEMA
from edgekit.cli.console import Console
from edgekit.data import verify
from edgekit.errors import EdgekitError
from edgekit.words import counted, printable

if TYPE_CHECKING:
    from edgekit.cli.signature import Typed

SHOWN = 20  # findings


def run_verify(out: str, typed: Typed) -> int:
    """Run `edgekit verify` and give its exit code."""
    from edgekit.cli.listing import COMMANDS

    console = Console(typed.common.json, typed.common.quiet, typed.common.verbose)
    config.check_keys(config.load(typed.common.config, search=not typed.common.no_config), COMMANDS)
    if not out:
        raise EdgekitError("OUT is empty", "give a folder that edgekit augment wrote; . is the one you are in")
    with console.progress("verify") as progress:
        result = verify.verify(
            Path(out), (run.SCHEMA, record.SCHEMA), run.LITTER, available_cores(), progress, (SCHEMA,)
        )
    if console.json:
        console.document(result.to_dict())
        return result.exit_code
    for finding in result.findings[:SHOWN]:
        console.answer(printable(str(finding)))
    if result.findings[SHOWN:]:
        console.answer(f"and {counted(len(result.findings) - SHOWN, 'other')}; --json has them all")
    parts = [(result.pictures, "picture"), (result.label_files, "label file"), (result.texts, "text")]
    parts.append((result.rejected, "rejected row"))
    what = ", ".join(
        counted(number, noun) for number, noun in parts if number or (noun == "picture" and not result.texts)
    )
    verdict = counted(len(result.findings), "finding") if result.findings else "intact"
    console.answer(f"{printable(out)}: {verdict} ({what})")
    return result.exit_code
