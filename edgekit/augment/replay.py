"""Replay: outputs made again from the rows of a manifest alone, and compared with what the rows say, bit for bit.

Nothing is drawn: a row has the parameters of every op and names the pictures that took part, and the stamp beside the
manifest has the rest of the recipe.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from edgekit import files
from edgekit.augment import pool
from edgekit.augment import run as line
from edgekit.augment.chain import Step, perform
from edgekit.augment.corrupt import corruption
from edgekit.augment.op import OPS
from edgekit.augment.plan import Labels, Plan
from edgekit.augment.record import SCHEMA, Record, Row, needs
from edgekit.augment.tally import Counts
from edgekit.augment.variants import Decoded, Output, Recipe
from edgekit.data import images, manifest
from edgekit.data.folder import Source, read
from edgekit.errors import EdgekitError
from edgekit.lazy import cv2, np

# What damaged parameters run into; anything else is a bug.
FAILURES = (EdgekitError, OSError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError)


@dataclass(frozen=True)
class Rebuilt:
    """One row made again; what: how it differs, empty when it does not; mean, most: the difference in its pixels."""

    number: int
    name: str
    row: Row = field(default_factory=dict)
    entry: Row | None = None
    bytes: int = 0
    what: str = ""
    mean: float | None = None
    most: int | None = None
    needs: tuple[str, ...] = ()  # of one that differs: what it was made from
    why: tuple[str, ...] = ()
    altered: bool = False  # a file of the output is not what its row says

    def to_dict(self) -> dict[str, Any]:
        """Give the plain values of one that differs."""
        found = {"row": self.number, "file_name": self.name, "what": self.what}
        return found | {"mean": self.mean, "most": self.most, "why": list(self.why)}


@dataclass(frozen=True, eq=False)
class Task:
    """What a worker must know to replay the rows of any source; stage: where to write, None for nowhere."""

    record: Record
    plan: Plan
    recipe: Recipe
    stage: Path | None

    @cached_property
    def sources(self) -> Mapping[str, Source]:
        """All pictures, by key."""
        return {source.key: source for source in self.plan.sources}

    def process(self, source: Source) -> list[Rebuilt]:
        """Make the rows of a source again."""
        rows = list(self.record.rows(source.key))
        try:
            data = read(source, self.recipe.max_bytes)
            labels = self.plan.labels(source, data)
            if labels is not None:
                labels = _as_in(rows[0][1], labels)
            decoded = Decoded.read(self.recipe, source.key, source.label, data, labels)
        except (EdgekitError, OSError) as error:
            return [_failed(number, row, f"{source.key}: {_said(error)}") for number, row in rows]
        return [self._rebuild(number, row, decoded) for number, row in rows]

    def _rebuild(self, number: int, row: Row, decoded: Decoded) -> Rebuilt:
        try:
            output = self._output(row, decoded)
        except (*FAILURES, cv2.error) as error:
            return _failed(number, row, _said(error))
        self._write(output)
        made = {**row, "sha256": output.row["sha256"]}
        if "label_files" in output.row:
            made["label_files"] = output.row["label_files"]
        altered = self._is_altered(row)
        same = Rebuilt(number, row["file_name"], made, output.entry, output.bytes, altered=altered)
        said, mean, most = self._compare(row, output)
        return replace(same, what=said, mean=mean, most=most, needs=needs(row)) if said else same

    def _is_altered(self, row: Row) -> bool:
        """Tell whether a file of the output that is there is not what its row says."""
        for name, digest in manifest.outputs(row):
            with suppress(OSError):
                if files.digest(self.record.folder / name) != digest:
                    return True
        return False

    def _output(self, row: Row, decoded: Decoded) -> Output:
        if row["variant"] == 0:
            return decoded.original(row["file_name"])
        steps = [self._step(op) for op in row["ops"]]
        variant = perform(steps, decoded.source, row["variant"], self.recipe.rules)
        return decoded.output(self.recipe, variant, lambda suffix: str(row["file_name"]))

    def _step(self, said: Mapping[str, Any]) -> Step:
        made = corruption if said["name"] == corruption.spec_name() else OPS.get(said["name"])
        op = made.from_dict(said["fields"])
        partners = []
        for key in said.get("partners", ()):
            try:
                partners.append(self.plan.load(self.sources[key], self.recipe))
            except (EdgekitError, OSError) as error:
                raise EdgekitError(f"{key}: {_said(error)}") from error
        return Step(op, said["params"], partners)

    def _compare(self, row: Row, output: Output) -> tuple[str, float | None, int | None]:
        """Say how an output differs from its row; nothing when it does not."""
        expected = dict(manifest.outputs(row))
        made = dict(manifest.outputs(output.row))
        said, mean, most = [], None, None
        if made[output.name] != row["sha256"]:
            how, mean, most = _apart(self.record.folder / output.name, row["sha256"], output.data, self.recipe)
            said.append(how)
        for name in sorted((expected.keys() | made.keys()) - {output.name}):
            if expected.get(name) != made.get(name):
                how = "differs" if name in expected and name in made else "is new" if name in made else "is gone"
                said.append(f"{name} {how}")
        return "; ".join(said), mean, most

    def _write(self, output: Output) -> None:
        if self.stage is None:
            return
        for name, data in ((output.name, output.data), *output.labels):
            target = self.stage / name
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
            except OSError as error:
                files.write_failed(target, error)

    def forget(self, source: Source) -> None:
        """Leave what was written: it is written again, and all of it goes when the run fails."""

    def died(self, source: Source) -> list[Rebuilt]:
        """Give up the rows of a source that kills every process."""
        return [_failed(number, row, "its process died") for number, row in self.record.rows(source.key)]


def _as_in(row: Mapping[str, Any], labels: Labels) -> Labels:
    """Put a picture into the split and the group that its row has, however they came about."""
    return replace(labels, entry=replace(labels.entry, split=row.get("split"), group=row.get("group")))


def _failed(number: int, row: Row, why: str) -> Rebuilt:
    return Rebuilt(number, row["file_name"], what=f"cannot be made: {why}", needs=needs(row))


def _said(error: BaseException) -> str:
    if isinstance(error, EdgekitError):
        return error.message
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror}"
    return f"{type(error).__name__}: {error}".split("\n", 1)[0]


def _apart(path: Path, sha256: str, data: bytes, recipe: Recipe) -> tuple[str, float | None, int | None]:
    """Compare the pixels of a file that is as its row says with those made now."""
    try:
        before = path.read_bytes()
        if files.sha256(before) != sha256:
            return "differs; the file to compare it with was changed", None, None
        one, other = (images.decode(content, recipe.max_pixels).pixels for content in (before, data))
    except (EdgekitError, OSError):
        return "differs; the file to compare it with cannot be read", None, None
    if one.shape != other.shape or one.dtype != other.dtype:
        sizes = [f"{pixels.shape[1]}x{pixels.shape[0]}x{pixels.shape[2]} {pixels.dtype}" for pixels in (other, one)]
        return f"is {sizes[0]}, was {sizes[1]}", None, None
    difference = np.abs(one.astype(np.int64) - other.astype(np.int64))
    mean, most = float(difference.mean()), int(difference.max())
    if not most:
        return "has the same pixels in other bytes", mean, most
    return f"differs by {mean:.3g} on average, {most} at most", mean, most


# ---- all of them


@dataclass(frozen=True)
class Result:
    """The answer of a replay; differences: the rows that differ; files: those of the whole set that do; why: of all.

    altered: rows of which a file in the output is not what they say.
    """

    manifest: str
    source: str
    out: str | None
    rows: int
    differences: tuple[Rebuilt, ...]
    files: tuple[str, ...]
    why: tuple[str, ...]
    seconds: float
    altered: int = 0

    @property
    def exit_code(self) -> int:
        """0 when everything is bit-identical."""
        return 1 if self.differences or self.files else 0

    def to_dict(self) -> dict[str, Any]:
        """Give the versioned document that --json prints."""
        return {
            "schema": SCHEMA,
            "generator": files.MADE_BY,
            "manifest": self.manifest,
            "source": self.source,
            "out": self.out,
            "rows": self.rows,
            "identical": self.rows - len(self.differences),
            "differences": [one.to_dict() for one in self.differences],
            "files": list(self.files),
            "why": list(self.why),
            "altered": self.altered,
            "seconds": round(self.seconds, 3),
            "exit_code": self.exit_code,
        }


def run(
    record: Record,
    root: Path,
    plan: Plan,
    recipe: Recipe,
    out: Path | None = None,
    *,
    workers: int = 0,
    force: bool = False,
    progress: line.Progress | None = None,
) -> Result:
    """Make the rows of a record again from the pictures in `root` and compare; write them to `out`, where it is given.

    The files of the whole set are compared too when all rows are made. Raises EdgekitError when `out` cannot be written
    or, without `force`, exists.
    """
    started = time.monotonic()
    differences: list[Rebuilt] = []
    why: tuple[str, ...] = ()
    altered = 0
    with ExitStack() as until:
        stage = None
        if out is not None:
            stage = until.enter_context(files.staged_folder(out, lambda: line.refuse_existing(out, force=force)))
        task = Task(record, plan, recipe, stage)
        sources = [task.sources[key] for key in record.lines]
        counts = Counts(sources=len(sources))
        lines = None if stage is None else until.enter_context((stage / manifest.MANIFEST).open("w", encoding="ascii"))
        finished = until.enter_context(closing(pool.process(sources, task, workers)))
        for number, found in enumerate(finished, 1):
            for one in found:
                counts.originals += bool(one.row) and not one.row["variant"]
                counts.variants += bool(one.row) and one.row["variant"] > 0
                counts.bytes += one.bytes
                altered += one.altered
                if lines is not None and one.row:
                    lines.write(manifest.line(one.row))
                if plan.writer is not None and one.entry is not None and (record.whole or stage is not None):
                    plan.writer.take(one.entry)
                if one.what:
                    differences.append(replace(one, row={}, entry=None))
            if progress is not None:
                progress(number, len(sources))
        gathered = record.whole or stage is not None
        made = plan.writer.close() if plan.writer is not None and gathered else ()
        if lines is not None and stage is not None:
            lines.close()
            _finish(record, stage, made, line.stamp(recipe, "", counts, plan))
    apart = _files_apart(record, made) if record.whole else ()
    if differences or apart:
        differences, why = _explained(record, task, differences, whole=bool(apart))
    shown = None if out is None else str(out)
    seconds = time.monotonic() - started
    return Result(str(record.path), str(root), shown, record.count, tuple(differences), apart, why, seconds, altered)


def _finish(record: Record, stage: Path, made: Sequence[tuple[str, bytes]], now: Mapping[str, Any]) -> None:
    """Write what describes the whole, and a stamp: the replayed run's, with what is written here, and by what."""
    for name, data in made:
        (stage / name).parent.mkdir(parents=True, exist_ok=True)
        files.write(stage / name, data)
    values = {**record.stamp, "schema": SCHEMA, "generator": files.MADE_BY}
    values |= {key: now[key] for key in ("versions", "counts")}
    if "labels" in values:
        values["labels"] = {**values["labels"], "files": manifest.listed(made)}
    files.write(stage / files.STAMP, manifest.document(manifest.sealed(values, stage)))


