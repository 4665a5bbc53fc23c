"""Names of what is made of a picture: none is taken twice, and none is a source's."""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from edgekit import files

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet


def variant_name(key: str, number: int, suffix: str, keys: AbstractSet[str], *, whole: bool = False) -> str:
    """Name a variant: `cat.jpg` -> `cat__k02.jpg`, and `a.gif` -> `a.gif__k02.png` when the format changes.

    `keys` are all sources and their folders: no variant takes the name of one, nor that of another source's variant.
    whole: keep the source's suffix in the name anyway. Deterministic; names over 255 bytes are cut and carry 8 digits
    of the key's digest.
    """
    folder, slash, file = key.rpartition("/")  # text, and no paths: they would take most of the time of a draw
    place = file.rfind(".")
    stem, own = (file[:place], file[place:]) if 0 < place < len(file) - 1 else (file, "")
    if suffix != own or whole:
        stem = file
        while f"{folder}{slash}{stem}{suffix}" in keys:  # that source's variants would be called the same
            stem += "_"
    tail = f"__k{number:02d}"
    name = folder + slash + _fit(stem, tail + suffix, key)
    while name in keys:
        tail += "_"
        name = folder + slash + _fit(stem, tail + suffix, key)
    return name


def same_name(path: PurePosixPath, suffix: str, keys: AbstractSet[str]) -> str:
    """Name a picture as its source, in another folder: `a.gif` is `a.gif.png` when the format changes."""
    stem = path.stem
    if suffix != path.suffix:
        stem = path.name
        while str(path.with_name(stem + suffix)) in keys:  # that one's would be called the same
            stem += "_"
    return str(path.with_name(stem + suffix))


def _fit(stem: str, tail: str, key: str) -> str:
    raw = stem.encode("utf-8", "surrogateescape")
    room = files.NAME_BYTES - len(tail.encode())
    if len(raw) <= room:
        return stem + tail
    digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
    return raw[: room - 9].decode("utf-8", "ignore") + "-" + digest + tail
