"""What a run works on: which pictures, the labels that go with them, which are augmented, and where outputs go."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from edgekit import files
from edgekit.augment import partners
from edgekit.data import dataset, images, splits
from edgekit.data.folder import read
from edgekit.data.headers import Unreadable, read_header
from edgekit.data.masks import PICTURES, Mask
from edgekit.data.sample import Object, Sample
from edgekit.data.writer import Output, Writer, Written, schema_of, writer
from edgekit.errors import EdgekitError
from edgekit.lazy import np

if TYPE_CHECKING:
    from edgekit.augment.labels import Rules
    from edgekit.augment.variants import Partners, Recipe
    from edgekit.data.dataset import Dataset, Entry, Labelled
    from edgekit.data.folder import Listing, Source
    from edgekit.data.images import Picture
    from edgekit.data.mend import Mended

Used = dict[str, list[list[str]]]  # by variant, the key and the mark of every partner that was tried

AUTO = "auto"
CHOICES = ("group_by", "split", "balance", "evaluation")  # what the stamp says of `arrange` and `evaluation`
# Layouts whose label files are called as their pictures, without the suffix.
STEMMED = ("yolo", "voc", "masks")
# Layouts whose splits are told by folders, and the folders of pictures that those are put in.
HOMES: Mapping[str, tuple[str, ...]] = {"yolo": ("images",), "masks": PICTURES, "none": ()}
SPARE = 8  # partners chosen beyond those needed, for those that turn out to be unreadable


@dataclass(frozen=True, eq=False)
class Plan:
    """The pictures of a run, in the order of their keys.

    known: what is known about them; None for pictures alone and class folders, which go out as they lie. kind: the
    layout that is written. frame: what coordinates were said to be of. evaluated: variants are made of all pictures, to
    evaluate by.

    Of `arrange`: dealt: the splits were made here, so that folders are to tell them. numbers: the variants of each
    picture, when they differ. holds: the classes of each, when those are raised. choices: what the stamp says of all
    that. leaks: pictures that two splits share.

    unread: what looks like labels of a set without known ones, and cannot be read.
    """

    listing: Listing
    known: Dataset | None = None
    kind: str = "none"
    frame: str = AUTO
    dealt: bool = False
    numbers: Mapping[str, int] | None = None
    choices: Mapping[str, Any] = field(default_factory=dict)
    leaks: tuple[Mapping[str, str], ...] = ()
    evaluated: bool = False
    unread: tuple[Mended, ...] = ()
    holds: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        """The pictures; what belongs to their labels (masks) is none."""
        if self.known is None:
            return self.listing.sources
        return tuple(entry.source for entry in self.known.entries)

    @cached_property
    def entries(self) -> Mapping[str, Entry]:
        """What is known of each picture, by key."""
        return {} if self.known is None else {entry.key: entry for entry in self.known.entries}

    @cached_property
    def writer(self) -> Writer | None:
        """Writes the labels; None when there are none to write."""
        return None if self.known is None else writer(self.kind, schema_of(self.known))

    @property
    def layout(self) -> str:
        """Name the layout that was recognised, of `dataset.KINDS`."""
        if self.known is not None:
            return self.known.kind
        return "folder" if self.listing.labels else "none"

    @property
    def mended(self) -> tuple[Mended, ...]:
        """What was wrong with the data set as a whole."""
        return self.unread if self.known is None else self.known.mended

    def place(self, key: str) -> str:
        """Give the path of a picture in the output."""
        return self._renamed.get(key) or self._place(key)

    @cached_property
    def _renamed(self) -> Mapping[str, str]:
        """Pictures that would share a label file with another of their name, a.png with a.jpg: called a-png.png."""
        if self.writer is None or self.kind not in STEMMED:
            return {}
        places = {source.key: self._place(source.key) for source in self.sources}
        stems = {_stem(place) for place in places.values()}
        taken: set[str] = set()
        renamed = {}
        for key, place in places.items():
            stem = _stem(place)
            suffix = place.removeprefix(stem)
            if stem in taken:
                stem += f"-{suffix[1:]}"
                while stem in stems or stem in taken:
                    stem += "_"
                renamed[key] = stem + suffix
            taken.add(stem)
        return renamed

    def _place(self, key: str) -> str:
        if self.writer is None:
            return key
        entry = self.entries[key]
        place = self.writer.place(key, entry.split, entry.label)
        return splits.below(place, entry.split, HOMES[self.kind]) if self.dealt and self.kind in HOMES else place

    @cached_property
    def names(self) -> frozenset[str]:
        """Every name that is taken in the output: originals, and the folders above them."""
        if self.known is None:
            return self.listing.names()
        places = [self.place(source.key) for source in self.sources]
        return frozenset(places) | {str(parent) for place in places for parent in PurePosixPath(place).parents}

    @cached_property
    def twins(self) -> frozenset[str]:
        """Keys of pictures that differ in their suffix alone: their variants must not share a label file."""
        if self.known is None:
            return frozenset()
        stems = Counter(str(PurePosixPath(source.key).with_suffix("")) for source in self.sources)
        return frozenset(one.key for one in self.sources if stems[str(PurePosixPath(one.key).with_suffix(""))] > 1)

    def is_augmented(self, key: str) -> bool:
        """Tell whether variants of a picture are made: of a set with splits, only of train, else of what is in none."""
        if self.known is None or not self._is_split or self.evaluated:
            return True
        split = self.entries[key].split
        return split == splits.TRAIN or (split is None and splits.TRAIN not in self.known.splits)

    @cached_property
    def _is_split(self) -> bool:
        return self.known is not None and is_split(self.known)

    @cached_property
    def augmented(self) -> tuple[Source, ...]:
        """The pictures of which variants are made, and that are mixed with one another."""
        return tuple(source for source in self.sources if self.is_augmented(source.key))

    def copies(self, key: str, recipe: Recipe) -> int:
        """Give how many variants are made of a picture."""
        if not self.is_augmented(key):
            return 0
        return recipe.copies if self.numbers is None else self.numbers.get(key, 0)

    def variants(self, recipe: Recipe) -> int:
        """Give how many variants are made in all."""
        return sum(self.copies(source.key, recipe) for source in self.augmented)

    @cached_property
    def _by_key(self) -> Mapping[str, Source]:
        return {source.key: source for source in self.augmented}

    @cached_property
    def _keys(self) -> tuple[tuple[str, ...], np.ndarray]:
        keys = tuple(source.key for source in self.augmented)
        return keys, partners.digests(keys)

    def labels(self, source: Source, data: bytes) -> Labels | None:
        """Read the labels of a picture whose file is `data`; None when the run has none."""
        if self.known is None:
            return None
        entry = self.entries[source.key]
        place, split = self.place(source.key), self.is_augmented(source.key)
        try:
            header = read_header(data)
            if not header.width or not header.height:
                raise Unreadable(f"{header.format} pictures are not read")
            labelled: Labelled | None = entry.read(header)
        except Unreadable:  # decoding it will say so, in its row
            labelled = None
        assert self.writer is not None
        return Labels(entry, place, labelled, self.writer, self.known.kind, split)

    def label_files(self, key: str, name: str) -> tuple[str, ...]:
        """Give the paths of the label files that an output called `name` of a picture has."""
        if self.writer is None:
            return ()
        entry = self.entries[key]
        mask = None if entry.mask is None else Mask(np.zeros((1, 1), np.uint8))
        written = self.writer.label(Output(name, 1, 1, label=entry.label, mask=mask, split=entry.split))
        return tuple(path for path, _ in written.files)

    def load(self, source: Source, recipe: Recipe) -> Sample:
        """Read a picture and its labels; raises EdgekitError or OSError when it cannot be read."""
        data = read(source, recipe.max_bytes)
        return self._sample(source, data, self.labels(source, data), recipe)

    def _sample(self, source: Source, data: bytes, labels: Labels | None, recipe: Recipe) -> Sample:
        picture = images.decode(data, recipe.max_pixels)
        return Sample(source.key, picture.pixels, source.label) if labels is None else labels.subject(picture).sample

    def candidates(self, recipe: Recipe, key: str, number: int, count: int) -> list[str]:
        """Name the pictures that are tried, in this order, as the `count` partners of a picture's variant."""
        keys, hashed = self._keys
        spare = min(SPARE, max(0, len(keys) - 1 - count))
        return partners.choose(keys, recipe.seed, key, number, count + spare, hashed)

    def partners(self, recipe: Recipe, key: str, used: Used | None = None) -> Partners | None:
        """Give what finds the partners of a picture's variants, among the pictures that are augmented.

        used: takes in what was tried, by variant: keys and `mark`s.
        """
        if not recipe.partners:
            return None

        def found(number: int, count: int) -> list[Sample]:
            samples: list[Sample] = []
            tried: list[list[str]] = []
            for name in self.candidates(recipe, key, number, count):
                if len(samples) == count:
                    break
                source, digests = self._by_key[name], ("", "")
                with suppress(EdgekitError, OSError):  # an unreadable one will be a rejected row of its own
                    data = read(source, recipe.max_bytes)
                    labels = self.labels(source, data)
                    digests = files.sha256(data), "" if labels is None else labels.digest
                    samples.append(self._sample(source, data, labels, recipe))
                tried.append([name, mark(*digests)])
            if used is not None:
                used[str(number)] = tried
            return samples

        return found

    def rules(self, rules: Rules) -> Rules:
        """Add to the rules what the data set says of its keypoints."""
        return rules if self.known is None else replace(rules, flip_index=self.known.flip_index)

    def to_dict(self) -> dict[str, Any]:
        """Give what the stamp of a run says of labels."""
        assert self.known is not None
        frame = {} if self.frame == AUTO else {"frame": self.frame}
        return {"from": self.known.kind, "to": self.kind, **frame, "mended": [str(note) for note in self.mended]}

    @cached_property
    def digest(self) -> str:
        """The digest of what the labels say of the whole set."""
        if self.known is None:
            return ""
        known = self.known
        said = [known.kind, known.names, known.splits, known.keypoint_shape, known.keypoint_names, known.flip_index]
        said.append(known.form)
        text = json.dumps([*said, known.about, [str(note) for note in known.mended]], sort_keys=True, default=_plain)
        return files.sha256(text.encode())

    @cached_property
    def schema_digest(self) -> str:
        """The digest of what the labels of every picture are read and written by."""
        if self.known is None:
            return ""
        said = [self.known.kind, self.known.form, self.kind, asdict(replace(schema_of(self.known), about={}))]
        return files.sha256(json.dumps(said, sort_keys=True, default=_plain).encode())

    def check(self) -> None:
        """Raise EdgekitError when two pictures would be one in the output."""
        if self.known is None:
            return
        places: dict[str, str] = {}
        for source in self.sources:
            other = places.setdefault(self.place(source.key), source.key)
            if other != source.key:
                raise EdgekitError(
                    f"{other} and {source.key} would both be {self.place(source.key)}", "rename one of them"
                )


