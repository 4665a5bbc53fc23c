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
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from edgekit import files
from edgekit.augment.variants import Output, Recipe, outputs, variant_name
from edgekit.data import images
from edgekit.data.folder import Source, read
from edgekit.data.headers import read_header
from edgekit.errors import EdgekitError

CHUNK_BYTES = (
    1 << 20
)  # sources are handed out in chunks of about this size, so that small pictures do not cost a trip each
CHUNK_SOURCES = 64
AHEAD = 4  # chunks under way per worker
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


@dataclass(frozen=True)
class Job:
    """What a worker must know to process any source. `stage` None: make everything, write nothing."""

    recipe: Recipe
    stage: Path | None
    keys: frozenset[str]

    def process(self, source: Source) -> Done:
        """Read, make and write one source; a picture that cannot be used is an answer, not an exception."""
        try:
            data = read(source, self.recipe.max_bytes)
        except OSError as error:
            return Done(source.key, "", rejected=f"cannot be read: {error.strerror}")
        except EdgekitError as error:
            return Done(source.key, "", rejected=error.message)
        digest = files.sha256(data)
        rows: list[dict[str, Any]] = []
        written = left_out = 0
        try:
            for output in outputs(self.recipe, source.key, source.label, data, self.keys):
                if output is None:
                    left_out += 1
                    continue
                rows.append(output.row)
                written += len(output.data)
                self._write(output, source)
        except files.WriteError:
            raise
        except Exception as error:  # the per-picture row: whatever a codec or an op trips over, the run goes on
            self._remove(row["file_name"] for row in rows)
            return Done(source.key, digest, rejected=_reason(error))
        return Done(source.key, digest, tuple(rows), written, left_out)

    def digest(self, source: Source) -> str:
        """Give the SHA-256 of a source; nothing for one that cannot be read."""
        try:
            return files.sha256(read(source, self.recipe.max_bytes))
        except (OSError, EdgekitError):
            return ""

    def _write(self, output: Output, source: Source) -> None:
        if self.stage is None:
            return
        target = self.stage / output.name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if output.row["variant"] == 0:
                files.copy(source.path, output.data, target)
            else:
                target.write_bytes(output.data)
        except OSError as error:
            files.write_failed(target, error)

    def forget(self, source: Source) -> None:
        """Remove what a process that died may have written of a source."""
        with contextlib.suppress(OSError, EdgekitError):
            header = read_header(read(source, self.recipe.max_bytes))
            suffixes = {images.output_format(header, PurePosixPath(source.key).suffix)[1], ".png"}
            names = {variant_name(source.key, n + 1, s, self.keys) for n in range(self.recipe.copies) for s in suffixes}
            self._remove((source.key, *names))

    def _remove(self, names: Iterable[str]) -> None:
        """Take back what a source had written before it turned out to be unusable."""
        if self.stage is not None:
            for name in names:
                (self.stage / name).unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    return error.message if isinstance(error, EdgekitError) else f"{type(error).__name__}: {error}".split("\n", 1)[0]


_job: Job | None = None  # set once in each worker process; the job is sent once, not with every source


def _start(job: Job, parent: int) -> None:
    global _job
    _job = job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no orphan outlives a killed parent
        if os.getppid() != parent:
            os._exit(1)


def _process(sources: Sequence[Source]) -> list[Done]:
    assert _job is not None
    return [_job.process(source) for source in sources]


def process(sources: Sequence[Source], job: Job, workers: int) -> Generator[Done]:
    """Process the sources with `workers` processes (0: one a core), yielding in their order."""
    workers = workers or available_cores()
    chunks = deque(_chunks(sources, workers))
    workers = min(workers, len(chunks))
    waiting: deque[tuple[Future[list[Done]], list[Source]]] = deque()
    with _Pool(job, workers) as pool:
        while chunks or waiting:
            while chunks and len(waiting) < AHEAD * workers:
                waiting.append((pool.submit(chunks[0]), chunks.popleft()))
            future, chunk = waiting.popleft()
            try:
                yield from future.result()
            except BrokenProcessPool:
                chunks.extendleft(c for _, c in reversed(waiting))
                waiting.clear()
                yield from _one_by_one(chunk, job)


def _one_by_one(chunk: Sequence[Source], job: Job) -> Iterator[Done]:
    for source in chunk:
        for _ in range(TRIES):
            with _Pool(job, 1) as alone:
                try:
                    yield from alone.submit([source]).result()
                    break
                except BrokenProcessPool:
                    job.forget(source)
        else:
            yield Done(
                source.key, job.digest(source), rejected="its process died: a decoder crashed, or no memory was left"
            )


class _Pool:
    """Worker processes that are replaced when one of them dies, and ended at once when the run is cut off."""

    def __init__(self, job: Job, workers: int) -> None:
        self._job, self._workers = job, workers
        self._others = set(multiprocessing.active_children())
        self._pool = self._new()

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:  # a chunk may take long: its results are not wanted any more
            for child in set(multiprocessing.active_children()) - self._others:
                child.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _new(self) -> ProcessPoolExecutor:
        # Fork where it is safe and cheap; the parent holds no threads of OpenCV or BLAS at this point.
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        return ProcessPoolExecutor(self._workers, context, initializer=_start, initargs=(self._job, os.getpid()))

    def submit(self, chunk: Sequence[Source]) -> Future[list[Done]]:
        """Hand out a chunk, to new processes when the old ones have died. Ctrl-C waits until they are set up."""
        with _without_interrupts():
            try:
                return self._pool.submit(_process, chunk)
            except BrokenProcessPool:
                self._pool.shutdown(wait=True)
                self._pool = self._new()
                return self._pool.submit(_process, chunk)


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Block SIGINT: processes started here inherit that until `_start` ignores it, so that none prints a traceback."""
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
