"""Groups: which pictures belong together (a patient, a video, a place), so that no two splits share one."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from edgekit.errors import EdgekitError
from edgekit.spec import nearest

FOLDER = "folder"
_FILE = re.compile(r"(.*\.(?:csv|tsv)):(.+)", re.DOTALL | re.IGNORECASE)
_KEYS = ("file_name", "filename", "file", "key", "path", "image", "name", "image_id", "id")  # the wanted first
FORMS = "give folder, a regular expression with one (group), or FILE.csv:COLUMN"


def groups_of(rule: str, keys: Sequence[str], root: Path) -> list[str | None]:
    """Give the group of each picture by its key; None for one that is in no group.

    rule: `folder` (the one that a picture is in), a regular expression that is searched for in the key and whose first
    group names the picture's, or `FILE.csv:COLUMN` (as typed, or in `root`). Raises EdgekitError when it is none of
    these, or when no picture is in a group.
    """
    table = _FILE.fullmatch(rule)
    if rule == FOLDER:
        found: list[str | None] = [key.rpartition("/")[0] or "." for key in keys]
    elif table is not None:
        found = _of_table(Path(table[1]), table[2], keys, root)
    else:
        found = _of_pattern(rule, keys)
    if not any(one is not None for one in found):
        raise EdgekitError(f"group-by={rule}: puts no picture in a group, {keys[0]} for one", FORMS)
    return found


def joined(count: int, links: Iterable[tuple[int, int]]) -> list[int]:
    """Join the numbers 0..count-1 by links; give each the smallest one that it is joined with."""
    above = list(range(count))

    def top(place: int) -> int:
        while above[place] != place:
            above[place] = above[above[place]]
            place = above[place]
        return place

    for one, other in links:
        low, high = sorted((top(one), top(other)))
        above[high] = low
    return [top(place) for place in range(count)]


def together(groups: Sequence[str | None]) -> Iterator[tuple[int, int]]:
    """Give links between the pictures of each group, from its first one to every other."""
    first: dict[str, int] = {}
    for place, group in enumerate(groups):
        if group is not None:
            start = first.setdefault(group, place)
            if start != place:
                yield start, place


def _of_pattern(rule: str, keys: Sequence[str]) -> list[str | None]:
    if rule.lower().endswith((".csv", ".tsv")):
        raise EdgekitError(f"group-by={rule}: a table without a column", f"write {rule}:COLUMN")
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise EdgekitError(f"group-by={rule}: is not a regular expression: {error}", FORMS) from None
    if not pattern.groups:
        near = nearest(rule, [FOLDER])
        raise EdgekitError(
            f"group-by={rule}: a regular expression without a (group)", f"did you mean {near}?" if near else FORMS
        )
    return [found[1] if (found := pattern.search(key)) is not None else None for key in keys]


def _of_table(path: Path, column: str, keys: Sequence[str], root: Path) -> list[str | None]:
    """Look keys up in a table: whole, or without the folders at their top, or without suffix too."""
    table = _read(path if path.exists() else root / path, path, column)

    def found(key: str) -> str | None:
        parts = key.split("/")
        for start in range(len(parts)):
            rest = "/".join(parts[start:])
            for name in (rest, rest.rpartition(".")[0]):
                if name in table:
                    return table[name]
        return None

    return [found(key) for key in keys]


def _read(path: Path, typed: Path, column: str) -> dict[str, str]:
    try:
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise EdgekitError(
            f"{typed}: cannot be read: {error.strerror}", "give a CSV file, as typed or in SRC"
        ) from None
    head = text.split("\n", 1)[0]
    try:
        rows = list(csv.reader(text.splitlines(), delimiter=max("\t;,", key=head.count)))
    except csv.Error as error:
        raise EdgekitError(f"{typed}: not a table: {error}", "mend it, or save it again as CSV") from None
    names = [name.strip() for name in rows[0]] if rows else []
    if not any(names):
        raise EdgekitError(f"{typed}: has no row of names at its top", f"give it one: file_name,{column}")
    if column not in names:
        near = nearest(column, names)
        raise EdgekitError(
            f"{typed}: has no column {column}", f"did you mean {near}?" if near else f"it has {', '.join(names)}"
        )
    small = [name.lower() for name in names]
    key = next(
        (small.index(name) for name in _KEYS if name in small and small.index(name) != names.index(column)), None
    )
    if key is None:
        raise EdgekitError(
            f"{typed}: no column says which picture a row is of", f"call it file_name; it has {', '.join(names)}"
        )
    return _table(rows[1:], key, names.index(column), typed)


def _table(rows: Iterable[list[str]], key: int, value: int, typed: Path) -> dict[str, str]:
    table: dict[str, str] = {}
    for row in rows:
        if len(row) <= max(key, value) or not row[value].strip():
            continue
        name, group = row[key].strip().replace("\\", "/").removeprefix("./"), row[value].strip()
        if table.setdefault(name, group) != group:
            raise EdgekitError(f"{typed}: {name} is in two groups, {table[name]} and {group}", "leave one row out")
    return table
