"""Worker processes: each owns whole sources, reads, makes and writes them, and hands back rows, never pixels.

Results come back in the order of the sources whatever the number of workers, with a bounded number of sources under
way. A picture that kills its worker (a codec crash) is found by running the unfinished ones one by one, and becomes a
rejected row like any other.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from multiprocessing.connection import Connection, wait
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from edgekit import files
from edgekit.augment.stopwatch import Stopwatch
from edgekit.augment.variants import Output, Recipe, outputs
from edgekit.data import images, manifest
from edgekit.data.folder import Source, read
from edgekit.data.headers import read_header
from edgekit.errors import EdgekitError
from edgekit.lazy import np

if TYPE_CHECKING:
    from edgekit.augment.plan import Labels, Plan, Used

CHUNK_BYTES = 1 << 20  # sources go out in chunks of about this size: small pictures must not cost a trip each
CHUNK_SOURCES = 64
AHEAD = 4  # chunks a worker that are under way, or wait for their turn
KEPT_BYTES = 32 << 20  # the largest block that a worker keeps for the next picture: 10 megapixels of RGB
TRIES = 2  # that a source whose process died gets, by itself: something else may have killed it


@dataclass(frozen=True)
class Done:
    """One finished source: what the manifest needs to know."""

    key: str
    sha256: str
    rows: tuple[dict[str, Any], ...] = ()
    bytes: int = 0
    left_out: int = 0
    rejected: str | None = None
    labels: str = ""  # the digest of its labels
    entries: tuple[dict[str, Any], ...] = ()  # what the labels' writer has to take in
    mended: int = 0
    passed: bool = False
    used: Used = field(default_factory=dict)  # the partners that were tried
    watch: Stopwatch = field(default_factory=Stopwatch, compare=False)

    @cached_property
    def lines(self) -> str:
        """Its rows as the manifest has them, a line each."""
        return "".join(map(manifest.line, self.rows))


Answer = TypeVar("Answer")
Given = TypeVar("Given", covariant=True)


class Task(Protocol[Given]):
    """What is done with every source, in a process that may die of it."""

    def process(self, source: Source) -> Given:
        """Do it."""

    def forget(self, source: Source) -> None:
        """Take back what a process that died may have left of it."""

    def died(self, source: Source) -> Given:
        """Give the answer for a source that kills every process."""


@dataclass(frozen=True)
class Job:
    """What a worker must know to process any source. `stage` None: make everything, write nothing."""

    recipe: Recipe
    stage: Path | None
    keys: frozenset[str]
    plan: Plan | None = None

    def process(self, source: Source) -> Done:
        """Read, make and write one source; a picture that cannot be used is an answer, not an exception."""
        watch, started = Stopwatch(), time.perf_counter()
        done = self._process(source, watch)
        watch.busy = time.perf_counter() - started
        return replace(done, watch=watch)

    def _process(self, source: Source, watch: Stopwatch) -> Done:
        try:
            with watch:
                data = read(source, self.recipe.max_bytes)
        except OSError as error:
            return Done(source.key, "", rejected=f"cannot be read: {error.strerror}")
        except EdgekitError as error:
            return Done(source.key, "", rejected=error.message)
        digest, marks = files.sha256(data), ""
        rows: list[dict[str, Any]] = []
        entries: list[dict[str, Any]] = []
        used: Used = {}
        written = left_out = mended = 0
        try:
            labels = self._labels(source, data)
            marks = "" if labels is None else labels.digest
            for output in self._outputs(source, data, digest, labels, used, watch):
                if output is None:
                    left_out += 1
                    continue
                rows.append(output.row)
                with watch:
                    self._write(output, source)
                written += output.bytes
                mended = max(mended, output.mended)
                if output.entry is not None:
                    entries.append(output.entry)
        except files.WriteError:
            raise
        except Exception as error:  # the per-picture row: whatever a codec or an op trips over, the run goes on
            self._remove(name for row in rows for name, _ in manifest.outputs(row))
            return Done(source.key, digest, rejected=_reason(error), labels=marks)
        passed = labels is not None and not labels.augmented
        made = tuple(rows), written, left_out
        return Done(source.key, digest, *made, None, marks, tuple(entries), mended, passed, used)

    def _labels(self, source: Source, data: bytes) -> Labels | None:
        return None if self.plan is None else self.plan.labels(source, data)

    def _outputs(
        self, source: Source, data: bytes, digest: str, labels: Labels | None, used: Used, watch: Stopwatch
    ) -> Iterator[Output | None]:
        plan = self.plan
        recipe = replace(self.recipe, copies=self._copies(source))
        partners = None if plan is None else plan.partners(recipe, source.key, used)
        whole = plan is not None and source.key in plan.twins
        key, label = source.key, source.label
        known = recipe, key, label, data, self.keys, labels, partners
        return outputs(*known, whole=whole, digest=digest, watch=watch)

    def _copies(self, source: Source) -> int:
        return self.recipe.copies if self.plan is None else self.plan.copies(source.key, self.recipe)

    def digest(self, source: Source) -> tuple[str, str]:
        """Give the digests of a source and of its labels; nothing for one that cannot be read."""
        try:
            data = read(source, self.recipe.max_bytes)
        except (OSError, EdgekitError):
            return "", ""
        labels = self._labels(source, data)
        return files.sha256(data), "" if labels is None else labels.digest

    def died(self, source: Source) -> Done:
        """Reject a source that kills every process."""
        digest, labels = self.digest(source)
        reason = "its process died: a decoder crashed, or no memory was left"
        return Done(source.key, digest, rejected=reason, labels=labels)

    def values(self, source: Source) -> dict[str, Any]:
        """Give what the plan says of a source and its outputs depend on; it survives JSON."""
        key, plan = source.key, self.plan
        copies = self._copies(source)
        if plan is None or plan.known is None:
            return {"place": key, "copies": copies}
        values = {"place": plan.place(key), "copies": copies, "split": plan.entries[key].split}
        return values | {"augmented": plan.is_augmented(key), "whole": key in plan.twins}

    def name(self, source: Source, row: Mapping[str, Any]) -> str:
        """Name the output of a row as it would be called now."""
        values, suffix = self.values(source), PurePosixPath(row["file_name"]).suffix
        place, whole = values["place"], values.get("whole", False)
        return self.recipe.name(str(place), row["variant"], suffix, self.keys, whole=whole)

    def _write(self, output: Output, source: Source) -> None:
        if self.stage is None:
            return
        name = output.name
        try:
            if output.row["variant"] == 0:
                target = self.stage / name
                target.parent.mkdir(parents=True, exist_ok=True)
                files.copy(source.path, output.data, target)
            else:
                files.put(self.stage, name, output.data)
            for name, content in output.labels:
                files.put(self.stage, name, content)
        except OSError as error:
            files.write_failed(self.stage / name, error)

    def forget(self, source: Source) -> None:
        """Remove what a process that died may have written of a source."""
        with contextlib.suppress(OSError, EdgekitError):
            header = read_header(read(source, self.recipe.max_bytes))
            suffixes = {images.output_format(header, PurePosixPath(source.key).suffix)[1], ".png"}
            place, whole = source.key, False
            if self.plan is not None:
                place, whole = self.plan.place(source.key), source.key in self.plan.twins
            recipe = replace(self.recipe, copies=self._copies(source))
            wanted = [(0, PurePosixPath(place).suffix), *((n, s) for n in recipe.numbers for s in suffixes)]
            names = {recipe.name(place, n, s, self.keys, whole=whole) for n, s in wanted}
            if self.plan is not None:
                names |= {path for name in names for path in self.plan.label_files(source.key, name)}
            self._remove(sorted(names))

    def _remove(self, names: Iterable[str]) -> None:
        """Take back what a source had written before it turned out to be unusable."""
        if self.stage is not None:
            for name in names:
                (self.stage / name).unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    return error.message if isinstance(error, EdgekitError) else f"{type(error).__name__}: {error}".split("\n", 1)[0]


def process(sources: Sequence[Source], task: Task[Answer], workers: int) -> Generator[Answer]:
    """Process the sources with `workers` processes (0: one a core), yielding in their order."""
    workers = workers or available_cores()
    chunks = list(_chunks(sources, workers))
    with _Crew(task, chunks, min(workers, len(chunks))) as crew:
        for number in range(len(chunks)):
            yield from crew.result(number)


class _Crew(Generic[Answer]):
    """Worker processes and the chunks they are at. One that dies is replaced, and its chunk is done one by one.

    Not concurrent.futures: its processes share one line back, and when one is killed while it speaks, all wait forever.
    """

    def __init__(self, task: Task[Answer], chunks: Sequence[Sequence[Source]], workers: int) -> None:
        self._task, self._chunks = task, chunks
        self._workers = [_Worker(task) for _ in range(workers)]
        self._finished: dict[int, list[Answer]] = {}
        self._next = 0

    def __enter__(self) -> _Crew[Answer]:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.end()

    def result(self, number: int) -> list[Answer]:
        """Give what became of a chunk, keeping the workers at the ones that follow."""
        until = min(len(self._chunks), number + AHEAD * len(self._workers))
        self._hand_out(until)
        while number not in self._finished:
            busy = {worker.line: worker for worker in self._workers if worker.number is not None}
            for line in wait(list(busy)):
                self._collect(busy[line])  # type: ignore[index]
            self._hand_out(until)
        return self._finished.pop(number)

    def _hand_out(self, until: int) -> None:
        for worker in self._workers:
            if worker.number is None and self._next < until:
                worker.number = self._next
                worker.give(self._chunks[self._next])
                self._next += 1

    def _collect(self, worker: _Worker[Answer]) -> None:
        number = worker.number
        assert number is not None
        try:
            self._finished[number] = worker.take()
            worker.number = None
        except DIED:
            worker.end()
            self._workers[self._workers.index(worker)] = _Worker(self._task)
            self._finished[number] = [_alone(source, self._task) for source in self._chunks[number]]


def _alone(source: Source, task: Task[Answer]) -> Answer:
    """Process one source in a process of its own, which may die."""
    for _ in range(TRIES):
        worker = _Worker(task)
        try:
            worker.give([source])
            return worker.take()[0]
        except DIED:
            task.forget(source)
        finally:
            worker.end()
    return task.died(source)


DIED = (EOFError, OSError)  # what the line to a process that died answers


class _Worker(Generic[Answer]):
    """A process, and a line to it that nobody else holds: whenever it dies, and at whatever, the line breaks."""

    def __init__(self, task: Task[Answer]) -> None:
        # Fork where it is safe and cheap; the parent holds no threads of OpenCV or BLAS at this point.
        np.random.PCG64  # noqa: B018 (imported here, or each process would do it for itself)
        context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self.number: int | None = None  # the chunk it is at
        self.line, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(task, theirs, os.getpid()), daemon=True)
        with _without_interrupts():
            self._process.start()
        theirs.close()

    def give(self, chunk: Sequence[Source]) -> None:
        """Hand it a chunk; when it is dead, `take` will say so."""
        with contextlib.suppress(OSError):
            self.line.send(chunk)

    def take(self) -> list[Answer]:
        """Wait for what became of the chunk; raise what the run ends with, or one of DIED."""
        answer: list[Answer] | EdgekitError = self.line.recv()
        if isinstance(answer, EdgekitError):
            raise answer
        return answer

    def end(self) -> None:
        """End the process at once: it has answered, or its answer is not wanted any more."""
        self._process.kill()
        self._process.join()
        self.line.close()


def _work(task: Task[Answer], line: Connection, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no orphan outlives a killed parent
        if os.getppid() != parent:
            os._exit(1)
        _keep_memory()
    with contextlib.suppress(*DIED):  # the parent is gone
        while True:
            chunk = line.recv()
            try:
                line.send([task.process(source) for source in chunk])
            except EdgekitError as error:
                line.send(error)


def _keep_memory() -> None:
    """Let the C library keep the memory of a picture for the next one, where it can be told so (mallopt, glibc).

    It would be handed back, and its 200 pages fetched again, for every step of every variant.
    """
    tune = getattr(ctypes.CDLL(None), "mallopt", None)
    if tune is not None:
        tune(-3, KEPT_BYTES)  # M_MMAP_THRESHOLD: larger pictures still come from, and go back to, the system
        tune(-1, 4 * KEPT_BYTES)  # M_TRIM_THRESHOLD


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Block SIGINT: processes started here inherit that until `_work` ignores it, so that none prints a traceback."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _chunks(sources: Sequence[Source], workers: int) -> Iterator[list[Source]]:
    most = max(1, min(CHUNK_SOURCES, len(sources) // (workers * AHEAD)))
    chunk: list[Source] = []
    size = 0
    for source in sources:
        chunk.append(source)
        size += source.bytes
        if len(chunk) >= most or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def available_cores() -> int:
    """Count the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
