"""What is done already: the journal of a run under way, and the facts about its sources that an output keeps.

A fact is a row a source: its digests and everything else that its outputs depend on beyond the recipe, and what the
manifest and the labels' writer get of it. A run that is begun again, or meets an output of an older state of the same
set, takes over whatever would come out the same, once the files are found as they were.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import files
from edgekit.augment import pool
from edgekit.augment.plan import mark
from edgekit.data import manifest
from edgekit.words import counted

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from edgekit.data.folder import Source

JOURNALS = "journal-*.jsonl"
DAMAGED = (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, StopIteration)


@dataclass(frozen=True)
class Fact:
    """A finished source, and what the plan said of it."""

    done: pool.Done
    values: Mapping[str, Any]

    @cached_property
    def line(self) -> str:
        """It as a line of JSON; what a layout keeps may hold NaN."""
        done = self.done
        row = {
            "source": done.key,
            "sha256": done.sha256,
            "labels": done.labels,
            "plan": dict(self.values),
            "partners": done.used,
            "rows": len(done.rows),
            "made": files.sha256(done.lines.encode("ascii")),
            "bytes": done.bytes,
            "left_out": done.left_out,
            "mended": done.mended,
            "passed": done.passed,
            "rejected": done.rejected is not None,
            "entries": list(done.entries),
        }
        return json.dumps(row) + "\n"


def _fact(said: Mapping[str, Any], rows: Iterable[dict[str, Any]]) -> Fact:
    numbers = said["bytes"], said["left_out"]
    done = pool.Done(
        said["source"],
        said["sha256"],
        tuple(rows),
        *numbers,
        labels=said["labels"],
        entries=tuple(said["entries"]),
        mended=said["mended"],
        passed=said["passed"],
        used=said["partners"],
    )
    return Fact(done, said["plan"])


class Journal:
    """Takes in every source as it is finished, in a file of its own among those of earlier attempts."""

    def __init__(self, stage: Path, identity: Any) -> None:
        number = 1 + max((_number(path) for path in stage.glob(JOURNALS)), default=0)
        self._file = (stage / f"journal-{number}.jsonl").open("w", encoding="ascii")
        self._write(json.dumps(identity) + "\n")

    def add(self, fact: Fact) -> None:
        """Write a finished source down, its rows too: it outlives the process, whatever ends that."""
        rows = fact.done.lines.removesuffix("\n").replace("\n", ", ")  # JSON itself has no line breaks
        self._write(fact.line.removesuffix("}\n") + f', "made_rows": [{rows}]}}\n')

    def _write(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        with suppress(OSError):  # a full disk has been said already
            self._file.close()


def _number(path: Path) -> int:
    digits = path.stem.partition("-")[2]
    return int(digits) if digits.isdecimal() else 0


# ---- what an earlier run left


@dataclass(frozen=True)
class Past:
    """The facts of an earlier run, which stay on disk, and its folder; places: where the rows of a source begin."""

    folder: Path
    places: Mapping[str, tuple[tuple[str, int], ...]]

    def get(self, key: str) -> Fact | None:
        """Read the fact of a source; None when there is none."""
        if key not in self.places:
            return None
        (name, offset), *others = self.places[key]
        with suppress(*DAMAGED):
            said = json.loads(next(self._lines(name, offset)))
            if not others:
                return _fact(said, said["made_rows"])
            lines = self._lines(*others[0])
            return _fact(said, [json.loads(next(lines)) for _ in range(said["rows"])])
        return None

    def _lines(self, name: str, offset: int) -> Iterator[bytes]:
        with (self.folder / name).open("rb") as file:
            file.seek(offset)
            yield from file


def of_stage(stage: Path, identity: Any) -> Past | None:
    """Find the facts of an interrupted run; None when it was another one, or had done nothing."""
    places: dict[str, tuple[tuple[str, int], ...]] = {}
    for path in sorted(stage.glob(JOURNALS), key=_number):
        with path.open("rb") as file:
            first = file.readline()
            offset = len(first)
            with suppress(ValueError):  # a line may be torn
                if json.loads(first) != identity:
                    return None
            for text in file:
                with suppress(*DAMAGED):
                    places[json.loads(text)["source"]] = ((path.name, offset),)
                offset += len(text)
    return Past(stage, places) if places else None


def of_output(out: Path) -> tuple[Past, dict[str, Any]] | None:
    """Find the facts of a finished output, and its stamp; None when its records are not as edgekit wrote them."""
    places: dict[str, tuple[tuple[str, int], ...]] = {}
    try:
        stamp = json.loads((out / files.STAMP).read_bytes())
        if not manifest.is_sealed(stamp):
            return None
        if any(files.digest(out / name) != stamp["files"][name] for name in manifest.RECORDS):
            return None
        with (out / manifest.SOURCES).open("rb") as sources, (out / manifest.MANIFEST).open("rb") as made:
            at = below = 0
            for text in sources:
                said = json.loads(text)
                if not said["rejected"]:
                    places[said["source"]] = (manifest.SOURCES, at), (manifest.MANIFEST, below)
                at += len(text)
                below += sum(len(next(made)) for _ in range(said["rows"]))
    except DAMAGED:
        return None
    return Past(out, places), stamp


# ---- what of it can be taken over


@dataclass(frozen=True)
class Checked:
    """The mark of a source, and which past has outputs of it that would come out the same; -1: none."""

    mark: str
    past: int


@dataclass(frozen=True)
class Check:
    """A pool's task: what of the pasts can be taken over, but for the contents of partners."""

    job: pool.Job
    pasts: Sequence[Past]

    def process(self, source: Source) -> Checked:
        """Read a source, and the outputs of it that there are."""
        digests = self.job.digest(source)
        fitting = (number for number, past in enumerate(self.pasts) if self._holds(past, source, digests))
        return Checked(mark(*digests), next(fitting, -1))

    def _holds(self, past: Past, source: Source, digests: tuple[str, str]) -> bool:
        fact, job = past.get(source.key), self.job
        if fact is None or not digests[0] or (fact.done.sha256, fact.done.labels) != digests:
            return False
        with suppress(*DAMAGED):
            named = all(job.name(source, one) == one["file_name"] for one in fact.done.rows)
            if fact.values != job.values(source) or not named or not self._same_partners(fact.done):
                return False
            outputs = [output for one in fact.done.rows for output in manifest.outputs(one)]
            return all(files.digest(past.folder / name) == sha256 for name, sha256 in outputs)
        return False

    def _same_partners(self, done: pool.Done) -> bool:
        plan, recipe = self.job.plan, self.job.recipe
        for number, tried in done.used.items():
            if plan is None or len(plan.augmented) <= recipe.partners:
                return False
            now = plan.candidates(recipe, done.key, int(number), recipe.partners)
            if now[: len(tried)] != [name for name, _ in tried]:
                return False
        return True

    def forget(self, source: Source) -> None:
        """Take nothing back: nothing is written."""

    def died(self, source: Source) -> Checked:
        """Take nothing over."""
        return Checked("", -1)


