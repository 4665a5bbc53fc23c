"""`edgekit inspect DIR`: what a folder of pictures holds, on one screen."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import files, graph
from edgekit.augment import pool
from edgekit.augment.preview import drawn
from edgekit.cli.console import WIDTH
from edgekit.data import census, dataset, images
from edgekit.data.folder import ALL, INSIDE, outside, read, scan
from edgekit.data.sample import Sample
from edgekit.data.sheet import Tile, contact_sheet, png
from edgekit.errors import EdgekitError
from edgekit.measure import features
from edgekit.measure.material import PICTURE_FLAGS
from edgekit.report.text import megabytes
from edgekit.words import counted, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy import ndarray

    from edgekit.bench.settings import inspect
    from edgekit.cli.console import Console
    from edgekit.data.census import Census, Row, Tally
    from edgekit.data.dataset import Dataset, Entry

NAME_COLUMN = 11
NAMED = 3  # examples that a line gives
LONGEST_NAME = 40
TAKES = "give a model with one input, a picture: 3 axes, or 4 with a batch"
PREVIEW_ROWS, PREVIEW_COLUMNS = 6, 6


def run_inspect(root: Path, settings: inspect, console: Console) -> int:
    """Inspect the folder, or write a model's features of it, and give the exit code."""
    if settings.features is not None:
        return write_features(root, settings, console)
    if settings.preview is not None:
        check_preview(root, Path(settings.preview), force=settings.force)
    found = read_dataset(root, settings, console)
    if found.kind in dataset.UNLABELLED:
        for note in found.mended:
            console.say(str(note))
    survey = census.Survey(found, settings.max_pixels)
    with console.progress("reading") as progress:
        rows = _counted(
            pool.process([entry.source for entry in found.entries], survey, settings.workers), found, progress
        )
        taken = census.take(found, rows, strict=settings.strict)
    if settings.preview is not None:
        files.write(Path(settings.preview), png(preview(found, taken, settings.max_pixels)))
    if console.json:
        console.document(_decodable(taken.to_dict()))
    else:
        _answer(taken, settings.top)
    return taken.exit_code


