"""The straight line of `edgekit augment`: read -> decode once, write the variants -> manifest."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
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
    other_folders: int = 0
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
    named = source.resolve() if source.name in ("", "..") else source
    if not named.name:
        raise EdgekitError(f"{source}: there is no place beside it", "choose an --out")
    return named.with_name(f"{named.name}-augmented")


def check_out(source: Path, out: Path) -> None:
    """Raise EdgekitError when one of the two folders lies inside the other, or the output cannot be made there."""
    inside, outside = source.resolve(), out.resolve()
    if inside == outside or inside in outside.parents:
        raise EdgekitError(f"{out}: lies inside the source {source}", "choose an --out outside of it")
    if outside in inside.parents:
        raise EdgekitError(f"{out}: holds the source {source}", "choose an --out that does not")
    files.require_writable(out.parent)


def check_preview(source: Path, out: Path, preview: Path, *, force: bool) -> None:
    """Raise EdgekitError when the contact sheet would lie in one of the two folders, exists, or cannot be written."""
    if preview.suffix.lower() != ".png":
        raise EdgekitError(f"{preview}: the preview is a PNG", f"call it {preview.stem or 'sheet'}.png")
    for folder, what in ((source, "source"), (out, "output")):
        if folder.resolve() in (preview.resolve(), *preview.resolve().parents):
            raise EdgekitError(f"{preview}: lies inside the {what} {folder}", "choose a --preview outside of it")
    files.refuse_existing(preview, force=force, what="preview")
    files.require_writable(preview.parent)


# What file managers leave behind in every folder that is looked at.
LITTER = {".DS_Store", "Thumbs.db", "desktop.ini"}


def refuse_existing(out: Path, *, force: bool) -> None:
    """Raise EdgekitError when `out` exists, unless `force` is given and all that is in it was made by edgekit."""
    files.refuse_existing(out, force=force)
    if not out.exists():
        return
    if not out.is_dir():
        raise EdgekitError(f"{out}: is a file", "use --out to choose a folder")
    if Path.cwd().resolve().is_relative_to(out.resolve()):
        raise EdgekitError(f"{out}: holds the folder you are in, so it is not replaced", "cd out of it first")
    stranger = next(_strangers(out), None)
    if stranger is not None:
        raise EdgekitError(
            f"{out / stranger}: was not made by edgekit, so --force does not replace the folder it is in",
            "move it elsewhere, or use --out to choose another",
        )


def _strangers(out: Path) -> Iterator[Path]:
    """Find the files in `out` that no row of its manifest names."""
    try:
        ours = {row["file_name"] for row in manifest.rows(out / manifest.MANIFEST)}
    except (OSError, ValueError, TypeError, KeyError):
        ours = set()
    ours |= {files.STAMP, manifest.MANIFEST, manifest.REJECTED}
    for folder, folders, names in os.walk(out):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for name in (*links, *names):
            path = Path(folder, name).relative_to(out)
            if name not in LITTER and path.as_posix() not in ours:
                yield path


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


def up_to_date(listing: Listing, out: Path, recipe: Recipe) -> Tally | None:
    """Count an identical finished run in `out`, judged by inputs, settings, versions and its own files; else None."""
    rows = 0
    try:
        old = json.loads((out / files.STAMP).read_bytes())
        new = stamp(recipe, "", Counts())
        if any(old[key] != new[key] for key in ("schema", "recipe", "versions")):
            return None
        tally = Tally(Counts(**old["counts"]))
        if old["inputs"]["sha256"] != _input_digest(listing, recipe):
            return None
        for row in manifest.rows(out / manifest.MANIFEST):
            if files.sha256((out / row["file_name"]).read_bytes()) != row["sha256"]:
                return None
            tally.label(row["label"])
            rows += 1
        rejected = sum(1 for _ in manifest.rows(out / manifest.REJECTED))
        whole = (rows, rejected) == (tally.counts.originals + tally.counts.variants, tally.counts.rejected)
    except (OSError, ValueError, TypeError, KeyError):  # there is none, or it was damaged
        return None
    return tally if whole else None


def _input_digest(listing: Listing, recipe: Recipe) -> str:
    job = pool.Job(recipe, None, frozenset())
    digest = manifest.InputDigest()
    for source in listing.sources:
        digest.add(source.key, job.digest(source))
    return digest.hexdigest()


def run(
    listing: Listing,
    out: Path,
    recipe: Recipe,
    *,
    workers: int = 0,
    strict: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Write the expanded dataset of `listing` to `out`, staged and renamed at the end.

    Memory does not grow with the number of pictures; the bytes written do not depend on the number of workers. Raises
    EdgekitError when nothing could be used, when the disk is full, or when `out` cannot be written or, without `force`,
    exists.
    """
    started = time.monotonic()
    counts = Counts(sources=len(listing.sources), other_files=listing.others, other_folders=listing.folders)
    tally = Tally(counts)
    with files.staged_folder(out, lambda: refuse_existing(out, force=force)) as stage:
        job = pool.Job(recipe, stage, listing.names())
        digest = manifest.InputDigest()
        with ExitStack() as open_files:
            made = open_files.enter_context((stage / manifest.MANIFEST).open("w", encoding="ascii"))
            rejected = open_files.enter_context((stage / manifest.REJECTED).open("w", encoding="ascii"))
            finished = open_files.enter_context(closing(pool.process(listing.sources, job, workers)))
            for number, done in enumerate(finished, 1):
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
            self.label(row["label"])

    def label(self, label: str | None) -> None:
        """Count one picture of a class."""
        if label is not None:
            self.classes[label] = self.classes.get(label, 0) + 1

    def check(self, listing: Listing) -> None:
        """Raise EdgekitError when not one picture could be used."""
        if self.counts.rejected == self.counts.sources:
            raise EdgekitError(
                f"{listing.root}: none of its {self.counts.sources} pictures can be used "
                f"(first: {self.first_rejected})",
                "give a folder with at least one readable picture",
            )
        if not self.counts.originals + self.counts.variants:
            raise EdgekitError(
                f"{listing.root}: nothing to write: every variant is equal to its source",
                "choose a stronger op or a higher p, or leave --no-originals out",
            )


