"""Splits: which words in folder and file names mean train, val and test; and splits that are made here."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor

from edgekit.errors import EdgekitError
from edgekit.words import counted

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


def below(key: str, split: str | None, homes: Sequence[str] = ()) -> str:
    """Put a folder of its split into a key that has none: below the last folder called as in `homes`, else on top."""
    if split is None or of_folders(key) == split:
        return key
    parts = key.split("/")
    last = max((place for place, part in enumerate(parts[:-1]) if part.lower() in homes), default=-1)
    return "/".join([*parts[: last + 1], split, *parts[last + 1 :]])


# ---- splits made here


@dataclass(frozen=True)
class Lot:
    """Pictures that stay together: the name they are drawn by, how many they are, and the classes they hold."""

    name: str
    size: int = 1
    classes: frozenset[str] = frozenset()


Shares = tuple[tuple[str, Fraction], ...]


def shares_of(text: str) -> Shares:
    """Read `80/10/10`: positive numbers for train, val and test, or for train and val, whatever their sum.

    Raises EdgekitError for anything else.
    """
    try:
        numbers = [Fraction(part.strip()) for part in text.split("/")]
    except (ValueError, ZeroDivisionError):
        numbers = []
    if len(numbers) not in (2, 3) or min(numbers) <= 0:
        raise EdgekitError(
            f"split={text} is not two or three positive numbers",
            "write 80/10/10 for train, val and test, or 80/20 for train and val",
        )
    total = sum(numbers)
    return tuple((split, number / total) for split, number in zip(SPLITS, numbers, strict=False))


def deal(lots: Sequence[Lot], shares: Shares, seed: int) -> list[str]:
    """Give each lot its split: the shares hold overall and in each class, and a lot more moves few others.

    A lot belongs to the rarest of its classes. Of each class the lots with the lowest hashes of (seed, name) go to val,
    the next ones to test, as many pictures as the share is worth; what rounding leaves goes to the classes with the
    largest remainders (Hamilton's method), those of which train would keep none coming last. Then a class that is worth
    a whole lot of val or test and is not in it takes the place of one that is there more than once.

    Raises EdgekitError when there are fewer lots than splits.
    """
    if len(lots) < len(shares):
        raise EdgekitError(
            f"{counted(len(lots), 'group')} of pictures cannot become {len(shares)} splits",
            "give more pictures, or smaller groups: copies of one picture are one group",
        )
    dealer = _Dealer(lots, seed)
    for number, (split, share) in enumerate(shares[1:], 1):
        dealer.fill(split, share, keep=len(shares) - number)
        dealer.complete(split, share)
    return dealer.dealt


def absent(lots: Sequence[Lot], dealt: Sequence[str], split: str) -> list[str]:
    """Name the classes of which a split has no picture."""
    there = {name for lot, one in zip(lots, dealt, strict=True) if one == split for name in lot.classes}
    return sorted({name for lot in lots for name in lot.classes} - there)


class _Dealer:
    """The lots in the order of their hashes, and what has become of them; all are of train at first."""

    def __init__(self, lots: Sequence[Lot], seed: int) -> None:
        self.dealt = [TRAIN] * len(lots)
        self._lots, self._seed = lots, seed
        self._order = sorted(range(len(lots)), key=lambda place: (self._draw(lots[place].name), lots[place].name))
        self._often = Counter(name for lot in lots for name in lot.classes)
        self._strata: dict[str, list[int]] = {}
        for place in self._order:
            rarest = min(lots[place].classes, key=lambda name: (self._often[name], name), default="")
            self._strata.setdefault(rarest, []).append(place)
        self._sizes = {name: self._size(places) for name, places in self._strata.items()}

    def _draw(self, text: str) -> bytes:
        return hashlib.blake2b(f"{self._seed}\0{text}".encode("utf-8", "surrogateescape"), digest_size=8).digest()

    def _size(self, places: Iterable[int]) -> int:
        return sum(self._lots[place].size for place in places)

    def _of(self, split: str, places: Iterable[int]) -> list[int]:
        return [place for place in places if self.dealt[place] == split]

    def fill(self, split: str, share: Fraction, keep: int) -> None:
        """Take lots from train for a split; leave `keep` of them at least."""
        free = {name: self._of(TRAIN, places) for name, places in self._strata.items()}
        quotas = self._quotas(split, share, free)
        spare = sum(map(len, free.values())) - keep
        owed = 0  # what is left of the quotas of classes whose groups are too large for them
        for name in sorted(free, key=self._draw):
            owed, spare = self._take(split, owed + quotas[name], free[name], spare)
        rest = self._of(TRAIN, self._order)
        self._take(split, owed, rest, spare)
        if split not in self.dealt:
            self.dealt[min(rest, key=lambda place: self._lots[place].size)] = split

    def _take(self, split: str, owed: int, places: Iterable[int], spare: int) -> tuple[int, int]:
        """Take every lot that brings the sum nearer to what is owed; give what is owed still, and what is to spare."""
        for place in places:
            if spare and self._lots[place].size <= 2 * owed:
                self.dealt[place] = split
                owed, spare = owed - self._lots[place].size, spare - 1
        return owed, spare

    def _quotas(self, split: str, share: Fraction, free: dict[str, list[int]]) -> dict[str, int]:
        """Say how many pictures each class is to give."""
        rooms = {name: self._size(places) for name, places in free.items()}
        quotas = {name: min(floor(share * size), rooms[name]) for name, size in self._sizes.items()}

        def rank(name: str) -> tuple[bool, Fraction, bytes]:
            rest = share * self._sizes[name] - quotas[name]
            return rooms[name] - quotas[name] <= 1, -rest, self._draw(f"{split}\0{name}")

        more = max(1, round(share * sum(self._sizes.values()))) - sum(quotas.values())
        for name in sorted((name for name in quotas if quotas[name] < rooms[name]), key=rank)[: max(0, more)]:
            quotas[name] += 1
        return quotas

    def complete(self, split: str, share: Fraction) -> None:
        """Exchange lots with train until a split has every class that is worth a lot of it."""
        worth = {name for name, often in self._often.items() if often * share >= 1}
        there = Counter(name for place in self._of(split, self._order) for name in self._lots[place].classes)
        left = Counter(name for place in self._of(TRAIN, self._order) for name in self._lots[place].classes)
        for wanted in sorted(worth, key=lambda name: (self._often[name], name)):
            if there[wanted]:
                continue
            new = next((p for p in self._of(TRAIN, self._order) if self._may_go(p, wanted, left)), None)
            if new is None:
                continue
            size, classes = self._lots[new].size, self._lots[new].classes
            self.dealt[new] = split
            there.update(classes)
            left.subtract(classes)
            old = [p for p in self._of(split, reversed(self._order)) if p != new and self._lots[p].size == size]
            back = next((p for p in old if all(there[n] > 1 or n not in worth for n in self._lots[p].classes)), None)
            if back is not None:
                self.dealt[back] = TRAIN
                there.subtract(self._lots[back].classes)
                left.update(self._lots[back].classes)

    def _may_go(self, place: int, wanted: str, left: Counter[str]) -> bool:
        classes = self._lots[place].classes
        return wanted in classes and all(left[name] > 1 for name in classes)
