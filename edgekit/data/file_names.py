"""Which picture a file name in a label file means."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from edgekit.data import splits
from edgekit.data.folder import Source


def match(names: Sequence[str], sources: Sequence[Source], document: Path | None = None) -> list[Source | None]:
    """Find the picture of each file name: the one whose path ends with most of it; None when there is none.

    Names may have folders in front, of another machine too, in either kind of slashes. Of several pictures that fit
    alike one below the document's own folder is taken, one whose folders tell its split, one below a folder called
    `images`, else the first; of several names that mean one picture (train/1.jpg and val/1.jpg in the folder val) the
    one that fits it best.
    """
    by_tail: dict[tuple[str, ...], list[Source]] = defaultdict(list)
    for source in sources:
        parts = source.path.absolute().parts
        for length in range(1, _TAIL + 1):
            by_tail[parts[-length:]].append(source)
    claims: dict[str, list[tuple[_Likeness, int, Source]]] = defaultdict(list)
    for number, name in enumerate(names):
        wanted = PurePosixPath(name)
        if wanted.parts[-1:] not in by_tail:
            wanted = PurePosixPath(name.replace("\\", "/"))
        tails = (wanted.parts[-length:] for length in range(_TAIL, 0, -1))
        fitting = next((by_tail[tail] for tail in tails if tail in by_tail), None)
        if fitting:
            nearest = max(fitting, key=partial(_likeness, wanted, document))
            claims[nearest.key].append((_likeness(wanted, document, nearest), -number, nearest))
    chosen: list[Source | None] = [None] * len(names)
    for rivals in claims.values():
        _, negated, winner = max(rivals, key=lambda claim: claim[:2])
        chosen[-negated] = winner
    return chosen


_Likeness = tuple[int, bool, bool, bool]
_TAIL = 3  # parts of a path that pictures are looked up by: 1,000 films may each have a 0001.jpg


def _likeness(wanted: PurePosixPath, document: Path | None, source: Source) -> _Likeness:
    path = source.path.absolute()
    alike = 0
    for one, other in zip(reversed(wanted.parts), reversed(path.parts), strict=False):
        if one != other:
            break
        alike += 1
    below = told = False
    if document is not None:
        below = path.is_relative_to(document.parent)
        told = splits.of_folders(source.key) == splits.of_name(document.stem)
    return alike, below, told, "images" in source.key.split("/")
