"""The straight line of `edgekit augment` for a text file: row -> its variants behind it -> manifest."""

from __future__ import annotations

import functools
import json
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgekit import __version__, files
from edgekit.augment import run as pictures
from edgekit.augment.draws import generator
from edgekit.augment.text.op import TextOp
from edgekit.augment.text.rows import Row, TextFile, is_train, not_utf8
from edgekit.augment.variants import REDRAWS
from edgekit.data import manifest
from edgekit.errors import EdgekitError
from edgekit.lazy import np

SCHEMA = "edgekit.augment-text/1"
EVERY = 256  # rows, after which progress is told
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Recipe:
    """What is done to every text: the ops in order, how many variants, the seed, and whether originals stay."""

    ops: tuple[TextOp, ...]
    copies: int = 4
    seed: int = 0
    originals: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Give the plain values, for the stamp of a run."""
        return asdict(self) | {"ops": [op.to_dict() for op in self.ops]}


@dataclass(frozen=True)
class Variant:
    """One finished variant of a text, and what was done, as the manifest has it."""

    number: int
    text: str
    ops: tuple[dict[str, Any], ...] = ()


@dataclass
class Counts:
    """What went in and what came out; passed: rows of other splits; empty: rows without a text."""

    sources: int = 0
    rejected: int = 0
    originals: int = 0
    variants: int = 0
    left_out: int = 0
    passed: int = 0
    empty: int = 0
    bytes: int = 0


@dataclass
class Tally:
    """The running count of a run."""

    counts: Counts = field(default_factory=Counts)
    classes: dict[str, int] = field(default_factory=dict)
    first_rejected: str = ""
    seen: int = 0  # bytes of the source


@dataclass(frozen=True)
class Result:
    """The answer of `edgekit augment` for a text file; numbers and names only."""

    source: TextFile
    out: Path
    recipe: Recipe
    tally: Tally
    seconds: float
    status: str  # written, up to date, dry run
    strict: bool = False
    share: float = 1.0  # of the file that a dry run has seen

    @property
    def exit_code(self) -> int:
        """0, or 1 when --strict met rows that could not be used."""
        return 1 if self.strict and self.tally.counts.rejected else 0

    def to_dict(self) -> dict[str, Any]:
        """Give the versioned document that --json prints."""
        return {
            "schema": SCHEMA,
            "generator": files.MADE_BY,
            "status": self.status,
            "source": str(self.source.path),
            "out": str(self.out),
            "recipe": self.recipe.to_dict(),
            "columns": asdict(self.source.columns),
            "counts": asdict(self.tally.counts),
            **({"share": round(self.share, 4)} if self.share < 1 else {}),
            "classes": self.tally.classes,
            "seconds": round(self.seconds, 3),
            "exit_code": self.exit_code,
        }


# ---- one text


def draw(recipe: Recipe, text: str, number: int, attempt: int = 0) -> tuple[Variant, bool]:
    """Draw and apply every op of the recipe once; tell whether another draw could give anything else.

    The generator is a function of the seed, the text and the number alone: rows that come, go or move change nothing.
    """
    rng = generator(recipe.seed, text, number, attempt)
    done, drawn = text, False
    rows: list[dict[str, Any]] = []
    for op in recipe.ops:
        if rng.random() >= op.p:
            continue
        params = op.sample(rng, done)
        done, drawn = op.change(done, params), drawn or bool(params)
        rows.append({**_named(op), "params": params})
    return Variant(number, done, tuple(rows)), drawn or any(0 < op.p < 1 for op in recipe.ops)


@functools.cache
def _named(op: TextOp) -> dict[str, Any]:
    values = op.to_dict()
    return {"name": values.pop("use"), "fields": values}


def variants(recipe: Recipe, text: str) -> Iterator[Variant | None]:
    """Make the variants 1..copies; None stands for one that stayed equal to its source or an earlier one."""
    seen = {text}
    for number in range(1, recipe.copies + 1):
        for attempt in range(REDRAWS):
            variant, random = draw(recipe, text, number, attempt)
            if variant.text not in seen:
                seen.add(variant.text)
                yield variant
                break
            if not random:
                yield from [None] * (recipe.copies + 1 - number)
                return
        else:
            yield None


# ---- all of them


def default_out(source: Path) -> Path:
    """Name the output that goes beside the source: `reviews.csv` -> `reviews-augmented`."""
    return source.with_name(f"{source.stem}{pictures.AUGMENTED}")


def check_out(source: Path, out: Path) -> None:
    """Raise EdgekitError when the output cannot be made there, or its file would be called as one of its records."""
    pictures.check_out(source, out)
    if source.name in (files.STAMP, *manifest.RECORDS):
        raise EdgekitError(
            f"{source}: is called as a record in the output is", f"rename it, to texts{source.suffix} for one"
        )


def check_space(source: Path, recipe: Recipe, out: Path) -> None:
    """Raise EdgekitError when about as many bytes as the source has, times the copies, do not fit on the disk."""
    needed, free = source.stat().st_size * (recipe.copies + recipe.originals), files.free_bytes(out.parent)
    if needed > free:
        raise EdgekitError(
            f"{out}: about {needed / 1e6:,.0f} MB are to be written and {free / 1e6:,.0f} MB are free",
            "free some space, use --out on another disk, or fewer --copies",
        )


def stamp(source: TextFile, recipe: Recipe, digest: str, tally: Tally) -> dict[str, Any]:
    """Make `run.json`: effective recipe, columns, versions, input digest and counts; no clock."""
    versions = {"edgekit": __version__, "numpy": np.__version__, "unicode": unicodedata.unidata_version}
    return {
        "schema": SCHEMA,
        "generator": files.MADE_BY,
        "recipe": recipe.to_dict(),
        "columns": asdict(source.columns),
        "versions": versions,
        "inputs": {"sha256": digest},
        "counts": asdict(tally.counts),
        "classes": tally.classes,
    }


def up_to_date(source: TextFile, out: Path, recipe: Recipe) -> Tally | None:
    """Read the counts of an identical finished run in `out`, judged by input, recipe, versions and its files."""
    try:
        old = json.loads((out / files.STAMP).read_bytes())
        new = json.loads(json.dumps(stamp(source, recipe, files.digest(source.path), Tally())))
        same = all(old[key] == new[key] for key in ("schema", "recipe", "columns", "versions", "inputs"))
        whole = same and manifest.is_sealed(old) and source.path.name in old["files"]
        if whole and all(files.digest(out / name) == digest for name, digest in old["files"].items()):
            return Tally(Counts(**old["counts"]), dict(old["classes"]))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # there is none, or it was damaged
        pass
    return None


def run(
    source: TextFile, out: Path, recipe: Recipe, *, strict: bool, force: bool, progress: Progress | None = None
) -> Result:
    """Write the expanded text file and its records to `out`, staged and renamed at the end; memory does not grow.

    Every row is followed by its variants. Raises EdgekitError when no row could be used, when the disk is full, when a
    quote is never closed, or when `out` cannot be written or, without `force`, exists.
    """
    started = time.monotonic()
    tally = Tally()
    name = source.path.name
    with files.staged_folder(out, lambda: pictures.refuse_existing(out, force=force)) as stage:
        digest = files.digest(source.path)
        with ExitStack() as until:
            texts = until.enter_context((stage / name).open("wb"))
            made = until.enter_context((stage / manifest.MANIFEST).open("w", encoding="ascii"))
            rejected = until.enter_context((stage / manifest.REJECTED).open("w", encoding="ascii"))
            texts.write(source.prefix.encode())
            for row, data, said in outputs(source, recipe, tally, progress):
                if said is not None and row.reason:
                    rejected.write(manifest.line(said))
                    continue
                texts.write(data)
                if said is not None:
                    made.write(manifest.line(said))
        _check(source, recipe, tally)
        if files.digest(source.path) != digest:
            raise EdgekitError(f"{source.path}: was changed while it was read", "run the same command again")
        values = stamp(source, recipe, digest, tally)
        files.write(stage / files.STAMP, manifest.document(manifest.sealed(values, stage, (name,))))
    return Result(source, out, recipe, tally, time.monotonic() - started, "written", strict)


def rehearse(source: TextFile, out: Path, recipe: Recipe, *, strict: bool, patience: float) -> Result:
    """Make everything, for so many seconds at most, and write nothing."""
    started = time.monotonic()
    tally = Tally()
    share = 1.0
    for _ in outputs(source, recipe, tally):
        if time.monotonic() - started > patience:
            share = min(1.0, tally.seen / source.path.stat().st_size)
            break
    else:
        _check(source, recipe, tally)
    return Result(source, out, recipe, tally, time.monotonic() - started, "dry run", strict, share)


def outputs(
    source: TextFile, recipe: Recipe, tally: Tally, progress: Progress | None = None
) -> Iterator[tuple[Row, bytes, dict[str, Any] | None]]:
    """Make every row of the output: the row it comes from, its bytes, and what the manifest says of it.

    That is None for rows without a text, and a row of the rejected for one that has a reason.
    """
    size = source.path.stat().st_size
    writer = _Writer(source.path.name, tally)
    for position, row in enumerate(source.rows(), 1):
        data = row.data + row.end.encode()
        tally.seen += len(data)
        yield from writer.row(row, data, recipe, augmented=is_train(row, source.columns))
        if progress is not None and position % EVERY == 0:
            progress(min(tally.seen, size), size)


class _Writer:
    """Makes the rows of the output, and counts them."""

    def __init__(self, name: str, tally: Tally) -> None:
        self._name, self._tally = name, tally
        self._number = 0  # of rows in the output

    def row(
        self, row: Row, data: bytes, recipe: Recipe, *, augmented: bool
    ) -> Iterator[tuple[Row, bytes, dict[str, Any] | None]]:
        """Give a row and its variants."""
        counts = self._tally.counts
        counts.sources += bool(row.raw.strip())
        if row.reason:
            counts.rejected += 1
            self._tally.first_rejected = self._tally.first_rejected or f"line {row.line}: {row.reason}"
            said = {"source": self._name, "row": row.number, "line": row.line}
            yield row, data, {**said, "source_sha256": files.sha256(row.data), "reason": row.reason}
            return
        if row.text is None:
            counts.empty += bool(row.raw.strip())
            if recipe.originals or not augmented:
                self._number += row.counted
                counts.bytes += len(data)
                yield row, data, None
            return
        counts.passed += not augmented
        digest = files.sha256(row.text.encode())
        if recipe.originals or not augmented:
            yield row, data, self._said(row, digest, Variant(0, row.text), data)
        for variant in variants(recipe, row.text) if augmented else ():
            try:
                made = None if variant is None else (row.remake(variant.text) + row.end).encode()
            except ValueError:  # its form cannot hold it: a mark that is the delimiter, where nothing is quoted
                made = None
            if variant is None or made is None:
                counts.left_out += 1
            else:
                yield row, made, self._said(row, digest, variant, made)

    def _said(self, row: Row, digest: str, variant: Variant, data: bytes) -> dict[str, Any]:
        tally = self._tally
        self._number += 1
        tally.counts.originals += variant.number == 0
        tally.counts.variants += variant.number != 0
        tally.counts.bytes += len(data)
        if row.label is not None:
            tally.classes[row.label] = tally.classes.get(row.label, 0) + 1
        return {
            "file_name": self._name,
            "row": self._number,
            "source": self._name,
            "source_row": row.number,
            "source_sha256": digest,
            "variant": variant.number,
            "label": row.label,
            **({} if row.split is None else {"split": row.split}),
            "sha256": files.sha256(variant.text.encode()),
            "ops": list(variant.ops),
            "warnings": [],
        }


def _check(source: TextFile, recipe: Recipe, tally: Tally) -> None:
    """Raise EdgekitError when nothing could be used, or nothing came out."""
    counts, path = tally.counts, source.path
    if counts.rejected and counts.rejected == counts.sources:
        if "UTF-8" in tally.first_rejected:
            raise not_utf8(path)
        raise EdgekitError(
            f"{path}: none of its rows can be used (first: {tally.first_rejected})",
            "give a file with at least one text",
        )
    if counts.empty == counts.sources - counts.rejected:
        raise EdgekitError(f"{path}: has no text in {source.columns.text or 'it'}", "give another --text-column")
    if recipe.copies and counts.passed == counts.sources - counts.rejected - counts.empty:
        raise EdgekitError(
            f"{path}: no row is of the split train, and only those are augmented",
            f"give a file of one split, or rename its column {source.columns.split}",
        )
    if not counts.originals + counts.variants:
        raise EdgekitError(
            f"{path}: nothing to write: every variant is equal to its source",
            "choose a stronger op or a higher p, or leave --no-originals out",
        )
