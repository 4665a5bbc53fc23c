"""Keypoints: which one takes whose place in a mirrored picture."""

from __future__ import annotations

import re
from collections.abc import Sequence

_OTHER = {"left": "right", "right": "left", "l": "r", "r": "l"}


def flip_index(names: Sequence[str]) -> tuple[int, ...]:
    """Give for each keypoint the one that takes its place in a mirrored picture, by the sides that names tell.

    A name with a side needs its counterpart; when one has none, or no name of several has a side, nothing is known: ().
    """
    lowered = [name.lower() for name in names]
    where = {name: number for number, name in enumerate(lowered)}
    found = []
    for number, name in enumerate(lowered):
        other = _mirrored(name)
        if other == name:
            found.append(number)
        elif other in where:
            found.append(where[other])
        else:
            return ()
    told = len(found) == 1 or found != list(range(len(found)))
    return tuple(found) if told and sorted(found) == list(range(len(found))) else ()


def _mirrored(name: str) -> str:
    """Swap the side in a name: left_eye, eye.L, right ankle, rknee stays what it is."""
    words = re.split(r"([^a-z0-9]+|\d+)", name)
    swapped = "".join(_OTHER.get(word, word) for word in words)
    if swapped != name:
        return swapped
    side = re.match(r"left|right", name)  # leftEye, in small letters
    return _OTHER[side[0]] + name[side.end() :] if side else name
