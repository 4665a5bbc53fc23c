"""Verify: whether an output is still what edgekit wrote: pictures, label files, rows and stamp, and nothing else."""

from __future__ import annotations

import json
import os
import stat
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from edgekit import files
from edgekit.data import manifest
from edgekit.data.folder import is_cache
from edgekit.data.frame import upright_size
from edgekit.data.headers import Unreadable, read_header
from edgekit.errors import EdgekitError
from edgekit.words import counted

SCHEMA = "edgekit.verify/1"
AHEAD = 256  # rows under way, whatever the number of threads: findings come in the same order
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it was written: the file it is about, and what is wrong with it."""

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


@dataclass
class Result:
    """The answer of `edgekit verify`."""

    folder: str
    pictures: int = 0
    label_files: int = 0
    texts: int = 0
    rejected: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 when everything is intact."""
        return 1 if self.findings else 0

    def to_dict(self) -> dict[str, Any]:
        """Give the versioned document that --json prints."""
        return {
            "schema": SCHEMA,
            "generator": files.MADE_BY,
            "folder": self.folder,
            "pictures": self.pictures,
            "label_files": self.label_files,
            **({"texts": self.texts} if self.texts else {}),
            "rejected": self.rejected,
            "findings": [{"path": one.path, "what": one.what} for one in self.findings],
            "exit_code": self.exit_code,
        }


