"""What a run comes to: counts of pictures, labels and classes, taken from the rows as they are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from edgekit.augment.stopwatch import Stopwatch
from edgekit.errors import EdgekitError

if TYPE_CHECKING:
    from edgekit.augment.plan import Plan
    from edgekit.augment.pool import Done


@dataclass
class Counts:
    """What went in and what came out."""

    sources: int = 0
    rejected: int = 0
    other_files: int = 0
    other_folders: int = 0
    originals: int = 0
    variants: int = 0
    left_out: int = 0
    warnings: int = 0
    bytes: int = 0
    passed: int = 0  # pictures of splits that are not augmented
    mended: int = 0  # labels that were put right or set aside
    leaks: int = 0  # pictures of one split that are in another too
    lost: int = 0  # pictures of whose labels the written layout cannot hold all
    clipped: int = 0  # objects of variants of which a part is left
    dropped: int = 0  # and those of which too little is

    def to_dict(self, plan: Plan) -> dict[str, int]:
        """Give the plain values; those of labels only when there are some."""
        bare = ("passed", "mended", "leaks", "lost", "clipped", "dropped") if plan.known is None else ()
        return {key: value for key, value in asdict(self).items() if value or key not in bare}


@dataclass
class Tally:
    """The running count of a run; raised: by class, the pictures of sources that hold it, where it is balanced."""

    counts: Counts
    plan: Plan
    classes: dict[str, int] = field(default_factory=dict)
    raised: dict[str, int] = field(default_factory=dict)
    first_rejected: str = ""
    first_lost: str = ""
    watch: Stopwatch = field(default_factory=Stopwatch)
    resumed: int = 0
    reused: int = 0

    def add(self, done: Done) -> None:
        """Count one finished source."""
        counts = self.counts
        self.watch.add(done.watch)
        counts.bytes += done.bytes
        counts.left_out += done.left_out
        counts.passed += done.passed
        counts.mended += done.mended
        if done.rejected is not None:
            counts.rejected += 1
            self.first_rejected = self.first_rejected or f"{done.key}: {done.rejected}"
        counts.warnings += any(row["warnings"] for row in done.rows)
        for row in done.rows:
            counts.originals += row["variant"] == 0
            counts.variants += row["variant"] != 0
            counts.lost += "lost" in row
            for change in row.get("objects", ()):
                counts.clipped += change["what"].startswith("clipped")
                counts.dropped += change["what"].startswith("dropped")
            self.take(row)

    def take(self, row: Mapping[str, Any]) -> None:
        """Count what a row says that the stamp does not: its classes, and the first thing that was lost."""
        label = row["label"]
        if label is not None:
            self.classes[label] = self.classes.get(label, 0) + 1
        for name in self.plan.holds.get(row["source"], ()):
            self.raised[name] = self.raised.get(name, 0) + 1
        if "lost" in row and not self.first_lost:
            self.first_lost = f"{row['file_name']}: {row['lost'][0]}"

    @property
    def short(self) -> dict[str, int]:
        """The classes that were to be raised and did not reach the target, and what they came to."""
        if "balance" not in self.plan.choices:
            return {}
        names = sorted({name for names in self.plan.holds.values() for name in names})
        target = self.plan.choices["balance"]["target"]
        return {name: self.raised.get(name, 0) for name in names if self.raised.get(name, 0) < target}

    def check(self) -> None:
        """Raise EdgekitError when not one picture could be used."""
        plan = self.plan
        if self.counts.rejected == self.counts.sources:
            raise EdgekitError(
                f"{plan.listing.root}: none of its pictures can be used (first: {self.first_rejected})",
                "give a folder with at least one readable picture",
            )
        if not self.counts.originals + self.counts.variants:
            raise EdgekitError(
                f"{plan.listing.root}: nothing to write: every variant is equal to its source",
                "choose a stronger op or a higher p, or leave --no-originals out",
            )
