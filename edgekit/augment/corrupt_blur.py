"""The four corruptions by blur of ImageNet-C; each works on HxWxC float32 of 0..1, and gives the same."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgekit.augment.draws import uniforms
from edgekit.lazy import cv2, np

if TYPE_CHECKING:
    from edgekit.augment.op import Params

SMALL = 8  # the disc's kernel is as wide as one of this radius, at least


def defocus_blur(image: np.ndarray, constants: tuple[float, float], params: Params) -> np.ndarray:
    """Lay a disc over every pixel: its radius, and how much its own edge is blurred."""
    radius, softness = constants
    reach = max(SMALL, math.ceil(radius))
    axis = np.arange(-reach, reach + 1)
    inside = (axis[:, None] ** 2 + axis[None, :] ** 2 <= radius**2).astype(np.float32)
    width = 3 if radius <= SMALL else 5
    kernel = cv2.GaussianBlur(inside / inside.sum(), (width, width), softness)
    return cv2.filter2D(image, -1, kernel).reshape(image.shape)


def glass_blur(image: np.ndarray, constants: tuple[float, int, int], params: Params) -> np.ndarray:
    """Blur, let every pixel take the place of one nearby, so many times over, and blur again.

    Between the blurs there are 8 bits. The published loop means to swap two pixels but copies one (its arrays are
    views), from the last pixel to the first, so that a copy can travel on; `_travelled` gives what comes of that.
    """
    sigma, reach, times = constants
    height, width = image.shape[:2]
    pixels = np.floor(_gaussian(image, sigma) * 255 + 1e-3).astype(np.uint8)
    rows, columns = max(0, height - 2 * reach), max(0, width - 2 * reach)
    draws = uniforms(params["seed"], times, 2, rows, columns)
    for across, down in np.floor(draws * (2 * reach)).astype(np.int32) - reach:
        pixels = pixels.reshape(height * width, -1)[_travelled(down, across, reach, (height, width))]
        pixels = pixels.reshape(image.shape)
    return _gaussian(pixels.astype(np.float32) / np.float32(255), sigma)


def _travelled(down: np.ndarray, across: np.ndarray, reach: int, shape: tuple[int, int]) -> np.ndarray:
    """Say which pixel each one shows at the end, by their numbers, when all inner ones have taken another's value.

    They take it in falling order of their numbers: from a higher number comes what that one has taken itself. Such
    chains are followed by doubling: after n steps everyone knows whom it got from 2^n links ago.
    """
    height, width = shape
    rows, columns = down.shape
    numbers = np.arange(height * width, dtype=np.int64)
    inner = numbers.reshape(shape)[reach + 1 : reach + 1 + rows, reach + 1 : reach + 1 + columns]
    source = numbers.copy()
    source[inner] = (
        inner + down[: inner.shape[0], : inner.shape[1]] * width + across[: inner.shape[0], : inner.shape[1]]
    )
    taken = np.zeros(len(numbers), np.bool_)  # has its value been taken from elsewhere before?
    taken[inner] = True
    follows = np.where(taken[source] & (source > numbers), source, numbers)
    while True:
        further = follows[follows]
        if np.array_equal(further, follows):
            return source[follows]
        follows = further


def motion_blur(image: np.ndarray, constants: tuple[int, float], params: Params) -> np.ndarray:
    """Drag every pixel along, in the drawn direction, with weights that fall like a Gaussian's half."""
    return dragged(image, *constants, params["degrees"])


def dragged(image: np.ndarray, radius: int, sigma: float, degrees: float) -> np.ndarray:
    """Add up the pixels on one side along a line, rounded to whole pixels, as ImageMagick's motion blur does."""
    width, height = image.shape[1], image.shape[0]
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    kernel = np.zeros((4 * radius + 1, 4 * radius + 1))
    x, y = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    for step, weight in enumerate(weights.tolist()):
        right, below = math.ceil(step * x - 0.5), math.ceil(step * y - 0.5)
        if abs(right) >= width or abs(below) >= height:
            break
        kernel[2 * radius + below, 2 * radius + right] += weight
    made = cv2.filter2D(image, -1, kernel.astype(np.float32), borderType=cv2.BORDER_REPLICATE)
    return made.reshape(image.shape)


def zoom_blur(image: np.ndarray, factors: tuple[float, float, int], params: Params) -> np.ndarray:
    """Average the picture with zooms into its middle: from 1 in so many equal steps."""
    first, step, count = factors
    total = image.copy()
    for number in range(count):
        cv2.add(total, zoomed(image, first + number * step), dst=total)
    return total / np.float32(count + 1)


def zoomed(image: np.ndarray, factor: float) -> np.ndarray:
    """Cut out the middle, and enlarge it to the size of the whole so that corner pixels stay in the corners."""
    spans = [_span(length, factor) for length in image.shape[1::-1]]
    (across, left), (down, top) = spans
    matrix = np.array([[across, 0.0, left], [0.0, down, top]])
    way = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (image.shape[1], image.shape[0])
    return cv2.warpAffine(image, matrix, size, flags=way, borderMode=cv2.BORDER_REPLICATE).reshape(image.shape)


def _span(length: int, factor: float) -> tuple[float, float]:
    """Give step and start, along one side, of the places that the pixels of a zoom show."""
    kept = math.ceil(length / factor)
    start, large = (length - kept) // 2, round(kept * factor)
    step = (kept - 1) / max(1, large - 1)
    return step, start + (large - length) // 2 * step


def _gaussian(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blur, with a kernel that reaches four standard deviations; beyond the edge is the edge."""
    width = 2 * int(4 * sigma + 0.5) + 1
    return cv2.GaussianBlur(image, (width, width), sigma, borderType=cv2.BORDER_REPLICATE).reshape(image.shape)
