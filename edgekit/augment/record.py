"""What is replayed: an output of edgekit, rows of its manifest, and the sources that they were made of."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit import files
from edgekit.augment import run as line
from edgekit.augment.labels import USUAL, Rules
from edgekit.augment.plan import AUTO, Plan
from edgekit.augment.text.run import SCHEMA as TEXTS
from edgekit.augment.variants import Recipe
from edgekit.data import dataset, manifest
from edgekit.data.folder import ALL, INSIDE, scan
from edgekit.errors import EdgekitError
from edgekit.words import counted

SCHEMA = "edgekit.replay/1"  # of what a replay writes
Place = tuple[int, int]  # the number of a line, from 1, and where it begins in the file
Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Record:
    """What is replayed: an output of edgekit, and rows of its manifest.

    lines: by source, in the order of the manifest. needed: every picture that the rows name, and a row that does.
    whole: these are all rows there are.
    """

    folder: Path
    stamp: Mapping[str, Any]
    lines: Mapping[str, tuple[Place, ...]]
    needed: Mapping[str, int]
    whole: bool

    @property
    def path(self) -> Path:
        """The manifest."""
        return self.folder / manifest.MANIFEST

    @property
    def count(self) -> int:
        """How many rows."""
        return sum(map(len, self.lines.values()))

    def rows(self, key: str) -> Iterator[tuple[int, Row]]:
        """Read the rows of a source, each with the number of its line."""
        with self.path.open("rb") as file:
            for number, offset in self.lines[key]:
                file.seek(offset)
                yield number, manifest.parsed(file.readline(), f"{self.path}:{number}")


def find(text: str) -> Record:
    """Find what `MANIFEST[:ROWS]` means: a manifest or its folder; then lines (`17`, `3-10,12`), or an output's name.

    Raises EdgekitError when there is no such manifest or row, when one of the rows is damaged, and when the folder has
    no stamp.
    """
    cuts = [len(text), *(place for place in range(len(text) - 1, 0, -1) if text[place] == ":")]
    for cut in cuts:
        path = _manifest(Path(text[:cut]))
        if path is not None:
            return _select(path, text[cut + 1 :])
    raise EdgekitError(
        f"{text}: no such manifest", f"give the {manifest.MANIFEST} of an output of edgekit augment, or its folder"
    )


def _manifest(path: Path) -> Path | None:
    with suppress(OSError, ValueError):  # a list of rows can be too long for a name
        path = path / manifest.MANIFEST if path.is_dir() else path
        return path if path.is_file() else None
    return None


def _select(path: Path, wanted: str) -> Record:
    stamp = read_stamp(path.parent)
    chosen = _numbers(path, wanted) if re.fullmatch(r"[\d,-]*", wanted) else None
    lines: dict[str, list[Place]] = {}
    needed: dict[str, int] = {}
    number = offset = 0
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            if chosen is None or not chosen or any(number in one for one in chosen):
                row = _row(path, number, text, whole=chosen is not None)
                if row is not None and (chosen is not None or row["file_name"] == wanted):
                    lines.setdefault(row["source"], []).append((number, offset))
                    for key in needs(row):
                        needed.setdefault(key, number)
            offset += len(text)
    beyond = [one[-1] for one in chosen or () if one[-1] > number]
    if beyond:
        raise EdgekitError(
            f"{path}: has {counted(number, 'row')}, and no row {beyond[0]}", "rows are counted from 1, as grep -n does"
        )
    if not lines:
        what = f"names no output {wanted}" if wanted else "has no rows"
        raise EdgekitError(f"{path}: {what}", "give an output as the rows' file_name has it, or a row's number")
    places = {key: tuple(found) for key, found in lines.items()}
    return Record(path.parent, stamp, places, needed, sum(map(len, places.values())) == number)


def _numbers(path: Path, wanted: str) -> list[range]:
    """Read `3-10,12`; nothing means all rows."""
    chosen = []
    for part in wanted.split(",") if wanted else ():
        ends = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        first, last = (int(ends[1]), int(ends[2] or ends[1])) if ends else (0, 0)
        if not 1 <= first <= last:
            what = f"{part} is no row" if part else "a comma with no row beside it"
            raise EdgekitError(f"{path}:{wanted}: {what}", "write :17, :3-10 or :3-10,17")
        chosen.append(range(first, last + 1))
    return chosen


def _row(path: Path, number: int, text: bytes, *, whole: bool) -> Row | None:
    """Read a row; when one is looked for by its name, others may be damaged."""
    try:
        return manifest.parsed(text, f"{path}:{number}")
    except EdgekitError:
        if whole:
            raise
        return None


def needs(row: Row) -> tuple[str, ...]:
    """Name the pictures that a row was made of: its source and those mixed in."""
    return (row["source"], *(key for op in row["ops"] for key in op.get("partners", ())))


def read_stamp(folder: Path) -> dict[str, Any]:
    """Read the stamp of an output; raises EdgekitError when it is missing, damaged or of an edgekit to come."""
    path = folder / files.STAMP
    try:
        stamp = json.loads(path.read_bytes())
        schema, labels = stamp["schema"], stamp.get("labels")
        if labels is not None and not {labels["from"], labels["to"]} <= set(dataset.KINDS):
            raise ValueError
    except FileNotFoundError:
        raise EdgekitError(
            f"{path}: is missing, and it has the recipe", "keep the folder as edgekit augment wrote it"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise EdgekitError(f"{path}: is damaged", manifest.DAMAGED) from None
    if schema == TEXTS:
        raise EdgekitError(f"{folder}: is of a text file, whose rows are not replayed", "run the same augment again")
    if schema not in (line.SCHEMA, SCHEMA):
        raise EdgekitError(f"{path}: is of the form {schema}, which this edgekit does not know", "use the one it names")
    return dict(stamp)


def recipe_of(record: Record) -> Recipe:
    """Give what the stamp says of how pictures and labels are written; the ops stand in the rows."""
    try:
        said = record.stamp["recipe"]
        known = said.get("labels")
        rules = USUAL if known is None else Rules(**known | {"flip_index": tuple(known["flip_index"])})
        return Recipe((), quality=said["quality"], max_pixels=int(said["max_pixels"]), rules=rules)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise EdgekitError(f"{record.folder / files.STAMP}: is damaged", manifest.DAMAGED) from None


def default_source(record: Record) -> Path:
    """Find the folder that an output was made from: `imgs` of `imgs-augmented`; raises EdgekitError when not there."""
    folder = record.folder.resolve()
    source = folder.with_name(folder.name.removesuffix(line.AUGMENTED).removesuffix(line.CORRUPTED))
    if source != folder and source.is_dir():
        return record.folder.with_name(source.name) if record.folder.name == folder.name else source
    raise EdgekitError(
        f"{record.folder}: does not say which folder it was made from", "give that: edgekit augment SRC --replay ..."
    )


def plan_of(record: Record, root: Path) -> Plan:
    """List and read the sources as the run did; raises EdgekitError when one that the rows name is not there."""
    for links in (ALL,) if record.stamp.get("links") == ALL else (INSIDE, ALL):
        listing = scan(root, links)
        labels = record.stamp.get("labels")
        if labels is None:
            plan = Plan(listing)
        else:
            frame = labels.get("frame", AUTO)
            plan = Plan(listing, dataset.read(listing, labels["from"], frame), labels["to"], frame)
        there = {source.key for source in plan.sources}
        missing = [(key, row) for key, row in record.needed.items() if key not in there]
        if not missing:
            return plan
    key, row = missing[0]
    more = f" (nor are {counted(len(missing) - 1, 'other')})" if missing[1:] else ""
    raise EdgekitError(
        f"{key}: is named by {record.path}:{row} and is not in {root}{more}", "give the SRC that the output is made of"
    )


def check_out(record: Record, root: Path, out: Path) -> None:
    """Raise EdgekitError when `out` and the source or the output lie in each other, or it cannot be made."""
    line.check_out(root, out)
    here, there = out.resolve(), record.folder.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise EdgekitError(f"{out}: and {record.folder} lie in each other", "choose another --out")
