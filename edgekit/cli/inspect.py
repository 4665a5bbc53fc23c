"""`edgekit inspect`: what a model is made of, on one screen; a folder goes to `inspect_folder`."""

from __future__ import annotations

import json
import textwrap
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import config, graph
from edgekit.bench.settings import inspect
from edgekit.cli.console import WIDTH, Console
from edgekit.data.headers import PICTURE_SUFFIXES
from edgekit.errors import EdgekitError
from edgekit.measure import anatomy, invented, readymade
from edgekit.report.text import megabytes, milliseconds
from edgekit.words import printable

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgekit.cli.signature import Typed
    from edgekit.measure.anatomy import Anatomy, Part, Value
    from edgekit.session import Feed

NAME_COLUMN = 11
LONGEST_NAME, SHORTEST_NAME = 36, 12
HEADINGS = ("type", "MACs", "bytes", "time", "share", "runs as")
SHOWN = 6  # operators whose share of the time is said


def run_inspect(target: str, typed: Typed) -> int:
    """Run `edgekit inspect` and give its exit code."""
    from edgekit.cli.listing import COMMANDS

    console = Console(typed.common.json, typed.common.quiet, typed.common.verbose)
    loaded = config.load(typed.common.config, search=not typed.common.no_config)
    config.check_keys(loaded, COMMANDS)
    settings = config.resolve(inspect, typed.values, loaded).settings
    path = Path(target)
    what = "model" if not path.is_dir() else "folder" if settings.features is None else "features"
    check_flags(path, what, settings, typed)
    if what != "model":
        from edgekit.cli import inspect_folder

        return inspect_folder.run_inspect(path, settings, console)
    if path.is_file() and path.suffix.lower() in PICTURE_SUFFIXES:
        raise EdgekitError(f"{path}: is a picture, not a model", f"give the folder it is in: {path.parent}")
    proto = graph.load(path)
    if settings.groups:
        from edgekit.cli import inspect_groups

        inspect_groups.check_model(path, proto)
    feeds, fed, notes = _feeds(proto, settings)
    console.detail("timing the layers")
    found = anatomy.dissect(path, proto, feeds, fed, threads=settings.threads, seconds=settings.seconds, notes=notes)
    if settings.groups:
        inspect_groups.answer(found, proto, settings.top, console)
    elif console.json:
        console.document(found.to_dict())
    else:
        _answer(found, settings.top)
    return 0


def check_flags(path: Path, what: str, settings: inspect, typed: Typed) -> None:
    """Raise EdgekitError naming every flag that was typed and means nothing here."""
    names = [name for name in settings.foreign(what) if typed.values.get(name) not in (None, (), [])]
    flags = [f"--{name.replace('_', '-')}" for name in names]
    if not flags:
        return
    listed = " and ".join([", ".join(flags[:-1]), flags[-1]] if len(flags) > 1 else flags)
    needs_features = set(names) <= set(settings.foreign("model")) | {"size", "threads"}
    if what == "folder" and needs_features:
        raise EdgekitError(f"{listed}: of a folder, only with --features", f"add --features MODEL, or drop {listed}")
    said = {
        "model": f"for a folder of pictures, and {path} is none",
        "folder": f"for a model, and {path} is a folder",
        "features": "not for --features",
    }
    raise EdgekitError(f"{listed}: {said[what]}", "leave out what does not belong")


def _feeds(model: ModelProto, settings: inspect) -> tuple[list[Feed], str, tuple[str, ...]]:
    """Give what the model is run on, in words too, and a note where there is nothing."""
    if settings.feeds is not None:
        if settings.size is not None:
            raise EdgekitError("--feeds and --size exclude each other", "give one or the other")
        stream = readymade.from_feeds(Path(settings.feeds), graph.inputs(model))
        return list(islice(stream, invented.COUNT)), f"the inputs in {settings.feeds}", ()
    if model.ByteSize() >= graph.LARGEST_FILE:
        return [], "", ("not run, so neither timed nor counted: the file is larger than what can be profiled",)
    try:
        stream, said = invented.invent(model, size=settings.size, seed=settings.seed)
    except EdgekitError as error:
        if settings.size is not None:
            raise
        return [], "", (f"not run, so neither timed nor counted: {error.message}", error.hint)
    return list(stream), said, ()


