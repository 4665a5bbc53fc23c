"""CSV as it is found: delimiter, quotes and their escapes told from the beginning, records with the lines they have."""

from __future__ import annotations

import csv
import io
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError

SAMPLE = 200  # records by which the form is told
LONGEST = 16 << 20  # characters of a field
END = "\r\n"  # while a record is written: what is in it is quoted
Style = dict[str, Any]
STYLES: tuple[Style, ...] = (  # the first that fits best; RFC 4180 comes first
    {"quotechar": '"', "doublequote": True},
    {"quotechar": '"', "doublequote": True, "skipinitialspace": True},
    {"quotechar": '"', "doublequote": False, "escapechar": "\\"},
    {"quotechar": "'", "doublequote": True},
)
LITERAL: Style = {"quotechar": None, "quoting": csv.QUOTE_NONE, "delimiter": "\t"}  # quotes are text, as in many .tsv


@dataclass(frozen=True)
class Record:
    """One record: its fields (none for a blank line), its first line from 1, it as it stands, and its last line's end.

    end: empty when the file ends without one.
    """

    fields: Sequence[str]
    line: int
    raw: str
    end: str


@dataclass(frozen=True)
class Form:
    """How a file is written: what `csv.reader` is told, whether all fields are quoted, the first record, a header."""

    style: Style
    quoting: int
    first: Record
    header: bool = True

    def without_header(self) -> Form:
        """Take the first record as one like the others."""
        return replace(self, header=False)

    def write(self, fields: Sequence[str]) -> str:
        """Write a record, without the end of its line; raises ValueError when this form cannot hold it."""
        line = io.StringIO()
        style = {key: value for key, value in self.style.items() if key != "skipinitialspace"}
        try:
            csv.writer(line, **style | {"quoting": self.quoting, "lineterminator": END}).writerow(fields)
        except csv.Error as error:
            raise ValueError(str(error)) from error
        return line.getvalue().removesuffix(END)


@dataclass(frozen=True)
class Remake:
    """Writes a record with another text in one of its fields; raises ValueError when its form cannot hold that."""

    form: Form
    fields: Sequence[str]
    place: int

    def __call__(self, text: str) -> str:
        """Write it."""
        return self.form.write([*self.fields[: self.place], text, *self.fields[self.place + 1 :]])


def records(lines: Iterable[str], form: Form, path: Path) -> Iterator[Record]:
    """Read records, each with its own lines; raises EdgekitError when a quote is never closed."""
    last = None
    for last in _read(lines, form.style, path):
        yield last
    if last is not None and not _is_closed(last, form.style):
        raise EdgekitError(f"{path}:{last.line}: a quote is opened here and never closed", "close it, or double it")


def _read(lines: Iterable[str], style: Style, path: Path) -> Iterator[Record]:
    taken: list[str] = []

    def feed() -> Iterator[str]:
        for line in lines:
            taken.append(line)
            yield line

    csv.field_size_limit(LONGEST)
    reader = csv.reader(feed(), **style)
    number = 1
    try:
        for fields in reader:
            whole = "".join(taken)
            raw = whole.rstrip("\r\n")
            yield Record(fields, number, raw, whole[len(raw) :])
            number += len(taken)
            taken.clear()
    except csv.Error as error:
        raise EdgekitError(f"{path}:{number}: is not CSV: {error}", "look for a quote that is not closed") from None


def _is_closed(record: Record, style: Style) -> bool:
    try:
        list(csv.reader(io.StringIO(record.raw, newline=""), **style, strict=True))
    except csv.Error as error:
        return "unexpected end of data" not in str(error)
    return True


def sniff(start: str, path: Path, wanted: str, *, whole: bool) -> Form:
    """Tell the form of a file by its beginning; of those that fit alike, one whose first record has the `wanted` field.

    whole: the beginning is all there is, so that its last record is not cut off. Raises EdgekitError when it cannot be
    read as CSV.
    """
    delimiters = "\t,;|" if path.suffix.lower() == ".tsv" else ",;\t|"
    styles = [style | {"delimiter": delimiter} for style in STYLES for delimiter in delimiters]
    read = [(style, _sample(start, style, path, whole)) for style in [*styles, LITERAL]]
    found = [(style, sample) for style, sample in read if sample]
    if not found:
        raise EdgekitError(f"{path}: is not CSV", "give a file with a record a line")
    style, sample = max(found, key=lambda one: _fit(one[1], wanted))
    literal = found[-1][1] if found[-1][0] == LITERAL else []
    if len(literal) > len(sample) and _fit(literal, wanted) >= _fit(sample, wanted):  # a quote would swallow lines
        style, sample = LITERAL, literal
    quoting = csv.QUOTE_NONE
    if style.get("quoting") != csv.QUOTE_NONE:
        forms = [Form(style, quoting, sample[0]) for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)]
        quoting = max(forms, key=lambda form: sum(_same(form, record) for record in sample)).quoting
    return Form(style, quoting, sample[0])


def _sample(start: str, style: Style, path: Path, whole: bool) -> list[Record]:
    try:
        found = list(itertools.islice(_read(io.StringIO(start, newline=""), style, path), SAMPLE + 1))
    except EdgekitError:
        return []
    complete = whole and len(found) <= SAMPLE and _is_closed(found[-1], style) if found else False
    found = found[:1] + (found[1:] if complete else found[1:-1])
    return [record for record in found if record.fields]


def _fit(sample: Sequence[Record], wanted: str) -> tuple[bool, bool, float]:
    """Say how well a form fits: the column is there, there are several, and all records have as many."""
    columns = Counter(len(record.fields) for record in sample)
    header = len(sample[0].fields)
    return wanted in sample[0].fields, header > 1, columns[header] / len(sample)


def _same(form: Form, record: Record) -> bool:
    try:
        return form.write(record.fields) == record.raw
    except ValueError:
        return False
