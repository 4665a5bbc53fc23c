"""The only module that writes to disk: files by an atomic replace, folders by a stage that is renamed at the end."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import __version__
from edgekit.errors import EdgekitError, StoppedError

if TYPE_CHECKING:
    from typing import NoReturn

# Every file and folder that edgekit makes carries this somewhere, so that --force knows what it may replace.
MARK = "made by edgekit"
MADE_BY = f"{MARK} {__version__}"
STAMP = "run.json"
NAME_BYTES = 255
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
USE_ANOTHER = "free some space, or use --out on another disk"
WAITED = 0.5  # seconds that the processes of a killed run have to die, before its stage counts as busy


class WriteError(EdgekitError):
    """Say that a write failed: the disk is full, or the place cannot be written to. It ends a whole run."""


class DiskFullError(WriteError):
    """Say that the disk is full."""


def refuse_existing(path: Path, *, force: bool, what: str = "output") -> None:
    """Raise EdgekitError when `path` exists, unless `force` is given and edgekit made it."""
    if not path.exists() and not path.is_symlink():
        return
    if not force:
        raise EdgekitError(
            f"{path}: the {what} exists already",
            f"use --force to replace it, or --{'out' if what == 'output' else what} to choose another",
        )
    if not made_by_edgekit(path):
        raise EdgekitError(
            f"{path}: exists and was not made by edgekit, so --force does not replace it",
            f"remove it yourself, or use --{'out' if what == 'output' else what} to choose another",
        )


def made_by_edgekit(path: Path) -> bool:
    """Tell whether edgekit made this file or folder (an empty folder counts: nothing is lost with it)."""
    if path.is_symlink():
        return False
    if path.is_dir():
        stamp = path / STAMP
        return not any(path.iterdir()) or (stamp.is_file() and MARK in stamp.read_text(errors="replace"))
    if not path.is_file():
        return False
    with path.open("rb") as file:
        tail = b""
        while chunk := file.read(1 << 20):
            if MARK.encode() in tail + chunk:
                return True
            tail = chunk[-len(MARK) :]
    return False


def require_writable(folder: Path) -> None:
    """Raise EdgekitError unless a file can be made in `folder` now, before the work starts."""
    if not folder.is_dir():
        raise EdgekitError(f"{folder}: no such folder to write into", f"make it first: mkdir -p {folder}")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise EdgekitError(f"{folder}: cannot be written: {error.strerror}", "choose another with --out") from error


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; replace `path` by it on success, remove it on any failure."""
    temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}.partial")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        write_failed(path, error)
    finally:
        temporary.unlink(missing_ok=True)


def write(path: Path, data: bytes | str) -> None:
    """Write a file atomically; text is UTF-8."""
    with atomic(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def put(folder: Path, name: str, data: bytes) -> None:
    """Write a file below a stage, plainly and fast; its own folder is nearly always there, so it is not asked for."""
    try:
        handle = os.open(f"{folder}/{name}", _ANEW, 0o666)
    except FileNotFoundError:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(f"{folder}/{name}", _ANEW, 0o666)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(handle, left) :]
    finally:
        os.close(handle)


_ANEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)


def keep(path: Path, data: bytes, largest: int) -> None:
    """Write a file of a cache where that can be done; its oldest siblings go while all are over `largest` bytes."""
    with contextlib.suppress(OSError, WriteError):
        if len(data) <= largest:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, data)
            _evict(path.parent, path.suffix, largest)


def _evict(folder: Path, suffix: str, largest: int) -> None:
    # What a killed run left half written counts too; anything else in the folder is not the cache's.
    own = (path for path in folder.iterdir() if suffix in path.name and path.suffix in (suffix, ".partial"))
    entries = [(path.stat(), path) for path in own]
    entries.sort(key=lambda entry: (entry[0].st_mtime_ns, entry[1].name), reverse=True)
    held = 0
    for status, path in entries:
        held += status.st_size
        if held > largest:
            path.unlink(missing_ok=True)


