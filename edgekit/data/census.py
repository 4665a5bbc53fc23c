"""Census: what a data set holds, each picture decoded once: sizes, classes, colours, objects, copies, what is wrong."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median_low
from typing import TYPE_CHECKING, Any

from edgekit import files
from edgekit.data import images, leaks, manifest
from edgekit.data.dataset import LARGEST, Dataset, Entry
from edgekit.data.folder import Source, read
from edgekit.data.headers import Header, Unreadable
from edgekit.data.masks import VOID
from edgekit.data.mend import Mended
from edgekit.lazy import cv2, np

if TYPE_CHECKING:
    from numpy import ndarray

    from edgekit.data.leaks import Fingerprint, Pair
    from edgekit.data.sample import Object

SCHEMA = "edgekit.inspect-folder/1"
NO_SPLIT = "-"  # what pictures outside of any split are counted under
SIZES = ("small", "medium", "large")
SMALL, LARGE = 32**2, 96**2  # pixels: COCO's bounds between small, medium and large boxes
LISTED = 100  # pairs, groups and notes that a document lists


@dataclass(frozen=True)
class Row:
    """What one picture adds. reason: why it cannot be read; then nothing else is known.

    means, squares: of the values and of their squares, a channel each without alpha, scaled to 0..1. amounts: by class,
    objects, or pixels of its mask. sizes: how many boxes are small, medium and large.
    """

    key: str
    bytes: int
    reason: str = ""
    header: Header | None = None
    width: int = 0
    height: int = 0
    channels: int = 0
    depth: int = 0
    means: tuple[float, ...] = ()
    squares: tuple[float, ...] = ()
    amounts: Mapping[str, int] = field(default_factory=dict)
    objects: int = 0
    sizes: tuple[int, int, int] = (0, 0, 0)
    mended: tuple[Mended, ...] = ()
    print: Fingerprint | None = None


@dataclass(frozen=True)
class Survey:
    """What is done with every picture of a data set, in whatever process."""

    dataset: Dataset
    max_pixels: int

    @cached_property
    def _entries(self) -> Mapping[str, Entry]:
        return {entry.key: entry for entry in self.dataset.entries}

    def process(self, source: Source) -> Row:
        """Read, decode and count one picture; one that cannot be read is an answer too."""
        try:
            data = read(source, LARGEST)
            picture = images.decode(data, self.max_pixels)
        except Unreadable as error:
            return Row(source.key, source.bytes, error.message)
        except OSError as error:
            return Row(source.key, source.bytes, f"cannot be read: {error.strerror}")
        entry, pixels = self._entries[source.key], picture.pixels
        labelled = entry.read(picture.header)
        amounts, notes = self._amounts(entry, picture.header, labelled.objects)
        means, squares = moments(pixels)
        return Row(
            source.key,
            len(data),
            header=picture.header,
            width=pixels.shape[1],
            height=pixels.shape[0],
            channels=pixels.shape[2],
            depth=8 * pixels.itemsize,
            means=means,
            squares=squares,
            amounts=amounts,
            objects=len(labelled.objects),
            sizes=_sizes(labelled.objects),
            mended=(*labelled.mended, *notes),
            print=leaks.of_picture(data, picture),
        )

    def forget(self, source: Source) -> None:
        """Take back nothing: nothing is written."""

    def died(self, source: Source) -> Row:
        """Give the answer for a picture that kills every process."""
        return Row(source.key, source.bytes, "its process died: a decoder crashed, or no memory was left")

    def _amounts(
        self, entry: Entry, header: Header, objects: Sequence[Object]
    ) -> tuple[Mapping[str, int], tuple[Mended, ...]]:
        if entry.label is not None:
            return {entry.label: 1}, ()
        if entry.mask is None:
            return Counter(self._name(one.number) for one in objects), ()
        mask, notes = entry.read_mask(header)
        if mask is None or mask.colours is not None:
            return {}, notes
        values, counts = np.unique(mask.values, return_counts=True)
        void = VOID if mask.values.dtype == np.uint8 else -1
        pairs = zip(values.tolist(), counts.tolist(), strict=True)
        return {self._name(value - 1): count for value, count in pairs if value not in (0, void)}, notes

    def _name(self, number: int) -> str:
        names = self.dataset.names
        return names[number] if number < len(names) else str(number)


def moments(pixels: ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Give the mean of each channel's values and of their squares, alpha left out, scaled to 0..1.

    pixels: HxWxC, uint8 or uint16, C = 1, 3 or 4.
    """
    colors = np.ascontiguousarray(pixels[..., :3]) if pixels.shape[2] == 4 else pixels
    mean, deviation = cv2.meanStdDev(colors)
    full = np.iinfo(pixels.dtype).max
    mean, deviation = mean[:, 0] / full, deviation[:, 0] / full
    return tuple(mean.tolist()), tuple((mean * mean + deviation * deviation).tolist())