def _answer(found: Anatomy, top: int) -> None:
    from rich.console import Console as Rich
    from rich.table import Table
    from rich.text import Text

    rich = Rich(width=None if Rich().is_terminal else WIDTH, highlight=False)
    lines = [headline(found), ""]
    for name, text in facts(found):
        body = textwrap.wrap(printable(text), WIDTH - NAME_COLUMN, break_on_hyphens=False) or [""]
        lines += [
            f"{head:<{NAME_COLUMN}}{line}".rstrip() for head, line in zip([name, *[""] * len(body)], body, strict=False)
        ]
    print("\n".join([*lines, ""]))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(Text("  layer"), overflow="fold")
    for heading in HEADINGS:
        table.add_column(Text(heading), justify="left" if heading in ("type", "runs as") else "right")
    ranked = sorted(found.layers, key=_cost)
    rows = [_row(part) for part in ranked[:top]]
    others = sum(max(map(len, column)) + 2 for column in zip(HEADINGS, *rows, strict=True))
    for part, row in zip(ranked, rows, strict=False):
        table.add_row(*(Text(cell) for cell in (_name(part, rich.width - others - 4), *row)))
    with rich.capture() as drawn:
        rich.print(table)
    print("\n".join(line.rstrip() for line in drawn.get().splitlines()))
    rest = ranked[top:]
    if rest:
        share = sum(part.share or 0.0 for part in rest)
        timed = f", {100 * share:.1f} % of the time" if found.ms is not None else ""
        print(f"and {len(rest)} more{timed}; --top {len(ranked)} shows all")


def _cost(part: Part) -> tuple[float, int, int]:
    return -(part.ms or 0.0), -(part.macs or 0), -part.bytes


def headline(found: Anatomy) -> str:
    """Say the model in a line: size, parameters, work, time."""
    parts = [megabytes(found.bytes), f"{found.parameters:,} parameters"]
    if found.macs is not None:
        parts.append(f"{count(found.macs)} MACs")
    if found.ms is not None:
        threads = f"{found.threads} thread" + ("s" if found.threads > 1 else "")
        parts.append(f"{milliseconds(found.ms)} ({threads})")
    return f"{printable(Path(found.path).name)}    {'; '.join(parts)}"


def facts(found: Anatomy) -> list[tuple[str, str]]:
    """Give everything but the layers, as pairs of a name and a text."""
    rows = [("input" if number == 0 else "", _shown(value)) for number, value in enumerate(found.inputs)]
    rows += [("output" if number == 0 else "", _shown(value)) for number, value in enumerate(found.outputs)]
    opsets = ", ".join(f"{domain} {version}" for domain, version in found.opsets.items())
    made = f", made by {found.producer}" if found.producer else ""
    rows.append(("format", f"opset {opsets}; IR {found.ir_version}{made}"))
    rows.append(("operators", ", ".join(f"{number} {kind}" for kind, number in found.operators.items())))
    rows.append(("quantised", found.quantized))
    if found.external:
        rows.append(("external", ", ".join(found.external)))
    for key, value in found.metadata.items():
        rows.append(("metadata" if rows[-1][0] not in ("metadata", " ") else " ", f"{key}: {_short(value)}"))
    if spent := by_operator(found):
        rows.append(
            ("time", ", ".join(f"{100 * share:.0f} % {kind}" for kind, share in spent[:SHOWN] if share >= 0.005))
        )
    if found.fed:
        rows.append(("fed", f"{found.fed}; onnxruntime's own profile of the graph as it runs here"))
    return [*rows, *(("note", note) for note in found.notes)]


def by_operator(found: Anatomy) -> list[tuple[str, float]]:
    """Give the share of the time of each operator as it runs, 0..1, the largest first."""
    shares: dict[str, float] = {}
    for part in found.layers:
        if part.share:
            shares[part.runs_as] = shares.get(part.runs_as, 0.0) + part.share
    return sorted(shares.items(), key=lambda each: (-each[1], each[0]))


def _shown(value: Value) -> str:
    sides = "x".join("?" if side is None else str(side) for side in value.shape) or "scalar"
    return f"{value.name}  {value.dtype} {sides}"


def _short(text: str) -> str:
    try:
        values = json.loads(text)
    except ValueError:
        values = text
    plain = ", ".join(map(str, values)) if isinstance(values, list) else text
    return plain if len(plain) <= 160 else f"{plain[:157]}..."


def _name(part: Part, room: int) -> str:
    name = printable(part.name)
    most = min(LONGEST_NAME, max(SHORTEST_NAME, room))
    return (
        f"  ...{name[3 - most :]}" if len(name) > most else f"  {name}"
    )  # the ends of names differ, not their beginnings


def _row(part: Part) -> tuple[str, ...]:
    time = "" if part.ms is None else "-" if part.ms == 0 else milliseconds(part.ms)
    share = "" if not part.share else f"{100 * part.share:.1f} %"
    runs_as = "added by onnxruntime" if part.added else "" if part.runs_as == part.type else part.runs_as
    if part.ms is not None and not part.runs_as:
        runs_as = "(fused or folded)"
    work = "?" if part.macs is None else count(part.macs) if part.macs else "-"
    return part.type, work, _bytes(part.bytes), time, share, runs_as


def _bytes(number: int) -> str:
    return "-" if number == 0 else f"{number} B" if number < 1000 else megabytes(number)


def count(number: int) -> str:
    """Show a large number with three digits: `12.5 M`."""
    for unit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.3g} {letter}"
    return str(number)
