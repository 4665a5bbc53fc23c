"""The manifest: one JSON line an output, one a rejected input, and the stamp of the run.

Rows are plain dicts in a fixed key order, ASCII-escaped, so that a path of any bytes survives and two runs give the
same bytes. `file_name` comes first: the file is a valid Hugging Face ImageFolder metadata file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

MANIFEST = "manifest.jsonl"
REJECTED = "rejected.jsonl"


def line(row: Mapping[str, Any]) -> str:
    """Write one row as a line."""
    return json.dumps(row, ensure_ascii=True, allow_nan=False) + "\n"


def document(values: Mapping[str, Any]) -> str:
    """Write a stamp: indented, so that people can read it."""
    return json.dumps(values, ensure_ascii=True, allow_nan=False, indent=2) + "\n"


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Read the rows of a manifest."""
    with path.open(encoding="ascii") as file:
        for text in file:
            yield json.loads(text)


def listed(files: Sequence[tuple[str, bytes]]) -> list[dict[str, str]]:
    """Give files as rows and stamps list them."""
    return [{"path": path, "sha256": hashlib.sha256(data).hexdigest()} for path, data in files]


def outputs(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Give the files that a row stands for, the picture and its labels: path and SHA-256."""
    return [(row["file_name"], row["sha256"]), *((one["path"], one["sha256"]) for one in row.get("label_files", ()))]


def closing(stamp: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Give the files that describe the whole data set, of the stamp of a run: path and SHA-256."""
    return [(one["path"], one["sha256"]) for one in stamp.get("labels", {}).get("files", ())]


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
