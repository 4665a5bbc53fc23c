"""What a model takes, and Calibration: a stream of its inputs that can be gone through again and again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.data.folder import read
from edgekit.data.images import decode
from edgekit.errors import EdgekitError
from edgekit.lazy import np
from edgekit.measure import synthetic
from edgekit.measure.preprocess import CHANNELS, DTYPES

if TYPE_CHECKING:
    from pathlib import Path

    from numpy import ndarray
    from onnx import ModelProto

    from edgekit.data.folder import Source
    from edgekit.measure.infer import Decision
    from edgekit.measure.preprocess import Preprocess

    Feed = Mapping[str, ndarray]

FEEDS = "give its inputs ready-made, one array for each: --feeds inputs.npz"
LARGEST = 1_000_000_000  # bytes of a picture file


@dataclass(frozen=True)
class Target:
    """The model's picture input; height and width are None where the graph leaves them open."""

    name: str
    layout: str
    size: tuple[int | None, int | None]
    channels: int
    dtype: str
    batch: int

    def require(self, size: tuple[int, int] | None = None, color: str | None = None) -> None:
        """Raise EdgekitError when the graph says another size (height, width) or number of channels."""
        if size and any(own not in (None, side) for own, side in zip(self.size, size, strict=True)):
            takes = f"the model takes {self.size[1] or 'any'}x{self.size[0] or 'any'} (width x height)"
            raise EdgekitError(f"--size {size[1]}x{size[0]}: {takes}", "leave --size out")
        if color and CHANNELS[color] != self.channels:
            raise EdgekitError(f"--color {color}: the model takes {self.channels} channel(s)", "leave --color out")


def picture_input(model: ModelProto, layout: str | None = None) -> Target:
    """Find the input that takes pictures; raise EdgekitError when it does not, or there are several.

    A picture has 3 or 4 axes, 1, 3 or 4 channels (no such axis: grey), and a type in preprocess.DTYPES. Where the shape
    does not say which axis holds the channels, the way to the first convolution does.
    """
    entries = graph.inputs(model)
    shown = ", ".join(f"{entry.name} {entry.dtype} {joined(entry.shape)}" for entry in entries)
    if len(entries) != 1:
        raise EdgekitError(f"the model has {len(entries)} inputs ({shown}): pictures alone do not feed it", FEEDS)
    entry = entries[0]
    shape = tuple(side if isinstance(side, int) and side > 0 else None for side in entry.shape)
    layer = synthetic.first_layer(model, entry.name)
    layout = layout or _layout(shape, layer.axes[1] if layer and layer.axes else None)
    if layout is None or len(layout) != len(shape) or entry.dtype not in DTYPES:
        hint = f"give --layout NCHW or NHWC, or {FEEDS}" if len(shape) == 4 and None in shape[1:] else FEEDS
        raise EdgekitError(f"the model's input is not a picture: {shown}", hint)
    sides = dict(zip(layout, shape, strict=True))
    channels = (sides["C"] or (layer.channels if layer else None) or 3) if "C" in sides else 1
    if channels not in CHANNELS.values():
        raise EdgekitError(f"the model's input has {channels} channels ({layout}): {shown}", FEEDS)
    return Target(entry.name, layout, (sides["H"], sides["W"]), channels, entry.dtype, sides.get("N") or 1)


def _layout(shape: Sequence[int | None], axis: int | None) -> str | None:
    """Name the axes of an input, `axis` being that of the channels as far as the graph shows it."""
    counts = tuple(CHANNELS.values())
    if len(shape) == 3:
        square = shape[1] is not None and shape[1] == shape[2]
        return "CHW" if shape[0] == 3 else "HWC" if shape[0] and shape[2] in counts else "NHW" if square else None
    if len(shape) != 4:
        return None
    first, last = shape[1] in counts, shape[3] in counts
    if first != last:
        return "NCHW" if first else "NHWC"
    if not first and None not in (shape[1], shape[3]):
        return None
    return {1: "NCHW", 3: "NHWC"}.get(axis or 0, "NCHW" if first else None)


def joined(shape: Sequence[int | str | None]) -> str:
    """Write a shape, an open axis as a question mark or by its name."""
    return "x".join("?" if side is None else str(side) for side in shape)


@dataclass(frozen=True)
class Beside:
    """What is known of a ready-made sample but its inputs: its file, its number in it, arrays of other names."""

    path: Path | None = None
    number: int = 0
    arrays: Mapping[str, ndarray] = field(default_factory=dict)


