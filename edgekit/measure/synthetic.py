"""Synthetic pictures: calibration inputs for a model that comes without any, the same ones every time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.lazy import cv2, np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy import ndarray
    from numpy.random import Generator

SHAPES = 400


def pictures(count: int, size: tuple[int, int], seed: int = 0) -> Iterator[ndarray]:
    """Yield `count` pictures of height and width `size` (HxWx3, uint8, RGB), dead leaves and pink noise in turn.

    Over six nets, calibrating with 100 of them came within 0.2 points of 100 real pictures; uniform noise lost 13
    points on one, pink noise alone 2.6.
    """
    for index in range(count):
        yield picture(index, size, seed)


def picture(index: int, size: tuple[int, int], seed: int = 0) -> ndarray:
    """Make the picture number `index`; it depends on `index`, `size` and `seed` alone."""
    rng = np.random.default_rng((seed, index))
    return _leaves(rng, *size) if index % 2 == 0 else _pink(rng, *size)


def _leaves(rng: Generator, height: int, width: int) -> ndarray:
    """Drop discs, rectangles and ellipses of random colours on each other: edges at all scales, as in photographs."""
    largest = max(2.0, max(height, width) / 2)
    smallest = max(0.5, largest / 25)
    # A density of r^-3 makes the picture look the same at every scale (Lee, Mumford and Huang, 2001).
    radii = 1 / np.sqrt(rng.uniform(1 / largest**2, 1 / smallest**2, SHAPES))
    centres = rng.uniform((0, 0), (width, height), (SHAPES, 2))
    colors = rng.integers(0, 256, (SHAPES, 3)).tolist()
    kinds = rng.integers(0, 3, SHAPES)
    aspects = rng.uniform(0.3, 1.0, SHAPES)
    angles = rng.uniform(0, 180, SHAPES)
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = rng.integers(0, 256, 3)
    shift = 4  # the drawing functions take 1/16 pixels, so shapes smaller than a pixel keep their place
    corners = np.rint(centres * 2**shift).astype(int).tolist()
    for index, (x, y) in enumerate(corners):
        radius = max(1, round(radii[index] * 2**shift))
        other = max(1, round(radius * aspects[index]))
        if kinds[index] == 0:
            cv2.circle(canvas, (x, y), radius, colors[index], cv2.FILLED, cv2.LINE_8, shift)
        elif kinds[index] == 1:
            far = (x + radius, y + other)
            cv2.rectangle(canvas, (x - radius, y - other), far, colors[index], cv2.FILLED, cv2.LINE_8, shift)
        else:
            box = ((x / 2**shift, y / 2**shift), (radius / 2 ** (shift - 1), other / 2 ** (shift - 1)), angles[index])
            cv2.ellipse(canvas, box, colors[index], cv2.FILLED)
    blurred = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.4, 1.0)).astype(np.float32)
    blurred += rng.uniform(1, 6) * rng.standard_normal((height, width, 3), dtype=np.float32)
    return _to_bytes(blurred)


def _pink(rng: Generator, height: int, width: int) -> ndarray:
    """Make noise with a photograph's spectrum (1/f), brightness, contrast and correlation between channels."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]).astype(np.float32)
    frequency[0, 0] = 1.0
    shape = (3, *frequency.shape)
    spectrum = rng.standard_normal(shape, dtype=np.float32) + 1j * rng.standard_normal(shape, dtype=np.float32)
    spectrum /= frequency
    spectrum[:, 0, 0] = 0
    noise = np.fft.irfft2(spectrum, s=(height, width))
    common = rng.uniform(0.6, 0.95)
    noise = common * noise[:1] + (1 - common) * noise
    noise /= noise.std() + 1e-6
    image = rng.uniform(70, 185, (3, 1, 1)) + rng.uniform(25, 75) * noise
    return _to_bytes(image.transpose(1, 2, 0))


def _to_bytes(image: ndarray) -> ndarray:
    rounded: ndarray = np.clip(np.rint(image), 0, 255)
    return np.ascontiguousarray(rounded, np.uint8)
