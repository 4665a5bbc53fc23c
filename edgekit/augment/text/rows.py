"""A text file as rows: CSV, JSON Lines or a text a line, read one row at a time; only the text of a row is replaced.

What a row has beside its text is kept to the byte where the format allows it: a row of JSON Lines is cut at its text,
one of CSV is written again as the file quotes its fields.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from edgekit.augment.text import table
from edgekit.data import splits
from edgekit.errors import EdgekitError
from edgekit.spec import nearest

SUFFIXES = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".txt": "txt"}
BOM, TEXT, LABEL, SPLIT = "\ufeff", "text", "label", "split"
PEEK = 64 << 10  # characters of a file by which its columns are told


@dataclass(frozen=True)
class Row:
    """One row: its number and its first line, both from 1, and it as it stands, without the end of its last line.

    text: None when it has none to change, because it is empty or for `reason`, which says why it cannot be used.
    counted: it is a row to whoever reads the file; blank lines of CSV are none.
    """

    number: int
    line: int
    raw: str
    end: str
    text: str | None = None
    label: str | None = None
    split: str | None = None
    reason: str = ""
    counted: bool = True
    remake: Callable[[str], str] = str

    @property
    def data(self) -> bytes:
        """The bytes it has in the file, without the end of its last line."""
        return self.raw.encode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class Columns:
    """What the columns of a file are, by name (of CSV without a header: by number); None for what it does not have."""

    names: tuple[str, ...] = ()
    text: str | None = None
    label: str | None = None
    split: str | None = None

    def place(self, name: str | None) -> int | None:
        """Give the position of a column."""
        return None if name is None else self.names.index(name)


@dataclass(frozen=True)
class TextFile:
    """An opened look at a text file: its kind, its columns, what stands before its rows, and how its lines end."""

    path: Path
    kind: str
    columns: Columns
    prefix: str
    end: str
    form: table.Form | None = None

    def rows(self) -> Iterator[Row]:
        """Read the rows; raises EdgekitError when the file cannot be read, or a quote in it is never closed."""
        try:
            with _open(self.path, self.kind) as file:
                file.read(len(BOM) if self.prefix.startswith(BOM) else 0)
                yield from self._csv(file) if self.form is not None else self._lines(file)
        except OSError as error:
            raise EdgekitError(f"{self.path}: cannot be read: {error.strerror}", "mend its permissions") from error

    def _lines(self, file: TextIO) -> Iterator[Row]:
        read = self._object if self.kind == "jsonl" else _line
        for number, whole in enumerate(file, 1):
            raw = whole.rstrip("\r\n")
            row = Row(number, number, raw, whole[len(raw) :] or self.end)
            yield _refused(row, "bytes that are not UTF-8") if _is_broken(raw) else read(row)

    def _object(self, row: Row) -> Row:
        if not row.raw.strip():
            return row
        try:
            fields = {name: (value, span) for name, value, span in _members(row.raw)}
        except (ValueError, RecursionError) as error:
            return _refused(row, f"not a JSON object: {error}")
        name = str(self.columns.text)
        if name not in fields:
            return _refused(row, f"has no {name}")
        text, (start, end) = fields[name]
        if not isinstance(text, str):
            return _refused(row, f"{name} is no text")
        if _is_broken(text):
            return _refused(row, f"{name} has half a surrogate pair")
        raw = row.raw

        def remake(new: str) -> str:
            return raw[:start] + json.dumps(new, ensure_ascii=raw.isascii()) + raw[end:]

        said = (fields.get(str(key), (None,))[0] for key in (self.columns.label, self.columns.split))
        label, split = (None if value is None else _plain(value) for value in said)
        return replace(row, text=_text(text), label=label, split=split, remake=remake)

    def _csv(self, file: TextIO) -> Iterator[Row]:
        assert self.form is not None
        form, columns = self.form, self.columns
        places = [columns.place(name) for name in (columns.text, columns.label, columns.split)]
        number, header = 0, form.header
        for record in table.records(file, form, self.path):
            if header:
                header = not record.fields
                continue
            number += bool(record.fields)
            row = Row(number, record.line, record.raw, record.end or self.end, counted=bool(record.fields))
            if not record.fields:
                yield row
            elif _is_broken(record.raw):
                yield _refused(row, "bytes that are not UTF-8")
            elif len(record.fields) != len(columns.names):
                yield _refused(row, f"has {len(record.fields)} fields, and the first row {len(columns.names)}")
            else:
                text, label, split = (None if place is None else record.fields[place] for place in places)
                remake = table.Remake(form, record.fields, places[0] or 0)
                yield replace(row, text=_text(text or ""), label=label or None, split=split, remake=remake)


def is_text(source: str) -> bool:
    """Tell whether SRC is a text file, by its name; a folder is none."""
    return Path(source).suffix.lower() in SUFFIXES and not Path(source).is_dir()


def look(path: Path, text: str | None = None, label: str | None = None) -> TextFile:
    """Tell the columns of a text file by its beginning.

    text, label: names of columns, or their numbers in a CSV file without a header; when not given, the column called
    text or the only one, and the one called label. Raises EdgekitError when there is no such file or column, when it is
    not UTF-8, and when it is not told which column is the text.
    """
    kind = SUFFIXES[path.suffix.lower()]
    for flag, name in (("text", text), ("label", label)):
        if name is not None and kind == "txt":
            raise EdgekitError(f"{path}: a text a line has no columns", f"leave --{flag}-column {name} out")
    if not path.is_file():
        what = "is not a file" if path.exists() else "no such file"
        raise EdgekitError(f"{path}: {what}", "give a folder of pictures, or a .csv, .tsv, .jsonl or .txt file")
    try:
        with _open(path, kind) as file:
            start = file.read(PEEK)
            if len(start) == PEEK:
                start += file.readline(PEEK)
    except OSError as error:
        raise EdgekitError(f"{path}: cannot be read: {error.strerror}", "mend its permissions") from error
    if start.encode("utf-8", "surrogateescape")[:2] in (b"\xff\xfe", b"\xfe\xff") or "\0" in start[:1000]:
        raise not_utf8(path, "UTF-16")
    bom = BOM if start.startswith(BOM) else ""
    start = start.removeprefix(BOM)
    if not start.strip():
        raise EdgekitError(f"{path}: is empty", "give a file with a text in it")
    end = next((end for end in ("\r\n", "\n", "\r") if end in start), "\n")
    if kind == "txt":
        return TextFile(path, kind, Columns(), bom, end)
    if kind == "jsonl":
        return TextFile(path, kind, _chosen(path, _keys(start), text, label), bom, end)
    form = table.sniff(start, path, text or TEXT, whole=len(start) < PEEK)
    first = form.first
    if text is not None and text.isdecimal() and text not in first.fields:
        form = form.without_header()
        names: Sequence[str] = [str(place) for place in range(1, len(first.fields) + 1)]
    else:
        names = first.fields
        if _is_broken(first.raw):
            raise not_utf8(path)
    columns = _chosen(path, names, text, label)
    return TextFile(path, kind, columns, bom + (first.raw + first.end if form.header else ""), end, form)


def not_utf8(path: Path, encoding: str = "LATIN1") -> EdgekitError:
    """Say that a file is not UTF-8, and how it becomes so."""
    other = f"{path.stem}.utf8{path.suffix}"
    return EdgekitError(
        f"{path}: is not UTF-8" + (f" but {encoding}" if encoding == "UTF-16" else ""),
        f"turn it into UTF-8 first: iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > {shlex.quote(other)}",
    )


def _open(path: Path, kind: str) -> TextIO:
    # Only "\n" ends a row of JSON; "\r" alone is an old end of a line elsewhere. None of them is translated.
    newline = "\n" if kind == "jsonl" else ""
    return path.open(encoding="utf-8", errors="surrogateescape", newline=newline)


def _line(row: Row) -> Row:
    return replace(row, text=_text(row.raw))


def _text(said: str) -> str | None:
    return said if said.strip() else None


def _refused(row: Row, reason: str) -> Row:
    return replace(row, reason=reason)


def _is_broken(text: str) -> bool:
    """Tell whether a text has halves of surrogate pairs, which stand for bytes that are not UTF-8, too."""
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


_DECODER = json.JSONDecoder()
_SPACE = " \t\r\n"


def _members(text: str) -> Iterator[tuple[str, object, tuple[int, int]]]:
    """Give the members of a JSON object, and from where to where each value stands; raises ValueError for any other."""

    def after(place: int) -> int:
        while place < len(text) and text[place] in _SPACE:
            place += 1
        return place

    def expect(place: int, marks: str) -> str:
        if text[place : place + 1] not in tuple(marks):
            raise ValueError(f"expected {' or '.join(marks)} at character {place + 1}")
        return text[place]

    place = after(0)
    expect(place, "{")
    place = after(place + 1)
    while text[place : place + 1] != "}":
        expect(place, '"')
        name, place = _DECODER.raw_decode(text, place)
        place = after(place)
        expect(place, ":")
        start = after(place + 1)
        value, place = _DECODER.raw_decode(text, start)
        yield name, value, (start, place)
        place = after(place)
        if expect(place, ",}") == ",":
            place = after(place + 1)
            expect(place, '"')
    if after(place + 1) != len(text):
        raise ValueError(f"more after its end, at character {place + 2}")


def _keys(start: str) -> list[str]:
    """Give the names of the members of all objects that can be read, in the order in which they come."""
    names: dict[str, None] = {}
    for line in start.split("\n"):
        with suppress(ValueError, RecursionError):
            names |= dict.fromkeys(name for name, _, _ in _members(line))
    return list(names)


def _chosen(path: Path, names: Sequence[str], text: str | None, label: str | None) -> Columns:
    """Find the columns that were asked for, and those that are called as such usually are."""
    named = tuple(names)
    if not named:
        raise EdgekitError(f"{path}: has no JSON object in its first lines", 'write one a line: {"text": "..."}')
    for flag, wanted in (("text", text), ("label", label)):
        if wanted is not None and wanted not in named:
            near = nearest(wanted, named)
            hint = f"did you mean --{flag}-column {near}?" if near else f"it has {', '.join(named)}"
            raise EdgekitError(f"{path}: no such column: {wanted}", hint)
    if text is None:
        text = TEXT if TEXT in named else named[0] if len(named) == 1 else None
    if text is None:
        raise EdgekitError(
            f"{path}: it is not told which column is the text: {', '.join(named)}", "name it: --text-column COLUMN"
        )
    label = label if label is not None else LABEL if LABEL in named and text != LABEL else None
    return Columns(named, text, label, SPLIT if SPLIT in named and SPLIT not in (text, label) else None)


def is_train(row: Row, columns: Columns) -> bool:
    """Tell whether variants of a row are made: of a file with a column split, only of train."""
    return columns.split is None or splits.of_word(row.split or "") == splits.TRAIN