def _sizes(objects: Iterable[Object]) -> tuple[int, int, int]:
    counts = [0, 0, 0]
    for one in objects:
        area = float((one.box[2] - one.box[0]) * (one.box[3] - one.box[1]))
        counts[0 if area < SMALL else 1 if area < LARGE else 2] += 1
    return counts[0], counts[1], counts[2]


@dataclass(frozen=True)
class Tally:
    """One class: in how many pictures of each split it is, and how many objects (or pixels of masks) it has there."""

    name: str
    pictures: Mapping[str, int]
    amounts: Mapping[str, int]

    @property
    def total(self) -> int:
        """The pictures of all splits."""
        return sum(self.pictures.values())


@dataclass(frozen=True)
class Colors:
    """Of the pictures with so many channels: their number, and mean and standard deviation a channel, 0..1."""

    pictures: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Census:
    """What a data set holds: its rows in the order of its entries, and the copies among them."""

    dataset: Dataset
    rows: tuple[Row, ...]
    copies: tuple[Pair, ...]
    strict: bool = False

    @property
    def readable(self) -> list[Row]:
        """The pictures that could be read."""
        return [row for row in self.rows if not row.reason]

    @property
    def unreadable(self) -> list[Row]:
        """Those that could not."""
        return [row for row in self.rows if row.reason]

    @cached_property
    def splits(self) -> list[str]:
        """The split of each row, NO_SPLIT where it has none."""
        return [entry.split or NO_SPLIT for entry in self.dataset.entries]

    @cached_property
    def held(self) -> tuple[str, ...]:
        """The splits that there are, in their order, NO_SPLIT last."""
        return (*self.dataset.splits, *([NO_SPLIT] if NO_SPLIT in self.splits else []))

    @property
    def mended(self) -> list[Mended]:
        """All that was wrong with labels, the set's own first."""
        return [*self.dataset.mended, *(note for row in self.rows for note in row.mended)]

    @cached_property
    def leaks(self) -> list[Pair]:
        """The copies that lie in another split than their picture."""
        return leaks.leaks(self.copies, [entry.split for entry in self.dataset.entries])

    @cached_property
    def groups(self) -> list[list[int]]:
        """The pictures that are there more than once; of what augment made of one, only the first in each split."""
        origins = _origins(self.dataset)
        found = []
        for group in leaks.groups(self.copies):
            first: dict[tuple[str, str], int] = {}
            for member in group:
                key = self.rows[member].key
                first.setdefault((origins.get(key, key), self.splits[member]), member)
            found.append(list(first.values()))
        return [group for group in found if len(group) > 1]

    @cached_property
    def classes(self) -> list[Tally]:
        """The classes, those of the labels' files that no picture has included, the ones in most pictures first."""
        pictures: dict[str, Counter[str]] = {name: Counter() for name in self.dataset.names}
        amounts: dict[str, Counter[str]] = {name: Counter() for name in self.dataset.names}
        for row, split in zip(self.rows, self.splits, strict=True):
            for name, amount in row.amounts.items():
                pictures.setdefault(name, Counter())[split] += 1
                amounts.setdefault(name, Counter())[split] += amount
        made = [Tally(name, pictures[name], amounts[name]) for name in pictures]
        return sorted(made, key=lambda tally: -tally.total)

    @property
    def imbalance(self) -> float | None:
        """How many times the pictures of the smallest class that has any the largest has; None without two of them."""
        totals = [tally.total for tally in self.classes if tally.total]
        return max(totals) / min(totals) if len(totals) > 1 else None

    def colors(self) -> dict[str, Colors]:
        """Give mean and standard deviation of grey and of colour pictures, every picture counting the same.

        So do they to a model that is fed with pictures of one size. The sums are exact, so their order does not matter.
        """
        found = {}
        for name, counts in (("rgb", (3, 4)), ("grey", (1,))):
            rows = [row for row in self.readable if row.channels in counts]
            if rows:
                mean = [math.fsum(values) / len(rows) for values in zip(*(row.means for row in rows), strict=True)]
                square = [math.fsum(values) / len(rows) for values in zip(*(row.squares for row in rows), strict=True)]
                std = [math.sqrt(max(0.0, s - m * m)) for s, m in zip(square, mean, strict=True)]
                found[name] = Colors(len(rows), tuple(mean), tuple(std))
        return found

    @property
    def exit_code(self) -> int:
        """0, or 1 when --strict met pictures that cannot be read, leaks, or labels that had to be mended."""
        return 1 if self.strict and (self.unreadable or self.leaks or self.mended) else 0

    def to_dict(self) -> dict[str, Any]:
        """Give the versioned document that --json prints."""
        rows, known = self.readable, self.dataset
        counts = [row.objects for row in rows]
        in_splits = Counter(self.splits)
        boxes = [sum(sizes) for sizes in zip(*(row.sizes for row in rows), strict=True)] or [0, 0, 0]
        return {
            "schema": SCHEMA,
            "generator": files.MADE_BY,
            "source": str(known.root),
            "labels": {"kind": known.kind, "origin": str(known.origin)},
            "pictures": {
                "total": len(self.rows),
                "readable": len(rows),
                "bytes": sum(row.bytes for row in self.rows),
                "splits": {split: in_splits[split] for split in self.held},
                "width": spread([row.width for row in rows]),
                "height": spread([row.height for row in rows]),
                **self.kinds(),
            },
            "colors": {name: vars(one) for name, one in self.colors().items()},
            "objects": {
                "total": sum(counts),
                "pictures": sum(count > 0 for count in counts),
                "per_picture": spread(counts),
                "sizes": dict(zip(SIZES, boxes, strict=True)),
            },
            "classes": [
                {"name": tally.name, "pictures": dict(tally.pictures)}
                | ({self.measure: dict(tally.amounts)} if self.measure else {})
                for tally in self.classes
            ],
            "imbalance": self.imbalance,
            "unreadable": [{"key": row.key, "reason": row.reason} for row in self.unreadable],
            "mended": {
                "total": sum(note.count for note in self.mended),
                "first": [{"key": note.key, "kind": note.kind, "what": note.what} for note in self.mended[:LISTED]],
            },
            "copies": {
                "groups": len(self.groups),
                "first": [[self.rows[member].key for member in group] for group in self.groups[:LISTED]],
            },
            "leaks": {"total": len(self.leaks), "first": [self._shown(pair) for pair in self.leaks[:LISTED]]},
            "exit_code": self.exit_code,
        }

    @property
    def measure(self) -> str:
        """What a class has an amount of: objects, or pixels in masks; empty for class folders."""
        return {"masks": "pixels", "folder": "", "none": ""}.get(self.dataset.kind, "objects")

    def kinds(self) -> dict[str, dict[str, int]]:
        """Count formats, channels and bits a channel, the commonest first."""
        names = {1: "grey", 3: "rgb", 4: "rgba"}
        headers = [row.header.format for row in self.readable if row.header is not None]
        channels = [names[row.channels] for row in self.readable]
        depths = [str(row.depth) for row in self.readable]
        return {
            name: dict(sorted(Counter(values).items(), key=lambda one: (-one[1], one[0])))
            for name, values in (("formats", headers), ("channels", channels), ("depths", depths))
        }

    def _shown(self, pair: Pair) -> dict[str, str]:
        first, second = (
            {"key": self.rows[number].key, "split": self.splits[number]} for number in (pair.first, pair.second)
        )
        return {
            "first": first["key"],
            "first_split": first["split"],
            "second": second["key"],
            "second_split": second["split"],
            "how": pair.how,
        }


def spread(values: Sequence[int]) -> dict[str, int] | None:
    """Give smallest, median (the lower of two) and largest; None of nothing."""
    return {"min": min(values), "median": median_low(values), "max": max(values)} if values else None


def take(dataset: Dataset, rows: Iterable[Row], *, strict: bool = False) -> Census:
    """Take the census of a data set from the rows that `Survey` gives of its entries, in their order."""
    taken = tuple(rows)
    copies = leaks.pairs([row.print for row in taken])
    return Census(dataset, taken, tuple(copies), strict)


def _origins(dataset: Dataset) -> dict[str, str]:
    """Give the source of each picture that `edgekit augment` wrote, by key; nothing in other folders."""
    return dict(_made(dataset))


def _made(dataset: Dataset) -> Iterator[tuple[str, str]]:
    try:
        for row in manifest.rows(dataset.root / manifest.MANIFEST):
            yield row["file_name"], row["source"]
    except (OSError, ValueError, TypeError, KeyError):  # none, or not edgekit's
        return