def plan(listing: Listing, kind: str = AUTO, frame: str = AUTO, to: str | None = None, *, keep: bool = False) -> Plan:
    """Recognise and read the labels of a folder of pictures; kind, to: of `dataset.KINDS`.

    keep: keep what is known of pictures that go out as they lie, too. Raises EdgekitError when there are no labels of
    the kind that was asked for, or when two pictures would be one.
    """
    known = dataset.read(listing, None if kind == AUTO else kind, frame)
    apart = is_split(known) or (known.kind == "none" and listing.labels)  # folders that are no classes
    if known.kind in dataset.UNLABELLED and to in (None, known.kind) and not apart and not keep:
        return Plan(listing, unread=known.mended)
    made = Plan(listing, known, to or known.kind, frame)
    made.check()
    return made


def evaluation(plan: Plan) -> Plan:
    """Keep what models are evaluated on: of a set with splits, all but train; variants are made of all of it."""
    plan = replace(plan, evaluated=True, choices={**plan.choices, "evaluation": True})
    known = plan.known
    if known is None or not is_split(known):
        return plan
    entries = tuple(entry for entry in known.entries if entry.split != splits.TRAIN)
    return replace(plan, known=replace(known, entries=entries, splits=splits.ordered(one.split for one in entries)))


def mark(sha256: str, labels: str) -> str:
    """Shorten the digests of a picture and of its labels; both are empty for one that cannot be read."""
    return files.sha256(f"{sha256}{labels}".encode())[:32]