def _files_apart(record: Record, made: Sequence[tuple[str, bytes]]) -> tuple[str, ...]:
    """Name the files of the whole set that differ."""
    then, now = dict(manifest.closing(record.stamp)), {one["path"]: one["sha256"] for one in manifest.listed(made)}
    return tuple(name for name in sorted(then.keys() | now.keys()) if then.get(name) != now.get(name))


def _versions(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """Say what else the bytes depend on and is not as it was."""
    before, after = then.get("versions", {}), now["versions"]
    pairs = [(name, before.get(name, "not named"), after.get(name, "not named")) for name in before | after]
    return tuple(f"{name} was {old}, is {new}" for name, old, new in pairs if old != new)


def _explained(
    record: Record, task: Task, differences: Sequence[Rebuilt], *, whole: bool
) -> tuple[list[Rebuilt], tuple[str, ...]]:
    """Say of each difference what was changed since, and of all of them what else was; whole: the set's files too."""
    wanted = {key for one in differences for key in one.needs} | set(record.lines if whole else ())
    changed = _changed(record, task, wanted)
    needed = [dict.fromkeys(one.needs) for one in differences]
    told = {key for keys in needed for key in keys}
    blamed = [
        replace(one, why=tuple(changed[key] for key in keys if key in changed))
        for one, keys in zip(differences, needed, strict=True)
    ]
    versions = _versions(record.stamp, line.stamp(task.recipe, "", Counts(), task.plan))
    return blamed, (*versions, *(text for key, text in changed.items() if key not in told))


def _changed(record: Record, task: Task, wanted: set[str]) -> dict[str, str]:
    """Say which of some pictures, or their labels, were changed since."""
    then = _recorded(record, wanted) if wanted else {}
    changed: dict[str, str] = {}
    for key in sorted(wanted):
        with suppress(EdgekitError, OSError):  # the difference says so
            data = read(task.sources[key], task.recipe.max_bytes)
            row, digest = then.get(key, ({}, None))
            labels = task.plan.labels(task.sources[key], data)
            if row and row["source_sha256"] != files.sha256(data):
                changed[key] = f"{key} was changed since"
            elif labels is not None and digest not in (None, _as_in(row, labels).digest):
                changed[key] = f"the labels of {key} were changed since"
    return changed


def _recorded(record: Record, wanted: set[str]) -> dict[str, tuple[Row, str | None]]:
    """Find a row of each picture, and the digest of its labels, as the run had them."""
    found: dict[str, tuple[Row, str | None]] = {}
    with suppress(OSError, ValueError, LookupError, TypeError):
        for row in manifest.rows(record.path):
            if row["source"] in wanted:
                found[row["source"]] = (row, None)
    with suppress(OSError, ValueError, LookupError, TypeError):
        for row in manifest.rows(record.folder / manifest.SOURCES):
            if row["source"] in found:
                found[row["source"]] = (found[row["source"]][0], row["labels"])
    return found
