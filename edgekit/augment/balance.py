"""Balance: how many variants of each picture bring every class up to the same number of pictures."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Balance:
    """Variants of each picture, in the order given; the number that classes were to reach; and what they come to."""

    copies: tuple[int, ...]
    target: int
    counts: Mapping[str, int]

    @property
    def short(self) -> dict[str, int]:
        """The classes that do not reach the target, and what they come to."""
        return {name: count for name, count in sorted(self.counts.items()) if count < self.target}


def balance(
    holds: Mapping[str, Collection[str]],
    *,
    copies: int,
    most: int,
    originals: bool = True,
    per_class: int | None = None,
    seed: int = 0,
) -> Balance:
    """Choose the variants of each picture (`holds`: by its key, its classes) so that every class reaches one number.

    A class counts the pictures that hold it, variants and, with `originals`, the sources. All get `copies` variants,
    and the target is what the largest class has by then; with `per_class` they get none, and that is the target. Then
    class after class, the smallest first, gets what it lacks, spread evenly over its pictures, none over `most`; what
    does not divide goes to those that hold fewest classes which have enough, of these to those that hold most which
    lack, then by a hash of (seed, key). A picture
    with several classes counts for each, so frequent classes may end above the target; one that cannot reach it has
    `most` variants of each of its pictures. With one class a picture the counts are exact.
    """
    made = _Balancing(holds, 0 if per_class is not None else min(copies, most), most, originals, seed)
    target = per_class if per_class is not None else max(made.counts.values(), default=0)
    waiting = [(count, name) for name, count in made.counts.items()]
    heapq.heapify(waiting)
    while waiting:
        count, name = heapq.heappop(waiting)
        if count != made.counts[name]:  # others of its pictures were given variants meanwhile
            heapq.heappush(waiting, (made.counts[name], name))
        elif count < target:
            made.raise_class(name, target)
    return Balance(tuple(made.copies), target, dict(sorted(made.counts.items())))


class _Balancing:
    """The variants so far, and what the classes come to with them."""

    def __init__(
        self, holds: Mapping[str, Collection[str]], copies: int, most: int, originals: bool, seed: int
    ) -> None:
        self._keys, self._classes = tuple(holds), tuple(frozenset(classes) for classes in holds.values())
        self._most, self._seed = most, seed
        self.copies = [copies] * len(self._keys)
        self.counts: Counter[str] = Counter()
        self._members: dict[str, list[int]] = {}
        for place, classes in enumerate(self._classes):
            for name in classes:
                self.counts[name] += copies + originals
                self._members.setdefault(name, []).append(place)

    def raise_class(self, name: str, target: int) -> None:
        """Give variants to the pictures of a class, those with fewest first, until it has enough or all have most."""
        while self.counts[name] < target:
            members = self._members[name]
            levels = sorted({self.copies[place] for place in members} | {self._most})
            if levels[0] == self._most:
                return
            lowest = [place for place in members if self.copies[place] == levels[0]]
            each = min(levels[1] - levels[0], (target - self.counts[name]) // len(lowest))
            if each:
                self._add(lowest, each)
            else:
                lowest.sort(key=lambda place: self._rank(place, target))
                self._add(lowest[: target - self.counts[name]], 1)

    def _add(self, places: Sequence[int], copies: int) -> None:
        for place in places:
            self.copies[place] += copies
            for name in self._classes[place]:
                self.counts[name] += copies

    def _rank(self, place: int, target: int) -> tuple[int, int, bytes]:
        enough = sum(self.counts[name] >= target for name in self._classes[place])
        lacking = len(self._classes[place]) - enough
        text = f"{self._seed}\0{self._keys[place]}".encode("utf-8", "surrogateescape")
        return enough, -lacking, hashlib.blake2b(text, digest_size=8).digest()
