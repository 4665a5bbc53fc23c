"""Class folders: a folder of pictures, flat or one folder a class, at any depth."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgekit.data.headers import PICTURE_SUFFIXES, Unreadable
from edgekit.errors import EdgekitError
from edgekit.words import counted

# How links are treated: those to files are followed wherever they lead; only those that stay inside the folder; all.
FILES, INSIDE, ALL = "files", "inside", "all"
LEADS_OUTSIDE = "a link that leads outside of the folder (--follow-links follows it)"


@dataclass(frozen=True)
class Source:
    """One picture file: its path, its key (the path below the root, with `/`) and its size in bytes.

    refused: why it is not to be read; empty for nearly all.
    """

    path: Path
    key: str
    bytes: int
    refused: str = ""

    @property
    def label(self) -> str | None:
        """The class path: what stands above the file, or None in a flat folder."""
        return self.key.rpartition("/")[0] or None


@dataclass(frozen=True)
class Listing:
    """What a folder holds: its pictures in the order of their keys, and how much was passed by.

    `others` are files that are not pictures, `folders` those that were not entered: hidden ones and links. `outside`
    are the paths of the links among them that lead outside of the folder, when none is to be followed. links: how they
    were treated.
    """

    root: Path
    sources: tuple[Source, ...]
    others: int
    folders: int = 0
    outside: tuple[str, ...] = ()
    links: str = FILES

    @property
    def labels(self) -> tuple[str, ...]:
        """The class paths, sorted."""
        return tuple(sorted({source.label for source in self.sources if source.label is not None}))

    def names(self) -> frozenset[str]:
        """Give every name that is taken: the pictures' keys, and the folders above them."""
        keys = {source.key for source in self.sources}
        parents = {str(parent) for label in self.labels for parent in (label, *PurePosixPath(label).parents)}
        return frozenset(keys | parents)

    def leading_outside(self, files: Iterable[Path]) -> frozenset[Path]:
        """Give those of `files`, in this folder or near it, that are reached by links out of it and so not to be read.

        What lies beside the folder belongs to it. Raises EdgekitError when that is all of them.
        """
        if self.links != INSIDE:
            return frozenset()
        root = self.root.absolute()
        real: dict[Path, tuple[str, str]] = {}
        found, others = set(), 0
        for path in files:
            folder = path.absolute().parent
            if folder not in real:
                real[folder] = os.path.realpath(folder), os.path.realpath(os.path.commonpath([root, folder]))
            place, home = real[folder]
            if _holds(home, os.path.realpath(path) if path.is_symlink() else place):
                others += 1
            else:
                found.add(path)
        if found and not others:
            what = f"{min(found)}: is reached by a link that leads outside of {self.root}"
            raise EdgekitError(what, "use --follow-links")
        return frozenset(found)


def scan(root: Path, links: str = FILES) -> Listing:
    """List a folder of pictures; the extension decides what is one. Hidden files and folders are passed by.

    links: FILES follows links to files and passes links to folders by; INSIDE refuses those that lead outside of `root`
    too, files as sources that cannot be read; ALL follows every link, and enters each folder once. Raises EdgekitError
    when there is no such folder, when one in it cannot be read, or when there is no picture in it.
    """
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "no such folder"
        raise EdgekitError(f"{root}: {what}", "give a folder of pictures, flat or with one folder a class")
    walk = _Walk(root, links)
    try:
        walk.enter("")
        walk.follow()
    except OSError as error:
        what = os.fsdecode(error.filename or root)
        raise EdgekitError(f"{what}: cannot be read: {error.strerror}", "mend its permissions") from error
    if not walk.sources:
        kinds = "jpg, png, webp, bmp, tif, gif ..."
        passed = passed_by(walk.others, walk.folders)
        more = ", or use --follow-links" if walk.outside else ""
        raise EdgekitError(
            f"{root}: no pictures in it{f' ({passed})' if passed else ''}", f"give a folder with {kinds} files{more}"
        )
    walk.sources.sort(key=lambda source: source.key)
    return Listing(root, tuple(walk.sources), walk.others, walk.folders, tuple(sorted(walk.outside)), links)


