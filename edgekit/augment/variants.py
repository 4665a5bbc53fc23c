"""One source picture: decoded once, each variant drawn, applied and encoded. Pure: bytes in, bytes and rows out."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from edgekit import files
from edgekit.augment import corrupt
from edgekit.augment.chain import Chain, Step, Variant, perform
from edgekit.augment.draws import generator
from edgekit.augment.labels import USUAL, Rules
from edgekit.augment.margin import Margin
from edgekit.augment.names import same_name, variant_name
from edgekit.augment.op import Op, require_partners
from edgekit.augment.stopwatch import Stopwatch
from edgekit.data import images, manifest
from edgekit.data.sample import Sample
from edgekit.errors import EdgekitError
from edgekit.lazy import np

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from edgekit.augment.plan import Labels, Subject

# Gives the sources that a variant is mixed with, by its number and how many: `mix.choose` names them.
Partners = Callable[[int, int], Sequence[Sample]]

SUMMED = 32  # rows of a picture, about, by which variants are compared first: equal ones are compared whole
AHEAD = 8  # variants that are drawn before the first of them is made
REDRAWS = 8  # a variant equal to its source or to an earlier one is drawn again this often, then left out


@dataclass(frozen=True)
class Recipe:
    """What is done to every picture: the ops in order, how many variants, the seed, and how labels follow.

    suite: corruptions instead of ops, one a variant: what comes out is an evaluation set.
    """

    ops: tuple[Op, ...]
    copies: int = 4
    seed: int = 0
    originals: bool = True
    quality: int | None = None
    max_pixels: int = 100_000_000
    rules: Rules = USUAL
    suite: tuple[corrupt.corruption, ...] = ()

    @property
    def numbers(self) -> Sequence[int]:
        """The numbers of the variants."""
        return [one.number for one in self.suite] if self.suite else range(1, self.copies + 1)

    def name(self, place: str, number: int, suffix: str, keys: AbstractSet[str], *, whole: bool = False) -> str:
        """Name an output of a picture at `place`; variant 0 is the original."""
        if not self.suite:
            return variant_name(place, number, suffix, keys, whole=whole) if number else place
        folders = {one.number: one.folder for one in self.suite} | {0: corrupt.CLEAN}
        return f"{folders[number]}/{same_name(PurePosixPath(place), suffix, keys)}"

    @property
    def partners(self) -> int:
        """How many other pictures a variant takes at most."""
        return sum(op.partners for op in self.ops)

    @property
    def max_bytes(self) -> int:
        """The largest file that is read: RGBA of 16 bits, not compressed, and room for metadata."""
        return 8 * self.max_pixels + (64 << 20)

    def to_dict(self) -> dict[str, Any]:
        """Give the plain values, for the stamp of a run; the rules only when they are not the usual ones."""
        plain: dict[str, Any] = {
            "ops": [op.to_dict() for op in self.ops],
            "copies": self.copies,
            "seed": self.seed,
            "originals": self.originals,
            "quality": self.quality,
            "max_pixels": self.max_pixels,
        }
        plain |= corrupt.to_dict(self.suite)
        return plain if self.rules == USUAL else plain | {"labels": self.rules.to_dict()}


def draw(recipe: Recipe, source: Sample, number: int, attempt: int = 0, partners: Partners | None = None) -> Variant:
    """Draw and apply every op of the recipe once."""
    return _drawn(recipe, source, number, attempt, partners).variant(number)


def _drawn(
    recipe: Recipe,
    source: Sample,
    number: int,
    attempt: int,
    partners: Partners | None,
    margin: Margin | None = None,
) -> Chain:
    rng = generator(recipe.seed, source.key, number, attempt)
    chain = Chain(source, recipe.rules, margin)
    others = _Others(recipe, number, partners)
    for op in recipe.ops:
        start = others.set_aside(op)
        if rng.random() < op.p:
            given = others.give(op, start) if op.partners else ()
            chain.add(Step(op, op.sample(rng, chain.seen_by(op), given), given))
    return chain


class _Others:
    """Hands each op of a chain its own partners; they are fetched when the first op asks."""

    def __init__(self, recipe: Recipe, number: int, partners: Partners | None) -> None:
        self._fetch = lambda: partners(number, recipe.partners) if partners is not None else ()
        self._fetched: Sequence[Sample] | None = None
        self._taken = 0

    def set_aside(self, op: Op) -> int:
        """Say where the partners of the next op begin; they stay its own whether or not ops before it are applied."""
        self._taken += op.partners
        return self._taken - op.partners

    def give(self, op: Op, start: int) -> Sequence[Sample]:
        """Give an op the partners that were set aside for it."""
        if self._fetched is None:
            self._fetched = self._fetch()
        given = self._fetched[start : start + op.partners]
        require_partners(op, given)
        return given


def variants(recipe: Recipe, source: Sample, partners: Partners | None = None) -> Iterator[Variant | None]:
    """Make the variants 1..copies; None stands for one that stayed equal to its source or an earlier one.

    Raises EdgekitError when an op needs partners and there are not as many.
    """
    if recipe.suite:
        yield from _corrupted(recipe, source)
        return
    done = {Chain(source, recipe.rules).mark}  # what need not be made to know that it gives the same pixels
    seen: dict[tuple[Any, ...], list[Callable[[], Variant]]] = {_checksum(source): [lambda: Variant(0, source, ())]}
    margin = Margin(source.image)
    drawn: dict[tuple[int, int], Chain] = {}
    for number in range(1, recipe.copies + 1):
        if (number - 1) % AHEAD == 0:
            drawn = _drawn_ahead(recipe, source, number, done, margin)
        for attempt in range(REDRAWS):
            chain = drawn.pop((number, attempt), None) or _drawn(recipe, source, number, attempt, partners, margin)
            mark = chain.mark
            if mark in done:
                continue
            done.add(mark)
            variant = chain.variant(number)
            earlier = seen.setdefault(_checksum(variant.sample), [])
            # Made again, rarely, rather than kept: memory does not grow with the number of variants.
            if any(np.array_equal(again().sample.image, variant.sample.image) for again in earlier):
                continue
            earlier.append(partial(draw, recipe, source, number, attempt, partners))
            yield variant
            del chain, variant  # their pixels, before the next are made
            break
        else:
            yield None


def _drawn_ahead(
    recipe: Recipe, source: Sample, first: int, done: AbstractSet[Any], margin: Margin
) -> dict[tuple[int, int], Chain]:
    """Draw the variants from `first` on, by number and attempt: after a picture was made it takes twice as long.

    None where drawing makes pixels, for memory's sake. What is done with the draws does not depend on it.
    """
    drawn: dict[tuple[int, int], Chain] = {}
    if any(op.looks or op.partners for op in recipe.ops):
        return drawn
    marks = set(done)
    for number in range(first, min(first + AHEAD, recipe.copies + 1)):
        for attempt in range(REDRAWS):
            chain = drawn[number, attempt] = _drawn(recipe, source, number, attempt, None, margin)
            if chain.mark not in marks:
                marks.add(chain.mark)
                break
    return drawn


def _corrupted(recipe: Recipe, source: Sample) -> Iterator[Variant]:
    """Make as many variants of the suite as there are copies, spread over it; equal ones too: scores are means."""
    for place in range(recipe.copies):
        one = recipe.suite[place * len(recipe.suite) // recipe.copies]
        params = one.sample(generator(recipe.seed, source.key, one.number, 0), source)
        yield perform([Step(one, params)], source, one.number, recipe.rules)


def _checksum(sample: Sample) -> tuple[Any, ...]:
    """Give what equal pictures share, and others rarely: a checksum over some of the rows."""
    rows = np.ascontiguousarray(sample.image[:: 1 + len(sample.image) // SUMMED])
    return sample.image.shape, sample.image.dtype.char, zlib.crc32(rows.data)


@dataclass(frozen=True)
class Output:
    """One picture to write: its name below the output folder, its bytes, and its manifest row.

    labels: its label files, by name. entry: what the labels' writer has to take in. mended: how much was wrong.
    """

    name: str
    data: bytes
    row: dict[str, Any]
    labels: tuple[tuple[str, bytes], ...] = ()
    entry: dict[str, Any] | None = None
    mended: int = 0

    @property
    def bytes(self) -> int:
        """All that is written."""
        return len(self.data) + sum(len(data) for _, data in self.labels)


def outputs(
    recipe: Recipe,
    key: str,
    label: str | None,
    data: bytes,
    keys: AbstractSet[str],
    labels: Labels | None = None,
    partners: Partners | None = None,
    *,
    whole: bool = False,
    digest: str = "",
    watch: Stopwatch | None = None,
) -> Iterator[Output | None]:
    """Decode one source once and make its outputs, one at a time; None stands for a variant that was left out.

    A picture that is not augmented is passed through. digest: the SHA-256 of `data` when it is known. watch: counts the
    time of codecs. Raises images' Unreadable when it is not a usable picture.
    """
    if labels is not None and not labels.augmented:
        recipe = replace(recipe, copies=0, originals=True)
    # Where no op asks for colours, they stay as OpenCV has them, and need not be turned twice.
    swapped = not recipe.suite and all(op.treats_alike() for op in recipe.ops)
    decoded = Decoded.read(recipe, key, label, data, labels, digest, watch, swapped=swapped)
    place = key if labels is None else labels.place
    if recipe.originals:
        yield decoded.original(recipe.name(place, 0, PurePosixPath(place).suffix, keys))
    for variant in variants(recipe, decoded.source, partners):
        if variant is None:
            yield None
            continue
        output = decoded.output(recipe, variant, partial(recipe.name, place, variant.number, keys=keys, whole=whole))
        del variant  # its pixels, before the next are made
        yield output


@dataclass(frozen=True, eq=False)
class Decoded:
    """A source, decoded once, of which outputs are made; data: its file; subject: it with its labels, if any."""

    data: bytes
    digest: str
    picture: images.Picture
    source: Sample
    subject: Subject | None
    watch: Stopwatch

    @classmethod
    def read(
        cls,
        recipe: Recipe,
        key: str,
        label: str | None,
        data: bytes,
        labels: Labels | None,
        digest: str = "",
        watch: Stopwatch | None = None,
        *,
        swapped: bool = False,
    ) -> Decoded:
        """Decode; raises images' Unreadable when it is not a usable picture. swapped: as `images.decode` has it."""
        watch = watch or Stopwatch()
        with watch:
            picture = images.decode(data, recipe.max_pixels, swapped=swapped)
        subject = None if labels is None else labels.subject(picture)
        source = Sample(key, picture.pixels, label) if subject is None else subject.sample
        return cls(data, digest or files.sha256(data), picture, source, subject, watch)

    @functools.cached_property
    def format(self) -> tuple[str, str, str | None]:
        """How its variants are written, as `images.output_format` has it."""
        return images.output_format(self.picture.header, PurePosixPath(self.source.key).suffix)

    def original(self, name: str) -> Output:
        """Make the output that is the source itself, byte for byte."""
        row = self._row(name, Variant(0, self.source, ()), self.digest, list(self.picture.warnings))
        return _labelled(Output(name, self.data, row), self.subject, self.source)

    def output(self, recipe: Recipe, variant: Variant, named: Callable[[str], str]) -> Output:
        """Encode a variant; `named` gives the name of a file with a suffix."""
        with self.watch:
            encoded, suffix, changed = _encode(recipe, self.picture, self.format, variant.sample)
        name = named(suffix)
        warnings = [*self.picture.warnings, *([changed] if changed else [])]
        row = self._row(name, variant, files.sha256(encoded), warnings)
        row |= _label_rows(variant)
        if recipe.suite:
            fields = variant.ops[0]["fields"]
            row |= {"corruption": fields["kind"], "severity": fields["severity"]}
        return _labelled(Output(name, encoded, row), self.subject, variant.sample)

    def _row(self, name: str, variant: Variant, digest: str, warnings: list[str]) -> dict[str, Any]:
        width, height = variant.sample.size
        return {
            "file_name": name,
            "source": self.source.key,
            "source_sha256": self.digest,
            "variant": variant.number,
            "label": variant.sample.label,
            "width": width,
            "height": height,
            "sha256": digest,
            "ops": list(variant.ops),
            "warnings": warnings,
        }


