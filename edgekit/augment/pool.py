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
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit import files
from edgekit.augment.variants import Recipe, outcome
from edgekit.data.folder import Source
from edgekit.errors import EdgekitError

CHUNK_BYTES = (
    1 << 20
)  # sources are handed out in chunks of about this size, so that small pictures do not cost a trip each
CHUNK_SOURCES = 64
AHEAD = 4  # chunks under way per worker


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
            data = source.path.read_bytes()
        except OSError as error:
            return Done(source.key, "", rejected=f"cannot be read: {error.strerror}")
        digest = files.sha256(data)
        try:
            result = outcome(self.recipe, source.key, source.label, data, self.keys)
        except EdgekitError as error:
            return Done(source.key, digest, rejected=error.message)
        except Exception as error:  # the per-picture row: whatever a codec or an op trips over, the run goes on
            return Done(source.key, digest, rejected=f"{type(error).__name__}: {error}".split("\n", 1)[0])
        written = 0
        for output in result.outputs:
            written += len(output.data)
            if self.stage is not None:
                self._write(self.stage / output.name, output.data, source, original=output.row["variant"] == 0)
        return Done(source.key, digest, tuple(o.row for o in result.outputs), written, result.left_out)

    @staticmethod
    def _write(target: Path, data: bytes, source: Source, *, original: bool) -> None:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if original:
                files.copy(source.path, data, target)
            else:
                target.write_bytes(data)
        except OSError as error:
            files.write_failed(target, error)


_job: Job | None = None  # set once in each worker process; the job is sent once, not with every source


def _start(job: Job, parent: int) -> None:
    global _job
    _job = job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no orphan outlives a killed parent
        if os.getppid() != parent:
            os._exit(1)


def _process(sources: Sequence[Source]) -> list[Done]:
    assert _job is not None
    return [_job.process(source) for source in sources]


def process(sources: Sequence[Source], job: Job, workers: int) -> Iterator[Done]:
    """Process the sources with `workers` processes (0: one a core), yielding in their order."""
    workers = workers or available_cores()
    chunks = deque(_chunks(sources, workers))
    pool = _pool(job, workers)
    waiting: deque[tuple[Future[list[Done]], list[Source]]] = deque()
    try:
        while chunks or waiting:
            while chunks and len(waiting) < AHEAD * workers:
                chunk = chunks.popleft()
                waiting.append((pool.submit(_process, chunk), chunk))
            future, chunk = waiting.popleft()
            try:
                yield from future.result()
            except BrokenProcessPool:
                chunks.extendleft(c for _, c in reversed(waiting))
                waiting.clear()
                yield from _one_by_one(chunk, job)
                pool = _pool(job, workers)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _one_by_one(chunk: Sequence[Source], job: Job) -> Iterator[Done]:
    for source in chunk:
        with _pool(job, 1) as alone:
            try:
                yield from alone.submit(_process, [source]).result()
            except BrokenProcessPool:
                with contextlib.suppress(OSError):
                    yield Done(source.key, files.sha256(source.path.read_bytes()), rejected="it crashes the decoder")


def _pool(job: Job, workers: int) -> ProcessPoolExecutor:
    # Fork where it is safe and cheap; the parent holds no threads of OpenCV or BLAS at this point.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(job, os.getpid()))


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
