"""The five digital corruptions of ImageNet-C. Brightness and contrast work on HxWxC float32 of 0..1; pixelate and JPEG
on the values as they are; the elastic transform is two ops, so that labels move along."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from edgekit.augment.draws import Normals, uniforms
from edgekit.augment.op import Op
from edgekit.lazy import cv2, np
from edgekit.spec import spec

if TYPE_CHECKING:
    from edgekit.augment.op import Params

COARSE = 8.0  # pixels; noise with a wider blur is made on a grid with fewer


def brightness(image: np.ndarray, amount: float, params: Params) -> np.ndarray:
    """Add to the value of HSV, the largest of red, green and blue; hue and saturation stay."""
    if image.shape[2] == 1:
        return image + np.float32(amount)
    colours = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    colours[..., 2] = np.clip(colours[..., 2] + np.float32(amount), 0, 1)
    return cv2.cvtColor(colours, cv2.COLOR_HSV2RGB)


def contrast(image: np.ndarray, factor: float, params: Params) -> np.ndarray:
    """Bring values nearer to the mean of their channel."""
    means = image.mean(axis=(0, 1), keepdims=True, dtype=np.float64).astype(np.float32)
    return (image - means) * np.float32(factor) + means


def pixelate(image: np.ndarray, share: float, params: Params) -> np.ndarray:
    """Make smaller and large again, each pixel the mean of a box, as Pillow's BOX does: uint8 or uint16 in and out."""
    height, width = image.shape[:2]
    small = image
    for axis, length in ((1, width), (0, height)):
        small = _boxes(small, max(1, int(length * share)), axis)
    rows, columns = (_repeated(count, length) for count, length in zip(small.shape[:2], (height, width), strict=True))
    return small[rows][:, columns]


def jpeg_compression(image: np.ndarray, quality: int, params: Params) -> np.ndarray:
    """Compress as JPEG (4:2:0) and unpack again: uint8 in and out, uint16 at 8 bits."""
    from edgekit.data import images

    if image.dtype == np.uint16:  # 65535 / 255 is 257
        return jpeg_compression((image // 257).astype(np.uint8), quality, params).astype(np.uint16) * 257
    data = images.encode(image, "jpeg", quality=quality, subsampling="4:2:0")
    return images.decode(data, max_pixels=image.shape[0] * image.shape[1]).pixels


# ---- elastic


@spec
class elastic_affine(Op):
    """Move three corners of a triangle about the middle, and all that belongs to it."""

    def matrix(self, params: Params, size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
        """Give the affine map that takes the triangle to where its corners are moved, in pixels."""
        side = max(1, min(size) // 3)
        around = np.array([(side, side), (side, -side), (-side, -side)], np.float32)
        corners = np.array([length // 2 + 0.5 for length in size], np.float32) + around
        moved = cv2.getAffineTransform(corners, corners + np.array(params["moves"], np.float32))
        return np.vstack([moved, [0.0, 0.0, 1.0]]), size


@spec
class elastic_pixels(Op):
    """Move every pixel by smoothed noise. It folds the picture over here and there, as published."""

    folds: ClassVar = True

    def field(self, params: Params, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Give the place in the source that each output pixel shows."""
        moves = [_smoothed(params["seed"], stream, size, params["sigma"]) for stream in (1, 2)]
        strength = np.float32(params["strength"])
        columns, rows = (np.arange(length, dtype=np.float32) + np.float32(0.5) for length in size)
        return columns + strength * moves[0], rows[:, None] + strength * moves[1]


def _smoothed(seed: int, stream: int, size: tuple[int, int], sigma: float) -> np.ndarray:
    """Blur noise that is uniform in -1..1, by a Gaussian of sigma pixels: HxW float32.

    Where sigma is large the means of many values are drawn, which are normal, on a grid with fewer pixels.
    """
    factor = max(1, int(sigma / COARSE))
    width, height = (math.ceil(length / factor) for length in size)
    if factor == 1:
        noise = (2 * uniforms(seed + stream, height, width) - 1).astype(np.float32)
    else:
        noise = Normals(seed, stream).next(height, width) * np.float32(1 / (math.sqrt(3) * factor))
    kernel = 2 * int(3 * sigma / factor + 0.5) + 1
    smooth = cv2.GaussianBlur(noise, (kernel, kernel), sigma / factor, borderType=cv2.BORDER_REFLECT)
    return smooth if factor == 1 else cv2.resize(smooth, size, interpolation=cv2.INTER_LINEAR)


# ---- boxes


def _boxes(image: np.ndarray, count: int, axis: int) -> np.ndarray:
    """Average along an axis over `count` boxes of whole pixels, and round."""
    length = image.shape[axis]
    edges = np.floor(np.arange(count + 1) * (length / count) + 0.5).astype(np.int64)
    sums = np.add.reduceat(image.astype(np.uint32), edges[:-1], axis=axis)
    counts = np.diff(edges).reshape([-1 if place == axis else 1 for place in range(3)])
    means: np.ndarray = ((2 * sums + counts) // (2 * counts)).astype(image.dtype)
    return means


def _repeated(count: int, length: int) -> np.ndarray:
    places: np.ndarray = np.floor((np.arange(length) + 0.5) * (count / length)).astype(np.int64)
    return places
