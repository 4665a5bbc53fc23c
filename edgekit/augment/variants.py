"""One source picture: decoded once, each variant drawn, applied and encoded. Pure: bytes in, bytes and rows out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from edgekit import files
from edgekit.augment.op import Op, apply
from edgekit.data import images
from edgekit.data.sample import Sample
from edgekit.errors import EdgekitError
from edgekit.lazy import np

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from numpy.random import Generator

REDRAWS = 8  # a variant equal to its source or to an earlier one is drawn again this often, then left out


@dataclass(frozen=True)
class Recipe:
    """What is done to every picture: the ops in order, how many variants, and the seed."""

    ops: tuple[Op, ...]
    copies: int = 4
    seed: int = 0
    originals: bool = True
    quality: int | None = None
    max_pixels: int = 100_000_000

    @property
    def max_bytes(self) -> int:
        """The largest file that is read: RGBA of 16 bits, not compressed, and room for metadata."""
        return 8 * self.max_pixels + (64 << 20)

    def to_dict(self) -> dict[str, Any]:
        """Give the plain values, for the stamp of a run."""
        return {
            "ops": [op.to_dict() for op in self.ops],
            "copies": self.copies,
            "seed": self.seed,
            "originals": self.originals,
            "quality": self.quality,
            "max_pixels": self.max_pixels,
        }


@dataclass(frozen=True)
class Variant:
    """One finished variant: its pixels, its number and what was done, as the manifest has it."""

    number: int
    sample: Sample
    ops: tuple[dict[str, Any], ...]


def generator(seed: int, key: str, variant: int, attempt: int) -> Generator:
    """Give the generator of one draw: a function of the seed, the source's path and the variant alone."""
    text = f"{seed}\0{variant}\0{attempt}\0".encode() + key.encode("utf-8", "surrogateescape")
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "big"))


def draw(recipe: Recipe, source: Sample, number: int, attempt: int = 0) -> Variant:
    """Draw and apply every op of the recipe once."""
    rng = generator(recipe.seed, source.key, number, attempt)
    sample, done = source, []
    for op in recipe.ops:
        if rng.random() >= op.p:
            continue
        params = op.sample(rng, sample)
        sample = apply(op, params, sample)
        fields = {key: value for key, value in op.to_dict().items() if key != "use"}
        done.append({"name": op.spec_name(), "fields": fields, "params": params})
    return Variant(number, sample, tuple(done))


def variants(recipe: Recipe, source: Sample) -> Iterator[Variant | None]:
    """Make the variants 1..copies; None stands for one that stayed equal to its source or an earlier one."""
    seen = {_digest(source)}
    for number in range(1, recipe.copies + 1):
        for attempt in range(REDRAWS):
            variant = draw(recipe, source, number, attempt)
            digest = _digest(variant.sample)
            if digest not in seen:
                seen.add(digest)
                yield variant
                break
        else:
            yield None


def _digest(sample: Sample) -> bytes:
    pixels = sample.image
    head = f"{pixels.shape}{pixels.dtype}".encode()
    return hashlib.blake2b(
        pixels.tobytes() if pixels.size == 0 else pixels.data.cast("B"),
        key=hashlib.sha256(head).digest(),
        digest_size=16,
    ).digest()


def variant_name(key: str, number: int, suffix: str, keys: AbstractSet[str]) -> str:
    """Name a variant: `cat.jpg` -> `cat__k02.jpg`, and `a.gif` -> `a.gif__k02.png` when the format changes.

    `keys` are all sources and their folders: no variant takes the name of one, nor that of another source's variant.
    Deterministic; names over 255 bytes are cut and carry 8 digits of the key's digest.
    """
    path = PurePosixPath(key)
    stem = path.stem
    if suffix != path.suffix:
        stem = path.name
        while str(path.with_name(stem + suffix)) in keys:  # that source's variants would be called the same
            stem += "_"
    tail = f"__k{number:02d}"
    name = _fit(stem, tail + suffix, key)
    while str(path.with_name(name)) in keys:
        tail += "_"
        name = _fit(stem, tail + suffix, key)
    return str(path.with_name(name))


def _fit(stem: str, tail: str, key: str) -> str:
    raw = stem.encode("utf-8", "surrogateescape")
    room = files.NAME_BYTES - len(tail.encode())
    if len(raw) <= room:
        return stem + tail
    digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
    return raw[: room - 9].decode("utf-8", "ignore") + "-" + digest + tail


@dataclass(frozen=True)
class Output:
    """One file to write: its name below the output folder, its bytes, and its manifest row."""

    name: str
    data: bytes
    row: dict[str, Any]


def outputs(
    recipe: Recipe, key: str, label: str | None, data: bytes, keys: AbstractSet[str]
) -> Iterator[Output | None]:
    """Decode one source once and make its outputs, one at a time; None stands for a variant that was left out.

    Raises images' Unreadable when it is not a usable picture.
    """
    digest = files.sha256(data)
    picture = images.decode(data, recipe.max_pixels)
    source = Sample(key, picture.pixels, label)
    common = {"source": key, "source_sha256": digest}
    if recipe.originals:
        yield Output(key, data, _row(key, common, 0, source, digest, (), list(picture.warnings)))
    for variant in variants(recipe, source):
        if variant is None:
            yield None
            continue
        encoded, suffix, changed = _encode(recipe, picture, variant.sample, PurePosixPath(key).suffix)
        name = variant_name(key, variant.number, suffix, keys)
        warnings = [*picture.warnings, *([changed] if changed else [])]
        row = _row(name, common, variant.number, variant.sample, files.sha256(encoded), variant.ops, warnings)
        yield Output(name, encoded, row)


def _encode(recipe: Recipe, picture: images.Picture, sample: Sample, suffix: str) -> tuple[bytes, str, str | None]:
    """Encode as the source was; as PNG what its format cannot hold, such as a small JPEG 2000. Give suffix, warning."""
    header = picture.header
    kind, suffix, changed = images.output_format(header, suffix)
    quality = recipe.quality or header.quality
    lossless = header.lossless and recipe.quality is None
    try:
        encoded = images.encode(sample.image, kind, quality=quality, subsampling=header.subsampling, lossless=lossless)
    except EdgekitError as error:
        if kind == "png":
            raise
        return images.encode(sample.image, "png"), ".png", f"{error.message}: PNG instead"
    return encoded, suffix, changed


def _row(
    name: str,
    common: dict[str, Any],
    number: int,
    sample: Sample,
    digest: str,
    ops: tuple[dict[str, Any], ...],
    warnings: list[str],
) -> dict[str, Any]:
    width, height = sample.size
    return {
        "file_name": name,
        **common,
        "variant": number,
        "label": sample.label,
        "width": width,
        "height": height,
        "sha256": digest,
        "ops": list(ops),
        "warnings": warnings,
    }
