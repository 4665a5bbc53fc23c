"""Which other pictures a variant is mixed with, and how they are brought to its size and kind."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit.augment import warp
from edgekit.errors import EdgekitError
from edgekit.lazy import cv2, np

if TYPE_CHECKING:
    from edgekit.augment.labels import Applied, Rules
    from edgekit.data.sample import Sample

    Size = tuple[int, int]


def digests(keys: Sequence[str]) -> np.ndarray:
    """Hash keys, for `choose`: uint64, one each."""
    return np.array([_hash(key.encode("utf-8", "surrogateescape")) for key in keys], np.uint64)


def choose(
    keys: Sequence[str], seed: int, key: str, variant: int, count: int, hashed: np.ndarray | None = None
) -> list[str]:
    """Choose `count` different partners among `keys` for a variant of the picture `key`, which is never its own.

    A function of its arguments alone, whatever the order of the keys: every key gets a score from (seed, key, variant)
    and itself, and the highest win (rendezvous hashing, Thaler and Ravishankar 1998). So a key more or less among n
    changes one choice in about n, and an added picture few outputs. Give the keys of one split, and of one class where
    labels must agree; `hashed` is `digests(keys)`, for who asks often.

    Raises EdgekitError when there are not as many.
    """
    hashed = digests(keys) if hashed is None else hashed
    asking = key.encode("utf-8", "surrogateescape")
    scores = _scatter(hashed ^ np.uint64(_hash(f"{seed}\0{variant}\0".encode() + asking)))
    others = np.flatnonzero(hashed != np.uint64(_hash(asking)))
    if len(others) < count:
        raise EdgekitError(
            f"{key}: is to be mixed with {count} other{'s' if count > 1 else ''}, and there "
            f"{'is' if len(others) == 1 else 'are'} {len(others)}",
            "give a folder with more pictures, or leave mixing out",
        )
    if 0 < count < len(others):
        others = others[np.argpartition(scores[others], -count)[-count:]]
    ranked = others[np.argsort(scores[others])[::-1][:count]]
    return [keys[place] for place in ranked.tolist()]


def _hash(text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def _scatter(values: np.ndarray) -> np.ndarray:
    """Mix the bits of uint64 (the finaliser of SplitMix64: Steele, Lea and Flood 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def fit(sample: Sample, size: Size, place: Sequence[float], rules: Rules) -> Applied:
    """Scale a picture to cover `size` exactly, and cut off what is too much.

    Its aspect ratio stays, but for the rounding of the window to whole pixels. place: where the window lies, as shares
    0..1 of the room there is.
    """
    width, height = sample.size
    factor = min(width / size[0], height / size[1])
    wide, tall = (max(1, min(side, round(out * factor))) for side, out in zip(sample.size, size, strict=True))
    x, y = int(place[0] * (width - wide + 1)), int(place[1] * (height - tall + 1))
    matrix = np.diag([size[0] / wide, size[1] / tall, 1.0])
    matrix[:2, 2] = -x * matrix[0, 0], -y * matrix[1, 1]
    return warp.move(sample, matrix, size, border="replicate", rules=rules)


def conform(image: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Bring HxWxC pixels to the depth and the channels of `like`.

    8 bits become 16 by 257, and back by rounding. Grey becomes three equal channels, colour its luma (ITU-R BT.601).
    Alpha that `like` does not have lies over black; what had none is opaque.
    """
    full = int(np.iinfo(image.dtype).max)
    if image.shape[2] == 4 and like.shape[2] != 4:
        alpha = image[..., 3:].astype(np.uint32)
        image = ((image[..., :3] * alpha + full // 2) // full).astype(image.dtype)
    if image.shape[2] == 1 and like.shape[2] != 1:
        image = np.repeat(image, 3, axis=2)
    if image.shape[2] == 3 and like.shape[2] == 1:
        image = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)[..., None]
    if image.shape[2] == 3 and like.shape[2] == 4:
        image = np.concatenate([image, np.full_like(image[..., :1], full)], axis=2)
    if image.dtype == like.dtype:
        return image
    if like.dtype == np.uint16:
        return image.astype(np.uint16) * np.uint16(257)
    return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)


def conform_mask(other: Sample, like: np.ndarray, rules: Rules) -> np.ndarray:
    """Give the mask of `other` in the type of `like`; where it has none, what is outside (`Rules.outside`, else 0).

    Raises EdgekitError when the type cannot hold its values.
    """
    if other.mask is None:
        return np.broadcast_to(warp.mask_value(like, rules.outside or 0), other.image.shape[:2])
    mask = other.mask.astype(like.dtype)
    if (mask != other.mask).any():
        raise EdgekitError(
            f"{other.key}: its mask has labels up to {other.mask.max()}, which masks of type {like.dtype} cannot hold",
            "save all masks with the same depth",
        )
    return mask