def process(
    job: pool.Job,
    sources: Sequence[Source],
    pasts: Sequence[Past],
    identity: Any,
    workers: int,
    say: Callable[[str], None],
    progress: Callable[[int, int], None] | None = None,
) -> Generator[tuple[Fact, Past | None]]:
    """Process the sources, or take them over from the first of `pasts` that has them; give each one, and that past.

    The stage holds nothing else then but its journals and records.
    """
    assert job.stage is not None
    found = _reusable(job, sources, pasts, workers, progress)
    resumed = sum(number >= 0 and pasts[number].folder == job.stage for number in found)
    if resumed:
        say(f"resumed: {resumed:,} of {counted(len(sources), 'picture')} were done already")
    _tidy(job.stage, sources, found, pasts)
    todo = [source for source, past in zip(sources, found, strict=True) if past < 0]
    with Journal(job.stage, identity) as journal, closing(pool.process(todo, job, workers)) as made:
        for source, number in zip(sources, found, strict=True):
            past = pasts[number] if number >= 0 else None
            fact = Fact(next(made), job.values(source)) if past is None else _taken(past, source.key)
            if past is not None and past.folder != job.stage:
                for name, _ in (output for one in fact.done.rows for output in manifest.outputs(one)):
                    files.link(past.folder / name, job.stage / name)
            if fact.done.rejected is None and (past is None or past.folder != job.stage):
                journal.add(fact)
            yield fact, past


def _reusable(
    job: pool.Job,
    sources: Sequence[Source],
    pasts: Sequence[Past],
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> array[int]:
    """Give the number of the past that has a source, for each one, or -1."""
    found = array("b", [-1]) * len(sources)
    mixing = bool(job.recipe.partners)
    marks: dict[str, bytes] = {}
    known = [place for place, one in enumerate(sources) if any(one.key in past.places for past in pasts)]
    asked = range(len(sources)) if mixing and known else known
    answers = pool.process([sources[place] for place in asked], Check(job, pasts), workers)
    for count, (place, answer) in enumerate(zip(asked, answers, strict=True), 1):
        found[place] = answer.past
        if progress is not None:
            progress(count, len(asked))
        if mixing:
            marks[sources[place].key] = bytes.fromhex(answer.mark)
    if mixing:
        for place in known:
            if found[place] >= 0:
                done = _taken(pasts[found[place]], sources[place].key).done
                tried = [one for those in done.used.values() for one in those]
                if any(marks.get(key) != bytes.fromhex(said) for key, said in tried):
                    found[place] = -1
    return found


def _taken(past: Past, key: str) -> Fact:
    fact = past.get(key)
    if fact is None:
        raise files.WriteError(f"{past.folder}: was changed while it was read", "run the same command again")
    return fact


def _tidy(stage: Path, sources: Sequence[Source], found: Sequence[int], pasts: Sequence[Past]) -> None:
    """Remove what no source that is taken over has written: half of a file, what has changed since."""
    own = [*manifest.RECORDS, *(path.name for path in stage.glob(JOURNALS))]
    kept = set(map(hash, own))  # numbers: there may be many names
    for source, number in zip(sources, found, strict=True):
        if number >= 0 and pasts[number].folder == stage:
            rows = _taken(pasts[number], source.key).done.rows
            kept |= {hash(name) for one in rows for name, _ in manifest.outputs(one)}
    files.sweep(stage, lambda name: hash(name) in kept)
