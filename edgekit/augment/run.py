"""The straight line of `edgekit augment`: read -> decode once, write the variants -> manifest."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from edgekit import __version__, files
from edgekit.augment import pool
from edgekit.augment.variants import Recipe
from edgekit.data import manifest
from edgekit.data.folder import Listing
from edgekit.errors import EdgekitError
from edgekit.lazy import cv2, np

SCHEMA = "edgekit.augment/1"
Progress = Callable[[int, int], None]


@dataclass
class Counts:
    """What went in and what came out."""

    sources: int = 0
    rejected: int = 0
    other_files: int = 0
    originals: int = 0
    variants: int = 0
    left_out: int = 0
    warnings: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Result:
    """The answer of `edgekit augment`; numbers and names only."""

    source: str
    out: str
    recipe: Recipe
    counts: Counts
    seconds: float
    status: str  # written, up to date, dry run
    strict: bool = False
    first_rejected: str = ""
    classes: dict[str, int] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0, or 1 when --strict met pictures that could not be used."""
        return 1 if self.strict and self.counts.rejected else 0

    def to_dict(self) -> dict[str, Any]:
        """Give the versioned document that --json prints."""
        return {
            "schema": SCHEMA,
            "generator": files.MADE_BY,
            "status": self.status,
            "source": self.source,
            "out": self.out,
            "recipe": self.recipe.to_dict(),
            "counts": asdict(self.counts),
            "classes": self.classes,
            "seconds": round(self.seconds, 3),
            "exit_code": self.exit_code,
        }


def default_out(source: Path) -> Path:
    """Name the output that goes beside the source: `imgs` -> `imgs-augmented`."""
    resolved = source.resolve()
    return (
        source.with_name(f"{source.name}-augmented")
        if source.name
        else resolved.with_name(f"{resolved.name}-augmented")
    )


def check_out(source: Path, out: Path) -> None:
    """Raise EdgekitError when one of the two folders lies inside the other, or the output cannot be made there."""
    inside, outside = source.resolve(), out.resolve()
    if inside == outside or inside in outside.parents:
        raise EdgekitError(f"{out}: lies inside the source {source}", "choose an --out outside of it")
    if outside in inside.parents:
        raise EdgekitError(f"{out}: holds the source {source}", "choose an --out that does not")
    files.require_writable(out.parent)


def stamp(recipe: Recipe, inputs: str, counts: Counts) -> dict[str, Any]:
    """Make `run.json`: effective recipe, versions, input digest and counts; no clock, so that two runs are equal."""
    # The modules' own versions: two distributions carry OpenCV. When its import fails, that is found here.
    versions = {"edgekit": __version__, "opencv": cv2.__version__, "numpy": np.__version__}
    plain = asdict(counts)
    return {
        "schema": SCHEMA,
        "generator": files.MADE_BY,
        "recipe": recipe.to_dict(),
        "versions": versions,
        "inputs": {"sha256": inputs},
        "counts": plain,
    }


def up_to_date(listing: Listing, out: Path, recipe: Recipe) -> Counts | None:
    """Give the counts of an identical finished run in `out`, judged by inputs, settings and versions; else None."""
    path = out / files.STAMP
    if not path.is_file():
        return None
    try:
        old = json.loads(path.read_text())
    except ValueError:
        return None
    if old.get("schema") != SCHEMA:
        return None
    digest = manifest.InputDigest()
    if old.get("recipe") != recipe.to_dict() or old.get("versions") != stamp(recipe, "", Counts())["versions"]:
        return None
    for source in listing.sources:
        digest.add(source.key, files.sha256(source.path.read_bytes()) if source.path.is_file() else "")
    if old.get("inputs", {}).get("sha256") != digest.hexdigest():
        return None
    names = (row["file_name"] for row in manifest.rows(out / manifest.MANIFEST))
    return Counts(**old["counts"]) if all((out / name).is_file() for name in names) else None


