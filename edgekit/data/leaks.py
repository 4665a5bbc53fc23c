"""Leaks: copies of one picture in several splits, found however they were encoded, resized, flipped or turned.

A picture is fingerprinted by its grey thumbnail, and two are compared by the detail in it: the low frequencies of its
cosine transform without the lowest six, in which all skies are alike. There a mirror is a change of signs and a
transposition one of axes, so that magnitudes are the same for all eight ways to lay a picture down; pairs near by those
are then compared with their signs. What is not found: crops, turns by other angles, texts laid over. Of pictures that
are flat, or a mere gradient, and of those below 12 pixels, only equal files count.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from edgekit.data import images, splits
from edgekit.lazy import cv2, np

if TYPE_CHECKING:
    from numpy import ndarray

HOWS = SAME_FILE, SAME_PICTURE, FLIPPED = ("same file", "same picture", "flipped or turned")
GRID = 32  # side of the thumbnail, cells
LOWEST = 3  # frequencies across and down that add up to less are left out: the mean, and what gradients are made of
FLAT = 5.0  # grey levels, standard deviation: with less detail a picture is not told from others
TINY = 12  # pixels: a shorter side is too short


@dataclass(frozen=True)
class Rule:
    """When two pictures are copies: from the lowest `band` frequencies each way, if the shorter side has `side` pixels.

    alike: least correlation of their detail. apart: largest difference, grey levels (root mean square) when the
    contrast of the one is scaled to the other's: two shirts correlate as well as two encodings of one, but differ more.
    """

    side: int
    band: int
    alike: float
    apart: float


# Over every pair of 128 COCO pictures the best correlation is 0.51 (large) and 0.63 (small); their copies have 0.97 and
# more. Of Fashion-MNIST two different pictures reach 0.99, but differ by 7 grey levels and more, copies by up to 5.
LARGE, SMALL = RULES = (Rule(64, GRID, 0.93, 9.0), Rule(TINY, 12, 0.95, 6.0))
COARSE = Rule(TINY, 8, 0.93, 255.0)  # asked of every pair first, so that most are passed by


@dataclass(frozen=True)
class Fingerprint:
    """What tells a picture from others: SHA-256 of its file, GRID x GRID grey levels, its shorter side in pixels."""

    sha256: bytes
    thumbnail: bytes
    side: int


@dataclass(frozen=True)
class Pair:
    """Two copies of one picture, by their positions, and how they are alike: one of HOWS."""

    first: int
    second: int
    how: str


def fingerprint(data: bytes, max_pixels: int = 100_000_000) -> Fingerprint:
    """Fingerprint a picture's file; a JPEG is decoded at a fraction of its size.

    Raises Unreadable as `images.decode` does.
    """
    picture, step = images.decode_grey(data, 2 * GRID, max_pixels)
    return _of_grey(data, picture, step)


def of_picture(data: bytes, picture: images.Picture) -> Fingerprint:
    """Fingerprint a picture that is decoded already, from the file `data`."""
    return _of_grey(data, replace(picture, pixels=images.grey(picture.pixels)), 1)


def _of_grey(data: bytes, picture: images.Picture, step: int) -> Fingerprint:
    """Fingerprint what `images.decode_grey` gives of the file `data`."""
    header = picture.header
    width, height = (header.width, header.height) if header.orientation < 5 else (header.height, header.width)
    grey = picture.pixels[..., 0]
    if step == 1:
        height, width = grey.shape
    across = _shares(grey.shape[1], width / step, header.orientation in (2, 3, 6, 7)).T
    down = _shares(grey.shape[0], height / step, header.orientation in (3, 4, 7, 8))
    # Not BLAS, whose threads wait for one another longer than they work when every core is busy.
    rows = [grey[top : top + 512].astype(np.float32) for top in range(0, len(grey), 512)]
    strips = [cv2.gemm(some, across, 1.0, None, 0.0) for some in rows]
    small = np.rint(down @ np.concatenate(strips)).clip(0, 255).astype(np.uint8)
    return Fingerprint(hashlib.sha256(data).digest(), small.tobytes(), min(width, height))


@lru_cache(maxsize=64)
def _shares(pixels: int, extent: float, backwards: bool) -> ndarray:
    """Give GRID x pixels float32: the share of each cell that each pixel covers.

    The last pixel (`backwards`: the first) reaches beyond the picture's extent when that is not whole.
    """
    edges = np.arange(GRID + 1)[:, None] * (extent / GRID)
    starts = np.arange(pixels)
    ends = np.minimum(starts + 1, extent)
    covered = np.minimum(edges[1:], ends) - np.maximum(edges[:-1], starts)
    shares = covered.clip(0) * (GRID / extent)
    return (shares[::-1, ::-1] if backwards else shares).astype(np.float32)


# ---- pairs


def pairs(prints: Sequence[Fingerprint | None]) -> list[Pair]:
    """Link the copies among some pictures (None: one that is passed over): as many pairs as join each group of them.

    Copies of copies are not listed again, so there are fewer pairs than pictures; `groups` and `leaks` take them from
    here. All are compared by products of matrices of small whole numbers, which are exact.
    """
    found: list[Pair] = []
    known: dict[bytes, int] = {}
    chosen: list[int] = []
    for position, one in enumerate(prints):
        if one is None:
            continue
        first = known.setdefault(one.sha256, position)
        if first != position:
            found.append(Pair(first, position, SAME_FILE))
        elif one.side >= TINY:
            chosen.append(position)
    thumbnails = np.frombuffer(b"".join(one.thumbnail for i in chosen if (one := prints[i])), np.uint8)
    sides = np.array([one.side for i in chosen if (one := prints[i])])
    whole = thumbnails.reshape(-1, GRID, GRID)
    detailed = np.flatnonzero(contrast(whole))
    where = np.array(chosen, np.int64)[detailed]
    for first, second, how in _linked(whole[detailed], sides[detailed]):
        found.append(Pair(int(where[first]), int(where[second]), how))
    return sorted(found, key=lambda pair: (pair.first, pair.second))


def _linked(thumbnails: ndarray, sides: ndarray) -> Iterator[tuple[int, int, str]]:
    """Compare pictures until every group of copies is joined."""
    group = np.arange(len(thumbnails))
    for candidates in _candidates(thumbnails):
        for start in range(0, len(candidates), 2048):
            some = candidates[start : start + 2048]
            some = some[group[some[:, 0]] != group[some[:, 1]]]
            hows = compare(thumbnails, sides, some) if len(some) else []
            for (first, second), how in zip(some.tolist(), hows, strict=True):
                if how and group[first] != group[second]:
                    group[group == group[second]] = group[first]
                    yield first, second, how


def _candidates(thumbnails: ndarray) -> Iterator[ndarray]:
    """Give the pairs whose magnitudes are near, Nx2, by the first: the distance is at most that of any laying down."""
    count = len(thumbnails)
    marks = np.concatenate(
        [_magnitudes(thumbnails[i : i + 4096]) for i in range(0, count, 4096)] or [np.empty((0, 1), np.float32)]
    )
    norms = (marks * marks).sum(axis=1)
    nearest = 2048.0**2 * ((2 - 2 * COARSE.alike) ** 0.5 + 0.01) ** 2  # 0.01: the rounding of both
    rows = max(1, (1 << 21) // max(1, count))
    for start in range(0, count, rows):
        block = marks[start : start + rows]
        distances = norms[start : start + rows, None] + norms[start:] - 2 * (block @ marks[start:].T)
        first, second = np.nonzero(np.triu(distances <= nearest, 1))
        yield np.stack([first, second], axis=1) + start


def _magnitudes(thumbnails: ndarray) -> ndarray:
    """Give N x D float32 whole numbers up to 2048: the same for a picture flipped or turned."""
    low, _ = detail(thumbnails, COARSE.band)
    size = np.abs(low)
    turned = size.transpose(0, 2, 1)
    rows, columns = np.triu_indices(COARSE.band)
    ordered = np.concatenate(
        [np.maximum(size, turned)[:, rows, columns], np.minimum(size, turned)[:, rows, columns]], 1
    )
    ordered[:, len(rows) :][:, rows == columns] = 0.0  # the diagonal, once
    marks: ndarray = np.rint(2048 * ordered).astype(np.float32)
    return marks


def compare(thumbnails: ndarray, sides: ndarray, candidates: ndarray) -> list[str]:
    """Say for each pair (Nx2 positions) how its pictures are alike, or "" when they are not.

    thumbnails: M x GRID x GRID uint8; sides: M, their pictures' shorter ones.
    """
    hows = np.zeros(len(candidates), np.int64)
    large = sides[candidates].min(axis=1) >= LARGE.side
    for rule, chosen in ((LARGE, np.flatnonzero(large)), (SMALL, np.flatnonzero(~large))):
        for start in range(0, len(chosen), 256):
            some = chosen[start : start + 256]
            first, second = thumbnails[candidates[some, 0]], thumbnails[candidates[some, 1]]
            alike = _alike(first, second, rule) & _alike(first, second, COARSE)
            hows[some] = np.where(alike[0], 1, np.where(alike.any(axis=0), 2, 0))
    return [("", SAME_PICTURE, FLIPPED)[how] for how in hows.tolist()]


def _alike(first: ndarray, second: ndarray, rule: Rule) -> ndarray:
    """Judge pairs of thumbnails under the eight ways to lay one down, 8xN bool, as it is first."""
    one, one_contrast = detail(first, rule.band)
    other, other_contrast = detail(second, rule.band)
    signs = (-1.0) ** np.arange(rule.band)
    ways = [
        laid * across * down[:, None]
        for laid in (other, other.transpose(0, 2, 1))
        for across in (np.ones(rule.band), signs)
        for down in (np.ones(rule.band), signs)
    ]
    alike = np.stack([np.einsum("nij,nij->n", one, way) for way in ways])
    apart = np.minimum(one_contrast, other_contrast) * np.sqrt((1 - alike * alike).clip(0))
    return (alike >= rule.alike) & (apart <= rule.apart)


def contrast(thumbnails: ndarray) -> ndarray:
    """Tell which thumbnails (N x GRID x GRID uint8) have enough detail to be compared: N bool."""
    judged = [detail(thumbnails[i : i + 4096], SMALL.band)[1] >= FLAT for i in range(0, len(thumbnails), 4096)]
    return np.concatenate(judged) if judged else np.empty(0, bool)


def detail(thumbnails: ndarray, band: int) -> tuple[ndarray, ndarray]:
    """Take the detail from thumbnails: N x band x band float64 of norm 1 or 0, and its contrast in grey levels, N.

    These are the lowest frequencies of the orthonormal discrete cosine transform (DCT-II; Ahmed, Natarajan and Rao,
    1974) but for the LOWEST.
    """
    waves = _waves(band)
    found = waves @ thumbnails.astype(np.float64) @ waves.T
    found *= np.add.outer(np.arange(band), np.arange(band)) >= LOWEST
    norms = np.sqrt(np.square(found).sum(axis=(1, 2)))
    return found / np.maximum(norms, 1e-9)[:, None, None], norms / GRID


@lru_cache(maxsize=8)
def _waves(band: int) -> ndarray:
    phase = np.outer(np.arange(band), 2 * np.arange(GRID) + 1) * (np.pi / (2 * GRID))
    waves: ndarray = np.cos(phase) * np.sqrt(np.where(np.arange(band) == 0, 1.0, 2.0) / GRID)[:, None]
    return waves


# ---- what pairs mean


def groups(pairs: Sequence[Pair]) -> list[list[int]]:
    """Put the copies of each picture together: sorted positions, the groups by their first."""
    near = _neighbours(pairs)
    seen: set[int] = set()
    found = []
    for start in sorted(near):
        if start not in seen:
            members = sorted(_reach([start], near))
            seen.update(members)
            found.append(members)
    return found


def leaks(pairs: Sequence[Pair], splits_of: Sequence[str | None]) -> list[Pair]:
    """Give the copies that lie in another split than their picture, one pair each.

    splits_of: the split of each picture, None for one that is in none. Of a group of copies the split that matters most
    (train, then val, then test) has the picture, which is `first`; a copy of a copy is as unlike as the way to it.
    """
    near = _neighbours(pairs)
    found = []
    for members in groups(pairs):
        held = splits.ordered(splits_of[member] for member in members)
        if len(held) < 2:
            continue
        reached = _reach([member for member in members if splits_of[member] == held[0]], near)
        for member in members:
            if splits_of[member] not in (None, held[0]):
                origin, how = reached[member]
                found.append(Pair(origin, member, how))
    return found


def _neighbours(pairs: Sequence[Pair]) -> dict[int, list[tuple[int, str]]]:
    near: dict[int, list[tuple[int, str]]] = {}
    for pair in pairs:
        near.setdefault(pair.first, []).append((pair.second, pair.how))
        near.setdefault(pair.second, []).append((pair.first, pair.how))
    return near


def _reach(starts: Sequence[int], near: dict[int, list[tuple[int, str]]]) -> dict[int, tuple[int, str]]:
    """Give all that pairs lead to from some pictures: from which with the fewest steps, and how alike at the least."""
    reached = {start: (start, SAME_FILE) for start in starts}
    ahead = deque(starts)
    while ahead:
        one = ahead.popleft()
        origin, so_far = reached[one]
        for other, how in near[one]:
            if other not in reached:
                reached[other] = (origin, max(so_far, how, key=HOWS.index))
                ahead.append(other)
    return reached