def drop(path: Path) -> None:
    """Remove a file of a cache, where that can be done."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def touch(path: Path) -> None:
    """Mark a file as used now, where that can be done."""
    with contextlib.suppress(OSError):
        os.utime(path)


def write_failed(path: Path, error: OSError) -> NoReturn:
    """Turn a failed write into one sentence and a way out."""
    if error.errno in FULL:
        raise DiskFullError(f"{path}: the disk is full; nothing was kept", USE_ANOTHER) from error
    raise WriteError(f"{path}: cannot be written: {error.strerror}", "choose another place with --out") from error


@contextlib.contextmanager
def staged_folder(out: Path, check: Callable[[], None]) -> Iterator[Path]:
    """Give an empty folder beside `out`; on success it takes `out`'s place, on any failure it is removed.

    `check` raises EdgekitError unless `out` may be made or replaced: it is asked before the work, and again before the
    swap. What a killed run left behind under the stage's name is removed first; a run that is still at work is not
    disturbed.
    """
    stage = beside(out, "partial")
    try:
        with _claimed(stage, out, anew=True):
            try:
                _settle(out)
                check()
                yield stage
                check()
                _swap(stage, out)
            finally:
                discard(stage)
    except OSError as error:
        write_failed(out, error)


@contextlib.contextmanager
def resumable_folder(out: Path, check: Callable[[], None], journals: str) -> Iterator[Path]:
    """Give a folder beside `out` as a run that was cut off has left it; on success it takes `out`'s place.

    journals: the pattern of the files in it that say, a line each below a first one, what is done; they go before the
    swap. After an interruption, a full disk or a kill the folder stays when they say anything, and StoppedError and
    DiskFullError tell so. After any other EdgekitError it goes: the same command would meet that again. `check` as of
    `staged_folder`.
    """
    stage = beside(out, "partial")
    again = "the same command goes on where it stopped"
    kept = False
    throw = f"rm -r {shlex.quote(str(stage))} throws away what is done"
    try:
        with _claimed(stage, out, anew=False):
            keeps = True
            try:
                _settle(out)
                check()
                yield stage
                check()
                for path in stage.glob(journals):
                    path.unlink()
                _swap(stage, out)
            except WriteError:
                raise
            except EdgekitError:
                keeps = False
                raise
            finally:
                kept = keeps and _says(stage, journals)
                if not kept:
                    discard(stage)
    except KeyboardInterrupt as error:
        if not kept:
            raise
        raise StoppedError(f"interrupted; {again}", throw) from error
    except (DiskFullError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in FULL:
            write_failed(out, error)
        left = "what is done was kept" if kept else "nothing was kept"
        hint = f"free some space and run the same command again ({throw})" if kept else USE_ANOTHER
        raise DiskFullError(f"{out}: the disk is full; {left}", hint) from error


def _says(stage: Path, journals: str) -> bool:
    """Tell whether a journal has a second line."""
    for path in stage.glob(journals):
        with path.open("rb") as file:
            if file.readline() and file.readline().endswith(b"\n"):
                return True
    return False


def beside(out: Path, ending: str) -> Path:
    """Name a hidden folder beside `out` that is edgekit's own, so that it may remove whatever is under that name."""
    name = f".{out.name}.edgekit-{ending}"
    if len(os.fsencode(name)) > NAME_BYTES:
        name = f".{sha256(os.fsencode(out.name))}.edgekit-{ending}"
    return out.with_name(name)


@contextlib.contextmanager
def _claimed(stage: Path, out: Path, *, anew: bool) -> Iterator[None]:
    """Make the stage and hold a lock on it: two runs must not write, and clean up, one and the same folder.

    anew: one that is there is made again.
    """
    busy = EdgekitError(f"{out}: another run is writing it", "wait until it is done, or use --out to choose another")
    with contextlib.ExitStack() as locks:
        if stage.is_dir() and anew:
            with contextlib.ExitStack() as old:
                if not _locked(stage, old):
                    raise busy
                discard(stage)
        try:
            stage.mkdir(exist_ok=not anew)
        except FileExistsError:
            raise busy from None
        if not _locked(stage, locks):
            raise busy
        yield


def _locked(folder: Path, until: contextlib.ExitStack) -> bool:
    """Lock a folder until `until` closes; a file system without locks counts as locked."""
    try:
        import fcntl
    except ImportError:  # not a Unix
        return True
    handle = os.open(folder, os.O_RDONLY)
    until.callback(os.close, handle)
    deadline = time.monotonic() + WAITED
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
            continue
        except OSError:
            return True
        return folder.exists() and os.path.samestat(folder.stat(), os.fstat(handle))


def _swap(stage: Path, out: Path) -> None:
    try:
        if out.exists():
            out.rename(beside(out, "old"))
        stage.rename(out)
    finally:
        _settle(out)


def _settle(out: Path) -> None:
    """Put the old output back where a swap was cut off in its middle; remove it where the swap came through."""
    old = beside(out, "old")
    if out.exists():
        discard(old)
    elif old.is_dir():
        old.rename(out)


def discard(folder: Path) -> None:
    """Remove a folder and all in it, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)


def sweep(folder: Path, keep: Callable[[str], bool]) -> None:
    """Remove every file below a folder whose path in it `keep` refuses, and the folders that are empty then."""
    for parent, folders, names in os.walk(folder, topdown=False):
        for name in (*names, *folders):
            path = Path(parent, name)
            if name in folders and not path.is_symlink():
                with contextlib.suppress(OSError):  # it is not empty
                    path.rmdir()
            elif not keep(path.relative_to(folder).as_posix()):
                path.unlink()


def size(folder: Path) -> int:
    """Give the bytes of all files below a folder; 0 when there is none."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # it has just gone
                total += Path(parent, name).lstat().st_size
    return total


def link(source: Path, target: Path) -> None:
    """Give one of edgekit's own files a second name, until the first one goes; a copy where that cannot be done."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def copy(source: Path, data: bytes, target: Path) -> None:
    """Copy a file whose bytes are at hand: a reflink where the file system has it, else those bytes; never a link."""
    with target.open("wb") as writer:
        try:
            with source.open("rb") as reader:
                linked = _reflink(reader.fileno(), writer.fileno()) and os.fstat(writer.fileno()).st_size == len(data)
        except OSError:  # it vanished since it was read
            linked = False
        if not linked:
            writer.truncate(0)
            writer.write(data)


def _reflink(source: int, target: int) -> bool:
    try:
        import fcntl
    except ImportError:  # not a Unix
        return False
    ficlone = 0x40049409  # linux/fs.h: FICLONE
    try:
        fcntl.ioctl(target, ficlone, source)
    except OSError:
        return False
    return True


def digest(path: Path) -> str:
    """Give the hexadecimal SHA-256 of a file; raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256(data: bytes) -> str:
    """Give the hexadecimal SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()


def free_bytes(folder: Path) -> int:
    """Give the free space of the file system that `folder` is on, in bytes."""
    return shutil.disk_usage(folder).free