class _Walk:
    """The state of one listing."""

    def __init__(self, root: Path, links: str) -> None:
        self.sources: list[Source] = []
        self.others = self.folders = 0
        self.outside: list[str] = []
        self._root, self._links = root, links
        self._real = os.path.realpath(root)
        self._entered: set[tuple[int, int]] = set()
        self._waiting: list[str] = []

    def enter(self, below: str) -> None:
        """List the folder `below` the root ("" or "a/b/") and those in it that are no links."""
        pending = [below]
        while pending:
            below = pending.pop()
            self._entered.add(_identity(self._root / below))
            with os.scandir(self._root / below) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
            for entry in found:
                if not _is_folder(entry):
                    self._file(entry, below)
                elif entry.is_symlink() and not entry.name.startswith("."):
                    self._folder_link(below + entry.name)
                elif entry.name.startswith(".") or _identity(self._root / below / entry.name) in self._entered:
                    self.folders += 1
                else:
                    pending.append(f"{below}{entry.name}/")

    def follow(self) -> None:
        """Enter the folders that links lead to, each once: real folders have been, so their own names are theirs."""
        while self._waiting:
            self._waiting.sort(reverse=True)
            key = self._waiting.pop()
            around = _holds(os.path.realpath(self._root / key), self._real)  # what holds the root is never entered
            if around or _identity(self._root / key) in self._entered:
                self.folders += 1
            else:
                self.enter(f"{key}/")

    def _folder_link(self, key: str) -> None:
        if self._links == ALL:
            self._waiting.append(key)
            return
        self.folders += 1
        if self._links == INSIDE and not self._is_inside(key):
            self.outside.append(key)

    def _file(self, entry: os.DirEntry[str], below: str) -> None:
        name = entry.name
        if name.startswith(".") or PurePosixPath(name).suffix.lower() not in PICTURE_SUFFIXES:
            self.others += 1
            return
        key, refused, size = below + name, "", 0
        try:
            size = entry.stat().st_size
            if self._links == INSIDE and entry.is_symlink() and not self._is_inside(key):
                refused = LEADS_OUTSIDE
        except OSError:  # a dangling link or a vanished file
            refused = "a link to a file that is not there" if entry.is_symlink() else ""
        self.sources.append(Source(self._root / key, key, size, refused))

    def _is_inside(self, key: str) -> bool:
        return _holds(self._real, os.path.realpath(self._root / key))


def _holds(folder: str, path: str) -> bool:
    """Tell whether a path is a folder or lies in it; both are real, without links."""
    return f"{path}{os.sep}".startswith(f"{folder.rstrip(os.sep)}{os.sep}")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def is_cache(name: str, beside: Iterable[str]) -> bool:
    """Tell whether a file is what a training run of Ultralytics leaves of a folder beside it (train.cache of train)."""
    return name.endswith(".cache") and any(PurePosixPath(one).with_suffix(".cache").name == name for one in beside)


def passed_by(others: int, folders: int) -> str:
    """Say what was passed by, or nothing."""
    parts = [counted(others, "file", "that is not a picture", "that are not pictures")] if others else []
    if folders:
        parts.append(counted(folders, "folder", "that is hidden or a link", "that are hidden or links"))
    return ", ".join(parts)


def outside(listing: Listing) -> str:
    """Say which links to folders were passed by because they lead outside."""
    links = counted(len(listing.outside), "link", "to a folder", "to folders")
    said = f"passed by {links} outside of {listing.root} (first: {listing.outside[0]})"
    return f"{said}; --follow-links enters such folders"


def read(source: Source, most: int) -> bytes:
    """Read a source; raise Unreadable when it is refused, a pipe, a device or over `most` bytes, OSError when gone."""
    if source.refused:
        raise Unreadable(source.refused)
    handle = os.open(source.path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("not a regular file")
        if status.st_size > most:
            raise Unreadable(f"a file of {status.st_size / 1e6:,.0f} MB, over the limit of {most / 1e6:,.0f} MB")
        return file.read()