def read_stamp(folder: Path, schemas: Collection[str]) -> dict[str, Any] | None:
    """Read the stamp of an output; None when it is damaged.

    Raises EdgekitError when there is none, when it is not edgekit's, or when its schema is not one of `schemas`.
    """
    path = folder / files.STAMP
    hint = "give a folder that edgekit augment wrote"
    if not folder.is_dir():
        raise EdgekitError(f"{folder}: {'is not a folder' if folder.exists() else 'no such folder'}", hint)
    if not path.is_file():
        raise EdgekitError(f"{folder}: is not an output of edgekit: it has no {files.STAMP}", hint)
    try:
        text = path.read_bytes()
    except OSError as error:
        raise EdgekitError(f"{path}: cannot be read: {error.strerror}", "mend its permissions") from None
    if files.MARK.encode() not in text:
        raise EdgekitError(f"{folder}: is not an output of edgekit: its {files.STAMP} is not edgekit's", hint)
    try:
        stamp = json.loads(text)
        schema = stamp["schema"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if schema not in schemas:
        hint = f"use the edgekit that made it: {stamp.get('generator', 'a newer one')}"
        raise EdgekitError(f"{path}: its schema {schema} is not known", hint)
    return dict(stamp)


def verify(
    folder: Path,
    schemas: Collection[str],
    litter: Collection[str],
    threads: int,
    progress: Progress | None = None,
    whole: Collection[str] = (),
) -> Result:
    """Check every file, row and digest of an output; memory grows by the names of its files alone.

    litter: names of files that anybody may have left. whole: schemas of outputs that are one file, of whose rows the
    stamp's digests tell. Raises EdgekitError when it is not an output of edgekit.
    """
    stamp = read_stamp(folder, (*schemas, *whole))
    check = _Check(folder, stamp, Result(str(folder)))
    check.stamp()
    if stamp is not None and stamp["schema"] in whole:
        check.texts()
    else:
        if not check.tells():
            return check.result
        check.rows(threads, progress)
        check.rejected()
    check.foreign(litter)
    return check.result


class _Check:
    """One verification. `_known`: every file that is to be there, and its digest where that is known."""

    def __init__(self, folder: Path, stamp: Mapping[str, Any] | None, result: Result) -> None:
        self.result = result
        self._folder, self._stamp = folder, stamp
        self._known: dict[str, str] = {files.STAMP: ""}
        self._sources: dict[str, tuple[Any, Any, Any]] = {}  # by source: its digest, its number of rows, their digest
        self._told = False  # whether that is known
        self._counts = dict.fromkeys(("originals", "variants", "rejected"), 0)

    def _find(self, path: str, what: str) -> None:
        if what:
            self.result.findings.append(Finding(path, what))

    def stamp(self) -> None:
        """Check the stamp, the files of rows, and those that describe the whole set."""
        if self._stamp is None:
            self._find(files.STAMP, "is damaged")
            listed = [(name, "") for name in manifest.RECORDS if (self._folder / name).exists()]
        else:
            self._find(files.STAMP, "" if manifest.is_sealed(self._stamp) else "was edited")
            listed = _listed(self._stamp)
        self._known |= dict(listed)
        for name in dict(listed):
            self._find(name, self._examine(name, "was edited"))
        for _, row in self._read(manifest.SOURCES, ("source", "sha256", "rows")):
            self._sources[str(row["source"])] = (row["sha256"], row["rows"], row.get("made"))
        self._told = bool(self._sources)

    def tells(self) -> bool:
        """Tell whether a row can be read, where rows were written; else that is the one finding, and all there is."""
        for number, text in enumerate(self._text(manifest.MANIFEST), 1):
            with suppress(EdgekitError):
                manifest.parsed(text, f"{number}")
                return True
        if self._told and not any(count for _, count, _ in self._sources.values()):
            return True
        at = [one.path for one in self.result.findings]
        if manifest.MANIFEST in at:
            place = at.index(manifest.MANIFEST)
            what = f"{self.result.findings[place].what}, and no row of it can be read: no picture was checked"
            self.result.findings[place] = Finding(manifest.MANIFEST, what)
        else:
            self._find(manifest.MANIFEST, "no row of it can be read: no picture was checked")
        return False

    def rows(self, threads: int, progress: Progress | None) -> None:
        """Check every row of the manifest, and the files that it stands for."""
        total = sum(one[1] for one in self._sources.values() if isinstance(one[1], int))
        with ThreadPoolExecutor(threads) as pool:
            waiting: deque[Future[list[Finding]]] = deque()
            for source, lines in groupby(self._lines(manifest.MANIFEST), lambda line: line.source):
                group = list(lines)
                self._group(source, group)
                for line in group:
                    self.result.pictures += 1
                    self._counts["variants" if line.row["variant"] else "originals"] += 1
                    waiting.append(pool.submit(self._row, line, self._new(line)))
                    while len(waiting) > AHEAD:
                        self.result.findings += waiting.popleft().result()
                    if progress is not None:
                        progress(self.result.pictures, max(total, self.result.pictures))
            while waiting:
                self.result.findings += waiting.popleft().result()
        for source, (_, count, _) in self._sources.items():
            if count:
                self._find(manifest.MANIFEST, f"has no row of {source}, which had {count}")

    def texts(self) -> None:
        """Count the rows of an output that is one file; its digest has been checked."""
        self.result.texts = sum(1 for _ in self._text(manifest.MANIFEST))
        self.result.rejected = sum(1 for _ in self._text(manifest.REJECTED))

    def _text(self, name: str) -> Iterator[bytes]:
        """Give the lines of a file; none when it is no file: that is a finding already."""
        with suppress(OSError):
            if (self._folder / name).is_file():
                with (self._folder / name).open("rb") as file:
                    yield from file

    def _lines(self, name: str) -> Iterator[_Line]:
        """Read the rows that are whole; find those that are not."""
        for number, text in enumerate(self._text(name), 1):
            where = f"{name}:{number}"
            try:
                yield _Line(where, text, manifest.parsed(text, where))
            except EdgekitError as error:
                self._find(where, error.message.removeprefix(f"{where}: "))

    def _group(self, source: str, lines: Sequence[_Line]) -> None:
        """Check the rows of a source against what is known of it."""
        where = lines[0].where
        if not self._told:  # that there is no such file is a finding of its own, where it was written
            return
        sha256, count, made = self._sources.pop(source, (None, None, None))
        if sha256 is None:
            self._find(where, f"is of {source}, of which no rows were written")
        elif len(lines) != count:
            self._find(where, f"is of {source}, which has {counted(len(lines), 'row')} and had {count}")
        elif made not in (None, files.sha256(b"".join(line.text for line in lines))):
            last = lines[-1].where.rpartition(":")[2]
            self._find(f"{where}-{last}" if lines[1:] else where, f"what is said of {source} was edited")

    def _new(self, line: _Line) -> list[str]:
        """Give the files of a row that no row before it has."""
        new = []
        for name, digest in manifest.outputs(line.row):
            if name not in self._known:
                self._known[name] = digest
                new.append(name)
            elif name == line.row["file_name"]:
                self._find(line.where, f"is another row of {name}")
            elif self._known[name] != digest:
                self._find(line.where, f"has another digest of {name} than the row before")
        self.result.label_files += len([name for name in new if name != line.row["file_name"]])
        return new

    def _row(self, line: _Line, names: Sequence[str]) -> list[Finding]:
        """Check the files of a row; several threads do."""
        found = []
        for name in names:
            what = self._examine(name, f"is not what its row says ({line.where})")
            if what:
                found.append(Finding(name, what))
            elif name == line.row["file_name"]:
                found += self._size(line)
        return found

    def _size(self, line: _Line) -> list[Finding]:
        name, said = line.row["file_name"], (line.row.get("width"), line.row.get("height"))
        try:
            size = upright_size(read_header((self._folder / name).read_bytes()))
        except (Unreadable, OSError):
            return []
        same = f"says {said[0]}x{said[1]} of {name}, which is {size[0]}x{size[1]}"
        return [] if said == size else [Finding(line.where, same)]

    def rejected(self) -> None:
        """Check the rows of what was rejected, and the numbers of all rows."""
        for where, row in self._read(manifest.REJECTED, ("source", "source_sha256", "reason")):
            self._counts["rejected"] += 1
            known = self._sources.get(str(row["source"]))
            if self._told and (known is None or known[:2] != (row["source_sha256"], 0)):
                self._find(where, "was edited: no such picture was rejected")
        said = (self._stamp or {}).get("counts")
        if isinstance(said, dict):
            for name, count in self._counts.items():
                if said.get(name) != count:
                    where = manifest.REJECTED if name == "rejected" else manifest.MANIFEST
                    self._find(files.STAMP, f"says {said.get(name)} {name}, and {where} has {count}")
        self.result.rejected = self._counts["rejected"]

    def _read(self, name: str, keys: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Read the rows of a file that have these keys, with their places; find the others."""
        for number, text in enumerate(self._text(name), 1):
            try:
                row = json.loads(text)
                whole = isinstance(row, dict) and all(key in row for key in keys)
            except (ValueError, TypeError, RecursionError):
                whole = False
            if whole:
                yield f"{name}:{number}", row
            else:
                self._find(f"{name}:{number}", "is damaged")

    def foreign(self, litter: Collection[str]) -> None:
        """Find files, links and folders that no row names; whose they are is open when rows are missing or damaged."""
        torn = any(one.path.partition(":")[0] in (manifest.MANIFEST, files.STAMP) for one in self.result.findings)
        whose = "is named by no row" if torn else "was not made by edgekit"
        folders = {str(parent) for name in self._known for parent in PurePosixPath(name).parents}
        for parent, inner, names in os.walk(self._folder, onerror=self._unread):
            below = Path(parent).relative_to(self._folder)
            links = [name for name in inner if Path(parent, name).is_symlink()]
            strange = [name for name in inner if name not in links and (below / name).as_posix() not in folders]
            for name in sorted((*links, *names)):
                path = (below / name).as_posix()
                if path not in self._known and name not in litter and not is_cache(name, inner):
                    self._find(path, "is a link of somebody else's" if name in links else whose)
            for name in sorted(strange):
                self._find(
                    f"{(below / name).as_posix()}/",
                    "is a folder with nothing that a row names" if torn else f"is a folder that {whose}",
                )
            inner[:] = sorted(set(inner) - set(links) - set(strange))

    def _unread(self, error: OSError) -> None:
        path = Path(os.fsdecode(error.filename or self._folder))
        self._find(path.relative_to(self._folder).as_posix(), f"cannot be read: {error.strerror}")

    def _examine(self, name: str, changed: str) -> str:
        """Say what is wrong with a file; `changed` when it is not what it was."""
        path = self._folder / name
        try:
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode):
                return "is a link, not a file" if stat.S_ISLNK(status.st_mode) else "is not a file"
            return changed if self._known[name] not in ("", files.digest(path)) else ""
        except (FileNotFoundError, NotADirectoryError):
            return "is missing"
        except OSError as error:
            return f"cannot be read: {error.strerror}"


@dataclass(frozen=True)
class _Line:
    """A row, where it stands, and as it stands there."""

    where: str
    text: bytes
    row: Mapping[str, Any]

    @property
    def source(self) -> str:
        return str(self.row["source"])


def _listed(stamp: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Give the files that a stamp has digests of; those with odd paths are left out: its own digest tells of them."""
    try:
        found = [*stamp["files"].items(), *manifest.closing(stamp)]
        return [(name, str(digest)) for name, digest in found if manifest.is_inside(name)]
    except (AttributeError, KeyError, TypeError, ValueError):
        return [(name, "") for name in manifest.RECORDS]
