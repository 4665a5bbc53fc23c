"""Ready-made inputs: the arrays of an .npz file, or of a folder of them, as a stream of samples."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from edgekit.errors import EdgekitError
from edgekit.lazy import np
from edgekit.measure.calibration import Beside, Calibration, joined
from edgekit.spec import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy import ndarray

    from edgekit.graph import Input
    from edgekit.session import Feed


def from_feeds(path: Path, inputs: Sequence[Input], *, others: bool = False) -> Calibration:
    """Stream the arrays of an .npz file, or of all in a folder by name, one file at a time.

    A file holds one array for each of `inputs`: first axis samples, or a multiple of a fixed batch; files may differ in
    the axes that the model leaves open. An array of exactly an input's shape serves every sample of its file. With
    `others`, arrays of other names may lie beside them: one for each sample along the first axis, else one for all.
    Raises EdgekitError when names, dtypes, shapes or numbers of samples do not fit, and, while it is gone through, for
    NaN and infinity. Arrays are read sample by sample (whole when they are stored in Fortran order).
    """
    archives = [_archive(file, inputs, others) for file in _files(path)]

    def feeds(_: dict[str, str]) -> Iterator[Feed]:
        for archive in archives:
            for feed in archive.samples(archive.plans):
                _require_finite(archive.path, feed)
                yield feed

    def beside() -> Iterator[Beside]:
        for archive in archives:
            for number, arrays in enumerate(archive.samples(archive.others)):
                yield Beside(archive.path, number, arrays)

    count = sum(archive.count for archive in archives)
    return Calibration("feeds", count, feeds, _Blocks([archive.path for archive in archives]), beside)


@dataclass(frozen=True)
class _Archive:
    """A file and how its arrays are cut into samples: those the model takes, and others."""

    path: Path
    plans: Mapping[str, _Plan]
    others: Mapping[str, _Plan]
    count: int

    def samples(self, plans: Mapping[str, _Plan]) -> Iterator[dict[str, ndarray]]:
        streams = {name: _samples(self.path, plan, self.count) for name, plan in plans.items()}
        for _ in range(self.count):
            yield {name: next(stream) for name, stream in streams.items()}


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix == ".npz" and file.is_file())
    if not found:
        raise EdgekitError(f"--feeds {path}: no .npz file in it", "save each sample with np.savez(path, NAME=array)")
    return found


def _archive(path: Path, inputs: Sequence[Input], others: bool) -> _Archive:
    stored = _read_headers(path)
    if len(stored) == 1 and len(inputs) == 1:
        stored = {inputs[0].name: next(iter(stored.values()))}
    _require_names(path, stored, inputs, others)
    plans = {entry.name: _plan(path, entry, stored[entry.name]) for entry in inputs}
    counts = {name: plan.count for name, plan in plans.items() if plan.count > 1}
    if len(set(counts.values())) > 1:
        each = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise EdgekitError(f"--feeds {path}: different numbers of samples: {each}", "save as many of each input")
    samples = max((plan.count for plan in plans.values()), default=0)
    if samples == 0 or any(plan.count == 0 for plan in plans.values()):
        raise EdgekitError(f"--feeds {path}: no samples in it", "save at least one sample of each input")
    beside = {name: _beside(found, samples) for name, found in stored.items() if name not in plans}
    return _Archive(path, plans, beside, samples)


def _beside(stored: _Stored, samples: int) -> _Plan:
    each = len(stored.shape) > 0 and samples > 1 and stored.shape[0] == samples
    return _Plan(stored, stored.shape[1:], samples) if each else _Plan(stored, stored.shape, 1)


@dataclass(frozen=True)
class _Blocks:
    """The bytes of files, a megabyte at a time, an empty part after each."""

    paths: Sequence[Path]

    def __iter__(self) -> Iterator[bytes]:
        for path in self.paths:
            with path.open("rb") as stream:
                yield from iter(partial(stream.read, 1 << 20), b"")
            yield b""


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
        what = "not a regular file" if path.exists() else "no such file"
        raise EdgekitError(f"--feeds {path}: {what}", "save the inputs with np.savez(path, NAME=array)")
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


def _require_names(path: Path, stored: Mapping[str, _Stored], inputs: Sequence[Input], others: bool) -> None:
    wanted = [entry.name for entry in inputs]
    missing = [name for name in wanted if name not in stored]
    unknown = [name for name in stored if name not in wanted]
    if not missing and (others or not unknown):
        return
    if missing:
        near = nearest(missing[0], unknown)
        hint = f"rename {near} to {missing[0]}" if near else f"it holds {', '.join(stored) or 'no arrays'}"
        raise EdgekitError(f"--feeds {path}: no array for the input {', '.join(missing)}", hint)
    raise EdgekitError(
        f"--feeds {path}: the model has no input {', '.join(unknown)}",
        f"its inputs are {', '.join(wanted)}; other arrays are for --metric",
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
        f"--feeds {path}: {entry.name} has the shape {joined(shape)}, the model takes {joined(wanted)}",
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
