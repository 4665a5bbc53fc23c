"""The manifest: one JSON line an output, one a rejected input, and the stamp of the run.

Rows are plain dicts in a fixed key order, ASCII-escaped, so that a path of any bytes survives and two runs give the
same bytes. `file_name` comes first: the file is a valid Hugging Face ImageFolder metadata file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from edgekit.errors import EdgekitError

MANIFEST = "manifest.jsonl"
REJECTED = "rejected.jsonl"
SOURCES = "sources.jsonl"
RECORDS = (MANIFEST, REJECTED, SOURCES)


def line(row: Mapping[str, Any]) -> str:
    """Write one row as a line."""
    return _encoded(row) + "\n"


_encoded = json.JSONEncoder(allow_nan=False).encode  # ASCII by default; made once, not for every row


def document(values: Mapping[str, Any]) -> str:
    """Write a stamp: indented, so that people can read it."""
    return json.dumps(values, ensure_ascii=True, allow_nan=False, indent=2) + "\n"


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Read the rows of a manifest."""
    with path.open(encoding="ascii") as file:
        for text in file:
            yield json.loads(text)


def parsed(text: bytes, where: str) -> dict[str, Any]:
    """Read one line of a manifest; raises EdgekitError, which says `where`, unless it is the row of an output."""
    try:
        row = json.loads(text)
        names = [name for name, _ in outputs(row)]
        whole = all(isinstance(row[key], kind) for key, kind in _ROW.items())
        whole = whole and all(isinstance(op["name"], str) and isinstance(op["params"], dict) for op in row["ops"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        whole, names = False, []
    if not whole:
        raise EdgekitError(f"{where}: is damaged, not the row of an output", DAMAGED)
    for name in names:
        if not is_inside(name):
            raise EdgekitError(f"{where}: names a file outside of the folder: {name}", DAMAGED)
    return row  # type: ignore[no-any-return]


DAMAGED = "give a manifest that nobody edited, or make the output again"
_ROW = {"file_name": str, "source": str, "source_sha256": str, "variant": int, "sha256": str, "ops": list}


def is_inside(name: object) -> bool:
    """Tell whether a path stays below the folder that it is relative to."""
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    return not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts


def listed(files: Sequence[tuple[str, bytes]]) -> list[dict[str, str]]:
    """Give files as rows and stamps list them."""
    return [{"path": path, "sha256": hashlib.sha256(data).hexdigest()} for path, data in files]


def outputs(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Give the files that a row stands for, the picture and its labels: path and SHA-256."""
    return [(row["file_name"], row["sha256"]), *((one["path"], one["sha256"]) for one in row.get("label_files", ()))]


def closing(stamp: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Give the files that describe the whole data set, of the stamp of a run: path and SHA-256."""
    return [(one["path"], one["sha256"]) for one in stamp.get("labels", {}).get("files", ())]


def sealed(stamp: Mapping[str, Any], folder: Path, more: Sequence[str] = ()) -> dict[str, Any]:
    """Add to a stamp the digests of the files of rows in its folder and of `more`, and one of the stamp itself."""
    files = {}
    for name in (*RECORDS, *more):
        if (folder / name).exists():
            with (folder / name).open("rb") as file:
                files[name] = hashlib.file_digest(file, "sha256").hexdigest()
    values = {key: value for key, value in stamp.items() if key != "sha256"} | {"files": files}
    return values | {"sha256": _seal(values)}


def is_sealed(stamp: Mapping[str, Any]) -> bool:
    """Tell whether a stamp is as it was sealed."""
    values = {key: value for key, value in stamp.items() if key != "sha256"}
    try:
        return stamp.get("sha256") == _seal(values)
    except (ValueError, RecursionError):  # NaN, which no stamp has
        return False


def _seal(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(document(values).encode("ascii")).hexdigest()


class InputDigest:
    """The digest of a run's inputs: every key and its SHA-256, in the order of the keys."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, key: str, sha256: str) -> None:
        """Take one input in."""
        self._digest.update(key.encode("utf-8", "surrogateescape") + b"\0" + sha256.encode() + b"\n")

    def hexdigest(self) -> str:
        """Give the digest of all inputs so far."""
        return self._digest.hexdigest()
