"""Class folders: a folder of pictures, flat or one folder a class, at any depth."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgekit.data.headers import PICTURE_SUFFIXES, Unreadable
from edgekit.errors import EdgekitError


@dataclass(frozen=True)
class Source:
    """One picture file: its path, its key (the path below the root, with `/`) and its size in bytes."""

    path: Path
    key: str
    bytes: int

    @property
    def label(self) -> str | None:
        """The class path: what stands above the file, or None in a flat folder."""
        return self.key.rpartition("/")[0] or None


@dataclass(frozen=True)
class Listing:
    """What a folder holds: its pictures in the order of their keys, and how much was passed by.

    `others` are files that are not pictures, `folders` those that were not entered: hidden ones and links.
    """

    root: Path
    sources: tuple[Source, ...]
    others: int
    folders: int = 0

    @property
    def labels(self) -> tuple[str, ...]:
        """The class paths, sorted."""
        return tuple(sorted({source.label for source in self.sources if source.label is not None}))

    def names(self) -> frozenset[str]:
        """Give every name that is taken: the pictures' keys, and the folders above them."""
        keys = {source.key for source in self.sources}
        parents = {str(parent) for label in self.labels for parent in (label, *PurePosixPath(label).parents)}
        return frozenset(keys | parents)


def scan(root: Path) -> Listing:
    """List a folder of pictures; the extension decides what is one.

    Links to files are followed, links to folders are not; hidden files and folders are passed by. Raises EdgekitError
    when there is no such folder or no picture in it.
    """
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "no such folder"
        raise EdgekitError(f"{root}: {what}", "give a folder of pictures, flat or with one folder a class")
    sources: list[Source] = []
    others = skipped = 0
    problem: list[OSError] = []
    for folder, folders, names in os.walk(root, onerror=problem.append):
        entered = sorted(name for name in folders if not name.startswith(".") and not Path(folder, name).is_symlink())
        skipped += len(folders) - len(entered)
        folders[:] = entered
        for name in names:
            path = Path(folder, name)
            if path.suffix.lower() not in PICTURE_SUFFIXES or name.startswith("."):
                others += 1
                continue
            key = path.relative_to(root).as_posix()
            try:
                size = path.stat().st_size
            except OSError:  # a dangling link or a vanished file: reading it will say so, in its row
                size = 0
            sources.append(Source(path, key, size))
    if problem:
        error = problem[0]
        raise EdgekitError(f"{error.filename}: cannot be read: {error.strerror}", "mend its permissions")
    if not sources:
        kinds = "jpg, png, webp, bmp, tif, gif ..."
        passed = passed_by(others, skipped)
        raise EdgekitError(
            f"{root}: no pictures in it{f' ({passed})' if passed else ''}", f"give a folder with {kinds} files"
        )
    sources.sort(key=lambda source: source.key)
    return Listing(root, tuple(sources), others, skipped)


def passed_by(others: int, folders: int) -> str:
    """Say what was passed by, or nothing."""
    parts = [f"{others:,} files that are not pictures"] if others else []
    parts += [f"{folders:,} folders that are hidden or links"] if folders else []
    return ", ".join(parts)


def read(source: Source, most: int) -> bytes:
    """Read a source; raise Unreadable when it is a pipe, a device or over `most` bytes, OSError when it is gone."""
    handle = os.open(source.path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("not a regular file")
        if status.st_size > most:
            raise Unreadable(f"a file of {status.st_size / 1e6:,.0f} MB, over the limit of {most / 1e6:,.0f} MB")
        return file.read()