def _stem(place: str) -> str:
    """Give a path without its suffix, as `Writer.label` does."""
    folder, slash, name = place.rpartition("/")
    return folder + slash + (name.rpartition(".")[0] or name)


def is_split(known: Dataset) -> bool:
    """Tell whether not all pictures are of the same split."""
    return len({entry.split for entry in known.entries}) > 1


# ---- one picture


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of one picture, and how those of its outputs are written.

    place: the picture's path in the output. labelled: None when its header cannot be read. origin: the layout they come
    from. augmented: variants are made of it.
    """

    entry: Entry
    place: str
    labelled: Labelled | None
    writer: Writer
    origin: str
    augmented: bool

    @cached_property
    def digest(self) -> str:
        """The digest of everything that the outputs depend on beyond the picture; empty for one that is unreadable."""
        entry = self.entry
        if self.labelled is None:
            return ""
        digest = hashlib.sha256()
        notes = [str(note) for note in self.labelled.mended]
        said = [entry.split, entry.label, dict(entry.extra), notes, *([entry.group] if entry.group else [])]
        digest.update(json.dumps(said, sort_keys=True, default=_plain).encode())
        for one in self.labelled.objects:
            digest.update(_content(one))
        if entry.mask is not None:
            try:
                digest.update(entry.mask.read_bytes())
            except OSError:
                digest.update(b"unreadable")
        return digest.hexdigest()

    def subject(self, picture: Picture) -> Subject:
        """Join the decoded picture and its labels."""
        objects = () if self.labelled is None else self.labelled.objects
        notes = () if self.labelled is None else self.labelled.mended
        mask, more = self.entry.read_mask(picture.header)
        values = None if mask is None else _values(mask)
        entry = self.entry
        sample = Sample(entry.key, picture.pixels, entry.label, values, entry.group, entry.split, objects)
        return Subject(self, sample, mask, (*notes, *more))


@dataclass(frozen=True, eq=False)
class Subject:
    """A decoded picture with its labels; form: how its mask is stored; mended: what was wrong with its labels."""

    labels: Labels
    sample: Sample
    form: Mask | None
    mended: tuple[Mended, ...] = field(default=())

    def write(self, name: str, sample: Sample) -> Written:
        """Write the labels of an output that is called `name`."""
        labels, (width, height) = self.labels, sample.size
        mask = None if sample.mask is None or self.form is None else _masked(sample.mask, self.form)
        entry = labels.entry
        written = labels.writer.label(
            Output(name, width, height, sample.objects, sample.label, mask, entry.split, entry.extra)
        )
        if labels.writer.kind == labels.origin == "masks" and mask is None:  # no mask is not an empty one
            return replace(written, files=(), row={**written.row, "files": []})
        return written


def _values(mask: Mask) -> np.ndarray:
    """Give what is moved of a mask: class numbers, or whole colours, so that others can be mixed in."""
    if mask.colours is None:
        return mask.values
    packed = np.zeros(len(mask.colours), np.int64)
    for channel in range(mask.colours.shape[1]):
        packed = packed << 16 | mask.colours[:, channel].astype(np.int64)
    values: np.ndarray = packed[mask.values]
    return values


def _masked(values: np.ndarray, form: Mask) -> Mask:
    """Bring moved values back to the form of the mask that they come from."""
    if form.colours is None:
        return replace(form, values=np.ascontiguousarray(values))
    packed, places = np.unique(values, return_inverse=True)
    channels = form.colours.shape[1]
    shifts = [16 * (channels - 1 - channel) for channel in range(channels)]
    colours = np.stack([(packed >> shift) & 0xFFFF for shift in shifts], axis=1).astype(form.colours.dtype)
    kind = np.uint8 if len(packed) <= 256 else np.uint16
    return Mask(places.reshape(values.shape).astype(kind), colours=colours)


def _content(one: Object) -> bytes:
    """Give the bytes that say an object."""
    arrays = [one.box, *one.polygons, *(part for part in (one.region, one.keypoints) if part is not None)]
    extra = {key: value for key, value in one.extra.items() if key != "parts"}
    said = [one.number, one.oriented, one.crowd, [(part.dtype.str, part.shape) for part in arrays], extra]
    inner = b"".join(_content(part) for part in one.extra.get("parts", ()))
    text = json.dumps(said, sort_keys=True, default=_plain).encode()
    return text + b"".join(part.tobytes() for part in arrays) + inner


def _plain(value: Any) -> Any:
    """Make JSON of what layouts keep."""
    return dict(value) if isinstance(value, Mapping) else list(value)
