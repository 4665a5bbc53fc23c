"""What a model takes, and Calibration: a stream of its inputs that can be gone through again and again."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from edgekit import graph
from edgekit.data.images import decode
from edgekit.errors import EdgekitError
from edgekit.lazy import np
from edgekit.measure import synthetic
from edgekit.measure.preprocess import CHANNELS, DTYPES
from edgekit.spec import nearest

if TYPE_CHECKING:
    from numpy import ndarray
    from onnx import ModelProto

    from edgekit.data.folder import Source
    from edgekit.graph import Input
    from edgekit.measure.infer import Decision
    from edgekit.measure.preprocess import Preprocess

    Feed = Mapping[str, ndarray]

FEEDS = "give its inputs ready-made, one array for each: --feeds inputs.npz"


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
    shown = ", ".join(f"{entry.name} {entry.dtype} {_joined(entry.shape)}" for entry in entries)
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


def _joined(shape: Sequence[int | str | None]) -> str:
    return "x".join("?" if side is None else str(side) for side in shape)


class Calibration:
    """Feeds (input name -> array of batch 1, or of the model's fixed batch), the same in the same order every time.

    origin: `real`, `synthetic` or `feeds`. count: samples it was made of; the last of a fixed batch are repeated to
    fill it. unreadable: pictures that were skipped, by key, with the reason; known once it has been gone through. Only
    one feed is in memory at a time.
    """

    def __init__(
        self, origin: str, count: int, feeds: Callable[[dict[str, str]], Iterator[Feed]], parts: Iterable[bytes]
    ) -> None:
        self.origin = origin
        self.count = count
        self.unreadable: dict[str, str] = {}
        self._feeds = feeds
        self._parts = parts

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

        return Calibration(self.origin, count, feeds, _Parts(self._parts, f"{chosen} {of}".encode()))

    def __str__(self) -> str:
        """Say its provenance in a few words."""
        skipped = f", {len(self.unreadable)} unreadable" if self.unreadable else ""
        kind = {"real": "pictures", "synthetic": "synthetic pictures", "feeds": "ready-made inputs"}[self.origin]
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


def from_feeds(path: Path, inputs: Sequence[Input]) -> Calibration:
    """Stream the arrays of an .npz file, one for each of `inputs`: first axis samples, or a multiple of a fixed batch.

    An array of exactly an input's shape serves every sample. Raises EdgekitError when names, dtypes, shapes or numbers
    of samples do not fit, and, while it is gone through, for NaN and infinity. Arrays are read sample by sample (whole
    when they are stored in Fortran order).
    """
    stored = _read_headers(path)
    if len(stored) == 1 and len(inputs) == 1:
        stored = {inputs[0].name: next(iter(stored.values()))}
    _require_names(path, stored, inputs)
    plans = {entry.name: _plan(path, entry, stored[entry.name]) for entry in inputs}
    counts = {name: plan.count for name, plan in plans.items() if plan.count > 1}
    if len(set(counts.values())) > 1:
        each = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise EdgekitError(f"--feeds {path}: different numbers of samples: {each}", "save as many of each input")
    samples = max((plan.count for plan in plans.values()), default=0)
    if samples == 0 or any(plan.count == 0 for plan in plans.values()):
        raise EdgekitError(f"--feeds {path}: no samples in it", "save at least one sample of each input")

    def feeds(_: dict[str, str]) -> Iterator[Feed]:
        streams = {name: _samples(path, plan, samples) for name, plan in plans.items()}
        for _number in range(samples):
            feed = {name: next(stream) for name, stream in streams.items()}
            _require_finite(path, feed)
            yield feed

    return Calibration("feeds", samples, feeds, _FileBlocks(path))


def _member(decision: Decision, index: int) -> Preprocess:
    return decision.family[index % len(decision.family)]


def _stamp(decision: Decision) -> bytes:
    return "\n".join([decision.input_name, *(member.to_json() for member in decision.family)]).encode()


def _decoded(sources: Iterable[Source], unreadable: dict[str, str]) -> Iterator[ndarray]:
    for source in sources:
        try:
            yield decode(source.path.read_bytes()).pixels
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
                yield source.path.read_bytes()
            except OSError:
                yield source.key.encode("utf-8", "surrogateescape")
        yield self.stamp


@dataclass(frozen=True)
class _FileBlocks:
    """The bytes of one file, a megabyte at a time."""

    path: Path

    def __iter__(self) -> Iterator[bytes]:
        with self.path.open("rb") as stream:
            while block := stream.read(1 << 20):
                yield block


@dataclass(frozen=True)
class _Stored:
    """An array in an .npz file, before its values are read."""

    member: str
    dtype: Any
    shape: tuple[int, ...]
    fortran: bool


@dataclass(frozen=True)
class _Plan:
    """How one array is cut into `count` samples of `shape`."""

    stored: _Stored
    shape: tuple[int, ...]
    count: int


def _read_headers(path: Path) -> dict[str, _Stored]:
    if not path.is_file():
        raise EdgekitError(f"--feeds {path}: no such file", "save the inputs with np.savez(path, NAME=array)")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            return {name.removesuffix(".npy"): _read_header(archive, name) for name in names}
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise EdgekitError(
            f"--feeds {path}: not an .npz file: {error}", "save the inputs with np.savez(path, NAME=array)"
        ) from None


def _read_header(archive: zipfile.ZipFile, name: str) -> _Stored:
    with archive.open(name) as stream:
        shape, fortran, dtype = _header(stream)
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects")
    return _Stored(name, dtype, shape, fortran and len(shape) > 1)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, Any]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    return tuple(shape), bool(fortran), dtype


def _require_names(path: Path, stored: Mapping[str, _Stored], inputs: Sequence[Input]) -> None:
    wanted = [entry.name for entry in inputs]
    missing = [name for name in wanted if name not in stored]
    unknown = [name for name in stored if name not in wanted]
    if not missing and not unknown:
        return
    if missing:
        near = nearest(missing[0], unknown)
        hint = f"rename {near} to {missing[0]}" if near else f"it holds {', '.join(stored) or 'no arrays'}"
        raise EdgekitError(f"--feeds {path}: no array for the input {', '.join(missing)}", hint)
    raise EdgekitError(
        f"--feeds {path}: the model has no input {', '.join(unknown)}", f"its inputs are {', '.join(wanted)}"
    )


def _plan(path: Path, entry: Input, stored: _Stored) -> _Plan:
    if stored.dtype != np.dtype(entry.dtype):
        raise EdgekitError(
            f"--feeds {path}: {entry.name} is {stored.dtype}, the model takes {entry.dtype}",
            f"convert it: array.astype(np.{entry.dtype})",
        )
    shape, wanted = stored.shape, entry.shape
    if len(shape) == len(wanted) + 1 and _fits(shape[1:], wanted):
        return _Plan(stored, shape[1:], shape[0])
    if shape == wanted:
        return _Plan(stored, shape, 1)
    if len(shape) == len(wanted) and wanted and _fits(shape[1:], wanted[1:]):
        batch = wanted[0] if isinstance(wanted[0], int) else 1
        if batch and shape[0] % batch == 0:
            return _Plan(stored, (batch, *shape[1:]), shape[0] // batch)
    raise EdgekitError(
        f"--feeds {path}: {entry.name} has the shape {_joined(shape)}, the model takes {_joined(wanted)}",
        "the first axis counts samples (a multiple of a fixed batch), the others are the input's",
    )


def _fits(shape: Sequence[int], wanted: Sequence[int | str | None]) -> bool:
    return len(shape) == len(wanted) and all(
        not isinstance(want, int) or side == want for side, want in zip(shape, wanted, strict=True)
    )


def _samples(path: Path, plan: _Plan, samples: int) -> Iterator[ndarray]:
    with zipfile.ZipFile(path) as archive, archive.open(plan.stored.member) as stream:
        if plan.stored.fortran:
            whole = np.lib.format.read_array(stream, allow_pickle=False).reshape(plan.count, *plan.shape)
            sample: ndarray = whole[0]
            for index in range(samples):
                yield whole[index if plan.count > 1 else 0]
            return
        _header(stream)
        size = int(np.prod(plan.shape, dtype=np.int64)) * plan.stored.dtype.itemsize
        for index in range(samples):
            if index < plan.count:
                block = stream.read(size)
                if len(block) < size:
                    raise EdgekitError(f"--feeds {path}: {plan.stored.member} is cut off", "save it again")
                sample = np.frombuffer(block, plan.stored.dtype).reshape(plan.shape)
            yield sample


def _require_finite(path: Path, feed: Feed) -> None:
    for name, array in feed.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise EdgekitError(f"--feeds {path}: {name} holds NaN or infinity", "remove those samples")
