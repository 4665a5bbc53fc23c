"""Cache: arrays that took long to compute, kept from one run to the next in the user's cache folder.

A cache is never needed: what is missing, damaged or cannot be written is computed again, and nobody is told.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import files
from edgekit.lazy import np

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray]

LARGEST = 200_000_000  # bytes of all entries together
SUFFIX = ".edgekit-cache"


@dataclass(frozen=True)
class Cache:
    """Entries in `folder` (None: nothing is kept), the least recently used go when they are over `largest` bytes."""

    folder: Path | None = None
    largest: int = LARGEST

    def remember(self, key: str, make: Callable[[], Arrays]) -> Arrays:
        """Give the arrays kept under `key`, else make and keep them; the same values either way."""
        found = self.find(key)
        if found is None:
            found = make()
            self.keep(key, found)
        return found

    def find(self, key: str) -> Arrays | None:
        """Give the arrays kept under `key`; None when there are none."""
        if self.folder is None:
            return None
        path = self._path(key)
        found = _read(path, key)
        if found is not None:
            files.touch(path)
        return found

    def keep(self, key: str, arrays: Arrays) -> None:
        """Keep arrays under `key`, instead of those that were."""
        if self.folder is not None:
            files.keep(self._path(key), _written(arrays, key), self.largest)

    def forget(self, key: str) -> None:
        """Keep nothing under `key` any more."""
        if self.folder is not None:
            files.drop(self._path(key))

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / (hashlib.blake2b(key.encode(), digest_size=12).hexdigest() + SUFFIX)


def _written(arrays: Arrays, key: str) -> bytes:
    stream = io.BytesIO()
    # Numbered, so that no name collides with the parameters of savez; the key guards against a foreign file.
    numbered = {f"a{number}": array for number, array in enumerate(arrays.values())}
    heading = "\n".join([key, *arrays]).encode()
    np.savez_compressed(stream, heading=np.frombuffer(heading, np.uint8), **numbered)  # type: ignore[arg-type]
    return stream.getvalue()


def _read(path: Path, key: str) -> dict[str, np.ndarray] | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            found, *names = stored["heading"].tobytes().decode().split("\n")
            return {name: stored[f"a{number}"] for number, name in enumerate(names)} if found == key else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