class Calibration:
    """Feeds (input name -> array of batch 1, or of the model's fixed batch), the same in the same order every time.

    origin: `real`, `synthetic` or `feeds`. count: samples it was made of; the last of a fixed batch are repeated to
    fill it. unreadable: pictures that were skipped, by key, with the reason; known once it has been gone through. Only
    one feed is in memory at a time. Ready-made inputs may have others beside them, which the model does not take.
    """

    def __init__(
        self,
        origin: str,
        count: int,
        feeds: Callable[[dict[str, str]], Iterator[Feed]],
        parts: Iterable[bytes],
        others: Callable[[], Iterator[Beside]] | None = None,
    ) -> None:
        self.origin = origin
        self.count = count
        self.unreadable: dict[str, str] = {}
        self._feeds = feeds
        self._parts = parts
        self._others = others

    def beside(self) -> Iterator[Beside]:
        """Say of each feed where it came from, and what else was stored with it."""
        return self._others() if self._others is not None else (Beside() for _ in self)

    def __iter__(self) -> Iterator[Feed]:
        return self._feeds(self.unreadable)

    @cached_property
    def digest(self) -> str:
        """Digest of all it is made of (32 hexadecimal digits): file contents, or seed, and the preprocessing."""
        digest = hashlib.blake2b(self.origin.encode(), digest_size=16)
        for part in self._parts:
            digest.update(hashlib.blake2b(part, digest_size=16).digest())
        return digest.hexdigest()

    def part(self, chosen: Sequence[int], of: int = 4) -> Calibration:
        """Give the samples whose number modulo `of` is among `chosen`, as a stream of their own."""
        count = sum(number % of in chosen for number in range(self.count))

        def feeds(unreadable: dict[str, str]) -> Iterator[Feed]:
            return (feed for number, feed in enumerate(self._feeds(unreadable)) if number % of in chosen)

        def others() -> Iterator[Beside]:
            return (one for number, one in enumerate(self.beside()) if number % of in chosen)

        return Calibration(self.origin, count, feeds, _Parts(self._parts, f"{chosen} {of}".encode()), others)

    def __str__(self) -> str:
        """Say its provenance in a few words."""
        skipped = f", {len(self.unreadable)} unreadable" if self.unreadable else ""
        kinds = {"real": "pictures", "synthetic": "synthetic pictures", "feeds": "ready-made inputs"}
        kind = kinds.get(self.origin, f"{self.origin} inputs")
        return f"{self.count} {kind}{skipped}"


def from_pictures(sources: Sequence[Source], decision: Decision) -> Calibration:
    """Stream pictures as `decision` feeds them, its family in turn.

    Raises EdgekitError, while it is gone through, when not one picture can be read.
    """

    def feeds(unreadable: dict[str, str]) -> Iterator[Feed]:
        readable = _decoded(sources, unreadable)
        inputs = (_member(decision, index).apply(pixels) for index, pixels in enumerate(readable))
        found = False
        for array in _batches(inputs, decision):
            found = True
            yield {decision.input_name: array}
        if not found:
            reason = next(iter(unreadable.items()), ("", "there is none"))
            raise EdgekitError(
                f"no picture to calibrate on can be read: {': '.join(part for part in reason if part)}",
                "give a folder with readable pictures, or none for synthetic ones",
            )

    return Calibration("real", len(sources), feeds, _FilesAnd(sources, _stamp(decision)))


def from_synthetic(decision: Decision, count: int = 128, seed: int = 0) -> Calibration:
    """Stream `count` synthetic pictures as `decision` feeds them, its family in turn."""

    def feeds(_: dict[str, str]) -> Iterator[Feed]:
        pictures = synthetic.pictures(count, decision.preprocess.size, seed)
        # The two kinds of picture alternate, so the family moves on every second one: each meets both.
        inputs = (_member(decision, index // 2).apply(pixels) for index, pixels in enumerate(pictures))
        for array in _batches(inputs, decision):
            yield {decision.input_name: array}

    return Calibration("synthetic", count, feeds, [f"{count} {seed}".encode(), _stamp(decision)])


def _member(decision: Decision, index: int) -> Preprocess:
    return decision.family[index % len(decision.family)]


def _stamp(decision: Decision) -> bytes:
    return "\n".join([decision.input_name, *(member.to_json() for member in decision.family)]).encode()


def _decoded(sources: Iterable[Source], unreadable: dict[str, str]) -> Iterator[ndarray]:
    for source in sources:
        try:
            yield decode(read(source, LARGEST)).pixels
        except EdgekitError as error:
            unreadable[source.key] = error.message
        except OSError as error:
            unreadable[source.key] = error.strerror or "cannot be read"


def _batches(arrays: Iterator[ndarray], decision: Decision) -> Iterator[ndarray]:
    if decision.batch == 1:
        yield from arrays
        return
    while batch := list(islice(arrays, decision.batch)):
        full = (batch * decision.batch)[: decision.batch]
        yield np.concatenate(full)


@dataclass(frozen=True)
class _Parts:
    """What another stream is made of, then a stamp."""

    whole: Iterable[bytes]
    stamp: bytes

    def __iter__(self) -> Iterator[bytes]:
        yield from self.whole
        yield self.stamp


@dataclass(frozen=True)
class _FilesAnd:
    """The bytes of files, one file in memory at a time, then a stamp; what cannot be read counts by its key."""

    sources: Sequence[Source]
    stamp: bytes

    def __iter__(self) -> Iterator[bytes]:
        for source in self.sources:
            try:
                yield read(source, LARGEST)
            except (EdgekitError, OSError):
                yield source.key.encode("utf-8", "surrogateescape")
        yield self.stamp
