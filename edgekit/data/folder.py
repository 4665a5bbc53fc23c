"""Class folders: a folder of pictures, flat or one folder a class, at any depth."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from edgekit.data.headers import PICTURE_SUFFIXES
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
    """What a folder holds: its pictures in the order of their keys, and how many files are not pictures."""

    root: Path
    sources: tuple[Source, ...]
    others: int

    @property
    def labels(self) -> tuple[str, ...]:
        """The class paths, sorted."""
        return tuple(sorted({source.label for source in self.sources if source.label is not None}))


def scan(root: Path) -> Listing:
    """List a folder of pictures; the extension decides what is one.

    Links to files are followed, links to folders are not. Raises EdgekitError when there is no such folder or no
    picture in it.
    """
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "no such folder"
        raise EdgekitError(f"{root}: {what}", "give a folder of pictures, flat or with one folder a class")
    sources: list[Source] = []
    others = 0
    problem: list[OSError] = []
    for folder, folders, names in os.walk(root, onerror=problem.append):
        folders.sort()
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
        found = f" ({others} other files)" if others else ""
        raise EdgekitError(f"{root}: no pictures in it{found}", f"give a folder with {kinds} files")
    sources.sort(key=lambda source: source.key)
    return Listing(root, tuple(sources), others)