@dataclass(frozen=True)
class Estimate:
    """What a run would write, extrapolated from a few sources made in memory."""

    files: int
    bytes: int
    seconds: float
    sampled: int
    rejected: int


SAMPLED = 8  # sources,
FEW = 16  # variants of each,
PATIENCE = 3.0  # seconds, after which no further source is taken


def estimate(listing: Listing, recipe: Recipe, workers: int) -> Estimate:
    """Make a few sources, spread over the folder, without writing, and extrapolate by their sizes in bytes."""
    count = min(SAMPLED, len(listing.sources))
    few = replace(recipe, originals=False, copies=min(recipe.copies, FEW))
    job = pool.Job(few, None, listing.names())
    done: list[pool.Done] = []
    read = 0
    started = time.monotonic()
    for source in [listing.sources[i * len(listing.sources) // count] for i in range(count)]:
        done.append(job.process(source))
        read += source.bytes
        if time.monotonic() - started > PATIENCE:
            break
    seconds = time.monotonic() - started
    total = sum(source.bytes for source in listing.sources)
    scale, more = total / max(1, read), recipe.copies / few.copies
    rejected = sum(d.rejected is not None for d in done)
    usable = 1 - rejected / len(done)
    made = sum(len(d.rows) for d in done) / len(done) * more
    cores = min(workers or pool.available_cores(), pool.available_cores())
    return Estimate(
        files=round(len(listing.sources) * (usable * recipe.originals + made)),
        bytes=round(sum(d.bytes for d in done) * scale * more + total * usable * recipe.originals),
        seconds=seconds * scale * more / cores,
        sampled=len(done),
        rejected=rejected,
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
