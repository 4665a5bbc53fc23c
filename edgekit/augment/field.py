"""A displacement field read backwards: where a place of the source ends up."""

from __future__ import annotations

from functools import cached_property

from edgekit.errors import EdgekitError
from edgekit.lazy import np

STEPS = 100
CLOSE = 1e-4  # pixels between two steps that end the search
LOST = 0.25  # pixels off, after the last step, that mean there is no single answer


class Field:
    """The places in the source that the centres of output pixels show, as `warp.move_by_field` takes them.

    folds: some places of the source may be shown several times.
    """

    def __init__(self, map_x: np.ndarray, map_y: np.ndarray, *, folds: bool = False) -> None:
        self._maps, self._folds = (map_x, map_y), folds

    def points(self, points: np.ndarray) -> np.ndarray:
        """Find where in the output the places (Nx2) of the source are shown.

        The output place q that shows p has q + shift(q) = p, so that q = p - shift(q) is repeated until it stands
        still (Chen et al. 2008, "A simple fixed-point approach to invert a deformation field"). Where the field folds
        it may not: then the nearest pixel is the answer if the field may fold, else EdgekitError is raised.
        """
        points = np.asarray(points, np.float64)
        found = points - self._shift(points)
        for _ in range(STEPS):
            following = points - self._shift(found)
            moved = np.abs(following - found).max(initial=0.0)
            found = following
            if moved < CLOSE:
                return found
        lost = np.abs(found + self._shift(found) - points).max(axis=1, initial=0.0) > LOST
        if self._folds and lost.any():
            found[lost] = [self._nearest(point) for point in points[lost]]
        elif lost.any():
            raise EdgekitError("a displacement field folds the picture over", "choose a weaker or a smoother field")
        return found

    def _nearest(self, point: np.ndarray) -> np.ndarray:
        """Find the centre of the pixel that shows what is nearest to a place."""
        height, width = self._maps[0].shape
        reach = 1 + max(self._reach)
        across = slice(*np.clip([int(point[0] - reach), int(point[0] + reach) + 2], 0, width))
        down = slice(*np.clip([int(point[1] - reach), int(point[1] + reach) + 2], 0, height))
        apart = [values[down, across] - at for values, at in zip(self._maps, point, strict=True)]
        if not apart[0].size:
            return point
        row, column = divmod(int(np.argmin(apart[0] ** 2 + apart[1] ** 2)), apart[0].shape[1])
        return np.array([across.start + column + 0.5, down.start + row + 0.5])

    @cached_property
    def _reach(self) -> tuple[float, float]:
        """How far the field moves at most, along x and y."""
        columns, rows = (np.arange(length) + 0.5 for length in self._maps[0].shape[::-1])
        return float(np.abs(self._maps[0] - columns).max()), float(np.abs(self._maps[1] - rows[:, None]).max())

    def _shift(self, places: np.ndarray) -> np.ndarray:
        """Read the displacement between the pixels' centres bilinearly; beyond the outermost it stays as it is."""
        height, width = self._maps[0].shape
        x = np.clip(places[:, 0] - 0.5, 0, width - 1)
        y = np.clip(places[:, 1] - 0.5, 0, height - 1)
        left, top = (
            np.minimum(x.astype(np.int64), max(0, width - 2)),
            np.minimum(y.astype(np.int64), max(0, height - 2)),
        )
        right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
        across, down = (x - left)[:, None], (y - top)[:, None]
        upper = self._at(top, left) * (1 - across) + self._at(top, right) * across
        lower = self._at(bottom, left) * (1 - across) + self._at(bottom, right) * across
        shift: np.ndarray = upper * (1 - down) + lower * down
        return shift

    def _at(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Read the displacement at pixels' centres."""
        map_x, map_y = (values[rows, columns].astype(np.float64) for values in self._maps)
        return np.stack([map_x - (columns + 0.5), map_y - (rows + 0.5)], axis=1)
