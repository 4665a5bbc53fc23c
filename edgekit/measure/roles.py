"""Roles: which pictures calibrate, which choose, which are reported on; none is ever in two roles."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgekit.data.folder import read
from edgekit.data.images import decode
from edgekit.errors import EdgekitError
from edgekit.lazy import np
from edgekit.measure.calibration import LARGEST

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy import ndarray

    from edgekit.data.folder import Listing, Source
    from edgekit.measure.preprocess import Preprocess

CHOOSE = 512  # largest number of pictures that choices are made on


@dataclass(frozen=True)
class Roles:
    """Pictures by role, each in the order of a hash of its content, so that any first part of a role is a fair sample.

    calibrate: ranges are measured on them. choose: alternatives are compared on them. report: they reach the report and
    the gates. notes: sentences for the report.
    """

    calibrate: tuple[Source, ...] = ()
    choose: tuple[Source, ...] = ()
    report: tuple[Source, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Group:
    """Files of one content."""

    rank: str
    sources: tuple[Source, ...]


class Gallery:
    """A fair part of some pictures, decoded: evenly taken, with their labels; unreadable ones are passed over."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self.shapes = {tuple(pixels.shape[:2]) for pixels, _ in self._decoded(16)}

    def fitted(self, wanted: Preprocess) -> tuple[list[ndarray], list[str | None]]:
        """Give pictures as `Preprocess.fit` does, in RGB or grey: 256, or down to 48 for an input above 128x128."""
        plain = replace(wanted, color="rgb") if wanted.color == "bgr" else wanted
        count = max(48, min(256, 256 * 128 * 128 // (wanted.size[0] * wanted.size[1])))
        found = [(plain.fit(pixels), label) for pixels, label in self._decoded(count)]
        return [image for image, _ in found], [label for _, label in found]

    def _decoded(self, count: int) -> Iterator[tuple[ndarray, str | None]]:
        taken = min(count, len(self._sources))
        # In the order of the golden ratio, so that any first part is spread over all folders too.
        for number in sorted(range(taken), key=lambda number: number * 0.6180339887498949 % 1):
            source = self._sources[number * len(self._sources) // taken]
            try:
                yield decode(read(source, LARGEST)).pixels, source.label
            except (EdgekitError, OSError):  # whoever goes through all of them counts it
                continue


def moments(images: Sequence[ndarray]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Give mean and standard deviation of each channel over pictures (HxWxC), rounded to 2 places, at least 1."""
    mean: ndarray = np.mean([image.mean(axis=(0, 1)) for image in images], axis=0)
    square = np.mean([np.square(image, dtype=np.float64).mean(axis=(0, 1)) for image in images], axis=0)
    deviation: ndarray = np.sqrt(np.maximum(square - mean**2, 1.0))
    return tuple(np.round(mean, 2).tolist()), tuple(np.round(deviation, 2).tolist())


def split_roles(calib: Listing | None, data: Listing | None, samples: int = 256, seed: int = 0) -> Roles:
    """Give each picture its role by its content: copies of a picture stay together, whatever they are called.

    `calib` with `data`: the report is on all of `data`, a quarter of `calib` (at most CHOOSE) chooses, at most
    `samples` of the rest calibrate, and what is in both only reports. `data` alone: a quarter each at most, and at most
    `samples` and CHOOSE. `calib` alone: at most half (and `samples`), a quarter (and CHOOSE), the report on the rest.
    The report is never empty when `data` is given. Depends on contents and `seed`, not on names or order; reads every
    file once.
    """
    if calib is not None and data is not None and calib.root.resolve() == data.root.resolve():
        roles = _from_data(_groups(data.sources, seed), samples)
        return _noted(roles, "--calib and --data are the same folder: it is split into roles")
    if calib is not None and data is not None:
        return _from_both(_groups(calib.sources, seed), _groups(data.sources, seed), samples)
    if data is not None:
        return _from_data(_groups(data.sources, seed), samples)
    if calib is not None:
        return _from_calib(_groups(calib.sources, seed), samples)
    return Roles(notes=("no pictures were given: calibration is on synthetic ones",))


def _groups(sources: Sequence[Source], seed: int) -> list[_Group]:
    """Group sources of one content, in the order of its hash."""
    found: dict[str, list[Source]] = {}
    for source in sources:
        found.setdefault(_rank(source, seed), []).append(source)
    return [
        _Group(rank, tuple(sorted(found[rank], key=lambda source: (source.key, str(source.path)))))
        for rank in sorted(found)
    ]


def _rank(source: Source, seed: int) -> str:
    digest = hashlib.blake2b(digest_size=16, salt=seed.to_bytes(8, "little"))
    try:
        digest.update(read(source, LARGEST))
    except (EdgekitError, OSError):  # whoever decodes it will say why; until then it is like nothing else
        digest.update(b"unreadable\0" + source.key.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _from_data(groups: list[_Group], samples: int) -> Roles:
    quarter = len(groups) // 4
    calibrate = min(samples, max(quarter, 1 if len(groups) > 1 else 0))
    choose = min(CHOOSE, max(quarter, 1 if len(groups) > 2 else 0))
    # From both ends, so that added pictures move others in or out of the report, not from one role to the other.
    return _roles(
        groups[:calibrate], groups[len(groups) - choose :], groups[calibrate : len(groups) - choose], "--data"
    )


def _from_both(calib: list[_Group], data: list[_Group], samples: int) -> Roles:
    reported = {group.rank for group in data}
    fresh = [group for group in calib if group.rank not in reported]
    if not fresh:
        note = "every picture of --calib is in --data too: --data is split into roles"
        return _noted(_from_data(data, samples), note)
    choose = min(CHOOSE, max(len(fresh) // 4, 1 if len(fresh) > 1 else 0))
    calibrate = min(samples, len(fresh) - choose)
    roles = _roles(fresh[:calibrate], fresh[len(fresh) - choose :], data, "--calib")
    shared = _count(group for group in calib if group.rank in reported)
    if shared:
        roles = _noted(roles, f"{_pictures(shared)} of --calib left out: in --data too, so only reported on")
    return roles


def _from_calib(groups: list[_Group], samples: int) -> Roles:
    quarter = len(groups) // 4
    choose = min(CHOOSE, max(quarter, 1 if len(groups) > 2 else 0))
    calibrate = min(samples, max(1, len(groups) - choose - max(quarter, 1)))
    return _roles(
        groups[:calibrate], groups[len(groups) - choose :], groups[calibrate : len(groups) - choose], "--calib"
    )


def _roles(calibrate: list[_Group], choose: list[_Group], report: list[_Group], origin: str) -> Roles:
    parts = [tuple(source for group in groups for source in group.sources) for groups in (calibrate, choose, report)]
    notes = [f"{_pictures(len(parts[0]))} calibrate, {len(parts[1])} choose, {len(parts[2])} are reported on"]
    for part, what in zip(
        parts,
        ("to calibrate on: calibration is on synthetic ones", "to choose on: defaults are taken", "to report on"),
        strict=True,
    ):
        if not part:
            notes.append(f"{origin} is too small to leave a picture {what}")
    return Roles(parts[0], parts[1], parts[2], tuple(notes))


def _noted(roles: Roles, note: str) -> Roles:
    return Roles(roles.calibrate, roles.choose, roles.report, (note, *roles.notes))


def _count(groups: Iterable[_Group]) -> int:
    return sum(len(group.sources) for group in groups)


def _pictures(count: int) -> str:
    return f"{count} picture{'' if count == 1 else 's'}"
