"""Invented inputs: random numbers of the right type and shape, for models that pictures do not feed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.errors import EdgekitError
from edgekit.lazy import np
from edgekit.measure import preprocess
from edgekit.measure.calibration import FEEDS, Calibration
from edgekit.measure.infer import OPEN_SIZES
from edgekit.session import open_session, run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy import ndarray
    from onnx import ModelProto

    from edgekit.graph import Input
    from edgekit.session import Feed

COUNT = 8
_BATCH = ("n", "b", "batch", "batch_size")  # names of an axis that counts samples
_OPEN_SIDES = (64, 16, 1, 128, 8, 32, 256, 512)  # of anything but a picture, tried in this order


def invent(model: ModelProto, *, size: str | None = None, seed: int = 0) -> tuple[Calibration, str]:
    """Give COUNT random feeds of origin `random` that the model runs on, and a sentence that says what they are.

    Floats are uniform in 0..1, 8-bit integers use their whole range, wider ones and truth values are 0 or 1 (they may
    be indices). An open first axis is 1; other open ones are the first side that the model runs with. `size` ("224",
    "320x240") is that of a picture. Raises EdgekitError when no side does.
    """
    entries = graph.inputs(model)
    session = open_session(model)
    error = EdgekitError("the model has no inputs", "there is nothing to feed it with")
    for sides in _candidates(entries, size):
        shapes = {entry.name: _filled(entry, sides) for entry in entries}
        try:
            run(session, _feed(entries, shapes, 0, seed))
        except EdgekitError as refused:
            error = EdgekitError(refused.message, FEEDS)
            continue
        return Calibration("random", COUNT, _stream(entries, shapes, seed), [f"{seed} {shapes}".encode()]), _said(
            entries, shapes
        )
    raise error


def _candidates(entries: list[Input], size: str | None) -> Iterator[tuple[int, int]]:
    if size is not None:
        height, width = preprocess.parse({"size": size})[0]["size"]
        yield height, width
        return
    is_picture = any(len(entry.shape) == 4 for entry in entries)
    for side in dict.fromkeys((*OPEN_SIZES, *_OPEN_SIDES) if is_picture else (*_OPEN_SIDES, *OPEN_SIZES)):
        yield side, side
        if not any(side is None or isinstance(side, str) for entry in entries for side in entry.shape[1:]):
            return


def _filled(entry: Input, sides: tuple[int, int]) -> tuple[int, ...]:
    """Put numbers in the place of open axes: 1 at the first, then the height, then the width."""
    left = list(sides)
    shape = []
    for axis, side in enumerate(entry.shape):
        if isinstance(side, int):
            shape.append(side)
        else:
            is_batch = axis == 0 or str(side).lower() in _BATCH
            shape.append(1 if is_batch else left.pop(0) if len(left) > 1 else left[0])
    return tuple(shape)


def _stream(entries: list[Input], shapes: Mapping[str, tuple[int, ...]], seed: int):  # type: ignore[no-untyped-def]
    def feeds(_: dict[str, str]) -> Iterator[Feed]:
        return (_feed(entries, shapes, number, seed) for number in range(COUNT))

    return feeds


def _feed(entries: list[Input], shapes: Mapping[str, tuple[int, ...]], number: int, seed: int) -> Feed:
    rng = np.random.default_rng((seed, number))
    return {entry.name: _values(rng, entry, shapes[entry.name]) for entry in entries}


def _values(rng: np.random.Generator, entry: Input, shape: tuple[int, ...]) -> ndarray:
    try:
        dtype = np.dtype(entry.dtype)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind == "f":
        return rng.random(shape, np.float32).astype(dtype)
    if dtype in (np.dtype(np.uint8), np.dtype(np.int8)):
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    if dtype.kind in "iub":
        return rng.integers(0, 2, shape).astype(dtype)
    raise EdgekitError(f"the input {entry.name} is {entry.dtype}: random values do not feed it", FEEDS)


def _said(entries: list[Input], shapes: Mapping[str, tuple[int, ...]]) -> str:
    each = []
    for entry in entries:
        opened = any(not isinstance(side, int) for side in entry.shape[1:])
        each.append(
            f"{entry.name} {entry.dtype} {'x'.join(map(str, shapes[entry.name]))}"
            + (", its open axes by trial" if opened else "")
        )
    return f"random numbers ({'; '.join(each)})"
