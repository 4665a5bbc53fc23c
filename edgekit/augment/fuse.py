"""Fuse the steps of a chain before any pixel is touched: each pixel is interpolated once where that is right.

Steps are only noted while they are drawn; nothing is made until a step has to see the labels (`Op.looks`), or the end.

Consecutive moves are one matrix, and labels go by it too, where one of these holds:
- the first is a mirror or quarter turn of the whole picture;
- the second copies whole pixels from inside the picture (mirror, quarter turn, crop) and the first does not scale;
- the first copies whole pixels from inside the picture, the second scales a window of those: a crop, then a resize;
- both keep the size and show the same border, and the first has no perspective: a rotation, then a shear.
The last is not what one after the other would give: what left the frame in between and comes back is there again, and
corners show the source's border, not the border of a picture that had one. Everything else stays apart: what was cut,
padded or averaged away does not come back.

Consecutive tables are one, exactly. The order of steps is kept.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgekit.augment import warp
from edgekit.augment.margin import Margin
from edgekit.augment.op import apply
from edgekit.augment.photometric import full_scale, map_values, multiplies_by
from edgekit.lazy import np

if TYPE_CHECKING:
    from edgekit.augment.labels import Applied, Rules
    from edgekit.augment.op import Op
    from edgekit.data.sample import Sample

    Size = tuple[int, int]


@dataclass(eq=False)  # not frozen, here and below: it would take three times as long to make one
class _Motion:
    """One or more moves: a matrix from a picture of size `source` to one of `size`, (width, height).

    border, fill: what is outside the picture; None where nothing of it is shown. keeps: nothing was cut off or added
    for good, so that the matrix may show again what it moved out of the frame.
    """

    matrix: np.ndarray
    source: Size
    size: Size
    border: str | None = None
    fill: float = 0.0
    keeps: bool = False

    @property
    def reach(self) -> warp.Reach:
        """What it does with pixels."""
        return warp.reach(self.matrix, self.source, self.size)

    def then(self, other: _Motion) -> _Motion | None:
        """Give both as one, or None where that would be another picture."""
        before, shown = self.reach, self
        if before.copied and before.whole and not self.keeps:
            return _Motion(other.matrix @ self.matrix, self.source, other.size, other.border, other.fill, other.keeps)
        after = other.reach
        if before.copied and before.whole:
            shown = other
            keeps = other.keeps or (after.copied and after.whole)
        elif after.copied and after.inside and (before.copied or not before.aligned):
            keeps = self.keeps and after.whole
        elif before.copied and before.inside and after.inside:
            keeps = False
        elif self.keeps and other.keeps and self._is_affine and self._borders(other):
            keeps = True
        else:
            return None
        return _Motion(other.matrix @ self.matrix, self.source, other.size, shown.border, shown.fill, keeps)

    def apply(self, sample: Sample, rules: Rules, margin: Margin) -> Applied:
        """Move the image and all labels."""
        border = self.border or "reflect"
        return warp.move(sample, self.matrix, self.size, border=border, fill=self.fill, rules=rules, margin=margin)

    @property
    def _is_affine(self) -> bool:
        return not self.matrix[2, :2].any()

    def _borders(self, other: _Motion) -> bool:
        return self.border == other.border and (self.border != "constant" or self.fill == other.fill)


@dataclass(eq=False)
class _Table:
    """One or more lookups; share: what they multiply by, found while they are drawn, which costs half of it then."""

    table: np.ndarray
    share: float | None


@dataclass(eq=False)
class _Step:
    """A step that stays by itself."""

    op: Op
    params: dict[str, Any]
    partners: Sequence[Sample]


_UNTURNED = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@functools.lru_cache(maxsize=16)
def _empty(shape: tuple[int, int, int], kind: np.dtype[Any]) -> np.ndarray:
    """Give a picture that takes no memory."""
    return np.broadcast_to(np.zeros((), kind), shape)


class Pending:
    """A sample, and what is to be done with it.

    log: takes in what became of objects, each time that they were moved, mixed or covered, with the partners. margin:
    of the sample's picture, when others share it.
    """

    def __init__(
        self,
        sample: Sample,
        rules: Rules,
        log: Callable[[Applied, Sequence[Sample]], None],
        margin: Margin | None = None,
    ) -> None:
        self._sample, self._rules, self._log = sample, rules, log
        self._margin = margin or Margin(sample.image)
        self._queue: list[_Motion | _Table | _Step] = []
        self._size = sample.size
        self._begun = False  # whether anything was done already
        self._outline: Sample | None = None  # what ops see that draw by size and type alone

    def seen_by(self, op: Op) -> Sample:
        """Give the sample as the next op draws by it: all that is there, or else no more than its size and type."""
        if op.looks or not self._queue:
            return self.finish()
        if self._outline is None or self._outline.size != self._size:
            pixels = self._sample.image
            bare = self._sample
            if bare.mask is not None or bare.objects:
                bare = replace(bare, mask=None, objects=())
            self._outline = bare.with_image(_empty((*self._size[::-1], pixels.shape[2]), pixels.dtype))
        return self._outline

    @property
    def turn(self) -> tuple[float, ...] | None:
        """What the picture comes to when all that is to be done is to mirror or turn it: equal turns, equal pixels.

        None when anything else was or is to be done.
        """
        if self._begun or len(self._queue) > 1:
            return None
        if not self._queue:
            return _UNTURNED
        only = self._queue[0]
        if not isinstance(only, _Motion):
            return None
        reach = only.reach
        if not (reach.copied and reach.whole):
            return None
        return tuple(only.matrix.ravel().tolist())

    def add(self, op: Op, params: dict[str, Any], partners: Sequence[Sample] = ()) -> None:
        """Note a step; raises EdgekitError when it cannot be taken."""
        if op.looks:  # when it was drawn, too, the steps before it had been taken by then
            self.finish()
        members = op.members(params)
        if members is not None:
            for member, drawn in members:
                self.add(member, drawn)
            return
        moved = op.matrix(params, self._size)
        table = op.table(params, full_scale(self._sample.image)) if moved is None else None
        if moved is not None:
            self._move(op, *moved)
        elif table is not None:
            self._look_up(table)
        else:
            self._queue.append(_Step(op, params, partners))

    def _move(self, op: Op, matrix: np.ndarray, size: Size) -> None:
        border = getattr(op, "border", None)
        fill = getattr(op, "fill", 0.0)
        motion = _Motion(matrix, self._size, size, border, fill, keeps=border is not None and size == self._size)
        self._size = size
        last = self._queue[-1] if self._queue else None
        both = last.then(motion) if isinstance(last, _Motion) else None
        if both is not None:
            self._queue[-1] = both
        else:
            self._queue.append(motion)

    def _look_up(self, table: np.ndarray) -> None:
        last = self._queue[-1] if self._queue else None
        if isinstance(last, _Table):
            table = table[last.table]
            self._queue.pop()
        self._queue.append(_Table(table, multiplies_by(table)))

    def finish(self) -> Sample:
        """Do all that is to be done; raises EdgekitError when it cannot be."""
        if self._queue:
            self._begun, self._outline = True, None
        for task in self._queue:
            self._take(task)
        self._queue.clear()
        return self._sample

    def _take(self, task: _Motion | _Table | _Step) -> None:
        if isinstance(task, _Table):
            self._sample = self._sample.with_image(map_values(self._sample.image, task.table, task.share))
            return
        partners: Sequence[Sample] = ()
        if isinstance(task, _Motion):
            applied = task.apply(self._sample, self._rules, self._margin)
        else:
            partners = task.partners
            applied = apply(task.op, task.params, self._sample, partners, self._rules)
        self._log(applied, partners)
        self._sample = applied.sample