def _decodable(value: Any) -> Any:
    """Write bytes of names that are no UTF-8 as \\udc80: a lone surrogate is JSON that strict readers refuse."""
    if isinstance(value, dict):
        return {_decodable(key): _decodable(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_decodable(one) for one in value]
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def read_dataset(root: Path, settings: inspect, console: Console) -> Dataset:
    """Read the labels of the folder's pictures; raise EdgekitError when it holds none, or a model instead."""
    try:
        listing = scan(root, ALL if settings.follow_links else INSIDE)
    except EdgekitError as error:
        models = sorted(root.glob("*.onnx"))
        hint = f"to inspect a model in it: edgekit inspect {models[0]}" if models else error.hint
        raise EdgekitError(error.message, hint) from None
    if listing.outside:
        console.say(outside(listing))
    return dataset.read(listing, None if settings.labels == "auto" else settings.labels, settings.labels_frame)


def check_preview(root: Path, preview: Path, *, force: bool) -> None:
    """Raise EdgekitError when the contact sheet would lie in the folder, exists, or cannot be written."""
    if preview.suffix.lower() != ".png":
        raise EdgekitError(f"{preview}: the preview is a PNG", f"call it {preview.stem or 'sheet'}.png")
    if root.resolve() in preview.resolve().parents:
        raise EdgekitError(f"{preview}: lies inside {root}", "choose a --preview outside of it")
    files.refuse_existing(preview, force=force, what="preview")
    files.require_writable(preview.parent)


def _counted(rows: Iterator[Row], found: Dataset, progress: Callable[[int, int], None]) -> Iterator[Row]:
    for number, row in enumerate(rows, 1):
        yield row
        progress(number, len(found.entries))


def preview(found: Dataset, taken: Census, max_pixels: int) -> ndarray:
    """Draw pictures spread over the folder, with their labels; raises EdgekitError when none of them can be read."""
    entries = [entry for entry, row in zip(found.entries, taken.rows, strict=True) if not row.reason]
    if not entries:
        raise EdgekitError(f"{found.root}: none of its pictures can be read", "leave --preview out")
    count = min(len(entries), PREVIEW_ROWS * PREVIEW_COLUMNS)
    tiles = [_tile(entries[number * len(entries) // count], max_pixels) for number in range(count)]
    return contact_sheet([tiles[start : start + PREVIEW_COLUMNS] for start in range(0, count, PREVIEW_COLUMNS)])


def _tile(entry: Entry, max_pixels: int) -> Tile:
    picture = images.decode(read(entry.source, dataset.LARGEST), max_pixels)
    mask, _ = entry.read_mask(picture.header)
    sample = Sample(
        entry.key,
        picture.pixels,
        entry.label,
        None if mask is None or mask.colours is not None else mask.values,
        objects=entry.read(picture.header).objects,
    )
    said = " ".join(part for part in (entry.split, entry.label) if part)
    return Tile(drawn(sample), (entry.key.rsplit("/", 1)[-1], *([said] if said else [])))


# ---- features


def write_features(root: Path, settings: inspect, console: Console) -> int:
    """Write a model's features of every picture; give 1 when --strict met pictures that cannot be read, else 0."""
    model, out = Path(settings.features or ""), check_out(root, settings)
    proto = graph.load(model)
    inputs = graph.inputs(proto)
    if len(inputs) != 1:
        names = ", ".join(one.name for one in inputs)
        raise EdgekitError(f"{model}: takes {len(inputs)} inputs ({names}), and a picture is one", TAKES)
    if 0 < len(inputs[0].shape) < 3:
        axes = len(inputs[0].shape)
        raise EdgekitError(f"{model}: its input {inputs[0].name} is no picture: it has {axes} axes", TAKES)
    found = read_dataset(root, settings, console)
    given = {name: value for name in PICTURE_FLAGS if (value := getattr(settings, name)) is not None}
    with console.progress("reading") as progress:
        made = features.extract(
            proto,
            model,
            found,
            given,
            layer=settings.layer,
            threads=settings.threads,
            max_pixels=settings.max_pixels,
            progress=progress,
        )
    made.save(out)
    code = 1 if settings.strict and made.unreadable else 0
    for sentence in made.decision.sentences():
        if not sentence.startswith("calibrated"):  # nothing is
            console.say(sentence)
    if made.unreadable:
        key, reason = made.unreadable[0]
        console.say(f"left out: {counted(len(made.unreadable), 'unreadable picture')} (first: {key}: {reason})")
    if console.json:
        said = {"source": str(root), "model": str(model), "out": str(out), **made.to_dict(), "exit_code": code}
        console.document({"schema": features.SCHEMA, "generator": files.MADE_BY, **said})
    console.answer(f"wrote {out}: {len(made.keys):,} x {made.values.shape[1]:,} features, from {made.layer}")
    return code


def check_out(root: Path, settings: inspect) -> Path:
    """Give the file that features go to; raise EdgekitError when none was named, or it cannot be made."""
    if settings.out is None:
        raise EdgekitError("--features needs a file to write to", "add --out features.npz")
    out = Path(settings.out)
    if out.suffix != ".npz":
        raise EdgekitError(f"{out}: features are written as .npz", f"call it {out.stem or 'features'}.npz")
    if root.resolve() in out.resolve().parents:
        raise EdgekitError(f"{out}: lies inside {root}", "choose an --out outside of it")
    files.refuse_existing(out, force=settings.force)
    files.require_writable(out.parent)
    return out


# ---- the answer


def _answer(taken: Census, top: int) -> None:
    lines = [headline(taken), ""]
    for name, said in facts(taken):
        body = textwrap.wrap(printable(said), WIDTH - NAME_COLUMN, break_on_hyphens=False) or [""]
        heads = [name, *[""] * (len(body) - 1)]
        lines += [f"{head:<{NAME_COLUMN}}{line}".rstrip() for head, line in zip(heads, body, strict=True)]
    print("\n".join(lines))
    if taken.classes:
        print()
        _table(taken, top)


def headline(taken: Census) -> str:
    """Say the folder in a line: pictures, bytes, labels."""
    known = taken.dataset
    labels = {"folder": "class folders", "none": "no labels"}.get(known.kind, f"{known.kind} labels")
    size = megabytes(sum(row.bytes for row in taken.rows))
    return f"{printable(known.root.resolve().name)}    {counted(len(taken.rows), 'picture')}; {size}; {labels}"


def facts(taken: Census) -> list[tuple[str, str]]:
    """Give everything but the classes, as pairs of a name and a text."""
    rows, document = taken.readable, taken.to_dict()
    pictures, lines = document["pictures"], []
    if taken.dataset.splits:
        lines.append(("splits", ", ".join(f"{'none' if k == '-' else k} {v:,}" for k, v in pictures["splits"].items())))
    if rows:
        lines += [(side, _spread(pictures[side], " pixels")) for side in ("width", "height")]
        lines.append(("format", "; ".join(_shares(pictures[name], unit) for name, unit in _KINDS)))
        lines += _colors(taken)
    if objects := document["objects"]["total"]:
        lines += _objects(document["objects"], objects, len(rows))
    lines += _wrong(taken)
    return lines


_KINDS = (("formats", ""), ("channels", ""), ("depths", " bits"))


def _spread(values: Mapping[str, int], unit: str) -> str:
    if values["min"] == values["max"]:
        return f"{values['min']:,}{unit}"
    return f"{values['min']:,} to {values['max']:,}{unit}, median {values['median']:,}"


def _shares(counts: Mapping[str, int], unit: str) -> str:
    if len(counts) == 1:
        return f"{next(iter(counts))}{unit}"
    return ", ".join(f"{count:,} {name}{unit}" for name, count in counts.items())


def _colors(taken: Census) -> list[tuple[str, str]]:
    found = taken.colors()
    lines = []
    for name, colors in found.items():
        of = f" of {counted(colors.pictures, 'picture')} in {name}" if len(found) > 1 else f" ({name}, of 0 to 1)"
        numbers = (("mean", colors.mean), ("std", colors.std))
        lines += [(word, ",".join(f"{value:.3f}" for value in values) + of) for word, values in numbers]
    return lines


def _objects(counts: Mapping[str, Any], total: int, pictures: int) -> list[tuple[str, str]]:
    each = _spread(counts["per_picture"], " each")
    held = f"{total:,} in {counts['pictures']:,} of {counted(pictures, 'picture')}; {each}"
    sizes = counts["sizes"]
    said = ", ".join(f"{100 * count / total:.0f} % {name}" for name, count in sizes.items())
    return [("objects", held), ("boxes", f"{said} (below 32x32 pixels, below 96x96, and above)")]


def _wrong(taken: Census) -> list[tuple[str, str]]:
    """Say what is wrong, or that nothing is."""
    keys = [row.key for row in taken.rows]
    unreadable = [f"{row.key} ({row.reason})" for row in taken.unreadable]
    groups = [f"{' = '.join(keys[member] for member in group[:NAMED])}" for group in taken.groups]
    leaked = [f"{keys[pair.second]} = {keys[pair.first]}, {pair.how}" for pair in taken.leaks]
    mended = [str(note) for note in taken.mended]
    total = sum(note.count for note in taken.mended)
    lines = [
        ("unreadable", counted(len(unreadable), "picture"), unreadable),
        ("mended", f"{counted(total, 'label')} mended or left out", mended),
        ("copies", f"{counted(len(groups), 'picture')} more than once", groups),
        ("leaks", f"{counted(len(leaked), 'picture')} also in another split", leaked),
    ]
    return [
        (name, f"{said}: {'; '.join(found[:NAMED])}{_more(len(found) - NAMED)}" if found else "none")
        for name, said, found in lines
        if found or name != "leaks" or len(taken.held) > 1
    ]


def _more(rest: int) -> str:
    return f"; and {rest:,} more{'' if rest > census.LISTED else ', which --json names'}" if rest > 0 else ""


def _table(taken: Census, top: int) -> None:
    from rich.console import Console as Rich
    from rich.table import Table
    from rich.text import Text

    rich = Rich(width=None if Rich().is_terminal else WIDTH, highlight=False)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(Text("class"), overflow="fold")
    headings = [*taken.held, *([] if len(taken.held) == 1 else ["all"])]
    measure = [taken.measure] if taken.measure else []
    for heading in ["pictures" if heading == "-" else heading for heading in headings] + measure:
        table.add_column(Text(heading), justify="right")
    for tally in taken.classes[:top]:
        table.add_row(*(Text(cell) for cell in _cells(tally, headings, measure)))
    with rich.capture() as drawing:
        rich.print(table)
    print("\n".join(line.rstrip() for line in drawing.get().splitlines()))
    if closing := _closing(taken, top):
        print(closing)


def _cells(tally: Tally, headings: Sequence[str], measure: Sequence[str]) -> list[str]:
    name = printable(tally.name).replace("\n", " ")
    counts = [tally.total if heading == "all" else tally.pictures.get(heading, 0) for heading in headings]
    amount = [sum(tally.amounts.values())] if measure else []
    short = name if len(name) <= LONGEST_NAME else f"...{name[3 - LONGEST_NAME :]}"
    return [short, *(f"{count:,}" if count else "-" for count in [*counts, *amount])]


def _closing(taken: Census, top: int) -> str:
    used = [tally.total for tally in taken.classes if tally.total]
    said = [f"{len(used):,} of {len(taken.classes):,} classes have pictures" if len(used) < len(taken.classes) else ""]
    if taken.imbalance == 1:
        said.append(f"{'each of them' if len(used) < len(taken.classes) else 'every class'} has the same number")
    elif taken.imbalance is not None:
        said.append(f"the largest has {taken.imbalance:,.3g} times the pictures of the smallest")
    rest = len(taken.classes) - top
    said.append(f"and {rest:,} more; --top {len(taken.classes)} shows all" if rest > 0 else "")
    return "; ".join(part for part in said if part)