def run(
    listing: Listing,
    out: Path,
    recipe: Recipe,
    *,
    workers: int = 0,
    strict: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Write the expanded dataset of `listing` to `out`, staged and renamed at the end.

    Memory does not grow with the number of pictures; the bytes written do not depend on the number of workers. Raises
    EdgekitError when nothing could be used, when the disk is full, or when `out` cannot be written.
    """
    started = time.monotonic()
    tally = Tally(Counts(sources=len(listing.sources), other_files=listing.others))
    with files.staged_folder(out) as stage:
        job = pool.Job(recipe, stage, frozenset(source.key for source in listing.sources))
        digest = manifest.InputDigest()
        with ExitStack() as open_files:
            made = open_files.enter_context((stage / manifest.MANIFEST).open("w", encoding="ascii"))
            rejected = open_files.enter_context((stage / manifest.REJECTED).open("w", encoding="ascii"))
            for number, done in enumerate(pool.process(listing.sources, job, workers), 1):
                digest.add(done.key, done.sha256)
                _write_rows(done, made, rejected)
                tally.add(done)
                if progress is not None:
                    progress(number, len(listing.sources))
        tally.check(listing)
        files.write(stage / files.STAMP, manifest.document(stamp(recipe, digest.hexdigest(), tally.counts)))
    seconds = time.monotonic() - started
    first = tally.first_rejected
    return Result(str(listing.root), str(out), recipe, tally.counts, seconds, "written", strict, first, tally.classes)


def _write_rows(done: pool.Done, made: TextIO, rejected: TextIO) -> None:
    for row in done.rows:
        made.write(manifest.line(row))
    if done.rejected is not None:
        row = {"source": done.key, "source_sha256": done.sha256, "reason": done.rejected}
        rejected.write(manifest.line(row))


@dataclass
class Tally:
    """The running count of a run."""

    counts: Counts
    classes: dict[str, int] = field(default_factory=dict)
    first_rejected: str = ""

    def add(self, done: pool.Done) -> None:
        """Count one finished source."""
        counts = self.counts
        counts.bytes += done.bytes
        counts.left_out += done.left_out
        if done.rejected is not None:
            counts.rejected += 1
            self.first_rejected = self.first_rejected or f"{done.key}: {done.rejected}"
        counts.warnings += any(row["warnings"] for row in done.rows)
        for row in done.rows:
            counts.originals += row["variant"] == 0
            counts.variants += row["variant"] != 0
            if row["label"] is not None:
                self.classes[row["label"]] = self.classes.get(row["label"], 0) + 1

    def check(self, listing: Listing) -> None:
        """Raise EdgekitError when not one picture could be used."""
        if self.counts.rejected == self.counts.sources:
            raise EdgekitError(
                f"{listing.root}: none of its {self.counts.sources} pictures can be used "
                f"(first: {self.first_rejected})",
                "give a folder with at least one readable picture",
            )


@dataclass(frozen=True)
class Estimate:
    """What a run would write, extrapolated from a few sources made in memory."""

    files: int
    bytes: int
    seconds: float
    sampled: int


SAMPLED = 8


def estimate(listing: Listing, recipe: Recipe, workers: int) -> Estimate:
    """Make a few sources, spread over the folder, without writing, and extrapolate by their sizes in bytes."""
    count = min(SAMPLED, len(listing.sources))
    chosen = [listing.sources[i * len(listing.sources) // count] for i in range(count)]
    job = pool.Job(recipe, None, frozenset(source.key for source in listing.sources))
    started = time.monotonic()
    done = [job.process(source) for source in chosen]
    seconds = time.monotonic() - started
    scale = sum(s.bytes for s in listing.sources) / max(1, sum(s.bytes for s in chosen))
    usable = sum(d.rejected is None for d in done) / count
    each = (1 if recipe.originals else 0) + recipe.copies
    cores = min(workers or pool.available_cores(), pool.available_cores())
    return Estimate(
        files=round(len(listing.sources) * usable * each),
        bytes=round(sum(d.bytes for d in done) * scale),
        seconds=seconds * scale / cores,
        sampled=count,
    )


def check_space(listing: Listing, recipe: Recipe, out: Path) -> None:
    """Raise EdgekitError when about as many bytes as the sources have, times the copies, do not fit on the disk."""
    needed = sum(source.bytes for source in listing.sources) * (recipe.copies + recipe.originals)
    free = files.free_bytes(out.parent)
    if needed > free:
        raise EdgekitError(
            f"{out}: about {needed / 1e6:,.0f} MB are to be written and {free / 1e6:,.0f} MB are free",
            "free some space, use --out on another disk, or fewer --copies",
        )
