"""Splits: which words in folder and file names mean train, val and test."""

from __future__ import annotations

import re
from collections.abc import Iterable

TRAIN, VAL, TEST = SPLITS = ("train", "val", "test")
_WORDS = {
    "train": TRAIN, "training": TRAIN,
    "val": VAL, "valid": VAL, "validation": VAL, "dev": VAL,
    "test": TEST, "testing": TEST,
}  # fmt: skip


def of_word(word: str) -> str | None:
    """Give the split that a word means, digits after it (val2017) passed over; None when it means none."""
    return _WORDS.get(word.lower().rstrip("0123456789"))


def of_folders(key: str) -> str | None:
    """Give the split of a picture's key by the topmost folder that means one."""
    return next((split for part in key.split("/")[:-1] if (split := of_word(part)) is not None), None)


def of_name(stem: str) -> str | None:
    """Give the split that the name of a file tells (instances_val2017); None when it tells none, or several."""
    found = {split for word in re.split(r"[^A-Za-z0-9]+", stem) if (split := of_word(word)) is not None}
    return found.pop() if len(found) == 1 else None


def ordered(found: Iterable[str | None]) -> tuple[str, ...]:
    """List the splits there are: train, val, test, then any others by name."""
    names = {split for split in found if split is not None}
    return tuple(sorted(names, key=lambda name: (SPLITS.index(name) if name in SPLITS else len(SPLITS), name)))
