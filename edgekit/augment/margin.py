"""A picture with a margin of its border about it, for the warps of all its variants.

OpenCV works out where each pixel beyond the edge comes from, one by one, which is a quarter of the time of a rotation.
With a margin that is made once there are none. The pixels are the same: whether there is one depends on the picture and
the matrix alone, so they would also be if a rounding differed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.lazy import cv2

if TYPE_CHECKING:
    import numpy as np

SHARE = 6  # of the width, above and below, and of the height, at the sides: rotations of up to 20 degrees
MOST_BYTES = 1 << 25  # with its margin, a picture of 5 megapixels of RGB; larger ones go without


class Margin:
    """A picture; the margin is made by the first warp that shows some of it, and kept for those that follow."""

    def __init__(self, image: np.ndarray) -> None:
        self.image = image
        self._border = -1
        self._wide = image

    def warp(self, rows: np.ndarray, size: tuple[int, int], border: int) -> np.ndarray | None:
        """Give what `cv2.warpAffine` would, bilinearly; None when the margin is too narrow for that, or of no use."""
        height, width, channels = self.image.shape
        beside, above = height // SHARE, width // SHARE
        values = (width + 2 * beside) * (height + 2 * above) * channels
        if border == cv2.BORDER_CONSTANT or values * self.image.itemsize > MOST_BYTES:
            return None
        inverse = cv2.invertAffineTransform(rows)
        inside = True
        for (right, down, place), side, room in zip(inverse.tolist(), (width, height), (beside, above), strict=True):
            across, along = right * (size[0] - 1), down * (size[1] - 1)
            first = place + min(0.0, across) + min(0.0, along)
            last = place + max(0.0, across) + max(0.0, along)
            if not (first >= 1 - room and last <= side + room - 2):  # a pixel less, for what lies between two
                return None
            inside &= first >= 0 and last <= side - 1
        if inside:
            return None
        if border != self._border:
            self._wide = cv2.copyMakeBorder(self.image, above, above, beside, beside, border)
            self._border = border
        inverse[:, 2] += (beside, above)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        warped: np.ndarray = cv2.warpAffine(self._wide, inverse, size, flags=flags, borderMode=border)
        return warped
