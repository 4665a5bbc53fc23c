"""Peak memory of a model, measured in a process of its own.

Run as `python -m edgekit.measure.memory MODEL FEEDS.npz THREADS`, this module is that process: it writes one JSON
object to stdout.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.lazy import np, ort
from edgekit.session import open_session, run

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np

    from edgekit.session import Feed

_PROC_SELF = Path("/proc/self")


@dataclass(frozen=True)
class Peak:
    """Peak resident memory in bytes.

    `bytes`: of the whole process, with Python, numpy and onnxruntime. `above_runtime`: what loading and running the
    model added to it, at its highest.
    """

    bytes: int
    above_runtime: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, ready for JSON."""
        return asdict(self)


def peak_memory(
    model: str | Path, feeds: Iterable[Feed], threads: int = 1, *, timeout_seconds: float = 120.0
) -> Peak | None:
    """Load the model at the path `model` in a fresh process, run every feed once, and return its peak memory.

    None where it cannot be measured: Windows, a kernel without the counters, a model that does not run, or one that
    takes longer than `timeout_seconds`.
    """
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        archive = Path(folder) / "feeds.npz"
        # The index keeps the feeds apart and in order, and an input called "file" from np.savez's own parameter.
        arrays = {f"{index} {name}": value for index, feed in enumerate(feeds) for name, value in feed.items()}
        np.savez(archive, **arrays)  # type: ignore[arg-type]
        return _in_fresh_process([str(Path(model).resolve()), str(archive), str(threads)], timeout_seconds)


def _in_fresh_process(arguments: list[str], timeout_seconds: float) -> Peak | None:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edgekit.measure.memory", *arguments],
            # `-m` looks here first: a test runner or notebook may have found the package where a child would not.
            cwd=Path(__file__).resolve().parents[2],
            capture_output=True,
            timeout=timeout_seconds,
            check=True,
        )
        answer = json.loads(done.stdout)
        return Peak(bytes=int(answer["bytes"]), above_runtime=int(answer["above_runtime"]))
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):
        return None


def _main(model: str, archive: str, threads: str) -> None:
    feeds = _read_feeds(Path(archive))
    _ = ort.InferenceSession  # imports onnxruntime, whose own memory is not the model's
    before = _restart_peak()
    session = open_session(Path(model), threads=int(threads))
    for feed in feeds:
        run(session, feed)
    after = _peak_bytes()
    sys.stdout.write(json.dumps({"bytes": after, "above_runtime": max(0, after - before)}))


def _read_feeds(archive: Path) -> list[dict[str, np.ndarray]]:
    feeds: dict[int, dict[str, np.ndarray]] = {}
    with np.load(archive) as stored:
        for key in stored.files:
            index, name = key.split(" ", 1)
            feeds.setdefault(int(index), {})[name] = stored[key]
    return [feeds[index] for index in sorted(feeds)]


def _restart_peak() -> int:
    """Let the peak start again from the memory in use now; return that in bytes, or the old peak where it cannot."""
    with contextlib.suppress(OSError):
        (_PROC_SELF / "clear_refs").write_text("5")  # Linux: resets VmHWM, man 5 proc
    return _peak_bytes()


def _peak_bytes() -> int:
    """Return the peak resident memory of this process in bytes. Raises OSError where it cannot be read."""
    if sys.platform.startswith("linux"):
        # Not ru_maxrss: it survives exec, so a child begins with the peak of the process it was forked from.
        for line in (_PROC_SELF / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise OSError("this kernel does not report VmHWM")
    try:
        import resource
    except ImportError as error:
        raise OSError("this system has no resource module") from error
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # bytes on macOS


if __name__ == "__main__":
    _main(*sys.argv[1:])
