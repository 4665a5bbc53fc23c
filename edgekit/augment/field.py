"""A displacement field read backwards: where a place of the source ends up."""

from __future__ import annotations

from edgekit.errors import EdgekitError
from edgekit.lazy import np

STEPS = 100
CLOSE = 1e-4  # pixels between two steps that end the search
LOST = 0.25  # pixels off, after the last step, that mean there is no single answer


class Field:
    """The places in the source that the centres of output pixels show, as `warp.move_by_field` takes them."""

    def __init__(self, map_x: np.ndarray, map_y: np.ndarray) -> None:
        height, width = map_x.shape
        self._shifts = np.stack(
            [map_x - (np.arange(width) + 0.5), map_y - (np.arange(height) + 0.5)[:, None]], axis=2, dtype=np.float64
        )

    def points(self, points: np.ndarray) -> np.ndarray:
        """Find where in the output the places (Nx2) of the source are shown.

        The output place q that shows p has q + shift(q) = p, so that q = p - shift(q) is repeated until it stands
        still (Chen et al. 2008, "A simple fixed-point approach to invert a deformation field"). Raises EdgekitError
        where the field folds.
        """
        points = np.asarray(points, np.float64)
        found = points - self._shift(points)
        for _ in range(STEPS):
            following = points - self._shift(found)
            moved = np.abs(following - found).max(initial=0.0)
            found = following
            if moved < CLOSE:
                return found
        if np.abs(found + self._shift(found) - points).max(initial=0.0) > LOST:
            raise EdgekitError("a displacement field folds the picture over", "choose a weaker or a smoother field")
        return found

    def _shift(self, places: np.ndarray) -> np.ndarray:
        """Read the displacement between the pixels' centres bilinearly; beyond the outermost it stays as it is."""
        height, width = self._shifts.shape[:2]
        x = np.clip(places[:, 0] - 0.5, 0, width - 1)
        y = np.clip(places[:, 1] - 0.5, 0, height - 1)
        left, top = (
            np.minimum(x.astype(np.int64), max(0, width - 2)),
            np.minimum(y.astype(np.int64), max(0, height - 2)),
        )
        right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
        across, down = (x - left)[:, None], (y - top)[:, None]
        upper = self._shifts[top, left] * (1 - across) + self._shifts[top, right] * across
        lower = self._shifts[bottom, left] * (1 - across) + self._shifts[bottom, right] * across
        shift: np.ndarray = upper * (1 - down) + lower * down
        return shift