def _labelled(output: Output, subject: Subject | None, sample: Sample) -> Output:
    """Add the labels of an output, and what its row says of them."""
    if subject is None:
        return output
    written = subject.write(output.name, sample)
    row = dict(output.row)
    if sample.split is not None:
        row["split"] = sample.split
    if sample.group is not None:
        row["group"] = sample.group
    if written.files:
        row["label_files"] = manifest.listed(written.files)
    for name, notes in (("mended", subject.mended), ("lost", written.notes)):
        if notes:
            row[name] = [note.what for note in notes]
    mended = sum(note.count for note in subject.mended)
    return replace(output, row=row, labels=written.files, entry=written.row, mended=mended)


def _encode(
    recipe: Recipe, picture: images.Picture, format: tuple[str, str, str | None], sample: Sample
) -> tuple[bytes, str, str | None]:
    """Encode as the source was; as PNG what its format cannot hold, such as a small JPEG 2000. Give suffix, warning."""
    kind, suffix, changed = format
    header, swapped = picture.header, picture.swapped
    quality = recipe.quality or header.quality
    lossless = header.lossless and recipe.quality is None
    try:
        encoded = images.encode(
            sample.image, kind, quality=quality, subsampling=header.subsampling, lossless=lossless, swapped=swapped
        )
    except EdgekitError as error:
        if kind == "png":
            raise
        return images.encode(sample.image, "png", swapped=swapped), ".png", f"{error.message}: PNG instead"
    return encoded, suffix, changed


def _label_rows(variant: Variant) -> dict[str, Any]:
    """Give what the manifest says of labels that were changed or mixed; nothing when none were."""
    said: dict[str, Any] = {}
    if variant.changes:
        said["objects"] = list(variant.changes)
    if variant.sample.weights:
        said["weights"] = dict(sorted(variant.sample.weights.items()))
    return said
