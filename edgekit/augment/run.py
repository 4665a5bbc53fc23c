"""The straight line of `edgekit augment`: read -> decode once, write the variants -> manifest."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any, TextIO

from edgekit import __version__, files
from edgekit.augment import journal, pool
from edgekit.augment.plan import CHOICES, Plan
from edgekit.augment.tally import Counts, Tally
from edgekit.augment.variants import Recipe
from edgekit.data import manifest
from edgekit.data.folder import ALL, is_cache
from edgekit.errors import EdgekitError
from edgekit.lazy import cv2, np

SCHEMA = "edgekit.augment/1"
AUGMENTED, CORRUPTED = "-augmented", "-corrupted"  # what the name of an output ends with
Progress = Callable[[int, int], None]
Say = Callable[[str], None]
LEAKS = 100  # that the stamp lists


@dataclass(frozen=True)
class Result:
    """The answer of `edgekit augment`; numbers and names only."""

    source: str
    out: str
    plan: Plan
    recipe: Recipe
    tally: Tally
    seconds: float
    status: str  # written, up to date, dry run
    strict: bool = False

    @property
    def counts(self) -> Counts:
        """What went in and what came out."""
        return self.tally.counts

    @property
    def short(self) -> dict[str, int]:
        """The classes that were to be raised and did not reach the target, and what they came to."""
        return self.tally.short

    @property
    def exit_code(self) -> int:
        """0, or 1 when --strict met pictures that could not be used, labels that had to be mended, or leaks."""
        return 1 if self.strict and (self.counts.rejected or self.counts.mended or self.counts.leaks) else 0

    def to_dict(self) -> dict[str, Any]:
        """Give the versioned document that --json prints."""
        return {
            "schema": SCHEMA,
            "generator": files.MADE_BY,
            "status": self.status,
            "source": self.source,
            "out": self.out,
            "recipe": self.recipe.to_dict(),
            **({} if self.plan.known is None else {"labels": self.plan.to_dict()}),
            **arranged(self.plan),
            "counts": self.counts.to_dict(self.plan),
            "classes": self.tally.classes,
            **({"short": self.short} if "balance" in self.plan.choices else {}),
            "resumed": self.tally.resumed,
            "reused": self.tally.reused,
            "seconds": round(self.seconds, 3),
            "exit_code": self.exit_code,
        }


def default_out(source: Path, suffix: str = AUGMENTED) -> Path:
    """Name the output that goes beside the source: `imgs` -> `imgs-augmented`."""
    named = source.resolve() if source.name in ("", "..") else source
    if not named.name:
        raise EdgekitError(f"{source}: there is no place beside it", "choose an --out")
    return named.with_name(named.name + suffix)


def check_source(source: Path) -> None:
    """Raise EdgekitError when a folder is an evaluation set, or a part of one: nothing is to be trained on it."""
    for folder in (source.resolve(), *source.resolve().parents):
        with suppress(OSError, ValueError, RecursionError):
            stamp = json.loads((folder / files.STAMP).read_bytes())
            if isinstance(stamp, dict) and stamp.get("schema") == SCHEMA and stamp.get("evaluation") is True:
                raise EdgekitError(
                    f"{source}: is of an evaluation set, which is not augmented: models would be trained on it",
                    "give the pictures that it was made of",
                )


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
    files.refuse_existing(out, force=True)  # first, so that --force is proposed only where it would do
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
    files.refuse_existing(out, force=force)


def _strangers(out: Path) -> Iterator[Path]:
    """Find the files in `out` that no row of its manifest names."""
    ours = {files.STAMP, *manifest.RECORDS}
    with suppress(OSError, ValueError, TypeError, KeyError):
        for row in manifest.rows(out / manifest.MANIFEST):
            ours |= {name for name, _ in manifest.outputs(row)}
        ours |= {name for name, _ in manifest.closing(json.loads((out / files.STAMP).read_bytes()))}
    for folder, folders, names in os.walk(out):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for name in (*links, *names):
            path = Path(folder, name).relative_to(out)
            if path.as_posix() not in ours and name not in LITTER and not is_cache(name, folders):
                yield path


def stamp(recipe: Recipe, inputs: str, counts: Counts, plan: Plan) -> dict[str, Any]:
    """Make `run.json`: effective recipe, versions, input digest and counts; no clock, so that two runs are equal."""
    # The modules' own versions: two distributions carry OpenCV. When its import fails, that is found here.
    versions = {"edgekit": __version__, "opencv": cv2.__version__, "numpy": np.__version__}
    versions["cpu"] = cv2.getCPUFeaturesLine()  # OpenCV's kernels for them may differ in the last bit
    return {
        "schema": SCHEMA,
        "generator": files.MADE_BY,
        "recipe": recipe.to_dict(),
        "versions": versions,
        "inputs": {"sha256": inputs, "schema": plan.schema_digest},
        "counts": counts.to_dict(plan),
        **({} if plan.known is None else {"labels": plan.to_dict()}),
        **arranged(plan),
    }


def arranged(plan: Plan) -> dict[str, Any]:
    """Give what the stamp says of splits, groups, balance, links, unread labels and the first leaks, if any."""
    unread = {"mended": [str(note) for note in plan.unread]} if plan.unread else {}
    links = {"links": ALL} if plan.listing.links == ALL else {}
    return {**plan.choices, **unread, **links, **({"leaks": list(plan.leaks[:LEAKS])} if plan.leaks else {})}


def up_to_date(plan: Plan, out: Path, recipe: Recipe) -> Tally | None:
    """Count an identical finished run in `out`, judged by inputs, settings, versions and its own files; else None."""
    rows = 0
    try:
        old, new = json.loads((out / files.STAMP).read_bytes()), stamp(recipe, "", Counts(), plan)
        if not manifest.is_sealed(old):
            return None
        old["versions"].pop("cpu"), new["versions"].pop("cpu")  # an output is not stale on another machine
        if any(old.get(key) != new.get(key) for key in ("schema", "recipe", "versions", *CHOICES)):
            return None
        layouts = [one.get("labels", {}).get(key) for one in (old, new) for key in ("from", "to")]
        tally = Tally(Counts(**old["counts"]), plan)
        if old.get("mended") != new.get("mended"):
            return None
        if layouts[:2] != layouts[2:] or tally.counts.sources != len(plan.sources):
            return None
        if old["inputs"]["sha256"] != _input_digest(plan, recipe):
            return None
        expected = [*manifest.closing(old), *old["files"].items()]
        for row in manifest.rows(out / manifest.MANIFEST):
            if not _intact(out, manifest.outputs(row)):
                return None
            tally.take(row)
            rows += 1
        rejected = sum(1 for _ in manifest.rows(out / manifest.REJECTED))
        whole = (rows, rejected) == (tally.counts.originals + tally.counts.variants, tally.counts.rejected)
        whole = whole and _intact(out, expected)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # there is none, or it was damaged
        return None
    return tally if whole else None


def _intact(out: Path, expected: list[tuple[str, str]]) -> bool:
    return all(files.digest(out / name) == digest for name, digest in expected)


def _identity(stamp: Mapping[str, Any]) -> Any:
    """Give what a stamp says of everything that outputs depend on, but for their sources."""
    layouts = [stamp.get("labels", {}).get(key) for key in ("from", "to")]
    said = [stamp["schema"], stamp["recipe"], stamp["versions"], layouts, stamp["inputs"]["schema"]]
    return json.loads(json.dumps(said))


def _earlier(out: Path, identity: Any, say: Say) -> list[journal.Past]:
    """Give what can be taken over of an older output; nothing when it is none, or one of another recipe."""
    if not (out / files.STAMP).exists():
        return []
    found = journal.of_output(out)
    if found is not None and _identity(found[1]) == identity:
        return [found[0]]
    other = "it was made with another recipe, other classes or other versions"
    say(f"{out}: {'its records were edited' if found is None else other}, so everything is made anew")
    return []


def _input_digest(plan: Plan, recipe: Recipe) -> str:
    job = pool.Job(recipe, None, frozenset(), plan)
    digest = manifest.InputDigest()
    if plan.known is not None:
        digest.add("", plan.digest)
    for source in plan.sources:
        digest.add(source.key, "".join(job.digest(source)))
    return digest.hexdigest()


def run(
    plan: Plan,
    out: Path,
    recipe: Recipe,
    *,
    workers: int = 0,
    strict: bool = False,
    force: bool = False,
    if_changed: bool = False,
    progress: Progress | None = None,
    say: Say = lambda _: None,
) -> Result:
    """Write the expanded dataset of `plan` to `out`, staged and renamed at the end.

    Memory does not grow with the number of pictures, but for a row of labels each; the bytes written do not depend on
    the number of workers, nor on what is taken over: from the stage of a run that was interrupted and, with
    `if_changed`, from `out`. Raises EdgekitError when nothing could be used, when the disk is full, when two pictures
    need one label file, or when `out` cannot be written or, without `force` or `if_changed`, exists.
    """
    started = time.monotonic()
    listing = plan.listing
    counts = Counts(sources=len(plan.sources), other_files=listing.others, other_folders=listing.folders)
    counts.mended, counts.leaks = sum(note.count for note in plan.mended), len(plan.leaks)
    tally = Tally(counts, plan)
    replaces = force or if_changed
    with files.resumable_folder(out, lambda: refuse_existing(out, force=replaces), journal.JOURNALS) as stage:
        job = pool.Job(recipe, stage, plan.names, plan)
        identity = _identity(stamp(recipe, "", counts, plan))
        before = journal.of_stage(stage, identity)
        if before is None:
            files.sweep(stage, lambda _: False)
        pasts = [*([before] if before is not None else []), *(_earlier(out, identity, say) if if_changed else [])]
        digest = manifest.InputDigest()
        if plan.known is not None:
            digest.add("", plan.digest)
        with ExitStack() as open_files:
            made = open_files.enter_context((stage / manifest.MANIFEST).open("w", encoding="ascii"))
            rejected = open_files.enter_context((stage / manifest.REJECTED).open("w", encoding="ascii"))
            facts = open_files.enter_context((stage / manifest.SOURCES).open("w", encoding="ascii"))
            work = journal.process(job, plan.sources, pasts, identity, workers, say, progress)
            finished = open_files.enter_context(closing(work))
            for number, (fact, past) in enumerate(finished, 1):
                done = fact.done
                digest.add(done.key, done.sha256 + done.labels)
                _write_rows(done, made, rejected)
                facts.write(fact.line)
                tally.add(done)
                tally.resumed += past is not None and past is before
                tally.reused += len(done.rows) if past is not None and past is not before else 0
                if plan.writer is not None:
                    for entry in done.entries:
                        plan.writer.take(entry)
                if progress is not None:
                    progress(number, len(plan.sources))
        tally.check()
        values = stamp(recipe, digest.hexdigest(), tally.counts, plan)
        if plan.writer is not None:
            values["labels"]["files"] = _close(plan.writer.close(), stage)
        files.write(stage / files.STAMP, manifest.document(manifest.sealed(values, stage)))
    seconds = time.monotonic() - started
    return Result(str(listing.root), str(out), plan, recipe, tally, seconds, "written", strict)


def _close(made: Sequence[tuple[str, bytes]], stage: Path) -> list[dict[str, str]]:
    """Write the files that describe the whole set; give what the stamp says of them."""
    for name, data in made:
        (stage / name).parent.mkdir(parents=True, exist_ok=True)
        files.write(stage / name, data)
    return manifest.listed(made)


def _write_rows(done: pool.Done, made: TextIO, rejected: TextIO) -> None:
    made.write(done.lines)
    if done.rejected is not None:
        row = {"source": done.key, "source_sha256": done.sha256, "reason": done.rejected}
        rejected.write(manifest.line(row))


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


def estimate(plan: Plan, recipe: Recipe, workers: int) -> Estimate:
    """Make a few sources, spread over the folder, without writing, and extrapolate by their sizes in bytes."""
    sources = plan.augmented
    count = min(SAMPLED, len(sources))
    each = plan.variants(recipe) / max(1, len(sources))
    few = replace(recipe, originals=False, copies=min(ceil(each), FEW))
    job = pool.Job(few, None, plan.names, replace(plan, numbers=None))
    done: list[pool.Done] = []
    read = 0
    started = time.monotonic()
    for source in [sources[i * len(sources) // count] for i in range(count)]:
        done.append(job.process(source))
        read += source.bytes
        if time.monotonic() - started > PATIENCE:
            break
    seconds = time.monotonic() - started
    total = sum(source.bytes for source in sources)
    passed = sum(source.bytes for source in plan.sources) - total
    scale, more = total / max(1, read), each / max(1, few.copies)
    rejected = sum(d.rejected is not None for d in done)
    usable = 1 - rejected / max(1, len(done))
    made = sum(len(d.rows) for d in done) / max(1, len(done)) * more
    cores = min(workers or pool.available_cores(), pool.available_cores())
    return Estimate(
        files=round(len(sources) * (usable * recipe.originals + made)) + len(plan.sources) - len(sources),
        bytes=round(sum(d.bytes for d in done) * scale * more + total * usable * recipe.originals) + passed,
        seconds=seconds * scale * max(1.0, more) / cores,
        sampled=len(done),
        rejected=rejected,
    )


def check_space(plan: Plan, recipe: Recipe, out: Path) -> None:
    """Raise EdgekitError when about as many bytes as the sources have, times the copies, do not fit on the disk."""
    needed = sum(source.bytes for source in plan.sources) * recipe.originals
    needed += sum(source.bytes * plan.copies(source.key, recipe) for source in plan.augmented)
    needed -= files.size(files.beside(out, "partial"))  # what an interrupted run has written, or what makes room
    free = files.free_bytes(out.parent)
    if needed > free:
        raise EdgekitError(
            f"{out}: about {needed / 1e6:,.0f} MB are to be written and {free / 1e6:,.0f} MB are free",
            "free some space, use --out on another disk, or fewer --copies",
        )
